"""`edgewise serve --dev`: the server as a child process, started again when a file of the project changes.

The watcher looks at machines/, prompts/, edgewise.yaml and .env a few times a second. A change that leaves faults
is told in check's words, and the last good server goes on until the next change. With `--port 0`
every start takes another port. The server's own code is not watched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.errors import DesignError
from runtime.loader import load_project
from server.settings import PROJECT_FILE, variable_of

if TYPE_CHECKING:
    from server.settings import Settings

LOOK_EVERY_S = 0.2
WATCHED = ("machines", "prompts")
FAULTY = 1

Seen = Mapping[str, tuple[int, int]]
"""File → (time of change in ns, size in bytes)."""


def serve_and_watch(settings: Settings) -> int:
    """Serve, and start again after each change that leaves the project sound; the exit code.

    A server that ends by itself ends the watch with its exit code, unless the project's faults
    ended it: these can be mended.
    """
    with _until_signalled() as stop:
        child: subprocess.Popen[bytes] | None = None
        while not stop.is_set():
            seen = look(settings.project_path)
            if _is_sound(settings.project_path):
                _end(child, stop)
                child = _start(settings)
            code = _watch(settings.project_path, seen, child, stop)
            if code is not None:
                return code
        return _end(child, stop)


def look(project: Path) -> Seen:
    """The project's files as they are now."""
    files = [
        project / ".env",
        project / PROJECT_FILE,
        *(file for folder in WATCHED for file in (project / folder).rglob("*")),
    ]
    return {str(file): (stat.st_mtime_ns, stat.st_size) for file in files if (stat := _stat(file)) is not None}


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:  # gone since it was listed, as editors do while they save
        return None


def _is_sound(project: Path) -> bool:
    """Whether the project loads; its faults are told where it does not."""
    try:
        load_project(project)
    except DesignError as error:
        click.echo(f"{error}\nWaiting for a change.", err=True)
        return False
    return True


def _watch(project: Path, seen: Seen, child: subprocess.Popen[bytes] | None, stop: Stop) -> int | None:
    """Wait for a change, a signal (both None) or the child's own end (its exit code)."""
    is_up = child is not None and child.poll() is None
    while not stop.wait(LOOK_EVERY_S):
        if look(project) != seen:
            click.echo("The project changed.", err=True)
            return None
        if is_up and child is not None and child.poll() not in (None, FAULTY):
            return child.returncode
    return None


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    """The server as a child with the same command line, without --dev. `-P` keeps the folder out of its imports."""
    told = [name for name, source in settings.sources.items() if source == "the command line" and name != "dev"]
    options = [f"--{name.replace('_', '-')}={_written(getattr(settings, name))}" for name in told if name != "open"]
    flags = ["--open"] if "open" in told and settings.open else []
    command = [sys.executable, "-P", "-m", "server", "serve", *options, *flags]
    environment = {**os.environ, variable_of("dev"): "false"}
    # A group of its own: a terminal's Ctrl-C reaches the watcher alone, which asks the child once.
    return subprocess.Popen(command, env=environment, process_group=0)  # noqa: S603 - our own command


def _written(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _end(child: subprocess.Popen[bytes] | None, stop: Stop) -> int:
    """Let the child finish its turns, or, on one signal more, end it at once; its exit code."""
    if child is None:
        return 0
    child.terminate()
    heard = stop.heard
    while True:
        try:
            return child.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if stop.heard > heard:
                child.terminate()
                heard = stop.heard


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM; `heard` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0

    def hear(self, *_: object) -> None:
        """Take a signal."""
        self.heard += 1
        self.set()


@contextmanager
def _until_signalled() -> Iterator[Stop]:
    """What SIGINT and SIGTERM set until the block ends."""
    stop = Stop()
    before = {number: signal.signal(number, stop.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
