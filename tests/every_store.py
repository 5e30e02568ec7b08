"""Every store that ships, for the tests that run against each: a name, and a journal that can be opened again.

    @pytest.fixture(params=STORES)
    async def home(request, tmp_path): ...

A `Home` is where one journal is kept. `store()` makes a Store on it that is not open yet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.stores import Store
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore

EMBEDDED = ("memory", "duckdb", "duckdb with room for 3 heads")
"""The stores that need nothing but this process."""


class Home:
    """Where one journal is kept, by the name of its store."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make

    def store(self) -> Store:
        """A Store on this journal, not open yet. What another one wrote here and closed is there."""
        return self._make()


def embedded(name: str, folder: Path) -> Home:
    """The home of an embedded store, below a folder."""
    if name == "memory":
        kept = MemoryStore()  # a memory that is forgotten with its object can't be opened again
        return Home(name, lambda: kept)
    bound = 3 if "3 heads" in name else 10_000
    return Home(name, lambda: DuckDBStore(folder / "journal.duckdb", cached_heads=bound))
