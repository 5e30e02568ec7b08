"""Why a machine went as it did, in a few lines: edges with their guards, the values they read, dice, assigns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime.advance import route
from runtime.bench.replay import Chosen
from runtime.errors import EventNotAllowed, OptionNotOffered
from runtime.flow_yaml import flow
from runtime.machine import Considered, Machine
from runtime.model import said_in
from runtime.session import Session
from runtime.shape import did_you_mean

if TYPE_CHECKING:
    from runtime.bench.expecting import Came
    from runtime.bench.trial import Step

MOST_EDGES = 12
"""How many edges are told at most; the rest is counted."""
MISSING, EXTRA = "missing", "extra"
"""How an option is called that is expected and not offered, and the other way round."""
_ROUTED = frozenset({"next", "allowed", "should_end", "options"})


def why(came: Came, asked: str, machine: Machine) -> str:
    """How a step came to what it came to, for the field that differs from what was expected; '' where nothing tells."""
    if came.error is not None:
        return "\n".join(_refused(came, machine))
    if came.turn is None:
        return ""
    name, _, part = asked.partition(".")
    if name == "context":
        return "\n".join(_changed(came.turn, part, machine))
    if name in _ROUTED:
        expected = came.step.expect.options if name == "options" else None
        lines = _routed(came.turn.after, came.turn.routed, machine)
        return "\n".join(lines if expected is None else _offered_otherwise(came.turn, expected, machine))
    if name in ("edge", "state", "ended", "ending", "error"):
        return "\n".join(_taken(came.turn, machine))
    return f"told by {', '.join(came.turn.rungs) or 'offline'} for edge {came.turn.outcome.edge}" if came.answer else ""


def _taken(turn: Step, machine: Machine) -> Iterator[str]:
    """The event's edges as they were judged, and the dice."""
    outcome = turn.outcome
    chosen = outcome.choice.key or outcome.choice.kind
    by = f"{outcome.event}{f' by {chosen}' if chosen else ''}"
    at = state_label(machine, outcome.source, turn.after) if outcome.source else "the beginning"
    yield f"{by} at {at}: took {outcome.edge} to {state_label(machine, outcome.target, turn.after)}"
    yield from _dice(turn)
    yield from _edges(turn.considered, outcome.edge)


def _dice(turn: Step) -> Iterator[str]:
    if turn.outcome.dice:
        yield "dice: " + ", ".join(f"{die.name} {die.spec} = {flow(die.value)}" for die in turn.outcome.dice)


def _routed(session: Session, routed: Iterable[Considered], machine: Machine) -> Iterator[str]:
    """What is open where the session stands now."""
    yield f"open at {state_label(machine, session.state, session)}: {_allowed(session)}"
    if session.offer:
        yield f"offered: {offered(session)}"
    yield from _edges(routed)


def _allowed(session: Session) -> str:
    return ", ".join(session.routing.allowed_event_types) or "nothing"


def _offered_otherwise(turn: Step, expected: Sequence[str], machine: Machine) -> Iterator[str]:
    """The options that are missing, and those that are too many, each with its edges; then the rest, short."""
    session, offer = turn.after, [each.key or each.kind for each in turn.after.offer]
    missing = [name for name in dict.fromkeys(expected) if name not in offer]
    extra = [name for name in offer if name not in expected]
    for what, names in ((MISSING, missing), (EXTRA, extra)):
        yield from (f"{what}: {name} — {_judged(name, turn, machine)}" for name in names)
    if not missing and not extra:
        yield "the same options, in another order or number"
    yield f"open at {state_label(machine, session.state, session)}: {_allowed(session)}"
    if session.offer:
        yield f"offered: {offered(session)}"
    told = {each.compiled.full_name for name in (*missing, *extra) for each in _edges_of(name, turn.routed)}
    rest = [each for each in turn.routed if each.compiled.full_name not in told]
    if rest:
        yield "beside: " + ", ".join(f"{each.compiled.full_name} {each.verdict}" for each in rest)


def _judged(option: str, turn: Step, machine: Machine) -> str:
    """How an option's edges were judged, where the state has it."""
    found = _edges_of(option, turn.routed)
    if found:
        return "; ".join(edge_line(each.told()) for each in found)
    state = machine.definition.states.get(turn.after.state)
    own = [*(each.key for each in state.authored), *state.kinds] if state is not None else []
    at = state_label(machine, turn.after.state, turn.after)
    if option not in own:
        return f"no option of {at}{did_you_mean(option, own)}"
    return f"an option of {at} {'that is drawn' if state is not None and option in state.kinds else 'without an edge'}"


def _edges_of(option: str, routed: Iterable[Considered]) -> list[Considered]:
    return [each for each in routed if each.edge.option == option]


def _edges(considered: Iterable[Considered], taken: str = "") -> Iterator[str]:
    lines = [edge_line(each.told(), is_taken=each.compiled.full_name == taken) for each in considered]
    yield from (f"  {line}" for line in lines[:MOST_EDGES])
    if len(lines) > MOST_EDGES:
        yield f"  … and {len(lines) - MOST_EDGES} more"


def edge_line(told: Mapping[str, Any], *, is_taken: bool = False) -> str:
    """`COMBAT.hit is closed: dice.attack >= 10 is false (dice.attack = 3)`; `told` is a `Considered`'s."""
    # A member of an enum or a set is a name that reads as itself: it says nothing.
    read = ", ".join(f"{name} = {flow(value)}" for name, value in told["values"].items() if value != name)
    guard, reason = told["guard"], told["reason"]
    if reason == "guard: false":
        because = f"{guard} is false"
    elif reason:
        because = reason
    else:
        because = f"{guard} holds" if guard else "it has no guard"
    verdict = "is taken" if is_taken else "depends" if told["verdict"] == "depends" else f"is {told['verdict']}"
    return f"{told['edge']} {verdict}: {because}{f' ({read})' if read else ''}"


def _changed(turn: Step, name: str, machine: Machine) -> Iterator[str]:
    """What the taken edge, the entry and the learning did to a variable."""
    outcome, before, after = turn.outcome, turn.before.context.get(name), turn.after.context.get(name)
    yield f"{outcome.edge}: {variable_label(machine, name, turn.after)} {_shown(before)} → {_shown(after)}"
    yield from _dice(turn)
    compiled = _compiled(machine, turn)
    entry = machine.entries.get(outcome.target, ()) if outcome.target != outcome.source else ()
    for where, lines in (("assign", compiled.assigns), (f"entry of {outcome.target}", entry)):
        yield from (f"  {where}: {line.name}: {line.value.source}" for line in lines if line.name == name)
    for rule in compiled.learn:
        if rule.name == name:
            yield f"  learn: {name} from {rule.source.source}"
    if not any(line.name == name for line in (*compiled.assigns, *entry, *compiled.learn)):
        yield f"  nothing of this edge sets {name}"


def _compiled(machine: Machine, turn: Step) -> Any:
    edges = machine.table.get(turn.outcome.source, ())
    found = (each for each in edges if each.full_name == turn.outcome.edge)
    return next(found, machine.initial)


def _refused(came: Came, machine: Machine) -> Iterator[str]:
    told = came.refusal or {}
    session = came.session
    if came.error == OptionNotOffered.code and session is not None and came.step.choose is not None:
        yield _not_offered(came.step.choose, machine, session)
    else:
        message = str(told.get("message", came.error))
        yield f"{message}{'' if message.endswith('?') else '.'} {told.get('hint', '')}".strip()
    yield from (f"  {detail.get('msg')}" for detail in told.get("details", ()))
    judged = told.get("considered", ())
    yield from (f"  {edge_line(each)}" for each in judged[:MOST_EDGES])
    if session is not None and not judged and came.error in (OptionNotOffered.code, EventNotAllowed.code):
        yield from _routed(session, _concerned(came, machine, session), machine)


def _not_offered(chosen: Chosen, machine: Machine, session: Session) -> str:
    """What was chosen and isn't offered, and whether the state has such an option at all."""
    named = next(value for value in (chosen.key, chosen.kind, chosen.text, chosen.id) if value is not None)
    state = machine.definition.states.get(session.state)
    own = [*(option.key for option in state.authored), *state.kinds] if state is not None else []
    at = state_label(machine, session.state, session)
    if named in own or not isinstance(named, str):
        return f"{flow(named)} is not offered at {at}"
    return f"{flow(named)} is no option of {at}{did_you_mean(named, own)}"


def _concerned(came: Came, machine: Machine, session: Session) -> list[Considered]:
    """What routing says of the edges that the step was about, and of a must edge that shuts them."""
    key = came.step.choose.key if came.step.choose is not None else None
    considered = route(machine, session).considered
    meant = {key or "", came.step.send} - {"", None}
    shut = [each for each in considered if each.edge.must and each.verdict == "open"]
    found = [each for each in considered if {each.edge.option, each.edge.event} & meant]
    return [*shut, *(each for each in found if each not in shut)]


def offered(session: Session) -> str:
    """The options as they are offered: `1 strike “Swing the lamp”, 2 …`."""
    return ", ".join(f"{each.id} {each.key or each.kind} “{each.text}”" for each in session.offer)


def state_label(machine: Machine, state: str, session: Session) -> str:
    """A state with what players call it: `DECISION (抉择)`."""
    known = machine.definition.states.get(state)
    return _labelled(state, known.label if known else None, machine, session)


def variable_label(machine: Machine, name: str, session: Session) -> str:
    """A variable with what players call it: `hp (生命)`."""
    known = machine.definition.context.get(name)
    return _labelled(name, known.label if known else None, machine, session)


def _labelled(name: str, label: Any, machine: Machine, session: Session) -> str:
    said = said_in(label, session.constraints.language, machine.definition.language)
    return f"{name} ({said})" if said else name


def _shown(value: Any) -> str:
    return "unset" if value is None else flow(value)
