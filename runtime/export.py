"""Giving a session away: its record as lines. What a story to read looks like is the server's, a replay the bench's.

Everything is streamed in pages of entries: what is held does not grow with the session, but for a
few bytes a turn. A turn that is played meanwhile is not part of the export.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from runtime.errors import (
    DesignError,
    Forbidden,
    MachineChanged,
    SessionNotFound,
    StoreUnavailable,
)
from runtime.exported import EXPORT_VERSION, Aigc, AnswerTold, Header, entry_line, header_line, read_answer
from runtime.formats import is_intact
from runtime.importing import import_lines
from runtime.machine import Machine
from runtime.model import LongDie
from runtime.session import TELLINGS, Entry, Node, Role

if TYPE_CHECKING:
    from runtime.stores import Store
    from runtime.turn import Runtime

__all__ = ["Survey", "entries_of", "export", "import_lines", "refuse_secrets", "stream_of", "survey", "told_in"]

PAGE = 50
"""Entries that are read at a time."""


class Survey(Struct, frozen=True, kw_only=True):
    """What is known of a session before it is told: how far it reaches, and what must be said of it.

    `head` is the newest entry that belongs to it. `branch` are the turns on the way to the head,
    `nodes` all tellings. `has_moved` where the session moved to another version between two turns of
    the branch, be it that it came back. `digests` are those of the definitions that it was played on, `machines` the
    same compiled; one that can't be read is not there.
    `has_secrets` also where that can't be known. `tellers` are (narrator, model, ai_generated), and
    `is_branch_generated` says whether a model told any of the branch. `producer` is who answers for it.
    """

    head: Entry
    branch: frozenset[int]
    nodes: tuple[Node, ...]
    has_moved: bool
    digests: tuple[str, ...]
    machines: dict[str, Machine]
    has_secrets: bool
    tellers: tuple[tuple[str, str | None, bool], ...]
    is_branch_generated: bool
    producer: str

    @property
    def session_id(self) -> str:
        """Whose survey it is."""
        return self.head.session_id

    @property
    def language(self) -> str:
        """The language that the session speaks now."""
        return self.head.after.constraints.language

    @property
    def is_ai_generated(self) -> bool:
        """Whether a model told any of it, on whatever branch."""
        return any(is_generated for _, _, is_generated in self.tellers)

    @property
    def aigc(self) -> Aigc | None:
        """The label of a file that has all of it, None where no model told any."""
        return self._label if self.is_ai_generated else None

    @property
    def aigc_of_branch(self) -> Aigc | None:
        """The label of a file that has only the branch."""
        return self._label if self.is_branch_generated else None

    @property
    def _label(self) -> Aigc:
        return Aigc(content_producer=self.producer, produce_id=self.session_id)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that told any of it; a narrator that names none stands for its model."""
        return tuple(dict.fromkeys(model or narrator for narrator, model, is_generated in self.tellers if is_generated))


async def export(runtime: Runtime, session_id: str, role: Role) -> AsyncIterator[bytes]:
    """A session's record: every entry as it was kept.

    Raises SessionNotFound, Forbidden for a player where the machine has secrets, StoreUnavailable.
    """
    about = await survey(runtime, session_id)
    refuse_secrets(about, "jsonl", role)
    async for part in stream_of(runtime, about, role):
        yield part


async def stream_of(runtime: Runtime, about: Survey, role: Role) -> AsyncIterator[bytes]:
    """The record that a survey was made for. Raises StoreUnavailable."""
    yield header_line(await _header(runtime, about, role))
    async for line in _lines(runtime.store, about.head):
        yield line


def refuse_secrets(about: Survey, form: str, role: Role) -> None:
    """Pass what a player may have. Raises Forbidden: a record holds everything that a session ever knew."""
    if role != "operator" and about.has_secrets and form in ("jsonl", "replay"):
        raise Forbidden(
            f"machine '{about.head.after.machine}' has secrets, and a {form} of its sessions tells them",
            "Ask for md or html, or send an operator's token.",
            role_needed="operator",
        )


async def survey(runtime: Runtime, session_id: str) -> Survey:
    """Read a session once, to know what must be said before the rest. Raises SessionNotFound, StoreUnavailable."""
    head = await runtime.store.head(session_id)
    if head is None:
        raise SessionNotFound(f"there is no session '{session_id}'", "GET /sessions lists them.", session_id=session_id)
    tree = [node for node in await runtime.store.tree(session_id) if node.seq <= head.seq]
    nodes = [node for node in tree if node.kind in TELLINGS]
    branch = _branch(nodes, head.turn)
    machines: dict[str, Machine | None] = {}
    tellers: dict[tuple[str, str | None, bool], None] = {}
    is_branch_generated = False
    async for entry in entries_of(runtime.store, head):
        if entry.is_telling:
            meta = told_in(entry).payload.meta
            tellers[meta.narrator, meta.model, meta.ai_generated] = None
            is_branch_generated |= meta.ai_generated and entry.turn in branch
        if entry.digest not in machines:
            machines[entry.digest] = await _machine_of(runtime, entry)
    known = {digest: machine for digest, machine in machines.items() if machine is not None}
    return Survey(
        head=head,
        branch=branch,
        nodes=tuple(nodes),
        has_moved=_has_moved(tree, branch),
        digests=tuple(machines),
        machines=known,
        has_secrets=len(known) < len(machines) or any(map(_has_secrets, known.values())),
        tellers=tuple(tellers),
        is_branch_generated=is_branch_generated,
        producer=runtime.producer,
    )


async def _machine_of(runtime: Runtime, entry: Entry) -> Machine | None:
    """The definition that an entry was made by, None where it can't be read any more."""
    try:
        return await runtime.machine_of(entry.after)
    except (MachineChanged, DesignError):
        return None


def _has_secrets(machine: Machine) -> bool:
    dice = (die for edge in machine.edges for die in edge.dice.values())
    is_rolled = any(isinstance(die, LongDie) and die.secret for die in dice)
    return is_rolled or any(variable.secret for variable in machine.definition.context.values())


def _branch(nodes: list[Node], turn: int) -> frozenset[int]:
    """The turns from the root to a turn."""
    parents = {node.turn: node.parent for node in nodes}
    branch: set[int] = set()
    at: int | None = turn
    while at is not None and at in parents and at not in branch:
        branch.add(at)
        at = parents[at]
    return frozenset(branch)


def _has_moved(tree: list[Node], branch: frozenset[int]) -> bool:
    """Whether a migration stands between two turns of the branch."""
    moves = [node for node in tree if node.kind == "migration" and node.turn in branch]
    told = [node for node in tree if node.kind in TELLINGS and node.turn in branch]
    return any(node.parent == move.turn and node.seq > move.seq for move in moves for node in told)


async def entries_of(store: Store, head: Entry) -> AsyncIterator[Entry]:
    """A session's entries up to the head, oldest first. Raises StoreUnavailable where one is missing."""
    seq = 0
    while seq < head.seq:
        page = await store.entries(head.session_id, after=seq, limit=min(PAGE, head.seq - seq))
        for entry in page:
            seq += 1
            if entry.seq != seq:
                raise _lost(head, seq)
            yield entry
            await asyncio.sleep(0)  # to read, check and write an entry takes a while, and other requests wait
        if not page:
            raise _lost(head, seq + 1)


def _lost(head: Entry, seq: int) -> StoreUnavailable:
    return StoreUnavailable(
        f"entry {seq} of session '{head.session_id}' is not in the journal as it was written",
        "It was deleted meanwhile, or `edgewise db verify` tells what is wrong.",
    )


def told_in(entry: Entry) -> AnswerTold:
    """What was answered when an entry was told."""
    return read_answer(entry.answer)


async def _lines(store: Store, head: Entry) -> AsyncIterator[bytes]:
    """Every entry's line, byte for byte. Raises StoreUnavailable where one is missing or damaged."""
    seq = 0
    while seq < head.seq:
        page = await store.rows(head.session_id, after=seq, limit=min(PAGE, head.seq - seq))
        if not page:
            raise _lost(head, seq + 1)
        for row in page:
            seq += 1
            if row.seq != seq or not is_intact(row.body, row.hash):
                raise _lost(head, seq)
            yield entry_line(row.body, row.hash)
            await asyncio.sleep(0)  # other requests wait


async def _header(runtime: Runtime, about: Survey, role: Role) -> Header:
    """The first line. A definition tells every guard and prompt: it is for operators."""
    digests = about.digests if role == "operator" else ()
    kept = {digest: await runtime.store.kept(digest) for digest in digests}
    return Header(
        edgewise_export=EXPORT_VERSION,
        session_id=about.session_id,
        machine=about.head.after.machine,
        version=about.head.after.version,
        language=about.language,
        exported_at=datetime.fromtimestamp(runtime.clock_ms() / 1000, UTC).isoformat(timespec="milliseconds"),
        ai_generated=about.is_ai_generated,
        narrators=tuple(dict.fromkeys(narrator for narrator, _, _ in about.tellers)),
        models=about.models,
        entries=about.head.seq,
        definitions={digest: files for digest, files in kept.items() if files is not None},
        aigc=about.aigc.told if about.aigc else None,
    )
