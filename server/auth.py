"""Who may do what: two roles by bearer token, and how many turns a token may take in a minute."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from runtime.errors import Forbidden
from server.refusals import RateLimited, Unauthenticated
from server.settings import is_loopback

if TYPE_CHECKING:
    from runtime.session import Role
    from server.call import Call
    from server.settings import Settings

SCHEME = b"bearer "
MAX_CALLERS = 10_000
"""How many callers' paces are remembered; beyond that the longest idle start anew."""


class Gate:
    """Admits callers by their token. Where no tokens are set, everyone is an operator.

    Where only one kind is set, the other role's tokens don't exist: with play tokens alone,
    nobody is an operator; with operator tokens alone, playing needs one of them.

    `own_token` gives the token that only who can read the journal's lock file knows, '' where there
    is none: on this machine it makes an operator of whoever sends it.
    """

    def __init__(self, settings: Settings, own_token: Callable[[], str] = lambda: "") -> None:
        self._own_token = own_token
        self._is_open = not settings.has_tokens
        self._roles = [
            *((_digest(token), "operator") for token in map(str.encode, settings.operator_tokens)),
            *((_digest(token), "player") for token in map(str.encode, settings.play_tokens)),
        ]

    def admit(self, call: Call, role_needed: Role) -> None:
        """Note the caller's role. Raises Unauthenticated, Forbidden."""
        header = call.headers.get(b"authorization", b"")
        call.is_owner = bool(header) and not _is_passed_on(call) and self._is_own(header, call.peer)
        if self._is_open or call.is_owner:
            call.role = "operator"
            return
        role, call.caller = self._known(header)
        if role is None:
            raise Unauthenticated(
                "this server wants a token and got none that it knows",
                "Send the header Authorization: Bearer <token>.",
                role_needed=role_needed,
            )
        call.role = role
        if role_needed == "operator" and role != "operator":
            raise Forbidden(
                f"this needs the role {role_needed}, and the token's role is {role}",
                "Send an operator's token.",
                role_needed=role_needed,
            )

    def _is_own(self, header: bytes, peer: str) -> bool:
        own = self._own_token().encode()
        return bool(own) and hmac.compare_digest(_digest(own), _sent(header)) and is_loopback(peer)

    def _known(self, header: bytes) -> tuple[Role | None, str]:
        """The role of a token and a name for it; every token is compared, in constant time each."""
        sent = _sent(header)
        found: Role | None = None
        for digest, role in self._roles:
            if hmac.compare_digest(digest, sent) and found is None:
                found = "operator" if role == "operator" else "player"
        return found, sent.hex()[:12]


def _is_passed_on(call: Call) -> bool:
    """Whether a proxy sent it: then the address that it came from is the proxy's."""
    return b"x-forwarded-for" in call.headers or b"forwarded" in call.headers


def _sent(header: bytes) -> bytes:
    """The digest of the token that a header carries."""
    is_bearer = header[: len(SCHEME)].lower() == SCHEME
    return _digest(header[len(SCHEME) :].strip() if is_bearer else b"")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Pace:
    """At most so many turns a minute for each caller, in this process; 0 = no limit.

    A bucket that holds a minute's turns and fills evenly: a pause is never punished.
    """

    def __init__(self, per_minute: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock_s = clock_s
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> None:
        """Count one turn. Raises RateLimited with `retry_after_seconds`."""
        if not self._per_minute:
            return
        now = self._clock_s()
        left, since = self._left.pop(caller, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        self._forget(self._left)
        if left < 1:
            raise RateLimited(
                f"more than {self._per_minute} turns in a minute",
                "Wait, then send the same again.",
                retry_after_seconds=max(1, math.ceil((1 - left) * 60 / self._per_minute)),
            )

    @staticmethod
    def _forget(left: dict[str, tuple[float, float]]) -> None:
        over: Iterable[str] = list(left)[: max(0, len(left) - MAX_CALLERS)]
        for caller in over:
            del left[caller]
