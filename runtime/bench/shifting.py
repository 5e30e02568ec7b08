"""Small changes of an expression, a die or a literal: each as a new text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runtime.expression import Token, tokens
from runtime.model import Die, Expr, LongDie, dice_parts

Shift = tuple[str, Expr]
"""The kind of a change, and the expression as it reads then."""

_BOUNDS = {">=": ">", ">": ">=", "<=": "<", "<": "<="}
_COMPARED = {**_BOUNDS, "==": "!=", "!=": "=="}
_JOINED = {"&&": "||", "||": "&&"}
_MIRRORED = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}
_MOST_SIDES = 9999


def of_guard(guard: Expr, members: Mapping[str, Sequence[str]]) -> Iterator[Shift]:
    """A guard negated, loosened to true, and with each of its parts changed."""
    if isinstance(guard, bool):
        return
    yield "guard negated", f"!({guard})"
    yield "guard loosened", True
    yield from of_expression(guard, members)


def of_expression(source: Expr, members: Mapping[str, Sequence[str]], assigned: str = "") -> Iterator[Shift]:
    """An expression with one comparison, join, number or member changed.

    `members` is variable → its members: a member gives way to the next one of the same variable, which
    is the one `assigned` where it has it.
    """
    if not isinstance(source, str):
        yield from _of_literal(source)
        return
    found = list(tokens(source))
    names = [assigned, *(token.text for token in found if token.kind == "name")]
    for at, token in enumerate(found):
        for kind, text in _of_token(found, at, token, names, members):
            yield kind, source[: token.col - 1] + text + source[token.col - 1 + _width(source, token) :]


def _of_literal(value: bool | float) -> Iterator[Shift]:  # noqa: FBT001 - a value of the file
    if isinstance(value, bool):
        yield "value flipped", not value
    else:
        yield "number", value + 1
        yield "number", value - 1


def _of_token(
    found: list[Token], at: int, token: Token, names: list[str], members: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    if token.kind == "operator":
        yield from (("comparison", other) for other in (_COMPARED.get(token.text),) if other)
        yield from (("join", other) for other in (_JOINED.get(token.text),) if other)
    elif token.kind == "number":
        yield from (("number", text) for text in _numbers(token.text, _beside(found, at)))
    elif token.text in {"true", "false"} and token.kind == "name":
        yield "value flipped", "false" if token.text == "true" else "true"
    else:
        other = another(token.text, names, members)
        quote = '"' if token.kind == "string" else ""
        yield from (("member", f"{quote}{other}{quote}") for _ in range(other is not None))


def _width(source: str, token: Token) -> int:
    """How many characters a token takes in its source; a string has quotes around it."""
    if token.kind != "string":
        return len(token.text)
    return len(token.text) + 2 + (source[token.col - 1] in "rR")


def _beside(found: list[Token], at: int) -> str:
    """The comparison that a number is the right side of, as `>=`; '' where it stands in no comparison."""
    if at and found[at - 1].text in _BOUNDS:
        return found[at - 1].text
    after = found[at + 1].text if at + 1 < len(found) else ""
    return _MIRRORED.get(after, "")


def _numbers(text: str, comparison: str) -> Iterator[str]:
    """A number's neighbours; beside a comparison only the one that its own change doesn't come to."""
    try:
        value: float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return
    if comparison not in {">=", "<"} or isinstance(value, float):
        yield str(value + 1)
    if (comparison not in {">", "<="} or isinstance(value, float)) and value >= 1:
        yield str(value - 1)


def another(member: str, names: Sequence[str], members: Mapping[str, Sequence[str]]) -> str | None:
    """The next member of the variable that a member belongs to: of one that `names` has, if any does."""
    own = [name for name in members if member in members[name]]
    variable = next((name for name in names if name in own), own[0] if own else None)
    if variable is None or len(members[variable]) == 1:
        return None
    among = members[variable]
    return among[(among.index(member) + 1) % len(among)]


def of_die(die: Die) -> Iterator[tuple[str, Die]]:
    """A die with one side less, with one more on top, a chance that is none or sure, a pick without one of its own."""
    if isinstance(die, LongDie):
        if die.pick is not None:
            yield from _fewer(die, die.pick)
        elif die.roll is not None:
            yield from ((told, LongDie(roll=spec, secret=die.secret)) for told, spec in _rolls(die.roll))
        return
    yield from _rolls(die)


def _fewer(die: LongDie, pick: list[str]) -> Iterator[tuple[str, Die]]:
    for at, dropped in enumerate(pick):
        left = [*pick[:at], *pick[at + 1 :]]
        if left:
            yield dropped, LongDie(pick=left, secret=die.secret)


def _rolls(spec: str) -> Iterator[tuple[str, str]]:
    parts = dice_parts(spec)
    if isinstance(parts, int):
        yield from ((told, told) for told in ("0%", "100%") if told != spec)
        return
    count, sides, plus = parts
    if sides > 1:
        less = f"{count}d{sides - 1}{_signed(plus)}"
        yield less, less
    if plus < _MOST_SIDES:
        more = f"{count}d{sides}{_signed(plus + 1)}"
        yield more, more


def _signed(plus: int) -> str:
    return f"{plus:+d}" if plus else ""
