"""A circuit breaker: a provider that keeps failing is left alone for a while. No I/O; the clock is given.

| state | calls | leads to |
|---|---|---|
| closed | all | open, after `FAILURES` in a row, or at once where no call can do better |
| open | none | half_open, once it has rested |
| half_open | exactly one, the probe | closed, where it succeeds; open again, where it fails |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]

FAILURES = 5
"""How many failures in a row open it."""
REST_S = 15.0
"""How long it then rests."""
LONG_REST_S = 300.0
"""How long it rests where only its owner can mend it: a wrong key, an empty balance. Also the longest rest."""


class Breaker:
    """One provider's. Every call that `may_call` lets through ends in one of `succeeded`, `failed`, `left`."""

    def __init__(self, failures: int = FAILURES, clock: Callable[[], float] = time.monotonic) -> None:
        """Take how many failures in a row open it, and a clock in seconds that never goes back."""
        self._failures, self._clock = failures, clock
        self._in_a_row = 0
        self._rests_until: float | None = None
        self._is_probing = False

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._rests_until is None:
            return "closed"
        return "open" if self._clock() < self._rests_until else "half_open"

    @property
    def rest_s(self) -> float:
        """The seconds for which it still rests; 0 where a call may be tried."""
        return max(0.0, self._rests_until - self._clock()) if self._rests_until is not None else 0.0

    @property
    def is_open(self) -> bool:
        """Whether a call would be turned away now; asking claims nothing."""
        return self.state == "open" or (self.state == "half_open" and self._is_probing)

    def may_call(self) -> bool:
        """Whether a call may be made now; where it is half open, the caller's is the one probe."""
        if self.is_open:
            return False
        self._is_probing = self.state == "half_open"
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row, self._rests_until, self._is_probing = 0, None, False

    def failed(self, rest_s: float = 0.0) -> None:
        """A call failed; with `rest_s` it opens at once, for so long at most LONG_REST_S."""
        self._in_a_row += 1
        if rest_s or self._is_probing or self._in_a_row >= self._failures:
            until = self._clock() + min(rest_s or REST_S, LONG_REST_S)
            self._rests_until = max(until, self._rests_until or until)
        self._is_probing = False

    def left(self) -> None:
        """A call was given up, or says nothing of the provider: where it was the probe, the next one is."""
        self._is_probing = False
