"""Copying a journal into another store: from DuckDB to PostgreSQL and back, byte for byte.

What was copied stays: a copy that broke off, or whose source was played on since, is
continued by running it again. Tombstones are not copied: in the target, what was deleted never was.
A store lists its sessions by when it got their heads, so a copy lists them in the order of the
source's walk: a DuckDB file's is that of its turns; PostgreSQL's is by id, and only what is copied in
one portion comes in the order of its turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.errors import EdgewiseError, SessionExists, StaleTurn
from runtime.formats import is_intact, read_entry
from runtime.progress import Done, Found, Progress, Step
from runtime.session import Expense, body_of, more_than

if TYPE_CHECKING:
    from runtime.session import Entry
    from runtime.stores import Row, Store

WINDOW_ROWS = 4000
WINDOW_BYTES = 16 << 20
"""How much is held at a time, beside entries of format 1 (see `_windows`)."""
AT_ONCE = 500
"""How many sessions are written at the same time: a store may commit them together."""


class OtherJournal(EdgewiseError):
    """The target holds a journal that is no copy of the source."""


class Unreadable(EdgewiseError):
    """An entry of the source can't be read at all."""


async def copy(source: Store, target: Store, *, rows: int = WINDOW_ROWS) -> AsyncIterator[Step]:
    """Copy a journal: its secret, definitions and ledger, every entry as it is kept; then read it all back.

    Both are open; about `rows` entries are held at a time. Found says which sessions are not the same
    in both at the end, as those that were played on meanwhile; nothing of the target is overwritten.
    It also names every entry of the source that is not what was written: it is not copied, and nothing
    that comes after it in its session. Facts, without what is left out so: sessions, entries,
    definitions, added (entries that were not there before). Raises OtherJournal before anything is
    written, Unreadable, StoreUnavailable.
    """
    await _become_copy(source, target)
    definitions = await _keep_definitions(source, target)
    await _bring_ledger(source, target)
    total, before = 2 * await source.count(), await target.count()
    read, sessions, damage = Tally(), 0, list[Found]()
    async for window in _windows(_intact(source.walk(), damage), rows):
        await _write(window, target)
        read.add(window)
        sessions += sum(row.seq == 1 for row in window)
        yield Progress(read.count, total)
    kept = Tally()
    async for row in target.walk():
        kept.add([row])
        if kept.count % rows == 0:
            yield Progress(read.count + kept.count, total)
    differ = [] if kept == read else [found async for found in _differences(source, target)]
    damaged = {found.sessions for found in damage}
    wrong = damage + [found for found in differ if found.sessions not in damaged]
    for found in wrong:
        yield found
    added = await target.count() - before
    facts = {"sessions": sessions, "entries": read.count, "definitions": definitions, "added": added}
    yield Done(is_good=not wrong, facts=facts)


async def _become_copy(source: Store, target: Store) -> None:
    """Give the target the source's secret, by which a copy is known too. Raises OtherJournal."""
    secret = await source.secret()
    if await target.secret() == secret:
        return
    if await target.count():
        raise OtherJournal(
            "the target holds another journal: copy into an empty one, or into an earlier copy of the same source"
        )
    await target.keep_secret(secret)


async def _keep_definitions(source: Store, target: Store) -> int:
    digests = await source.digests()
    for digest in digests:
        await target.keep(digest, await source.kept(digest) or {})
    return len(digests)


async def _bring_ledger(source: Store, target: Store) -> None:
    """Add what the source has spent and the target doesn't say; again adds nothing."""
    there = {(each.day, each.provider, each.model): each for each in await target.expenses(0)}
    for each in await source.expenses(0):
        nothing = Expense(day=each.day, provider=each.provider, model=each.model)
        more = more_than(each, there.get((each.day, each.provider, each.model), nothing))
        if more != nothing:
            await target.spend("", more)


async def _intact(walk: AsyncIterator[Row], damage: list[Found]) -> AsyncIterator[Row]:
    """Each session's rows up to its first that is not what was written; notes all such. Raises Unreadable."""
    damaged: set[str] = set()
    async for row in walk:
        _entry(row)
        if not is_intact(row.body, row.hash):
            damaged.add(row.session_id)
            what = f"entry {row.seq} of the source is not what was written: its hash is another"
            damage.append(Found(f"session '{row.session_id}': {what}", (row.session_id,)))
        if row.session_id not in damaged:
            yield row


async def _windows(walk: AsyncIterator[Row], rows: int) -> AsyncIterator[list[Row]]:
    """Rows in portions that fit in memory, and each session's entries of format 1 in one portion.

    An entry of format 1 can only be adopted as it is kept, never appended: they are held until the
    session's first entry of a later format, or the end.
    """
    window: list[Row] = []
    held: dict[str, list[Row]] = {}
    size = 0
    async for row in walk:
        old = held.pop(row.session_id, [])
        if _entry(row).format == 1:
            held[row.session_id] = [*old, row]
            continue
        window += [*old, row]
        size += sum(len(each.body) for each in (*old, row))
        if len(window) >= rows or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    window += [row for old in held.values() for row in old]
    if window:
        yield window


def _entry(row: Row) -> Entry:
    try:
        return read_entry(row.body, row.hash)
    except msgspec.DecodeError as error:
        raise Unreadable(
            f"entry {row.seq} of session '{row.session_id}' can't be read: {error}. `edgewise db verify` finds all such"
        ) from None


async def _write(window: list[Row], target: Store) -> None:
    """Write what the target lacks of some rows, each session's last one in the order in which they were played.

    Appends of many sessions are committed together, where each adoption takes a commit of its own:
    adopted is what is long beside the others, and what can't be appended.
    """
    by_session: dict[str, list[Row]] = {}
    for row in window:
        by_session.setdefault(row.session_id, []).append(row)
    in_order = sorted(by_session.values(), key=lambda rows: _entry(rows[-1]).at_ms)
    is_adopted = [len(rows) > len(in_order) or _entry(rows[0]).format == 1 for rows in in_order]
    together = [rows[:-1] for rows, alone in zip(in_order, is_adopted, strict=True) if rows[1:] and not alone]
    await _all_done(_continue(target, rows, is_adopted=False) for rows in together)
    await _all_done(_continue(target, rows, is_adopted=alone) for rows, alone in zip(in_order, is_adopted, strict=True))


async def _all_done(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do works side by side, each begun in its turn. Raises what the first of those that fail raises."""
    turnstile = asyncio.Semaphore(AT_ONCE)

    async def let_in(work: Coroutine[Any, Any, None]) -> None:
        async with turnstile:
            await work

    for error in await asyncio.gather(*map(let_in, works), return_exceptions=True):
        if error is not None:
            raise error


async def _continue(target: Store, rows: list[Row], *, is_adopted: bool) -> None:
    """Add a session's rows after the target's head, all in one where there is none.

    What does not follow it is left out, and found when the target is read back.
    """
    head = await target.head(rows[0].session_id)
    try:
        if head is None and is_adopted and rows[0].seq == 1:
            await target.adopt(rows)
            return
        for row in rows[0 if head is None else max(0, head.seq + 1 - rows[0].seq) :]:
            entry = _entry(row)
            if body_of(entry) != row.body:
                return
            await target.append(entry)
    except (SessionExists, StaleTurn):
        return


class Tally:
    """A sum over rows that is equal for equal rows, whatever their order."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows in; one that is not what its hash was made over counts as another."""
        for row in rows:
            self.count += 1
            self._sum += _weight(row)

    def take(self, rows: Iterable[Row]) -> None:
        """Count rows out again."""
        for row in rows:
            self.count -= 1
            self._sum -= _weight(row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and (self.count, self._sum) == (other.count, other._sum)

    __hash__ = None  # type: ignore[assignment]


def _weight(row: Row) -> int:
    named = f"{row.session_id} {row.seq} {row.hash} {is_intact(row.body, row.hash)}"
    return int.from_bytes(sha256(named.encode()).digest())


async def _differences(source: Store, target: Store) -> AsyncIterator[Found]:
    """Each session that is not the same in both."""
    tallies: dict[str, Tally] = {}
    async for row in source.walk():
        tallies.setdefault(row.session_id, Tally()).add([row])
    async for row in target.walk():
        tallies.setdefault(row.session_id, Tally()).take([row])
    for session_id, tally in tallies.items():
        if tally != Tally():
            yield Found(f"session '{session_id}' {_difference(tally.count)}", (session_id,))


def _difference(count: int) -> str:
    if count > 0:
        return f"has {count} entries in the source that the target has not: run the copy again"
    if count < 0:
        return f"has {-count} entries in the target that the source has not: it was played there, or deleted here"
    return "has other entries in the target than in the source"
