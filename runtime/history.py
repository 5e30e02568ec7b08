"""A session's history as a tree: go back and forward in it, branch off, tell a turn anew. Nothing is taken away.

Each change is one entry of the journal, made under the session's claim like a turn, and answered
with where the session stands then. The machine's `history.rewind` says what may be taken back:
`free` lets all of it, `checkpoint` lets a rewind or a fork lead to checkpoints (a fork to the head
too), `off` lets nothing, no fork and no other telling either: what was told on record stays told.
A turn is judged by the definition that it was told by and by the one where the session stands: the
stricter counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import view
from runtime.advance import route
from runtime.claims import Idempotency, append, claiming, must_hold
from runtime.errors import (
    DesignError,
    MachineChanged,
    RewindRefused,
    SessionExists,
    SessionNotFound,
    StaleTurn,
    TurnNotFound,
)
from runtime.machine import Machine
from runtime.narrators.telling import TELL
from runtime.origins import copied
from runtime.recompute import asked_again, before, left_to, lost, returned, settled_again
from runtime.request import Opened
from runtime.session import JOURNAL_FORMAT, TELLINGS, Entry, Judged, Node, Session, sealed
from runtime.stores.heads import node_of, row_of
from runtime.turn import Played, clocked, noted, noticed, spoken_in, spoken_in_language, telling_of, told

if TYPE_CHECKING:
    from runtime.stores import Claim, Store
    from runtime.turn import Runtime

Target = int | Literal["previous"]
"""Where to go back to: a turn of the session, on any branch, or the head turn's parent."""
Make = Callable[[Machine, Entry], Awaitable[Entry]]
"""Makes the entry that follows a head, for a session that is held; it is not sealed yet."""

REACHABLE = 200
"""How many turns `can_rewind_to` lists at most, the newest: each rewind's stored answer has the list."""
_PAGE = 200
_WHY = {
    "off": "its machine lets nothing be taken back",
    "not_a_checkpoint": "its machine lets only checkpoints be gone back to",
    "at_the_root": "the session stands at its first turn",
    "at_the_turn": "the session stands there already",
    "definition_missing": "the definition that it was told by can't be read any more",
    "before_migration": "it was told before the session moved to another version of its machine",
}
_HINTS = {
    "off": "Go on from where the session stands.",
    "not_a_checkpoint": "Name a turn of can_rewind_to in GET /sessions/{id}: one that entered a checkpoint.",
    "at_the_root": "Go on from there, or restart the session by its initial event.",
    "at_the_turn": "Go on from there, or name a turn of can_rewind_to in GET /sessions/{id}.",
    "definition_missing": "Name a turn of can_rewind_to in GET /sessions/{id}.",
    "before_migration": "Go on from where the session stands, or fork it at that turn.",
}
"""What helps, by the reason."""


async def rewind(
    runtime: Runtime, session_id: str, to_turn: Target, *, expected_turn: int | None = None,
    once: Idempotency | None = None,
) -> Played:  # fmt: skip
    """Make another turn of the session its head: an older one, one of another branch, or forward again.

    What `once` used up since is given back, and the time is not, not by a restart either. Raises SessionNotFound,
    TurnNotFound, RewindRefused, StaleTurn, TurnInProgress, MachineChanged, IdempotencyMismatch.
    """

    async def make(machine: Machine, head: Entry) -> Entry:
        nodes = await runtime.store.tree(session_id)
        tree = await _grown(runtime, machine, head, nodes)
        target = tree.target(head, to_turn)
        telling = await _telling(runtime.store, session_id, target)
        there = await runtime.machine_of(telling.after)
        left = await left_to(runtime.store, nodes, target, head)
        entry = replace(
            _following(head, runtime.clock_ms()),
            kind="rewind",
            turn=target,
            parent=head.turn,
            digest=telling.digest,
            after=returned(there, telling.after, left),
            request={"to_turn": to_turn},
        )
        return replace(entry, answer=_raw(_shown(there, entry, telling, tree.seen_from(there))))

    return await _changed(runtime, session_id, expected_turn, once, make)


async def fork(
    runtime: Runtime, session_id: str, at_turn: int | None, *, child_id: str | None = None, same_dice: bool = False,
    once: Idempotency | None = None,
) -> Played:  # fmt: skip
    """Begin another session with a copy of the way to a turn (None: the head); the source goes on as it was.

    The child rolls dice of its own, unless `same_dice`. The key belongs to the source. The child
    is written first: where a crash comes between, the same key finds its child and carries on; a
    fork without a key then leaves a whole child that nobody was told of. Raises as `rewind` does,
    and SessionExists where the child's id is another session's.
    """

    async def make(machine: Machine, head: Entry) -> Entry:
        nodes = await runtime.store.tree(session_id)
        at = head.turn if at_turn is None else at_turn
        (await _grown(runtime, machine, head, nodes)).refuse_fork(head, at)
        mark = "" if once is None else _mark(await runtime.store.secret(), session_id, once)
        salt = None if same_dice else runtime.new_id()
        asked = {"at_turn": at_turn, "session_id": child_id, "same_dice": same_dice}
        child = _Child(id=child_id or mark or runtime.new_id(), salt=salt, mark=mark, request=asked)
        born = await _born(runtime, head, nodes, at, child)
        entry = _following(head, runtime.clock_ms())
        return replace(entry, kind="fork", parent=at, child=child.id, request=asked, answer=born.answer)

    return await _changed(runtime, session_id, None, once, make)


async def regenerate(
    runtime: Runtime, session_id: str, *, expected_turn: int | None = None, once: Idempotency | None = None
) -> Played:
    """Tell the head turn anew, as a sibling: the same edge, dice, choice and assigns in other words.

    What the narration teaches, and the routing after it, follow the new text. It neither stops the
    clock nor sets it back. Raises as `rewind` does, and what a narrator raises; nothing has changed then.
    """
    narrate_s = 0.0

    async def make(machine: Machine, head: Entry) -> Entry:
        nonlocal narrate_s
        nodes = await runtime.store.tree(session_id)
        (await _grown(runtime, machine, head, nodes)).refuse_retelling(head)
        telling = await telling_of(runtime.store, head)
        opened = await _reopened(runtime, machine, head, telling)
        with spoken_in(opened):
            entry, narrate_s = await _retold(runtime, opened, head, telling)
        tree = await _grown(runtime, machine, entry, [*nodes, node_of(entry)])
        shown = _shown(machine, entry, entry, tree)
        del shown["answer"]
        return replace(entry, shown=_raw(shown))

    played = await _changed(runtime, session_id, expected_turn, once, make)
    if not played.is_replayed:
        played = replace(played, narrate_s=narrate_s)
        runtime.trouble = None
        runtime.observe(played)
    return played


async def delete(runtime: Runtime, session_id: str) -> bool:
    """Remove a session for good; False where there was none. Raises TurnInProgress while a turn runs."""
    async with claiming(runtime.store, session_id, None, runtime.clock_ms()) as claim:
        return must_hold(claim) is not None and await runtime.store.delete(session_id, claim)


async def standing(runtime: Runtime, head: Entry) -> dict[str, Any]:
    """Where a session stands: what GET /sessions/{id} shows to anyone. Raises MachineChanged.

    `answer` is the head turn's data exactly as it was sent; `session`, `routing` and `options` are
    the head's own, which a rewind may have changed.
    """
    machine = await runtime.machine_of(head.after)
    telling = await telling_of(runtime.store, head)
    may_rewind = machine.definition.history.rewind != "off"
    nodes = await runtime.store.tree(head.session_id) if may_rewind else []
    is_held = await runtime.store.in_progress(head.session_id)
    tree = await _grown(runtime, machine, head, nodes)
    return _shown(machine, head, telling, tree, in_progress=is_held)


def _shown(machine: Machine, head: Entry, telling: Entry, tree: _Tree, *, in_progress: bool = False) -> dict[str, Any]:
    after = head.after
    return {
        "answer": telling.answer,
        "session": view.session_of(after),
        "allowed_event_types": after.routing.allowed_event_types,
        "routing": msgspec.to_builtins(after.routing),
        "options": view.options_of(after.offer),
        "inputs": msgspec.to_builtins(route(machine, after).inputs),
        "in_progress": in_progress,
        "can_rewind_to": tree.reachable(head.turn),
    }


# What the three share.


async def _changed(
    runtime: Runtime, session_id: str, expected_turn: int | None, once: Idempotency | None, make: Make
) -> Played:
    """Add an entry to a session, to the end even where the client goes away."""
    work = _held_and_changed(runtime, session_id, expected_turn, once, make)
    return await runtime.finish(noticed(runtime, work))


async def _held_and_changed(
    runtime: Runtime, session_id: str, expected_turn: int | None, once: Idempotency | None, make: Make
) -> Played:
    async with claiming(runtime.store, session_id, once, runtime.clock_ms()) as claim:
        if claim.answered is not None:
            return Played(claim.answered, is_replayed=True)
        with spoken_in_language(_found(claim).after.constraints.language):
            head = _ours(claim, expected_turn)
            made = await make(await runtime.machine_of(head.after), head)
            entry = sealed(noted(made, once))
            appending = append(runtime.store, entry, claim, once, runtime.clock_ms())
            kept, store_s = await clocked(runtime.ledger.kept(entry, appending))
    return Played(kept, store_s=store_s, is_replayed=kept is not entry)


def _found(claim: Claim) -> Entry:
    if claim.head is None:
        message = f"there is no session '{claim.session_id}'"
        raise SessionNotFound(message, "Begin one with the initial event.", session_id=claim.session_id)
    return claim.head


def _ours(claim: Claim, expected_turn: int | None) -> Entry:
    """The head of a session that is held and stands where the client saw it. Raises TurnInProgress, StaleTurn."""
    must_hold(claim)
    head = _found(claim)
    if expected_turn is None or expected_turn == head.turn:
        return head
    raise StaleTurn(
        f"the session stands at turn {head.turn}, and the request expects turn {expected_turn}",
        "Read the session, then choose again.",
        expected_turn=expected_turn,
        turn=head.turn,
        allowed_event_types=list(head.after.routing.allowed_event_types),
    )


def _following(head: Entry, at_ms: int) -> Entry:
    """An entry after the head that tells nothing, and leaves the session as it is."""
    return Entry(
        format=JOURNAL_FORMAT,
        session_id=head.session_id,
        seq=head.seq + 1,
        turn=head.turn,
        parent=head.turn,
        at_ms=at_ms,
        digest=head.after.digest,
        after=head.after,
        answer=head.answer,
        kind="fork",
        last_turn=head.next_turn - 1,
        total=head.total,
        prev_hash=head.hash,
    )


async def _telling(store: Store, session_id: str, turn: int) -> Entry:
    found = await store.entry(session_id, turn)
    if found is None:
        raise lost(session_id, turn)
    return found


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


async def _grown(runtime: Runtime, machine: Machine, head: Entry, nodes: Sequence[Node]) -> _Tree:
    """A session's tree as its head sees it, on that machine; each turn with the definition that it was told by."""
    machines: dict[str, Machine | None] = {}
    for digest in {node.digest for node in nodes if node.kind in TELLINGS}:
        try:
            machines[digest] = await runtime.machine_of(replace(head.after, digest=digest))
        except (MachineChanged, DesignError):
            machines[digest] = None
    return _Tree(machine, nodes, machines)


class _Tree:
    """A session's turns, and which of them its machine lets a player go to.

    `machine` is where the session stands, `machines` are the turns' own by their digests: None can't be read.
    """

    def __init__(self, machine: Machine, nodes: Sequence[Node], machines: Mapping[str, Machine | None]) -> None:
        self._nodes = nodes
        self._machines = machines
        self._policy = machine.definition.history.rewind
        self._tellings = {node.turn: node for node in nodes if node.kind in TELLINGS}
        self._migrated = max((node.seq for node in nodes if node.kind == "migration"), default=0)

    def seen_from(self, machine: Machine) -> _Tree:
        """The same, for a session that stands on another machine."""
        return _Tree(machine, self._nodes, self._machines)

    def reachable(self, head: int) -> list[int]:
        """The turns that a rewind may go to, ascending: the newest; an older one may be named all the same."""
        newest = sorted(self._tellings, reverse=True)
        open_ones = (turn for turn in newest if turn != head and not self._why_not(turn))
        return [*islice(open_ones, REACHABLE)][::-1]

    def target(self, head: Entry, to_turn: Target) -> int:
        """The turn to go to. Raises TurnNotFound, RewindRefused."""
        turn = self._previous(head) if to_turn == "previous" else to_turn
        self._refuse_unknown(head, turn)
        if why := self._why_not(turn) or ("at_the_turn" if turn == head.turn else ""):
            raise _refused(why, f"turn {turn}")
        return turn

    def _previous(self, head: Entry) -> int:
        """The head turn's parent; where only checkpoints count, the nearest one on the way to the root."""
        if self._policy == "off":
            raise _refused("off", "the turn before")
        parent = self._parent(head.turn)
        if parent is None:
            raise _refused("at_the_root", "the turn before")
        nearest: int | None = parent
        while nearest is not None and self._why_not(nearest) == "not_a_checkpoint":
            nearest = self._parent(nearest)
        return parent if nearest is None else nearest

    def refuse_fork(self, head: Entry, at: int) -> None:
        """Pass where a session may branch off. Raises TurnNotFound, RewindRefused."""
        self._refuse_unknown(head, at)
        if self._policy != "off" and at == head.turn:
            return
        if why := self._by_policy(at):
            raise _refused(why, f"turn {at}", "branch off at")

    def refuse_retelling(self, head: Entry) -> None:
        """Pass where the head turn may be told anew. Raises RewindRefused."""
        if self._policy == "off":
            raise _refused("off", f"turn {head.turn}", "tell anew")
        if self._is_migrated(head.turn):
            raise _refused("before_migration", f"turn {head.turn}", "tell anew")

    def _refuse_unknown(self, head: Entry, turn: int) -> None:
        if turn not in self._tellings:
            raise TurnNotFound(
                f"session '{head.session_id}' has no turn {turn}; its newest is turn {head.next_turn - 1}",
                "GET /sessions/{id}/turns lists them.",
                session_id=head.session_id,
                turn=turn,
            )

    def _why_not(self, turn: int) -> str:
        """Why a rewind may not go to a turn; '' where it may."""
        if why := self._by_policy(turn):
            return why
        return "before_migration" if self._is_migrated(turn) else ""

    def _by_policy(self, turn: int) -> str:
        node = self._tellings[turn]
        own = self._machines[node.digest]
        policies = {self._policy, own.definition.history.rewind if own else "free"}
        if "off" in policies:
            return "off"
        if own is None:
            return "definition_missing"
        is_checkpoint = own.definition.states[node.state].checkpoint and node.source != node.state
        return "" if is_checkpoint or policies == {"free"} else "not_a_checkpoint"

    def _is_migrated(self, turn: int) -> bool:
        """Whether the session moved to another version of its machine after the turn."""
        node = self._tellings.get(turn)
        return node is not None and node.seq < self._migrated

    def _parent(self, turn: int) -> int | None:
        node = self._tellings.get(turn)
        return None if node is None or node.parent not in self._tellings else node.parent


def _refused(reason: str, where: str, what: str = "go back to") -> RewindRefused:
    return RewindRefused(f"the session can't {what} {where}: {_WHY[reason]}", _HINTS[reason], reasons=[reason])


# Branching off.


class _Child(Struct, frozen=True):
    """The session that a fork makes: its id, its dice's salt (None: as the source would roll), and whose it is."""

    id: str
    salt: str | None
    mark: str
    request: dict[str, Any]


def _mark(secret: bytes, session_id: str, once: Idempotency) -> str:
    """What tells a key's child from every other session, and names it where no id was sent."""
    parts = [b"fork", *map(str.encode, (session_id, once.key, once.request_hash))]
    return hmac.new(secret, b"".join(len(part).to_bytes(4) + part for part in parts), hashlib.sha256).hexdigest()


async def _born(runtime: Runtime, head: Entry, nodes: Sequence[Node], at: int, child: _Child) -> Entry:
    """Write the child, whole; its last entry. One that the same key wrote before a crash is taken as it is."""
    copies: list[Entry] = []
    async for entry in _read(runtime.store, head.session_id, _way(nodes, head, at)):
        copies.append(copied(entry, child.id, copies[-1] if copies else None))
        await asyncio.sleep(0)  # to copy and seal an entry takes a while, and other requests wait
    telling = next(each for each in reversed(copies) if each.is_telling)
    stands = head.after if at == head.turn else telling.after
    salt = (await left_to(runtime.store, nodes, at, head)).salt if child.salt is None else child.salt
    entry = replace(
        _following(copies[-1], runtime.clock_ms()),
        digest=stands.digest,
        after=replace(stands, session_id=child.id, salt=salt),
        origin=telling.origin,
        request=child.request,
        request_hash=child.mark,
    )
    machine = await runtime.machine_of(entry.after)
    tree = await _grown(runtime, machine, entry, [*map(node_of, copies)])
    entry = sealed(replace(entry, answer=_raw(_shown(machine, entry, telling, tree))))
    try:
        await runtime.store.adopt([row_of(each) for each in (*copies, entry)])
    except SessionExists:
        found = await _carried_on(runtime.store, child) if child.mark else None
        if found is None:
            raise
        return found
    return entry


def _way(nodes: Sequence[Node], head: Entry, at: int) -> list[int]:
    """The seqs that a fork copies, ascending: the tellings from the root to a turn, and migrations between them."""
    tellings = {node.turn: node for node in nodes if node.kind in TELLINGS}
    way: list[int] = []
    turn: int | None = at
    before_seq = head.seq + 1 if at == head.turn else 0
    while turn is not None:
        node = tellings.get(turn)
        if node is None:
            raise lost(head.session_id, turn)
        moved = (each for each in nodes if each.kind == "migration" and each.turn == turn)
        way += [each.seq for each in moved if node.seq < each.seq < before_seq]
        way.append(node.seq)
        turn, before_seq = node.parent, node.seq
    return sorted(way)


async def _read(store: Store, session_id: str, seqs: Sequence[int]) -> AsyncIterator[Entry]:
    """Some entries of a session, page by page."""
    wanted, after = set(seqs), seqs[0] - 1
    while after < seqs[-1]:
        page = await store.entries(session_id, after=after, limit=min(_PAGE, seqs[-1] - after))
        if not page:
            raise lost(session_id, after + 1)
        for entry in page:
            if entry.seq in wanted:
                yield entry
        after = page[-1].seq


async def _carried_on(store: Store, child: _Child) -> Entry | None:
    """The entry by which the same key's fork wrote this child before; None where it is somebody else's."""
    forks = [node.seq for node in await store.tree(child.id) if node.kind == "fork"]
    for seq in forks[:1]:
        entry = (await store.entries(child.id, after=seq - 1, limit=1))[0]
        if entry.origin is not None and hmac.compare_digest(entry.request_hash, child.mark):
            return entry
    return None


# Telling anew.


async def _reopened(runtime: Runtime, machine: Machine, head: Entry, telling: Entry) -> Opened:
    """The session as the head turn found it; what it has heard since counts, so that other fragments are drawn."""
    found = await before(runtime.store, machine, telling)
    return Opened(
        machine=machine,
        session=replace(found, said=_heard(head.after, found)),
        head=head,
        constraints=telling.after.constraints,
        elapsed_ms=head.after.elapsed_ms,
        now_ms=runtime.clock_ms(),
        next_turn=head.next_turn,
    )


def _heard(after: Session, found: Session) -> dict[str, int]:
    """What the branch has heard, its siblings too: the head turn's own texts come last when others are drawn.

    The edge's own words are no draw: they are new to who found the session so.
    """
    newest = max(after.said.values(), default=0) + 1
    heard = {identity: newest if step == found.step else step for identity, step in after.said.items()}
    drawn = {identity: step for identity, step in heard.items() if not identity.startswith(TELL)}
    return {**drawn, **{identity: step for identity, step in found.said.items() if identity.startswith(TELL)}}


async def _retold(runtime: Runtime, opened: Opened, head: Entry, telling: Entry) -> tuple[Entry, float]:
    asked = asked_again(opened.machine, telling)
    settled = settled_again(opened, asked, telling)
    settled = replace(settled, session=replace(settled.session, salt=head.after.salt))
    entry, narrate_s = await told(runtime, opened, settled, asked, None, time.monotonic() + runtime.turn_deadline_s)
    after = replace(entry.after, answered_at_ms=head.after.answered_at_ms)
    judged = Judged(opened.session.elapsed_ms, opened.session.salt)
    return replace(entry, kind="regenerate", judged=judged, after=after), narrate_s
