"""The shape of a machine's file: every fault at once, each at its place, with the mend.

The schema's own messages speak of keywords; here each becomes a sentence about the machine. Where
a part may have several forms, the form that was meant is the one that fits the value's JSON type.
Parts with faults are then cut out, so that the rest can still be judged.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any

import jsonschema_rs
from msgspec import Struct

from runtime.document import Document, is_expression
from runtime.errors import Finding
from runtime.model import DICE_PATTERN, LANGUAGE_PATTERN, NAME_PATTERN, PAYLOAD_PATTERN, Path
from runtime.places import Places
from runtime.schema import schema

MAX_SHOWN = 60
"""The longest part of a value that a message repeats, in characters."""
MAX_ROUNDS = 8
"""How often faulty parts are cut out before the file is given up."""

_KINDS = jsonschema_rs.ValidationErrorKind
_PATTERNS = {
    NAME_PATTERN: ("E104", "is no name: names are a letter, then letters, digits and _, like OLD_HALL"),
    DICE_PATTERN: ("E107", "is no die: write 1d20, 2d6+1 or 30%, or {pick: [a, b]}"),
    PAYLOAD_PATTERN: ("E108", "is no payload type: write int, float, bool, str or text, with ? where it is optional"),
    LANGUAGE_PATTERN: ("E109", "is no language: write a code like zh, en or pt-BR"),
}
_FREE = ("E114", "is no number of choices: write 3, or 2..4, at most 9")
_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map (key: value)",
    "null": "nothing",
}
_MEANT = {
    "to": "target", "goto": "target", "next": "target", "if": "guard", "when": "guard", "cond": "guard",
    "condition": "guard", "set": "assign", "do": "assign", "actions": "assign", "effects": "assign",
    "name": "label", "say": "tell", "because": "why", "reason": "why", "variables": "context", "vars": "context",
    "transitions": "on", "start": "initial", "final": "type", "values": "of", "choices": "options",
}  # fmt: skip
_HINTS = {
    ("EdgePart", "dice"): "Dice stand on the option, or on the event: {dice: {…}, edges: […]}",
    ("EdgePart", "text"): "An option has a text; an edge has `tell`",
    ("State", "final"): "Write `type: final`",
    ("State", "assign"): "Write `entry`, or put `assign` on an edge",
    ("Initial", "guard"): "The initial edge is always open",
    ("Definition", "dice"): "Dice stand on the initial edge, on an option, or on an event of `on`",
}


_FIRST_KEYS = {"Learn": "from", "Ending": "title", "Variable": "type", "Migration": "from", "Property": "always"}
_STAND_INS = {"machine": "unnamed", "title": "untitled", "language": "en"}


class Wrong(Struct, frozen=True):
    """A fault of shape: where (its key or its value), the code and the sentence.

    `cut` is the part to leave out so that the rest can be judged. `key` is the key that is missing
    (E102), or that was meant by an unknown one (E101).
    """

    path: Path
    at_key: bool
    code: str
    message: str
    cut: Path
    key: str = ""


def did_you_mean(name: str, known: Iterable[str], fallback: str = "") -> str:
    """` Did you mean 'x'?` where a known name is close, else the fallback sentence."""
    close = closest(name, known)
    if close:
        return f". Did you mean '{close}'?"
    return f". {fallback}" if fallback else ""


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a name, whatever its case; '' where none is."""
    choices = {each.casefold(): each for each in reversed(list(known))}
    close = difflib.get_close_matches(name.casefold(), choices, n=1, cutoff=0.6)
    return choices[close[0]] if close else ""


@cache
def _validator() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema())


def shaped(document: Document) -> tuple[Document, list[Finding]]:
    """The document without its faulty parts, and the faults of its shape.

    `value` is None where nothing is left to judge.
    """
    findings: list[Finding] = []
    for turn in range(MAX_ROUNDS):
        wrongs = _wrongs(document)
        if not wrongs:
            return document, findings
        findings += [_finding(document, wrong) for wrong in _new(document, wrongs, is_first=turn == 0)]
        document = _filled(document, wrongs)
        if document.value is None:
            break
        document = _without(document, {wrong.cut for wrong in wrongs if wrong.cut})
    return Document(document.file, None, document.places, document.findings, document.gone), findings


def _wrongs(document: Document) -> list[Wrong]:
    errors = _validator().iter_errors(document.value)
    return [wrong for error in errors for meant in _meant(error) for wrong in _wrong(meant)]


def _finding(document: Document, wrong: Wrong) -> Finding:
    places = document.places
    line, col = places.key(wrong.path) if wrong.at_key else places.value(wrong.path)
    return Finding(document.file, line, col, wrong.code, wrong.message)


def _new(document: Document, wrongs: list[Wrong], *, is_first: bool) -> Iterator[Wrong]:
    """The faults to report: a key that is missing only because of another fault is none of them."""
    meant = {(*wrong.path[:-1], wrong.key) for wrong in wrongs if wrong.code == "E101"}
    formless = {wrong.path for wrong in wrongs if wrong.code == "E105"}
    for wrong in wrongs:
        is_result = wrong.path in formless or (*wrong.path, wrong.key) in meant | document.gone
        if wrong.code != "E102" or (is_first and not is_result):
            yield wrong


def _filled(document: Document, wrongs: list[Wrong]) -> Document:
    """The document with stand-ins for what the root misses; without a value where none can stand in."""
    missing = [wrong.key for wrong in wrongs if wrong.code == "E102" and not wrong.path]
    value = document.value
    if not set(missing) <= set(_STAND_INS) or not value.get("states"):
        return Document(document.file, None, document.places, document.findings, document.gone)
    value = {**value, **{key: _STAND_INS[key] for key in missing if key not in value}}
    gone = document.gone | {(key,) for key in missing}
    return Document(document.file, value, document.places, document.findings, gone)


def _meant(error: Any) -> Iterator[Any]:
    """The errors of the form that was meant, where a part may have several."""
    if not isinstance(error.kind, _KINDS.AnyOf):
        yield error
        return
    fitting = [branch for branch in error.kind.context if not any(_is_of_type(each, error) for each in branch)]
    if not fitting:
        yield error
        return
    for each in min(fitting, key=len):
        yield from _meant(each)


def _is_of_type(each: Any, around: Any) -> bool:
    return isinstance(each.kind, _KINDS.Type) and each.instance_path == around.instance_path


def _wrong(error: Any) -> Iterator[Wrong]:
    path: Path = tuple(error.instance_path)
    kind = error.kind
    if isinstance(kind, _KINDS.AdditionalProperties):
        yield from _unknown_keys(error, path)
    elif isinstance(kind, _KINDS.PropertyNames):
        name = str(kind.error.instance)
        code, message = _told(kind.error, (*path, name))
        yield Wrong((*path, name), at_key=True, code=code, message=message, cut=(*path, name))
    elif isinstance(kind, _KINDS.Required):
        message = _missing(kind.property, path, error)
        yield Wrong(path, at_key=True, code="E102", message=message, cut=path, key=kind.property)
    else:
        code, message = _told(error, path)
        yield Wrong(path, at_key=False, code=code, message=message, cut=path)


def _unknown_keys(error: Any, path: Path) -> Iterator[Wrong]:
    part = _part(error.schema_path[:-1])
    allowed = part.get("properties", {})
    title = part.get("title", "")
    if title == "Entry" and "target" in error.instance:
        message = f"the edges of '{path[-1]}' are a list: write [{{target: {error.instance['target']}, …}}]"
        yield Wrong(path, at_key=False, code="E105", message=message, cut=path)
        return
    if title == "FreeOptions" and {"key", "text"} & set(error.kind.unexpected):
        message = "authored options are a list: write [{key: …, text: …, target: …}]"
        yield Wrong(path, at_key=False, code="E105", message=message, cut=path)
        return
    for key in error.kind.unexpected:
        mend, meant = _unknown(key, title, allowed)
        message = f"no key '{key}' here. {mend}"
        yield Wrong((*path, key), at_key=True, code="E101", message=message, cut=(*path, key), key=meant)


def _unknown(key: str, title: str, allowed: Collection[str]) -> tuple[str, str]:
    """The mend for an unknown key, and the key that was meant, '' where none is close."""
    if (title, key) in _HINTS:
        return _HINTS[title, key], ""
    meant = _MEANT[key] if _MEANT.get(key) in allowed else closest(key, allowed)
    return (f"Did you mean '{meant}'?", meant) if meant else (f"Keys are {', '.join(allowed)}", "")


def _missing(key: str, path: Path, error: Any) -> str:
    where = f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this item" if path else "the machine"
    part = _part(error.schema_path[:-1])
    doc = (
        part.get("properties", {}).get(key, {}).get("description", "").partition("; ")[0].partition(". ")[0].rstrip(".")
    )
    return f"'{key}' is missing in {where}. Add it: {doc[:1].lower()}{doc[1:]}"


def _part(schema_path: Iterable[str | int]) -> dict[str, Any]:
    """The part of the schema at a path."""
    part: Any = schema()
    for step in schema_path:
        part = part[step]
    return part if isinstance(part, dict) else {}


def _told(error: Any, path: Path) -> tuple[str, str]:
    """The code and the sentence for a value that doesn't fit."""
    kind, value = error.kind, _shown(error.instance)
    if isinstance(kind, _KINDS.Pattern):
        code, message = _PATTERNS.get(kind.pattern, _FREE)
        return code, f"{value} {message}"
    if isinstance(kind, _KINDS.Enum):
        words = [str(option) for option in kind.options]
        if len(words) == 1:
            return "E106", f"{value} can't stand here. Write {words[0]}"
        return "E106", f"{value} is not one of {', '.join(words)}{did_you_mean(str(error.instance), words)}"
    if isinstance(kind, _KINDS.Type | _KINDS.AnyOf):
        return "E105", f"{_name(path)} is {_wanted(error, path)}, not {_found(error.instance)}{_longer(error)}"
    if path[-1:] == ("free",):
        return _FREE[0], f"{value} {_FREE[1]}"
    is_part = isinstance(error.instance, dict | list)
    return "E110", f"{_name(path) if is_part else value} is {_beyond(kind)}"


def _longer(error: Any) -> str:
    """How a value is written where only its first part stands."""
    title = _part(error.schema_path[:-1]).get("title", "")
    key = _FIRST_KEYS.get(title)
    return f". Write {{{key}: {error.instance}}}" if key and isinstance(error.instance, str) else ""


def _wanted(error: Any, path: Path) -> str:
    if is_expression(path):
        return "an expression (in quotes where it holds brackets)"
    kind = error.kind
    one = isinstance(kind, _KINDS.Type)
    types = kind.types if one else [each for branch in kind.context for each in _types(branch)]
    return " or ".join(dict.fromkeys(_TYPES[each] for each in types))


def _types(branch: Iterable[Any]) -> Iterator[str]:
    for error in branch:
        if isinstance(error.kind, _KINDS.Type):
            yield from error.kind.types


def _found(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    return f"the text {_shown(value)}" if isinstance(value, str) else "a list" if isinstance(value, list) else "a map"


def _name(path: Path) -> str:
    return f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this item"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= MAX_SHOWN else f"'{value[: MAX_SHOWN - 1]}…'"
    return "a list" if isinstance(value, list) else "a map" if isinstance(value, dict) else str(value).lower()


def _beyond(kind: Any) -> str:
    limits = {
        _KINDS.Minimum: "too small: at least {}",
        _KINDS.Maximum: "too large: at most {}",
        _KINDS.MinLength: "too short: at least {} characters",
        _KINDS.MaxLength: "too long: at most {} characters",
        _KINDS.MinItems: "too short: at least {} items",
        _KINDS.MaxItems: "too long: at most {} items",
        _KINDS.MinProperties: "empty: at least {} entry",
    }
    text = limits.get(type(kind), "not allowed here")
    return text.format(getattr(kind, "limit", 1))


def _without(document: Document, cuts: set[Path]) -> Document:
    """The document without some parts; the places of list items behind a cut move up with them."""
    value, places = document.value, document.places
    for cut in sorted(
        cuts, key=lambda path: [(isinstance(step, str), str(step).zfill(8)) for step in path], reverse=True
    ):
        value = _cut_out(value, cut)
        if isinstance(cut[-1], int):
            keys, values, written = (_moved(each, cut) for each in (places.keys, places.values, places.written))
            places = Places(keys, values, written, places.mends)
    return Document(document.file, value, places, document.findings, document.gone | cuts)


def _cut_out(value: Any, path: Path) -> Any:
    step, rest = path[0], path[1:]
    if isinstance(value, list) and isinstance(step, int):
        if step >= len(value):
            return value
        return [*value[:step], *([_cut_out(value[step], rest)] if rest else []), *value[step + 1 :]]
    if not isinstance(value, dict) or step not in value:
        return value
    if rest:
        return {**value, step: _cut_out(value[step], rest)}
    return {key: each for key, each in value.items() if key != step}


def _moved(places: dict[Path, Any], cut: Path) -> dict[Path, Any]:
    around, index, depth = cut[:-1], cut[-1], len(cut) - 1
    moved: dict[Path, Any] = {}
    for path, place in places.items():
        here = path[depth] if path[:depth] == around and len(path) > depth else None
        if here == index:
            continue
        if isinstance(here, int) and isinstance(index, int) and here > index:
            moved[*around, here - 1, *path[depth + 1 :]] = place
        else:
            moved[path] = place
    return moved
