"""Every fault of the fake provider, over real sockets: what the client gets, what the journal holds, and the session.

Whatever goes wrong, the same choices lead to the same session, and no text breaks the session's constraints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fake_llm import FakeLLM, misbehaves
from lamp import (  # noqa: F401 - a fixture
    HEARD,
    LANGUAGES,
    MAX_SCENE,
    SECRET,
    TERMS,
    UNHEARD,
    assert_within,
    begun,
    harmless_play,
    house,
    rules_of,
    told_by,
)
from msgspec import Struct
from served import Server, Web, runtime_of, serving

from runtime.constraints import find_term, speaks
from server.fake.faults import FAULTS
from server.forms import NDJSON

SHORT_S = 0.5
"""How long the model is waited for where it never speaks in time."""
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}


class Row(Struct, frozen=True, kw_only=True):
    """What one fault comes to while it lasts.

    `calls` are the calls of the turn, `rungs` those beside the response format, `fallback` the paths
    that were told offline. `is_heard`: the model's own omen was learned. `refused`: the error where
    the machine refuses to go on without the model. `is_late`: it is a matter of time. `is_billed`:
    the call reached its provider: what it took is told, or else estimated. `warned`: whether keys that
    nobody asked for are told of.
    """

    calls: int = 1
    rungs: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    is_heard: bool = True
    refused: str = ""
    retry_after: int | None = None
    is_late: bool = False
    is_billed: bool = True
    warned: bool = False


def unheard(error: str, calls: int, *rungs: str, **more: Any) -> Row:
    """No word of the model is used: all is told offline, or the turn is refused with this error."""
    return Row(calls=calls, rungs=(*rungs, "offline"), fallback=("*",), is_heard=False, refused=error, **more)


def refused(calls: int, *rungs: str, **more: Any) -> Row:
    """The provider gives no answer."""
    return unheard("narrator_unavailable", calls, *rungs, is_billed=False, **more)


def partly(*fallback: str, **more: Any) -> Row:
    """What is wrong is asked for again, in vain, and told offline; the rest is the model's."""
    more = {"rungs": ("reask", "offline"), "refused": "narration_invalid", **more}
    return Row(calls=2, fallback=fallback, **more)


STRIKE, LEAVE = "options.strike", "options.leave"
LATE = unheard("narrator_unavailable", 1, is_late=True)
AGAIN = refused(3, "retry")
PARSED = Row(rungs=("parsed",))
CUT_OFF = ("parsed", "reask", "mended", "offline")
ROWS: Mapping[str, Row] = {
    "latency": LATE,
    "first_token": LATE,
    "drip": LATE,
    "truncated": partly(LEAVE, rungs=("parsed", "reask", "offline")),
    "fences": PARSED,
    "prose": PARSED,
    "trailing_comma": PARSED,
    "fullwidth": PARSED,
    "blanks": unheard("narration_invalid", 2, "reask"),
    "wrong_language": partly("scene", STRIKE, LEAVE),
    "overlong": partly("omen", STRIKE, LEAVE, rungs=CUT_OFF, is_heard=False),
    "forbidden_term": Row(calls=2, rungs=("reask", "mended")),
    "invented_route": Row(warned=True),
    "duplicate_ids": partly(LEAVE, warned=True),
    "five_options": Row(warned=True),
    "missing_options": partly(STRIKE, LEAVE),
    "contradiction": partly("scene"),
    "leak": partly("scene"),
    "status_400": refused(1),
    "status_400_format": Row(calls=2, rungs=("text",)),
    "status_401": refused(1, retry_after=300),
    "status_402": refused(1, retry_after=300),
    "status_422": refused(1),
    "status_429": refused(3, "retry", retry_after=1),
    "status_500": AGAIN,
    "status_503": refused(3, "retry", retry_after=1),
    "cut": partly("omen", STRIKE, LEAVE, rungs=CUT_OFF, is_heard=False),
    "keepalive": Row(),
    "content_filter": unheard("narration_invalid", 2, "reask"),
    "wrong_usage": Row(),
    "huge": unheard("narration_invalid", 2, "reask"),
    "gzip_bomb": unheard("narrator_unavailable", 1),
    "plain": Row(),
    "thinking": Row(),
}
"""Each fault, and what it comes to."""


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(runtime_of(house("house", "offline"), house("strict", "refuse"))) as served:
        yield served


def given(row: Row) -> dict[str, Any]:
    """What the provider's profile is given."""
    return {"timeout_s": SHORT_S} if row.is_late else {}


def entry_of(server: Server, session_id: str) -> dict[str, Any]:
    """The session's last entry."""
    return dict(json.loads(server.journal(session_id)[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", ROWS)
def test_a_fault_is_no_more_than_a_pause(
    server: Server, llm: FakeLLM, harmless: Mapping[str, Any], fault: str, language: str
):
    """The turn is told, within the rules; the journal says how; the session is that of a harmless play."""
    row, session_id = ROWS[fault], f"{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language)
        llm.will(misbehaves(fault))

        with told_by(server, llm.url, **given(row)):
            data = web.invoke(session_id, option=1)
        calls = len(llm.requests)
        entry = entry_of(server, session_id)
        after = web.session(session_id)
        llm.will(misbehaves())
        with told_by(server, llm.url):
            last = web.invoke(session_id, option=2)

    payload, meta = data["payload"], data["payload"]["meta"]
    assert rules_of(data) == harmless[language]
    assert_within(payload, language)
    assert (calls, meta["attempts"]) == (row.calls, row.calls)
    assert tuple(meta["rungs"][1:]) == row.rungs
    assert_told(payload, row)
    assert_journaled(entry, data, row)
    assert after["answer"] == data
    assert last["session"]["ended"]
    assert last["payload"]["meta"]["narrator"] == "openai"


def assert_told(payload: Any, row: Row) -> None:
    """Who told the turn, and what was learned from it."""
    meta = payload["meta"]
    assert tuple(meta["fallback"]) == row.fallback
    assert payload["status"]["fear"]["value"] == (HEARD if row.is_heard else UNHEARD)
    assert meta["ai_generated"] == (row.fallback != ("*",))
    assert bool(meta["warnings"]) == row.warned


def assert_journaled(entry: Mapping[str, Any], data: Any, row: Row) -> None:
    """The entry holds what was answered, what was learned from the model alone, and what the calls took."""
    meta, kept = data["payload"]["meta"], entry["narration"]
    assert entry["answer"] == data
    assert kept["output"]["scene"] == data["payload"]["scene"]
    assert ("omen" in kept["learned"]) == (data["payload"]["status"]["fear"]["value"] == HEARD)
    assert (entry["narrator"], entry.get("model")) == (meta["narrator"], meta["model"])
    assert entry["spent"]["calls"] == row.calls
    assert entry.get("usage", NO_USAGE) == meta["usage"]
    assert (meta["usage"]["prompt_tokens"] > 0) == row.is_billed


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row.refused])
def test_a_machine_may_refuse_to_go_on_without_its_model(server: Server, llm: FakeLLM, fault: str, language: str):
    """503, with what to do; nothing has changed, and the same again plays once the model is well."""
    row, session_id = ROWS[fault], f"strict-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language, "strict")
        before = server.journal(session_id)
        llm.will(misbehaves(fault))

        with told_by(server, llm.url, **given(row)):
            failure = web.invoke(session_id, option=1, expect=503)
        unchanged = server.journal(session_id)
        llm.will(misbehaves())
        with told_by(server, llm.url):
            again = web.invoke(session_id, option=1)

    assert failure["error"] == row.refused
    assert failure["retry"] == "same"
    assert failure["attempts"] == row.calls
    assert failure.get("retry_after_seconds") == row.retry_after
    assert speaks(failure["player_message"], language)
    assert unchanged == before
    assert again["session"]["turn"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row.calls > 1])
def test_a_fault_that_passes_is_mended_by_the_next_call(server: Server, llm: FakeLLM, fault: str, language: str):
    """The second call brings what the first did not: the model is heard, and nothing is made up for it."""
    session_id = f"once-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language)
        llm.will(misbehaves(fault), misbehaves())

        with told_by(server, llm.url):
            payload = web.invoke(session_id, option=1)["payload"]

    assert payload["meta"]["attempts"] == 2
    assert payload["meta"]["fallback"] == []
    assert payload["status"]["fear"]["value"] == HEARD
    assert_within(payload, language)


# The same, streamed.


def streamed(web: Web, session_id: str) -> list[tuple[str, Any]]:
    """The events of a turn, by their names."""
    body = {"session": {"session_id": session_id}, "payload": {"selected_option_id": 1}}
    reply = web.http.post("/invoke", json=body, headers={"Accept": NDJSON})
    events = [json.loads(line) for line in reply.text.splitlines()]
    assert reply.headers["Content-Type"].startswith(NDJSON)
    return [(event["event"], event["data"]) for event in events if event["event"] != "heartbeat"]


def assert_heard_within(events: list[tuple[str, Any]], language: str) -> dict[str, str]:
    """What was heard at each path at last; at no time did it hold what it must not."""
    heard: dict[str, str] = {}
    for event, data in events:
        before = heard.get(data["path"], "") if event == "field.delta" else ""
        heard[data["path"]] = before + data["text"]
        assert find_term(heard[data["path"]], (TERMS[language],)) is None
        assert SECRET not in heard[data["path"]]
        assert speaks(heard[data["path"]], language)
        assert len(heard[data["path"]]) <= MAX_SCENE[language]
    return heard


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", ROWS)
def test_a_stream_comes_to_the_same(
    server: Server, llm: FakeLLM, harmless: Mapping[str, Any], fault: str, language: str
):
    """What was heard piece by piece is what is committed, and the committed answer is that of a plain request."""
    row, session_id = ROWS[fault], f"streamed-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language)
        llm.will(misbehaves(fault))

        with told_by(server, llm.url, **given(row)):
            (accepted, _), *told, (committed, answer) = streamed(web, session_id)

    data = answer["data"]
    assert (accepted, committed) == ("turn.accepted", "turn.committed")
    assert assert_heard_within(told, language) == {"scene": data["payload"]["scene"]}
    assert rules_of(data) == harmless[language]
    assert_within(data["payload"], language)
    assert tuple(data["payload"]["meta"]["rungs"][1:]) == row.rungs
    assert_told(data["payload"], row)
    assert_journaled(entry_of(server, session_id), data, row)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row.refused])
def test_a_stream_may_end_in_a_refusal(server: Server, llm: FakeLLM, fault: str, language: str):
    row, session_id = ROWS[fault], f"streamed-strict-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language, "strict")
        before = server.journal(session_id)
        llm.will(misbehaves(fault))

        with told_by(server, llm.url, **given(row)):
            (accepted, _), *told, (failed, answer) = streamed(web, session_id)

    assert (accepted, failed) == ("turn.accepted", "turn.failed")
    assert_heard_within(told, language)
    assert (answer["code"], answer["data"]["error"]) == (503, row.refused)
    assert server.journal(session_id) == before


@pytest.mark.parametrize(("kind", "connections"), [("llamacpp", 2), ("fake", 1)])
def test_a_server_that_drops_connections_is_asked_over_a_new_one(
    server: Server, llm: FakeLLM, kind: str, connections: int
):
    """llama.cpp closes after each stream a connection that it said it keeps: a call on it would be lost."""
    with Web(server.url) as web:
        begun(web, f"connected-{kind}", "en")
        llm.will(misbehaves())
        with told_by(server, llm.url, kind, model="any"):
            for _ in range(2):
                web.invoke(f"connected-{kind}", option=1)

    assert (len(llm.requests), llm.connections) == (2, connections)


def test_every_fault_has_its_row():
    assert list(ROWS) == list(FAULTS)
