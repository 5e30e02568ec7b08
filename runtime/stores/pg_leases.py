"""The leases that this process holds in a database that others share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from runtime.stores import Claim


class Lease(NamedTuple):
    """A session that is held; `epoch` is what its row has now."""

    session_id: str
    epoch: int


class Leases:
    """What is held, by the epoch of the claim that took it."""

    def __init__(self) -> None:
        self._held: dict[int, Lease] = {}
        self._waiting: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # kept by who waits

    def took(self, session_id: str, epoch: int) -> None:
        """Remember a lease that the database gave."""
        self._held[epoch] = Lease(session_id, epoch)

    def epoch_of(self, claim: Claim) -> int:
        """The epoch that the claim's session has now: another than the claim's where it was fenced."""
        return self._held.get(claim.epoch, claim).epoch

    def moved(self, claim: Claim, epoch: int) -> None:
        """Follow a lease that was given another epoch."""
        if claim.epoch in self._held:
            self._held[claim.epoch] = Lease(claim.session_id, epoch)

    def ended(self, claim: Claim) -> Lease | None:
        """Forget a lease and wake who waits for it; None where it was over before."""
        lease = self._held.pop(claim.epoch, None)
        if lease and (waiting := self._waiting.pop(lease.session_id, None)):
            waiting.set()
        return lease

    def held(self) -> list[Lease]:
        """Everything that is held."""
        return [*self._held.values()]

    def next_end(self, session_id: str) -> asyncio.Event:
        """What is set when a lease of the session ends in this process."""
        event = asyncio.Event()
        return self._waiting.setdefault(session_id, event)


async def set_within(event: asyncio.Event, wait_s: float) -> None:
    """Wait for an event, at most `wait_s` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await event.wait()
