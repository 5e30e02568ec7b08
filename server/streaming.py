"""A turn as a stream: the events of POST /invoke as they come, for one reader or several.

The turn goes its one way, `turn.play`, whoever listens: what it tells is kept while it runs, and
each reader takes it at its own pace. So a reader that is slow or goes away holds nothing up, and
one that comes back with the same key goes on where it was. What is kept goes with the turn.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from runtime import turn
from server.edge import failure_of
from server.forms import Event, Form, in_ascii
from server.wire import success

if TYPE_CHECKING:
    from litestar import Request
    from litestar.types import Receive, Scope, Send

    from runtime.claims import Idempotency
    from runtime.narrators.release import Hear
    from runtime.session import Invoke
    from runtime.turn import Played
    from server.call import Call
    from server.house import House

Begin = Callable[["Hear"], Coroutine[Any, Any, "Played"]]

HEARTBEAT_S: Final = 10.0
"""Seconds of silence after which a reader hears that the stream is alive; the contract allows 15."""
_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_REPLAYED = ((b"idempotency-replayed", b"true"),)


class Live:
    """One turn under way: what it has told so far, and how it ended.

    `first_text` is called when the first text is heard. Ids are the same for every reader.
    """

    def __init__(self, first_text: Callable[[], None]) -> None:
        self.events: list[Event] = []
        self.turn: asyncio.Task[Played] | None = None
        self._first_text = first_text
        self._has_text = False
        self._tag = secrets.token_hex(4)
        self._readers: set[asyncio.Event] = set()

    @property
    def is_over(self) -> bool:
        """Whether the turn has ended, well or badly."""
        return self.turn is not None and self.turn.done()

    def hear(self, event: str, data: Mapping[str, Any]) -> None:
        """Keep an event for whoever reads."""
        if event == "field.delta" and not self._has_text:
            self._has_text = True
            self._first_text()
        self.events.append(Event(self.next_id, event, in_ascii(msgspec.json.encode(data))))
        self.wake()

    @property
    def next_id(self) -> str:
        """The id of the event that comes next."""
        return f"{self._tag}-{len(self.events) + 1}"

    def wake(self) -> None:
        """Let every reader look again."""
        for reader in self._readers:
            reader.set()

    def place_after(self, last_id: str) -> int:
        """How many events a reader has that saw this id last; an id of another turn stands for none."""
        return next((at for at, event in enumerate(self.events, 1) if event.id == last_id), 0)

    def joined(self, reader: asyncio.Event) -> None:
        """Wake this reader too from now on."""
        self._readers.add(reader)

    def left(self, reader: asyncio.Event) -> None:
        """Wake it no more."""
        self._readers.discard(reader)


class Streams:
    """The turns that are told as streams in this process: as many as run, and each goes when it has ended."""

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self._live: dict[object, Live] = {}

    def __len__(self) -> int:
        """How many turns are under way as streams."""
        return len(self._live)

    def join(self, once: Idempotency | None, begin: Begin, first_text: Callable[[], None]) -> Live:
        """The turn that this very request began before with its key, else a new one."""
        name: object = object() if once is None else (once.caller, once.key, once.request_hash)
        if name not in self._live:
            self._live[name] = self._begun(name, begin, first_text)
        return self._live[name]

    def _begun(self, name: object, begin: Begin, first_text: Callable[[], None]) -> Live:
        live = Live(first_text)

        def end(played: asyncio.Task[Played]) -> None:
            del self._live[name]
            if not played.cancelled():
                played.exception()  # seen: each reader is told, and there may be none
            live.wake()

        live.turn = asyncio.create_task(begin(live.hear))
        live.turn.add_done_callback(end)
        return live


class Stream:
    """The answer to one reader: the turn's events from where the reader was, then its end."""

    def __init__(
        self, house: House, request: Request[Any, Any, Any], asked: Invoke, once: Idempotency | None, form: Form
    ) -> None:
        self._house = house
        self._request = request
        self._call: Call = request.scope["state"]["call"]
        self._asked = asked
        self._once = once
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises what refuses the turn before anything of it was told."""
        live = self._house.streams.join(self._once, self._begin, self._first_text)
        reader = _Reader(live, receive, self._house.streams.heartbeat_s)
        try:
            last_id = self._call.headers.get(b"last-event-id", b"").decode("latin-1")
            parts = self._parts(live, reader, live.place_after(last_id))
            headers = await self._headers(live, reader)
            # A reader of HTTP/1.0 knows no chunks: it gets the whole at the end.
            if scope.get("http_version") == "1.0":
                await _send_whole(send, headers, b"".join([part async for part in parts]))
            else:
                await _send_parts(send, headers, parts)
        finally:
            await reader.leave()

    def _begin(self, hear: Hear) -> Coroutine[Any, Any, Played]:
        role = self._call.role or "player"
        return turn.play(self._house.runtime, self._asked, role, self._once, hear)

    def _first_text(self) -> None:
        self._house.meter.first_text(self._house.runtime.narrator.name, self._call.ms / 1000)

    async def _headers(self, live: Live, reader: _Reader) -> list[tuple[bytes, bytes]]:
        """Wait until there is something to tell, or long enough. Raises what the turn was refused with."""
        if not live.events and not live.is_over:
            await reader.wait()
        is_replayed = False
        if live.turn is not None and live.is_over and not live.events:
            is_replayed = live.turn.result().is_replayed
        content_type = (b"content-type", self._form.media_type.encode())
        return [content_type, *_HEADERS, *(_REPLAYED if is_replayed else ())]

    async def _parts(self, live: Live, reader: _Reader, seen: int) -> AsyncIterator[bytes]:
        """All events from a place on as they come, signs of life between them, and the end."""
        if seen == len(live.events) and not live.is_over:
            yield self._form.heartbeat(live.events[-1].id if live.events else "")
        while not reader.is_gone:
            is_over, fresh = live.is_over, live.events[seen:]
            if fresh:
                seen += len(fresh)
                yield b"".join(map(self._form.written, fresh))
            if is_over:
                yield self._form.written(self._end_of(live))
                return
            if not await reader.wait():
                yield self._form.heartbeat(live.events[seen - 1].id if seen else "")

    def _end_of(self, live: Live) -> Event:
        """The last event, with the plain answer's JSON."""
        assert live.turn is not None  # noqa: S101 - it has ended
        try:
            played = live.turn.result()
        except Exception as error:  # noqa: BLE001 - the answer has begun: whatever it is, the reader is told
            _, _, body = failure_of(self._request, error)
            return Event(live.next_id, "turn.failed", in_ascii(body))
        return Event(f"turn-{played.entry.turn}", "turn.committed", in_ascii(success(played.data)))


class _Reader:
    """One who reads, and whether it is still there: it is told of news and of its own going away alike."""

    def __init__(self, live: Live, receive: Receive, heartbeat_s: float) -> None:
        self.is_gone = False
        self._live = live
        self._receive = receive
        self._heartbeat_s = heartbeat_s
        self._news = asyncio.Event()
        self._watch = asyncio.create_task(self._watched())
        live.joined(self._news)

    async def wait(self) -> bool:
        """Wait for news; False where none came for as long as silence may last."""
        try:
            async with asyncio.timeout(self._heartbeat_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _watched(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._news.set()

    async def leave(self) -> None:
        """Read no more."""
        self._live.left(self._news)
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)


async def _send_parts(send: Send, headers: list[tuple[bytes, bytes]], parts: AsyncIterator[bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_whole(send: Send, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
