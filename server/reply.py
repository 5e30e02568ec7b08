"""Answers that succeeded, as the smallest thing that ASGI can send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.wire import success, success_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.types import Receive, Scope, Send

_JSON = b"application/json"
_REPLAYED = ((b"idempotency-replayed", b"true"),)


class Reply:
    """A whole answer: two messages, and nothing computed on the way.

    Litestar's own Response costs about as much as reading the seed's request.
    """

    __slots__ = ("_body", "_more", "_type")

    def __init__(self, body: bytes, media_type: bytes = _JSON, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._body = body
        self._type = media_type
        self._more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it."""
        headers = [(b"content-type", self._type), (b"content-length", b"%d" % len(self._body)), *self._more]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def data(value: Any) -> Reply:
    """A value, in the envelope."""
    return Reply(success_of(value))


def json_data(encoded: bytes, *, is_replayed: bool = False) -> Reply:
    """JSON bytes, in the envelope, untouched; a stored answer that is sent again says so."""
    return Reply(success(encoded), more=_REPLAYED if is_replayed else ())


def items(values: list[Any], next_after: str | int | None = None) -> Reply:
    """A list, and where it goes on (None at its end)."""
    return data({"items": values, "next_after": next_after})
