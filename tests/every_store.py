"""Every store that ships, for the tests that run against each: a name, and a journal that can be opened again.

    @pytest.fixture(params=EVERY_STORE)
    def home(request, tmp_path):
        with homed(request.param, tmp_path) as home:
            yield home

A `Home` is where one journal is kept, empty at first. `store()` makes a Store on it that is not open yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres import database, pgbouncer

from runtime.stores import Store
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore
from runtime.stores.postgres import PostgresStore

EVERY_STORE = (
    "memory",
    "duckdb",
    pytest.param("duckdb with room for 3 heads", marks=pytest.mark.slow),
    pytest.param("postgres", marks=pytest.mark.slow),
    pytest.param("postgres, cluster-safe", marks=pytest.mark.slow),
    pytest.param("postgres behind pgbouncer", marks=[pytest.mark.slow, pytest.mark.peer]),
)


class Home:
    """Where one journal is kept, by the name of its store; `url` is the server's setting for it."""

    def __init__(self, name: str, url: str, make: Callable[..., Any]) -> None:
        self.name = name
        self.url = url
        self._make = make

    def store(self, **settings: Any) -> Store:
        """A Store on this journal, not open yet. What another one wrote here and closed is there."""
        return self._make(**settings)

    @property
    def is_shared(self) -> bool:
        """Whether several processes may have it open at once."""
        return "postgres" in self.name


@contextmanager
def homed(name: str, folder: Path) -> Iterator[Home]:
    """The home of a store by its name, for a while; files go below a folder."""
    if name == "memory":
        kept = MemoryStore()  # a memory that is forgotten with its object can't be opened again
        yield Home(name, "memory:", lambda: kept)
    elif name.startswith("duckdb"):
        yield in_file(folder / "journal.duckdb", name, cached_heads=3 if "3 heads" in name else 10_000)
    elif name == "postgres behind pgbouncer":
        with database() as direct, pgbouncer(direct) as url:
            yield Home(name, url, lambda **settings: PostgresStore(url, **settings))
    else:
        is_cluster_safe = "cluster-safe" in name
        with database() as url:
            yield Home(name, url, lambda **settings: PostgresStore(url, is_cluster_safe=is_cluster_safe, **settings))


def in_file(file: Path, name: str = "duckdb", **always: Any) -> Home:
    """The home of a DuckDB file."""
    return Home(name, f"duckdb://{file}", lambda **settings: DuckDBStore(file, **{**always, **settings}))
