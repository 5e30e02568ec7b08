"""One request as the server sees it: who asks, since when, in which language, and how it ended."""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtime.session import Role

_SANE_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_ACCEPTED = re.compile(r"([a-zA-Z]{1,8})(?:-[\w-]*)?\s*(?:;\s*q\s*=\s*([\d.]+))?\s*(?:,|$)")


class Call:
    """What is known of one request; it fills while the request passes.

    `peer` is the address that it came from, '' where it is not known. `role` is None until the
    caller was admitted; `is_owner` where it showed the journal's own token. `caller` tells callers
    apart without naming their token. `started` is in the seconds of `time.perf_counter`.
    """

    __slots__ = (
        "caller", "error", "headers", "is_owner", "language", "peer", "request_id", "role", "started", "status",
    )  # fmt: skip

    def __init__(self, headers: Iterable[tuple[bytes, bytes]] = (), peer: str = "") -> None:
        self.started = time.perf_counter()
        self.headers = _combined(headers)
        self.peer = peer
        self.request_id = _id_of(self.headers)
        self.role: Role | None = None
        self.is_owner = False
        self.caller = ""
        self.language: str | None = None
        self.status = 0
        self.error: str | None = None

    def hear(self, body: Any) -> None:
        """Take the language that a request's JSON asks for, before its shape is known to be right."""
        constraints = body.get("constraints") if isinstance(body, dict) else None
        language = constraints.get("language") if isinstance(constraints, dict) else None
        if isinstance(language, str):
            self.language = language

    @property
    def ms(self) -> float:
        """Milliseconds since the request began."""
        return round((time.perf_counter() - self.started) * 1000, 2)


current: ContextVar[Call | None] = ContextVar("current", default=None)
"""The request that this task works for; a turn's own task inherits it."""


def _combined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; one that stands several times is one list. Source: RFC 9110 section 5.3."""
    combined: dict[bytes, bytes] = {}
    for name, value in headers:
        combined[name] = b"%b, %b" % (combined[name], value) if name in combined else value
    return combined


def accepted_language(headers: Mapping[bytes, bytes]) -> str | None:
    """`zh` or `en`, whichever Accept-Language wants more; None where it wants neither."""
    wanted = _ACCEPTED.findall(headers.get(b"accept-language", b"").decode("latin-1"))
    weighed = {base.lower(): _weight(weight) for base, weight in reversed(wanted)}
    spoken = [language for language in ("zh", "en") if weighed.get(language, 0) > 0]
    order = [base.lower() for base, _ in wanted]
    return max(spoken, key=lambda language: (weighed[language], -order.index(language)), default=None)


def _weight(written: str) -> float:
    try:
        return float(written or 1)
    except ValueError:
        return 0.0


def _id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's own X-Request-Id where it is a sane one, else one of ours."""
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if _SANE_ID.fullmatch(sent) else secrets.token_hex(8)
