"""A journal copied from store to store: byte for byte, continued where it broke off, refused where it is another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import SCALE
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_entries import entry_after, is_whole, line_of
from test_formats import old_journal

from runtime.copying import OtherJournal, Unreadable, copy
from runtime.errors import StoreUnavailable
from runtime.progress import Done, Found, Progress, Step
from runtime.session import Entry, Expense, sealed
from runtime.stores import Row, Store
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[DuckDBStore]:
    """A DuckDB journal, for a while."""
    store = DuckDBStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def filled(store: Store, names: Iterable[str] = ("a", "b", "c"), turns: int = 4) -> Store:
    """A store with some sessions, their turns one after the other's."""
    lines = {name: line_of(turns, name, ended=name == "a") for name in names}
    for turn in range(turns):
        for line in lines.values():
            await store.append(line[turn])
    await store.keep("d" * 64, {"machines/lantern_house.yaml": "灯"})
    return store


async def copied(source: Store, target: Store) -> tuple[Done, list[Found]]:
    """Copy to the end; the last step, and what was found. Progress never goes back."""
    steps = [step async for step in copy(source, target)]
    done = [step.done for step in steps if isinstance(step, Progress)]
    assert done == sorted(done)
    assert isinstance(steps[-1], Done)
    return steps[-1], [step for step in steps if isinstance(step, Found)]


async def rows_of(store: Store) -> list[tuple[Any, ...]]:
    """Everything a store keeps of its sessions."""
    return sorted([(row.session_id, row.seq, row.body, row.hash) async for row in store.walk()])


async def ids(store: Store) -> list[str]:
    return [head.session_id for head in (await store.sessions())[0]]


async def test_from_memory_to_duckdb_and_back_everything_is_as_it_was(tmp_path: Path):
    """Entries, their bytes and hashes, keys, definitions, the secret, and the order of the list."""
    first = await filled(MemoryStore())
    head = await first.head("b")
    assert head is not None
    await first.append(sealed(msgspec.structs.replace(entry_after(head, "b"), key="k-1", request_hash="r" * 64)))
    again = MemoryStore()

    async with opened(tmp_path / "journal.duckdb") as middle:
        there, found = await copied(first, middle)
        assert (there.is_good, found) == (True, [])
        assert there.facts == {"sessions": 3, "entries": 13, "definitions": 1, "added": 13}
        assert await ids(middle) == await ids(first) == ["b", "c", "a"]
        assert [head.session_id for head in (await middle.sessions(ended=True))[0]] == ["a"]
        assert (await middle.claim("b", key="k-1")).answered == await first.head("b")
        back, _ = await copied(middle, again)

    assert back.is_good
    assert await rows_of(again) == await rows_of(first)
    assert await again.kept("d" * 64) == {"machines/lantern_house.yaml": "灯"}
    assert await again.secret() == await first.secret()
    assert await ids(again) == ["b", "c", "a"]


async def test_a_copy_can_be_played_on(tmp_path: Path):
    source = await filled(MemoryStore())
    async with opened(tmp_path / "journal.duckdb") as target:
        await copied(source, target)
        head = await target.head("a")
        await target.append(entry_after(head, "a"))
        assert is_whole(await target.entries("a"))
        assert [damage async for damage in target.audit()] == []


async def test_what_format_1_wrote_is_copied_byte_for_byte_and_goes_on(tmp_path: Path):
    """Its entries can only be adopted: they are held together however small the portions are."""
    files, rows = old_journal()
    source = MemoryStore()
    await source.adopt(rows)
    await source.keep("e" * 64, files)
    await source.append(entry_after(await source.head("old"), "old"))
    await filled(source)
    async with opened(tmp_path / "journal.duckdb") as target:
        steps = [step async for step in copy(source, target, rows=1)]
        assert isinstance(steps[-1], Done)
        assert steps[-1].is_good
        assert await rows_of(target) == await rows_of(source)


class Breaks(MemoryStore):
    """A store that fails after so many writes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("the disk is full")

    async def append(self, entry: Entry, claim: Any = None, expense: Any = None) -> None:
        """Add an entry, or fail."""
        self._count()
        await super().append(entry, claim, expense)

    async def adopt(self, rows: Any) -> None:
        """Add a session, or fail."""
        self._count()
        await super().adopt(rows)


@pytest.mark.parametrize("writes", [0, 1, 4, 8, 9])
async def test_a_copy_that_broke_off_is_continued_by_another(writes: int):
    source = await filled(MemoryStore(), turns=3)
    target = Breaks(writes)
    with pytest.raises(StoreUnavailable, match="full") if writes < 9 else nullcontext():
        await copied(source, target)
    target.left = 1000

    done, found = await copied(source, target)

    assert (done.is_good, found) == (True, [])
    assert done.facts["added"] == 9 - writes
    assert await rows_of(target) == await rows_of(source)


async def test_what_was_played_since_is_added_by_the_next_copy(tmp_path: Path):
    source = await filled(MemoryStore())
    async with opened(tmp_path / "journal.duckdb") as target:
        await copied(source, target)
        await source.append(entry_after(await source.head("c"), "c"))
        await source.append(entry_after(None, "new"))

        done, _ = await copied(source, target)
        again, _ = await copied(source, target)

        assert (done.is_good, done.facts["added"], again.facts["added"]) == (True, 2, 0)
        assert await rows_of(target) == await rows_of(source)


async def test_the_ledger_goes_along_once_however_often_the_copy_is_run(tmp_path: Path):
    """What was spent since, in either of them, is not lost and not counted twice."""
    day = Expense(day=20_000, provider="deepseek", model="m", calls=2, cost_micros=70, turns=1)
    source = await filled(MemoryStore(), "a")
    await source.append(entry_after(None, "b"), None, day)
    await source.spend("gone", msgspec.structs.replace(day, day=20_001, turns=0, failed=1))

    async with opened(tmp_path / "target.duckdb") as target:
        await copied(source, target)
        await copied(source, target)
        assert await target.expenses(0) == await source.expenses(0)
        await source.spend("b", day)
        await copied(source, target)
        assert await target.expenses(0) == await source.expenses(0)
        await target.spend("b", day)
        await copied(source, target)
        assert (await target.expenses(0))[0].calls == 6


async def test_a_target_with_another_journal_is_refused_and_left_alone():
    source, target = await filled(MemoryStore()), await filled(MemoryStore(), names=("x",))
    secret, before = await target.secret(), await rows_of(target)

    with pytest.raises(OtherJournal, match="another journal"):
        await copied(source, target)

    assert await target.secret() == secret
    assert await rows_of(target) == before


async def test_sessions_that_went_apart_are_named_and_not_overwritten():
    source, target = await filled(MemoryStore()), MemoryStore()
    await copied(source, target)
    await source.append(entry_after(await source.head("a"), "a", scene="here"))
    await target.append(entry_after(await target.head("a"), "a", scene="there"))
    await target.append(entry_after(await target.head("b"), "b"))
    await target.append(entry_after(None, "only-there"))
    await source.delete("c")
    before = await rows_of(target)

    done, found = await copied(source, target)

    assert not done.is_good
    told = {each.sessions[0]: each.what for each in found}
    assert sorted(told) == ["a", "b", "c", "only-there"]
    assert "other entries" in told["a"]
    assert "played there, or deleted here" in told["c"]
    assert await rows_of(target) == before


class Altered(MemoryStore):
    """A store whose disk changes a byte of what it keeps."""

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        """The rows, one of them not as it was written."""
        async for row in super().walk(after):
            is_one = (row.session_id, row.seq) == ("b", 2)
            yield msgspec.structs.replace(row, body=row.body.replace(b"DECISION", b"DECISIOM")) if is_one else row


async def test_what_the_target_keeps_is_read_back_and_compared():
    done, found = await copied(await filled(MemoryStore()), Altered())

    assert not done.is_good
    assert [each.sessions for each in found] == [("b",)]


@pytest.mark.parametrize("names", ["abc", "abcdefg"], ids=["adopted", "appended"])
@pytest.mark.parametrize("there", [0, 1, 4])
async def test_what_the_source_damaged_is_named_and_not_copied(names: str, there: int):
    """Whether the target has nothing of the session, its beginning, or all of it: what is whole is copied."""
    source, target = await filled(Altered(), names), MemoryStore()
    await target.keep_secret(await source.secret())
    for entry in (await source.entries("b"))[:there]:
        await target.append(entry)

    done, found = await copied(source, target)

    assert not done.is_good
    assert [(each.what, each.sessions) for each in found] == [
        ("session 'b': entry 2 of the source is not what was written: its hash is another", ("b",))
    ]
    whole = [row for row in await rows_of(source) if row[0] != "b" or row[1] == 1]
    assert [row for row in await rows_of(target) if row[0] != "b" or row[1] == 1] == whole
    assert len(await target.entries("b")) == max(1, there)
    assert done.facts["entries"] == len(whole)


async def test_an_altered_entry_of_format_1_is_not_copied():
    """What came before it is."""
    _, rows = old_journal()
    source, target = MemoryStore(), MemoryStore()
    broken = msgspec.structs.replace(rows[2], body=rows[2].body.replace(b'"step":3', b'"step":4'))
    assert broken.body != rows[2].body
    await source.adopt([*rows[:2], broken, *rows[3:]])

    done, found = await copied(source, target)

    assert (done.is_good, [each.sessions for each in found]) == (False, [("old",)])
    assert await target.rows("old") == rows[:2]


class Torn(MemoryStore):
    """A store with an entry that can't be read at all."""

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        """The rows, one of them cut."""
        async for row in super().walk(after):
            yield msgspec.structs.replace(row, body=row.body[:40]) if row.session_id == "b" else row


async def test_an_entry_that_cant_be_read_stops_the_copy_with_its_name():
    with pytest.raises(Unreadable, match="entry 1 of session 'b'"):
        await copied(await filled(Torn()), MemoryStore())


@pytest.mark.parametrize("portion", [1, 2, 1000])
async def test_sessions_longer_than_a_portion_are_copied_whole(portion: int):
    source, target = await filled(MemoryStore(), turns=7), MemoryStore()

    steps = [step async for step in copy(source, target, rows=portion)]

    assert await rows_of(target) == await rows_of(source)
    assert len(steps) > 21 // portion


@settings(max_examples=15 * SCALE)
@given(played=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["play", "copy", "lose"])), max_size=30))
async def test_whatever_order_plays_and_copies_come_in_the_last_copy_is_whole(played: list[tuple[str, str]]):
    source, target = MemoryStore(), MemoryStore()
    for name, what in played:
        if what == "play":
            await source.append(entry_after(await source.head(name), name))
        elif what == "copy":
            await _part(copy(source, target, rows=2), ord(name) - ord("a"))
        else:
            await target.delete(name)

    done, found = await copied(source, target)

    assert (done.is_good, found) == (True, [])
    assert await rows_of(target) == await rows_of(source)


async def _part(steps: AsyncIterator[Step], count: int) -> None:
    """Some steps of a work, which is then left."""
    async for _ in steps:
        count -= 1
        if count <= 0:
            break
    await steps.aclose()  # type: ignore[attr-defined]
