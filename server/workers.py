"""`edgewise serve --workers N`: one socket, N processes that serve on it, and this one, which keeps them up.

The first worker starts alone: what keeps one from starting keeps all, and is told once, in its own
sentence and exit code. A worker that ends later is started again, after a pause that grows while
none lasts; the socket stays open meanwhile, so that clients wait rather than fail.

Each worker is a new process, `python -m server.worker`, and two pipes tie it to this one. On its
standard input it gets the settings, as they were read once; the pipe then stays open, and its end
means that nobody keeps the worker any more. On its standard output it says when it listens.

uvicorn's own supervisor serves an application by its name, with its own server: settings of the
command line, the lifespan around ours, sentences in place of tracebacks and pauses between starts
would all be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from server import meter
from server.logs import log
from server.settings import Settings

if TYPE_CHECKING:
    import socket

READY = b"ready\n"
"""What a worker writes once it listens."""
GOOD, OUR_FAULT = 0, 3
CALM_S = 60.0
"""A worker that lasted so long is started again at once."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a worker that ended sooner is started again; doubled each time."""


def supervise(settings: Settings, listener: socket.socket, announce: Callable[[], None]) -> int:
    """Serve with `settings.workers` processes on a bound socket until a signal comes; the exit code.

    `announce` is called once, when all of them listen.
    """
    with _figures() as folder:
        return asyncio.run(_supervise(_Crew(settings, listener, folder), announce))


async def _supervise(crew: _Crew, announce: Callable[[], None]) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, crew.stop)
    return await crew.serve(announce)


@contextmanager
def _figures() -> Iterator[str]:
    """The folder in which the workers add up their figures: the operator's, or one that goes with us."""
    if given := os.environ.get(meter.FOLDER):
        yield given
        return
    with TemporaryDirectory(prefix="edgewise-") as folder:
        yield folder


class _Worker:
    """One process that serves. `is_up` from when it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._since_s = asyncio.get_running_loop().time()
        self.pid = process.pid
        self.is_up = False

    async def begin(self, settings: Settings) -> None:
        """Hand it the settings, and wait until it listens or has ended."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(msgspec.json.encode(settings) + b"\n")
        self.is_up = await self._process.stdout.readline() == READY

    async def end(self) -> int:
        """Wait until it has ended; its exit code, or the signal that killed it as a negative number."""
        code = await self._process.wait()
        self.is_up = False
        return code

    @property
    def lasted_s(self) -> float:
        """How long ago it was started."""
        return asyncio.get_running_loop().time() - self._since_s

    def ask_to_end(self) -> None:
        """Let it finish its turns; asked again, it ends at once.

        By its number: `terminate` would first look whether it has ended, and take its exit code from who waits for it.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class _Crew:
    """The workers of one server. Every place is filled until `stop`."""

    def __init__(self, settings: Settings, listener: socket.socket, folder: str) -> None:
        self._settings = settings
        self._listener = listener
        self._folder = folder
        self._workers: set[_Worker] = set()
        self._stopping = asyncio.Event()

    async def serve(self, announce: Callable[[], None]) -> int:
        """Start them all, keep them up until `stop`, and wait for their end; the worst exit code.

        Whether the server can start the first one decides. What befalls another after it, an outage while
        it starts too, is mended as it is later.
        """
        first = await self._start()
        if not first.is_up:
            self._give_up()
            return _told(await self._end(first))
        crew = [first]
        while len(crew) < self._settings.workers and not self._stopping.is_set():
            crew.append(await self._spawn())
        await asyncio.gather(*(worker.begin(self._settings) for worker in crew[1:]))
        announce()
        return max(map(_told, await asyncio.gather(*map(self._keep, crew))))

    def stop(self) -> None:
        """Ask every worker to end: well the first time, at once the second."""
        self._stopping.set()
        self._listener.close()  # with the workers' own ends of it, nobody is let in any more
        for worker in self._workers:
            worker.ask_to_end()

    def _give_up(self) -> None:
        if not self._stopping.is_set():
            self.stop()

    async def _start(self) -> _Worker:
        """A new worker, which listens or has ended."""
        worker = await self._spawn()
        await worker.begin(self._settings)
        return worker

    async def _spawn(self) -> _Worker:
        """A new process that waits for its settings. Not after `stop`: the socket is closed then."""
        listener = self._listener.fileno()
        process = await asyncio.create_subprocess_exec(
            # -P keeps the folder out of its imports.
            *(sys.executable, "-P", "-m", "server.worker", str(listener)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, meter.FOLDER: self._folder},
            pass_fds=[listener],
            process_group=0,  # a terminal's Ctrl-C reaches this process alone, which asks each worker once
        )
        worker = _Worker(process)
        self._workers.add(worker)
        if self._stopping.is_set():
            worker.ask_to_end()
        return worker

    async def _end(self, worker: _Worker) -> int:
        code = await worker.end()
        self._workers.discard(worker)
        meter.forget_process(worker.pid, self._folder)
        return code

    async def _keep(self, worker: _Worker) -> int:
        """Start a worker's successor whenever it has ended, until `stop`; the last one's exit code."""
        hasty = 0
        while True:
            was_up = worker.is_up
            code = await self._end(worker)
            if not was_up and not any(each.is_up for each in self._workers):
                self._give_up()  # nobody serves, and nobody can
            hasty = 0 if worker.lasted_s >= CALM_S else hasty + 1
            if await self._is_over(worker, code, hasty):
                return code
            worker = await self._start()

    async def _is_over(self, worker: _Worker, code: int, hasty: int) -> bool:
        """Say that a worker ended, and wait until its successor may start; whether we stop instead."""
        pause_s = pause_before(hasty)
        if not self._stopping.is_set():
            log.warning("a worker ended; another starts in its place", worker=worker.pid, code=code, pause_s=pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        return self._stopping.is_set()


def pause_before(hasty: int) -> float:
    """Seconds before a worker is started again whose last so many predecessors ended soon."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(hasty - 1, 16)) if hasty else 0.0


def _told(code: int) -> int:
    """A worker's end as an exit code: to end before it began, because we asked, is good."""
    if code >= 0:
        return code
    return GOOD if code == -signal.SIGTERM else OUR_FAULT


def read_settings(line: bytes) -> Settings:
    """What a worker was handed."""
    return msgspec.json.decode(line, type=Settings)
