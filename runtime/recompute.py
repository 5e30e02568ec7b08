"""What an entry stood on, and whether it follows from it: the rules, run again on what the journal has.

A telling's facts are compared: edge, dice, choice, changes, context, routing, what is offered, time.
Its words are not: another version of Edgewise may cut or word them otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import replace

from runtime import request
from runtime.advance import Settled, arrived, begun, renumbered, roll_dice, route, settle, turn_scope
from runtime.constraints import bounds_of
from runtime.errors import Refusal, StoreUnavailable
from runtime.machine import known_values
from runtime.migrate import Left, judged
from runtime.narrators import Narration, Task
from runtime.request import Asked, Opened
from runtime.session import (
    COUNTED_SINCE,
    NO_TOTAL,
    TELLINGS,
    Entry,
    Invoke,
    Judged,
    Node,
    Offer,
    Outcome,
    Routing,
    Session,
    total_after,
)
from runtime.turn import conclude, story_scope, timed

if TYPE_CHECKING:
    from runtime.machine import CompiledEdge, Machine

_SHOWN_CHARS = 120
_TIMES = ("elapsed_ms", "answered_at_ms", "limit_ms")
_FACTS = (
    "session_id", "machine", "version", "digest", "run_seed", "salt", "player_id", "player_count", "difficulty",
    "slots", "constraints", "state", "turn", "step", "ended", "context", "visits", "used", "routing", "key_choices",
    *_TIMES,
)  # fmt: skip
"""What of a session is settled by rules."""
_OF_THE_BRANCH = tuple(name for name in _FACTS if name not in ("salt", "routing", *_TIMES))
"""What a fork's child has from its copies: the source's clock may have gone on, and its dice are its own."""
_BEFORE_A_MOVE = ("elapsed_ms", "answered_at_ms", "salt", "offer")
"""What of a session other entries than tellings change, and a migration reads or keeps."""
_BROKEN = (Refusal, LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError)
"""What the rules raise on a record that no turn can have made."""


class Reads(Protocol):
    """The part of a store that is asked for what an entry stood on."""

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        ...

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        ...

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts, oldest first."""
        ...


async def before(store: Reads, machine: Machine, entry: Entry) -> Session:
    """The session that a telling was judged on; one that has not begun, at a root.

    `machine` is the entry's own. Raises StoreUnavailable where the journal has lost the parent.
    """
    if entry.parent is None:
        return judged_on(unbegun(machine, entry.after), entry)
    parent = await store.entry(entry.session_id, entry.parent)
    if parent is None:
        raise lost(entry.session_id, entry.parent)
    if entry.judged is None:
        return parent.after
    # The digest doesn't tell: a session may have moved to another version and back.
    return judged_on(await _migrated(store, parent, entry), entry)


def unbegun(machine: Machine, after: Session) -> Session:
    """The session before its root turn."""
    return Session(
        session_id=after.session_id,
        machine=after.machine,
        version=after.version,
        digest=after.digest,
        run_seed=after.run_seed,
        salt=after.salt,
        constraints=after.constraints,
        player_id=after.player_id,
        player_count=after.player_count,
        difficulty=after.difficulty,
        slots=after.slots,
        limit_ms=after.limit_ms,
        context=begun(machine),
    )


def judged_on(snapshot: Session, entry: Entry) -> Session:
    """What the parent's telling left, with the time and the salt that the entry was judged with."""
    if entry.judged is None:
        return snapshot
    return replace(snapshot, elapsed_ms=entry.judged.elapsed_ms, salt=entry.judged.salt)


async def _migrated(store: Reads, parent: Entry, entry: Entry) -> Session:
    """The session as the last migration between a turn and its parent left it; the parent's where there is none.

    Raises StoreUnavailable where the session was deleted meanwhile.
    """
    between = [
        node.seq
        for node in await store.tree(entry.session_id)
        if node.kind == "migration" and node.turn == parent.turn and parent.seq < node.seq < entry.seq
    ]
    if not between:
        return parent.after
    page = await store.entries(entry.session_id, after=between[-1] - 1, limit=1)
    if not page:
        raise lost(entry.session_id, parent.turn)
    return page[0].after


def lost(session_id: str, turn: int) -> StoreUnavailable:
    """The refusal of what stands on a turn that the journal should have."""
    return StoreUnavailable(f"turn {turn} of session '{session_id}' is not in the journal", "Run `edgewise db verify`.")


async def left_to(store: Reads, nodes: Iterable[Node], turn: int, head: Entry) -> Session:
    """What a head leaves to a turn that is gone back to: the time known, and the dice of that turn's own game.

    Each restart began another game, which may have taken less time, and rolls other dice. `nodes` reach to the head.
    Raises StoreUnavailable where the journal has lost an entry.
    """
    newest = _newest_in_game(nodes, turn)
    if newest >= head.seq:
        return head.after
    page = await store.entries(head.session_id, after=newest - 1, limit=1)
    if not page:
        raise lost(head.session_id, turn)
    stood = page[0].after
    return replace(head.after, elapsed_ms=max(head.after.elapsed_ms, stood.elapsed_ms), salt=stood.salt)


def _newest_in_game(nodes: Iterable[Node], turn: int) -> int:
    """The seq of the newest entry that stands in a turn's game: on a branch from the same initial event."""
    games: dict[int, int] = {}
    newest: dict[int, int] = {}
    stood = 0
    for node in nodes:
        if node.kind in TELLINGS:
            # A root that is told anew begins no other game.
            grown = stood if node.kind == "regenerate" and node.parent is None else node.parent
            games[node.turn] = games.get(grown or 0, node.turn)
        stood = node.turn
        newest[games.get(stood, stood)] = node.seq
    return newest[games[turn]]


def returned(machine: Machine, told: Session, left: Session) -> Session:
    """The session that goes back to a turn: as it was told, with the clock and the salt of what is left.

    `told` is what the turn had left behind, `left` what `left_to` says. Routing and offer are computed
    anew, since time may have closed what was open; an option that is still offered keeps the words
    that it was told in, and its id, so that an answer that a client still shows means the same choices.
    What is offered besides comes after them, with ids that the turn never used.
    """
    # Which free options are drawn hangs on the salt: the turn's own draws those that it told.
    elapsed_ms = max(told.elapsed_ms, left.elapsed_ms)
    back = replace(told, elapsed_ms=elapsed_ms, answered_at_ms=left.answered_at_ms)
    routed = route(machine, back)
    return replace(back, salt=left.salt, routing=routed.routing, offer=_as_told(routed.offer, told.offer))


def _as_told(offer: tuple[Offer, ...], told: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """What is offered, as far as it was told before with the same id and words; the rest comes after it."""
    words = {(each.key, each.kind): each.text for each in told}
    numbered = renumbered(offer, told)
    return tuple(replace(each, text=words.get((each.key, each.kind), each.text)) for each in numbered)


def taken(machine: Machine, entry: Entry) -> CompiledEdge:
    """The edge that a telling took. Raises StoreUnavailable where its machine has none of that name."""
    outcome = entry.outcome
    if not outcome.source:
        return machine.initial
    edges = machine.table.get(outcome.source, ())
    found = [each for each in edges if each.full_name == outcome.edge and each.edge.event == outcome.event]
    if not found:
        where = f"turn {entry.turn} of session '{entry.session_id}'"
        raise StoreUnavailable(
            f"{where} took edge {outcome.edge}, which its machine doesn't have", "Run `edgewise db verify`."
        )
    return found[0]


def settled_again(opened: Opened, asked: Asked, entry: Entry) -> Settled:
    """A telling's settling, from the edge, the dice and the choice that are on record. Raises MachineFault."""
    machine, outcome = opened.machine, entry.outcome
    scope = turn_scope(machine, opened.session, asked.event, asked.choice, asked.payload, outcome.dice)
    compiled = taken(machine, entry)
    settled = settle(machine, opened.session, compiled, asked.event, asked.choice, scope, outcome.dice)
    return timed(settled, opened)


def asked_again(machine: Machine, entry: Entry) -> Asked:
    """What a telling's turn was asked, as the journal has it."""
    payload = {name: value for name, value in entry.request.get("payload", {}).items() if value is not None}
    declared = machine.definition.event(entry.outcome.event).payload
    texts = (name for name, kind in declared.items() if kind.rstrip("?") == "text")
    return Asked(
        event=entry.outcome.event,
        choice=entry.outcome.choice,
        payload=payload,
        text=next((str(payload[name]) for name in texts if name in payload), ""),
        sent_as=msgspec.json.decode(entry.answer)["event"]["type"],
        request=entry.request,
    )


# Whether an entry follows. Each says the first thing that doesn't add up, '' where all does.


def of_turn(machine: Machine, entry: Entry, head: Entry | None) -> str:
    """A turn, from the entry before it."""
    try:
        if entry.parent is not None and (head is None or entry.parent != head.turn):
            stood = f"stood at turn {head.turn}" if head else "had not begun"
            return f"its parent is turn {entry.parent}, and the session {stood}"
        if entry.judged != _judged(entry, head):
            return "the time that it was judged with is not the session's"
        opened = _opened_by_request(machine, entry, head)
        return next(_differences(entry, opened), "")
    except _BROKEN as error:
        return _unplayable(error)


def of_sibling(machine: Machine, entry: Entry, found: Session, telling: Entry, head: Entry) -> str:
    """A turn told anew, from what the telling before it found and the head that it followed."""
    for name in ("parent", "outcome", "request"):
        if getattr(entry, name) != getattr(telling, name):
            return f"its {name} is not that of turn {telling.turn}, which it tells anew"
    if entry.judged != Judged(found.elapsed_ms, found.salt):
        return f"the time and the salt that it was judged with are not those of turn {telling.turn}"
    opened = Opened(
        machine=machine,
        session=found,
        head=head,
        constraints=telling.after.constraints,
        elapsed_ms=head.after.elapsed_ms,
        now_ms=head.after.answered_at_ms,
        next_turn=head.next_turn,
    )
    return _of_told(entry, opened, head.after.salt)


def of_copy(machine: Machine, entry: Entry, found: Session) -> str:
    """A telling that was copied from another session, from what its parent's copy left."""
    after = entry.after
    if after.elapsed_ms < found.elapsed_ms:
        return f"its time runs backwards, from {found.elapsed_ms} ms to {after.elapsed_ms} ms"
    opened = Opened(
        machine=machine,
        session=found,
        head=None,
        constraints=after.constraints,
        elapsed_ms=after.elapsed_ms,
        now_ms=after.answered_at_ms,
        next_turn=entry.turn,
    )
    return _of_told(entry, opened, after.salt)


def of_rewind(there: Machine, entry: Entry, telling: Entry, head: Entry, left: Session) -> str:
    """A rewind, from the turn that it leads to, the head that it left, and what that leaves to the turn."""
    if entry.parent != head.turn:
        return f"it left turn {entry.parent}, and the session stood at turn {head.turn}"
    try:
        return next(_unequal(entry.after, returned(there, telling.after, left), _FACTS), "")
    except _BROKEN as error:
        return _unplayable(error)


def of_fork(entry: Entry, head: Entry) -> str:
    """A fork: in the source nothing changes, in the child but the clock and the dice."""
    if entry.turn != head.turn:
        return f"it stands at turn {entry.turn}, and the session stood at turn {head.turn}"
    names = _FACTS if entry.origin is None else _OF_THE_BRANCH
    return next(_unequal(entry.after, head.after, names), "")


def of_migration(machine: Machine, entry: Entry, head: Entry) -> str:
    """A move to another version: from where the session stood, by that version's rules; no time passes."""
    after, outcome = entry.after, entry.outcome
    if entry.turn != head.turn or after.step != head.after.step:
        return f"it stands at turn {entry.turn}, and the session stood at turn {head.turn}"
    if (outcome.source, outcome.target) != (head.after.state, after.state):
        return f"it leads from '{outcome.source}' to '{outcome.target}', and the session from '{head.after.state}'"
    if after.state not in machine.definition.states or set(after.context) != set(machine.definition.context):
        return f"its state '{after.state}' or its variables are not those of its version"
    # What a rewind or a fork had changed before the move is not among a child's copies.
    changed = () if entry.origin is None else _BEFORE_A_MOVE
    stood = replace(head.after, **{name: getattr(after, name) for name in changed})
    try:
        verdict = judged(machine, stood)
        if isinstance(verdict, Left):
            return f"by the rules it stays on its version: {verdict.why or verdict.kind}"
        return next(_unequal(after, verdict.session, _FACTS), "")
    except _BROKEN as error:
        return _unplayable(error)


def miscounted(entry: Entry, head: Entry | None) -> str:
    """What is wrong with a session's sum, from the entry before it: each adds what it cost, and none gives back."""
    if entry.origin is not None or entry.format < COUNTED_SINCE:
        right = NO_TOTAL
    else:
        right = total_after(head.total if head else NO_TOTAL, entry.usage, entry.spent)
    return "" if entry.total == right else _told("total", msgspec.to_builtins(entry.total), msgspec.to_builtins(right))


def _unplayable(error: Exception) -> str:
    return f"the rules can't play it again: {error if isinstance(error, Refusal) else repr(error)}"


def _judged(entry: Entry, head: Entry | None) -> Judged | None:
    """What must be on record of the time and the salt, by the rule of `turn.record`."""
    if entry.parent is None or head is None or head.is_telling:
        return None
    return Judged(head.after.elapsed_ms, head.after.salt)


def _opened_by_request(machine: Machine, entry: Entry, head: Entry | None) -> Opened:
    """The session as the turn's own request opened it. Raises Refusal where it would be refused."""
    known = {name: value for name, value in entry.request.items() if name in Invoke.__struct_fields__}
    invoke = replace(msgspec.convert(known, Invoke), expected_turn=None)
    if entry.parent is not None and head is not None:
        return request.go_on(machine, invoke, head, entry.at_ms)
    if invoke.player_id is None and head is not None:
        invoke = replace(invoke, player_id=head.after.player_id)
    return request.begin(machine, invoke, entry.session_id, lambda: entry.after.run_seed, entry.at_ms, head)


def _of_told(entry: Entry, opened: Opened, salt: str) -> str:
    try:
        return next(_differences(entry, opened, salt), "")
    except _BROKEN as error:
        return _unplayable(error)


def _differences(entry: Entry, opened: Opened, salt: str | None = None) -> Iterator[str]:
    """What of a telling doesn't follow from the session that it found; `salt` is the later dice's, where another."""
    machine, found, outcome = opened.machine, opened.session, entry.outcome
    asked = asked_again(machine, entry)
    if outcome.source != found.state:
        yield f"it leaves state '{outcome.source}', and the session stood in '{found.state}'"
        return
    rolled = roll_dice(machine, found, outcome.event, outcome.choice.key)
    if rolled != outcome.dice:
        yield f"its dice are {_said(outcome.dice)}, and roll {_said(rolled)}"
    if why := _misled(opened, asked, outcome):
        yield why
        return
    settled = settled_again(opened, asked, entry)
    if settled.outcome != outcome:
        yield f"its changes are {_said(outcome.changes)}, and the rules make {_said(settled.outcome.changes)}"
    if salt is not None:
        settled = replace(settled, session=replace(settled.session, salt=salt))
    yield from _unequal(entry.after, _concluded(entry, opened, settled, asked), _FACTS)
    yield from _misquoted(entry)


def _misled(opened: Opened, asked: Asked, outcome: Outcome) -> str:
    """Why the edge on record is not the one that the guards choose; '' where it is."""
    machine, found = opened.machine, opened.session
    if not found.state:
        right = machine.initial.full_name
        return "" if outcome.edge == right else f"it took edge {outcome.edge}, and begins with {right}"
    scope = turn_scope(machine, found, asked.event, asked.choice, asked.payload, outcome.dice)
    known = known_values(scope, found.used, asked.choice.key)
    must = machine.open_must(found.state, known)
    if must is not None and must.edge.event != asked.event:
        return f"it took edge {outcome.edge}, and {must.full_name} had to be taken first"
    chosen, _ = machine.choose(found.state, asked.event, known)
    if chosen is None or chosen.full_name != outcome.edge:
        return f"it took edge {outcome.edge}, and the guards choose {chosen.full_name if chosen else 'none'}"
    return ""


def _concluded(entry: Entry, opened: Opened, settled: Settled, asked: Asked) -> Session:
    """The session after the telling, from the narration on record."""
    machine, session = opened.machine, settled.session
    told = entry.narration
    narration = Narration(
        narrator=entry.narrator,
        output=told["output"],
        ai_state=told["ai_state"],
        options=told["options"],
        learned=told["learned"],
    )
    preview = route(machine, arrived(session))
    task = Task(
        machine=machine,
        session=session,
        edge=settled.compiled.edge,
        outcome=settled.outcome,
        prompt=machine.prompt_for(settled.compiled.edge, session.constraints.language),
        inputs={},
        scope=story_scope(settled, asked),
        offer=preview.offer,
        bounds=bounds_of(machine, session.constraints),
        messages=(),
        schema={},
    )
    return conclude(opened, settled, asked, task, narration, preview)[0]


def _unequal(kept: Session, computed: Session, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if getattr(kept, name) != getattr(computed, name):
            yield _told(name, getattr(kept, name), getattr(computed, name))
    if "routing" in names and _keys(kept.offer) != _keys(computed.offer):
        yield _told("offer", _keys(kept.offer), _keys(computed.offer))


def _told(name: str, kept: object, computed: object) -> str:
    if isinstance(kept, Mapping) and isinstance(computed, Mapping):
        differ = [key for key in {**kept, **computed} if kept.get(key) != computed.get(key)]
        name, kept, computed = f"{name}.{differ[0]}", kept.get(differ[0]), computed.get(differ[0])
    return f"its {name} is {_said(kept)}, and the rules give {_said(computed)}"


def _said(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _keys(offer: tuple[Offer, ...]) -> list[tuple[int, str, str, str]]:
    return [(each.id, each.event_type, each.key, each.kind) for each in offer]


def _misquoted(entry: Entry) -> Iterator[str]:
    """Where what was answered is not what is on record."""
    told, after = msgspec.json.decode(entry.answer), entry.after
    for name in ("session_id", "state", "turn", "step", "ended"):
        if told["session"][name] != getattr(after, name):
            yield f"it was answered with {name} {_said(told['session'][name])}, and has {_said(getattr(after, name))}"
    if msgspec.convert(told["payload"]["routing"], Routing) != after.routing:
        yield "the routing that was answered is not the one on record"
    if told["payload"]["outcome"]["edge"] != entry.outcome.edge:
        yield "the edge that was answered is not the one on record"
