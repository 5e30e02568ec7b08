"""A TCP proxy that is a bad network: late, cut in the middle of a message, silent, or reset.

    async with Proxy(port) as proxy:
        proxy.latency_s = 0.02
        proxy.cut_after(up=100)     # the next 100 bytes go to the server; then the line is cut
        proxy.stall()               # what is connected now hears nothing more, until `resume`
        proxy.reset()               # every connection ends with a reset
        proxy.refuse()              # nobody connects any more, until `accept`

`up` is from the client to the server, `down` from the server to the client.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

Way = Literal["up", "down"]
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 65_536


class Proxy:
    """Listens on `port` of loopback and passes on to the server's port.

    `passed` counts the bytes that went each way; `latency_s` is added to every piece of them.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.latency_s = 0.0
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.cuts = 0
        self._server_port = server_port
        self._limits: dict[Way, int] = {}
        self._left: dict[Way, int] = {}
        self._times = 0
        self._stalled: set[_Line] = set()
        self._lines: set[_Line] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for line in [*self._lines]:
            await line.end()

    def url(self, url: str) -> str:
        """The same address, through this proxy."""
        return url.replace(f":{urlsplit(url).port}/", f":{self.port}/")

    async def accept(self) -> None:
        """Take connections, on the port that it had before."""
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no more connections; those that there are stay."""
        if self._listening:
            self._listening.close()
            self._listening = None

    def cut_after(self, *, up: int | None = None, down: int | None = None, times: int = 1) -> None:
        """Cut the line over which the next byte would go, counted over all lines; again so many `times`.

        With neither way nothing is cut any more.
        """
        ways: dict[Way, int | None] = {"up": up, "down": down}
        self._limits = {way: left for way, left in ways.items() if left is not None}
        self._left, self._times = dict(self._limits), times

    def stall(self, way: Way | None = None) -> None:
        """Hold back what goes over the lines that there are now, one way or both; new lines are free."""
        for line in self._lines:
            self._stalled.add(line)
            for each in ("up", "down"):
                if way in {None, each}:
                    line.gates[each].clear()

    def resume(self) -> None:
        """Pass on what was held back, and the end of those who hung up meanwhile."""
        for line in self._lines:
            for gate in line.gates.values():
                gate.set()

    async def resume_to_the_end(self) -> None:
        """Pass on what was held back, and wait until those lines have ended: their clients gave them up."""
        self.resume()
        await asyncio.gather(*(line.done() for line in self._stalled))

    def reset(self) -> None:
        """Cut every line there is."""
        for line in self._lines:
            line.cut()

    @property
    def lines(self) -> int:
        """How many lines there are now."""
        return len(self._lines)

    def allowed(self, way: Way, size: int) -> tuple[int, bool]:
        """How much of what arrived goes on, and whether the line is cut after it."""
        left = self._left.get(way)
        passed = size if left is None else min(left, size)
        self.passed[way] += passed
        if left is not None:
            self._left[way] = left - passed
        is_cut = passed < size
        if is_cut:
            self.cuts += 1
            self._times -= 1
            self._left = dict(self._limits) if self._times else {}
        return passed, is_cut

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            _abort(writer)
            return
        line = _Line(self, (reader, writer), to_server)
        self._lines.add(line)
        await line.done()
        self._lines.discard(line)


class _Line:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.gates: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        for gate in self.gates.values():
            gate.set()
        self._proxy = proxy
        self._writers = (client[1], server[1])
        self._pumps = (
            asyncio.create_task(self._pump("up", client[0], server[1])),
            asyncio.create_task(self._pump("down", server[0], client[1])),
        )

    async def done(self) -> None:
        """Wait until both sides have hung up."""
        await asyncio.wait(self._pumps)
        for writer in self._writers:
            writer.close()

    async def end(self) -> None:
        """Drop everything."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self.cut()

    def cut(self) -> None:
        """Reset both sides."""
        for writer in self._writers:
            _abort(writer)

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._proxy.latency_s:
                    await asyncio.sleep(self._proxy.latency_s)
                await self.gates[way].wait()
                passed, is_cut = self._proxy.allowed(way, len(data))
                writer.write(data[:passed])
                await writer.drain()
                if is_cut:
                    self._cut_after_what_was_sent(writer)
                    return
            await self.gates[way].wait()
            writer.write_eof()

    def _cut_after_what_was_sent(self, writer: asyncio.StreamWriter) -> None:
        """The receiver still gets what went through; a reset could overtake it."""
        writer.close()
        for other in self._writers:
            if other is not writer:
                _abort(other)


def _abort(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
