# ruff: noqa: ASYNC240 - a test may look at a file while its loop waits
"""A DuckDB journal where something goes half well: damage beside what is sound, copies and commits cut short."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from journal_entries import line_of

from runtime.formats import is_intact
from runtime.progress import Found
from runtime.session import Entry, body_of
from runtime.stores import Row, tables
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.inspecting import inspect


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the journal is; its folder doesn't exist yet, and has a name that SQL would trip over."""
    return tmp_path / "it's 灯" / "journal.duckdb"


@asynccontextmanager
async def opened(file: Path, **settings: Any) -> AsyncIterator[DuckDBStore]:
    """An open store, closed at the end."""
    store = DuckDBStore(file, **settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def rows_of(entries: list[Entry]) -> list[Row]:
    """Entries as they are kept."""
    return [Row(entry.session_id, entry.seq, body_of(entry), entry.hash) for entry in entries]


async def filled(file: Path, *sessions: str, count: int = 4, scene: str = "灯") -> None:
    """A journal that was closed and opened well, each session with so many entries."""
    async with opened(file) as store:
        for session in sessions:
            await store.adopt(rows_of(line_of(count, session, scene=scene)))
    async with opened(file):
        pass


def beside(file: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return file.with_name(file.name + suffix)


def altered(file: Path, *statements: str) -> None:
    """Do something to the tables that no store does."""
    with duckdb.connect(str(file)) as db:
        for statement in statements:
            db.execute(statement)


async def found_in(file: Path) -> list[Found]:
    """What an inspection found."""
    return [step async for step in inspect(file) if isinstance(step, Found)]


# Damage accuses nobody else.


@pytest.mark.parametrize("lost", [(5, 8), (6, 8), (3, 10)])
async def test_what_stands_after_a_gap_is_not_called_altered(
    file: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, int]
) -> None:
    """Whichever part of a span of four is missing: the gap is named, and no entry that is as it was written."""
    monkeypatch.setattr(tables, "BODY_SPAN", 4)
    await filled(file, "a", "b", "c")
    altered(file, "DELETE FROM entries WHERE pos BETWEEN {} AND {}".format(*lost))

    found = await found_in(file)
    async with opened(file) as store:
        damages = [damage async for damage in store.audit()]

    assert "missing" in found[0].what
    assert not [each for each in found if "altered" in each.what]
    assert [Found(damage.what, damage.sessions) for damage in damages] == found


async def test_an_audit_checks_bodies_beside_the_loop(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of long bodies are hashed and read while turns are answered."""
    await filled(file, "a")
    threads = []

    def watched(body: str, hash_: str) -> bool:
        threads.append(threading.current_thread())
        return is_intact(body, hash_)

    monkeypatch.setattr(tables, "is_intact", watched)
    async with opened(file) as store:
        assert [damage async for damage in store.audit()] == []

    assert len(threads) == 4
    assert threading.current_thread() not in threads


@pytest.mark.slow
async def test_what_stands_after_a_span_that_cannot_be_read_is_not_called_altered(file: Path) -> None:
    """A bit of a block is flipped: what stands there can't be read, and its neighbours are sound."""
    for session, scene in (("a", "前"), ("b", "裂帛"), ("c", "後")):
        await filled(file, session, count=tables.BODY_SPAN, scene=scene * 100)
    raw = file.read_bytes()
    at = raw.index("裂帛".encode() * 100, raw.index("裂帛".encode() * 100) + len(raw) // 6)
    with file.open("r+b") as journal:
        journal.seek(at)
        journal.write(bytes([raw[at] ^ 16]))

    found = await found_in(file)

    assert [each.what.partition(" can't be read")[0] for each in found] == ["entries 2049 to 4096"]
