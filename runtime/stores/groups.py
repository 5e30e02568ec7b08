"""Group commit: one thread that writes, and commits once for all that arrived meanwhile.

A commit costs a sync to disk, however small it is. So whoever waits shares one: while a group is
being committed the next one gathers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

Row = TypeVar("Row")
Result = TypeVar("Result")

GROUP_MAX = 512
"""Rows in one group at most, so that no one waits behind a very long insert."""


class _Job(NamedTuple):
    """One row of a group, or work that is done by itself, and the future that hears of it."""

    done: asyncio.Future[Any]
    row: Any = None
    work: Callable[[], Any] | None = None


class _Settled(NamedTuple):
    done: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class GroupWriter(Generic[Row]):
    """Writes rows in groups, in the order in which they came, from one thread.

    `commit` makes a group durable, or raises and leaves nothing of it: then the group is halved
    and tried again, so that a bad row fails alone. `is_broken` tells that trying again is no use.
    """

    def __init__(self, commit: Callable[[Sequence[Row]], None], is_broken: Callable[[], bool]) -> None:
        self._commit = commit
        self._is_broken = is_broken
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="edgewise-journal", daemon=True)
        self._thread.start()

    def write(self, row: Row) -> asyncio.Future[None]:
        """Queue a row; the future is done when it is durable, and raises what `commit` raised for it alone."""
        return self._submit(_Job(self._loop.create_future(), row=row))

    def run(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Queue work to be done by itself, after all that was queued before it."""
        return self._submit(_Job(self._loop.create_future(), work=work))

    def stop(self) -> None:
        """Finish what is queued, then end the thread. Blocks; nothing may be queued any more."""
        self._jobs.put(None)
        self._thread.join()

    def _submit(self, job: _Job) -> asyncio.Future[Any]:
        # A caller that went away leaves nobody to read an error: reading it here keeps asyncio quiet.
        job.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._jobs.put(job)
        return job.done

    def _run(self) -> None:
        going = True
        while going:
            jobs = self._arrived()
            going = jobs[-1] is not None
            for is_row, same in groupby(filter(None, jobs), key=lambda job: job.work is None):
                if is_row:
                    self._write_group([*same])
                else:
                    self._tell(map(_attempt, same))

    def _arrived(self) -> list[_Job | None]:
        """Everything that waits, once something does; None is the end, and nothing is behind it."""
        jobs = [self._jobs.get()]
        while len(jobs) < GROUP_MAX and not self._jobs.empty():  # the only reader: this get never blocks
            jobs.append(self._jobs.get())
        return jobs

    def _write_group(self, group: list[_Job]) -> None:
        try:
            self._commit([job.row for job in group])
        except Exception as error:  # noqa: BLE001 - handed to those who wait, whatever it is
            self._redo(group, error)
        else:
            self._tell(_Settled(job.done) for job in group)

    def _redo(self, group: list[_Job], error: Exception) -> None:
        if len(group) == 1 or self._is_broken():
            self._tell(_Settled(job.done, error=error) for job in group)
            return
        middle = len(group) // 2
        self._write_group(group[:middle])
        self._write_group(group[middle:])

    def _tell(self, settled: Iterable[_Settled]) -> None:
        everyone = [*settled]
        if not self._loop.is_closed():  # a loop that ended before its store has nobody waiting
            self._loop.call_soon_threadsafe(_settle, everyone)


def _attempt(job: _Job) -> _Settled:
    try:
        return _Settled(job.done, result=job.work() if job.work else None)
    except Exception as error:  # noqa: BLE001 - handed to whoever waits, whatever it is
        return _Settled(job.done, error=error)


def _settle(everyone: list[_Settled]) -> None:
    for done, result, error in everyone:
        if done.cancelled():
            continue
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)
