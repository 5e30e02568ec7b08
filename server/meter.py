"""What operators watch: one log line for each request and each turn, and Prometheus's counters.

The only door to prometheus_client. The figures are this process's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from server.call import current
from server.logs import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.turn import Played
    from server.call import Call

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45)
_METHODS = frozenset({"GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"})
_PATH_CHARS = 200


class Meter:
    """Counts and logs what the server does; logs as they were configured when it was made."""

    def __init__(self) -> None:
        self._log = log.bind()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self._request_s = self._histogram("request_seconds", "From a request's first byte to its answer.", "route")
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._refusals = self._counter("refusals", "Requests refused or failed, by error.", "error")
        self._turns = self._counter("turns", "Turns answered.", "machine", "narrator")
        self._narrate_s = self._histogram("turn_narrate_seconds", "Telling a turn.", "narrator")
        self._store_s = self._histogram("turn_store_seconds", "Making a turn durable.")

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"edgewise_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(f"edgewise_{name}", about, labels, buckets=_BUCKETS_S, registry=self.registry)

    def watch_under_way(self, count: Callable[[], int]) -> None:
        """Show how many turns are under way, asked at each scrape."""
        gauge = Gauge("edgewise_turns_under_way", "Turns under way.", registry=self.registry)
        gauge.set_function(count)

    def turned(self, played: Played) -> None:
        """Count a turn that was answered, and log its line."""
        entry = played.entry
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
            ms=call.ms if call else None,
            narrate_ms=round(played.narrate_s * 1000, 2),
            store_ms=round(played.store_s * 1000, 2),
        )

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
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)
