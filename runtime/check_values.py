"""The rules about what an expression comes to: ranges of numbers, the order of sets, and division by zero."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from runtime.check_members import Vocabulary, is_literal
from runtime.draft import Draft, Slot
from runtime.errors import Finding
from runtime.expression import Token, norm, tokens
from runtime.model import Variable

_NUMBER = re.compile(r"([+-]?)(\d+(?:\.\d+)?)")


def values(draft: Draft, slot: Slot, vocabulary: Vocabulary) -> Iterator[Finding]:
    """What comes out otherwise than it was meant, whatever the names stand for."""
    yield from _numbers(draft, slot)
    if isinstance(slot.source, str):
        found = list(tokens(slot.source))
        yield from _divided(draft, slot, found)
        yield from _lists(draft, slot, found, vocabulary)
        yield from _normed(draft, slot, found)


# --- numbers ---


def _numbers(draft: Draft, slot: Slot) -> Iterator[Finding]:
    variable = draft.definition.context[slot.variable] if slot.variable else None
    if variable is None or variable.type not in {"int", "float"} or slot.key not in {"", "otherwise"}:
        return
    written = draft.document.places.written.get(slot.path, str(slot.source)).strip("\"' ")
    number = _NUMBER.fullmatch(written)
    if number is not None and ("." in written) == (variable.type == "float"):
        for message in _set_to(slot.variable or "", variable, *number.groups()):
            yield draft.at_value(slot.path, "W301", message)


def _set_to(name: str, variable: Variable, sign: str, digits: str) -> Iterator[str]:
    """Why a variable is set to another number than was likely meant: out of its range, or with a sign."""
    passed = _passed(variable, float(sign + digits))
    change = f"{name} {sign} {digits} to change it by that, or " if sign else ""
    if passed is not None:
        key, end = passed
        mend = f"{change}{end} to set it" if sign else end
        yield f"'{name}' can't be {sign}{digits}: {key} is {end}, so it becomes {end}. Write {mend}"
    elif sign == "+":
        yield f"'+{digits}' sets '{name}' to {digits}. Write {change}{digits} to set it"
    elif sign and variable.min is None:
        yield f"'-{digits}' sets '{name}' to -{digits}. Write {change}give '{name}' a min that allows -{digits}"


def _passed(variable: Variable, value: float) -> tuple[str, float] | None:
    """The end of a variable's range that a value is beyond."""
    if variable.min is not None and value < variable.min:
        return "min", variable.min
    if variable.max is not None and value > variable.max:
        return "max", variable.max
    return None


def _divided(draft: Draft, slot: Slot, found: list[Token]) -> Iterator[Finding]:
    for operator, divisor in pairwise(found):
        if operator.text in {"/", "%"} and operator.kind == "operator" and _is_zero(divisor):
            message = f"'{operator.text} {divisor.text}' divides by zero, so it has no value"
            yield draft.inside(slot.path, operator.col, "E310", f"{message}. Write another divisor")


def _is_zero(token: Token) -> bool:
    return token.kind == "number" and re.fullmatch(r"0+(\.0*)?", token.text) is not None


# --- sets ---


def _lists(draft: Draft, slot: Slot, found: list[Token], vocabulary: Vocabulary) -> Iterator[Finding]:
    """`bag == [x, y]` and `[x, y] == bag` where the list is in another order than the set is kept in."""
    for index, operator in enumerate(found):
        if operator.text not in {"==", "!="} or operator.kind != "operator":
            continue
        left, right = found[:index], found[index + 1 :]
        for name, listed in ((left[-1:], _list_at(right)), (right[:1], _list_before(left))):
            if name and listed and name[0].kind == "name" and name[0].text in vocabulary.sets:
                yield from _ordered(draft, slot, name[0].text, listed, vocabulary)


def _list_at(found: list[Token]) -> list[Token]:
    """The tokens between the brackets of the list that some tokens begin with."""
    ends = [index for index, token in enumerate(found) if token.text == "]" and token.kind == "operator"]
    return found[1 : ends[0]] if ends and found[0].text == "[" else []


def _list_before(found: list[Token]) -> list[Token]:
    starts = [index for index, token in enumerate(found) if token.text == "[" and token.kind == "operator"]
    return found[starts[-1] + 1 : -1] if starts and found[-1].text == "]" else []


def _ordered(draft: Draft, slot: Slot, name: str, listed: list[Token], vocabulary: Vocabulary) -> Iterator[Finding]:
    items = [token for token in listed if token.text != ","]
    written = [token.text for token in items]
    kept = [member for member in vocabulary.sets[name] if member in written]
    if all(is_literal(token, vocabulary) for token in items) and set(written) == set(kept) and written != kept:
        message = f"'{name}' is kept in the order of its `of`, so it never equals [{', '.join(written)}]"
        mend = f"Write [{', '.join(kept)}], or ask for each with `in`"
        yield draft.inside(slot.path, items[0].col, "E309", f"{message}. {mend}")


# --- texts ---


def _normed(draft: Draft, slot: Slot, found: list[Token]) -> Iterator[Finding]:
    """`norm(x) == "The Guest"`: a text that no text becomes by `norm`."""
    for index, token in enumerate(found):
        if (
            token.text != "norm"
            or token.kind != "name"
            or [each.text for each in found[index + 1 : index + 2]] != ["("]
        ):
            continue
        end = _closing(found, index + 1)
        for literal in _told_of(found, index, end):
            yield from _never_normed(draft, slot, literal)


def _told_of(found: list[Token], start: int, end: int) -> Iterator[Token]:
    """What the call from `start` to `end` is compared with, or asked for."""
    after = [each.text for each in found[end + 1 : end + 4]]
    if after[:1] in (["=="], ["!="]):
        yield from found[end + 2 : end + 3]
    elif after[:2] == ["in", "["]:
        yield from _list_at(found[end + 2 :])
    elif after in [[".", method, "("] for method in ("contains", "startsWith", "endsWith")]:
        yield from found[end + 4 : end + 5]
    if start > 1 and found[start - 1].text in {"==", "!="}:
        yield found[start - 2]


def _closing(found: list[Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(found)):
        if found[index].kind == "operator":
            depth += (found[index].text == "(") - (found[index].text == ")")
        if not depth:
            return index
    return len(found)


def _never_normed(draft: Draft, slot: Slot, literal: Token) -> Iterator[Finding]:
    if literal.kind == "string" and (wanted := norm(literal.text)) != literal.text:
        message = f"norm(…) never gives '{literal.text}'. Write '{wanted}'"
        yield draft.inside(slot.path, literal.col, "W302", message)
