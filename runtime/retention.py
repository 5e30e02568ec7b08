"""Forgetting old sessions: whole ones only, so that nothing a branch stands on is ever removed.

A fork keeps copies of its path: no session stands on another's entries.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runtime.progress import Done, Found, Progress, Step

if TYPE_CHECKING:
    from runtime.session import Entry
    from runtime.stores import Store
    from runtime.turn import Runtime

PAGE = 1000
"""How many heads are read at a time: each page costs a look at all newer entries."""


async def prune(
    runtime: Runtime, *, older_than_ms: int, ended_only: bool = True, dry_run: bool = False
) -> AsyncIterator[Step]:
    """Delete the sessions whose newest entry is older than an age, those that have not ended too if asked.

    A session that is being played, or was played since it was listed, is left alone. With `dry_run`
    nothing is deleted, and each session that would be is told. Facts: sessions, entries, in_progress,
    dry_run. Raises StoreUnavailable; what was deleted before stays deleted.
    """
    store = runtime.store
    before_ms = runtime.clock_ms() - older_than_ms
    sessions = entries = busy = seen = 0
    async for page in _pages(store, ended=True if ended_only else None):
        for head in page:
            seen += 1
            if head.at_ms >= before_ms:
                continue
            if await (_is_busy(store, head) if dry_run else runtime.finish(_is_kept(store, head))):
                busy += 1
                continue
            sessions, entries = sessions + 1, entries + head.seq
            if dry_run:
                yield Found(_told(head), (head.session_id,))
            else:
                yield Progress(seen)
        yield Progress(seen)
    facts = {"sessions": sessions, "entries": entries, "in_progress": busy, "dry_run": dry_run}
    yield Done(is_good=True, facts=facts)


async def _pages(store: Store, *, ended: bool | None) -> AsyncIterator[list[Entry]]:
    page, after = await store.sessions(ended=ended, limit=PAGE)
    yield page
    while after is not None:
        page, after = await store.sessions(ended=ended, limit=PAGE, after=after)
        yield page


async def _is_busy(store: Store, head: Entry) -> bool:
    return await store.in_progress(head.session_id)


async def _is_kept(store: Store, head: Entry) -> bool:
    """Delete a session that still stands as it was listed; whether it is kept instead."""
    claim = await store.claim(head.session_id)
    try:
        is_as_listed = claim.is_mine and claim.head is not None and claim.head.hash == head.hash
        return not (is_as_listed and await store.delete(head.session_id, claim))
    finally:
        if claim.is_mine:
            await store.release(claim)


def _told(head: Entry) -> str:
    """`session 'x' of haunted_house, ended in END_DEAD at turn 9, last played 2026-01-31`."""
    after = head.after
    played = datetime.fromtimestamp(head.at_ms / 1000, UTC).date()
    stands = f"{'ended' if after.ended else 'left'} in {after.state} at turn {head.turn}"
    return f"session '{head.session_id}' of {after.machine}, {stands}, last played {played}"
