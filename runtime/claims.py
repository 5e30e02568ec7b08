"""Holding a session for one entry: two never interleave, and a request that is sent twice is played once."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from runtime.errors import IdempotencyMismatch, StaleTurn, TurnInProgress, ValidationError
from runtime.session import expense_of

if TYPE_CHECKING:
    from runtime.session import Entry
    from runtime.stores import Claim, Store

KEY_KEPT_MS = 48 * 3600 * 1000
"""How long a key's answer is found, in ms; the contract promises 24 hours at least."""
WAIT_S = 25.0
"""Seconds that a request waits for its own key's turn where it doesn't say how long."""
NAMING_KEY_CHARS = 16
"""Characters that a key needs where a session's id is made from it: a short one could be guessed."""


class Idempotency(Struct, frozen=True, kw_only=True):
    """A client's Idempotency-Key and what it came with.

    `request_hash` is the fingerprint of the route and the body, `wait_s` how long the request will
    wait while its key's turn runs, `caller` tells tokens apart ('' where none are asked for).
    """

    key: str
    request_hash: str
    wait_s: float = WAIT_S
    caller: str = ""


def session_id_from(secret: bytes, once: Idempotency, player_id: str | None) -> str:
    """The id of a session that a key begins without naming one: the same for the same request.

    Raises ValidationError where the key is so short that somebody else's could meet it.
    """
    if len(once.key) < NAMING_KEY_CHARS:
        what = f"a key that begins a session without session_id needs at least {NAMING_KEY_CHARS} characters"
        detail = {"loc": ["header", "idempotency-key"], "msg": what, "type": "too_short"}
        raise ValidationError(what, "Send a longer random key, or a session_id.", details=[detail])
    parts = [once.caller, player_id or "", once.key]
    named = b"".join(len(part).to_bytes(4) + part for part in map(str.encode, parts))
    return hmac.new(secret, named, hashlib.sha256).hexdigest()


@asynccontextmanager
async def claiming(store: Store, session_id: str, once: Idempotency | None, now_ms: int) -> AsyncIterator[Claim]:
    """Hold a session until its entry is appended; whatever is raised inside gives it back.

    The claim has `answered` where the key made an entry before, and is not mine where another
    request's turn runs. A turn of the same key is waited for. Raises IdempotencyMismatch where the
    key came with another request, TurnInProgress where its turn outlasts the wait.
    """
    claim = await _claimed(store, session_id, once, now_ms)
    try:
        yield claim
    finally:
        if claim.is_mine:
            await store.release(claim)


async def _claimed(store: Store, session_id: str, once: Idempotency | None, now_ms: int) -> Claim:
    if once is None:
        return await store.claim(session_id)
    until = time.monotonic() + once.wait_s
    since_ms = now_ms - KEY_KEPT_MS
    while True:
        claim = await store.claim(session_id, key=once.key, request_hash=once.request_hash, since_ms=since_ms)
        if claim.answered is not None:
            _refuse_other(claim.answered.request_hash, once)
            return claim
        if claim.is_mine or claim.key != once.key:
            return claim
        _refuse_other(claim.request_hash, once)
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise in_progress(session_id, same_key=True)
        await store.freed(session_id, left_s)


def _refuse_other(request_hash: str, once: Idempotency) -> None:
    if request_hash != once.request_hash:
        raise IdempotencyMismatch(
            "this Idempotency-Key was sent before with another request",
            "Use a new key for a new request; send the same body again to hear its answer again.",
        )


async def append(store: Store, entry: Entry, claim: Claim, once: Idempotency | None, now_ms: int) -> Entry:
    """Append an entry under a claim; the entry that is there now.

    That is another one where the claim was lost, and whoever took it over has answered the same
    key meanwhile. Raises StaleTurn where nobody has.
    """
    try:
        await store.append(entry, claim, expense_of(entry))
    except StaleTurn:
        if once is None:
            raise
        async with claiming(store, entry.session_id, once, now_ms) as again:
            if again.answered is None:
                raise
            return again.answered
    return entry


def in_progress(session_id: str, *, same_key: bool = False) -> TurnInProgress:
    """The refusal of a session that another request holds."""
    return TurnInProgress(
        f"{'this' if same_key else 'another'} turn of session '{session_id}' is under way",
        "Send the same again to wait on." if same_key else "Wait for its answer, then read the session.",
        same_key=same_key,
        retry_after_seconds=1,
    )


def must_hold(claim: Claim) -> Entry | None:
    """The head of a session that is now ours. Raises TurnInProgress."""
    if not claim.is_mine:
        raise in_progress(claim.session_id)
    return claim.head
