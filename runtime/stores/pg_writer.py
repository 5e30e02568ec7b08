"""Durable entries in PostgreSQL: in groups, and never guessing what became of a commit.

Whatever has arrived shares one statement and so one commit, unless each session is to have a
transaction of its own. A commit whose answer was lost is settled: first the session's epoch is
changed, after which the lost statement can't come true any more; then the journal says whether it
had. What was not written is written again, with nothing narrated anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime.errors import StoreUnavailable
from runtime.session import Expense
from runtime.stores.pg_pool import Conflict, Lost, Rejected, pause, unavailable
from runtime.stores.pg_statements import (
    BEGIN,
    COMMIT,
    FENCE,
    GROUP,
    GROUP_AT_COST,
    IMPATIENT,
    IS_THERE,
    MAKE_ROOM,
    MOVE,
    ROLLBACK,
    SPEND,
    STANDING,
    WRITE,
)

if TYPE_CHECKING:
    from runtime.session import Entry
    from runtime.stores.pg_pool import Link, Pool, Rows, Statement, Values

GROUP_MAX = 256
"""Entries in one statement at most, so that no one waits behind a very long one."""
GROUPS_AT_ONCE = 2
"""Groups under way at once: one is sent while another waits for the disk."""

EXPENSE_FIELDS = Expense.__struct_fields__

_log = logging.getLogger(__name__)


def entry_values(entry: Entry, body: str) -> dict[str, Any]:
    """An entry's columns, by name."""
    return {
        "session_id": entry.session_id,
        "seq": entry.seq,
        "turn": entry.turn,
        "parent": entry.parent,
        "kind": entry.kind,
        "source": entry.outcome.source,
        "state": entry.after.state,
        "digest": entry.digest,
        "key": entry.key,
        "at_ms": entry.at_ms,
        "hash": entry.hash,
        "body": body,
    }


class Job:
    """An entry to be written, the epochs that its session may have meanwhile, and who waits for it.

    `epoch` None = whatever the session has: nobody claimed it for this entry. `done` hears whether
    the entry is there; not, where it does not follow the head or the claim was lost.
    """

    def __init__(self, entry: Entry, body: str, epoch: int | None, expense: Expense | None = None) -> None:
        self.session_id = entry.session_id
        self.begins = entry.seq == 1
        self.is_paid = expense is not None
        self.is_claimed = epoch is not None
        self.epochs = [] if epoch is None else [epoch]
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._values = {
            **entry_values(entry, body),
            "prev_hash": entry.prev_hash,
            "player_id": entry.after.player_id,
            "ended": entry.after.ended,
        }
        self._expense = {name: getattr(expense, name, None) for name in EXPENSE_FIELDS}

    @property
    def values(self) -> dict[str, Any]:
        """The entry's and its head's columns, by name."""
        return {**self._values, "epoch": self.epochs[-1], "epochs": self.epochs}

    @property
    def values_at_cost(self) -> dict[str, Any]:
        """The same with the columns of what it cost, NULL where it cost nothing."""
        return {**self.values, **self._expense}

    def learn(self, seq: int, hash_: str, epoch: int) -> None:
        """Take the epoch that the session has, if the entry follows its head; else it is stale."""
        if (seq, hash_) == (self._values["seq"] - 1, self._values["prev_hash"]):
            self.epochs = [epoch]
        else:
            self.tell(is_there=False)

    def tell(self, *, is_there: bool) -> None:
        """What became of it."""
        if not self.done.done():
            self.done.set_result(is_there)

    def fail(self, error: Exception) -> None:
        """It can't be done, or it can't be known."""
        if not self.done.done():
            self.done.set_exception(error)


class Queue:
    """Jobs in batches, in the order in which they came; of one session never two at once.

    `in_one`: jobs in a batch at most. `at_once`: batches under way at most.
    """

    def __init__(self, commit: Callable[[list[Job]], Awaitable[None]], *, in_one: int, at_once: int) -> None:
        self._commit = commit
        self._in_one = in_one
        self._at_once = at_once
        self._waiting: deque[Job] = deque()
        self._busy: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()

    def put(self, job: Job) -> None:
        """Queue a job; what arrives until the loop comes round shares its batch."""
        self._waiting.append(job)
        asyncio.get_running_loop().call_soon(self._start)

    async def drain(self) -> None:
        """Wait until everything that was queued is done."""
        while self._running or self._waiting:
            await asyncio.wait(self._running or {asyncio.ensure_future(asyncio.sleep(0))})

    def _start(self) -> None:
        while len(self._running) < self._at_once and (batch := self._next_batch()):
            self._busy.update(job.session_id for job in batch)
            self._running.add(asyncio.create_task(self._run(batch)))

    def _next_batch(self) -> list[Job]:
        batch: dict[str, Job] = {}
        passed_over = []
        while self._waiting and len(batch) < self._in_one:
            job = self._waiting.popleft()
            if job.session_id in self._busy or job.session_id in batch:
                passed_over.append(job)
            else:
                batch[job.session_id] = job
        self._waiting.extendleft(reversed(passed_over))
        return [batch[session_id] for session_id in sorted(batch)]  # rows are locked in this order by everyone

    async def _run(self, batch: list[Job]) -> None:
        try:
            await self._commit(batch)
        except Exception as error:  # noqa: BLE001 - handed to all who wait, whatever it is
            for job in batch:
                job.fail(error)
        finally:
            self._busy.difference_update(job.session_id for job in batch)
            self._running = {task for task in self._running if task is not asyncio.current_task()}
            asyncio.get_running_loop().call_soon(self._start)


class Writer:
    """Appends entries. `budget_s`: seconds within which an entry is written, or given up.

    `is_cluster_safe`: one session in a transaction, else many share a statement.
    """

    def __init__(self, pool: Pool, *, is_cluster_safe: bool, budget_s: float, at_once: int) -> None:
        self._pool = pool
        self._write = _write_one if is_cluster_safe else _write_group
        self._budget_s = budget_s
        in_one, at_once = (1, at_once) if is_cluster_safe else (GROUP_MAX, GROUPS_AT_ONCE)
        self._queue = Queue(self._committed, in_one=in_one, at_once=at_once)

    async def append(self, job: Job) -> bool:
        """Whether the entry is now there. Raises StoreUnavailable."""
        self._queue.put(job)
        return await asyncio.shield(job.done)

    async def drain(self) -> None:
        """Wait until everything that was promised is done."""
        await self._queue.drain()

    async def _committed(self, jobs: list[Job]) -> None:
        until = time.monotonic() + self._budget_s
        try:
            while jobs := [job for job in await self._tried(jobs, until) if not job.done.done()]:
                if time.monotonic() > until:
                    raise unavailable("an entry could not be written within its budget")
                await pause()
        except Rejected as error:
            await self._without_the_bad(jobs, error)

    async def _tried(self, jobs: list[Job], until: float) -> list[Job]:
        try:
            await self._learned([job for job in jobs if not job.epochs])
            jobs = [job for job in jobs if not job.done.done()]
            written = await self._pool.run(lambda link: self._write(link, jobs)) if jobs else set()
        except Conflict as error:
            _log.info("a transaction runs again: %s", error)
            return jobs
        except Lost:
            await self._settled(jobs, until)
            return jobs
        _tell(jobs, written)
        return jobs

    async def _learned(self, jobs: list[Job]) -> None:
        """Find out which epoch the sessions have that nobody claimed; one that begins gets its row."""
        if jobs:
            for job, rows in zip(jobs, await self._pool.retried(lambda link: _standings(link, jobs)), strict=True):
                job.learn(*rows[0] if rows else (0, "", 0))

    async def _settled(self, jobs: Sequence[Job], until: float) -> None:
        """Make sure that a lost statement stays without effect, or hear that it had one."""
        jobs = [job for job in jobs if job.epochs]
        while True:
            try:
                outcomes = await self._pool.run(lambda link: _fenced(link, jobs))
                break
            except (Lost, Conflict, Rejected, StoreUnavailable) as error:
                if time.monotonic() > until:
                    raise StoreUnavailable(
                        "whether the turn was written can't be found out now",
                        hint="Send the same again: with an Idempotency-Key it is never played twice.",
                    ) from error
                await pause(0.05)
        for job, (is_fenced, is_there) in zip(jobs, outcomes, strict=True):
            if is_there or (job.is_claimed and not is_fenced):
                job.tell(is_there=is_there)
            elif not job.is_claimed:
                job.epochs = []

    async def _without_the_bad(self, jobs: list[Job], error: Rejected) -> None:
        """A value that can't be written fails alone: its group is halved and tried again."""
        left = [job for job in jobs if not job.done.done()]
        if len(left) == 1 or not error.is_its_own:
            for job in left:
                job.fail(unavailable(error))
            return
        middle = len(left) // 2
        await self._committed(left[:middle])
        await self._committed(left[middle:])


def _tell(jobs: list[Job], written: set[str]) -> None:
    """Those that were not written have no second try, unless it was the unclaimed session's epoch."""
    for job in jobs:
        if job.session_id in written or job.is_claimed:
            job.tell(is_there=job.session_id in written)
        else:
            job.epochs = []


async def _standings(link: Link, jobs: Sequence[Job]) -> list[Rows]:
    asked = [(sql, {"session_id": job.session_id}) for job in jobs for sql in (MAKE_ROOM, STANDING)[not job.begins :]]
    rows = await link.each(*asked)
    return [found for (sql, _), found in zip(asked, rows, strict=True) if sql == STANDING]


async def _write_group(link: Link, jobs: list[Job]) -> set[str]:
    """Write all in one statement. Returns the sessions whose entry is there now."""
    is_paid = any(job.is_paid for job in jobs)
    each = [job.values_at_cost if is_paid else job.values for job in jobs]
    columns = {name: [values[name] for values in each] for name in each[0] if name != "epochs"}
    return {session_id for (session_id,) in await link.rows(GROUP_AT_COST if is_paid else GROUP, columns)}


async def _write_one(link: Link, jobs: list[Job]) -> set[str]:
    """Write one entry in a transaction that is about its session only."""
    (job,) = jobs
    *_, moved = await link.each((BEGIN, {}), (IMPATIENT, {}), (MOVE, job.values))
    if not moved:
        await link.rows(ROLLBACK)
        return set()
    spend: list[Statement] = [(SPEND, job.values_at_cost)] if job.is_paid else []
    await link.each((WRITE, job.values), *spend, (COMMIT, {}))
    return {job.session_id}


async def _fenced(link: Link, jobs: Sequence[Job]) -> list[tuple[bool, bool]]:
    """For each job whether its epoch could be changed, and whether its entry is there."""
    statements: list[Statement] = []
    for job in jobs:
        about: Values = {**job.values, "fence": new_epoch()}
        job.epochs.append(about["fence"])
        statements += [(FENCE, about), (IS_THERE, about)]
    rows = await link.each(*statements)
    return [(bool(fenced), bool(there)) for fenced, there in zip(rows[::2], rows[1::2], strict=True)]


def new_epoch() -> int:
    """A lease's epoch, that no other has; never 0."""
    return secrets.randbits(62) + 1
