"""Changing a session's history: going back, branching off, telling anew.

The edges are those of /invoke, and each takes from the caller's pace as a turn does: each writes to the journal.
"""

from __future__ import annotations

from typing import Any, TypeVar

from litestar import Request, post
from litestar.params import FromPath
from litestar.types import ASGIApp

from runtime import history
from runtime.claims import Idempotency
from runtime.turn import Played, Runtime
from server.body import read_body, read_json, refuse_other_types
from server.house import enter
from server.once import idempotency_of
from server.reading import refuse_strange_id
from server.reply import json_data
from server.wire import ForkSent, RegenerateSent, RewindSent, Sent, read_sent

Asked = Request[Any, Any, Any]
_Body = TypeVar("_Body", bound=Sent)


@post("/sessions/{session_id:str}/rewind", status_code=200)
async def rewind(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Go back to a turn, or forward again."""
    runtime, sent, once = await _asked(request, session_id, RewindSent, "rewind")
    played = await history.rewind(runtime, session_id, sent.to_turn, expected_turn=sent.expected_turn, once=once)
    return _answer(played)


@post("/sessions/{session_id:str}/fork", status_code=200)
async def fork(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Begin another session with the way to a turn."""
    runtime, sent, once = await _asked(request, session_id, ForkSent, "fork")
    played = await history.fork(
        runtime, session_id, sent.at_turn, child_id=sent.session_id, same_dice=sent.same_dice, once=once
    )
    return _answer(played)


@post("/sessions/{session_id:str}/regenerate", status_code=200)
async def regenerate(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Tell the head turn anew."""
    runtime, sent, once = await _asked(request, session_id, RegenerateSent, "regenerate")
    played = await history.regenerate(runtime, session_id, expected_turn=sent.expected_turn, once=once)
    return _answer(played)


async def _asked(
    request: Asked, session_id: str, kind: type[_Body], route: str
) -> tuple[Runtime, _Body, Idempotency | None]:
    """What the request is played with, what its body asks for, and its key.

    No body at all asks for what every default says.
    """
    house, call = enter(request, "player")
    house.pace.take(call.caller)
    raw = await read_body(request.receive, call.headers.get(b"content-length"))
    if raw:
        refuse_other_types(call.headers.get(b"content-type"), call.headers.get(b"content-encoding"))
    value = read_json(raw) if raw else {}
    sent = read_sent(kind, raw, value)
    once = idempotency_of(call, route, value)
    refuse_strange_id(session_id)
    return house.runtime, sent, once


def _answer(played: Played) -> ASGIApp:
    return json_data(played.data, is_replayed=played.is_replayed)


HANDLERS = (rewind, fork, regenerate)
