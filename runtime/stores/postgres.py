"""The journal in PostgreSQL, for several processes and hosts at once.

A turn takes a lease on its session, which other processes see; its end is by the database's clock,
and what this process holds is renewed while it lives. The lease only spares a second narration:
what keeps two turns apart is that an entry's statement names the head that it follows and the
lease's epoch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from runtime.errors import StoreUnavailable
from runtime.formats import read_entry
from runtime.session import Entry, Expense, Node, body_of
from runtime.stores import Claim, Damage, Row
from runtime.stores import pg_statements as sql
from runtime.stores.heads import follows, position_of, refuse_existing
from runtime.stores.leases import taken_over
from runtime.stores.pg_leases import Lease, Leases, set_within
from runtime.stores.pg_pool import Conflict, Link, Lost, Pool, Rejected, Rows, Statement, Values, pause, unavailable
from runtime.stores.pg_schema import make_ready
from runtime.stores.pg_writer import Job, Writer, entry_values, new_epoch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

LEASE_S = 15.0
"""Seconds that a lease outlives its process; renewed three times as often."""
LONG_S = 600.0
"""Seconds for what goes through the whole journal, or writes a whole session."""
PAGE = 200
"""Rows that are read at once."""
POLL_S = (0.05, 0.5)
"""Seconds between two looks at a session that another process holds, first and last."""

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


class _Found(Struct, frozen=True):
    """A session as a claim's statements saw it; None where there was nothing.

    `taken` is the seq that the row had when the lease was taken. `epoch`, `is_held` and the
    holder's key are the row's as it was before that in one statement, or after it in several.
    """

    taken: int | None
    answered_body: str | None = None
    answered_hash: str = ""
    seq: int | None = 0
    epoch: int | None = 0
    is_held: bool | None = False
    key: str | None = None
    request_hash: str | None = ""
    body: str | None = None
    hash: str = ""

    @property
    def head(self) -> Entry | None:
        """The session's newest entry."""
        return _head(self.body, self.hash) if self.seq else None

    @property
    def answered(self) -> Entry | None:
        """The entry that the asker's key made."""
        return None if self.answered_body is None else _entry(self.answered_body, self.answered_hash)


class PostgresStore:
    """A Store in a PostgreSQL database.

    `is_cluster_safe`: every statement of a turn is about its session only, so that the tables may
    be distributed by session_id; else the turns of many sessions share a statement. `lease_s`:
    seconds until a dead process's sessions are free. `budget_s`: seconds for an append, with all
    that it takes to find out what became of a lost one.
    """

    def __init__(
        self,
        url: str,
        *,
        is_cluster_safe: bool = False,
        lease_s: float = LEASE_S,
        budget_s: float = 10.0,
        connections: int = 10,
        wait_s: float = 3.0,
        within_s: float = 5.0,
    ) -> None:
        self._pool = Pool(url, size=connections, wait_s=wait_s, within_s=within_s)
        self._writer = Writer(
            self._pool, is_cluster_safe=is_cluster_safe, budget_s=budget_s, at_once=max(1, connections - 2)
        )
        self._look = _look_each if is_cluster_safe else _look_once
        self._lease_s = lease_s
        self._budget_s = budget_s
        self._leases = Leases()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._secret: bytes | None = None
        self._kept: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._claiming: set[asyncio.Task[Claim]] = set()

    async def open(self) -> None:
        """Make ready: create or change the tables where that is needed."""
        try:
            await make_ready(self._pool)
            await self._rows(sql.SWEEP)
        except BaseException:
            await self._pool.close()
            raise
        self._renewing = asyncio.create_task(self._renew())

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist.

        Raises StoreUnavailable also where the session is there and its newest entry is not.
        """
        rows = await self._rows(sql.HEAD, session_id=session_id)
        return _head(*rows[0]) if rows else None

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        return _first(await self._rows(sql.TELLING, session_id=session_id, turn=turn))

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        rows = await self._rows(sql.ENTRIES, session_id=session_id, after=after, limit=limit)
        return [_entry(body, hash_) for _, body, hash_ in rows]

    async def rows(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Row]:
        """The same entries as they are kept."""
        rows = await self._rows(sql.ENTRIES, session_id=session_id, after=after, limit=limit)
        return [Row(session_id, seq, body.encode(), hash_) for seq, body, hash_ in rows]

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts, oldest first."""
        names = ("seq", "turn", "parent", "kind", "source", "state", "digest", "at_ms")
        rows = await self._rows(sql.TREE, session_id=session_id)
        return [Node(**dict(zip(names, row, strict=True))) for row in rows]

    async def claim(
        self, session_id: str, *, key: str | None = None, request_hash: str = "", since_ms: int = 0
    ) -> Claim:
        """Ask for a session, to play a turn on it; one round trip."""
        asked = {
            "session_id": session_id,
            "key": key,
            "request_hash": request_hash,
            "since_ms": since_ms,
            "epoch": new_epoch(),
            "owner": self._owner,
            "lease_s": self._lease_s,
        }
        claiming = asyncio.create_task(self._claimed(asked))
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(StoreUnavailable):  # whoever asked is gone, and holds nothing
                await self.release(await claiming)
            raise

    async def release(self, claim: Claim) -> None:
        """Give a claim back; without a round trip where its append has ended it."""
        lease = self._leases.ended(claim)
        if lease is None:
            return
        try:
            await self._rows(sql.RELEASE if claim.head else sql.UNBEGIN, **lease._asdict())
        except StoreUnavailable as error:
            _log.warning("a lease can't be given back and will run out: %s", error)

    async def freed(self, session_id: str, wait_s: float) -> None:
        """Wait until nobody holds the session, at most `wait_s` seconds; looks more and more seldom."""
        until = time.monotonic() + wait_s
        poll_s, longest_s = POLL_S
        ended = self._leases.next_end(session_id)
        while await self.in_progress(session_id):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            await set_within(ended, min(left_s, poll_s * (0.5 + secrets.randbelow(1024) / 1024)))
            ended = self._leases.next_end(session_id)
            poll_s = min(2 * poll_s, longest_s)

    async def in_progress(self, session_id: str) -> bool:
        """Whether somebody holds the session now."""
        return bool(await self._rows(sql.IS_HELD, session_id=session_id))

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Expense | None = None) -> None:
        """Add an entry. Raises StaleTurn where it does not follow the head, or the claim was lost."""
        if claim is not None and not claim.is_mine:
            raise taken_over(claim)
        job = Job(entry, body_of(entry).decode(), None if claim is None else self._leases.epoch_of(claim), expense)
        try:
            is_there = await self._writer.append(job)
        finally:
            if claim is not None and job.epochs:
                self._leases.moved(claim, job.epochs[-1])
        if not is_there:
            head = await self.head(entry.session_id)
            follows(entry, head)
            raise taken_over(claim or Claim(session_id=entry.session_id, head=head))
        if claim is not None:
            self._leases.ended(claim)

    async def adopt(self, rows: Sequence[Row]) -> None:
        """Add a whole session at once. Raises SessionExists."""
        entries = [_entry(row.body, row.hash) for row in rows]
        bodies = [row.body.decode() for row in rows]

        async def is_there(*, in_doubt: bool) -> bool:
            head = await self.head(entries[-1].session_id)
            if in_doubt and head and head.hash == entries[-1].hash:
                return True
            refuse_existing(head)
            return False

        while not await self._settled(lambda link: _adopted(link, entries, bodies), is_there):
            await pause()

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        values: dict[str, Any] = {"player_id": player_id, "ended": ended, "limit": limit + 1}
        if after is not None:
            values |= _place_in_list(after)
        wanted = {sql.BEFORE: after, sql.OF_PLAYER: player_id, sql.OF_ENDED: ended}
        conditions = " ".join(condition for condition, value in wanted.items() if value is not None)
        rows = await self._rows(sql.LIST.format(conditions=conditions), **values)
        heads = [_entry(body, hash_) for _, _, body, hash_ in rows[:limit]]
        return heads, "{}:{}".format(*rows[limit - 1]) if len(rows) > limit else None

    async def delete(self, session_id: str, claim: Claim | None = None) -> bool:
        """Remove a session for good; False where there was none."""
        if claim is not None and not claim.is_mine:
            raise taken_over(claim)
        about = {"session_id": session_id, "deletion": new_epoch()}
        if claim is not None:
            about["epoch"] = self._leases.epoch_of(claim)

        async def is_gone(*, in_doubt: bool) -> bool:
            if in_doubt and await self._rows(sql.IS_BURIED, **about):
                return True
            if claim is not None and await self.head(session_id):
                raise taken_over(claim)
            return False

        is_deleted = await self._settled(lambda link: _deleted(link, about), is_gone)
        if claim is not None:
            self._leases.ended(claim)
        return is_deleted

    async def spend(self, session_id: str, expense: Expense) -> None:
        """Add to the ledger what no entry of the session says; twice at worst, where the connection is lost."""
        await self._rows(sql.SPEND, session_id=session_id, **msgspec.structs.asdict(expense))

    async def expenses(self, since: int) -> list[Expense]:
        """The ledger from a day on; reads a row for each session that was played since."""
        rows = await self._rows(sql.EXPENSES, since=since)
        return [Expense(**dict(zip(Expense.__struct_fields__, row, strict=True))) for row in rows]

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        if digest not in self._kept:
            await self._rows(sql.KEEP, digest=digest, files=msgspec.json.encode(files).decode())
            self._kept.add(digest)

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        rows = await self._rows(sql.KEPT, digest=digest)
        return msgspec.json.decode(rows[0][0], type=dict[str, str]) if rows else None

    async def digests(self) -> list[str]:
        """Every digest that a definition is kept under."""
        return [digest for (digest,) in await self._rows(sql.DIGESTS)]

    async def secret(self) -> bytes:
        """32 random bytes, made once for this store: of two hosts that make it at once, one's is kept."""
        if self._secret is None:
            await self._rows(sql.NOTE_ONCE, name="secret", value=secrets.token_hex(32))
            self._secret = bytes.fromhex((await self._rows(sql.NOTED, name="secret"))[0][0])
        return self._secret

    async def keep_secret(self, secret: bytes) -> None:
        """Take over the secret of the store that this one becomes a copy of."""
        await self._rows(sql.NOTE, name="secret", value=secret.hex())
        self._secret = secret

    async def count(self) -> int:
        """How many entries there are; reads them all."""
        return int((await self._pool.retried(lambda link: link.rows(sql.COUNT), LONG_S))[0][0])

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        """Every entry as it is kept, session by session."""
        seq, _, session_id = after.partition(":")
        place = {"session_id": session_id, "seq": position_of(seq or "0"), "limit": PAGE}
        while rows := await self._rows(sql.WALK, **place):
            for session_id_, seq_, body, hash_ in rows:
                yield Row(session_id_, seq_, body.encode(), hash_, f"{seq_}:{session_id_}")
            place |= {"session_id": rows[-1][0], "seq": rows[-1][1]}

    async def audit(self) -> AsyncIterator[Damage]:
        """Heads whose last entry is missing or another, and entries that no head leads to."""
        place = {"after": "", "limit": PAGE}
        while rows := await self._rows(sql.AUDIT, **place):
            for row in rows:
                if damage := _damage(*row):
                    yield damage
            place["after"] = rows[-1][0]
        for (session_id,) in await self._pool.retried(lambda link: link.rows(sql.ORPHANS), LONG_S):
            yield Damage(f"session '{session_id}' has entries and no head", (session_id,))

    async def ping(self) -> None:
        """Prove that the store can be read and written now: one small durable write."""
        await self._rows(sql.NOTE, name="ping", value=self._owner)

    async def close(self) -> None:
        """Finish what was promised, give back what is held, then let go; again is no error."""
        if self._renewing:
            self._renewing.cancel()
        await self._writer.drain()
        with suppress(Lost, Conflict, Rejected, StoreUnavailable):  # then the leases run out
            await self._for_held(sql.RELEASE)
        await self._pool.close()

    async def _rows(self, statement: str, **values: Any) -> Rows:
        """A statement that may be run twice, in a transaction of its own."""
        return await self._pool.retried(lambda link: link.rows(statement, values))

    async def _settled(self, work: Callable[[Link], Awaitable[bool]], is_done: Callable[..., Awaitable[bool]]) -> bool:
        """Do what must not be done twice. Where it did nothing, `is_done` says if a lost attempt had."""
        until = time.monotonic() + self._budget_s
        in_doubt = False
        while True:
            try:
                return await self._pool.run(work, LONG_S) or await is_done(in_doubt=in_doubt)
            except Rejected as error:
                raise unavailable(error) from error
            except (Lost, Conflict, StoreUnavailable) as error:
                in_doubt |= isinstance(error, Lost)
                if not in_doubt and isinstance(error, StoreUnavailable):
                    raise
                if time.monotonic() > until:
                    raise unavailable(error) from error
            await pause(0.05)

    async def _claimed(self, asked: Values) -> Claim:
        while True:
            found = await self._pool.retried(lambda link: self._look(link, asked))
            is_mine = found.taken is not None or found.epoch == asked["epoch"]
            claim = Claim(session_id=asked["session_id"], head=await self._head_of(found, asked))
            if found.answered_body is not None:
                if is_mine:
                    await self._rows(sql.RELEASE, **asked)
                return msgspec.structs.replace(claim, answered=found.answered)
            if is_mine and found.taken in {None, found.seq or 0}:
                self._leases.took(claim.session_id, asked["epoch"])
                return msgspec.structs.replace(
                    claim, epoch=asked["epoch"], key=asked["key"], request_hash=asked["request_hash"]
                )
            if found.is_held and not is_mine:
                return msgspec.structs.replace(claim, key=found.key, request_hash=found.request_hash or "")
            # Another's turn ended while the statement ran: what it saw is partly old.

    async def _head_of(self, found: _Found, asked: Values) -> Entry | None:
        """The head that a claim found; where it can't be read, nobody is to wait for the lease."""
        try:
            return found.head
        except StoreUnavailable:
            await self._rows(sql.RELEASE, **asked)
            raise

    async def _renew(self) -> None:
        every_s = self._lease_s / 3
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._for_held(sql.RENEW, every_s)
            except (Lost, Conflict, Rejected, StoreUnavailable) as error:
                _log.warning("leases can't be renewed now: %s", error)

    async def _for_held(self, statement: str, within_s: float | None = None) -> None:
        held = self._leases.held()
        if held:
            await self._pool.run(lambda link: _for_each(link, statement, held, self._lease_s), within_s)


async def _look_once(link: Link, asked: Values) -> _Found:
    """Claim in one statement."""
    ((*found, _),) = await link.rows(sql.CLAIM, asked)
    return _found(found[0], found[1:3], found[3:])


async def _look_each(link: Link, asked: Values) -> _Found:
    """Claim in one transaction whose statements are each about this session only."""
    _, _, taken, found, answered, _ = await link.each(
        (sql.BEGIN, {}),
        (sql.LIGHTLY, {}),
        (sql.TAKE, asked),
        (sql.FOUND, asked),
        (sql.ANSWERED, asked),
        (sql.COMMIT, {}),
    )
    return _found(taken[0][0] if taken else None, answered[0] if answered else (None, ""), found[0] if found else ())


async def _for_each(link: Link, statement: str, held: Sequence[Lease], lease_s: float) -> None:
    """Each in a transaction of its own, all sent at once: no row waits for another's."""
    for start in range(0, len(held), PAGE):
        alone: list[Statement] = []
        for lease in held[start:][:PAGE]:
            about = {**lease._asdict(), "lease_s": lease_s}
            alone += [(sql.BEGIN, {}), (sql.LIGHTLY, {}), (statement, about), (sql.COMMIT, {})]
        await link.each(*alone)


async def _adopted(link: Link, entries: Sequence[Entry], bodies: Sequence[str]) -> bool:
    """Write a whole session; False where there is one."""
    last = entries[-1]
    about = {**entry_values(last, ""), "player_id": last.after.player_id, "ended": last.after.ended}
    *_, adopted = await link.each((sql.BEGIN, {}), (sql.IMPATIENT, {}), (sql.ADOPT, about))
    if not adopted:
        await link.rows(sql.ROLLBACK)
        return False
    for start in range(0, len(entries), PAGE):
        page = [entry_values(*each) for each in zip(entries[start:][:PAGE], bodies[start:][:PAGE], strict=True)]
        columns: dict[str, Any] = {name: [values[name] for values in page] for name in page[0]}
        await link.rows(sql.WRITE_ROWS, {**columns, "session_id": last.session_id})
    await link.rows(sql.COMMIT)
    return True


async def _deleted(link: Link, about: Mapping[str, Any]) -> bool:
    """Remove a session's rows; False where there is none, or where it is not held any more."""
    delete = sql.DELETE_HELD if "epoch" in about else sql.DELETE_HEAD
    *_, removed = await link.each((sql.BEGIN, {}), (sql.IMPATIENT, {}), (delete, about))
    if not removed:
        await link.rows(sql.ROLLBACK)
        return False
    ((seq, hash_),) = removed
    bury = [(sql.BURY, {**about, "seq": seq, "hash": hash_})] if seq else []
    await link.each((sql.DELETE_ENTRIES, about), *bury, (sql.COMMIT, {}))
    return bool(seq)


def _found(taken: int | None, answered: Sequence[Any], session: Sequence[Any]) -> _Found:
    return _Found(taken, answered[0], answered[1] or "", *session)


def _first(rows: Rows) -> Entry | None:
    return _entry(*rows[0]) if rows else None


def _head(body: str | None, hash_: str) -> Entry:
    if body is None:
        raise StoreUnavailable("the session's newest entry is not in the journal", hint="Run `edgewise db verify`.")
    return _entry(body, hash_)


def _entry(body: bytes | str, hash_: str) -> Entry:
    try:
        return read_entry(body, hash_)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"an entry of the journal can't be read: {error}", hint="Restore a backup.") from error


def _damage(session_id: str, seq: int, last: int, hash_: str, last_hash: str) -> Damage | None:
    if (seq, hash_) == (last, last_hash):
        return None
    if seq > last:
        what = f"session '{session_id}' ends at entry {last}, and its head is entry {seq}"
    elif seq < last:
        what = f"session '{session_id}' has entries after its head, entry {seq}: up to {last}"
    else:
        what = f"session '{session_id}' has another entry {seq} than its head says"
    return Damage(what, (session_id,), max(seq, last))


def _place_in_list(cursor: str) -> dict[str, Any]:
    """The place that a cursor of the list stands for. Raises ValidationError."""
    moved_us, _, session_id = cursor.partition(":")
    return {"moved_us": position_of(moved_us if session_id else ""), "session_id": session_id}
