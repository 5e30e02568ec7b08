"""Work shared out over processes: each loads what it needs once, and gives back plain values."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""How many items wait for each process, so that none is idle and an end is soon."""


def cores() -> int:
    """How many processes this machine runs at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nothing() -> None:
    """No setup; a function of this module, so that a process can be told of it."""


def shared_out(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int,
    setup: Callable[..., None] = _nothing, args: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Result]]:  # fmt: skip
    """Each item's number and result, as they come; in order, in this process, with `jobs` 1.

    `work` and `setup` are functions of a module, and what goes in and out can be pickled. Where the
    caller stops listening, what hasn't begun is given up. Raises what `work` raises.
    """
    if jobs <= 1 or len(items) <= 1:
        setup(*args)
        yield from ((number, work(item)) for number, item in enumerate(items))
        return
    # Not forked: this process may have threads, and half a thread is no use to a child.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(items)), context, setup, args) as pool:
        waiting: dict[Future[Result], int] = {}
        numbered = iter(enumerate(items))
        try:
            while True:
                for number, item in numbered:
                    waiting[pool.submit(work, item)] = number
                    if len(waiting) >= jobs * _AHEAD:
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
