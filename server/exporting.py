"""Giving sessions away over HTTP: the record for machines, the story for readers, each as one file."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from litestar import Request, get
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Struct

from runtime.bench.recording import recorded
from runtime.export import Survey, refuse_secrets, stream_of, survey
from runtime.model import LANGUAGE_PATTERN
from server.house import House, enter
from server.query import ExportQuery, read_query
from server.reading import refuse_strange_id
from server.story import written
from server.story_html import Html
from server.story_md import Markdown

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from server.call import Call

Asked = Request[Any, Any, Any]

POLICY = b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""A page that a player's words stand in may run nothing and load nothing, whatever slipped through."""


class Kind(Struct, frozen=True):
    """How a form is sent: its media type, its file's suffix, and whether a browser may show it."""

    media_type: str
    suffix: str
    is_page: bool = False


KINDS = {
    "jsonl": Kind("application/x-ndjson", "jsonl"),
    "md": Kind("text/markdown; charset=utf-8", "md"),
    "html": Kind("text/html; charset=utf-8", "html", is_page=True),
    "replay": Kind("application/yaml", "replay.yaml"),
}
"""The forms of CONTRACT's export."""


@get("/sessions/{session_id:str}/export")
async def export_session(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Give a session away; the record of a machine with secrets to operators only."""
    house, call = enter(request, "player")
    query = read_query(ExportQuery, request.scope["query_string"])
    refuse_strange_id(session_id)
    about = await survey(house.runtime, session_id)
    refuse_secrets(about, query.format, call.role or "player")
    parts = _parts(house, call, about, query.format)
    return Parts(await anext(parts), parts, headers_of(about, query.format))


def _parts(house: House, call: Call, about: Survey, form: str) -> AsyncIterator[bytes]:
    if form == "md":
        return written(house.runtime, about, Markdown())
    if form == "html":
        return written(house.runtime, about, Html())
    if form == "replay":
        return _encoded(recorded(house.runtime.store, about, "asked" if call.role == "operator" else "none"))
    return stream_of(house.runtime, about, call.role or "player")


async def _encoded(parts: AsyncGenerator[str, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        async for part in parts:
            yield part.encode()


def headers_of(about: Survey, form: str) -> list[tuple[bytes, bytes]]:
    """What is said of the file before its first byte; whether a model wrote any of it, too."""
    kind = KINDS[form]
    shown_as = "inline" if kind.is_page else "attachment"
    headers = {
        "content-type": kind.media_type,
        "content-disposition": f'{shown_as}; filename="{file_name(about.session_id, kind.suffix)}"',
        **({"content-language": about.language} if re.fullmatch(LANGUAGE_PATTERN, about.language) else {}),
        "x-ai-generated": str(about.is_ai_generated).lower(),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    policy = [(b"content-security-policy", POLICY)] if kind.is_page else []
    return [*((name.encode(), value.encode()) for name, value in headers.items()), *policy]


def file_name(session_id: str, suffix: str) -> str:
    """A name that every file system takes: ids may hold colons, and begin with a dot or a dash."""
    return f"session-{re.sub('[^A-Za-z0-9_-]+', '_', session_id)}.{suffix}"


class Parts:
    """An answer that is sent as it is made; what fails on the way cuts it off, so that nobody takes it for whole."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._first = first
        self._rest = rest
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send it. Raises what its making raises."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(self._headers)})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for part in self._rest:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if isinstance(self._rest, AsyncGenerator):
                await self._rest.aclose()


HANDLERS = (export_session,)
