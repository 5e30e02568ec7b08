"""Server-sent events out of bytes that come in pieces. Pure.

Lines may end in LF, CR or CRLF and be cut anywhere, also inside a character. Comments and blank
lines, with which a provider keeps a connection alive, are no events.

Source: html.spec.whatwg.org, 9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")
_DATA = frozenset({"data", "error"})
"""Fields that carry an answer; llama.cpp has said its errors in one called `error`."""


class Events:
    """Reads one stream; `feed` it every piece, then `end` it."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of every event that this piece completes."""
        may_end = self._rest.endswith(b"\r") or _LINE_END.search(piece)
        self._rest += piece
        if not may_end:
            return []
        # A CR at the very end may be half of a CRLF.
        whole = len(self._rest) - self._rest.endswith(b"\r")
        *lines, rest = _LINE_END.split(bytes(self._rest[:whole]))
        self._rest = bytearray(rest) + self._rest[whole:]
        return [data for line in lines if (data := self._line(line)) is not None]

    def end(self) -> list[str]:
        """What stands in a last event that no blank line closes: many servers forget it."""
        found = [*self.feed(b"\n"), *self.feed(b"\n")]
        return [data for data in found if data]

    def _line(self, raw: bytes) -> str | None:
        """The data of the event that a line closes."""
        if not raw:
            data, self._data = "\n".join(self._data), []
            return data or None
        field, _, value = raw.decode("utf-8", "replace").removeprefix("\ufeff").partition(":")
        if field in _DATA:
            self._data.append(value.removeprefix(" "))
        return None
