"""The door to DuckDB: one open journal file, written by one thread and read by a few.

Beside the file stand `<file>.lock` (who owns it) and `<file>.head` (what was committed lately).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import duckdb

from runtime.errors import StoreUnavailable
from runtime.stores import tables
from runtime.stores.headfile import HeadFile, Link
from runtime.stores.lockfile import LockFile, Owner
from runtime.stores.tables import Values

READERS = 2

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "wal_autocheckpoint": "256MB",  # a checkpoint stalls commits, and many small ones stall them longest
}

_log = logging.getLogger(__name__)


class DuckFile:
    """The open file. All but `read` and `close` are called from the writer's thread only."""

    def __init__(self, path: Path, owner: Owner, lock_wait_s: float) -> None:
        self.failed = ""
        self.path = path
        self._record = HeadFile(beside(path, ".head"))
        with ExitStack() as opening:
            _take_lock(beside(path, ".lock"), owner, lock_wait_s, opening)
            links = self._record.read()
            if links and not path.exists():
                _check_record(self._record, links, Link(), [])
            self._db = opening.enter_context(_attached(path))
            self._end = _made_ready(self._db, self._record)
            opening.callback(self._record.close)
            self._readers = _Readers(self._db)
            opening.callback(self._readers.close)
            self._open = opening.pop_all()
        self._wal = beside(path, ".wal")
        self._wal_bytes = _size_of(self._wal)

    @property
    def position(self) -> int:
        """The last row's place in the whole journal; 0 where it is empty."""
        return self._end.pos

    def append(self, rows: Sequence[Values]) -> None:
        """Commit a group. Raises StoreUnavailable; then nothing of it is there."""
        links = [*self._links(rows)]
        columns: list[list[Any]] = [[*column] for column in zip(*rows, strict=True)]
        with self._transaction() as db:
            db.execute(tables.INSERT, [*columns, [link.pos for link in links], [link.chain for link in links]])
        self._move_along(links)

    def delete(self, session_id: str) -> None:
        """Put a tombstone in the place of each of a session's rows, and one more for the deletion."""
        pos, at_ms = self.position + 1, time.time_ns() // 1_000_000
        whose = [tables.sid_of(session_id), session_id]
        hash_ = tables.chained("", f"deleted {pos}")
        link = Link(pos, tables.chained(self._end.chain, hash_))
        with self._transaction() as db:
            db.execute(tables.BURY, [*whose, at_ms])
            db.execute(tables.DELETE, whose)
            db.execute(tables.BURIAL, [pos, hash_, link.chain, at_ms])
        self._move_along([link])

    def write(self, sql: str, values: list[Any]) -> None:
        """One statement that adds no row to the journal, made durable."""
        with self._transaction() as db:
            db.execute(sql, values)

    async def read(self, sql: str, values: list[Any]) -> list[Values]:
        """All rows of a query, read beside the loop. Raises StoreUnavailable."""
        self._check_well()
        try:
            return await self._readers.read(sql, values)
        except duckdb.Error as error:
            raise self._translated(error, "read") from error

    def close(self) -> None:
        """Close the file and release the lock."""
        self._open.close()

    def _links(self, rows: Sequence[Values]) -> Iterator[Link]:
        link = self._end
        for row in rows:
            chain = tables.chained(link.chain, row[tables.HASH_AT])
            link = Link(link.pos + 1, chain, row[tables.SESSION_AT], row[tables.SEQ_AT])
            yield link

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """One transaction; whatever goes wrong in it, it is rolled back: a COMMIT then would save nothing."""
        self._check_well()
        try:
            self._db.begin()
            yield self._db
            self._commit()
        except duckdb.Error as error:
            self._roll_back()
            raise self._translated(error, "written") from error
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        """Commit. What a failed commit left on disk nobody knows before the file is opened anew."""
        try:
            self._db.commit()
        except duckdb.Error:
            self.failed = "a commit failed, and whether its rows are there is not certain"
            raise

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # there may be no transaction left, and that is what is wanted
            self._db.rollback()

    def _move_along(self, links: Sequence[Link]) -> None:
        """Record what was committed; after a checkpoint, what stands in the file itself is recorded no more."""
        before, self._end = self._end, links[-1]
        wal_bytes = _size_of(self._wal)
        was_checkpointed, self._wal_bytes = wal_bytes < self._wal_bytes, wal_bytes
        try:
            if was_checkpointed:
                self._record.begin([_end_at(before), *links])
            else:
                self._record.add(links)
        except OSError as error:
            # What was committed is durable: a record that lags behind it is caught up with at the next start.
            _log.warning("the journal's record can't be written: %s", error)

    def _check_well(self) -> None:
        if self.failed:
            raise StoreUnavailable(f"the journal has failed: {self.failed}", hint="The server has to be started again.")

    def _translated(self, error: duckdb.Error, done: str) -> StoreUnavailable:
        kind = type(error).__name__
        _log.error("the journal can't be %s: %s: %s", done, kind, error)
        if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):
            self.failed = f"DuckDB reported a fatal error ({kind})"
        return StoreUnavailable(f"the journal can't be {done} now ({kind})", hint="Send the same again later.")


class _Readers:
    """Threads that read, each query on a cursor that no other uses meanwhile."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="edgewise-read")
        self._idle: SimpleQueue[duckdb.DuckDBPyConnection] = SimpleQueue()
        for _ in range(READERS):
            cursor = db.cursor()
            cursor.execute("USE journal")
            self._idle.put(cursor)

    async def read(self, sql: str, values: list[Any]) -> list[Values]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, sql, values)

    def close(self) -> None:
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _fetch(self, sql: str, values: list[Any]) -> list[Values]:
        cursor = self._idle.get()
        try:
            return cursor.execute(sql, values).fetchall()
        finally:
            self._idle.put(cursor)


def beside(path: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return path.with_name(path.name + suffix)


def _take_lock(path: Path, owner: Owner, wait_s: float, opening: ExitStack) -> None:
    lock = LockFile(path)
    try:
        lock.take(owner, wait_s)
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be made: {error.strerror}", hint="Mend the folder's rights.") from error
    opening.callback(lock.release)


@contextmanager
def _attached(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file, opened. Until it is checked, closing changes nothing in it.

    It is attached and not connected to, since only ATTACH takes a row group size.
    """
    db = duckdb.connect(":memory:", config=_CONFIG)
    try:
        quoted = str(path).replace("'", "''")
        db.execute("PRAGMA disable_checkpoint_on_shutdown")
        db.execute(f"ATTACH '{quoted}' AS journal (ROW_GROUP_SIZE 2048)")
        db.execute("USE journal")
        db.execute("SET enable_external_access = false")
        yield db
    except duckdb.Error as error:
        raise StoreUnavailable(
            f"{path} can't be opened: {error}", hint="Is it a DuckDB file of this version, and writable?"
        ) from error
    finally:
        db.close()


def _made_ready(db: duckdb.DuckDBPyConnection, record: HeadFile) -> Link:
    """Check a file, create what it lacks, and return where it ends."""
    links = record.read()
    is_new = not _rows(db, "FROM duckdb_tables() WHERE database_name = 'journal' AND table_name = 'entries'")
    if is_new:
        _check_record(record, links, Link(), [])
    else:
        _check_format(db)
        _check_record(record, links, *_end_of(db, links))
    _create(db)
    db.execute("CHECKPOINT journal")
    db.execute("PRAGMA enable_checkpoint_on_shutdown")
    db.execute("SET lock_configuration = true")
    end = _end_at(_end_of(db, links)[0])
    record.begin([end])
    return end


def _create(db: duckdb.DuckDBPyConnection) -> None:
    for name, columns in tables.TABLES.items():
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
    db.execute(tables.NAME, ["format", str(tables.FILE_FORMAT)])
    db.execute(tables.NAME, ["secret", secrets.token_hex(32)])


def _check_format(db: duckdb.DuckDBPyConnection) -> None:
    rows = _rows(db, tables.META, "format")
    if rows and int(rows[0][0]) > tables.FILE_FORMAT:
        raise StoreUnavailable(
            f"the journal has format {rows[0][0]}, and this version reads up to {tables.FILE_FORMAT}",
            hint="Run the newer version that wrote it.",
        )


def _end_of(db: duckdb.DuckDBPyConnection, links: Sequence[Link]) -> tuple[Link, list[Values]]:
    """Where the file ends, and the links of its rows since the record's first one."""
    first = links[0].pos if links else 0
    last = int(_rows(db, tables.LAST, first)[0][0] or 0)
    if last < first:
        last = int(_rows(db, tables.LAST, 0)[0][0])
    rows = _rows(db, tables.LINKS, min(first, last) - 1, last)
    return Link(last, rows[-1][2]) if rows else Link(), rows


def _check_record(record: HeadFile, links: Sequence[Link], end: Link, rows: Sequence[Values]) -> None:
    """Pass where the file is what was recorded, or goes on after it. Raises StoreUnavailable."""
    if links and end.pos < links[-1].pos:
        lost = f"says that the journal goes to entry {links[-1].pos}, and it ends at entry {end.pos}"
        raise record.refusal(f"{lost}: entries are missing")
    there = {pos: chain for pos, _, chain, *_ in rows}
    if wrong := [link.pos for link in links if link.pos and there.get(link.pos) != link.chain]:
        raise record.refusal(f"and the journal differ in entry {wrong[0]}: entries were altered or removed")


def _end_at(link: Link) -> Link:
    return Link(link.pos, link.chain)


def _rows(db: duckdb.DuckDBPyConnection, sql: str, *values: Any) -> list[Values]:
    return db.execute(sql, [*values] or None).fetchall()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
