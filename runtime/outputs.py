"""What a prompt asks a model for: the short form of `outputs` and JSON Schema, as one JSON Schema.

The short form is a map of names to kinds (`scene: scene`, `npc_line: "text?"`) or to maps of the
same form. A map whose `type` is one of JSON Schema's own types is a schema, in the place of a
kind or as the whole. Lengths aren't written in: they belong to a session.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs
from msgspec import Struct

KINDS: Mapping[str, str] = {
    "scene": "string",
    "option": "string",
    "text": "string",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
}
"""The kinds of the short form and their types in JSON Schema. `json` is the kind of any other schema."""
TEXTS = frozenset({"scene", "option", "text"})
"""The kinds that a player reads: never empty where they are required."""
JSON_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean"})
"""JSON Schema's types: a map whose `type` is one of them is a schema."""
RESERVED = frozenset({"ai_state", "options", "ending", "key_choices", "status", "outcome", "inputs", "routing", "meta"})
"""Names of the answer's payload that are the machine's own."""
MAX_DEPTH = 6
"""How deep outputs may be nested."""
MAX_FIELDS = 64
"""How many leaves outputs may have."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_LEAF = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "$id", "$anchor", "$schema"})

Path = tuple[str | int, ...]


class OutputFault(Struct, frozen=True):
    """Something wrong in `outputs`, at a path below it."""

    path: Path
    code: str
    message: str


class Outputs(Struct, frozen=True):
    """The JSON Schema of a prompt's outputs, its leaves by dotted path, and those that must be there."""

    schema: Mapping[str, Any]
    fields: Mapping[str, str]
    required: frozenset[str]


def is_schema(value: object) -> bool:
    """Whether a map of the front matter is JSON Schema and not the short form."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and value["type"] in JSON_TYPES


def parse_outputs(value: object) -> tuple[Outputs, list[OutputFault]]:
    """Read `outputs` as written; where there are faults, the result holds what could be read."""
    if not isinstance(value, Mapping):
        return _of({}, {}), [OutputFault((), "E413", "`outputs` must be a map of names to kinds.")]
    whole = is_schema(value) and value["type"] == "object" and "properties" in value
    faults: list[OutputFault] = []
    kinds: dict[Path, str] = {}
    schema = _whole(value, faults) if whole else _short(value, (), faults, kinds)
    outputs = _of(schema, {".".join(map(str, path)): kind for path, kind in kinds.items()})
    faults += _too_many(outputs)
    faults += _reserved(schema, ("properties",) if whole else ())
    return outputs, faults


def _of(schema: Mapping[str, Any], kinds: Mapping[str, str]) -> Outputs:
    leaves = dict(_leaves(schema))
    must = frozenset(path for path, (_, required) in leaves.items() if required)
    return Outputs(schema, {path: kinds.get(path, kind) for path, (kind, _) in leaves.items()}, must)


def _too_many(outputs: Outputs) -> Iterator[OutputFault]:
    if len(outputs.fields) > MAX_FIELDS:
        message = f"{len(outputs.fields)} outputs are more than {MAX_FIELDS}. Ask for less at once."
        yield OutputFault((), "E413", message)


def _reserved(schema: Mapping[str, Any], path: Path) -> Iterator[OutputFault]:
    for name in schema.get("properties", {}):
        if name in RESERVED:
            yield OutputFault((*path, name), "E414", f"the runtime itself adds '{name}' to every answer. Drop it here.")


def _whole(value: Mapping[str, Any], faults: list[OutputFault]) -> dict[str, Any]:
    faults += _schema_faults(value, ())
    return {} if faults else {"additionalProperties": False, **value}


def _short(value: Mapping[str, Any], path: Path, faults: list[OutputFault], kinds: dict[Path, str]) -> dict[str, Any]:
    """The schema of a short form; its faults and its leaves' kinds are added to the two given."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, kind in value.items():
        here = (*path, name)
        found = _name_fault(name, here) or _property(kind, here, faults, kinds)
        if isinstance(found, OutputFault):
            faults.append(found)
            continue
        properties[name], must = found
        required += [name] if must else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _name_fault(name: object, path: Path) -> OutputFault | None:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return OutputFault(path, "E413", f"an output's name is letters, digits and '_', not {name!r}.")


def _property(
    kind: Any, path: Path, faults: list[OutputFault], kinds: dict[Path, str]
) -> tuple[dict[str, Any], bool] | OutputFault:
    """A property's schema, and whether it must be there."""
    if isinstance(kind, str):
        kinds[path] = kind.removesuffix("?")
        return _leaf(kind, path)
    if is_schema(kind):
        found = list(_schema_faults(kind, path))
        faults += found
        return ({} if found else dict(kind)), True
    if isinstance(kind, Mapping):
        if len(path) >= MAX_DEPTH:
            return OutputFault(path, "E413", f"outputs are nested deeper than {MAX_DEPTH}. Flatten them.")
        nested = _short(kind, path, faults, kinds)
        return nested, bool(nested["required"])
    return OutputFault(path, "E413", f"an output is a kind, a map or a JSON Schema, not {kind!r}.")


def _leaf(written: str, path: Path) -> tuple[dict[str, Any], bool] | OutputFault:
    kind = written.removesuffix("?")
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, 1, 0.5)
        mend = f"Did you mean '{close[0]}'?" if close else f"Kinds: {', '.join(KINDS)}, each with `?` when optional."
        return OutputFault(path, "E413", f"no kind '{written}'. {mend}")
    must = kind == written
    never_empty = must and kind in TEXTS
    return {"type": KINDS[kind], **({"minLength": 1} if never_empty else {})}, must


def _schema_faults(schema: Mapping[str, Any], path: Path) -> Iterator[OutputFault]:
    reference = next(_references(schema), None)
    if reference:
        yield OutputFault(
            path, "E413", f"`{reference}` is not part of outputs: nothing is looked up. Write it in place."
        )
        return
    try:
        jsonschema_rs.validator_for(dict(schema))
    except (ValueError, TypeError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        yield OutputFault(path, "E413", f"not a JSON Schema: {str(error).partition(chr(10))[0]}.")


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from (key for key in schema if key in _REFERENCES)
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _leaves(schema: Mapping[str, Any], path: str = "", *, must: bool = True) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Each leaf's dotted path with its kind and whether it must be there."""
    needed = frozenset(schema.get("required", ()))
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else str(name)
        there = must and name in needed
        if isinstance(part, Mapping) and part.get("type") == "object" and part.get("properties"):
            yield from _leaves(part, here, must=there)
        else:
            kind = str(part.get("type")) if isinstance(part, Mapping) else ""
            yield here, (_LEAF.get(kind, "json"), there)
