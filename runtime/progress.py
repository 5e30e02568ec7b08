"""What long work on a store tells on its way: how far it is, what it found, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


class Progress(Struct, frozen=True, tag="progress"):
    """So many of so many are done; `total` 0 = not known."""

    done: int
    total: int = 0


class Found(Struct, frozen=True, tag="found"):
    """One thing that the work found, as a sentence, and the sessions that it touches."""

    what: str
    sessions: tuple[str, ...] = ()


class Done(Struct, frozen=True, tag="done"):
    """The work has ended: `is_good` unless it found something wrong; `facts` are its figures."""

    is_good: bool
    facts: Mapping[str, Any] = {}


Step = Progress | Found | Done
"""Long work is an async generator of these; the last one is a Done."""
