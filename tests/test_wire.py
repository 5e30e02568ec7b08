"""From a request's bytes to an `Invoke`: size, media type, JSON, shape; every fault at once, with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import errors
from runtime.errors import Refusal, ValidationError
from server import refusals
from server.body import MAX_BODY_BYTES, MAX_DEPTH, read_body, read_json, refuse_other_types
from server.call import accepted_language
from server.wire import failure, read_invoke, success

SEED_REQUEST = {
    "event": {"type": "init"},
    "session": {"session_id": "sess_test_001", "player_count": 1, "difficulty": "NORMAL"},
    "time": {"hard_limit_seconds": 300, "elapsed_active_seconds": 0, "remaining_seconds": 300},
    "seed": {"run_seed": "run_test_001"},
    "constraints": {
        "language": "zh",
        "content_rating": "PG",
        "max_chars_scene": 220,
        "max_chars_option": 14,
        "forbidden_terms": ["骰子", "规则"],
    },
    "slots": {"tone_bias": "恐怖刺激", "npc_bias": None},
    "client_context": {"platform": "web"},
    "payload": {},
    "context": {},
}


def sent(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def read(value: object):
    raw = value if isinstance(value, bytes) else sent(value)
    return read_invoke(raw, read_json(raw))


def refused(value: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(value)
    return caught.value


def faults(value: object) -> dict[str, str]:
    """Place → sentence of every fault."""
    error = refused(value)
    assert isinstance(error, ValidationError)
    return {".".join(map(str, each["loc"])): each["msg"] for each in error.facts["details"]}


async def body_of(*chunks: bytes, declared: bytes | None = None) -> bytes:
    messages = iter(
        [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks] + [{"type": "http.request"}]
    )

    async def receive():
        return next(messages)

    return await read_body(receive, declared)


def test_the_seeds_request_is_read_whole():
    invoke = read(SEED_REQUEST)
    assert (invoke.event, invoke.session_id, invoke.run_seed) == ("init", "sess_test_001", "run_test_001")
    assert (invoke.hard_limit_seconds, invoke.elapsed_active_seconds) == (300, 0)
    assert invoke.constraints == SEED_REQUEST["constraints"]
    assert invoke.slots == {"tone_bias": "恐怖刺激", "npc_bias": None}


def test_the_smallest_first_request_has_every_default():
    invoke = read({"event": {"type": "INIT"}, "context": {}})
    assert (invoke.on_exists, invoke.player_count, invoke.difficulty) == ("refuse", 1, "NORMAL")
    assert (invoke.session_id, invoke.machine, invoke.expected_turn, invoke.selected_option_id) == (
        None,
        None,
        None,
        None,
    )
    assert invoke.constraints == {}


@pytest.mark.parametrize("written", [2, "2"])
def test_an_options_id_may_be_written_as_text(written):
    invoke = read({"payload": {"selected_option_id": written, "text": "hello"}})
    assert invoke.selected_option_id == 2
    assert invoke.payload == {"text": "hello"}


def test_a_request_without_event_or_option_is_refused():
    assert faults({"context": {}}) == {
        "body.event.type": "send an event, or choose an option by payload.selected_option_id"
    }


def test_every_fault_is_told_at_once_with_its_place_and_the_mend():
    found = faults(
        {
            "evnt": {"type": "INIT"},
            "session": {"sesion_id": "x", "session_id": "a b", "player_count": 0, "difficulty": "easy"},
            "constraints": {"max_chars_scene": 1, "forbidden_terms": ["", 3]},
            "slots": {"tone": 1},
            "payload": {"selected_option_id": None},
            "context": [],
        }
    )
    assert found == {
        "body.evnt": "is not a known key. Did you mean 'event'?",
        "body.session.sesion_id": "is not a known key. Did you mean 'session_id'?",
        "body.session.session_id": "must match ^[A-Za-z0-9_.:-]{1,128}$",
        "body.session.player_count": "must be at least 1",
        "body.session.difficulty": "must be one of EASY, HARD, NORMAL",
        "body.constraints.max_chars_scene": "must be at least 20",
        "body.constraints.forbidden_terms.0": "must have at least 1 character",
        "body.constraints.forbidden_terms.1": "must be a string",
        "body.slots.tone": "must be a string or null",
        "body.payload.selected_option_id": "must be a whole number or a string",
        "body.context": "must be an object",
    }


def test_a_newline_does_not_slip_past_an_ids_pattern():
    assert "body.session.session_id" in faults({"event": {"type": "A"}, "session": {"session_id": "abc\n"}})


def test_the_clients_own_notes_may_have_any_keys_within_8_kb():
    assert read({"event": {"type": "A"}, "context": {"any": {"thing": [1]}}}).context == {"any": {"thing": [1]}}
    found = faults({"event": {"type": "A"}, "client_context": {"note": "灯" * 3000}})
    assert found == {"body.client_context": "may hold 8192 bytes and holds 9011"}


def test_lengths_count_code_points():
    assert read({"event": {"type": "A"}, "slots": {"a": "灯" * 200}}).slots
    assert faults({"event": {"type": "A"}, "slots": {"a": "灯" * 201}}) == {
        "body.slots.a": "must have at most 200 characters"
    }


def test_nul_and_lone_surrogates_are_refused_wherever_they_stand():
    raw = rb'{"event":{"type":"a\u0000"},"payload":{"text":["\ud800x"],"k\udfff":1}}'
    found = faults(raw)
    assert set(found) == {"body.event.type", "body.payload.text.0", "body.payload.k�"}
    assert read(rb'{"event":{"type":"\ud83d\ude00"}}').event == "😀"


@pytest.mark.parametrize(
    ("raw", "why", "line", "column"),
    [
        (b"", "expecting value", 1, 1),
        (b'{"a": 1 "b": 2}', "delimiter", 1, 9),
        (b'{"a":\n  tru}', "expecting value", 2, 3),
        (b'{"a": "\xff"}', "not UTF-8", 1, 8),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8", 1, 8),
        (b'{"a": 1, "a": 2}', "'a' stands twice", 1, 10),
        (rb'{"x": [{"type": 1, "typ\u0065": 2}]}', "'type' stands twice", 1, 20),
        (b'{"a": NaN}', "no number in JSON", 1, 7),
        (b'{"a": -Infinity}', "no number in JSON", 1, 7),
        (b'{"a": 1e999}', "outside what 64 bits hold", 1, 7),
        (b'{"a": 9223372036854775808}', "outside what 64 bits hold", 1, 7),
        (b'{"a": ' + b"1" * 5000 + b"}", "outside what 64 bits hold", 1, 7),
        (b"[" * 65 + b"]" * 65, "nested over 64", 1, 65),
        (b"[" * 100_000, "nested over 64", 1, 65),
    ],
)
def test_json_that_readers_understand_differently_is_refused_with_its_place(raw, why, line, column):
    error = refused(raw)
    assert error.code == "malformed_json"
    assert why in error.message
    assert (error.facts["position"]["line"], error.facts["position"]["column"]) == (line, column)


def test_brackets_inside_text_are_not_nesting():
    assert read({"event": {"type": "A"}, "payload": {"text": "[{" * 200}}).payload["text"] == "[{" * 200


def test_nesting_up_to_64_is_read():
    raw = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert read_json(raw)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_json_writes_is_read_unchanged(value):
    assert read_json(json.dumps(value).encode()) == value


@given(json_values | st.dictionaries(st.sampled_from([*SEED_REQUEST, "evnt"]), json_values))
def test_any_json_is_an_invoke_or_refused_in_words(value):
    try:
        read(json.dumps(value).encode())
    except ValidationError as error:
        status, body = failure(error, "zh", "r1")
        assert status == 422
        assert json.loads(body)["data"]["details"]


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused_with_a_place(raw):
    try:
        read_json(raw)
    except refusals.MalformedJson as error:
        position = error.facts["position"]
        assert position["line"] >= 1


async def test_a_body_over_256_kb_is_refused_by_its_header_and_by_its_length():
    assert await body_of(b"x" * MAX_BODY_BYTES) == b"x" * MAX_BODY_BYTES
    for sending in (body_of(b"x", declared=b"262145"), body_of(b"x" * MAX_BODY_BYTES, b"x")):
        with pytest.raises(refusals.BodyTooLarge) as caught:
            await sending
        assert caught.value.facts == {"limit_bytes": 262144}


async def test_a_client_that_goes_away_while_it_sends_is_no_crash():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(refusals.BadRequest):
        await read_body(receive, None)


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b"Application/Vnd.api+JSON",
        b'application/json;charset="UTF-8"',
    ],
)
def test_json_is_taken_under_each_of_its_names(kind):
    refuse_other_types(kind, None)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (None, None),
        (b"text/plain", None),
        (b"application/x-www-form-urlencoded", None),
        (b"application/jsonp", None),
        (b"application/json; charset=gbk", None),
        (b"application/json", b"gzip"),
    ],
)
def test_other_media_types_are_refused_with_those_accepted(kind, encoding):
    with pytest.raises(refusals.UnsupportedMediaType) as caught:
        refuse_other_types(kind, encoding)
    assert caught.value.facts == {"accepted_types": ["application/json", "application/*+json"]}
    assert "Content-Type: application/json" in caught.value.hint


def test_an_answers_bytes_are_in_the_envelope_untouched():
    assert success(b'{"a": 1}') == b'{"code":0,"message":"success","data":{"a": 1}}'


def test_a_message_never_repeats_a_long_or_unprintable_word_of_the_client():
    error = refused({"event": {"type": "A"}, "x" * 10_000: 1, "\u202e\n": 1})
    _, body = failure(error, "en", "r1")
    assert len(body) < 1000
    assert "\u202e" not in body.decode()


def test_every_error_code_has_its_row_and_every_row_its_class():
    assert {kind.code for kind in refusals.kinds()} == set(refusals.TABLE)


def test_players_read_one_short_sentence_in_their_language_that_names_no_rule():
    rows = {kind: refusals.TABLE[kind.code] for kind in refusals.kinds()}
    rows[errors.SessionBudgetExhausted] = refusals.SESSION_BUDGET
    for kind, row in rows.items():
        assert refusals.player_message(kind("no"), "zh-CN") == row.zh
        assert refusals.player_message(kind("no"), "fr") == row.en
        assert len(row.zh) <= 20
        assert len(row.en) <= 60
        for word in ("guard", "state", "event", "JSON", "token", "事件", "状态", "规则"):
            assert word not in row.zh + row.en


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en;q=0.5,zh;q=0.7", "zh"),
        ("en-US,en;q=0.5,zh;q=0.7", "en"),
        ("fr, en;q=0.2", "en"),
        ("fr", None),
        ("", None),
        ("zh;q=0", None),
        ("*", None),
    ],
)
def test_accept_language_names_the_language_wanted_most(header, language):
    assert accepted_language({b"accept-language": header.encode()}) == language
