"""The OpenAPI document against what is served: bodies, keys, histories, long work."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from conftest import tiny
from served import Web, envelope, runtime_of, serving

from server import answers, forms, openapi
from server.settings import Settings

STAIRS = """
initial: {event: INIT, target: HALL}
context: {hp: {type: int, default: 3, min: 0, show: true}}
events: {ANSWER: {payload: {text: text}}}
states:
  HALL:
    on: {ANSWER: OUT}
    options:
      - {key: up, text: 上楼, target: HALL, assign: {hp: hp - 1}}
      - {key: out, text: 出去 🚪, target: OUT}
  OUT: {type: final}
"""
KEY = {"Idempotency-Key": "0123456789abcdef"}
NO_SUCH = {"session_not_found", "turn_not_found", "stale_turn", "unknown_event_type", "machine_not_found"}
ONCE = [each for each in openapi.OPERATIONS if each.is_once]


@pytest.fixture
def web(tmp_path):
    """A client of a server that has a session `s1` at turn 2."""
    settings = Settings(project=str(tmp_path), store="memory:")
    with serving(runtime_of(tiny(STAIRS)), settings) as server, Web(server.url) as client:
        client.invoke("s1", "INIT")
        client.invoke("s1", option=1)
        yield client


def operations_with_bodies() -> list[openapi.Operation]:
    return [each for each in openapi.OPERATIONS if each.body is not None]


def validator_of(part: Any) -> Any:
    """A validator of a part of the document."""
    return jsonschema_rs.validator_for({**part, "components": {"schemas": openapi.document()["components"]["schemas"]}})


def known(data: Any, kind: Any) -> Any:
    """What of an answer a shape names, at every depth; no type may be another."""
    return msgspec.to_builtins(msgspec.convert(data, kind, strict=True))


@pytest.mark.parametrize("operation", operations_with_bodies(), ids=lambda each: each.path)
def test_every_example_of_a_body_is_one_that_the_document_takes(operation):
    told = openapi.document()["paths"][operation.path][operation.method]["requestBody"]["content"]["application/json"]
    validator = validator_of(told["schema"])

    for example in told["examples"].values():
        assert example["summary"]
        assert [error.message for error in validator.iter_errors(example["value"])] == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", operations_with_bodies(), ids=lambda each: each.path)
def test_every_example_of_a_body_is_one_that_the_server_reads(web, operation):
    """Whether there is such a session, turn, event or machine is another matter."""
    for name, (_, value) in operation.body.examples.items():
        answer = web.http.post(operation.path.format(session_id="s1", task=name), json=value)

        assert answer.status_code == 200 or answer.json()["data"]["error"] in NO_SUCH, name


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in openapi.TASKS if task != "import"])
def test_the_lines_of_long_work_are_those_that_the_document_shows(web, task):
    content = openapi.document()["paths"]["/store/{task}"]["post"]["responses"]["200"]["content"]
    ((media_type, told),) = content.items()
    body = {"prune": {"older_than_days": 90}}.get(task, {})

    answer = web.http.post(f"/store/{task}", json=body)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, media_type)
    for lines in (answer.text, told["example"]):
        steps = [json.loads(line) for line in lines.splitlines()]
        assert [error.message for step in steps for error in validator_of(told["schema"]).iter_errors(step)] == []
        assert steps[-1]["type"] == "done"


@pytest.mark.parametrize("form", [forms.NDJSON, forms.SSE])
def test_a_stream_is_one_that_the_document_shows(web, form):
    content = openapi.document()["paths"]["/invoke"]["post"]["responses"]["200"]["content"]
    validator = validator_of(content[forms.NDJSON]["schema"])
    again = {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}

    answer = web.http.post("/invoke", json=again, headers={"Accept": form})

    assert answer.headers["Content-Type"] == form
    for told in (answer.text, content[form]["example"]):
        events = events_of(told, form)
        assert [error.message for event in events for error in validator.iter_errors(event)] == []
        assert events[0]["event"] == "turn.accepted"


def events_of(told: str, form: str) -> list[Any]:
    """The events of a stream, those of SSE as the lines would have them."""
    if form == forms.NDJSON:
        return [json.loads(line) for line in told.splitlines()]
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told.strip().split("\n\n")]
    return [{**block, "data": json.loads(block["data"])} for block in blocks]


def test_the_tasks_are_those_of_the_server(web):
    assert set(web.ask("POST", "/store/nothing", 404, json={})["tasks"]) == set(openapi.TASKS)


@pytest.mark.parametrize("form", ["jsonl", "md", "html", "replay"])
def test_an_export_has_a_type_that_the_document_names(web, form):
    told = openapi.document()["paths"]["/sessions/{session_id}/export"]["get"]

    answer = web.http.get(f"/sessions/s1/export?format={form}")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].partition(";")[0] in told["responses"]["200"]["content"]
    (parameter,) = [each for each in told["parameters"] if each.get("name") == "format"]
    assert form in parameter["schema"]["enum"]


@pytest.mark.parametrize("operation", ONCE, ids=lambda each: each.path)
def test_what_takes_a_key_is_done_once(web, operation):
    """And the answer to the second sending is the very bytes of the first, under the header that is promised."""
    bodies = {
        "invoke": {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}},
        "rewind": {"to_turn": 1},
    }
    body = bodies.get(operation.path.rpartition("/")[2], {})

    first, again = [web.http.post(operation.path.format(session_id="s1"), json=body, headers=KEY) for _ in range(2)]

    envelope(first)
    assert again.content == first.content
    assert [each.headers.get("Idempotency-Replayed") for each in (first, again)] == [None, "true"]


def test_the_document_names_the_key_where_it_is_read_and_the_header_that_answers_it():
    document = openapi.document()
    for operation in openapi.OPERATIONS:
        told = document["paths"][operation.path][operation.method]
        names = {parameter.get("$ref", "").rpartition("/")[2] for parameter in told["parameters"]}
        replayed = "Idempotency-Replayed" in told["responses"].get("200", {}).get("headers", {})
        assert replayed == operation.is_once == ({"Idempotency-Key", "Prefer"} <= names), operation.path


def test_a_history_is_answered_in_the_shapes_that_the_document_shows(web):
    shown = [
        web.ask("POST", "/sessions/s1/rewind", json={"to_turn": "previous"}),
        web.ask("POST", "/sessions/s1/regenerate"),
        web.ask("POST", "/sessions/s1/fork", json={"session_id": "s2"}),
    ]
    listed = [web.ask("GET", f"/sessions/{name}/turns") for name in ("s1", "s2")]

    told = {field.encode_name for field in msgspec.structs.fields(answers.SessionShown)}
    for each in shown:
        msgspec.convert(each, answers.SessionShown, strict=True)
        assert set(each) == told - {"context", "spent"}
    for each in listed:
        assert known(each, answers.TurnList) == each
    kinds = [[turn["kind"] for turn in each["items"]] for each in listed]
    assert kinds[0] == ["turn", "turn", "rewind", "regenerate", "fork"]
    assert kinds[1][-1] == "fork"
