"""What players hit: the coverage of a journal, counted where the journal is, so that no story is sent about.

Each telling is judged again by the definition that it was told by. What was told anew, and what a fork
copied, is no turn that a player took.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from runtime import recompute
from runtime.bench.coverage import Tally, plain
from runtime.bench.trial import Step, step_of
from runtime.errors import EdgewiseError
from runtime.formats import read_entry
from runtime.progress import Done, Progress
from runtime.progress import Step as Told
from runtime.session import Entry, meta_of

if TYPE_CHECKING:
    from runtime.session import Node
    from runtime.stores import Row
    from runtime.turn import Runtime

EVERY = 500
"""Entries between two reports of progress."""
KEPT_ENTRIES = 2_000
"""How many tellings are kept in memory for those that grow from them; others are read again."""
_UNJUDGED = (EdgewiseError, LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError)
"""What the rules raise on a record that they can't judge: its definition is gone, or it is damaged."""


class _Version(Struct, frozen=True):
    """The counts of one definition."""

    machine: str
    version: int | str
    digest: str
    tally: Tally
    sessions: set[str]


async def counted(runtime: Runtime, machine: str | None = None, *, every: int = EVERY) -> AsyncIterator[Told]:
    """Count what was played of a machine, or of all, version by version; tells how far it is.

    The facts at the end are `sessions`, `turns`, `unjudged` (turns of which only edge, states and choice
    are known) and `versions`: for each definition its `machine`, `version`, `digest`, `sessions` and
    `coverage`, as `coverage.plain` has it. Raises StoreUnavailable where the store can't be read.
    """
    kept, versions = _Kept(runtime), dict[str, _Version]()
    total, done, unjudged = await runtime.store.count(), 0, 0
    async for row in runtime.store.walk():
        done += 1
        if done % every == 0:
            yield Progress(done, max(done, total))
        entry = _read(row)
        if entry is None or not entry.is_telling or machine not in (None, entry.after.machine):
            continue
        kept.keep(entry)
        if entry.kind == "turn" and entry.origin is None:
            found = versions.setdefault(entry.digest, _version_of(entry))
            unjudged += not await kept.count(found.tally, entry)
            found.sessions.add(entry.session_id)
        await asyncio.sleep(0)  # the rules wait for nothing: let the turns that are played go on
    yield Done(is_good=True, facts=_facts(versions, unjudged))


def _read(row: Row) -> Entry | None:
    """The row's entry; what can't be read is for `db verify` to find."""
    try:
        return read_entry(row.body, row.hash)
    except msgspec.MsgspecError:
        return None


def _version_of(entry: Entry) -> _Version:
    return _Version(entry.after.machine, entry.after.version, entry.digest, Tally(), set())


def _facts(versions: Mapping[str, _Version], unjudged: int) -> dict[str, Any]:
    told = [
        {
            "machine": each.machine, "version": each.version, "digest": each.digest,
            "sessions": len(each.sessions), "coverage": plain(each.tally.coverage()),
        }
        for each in versions.values()
    ]  # fmt: skip
    sessions = {name for each in versions.values() for name in each.sessions}
    turns = sum(each.tally.turns for each in versions.values())
    return {"sessions": len(sessions), "turns": turns, "unjudged": unjudged, "versions": told}


class _Kept:
    """The store as the rules read it: tellings that were just walked are at hand."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._turns: OrderedDict[tuple[str, int], Entry] = OrderedDict()

    def keep(self, entry: Entry) -> None:
        self._turns[entry.session_id, entry.turn] = entry
        if len(self._turns) > KEPT_ENTRIES:
            self._turns.popitem(last=False)

    async def count(self, tally: Tally, entry: Entry) -> bool:
        """Count a telling; False where only its outcome is known."""
        edge = ""
        try:
            if entry.parent is not None and (parent := await self.entry(entry.session_id, entry.parent)):
                edge = parent.outcome.edge
            machine = await self._runtime.machine_of(entry.after)
            step = step_of(machine, await recompute.before(self, machine, entry), entry)
        except _UNJUDGED:
            tally.add(_bare(entry), edge)
            return False
        tally.add(step, edge)
        return True

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        return self._turns.get((session_id, turn)) or await self._runtime.store.entry(session_id, turn)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        return await self._runtime.store.entries(session_id, after=after, limit=limit)

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts."""
        return await self._runtime.store.tree(session_id)


def _bare(entry: Entry) -> Step:
    """A telling of which nothing but its outcome is asked."""
    return Step(before=entry.after, after=entry.after, outcome=entry.outcome, rungs=meta_of(entry.answer).rungs)
