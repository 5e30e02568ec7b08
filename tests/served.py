"""The real server on a loopback socket, in a thread or as a process, and a client that checks every envelope.

    with serving(runtime) as server:
        begun = Web(server.url).invoke("INIT", session={"session_id": "s1"})

`serving` is for what a client sees; `Process` for what a kill or a signal leaves behind.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

import forking
import httpx
import msgspec
import structlog
import uvicorn

from runtime import loader
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server.app import create_app
from server.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SEED = Path(__file__).parent / "seed"
SHIPPED = tuple(sorted(loader.read_project(ROOT)))
"""The names of the machines that ship; `shipped()[name]` is the machine."""
TLS = ssl.create_default_context()
"""Made once: a client that makes its own reads every authority's certificate for a server on loopback."""
PATIENCE_S = 60.0
"""Seconds after which a test gives up on what should come at once."""

_OWN = {"error", "hint", "retry", "player_message", "request_id"}


class _Shipped(Mapping[str, Machine]):
    """By their names; each is loaded when a test first asks for it, for loading takes a good part of a second."""

    def __getitem__(self, name: str) -> Machine:
        return _loaded(name)

    def __iter__(self) -> Iterator[str]:
        return iter(SHIPPED)

    def __len__(self) -> int:
        return len(SHIPPED)


@cache
def _loaded(name: str) -> Machine:
    return loader.load(loader.read_project(ROOT)[name])


@cache
def shipped() -> Mapping[str, Machine]:
    """The machines that ship, each loaded once."""
    return _Shipped()


def seed(name: str) -> Any:
    """One of the seed's four files."""
    return json.loads((SEED / f"{name}.json").read_text(encoding="utf-8"))


def runtime_of(*machines: Machine, narrator: Any = None, store: Any = None, **more: Any) -> Runtime:
    """A runtime in memory, told offline; the first machine is the default."""
    named = {machine.name: machine for machine in machines}
    return Runtime(store or MemoryStore(), narrator or Offline(), named, machines[0].name, **more)


class Server:
    """A server in a thread of its own; `runtime` is the engine behind it."""

    def __init__(self, runtime: Runtime, settings: Settings, **more: Any) -> None:
        self.runtime = runtime
        # asyncio sends small packets at once only on a socket that is said to be TCP.
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.app = create_app(settings, runtime, **more)
        config = uvicorn.Config(self.app, log_config=None, lifespan="on")
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="served", daemon=True)

    def __enter__(self) -> Self:
        _set_aside()
        # The socket listens already: a client that comes early waits in its backlog.
        self._thread.start()
        return self

    def ask_to_end(self) -> None:
        """What a signal does: nobody is let in any more, and what is under way goes on."""
        self._server.should_exit = True

    def __exit__(self, *_: object) -> None:
        self.ask_to_end()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server didn't end"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the server's own loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def journal(self, session_id: str) -> list[bytes]:
        """Every entry of a session, as bytes that can be compared."""
        entries = self.run(self.runtime.store.entries(session_id, limit=10_000))
        return [msgspec.json.encode(entry) for entry in entries]

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve([self._listener]))
        self._loop.close()


def _set_aside() -> None:
    """A server that starts collects garbage: it need not walk what the tests before have left."""
    gc.freeze()  # until a server ends


@asynccontextmanager
async def living(app: Any) -> AsyncIterator[None]:
    """An application that is asked without a socket, from its start to its end."""
    _set_aside()
    async with app.lifespan():
        yield


@contextmanager
def serving(runtime: Runtime, settings: Settings | None = None, **more: Any) -> Iterator[Server]:
    """The server for a while, `more` as `create_app` takes it.

    What it logs is rendered, so that a line that can't be fails a test, and dropped.
    """
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(io.StringIO()),
    )
    try:
        with Server(runtime, settings or Settings(), **more) as server:
            yield server
    finally:
        structlog.reset_defaults()


class Web:
    """A client over a real socket. Each answer's envelope is checked on the way, down to its keys."""

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False, verify=TLS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, method: str, path: str, expect: int = 200, **more: Any) -> Any:
        """The answer's `data`."""
        return envelope(self.http.request(method, path, **more), expect)

    def send(self, body: Any, expect: int = 200, **more: Any) -> Any:
        """POST /invoke with this body."""
        return self.ask("POST", "/invoke", expect, json=body, **more)

    def raw(self, body: bytes, expect: int = 200, **headers: str) -> Any:
        """POST /invoke with these very bytes, called JSON unless a header says otherwise."""
        return self.ask(
            "POST", "/invoke", expect, content=body, headers={"Content-Type": "application/json", **headers}
        )

    def invoke(
        self, session_id: str, event: str | None = None, option: int | None = None, expect: int = 200, **more: Any
    ) -> Any:
        """One event or option of a session; further parts of the request by their names."""
        headers = more.pop("headers", None)
        payload = {**({} if option is None else {"selected_option_id": option}), **more.pop("payload", {})}
        session = {"session_id": session_id, **more.pop("session", {})}
        body = {"session": session, "payload": payload, **more, **({"event": {"type": event}} if event else {})}
        return self.send(body, expect, headers=headers)

    def session(self, session_id: str) -> Any:
        """Where a session stands."""
        return self.ask("GET", f"/sessions/{session_id}")

    def turns(self, session_id: str) -> list[Any]:
        """A session's whole history, page by page."""
        found: list[Any] = []
        after = 0
        while after is not None:
            page = self.ask("GET", f"/sessions/{session_id}/turns?after={after}&limit=200")
            found += page["items"]
            after = page["next_after"]
        return found


def envelope(answer: httpx.Response, expect: int = 200) -> Any:
    """The `data` of an answer, having held its envelope against the contract."""
    body = answer.json()
    assert answer.status_code == expect, body
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert answer.headers["X-Request-Id"]
    assert list(body) == ["code", "message", "data"]
    if expect == 200:
        assert (body["code"], body["message"]) == (0, "success")
        return body["data"]
    failure = body["data"]
    assert body["code"] == expect
    assert body["message"]
    assert "\n" not in body["message"]
    assert set(failure) >= _OWN
    assert all(isinstance(failure[name], str) for name in _OWN)
    assert failure["retry"] in {"same", "refresh", "never"}
    assert failure["player_message"]
    assert failure["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers.get("Retry-After", "") == str(failure.get("retry_after_seconds", ""))
    return failure


def facts(failure: Mapping[str, Any]) -> dict[str, Any]:
    """What a failure tells beside what every failure tells."""
    return {name: fact for name, fact in failure.items() if name not in _OWN}


class Process:
    """`edgewise serve` as a process of its own, on a free port; `url` is where it says that it listens.

    Entering raises AssertionError where the server ends instead.
    """

    def __init__(self, project: Path, store: Path, **variables: str) -> None:
        self.command = [sys.executable, "-m", "server", "serve", "--port", "0", "--project", str(project)]
        self.command += ["--store", f"duckdb://{store}"]
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEWISE_", "DEEPSEEK_"))}
        self.environment = {**mine, "PYTHONPATH": str(ROOT), "EDGEWISE_NARRATOR": "offline", **variables}
        self.store = store
        self.url = ""
        self.said: list[str] = []

    def __enter__(self) -> Self:
        log = self.log.open("a", encoding="utf-8")
        with log:
            self.child, self._stdout = self._begun(log)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self._listening()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        self._stdout.close()

    @property
    def log(self) -> Path:
        """What the server wrote to standard error."""
        return self.store.with_suffix(".log")

    def kill(self) -> None:
        """End it as a crash would."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(PATIENCE_S)

    def ask_to_end(self) -> None:
        """What an operator's `kill` sends."""
        self.child.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """The exit code, once it has ended."""
        return self.child.wait(PATIENCE_S)

    def _begun(self, log: IO[str]) -> tuple[Any, IO[str]]:
        """Its process and what it prints."""
        read, write = os.pipe()
        with os.fdopen(write, "wb") as printed, Path(os.devnull).open("rb") as nothing:
            streams = {"stdin": nothing, "stdout": printed, "stderr": log}
            begin = forking.started if self._is_forkable() else subprocess.Popen
            child = begin(self.command, env=self.environment, cwd=self.store.parent, **streams)
        return child, os.fdopen(read, encoding="utf-8")

    def _is_forkable(self) -> bool:
        """Workers count in memory that is found while Python imports; --dev starts its own command line again."""
        is_alone = "EDGEWISE_WORKERS" not in self.environment and "--dev" not in self.command
        return is_alone and forking.is_forkable(self.command, self.environment)

    def _read(self) -> None:
        for line in self._stdout:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def next_line(self) -> str:
        """The next line that it prints; fails where it ends instead."""
        if (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            return line
        self.child.wait(PATIENCE_S)
        message = f"the server ended with {self.child.returncode}: {self.log.read_text(encoding='utf-8')}"
        raise AssertionError(message)

    def _listening(self) -> str:
        while " listens on " not in (line := self.next_line()):
            pass
        return line.split(" listens on ")[1].split()[0]
