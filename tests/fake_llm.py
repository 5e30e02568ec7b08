"""The fake provider (`edgewise fake-llm`) in a thread, told by a test what to answer, one behaviour a request.

    with FakeLLM() as llm:
        llm.will(refuses(503), says({"scene": "…"}))
        profile = Profile(base_url=llm.url, model="any")

A well-told answer is streamed where a stream was asked for. It runs in a thread of its own, so that
tests of any colour and other processes can use it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from server.fake.http import Asked, Behaviour, chunk, converse, head_of, response
from server.fake.provider import Manner, Provider
from server.fake.reply import Reply, body_of, end_of, events_of
from server.fake.sending import CHUNKED, EVENTS, send

__all__ = ["Asked", "Behaviour", "FakeLLM", "Reply", "completion", "cuts_off", "drips", "hangs", "hangs_up"]
__all__ += ["keeps_alive", "misbehaves", "refuses", "response", "says", "sends", "zips"]


def reply_of(answer: Mapping[str, Any] | str | None, **more: Any) -> Reply:
    """The answer as the provider would send it; `model`, `usage` and `finish_reason` may be given."""
    content = json.dumps(answer, ensure_ascii=False) if isinstance(answer, Mapping) else answer
    return Reply(content=content, finish=more.pop("finish_reason", "stop"), **more)


def completion(answer: Mapping[str, Any] | str | None, **more: Any) -> bytes:
    """The body of a chat completion whose content is the answer."""
    return body_of(reply_of(answer, **more))


def replies(reply: Reply) -> Behaviour:
    """Send this, as a stream or not, as it is asked for."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await send(replace(reply, streams=asked.streams, with_usage=asked.wants_usage), writer)

    return behave


def misbehaves(*faults: str, **manner: Any) -> Behaviour:
    """Answer as `edgewise fake-llm --fault …` does; its other options may be given by their names in Manner."""
    provider = Provider(Manner(faults=faults, **manner))

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await send(provider.answer(asked).reply, writer)

    return behave


def sends(raw: bytes, *, then_close: bool = False) -> Behaviour:
    """Write these bytes, whatever they are and whatever was asked for."""

    async def behave(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if then_close:
            writer.close()

    return behave


def says(answer: Mapping[str, Any] | str | None, **more: Any) -> Behaviour:
    """Answer well: the content of a chat completion."""
    return replies(reply_of(answer, **more))


def refuses(status: int, error: object = None, headers: Mapping[str, str] | None = None) -> Behaviour:
    """Answer with a status and, where given, the provider's `error`."""
    return replies(Reply(status=status, error=error, headers=headers or {}))


def keeps_alive(answer: Mapping[str, Any], blank_lines: int = 20) -> Behaviour:
    """Send blank lines, or comments in a stream, before the answer, as DeepSeek does while it is busy."""
    return replies(replace(reply_of(answer), noise=blank_lines))


def cuts_off(answer: Mapping[str, Any], *, keep: int, announced: bool) -> Behaviour:
    """Send only the first `keep` bytes of the body; `announced` = the whole length was promised (no stream has one)."""
    reply = reply_of(answer)
    whole = completion(answer)
    length = {"Content-Length": str(len(whole)) if announced else None, "Connection": "close"}

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        events = b"".join(event for event, _ in events_of(reply)) + end_of(reply)
        streamed = head_of(200, {**EVENTS, **CHUNKED}) + chunk(events[:keep])
        plain = response(200, whole[:keep], length)
        await sends(streamed if asked.streams else plain, then_close=True)(asked, writer)

    return behave


def zips(answer: Mapping[str, Any]) -> Behaviour:
    """Compress the completion, whatever was asked for."""
    return sends(response(200, gzip.compress(completion(answer)), {"Content-Encoding": "gzip"}))


def hangs_up() -> Behaviour:
    """Close the connection without a word."""
    return sends(b"", then_close=True)


def hangs() -> Behaviour:
    """Never answer."""

    async def behave(_: Asked, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return behave


def drips(*, every_s: float) -> Behaviour:
    """Begin an answer and send one blank of it at a time, without end."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head_of(200, {**EVENTS, **CHUNKED}) if asked.streams else _large())
        while True:
            writer.write(chunk(b"\n") if asked.streams else b" ")
            await writer.drain()
            await asyncio.sleep(every_s)

    return behave


def _large() -> bytes:
    return response(200, b"", {"Content-Length": "200000"})


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
        await converse(reader, writer, self._next)

    async def _next(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        with self._arrived:
            self.requests.append(asked)
            self._last = self._script.popleft() if self._script else self._last
            self._arrived.notify_all()
            behave = self._last
        await behave(asked, writer)


def asked_plainly(project: Path, llm: FakeLLM) -> dict[str, str]:
    """Have a project ask this model in one format, so that its server tries none at its start; the settings for it."""
    asked = f"{{profile: other, base_url: '{llm.url}', model: any, response_format: json_object}}"
    (project / "edgewise.yaml").write_text(f"providers:\n  - {asked}\n", encoding="utf-8")
    return {"EDGEWISE_NARRATOR": "openai"}
