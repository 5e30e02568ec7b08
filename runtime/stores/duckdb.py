"""The journal in one DuckDB file: append-only, owned by one process, committed in groups.

What is unique is decided in the owner's memory, where the heads of live sessions and their recent
keys are; the file itself is behind `duckfile`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import StoreUnavailable
from runtime.formats import read_entry
from runtime.progress import Done, Step
from runtime.session import Entry, Expense, Node
from runtime.stores import Claim, Damage, Row, tables
from runtime.stores.duckfile import DuckFile
from runtime.stores.groups import GroupWriter
from runtime.stores.heads import cursor_of, follows, position_of, refuse_existing
from runtime.stores.known import NO_KEYS_MS, Heads, Known
from runtime.stores.leases import Leases
from runtime.stores.lockfile import Owner
from runtime.stores.tables import Values, sid_of

CACHED_HEADS = 10_000
LOCK_WAIT_S = 5.0
LIST_SPAN = 4096
"""How many of the newest entries a list looks at first; four times as many each time it needs more."""

_encode = msgspec.json.Encoder().encode
_Written = tuple[Values, Expense | None]
"""An entry's row, and what it cost."""


class DuckDBStore:
    """A Store in a DuckDB file that this process owns.

    `url` is where the owner answers, for the lock file. `cached_heads` bounds the sessions kept in
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
        self._owner = Owner(os.getpid(), url, secrets.token_urlsafe())
        self._lock_wait_s = lock_wait_s
        self._heads = Heads(cached_heads)
        self._leases = Leases()
        self._since_ms = NO_KEYS_MS
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._cold: dict[str, asyncio.Future[Known]] = {}
        self._asked: dict[str, int] = {}
        self._loading: asyncio.Task[None] | None = None
        self._kept: set[str] = set()
        self._has_failed = asyncio.Event()
        self._copying: asyncio.Future[None] | None = None
        self._is_closing = False
        self._file: DuckFile | None = None
        self._writer: GroupWriter[_Written] | None = None

    @property
    def failed(self) -> str:
        """Why this store works no more, '' while it does. The process should end and start anew."""
        return self._file.failed if self._file else ""

    async def until_failed(self) -> str:
        """Wait until this store works no more, for whoever then ends the process; why it doesn't."""
        await self._has_failed.wait()
        return self.failed

    @property
    def owner_token(self) -> str:
        """The token that the lock file names: who can read that file may ask this process."""
        return self._owner.token

    async def open(self) -> None:
        """Take the lock, open the file, and check that it ends where it should.

        Raises StoreUnavailable, with owner_pid and owner_url where another process owns the file.
        """
        self._is_closing = False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        on_failed = partial(asyncio.get_running_loop().call_soon_threadsafe, self._has_failed.set)
        self._file = await asyncio.to_thread(DuckFile, self._path, self._owner, self._lock_wait_s, on_failed)
        self._writer = GroupWriter(self._commit, lambda: bool(self.failed))

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        if session_id in self._heads:
            return self._heads.get(session_id).head
        return (await self._loaded(session_id, NO_KEYS_MS)).head

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        rows = await self._read(tables.TELLING, [sid_of(session_id), session_id, turn])
        return _entry(*rows[0]) if rows else None

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        rows = await self._read(tables.ENTRIES, [sid_of(session_id), session_id, after, limit])
        return [_entry(body, hash_) for _, body, hash_ in rows]

    async def rows(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Row]:
        """The same entries as they are kept."""
        rows = await self._read(tables.ENTRIES, [sid_of(session_id), session_id, after, limit])
        return [Row(session_id, seq, body.encode(), hash_) for seq, body, hash_ in rows]

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts, oldest first."""
        rows = await self._read(tables.TREE, [sid_of(session_id), session_id])
        return [Node(**dict(zip(Node.__struct_fields__, row, strict=True))) for row in rows]

    async def claim(
        self, session_id: str, *, key: str | None = None, request_hash: str = "", since_ms: int = 0
    ) -> Claim:
        """Ask for a session, to play a turn on it."""
        if key is not None:
            self._since_ms = since_ms  # what is asked for next is as new, give or take
        with self._holding(session_id):
            while True:
                known = await self._at_rest(session_id, NO_KEYS_MS if key is None else since_ms)
                seq = known.made_by(key, since_ms)
                if key is None or seq is None:
                    claim = Claim(session_id=session_id, head=known.head, key=key, request_hash=request_hash)
                    return self._leases.take(claim)
                for answered in await self.entries(session_id, after=seq - 1, limit=1):
                    if answered.key == key:
                        return Claim(session_id=session_id, head=known.head, answered=answered)
                known.forget(key)  # its session was deleted meanwhile

    async def release(self, claim: Claim) -> None:
        """Give a claim back; one that was used, lost or never held is no error."""
        self._leases.release(claim)

    async def freed(self, session_id: str, wait_s: float) -> None:
        """Wait until nobody holds the session, at most `wait_s` seconds."""
        await self._leases.freed(session_id, wait_s)

    async def in_progress(self, session_id: str) -> bool:
        """Whether somebody holds the session now."""
        return session_id in self._leases

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Expense | None = None) -> None:
        """Add an entry; returns when it is synced to disk, and the claim is over.

        Raises StaleTurn where it does not follow the head, or the claim was lost. A cancelled
        caller's entry is written all the same, if it was queued.
        """
        session_id = entry.session_id
        with self._holding(session_id):
            known = await self._at_rest(session_id)
            follows(entry, known.head)
            self._leases.check(claim)
            done = self._open_writer().write((tables.values_of(entry), expense))
            await self._under_way_until(done, session_id, partial(self._follow, known, entry, claim))

    async def adopt(self, rows: Sequence[Row]) -> None:
        """Add a whole session at once, seq 1 to n; all of it is there or nothing. Raises SessionExists."""
        session_id = rows[0].session_id
        bodies = [row.body.decode() for row in rows]
        entries = [_entry(body, row.hash) for body, row in zip(bodies, rows, strict=True)]
        with self._holding(session_id):
            refuse_existing((await self._at_rest(session_id)).head)
            values = [*map(tables.values_of, entries, bodies)]
            done = self._open_writer().run(partial(self._opened().append, values))
            keys = [{"key": each.key, "seq": each.seq, "at_ms": each.at_ms} for each in entries if each.key is not None]
            await self._under_way_until(done, session_id, lambda: self._heads.put(session_id, Known(entries[-1], keys)))

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        before = 2**62 if after is None else position_of(after)
        rows = await self._newest([before, player_id, ended, limit + 1])
        heads = [_entry(body, hash_) for _, body, hash_ in rows[:limit]]
        return heads, cursor_of(rows[limit - 1][0]) if len(rows) > limit else None

    async def delete(self, session_id: str, claim: Claim | None = None) -> bool:
        """Remove a session for good; False where there was none.

        Nothing reads it any more, and its rows leave tombstones without a word of it. Its bytes
        stay in the file and its log until DuckDB reuses the blocks, or `compact` rewrites the file.
        """
        with self._holding(session_id):
            known = await self._at_rest(session_id)
            self._leases.check(claim)
            if known.head is None:
                self._leases.release(claim)
                return False
            done = self._open_writer().run(partial(self._opened().delete, session_id))
            await self._under_way_until(done, session_id, partial(self._forget, session_id, claim))
            return True

    async def spend(self, session_id: str, expense: Expense) -> None:  # noqa: ARG002 - the file's ledger names none
        """Add to the ledger what no entry of the session says."""
        await self._write(tables.SPEND, tables.spent_values(expense))

    async def expenses(self, since: int) -> list[Expense]:
        """The ledger from a day on."""
        names = Expense.__struct_fields__
        rows = await self._read(tables.EXPENSES, [since])
        return [Expense(**dict(zip(names, row, strict=True))) for row in rows]

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        if digest in self._kept:
            return
        await self._write(tables.KEEP, [digest, _encode(files).decode()])
        self._kept.add(digest)

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        rows = await self._read(tables.KEPT, [digest])
        return msgspec.json.decode(rows[0][0], type=dict[str, str]) if rows else None

    async def digests(self) -> list[str]:
        """Every digest that a definition is kept under."""
        return [digest for (digest,) in await self._read(tables.DIGESTS, [])]

    async def secret(self) -> bytes:
        """32 random bytes, made once for this store."""
        rows = await self._read(tables.META, ["secret"])
        return bytes.fromhex(rows[0][0])

    async def keep_secret(self, secret: bytes) -> None:
        """Take over the secret of the store that this one becomes a copy of."""
        await self._write(tables.RENAME, ["secret", secret.hex()])

    async def count(self) -> int:
        """How many entries there are."""
        rows = await self._read(tables.COUNT, [])
        return int(rows[0][0])

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        """Every entry as it is kept, in the order of the journal, to where it ended at the beginning."""
        start, end = position_of(after or "0"), self._opened().position
        while start < end:
            upto = min(start + tables.BODY_SPAN, end)
            for session_id, seq, body, hash_, pos in await self._read(tables.WALK, [start, upto]):
                yield Row(session_id, seq, body.encode(), hash_, cursor_of(pos))
            start = upto

    async def audit(self) -> AsyncIterator[Damage]:
        """What was lost, altered or is out of place in the file, by the chain over it all and by each row.

        Nothing that is appended meanwhile is looked at.
        """
        end, is_whole = self._opened().position, True
        chain: str | None = ""
        for start in range(0, end, tables.BODY_SPAN):
            upto = min(start + tables.BODY_SPAN, end)
            rows = await self._read(tables.CHECKED, [start, upto])
            for damage in await asyncio.to_thread(tables.damages, rows, start, upto, chain):
                is_whole = False
                yield damage
            chain = tables.link_at(rows, upto)
        for gap in () if is_whole else await self._read(tables.GAPS, []):
            yield tables.gap(*gap)

    async def backup(self, path: str | Path) -> AsyncIterator[Step]:
        """Copy the journal as it is now into a new file, checked, while turns go on.

        The copy is a journal of its own, with its own `.head`. It takes room beside the journal
        until it is whole. Raises StoreUnavailable, and ValidationError where there is a file already.
        """
        steps = self._opened().back_up(Path(path))
        async for step in self._one_copy(steps, asyncio.to_thread):
            yield step

    async def compact(self) -> AsyncIterator[Step]:
        """Rewrite the file without what was deleted; writes wait meanwhile, and reads for a moment.

        Afterwards no byte of a deleted text is in the file or its log. Whatever ends it on its way,
        the journal is whole, the old one or the new one. Raises StoreUnavailable.
        """
        async for step in self._one_copy(self._opened().compact(), self._open_writer().run):
            yield step

    async def ping(self) -> None:
        """Prove that the store can be read and written now: one small durable write, one read."""
        await self._write(tables.RENAME, ["format", str(tables.FILE_FORMAT)])
        await self._read("SELECT 1", [])

    async def close(self) -> None:
        """Write what is queued, close the file, release the lock; again is no error.

        A copy under way is given up: a process that is told to stop has seconds, and it may take minutes.
        """
        self._is_closing = True
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if self._copying is not None:
            await asyncio.wait([self._copying])
        await asyncio.to_thread(writer.stop)
        file, self._file = self._opened(), None
        await asyncio.to_thread(file.close)

    def _commit(self, group: Sequence[_Written]) -> None:
        """Make a group durable, with what it cost."""
        expenses = [expense for _, expense in group if expense is not None]
        self._opened().append([values for values, _ in group], expenses)

    async def _one_copy(
        self, steps: Generator[Step, None, None], start: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> AsyncIterator[Step]:
        """The steps of a copy, the only one under way; it goes on though nobody listens, until the store closes."""
        if self._copying is not None and not self._copying.done():
            raise StoreUnavailable("the journal is being copied already", hint="Wait for that copy's end.")
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Step | None] = asyncio.Queue()

        def run() -> None:
            for step in self._until_closing(steps):
                loop.call_soon_threadsafe(told.put_nowait, step)

        def end(done: asyncio.Future[None]) -> None:
            done.exception()  # nobody may be left to read it
            told.put_nowait(None)

        self._copying = copying = asyncio.ensure_future(start(run))
        copying.add_done_callback(end)
        while step := await told.get():
            yield step
        await copying

    def _until_closing(self, steps: Generator[Step, None, None]) -> Iterator[Step]:
        with closing(steps):  # given up: it discards what it made
            for step in steps:
                if self._is_closing and not isinstance(step, Done):
                    raise StoreUnavailable(
                        "the journal is closing: its copy was discarded", hint="Send it again later."
                    )
                yield step

    @contextmanager
    def _holding(self, session_id: str) -> Iterator[None]:
        self._heads.hold(session_id)
        try:
            yield
        finally:
            self._heads.release(session_id)

    async def _at_rest(self, session_id: str, since_ms: int = NO_KEYS_MS) -> Known:
        """What is known once no write of the session is under way, with its keys since a time.

        Nothing can come between, until the next await. The caller holds the session.
        """
        while True:
            if busy := self._under_way.get(session_id):
                await asyncio.wait([busy])
            elif session_id in self._heads and self._heads.get(session_id).since_ms <= since_ms:
                return self._heads.get(session_id)
            else:
                await self._loaded(session_id, since_ms)

    async def _under_way_until(self, done: asyncio.Future[Any], session_id: str, then: Callable[[], None]) -> None:
        """Wait for a write; `then` follows it where it is done, also where the caller is cancelled meanwhile."""
        self._under_way[session_id] = done
        self._heads.hold(session_id)
        done.add_done_callback(partial(self._written, session_id, then))
        await asyncio.shield(done)

    def _written(self, session_id: str, then: Callable[[], None], done: asyncio.Future[Any]) -> None:
        del self._under_way[session_id]
        if done.exception() is None:
            then()
        self._heads.release(session_id)

    def _follow(self, known: Known, entry: Entry, claim: Claim | None) -> None:
        known.follow(entry, self._since_ms)
        self._leases.release(claim)

    def _forget(self, session_id: str, claim: Claim | None) -> None:
        self._heads.put(session_id, Known(None))
        self._leases.release(claim)

    async def _loaded(self, session_id: str, since_ms: int) -> Known:
        """What the file tells of a session, with its keys since a time; those asked for together share one read."""
        if session_id in self._asked:
            self._asked[session_id] = min(since_ms, self._asked[session_id])
        elif session_id not in self._cold:  # else its read is under way, and whoever needs older keys asks again
            self._asked[session_id] = since_ms
            self._cold[session_id] = asyncio.get_running_loop().create_future()
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_asked())
        return await asyncio.shield(self._cold[session_id])

    async def _load_asked(self) -> None:
        """Read the cold sessions that were asked for, all that came together in one query."""
        while self._asked:
            asked, self._asked = self._asked, {}
            since_ms = min(self._since_ms, *asked.values())
            try:
                rows = await self._read(tables.HEADS, [[*map(sid_of, asked)], [*asked], since_ms])
            except Exception as error:  # noqa: BLE001 - handed to all who wait, whatever it is
                for session_id in asked:
                    _fail(self._cold.pop(session_id), error)
            else:
                found = {row[0]: row[1:] for row in rows}
                for session_id in asked:
                    self._tell_cold(session_id, since_ms, *found.get(session_id, (None, "", None)))
        self._loading = None

    def _tell_cold(self, session_id: str, since_ms: int, body: str | None, hash_: str, keys: Any) -> None:
        waiting = self._cold.pop(session_id)
        try:
            if session_id in self._heads:
                self._heads.get(session_id).learn(keys or (), since_ms)
            else:
                known = Known(None) if body is None else Known(_entry(body, hash_), keys or (), since_ms)
                self._heads.put(session_id, known)
            waiting.set_result(self._heads.get(session_id))
        except StoreUnavailable as error:
            _fail(waiting, error)

    async def _newest(self, wanted: list[Any]) -> list[Values]:
        """Rows of the list, looking no further back than the page needs."""
        end, span = self._opened().position, LIST_SPAN
        while True:
            start = max(0, end - span)
            rows = await self._read(tables.LIST, [start, *wanted])
            if start == 0 or len(rows) == wanted[-1]:
                return rows
            span *= 4

    async def _read(self, sql: str, values: list[Any]) -> list[Values]:
        return await self._opened().read(sql, values)

    async def _write(self, sql: str, values: list[Any]) -> None:
        await asyncio.shield(self._open_writer().run(partial(self._opened().write, sql, values)))

    def _opened(self) -> DuckFile:
        if self._file is None:
            raise StoreUnavailable("the journal is not open", hint="Start the server again.")
        return self._file

    def _open_writer(self) -> GroupWriter[_Written]:
        if self._writer is None:
            raise StoreUnavailable("the journal is closed: the server is shutting down", hint="Send it again.")
        return self._writer


def _entry(body: str, hash_: str) -> Entry:
    try:
        return read_entry(body, hash_)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"an entry of the journal can't be read: {error}", hint="Restore a backup.") from error


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    waiting.set_exception(error)
    waiting.exception()  # whoever asked may have gone away, and then nobody else would read it
