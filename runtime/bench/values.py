"""What a turn may bring that is worth trying: dice, payloads, learned values, time. Drawn from their declared ranges.

Of a range only those values are tried that some guard tells apart, each at its boundary, and the
ends of the range where a value flows into a variable that guards read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, product
from math import inf, nextafter, prod
from typing import Any

from msgspec import Struct

from runtime.advance import payload_scope, scope_of
from runtime.bench.conditions import (
    Condition,
    Conditions,
    compiled_edges,
    decimals,
    is_plain,
    literals,
    numbers_in,
    strings,
)
from runtime.dice import bounds_of, spec_of
from runtime.direct import EvaluationError
from runtime.expression import activation, evaluate, tokens
from runtime.machine import Assign, CompiledEdge, Machine
from runtime.model import Die, LongDie, Variable, dice_parts
from runtime.session import Session, Value

MOST_TOGETHER = 24
"""How many combinations of what one turn brings are tried; beyond that, one value changes at a time."""
MOST_FACES = 100
"""How many faces of a die are tried one by one; of a larger one those near a guard's numbers, where these decide."""
MOST_FACES_OF_ALL = 5_000
"""How many faces are tried where a guard does more with the die than compare it with a number."""
_LARGE = 10**12
"""From where on adding a number again and again may come to more than an int holds."""
SAID = ("hello", "你好", "!")
"""What a player says where no guard asks for certain words; the last has no letter."""
Brought = Mapping[str, Any]
"""Qualified names → values: `dice.push`, `payload.text`; None = an optional field that isn't sent."""


class Relevance(Struct, frozen=True):
    """Which names can make a difference to any guard, through however many assigns, or make an assign err.

    `flows` has for each edge the inputs that it writes into such a variable.
    """

    names: frozenset[str]
    flows: Mapping[str, frozenset[str]]


def relevance(machine: Machine) -> Relevance:
    """What guards read and what may make an assign err, and what flows into it."""
    edges = list(compiled_edges(machine))
    assigns = [each for compiled in edges for each in compiled.assigns]
    assigns += [each for entry in machine.entries.values() for each in entry]
    lines = [(each.name, each.value.names) for each in assigns]
    for rule in (rule for compiled in edges for rule in compiled.learn):
        parts = [rule.source, rule.otherwise, rule.at_least, rule.at_most]
        lines.append((rule.name, tuple(name for part in parts if part is not None for name in part.names)))
    names = {name for compiled in edges for guard in compiled.guards for name in guard.names}
    names |= _asked_elsewhere(machine)
    names |= {name for each in assigns if _may_err(each.value.source) for name in (each.name, *each.value.names)}
    for event, line in _lines(machine, edges):
        if _may_overflow(line.value.source, _unbounded(machine, event, line.value.names)):
            names |= {line.name, *line.value.names}
    while more := {name for target, read in lines if target in names for name in read} - names:
        names |= more
    flows = {each.full_name: _flowing(each, names) for each in edges}
    return Relevance(frozenset(names), flows)


def _may_err(source: str) -> bool:
    """Whether an expression has no value for some values: it divides, or takes an item of a list."""
    return any(token.kind == "operator" and token.text in "/%[" for token in tokens(source))


def _lines(machine: Machine, edges: Iterable[CompiledEdge]) -> Iterator[tuple[str, Assign]]:
    """All assigns, with the event whose payload they may read."""
    yield from ((each.edge.event, line) for each in edges for line in each.assigns)
    yield from (("", line) for entry in machine.entries.values() for line in entry)


def _unbounded(machine: Machine, event: str, names: Iterable[str]) -> set[str]:
    """Those of the names that are whole numbers without both ends."""
    context = machine.definition.context
    payload = machine.definition.event(event).payload if event else {}
    whole = {f"payload.{name}" for name, kind in payload.items() if kind.rstrip("?") == "int"}
    whole |= {name for name, each in context.items() if each.type == "int" and None in (each.min, each.max)}
    return whole & {*names}


def _may_overflow(source: str, unbounded: Collection[str]) -> bool:
    """Whether a number may grow beyond what an int holds. Small steps don't come so far in any play."""
    if not unbounded:
        return False
    found = list(tokens(source))
    signs = {token.text for token in found if token.kind == "operator"} & {"+", "-", "*"}
    grown = sum(token.text in unbounded for token in found)
    is_large = any(abs(number) >= _LARGE for number in decimals([source]))
    return "*" in signs or (bool(signs) and (grown > 1 or is_large))


def _asked_elsewhere(machine: Machine) -> set[str]:
    """What the machine's own properties read."""
    return {name for each in machine.properties for name in each.reads if name in machine.definition.context}


def _flowing(compiled: CompiledEdge, names: Iterable[str]) -> frozenset[str]:
    wanted = set(names)
    read = {name for line in compiled.assigns if line.name in wanted for name in line.value.names}
    return frozenset(name for name in read if name.startswith(("dice.", "payload.", "given.")))


def faces(die: Die, asked: Iterable[int] = (), most: int = MOST_FACES) -> tuple[Any, ...]:
    """What a die can show, from the least; of one with more faces than `most` those near what is asked for."""
    if isinstance(die, LongDie) and die.pick is not None:
        return tuple(dict.fromkeys(die.pick))
    parts = dice_parts(spec_of(die))
    if isinstance(parts, int):
        return {0: (False,), 100: (True,)}.get(parts, (False, True))
    low, high = bounds_of(parts)
    return tuple(near(low, high, asked)) if high - low >= most else tuple(range(low, high + 1))


def near(low: int, high: int, asked: Iterable[int]) -> list[int]:
    """The ends of a range, and what lies in it at, right below and right above some numbers."""
    close = {number + step for number in asked for step in (-1, 0, 1)}
    return sorted({low, high, *(each for each in close if low <= each <= high)})


class Inputs:
    """What one event of one state brings: its dice and its payload, and which conditions read them."""

    def __init__(self, machine: Machine, conditions: Conditions, edges: Sequence[CompiledEdge], option: str) -> None:
        """Take the edges that the event may take with an option."""
        self.machine = machine
        self.event = edges[0].edge.event
        self.edges = edges
        own = {number for each in edges for number in numbers_in(conditions.formulas.get(each.full_name, ("and",)))}
        self.conditions = [conditions.all[number] for number in sorted(own) if conditions.all[number].inputs]
        sources = [guard.source for each in edges for guard in each.guards]
        self.dice = dict(edges[0].edge.dice) if not edges[0].edge.source else _dice(machine, edges, option)
        self.values = {name: self._faces(name, die, sources) for name, die in self._named_dice()}
        declared = machine.definition.event(self.event).payload
        self.values |= {f"payload.{name}": payload_values(kind, sources) for name, kind in declared.items()}
        self.base = {name: _first(values) for name, values in self.values.items()}

    def _named_dice(self) -> Iterator[tuple[str, Die]]:
        return ((f"dice.{name}", die) for name, die in self.dice.items())

    def _faces(self, name: str, die: Die, sources: Sequence[str]) -> tuple[Any, ...]:
        """A die's faces: of a large one all, where a guard does more than compare it with a number."""
        numbers = (round(number) for number in decimals(sources) if abs(number) < _LARGE)
        return faces(die, numbers, MOST_FACES if self._is_plain(name) else MOST_FACES_OF_ALL)

    def _is_plain(self, name: str) -> bool:
        """Whether each condition on an input compares it with a number, so that its neighbours stand for all."""
        return all(is_plain(each, name) for each in self._asking(name))

    def _asking(self, name: str) -> list[Condition]:
        return [each for each in self.conditions if name in each.inputs or f"given.{name}" in each.inputs]

    def is_sampled(self, flowing: Iterable[str]) -> bool:
        """Whether some values that weren't tried might lead elsewhere; `flowing` are the inputs that flow on."""
        asked = {name for name in self.values if self._is_asked(name)}
        flows = {name.removeprefix("given.") for name in flowing} & self.values.keys()
        if any(self._is_partial(name) for name in asked):
            return True
        if any(len(each.inputs & self.values.keys()) > 1 for each in self.conditions):
            return True
        if prod(len(self.values[name]) for name in asked) > MOST_TOGETHER and len(asked) > 1:
            return True
        return bool(flows) and (len(self.values) > 1 or any(self._is_partial(name, flows=True) for name in flows))

    def _is_partial(self, name: str, *, flows: bool = False) -> bool:
        """Whether not all values of an input are tried that may make a difference."""
        values = self.values[name]
        if name.startswith("dice."):
            low_high = _range_of(self.dice[name[5:]])
            is_whole = low_high is None or len(values) == low_high[1] - low_high[0] + 1
            return (not is_whole and not self._is_plain(name)) or (flows and low_high is not None and len(values) > 2)  # noqa: PLR2004 - two ends
        if isinstance(self.base[name], bool):
            return False
        is_number = isinstance(self.base[name], int | float)
        return flows or not is_number or not self._is_plain(name)

    def told_apart(self, session: Session, chosen: Brought) -> list[Brought]:
        """What is worth bringing in a session: one of each kind that the guards tell apart, the base first."""
        scope = scope_of(self.machine, session) | dict(chosen)
        classes = {name: self._classes(name, scope) for name in self.values if self._is_asked(name)}
        every = {name: list(dict.fromkeys(each for some in found for each in some)) for name, found in classes.items()}
        few = {name: [some[0] for some in found] for name, found in classes.items()}
        return together(self.base, every, few)

    def _is_asked(self, name: str) -> bool:
        return bool(self._asking(name))

    def _classes(self, name: str, scope: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        """The kinds of an input's values that conditions tell apart: of each the first and the last value."""
        asked = self._asking(name)
        found: dict[tuple[Any, ...], list[Any]] = {}
        for value in self.values[name]:
            bound = {**scope, **self.bound({**self.base, name: value})}
            found.setdefault(tuple(_holds(each, bound) for each in asked), []).append(value)
        return [(some[0], some[-1]) for some in found.values()]

    def bound(self, brought: Brought) -> dict[str, Any]:
        """The names that conditions read, for what is brought."""
        payload = {name[8:]: value for name, value in brought.items() if name.startswith("payload.")}
        dice = {name: value for name, value in brought.items() if name.startswith("dice.")}
        return {**payload_scope(self.machine, self.event, payload), **dice}

    def varied(self, brought: Brought, flowing: Iterable[str]) -> Iterator[Brought]:
        """What was brought, with one other value at a time of the inputs that flow on."""
        for name in sorted({each.removeprefix("given.") for each in flowing} & self.values.keys()):
            values = self.values[name]
            picked = values if not isinstance(values[0], int) or isinstance(values[0], bool) else near_ends(values)
            yield from ({**brought, name: value} for value in picked if value != brought[name])


def _range_of(die: Die) -> tuple[int, int] | None:
    """The least and the most that a die of numbers can show."""
    if isinstance(die, LongDie) and die.pick is not None:
        return None
    parts = dice_parts(spec_of(die))
    return None if isinstance(parts, int) else bounds_of(parts)


def near_ends(values: Sequence[Any]) -> tuple[Any, ...]:
    """The first and the last."""
    return tuple(dict.fromkeys((values[0], values[-1])))


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _dice(machine: Machine, edges: Sequence[CompiledEdge], option: str) -> dict[str, Die]:
    source = next((each.edge.source for each in edges if each.edge.source != "*"), None)
    if source is None:
        return {name: die for each in edges for name, die in each.edge.dice.items()}
    return machine.dice_of(source, edges[0].edge.event, option)


def _holds(condition: Condition, scope: Mapping[str, Any]) -> Any:
    try:
        return evaluate(condition.expression, activation(scope))
    except EvaluationError:
        return None


def payload_values(kind: str, sources: Sequence[str]) -> tuple[Any, ...]:
    """Values of a payload's field, from what the guards that may read it have written."""
    plain = kind.rstrip("?")
    written = sorted(decimals(sources) | {0.0})
    whole = {int(each) for each in written if abs(each) < _LARGE}
    numbers = near(min(-1, min(whole) - 1), max(1_000_000, max(whole) + 1), whole)
    values: dict[str, tuple[Any, ...]] = {
        "int": (0, *(each for each in numbers if each)),
        "float": tuple(dict.fromkeys((0.5, *_fractions(written), *map(float, numbers)))),
        "bool": (False, True),
    }
    said = tuple(dict.fromkeys((SAID[0], *(each for each in strings(sources) if each.strip()), *SAID[1:])))
    found = values.get(plain, said if plain == "text" else (*said, ""))
    return (*found, None) if kind.endswith("?") else found


def _fractions(written: Sequence[float]) -> Iterator[float]:
    """Each of the numbers (ascending), what lies between two, and the nearest on either side of each."""
    yield from written
    yield from (low + (high - low) / 2 for low, high in pairwise(written))
    yield from (nextafter(each, side) for each in written for side in (-inf, inf) if each)


def together(
    base: Brought, asked: Mapping[str, Sequence[Any]], few: Mapping[str, Sequence[Any]] | None = None
) -> list[Brought]:
    """Every combination of some values over a base, the base's kind first.

    Where they are too many, every combination of the `few`, and each of the others alone; where even these
    are too many, some of their combinations, evenly spread.
    """
    if _size(asked) <= MOST_TOGETHER:
        return _combined(base, asked, 1) or [base]
    alone = [base, *({**base, name: value} for name, values in asked.items() for value in values)]
    fewer = asked if few is None else few
    combined = _combined(base, fewer, max(1, _size(fewer) // MOST_TOGETHER))
    return list({repr(sorted(each.items(), key=str)): each for each in (*combined, *alone)}.values())


def _size(asked: Mapping[str, Sequence[Any]]) -> int:
    return prod(len(values) for values in asked.values())


def _combined(base: Brought, asked: Mapping[str, Sequence[Any]], step: int) -> list[Brought]:
    every = islice(product(*asked.values()), 0, None, step)
    return [{**base, **dict(zip(asked, some, strict=True))} for some in every]


def learnable(machine: Machine, compiled: CompiledEdge, names: frozenset[str]) -> dict[str, tuple[str, Variable]]:
    """What an edge learns that makes a difference: the output's path → the variable that it goes to."""
    found: dict[str, tuple[str, Variable]] = {}
    for rule in compiled.learn:
        outputs = [name for name in rule.source.names if name.startswith("output.")]
        if outputs and rule.name in names:
            found[outputs[0].removeprefix("output.")] = (rule.name, machine.definition.context[rule.name])
    return found


def taught(
    conditions: Conditions, session: Session, learning: Mapping[str, tuple[str, Variable]]
) -> list[Mapping[str, Any]]:
    """What a model may teach on the way to a session: one of each kind that guards tell apart, and nothing."""
    scope = scope_of(conditions.machine, session)
    asked = {path: _kinds_of(conditions, scope, name, variable) for path, (name, variable) in learning.items()}
    return [{}, *(nested(each) for each in together({}, asked))]


def _kinds_of(conditions: Conditions, scope: Mapping[str, Any], name: str, variable: Variable) -> list[Any]:
    asked = [each for each in conditions.all if name in each.expression.names and not each.inputs]
    others = [scope[other] for each in asked for other in each.expression.names if other in scope]
    numbers = [each for each in others if isinstance(each, int) and not isinstance(each, bool)]
    found: dict[Any, list[Any]] = {}
    written = decimals(each.source for each in asked)
    for value in (
        *members(variable, [*numbers, *literals(each.source for each in asked)]),
        *_between(variable, written),
    ):
        held = tuple(str(_holds(each, {**scope, name: value})) for each in asked)
        found.setdefault(held, []).append(value)
    whole = variable.type in ("enum", "bool")
    picked = (some if whole else (some[0], some[-1]) for some in found.values())
    return list({repr(each): each for some in picked for each in some}.values())


def _between(variable: Variable, written: Iterable[float]) -> list[float]:
    """What a fraction may be at the numbers that are written, between and beside them; nothing for other types."""
    if variable.type != "float":
        return []
    low, high = (-inf if variable.min is None else variable.min), (inf if variable.max is None else variable.max)
    return [each for each in _fractions(sorted({*written})) if low <= each <= high]


def members(variable: Variable, asked: Iterable[int] = ()) -> tuple[Any, ...]:
    """Values that a variable may hold: all members, both bools, a range's ends and what lies near what is asked."""
    if variable.type == "bool":
        return (False, True)
    if variable.type == "enum":
        return tuple(variable.of or ())
    if variable.type == "set":
        return ([], *([each] for each in variable.of or ()), list(variable.of or ()))
    if variable.type == "str":
        return SAID
    low = -1_000 if variable.min is None else int(variable.min)
    high = 1_000 if variable.max is None else int(variable.max)
    found = near(low, high, asked)
    return tuple(map(float, found)) if variable.type == "float" else tuple(found)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"opening.mood": x} → {"opening": {"mood": x}}."""
    whole: dict[str, Any] = {}
    for path, value in flat.items():
        *above, last = path.split(".")
        here = whole
        for name in above:
            here = here.setdefault(name, {})
        here[last] = value
    return whole


def first_times(conditions: Conditions, limit_ms: int | None) -> tuple[int, ...]:
    """The seconds played at which some guard on time changes its mind, ascending."""
    found: set[int] = set()
    for each in conditions.all:
        numbers = literals([each.source])
        if "time.elapsed_seconds" in each.expression.names:
            found |= {number + step for number in numbers for step in (0, 1)}
        if "time.remaining_seconds" in each.expression.names and limit_ms is not None:
            found |= {limit_ms // 1000 - number + step for number in numbers for step in (0, 1)}
    most = (limit_ms or 0) // 1000 or max(found, default=0)
    return tuple(sorted(each for each in found if 0 < each <= most))


def drawn(candidates: Sequence[str], low: int, high: int) -> list[tuple[str, ...]]:
    """Which free options may be drawn: as many as may be, so that each kind is offered once at least."""
    size = min(len(candidates), high)
    if size == len(candidates):
        return [tuple(candidates)]
    windows = (candidates[start : start + size] for start in range(0, len(candidates), max(1, size)))
    full = [tuple(each) if len(each) == size else tuple(candidates[-size:]) for each in windows]
    return list(dict.fromkeys(full)) if size >= low else []


def sessions_asked(machine: Machine, names: frozenset[str]) -> Iterator[dict[str, Any]]:
    """How a session may begin, one thing at a time, where guards read it: its difficulty, players, language, slots."""
    yield {}
    if "session.difficulty" in names:
        yield from ({"difficulty": each} for each in ("EASY", "HARD"))
    sources = [guard.source for compiled in compiled_edges(machine) for guard in compiled.guards]
    if "session.player_count" in names:
        yield from ({"player_count": each} for each in near(1, 64, literals(sources)) if each != 1)
    if "session.language" in names:
        yield from ({"language": each} for each in machine.definition.languages[1:])
    for name in machine.definition.slots:
        if f"slots.{name}" in names:
            yield from ({"slots": {name: each}} for each in islice(("", *strings(sources)), 20))


def value_key(value: Value) -> Any:
    """A value that can be a part of a key."""
    return tuple(value) if isinstance(value, list) else value
