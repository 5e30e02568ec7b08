"""POST /invoke as an old client and a new one see it: the contract, sentence by sentence, over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest
from conftest import SCALE, tiny
from served import PATIENCE_S, TLS, Server, Web, envelope, facts, runtime_of, seed, serving, shipped

from runtime.narrators.offline import Offline
from server import answers
from server.refusals import TABLE
from server.settings import Settings

ROOM = """
machine: room
title: {zh: 小屋, en: The Room}
language: zh
initial: {event: INIT, target: HALL}
limits: {scene_chars: {zh: 220, en: 600}, option_chars: {zh: 14, en: 40}}
slots: {tone: 安静, guest: 客人}
context:
  hp: {type: int, default: 3, min: 0, max: 3, show: true, label: {zh: 生命, en: Health}}
events: {SAY: {payload: {text: text, loud: "bool?", times: "int?"}}, KNOCK: {}}
states:
  HALL:
    label: {zh: 门厅, en: Hall}
    options:
      - {key: wait, text: {zh: 等一等, en: Wait}, target: HALL, tell: {zh: 你等了一会儿。, en: You wait.}}
      - key: hurt
        text: {zh: 捶墙, en: Hit the wall}
        event: KNOCK
        target: HALL
        assign: {hp: hp - 1}
        tell: {zh: 手很疼。, en: It hurts.}
      - {key: leave, text: {zh: 离开, en: Leave}, target: END_OUT, tell: {zh: 你走了。, en: You go.}}
    on:
      SAY: [{target: HALL}]
  END_OUT: {type: final, ending: {title: {zh: 出来了, en: Out}, good: true}}
"""
TIMED = """
machine: timed
title: {zh: 钟, en: The Clock}
language: zh
initial: {event: INIT, target: HALL}
limits: {seconds: 100}
on:
  LATE: [{guard: "time.remaining_seconds <= 0", target: LATE, must: true}]
states:
  HALL:
    options:
      - {key: stay, text: {zh: 留下, en: Stay}, target: HALL}
      - {key: go, text: {zh: 走, en: Go}, target: OUT}
  LATE: {type: final, ending: {title: {zh: 晚了, en: Late}, good: false}}
  OUT: {type: final, ending: {title: {zh: 出来了, en: Out}, good: true}}
"""
UNLIMITED_S = 2_147_483_647
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    machines = [*shipped().values(), tiny(ROOM, "room"), tiny(TIMED, "timed")]
    with serving(runtime_of(*machines)) as serving_all:
        yield serving_all


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[Web]:
    with Web(server.url) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A session id that no other test uses."""
    return f"contract-{next(_numbers)}"


def begin(web: Web, name: str, machine: str = "room", **more: Any) -> Any:
    session = {"machine": machine, **more.pop("session", {})}
    return web.invoke(name, "INIT", session=session, **more)


def refused_unchanged(
    web: Web, server: Server, name: str, expect: int, body: bytes | Mapping[str, Any], **headers: str
) -> Any:
    """The refusal of a request, having seen that the session's journal is as it was."""
    before = server.journal(name)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    failure = web.raw(raw, expect, **headers)
    assert server.journal(name) == before
    return failure


def texts(value: Any) -> Iterator[str]:
    """Every string under a value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def han_share(text: str) -> float:
    """How much of a text's letters is Han."""
    letters = [char for char in text if char.isalpha()]
    return sum("CJK" in unicodedata.name(char, "") for char in letters) / max(1, len(letters))


def differences(expected: Any, got: Any, path: str = "data") -> Iterator[str]:
    """Where an answer lacks a key of the expected one, or has another type there."""
    if type(expected) is not type(got):
        yield f"{path}: {type(expected).__name__} expected, got {type(got).__name__}"
    elif isinstance(expected, dict):
        for key in expected:
            yield from differences(expected[key], got.get(key), f"{path}.{key}")
    elif isinstance(expected, list) and expected:
        for index, each in enumerate(got):
            yield from differences(expected[0], each, f"{path}.{index}")
        if not got:
            yield f"{path}: is empty"


# The seed: the request and the response that everything grew from.


def test_the_seeds_request_answers_every_key_of_the_seeds_response_with_the_same_types(web):
    answer = web.http.post(
        "/invoke",
        json={
            **seed("init_request"),
            "session": {"session_id": "seed-types", "player_count": 1, "difficulty": "NORMAL"},
        },
    ).json()
    assert list(differences(seed("init_response"), answer)) == []
    assert answer["data"]["event"] == seed("init_response")["data"]["event"]


def test_the_seeds_request_works_as_it_stands(web):
    answer = web.send(seed("init_request"))
    assert answer["session"]["session_id"] == "sess_test_001"
    assert answer["session"]["machine"] == "haunted_house"


def test_the_seeds_answer_is_chinese_within_its_limits_and_without_its_forbidden_terms(web, name):
    request = seed("init_request")
    payload = web.send({**request, "session": {"session_id": name}})["payload"]

    told = [*texts(payload["mainline"]), *texts(payload["opening"]), *texts(payload["start_hint"])]
    told += [option["text"] for option in payload["options"]]
    assert all(han_share(text) >= 0.9 for text in told), told
    assert len(payload["opening"]["scene"]) <= 220
    assert all(len(option["text"]) <= 14 for option in payload["options"])
    assert 2 <= len(payload["options"]) <= 4
    assert not [
        (term, text) for text in texts(payload) for term in request["constraints"]["forbidden_terms"] if term in text
    ]


def test_slots_reach_the_story(web, name):
    payload = web.send({**seed("init_request"), "session": {"session_id": name}})["payload"]
    assert payload["ai_state"]["tone"] == "恐怖刺激"
    assert payload["ai_state"]["world_seed"] == "run_test_001_haunted_house"


def check_zh_turn(payload: Mapping[str, Any], terms: list[str]) -> None:
    told = [text for key in ("scene", "decision", "result", "npc_line", "epilogue") for text in texts(payload.get(key))]
    assert all(han_share(text) >= 0.5 for text in told), told
    assert len(payload.get("scene", "")) <= 220
    assert all(len(option["text"]) <= 14 for option in payload["options"])
    assert not [(term, text) for text in texts(payload) for term in terms if term in text]


@pytest.mark.parametrize("policy", ["first", "last", "any"])
def test_the_seeds_clients_loop_plays_to_an_end(web, policy):
    """It sends `next_event_type` with the id of an offered option until the session has ended."""
    for number in range(4 * SCALE):
        run_seed = f"loop-{policy}-{number}"
        chance = random.Random(run_seed)  # noqa: S311 - a play is no secret
        request = {**seed("init_request"), "session": {"session_id": run_seed}, "seed": {"run_seed": run_seed}}
        answer = web.send(request)
        for _ in range(60):
            payload = answer["payload"]
            check_zh_turn(payload, request["constraints"]["forbidden_terms"])
            if answer["session"]["ended"]:
                break
            ids = [option["id"] for option in payload["options"]]
            chosen = {"first": ids[0], "last": ids[-1], "any": chance.choice(ids)}[policy]
            event = {"type": payload["routing"]["next_event_type"]}
            answer = web.send(
                {"event": event, "session": {"session_id": run_seed}, "payload": {"selected_option_id": chosen}}
            )
        assert answer["session"]["ended"] is True
        assert answer["payload"]["routing"] == {"next_event_type": None, "should_end": True, "allowed_event_types": []}
        assert answer["payload"]["ending"]["title"]


def test_the_minimal_request_is_a_valid_first_request(web):
    first, again = web.send(seed("minimal_request")), web.send(seed("minimal_request"))

    assert first["session"]["machine"] == "haunted_house"
    assert first["session"]["turn"] == 1
    assert first["session"]["session_id"] != again["session"]["session_id"]
    assert re.fullmatch(r"[A-Za-z0-9_.:-]{16,128}", first["session"]["session_id"])


def test_health_answers_what_it_always_did(web):
    assert web.http.get("/health").json() == seed("health_response")


def test_the_trace_id_labels_event_seed_day_and_turn(web, name):
    begun = begin(web, name, seed={"run_seed": "run.7"})
    went_on = web.invoke(name, "hall", 1)
    assert re.fullmatch(r"init_run\.7_20\d{6}_001", begun["payload"]["meta"]["trace_id"])
    assert re.fullmatch(r"hall_run\.7_20\d{6}_002", went_on["payload"]["meta"]["trace_id"])


def test_a_seed_made_by_the_server_is_returned_and_plays_the_same_again(web):
    begun = web.send({"event": {"type": "INIT"}})
    (run_seed,) = re.fullmatch(r"init_(.+)_20\d{6}_001", begun["payload"]["meta"]["trace_id"]).groups()
    again = web.send({"event": {"type": "INIT"}, "seed": {"run_seed": run_seed}})
    assert again["payload"]["outcome"] == begun["payload"]["outcome"]
    assert again["payload"]["opening"] == begun["payload"]["opening"]


# The answer's shape.


def test_an_answer_has_the_keys_that_the_contract_lists(web, name):
    answer = begin(web, name, "haunted_house")
    turn = web.invoke(name, option=1)
    msgspec.convert(answer, answers.Answer)
    assert list(answer) == ["event", "session", "payload"]
    where = {"session_id", "machine", "version", "state", "turn", "step", "ended", "language", "run_seed", "time"}
    assert set(answer["session"]) == where
    assert set(answer["session"]["time"]) == {"elapsed_active_seconds", "remaining_seconds"}
    everywhere = {"ai_state", "status", "outcome", "options", "inputs", "routing", "meta"}
    assert set(answer["payload"]) == everywhere | {"mainline", "opening", "start_hint"}
    assert set(turn["payload"]) - {"npc_line", "clue"} == everywhere | {"decision", "result", "scene"}
    assert set(answer["payload"]["ai_state"]) == {"world_seed", "title", "tone", "memory_summary", "arc_progress"}
    assert set(answer["payload"]["outcome"]) == {"edge", "from", "to", "dice", "changes"}
    assert set(answer["payload"]["meta"]) == {
        "trace_id",
        "narrator",
        "model",
        "ai_generated",
        "attempts",
        "rungs",
        "fallback",
        "usage",
        "warnings",
    }
    assert set(answer["payload"]["meta"]["usage"]) == {"prompt_tokens", "completion_tokens", "cached_tokens"}
    assert [option["id"] for option in answer["payload"]["options"]] == [1, 2, 3]
    assert all(set(option) == {"id", "text", "event_type", "key"} for option in answer["payload"]["options"])


def test_status_shows_the_shown_variables_with_their_range_and_label(web, name):
    assert begin(web, name)["payload"]["status"] == {
        "hp": {"value": 3, "min": 0, "max": 3, "label": "生命", "text": "3"}
    }


def test_the_outcome_is_the_machines_own_word(web, name):
    begin(web, name)
    assert web.invoke(name, "KNOCK", 2)["payload"]["outcome"] == {
        "edge": "HALL.hurt",
        "from": "HALL",
        "to": "HALL",
        "dice": [],
        "changes": [{"name": "hp", "from": 3, "to": 2}],
    }


def test_an_end_has_its_ending_and_the_choices_from_the_journal(web, name):
    begin(web, name)
    web.invoke(name, "KNOCK", 2)
    ended = web.invoke(name, "END_OUT", 3)
    payload = ended["payload"]
    assert payload["ending"] == {"id": "END_OUT", "title": "出来了", "good": True}
    assert payload["key_choices"] == [{"turn": 2, "text": "捶墙"}, {"turn": 3, "text": "离开"}]
    assert payload["options"] == []
    assert payload["routing"] == {"next_event_type": None, "should_end": True, "allowed_event_types": []}
    assert ended["session"]["ended"] is True


def test_free_text_is_asked_for_in_inputs(web, name):
    payload = begin(web, name)["payload"]
    assert payload["inputs"] == [{"event_type": "SAY", "field": "text", "max_chars": 500}]


def test_routing_lists_what_is_allowed_and_proposes_the_first(web, name):
    assert begin(web, name)["payload"]["routing"] == {
        "next_event_type": "HALL",
        "should_end": False,
        "allowed_event_types": ["HALL", "KNOCK", "END_OUT", "SAY"],
    }


def test_the_same_machine_seed_and_choices_have_the_same_outcomes_in_every_language(web, name):
    def play(session_id: str, language: str) -> list[Any]:
        told = [begin(web, session_id, "haunted_house", seed={"run_seed": "twice"}, constraints={"language": language})]
        told += [web.invoke(session_id, option=1 + turn % 2) for turn in range(6)]
        return [each["payload"]["outcome"] for each in told]

    assert play(f"{name}-a", "zh") == play(f"{name}-b", "zh") == play(f"{name}-c", "en")


def test_the_same_request_is_told_in_the_same_words(web, name):
    told = [begin(web, f"{name}-{each}", "haunted_house", seed={"run_seed": "words"})["payload"] for each in "ab"]
    assert told[0] == told[1]


# The event and the option.


@pytest.mark.parametrize("spelled", ["init", "INIT", "Init", "iNiT"])
def test_an_event_is_taken_whatever_its_case_and_answered_in_the_clients_spelling(web, name, spelled):
    answer = web.invoke(name, spelled, session={"machine": "room"})
    assert answer["event"] == {"type": spelled}
    assert web.invoke(name, "hAlL", 1)["event"] == {"type": "hAlL"}


def test_an_options_event_may_be_left_out(web, name):
    begin(web, name)
    answer = web.invoke(name, option=2)
    assert answer["event"] == {"type": "KNOCK"}
    assert answer["payload"]["outcome"]["edge"] == "HALL.hurt"


@pytest.mark.parametrize("written", [2, "2"])
def test_an_options_id_may_be_a_number_or_text(web, name, written):
    begin(web, name)
    assert web.invoke(name, option=written)["payload"]["outcome"]["edge"] == "HALL.hurt"


@pytest.mark.parametrize("written", ["two", "2.0", "-1", "", 2.5, True, None, [2], "２"])
def test_an_options_id_is_nothing_else(web, server, name, written):
    begin(web, name)
    body = {"session": {"session_id": name}, "event": {"type": "HALL"}, "payload": {"selected_option_id": written}}
    failure = refused_unchanged(web, server, name, 422, body)
    assert failure["details"][0]["loc"] == ["body", "payload", "selected_option_id"]


def test_next_event_type_with_any_offered_id_plays_the_options_event_and_warns(web, name):
    begun = begin(web, name)
    answer = web.invoke(name, begun["payload"]["routing"]["next_event_type"], 2)
    assert answer["event"] == {"type": "KNOCK"}
    assert answer["payload"]["outcome"]["edge"] == "HALL.hurt"
    assert "KNOCK" in " ".join(answer["payload"]["meta"]["warnings"])


def test_any_other_mix_of_event_and_option_is_refused(web, server, name):
    begin(web, name)
    body = {"session": {"session_id": name}, "event": {"type": "END_OUT"}, "payload": {"selected_option_id": 2}}
    assert refused_unchanged(web, server, name, 422, body)["error"] == "option_event_mismatch"


def test_an_event_of_options_only_wants_an_id(web, server, name):
    begin(web, name)
    body = {"session": {"session_id": name}, "event": {"type": "KNOCK"}}
    assert refused_unchanged(web, server, name, 422, body)["error"] == "option_not_offered"


def test_every_event_takes_a_selected_option_id(web, name):
    begun = web.send(
        {
            "event": {"type": "INIT"},
            "session": {"session_id": name, "machine": "room"},
            "payload": {"selected_option_id": 1},
        }
    )
    assert begun["session"]["turn"] == 1


def test_a_field_that_the_event_does_not_declare_is_refused_with_the_one_that_was_meant(web, server, name):
    begin(web, name)
    body = {
        "session": {"session_id": name},
        "event": {"type": "SAY"},
        "payload": {"txet": "hi", "loud": "yes", "times": 1.5},
    }
    details = refused_unchanged(web, server, name, 422, body)["details"]
    assert {tuple(each["loc"]): each["type"] for each in details} == {
        ("body", "payload", "txet"): "unknown_key",
        ("body", "payload", "text"): "missing",
        ("body", "payload", "loud"): "bool",
        ("body", "payload", "times"): "int",
    }
    assert "Did you mean 'text'?" in details[0]["msg"]


# The shape of a request.


def test_unknown_keys_are_refused_all_at_once_with_their_place_and_what_was_meant(web, server, name):
    body = {
        "evnt": {},
        "event": {"type": "INIT", "tpye": 1},
        "session": {"session_id": name, "mashine": "room"},
        "time": {"hard_limit": 1},
        "seed": {"run_sed": "x"},
        "constraints": {"langauge": "zh"},
    }
    details = refused_unchanged(web, server, name, 422, body)["details"]
    meant = {".".join(each["loc"][1:]): re.search(r"Did you mean '(\w+)'\?", each["msg"])[1] for each in details}
    assert meant == {
        "evnt": "event",
        "event.tpye": "type",
        "session.mashine": "machine",
        "time.hard_limit": "hard_limit_seconds",
        "seed.run_sed": "run_seed",
        "constraints.langauge": "language",
    }


def test_the_clients_own_notes_and_slots_may_have_any_keys(web, name):
    notes = {"anything": {"goes": [1, None, "x"]}, "": 1, "灯": True}
    answer = begin(web, name, context=notes, client_context=notes, slots={"guest": "王", "mood": "tense"})
    assert [warning for warning in answer["payload"]["meta"]["warnings"] if "slots.mood" in warning]


def test_a_key_that_stands_twice_is_refused_with_its_position(web, server, name):
    raw = f'{{"event": {{"type": "INIT"}},\n "session": {{"session_id": "{name}", "session_id": "other"}}}}'.encode()
    failure = refused_unchanged(web, server, name, 400, raw)
    assert failure["error"] == "malformed_json"
    assert (failure["position"]["line"], failure["position"]["column"]) == (
        2,
        raw.split(b"\n")[1].rindex(b'"session_id"') + 1,
    )


@pytest.mark.parametrize("escape", [r"\u0000", r"\ud800", r"\udfff", r"\udc00\ud800"])
@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ('{"event": {"type": "INIT%s"}}', ["body", "event", "type"]),
        ('{"event": {"type": "INIT"}, "slots": {"guest": "%s"}}', ["body", "slots", "guest"]),
        ('{"event": {"type": "SAY"}, "payload": {"text": "a%sb"}}', ["body", "payload", "text"]),
        ('{"event": {"type": "INIT"}, "context": {"deep": [1, {"er": "%s"}]}}', ["body", "context", "deep", 1, "er"]),
        (
            '{"event": {"type": "INIT"}, "constraints": {"forbidden_terms": ["ok", "%s"]}}',
            ["body", "constraints", "forbidden_terms", 1],
        ),
    ],
)
def test_nul_and_lone_surrogates_are_refused_where_they_stand(web, escape, body, loc):
    failure = web.raw((body % escape).encode(), 422)
    assert failure["error"] == "validation_error"
    assert loc in [each["loc"] for each in failure["details"]]


def test_a_pair_of_surrogates_is_a_character(web, name):
    assert begin(web, name)
    raw = f'{{"event":{{"type":"SAY"}},"session":{{"session_id":"{name}"}},"payload":{{"text":"\\ud83d\\ude00"}}}}'
    assert web.raw(raw.encode())["session"]["turn"] == 2


def nested(depth: int) -> bytes:
    """A request whose brackets nest so deep."""
    return (
        b'{"event":{"type":"INIT"},"session":{"machine":"room"},"context":{"a":'
        + b"[" * (depth - 2)
        + b"]" * (depth - 2)
        + b"}}"
    )


def test_nesting_is_taken_to_64_and_refused_beyond(web):
    assert web.raw(nested(64))["session"]["turn"] == 1
    for depth in (65, 1_000, 100_000):
        assert web.raw(nested(depth), 400)["error"] == "malformed_json"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b'{"event"}',
        b"{'event': 1}",
        b'{"event": {"type": "INIT"},}',
        b"nul",
        b'{"a": NaN}',
        b'{"time": {"elapsed_active_seconds": Infinity}}',
        b'{"time": {"elapsed_active_seconds": -Infinity}}',
        b'{"time": {"elapsed_active_seconds": 1e999}}',
        b'{"event": {"type": "\xff\xfe"}}',
        b'{"event": {"type": "INIT"}} x',
        b'{"event": {"type": "IN\nIT"}}',
        b'{"payload": {"selected_option_id": 01}}',
        b'{"a": 99999999999999999999}',
    ],
)
def test_what_is_no_json_is_refused_with_its_position(web, raw):
    failure = web.raw(raw, 400)
    assert failure["error"] == "malformed_json"
    assert set(facts(failure)) == {"position"}
    assert failure["retry"] == "never"


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"INIT"', b"null", b"true"])
def test_json_that_is_no_object_is_refused(web, raw):
    failure = web.raw(raw, 422)
    assert failure["error"] == "validation_error"
    assert ["body"] in [each["loc"] for each in failure["details"]]


def test_a_request_of_256_kb_is_read_and_a_larger_one_refused(web, server, name):
    head = f'{{"event":{{"type":"INIT"}},"session":{{"session_id":"{name}","machine":"room"}}'.encode()

    def padded(size: int) -> bytes:
        return head + b" " * (size - len(head) - 1) + b"}"

    too_large = refused_unchanged(web, server, name, 413, padded(262_145))
    assert (too_large["error"], too_large["limit_bytes"]) == ("body_too_large", 262_144)
    assert web.raw(padded(262_144))["session"]["turn"] == 1


def test_a_body_without_a_declared_length_is_bounded_too(web):
    chunks = (b" " * 65_536 for _ in range(5))
    answer = web.http.post("/invoke", content=chunks, headers={"Content-Type": "application/json"})
    assert envelope(answer, 413)["error"] == "body_too_large"


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "json"],
)
def test_other_media_types_are_refused(web, server, name, kind):
    body = {"event": {"type": "INIT"}, "session": {"session_id": name}}
    failure = refused_unchanged(web, server, name, 415, body, **{"Content-Type": kind})
    assert failure["error"] == "unsupported_media_type"
    assert "application/json" in failure["accepted_types"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.game+json"])
def test_json_is_taken_however_it_is_named(web, kind):
    assert web.raw(b'{"event":{"type":"INIT"},"session":{"machine":"room"}}', **{"Content-Type": kind})


def test_a_request_with_neither_event_nor_option_is_refused(web):
    for body in ({}, {"event": {}}, {"context": {}}, {"payload": {}}):
        failure = web.send(body, 422)
        assert [each["loc"] for each in failure["details"]] == [["body", "event", "type"]]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("session.session_id", ""),
        ("session.session_id", "a b"),
        ("session.session_id", "a/b"),
        ("session.session_id", "x" * 129),
        ("session.session_id", 7),
        ("session.session_id", None),
        ("session.player_id", "x" * 129),
        ("session.player_count", 0),
        ("session.player_count", 1.5),
        ("session.difficulty", "normal"),
        ("session.expected_turn", -1),
        ("session.on_exists", "replace"),
        ("seed.run_seed", ""),
        ("seed.run_seed", "x" * 129),
        ("seed.run_seed", "a b"),
        ("constraints.content_rating", "X"),
        ("constraints.max_chars_scene", 19),
        ("constraints.max_chars_option", 1),
        ("constraints.forbidden_terms", ["x"] * 201),
        ("constraints.forbidden_terms", [""]),
        ("constraints.forbidden_terms", ["x" * 33]),
        ("constraints.forbidden_terms", "x"),
        ("slots", {str(n): "x" for n in range(33)}),
        ("slots", {"a": "x" * 201}),
        ("slots", {"a": 1}),
        ("context", []),
        ("context", {"a": "x" * 8192}),
        ("client_context", {"a": "灯" * 2731}),
        ("time.hard_limit_seconds", "60"),
        ("time.hard_limit_seconds", -1),
        ("event.type", ""),
        ("event.type", 5),
        ("payload", []),
        ("session", None),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_where_it_stands(web, part, value):
    place, _, key = part.partition(".")
    body = {"event": {"type": "INIT"}, "session": {"machine": "room"}}
    body[place] = {**body.get(place, {}), key: value} if key else value
    failure = web.send(body, 422)
    assert failure["error"] == "validation_error"
    assert all(each["loc"][: 1 + len(part.split("."))] == ["body", *part.split(".")] for each in failure["details"])
    assert all(set(each) == {"loc", "msg", "type"} for each in failure["details"])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("session.session_id", "A.b_c:d-" + "x" * 120),
        ("session.player_id", "灯" * 128),
        ("session.player_count", 9),
        ("session.difficulty", "HARD"),
        ("session.difficulty", "EASY"),
        ("seed.run_seed", "r" * 128),
        ("session.expected_turn", 0),
        ("constraints.content_rating", None),
        ("constraints.content_rating", "G"),
        ("constraints.content_rating", "PG13"),
        ("constraints.content_rating", "R"),
        ("constraints.max_chars_scene", 20),
        ("constraints.max_chars_option", 2),
        ("constraints.forbidden_terms", [f"词{n}" for n in range(200)]),
        ("constraints.forbidden_terms", ["长" * 32]),
        ("constraints.forbidden_terms", []),
        ("slots", {str(n): "x" for n in range(32)}),
        ("slots", {"guest": None, "b": "灯" * 200}),
        ("context", {"a": "x" * 8000}),
        ("client_context", {}),
        ("time.remaining_seconds", -5),
        ("time.elapsed_active_seconds", 0.5),
    ],
)
def test_a_value_at_its_bounds_is_taken(web, part, value):
    place, _, key = part.partition(".")
    body = {"event": {"type": "INIT"}, "session": {"machine": "room"}}
    body[place] = {**body.get(place, {}), key: value} if key else value
    assert web.send(body)["session"]["turn"] == 1


def test_all_faults_are_told_at_once_and_no_value_is_repeated(web):
    body = {
        "event": {"type": 5},
        "session": {"session_id": "hunter2 secret", "player_count": 0},
        "extra": 1,
        "slots": {"a": 1},
    }
    failure = web.send(body, 422)
    assert {tuple(each["loc"]) for each in failure["details"]} == {
        ("body", "event", "type"),
        ("body", "session", "session_id"),
        ("body", "session", "player_count"),
        ("body", "extra"),
        ("body", "slots", "a"),
    }
    assert "hunter2" not in str(failure)


# Sessions.


def test_an_initial_event_to_a_session_that_exists_is_refused(web, server, name):
    begin(web, name)
    body = {"event": {"type": "INIT"}, "session": {"session_id": name, "machine": "room"}}
    assert refused_unchanged(web, server, name, 409, body)["error"] == "session_exists"


def test_resume_answers_the_head_turns_answer_and_plays_nothing(web, server, name):
    begin(web, name)
    head = web.invoke(name, option=2)
    before = server.journal(name)
    assert begin(web, name, session={"on_exists": "resume"}) == head
    assert begin(web, name, session={"on_exists": "resume", "expected_turn": 1}) == head
    assert server.journal(name) == before


def test_resume_and_restart_begin_where_nothing_is(web, name):
    for each in ("resume", "restart"):
        assert begin(web, f"{name}-{each}", session={"on_exists": each})["session"]["turn"] == 1


def test_restart_is_a_new_root_turn_with_this_requests_seed_slots_and_constraints(web, name):
    begin(web, name, seed={"run_seed": "old"}, slots={"guest": "王"}, constraints={"forbidden_terms": ["灯"]})
    web.invoke(name, option=2)

    anew = begin(web, name, session={"on_exists": "restart"}, seed={"run_seed": "new"}, constraints={"language": "en"})

    assert (anew["session"]["turn"], anew["session"]["step"], anew["session"]["state"]) == (3, 1, "HALL")
    assert anew["payload"]["status"]["hp"]["value"] == 3
    assert anew["payload"]["meta"]["trace_id"].startswith("init_new_")
    assert anew["payload"]["options"][0]["text"] == "Wait"
    assert [(turn["turn"], turn["parent"]) for turn in web.turns(name)] == [(1, None), (2, 1), (3, None)]


def test_restart_begins_again_after_an_end(web, name):
    begin(web, name)
    web.invoke(name, option=3)
    assert begin(web, name, session={"on_exists": "restart"})["session"]["ended"] is False


def test_what_the_first_event_said_is_remembered_and_not_read_again(web, name):
    begin(web, name, seed={"run_seed": "first"}, constraints={"language": "en"})
    later = web.invoke(name, option=2, session={"machine": "timed"}, seed={"run_seed": "second"})
    assert later["session"]["machine"] == "room"
    assert "_first_" in later["payload"]["meta"]["trace_id"]
    assert "It hurts." in "".join(texts(later["payload"]))
    assert later["payload"]["options"][0]["text"] == "Wait"
    assert len(later["payload"]["meta"]["warnings"]) == 2


def test_expected_turn_is_the_head_that_the_client_has_seen(web, server, name):
    begin(web, name, session={"expected_turn": 0})
    web.invoke(name, option=1, session={"expected_turn": 1})
    body = {"session": {"session_id": name, "expected_turn": 1}, "payload": {"selected_option_id": 1}}
    stale = refused_unchanged(web, server, name, 409, body)
    assert (stale["error"], stale["expected_turn"], stale["turn"]) == ("stale_turn", 1, 2)


def test_the_servers_state_wins_over_whatever_a_client_notes(web, name):
    plain = begin(web, f"{name}-plain", "haunted_house", seed={"run_seed": "notes"})
    wishes = {
        "state": "END_RELEASE",
        "hp": 0,
        "context": {"hp": 0},
        "routing": {"next_event_type": "END"},
        "ended": True,
    }
    noted = begin(
        web, f"{name}-noted", "haunted_house", seed={"run_seed": "notes"}, context=wishes, client_context=wishes
    )
    assert noted["payload"] == plain["payload"]
    played = web.invoke(f"{name}-noted", option=1, context=wishes, client_context=wishes)
    assert played["payload"]["outcome"] == web.invoke(f"{name}-plain", option=1)["payload"]["outcome"]


# Constraints, slots and time.


def test_constraints_may_be_sent_again_and_hold_from_then_on(web, name):
    begin(web, name)
    english = web.invoke(name, option=1, constraints={"language": "en"})
    again = web.invoke(name, option=1)
    assert english["payload"]["options"][0]["text"] == again["payload"]["options"][0]["text"] == "Wait"
    short = web.invoke(name, option=1, constraints={"max_chars_option": 4, "max_chars_scene": 20})
    assert all(len(option["text"]) <= 4 for option in short["payload"]["options"])
    assert all(len(turn) <= 20 for turn in [short["payload"].get("scene", "")])
    back = web.invoke(name, option=1, constraints={"language": "zh", "max_chars_option": 14})
    assert back["payload"]["options"][0]["text"] == "等一等"


def told_terms(payload: Mapping[str, Any], terms: list[str]) -> list[tuple[str, str]]:
    """The forbidden terms in a payload's texts; names are no texts, and slots and seed are the client's own."""
    said = {"world_seed": "", "tone": ""}
    options = [option["text"] for option in payload["options"]]
    words = {
        **payload,
        "meta": {},
        "outcome": {},
        "routing": {},
        "options": options,
        "ai_state": {**payload["ai_state"], **said},
    }
    return [
        (term, text)
        for text in texts(words)
        for term in terms
        if re.search(rf"\b{term}\b" if term.isascii() else term, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    ("language", "terms"), [("zh", ["你", "的", "门", "楼梯", "声"]), ("en", ["you", "a", "door", "voice", "stairs"])]
)
def test_forbidden_terms_stand_in_no_text_that_a_narrator_wrote(web, name, language, terms):
    answer = begin(web, name, "haunted_house", constraints={"language": language, "forbidden_terms": terms})
    for _ in range(8):
        assert told_terms(answer["payload"], terms) == []
        answer = web.invoke(name, option=1)


@pytest.mark.parametrize(
    ("language", "terms"),
    [("zh", ["小屋", "生命", "出来", "等一", "捶墙"]), ("en", ["room", "health", "out", "wait", "wall"])],
)
def test_forbidden_terms_stand_in_no_text_that_a_designer_wrote(web, name, language, terms):
    begun = begin(web, name, constraints={"language": language, "forbidden_terms": terms})
    hurt = web.invoke(name, option=2)
    ended = web.invoke(name, option=3)
    assert [told_terms(each["payload"], terms) for each in (begun, hurt, ended)] == [[], [], []]


def test_a_slot_that_the_machine_does_not_declare_is_kept_with_a_warning(web, name):
    warnings = begin(web, name, slots={"guest": "王", "weather": "雨"})["payload"]["meta"]["warnings"]
    assert len(warnings) == 1
    assert "weather" in warnings[0]


@pytest.mark.parametrize(("sent", "remaining"), [(None, 100), (60, 60), (100, 100), (500, 100)])
def test_a_client_may_only_lower_the_machines_limit(web, name, sent, remaining):
    time = {} if sent is None else {"hard_limit_seconds": sent}
    answer = begin(web, name, "timed", time={**time, "remaining_seconds": 7})
    assert answer["session"]["time"] == {"elapsed_active_seconds": 0, "remaining_seconds": remaining}
    assert bool(answer["payload"]["meta"]["warnings"]) is (sent == 500)


def test_without_a_limit_there_is_always_time(web, name):
    assert begin(web, name, time={"hard_limit_seconds": 5})["session"]["time"]["remaining_seconds"] == UNLIMITED_S
    assert web.invoke(name, option=1, time={"elapsed_active_seconds": 500})["session"]["time"] == {
        "elapsed_active_seconds": 500,
        "remaining_seconds": UNLIMITED_S,
    }


def test_elapsed_time_is_the_larger_of_what_is_known_and_sent(web, name):
    begin(web, name, "timed", time={"elapsed_active_seconds": 40})
    back = web.invoke(name, option=1, time={"elapsed_active_seconds": 10})
    assert back["session"]["time"] == {"elapsed_active_seconds": 40, "remaining_seconds": 60}
    assert len(back["payload"]["meta"]["warnings"]) == 1
    on = web.invoke(name, option=1, time={"elapsed_active_seconds": 90.5})
    assert on["session"]["time"] == {"elapsed_active_seconds": 90, "remaining_seconds": 10}
    assert on["payload"]["meta"]["warnings"] == []


def test_a_turn_is_judged_on_the_time_known_at_the_last_answer(web, server, name):
    begin(web, name, "timed", time={"elapsed_active_seconds": 0})
    promised = web.invoke(name, option=1, time={"elapsed_active_seconds": 100})
    assert promised["session"]["state"] == "HALL"
    assert promised["payload"]["routing"] == {
        "next_event_type": "LATE",
        "should_end": True,
        "allowed_event_types": ["LATE"],
    }
    assert [(option["key"], option["event_type"]) for option in promised["payload"]["options"]] == [
        ("continue", "LATE")
    ]

    body = {"event": {"type": "HALL"}, "session": {"session_id": name}}
    assert refused_unchanged(web, server, name, 409, body)["because"] == "*.LATE>LATE"
    assert web.invoke(name, "LATE", 1)["payload"]["ending"]["id"] == "LATE"


def test_the_clock_of_the_server_adds_at_most_a_minute_a_turn():
    clock = [1_750_000_000_000]
    with serving(runtime_of(tiny(TIMED, "timed"), clock_ms=lambda: clock[0])) as server, Web(server.url) as web:
        begin(web, "s", "timed")
        clock[0] += 7_000
        assert web.invoke("s", option=1)["session"]["time"]["elapsed_active_seconds"] == 7
        clock[0] += 3_600_000
        assert web.invoke("s", option=1)["session"]["time"]["elapsed_active_seconds"] == 67
        clock[0] -= 3_600_000
        assert web.invoke("s", option=1)["session"]["time"]["elapsed_active_seconds"] == 67


# Headers.


def test_a_sane_request_id_comes_back_and_another_is_replaced(web):
    def sent(value: str, path: str = "/health") -> str:
        return web.http.get(path, headers={"X-Request-Id": value}).headers["X-Request-Id"]

    assert sent("req-1.2:3_x") == sent("req-1.2:3_x", "/nowhere") == "req-1.2:3_x"
    made = [sent(value) for value in ("", "a b", "x" * 129, "<script>", "a;b")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.:-]{8,128}", each) for each in made)
    assert len(set(made)) == len(made)


def test_a_refusal_is_plain_json_though_a_stream_was_asked_for(web, server, name):
    begin(web, name)
    body = {"session": {"session_id": name}, "payload": {"selected_option_id": 9}}
    for headers in ({"Accept": "text/event-stream"}, {"Accept": "application/x-ndjson"}):
        failure = refused_unchanged(web, server, name, 422, body, **headers)
        assert failure["error"] == "option_not_offered"
        assert failure["retry"] == "refresh"


def test_a_player_is_told_in_the_sessions_language_and_no_rule_is_named(web, name):
    for language in ("zh", "en"):
        begin(web, f"{name}-{language}", constraints={"language": language})
        failure = web.invoke(f"{name}-{language}", option=9, expect=422)
        assert failure["player_message"] == getattr(TABLE["option_not_offered"], language)
    assert web.ask("GET", "/nowhere", 404)["player_message"] == TABLE["not_found"].zh


# Several at once, and clients that go away.


class Gated(Offline):
    """Tells nothing until the gate is opened; `waiting` is set while a turn waits."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = threading.Event()

    async def narrate(self, task: Any, _release: Any) -> Any:
        self.waiting.set()
        await asyncio.to_thread(self.gate.wait)
        return self.tell(task)


@pytest.fixture
def gated() -> Iterator[tuple[Server, Gated]]:
    """A server whose turns wait, with a session `s` that has begun."""
    narrator = Gated()
    narrator.gate.set()
    with serving(runtime_of(tiny(ROOM, "room"), narrator=narrator)) as server:
        with Web(server.url) as web:
            begin(web, "s")
        narrator.gate.clear()
        narrator.waiting.clear()
        yield server, narrator
        narrator.gate.set()


def test_of_two_turns_at_once_on_a_session_one_is_played(gated):
    server, narrator = gated
    with Web(server.url) as web, ThreadPoolExecutor() as pool:
        playing = pool.submit(web.invoke, "s", option=2)
        assert narrator.waiting.wait(PATIENCE_S)

        refused = web.invoke("s", option=1, expect=409)
        assert facts(refused) == {"same_key": False, "retry_after_seconds": 1}
        assert refused["retry"] == "same"
        assert web.session("s")["in_progress"] is True

        narrator.gate.set()
        assert playing.result(PATIENCE_S)["session"]["turn"] == 2
        assert web.session("s")["in_progress"] is False
        assert len(server.journal("s")) == 2


def test_a_client_that_goes_away_does_not_stop_its_turn(gated):
    server, narrator = gated
    leaving = httpx.Client(
        base_url=server.url, trust_env=False, verify=TLS, timeout=httpx.Timeout(PATIENCE_S, read=0.05)
    )
    with leaving, pytest.raises(httpx.ReadTimeout):
        leaving.post("/invoke", json={"session": {"session_id": "s"}, "payload": {"selected_option_id": 2}})
    assert narrator.waiting.wait(PATIENCE_S)

    narrator.gate.set()

    with Web(server.url) as web:
        while web.session("s")["in_progress"]:
            pass
        assert web.session("s")["answer"]["payload"]["outcome"]["edge"] == "HALL.hurt"


def test_many_sessions_play_at_once_and_none_sees_another(server):
    def play(number: int) -> list[str]:
        with Web(server.url) as web:
            session_id = f"many-{number}"
            begin(web, session_id, "haunted_house", seed={"run_seed": "many"})
            answered = [web.invoke(session_id, option=1 + (number + turn) % 2) for turn in range(5)]
            return [each["payload"]["outcome"]["edge"] for each in answered]

    with ThreadPoolExecutor(8) as pool:
        played = list(pool.map(play, range(16)))
    assert played[::2] == [played[0]] * 8
    assert played[1::2] == [played[1]] * 8
    assert played[0] != played[1]


# Around it.


def test_a_session_shows_its_head_turns_answer_exactly_as_it_was_sent(web, name):
    begin(web, name, "haunted_house")
    sent = web.http.post("/invoke", json={"session": {"session_id": name}, "payload": {"selected_option_id": 1}})
    shown = web.http.get(f"/sessions/{name}")
    assert sent.content.removeprefix(b'{"code":0,"message":"success","data":')[:-1] in shown.content
    assert shown.json()["data"]["answer"] == sent.json()["data"]


def test_a_session_shows_no_secret_to_anyone(web, name):
    begin(web, name, "haunted_house")
    shown = web.session(name)
    assert "truth" not in shown["context"]
    assert "draw_truth" not in json.dumps([shown, web.turns(name)])


def test_turns_tell_what_was_answered(web, name):
    answered = [begin(web, name, "haunted_house"), *(web.invoke(name, option=1) for _ in range(3))]
    for turn, answer in zip(web.turns(name), answered, strict=True):
        assert turn["session"] == answer["session"]
        assert turn["outcome"] == answer["payload"]["outcome"]
        assert turn["options"] == answer["payload"]["options"]
        assert turn["routing"] == answer["payload"]["routing"]
        assert turn["narration"].items() <= answer["payload"].items()


def test_tokens_keep_players_and_operators_apart():
    settings = Settings(play_tokens=("play",), operator_tokens=("operate",))
    with (
        serving(runtime_of(shipped()["ticket_triage"]), settings) as server,
        Web(server.url, Authorization="Bearer play") as player,
        Web(server.url, Authorization="Bearer operate") as operator,
    ):
        player.invoke("t", "INIT")
        player.invoke("t", "TICKET", payload={"text": "我被重复扣款"})
        waiting = player.invoke("t", option=1)
        assert waiting["session"]["state"] == "APPROVAL"
        assert player.invoke("t", "APPROVE", 1, expect=403)["error"] == "forbidden"
        assert operator.invoke("t", "APPROVE", 1)["session"]["state"] == "RESOLUTION"
