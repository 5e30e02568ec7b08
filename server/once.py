"""A request that is sent twice is played once: the Idempotency-Key and how long to wait for its turn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runtime.claims import WAIT_S, Idempotency
from runtime.session import sha256_of
from server.faults import Fault, refuse

if TYPE_CHECKING:
    from server.call import Call

MAX_KEY_CHARS = 255
MAX_WAIT_S = 60.0
"""The longest that a request may ask to wait; a turn has ended by then."""

_PRINTABLE = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_KEY_CHARS)
_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


def idempotency_of(call: Call, route: str, value: Any) -> Idempotency | None:
    """The key of a request for a route with this JSON value, None without one. Raises ValidationError."""
    key = call.headers.get(b"idempotency-key")
    if key is None:
        return None
    if not _PRINTABLE.fullmatch(key):
        what = f"must be 1 to {MAX_KEY_CHARS} printable ASCII characters"
        raise refuse([Fault(["header", "idempotency-key"], what, "pattern")])
    fingerprint = sha256_of([route, value])
    return Idempotency(key=key.decode(), request_hash=fingerprint, wait_s=_wait_of(call), caller=call.caller)


def _wait_of(call: Call) -> float:
    asked = _WAIT.search(call.headers.get(b"prefer", b""))
    return WAIT_S if asked is None else min(MAX_WAIT_S, float(asked[1]))
