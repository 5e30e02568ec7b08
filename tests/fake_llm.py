"""A chat API on a loopback socket that behaves as it is told, well or badly, one behaviour a request.

    with FakeLLM() as llm:
        llm.will(refuses(503), says({"scene": "…"}))
        profile = Profile(base_url=llm.url, model="any")

It runs in a thread of its own, so that tests of any colour and other processes can use it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

HEAD_END = b"\r\n\r\n"


class Asked(Struct, frozen=True):
    """One request as it came: header names in lower case, the body as JSON."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Answers one request by writing to the connection; closing it is part of the answer."""


def completion(answer: Mapping[str, Any] | str | None, **more: Any) -> bytes:
    """A chat completion whose content is the answer; `model`, `usage` and `finish_reason` may be given."""
    content = json.dumps(answer, ensure_ascii=False) if isinstance(answer, Mapping) else answer
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": more.pop("finish_reason", "stop"),
    }
    return json.dumps({"object": "chat.completion", "model": "fake-1", "choices": [choice], **more}).encode()


def response(status: int, body: bytes, headers: Mapping[str, str | None] | None = None) -> bytes:
    """An HTTP response whole; `headers` replace the usual ones, and None leaves one out."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {status} Fake\r\n{head}\r\n".encode() + body


def sends(raw: bytes, *, then_close: bool = False) -> Behaviour:
    """Write these bytes, whatever they are."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if then_close:
            writer.close()

    return behave


def says(answer: Mapping[str, Any] | str | None, **more: Any) -> Behaviour:
    """Answer well: the content of a chat completion."""
    return sends(response(200, completion(answer, **more)))


def refuses(status: int, error: object = None, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answer with a status and, where given, the provider's `error`."""
    return sends(response(status, json.dumps({"error": error}).encode(), headers))


def keeps_alive(answer: Mapping[str, Any], blank_lines: int = 20) -> Behaviour:
    """Send blank lines before the completion, as DeepSeek does while it is busy."""
    return sends(response(200, b"\n" * blank_lines + completion(answer)))


def cuts_off(answer: Mapping[str, Any], *, keep: int, announced: bool) -> Behaviour:
    """Send only the first `keep` bytes of the completion; `announced` = the whole length was promised."""
    whole = completion(answer)
    length = {"Content-Length": str(len(whole)) if announced else None, "Connection": "close"}
    return sends(response(200, whole[:keep], length), then_close=True)


def zips(answer: Mapping[str, Any]) -> Behaviour:
    """Compress the completion, whatever was asked for."""
    return sends(response(200, gzip.compress(completion(answer)), {"Content-Encoding": "gzip"}))


def hangs_up() -> Behaviour:
    """Close the connection without a word."""
    return sends(b"", then_close=True)


def hangs() -> Behaviour:
    """Never answer."""

    async def behave(_: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return behave


def drips(*, every_s: float) -> Behaviour:
    """Promise a large answer and send one blank of it at a time, without end."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(response(200, b"", {"Content-Length": "200000"}))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(every_s)

    return behave


class FakeLLM:
    """The server. `requests` has all that was asked, in the order of arrival."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.url = ""
        self._script: deque[Behaviour] = deque()
        self._last: Behaviour = refuses(501, "the script is empty")
        self._writers: list[asyncio.StreamWriter] = []
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-llm", daemon=True)

    @property
    def connections(self) -> int:
        """How many connections were made to it."""
        return len(self._writers)

    def will(self, *behaviours: Behaviour) -> None:
        """Answer the next requests so, one each; the last behaviour stays for all that follow."""
        self._script.extend(behaviours)

    def wait_for_requests(self, count: int, *, timeout_s: float = 10.0) -> bool:
        """Block until so many requests have arrived; False where they didn't in time."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _stop(self) -> None:
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        # Aborted transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while not writer.is_closing():
                asked = await _read_request(reader)
                behave = self._next(asked)
                await behave(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        except asyncio.CancelledError:
            # The server is stopping; a stream's task must not end cancelled, or asyncio logs it.
            return
        finally:
            writer.close()

    def _next(self, asked: Asked) -> Behaviour:
        with self._arrived:
            self.requests.append(asked)
            self._last = self._script.popleft() if self._script else self._last
            self._arrived.notify_all()
            return self._last


async def _read_request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(HEAD_END)).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(first.split(" ")[1], headers, json.loads(body or b"{}"))
