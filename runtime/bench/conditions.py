"""A guard taken apart: the conditions that it joins by `&&`, `||` and `!`, and how far each is from true.

A search needs to know not only that a guard is closed but how much is missing. So each comparison
also tells its gap: `hp <= 0` at hp 7 is 7 away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from runtime.direct import EvaluationError
from runtime.expression import (
    Expression,
    ExpressionError,
    Names,
    Token,
    activation,
    evaluate,
    prepare,
    tokens,
)
from runtime.machine import CompiledEdge, Machine, base_names, edge_names
from runtime.model import LongDie

COMPARING = ("<=", ">=", "==", "!=", "<", ">")
NEVER = 1_000.0
"""How far a condition is that nothing changes after the first turn."""
Formula = tuple[Any, ...]
"""("and" | "or", formula, …), ("not", formula) or ("is", the condition's number)."""


class Condition(Struct, frozen=True):
    """One condition: as written, compiled, and its two sides' difference where both are numbers.

    `inputs` are the names that it reads and that only a turn brings: dice, payload, the option.
    """

    source: str
    expression: Expression
    gap: Expression | None
    inputs: frozenset[str]


class Conditions:
    """All conditions of a machine's guards, and each edge's guards as a formula over them."""

    def __init__(self, machine: Machine) -> None:
        """Take every guard of a machine apart."""
        self.machine = machine
        self.all: list[Condition] = []
        self.formulas: dict[str, Formula] = {}
        self._numbers: dict[tuple[str, bool], int] = {}
        self._widest: dict[int, float] = {}
        self._base = Names(base_names(machine.definition))
        for compiled in (each for each in _edges_of(machine) if each.guards):
            self.formulas[compiled.full_name] = self._formula_of(compiled)
        self.ways = _ways(machine, self)
        moving = _moving(machine)
        self._is_fixed = [not each.inputs and not moving & {*each.expression.names} for each in self.all]
        plain = [each for each in self.all if not each.inputs]
        gaps = [each.gap for each in plain if each.gap is not None]
        self._batch = self._base.batch([*(each.expression for each in plain), *gaps])

    def _formula_of(self, compiled: CompiledEdge) -> Formula:
        names = edge_names(self.machine.definition, compiled.edge, self.machine.edges)
        parts = [self._split(guard.source, names) for guard in compiled.guards if guard.program is not None]
        return ("and", *parts)

    def _split(self, source: str, names: Names) -> Formula:
        found = list(tokens(source))

        def split(low: int, high: int) -> Formula:
            for operator, joined in (("||", "or"), ("&&", "and")):
                ends = _at_top(found, low, high, operator)
                if ends and not _at_top(found, low, high, "?"):
                    starts = [low, *(end + 1 for end in ends)]
                    return (joined, *(split(*part) for part in zip(starts, [*ends, high], strict=True)))
            if _is_negated(found, low, high):
                return ("not", split(low + 1, high))
            if _is_wrapped(found, low, high):
                return split(low + 1, high - 1)
            return ("is", self._number_of(_between(source, found, low, high), names))

        return split(0, len(found))

    def _number_of(self, source: str, names: Names) -> int:
        expression = names.compile(source)
        inputs = frozenset(name for name in expression.names if name not in self._base.types)
        key = (source, bool(inputs))
        if key not in self._numbers or inputs:
            if not inputs:
                expression, names = self._base.compile(source), self._base
            self._numbers[key] = len(self.all)
            self.all.append(Condition(source, expression, _gap_of(source, names), inputs))
        return self._numbers[key]

    def formula(self, source: str) -> Formula | None:
        """An expression over base names as a formula, None where it reads what only a turn brings."""
        try:
            return self._split(source, self._base)
        except ExpressionError:
            return None

    def judged(self, scope: Mapping[str, Any]) -> Judgement:
        """Which conditions hold in a scope, and how far each is from the other; None where it can't be said yet."""
        known = activation(scope)
        prepare(self._batch, known)
        holds: list[bool | None] = []
        gaps: list[float] = []
        for number, (each, is_fixed) in enumerate(zip(self.all, self._is_fixed, strict=True)):
            is_known = not each.inputs or each.inputs <= scope.keys()
            holds.append(_value(each.expression, known) if is_known else None)
            value = _value(each.gap, known) if each.gap is not None and is_known else None
            gaps.append(NEVER if is_fixed else 1.0 + self._weighed(number, value))
        return Judgement(holds, gaps, self.ways)

    def _weighed(self, number: int, value: Any) -> float:
        """A gap as a part of the widest that was seen: of no condition does one step count for nothing."""
        gap = 0.0 if value is None else abs(float(value))
        self._widest[number] = max(gap, self._widest.get(number, 0.0))
        return gap / self._widest[number] if gap else 0.0

    def missing(self, edge: str, holds: Sequence[bool | None]) -> Iterator[str]:
        """The conditions of an edge's guards that are not as they must be, as written."""
        yield from self._lacking(self.formulas.get(edge, ("and",)), holds, wanted=True)

    def _lacking(self, formula: Formula, holds: Sequence[bool | None], *, wanted: bool) -> Iterator[str]:
        if formula[0] == "is":
            if holds[formula[1]] is (not wanted):
                yield self.all[formula[1]].source if wanted else f"!({self.all[formula[1]].source})"
        elif formula[0] == "not":
            yield from self._lacking(formula[1], holds, wanted=not wanted)
        else:
            parts = [list(self._lacking(part, holds, wanted=wanted)) for part in formula[1:]]
            if (formula[0] == "and") == wanted or all(parts):
                yield from (each for part in parts for each in part)


def _edges_of(machine: Machine) -> Iterator[CompiledEdge]:
    """Every edge once, in file order."""
    seen: dict[str, CompiledEdge] = {machine.initial.full_name: machine.initial}
    for edges in machine.table.values():
        seen |= {each.full_name: each for each in edges if each.full_name not in seen}
    order = {edge.full_name: number for number, edge in enumerate(machine.edges)}
    return iter(sorted(seen.values(), key=lambda each: order[each.full_name]))


compiled_edges = _edges_of


def _at_top(found: Sequence[Token], low: int, high: int, operator: str) -> list[int]:
    """Where an operator stands outside of every bracket."""
    depth, places = 0, []
    for index in range(low, high):
        token = found[index]
        if token.kind != "operator":
            continue
        depth += (token.text in "([{") - (token.text in ")]}")
        if token.text == operator and not depth:
            places.append(index)
    return places


def _is_wrapped(found: Sequence[Token], low: int, high: int) -> bool:
    """Whether one pair of brackets stands around the whole."""
    if high - low < 2 or found[low].text != "(" or found[low].kind != "operator":  # noqa: PLR2004 - a pair
        return False
    depth = 0
    for index in range(low, high):
        if found[index].kind == "operator":
            depth += (found[index].text in "([{") - (found[index].text in ")]}")
        if not depth:
            return index == high - 1
    return False


def _is_negated(found: Sequence[Token], low: int, high: int) -> bool:
    if found[low].text != "!" or found[low].kind != "operator":
        return False
    return high - low == 2 or _is_wrapped(found, low + 1, high)  # noqa: PLR2004 - `!` and a name


def _between(source: str, found: Sequence[Token], low: int, high: int) -> str:
    end = found[high].col - 1 if high < len(found) else len(source)
    return source[found[low].col - 1 : end].strip()


def _gap_of(source: str, names: Names) -> Expression | None:
    """Left minus right of a comparison of numbers."""
    found = list(tokens(source))
    for operator in COMPARING:
        places = _at_top(found, 0, len(found), operator)
        if len(places) == 1 and not _at_top(found, 0, len(found), "?"):
            left = _between(source, found, 0, places[0])
            right = _between(source, found, places[0] + 1, len(found))
            return _numeric(f"({left}) - ({right})", names)
    return None


def _numeric(source: str, names: Names) -> Expression | None:
    try:
        compiled = names.compile(source)
    except ExpressionError:
        return None
    return compiled if compiled.type in ("int", "float") else None


def _value(expression: Expression, known: Any) -> Any:
    try:
        return evaluate(expression, known)
    except EvaluationError:
        return None


def numbers_in(formula: Formula) -> Iterator[int]:
    """The numbers of the conditions that a formula is made of."""
    if formula[0] == "is":
        yield formula[1]
        return
    for part in formula[1:]:
        yield from numbers_in(part)


DEEP = 2
"""How many conditions are looked through, from one to what must hold before an assign makes it true."""


class Ways(Struct, frozen=True):
    """How conditions come about: for each what must hold before an assign brings it nearer.

    `lasting` are those that no assign takes back once they hold.
    """

    to: Mapping[int, tuple[Formula, ...]]
    lasting: frozenset[int]


class Judgement:
    """The conditions of one session: which hold, how far the others are, and what was worked out from that."""

    def __init__(self, holds: Sequence[bool | None], gaps: Sequence[float], ways: Ways) -> None:
        """Take what was judged, and what brings conditions about."""
        self.holds, self.gaps, self.ways = tuple(holds), tuple(gaps), ways
        self._found: dict[tuple[int, int], float] = {}

    def distance(self, formula: Formula, *, wanted: bool = True, deep: int = DEEP) -> float:
        """How far a formula is from being as wanted: 0 where it is, or where only a turn's own inputs decide."""
        kind = formula[0]
        if kind == "is":
            return self._of(formula[1], wanted=wanted, deep=deep)
        if kind == "not":
            return self.distance(formula[1], wanted=not wanted, deep=deep)
        each = [self.distance(part, wanted=wanted, deep=deep) for part in formula[1:]]
        if not each:
            return 0.0
        return sum(each) if (kind == "and") == wanted else min(each)

    def _of(self, number: int, *, wanted: bool, deep: int) -> float:
        now = self.holds[number]
        if now is None or now == wanted:
            return 0.0
        if not wanted and number in self.ways.lasting:
            return NEVER
        if not wanted or deep <= 0:
            return self.gaps[number]
        if (number, deep) not in self._found:
            self._found[number, deep] = self.gaps[number] + self._before(self.ways.to.get(number, ()), deep - 1)
        return self._found[number, deep]

    def _before(self, ways: Sequence[Formula], deep: int) -> float:
        least = NEVER if ways else 0.0
        for way in ways:
            least = min(least, self.distance(way, deep=deep))
            if not least:
                break
        return least


def _moving(machine: Machine) -> set[str]:
    """The names whose values may change after the first turn."""
    later = [each for each in _edges_of(machine) if each.edge.source]
    names = {line.name for each in later for line in each.assigns} | {
        rule.name for each in later for rule in each.learn
    }
    names |= {line.name for entry in machine.entries.values() for line in entry}
    counted = {f"visits.{name}" for name in machine.definition.states}
    return names | counted | {"step", "turns_left", "time.elapsed_seconds", "time.remaining_seconds"}


def _ways(machine: Machine, conditions: Conditions) -> Ways:
    """What must hold before some assign brings a condition nearer: the guards of its edge, and its own."""
    edges = [each for each in _edges_of(machine) if each.edge.source]
    entries = [(line.name, line.value.source) for entry in machine.entries.values() for line in entry]
    lines = [*entries, *((line.name, line.value.source) for each in edges for line in each.assigns)]
    learned = {rule.name for each in edges for rule in each.learn}
    found: dict[int, tuple[Formula, ...]] = {}
    lasting: set[int] = set()
    for number, each in enumerate(list(conditions.all)):
        found[number] = ()
        if each.inputs:
            continue
        names = {*each.expression.names}
        if names <= machine.definition.context.keys() - learned and not any(_takes(*line, each) for line in lines):
            lasting.add(number)
        ways: dict[Formula, None] = {}
        for compiled in edges:
            guard = conditions.formulas.get(compiled.full_name, ("and",))
            for line in compiled.assigns:
                asked = _brings(line.name, line.value.source, each, compiled, conditions)
                ways |= {("and", guard, *own): None for own in asked}
        found[number] = tuple(ways)
    return Ways(found, frozenset(lasting))


def _takes(name: str, source: str, condition: Condition) -> bool:
    """Whether an assign may take a condition back that holds; only what surely doesn't is said not to."""
    if name not in condition.expression.names:
        return False
    words = [token.text for token in tokens(condition.source)]
    written = [token.text for token in tokens(source)]
    if words == [name]:
        return written != ["true"]
    if words[1:2] == ["in"]:
        return written[:2] != ["add", "("] or written[2:3] != [name]
    if words[:2] == [name, ">="] or words[:2] == [name, ">"]:
        return written[:2] != [name, "+"]
    return True


def _brings(
    name: str, source: str, wanted: Condition, compiled: CompiledEdge, conditions: Conditions
) -> Iterator[tuple[Formula, ...]]:
    """What an assign asks for beside its edge's guards to bring a condition nearer; nothing where it doesn't."""
    if name not in wanted.expression.names:
        return
    words = [token.text for token in tokens(wanted.source)]
    written = [token.text for token in tokens(source)]
    if words == [name]:
        yield from [()] if written == ["true"] else []
    elif words[1:2] == ["in"]:
        yield from [()] if written[:1] == ["add"] and words[0] in written else []
    elif words[:2] == [name, "=="] and wanted.gap is None:
        yield from _comes_to(source, words[-1], compiled, conditions)
    elif wanted.gap is not None:
        is_more = any(sign in words for sign in (">", ">=", "=="))
        is_less = any(sign in words for sign in ("<", "<=", "=="))
        raises, lowers = {"+", "add", "max"} & {*written}, {"-", "remove", "min"} & {*written}
        is_set_anew = name not in written
        yield from [()] if (is_more and raises) or (is_less and lowers) or is_set_anew else []


def _comes_to(
    source: str, member: str, compiled: CompiledEdge, conditions: Conditions
) -> Iterator[tuple[Formula, ...]]:
    """What must hold so that an expression comes to a member: `asked ? member : dice.where`, or either alone."""
    found = list(tokens(source))
    question, colon = (_at_top(found, 0, len(found), sign) for sign in "?:")
    if len(question) != 1 or len(colon) != 1:
        yield from [()] if _shows(source.strip(), member, compiled) else []
        return
    asked = conditions.formula(_between(source, found, 0, question[0]))
    if asked is None:
        return
    if _shows(_between(source, found, question[0] + 1, colon[0]), member, compiled):
        yield (asked,)
    if _shows(_between(source, found, colon[0] + 1, len(found)), member, compiled):
        yield (("not", asked),)


def _shows(source: str, member: str, compiled: CompiledEdge) -> bool:
    """Whether a name is a member, or a die that can show it."""
    die = compiled.edge.dice.get(source.removeprefix("dice."))
    return source == member or (isinstance(die, LongDie) and member in (die.pick or ()))


def literals(sources: Iterable[str]) -> set[int]:
    """The whole numbers that are written in some expressions."""
    found = (token.text for source in sources for token in tokens(source) if token.kind == "number")
    return {int(text) for text in found if text.isdigit()}


def decimals(sources: Iterable[str]) -> set[float]:
    """Every number that is written in some expressions, with its sign."""
    found = set()
    for source in sources:
        before = ""
        for token in tokens(source):
            if token.kind == "number" and (number := _number(token.text)) is not None:
                found.add(-number if before == "-" else number)
            before = token.text
    return found


def _number(text: str) -> float | None:
    plain = text.rstrip("uU")
    try:
        return float(int(plain, 16)) if plain[:2] in ("0x", "0X") else float(plain)
    except (ValueError, OverflowError):
        return None


_PLAIN = re.compile(r"(?P<name>[a-z_][\w.]*)\s*(?:[<>]=?|[!=]=)\s*-?(?:\d+(?:\.\d+)?|true|false)", re.IGNORECASE)


def is_plain(condition: Condition, name: str) -> bool:
    """Whether a condition only compares a name with a number, or asks whether it is given or true."""
    source = condition.source.strip()
    compared = _PLAIN.fullmatch(source)
    return source in (name, f"given({name})") or (compared is not None and compared["name"] == name)


def strings(sources: Iterable[str]) -> list[str]:
    """The texts that are written in some expressions, in order."""
    return list(dict.fromkeys(token.text for source in sources for token in tokens(source) if token.kind == "string"))
