"""What a turn does to a session, step by step: roll, choose, settle, learn, route. Pure rules.

The order of a turn's settling: dice → guards → the edge's assign, line by line, each seeing the
ones above → the target's entry → (prompt and narration) → learn, line by line → visits, step and
routing. Until then `step`, `visits` and `turns_left` hold the values before this turn. A guard is
judged on the time known at the last answer, so that what routing promised holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import dice as dice_rules
from runtime.errors import MachineFault, ValidationError
from runtime.expression import Activation, EvaluationError, Expression, NotKnown, activation, evaluate
from runtime.machine import (
    FALSE,
    WAITS,
    Assign,
    CompiledEdge,
    Considered,
    Known,
    LearnRule,
    Machine,
    consider,
    known_values,
    standing,
)
from runtime.model import (
    CONTINUE,
    INT_MAX,
    INT_MIN,
    TEXT_MAX_CHARS,
    UNLIMITED,
    Die,
    FreeOptions,
    Variable,
    option_event,
    said_in,
)
from runtime.session import Change, Choice, Input, Offer, Outcome, Rolled, Routing, Session, Value

NO_DICE: Mapping[str, Any] = {}
"""No die is fixed."""
KINDS = "kinds"
"""The die that draws which free options are offered."""
CONTINUE_TEXT = {"zh": "继续", "en": "Continue"}
ZEROES: dict[str, Value] = {"int": 0, "float": 0.0, "bool": False, "str": "", "text": ""}


class Settled(Struct, frozen=True):
    """A turn once the rules are done and before a word is told.

    `session` stands in the target with the new context; `step` and `visits` are still the old
    ones. `values` is what expressions may read now.
    """

    compiled: CompiledEdge
    outcome: Outcome
    session: Session
    values: Mapping[str, Any]


class Route(Struct, frozen=True):
    """Where a session may go from here: the routing, what is offered, and what was looked at."""

    routing: Routing
    offer: tuple[Offer, ...]
    inputs: tuple[Input, ...]
    considered: tuple[Considered, ...]
    warnings: tuple[str, ...]


def default_of(variable: Variable) -> Value:
    """A variable's value when a session begins."""
    if not isinstance(variable.default, msgspec.UnsetType):
        return variable.default
    if variable.type == "enum":
        return (variable.of or [""])[0]
    return [] if variable.type == "set" else _clamped(ZEROES[variable.type], variable)


def begun(machine: Machine) -> dict[str, Value]:
    """The context before the initial edge."""
    return {name: default_of(variable) for name, variable in machine.definition.context.items()}


def turns_left(machine: Machine, step: int) -> int:
    """How many turns `limits.turns` leaves after `step`; UNLIMITED without a limit."""
    limit = machine.definition.limits.turns
    return UNLIMITED if limit is None else limit - step


def remaining_seconds(limit_ms: int | None, elapsed_ms: int) -> int:
    """Whole seconds left, never below 0; UNLIMITED without a limit."""
    return UNLIMITED if limit_ms is None else max(0, -((elapsed_ms - limit_ms) // 1000))


def scope_of(machine: Machine, session: Session) -> dict[str, Any]:
    """What every expression may read, as the session stands."""
    definition = machine.definition
    values: dict[str, Any] = {**machine.blank, **session.context}
    values |= {f"slots.{name}": session.slots.get(name) or "" for name in definition.slots}
    values |= {machine.visited[name]: times for name, times in session.visits.items() if name in machine.visited}
    values["time.elapsed_seconds"] = session.elapsed_ms // 1000
    values["time.remaining_seconds"] = remaining_seconds(session.limit_ms, session.elapsed_ms)
    values["step"] = session.step
    values["turns_left"] = turns_left(machine, session.step)
    values["session.player_count"] = session.player_count
    values["session.difficulty"] = session.difficulty
    values["session.language"] = session.constraints.language
    return values


def payload_scope(machine: Machine, event: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """`payload.x` and whether it was given; an absent optional field reads as its type's zero."""
    declared = machine.definition.event(event).payload
    values: dict[str, Any] = {}
    for name, kind in declared.items():
        plain = kind.rstrip("?")
        sent = payload.get(name)
        values[f"payload.{name}"] = ZEROES[plain] if sent is None else float(sent) if plain == "float" else sent
        values[f"given.payload.{name}"] = sent is not None
    return values


def roll_dice(
    machine: Machine, session: Session, event: str, option: str, fixed: Mapping[str, Any] = NO_DICE
) -> tuple[Rolled, ...]:
    """Roll what an event rolls before its guards, in file order; a `fixed` die shows what it is told to.

    Raises ValidationError for a fixed die that isn't rolled, or a value that it can't show.
    """
    begins = not session.state
    dice = machine.initial.edge.dice if begins else machine.dice_of(session.state, event, option)
    key = (session.run_seed, session.salt, session.step, session.state, event, option)
    if fixed:
        _refuse_unfit(dice, fixed, event)
    return tuple(
        dice_rules.fixed(name, die, fixed[name]) if name in fixed else dice_rules.roll(name, die, key)
        for name, die in dice.items()
    )


def _refuse_unfit(dice: Mapping[str, Die], fixed: Mapping[str, Any], event: str) -> None:
    rolled = ", ".join(dice) or "none"
    faults = {
        name: f"event '{event}' rolls no such die here; it rolls: {rolled}"
        if name not in dice
        else dice_rules.unfit(dice[name], value)
        for name, value in fixed.items()
        if name != KINDS
    }
    details = [{"loc": ["dice", name], "msg": fault, "type": "dice"} for name, fault in faults.items() if fault]
    if details:
        raise ValidationError("a fixed die can't fall so", "Mend each.", details=details)


def turn_scope(
    machine: Machine, session: Session, event: str, choice: Choice, payload: Mapping[str, Any], rolled: Iterable[Rolled]
) -> dict[str, Any]:
    """What the guards and assigns of this turn may read."""
    values = scope_of(machine, session)
    values |= payload_scope(machine, event, payload)
    values |= {"option.key": choice.key, "option.kind": choice.kind}
    values |= {f"dice.{die.name}": die.value for die in rolled}
    return values


def settle(
    machine: Machine, session: Session, compiled: CompiledEdge, event: str, choice: Choice, scope: dict[str, Any],
    rolled: tuple[Rolled, ...],
) -> Settled:  # fmt: skip
    """Apply the edge's assign and the target's entry; the session then stands in the target.

    Raises MachineFault where one errs: nothing is changed then.
    """
    edge = compiled.edge
    entry = machine.entries[edge.target] if edge.target != session.state else ()
    after = _assigned(machine, edge.full_name, dict(session.context), [*compiled.assigns, *entry], scope)
    changes = tuple(
        Change(name, session.context[name], after[name])
        for name in machine.definition.context  # in its order: a context that was read again has the journal's
        if after[name] != session.context[name]
    )
    outcome = Outcome(event, edge.full_name, session.state, edge.target, choice, rolled, changes)
    used = (*session.used, edge.once) if edge.once and edge.once not in session.used else session.used
    moved = replace(session, state=edge.target, context=after, used=used)
    return Settled(compiled, outcome, moved, {**scope, **after})


def entered(machine: Machine, session: Session, edge: str) -> dict[str, Value]:
    """The context once a session that came into its state by no edge of the file has entered it.

    Raises MachineFault, which names `edge`, where the state's `entry` errs.
    """
    return _assigned(machine, edge, dict(session.context), machine.entries[session.state], scope_of(machine, session))


def _assigned(
    machine: Machine, edge: str, context: dict[str, Value], lines: Iterable[Assign], scope: Mapping[str, Any]
) -> dict[str, Value]:
    values = dict(scope)
    for line in lines:
        try:
            context[line.name] = _fitted(machine, line.name, evaluate(line.value, activation(values)))
        except (EvaluationError, ValueError) as error:
            message = f"edge {edge}: `{line.name}: {line.value.source}` errs: {error}"
            raise MachineFault(message, "Mend the assign; the session is as it was.", edge=edge) from None
        values[line.name] = context[line.name]
    return context


def _fitted(machine: Machine, name: str, value: Any) -> Value:
    """A value as its variable holds it: clamped, a member, a set in its `of` order.

    Raises ValueError for a member that isn't one.
    """
    variable = machine.definition.context[name]
    if variable.type == "set":
        _refuse_strangers(value, variable)
        return [member for member in variable.of or () if member in value]
    if variable.type == "enum":
        _refuse_strangers([value], variable)
        return value  # type: ignore[no-any-return]
    if variable.type == "str":
        return str(value)[:TEXT_MAX_CHARS]
    return _clamped(value, variable)


def _refuse_strangers(members: Iterable[str], variable: Variable) -> None:
    for member in members:
        if member not in (variable.of or ()):
            raise ValueError(f"{member!r} is not one of {', '.join(variable.of or ())}")


def _clamped(value: Any, variable: Variable) -> Value:
    if variable.type not in ("int", "float"):
        return value  # type: ignore[no-any-return]
    low = INT_MIN if variable.min is None else variable.min
    high = INT_MAX if variable.max is None else variable.max
    if variable.type == "int":
        return max(int(low), min(int(high), int(value)))
    bounded = float(value) if variable.min is None else max(float(low), float(value))
    return bounded if variable.max is None else min(float(high), bounded)


def learn(
    machine: Machine, settled: Settled, learned: Mapping[str, Any], dice_and_payload: Mapping[str, Any]
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The context after `learn`, line by line, and warnings for values that were refused.

    `learned` is what a model wrote and what passed unmended; what is absent takes `otherwise`,
    else the variable stays.
    """
    context = dict(settled.session.context)
    scope = {**dice_and_payload, **flattened("output", learned)}
    warnings: list[str] = []
    for rule in settled.compiled.learn:
        known = activation({**scope, **context})
        try:
            context[rule.name] = _fitted(machine, rule.name, _learned(rule, known, context[rule.name]))
        except (EvaluationError, ValueError) as error:
            context[rule.name] = _otherwise(machine, rule, known, context[rule.name])
            warnings.append(f"learn {rule.name}: {error}")
    return context, tuple(warnings)


def _learned(rule: LearnRule, known: Activation, present: Value) -> Any:
    try:
        value = evaluate(rule.source, known)
    except NotKnown:
        return present if rule.otherwise is None else evaluate(rule.otherwise, known)
    if rule.at_least is not None:
        value = max(value, evaluate(rule.at_least, known))
    return value if rule.at_most is None else min(value, evaluate(rule.at_most, known))


def _otherwise(machine: Machine, rule: LearnRule, known: Activation, present: Value) -> Value:
    """What a refused value gives way to: `otherwise` where it works, else what was there."""
    if rule.otherwise is None:
        return present
    try:
        return _fitted(machine, rule.name, evaluate(rule.otherwise, known))
    except (EvaluationError, ValueError):
        return present


def flattened(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested outputs as qualified names: {"opening": {"scene": x}} → {"output.opening.scene": x}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}"
        flat |= flattened(path, value) if isinstance(value, Mapping) else {path: value}
    return flat


def ai_state_of(
    machine: Machine, session: Session, told: Mapping[str, Any], first: Mapping[str, str]
) -> dict[str, Any]:
    """What the machine shows as `ai_state`: values after learn, or the words of the narration.

    Where the narration brings none, the branch's last value stands; before any, `first`'s.
    """
    words = flattened("output", told)
    known: Activation | None = None
    shown: dict[str, Any] = {}
    for name, expression in machine.ai_state.items():
        stands = session.ai_state.get(name, first.get(name, ""))
        if expression.names == (expression.source,) and expression.source.startswith("output."):
            shown[name] = words.get(expression.source, stands)
        else:
            known = known or activation({**scope_of(machine, session), **words})
            shown[name] = _shown_or(expression, known, stands)
    return shown


def _shown_or(expression: Expression, known: Activation, otherwise: Any) -> Any:
    try:
        return evaluate(expression, known)
    except EvaluationError:
        return otherwise


def arrived(session: Session) -> Session:
    """The session one step deeper, its visit counted: the last of a turn's settling."""
    visits = {**session.visits, session.state: session.visits.get(session.state, 0) + 1}
    return replace(session, step=session.step + 1, visits=visits)


def route(machine: Machine, session: Session, fixed: Mapping[str, Any] = NO_DICE) -> Route:
    """Compute routing, options and inputs from the machine's edges and guards alone.

    `fixed` may have the kinds of free options that are drawn. Raises ValidationError where they can't be.
    """
    state = machine.definition.states[session.state]
    if KINDS in fixed and not state.kinds:
        _refuse_kinds(fixed[KINDS], [], 0, 0)
    if state.is_final:
        return Route(Routing(None, True, ()), (), (), (), ())  # noqa: FBT003 - a Struct's fields
    here = _Here(machine, session, fixed.get(KINDS))
    looked_at = [
        _before_choice(here, compiled) if compiled.reads_option else consider(compiled, here.plain)
        for compiled in here.edges
    ]
    choices = _offered(here, looked_at)
    considered = [
        each or _over_choices(here, compiled, choices) for each, compiled in zip(looked_at, here.edges, strict=True)
    ]
    leading = [each for each in considered if each.verdict != "closed"]
    allowed = tuple(dict.fromkeys(each.edge.event for each in leading))
    suggested = _suggested(leading)
    following = here.must.edge.event if here.must else next(iter(suggested), None)
    offer = _numbered(choices) or _continue(here, following, suggested)
    erred = (each for each in considered if each.reason is not FALSE and each.has_erred)
    warnings = [f"edge {each.compiled.full_name}: guard {each.reason}" for each in erred]
    if not allowed:
        warnings.append(f"state {session.state}: no event is open and the story is not at an end")
    routing = Routing(following, _ends(machine, leading, following), allowed)
    return Route(routing, offer, _inputs(machine, allowed), tuple(considered), tuple(warnings))


class _Here:
    """What routing looks at again and again in one state. No must edge of another event shuts its `edges`."""

    def __init__(self, machine: Machine, session: Session, kinds: Sequence[str] | None) -> None:
        self.machine = machine
        self.kinds = kinds
        self.session = session
        self.scope = scope_of(machine, session)
        self.used = frozenset(session.used)
        self.state = machine.definition.states[session.state]
        self.plain = standing(machine, session.state, self.scope, self.used)
        self.must = machine.open_must(session.state, self.plain)
        edges = machine.table[session.state]
        self.edges = edges if self.must is None else tuple(each for each in edges if not self.is_shut(each.edge.event))

    def with_choice(self, choice: Choice) -> Known:
        """The same, with an option chosen."""
        chosen = {"option.key": choice.key, "option.kind": choice.kind}
        return known_values({**self.scope, **chosen}, self.used, choice.key)

    def is_shut(self, event: str) -> bool:
        """Whether another event's must edge is open."""
        return self.must is not None and self.must.edge.event != event


Candidates = tuple[tuple[Choice, str], ...]
"""What is offered, each with the event that it sends."""


def _offered(here: _Here, looked_at: Iterable[Considered | None]) -> Candidates:
    if here.state.kinds:
        return _drawn_kinds(here)
    leading = {each.edge.option for each in looked_at if each and each.verdict != "closed"}
    language = here.session.constraints.language
    fallback = here.machine.definition.language
    return tuple(
        (Choice(key=option.key, text=said_in(option.text, language, fallback)), option_event(option))
        for option in here.state.authored
        if option.key in leading
    )


def _kind_leads_on(here: _Here, event: str, kind: str) -> bool:
    own = (each for each in here.edges if each.edge.event == event and not each.edge.option)
    known = here.with_choice(Choice(kind=kind))
    return any(consider(each, known).verdict != "closed" for each in own)


def _drawn_kinds(here: _Here) -> Candidates:
    """Free options: the kinds that lead on, their number and choice drawn by a die named `kinds`."""
    free, session = here.state.options, here.session
    if isinstance(free, list) or here.is_shut(free.event):
        return ()
    candidates = [kind for kind in free.kinds if _kind_leads_on(here, free.event, kind)]
    words = here.machine.definition
    return tuple(
        (Choice(kind=kind, text=said_in(free.kinds[kind], session.constraints.language, words.language)), free.event)
        for kind in _drawn(here, free, candidates)
    )


def _drawn(here: _Here, free: FreeOptions, candidates: list[str]) -> list[str]:
    """Which of the candidates are offered: those that are fixed, else as many and which as a die says."""
    low, high = free.bounds
    most = min(high, max(low, len(candidates)))
    if here.kinds is not None:
        _refuse_kinds(here.kinds, candidates, min(low, len(candidates)), most)
        return [kind for kind in candidates if kind in here.kinds]
    session = here.session
    key = (session.run_seed, session.salt, session.step, session.state, free.event, "", KINDS)
    return dice_rules.draw(dice_rules.between(low, most, key), candidates, (*key, "which"))


def _refuse_kinds(kinds: Sequence[str], candidates: list[str], low: int, high: int) -> None:
    drawn = set(kinds)
    if drawn <= {*candidates} and low <= len(drawn) <= high:
        return
    counted = f"{low}" if low == high else f"{low} to {high}"
    detail = {
        "loc": ["dice", KINDS],
        "msg": f"{counted} of {', '.join(candidates) or 'none'} are drawn",
        "type": "dice",
    }
    raise ValidationError("the fixed kinds can't be drawn here", "Mend them.", details=[detail])


def _numbered(choices: Candidates) -> tuple[Offer, ...]:
    return tuple(
        Offer(number, choice.text, event, choice.key, choice.kind)
        for number, (choice, event) in enumerate(choices, start=1)
    )


def renumbered(offer: tuple[Offer, ...], told: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """An offer as an answer that a client still shows has it: what was told there keeps its id.

    The rest comes after it, with ids that were never used there: no old id means another choice.
    """
    before = {(each.key, each.kind): each.id for each in told}
    unused = count(max(before.values(), default=0) + 1)
    numbered = (replace(each, id=before.get((each.key, each.kind)) or next(unused)) for each in offer)
    return tuple(sorted(numbered, key=lambda each: each.id))


def _over_choices(here: _Here, compiled: CompiledEdge, choices: Candidates) -> Considered:
    """An edge that asks which option was chosen, judged for each that may be."""
    tried = [choice for choice, event in choices if event == compiled.edge.event] or [Choice()]
    return _of_all([consider(compiled, here.with_choice(choice)) for choice in tried])


def _before_choice(here: _Here, compiled: CompiledEdge) -> Considered | None:
    """An edge that asks which option was chosen, before one is: None, but for an option's own.

    That is open only once it is chosen: until then it depends, or is closed all the same.
    """
    if not compiled.edge.option:
        return None
    considered = consider(compiled, here.with_choice(Choice(key=compiled.edge.option)))
    if considered.verdict == "closed":
        return considered
    return replace(considered, verdict="depends", reason=WAITS)


def _of_all(considered: list[Considered]) -> Considered:
    """One verdict over every choice: open where all are, closed where none leads on."""
    verdicts = {each.verdict for each in considered}
    if len(verdicts) == 1:
        return considered[0]
    return replace(considered[0], verdict="depends", reason=WAITS)


def _suggested(leading: list[Considered]) -> tuple[str, ...]:
    wanted = (each.edge for each in leading if each.edge.suggest)
    return tuple(dict.fromkeys(edge.event for edge in wanted))


def _ends(machine: Machine, leading: list[Considered], event: str | None) -> bool:
    """Whether every edge that the event could still take leads to a final state."""
    could: list[str] = []
    for each in leading:
        if each.edge.event == event:
            could.append(each.edge.target)
            if each.verdict == "open":
                break
    return bool(could) and all(machine.definition.states[target].is_final for target in could)


def _is_sent_bare(machine: Machine, event: str) -> bool:
    """Whether any player may send an event with nothing but its name."""
    declared = machine.definition.event(event)
    return declared.role == "player" and all(kind.endswith("?") for kind in declared.payload.values())


def _continue(here: _Here, following: str | None, suggested: tuple[str, ...]) -> tuple[Offer, ...]:
    """The one option where there is nothing to choose; () where every event needs a payload or an operator."""
    events = [event for event in (following, *suggested) if event is not None]
    event = next((event for event in events if _is_sent_bare(here.machine, event)), None)
    text = said_in(CONTINUE_TEXT, here.session.constraints.language, "en")
    return () if event is None else (Offer(1, text, event, CONTINUE),)


def _inputs(machine: Machine, allowed: Iterable[str]) -> tuple[Input, ...]:
    """Where free text is taken: with the event's name, or with an option of that event."""
    return tuple(
        Input(event, field, TEXT_MAX_CHARS)
        for event in allowed
        for field, kind in machine.definition.event(event).payload.items()
        if kind.rstrip("?") == "text"
    )
