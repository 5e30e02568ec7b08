"""`edgewise serve`: load, bind, open, listen, and say where; at the end let the turns under way finish.

The order is the point. Nothing listens before the project is known to be sound and the journal is
ours; nothing is printed before it really listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import uvicorn
from msgspec.structs import replace

from server import logs, watching, workers
from server.app import create_app
from server.banner import banner
from server.build import build_runtime, store_of
from server.settings import SettingsError, variable_of

if TYPE_CHECKING:
    from litestar import Litestar

    from runtime.turn import Runtime
    from server.settings import Settings

GOOD, OUR_FAULT, INTERRUPTED = 0, 3, 130
LATE_S = 5
"""Seconds, over a turn's own deadline, that a request may keep a server that stops from ending."""
IDLE_S = 75
"""Seconds for which an idle connection is kept: longer than proxies do (60), so that they are the ones to close it."""
BACKLOG = 2048
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings) -> int:
    """Serve until a signal comes, with one process or `settings.workers`; the exit code.

    Raises SettingsError where the server must not listen as asked (an open host, a busy port),
    DesignError for a faulty project, StoreUnavailable where another process owns the journal.
    Nothing listens then.
    """
    if settings.exposure:
        raise SettingsError([settings.exposure])
    if settings.dev:
        return watching.serve_and_watch(settings)
    logs.configure(settings)
    runtime = build_runtime(settings)
    with contextlib.closing(bind(settings)) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        announce = _banner_of(settings, runtime)
        if settings.workers > 1:
            return workers.supervise(settings, listener, announce)
        runtime.store = store_of(settings)  # its lock file names the port that was really taken
        return _run(_Server(_config(settings, create_app(settings, runtime)), announce), listener, runtime)


def work(settings: Settings, listener: socket.socket) -> int:
    """Serve as one of several workers, until a signal comes or standard input ends; the exit code."""
    logs.configure(settings)
    runtime = build_runtime(settings)
    server = _Server(_config(settings, create_app(settings, runtime)), _say_ready, sys.stdin.fileno())
    return _run(server, listener, runtime)


def _say_ready() -> None:
    sys.stdout.buffer.write(workers.READY)
    sys.stdout.buffer.flush()


def _config(settings: Settings, app: Litestar) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http="httptools",
        ws="none",
        lifespan="off",  # ours is entered around it, so that what it raises is told in a sentence
        log_config=None,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks from this machine must not be a matter of what a header says
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=math.ceil(settings.turn_deadline_s) + LATE_S,
    )


def _banner_of(settings: Settings, runtime: Runtime) -> Callable[[], None]:
    lines = banner(settings, runtime)
    return lambda: click.echo("\n".join(lines))


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens and leaves the signals to us.

    uvicorn's own handlers raise the signal again at the end: the exit code would never be 0.
    `leash` is a file whose end asks the server to end too.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None], leash: int | None = None) -> None:
        super().__init__(config)
        self._announce = announce
        self.leash = leash

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # somebody else began to listen since we bound
            raise SettingsError([str(error)]) from error
        self._announce()

    def end(self) -> None:
        """Let nobody in any more, and the turns under way finish; long work on the journal ends at its next step."""
        self.should_exit = True
        app: Any = self.config.app
        app.state["house"].tending.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _run(server: _Server, listener: socket.socket, runtime: Runtime) -> int:
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener))
    if why := getattr(runtime.store, "failed", ""):
        click.echo(f"the journal has failed, and the server with it: {why}", err=True)
        return OUR_FAULT
    return GOOD


async def _serve(server: _Server, listener: socket.socket) -> None:
    """Serve inside the application's lifespan: it opens the journal, and lets the last turns finish."""
    app: Any = server.config.app
    try:
        with _stopping(server):
            async with app.lifespan():
                await server.serve([listener])
    except ExceptionGroup as group:  # Litestar's lifespan is a task group, which wraps what its body raises
        raise _told(group) from group


def _told(error: Exception) -> Exception:
    """What really happened, out of its groups; a journal that can't be opened in a sentence."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, OSError):
        return SettingsError([f"the journal can't be opened: {error}; see {variable_of('store')}"])
    return error


@contextmanager
def _stopping(server: _Server) -> Iterator[None]:
    """The first signal asks the server to end well, the second ends it at once; so does its leash, once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            os._exit(INTERRUPTED)  # as a crash would: the journal stands that
        server.end()

    def let_go(leash: int) -> None:
        loop.remove_reader(leash)
        server.end()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    if server.leash is not None:
        loop.add_reader(server.leash, let_go, server.leash)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def bind(settings: Settings) -> socket.socket:
    """A socket bound to the host and port, not listening yet. Raises SettingsError where it can't be had."""
    try:
        family, kind, protocol, _, address = _address(settings)
        with contextlib.ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise SettingsError([_unbound(settings, error)]) from error
    return listener


def _address(settings: Settings) -> tuple[Any, ...]:
    """What to bind for the host, as `getaddrinfo` has it: its IPv4 address where it has one."""
    host = settings.host.strip("[]")
    found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(found, key=lambda each: each[0] != socket.AF_INET)


def _unbound(settings: Settings, error: OSError) -> str:
    """Why a host and port can't be had, with the mend."""
    at = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{at} is in use by another program: stop that, or take another port: --port 0 takes a free one"
    if error.errno == errno.EACCES:
        return f"{at} needs rights that this user has not: take a port above 1023, as --port 8000"
    named = f"{variable_of('host')} = {settings.host!r}"
    return f"{named} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all that it has"
