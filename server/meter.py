"""What operators watch: one log line for each request and each turn, and Prometheus's counters.

The only door to prometheus_client. The figures are this process's own, unless `FOLDER` names a
folder in which several processes keep theirs: then each answers with the sum of all, dead ones
included, as counters may not fall. What the system says of one process (memory, descriptors) has
no sum, and is left out there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
)

from runtime.ledger import MICROS
from runtime.session import meta_of
from runtime.turn import UNPAID
from server.call import current
from server.logs import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from runtime.ledger import Budget
    from runtime.narrators.provider import Standing
    from runtime.session import Expense
    from runtime.turn import Played
    from server.call import Call

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with which prometheus_client is told of several processes, before it is imported."""
LOOK_EVERY_S = 1.0
"""How old the count of turns under way in another process may be."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45)
_METHODS = frozenset({"GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"})
_PATH_CHARS = 200


class Meter:
    """Counts and logs what the server does; logs as they were configured when it was made.

    It asks `standing` how the providers of models stand, and `shares` how much of the day's budgets is used.
    """

    def __init__(self) -> None:
        self._log = log.bind()
        self.registry = CollectorRegistry()
        self._is_shared = bool(os.environ.get(FOLDER))
        if not self._is_shared:
            ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self._request_s = self._histogram("request_seconds", "From a request's first byte to its answer.", "route")
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._refusals = self._counter("refusals", "Requests refused or failed, by error.", "error")
        self._under_way = Gauge(
            "edgewise_turns_under_way", "Turns under way.", registry=self.registry, multiprocess_mode="livesum"
        )
        self._turns = self._counter("turns", "Turns answered.", "machine", "narrator")
        self._tokens = self._counter("tokens", "Tokens of models; `cached` are a part of `prompt`.", "kind")
        self._cost = self._counter("cost", "What models cost, in the price table's currency.")
        self._failed = self._counter("failed_tellings", "Turns that cost something and came to nothing.")
        self._calls = self._counter("calls", "Calls of models, by how they ended.", "provider", "outcome")
        self._called: dict[tuple[str, str], int] = {}
        self._breaker = Gauge(
            "edgewise_breaker_open",
            "1 while a provider is left alone after failures.",
            ["provider"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._rungs = self._counter("rungs", "Rungs of the ladder that turns were told on.", "rung")
        self._fallback = self._counter("fallback_fields", "Fields that the offline narrator told; * counts as one.")
        self._budget = Gauge(
            "edgewise_budget_used",
            "How much of a day's budget is used; 1 is all of it.",
            ["budget"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.standing: Callable[[], Iterable[Standing]] = tuple
        self.shares: Callable[[], Mapping[Budget, float]] = dict
        self._narrate_s = self._histogram("turn_narrate_seconds", "Telling a turn.", "narrator")
        self._store_s = self._histogram("turn_store_seconds", "Making a turn durable.")
        self._first_text_s = self._histogram(
            "first_text_seconds", "From a streamed turn's request to its first text.", "narrator"
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"edgewise_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(f"edgewise_{name}", about, labels, buckets=_BUCKETS_S, registry=self.registry)

    @contextlib.asynccontextmanager
    async def watching(self, count: Callable[[], int]) -> AsyncIterator[None]:
        """Show how many turns are under way: asked at each scrape, or, for other processes, now and then."""
        if not self._is_shared:
            self._under_way.set_function(count)
            yield
            return
        looking = asyncio.create_task(self._look_at(count))
        try:
            yield
        finally:
            looking.cancel()

    async def _look_at(self, count: Callable[[], int]) -> None:
        while True:
            self._under_way.set(count())
            self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    def turned(self, played: Played) -> None:
        """Count a turn that was answered, and log its line."""
        entry = played.entry
        meta = meta_of(entry.answer)
        for rung in meta.rungs:
            self._rungs.labels(rung).inc()
        self._fallback.inc(len(meta.fallback))
        self._look()
        self._turns.labels(entry.after.machine, entry.narrator).inc()
        self._narrate_s.labels(entry.narrator).observe(played.narrate_s)
        self._store_s.observe(played.store_s)
        call = current.get()
        self._log.info(
            "turn",
            request_id=call.request_id if call else None,
            session=entry.session_id,
            turn=entry.turn,
            _event=entry.outcome.event,
            edge=entry.outcome.edge,
            from_state=entry.outcome.source or None,
            to_state=entry.outcome.target,
            narrator=entry.narrator,
            warning=next((each for each in meta.warnings if each.endswith(UNPAID)), None),
            ms=call.ms if call else None,
            narrate_ms=round(played.narrate_s * 1000, 2),
            store_ms=round(played.store_s * 1000, 2),
        )

    def spent(self, each: Expense) -> None:
        """Count what a turn has cost, be it that it came to nothing."""
        self._tokens.labels("prompt").inc(each.prompt_tokens)
        self._tokens.labels("completion").inc(each.completion_tokens)
        self._tokens.labels("cached").inc(each.cached_tokens)
        self._cost.inc(each.cost_micros / MICROS)
        self._failed.inc(each.failed)
        self._look()

    def _look(self) -> None:
        """Show how much of the day's budgets is used, and count the calls since the last look."""
        for budget, share in self.shares().items():
            self._budget.labels(budget).set(share)
        for each in self.standing():
            self._breaker.labels(each.name).set(each.breaker == "open")
            for outcome, calls in each.calls.items():
                before = self._called.get((each.name, outcome), 0)
                self._calls.labels(each.name, outcome).inc(calls - before)
                self._called[each.name, outcome] = calls

    def first_text(self, narrator: str, seconds: float) -> None:
        """Count the time until a streamed turn's first text."""
        self._first_text_s.labels(narrator).observe(seconds)

    def answered(self, call: Call, method: str, route: str | None, path: str) -> None:
        """Count a request that was answered, and log its line. `path` is without its query."""
        method = method if method in _METHODS else "other"
        ms = call.ms
        count, seconds = self._of_route(method, route or "none", call.status)
        count.inc()
        seconds.observe(ms / 1000)
        if call.error:
            self._refusals.labels(call.error).inc()
        self._log.info(
            "request",
            request_id=call.request_id,
            method=method,
            path=path[:_PATH_CHARS],
            status=call.status,
            error=call.error,
            ms=ms,
        )

    def _of_route(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """The request figures of a route; looking them up by their labels costs more than counting."""
        key = (method, route, status)
        if key not in self._by_route:
            self._by_route[key] = self._requests.labels(*key), self._request_s.labels(route)
        return self._by_route[key]

    def exposition(self) -> bytes:
        """All figures in Prometheus's text format; those of every process where they are shared."""
        self._look()
        self._look()
        if not self._is_shared:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        multiprocess.MultiProcessCollector(everyone)  # type: ignore[no-untyped-call] # the library has no types here
        return generate_latest(everyone)


def forget_process(pid: int, folder: str) -> None:
    """Take a process that ended out of the figures of those that live; what it counted stays."""
    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call] # the same
