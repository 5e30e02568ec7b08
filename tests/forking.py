"""Processes of this checkout that begin where Python's imports are done: forked from one that has them.

    child = forking.started([sys.executable, "-m", "server", "serve"], env=…, cwd=…, stdout=pipe)

What is started is a process of its own in all that a test can see: its id, environment, folder and standard streams,
its exit code, its end by a signal. It only saves the second in which every one of them imports the same. What that
second is about (an import that a command forgot, another seed of hashes) is seen by the tests that start Python anew:
those of the pages' commands, on terminals, and of several workers.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from runtime import errors, loader

ROOT = Path(__file__).resolve().parent.parent
FDS = 4
"""Sent with each request: standard input, output and error, and where the child's id and end are told."""
MOST_REQUEST = 1 << 17
_READ_EARLY = ("PYTHON", "PROMETHEUS", "LC_", "LANG")
"""Beginnings of variables that are read while Python starts or imports: whoever sets one gets a Python of its own."""


class Child:
    """A forked process, with what tests ask of a subprocess.Popen."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self.returncode: int | None = None
        self.pid = self._next()

    def _next(self) -> int:
        return int.from_bytes(self._told.recv(8), "little", signed=True)

    def poll(self) -> int | None:
        """The exit code, a signal's number below 0, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, which is its exit code; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self.returncode = self._next()
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)


class _Nursery:
    """This process's end of the one that has imported everything; that one ends with this one."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**self.environment, "PYTHONPATH": str(ROOT)}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
            )  # fmt: skip

    def close(self) -> None:
        """Let it end; what it started goes on."""
        self.ours.close()
        self.process.wait()


@cache
def _nursery() -> _Nursery:
    made = _Nursery()
    atexit.register(made.close)
    return made


def is_forkable(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a process begun here is as one that Python begins: nothing differs of what is read at once."""
    ours = _nursery().environment
    differing = {name for name in {*env, *ours} if env.get(name) != ours.get(name)} - {"PYTHONPATH"}
    return command[:2] == [sys.executable, "-m"] and not any(name.startswith(_READ_EARLY) for name in differing)


def started(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: Any, stdout: Any, stderr: Any
) -> Child:
    """Start `[sys.executable, "-m", module, …]`; the streams are files or descriptors."""
    request = json.dumps({"command": [*command[2:]], "env": {**env}, "cwd": str(cwd)}).encode()
    assert len(request) < MOST_REQUEST
    ours, theirs = socket.socketpair()
    with theirs:
        streams = [each if isinstance(each, int) else each.fileno() for each in (stdin, stdout, stderr)]
        socket.send_fds(_nursery().ours, [request], [*streams, theirs.fileno()])
    return Child(ours)


# The other end.


def _imported() -> None:
    """Import what the command may."""
    for package in ("runtime", "server"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # an extra that isn't installed
                    importlib.import_module(module.name)


def _warmed() -> None:
    """Read the machines that ship, so that what is compiled of an expression or a template is kept, as in a server."""
    with contextlib.suppress(errors.DesignError):  # told by the command that meets it
        loader.load_project(ROOT)
    gc.freeze()  # what a child's collector never looks at stays one memory for all


def _asked(requests: socket.socket) -> tuple[Any, list[int], socket.socket]:
    """The next request, in a process that is there for it alone; this one goes on waiting, and ends with pytest."""
    while True:
        request, fds, *_ = socket.recv_fds(requests, MOST_REQUEST, FDS)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            return json.loads(request), fds[:-1], socket.socket(fileno=fds[-1])
        for each in fds:
            os.close(each)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _watched(streams: list[int], told: socket.socket) -> None:
    """Fork once more: the child returns, and its parent tells its id and its end."""
    if child := os.fork():
        for each in streams:
            os.close(each)
        told.sendall(child.to_bytes(8, "little", signed=True))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(BrokenPipeError):
            told.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))
        os._exit(0)
    told.close()


def _become(request: Any, streams: list[int]) -> None:
    """Take the streams, the folder and the environment, then be `python -m …`."""
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.register(gc.unfreeze)  # what is left at the end is complained of
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    module, *words = request["command"]
    sys.path[0] = request["cwd"]
    sys.path.extend(path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """What the nursery's process does; of its children each returns from here when its command is done."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends this one
    _imported()
    _warmed()
    request, streams, told = _asked(requests)
    _watched(streams, told)
    _become(request, streams)


if __name__ == "__main__":
    main()
