"""Durable offline turns over real HTTP, beside a Litestar echo of the same body in the same run.

    uv run benchmarks/turns.py [--connections 64] [--seconds 6] [--rounds 3] [--json FILE]

Both servers run under uvicorn in processes of their own, one after the other in each round, with
the same client. The machines are shared and noisy: read the ratio, not the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from socket import socket
from typing import Any

import msgspec
from msgspec import Struct

ROOT = Path(__file__).parents[1]
ECHO = """
from litestar import Litestar, Request, Response, post

@post("/invoke", status_code=200)
async def echo(request: Request) -> Response[bytes]:
    return Response(await request.body(), media_type="application/json")

app = Litestar([echo], openapi_config=None, logging_config=None)
"""
HEAD = b"POST /invoke HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Option(Struct):
    """An option's id: all that the client reads of it."""

    id: int


class Next(Struct):
    """What the client needs of an answer's routing."""

    next_event_type: str | None


class Payload(Struct):
    """What the client needs of an answer's payload."""

    options: list[Option]
    routing: Next


class Data(Struct):
    """What the client needs of an answer."""

    payload: Payload


class Answer(Struct):
    """The envelope."""

    code: int
    data: Data


class Seen(Struct):
    """What one load saw: latencies in ms, and how long it went on in seconds."""

    latencies_ms: list[float]
    seconds: float

    @property
    def per_second(self) -> float:
        """Requests answered in a second."""
        return len(self.latencies_ms) / self.seconds

    def quantile_ms(self, share: float) -> float:
        """The latency that this share of the requests stayed under."""
        return sorted(self.latencies_ms)[round(share * (len(self.latencies_ms) - 1))]


_answer = msgspec.json.Decoder(Answer)
_session_numbers = iter(range(1, 10**9))


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(command: list[str], port: int, **environment: str) -> AsyncIterator[None]:
    """A server in a process of its own, until it answers; ended at the end."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it is not waited for
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        await _listening(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


async def _listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}: {process.args}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit("the server does not listen after 30 s")


class Connection:
    """One kept-alive HTTP/1.1 connection, with no more code than a benchmark can afford."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, body: bytes) -> bytes:
        """POST /invoke; the answer's body. Raises AssertionError unless it is a 200."""
        self.writer.write(HEAD % len(body) + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        told = await self.reader.readexactly(length)
        assert answer.startswith(b"HTTP/1.1 200"), told  # noqa: S101 - a benchmark of failures says nothing
        return told


async def play_turns(connection: Connection, took: Callable[[float], None], until: float) -> None:
    """Play session after session, each turn timed."""
    while time.perf_counter() < until:
        session = f"bench-{os.getpid()}-{next(_session_numbers)}"
        body: dict[str, Any] = {"event": {"type": "INIT"}, "session": {"session_id": session}, "context": {}}
        while body and time.perf_counter() < until:
            answer = await _timed(connection, body, took)
            body = _next_body(session, _answer.decode(answer).data.payload)


def _next_body(session: str, payload: Payload) -> dict[str, Any]:
    event = payload.routing.next_event_type
    if event is None or not payload.options:
        return {}
    chosen = payload.options[len(session) % len(payload.options)].id
    return {
        "event": {"type": event},
        "session": {"session_id": session},
        "payload": {"selected_option_id": chosen},
        "context": {},
    }


async def echo_bodies(connection: Connection, took: Callable[[float], None], until: float) -> None:
    """Send bodies of a turn's size to the echo, each timed."""
    body = _next_body(f"bench-{os.getpid()}-1", Payload([Option(1)], Next("DECISION")))
    while time.perf_counter() < until:
        await _timed(connection, body, took)


async def _timed(connection: Connection, body: dict[str, Any], took: Callable[[float], None]) -> bytes:
    encoded = msgspec.json.encode(body)
    start = time.perf_counter()
    answer = await connection.post(encoded)
    took((time.perf_counter() - start) * 1000)
    return answer


Client = Callable[[Connection, Callable[[float], None], float], Awaitable[None]]


async def load(client: Client, port: int, connections: int, seconds: float) -> Seen:
    """The client on so many connections at once, for so long."""
    opened = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(connections)]
    latencies: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(client(each, latencies.append, start + seconds) for each in opened))
    took = time.perf_counter() - start
    for each in opened:
        each.writer.close()
    return Seen(latencies, took)


async def measure(folder: str, connections: int, seconds: float) -> dict[str, Seen]:
    """One round: turns, then the echo."""
    found = {}
    port = free_port()
    store = f"duckdb://{folder}/bench-{port}.duckdb"
    serve = [sys.executable, "-m", "server", "serve", "--port", str(port), "--store", store]
    async with serving(serve, port, EDGEWISE_LOG_LEVEL="warning", EDGEWISE_NARRATOR="offline"):
        await load(play_turns, port, 4, 1)
        found["turns"] = await load(play_turns, port, connections, seconds)
    port = free_port()
    echo = [sys.executable, "-m", "uvicorn", "bench_echo:app", "--app-dir", folder, "--port", str(port)]
    async with serving([*echo, "--no-access-log", "--log-level", "warning"], port):
        await load(echo_bodies, port, 4, 1)
        found["echo"] = await load(echo_bodies, port, connections, seconds)
    return found


def report(rounds: list[dict[str, Seen]], connections: int) -> dict[str, Any]:
    """The medians over the rounds, and the ratio within each."""
    rows = {
        name: {
            "per_second": statistics.median(each[name].per_second for each in rounds),
            "p50_ms": statistics.median(each[name].quantile_ms(0.5) for each in rounds),
            "p99_ms": statistics.median(each[name].quantile_ms(0.99) for each in rounds),
            "answers": sum(len(each[name].latencies_ms) for each in rounds),
        }
        for name in ("turns", "echo")
    }
    ratios = [each["turns"].per_second / each["echo"].per_second for each in rounds]
    about = {"connections": connections, "rounds": len(rounds)}
    return {**about, **rows, "ratio": statistics.median(ratios), "ratios": ratios}


def print_table(found: dict[str, Any]) -> None:
    """The figures, for people."""
    print(f"{found['connections']} connections, median of {found['rounds']} rounds, one server process")
    print(f"{'':8}{'per second':>12}{'p50 ms':>10}{'p99 ms':>10}{'answers':>10}")
    for name in ("turns", "echo"):
        row = found[name]
        print(f"{name:8}{row['per_second']:12.0f}{row['p50_ms']:10.1f}{row['p99_ms']:10.1f}{row['answers']:10}")
    print(f"turns / echo = {found['ratio']:.2f}  ({', '.join(f'{each:.2f}' for each in found['ratios'])})")


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file, - for standard output")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bench_echo.py").write_text(ECHO, encoding="utf-8")
        rounds = [asyncio.run(measure(folder, given.connections, given.seconds)) for _ in range(given.rounds)]
    found = report(rounds, given.connections)
    print_table(found)
    if given.json:
        text = json.dumps(found, indent=2)
        print(text) if str(given.json) == "-" else given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
