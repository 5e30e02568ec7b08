"""Sessions at rest come over to the definition that is served now, by the rules of its `migrations`.

`migrated` is the rule: a session of another version in, the same session in this one out, or why it
can't come. Nothing of the old definition is read, so that a session whose own is lost comes over all
the same. `migrate` does it to every live session, or only says what it would do; each session that
moves gets an entry of kind "migration", and no turn is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import view
from runtime.advance import Route, ai_state_of, default_of, entered, renumbered, route
from runtime.claims import claiming
from runtime.constraints import bounds_of
from runtime.errors import DesignError, MachineChanged, MachineFault, MachineNotFound, StaleTurn
from runtime.model import Definition, Migration, Variable
from runtime.narrators.wording import offered
from runtime.progress import Done, Found, Progress, Step
from runtime.request import nearest
from runtime.session import JOURNAL_FORMAT, Change, Choice, Entry, Outcome, Session, Value, sealed

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.turn import Runtime

EDGE = "migration"
"""What stands as the edge in the outcome of a migration's entry."""
PAGE = 100
"""How many sessions are read at once."""
AT_ONCE = 20
"""How many sessions are moved at the same time: stores commit together what comes together."""
PASSES = 5
"""How often the list is walked at most, for sessions that a turn moved to its front on the way."""
SKEW_MS = 60_000
"""How far apart the clocks of two hosts may be, in ms: a later pass goes so far back behind its start."""
SAMPLES = 5
"""How many sessions a finding names."""


class Moved(Struct, frozen=True):
    """A session as it stands in the new definition.

    `changes` are those of variables that both have. `added` are new, `dropped` are gone, and what
    `reset` held fits no more.
    """

    session: Session
    routed: Route
    changes: tuple[Change, ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()


Kind = Literal["stranded", "without_edges", "busy", "no_rule", "not_served", "ended", "current"]
KINDS: tuple[Kind, ...] = ("stranded", "without_edges", "busy", "no_rule", "not_served", "ended", "current")
WRONG: tuple[Kind, ...] = ("stranded", "without_edges", "busy")
"""What a migration means to leave nothing of."""


class Left(Struct, frozen=True):
    """A session that stays as it is, and why."""

    kind: Kind
    why: str = ""


# --- the rule ---


def judged(machine: Machine, session: Session) -> Moved | Left:
    """What becomes of a session when this definition of its machine takes it over."""
    if session.digest == machine.digest:
        return Left("current")
    if session.ended:
        return Left("ended")
    migration = machine.definition.migration_from(session.version)
    if migration is None:
        return Left("no_rule", _unruled(machine.definition, session.version))
    return migrated(machine, session, migration)


def _unruled(definition: Definition, version: int | str) -> str:
    if str(version) == str(definition.version):
        mend = f"Give it a new `version`, and say `from: {version}`"
        return f"begun with version {version}, as the file still says. {mend}"
    return f"begun with version {version}, and no migration says `from: {version}`"


def migrated(machine: Machine, session: Session, migration: Migration) -> Moved | Left:
    """A live session of another version in this one; turn, step and time stay.

    It stays where it is when its state has no successor here, when the new state is final or nothing
    would be open in it, and when the machine no longer speaks its language. Where it falls back it
    enters its new state, whose `entry` is run; under a new name the state is the one that it was in.
    """
    definition = machine.definition
    state = _state_for(definition, session.state, migration)
    if isinstance(state, Left):
        return state
    if not _offers(definition, session.constraints.language):
        return Left("stranded", f"the machine no longer offers '{session.constraints.language}', their language")
    context, reset = _context(definition, session, migration)
    moved = replace(
        session,
        version=definition.version,
        digest=machine.digest,
        state=state,
        context=context,
        visits=_visits(definition, session, migration),
        used=_used(machine, session, migration),
        slots={**definition.slots, **{name: value for name, value in session.slots.items() if value is not None}},
        limit_ms=_limit_ms(definition, session),
    )
    try:
        moved = _arrived(machine, moved, is_new=migration.states.get(session.state, session.state) != state)
    except MachineFault as fault:
        return Left("stranded", f"the `entry` of '{state}' can't be run: {fault.message}")
    routed = route(machine, moved)
    if not routed.routing.allowed_event_types:
        return Left("without_edges", f"in '{state}' no event would be open")
    return _told(Moved(_standing(machine, moved, routed), routed, reset=reset), session)


def _arrived(machine: Machine, moved: Session, *, is_new: bool) -> Session:
    """The session in its state, which it has visited; one that is new to it is entered. Raises MachineFault."""
    context = entered(machine, moved, EDGE) if is_new else moved.context
    visits = {**moved.visits, moved.state: max(1, moved.visits.get(moved.state, 0))}
    return replace(moved, context=context, visits=visits)


def _told(moved: Moved, before: Session) -> Moved:
    """What a move does to the variables, by name."""
    after = moved.session.context
    both = [name for name in after if name in before.context]
    return replace(
        moved,
        changes=tuple(
            Change(name, before.context[name], after[name]) for name in both if before.context[name] != after[name]
        ),
        added=tuple(name for name in after if name not in before.context),
        dropped=tuple(name for name in before.context if name not in after),
    )


def _state_for(definition: Definition, state: str, migration: Migration) -> str | Left:
    """Where a session goes: its state's new name, else the same, else the fallback."""
    target = migration.states.get(state, state)
    if target not in definition.states:
        if migration.fallback is None:
            rule = f"the migration from version {migration.from_}"
            return Left("stranded", f"the state '{state}' is gone, and {rule} has neither its new name nor a fallback")
        target = migration.fallback
    if definition.states[target].is_final:
        return Left("stranded", f"'{target}' is final in this version, and nobody would tell the ending")
    return target


def _offers(definition: Definition, language: str) -> bool:
    return language.partition("-")[0] in {offered.partition("-")[0] for offered in definition.languages}


def _context(
    definition: Definition, session: Session, migration: Migration
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The new context, and the names of those variables whose old value doesn't fit any more.

    What fits is kept. A set that has lost members keeps the others, unless the migration has a value.
    """
    context: dict[str, Value] = {}
    reset: list[str] = []
    for name, variable in definition.context.items():
        before = session.context.get(name)
        kept = None if before is None else _kept(before, variable)
        if kept is not None and _is_whole(before, kept):
            context[name] = kept
            continue
        written = _kept(migration.context[name], variable) if name in migration.context else kept
        context[name] = default_of(variable) if written is None else written
        if before is not None:
            reset.append(name)
    return context, tuple(reset)


def _is_whole(before: Value | None, kept: Value) -> bool:
    return not isinstance(kept, list) or (isinstance(before, list) and len(kept) == len(before))


def _kept(value: Value, variable: Variable) -> Value | None:
    """A value as a variable holds it, None where it doesn't fit: nothing is clamped."""
    if variable.type == "set":
        return [member for member in variable.of or () if member in value] if isinstance(value, list) else None
    if variable.type == "enum":
        return value if value in (variable.of or ()) else None
    if variable.type in {"int", "float"}:
        return _kept_number(value, variable)
    return value if isinstance(value, bool if variable.type == "bool" else str) else None


def _kept_number(value: Value, variable: Variable) -> int | float | None:
    """A number within its variable's range; an int is a float where one is wanted, and never the other way."""
    if isinstance(value, bool | str | list) or (variable.type == "int" and isinstance(value, float)):
        return None
    is_low = variable.min is not None and value < variable.min
    is_high = variable.max is not None and value > variable.max
    if is_low or is_high:
        return None
    return value if variable.type == "int" else float(value)


def _visits(definition: Definition, session: Session, migration: Migration) -> dict[str, int]:
    """The visits under the states' new names."""
    visits: dict[str, int] = {}
    for name, count in session.visits.items():
        there = migration.states.get(name, name)
        if there in definition.states:
            visits[there] = visits.get(there, 0) + count
    return visits


def _used(machine: Machine, session: Session, migration: Migration) -> tuple[str, ...]:
    """The once-names used up, under their states' new names, as far as the machine still has them."""
    known = {edge.once for edge in machine.edges}
    parts = (name.partition(".") for name in session.used)
    renamed = (f"{migration.states.get(source, source)}.{name}" for source, _, name in parts)
    return tuple(dict.fromkeys(name for name in renamed if name in known))


def _limit_ms(definition: Definition, session: Session) -> int | None:
    """The session's time in ms: the new version's, or what it had where that is less."""
    if definition.limits.seconds is None:
        return None
    own_ms = definition.limits.seconds * 1000
    return own_ms if session.limit_ms is None else min(own_ms, session.limit_ms)


def _standing(machine: Machine, session: Session, routed: Route) -> Session:
    """The session with what is offered and shown in its state, in the machine's own words.

    An option that was offered before keeps its id: a choice made on the page from before the move means
    what it says, or is not offered.
    """
    bounds = bounds_of(machine, session.constraints)
    return replace(
        session,
        routing=routed.routing,
        offer=offered(machine, session.state, renumbered(routed.offer, session.offer), bounds, {})[0],
        ai_state=ai_state_of(machine, session, {}, view.first_words(machine, session, {})),
    )


# --- the entry ---


def entry_of(machine: Machine, head: Entry, telling: Entry, moved: Moved, now_ms: int) -> Entry:
    """The journal's entry of a move. Its answer is the head turn's, with where the session stands now."""
    session = moved.session
    asked = {"from": head.after.version, "added": moved.added, "dropped": moved.dropped, "reset": moved.reset}
    outcome = Outcome("", EDGE, head.after.state, session.state, Choice(), (), moved.changes)
    return sealed(
        Entry(
            format=JOURNAL_FORMAT,
            session_id=head.session_id,
            seq=head.seq + 1,
            turn=head.turn,
            parent=head.turn,
            at_ms=now_ms,
            digest=machine.digest,
            kind="migration",
            after=session,
            answer=view.restated(machine, telling.answer, session, moved.routed),
            last_turn=max(head.last_turn, head.turn),
            request={"migration": msgspec.to_builtins(asked)},
            outcome=outcome,
            total=head.total,
            prev_hash=head.hash,
        )
    )


# --- the walk ---


async def migrate(runtime: Runtime, machine: str | None = None, *, dry_run: bool = False) -> AsyncIterator[Step]:
    """Move every live session, or one machine's, to the definition that is served; again moves nothing.

    A dry run writes nothing, and says what would become of each session that there is. A session with
    a turn under way is left. The facts at the end count sessions: `moved` (`would_move`), `stranded`,
    `without_edges`, `busy`, `no_rule` (their version has no migration), `not_served`, `ended` and
    `current`; it is good where none is stranded, without edges or busy.
    Raises MachineNotFound, StoreUnavailable: what was moved until then has moved.
    """
    if machine is not None and machine not in runtime.machines:
        raise _no_machine(runtime, machine)
    walk = _Walk(runtime, machine, dry_run=dry_run)
    async for progress in walk.sessions():
        yield progress
    for found in walk.report():
        yield found
    yield walk.done()


def _no_machine(runtime: Runtime, name: str) -> MachineNotFound:
    meant = nearest(name, runtime.machines)
    return MachineNotFound(
        f"there is no machine '{name}'" + (f". Did you mean '{meant}'?" if meant else ""),
        f"The machines that are served: {', '.join(runtime.machines)}.",
        machine=name,
        machines=list(runtime.machines),
        did_you_mean=meant,
    )


class _Walk:
    """One run over the live sessions, and what it has seen."""

    def __init__(self, runtime: Runtime, machine: str | None, *, dry_run: bool) -> None:
        self._runtime = runtime
        self._machine = machine
        self._dry_run = dry_run
        self._seen: set[str] = set()
        self._lost: dict[str, bool] = {}
        self._counts: dict[str, int] = dict.fromkeys(("moved", *KINDS), 0)
        self._notes: dict[tuple[str, str, str], list[str]] = {}
        self._numbers: dict[tuple[str, str, str], int] = {}

    async def sessions(self) -> AsyncIterator[Progress]:
        """Judge and move every session, newest first, until a pass meets none that is new to it."""
        since_ms = 0
        for _ in range(PASSES):
            before, started_ms = len(self._seen), self._runtime.clock_ms()
            async for heads in self._pages(since_ms):
                new = [*self._new(heads)]
                for start in range(0, len(new), AT_ONCE):
                    await self._judge(new[start : start + AT_ONCE])
                yield Progress(len(self._seen))
            if len(self._seen) == before:
                return
            since_ms = started_ms - SKEW_MS

    async def _pages(self, since_ms: int) -> AsyncIterator[list[Entry]]:
        """The heads of live sessions, newest first, as far back as any may be new."""
        cursor: str | None = None
        while True:
            heads, cursor = await self._runtime.store.sessions(ended=False, limit=PAGE, after=cursor)
            yield heads
            if cursor is None or heads[-1].at_ms < since_ms:
                return

    def _new(self, heads: Iterable[Entry]) -> Iterator[Entry]:
        """Those that this run is for, and has not met."""
        for head in heads:
            if head.session_id not in self._seen and self._machine in (None, head.after.machine):
                self._seen.add(head.session_id)
                yield head

    async def _judge(self, heads: Sequence[Entry]) -> None:
        verdicts = await asyncio.gather(*map(self._verdict, heads))
        for head, verdict in zip(heads, verdicts, strict=True):
            is_unruled = isinstance(verdict, Left) and verdict.kind == "no_rule"
            self._note(head, LOST if is_unruled and await self._is_lost(head.after) else verdict)

    async def _verdict(self, head: Entry) -> Moved | Left:
        """What becomes of a session; where it can move, it has."""
        machine = self._runtime.machines.get(head.after.machine)
        if machine is None:
            return Left("not_served", "the machine is not served")
        verdict = judged(machine, head.after)
        if isinstance(verdict, Left) and verdict.kind not in WRONG:
            return verdict
        return await self._try(machine, head, verdict)

    async def _is_lost(self, session: Session) -> bool:
        """Whether a session's own definition can't be had any more; asked once for each."""
        if session.digest not in self._lost:
            try:
                await self._runtime.machine_of(session)
                self._lost[session.digest] = False
            except (MachineChanged, DesignError):
                self._lost[session.digest] = True
        return self._lost[session.digest]

    async def _try(self, machine: Machine, head: Entry, verdict: Moved | Left) -> Moved | Left:
        """What becomes of a session that would move, or that can't: a turn under way may yet change that."""
        if self._dry_run:
            is_held = await self._runtime.store.in_progress(head.session_id)
            return Left("busy", BUSY) if is_held else verdict
        return await self._runtime.finish(move(self._runtime, machine, head.session_id))

    def _note(self, head: Entry, verdict: Moved | Left) -> None:
        kind = "moved" if isinstance(verdict, Moved) else verdict.kind
        self._counts[kind] += 1
        for what in _sentences(head.after, verdict):
            key = (kind, head.after.machine, what)
            self._numbers[key] = self._numbers.get(key, 0) + 1
            if self._numbers[key] <= SAMPLES:
                self._notes.setdefault(key, []).append(head.session_id)

    def report(self) -> Iterator[Found]:
        """What stays, and why, before what moves, and what becomes of it; each with some of its sessions."""
        for kind in (*KINDS, "moved"):
            for (of, machine, what), samples in self._notes.items():
                if of == kind:
                    number = self._numbers[of, machine, what]
                    yield Found(f"{machine}, {_counted(number)}: {what}", tuple(samples))

    def done(self) -> Done:
        """The end, with its figures."""
        facts: dict[str, Any] = {"would_move" if self._dry_run else "moved": self._counts["moved"]}
        facts |= {kind: self._counts[kind] for kind in KINDS}
        return Done(not any(self._counts[kind] for kind in WRONG), {**facts, "dry_run": self._dry_run})


BUSY = "a turn is under way. Run it again"
LOST = Left("stranded", "their own definition is lost, and no migration is from their version: they can't go on")


def _counted(number: int) -> str:
    return f"{number} session{'' if number == 1 else 's'}"


def _sentences(before: Session, verdict: Moved | Left) -> Iterator[str]:
    if isinstance(verdict, Left):
        if verdict.why:
            yield verdict.why
        return
    if before.state != verdict.session.state:
        yield f"from '{before.state}' to '{verdict.session.state}'"
    yield from (f"'{name}' is gone, and its value with it" for name in verdict.dropped)
    yield from (f"what '{name}' held doesn't fit any more" for name in verdict.reset)
    yield from (f"'{name}' is new" for name in verdict.added)


async def move(runtime: Runtime, machine: Machine, session_id: str) -> Moved | Left:
    """Move one session, if nobody holds it; its head is read again under the claim."""
    store, now_ms = runtime.store, runtime.clock_ms()
    async with claiming(store, session_id, None, now_ms) as claim:
        head = claim.head
        if not claim.is_mine:
            return Left("busy", BUSY)
        if head is None or head.after.machine != machine.name:
            return Left("current")
        moved = judged(machine, head.after)
        if isinstance(moved, Left):
            return moved
        telling = head if head.is_telling else await store.entry(session_id, head.turn)
        if telling is None:
            return Left("stranded", "their head's turn is not in the journal. Run `edgewise db verify`")
        try:
            await store.append(entry_of(machine, head, telling, moved, now_ms), claim)
        except StaleTurn:
            return Left("busy", BUSY)
        return moved
