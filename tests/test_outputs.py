"""What a prompt asks for: the short form, JSON Schema in its place, and the leaves by path."""

from __future__ import annotations

import pytest

from runtime.outputs import MAX_DEPTH, parse_outputs


def read(value):
    outputs, faults = parse_outputs(value)
    assert faults == []
    return outputs


def faults_of(value):
    return {".".join(map(str, fault.path)): fault.code for fault in parse_outputs(value)[1]}


def test_the_short_form_is_a_closed_object_with_optional_parts():
    outputs = read({"scene": "scene", "npc_line": "text?", "calm": "bool"})

    assert outputs.schema == {
        "type": "object",
        "properties": {
            "scene": {"type": "string", "minLength": 1},
            "npc_line": {"type": "string"},
            "calm": {"type": "boolean"},
        },
        "required": ["scene", "calm"],
        "additionalProperties": False,
    }
    assert outputs.fields == {"scene": "scene", "npc_line": "text", "calm": "bool"}
    assert outputs.required == {"scene", "calm"}


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("scene", "string"),
        ("option", "string"),
        ("text", "string"),
        ("str", "string"),
        ("int", "integer"),
        ("float", "number"),
        ("bool", "boolean"),
    ],
)
def test_each_kind_has_a_type(kind, type_):
    outputs = read({"a": kind})

    assert outputs.schema["properties"]["a"]["type"] == type_
    assert outputs.fields == {"a": kind}


def test_a_nested_map_is_a_nested_object_that_is_needed_where_a_part_is():
    outputs = read({"mainline": {"premise": "text", "stakes": "text?"}, "hint": {"next": "text?"}})

    assert outputs.fields == {"mainline.premise": "text", "mainline.stakes": "text", "hint.next": "text"}
    assert outputs.required == {"mainline.premise"}
    assert outputs.schema["required"] == ["mainline"]


def test_json_schema_may_stand_in_the_place_of_a_kind():
    outputs = read(
        {
            "category": {"type": "string", "enum": ["billing", "bug"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "person": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
        }
    )

    assert outputs.fields == {"category": "str", "tags": "json", "person.age": "int"}
    assert outputs.required == {"category", "tags", "person.age"}


def test_json_schema_may_be_the_whole():
    outputs = read({"type": "object", "properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]})

    assert outputs.fields == {"a": "float", "b": "json"}
    assert outputs.required == {"a"}
    assert outputs.schema["additionalProperties"] is False


def test_a_field_may_be_called_type_where_its_kind_is_none_of_json_schemas():
    assert read({"note": {"type": "text"}}).fields == {"note.type": "text"}


def test_nothing_may_be_asked_for():
    assert read({}).fields == {}


def deep(levels):
    return "text" if levels == 0 else {"a": deep(levels - 1)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["scene"], {"": "E413"}),
        ({"a": "skene"}, {"a": "E413"}),
        ({"a": 3, "b": {"c": None}}, {"a": "E413", "b.c": "E413"}),
        ({"a-b": "text", 3: "text"}, {"a-b": "E413", "3": "E413"}),
        ({"a": {"type": "string", "maxLength": -1}}, {"a": "E413"}),
        ({"a": {"type": "object", "properties": {"b": {"$ref": "http://x"}}}}, {"a": "E413"}),
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, {"": "E413"}),
        ({"options": "text", "meta": "text"}, {"options": "E414", "meta": "E414"}),
        ({"type": "object", "properties": {"ai_state": {}}}, {"properties.ai_state": "E414"}),
        ({f"a{n}": "text" for n in range(65)}, {"": "E413"}),
        (deep(MAX_DEPTH + 2), {".".join("a" * MAX_DEPTH): "E413"}),
    ],
)
def test_what_is_wrong_is_named_by_its_path_all_at_once(value, expected):
    assert faults_of(value) == expected


def test_a_wrong_kind_is_told_the_right_one():
    assert "Did you mean 'scene'?" in parse_outputs({"a": "sceen"})[1][0].message
