"""The door to DuckDB: one open journal file, written by one thread and read by a few.

Beside the file stand `<file>.lock` (who owns it) and `<file>.head` (what was committed lately),
and `<file>.copy` while it is written anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import duckdb

from runtime.errors import StoreUnavailable
from runtime.progress import Done, Step
from runtime.session import Expense, summed
from runtime.stores import duckcopy, tables
from runtime.stores.duckcopy import beside, size_of, sync_folder
from runtime.stores.headfile import HeadFile, Link, lost_after
from runtime.stores.lockfile import LockFile, Owner
from runtime.stores.tables import Connection, Values, rows_of

READERS = 2
MEMORY = "1GB"
"""What DuckDB may keep in memory, where the machine has more: else it keeps whatever it has read."""
SPENT_ROWS_MAX = 10_000
"""More rows of the ledger than these are added up when the file is opened."""
FETCHED = 64
"""Rows are fetched so many at a time."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "wal_autocheckpoint": "256MB",  # a checkpoint stalls commits, and many small ones stall them longest
}

READ_ERRORS = duckdb.Error
"""What a query raises."""
_NO_FILE = "Is it a DuckDB file of this version, and writable?"
_log = logging.getLogger(__name__)


class DuckFile:
    """The open file. All but `read`, `back_up` and `close` are called from the writer's thread only.

    `on_failed` is called once, in any thread, when `failed` is set.
    """

    def __init__(self, path: Path, owner: Owner, lock_wait_s: float, on_failed: Callable[[], object]) -> None:
        self.failed = ""
        self._on_failed = on_failed
        self.path = path
        self._copy = beside(path, ".copy")
        self._wal = beside(path, ".wal")
        self._record = HeadFile(beside(path, ".head"))
        with ExitStack() as opening:
            take_lock(path, owner, lock_wait_s, opening)
            duckcopy.discard(self._copy)
            duckcopy.discard_left(path)
            links = self._record.read()
            if not path.exists():
                self._record.check(links, 0, {})
            self._db = _ready(path, self._record)
            opening.callback(self._let_go)
            self._end = _end_of(self._db, links)
            self._begin_record()
            self._appender: duckdb.Appender | None = None
            self._readers = _Readers(self._db)
            self._open = opening.pop_all()
        self._wal_bytes = 0
        self._was_checkpointed = False

    @property
    def position(self) -> int:
        """The last row's place in the whole journal; 0 where it is empty."""
        return self._end.pos

    def append(self, rows: Sequence[Values], expenses: Sequence[Expense] = ()) -> None:
        """Commit a group and what it cost. Raises StoreUnavailable; then nothing of it is there."""
        links = [*self._links(rows)]
        with self._transaction() as db, self._appending() as appender:
            appender.append_rows([(*row, link.pos, link.chain) for row, link in zip(rows, links, strict=True)])
            appender.flush()
            for expense in summed(expenses):
                db.execute(tables.SPEND, tables.spent_values(expense))
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

    def back_up(self, target: Path) -> Generator[Step, None, None]:
        """Copy what stands there now into a new file, while the journal goes on. In a thread of its own.

        Raises StoreUnavailable, and ValidationError where there is a file already.
        """
        self._check_well()
        duckcopy.refuse_existing(target)
        duckcopy.refuse_full(self.path)
        with self._copying("backed up"), closing(self._db.cursor()) as cursor:
            cursor.execute("USE journal")
            end = yield from duckcopy.copied(cursor, self._copy)
        duckcopy.put_away(self._copy, target, end)
        yield Done(is_good=True, facts={"path": str(target), "last": end.pos, "bytes": size_of(target)})

    def compact(self) -> Generator[Step, None, None]:
        """Write the file anew without what was deleted, and put the new one in the old one's place.

        Whatever ends it on its way leaves the old file or the new one, whole. Raises StoreUnavailable.
        """
        self._check_well()
        duckcopy.refuse_full(self.path)
        before = size_of(self.path) + size_of(self._wal)
        with self._copying("compacted"):
            self._db.execute("CHECKPOINT journal")
            yield from duckcopy.copied(self._db, self._copy)
            self._swap()
        with suppress(StoreUnavailable):  # the old record still holds: the copy is the same journal
            self._begin_record()
        yield Done(is_good=True, facts={"bytes_before": before, "bytes": size_of(self.path)})

    def close(self) -> None:
        """Close the file and release the lock."""
        self._readers.close()
        self._open.close()

    def _begin_record(self) -> None:
        try:
            self._record.begin([self._end])
            sync_folder(self.path.parent)
        except OSError as error:
            raise StoreUnavailable(
                f"{self._record.path} can't be written: {error}", hint="Make room for it."
            ) from error

    def _let_go(self) -> None:
        self._record.close()
        self._appender = None
        self._db.close()

    def _swap(self) -> None:
        """Let go of the file and open its copy in its place; who reads meanwhile waits."""
        with self._readers.paused() as resumed:
            try:
                self._appender = None
                self._db.close()
                _replace(self.path, self._copy)
                self._db = _attached(self.path)
                _lock_up(self._db)
            except BaseException:
                self._fail("the file could not be opened again after it was written anew")
                raise
            resumed(self._db)
        self._wal_bytes = 0

    @contextmanager
    def _copying(self, done: str) -> Iterator[None]:
        """Whatever goes wrong with a copy, the journal is as it was."""
        try:
            yield
        except BaseException as error:
            duckcopy.discard(self._copy)
            if isinstance(error, duckdb.Error):
                raise self._translated(error, done) from error
            raise

    @contextmanager
    def _appending(self) -> Iterator[duckdb.Appender]:
        """The appender, which takes rows in a third less time than an INSERT; a new one after an error."""
        appender, self._appender = self._appender or self._db.appender("entries"), None
        try:
            yield appender
        except BaseException as error:
            with suppress(duckdb.Error):
                appender.clear()
            if isinstance(error, TypeError | ValueError | OverflowError):
                raise StoreUnavailable(f"an entry can't be written: {error}") from error
            raise
        self._appender = appender

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
        except (duckdb.Error, OSError) as error:
            self._roll_back()
            raise self._translated(error, "written") from error
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        """Commit. What a failed commit left on disk nobody knows before the file is opened anew.

        Whatever it failed of: rows that may be there must not be written again.
        """
        if not self._wal_bytes:
            duckcopy.make_private(self._wal)
        try:
            self._db.commit()
            self._follow_log()
        except BaseException:
            self._fail("a commit failed, and whether its rows are there is not certain")
            raise

    def _follow_log(self) -> None:
        """Make the log's name as durable as its content: DuckDB removes it at a checkpoint, and syncs no folder."""
        before, self._wal_bytes = self._wal_bytes, size_of(self._wal)
        if not before or self._wal_bytes < before:
            sync_folder(self.path.parent)
        self._was_checkpointed |= self._wal_bytes < before

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # there may be no transaction left, and that is what is wanted
            self._db.rollback()

    def _move_along(self, links: Sequence[Link]) -> None:
        """Record what was committed; after a checkpoint, what stands in the file itself is recorded no more."""
        before, self._end = self._end, links[-1]
        try:
            if self._was_checkpointed:
                self._record.begin([Link(before.pos, before.chain), *links])
                self._was_checkpointed = False
            else:
                self._record.add(links)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may write those rows again
            # What was committed is durable: a record that lags behind it is caught up with at the next start.
            _log.warning("the journal's record can't be written: %s", error)

    def _fail(self, why: str) -> None:
        """From now on nothing is read or written: the first reason is the one that counts."""
        if not self.failed:
            self.failed = why
            _log.critical("the journal %s has failed: %s", self.path, why)
            self._on_failed()

    def _check_well(self) -> None:
        if self.failed:
            raise StoreUnavailable(f"the journal has failed: {self.failed}", hint="The server has to be started again.")

    def _translated(self, error: Exception, done: str) -> StoreUnavailable:
        kind = type(error).__name__
        _log.error("the journal can't be %s: %s: %s", done, kind, error)
        if isinstance(error, (duckdb.FatalException, duckdb.InternalException)):
            self._fail(f"DuckDB reported a fatal error ({kind})")
        return StoreUnavailable(f"the journal can't be {done} now ({kind})", hint="Send the same again later.")


class _Readers:
    """Threads that read, each query on a cursor that no other uses meanwhile."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="edgewise-read")
        self._idle: SimpleQueue[duckdb.DuckDBPyConnection] = SimpleQueue()
        self._resume(db)

    async def read(self, sql: str, values: list[Any]) -> list[Values]:
        """All rows of a query."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, sql, values)

    @contextmanager
    def paused(self) -> Iterator[Callable[[duckdb.DuckDBPyConnection], None]]:
        """No query runs inside; those that come wait, and go on with the connection that is handed over."""
        cursors = [self._idle.get() for _ in range(READERS)]
        for cursor in cursors:
            cursor.close()
        try:
            yield self._resume
        finally:
            if self._idle.empty():  # nothing was handed over: a closed cursor tells those who wait
                for cursor in cursors:
                    self._idle.put(cursor)

    def close(self) -> None:
        """Wait for the queries under way, then let go of the file."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _resume(self, db: duckdb.DuckDBPyConnection) -> None:
        for _ in range(READERS):
            cursor = db.cursor()
            cursor.execute("USE journal")
            self._idle.put(cursor)

    def _fetch(self, sql: str, values: list[Any]) -> list[Values]:
        cursor = self._idle.get()
        try:
            return [*_fetched(cursor.execute(sql, values))]
        finally:
            self._idle.put(cursor)


def _fetched(result: duckdb.DuckDBPyConnection) -> Iterator[Values]:
    """All rows. DuckDB lets no other thread run while it makes Python's values of them: a few at a time."""
    while rows := result.fetchmany(FETCHED):
        yield from rows


def take_lock(path: Path, owner: Owner, wait_s: float, opening: ExitStack) -> None:
    """Own a journal until `opening` is closed. Raises StoreUnavailable."""
    lock = LockFile(beside(path, ".lock"))
    try:
        lock.take(owner, wait_s)
    except OSError as error:
        raise StoreUnavailable(f"{path}.lock can't be made: {error}", hint="Mend the folder's rights.") from error
    opening.callback(lock.release)


def _attached(path: Path, *, is_read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """The file, opened. Until it is locked up, closing changes nothing in it. Raises duckdb.Error.

    It is attached and not connected to, since only ATTACH takes a row group size. SQL reaches no
    other file than those in the journal's folder, where copies are written.
    """
    path = path.absolute()
    db = duckdb.connect(":memory:", config=_CONFIG)
    try:
        quoted = str(path).replace("'", "''")
        if rows_of(db, "SELECT current_setting('memory_limit')")[0][0].endswith(("GiB", "TiB")):
            db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute(f"SET temp_directory = '{quoted}.tmp'")
        db.execute("PRAGMA disable_checkpoint_on_shutdown")
        db.execute(f"ATTACH '{quoted}' AS journal ({'READ_ONLY' if is_read_only else 'ROW_GROUP_SIZE 2048'})")
        db.execute("USE journal")
        folder = str(path.parent).replace("'", "''")
        db.execute(f"SET allowed_directories = ['{folder}/']")
        db.execute("SET enable_external_access = false")
    except BaseException:
        db.close()
        raise
    return db


def _lock_up(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("PRAGMA enable_checkpoint_on_shutdown")
    db.execute("SET lock_configuration = true")


def _ready(path: Path, record: HeadFile) -> duckdb.DuckDBPyConnection:
    """A file opened and checked, with all that it lacked. Raises StoreUnavailable; then it is as it was."""
    try:
        db = _attached(path)
    except duckdb.Error as error:
        raise _unreadable(path, record, error) from error
    try:
        duckcopy.make_private(path)
        if format_of(db) == 1:
            db = _upgrade(db, path, record)
        _check_end(db, record)
        _create(db)
        db.execute("CHECKPOINT journal")
        _lock_up(db)
    except (duckdb.Error, OSError) as error:
        db.close()
        raise StoreUnavailable(f"{path} can't be made ready: {error}", hint="Is the disk full?") from error
    except BaseException:
        db.close()
        raise
    return db


def _unreadable(path: Path, record: HeadFile, error: duckdb.Error) -> StoreUnavailable:
    """Why a file can't be opened, and what would be lost where its write-ahead log is why."""
    with looked_at(path) as (db, why):
        if not why:
            return StoreUnavailable(f"{path} can't be opened: {error}", hint=_NO_FILE)
        last = duckcopy.last_of(db) if format_of(db) > 1 else 0
    lost = lost_after(record.read(), last)
    return StoreUnavailable(
        f"{why}. {f'{record.path} says that {lost}' if lost else 'Nothing that was recorded is missing'}. "
        "Nothing was repaired.",
        hint=f"Restore the journal from a backup; or, to go on with what is there, {_mend(path, error)}"
        f" and remove {record.path.name}.",
    )


def _mend(path: Path, error: duckdb.Error) -> str:
    log, cut = beside(path, ".wal").name, _cut_of(error)
    return f"cut {log} to its first {cut} bytes (truncate -s {cut} {log})" if cut else f"move {log} away"


def _cut_of(error: duckdb.Error) -> int:
    """How many bytes of the write-ahead log can be read, as far as DuckDB says; 0 where it doesn't."""
    found = re.search(r"entry at byte position (\d+)", str(error))
    return int(found[1]) if found else 0


@contextmanager
def looked_at(path: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """The file, read only, and what of its log can't be read ('' where all can; else only what can is there).

    Raises StoreUnavailable where the file itself can't be opened.
    """
    try:
        db = _attached(path, is_read_only=True)
    except duckdb.Error as error:
        if "WAL" not in str(error):
            raise StoreUnavailable(f"{path} can't be opened: {error}", hint=_NO_FILE) from error
        cut = _cut_of(error)
        with _without_log(path, cut) as (db,):
            yield db, f"{beside(path, '.wal')} can't be read {f'from byte {cut} on' if cut else 'at all'} ({error})"
        return
    with closing(db):
        yield db, ""


@contextmanager
def _without_log(path: Path, cut: int) -> Iterator[tuple[duckdb.DuckDBPyConnection]]:
    """The file by another name, read only, with no more than the first bytes of its log.

    Whoever is killed meanwhile leaves that name behind, and with it what a compaction gives back:
    it is always the same one, and whoever opens or inspects the file removes it first.
    """
    folder = beside(path, duckcopy.ALONE)
    folder.mkdir(0o700)
    try:
        alone = folder / path.name
        os.link(path, alone)
        if cut:
            beside(alone, ".wal").write_bytes(beside(path, ".wal").read_bytes()[:cut])
        with closing(_attached(alone, is_read_only=True)) as db:
            yield (db,)
    finally:
        duckcopy.discard_left(path)


def _create(db: duckdb.DuckDBPyConnection) -> None:
    for name, columns in tables.TABLES.items():
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
    db.execute(tables.NAME, ["format", str(tables.FILE_FORMAT)])
    db.execute(tables.RENAME, ["format", str(tables.FILE_FORMAT)])
    db.execute(tables.NAME, ["secret", secrets.token_hex(32)])
    if rows_of(db, tables.SPENT_ROWS)[0][0] > SPENT_ROWS_MAX:
        _add_up(db)


def _add_up(db: duckdb.DuckDBPyConnection) -> None:
    """Leave the ledger one row for each day, provider and model."""
    sums = rows_of(db, tables.EXPENSES, 0)
    db.begin()
    try:
        db.execute(tables.FORGET_SPENT)
        for values in sums:
            db.execute(tables.SPEND, [*values])
        db.commit()
    except BaseException:
        db.rollback()
        raise


def format_of(db: Connection) -> int:
    """The format of the tables, 0 where there are none. Raises StoreUnavailable for a later one."""
    if not rows_of(db, "FROM duckdb_tables() WHERE database_name = 'journal' AND table_name = 'meta'"):
        return 0
    rows = rows_of(db, tables.META, "format")
    found = int(rows[0][0]) if rows else 0
    if found > tables.FILE_FORMAT:
        raise StoreUnavailable(
            f"the journal has format {found}, and this version reads up to {tables.FILE_FORMAT}",
            hint="Run the newer version that wrote it.",
        )
    return found


def _upgrade(db: duckdb.DuckDBPyConnection, path: Path, record: HeadFile) -> duckdb.DuckDBPyConnection:
    """Write a file of format 1 anew in this one, and open that in its place."""
    copy = beside(path, ".copy")
    _log.info("the journal %s has format 1 and is being upgraded", path)
    try:
        for _ in duckcopy.upgraded(db, copy, record):
            pass
        db.execute("CHECKPOINT journal")
        db.close()
        _replace(path, copy)
    except BaseException:
        db.close()
        duckcopy.discard(copy)
        raise
    return _attached(path)


def _replace(path: Path, copy: Path) -> None:
    """Put a whole copy in the file's place. A log of the old file would be read into the new one: there is none."""
    if size_of(beside(path, ".wal")):
        raise StoreUnavailable(f"{path} still has a write-ahead log", hint="Send the same again later.")
    copy.replace(path)
    sync_folder(path.parent)


def _check_end(db: duckdb.DuckDBPyConnection, record: HeadFile) -> None:
    """Pass where the file is what was recorded since the last checkpoint. Raises StoreUnavailable."""
    links = record.read()
    if not format_of(db):
        record.check(links, 0, {})
    elif links:
        first = links[0].pos
        last = duckcopy.last_of(db, first)
        rows = rows_of(db, tables.LINKS, first - 1, last)
        record.check(links, last, {row[0]: row[2] for row in rows})
        base = 1 if first else 0
        if wrong := next(tables.breaks(rows[base:], first, last, rows[0][2] if base else ""), None):
            raise record.refusal(f"and the journal differ: {wrong.what}")


def _end_of(db: duckdb.DuckDBPyConnection, links: Sequence[Link]) -> Link:
    last = duckcopy.last_of(db, links[0].pos if links else 0)
    return Link(last, rows_of(db, tables.LINKS, last - 1, last)[0][2]) if last else Link()
