"""A server that kills itself at a named point of a turn.

Run as `python crashing.py --point "appended" --nth 3`, with the server's own settings in the
environment. It serves with the real application; the store, the narrator and the two ends of each
request are wrapped, so that the process can die there. `surviving` has the parent's side. The
points, in a turn's order:

accepted     the request is read, nothing is done
edge chosen  the narrator is about to be asked
narrating    the narrator has been asked
checked      the narration is valid, the entry is sealed; the store is about to be asked
appending    the store writes: some milliseconds in, so that it may be before, in or after the commit
appended     the entry is durable, nobody was told
answering    the answer's head is sent, its body is not
answered     the whole answer is sent
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import threading
from typing import Any

import uvicorn
from msgspec.structs import replace

from runtime.narrators import Narration, Task
from runtime.session import Entry
from runtime.stores import Claim, Store
from server import logs
from server.app import create_app
from server.build import build_runtime
from server.serving import bind
from server.settings import Settings, load

POINTS = ("accepted", "edge chosen", "narrating", "checked", "appending", "appended", "answering", "answered")
MOST_OF_A_COMMIT_S = 0.008
"""Seconds within which a death that is meant for the middle of a write comes."""


class Doom:
    """When this process dies, or stops: at a point, the n-th time that it is reached."""

    def __init__(self, point: str, nth: int, number: signal.Signals) -> None:
        self.point = point
        self._left = nth
        self._signal = number
        self._chance = random.Random()  # noqa: S311 - a moment is no secret

    def at(self, point: str) -> None:
        """Reach a point."""
        if self._is_now(point):
            os.kill(os.getpid(), self._signal)

    def soon_after(self, point: str) -> None:
        """Reach a point that is passed in another thread: the death comes somewhere in it."""
        if self._is_now(point):
            later = threading.Timer(self._chance.uniform(0, MOST_OF_A_COMMIT_S), os.kill, [os.getpid(), self._signal])
            later.start()

    def _is_now(self, point: str) -> bool:
        self._left -= point == self.point
        return point == self.point and self._left == 0


class DoomedNarrator:
    """A narrator that is not always heard."""

    def __init__(self, narrator: Any, doom: Doom) -> None:
        self._narrator = narrator
        self._doom = doom
        self.name = narrator.name

    async def open(self) -> None:
        """Get ready."""
        await self._narrator.open()

    async def narrate(self, task: Task, release: Any) -> Narration:
        """Tell the task."""
        self._doom.at("edge chosen")
        await asyncio.sleep(0)
        self._doom.at("narrating")
        return await self._narrator.narrate(task, release)

    async def close(self) -> None:
        """Let go."""
        await self._narrator.close()


class DoomedStore:
    """A store whose process may die around an append; all else is the store's own."""

    def __init__(self, store: Store, doom: Doom) -> None:
        self._store = store
        self._doom = doom

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Any = None) -> None:
        """Add an entry."""
        self._doom.at("checked")
        self._doom.soon_after("appending")
        await self._store.append(entry, claim, expense)
        self._doom.at("appended")


def doomed_wire(app: Any, doom: Doom) -> Any:
    """The application, whose process may die once a turn's request is read, or while its answer is sent."""

    async def wired(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
            return

        async def received() -> Any:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                doom.at("accepted")
            return message

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.body":
                doom.at("answering")
            await send(message)
            if message["type"] == "http.response.body":
                doom.at("answered")

        await app(scope, received, sent)

    return wired


def application(settings: Settings, doom: Doom, **store: Any) -> Any:
    """The real application, doomed. `store` are settings of the store's own making."""
    runtime = build_runtime(settings)
    if store:
        runtime.store = postgres(settings, **store)
    runtime.store = DoomedStore(runtime.store, doom)
    runtime.narrator = DoomedNarrator(runtime.narrator, doom)
    return doomed_wire(create_app(settings, runtime), doom)


def postgres(settings: Settings, **how: Any) -> Store:
    """The PostgreSQL store, with a lease that a test can wait for."""
    from runtime.stores.postgres import PostgresStore  # noqa: PLC0415 - an extra

    return PostgresStore(settings.store, **how)


def main() -> None:
    """Serve until told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--point", default="")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--stop", action="store_true", help="stop at the point instead of dying there")
    parser.add_argument("--lease-s", type=float, help="how long a turn holds its session, on PostgreSQL")
    given = parser.parse_args()
    settings = replace(load(), port=0, log_level="warning")
    logs.configure(settings)
    number = signal.SIGSTOP if given.stop else signal.SIGKILL
    store = {"lease_s": given.lease_s} if given.lease_s else {}
    listener = bind(settings)
    app = application(settings, Doom(given.point, given.nth, number), **store)
    config = uvicorn.Config(app, log_config=None, lifespan="on", http="httptools", ws="none")
    listener.listen(256)
    sys.stdout.write(f"mortal listens on http://127.0.0.1:{listener.getsockname()[1]} \n")
    sys.stdout.flush()
    asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main()
