"""HTTP as the fake provider needs it: requests read whole, answers framed by hand, so that each may be wrong.

A server's library would mend what is meant to be broken: a length that is not kept, a body that ends early.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from msgspec import Struct

HEAD_END = b"\r\n\r\n"
MAX_BODY_BYTES = 16 * 1024 * 1024
"""The largest request that is read."""
_LENGTH, _CHUNK = re.compile("[0-9]{1,12}"), re.compile(b"[0-9a-fA-F]{1,12}")
_PHRASES = {each.value: each.phrase for each in HTTPStatus}
_GONE = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError)


class Unreadable(Exception):
    """A body whose end can't be found, or that is too large, with the reason: nothing after it can be read."""


class Asked(Struct, frozen=True):
    """One request as it came: header names in lower case, the body as JSON.

    `fault` says why the body is no JSON object; `body` is empty then.
    """

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    method: str = "POST"
    fault: str = ""

    @property
    def streams(self) -> bool:
        """Whether a stream of events is asked for."""
        return self.body.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        """Whether the stream shall end with its usage."""
        options = self.body.get("stream_options")
        return isinstance(options, Mapping) and options.get("include_usage") is True


Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request by writing to the connection; closing it may be part of the answer."""


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behave: Behaviour) -> None:
    """Answer the requests of one connection, one after another, until either side closes it."""
    try:
        while not writer.is_closing():
            asked = await read_request(reader, writer)
            await behave(asked, writer)
            if asked.headers.get("connection", "").lower() == "close":
                return
    except _GONE:
        return
    except asyncio.CancelledError:
        # The server is stopping; a stream's task must not end cancelled, or asyncio logs it.
        return
    finally:
        writer.close()


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    """The next request. Raises IncompleteReadError where the client hung up.

    Behind a body that can't be read the connection closes: its `connection` is set to say so.
    """
    head = (await reader.readuntil(HEAD_END)).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, _, rest = first.partition(" ")
    if "100-continue" in headers.get("expect", "").lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body, fault = _object(await _body(reader, headers))
    except Unreadable as error:
        body, fault, headers = {}, str(error), {**headers, "connection": "close"}
    return Asked(rest.partition(" ")[0], headers, body, method, fault)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _chunks(reader)
    length = headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length):
        raise Unreadable("the length of the body is no number of bytes")
    return await reader.readexactly(_allowed(int(length)))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := _size_in((await reader.readuntil(b"\r\n")).partition(b";")[0].strip()):
        _allowed(len(body) + size)
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return bytes(body)


def _size_in(written: bytes) -> int:
    if not _CHUNK.fullmatch(written):
        raise Unreadable("the size of a chunk is no number of bytes")
    return int(written, 16)


def _allowed(size: int) -> int:
    if size > MAX_BODY_BYTES:
        raise Unreadable(f"the body has more than {MAX_BODY_BYTES:,} bytes")
    return size


def _object(raw: bytes) -> tuple[Mapping[str, Any], str]:
    if not raw:
        return {}, "the body is empty"
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}, "the body is no JSON"
    return (found, "") if isinstance(found, dict) else ({}, "the body is no JSON object")


def head_of(status: int, fields: Mapping[str, str | None]) -> bytes:
    """A response's status line and headers; a header that is None is left out."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} {_phrase(status)}\r\n{lines}\r\n".encode()


def response(status: int, body: bytes, headers: Mapping[str, str | None] | None = None) -> bytes:
    """A response whole; `headers` replace the usual ones, and None leaves one out."""
    usual: dict[str, str | None] = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return head_of(status, {**usual, **(headers or {})}) + body


def chunk(raw: bytes) -> bytes:
    """A part of a body whose length isn't known before; an empty one ends it."""
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Fake")
