# ruff: noqa: ASYNC240 - a test may look at a file while its loop waits
"""A disk that is full or fails under a DuckDB journal: what was acknowledged is there, and no more is."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from journal_entries import entry_after, is_whole

from runtime.errors import StoreUnavailable
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.inspecting import inspect

ROOT = Path(__file__).parent.parent
CHILD = [sys.executable, str(ROOT / "tests" / "journal_child.py")]
SESSIONS = 8
ROOMY = "size=64m"


@cache
def why_no_strace() -> str:
    """Why no fault can be injected here, '' where one can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    ran = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace can't trace here: {ran.stderr.strip()}" if ran.returncode else ""


async def ended(*command: str) -> tuple[dict[str, int], str]:
    """Run a writer until its journal fails; session → the last seq acknowledged, and what it said of it."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}"}
    ran = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 3, ran.stderr
    ready, *lines = ran.stdout.splitlines()
    assert ready == "ready"
    return {session: int(seq) for session, seq in map(str.split, lines)}, ran.stderr


async def is_as_acknowledged(file: Path, acknowledged: dict[str, int]) -> None:
    """Every entry is there once and in order, at most one more a session was under way; and play goes on."""
    assert [step async for step in inspect(file)][-1].is_good  # type: ignore[union-attr] - the last one is a Done
    store = DuckDBStore(file)
    await store.open()
    for session, seq in acknowledged.items():
        entries = await store.entries(session, limit=1_000_000)
        assert is_whole(entries)
        assert entries[-1].seq in (seq, seq + 1)
        await store.append(entry_after(entries[-1], session))
    assert await store.head("late") is None
    assert [damage async for damage in store.audit()] == []
    await store.close()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_strace()), reason=why_no_strace() or "-")
@pytest.mark.parametrize("when", ["40", "40+"])
@pytest.mark.parametrize("fault", ["fdatasync:error=EIO", "write:error=ENOSPC", "write:error=EIO"])
async def test_a_write_or_a_sync_that_fails_ends_the_acknowledgements(tmp_path: Path, fault: str, when: str) -> None:
    """Once is enough: nobody knows what a failed commit left on disk, until the file is opened anew."""
    file = tmp_path / "journal.duckdb"
    watched = ["-P", str(tmp_path / "journal.duckdb.wal"), "-e", "trace=fdatasync,write"]
    strace = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), *watched, "-e", f"inject={fault}:when={when}"]

    acknowledged, said = await ended(*strace, *CHILD, str(file), str(SESSIONS))

    assert "INJECTED" in (tmp_path / "trace").read_text()
    assert "failed: a commit failed" in said
    assert said.count("refused: the journal has failed") == 3
    assert len(acknowledged) == SESSIONS
    await is_as_acknowledged(file, acknowledged)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    ran = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        pytest.skip(f"no small disk can be mounted here: {ran.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
async def test_a_full_disk_ends_the_acknowledgements_and_loses_none(small_disk: Path) -> None:
    """As long as it is full the journal is refused or as it was; with room, play goes on."""
    file = small_disk / "journal.duckdb"

    acknowledged, said = await ended(*CHILD, str(file), str(SESSIONS))
    with pytest.raises(StoreUnavailable):
        await DuckDBStore(file).open()
    await asyncio.to_thread(subprocess.run, ["mount", "-o", f"remount,{ROOMY}", str(small_disk)], check=True)

    assert "failed: " in said
    assert len(acknowledged) == SESSIONS
    await is_as_acknowledged(file, acknowledged)


@pytest.mark.slow
async def test_a_copy_that_has_no_room_is_refused_and_the_journal_goes_on(small_disk: Path) -> None:
    """Neither a backup nor a compaction fills the disk under the turns."""
    store = DuckDBStore(small_disk / "journal.duckdb")
    await store.open()
    head = None
    for _ in range(20):
        head = entry_after(head, scene="裂帛" * 5000)
        await store.append(head)

    for copy in (store.backup(small_disk / "copy.duckdb"), store.compact()):
        with pytest.raises(StoreUnavailable, match="and the disk has"):
            await anext(copy)

    assert store.failed == ""
    await store.append(entry_after(head))
    await store.close()
    assert {each.suffix for each in small_disk.iterdir()} <= {".duckdb", ".head", ".lock", ".wal"}
    assert not (small_disk / "copy.duckdb").exists()
