"""Writes a reply to its connection, as slowly, as noisily and as badly as it says."""

from __future__ import annotations

import asyncio
import zlib
from functools import cache
from typing import TYPE_CHECKING

from server.fake.http import chunk, head_of, response
from server.fake.reply import body_of, end_of, events_of, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.fake.reply import Reply

OK = 200
NOISE_EVERY_S = 1.0
DRIP_S = 0.5
"""Seconds between two bytes of a reply that drips."""
BLOCK = b" " * (64 * 1024)
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
CHUNKED = {"Transfer-Encoding": "chunked"}


async def send(reply: Reply, writer: asyncio.StreamWriter) -> None:
    """Write the whole reply; where it breaks off, the connection is closed. Raises ConnectionError."""
    await asyncio.sleep(reply.before_head_s)
    if reply.status != OK:
        await _write(writer, response(reply.status, body_of(reply), {**reply.headers}))
    elif reply.is_zipped:
        await _write(writer, response(OK, _zipped(reply.padding_bytes), {"Content-Encoding": "gzip"}))
    elif reply.streams:
        await _stream(reply, writer)
    else:
        await _plain(reply, writer)


async def _write(writer: asyncio.StreamWriter, raw: bytes) -> None:
    writer.write(raw)
    await writer.drain()


@cache
def _zipped(size: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    parts = [packer.compress(BLOCK) for _ in range(size // len(BLOCK))]
    return b"".join((*parts, packer.flush()))


async def _plain(reply: Reply, writer: asyncio.StreamWriter) -> None:
    """One JSON body of the length that was promised, unless the connection breaks before."""
    body = body_of(reply)
    noise = b"\n" * reply.noise
    waiting = _waiting(reply) * b"\n"
    length = len(noise) + len(waiting) + len(body) + reply.padding_bytes
    await _write(writer, head_of(OK, {**JSON, "Content-Length": str(length)}) + noise)
    await _wait(reply, writer, [b"\n"] * len(waiting))
    if reply.tokens_per_second:
        await asyncio.sleep(len(pieces(reply.content or "")) / reply.tokens_per_second)
    if reply.keep < 1:
        await _write(writer, body[: int(len(body) * reply.keep)])
        writer.close()
        return
    await _paced(reply, writer, body)
    for block in _padding(reply):
        await _write(writer, block)


async def _stream(reply: Reply, writer: asyncio.StreamWriter) -> None:
    """Server-sent events in chunks, ended by [DONE] and the last chunk, unless the connection breaks before."""
    head = head_of(OK, {**EVENTS, **CHUNKED})
    noise = chunk(b": keep-alive\n\n")
    await _write(writer, head + noise * reply.noise)
    await _wait(reply, writer, [noise] * _waiting(reply))
    events = list(events_of(reply))
    for event, has_text in events[: max(1, int(len(events) * reply.keep))]:
        if has_text and reply.tokens_per_second:
            await asyncio.sleep(1 / reply.tokens_per_second)
        await _paced(reply, writer, chunk(event))
    if reply.keep < 1:
        writer.close()
        return
    for block in _padding(reply):
        await _write(writer, chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "' + block + b'"}}]}\n\n'))
    await _write(writer, chunk(end_of(reply)) + chunk(b""))


def _waiting(reply: Reply) -> int:
    """How many keep-alive lines are sent while the text is waited for."""
    return int(reply.before_text_s / NOISE_EVERY_S) if reply.noise else 0


async def _wait(reply: Reply, writer: asyncio.StreamWriter, noise: list[bytes]) -> None:
    for line in noise:
        await asyncio.sleep(NOISE_EVERY_S)
        await _write(writer, line)
    await asyncio.sleep(reply.before_text_s - len(noise) * NOISE_EVERY_S)


async def _paced(reply: Reply, writer: asyncio.StreamWriter, raw: bytes) -> None:
    if not reply.drips:
        await _write(writer, raw)
        return
    for byte in raw:
        await _write(writer, bytes((byte,)))
        await asyncio.sleep(DRIP_S)


def _padding(reply: Reply) -> Iterator[bytes]:
    return (BLOCK for _ in range(reply.padding_bytes // len(BLOCK)))
