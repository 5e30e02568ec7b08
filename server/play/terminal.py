"""The terminal that a play is typed on: what is typed before there is something to answer counts for nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # pragma: no cover - a system without POSIX terminals
    termios = None  # type: ignore[assignment]


@contextmanager
def unechoed() -> Iterator[None]:
    """Show nothing that is typed meanwhile: it would stand in the middle of the story. Ctrl-C still leaves."""
    if not _is_terminal():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    flags = before[3]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, [*before[:3], flags & ~termios.ECHO, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def drop_typed() -> None:
    """Forget what was typed and not yet read."""
    if _is_terminal():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def _is_terminal() -> bool:
    return termios is not None and sys.stdin.isatty()
