"""The journal's formats: what an older version wrote is read, checked and continued.

`journals/format1.jsonl` was written by the version that had format 1: its first line has the
machine, each other line an entry's body as it was kept and the hash beside it. `journals/format2.jsonl`
is what that version's own export gave of a session that was played, rewound, told anew and forked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Client
from hypothesis import given
from hypothesis import strategies as st
from journal_entries import entry_after, is_whole
from served import ROOT

from runtime import loader
from runtime.formats import is_intact, read_entry
from runtime.importing import import_lines
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from runtime.progress import Done
from runtime.session import (
    JOURNAL_FORMAT,
    NO_TOTAL,
    NOTHING,
    Spent,
    Total,
    Usage,
    body_of,
    digest_of,
    hash_of,
    sealed,
)
from runtime.stores import Row
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from runtime.verify import verify

OLD = ROOT / "tests" / "journals" / "format1.jsonl"
OLD_2 = ROOT / "tests" / "journals" / "format2.jsonl"


def old_journal() -> tuple[dict[str, str], list[Row]]:
    """The machine's files, and the rows of its one session."""
    first, *lines = OLD.read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    rows = [Row("old", seq, line["body"].encode(), line["hash"]) for seq, line in enumerate(kept, 1)]
    return {"machines/format_one.yaml": json.loads(first)["machine"]}, rows


def test_what_format_1_wrote_is_intact_and_read():
    _, rows = old_journal()

    entries = [read_entry(row.body, row.hash) for row in rows]

    assert all(is_intact(row.body, row.hash) for row in rows)
    assert [entry.format for entry in entries] == [1, 1, 1, 1]
    assert [entry.next_turn for entry in entries] == [2, 3, 4, 5]
    assert [entry.prev_hash for entry in entries] == ["", *(row.hash for row in rows[:-1])]
    assert all(entry.is_telling for entry in entries)
    assert entries[-1].after.ended


@pytest.mark.parametrize("change", ["body", "hash", "both", "cut", "empty"])
def test_what_format_1_wrote_and_somebody_changed_is_not_intact(change: str):
    _, (_, row, *_) = old_journal()
    body, hash_ = row.body, row.hash
    if change in ("body", "both"):
        body = body.replace("翻找".encode(), "翻开".encode())
    if change in ("hash", "both"):
        hash_ = "0" * 64
    if change == "cut":
        body = body[:-1]
    if change == "empty":
        body = b""

    assert not is_intact(body, hash_)


@pytest.mark.parametrize("field", ['"last_turn":99', '"shown":{"answer":1}', '"child":"x"'])
def test_format_1_has_no_field_that_came_later(field: str):
    """Its hash was made over its own fields: another one would be taken in unseen."""
    _, (_, row, *_) = old_journal()
    body = row.body[:-1] + f",{field}}}".encode()

    assert not is_intact(body, row.hash)
    with pytest.raises(msgspec.DecodeError):
        read_entry(body, row.hash)


async def test_a_session_of_format_1_plays_on_and_its_history_is_one_chain():
    """Format 2 follows format 1 in the same session; what was written keeps its bytes."""
    files, rows = old_journal()
    machine = loader.load(files)
    store = MemoryStore()
    await store.adopt(rows[:3])
    runtime = Runtime(store, Offline(), {machine.name: machine}, machine.name)
    await store.keep(read_entry(rows[0].body, rows[0].hash).digest, files)
    client = Client(runtime, "old")

    answer = await client.choose("search")

    assert answer["session"]["turn"] == 4
    head = await store.head("old")
    assert head is not None
    assert (head.format, head.seq, head.parent, head.prev_hash) == (JOURNAL_FORMAT, 4, 3, rows[2].hash)
    assert [row.body async for row in store.walk()][:3] == [row.body for row in rows[:3]]


class Paid(Offline):
    """Told by a model, as far as anybody can see."""

    name = "openai"

    async def narrate(self, task: Task, release: Release) -> Narration:
        """The offline words, at a price."""
        told = await super().narrate(task, release)
        return msgspec.structs.replace(told, usage=Usage(10, 5, 3), spent=Spent(provider="deepseek", calls=1))


async def lines_of(file: Path) -> AsyncIterator[bytes]:
    """A file's lines."""
    for line in (await asyncio.to_thread(file.read_bytes)).splitlines():
        yield line


async def test_what_format_2_exported_is_taken_in_verified_and_continued():
    """What it was told with is on record; the session's sum counts from format 3 on."""
    definitions = json.loads(OLD_2.read_text(encoding="utf-8").splitlines()[0])["definitions"]
    ((_, files),) = definitions.items()
    machine = loader.load(files)
    runtime = Runtime(MemoryStore(), Paid(), {machine.name: machine}, machine.name)
    await runtime.open()

    steps = [step async for step in import_lines(runtime, lines_of(OLD_2))]
    before = await runtime.store.entries("two")
    answer = await Client(runtime, "two").choose("search")

    assert isinstance(steps[-1], Done)
    assert [(each.format, each.kind) for each in before] == [
        (2, "turn"), (2, "turn"), (2, "turn"), (2, "rewind"), (2, "turn"), (2, "regenerate"), (2, "fork"),
    ]  # fmt: skip
    assert before[1].usage == Usage(100, 20, 50)
    assert {each.total for each in before} == {NO_TOTAL}
    head = await runtime.store.head("two")
    assert head is not None
    assert (head.format, head.total) == (JOURNAL_FORMAT, Total(10, 5, 3, calls=1))
    assert answer["session"]["turn"] == 6
    assert [step async for step in verify(runtime)][-1].is_good
    assert [step async for step in verify(runtime)][:-1] == []


async def test_a_session_of_format_2_is_taken_in_under_another_id():
    """Its entries are sealed anew, in this format."""
    definitions = json.loads(OLD_2.read_text(encoding="utf-8").splitlines()[0])["definitions"]
    ((_, files),) = definitions.items()
    machine = loader.load(files)
    runtime = Runtime(MemoryStore(), Offline(), {machine.name: machine}, machine.name)
    await runtime.open()

    _ = [step async for step in import_lines(runtime, lines_of(OLD_2), session_id="again")]

    entries = await runtime.store.entries("again")
    assert {entry.format for entry in entries} == {JOURNAL_FORMAT}
    assert {entry.total for entry in entries} == {NO_TOTAL}
    assert [step async for step in verify(runtime)][-1].is_good


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_body_says_its_own_hash_whatever_it_holds(value: Any):
    """Written, read and written again, an entry's body is the same bytes, so that its hash holds in every store."""
    entry = sealed(msgspec.structs.replace(entry_after(None), request={"payload": value}, narration={"output": value}))
    body = body_of(entry)

    again = read_entry(body, entry.hash)

    assert is_intact(body, entry.hash)
    assert is_intact(body.decode(), entry.hash)
    assert hash_of(again) == entry.hash
    assert body_of(again) == body
    assert b'"hash":' not in body.replace(b'"prev_hash"', b"").replace(b'"request_hash"', b"").split(b'"request"')[0]


def test_any_byte_changed_is_found():
    entry = entry_after(None)
    body = body_of(entry)

    for at in range(0, len(body), 97):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        assert not is_intact(changed, entry.hash)


def test_an_entry_that_told_nothing_has_no_outcome_in_its_body():
    """A rewind's body is as small as what it says."""
    told = entry_after(None)
    rewind = sealed(msgspec.structs.replace(told, kind="rewind", outcome=NOTHING, narration={}, request={}))

    assert "outcome" not in json.loads(body_of(rewind))
    assert not read_entry(body_of(rewind), rewind.hash).is_telling
    assert digest_of(body_of(rewind)) == rewind.hash


def test_the_tests_own_entries_are_linked_as_the_flow_links_them():
    first = entry_after(None)
    assert is_whole([first, entry_after(first)])
