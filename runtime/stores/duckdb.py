"""The journal in one DuckDB file: append-only, owned by one process, committed in groups.

Beside the file stand `<file>.lock` (who owns it) and `<file>.head` (where it ends). There is no
primary key and no index: what is unique is decided in the owner's memory, where the heads are,
and no lookup can miss a row because an index did. `sid` is a hash of the session's id that makes
a scan cheap; every query that uses it compares the id as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import duckdb
import msgspec

from runtime.errors import StoreUnavailable
from runtime.session import Entry
from runtime.stores.groups import GroupWriter
from runtime.stores.headfile import HeadFile, Mark, group_hash
from runtime.stores.heads import Heads, cursor_of, follows, position_of
from runtime.stores.lockfile import LockFile, Owner

FILE_FORMAT = 1
"""The version of the tables; a file with a later one is refused."""
CACHED_HEADS = 10_000
LOCK_WAIT_S = 5.0
READERS = 2
LIST_SPAN = 4096
"""How many of the newest entries a list looks at first; four times as many each time it needs more."""

Row = tuple[Any, ...]

_COLUMNS = {
    "sid": "BIGINT",
    "session_id": "VARCHAR",
    "seq": "BIGINT",
    "turn": "BIGINT",
    "player_id": "VARCHAR",
    "machine": "VARCHAR",
    "state": "VARCHAR",
    "ended": "BOOLEAN",
    "at_ms": "BIGINT",
    "hash": "VARCHAR",
    "body": "VARCHAR",  # the entry's JSON: as a list parameter, text costs half of what a BLOB does
    "pos": "BIGINT",  # the row's place in the whole journal, from 1: zone maps find it
    "grp": "BIGINT",  # the group that it was committed in, from 1
}
_HASH_AT = [*_COLUMNS].index("hash")
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "wal_autocheckpoint": "256MB",  # a checkpoint stalls commits, and many small ones stall them longest
}
# Uncompressed: compressing is what makes a checkpoint stall.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS entries ("
    + ", ".join(f"{name} {type_} USING COMPRESSION uncompressed" for name, type_ in _COLUMNS.items())
    + ")",
    "CREATE TABLE IF NOT EXISTS tombstones (grp BIGINT, at_ms BIGINT, hash VARCHAR)",
    "CREATE TABLE IF NOT EXISTS definitions (digest VARCHAR, files VARCHAR)",
    "CREATE TABLE IF NOT EXISTS meta (name VARCHAR, value VARCHAR)",
    f"INSERT INTO meta SELECT 'format', '{FILE_FORMAT}' WHERE NOT EXISTS (FROM meta)",
)
_INSERT = "INSERT INTO entries SELECT " + ", ".join(
    f"unnest(${at}::{type_}[])" for at, type_ in enumerate(_COLUMNS.values(), 1)
)
_HEADS = """
    SELECT session_id, body FROM entries WHERE pos IN (
        SELECT max(pos) FROM entries
        WHERE sid IN (SELECT unnest($1::BIGINT[])) AND session_id IN (SELECT unnest($2::VARCHAR[]))
        GROUP BY session_id)
"""
_ENTRY = """
    SELECT body FROM entries WHERE sid = $1 AND session_id = $2 AND turn = $3 ORDER BY seq DESC LIMIT 1
"""
_ENTRIES = """
    SELECT body FROM entries WHERE sid = $1 AND session_id = $2 AND seq > $3 ORDER BY seq LIMIT $4
"""
_LIST = """
    SELECT pos, body FROM entries
    WHERE pos IN (SELECT max(pos) FROM entries WHERE pos > $1 GROUP BY session_id) AND pos < $2
        AND ($3::VARCHAR IS NULL OR player_id = $3) AND ($4::BOOLEAN IS NULL OR ended = $4)
    ORDER BY pos DESC LIMIT $5
"""
_LAST_GROUP = """
    SELECT greatest(0, (SELECT max(grp) FROM entries), (SELECT max(grp) FROM tombstones))
"""
_GROUP_HASHES = "SELECT hash FROM entries WHERE grp = $1 ORDER BY pos"

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class DuckDBStore:
    """A Store in a DuckDB file that this process owns.

    `url` is where the owner answers, for the lock file. `cached_heads` bounds the heads kept in
    memory (one takes about as much as its entry's JSON). A second owner waits `lock_wait_s` seconds.
    """

    def __init__(
        self,
        path: str | Path,
        url: str = "",
        *,
        cached_heads: int = CACHED_HEADS,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        self._path = Path(path)
        self._url = url
        self._lock_wait_s = lock_wait_s
        self._heads = Heads(cached_heads)
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._cold: dict[str, asyncio.Future[Entry | None]] = {}
        self._asked: list[str] = []
        self._loading: asyncio.Task[None] | None = None
        self._kept: set[str] = set()
        self._journal: _Journal | None = None
        self._writer: GroupWriter[Row] | None = None

    @property
    def failed(self) -> str:
        """Why this store works no more, '' while it does. The process should end and start anew."""
        return self._journal.failed if self._journal else ""

    async def open(self) -> None:
        """Take the lock, open the file, and check that it ends where it should.

        Raises StoreUnavailable, with owner_pid and owner_url where another process owns the file.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        owner = Owner(os.getpid(), self._url)
        self._journal = await asyncio.to_thread(_Journal, self._path, owner, self._lock_wait_s)
        self._writer = GroupWriter(self._journal.append, lambda: bool(self.failed))

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        if session_id in self._heads:
            return self._heads.get(session_id)
        if session_id not in self._cold:
            self._cold[session_id] = asyncio.get_running_loop().create_future()
            self._asked.append(session_id)
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_asked())
        return await asyncio.shield(self._cold[session_id])

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The entry of a turn."""
        rows = await self._read(_ENTRY, [_sid(session_id), session_id, turn])
        return _entry(rows[0][0]) if rows else None

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        rows = await self._read(_ENTRIES, [_sid(session_id), session_id, after, limit])
        return [_entry(body) for (body,) in rows]

    async def append(self, entry: Entry) -> None:
        """Add an entry; returns when it is synced to disk.

        Raises StaleTurn where it does not follow the head. A cancelled caller's entry is written
        all the same, if it was queued.
        """
        session_id = entry.session_id
        with self._holding(session_id):
            follows(entry, await self._head_at_rest(session_id))
            done = self._open_writer().write(_row(entry))
            await self._under_way_until(done, session_id, entry)

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        before = 2**62 if after is None else position_of(after)
        rows = await self._newest([before, player_id, ended, limit + 1])
        heads = [_entry(body) for _, body in rows[:limit]]
        return heads, cursor_of(rows[limit - 1][0]) if len(rows) > limit else None

    async def delete(self, session_id: str) -> bool:
        """Remove a session's rows for good; False where there was none.

        Their bytes leave the file when DuckDB reuses or compacts the blocks that they stood in.
        """
        with self._holding(session_id):
            if await self._head_at_rest(session_id) is None:
                return False
            done = self._open_writer().run(partial(self._opened().delete, session_id))
            await self._under_way_until(done, session_id, None)
            return True

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        if digest in self._kept:
            return
        body = _encode(files).decode()
        await asyncio.shield(self._open_writer().run(partial(self._opened().keep, digest, body)))
        self._kept.add(digest)

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        rows = await self._read("SELECT files FROM definitions WHERE digest = $1", [digest])
        return msgspec.json.decode(rows[0][0], type=dict[str, str]) if rows else None

    async def ping(self) -> None:
        """Prove that the store can be read and written now: one small durable write, one read."""
        await asyncio.shield(self._open_writer().run(self._opened().touch))
        await self._read("SELECT 1", [])

    async def close(self) -> None:
        """Write what is queued, close the file, release the lock; again is no error."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        await asyncio.to_thread(writer.stop)
        journal, self._journal = self._opened(), None
        await asyncio.to_thread(journal.close)

    @contextmanager
    def _holding(self, session_id: str) -> Iterator[None]:
        self._heads.hold(session_id)
        try:
            yield
        finally:
            self._heads.release(session_id)

    async def _head_at_rest(self, session_id: str) -> Entry | None:
        """The head once no write of the session is under way; nothing can come between, until the next await."""
        while True:
            if busy := self._under_way.get(session_id):
                await asyncio.wait([busy])
            elif session_id in self._heads:
                return self._heads.get(session_id)
            else:
                await self.head(session_id)

    async def _under_way_until(self, done: asyncio.Future[Any], session_id: str, head: Entry | None) -> None:
        """Wait for a write; the head is what it leaves, also where the caller is cancelled meanwhile."""
        self._under_way[session_id] = done
        self._heads.hold(session_id)
        done.add_done_callback(partial(self._written, session_id, head))
        await asyncio.shield(done)

    def _written(self, session_id: str, head: Entry | None, done: asyncio.Future[Any]) -> None:
        del self._under_way[session_id]
        self._heads.release(session_id)
        if done.exception() is None:
            self._heads.put(session_id, head)

    async def _load_asked(self) -> None:
        """Read the cold heads that were asked for, all that came together in one query."""
        while self._asked:
            asked, self._asked = self._asked, []
            try:
                bodies = {row[0]: row[1] for row in await self._read(_HEADS, [[*map(_sid, asked)], asked])}
            except Exception as error:  # noqa: BLE001 - handed to all who wait, whatever it is
                for session_id in asked:
                    _fail(self._cold.pop(session_id), error)
            else:
                for session_id in asked:
                    self._tell_cold(session_id, bodies.get(session_id))
        self._loading = None

    def _tell_cold(self, session_id: str, body: str | None) -> None:
        waiting = self._cold.pop(session_id)
        try:
            head = None if body is None else _entry(body)
        except StoreUnavailable as error:
            _fail(waiting, error)
        else:
            self._heads.put(session_id, head)
            waiting.set_result(head)

    async def _newest(self, wanted: list[Any]) -> list[Row]:
        """Rows of the list, looking no further back than the page needs."""
        journal = self._opened()
        end, span = journal.position, LIST_SPAN
        while True:
            start = max(0, end - span)
            rows = await self._read(_LIST, [start, *wanted])
            if start == 0 or len(rows) == wanted[-1]:
                return rows
            span *= 4

    async def _read(self, sql: str, values: list[Any]) -> list[Row]:
        return await self._opened().read(sql, values)

    def _opened(self) -> _Journal:
        if self._journal is None:
            raise StoreUnavailable("the journal is not open", hint="Start the server again.")
        return self._journal

    def _open_writer(self) -> GroupWriter[Row]:
        if self._writer is None:
            raise StoreUnavailable("the journal is closed: the server is shutting down", hint="Send it again.")
        return self._writer


class _Journal:
    """The open file. `append`, `delete`, `keep` and `touch` are called from the writer's thread only."""

    def __init__(self, path: Path, owner: Owner, lock_wait_s: float) -> None:
        self.failed = ""
        self._path = path
        self._head_file = HeadFile(_beside(path, ".head"))
        with ExitStack() as opening:
            _take_lock(_beside(path, ".lock"), owner, lock_wait_s, opening)
            if not path.exists():
                self._head_file.check(Mark())
            self._db = opening.enter_context(_attached(path))
            self._mark, self.position = _made_ready(self._db, self._head_file)
            self._readers = _Readers(self._db)
            opening.callback(self._readers.close)
            self._open = opening.pop_all()

    def append(self, rows: Sequence[Row]) -> None:
        """Commit a group. Raises StoreUnavailable; then nothing of it is there."""
        mark = Mark(self._mark.group + 1, group_hash(row[_HASH_AT] for row in rows))
        positions = range(self.position + 1, self.position + 1 + len(rows))
        columns = [[*column] for column in zip(*rows, strict=True)]
        with self._transaction() as db:
            db.execute(_INSERT, [*columns, [*positions], [mark.group] * len(rows)])
        self.position = positions[-1]
        self._move_to(mark)

    def delete(self, session_id: str) -> None:
        """Remove a session's rows, in a group of its own that leaves a tombstone without its name."""
        number = self._mark.group + 1
        mark = Mark(number, group_hash([f"deleted {number} {session_id}"]))
        with self._transaction() as db:
            db.execute("DELETE FROM entries WHERE sid = $1 AND session_id = $2", [_sid(session_id), session_id])
            db.execute("INSERT INTO tombstones VALUES ($1, $2, $3)", [number, _now_ms(), mark.hash])
        self._move_to(mark)

    def keep(self, digest: str, files: str) -> None:
        """Keep a definition once."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO definitions SELECT $1, $2 WHERE NOT EXISTS (FROM definitions WHERE digest = $1)",
                [digest, files],
            )

    def touch(self) -> None:
        """One small durable write, of what stands there already."""
        with self._transaction() as db:
            db.execute("UPDATE meta SET value = $1 WHERE name = 'format'", [str(FILE_FORMAT)])

    async def read(self, sql: str, values: list[Any]) -> list[Row]:
        """All rows of a query, read beside the loop. Raises StoreUnavailable."""
        self._check_well()
        try:
            return await self._readers.read(sql, values)
        except duckdb.Error as error:
            raise self._translated(error, "read") from error

    def close(self) -> None:
        """Close the file and release the lock."""
        self._open.close()

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
        try:
            self._db.commit()
        except duckdb.Error:
            self._roll_back()
            if not self._is_unchanged():
                self.failed = "a commit failed, and whether its rows are there is not certain"
            raise

    def _is_unchanged(self) -> bool:
        try:
            return _last_group(self._db) == self._mark.group
        except duckdb.Error:
            return False

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # there may be no transaction left, and that is what is wanted
            self._db.rollback()

    def _move_to(self, mark: Mark) -> None:
        self._mark = mark
        try:
            self._head_file.write(mark)
        except OSError as error:
            # What was committed is durable: a mark that lags behind it is caught up with at the next one.
            _log.warning("the journal's mark can't be written: %s", error)

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

    async def read(self, sql: str, values: list[Any]) -> list[Row]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, sql, values)

    def close(self) -> None:
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _fetch(self, sql: str, values: list[Any]) -> list[Row]:
        cursor = self._idle.get()
        try:
            return cursor.execute(sql, values).fetchall()
        finally:
            self._idle.put(cursor)


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


def _made_ready(db: duckdb.DuckDBPyConnection, head_file: HeadFile) -> tuple[Mark, int]:
    """Check a file, create what it lacks, and return where it ends: its mark and its last position."""
    is_new = not _rows(db, "FROM duckdb_tables() WHERE database_name = 'journal' AND table_name = 'entries'")
    if not is_new:
        _check_format(db)
    mark = Mark() if is_new else _end_of(db)
    head_file.check(mark)
    for statement in _CREATE:
        db.execute(statement)
    db.execute("CHECKPOINT journal")
    db.execute("PRAGMA enable_checkpoint_on_shutdown")
    db.execute("SET lock_configuration = true")
    head_file.write(mark)
    return mark, _rows(db, "SELECT coalesce(max(pos), 0) FROM entries")[0][0]


def _check_format(db: duckdb.DuckDBPyConnection) -> None:
    rows = _rows(db, "SELECT value FROM meta WHERE name = 'format'")
    if rows and int(rows[0][0]) > FILE_FORMAT:
        raise StoreUnavailable(
            f"the journal has format {rows[0][0]}, and this version reads up to {FILE_FORMAT}",
            hint="Run the newer version that wrote it.",
        )


def _end_of(db: duckdb.DuckDBPyConnection) -> Mark:
    """The last group in the file; a deletion is a group of its own, so the last one is always whole."""
    number = _last_group(db)
    rows = _rows(db, "SELECT hash FROM tombstones WHERE grp = $1", number)
    if rows or number == 0:
        return Mark(number, rows[0][0] if rows else "")
    return Mark(number, group_hash(hash_ for (hash_,) in _rows(db, _GROUP_HASHES, number)))


def _last_group(db: duckdb.DuckDBPyConnection) -> int:
    return int(_rows(db, _LAST_GROUP)[0][0])


def _rows(db: duckdb.DuckDBPyConnection, sql: str, *values: Any) -> list[Row]:
    return db.execute(sql, values or None).fetchall()


def _row(entry: Entry) -> Row:
    """An entry in the order of the columns, without those that the writer numbers."""
    after = entry.after
    try:
        body = _encode(entry).decode()
    except (TypeError, ValueError) as error:
        raise StoreUnavailable(f"turn {entry.turn} of '{entry.session_id}' can't be written: {error}") from error
    return (
        _sid(entry.session_id),
        entry.session_id,
        entry.seq,
        entry.turn,
        after.player_id,
        after.machine,
        after.state,
        after.ended,
        entry.at_ms,
        entry.hash,
        body,
    )


def _entry(body: str) -> Entry:
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"an entry of the journal can't be read: {error}", hint="Restore a backup.") from error


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    waiting.set_exception(error)
    waiting.exception()  # whoever asked may have gone away, and then nobody else would read it


def _sid(session_id: str) -> int:
    """A hash that fits a BIGINT, so that a scan for a session compares numbers."""
    return int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=8).digest(), signed=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
