"""Who holds which session, in a process that owns its journal alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count

from msgspec.structs import replace

from runtime.errors import StaleTurn
from runtime.stores import Claim


class Leases:
    """The sessions held in this process; a lease ends with its append, its release, or the process."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._free: dict[str, asyncio.Event] = {}
        self._epochs = count(1)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._held

    def take(self, claim: Claim) -> Claim:
        """The claim, held now with an epoch of its own; or whose it is."""
        holder = self._held.get(claim.session_id)
        if holder is not None:
            return replace(claim, key=holder.key, request_hash=holder.request_hash)
        taken = replace(claim, epoch=next(self._epochs))
        self._held[claim.session_id] = replace(taken, head=None)
        return taken

    def check(self, claim: Claim | None) -> None:
        """Pass a claim that still holds, and none. Raises StaleTurn where it was lost."""
        if claim is None:
            return
        holder = self._held.get(claim.session_id)
        if holder is None or holder.epoch != claim.epoch:
            raise taken_over(claim)

    def release(self, claim: Claim | None) -> None:
        """Give it back, where it is still held."""
        if claim is None:
            return
        holder = self._held.get(claim.session_id)
        if holder is not None and holder.epoch == claim.epoch:
            del self._held[claim.session_id]
            if waiting := self._free.pop(claim.session_id, None):
                waiting.set()

    async def freed(self, session_id: str, wait_s: float) -> None:
        """Wait until the session is released, at most `wait_s` seconds."""
        if session_id not in self._held:
            return
        free = self._free.setdefault(session_id, asyncio.Event())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await free.wait()


def taken_over(claim: Claim) -> StaleTurn:
    """The refusal of a claim that is another's by now."""
    return StaleTurn(
        f"session '{claim.session_id}' was taken over by another turn",
        hint="Read the session, then choose again.",
        expected_turn=claim.head.turn if claim.head else 0,
        turn=claim.head.turn if claim.head else 0,
        allowed_event_types=claim.head.after.routing.allowed_event_types if claim.head else (),
    )
