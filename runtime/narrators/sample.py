"""The smallest value that a JSON Schema allows: for outputs that are data and not text.

It knows the words that outputs are declared with (type, const, enum, default, properties, items,
limits, anyOf, allOf); references are no part of outputs. `pattern` and `format` are left to the
designer, whose `default` or `enum` then says what to write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runtime.terms import find_term, free_mark

Terms = tuple[str, ...]


def smallest(schema: Mapping[str, Any], terms: Terms = ()) -> Any:
    """The smallest value valid for a schema, without the forbidden terms where it leaves a choice."""
    if "const" in schema:
        return schema["const"]
    if "default" in schema and not _holds(schema["default"], terms):
        return schema["default"]
    if schema.get("enum"):
        return next((each for each in schema["enum"] if not _holds(each, terms)), schema["enum"][0])
    if (other := _instead(schema)) is not None:
        return smallest(other, terms)
    return _of_type(_type_of(schema), schema, terms)


def _holds(value: Any, terms: Terms) -> bool:
    return find_term(str(value), terms) is not None


def _instead(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that stands in for one that chooses or combines."""
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            rest = {key: value for key, value in schema.items() if key != word}
            return _merged(rest, schema[word][0])
    if schema.get("allOf"):
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, part)
        return merged
    return None


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


def _of_type(kind: str, schema: Mapping[str, Any], terms: Terms) -> Any:
    if kind == "object":
        return _object(schema, terms)
    if kind == "array":
        return _array(schema, terms)
    if kind == "string":
        return (free_mark(terms) or "-") * int(schema.get("minLength", 0))
    if kind in {"integer", "number"}:
        return int(_number(schema, 1)) if kind == "integer" else float(_number(schema, 0.0))
    return False if kind == "boolean" else None


def _object(schema: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: smallest(properties.get(name, {}), terms) for name in schema.get("required", ())}


def _array(schema: Mapping[str, Any], terms: Terms) -> list[Any]:
    count, fixed, items = int(schema.get("minItems", 0)), schema.get("prefixItems", []), schema.get("items", {})
    parts = [fixed[index] if index < len(fixed) else items for index in range(max(count, len(fixed)))]
    made = [smallest(part if isinstance(part, Mapping) else {}, terms) for part in parts]
    return _distinct(made, items) if schema.get("uniqueItems") else made


def _distinct(made: list[Any], items: Any) -> list[Any]:
    """Equal members told apart: the enum's in turn, strings by length, numbers by counting."""
    if isinstance(items, Mapping) and len(items.get("enum", ())) >= len(made):
        return list(items["enum"][: len(made)])
    if all(isinstance(each, str) for each in made):
        return [each + (each[:1] or "-") * index for index, each in enumerate(made)]
    if all(isinstance(each, int | float) and not isinstance(each, bool) for each in made):
        return [each + index for index, each in enumerate(made)]
    return made


def _number(schema: Mapping[str, Any], step: float) -> float:
    """0, or what is nearest to it within the limits; `step` leaves an exclusive one, 0 for fractions."""
    gap = step or _least_gap(schema)
    low: float = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + gap)
    high: float = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - gap)
    multiple: float = schema.get("multipleOf", step)
    value = min(max(0, low), high)
    if not multiple:
        return value
    return math.ceil(value / multiple) * multiple if value >= 0 else math.floor(value / multiple) * multiple


def _least_gap(schema: Mapping[str, Any]) -> float:
    """Half the room between two exclusive limits, at most 1."""
    low: float = schema.get("exclusiveMinimum", -math.inf)
    high: float = schema.get("exclusiveMaximum", math.inf)
    return min(1.0, (high - low) / 2)
