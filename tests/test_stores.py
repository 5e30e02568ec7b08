"""What every store does: one suite, run against each that ships."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from journal_entries import entry_after, is_whole, line_of

from runtime.errors import StaleTurn, ValidationError
from runtime.session import Entry
from runtime.stores import Store
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore


@pytest.fixture(params=["memory", "duckdb", "duckdb with room for 3 heads"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store, empty."""
    bound = 3 if "3 heads" in request.param else 10_000
    opened: Any = MemoryStore() if request.param == "memory" else DuckDBStore(tmp_path / "j.db", cached_heads=bound)
    await opened.open()
    yield opened
    await opened.close()


async def append_all(store: Store, entries: list[Entry]) -> None:
    """Append one after the other."""
    for entry in entries:
        await store.append(entry)


async def test_a_session_that_never_was_has_no_head_and_no_entries(store: Store) -> None:
    """Asking makes nothing."""
    assert await store.head("nobody") is None
    assert await store.entry("nobody", 1) is None
    assert await store.entries("nobody") == []
    assert await store.sessions() == ([], None)


async def test_the_head_is_the_entry_appended_last(store: Store) -> None:
    """Equal in every field, whether it comes from memory or from the file."""
    first, second = line_of(2)

    await store.append(first)
    assert await store.head("s1") == first

    await store.append(second)
    assert await store.head("s1") == second


async def test_entries_come_back_equal_in_their_order(store: Store) -> None:
    """Chinese, emoji, quotes, nested sets and numbers included."""
    entries = line_of(5)
    await append_all(store, entries)

    assert await store.entries("s1") == entries
    assert is_whole(await store.entries("s1"))
    assert await store.entry("s1", 3) == entries[2]
    assert await store.entry("s1", 6) is None


async def test_entries_are_paged_by_seq(store: Store) -> None:
    """`after` is the seq seen last, `limit` the most that come."""
    entries = line_of(5)
    await append_all(store, entries)

    assert await store.entries("s1", after=1, limit=2) == entries[1:3]
    assert await store.entries("s1", after=4, limit=9) == entries[4:]
    assert await store.entries("s1", after=5) == []


async def test_the_answer_keeps_its_bytes(store: Store) -> None:
    """It is sent again as it was: spacing and the order of keys too."""
    answer = '{"b" : 1,\n "a":"夜\\u0041"}'.encode()
    entry = msgspec.structs.replace(entry_after(None), answer=msgspec.Raw(answer))
    await store.append(entry)

    (kept,) = await store.entries("s1")

    assert bytes(kept.answer) == answer


async def test_a_body_of_200_kilobytes_comes_back_equal(store: Store) -> None:
    """A session that carries much is no exception."""
    entry = entry_after(None, scene="裂帛👻" * 5000)
    assert len(msgspec.json.encode(entry)) > 200_000
    await store.append(entry)

    assert await store.entries("s1") == [entry]


async def test_an_escaped_nul_comes_back_equal(store: Store) -> None:
    """The edge refuses NUL; a store does not choke on one either."""
    entry = entry_after(None, scene="a\x00b")
    await store.append(entry)

    assert await store.entries("s1") == [entry]


@pytest.mark.parametrize("wrong", [{"seq": 1}, {"seq": 2}, {"seq": 4}, {"prev_hash": ""}, {"prev_hash": "f" * 64}])
async def test_an_entry_that_does_not_follow_the_head_is_stale_and_changes_nothing(
    store: Store, wrong: dict[str, Any]
) -> None:
    """The compare-and-set: next seq, and the head's hash."""
    entries = line_of(2)
    await append_all(store, entries)
    entry = msgspec.structs.replace(entry_after(entries[-1]), **wrong)

    with pytest.raises(StaleTurn, match="'s1' has moved on to turn 2") as stale:
        await store.append(entry)

    assert stale.value.facts == {"expected_turn": 2, "turn": 2, "allowed_event_types": ("DECISION", "END")}
    assert await store.entries("s1") == entries
    assert await store.head("s1") == entries[-1]


async def test_a_session_begins_at_seq_one(store: Store) -> None:
    """A later entry of a session that does not exist is stale."""
    _, second = line_of(2)

    with pytest.raises(StaleTurn):
        await store.append(second)

    assert await store.head("s1") is None


async def test_of_two_entries_on_one_head_the_first_is_kept(store: Store) -> None:
    """Sent at once: one is durable, the other is stale."""
    first = entry_after(None)
    await store.append(first)
    rivals = [entry_after(first, scene=f"told {n}") for n in range(2)]

    outcomes = await asyncio.gather(*map(store.append, rivals), return_exceptions=True)

    assert outcomes[0] is None
    assert isinstance(outcomes[1], StaleTurn)
    assert await store.entries("s1") == [first, rivals[0]]


async def test_a_hundred_sessions_append_at_once(store: Store) -> None:
    """A thousand entries, none lost and none out of order."""

    async def play(session_id: str) -> list[Entry]:
        entries = line_of(10, session_id)
        await append_all(store, entries)
        return entries

    played = await asyncio.gather(*(play(f"s{number}") for number in range(100)))

    for entries in played:
        assert await store.entries(entries[0].session_id) == entries
        assert await store.head(entries[0].session_id) == entries[-1]


async def test_a_cancelled_caller_leaves_a_whole_journal(store: Store) -> None:
    """Its entry is there or it is not; the next one follows the head that there is."""
    entry = entry_after(None)
    task = asyncio.create_task(store.append(entry))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await store.append(entry_after(await store.head("other"), "other"))
    head = await store.head("s1")
    await store.append(entry_after(head))

    assert is_whole(await store.entries("s1"))


async def test_sessions_are_listed_newest_head_first(store: Store) -> None:
    """A turn brings its session to the front."""
    heads = {session_id: entry_after(None, session_id) for session_id in ("a", "b", "c")}
    await append_all(store, list(heads.values()))
    heads["a"] = entry_after(heads["a"], "a")
    await store.append(heads["a"])

    listed, more = await store.sessions()

    assert listed == [heads["a"], heads["c"], heads["b"]]
    assert more is None


async def test_the_list_is_filtered_by_its_heads(store: Store) -> None:
    """By player, by whether it has ended, and by both; a session that ended counts by its head."""
    await store.append(entry_after(None, "a", player_id="ann"))
    b = entry_after(None, "b", player_id="ann")
    await append_all(store, [b, entry_after(b, "b", player_id="ann", ended=True)])
    await append_all(store, [entry_after(None, "c", player_id="bob", ended=True), entry_after(None, "d")])

    async def listed(**filters: Any) -> list[str]:
        return [entry.session_id for entry in (await store.sessions(**filters))[0]]

    assert await listed() == ["d", "c", "b", "a"]
    assert await listed(player_id="ann") == ["b", "a"]
    assert await listed(ended=True) == ["c", "b"]
    assert await listed(ended=False) == ["d", "a"]
    assert await listed(player_id="ann", ended=False) == ["a"]
    assert await listed(player_id="nobody") == []


async def test_the_cursor_goes_through_the_list_once(store: Store) -> None:
    """Also while sessions move to the front, begin, and go: none comes twice."""
    await append_all(store, [entry_after(None, f"s{number}") for number in range(7)])

    page, cursor = await store.sessions(limit=3)
    assert [entry.session_id for entry in page] == ["s6", "s5", "s4"]

    await store.append(entry_after(None, "new"))
    await store.append(entry_after(page[0], "s6"))
    await store.delete("s2")
    page, cursor = await store.sessions(limit=3, after=cursor)
    assert [entry.session_id for entry in page] == ["s3", "s1", "s0"]
    assert cursor is None


async def test_a_page_that_ends_the_list_has_no_cursor(store: Store) -> None:
    """Not even one to an empty page."""
    await append_all(store, [entry_after(None, f"s{number}") for number in range(4)])

    _, cursor = await store.sessions(limit=2)
    page, end = await store.sessions(limit=2, after=cursor)

    assert [entry.session_id for entry in page] == ["s1", "s0"]
    assert end is None


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "²", "9" * 30])
async def test_a_cursor_that_no_list_gave_is_refused(store: Store, cursor: str) -> None:
    """With the place of the fault."""
    with pytest.raises(ValidationError, match="'after' is not a cursor") as refused:
        await store.sessions(after=cursor)

    assert refused.value.facts["details"][0]["loc"] == ["query", "after"]


async def test_a_deleted_session_is_gone_everywhere(store: Store) -> None:
    """Head, entries and lists; others are untouched; deleting again says that there was none."""
    kept = line_of(2, "kept")
    await append_all(store, [*kept, *line_of(3, "gone")])

    assert await store.delete("gone") is True

    assert await store.head("gone") is None
    assert await store.entries("gone") == []
    assert [entry.session_id for entry in (await store.sessions())[0]] == ["kept"]
    assert await store.entries("kept") == kept
    assert await store.delete("gone") is False


async def test_after_a_deletion_the_same_id_begins_anew(store: Store) -> None:
    """At seq 1; what followed the old head is stale."""
    old = line_of(2)
    await append_all(store, old)
    await store.delete("s1")

    with pytest.raises(StaleTurn):
        await store.append(entry_after(old[-1]))
    new = entry_after(None, scene="anew")
    await store.append(new)

    assert await store.entries("s1") == [new]


async def test_a_deletion_and_an_append_at_once_leave_one_or_the_other(store: Store) -> None:
    """The append that comes after a deletion finds no session."""
    head = entry_after(None)
    await store.append(head)

    deleted, appended = await asyncio.gather(
        store.delete("s1"), store.append(entry_after(head)), return_exceptions=True
    )

    assert deleted is True
    assert isinstance(appended, StaleTurn)
    assert await store.entries("s1") == []


async def test_what_a_caller_does_with_what_it_read_stays_its_own(store: Store) -> None:
    """A dict inside an entry that was read from the journal is a copy."""
    await append_all(store, line_of(2))

    (first, *_) = await store.entries("s1")
    first.after.context["hp"] = 0  # type: ignore[index]  # that it is possible is the point

    assert (await store.entries("s1"))[0].after.context["hp"] == 12


async def test_definitions_are_kept_by_their_digest(store: Store) -> None:
    """Once kept they stay as they were first given."""
    files = {"machines/灯.yaml": "machine: 灯\n", "prompts/x/init.prompty": "---\n---\n"}

    assert await store.kept("abc") is None
    await store.keep("abc", files)
    await store.keep("abc", files)
    await asyncio.gather(*(store.keep("def", {"a": "b"}) for _ in range(5)))

    assert await store.kept("abc") == files
    assert await store.kept("def") == {"a": "b"}


async def test_ping_proves_an_open_store(store: Store) -> None:
    """It changes no list."""
    await store.ping()

    assert await store.sessions() == ([], None)
