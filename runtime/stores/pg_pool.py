"""Connections to PostgreSQL: the one door to its driver.

psycopg 3, since it is the better kept of the two drivers and costs about the same: a claim and a
grouped commit took 240–280 µs of a client's CPU a turn, with asyncpg 190–240 (entries of 4 KB, 64
sessions at once, both at 1,200–1,500 turns a second against one server on the same two cores).
Lists must be sent in binary for that: as text they took 1,500 µs.

Nothing here outlives a transaction, so that a pooler may hand each one to another connection: no
prepared statements, no settings of a session, no advisory locks, no LISTEN, no temporary tables.
Every wait has an end on our side, since a server that can't be reached tells nobody.
"""

from __future__ import annotations

import asyncio
import logging
import random
import select
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import count
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from runtime.errors import StoreUnavailable

GRACE_S = 1.0
"""Seconds that a query whose time is over has to be cancelled in; then its connection is cut."""
CUTS = 3
"""How often a query is told to stop: the first asks the server, the next ones cut the connection."""
_DEFAULTS = {
    "application_name": "edgewise",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_AGAIN = {"40001", "40P01"}
_GONE = ("08", "57P", "25P03", "40003")
"""What says that the connection ended, or that the server itself doesn't know what became of a statement."""
_READ_ONLY = "25006"
_FATEFUL = ("22", "23", "54")

_log = logging.getLogger(__name__)

Values = Mapping[str, Any]
Rows = list[tuple[Any, ...]]
Statement = tuple[str, Values]
Result = TypeVar("Result")


class Lost(Exception):
    """The connection or the time ran out after something was sent: what became of it is not known."""


class Conflict(Exception):
    """The database wants the same transaction once more; nothing of it is there."""


class Rejected(Exception):
    """The database refused the transaction; nothing of it is there.

    `is_its_own` where the values sent are to blame, so that another's would do.
    """

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.is_its_own = isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith(_FATEFUL)
        self.kind = type(error).__name__


class Link:
    """One connection, for one piece of work."""

    def __init__(self, db: psycopg.AsyncConnection) -> None:
        self._db = db

    async def rows(self, sql: str, values: Values | None = None) -> Rows:
        """All rows that one statement returns."""
        return await _fetched(await self._db.execute(sql.encode(), values, binary=True))

    async def script(self, sql: str) -> None:
        """Run several statements as they stand in a file."""
        await self._db.execute(sql.encode())

    async def each(self, *statements: Statement) -> list[Rows]:
        """The rows of several statements, sent together: one round trip.

        Without a BEGIN they are one transaction.
        """
        async with self._db.pipeline():
            cursors = [await self._db.execute(sql.encode(), values, binary=True) for sql, values in statements]
        return [await _fetched(cursor) for cursor in cursors]

    async def roll_back(self) -> None:
        """Leave a transaction, where there is one."""
        if self.is_well and self._db.info.transaction_status != TransactionStatus.IDLE:
            await self._db.rollback()

    @property
    def is_well(self) -> bool:
        """Whether the connection still stands, as far as is known on this side."""
        return not self._db.closed

    @property
    def is_idle(self) -> bool:
        """Whether it can be used again: no transaction, and the server has not said goodbye."""
        return self.is_well and self._db.info.transaction_status == TransactionStatus.IDLE and not self._is_told()

    async def close(self) -> None:
        """Let go of it; one that is gone is no error."""
        await self._db.close()

    def _is_told(self) -> bool:
        poll = select.poll()
        poll.register(self._db.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class Pool:
    """At most `size` connections, made when they are needed and dropped when they break.

    `wait_s`: seconds to wait for a connection, and to make one. `within_s`: seconds for one
    piece of work.
    """

    def __init__(self, url: str, *, size: int = 10, wait_s: float = 3.0, within_s: float = 5.0) -> None:
        self._url = url
        self._wait_s = wait_s
        self._within_s = within_s
        self._idle: list[Link] = []
        self._places = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run(self, work: Callable[[Link], Awaitable[Result]], within_s: float | None = None) -> Result:
        """Do work on a connection.

        Raises StoreUnavailable where there is none (then nothing was sent), else Lost, Conflict or
        Rejected.
        """
        task = self._spawn(self._worked(work, await self._link()))
        try:
            await asyncio.wait({task}, timeout=self._within_s if within_s is None else within_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            await self._stop(task)
        if not task.done() or task.cancelled():
            raise Lost("the time was over")
        return task.result()

    async def retried(self, work: Callable[[Link], Awaitable[Result]], within_s: float | None = None) -> Result:
        """Do work that may be done twice, again where its connection was lost. Raises StoreUnavailable."""
        until = time.monotonic() + (self._within_s if within_s is None else within_s)
        for tried in count(1):
            try:
                return await self.run(work, within_s)
            except (Lost, Conflict) as error:
                if tried > 1 and time.monotonic() >= until:
                    raise unavailable(error) from error
            except Rejected as error:
                raise unavailable(error) from error
            await pause()
        raise AssertionError  # counting does not end

    async def close(self) -> None:
        """Close every connection; work that runs is cut off."""
        self._is_closed = True
        await asyncio.gather(*map(self._stop, self._tasks))
        await self._drop_idle()

    async def _worked(self, work: Callable[[Link], Awaitable[Result]], link: Link) -> Result:
        try:
            try:
                return await work(link)
            finally:
                await link.roll_back()
        except psycopg.Error as error:
            raise await self._judged(error, link) from error
        finally:
            await self._put_back(link)

    async def _judged(self, error: psycopg.Error, link: Link) -> Exception:
        state = error.sqlstate or ""
        if state in _AGAIN:
            return Conflict(state)
        if link.is_well and not state.startswith(_GONE):
            _log.warning("the database refused a statement: %s %s", state, error)
            if state == _READ_ONLY:  # a primary that became a standby: the next connection finds the new one
                await link.close()
                await self._drop_idle()
            return Rejected(error)
        _log.warning("a connection to the database was lost: %s %s", state, error)
        await link.close()
        await self._drop_idle()  # what ended one has most likely ended all
        return Lost(f"{state} {error}".strip())

    async def _link(self) -> Link:
        """A connection; its place is given back with it."""
        if self._is_closed:
            raise StoreUnavailable("the journal is closed: the server is shutting down", hint="Send it again.")
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise unavailable("every connection is busy") from error
        try:
            return await self._idle_link() or await self._new_link()
        except BaseException:
            self._places.release()
            raise

    async def _idle_link(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.is_idle:
                return link
            await link.close()
        return None

    async def _new_link(self) -> Link:
        try:
            async with asyncio.timeout(self._wait_s):
                found = _conninfo(self._url)
                db = await psycopg.AsyncConnection.connect(found, autocommit=True, prepare_threshold=None)
        except (psycopg.OperationalError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        return Link(db)

    async def _put_back(self, link: Link) -> None:
        if link.is_idle and not self._is_closed:
            self._idle.append(link)
        else:
            await link.close()
        self._places.release()

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()

    async def _stop(self, task: asyncio.Task[Any]) -> None:
        for _ in range(CUTS):
            task.cancel()
            await asyncio.wait({task}, timeout=GRACE_S)
            if task.done():
                return

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the asker may have gone away
        return task


async def pause(least_s: float = 0.01) -> None:
    """Wait a little, each time another while, so that two who met don't meet again."""
    await asyncio.sleep(least_s * random.uniform(1, 3))  # noqa: S311 - jitter is no secret


def unavailable(why: object, hint: str = "Send the same again later.") -> StoreUnavailable:
    """The refusal while the database can't be used; the log has the reason, the client does not need it."""
    _log.error("the journal can't be used: %s: %s", type(why).__name__, why)
    return StoreUnavailable("the journal can't be read or written now", hint=hint)


def _conninfo(url: str) -> str:
    """What to connect to: the URL's own options win, but texts are always UTF-8."""
    try:
        chosen = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its words may hold a part of the password
        chosen = {"host": "@"}
    if "@" in str(chosen.get("host", "")):
        raise StoreUnavailable(
            "the database's address can't be read",
            hint="Write postgresql://user:password@host:5432/database, with %40 for an @ in the password.",
        )
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in chosen}
    return make_conninfo(url, **defaults, client_encoding="utf8")


async def _fetched(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> Rows:
    return await cursor.fetchall() if cursor.description else []
