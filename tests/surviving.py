"""Play that goes on through the deaths of its server: `Mortal`, the process, and `Door`, where clients wait for it.

door = Door()
async with door.playing(log, plan, chance):
    for point in POINTS:
        with Mortal(project, store, point=point, nth=3) as server:
            await door.until_it_dies(server)
    with Mortal(project, store) as server: ...
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from clients import Plan, play
from history_check import Log
from served import PATIENCE_S, ROOT, TLS, Process

PROGRAM = "crashing"


class Mortal(Process):
    """`crashing.py` as a process: it dies at a point, the n-th time, or when it is killed.

    `store` is a DuckDB file, and names the log; `url` the store's setting where it is another one.
    """

    def __init__(
        self, project: Path, store: Path, url: str = "", *, point: str = "", nth: int = 1, more: tuple[str, ...] = ()
    ) -> None:
        super().__init__(project, store)
        self.command = [sys.executable, "-m", PROGRAM, "--point", point, "--nth", str(nth), *more]
        self.environment |= {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "EDGEWISE_PROJECT": str(project),
            "EDGEWISE_STORE": url or f"duckdb://{store}",
            "EDGEWISE_MACHINE": "rounds",
        }

    async def died(self) -> int:
        """Its exit code, once it is gone."""
        return await asyncio.to_thread(self.child.wait, PATIENCE_S)

    async def stopped(self) -> None:
        """Wait until it has stopped itself."""
        await asyncio.to_thread(self._stopped)

    def _stopped(self) -> None:
        status = Path(f"/proc/{self.child.pid}/stat")
        while status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "T":
            pass


class Door:
    """Where clients ask: any of the servers that are open to them; they wait while there is none.

    `answered` counts what was heard well.
    """

    def __init__(self) -> None:
        self._open: list[httpx.AsyncClient] = []
        self._changed = asyncio.Condition()
        self._turns = itertools.count()
        self.answered = 0

    async def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> httpx.Response:
        """Send one request to a server, to each in turn. Raises httpx.TransportError where it dies."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._open)
            http = self._open[next(self._turns) % len(self._open)]
        try:
            answer = await http.request(method, path, json=body, headers=headers)
        except RuntimeError as error:  # the client was closed, its server being dead, before this was sent
            raise httpx.ConnectError(str(error)) from error
        if answer.is_success:
            async with self._changed:
                self.answered += 1
                self._changed.notify_all()
        return answer

    @asynccontextmanager
    async def opened(self, server: Mortal, *, alone: bool = False) -> AsyncIterator[None]:
        """Let clients reach a server, for a while: beside the others, or alone."""
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, trust_env=False, verify=TLS) as http:
            others = self._open
            async with self._changed:
                self._open = [http] if alone else [*others, http]
                self._changed.notify_all()
            yield
            self._open = others

    async def heard(self, count: int) -> None:
        """Wait until so many more were answered."""
        goal = self.answered + count
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.answered >= goal)

    @asynccontextmanager
    async def played(
        self, log: Log, plan: Plan, chance: random.Random, name: str = "c"
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Clients that play all the while; what is given lets each settle what it has begun, and ends it."""
        enough = asyncio.Event()
        playing = asyncio.create_task(play(log, self.ask, plan, chance, name, enough.is_set))

        async def settled() -> None:
            enough.set()
            async with asyncio.timeout(PATIENCE_S):
                await playing

        try:
            yield settled
        finally:
            playing.cancel()
