"""A look at a DuckDB journal that nobody holds, also at one that can't be opened; it changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

from runtime.errors import StoreUnavailable
from runtime.progress import Done, Found, Progress, Step
from runtime.stores import Damage, duckcopy, tables
from runtime.stores.duckcopy import beside
from runtime.stores.duckfile import READ_ERRORS, format_of, looked_at, take_lock
from runtime.stores.headfile import HeadFile, altered, lost_after, sessions_after
from runtime.stores.lockfile import Owner
from runtime.stores.tables import Connection, rows_of


async def inspect(path: Path) -> AsyncIterator[Step]:
    """Verify a journal and name the sessions that damage touches.

    Raises StoreUnavailable where another process holds it, or there is none.
    """
    steps = _inspect(path)
    while step := await asyncio.to_thread(next, steps, None):
        yield step


def _inspect(path: Path) -> Iterator[Step]:
    record = HeadFile(beside(path, ".head"))
    if not path.exists() and not record.path.exists():
        raise StoreUnavailable(f"there is no journal {path}", hint="Name the file of the journal.")
    found, last = 0, 0
    with ExitStack() as holding:
        take_lock(path, Owner(os.getpid()), 0, holding)
        duckcopy.discard_left(path)
        for step in _looked_through(path, record):
            found += isinstance(step, Found)
            last = step.done if isinstance(step, Progress) else last
            yield step
    yield Done(is_good=not found, facts={"path": str(path), "last": last, "found": found})


def _looked_through(path: Path, record: HeadFile) -> Iterator[Step]:
    if not path.exists():
        yield from _lost(record, 0, {})
        return
    try:
        with looked_at(path) as (db, why):
            if why:
                yield Found(why)
            if format_of(db) == 1:
                yield from _old(db, record)
            else:
                yield from _against_record(db, record)
                yield from _rows(db)
    except StoreUnavailable as error:
        yield Found(error.message)
    except READ_ERRORS as error:  # not even its tables: what is known of it is what the record says
        yield Found(f"{path} can't be read: {error}")
        yield from _lost(record, 0, {})


def _old(db: Connection, record: HeadFile) -> Iterator[Step]:
    """A journal of format 1 has no chain: its end, and each body."""
    record.check_mark(duckcopy.mark_of_v1(db))
    last = rows_of(db, "SELECT coalesce(max(pos), 0) FROM entries")[0][0]
    for start in range(0, last, tables.BODY_SPAN):
        rows = rows_of(db, tables.WALK, start, start + tables.BODY_SPAN)
        yield from map(_found, tables.altered_bodies(rows))
        yield Progress(min(start + tables.BODY_SPAN, last), last)


def _against_record(db: Connection, record: HeadFile) -> Iterator[Step]:
    links = record.read()
    last = duckcopy.last_of(db) if format_of(db) else 0
    first = min(links[0].pos, last) if links else last
    rows = rows_of(db, tables.LINKS, first - 1, last) if last else []
    yield from _lost(record, last, {row[0]: row[2] for row in rows})


def _lost(record: HeadFile, last: int, there: dict[int, str]) -> Iterator[Step]:
    links = record.read()
    if lost := lost_after(links, last):
        yield Found(f"{record.path} says that {lost}", sessions_after(links, last))
    for link in altered(links, last, there):
        what = f"entry {link.pos} is not the one that was recorded"
        yield Found(what, (link.session_id,) if link.session_id else ())


def _rows(db: Connection) -> Iterator[Step]:
    """Every row against the chain, its body and its columns; then the sessions that have gaps."""
    last = duckcopy.last_of(db) if format_of(db) else 0
    chain: str | None = ""
    is_whole = True
    for start in range(0, last, tables.BODY_SPAN):
        end = min(start + tables.BODY_SPAN, last)
        try:
            rows = rows_of(db, tables.CHECKED, start, end)
        except READ_ERRORS as error:
            is_whole, chain = False, None
            yield Found(f"entries {start + 1} to {end} can't be read: {error}")
            continue
        for damage in tables.damages(rows, start, end, chain):
            is_whole = False
            yield _found(damage)
        chain = tables.link_at(rows, end)
        yield Progress(end, last)
    for gap in [] if is_whole else rows_of(db, tables.GAPS):
        yield _found(tables.gap(*gap))


def _found(damage: Damage) -> Found:
    return Found(damage.what, damage.sessions)
