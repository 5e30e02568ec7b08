"""Faults of a request, all at once, in words that never repeat a client's values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import Struct

from runtime.errors import ValidationError

Loc = tuple[str | int, ...]
"""Where a value stands: `body` or `query`, then keys and indexes."""

_EVIL = re.compile("[\\x00\\ud800-\\udfff]")
_SHOWN_CHARS = 60
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "object": "an object",
    "array": "a list",
    "boolean": "true or false",
    "null": "null",
}
_RULES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "type": ("type", lambda kind: f"must be {' or '.join(_TYPES.get(name, name) for name in kind.types)}"),
    "anyOf": ("type", lambda kind: _alternatives(kind.context)),
    "enum": ("enum", lambda kind: f"must be one of {', '.join(map(str, kind.options))}"),
    "minimum": ("minimum", lambda kind: f"must be at least {kind.limit}"),
    "maximum": ("maximum", lambda kind: f"must be at most {kind.limit}"),
    "minLength": ("min_length", lambda kind: f"must have at least {kind.limit} character{'s' * (kind.limit != 1)}"),
    "maxLength": ("max_length", lambda kind: f"must have at most {kind.limit} characters"),
    "maxItems": ("max_items", lambda kind: f"must have at most {kind.limit} items"),
    "maxProperties": ("max_items", lambda kind: f"must have at most {kind.limit} keys"),
    "pattern": ("pattern", lambda kind: f"must match {kind.pattern}"),
    "propertyNames": ("key", lambda _: "must have shorter keys"),
}
"""The schema's rule → its name on the wire, and its sentence."""


class Fault(Struct, frozen=True):
    """One thing that is wrong with a request: where, what, and which rule it breaks."""

    loc: list[str | int]
    msg: str
    type: str


def refuse(faults: list[Fault]) -> ValidationError:
    """The refusal for a request's faults, which are at least one."""
    where = ".".join(map(str, faults[0].loc))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return ValidationError(
        f"{where}: {faults[0].msg}{more}",
        "Mend each of the details; GET /schema has the whole shape.",
        details=msgspec.to_builtins(faults),
    )


def faults_of(
    validator: jsonschema_rs.Validator, value: Any, keys: Mapping[Loc, Iterable[str]], root: str
) -> list[Fault]:
    """Every fault that a schema finds; `keys` has the known keys of each object by its path."""
    return [fault for error in validator.iter_errors(value) for fault in _told(error, keys, root)]


def _told(error: jsonschema_rs.ValidationError, keys: Mapping[Loc, Iterable[str]], root: str) -> Iterator[Fault]:
    """One error of the schema in our own words: the validator's would repeat the client's values."""
    path = tuple(error.instance_path)
    loc = [root, *map(_printable, path)]
    if error.kind.name == "additionalProperties":
        for key in error.kind.value:
            yield unknown_key([*loc, shown(key)], key, keys.get(path, ()))
        return
    if error.kind.name == "required":
        yield Fault([*loc, error.kind.value], "is missing", "missing")
        return
    yield Fault(loc, _sentence(error.kind), _RULES.get(error.kind.name, (error.kind.name,))[0])


def _sentence(kind: Any) -> str:
    rule = _RULES.get(kind.name)
    return rule[1](kind) if rule else f"breaks the schema's rule '{kind.name}'"


def _alternatives(context: list[list[jsonschema_rs.ValidationError]]) -> str:
    """What an anyOf asks for: of the branch that has the value's type, else of every branch."""
    kinds = [errors[0].kind for errors in context if errors]
    asked = [_sentence(kind) for kind in kinds if kind.name != "type"]
    types = [_sentence(kind).removeprefix("must be ") for kind in kinds if kind.name == "type"]
    return " or ".join(asked) or f"must be {' or '.join(types)}"


def unknown_key(loc: list[str | int], key: str, known: Iterable[str]) -> Fault:
    """The fault of a key that nothing reads."""
    meant = nearest(key, known)
    return Fault(loc, "is not a known key." + (f" Did you mean '{meant}'?" if meant else ""), "unknown_key")


def of_conversion(error: msgspec.ValidationError, root: str) -> Fault:
    """A fault that only msgspec sees, such as 2.0 for a whole number."""
    what, _, where = str(error).partition(" - at `$")
    msg = what.replace("`", "").replace("Expected", "must be")
    msg = "must be a whole number, written without a decimal point" if msg.endswith("got float") else msg
    return Fault([root, *(part for part in re.split(r"[.\[\]`]+", where) if part)], msg, "type")


def nearest(word: str, among: Iterable[str]) -> str | None:
    """The name that was probably meant; None where none is near."""
    found = difflib.get_close_matches(word.casefold(), list(among), 1)
    return found[0] if found else None


def evil(value: Any, loc: Loc) -> Iterator[Fault]:
    """A fault for each string, key or not, that holds NUL or a lone surrogate: the stores differ on them."""
    if isinstance(value, str) and _EVIL.search(value):
        yield Fault(list(loc), "holds NUL or a lone surrogate, which no store keeps", "characters")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from evil(key, (*loc, shown(key)))
            yield from evil(inner, (*loc, shown(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from evil(inner, (*loc, index))


def cleaned(value: Any) -> Any:
    """The value with evil characters replaced, so that the rest of it can be looked at."""
    if isinstance(value, dict):
        return {cleaned(key): cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [cleaned(inner) for inner in value]
    return _EVIL.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


def shown(text: str | bytes) -> str:
    """A client's own word, fit for a message: short, and without what can't be written."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    cut = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)


def _printable(part: str | int) -> str | int:
    return part if isinstance(part, int) else shown(part)
