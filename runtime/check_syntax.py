"""What CEL says of an expression that it can't compile, in the designer's words and with the line mended.

A mend that is printed whole was compiled: it is what may be written there.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from runtime.cuts import in_quotes
from runtime.expression import CelType

CALLS = {
    "add": "add(set, member)",
    "remove": "remove(set, member)",
    "min": "min(a, b)",
    "max": "max(a, b)",
    "clamp": "clamp(value, low, high)",
    "norm": "norm(text)",
    "given": "given(payload.x)",
    "size": "size(set or text)",
}
"""The functions that messages name, and how each is called."""

_NO_OVERLOAD = re.compile(r"found no matching overload for '(\S+)' applied to '\((.*)\)'")
_TYPE_NAMES = {
    "double": "float",
    "string": "str",
    "list<string>": "set",
    "list(string)": "set",
    "list<dyn>": "list",
    "list(dyn)": "list",
    "dyn": "anything",
}
_SYNTAX = (
    (re.compile(r"<EOF>"), "Something is missing at the end, or a bracket is left open"),
    (re.compile(r"error at: '[^\x00-\x7f]"), "Texts stand in quotes of their own, and operators are of ASCII"),
    (re.compile(r"error at: ''"), "A quote mark is left open"),
)
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'")
_NOT_IN = re.compile(r"([\w.]+|\ue000+)\s+not\s+in\s+([\w.]+|\[[^\]]*\])", re.IGNORECASE)
_NOT = re.compile(r"\bnot\b\s*", re.IGNORECASE)
_SIGNS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("and", re.compile(r"\band\b", re.IGNORECASE), "&&"),
    ("or", re.compile(r"\bor\b", re.IGNORECASE), "||"),
    ("&", re.compile(r"(?<!&)&(?!&)"), "&&"),
    ("|", re.compile(r"(?<!\|)\|(?!\|)"), "||"),
    ("===", re.compile(r"===+"), "=="),
    ("!==", re.compile(r"!=="), "!="),
    ("=>", re.compile(r"=>"), ">="),
    ("=<", re.compile(r"=<"), "<="),
    ("=!", re.compile(r"(?<![=<>!])=!(?!=)"), "!="),
    ("=", re.compile(r"(?<![=!<>+\-*/%])=(?![=<>!])"), "=="),
    ("<>", re.compile(r"<>"), "!="),
    ("≠", re.compile("≠"), "!="),
    ("≥", re.compile("≥"), ">="),
    ("≤", re.compile("≤"), "<="),
)
_CHANGE = re.compile(r"\s*(?P<sign>[-+*/])=\s*(?P<amount>[^=].*)|\s*(?P<plus>\+)\s*(?P<more>\w.*)")
_WORDS = re.compile(r"[^\"\\+()\[\]{}?:<>=&|]*\w[^\"\\+()\[\]{}?:<>=&|]*")
_MAX_SHOWN = 80
"""The longest mended line that a message prints, in characters."""


class Place(Struct, frozen=True):
    """Where an expression stands: the variable that takes it, '' for none, and the type that is wanted, if any.

    `type_of` gives the type of another expression there, None where it can't be compiled.
    """

    variable: str
    wanted: CelType | None
    type_of: Callable[[str], CelType | None]


class Said(Struct, frozen=True):
    """What is told of an expression: at which character (from 1; 0: where the library says), code and sentence."""

    col: int
    code: str
    message: str


def explained(message: str, source: str, place: Place) -> Said:
    """A library's message on an expression."""
    foreign = _foreign(source, place)
    if foreign is not None:
        return foreign
    overload = _NO_OVERLOAD.search(message)
    if overload:
        return Said(0, "E303", _mismatch(*overload.groups()))
    if "undeclared reference to" in message:
        name = message.partition("'")[2].rstrip("'")
        return Said(0, "E302", f"'{name}' is not called like this: write {CALLS.get(name, 'it otherwise')}")
    if message.startswith("Syntax error: "):
        return Said(
            0, "E301", f"the expression can't be read: {_short(message)}. {_syntax_mend(message, source, place)}"
        )
    if message.startswith("reserved identifier: "):
        word = message.partition(": ")[2]
        return Said(0, "E301", f"'{word}' is a word that CEL keeps. To choose between values write a ? b : c")
    return Said(0, "E301", message if message.startswith(("has(", "triple")) else f"the expression {message}")


def as_text(source: str, words: dict[int, str], place: Place) -> str:
    """An expression with its words, by column from 1, in quotes; '' where that can't stand here either."""
    for col in sorted(words, reverse=True):
        word = words[col]
        source = f'{source[: col - 1]}"{word}"{source[col - 1 + len(word) :]}'
    return in_quotes(source) if len(source) <= _MAX_SHOWN and _fits(source, place) else ""


def _fits(source: str, place: Place) -> bool:
    found = place.type_of(source)
    return found is not None and place.wanted in {found, None}


# --- what other languages write ---


def _foreign(source: str, place: Place) -> Said | None:
    """The operators of other languages, and the expression with CEL's."""
    hidden = _STRING.sub(lambda match: "\ue000" * len(match.group()), source)
    found = {name: match.start() for name, pattern, _ in _SIGNS if (match := pattern.search(hidden))}
    if match := _NOT.search(hidden):
        found["not"] = match.start()
    if not found:
        return None
    signs = {name: sign for name, _, sign in _SIGNS} | {"not": "!( )"}
    said = ", ".join(f"{signs[name]} for '{name}'" for name in sorted(found, key=lambda name: found[name]))
    mended = _in_cel(source, hidden)
    mend = f". Write {in_quotes(mended)}" if len(mended) <= _MAX_SHOWN and _fits(mended, place) else ""
    return Said(min(found.values()) + 1, "E301", f"CEL writes {said}{mend}")


def _in_cel(source: str, hidden: str) -> str:
    for _, pattern, sign in _SIGNS:
        hidden = pattern.sub(sign, hidden)
    hidden = _NOT_IN.sub(r"!(\1 in \2)", hidden)
    while match := _NOT.search(hidden):
        operand = _operand(hidden[match.end() :])
        is_whole = operand.startswith("(") and operand.endswith(")")
        rest = hidden[match.end() + len(operand) :]
        hidden = f"{hidden[: match.start()]}!{operand if is_whole else f'({operand})'}{rest}"
    strings = iter(_STRING.findall(source))
    return re.sub("\ue000+", lambda _: next(strings), hidden)


def _operand(rest: str) -> str:
    """What a `not` denies: up to the next `&&`, `||`, `?`, or a bracket that closes around it."""
    depth = 0
    for at, char in enumerate(rest):
        depth += (char in "([") - (char in ")]")
        if depth < 0 or (depth == 0 and (rest[at : at + 2] in {"&&", "||"} or char in "?:,")):
            return rest[:at].rstrip()
    return rest.rstrip()


# --- CEL's own messages ---


def _syntax_mend(message: str, source: str, place: Place) -> str:
    change = _CHANGE.fullmatch(source) if place.variable else None
    if change:
        sign, amount = change["sign"] or change["plus"], change["amount"] or change["more"]
        return f"Write {place.variable} {sign} {amount}"
    text = f'"{source}"'
    if place.wanted == "str" and _WORDS.fullmatch(source) and _fits(text, place):
        return f"A text stands in quotes of its own, inside YAML's: {in_quotes(text)}"
    return next((mend for pattern, mend in _SYNTAX if pattern.search(message)), "Is an operator or bracket missing?")


def _short(message: str) -> str:
    text = message.removeprefix("Syntax error: ").partition(" expecting {")[0]
    return text.replace("token recognition error at:", "no meaning in").replace("<EOF>", "its end")


def _mismatch(function: str, types: str) -> str:
    kinds = [_TYPE_NAMES.get(kind.strip(), kind.strip()) for kind in types.split(", ")]
    sign = function.strip("_").replace("@in", "in").replace("?_:", "? :").replace("[_]", "[ ]")
    if {"int", "float"} <= set(kinds):
        return f"'{sign}' can't mix int and float. Write whole floats as 1.0"
    if sign in {"&&", "||", "!", "? :"}:
        other = next((kind for kind in kinds if kind != "bool"), kinds[-1])
        return f"'{sign}' wants a bool and has {a(other)}. Compare it with something"
    if "set" in kinds and "str" in kinds:
        return f"'{sign}' can't take a set and a str. Write member in set, add(set, member) or remove(set, member)"
    return f"'{sign}' can't take {' and '.join(map(a, kinds))}. Compare or join values of one type"


def a(kind: str) -> str:
    """A type with its article."""
    return f"an {kind}" if kind in {"int", "anything"} else f"a {kind}"
