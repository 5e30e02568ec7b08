"""A YAML file held to a Struct: every fault at once, each at its place, with the mend.

For the small files of a project. A machine's own file has sentences of its own (`shape`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import Struct

from runtime.document import Document
from runtime.errors import Finding
from runtime.model import Path
from runtime.shape import did_you_mean

_KINDS = jsonschema_rs.ValidationErrorKind
_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map (key: value)",
}
_BOUNDS = {
    _KINDS.Minimum: "too small: at least {}",
    _KINDS.ExclusiveMinimum: "too small: more than {}",
    _KINDS.Maximum: "too large: at most {}",
    _KINDS.MinLength: "too short: at least {} long",
    _KINDS.MinItems: "too short: at least {} long",
    _KINDS.MinProperties: "too short: at least {} long",
}
_NUMBERS = {"integer", "number"}
_NO_WHOLE = 0.5
"""Stands for a number that is written with a point, such as 2.0: JSON Schema takes that for a whole one."""


class Form(Struct, frozen=True):
    """What a file must be, ready to hold files to; made by `form_of`.

    `meant` leads from keys that people write to the key that they mean. `hints` has what is said of
    an unknown key, by its Struct's name and itself; `mends` what is said where a pattern is missed:
    that value is not repeated, since it may be a secret.
    """

    schema: Mapping[str, Any]
    validator: Any
    meant: Mapping[str, str]
    hints: Mapping[tuple[str, str], str]
    mends: Mapping[str, str]


def form_of(
    kind: type[Struct],
    *,
    meant: Mapping[str, str] | None = None,
    hints: Mapping[tuple[str, str], str] | None = None,
    mends: Mapping[str, str] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Form:
    """The form of a Struct, whose parts take the keys alone that they name.

    `others` says what stands under the keys that a Struct, by its name, doesn't name.
    """
    (schema, *rest), parts = msgspec.json.schema_components(
        [kind, *(others or {}).values()], ref_template="#/$defs/{name}"
    )
    known = {name for name, part in parts.items() if "properties" in part}
    parts = {name: {"additionalProperties": False, **part} if name in known else part for name, part in parts.items()}
    for name, other in zip(others or {}, rest, strict=True):
        parts[name] = {**parts[name], "additionalProperties": other}
    whole = {**schema, "$defs": parts}
    return Form(whole, jsonschema_rs.validator_for(whole), meant or {}, hints or {}, mends or {})


def faults_of(document: Document, form: Form) -> list[Finding]:
    """What of a document is not as its form wants it, in file order; what could not be read is not among it."""
    if document.value is None:
        return []
    wrongs = [wrong for error in form.validator.iter_errors(document.value) for wrong in _wrong(form, error)]
    wrongs += _not_whole(document, form)
    meant = {(path[:-1], message.rpartition("Did you mean ")[2]) for path, code, message in wrongs if code == "E101"}
    return sorted({_finding(document, *wrong) for wrong in wrongs if not _is_result(document, meant, *wrong)})


def _not_whole(document: Document, form: Form) -> list[tuple[Path, str, str]]:
    """The faults of numbers with a point that stand where a whole number does."""
    pointed: set[Path] = set()
    value = _pointed(document.value, (), pointed)
    if not pointed:
        return []
    wrongs = [wrong for error in form.validator.iter_errors(value) for wrong in _wrong(form, error)]
    return [(path, code, message) for path, code, message in wrongs if code == "E105" and path in pointed]


def _pointed(value: Any, path: Path, found: set[Path]) -> Any:
    """The value with each 2.0 as a number that is no whole one; their paths are added to `found`."""
    if isinstance(value, dict):
        return {name: _pointed(each, (*path, name), found) for name, each in value.items()}
    if isinstance(value, list):
        return [_pointed(each, (*path, number), found) for number, each in enumerate(value)]
    if isinstance(value, float) and value.is_integer():
        found.add(path)
        return _NO_WHOLE
    return value


def _finding(document: Document, path: Path, code: str, message: str) -> Finding:
    line, col = document.places.key(path) if code == "E101" else document.places.value(path)
    return Finding(document.file, line, col, code, message)


def _is_result(document: Document, meant: set[tuple[Path, str]], path: Path, code: str, message: str) -> bool:
    """Whether a key is missing only because it is written otherwise, or what stood there was reported already."""
    if code != "E102":
        return False
    key = message.split("'")[1]
    return (path, f"'{key}'?") in meant or (*path, key) in document.gone


def _wrong(form: Form, error: Any) -> Iterator[tuple[Path, str, str]]:
    """The path, code and sentence of each fault; of a part with several forms, of the form that was meant."""
    path, kind = tuple(error.instance_path), error.kind
    if isinstance(kind, _KINDS.AnyOf):
        yield from _of_the_meant(form, error, path)
    elif isinstance(kind, _KINDS.AdditionalProperties):
        part = _part(form, error.schema_path[:-1])
        for key in kind.unexpected:
            yield (*path, key), "E101", _unknown(form, key, part)
    elif isinstance(kind, _KINDS.Required):
        yield path, "E102", f"'{kind.property}' is missing here. Add it"
    else:
        yield path, *_told(form, error, path)


def _of_the_meant(form: Form, error: Any, path: Path) -> Iterator[tuple[Path, str, str]]:
    branches = error.kind.context
    fitting = [each for each in branches if not any(_is_of_type(one, path) for one in each)]
    if fitting:
        for each in min(fitting, key=len):
            yield from _wrong(form, each)
        return
    types = (name for branch in branches for each in branch if _is_of_type(each, path) for name in each.kind.types)
    yield path, "E105", _wanted(_name(path), types)


def _is_of_type(error: Any, path: Path) -> bool:
    return isinstance(error.kind, _KINDS.Type) and tuple(error.instance_path) == path


def _part(form: Form, schema_path: Any) -> dict[str, Any]:
    part: Any = form.schema
    for step in schema_path:
        part = part[step]
    return part if isinstance(part, dict) else {}


def _unknown(form: Form, key: str, part: Mapping[str, Any]) -> str:
    known = part.get("properties", {})
    if hint := form.hints.get((part.get("title", ""), key)):
        return f"no key '{key}' here: {hint}"
    if form.meant.get(key) in known:
        return f"no key '{key}' here. Did you mean '{form.meant[key]}'?"
    return f"no key '{key}' here" + did_you_mean(key, known, f"Keys are {', '.join(known)}")


def _told(form: Form, error: Any, path: Path) -> tuple[str, str]:
    value, kind, name = error.instance, error.kind, _name(path)
    if isinstance(kind, _KINDS.Type):
        return "E105", _wanted(name, kind.types)
    if isinstance(kind, _KINDS.Enum):
        words = [str(each) for each in kind.options if each is not None]
        return "E106", f"'{value}' is not one of {', '.join(words)}{did_you_mean(str(value), words)}"
    if isinstance(kind, _KINDS.Pattern):
        return "E110", f"{name} {form.mends[kind.pattern]}"
    bound = next((words for each, words in _BOUNDS.items() if isinstance(kind, each)), "")
    return "E110", f"{name} is {'out of range' if not bound else bound.format(kind.limit)}"


def _wanted(name: str, types: Any) -> str:
    wanted = dict.fromkeys(types)
    if set(wanted) >= _NUMBERS:
        del wanted["integer"]
    return f"{name} is {' or '.join(_TYPES[each] for each in wanted if each in _TYPES)}"


def _name(path: Path) -> str:
    return f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this item"
