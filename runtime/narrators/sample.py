"""The smallest value that a JSON Schema allows: for outputs that are data and not text.

It knows the words that outputs are declared with (type, const, enum, default, properties, items,
limits, anyOf, $ref into the same schema); `pattern` and `format` are left to the designer, whose
`default` or `enum` then says what to write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DEPTH = 32
"""How deep a schema may refer to itself before `null` stands in."""


def smallest(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """The smallest value valid for a schema; `root` is where its `$ref`s point into."""
    root = schema if root is None else root
    if depth > DEPTH:
        return None
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if schema.get("enum"):
        return schema["enum"][0]
    if (other := _instead(schema, root)) is not None:
        return smallest(other, root, depth + 1)
    return _of_type(_type_of(schema), schema, root, depth)


def _instead(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that stands in for one that refers, chooses or combines."""
    if "$ref" in schema:
        return _target(str(schema["$ref"]), root)
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            rest = {key: value for key, value in schema.items() if key != word}
            return _merged(rest, schema[word][0])
    if schema.get("allOf"):
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, _target(part["$ref"], root) if "$ref" in part else part)
        return merged
    return None


def _target(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name:
            found = found.get(name.replace("~1", "/").replace("~0", "~"), {})
    return found if isinstance(found, Mapping) else {}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = [*dict.fromkeys([*first["required"], *second["required"]])]
    return merged


def _type_of(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = "null" if "null" in declared else next(iter(declared), None)
    if declared:
        return str(declared)
    return "object" if "properties" in schema or "required" in schema else "array" if "items" in schema else "null"


def _of_type(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            return _array(schema, root, depth)
        case "string":
            return "-" * int(schema.get("minLength", 0))
        case "integer":
            return int(_number(schema, 1))
        case "number":
            return float(_number(schema, 0.0))
        case "boolean":
            return False
        case _:
            return None


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: smallest(properties.get(name, {}), root, depth + 1) for name in schema.get("required", ())}


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[Any]:
    count, fixed, items = int(schema.get("minItems", 0)), schema.get("prefixItems", []), schema.get("items", {})
    parts = [fixed[index] if index < len(fixed) else items for index in range(max(count, len(fixed)))]
    made = [smallest(part if isinstance(part, Mapping) else {}, root, depth + 1) for part in parts]
    return _distinct(made, items) if schema.get("uniqueItems") else made


def _distinct(made: list[Any], items: Any) -> list[Any]:
    """Equal members told apart: the enum's in turn, strings by length, numbers by counting."""
    if isinstance(items, Mapping) and len(items.get("enum", ())) >= len(made):
        return list(items["enum"][: len(made)])
    if all(isinstance(each, str) for each in made):
        return [each + "-" * index for index, each in enumerate(made)]
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in made):
        return [each + index for index, each in enumerate(made)]
    return made


def _number(schema: Mapping[str, Any], step: float) -> float:
    """0, or what is nearest to it within the limits; `step` leaves an exclusive one."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    low = max(low, schema.get("exclusiveMinimum", -math.inf) + (step or 1e-9))
    high = min(high, schema.get("exclusiveMaximum", math.inf) - (step or 1e-9))
    value = min(max(0, low), high)
    multiple = schema.get("multipleOf")
    return math.ceil(value / multiple) * multiple if multiple else math.ceil(value) if step else value
