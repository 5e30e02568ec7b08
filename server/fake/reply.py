"""One answer of the fake provider, as data, and the bytes that the chat API has for it. Pure: no I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

MODEL = "fake-1"
_PIECE = re.compile(r"\s*[^\s\u2e80-\uffff]{1,4}|\s*[\u2e80-\uffff]|\s+", re.DOTALL)


class Reply(Struct, frozen=True, kw_only=True):
    """What is answered to one request, and how.

    `error` is the body's `error` where the status is no 200. `streams`: as events, else one JSON
    body. Waits are in seconds: `before_head_s` before anything is sent, `before_text_s` between
    the head and the text, and `tokens_per_second` (0: at once) paces the text. `noise` keep-alive
    lines come before the text, and one a second while it is waited for. After the share `keep` of
    the text the connection breaks. `drips`: a byte at a time. `padding_bytes` of blanks follow the
    text. `is_zipped`: compressed blanks of that size instead of an answer. `listing`: the models that
    there are, instead of an answer.
    """

    content: str | None = ""
    reasoning: str = ""
    finish: str = "stop"
    model: str = MODEL
    usage: Any = None
    status: int = 200
    error: Any = None
    headers: Mapping[str, str] = {}
    streams: bool = False
    with_usage: bool = True
    before_head_s: float = 0.0
    before_text_s: float = 0.0
    tokens_per_second: float = 0.0
    noise: int = 0
    keep: float = 1.0
    drips: bool = False
    padding_bytes: int = 0
    is_zipped: bool = False
    number: int = 1
    created: int = 0
    listing: tuple[str, ...] = ()


def pieces(text: str) -> list[str]:
    """A text in pieces of about a token each, none lost."""
    return _PIECE.findall(text)


def body_of(reply: Reply) -> bytes:
    """The JSON body: a chat completion, or the error."""
    if reply.status != 200:  # noqa: PLR2004 - the one status of an answer
        return _json({"error": reply.error})
    if reply.listing:
        models = [
            {"id": name, "object": "model", "created": reply.created, "owned_by": "fake"} for name in reply.listing
        ]
        return _json({"object": "list", "data": models})
    message = {"role": "assistant", "content": reply.content}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    return _json({**_named(reply, "chat.completion"), "choices": [choice], "usage": reply.usage})


def events_of(reply: Reply) -> Iterator[tuple[bytes, bool]]:
    """The stream's events in order, each with whether it carries text; without the one that ends it."""
    yield _event(reply, {"role": "assistant", "content": ""}), False
    for piece in pieces(reply.reasoning):
        yield _event(reply, {"reasoning_content": piece}), True
    for piece in pieces(reply.content or ""):
        yield _event(reply, {"content": piece}), True


def end_of(reply: Reply) -> bytes:
    """The events that end a stream: why it ends, its usage where that was asked for, and the mark."""
    told = _event(reply, {}, reply.finish)
    if reply.with_usage:
        told += _data({**_named(reply, "chat.completion.chunk"), "choices": [], "usage": reply.usage})
    return told + b"data: [DONE]\n\n"


def _event(reply: Reply, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_named(reply, "chat.completion.chunk"), "choices": [choice]})


def _named(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-fake-{reply.number}", "object": kind, "created": reply.created, "model": reply.model}


def _data(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
