"""A DuckDB journal for a test: where it lies, and an open store on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.stores.duckdb import DuckDBStore


@pytest.fixture(name="file")
def journal_file(tmp_path: Path) -> Path:
    """Where the journal is; its folder doesn't exist yet, and has a name that SQL would trip over."""
    return tmp_path / "it's 灯" / "journal.duckdb"


@asynccontextmanager
async def opened(file: Path, **settings: Any) -> AsyncIterator[DuckDBStore]:
    """An open store, closed at the end."""
    store = DuckDBStore(file, **settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
