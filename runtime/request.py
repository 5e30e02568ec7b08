"""What a client asks, read against its session. Every refusal before the guards is made here.

The order is the contract's: session, ended, in progress, stale, event known, role, option
(offered, then matching), payload, event allowed; the guards are the machine's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime.advance import begun, scope_of
from runtime.constraints import bounds_of, find_term, mask, terms_of
from runtime.errors import (
    ConstraintsUnsatisfiable,
    EventNotAllowed,
    Forbidden,
    GuardRefused,
    MachineNotFound,
    OptionEventMismatch,
    OptionNotOffered,
    SessionExists,
    SessionNotFound,
    StaleTurn,
    TextNotAllowed,
    UnknownEventType,
    ValidationError,
)
from runtime.machine import Considered, Known, Machine, known_values
from runtime.model import TEXT_MAX_CHARS, Definition, said_in
from runtime.narrators.satisfiable import why_not
from runtime.session import Choice, Constraints, Entry, Invoke, Offer, Role, Session
from runtime.view import options_of

ADDED_MAX_MS = 60_000
"""The most time that one turn adds where the client sends none."""


class Opened(Struct, frozen=True, kw_only=True):
    """A session ready for a turn: as it was, and what this request brought before any rule ran.

    `session.state` is '' before the first event. `elapsed_ms` and `constraints` count from the
    narration on. `head` is None for a new session. `dice` are those that are fixed (see `Invoke`).
    """

    machine: Machine
    session: Session
    head: Entry | None
    constraints: Constraints
    elapsed_ms: int
    now_ms: int
    next_turn: int
    warnings: tuple[str, ...] = ()
    is_resumed: bool = False
    dice: Mapping[str, Any] = {}


class Asked(Struct, frozen=True, kw_only=True):
    """One event, resolved: what is played, with which choice and payload.

    `sent_as` is the event in the client's spelling if it sent that one; `text` the player's words.
    """

    event: str
    choice: Choice
    payload: Mapping[str, Any]
    text: str
    sent_as: str
    request: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What no client may write: it would take over a terminal that shows it. Tabs and line breaks are text."""


CONTROL_FAULT = "holds a control character"


def nearest(word: str, among: Iterable[str]) -> str | None:
    """The name that was probably meant, whatever its case; None where none is near."""
    folded = {name.casefold(): name for name in among}
    found = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def _did_you_mean(meant: str | None) -> str:
    return f" Did you mean '{meant}'?" if meant else ""


def machine_for_new(machines: Mapping[str, Machine], default: str, invoke: Invoke) -> Machine:
    """The machine that a new session gets. Raises MachineNotFound."""
    name = invoke.machine or default
    if name in machines:
        return machines[name]
    meant = nearest(name, machines)
    raise MachineNotFound(
        f"there is no machine '{name}'.{_did_you_mean(meant)}",
        f"Send session.machine as one of: {', '.join(machines)}.",
        machine=name,
        machines=list(machines),
        did_you_mean=meant,
    )


def refuse_unbegun(machine: Machine, invoke: Invoke) -> None:
    """Refuse whatever is not the initial event where no session is."""
    first = machine.definition.first.event
    if invoke.event is not None and machine.event_named(invoke.event) == first:
        _refuse_stale(invoke, 0, (first,))
        return
    if invoke.session_id is not None:
        raise SessionNotFound(
            f"there is no session '{invoke.session_id}'",
            f"Send event.type '{first}' to begin one.",
            session_id=invoke.session_id,
        )
    event = _named_event(machine, _sent_event(invoke))
    raise EventNotAllowed(
        f"event '{event}' needs a session: there is none without session.session_id",
        f"Send '{first}' to begin one, or the session_id of an answer.",
        state=None,
        allowed_event_types=[first],
        because=None,
    )


def _sent_event(invoke: Invoke) -> str:
    if invoke.event is not None:
        return invoke.event
    loc = ["body", "event", "type"]
    detail = {"loc": loc, "msg": "send event.type, or payload.selected_option_id", "type": "missing"}
    raise ValidationError("event.type is missing, and no option is chosen", "Send one of them.", details=[detail])


def is_first_event(machine: Machine, session: Session, invoke: Invoke) -> bool:
    """Whether this is the initial event, sent to a session that has begun already."""
    if invoke.event is None or machine.event_named(invoke.event) != machine.definition.first.event:
        return False
    stands = any(compiled.edge.event == machine.definition.first.event for compiled in machine.table[session.state])
    return not stands or invoke.on_exists != "refuse"


def begin(
    machine: Machine, invoke: Invoke, session_id: str, new_id: Callable[[], str], now_ms: int, head: Entry | None = None
) -> Opened:
    """A new session, or a new root of an old one (`head`): nothing of the old branch is read."""
    definition = machine.definition
    constraints = _constrained(machine, Constraints(definition.language), invoke)
    slots, strangers = _slots(definition, invoke)
    limit_ms, unlimited = _limit(definition, invoke)
    session = Session(
        session_id=session_id,
        machine=machine.name,
        version=definition.version,
        digest=machine.digest,
        run_seed=invoke.run_seed or new_id(),
        constraints=constraints,
        player_id=invoke.player_id,
        player_count=invoke.player_count,
        difficulty=invoke.difficulty,
        slots=slots,
        limit_ms=limit_ms,
        context=begun(machine),
    )
    return Opened(
        machine=machine,
        session=session,
        head=head,
        constraints=constraints,
        elapsed_ms=max(0, int((invoke.elapsed_active_seconds or 0) * 1000)),
        now_ms=now_ms,
        next_turn=head.next_turn if head else 1,
        warnings=(*strangers, *unlimited),
        dice=invoke.dice,
    )


def begin_again(
    machines: Mapping[str, Machine], machine: Machine, invoke: Invoke, head: Entry, new_id: Callable[[], str],
    now_ms: int,
) -> Opened:  # fmt: skip
    """What `on_exists` says for an initial event to a session that exists.

    `machines` are those that are served, `machine` is what the session stands on. Raises
    SessionExists, MachineNotFound.
    """
    if invoke.machine not in (None, head.after.machine):
        machine_for_new(machines, head.after.machine, invoke)
    if invoke.on_exists == "refuse":
        raise SessionExists(
            f"session '{head.session_id}' has begun: it stands in state '{head.after.state}' at turn {head.turn}",
            "Send session.on_exists 'resume' to go on, 'restart' to begin anew, or another session_id.",
            state=head.after.state,
            turn=head.turn,
        )
    if invoke.on_exists == "restart":
        served = _machine_again(machines, invoke, head)
        _refuse_stale(invoke, head.turn, head.after.routing.allowed_event_types)
        kept = replace(invoke, player_id=invoke.player_id or head.after.player_id)
        return begin(served, kept, head.session_id, new_id, now_ms, head)
    resumed = go_on(machine, replace(invoke, expected_turn=None), head, now_ms)
    return replace(resumed, is_resumed=True)


def _machine_again(machines: Mapping[str, Machine], invoke: Invoke, head: Entry) -> Machine:
    """A session's own machine, in the version that is served now: its history is kept by that machine's rules.

    Raises MachineNotFound where it is served no more, SessionExists where another one is named.
    """
    own = head.after.machine
    if invoke.machine not in (None, own):
        raise SessionExists(
            f"session '{head.session_id}' is of machine '{own}', and a restart keeps it",
            f"Name another session.session_id to play '{invoke.machine}', or leave session.machine out.",
            state=head.after.state,
            turn=head.turn,
        )
    if own in machines:
        return machines[own]
    raise MachineNotFound(
        f"machine '{own}' of session '{head.session_id}' is served no more",
        "Name another session.session_id to play another machine.",
        machine=own,
        machines=list(machines),
        did_you_mean=None,
    )


def go_on(machine: Machine, invoke: Invoke, head: Entry, now_ms: int) -> Opened:
    """A session under way. Raises StaleTurn, ConstraintsUnsatisfiable."""
    session = head.after
    _refuse_stale(invoke, head.turn, session.routing.allowed_event_types)
    elapsed_ms, late = _elapsed(session, invoke, now_ms)
    return Opened(
        machine=machine,
        session=session,
        head=head,
        constraints=_constrained(machine, session.constraints, invoke),
        elapsed_ms=elapsed_ms,
        now_ms=now_ms,
        next_turn=head.next_turn,
        warnings=(*late, *_ignored(session, invoke)),
        dice=invoke.dice,
    )


def _refuse_stale(invoke: Invoke, turn: int, allowed: tuple[str, ...]) -> None:
    if invoke.expected_turn is None or invoke.expected_turn == turn:
        return
    raise StaleTurn(
        f"the session stands at turn {turn}, and the request expects turn {invoke.expected_turn}",
        "Read the session, then choose again.",
        expected_turn=invoke.expected_turn,
        turn=turn,
        allowed_event_types=list(allowed),
    )


def _constrained(machine: Machine, before: Constraints, invoke: Invoke) -> Constraints:
    """The session's constraints with what this request says over them; null = the machine's again."""
    definition = machine.definition
    sent = dict(invoke.constraints)
    if not sent:
        return before
    if sent.get("language", "") is None:
        sent["language"] = definition.language
    if "forbidden_terms" in sent:
        sent["forbidden_terms"] = tuple(dict.fromkeys(sent["forbidden_terms"] or ()))
    after = replace(before, **sent)
    if not _offers(definition, after.language):
        offered = ", ".join(definition.languages)
        raise ConstraintsUnsatisfiable(
            f"machine '{machine.name}' has no language '{after.language}'",
            f"Send constraints.language as one of: {offered}.",
            what={"language": after.language, "languages": list(definition.languages)},
        )
    return after


def _refuse_unsatisfiable(opened: Opened, invoke: Invoke) -> None:
    """Refuse constraints that leave no text; asked of a client only: what was told once was told."""
    why = why_not(opened.machine, bounds_of(opened.machine, opened.constraints)) if invoke.constraints else None
    if why:
        raise ConstraintsUnsatisfiable(f"no text can meet these constraints: {why}", "Loosen them.", what=why)


def _offers(definition: Definition, language: str) -> bool:
    return language.partition("-")[0] in {offered.partition("-")[0] for offered in definition.languages}


def _slots(definition: Definition, invoke: Invoke) -> tuple[dict[str, str | None], list[str]]:
    sent = {name: value for name, value in invoke.slots.items() if value is not None}
    strangers = [name for name in sent if name not in definition.slots]
    warnings = [f"slots.{name}: the machine declares no such slot; kept, read by nothing" for name in strangers]
    return {**definition.slots, **sent}, warnings


def _limit(definition: Definition, invoke: Invoke) -> tuple[int | None, list[str]]:
    """The session's time in ms: the machine's, which a client may only lower."""
    machine_s, client_s = definition.limits.seconds, invoke.hard_limit_seconds
    if client_s is None:
        return (None if machine_s is None else machine_s * 1000), []
    if machine_s is None:
        return None, ["time.hard_limit_seconds: the machine has no time limit to lower"]
    if client_s > machine_s:
        return machine_s * 1000, [f"time.hard_limit_seconds: the machine's {machine_s} s stand, it can only be lowered"]
    return int(client_s * 1000), []


def _elapsed(session: Session, invoke: Invoke, now_ms: int) -> tuple[int, list[str]]:
    """The time played, which never runs backwards: the client's word, else the server's clock."""
    if invoke.elapsed_active_seconds is None:
        return session.elapsed_ms + max(0, min(ADDED_MAX_MS, now_ms - session.answered_at_ms)), []
    sent_ms = int(invoke.elapsed_active_seconds * 1000)
    if sent_ms < session.elapsed_ms // 1000 * 1000:
        known = session.elapsed_ms // 1000
        return session.elapsed_ms, [f"time.elapsed_active_seconds: runs backwards, {known} s are kept"]
    return max(session.elapsed_ms, sent_ms), []


def _ignored(session: Session, invoke: Invoke) -> list[str]:
    """Warnings for what is read at the first event only and now says something else."""
    asked = {
        "session.machine": (invoke.machine, session.machine),
        "seed.run_seed": (invoke.run_seed, session.run_seed),
        "session.player_id": (invoke.player_id, session.player_id),
    }
    asked |= {f"slots.{name}": (value, session.slots.get(name)) for name, value in invoke.slots.items()}
    return [
        f"{path}: read at the first event only, " + ("it stays unset" if kept is None else f"{kept!r} stands")
        for path, (sent, kept) in asked.items()
        if sent is not None and sent != kept
    ]


def read(opened: Opened, invoke: Invoke, role: Role) -> Asked:
    """Resolve the event, the option and the payload. Raises the refusals of the module's order.

    What is asked of clients alone is asked here: a journal's turns are played again without it.
    """
    machine, session = opened.machine, opened.session
    _refuse_unsatisfiable(opened, invoke)
    _refuse_controls(invoke)
    sent = None if invoke.event is None else _named_event(machine, invoke.event)
    chosen = _chosen(session, invoke)
    event, warnings = _played_event(session, sent, chosen)
    _refuse_role(machine, event, role)
    if chosen is None:
        _refuse_optionless(machine, session, event)
    payload = _payload(machine, event, invoke)
    return Asked(
        event=event,
        choice=Choice() if chosen is None else Choice(chosen.key, chosen.kind, chosen.text),
        payload=payload,
        text=_text(machine, event, payload, opened.constraints),
        sent_as=invoke.event if invoke.event is not None and sent == event else event,
        request=_written(invoke) | {"played": event},
        warnings=tuple(warnings),
    )


def _written(invoke: Invoke) -> dict[str, Any]:
    """The request as the journal keeps it; dice stand in the outcome, fixed or not."""
    written = msgspec.to_builtins(invoke)
    del written["dice"]
    return written  # type: ignore[no-any-return]


def _refuse_controls(invoke: Invoke) -> None:
    """Refuse slots that a terminal can't show; over HTTP the request's shape was checked for it before."""
    if broken := broken_slots(invoke.slots):
        details = [{"loc": ["body", "slots", name], "msg": CONTROL_FAULT, "type": "str"} for name in broken]
        raise ValidationError("a slot holds a control character", "Leave it out.", details=details)


def broken_slots(slots: Mapping[str, str | None]) -> list[str]:
    """The names of slots that hold a control character, in their names or their values."""
    return [name for name, value in slots.items() if value is not None and CONTROLS.search(name + value)]


def _named_event(machine: Machine, sent: str) -> str:
    known = machine.event_named(sent)
    if known is not None:
        return known
    events = list(machine.definition.event_types)
    meant = nearest(sent, events)
    raise UnknownEventType(
        f"machine '{machine.name}' has no event '{sent}'.{_did_you_mean(meant)}",
        f"Send one of: {', '.join(events)}.",
        machine=machine.name,
        event_types=events,
        did_you_mean=meant,
    )


def _chosen(session: Session, invoke: Invoke) -> Offer | None:
    """The offered option that was chosen, None where none was. Raises OptionNotOffered."""
    if invoke.selected_option_id is None or not session.state:
        _sent_event(invoke)
        return None
    found = next((each for each in session.offer if each.id == invoke.selected_option_id), None)
    if found is None and session.offer:
        raise _not_offered(session, f"option {invoke.selected_option_id} was not offered at turn {session.turn}")
    if found is None:
        raise _not_offered(session, f"no option was offered at turn {session.turn}")
    return found


def _not_offered(session: Session, message: str) -> OptionNotOffered:
    events = ", ".join(session.routing.allowed_event_types)
    instead = f"Send one of these events without an option: {events}." if events else "No event is allowed either."
    hint = "Send payload.selected_option_id as the id of an offered option." if session.offer else instead
    return OptionNotOffered(message, hint, offered=options_of(session.offer))


def _played_event(session: Session, sent: str | None, chosen: Offer | None) -> tuple[str, list[str]]:
    """The event to play: a chosen option's own, else the one sent. Raises OptionEventMismatch."""
    if chosen is None:
        return sent or "", []
    if sent in (None, chosen.event_type):
        return chosen.event_type, []
    if sent == session.routing.next_event_type:
        return chosen.event_type, [f"event.type: option {chosen.id} belongs to '{chosen.event_type}', which was played"]
    raise OptionEventMismatch(
        f"option {chosen.id} belongs to event '{chosen.event_type}', not to '{sent}'",
        f"Send event.type '{chosen.event_type}', or leave it out.",
        offered=options_of(session.offer),
        event_type=chosen.event_type,
    )


def _refuse_role(machine: Machine, event: str, role: Role) -> None:
    if machine.definition.event(event).role == "operator" and role != "operator":
        raise Forbidden(f"event '{event}' is an operator's", "Send it with an operator token.", role_needed="operator")


def _refuse_optionless(machine: Machine, session: Session, event: str) -> None:
    """An event without an id where only options' edges stand needs one, unless a must edge shuts it."""
    if not session.state:
        return
    standing = [compiled.edge for compiled in machine.table[session.state] if compiled.edge.event == event]
    if not standing or not all(edge.option for edge in standing):
        return
    must = machine.open_must(session.state, known_values(scope_of(machine, session), session.used))
    if must is None or must.edge.event == event:
        raise _not_offered(session, f"event '{event}' in state '{session.state}' needs a chosen option")


def _payload(machine: Machine, event: str, invoke: Invoke) -> dict[str, Any]:
    """What the event declares, typed. Raises ValidationError with all faults at once."""
    declared = machine.definition.event(event).payload
    details = [_unknown_field(name, declared, event) for name in invoke.payload if name not in declared]
    for name, kind in declared.items():
        value = invoke.payload.get(name)
        if value is None and not kind.endswith("?"):
            details.append(_detail(name, f"event '{event}' needs it ({kind})", "missing"))
        elif value is not None and (wrong := _wrong(value, kind.rstrip("?"))):
            details.append(_detail(name, wrong, kind.rstrip("?")))
    if details:
        raise ValidationError(f"the payload of event '{event}' has faults", "Mend each.", details=details)
    return {name: invoke.payload[name] for name in declared if invoke.payload.get(name) is not None}


def _detail(name: str, message: str, kind: str) -> dict[str, Any]:
    return {"loc": ["body", "payload", name], "msg": message, "type": kind}


def _unknown_field(name: str, declared: Mapping[str, str], event: str) -> dict[str, Any]:
    meant = _did_you_mean(nearest(name, (*declared, "selected_option_id")))
    return _detail(name, f"event '{event}' declares no field '{name}'.{meant}", "unknown_key")


def _wrong(value: Any, kind: str) -> str:
    """What is wrong with a payload's value; '' where nothing is."""
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63,
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
    }.get(kind, isinstance(value, str))
    if not fits:
        return f"must be of type {kind}"
    if isinstance(value, str) and len(value) > TEXT_MAX_CHARS:
        return f"has {len(value)} characters, at most {TEXT_MAX_CHARS} are taken"
    if isinstance(value, str) and CONTROLS.search(value):
        return CONTROL_FAULT
    return "must not be blank" if kind == "text" and not value.strip() else ""


def _text(machine: Machine, event: str, payload: Mapping[str, Any], constraints: Constraints) -> str:
    """The player's own words. Raises TextNotAllowed where they hold a forbidden term."""
    declared = machine.definition.event(event).payload
    worded = [name for name, kind in declared.items() if kind.rstrip("?") in ("text", "str")]
    words = {name: payload[name] for name in worded if name in payload}
    for name, value in words.items():
        if term := find_term(value, constraints.forbidden_terms):
            raise TextNotAllowed(
                f"payload.{name} holds the forbidden term '{term}'",
                "Say it in other words.",
                what={"loc": ["body", "payload", name], "term": term},
            )
    return next((value for name, value in words.items() if declared[name].rstrip("?") == "text"), "")


def refuse_shut(machine: Machine, session: Session, asked: Asked, known: Known) -> None:
    """Raise EventNotAllowed where the state has no edge for the event, or another's must edge is open."""
    must = machine.open_must(session.state, known)
    if must is not None and must.edge.event != asked.event:
        raise _not_allowed(session, asked, f"edge '{must.edge.full_name}' must be taken first", must.edge.full_name)
    if not any(compiled.edge.event == asked.event for compiled in machine.table[session.state]):
        raise _not_allowed(session, asked, f"state '{session.state}' has no edge for it", None)


def _not_allowed(session: Session, asked: Asked, why: str, because: str | None) -> EventNotAllowed:
    allowed = list(session.routing.allowed_event_types)
    return EventNotAllowed(
        f"event '{asked.event}' is not allowed in state '{session.state}': {why}",
        f"Send one of: {', '.join(allowed) or 'none is allowed'}.",
        state=session.state,
        allowed_event_types=allowed,
        because=because,
    )


def guard_refused(
    machine: Machine, session: Session, asked: Asked, considered: Iterable[Considered], role: Role
) -> GuardRefused:
    """The refusal of an event none of whose edges is open; operators also see why, guard by guard."""
    looked_at = list(considered)
    why = next((each.edge.why for each in looked_at if each.edge.why is not None), None)
    language = session.constraints.language
    facts: dict[str, Any] = {"considered": [each.told() for each in looked_at]} if role == "operator" else {}
    return GuardRefused(
        f"event '{asked.event}' has edges in state '{session.state}' and none of them is open",
        "Read the session's allowed events and options, then choose again.",
        state=session.state,
        allowed_event_types=list(session.routing.allowed_event_types),
        why=mask(said_in(why, language, machine.definition.language), terms_of(machine, session.constraints)) or None,
        **facts,
    )
