"""Logs: one line for each request and each turn, with its figures, and no word of a player's."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import httpx
import pytest
import structlog
from conftest import tiny
from served import living

from runtime.errors import StoreUnavailable
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server import logs
from server.app import create_app
from server.settings import Settings

ROOM = """
initial: {event: INIT, target: ROOM}
events: {SAY: {payload: {text: text}}}
states:
  ROOM: {on: {SAY: [{guard: "payload.text != 'crash'", target: END_SAID}]}}
  END_SAID: {type: final}
"""

OPEN = Settings()


@pytest.fixture
def stream():
    """What is logged, as JSON; whatever logging was before is there again afterwards."""
    kept = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    yield stream
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = kept
    for name in logs.QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def play(stream: io.StringIO, *bodies: dict[str, Any], settings: Settings = OPEN, narrator: Any = None) -> None:
    logs.configure(settings, stream)
    machine = tiny(ROOM)
    app = create_app(settings, Runtime(MemoryStore(), narrator or Offline(), {"tiny": machine}, "tiny"))
    async with living(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for body in bodies:
            sent = {"session": {"session_id": "s1"}, **body}
            headers = {"X-Request-Id": "r-1", "Authorization": "Bearer sesame"}
            await client.post("/invoke?token=in-the-query", json=sent, headers=headers)


async def test_a_turn_and_its_request_are_a_line_each(stream):
    await play(stream, {"event": {"type": "init"}})
    turn, request = lines(stream)
    assert {"timestamp", "level", "ms", "narrate_ms", "store_ms"} <= set(turn)
    assert {
        "message": "turn", "request_id": "r-1", "session": "s1", "turn": 1, "event": "INIT", "edge": "initial",
        "from_state": None, "to_state": "ROOM", "narrator": "offline",
    }.items() <= turn.items()  # fmt: skip
    assert {
        "message": "request", "request_id": "r-1", "method": "POST", "path": "/invoke", "status": 200, "error": None,
    }.items() <= request.items()  # fmt: skip
    assert turn["narrate_ms"] + turn["store_ms"] <= turn["ms"] <= request["ms"]


async def test_a_refusal_is_a_request_line_with_its_error_and_no_turn(stream):
    await play(stream, {"event": {"type": "SAY"}})
    (request,) = lines(stream)
    assert (request["status"], request["error"]) == (404, "session_not_found")


async def test_no_word_of_a_player_no_token_and_no_query_is_logged(stream):
    said = {"event": {"type": "SAY"}, "payload": {"text": "my-own-words"}, "context": {"note": "my-own-note"}}
    tokens = Settings(play_tokens=("sesame",))
    await play(
        stream, {"event": {"type": "INIT"}, "session": {"session_id": "s1", "player_id": "ann"}}, said, settings=tokens
    )
    logged = stream.getvalue()
    assert [line["message"] for line in lines(stream)] == ["turn", "request"] * 2
    for word in ("my-own-words", "my-own-note", "sesame", "in-the-query"):
        assert word not in logged


async def test_a_crash_is_logged_with_its_traceback_and_its_request(stream):
    class Crashing(Offline):
        async def narrate(self, _, _release):
            raise RuntimeError("the narrator fell over")

    await play(stream, {"event": {"type": "INIT"}}, narrator=Crashing())
    crash, request = lines(stream)
    assert (crash["level"], crash["message"], crash["request_id"]) == ("error", "crash", "r-1")
    assert "RuntimeError: the narrator fell over" in crash["exception"]
    assert (request["status"], request["error"]) == (500, "internal_error")


def test_libraries_come_out_in_the_same_form_and_quiet(stream):
    logs.configure(Settings(), stream)
    logging.getLogger("httpx").info("HTTP Request: POST https://example.org/?key=secret")
    logging.getLogger("uvicorn.error").info("Started %s", "process")
    (line,) = lines(stream)
    assert (line["message"], line["logger"], line["level"]) == ("Started process", "uvicorn.error", "info")


def test_why_the_server_cant_start_is_a_sentence_not_a_traceback(stream):
    logs.configure(Settings(), stream)
    refused = ExceptionGroup("in a task group", [StoreUnavailable("another server has the file")])
    try:
        raise refused
    except ExceptionGroup:
        logging.getLogger("uvicorn.error").error(  # noqa: TRY400 - as uvicorn does
            "Traceback (most recent call last):\n  …"
        )
    assert [line["message"] for line in lines(stream)] == ["another server has the file"]


def test_the_level_and_the_form_are_settings(stream):
    logs.configure(Settings(log_level="warning", log_format="text"), stream)
    logs.log.info("unheard")
    logs.log.warning("heard", port=8000)
    text = stream.getvalue()
    assert "unheard" not in text
    assert "heard" in text
    assert "port=8000" in text


def test_on_a_terminal_lines_are_for_reading(stream):
    stream.isatty = lambda: True
    logs.configure(Settings(), stream)
    logs.log.info("hello")
    assert not stream.getvalue().startswith("{")
