# ruff: noqa: ASYNC240 - a test may look at a file while its loop waits
"""A DuckDB journal where something goes half well: damage beside what is sound, copies and commits cut short."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from duckdb_journal import journal_file, opened  # noqa: F401 - a fixture
from journal_entries import entry_after, line_of

from runtime.errors import StoreUnavailable
from runtime.formats import is_intact
from runtime.progress import Found, Step
from runtime.session import Entry, body_of
from runtime.stores import Row, duckcopy, duckfile, tables
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.headfile import HeadFile, Link
from runtime.stores.inspecting import inspect
from runtime.stores.lockfile import LockFile, Owner, owner_of


def rows_of(entries: list[Entry]) -> list[Row]:
    """Entries as they are kept."""
    return [Row(entry.session_id, entry.seq, body_of(entry), entry.hash) for entry in entries]


async def filled(file: Path, *sessions: str, count: int = 4, scene: str = "灯") -> None:
    """A journal that was closed and opened well, each session with so many entries."""
    async with opened(file) as store:
        for session in sessions:
            await store.adopt(rows_of(line_of(count, session, scene=scene)))
    async with opened(file):
        pass


def beside(file: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return file.with_name(file.name + suffix)


def altered(file: Path, *statements: str) -> None:
    """Do something to the tables that no store does."""
    with duckdb.connect(str(file)) as db:
        for statement in statements:
            db.execute(statement)


async def found_in(file: Path) -> list[Found]:
    """What an inspection found."""
    return [step async for step in inspect(file) if isinstance(step, Found)]


# Damage accuses nobody else.


@pytest.mark.slow
@pytest.mark.parametrize("lost", [(5, 8), (6, 8), (3, 10)])
async def test_what_stands_after_a_gap_is_not_called_altered(
    file: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, int]
) -> None:
    """Whichever part of a span of four is missing: the gap is named, and no entry that is as it was written."""
    monkeypatch.setattr(tables, "BODY_SPAN", 4)
    await filled(file, "a", "b", "c")
    altered(file, f"DELETE FROM entries WHERE pos BETWEEN {lost[0]} AND {lost[1]}")  # noqa: S608 - two numbers

    found = await found_in(file)
    async with opened(file) as store:
        damages = [damage async for damage in store.audit()]

    assert "missing" in found[0].what
    assert not [each for each in found if "altered" in each.what]
    assert [Found(damage.what, damage.sessions) for damage in damages] == found


async def test_an_audit_checks_bodies_beside_the_loop(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of long bodies are hashed and read while turns are answered."""
    await filled(file, "a")
    threads = []

    def watched(body: str, hash_: str) -> bool:
        threads.append(threading.current_thread())
        return is_intact(body, hash_)

    monkeypatch.setattr(tables, "is_intact", watched)
    async with opened(file) as store:
        assert [damage async for damage in store.audit()] == []

    assert len(threads) == 4
    assert threading.current_thread() not in threads


@pytest.mark.slow
async def test_what_stands_after_a_span_that_cannot_be_read_is_not_called_altered(file: Path) -> None:
    """A bit of a block is flipped: what stands there can't be read, and its neighbours are sound."""
    for session, scene in (("a", "前"), ("b", "裂帛"), ("c", "後")):
        await filled(file, session, count=tables.BODY_SPAN, scene=scene * 100)
    raw = file.read_bytes()
    at = raw.index("裂帛".encode() * 100, raw.index("裂帛".encode() * 100) + len(raw) // 6)
    with file.open("r+b") as journal:
        journal.seek(at)
        journal.write(bytes([raw[at] ^ 16]))

    found = await found_in(file)

    assert [each.what.partition(" can't be read")[0] for each in found] == ["entries 2049 to 4096"]


# Commits.


class FailingAfter:
    """A connection whose commit does its work, and then fails as often as it is told."""

    def __init__(self, db: Any, *errors: BaseException) -> None:
        self._db = db
        self._errors = [*errors]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def commit(self) -> None:
        """Commit, and say that it went wrong."""
        self._db.commit()
        if self._errors:
            raise self._errors.pop()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
async def test_a_commit_that_fails_of_anything_is_not_done_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its rows may be there: whoever waited is refused, and each entry is there once when it is opened anew."""
    async with opened(file) as store:
        await store.append(entry_after(None, "first"))
        journal = store._opened()
        monkeypatch.setattr(journal, "_db", FailingAfter(journal._db, error))
        appends = [store.append(entry_after(None, session)) for session in ("a", "b", "c")]

        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        monkeypatch.undo()

        assert not [outcome for outcome in outcomes if outcome is None]
        assert "a commit failed" in store.failed

    async with opened(file) as store:
        assert len((await store.sessions())[0]) == await store.count()
        assert [damage async for damage in store.audit()] == []


async def test_entries_whose_record_fails_of_anything_are_answered_and_there_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are durable already: writing them again would double them."""
    async with opened(file) as store:
        await store.append(entry_after(None, "first"))
        monkeypatch.setattr(HeadFile, "add", raising(MemoryError()))
        await asyncio.gather(*(store.append(entry_after(None, session)) for session in ("a", "b")))
        monkeypatch.undo()
        assert await store.count() == 3

    async with opened(file) as store:
        assert [damage async for damage in store.audit()] == []


def raising(error: BaseException) -> Callable[..., Any]:
    """A function that only fails."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


async def test_the_name_of_a_new_log_is_synced_before_the_answer(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the journal is made, at the first commit, at a checkpoint and the first one after; not at the others."""
    folders: list[Path] = []
    monkeypatch.setattr(duckfile, "sync_folder", folders.append)
    async with opened(file) as store:
        synced = [len(folders)]
        head = None
        for checkpointed in (False, False, False, True, False):
            if checkpointed:
                await store._write("CHECKPOINT journal", [])
            head = entry_after(head)
            await store.append(head)
            synced.append(len(folders))

    assert synced == [1, 2, 2, 2, 4, 4]
    assert set(folders) == {file.parent}


async def test_a_log_whose_name_cannot_be_synced_ends_the_acknowledgements(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it would be there after a power cut."""
    async with opened(file) as store:
        monkeypatch.setattr(duckfile, "sync_folder", raising(OSError(errno.EIO, "no")))
        with pytest.raises(StoreUnavailable):
            await store.append(entry_after(None))
        monkeypatch.undo()
        assert "a commit failed" in store.failed

    async with opened(file) as store:
        assert await store.count() == 1


@pytest.mark.slow
async def test_nobody_else_may_read_a_journal_its_log_or_its_backups(file: Path, tmp_path: Path) -> None:
    """Whatever the umask; a journal that an older version left readable is closed too."""
    target = tmp_path / "copy.duckdb"
    await filled(file, "a")
    file.chmod(0o644)
    before = os.umask(0o022)
    try:
        async with opened(file) as store:
            await store.append(entry_after(None, "b"))
            modes = {each.name: mode_of(each) for each in file.parent.iterdir()}
            [_ async for _ in store.backup(target)]
            [_ async for _ in store.compact()]
            await store.append(entry_after(None, "c"))
            modes_later = {each.name: mode_of(each) for each in file.parent.iterdir()}
    finally:
        os.umask(before)

    assert set(modes) == {f"journal.duckdb{suffix}" for suffix in ("", ".wal", ".head", ".lock")}
    assert set(modes.values()) == {0o600}
    assert modes_later == modes
    assert {mode_of(target), mode_of(beside(target, ".head"))} == {0o600}


def mode_of(file: Path) -> int:
    """Who may do what with it."""
    return stat.S_IMODE(file.stat().st_mode)


# The record and the lock.


def test_nothing_is_recorded_behind_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that was written in part and can't be taken back ends its file: the next one begins a new one."""
    record = HeadFile(tmp_path / "journal.head")
    record.begin([Link(1, "a")])
    write = os.write
    with monkeypatch.context() as failing:
        failing.setattr(os, "write", lambda fd, content: write(fd, content[: len(content) // 2]))
        failing.setattr(os, "ftruncate", raising(OSError(errno.EIO, "no")))
        with pytest.raises(OSError, match="bytes were written"):
            record.add([Link(2, "b")])
    assert record.read() == [Link(1, "a")]

    record.add([Link(3, "c")])
    record.add([Link(4, "d")])
    record.close()

    assert record.read() == [Link(3, "c"), Link(4, "d")]


def test_a_record_that_cannot_be_begun_leaves_no_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stands."""
    record = HeadFile(tmp_path / "journal.head")
    record.begin([Link(1, "a")])
    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", raising(OSError(errno.EIO, "no")))
        with pytest.raises(OSError, match="no"):
            record.begin([Link(2, "b")])

    assert record.read() == [Link(1, "a")]
    assert [each.name for each in tmp_path.iterdir()] == ["journal.head"]


@pytest.mark.parametrize("step", ["ftruncate", "pwrite", "fchmod"])
def test_a_lock_that_cannot_be_written_is_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Else nobody could take it before the process ends."""
    lock = LockFile(tmp_path / "journal.lock")
    with monkeypatch.context() as failing:
        failing.setattr(os, step, raising(OSError(errno.ENOSPC, "no")))
        with pytest.raises(OSError, match="no"):
            lock.take(Owner(1), 0)

    other = LockFile(tmp_path / "journal.lock")
    other.take(Owner(2), 0)
    other.release()


def test_a_lock_that_cannot_be_cleared_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in its file counts only while it is held."""
    lock = LockFile(tmp_path / "journal.lock")
    lock.take(Owner(1), 0)
    with monkeypatch.context() as failing:
        failing.setattr(os, "ftruncate", raising(OSError(errno.EIO, "no")))
        lock.release()

    assert owner_of(tmp_path / "journal") is None
    LockFile(tmp_path / "journal.lock").take(Owner(2), 0)


# Copies.

COPIES_AND_DIES = """
import asyncio, errno, os, shutil, sys
from runtime.stores.duckdb import DuckDBStore

def other_disk(*_, **__):
    raise OSError(errno.EXDEV, "another disk")

def half(source, sink, *_):
    sink.write(source.read(1000))
    sink.flush()
    os.kill(os.getpid(), 9)

async def main(file, target):
    store = DuckDBStore(file)
    await store.open()
    os.link, shutil.copyfileobj = other_disk, half
    async for _ in store.backup(target):
        pass

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_a_backup_that_is_killed_does_not_stand_in_the_way_of_the_next(file: Path, tmp_path: Path) -> None:
    """Nothing bears its name before it is whole; what was half written is cleared away."""
    target = tmp_path / "copy.duckdb"
    await filled(file, "a")
    command = [sys.executable, "-c", COPIES_AND_DIES, str(file), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, check=False)
    assert ran.returncode == -9
    assert not target.exists()

    async with opened(file) as store:
        [_ async for _ in store.backup(target)]

    assert await found_in(target) == []
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} >= {"copy.duckdb", "copy.duckdb.head"}
    assert not beside(target, ".part").exists()


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["the file's bytes", "the record"])
async def test_a_backup_that_has_no_room_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """On another disk than the journal, whose room nobody asked for; with room it is made under the same name."""
    target = tmp_path / "elsewhere" / "copy.duckdb"
    target.parent.mkdir()
    await filled(file, "a")
    async with opened(file) as store:
        with monkeypatch.context() as failing:
            if broken == "the record":
                failing.setattr(HeadFile, "begin", raising(OSError(errno.ENOSPC, "no room")))
            else:
                failing.setattr(os, "link", raising(OSError(errno.EXDEV, "another disk")))
                failing.setattr(shutil, "copyfileobj", raising(OSError(errno.ENOSPC, "no room")))
            with pytest.raises(StoreUnavailable, match="no room"):
                [_ async for _ in store.backup(target)]
        assert [*target.parent.iterdir()] == []
        assert store.failed == ""

        [_ async for _ in store.backup(target)]

    assert await found_in(target) == []


@pytest.mark.slow
async def test_a_backup_is_made_where_no_file_can_have_two_names(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without hard links; still over nothing."""
    target = tmp_path / "elsewhere" / "copy.duckdb"
    target.parent.mkdir()
    await filled(file, "a")
    monkeypatch.setattr(os, "link", raising(OSError(errno.EPERM, "no hard links")))
    async with opened(file) as store:
        [_ async for _ in store.backup(target)]

    assert await found_in(target) == []
    assert {each.suffix for each in target.parent.iterdir()} == {".duckdb", ".head", ".lock"}
    assert mode_of(target) == 0o600


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["backup", "compact"])
async def test_a_store_that_closes_gives_up_its_copy(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """Whoever listens hears why; nothing of the copy is left, and the journal is as it was."""
    target = tmp_path / "copy.duckdb"
    await filled(file, "a")
    closing, copied = threading.Event(), duckcopy.copied

    def held_up(*args: Any) -> Generator[Step, None, Link]:
        steps = copied(*args)
        yield next(steps)
        closing.wait()
        return (yield from steps)

    monkeypatch.setattr(duckcopy, "copied", held_up)
    async with opened(file) as store:
        work = store.backup(target) if asked == "backup" else store.compact()
        await anext(work)
        ending = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        closing.set()
        with pytest.raises(StoreUnavailable, match="its copy was discarded"):
            [_ async for _ in work]
        await ending

    assert not target.exists()
    assert {each.name for each in file.parent.iterdir()} == {f"journal.duckdb{each}" for each in ("", ".head", ".lock")}
    assert await found_in(file) == []


LOOKS_AND_DIES = """
import os, sys
from pathlib import Path
from runtime.stores.duckfile import looked_at

with looked_at(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("next_one", ["inspects", "opens"])
async def test_a_look_that_is_killed_leaves_no_second_name_of_the_journal(file: Path, next_one: str) -> None:
    """It would keep what was deleted, though the journal is compacted later."""
    log = beside(file, ".wal")
    async with opened(file) as store:
        await store.adopt(rows_of(line_of(4, "a")))
        torn = bytearray(log.read_bytes())
        copies = {each: each.read_bytes() for each in (file, beside(file, ".head"))}
    torn[len(torn) * 2 // 3] ^= 16
    for each, there in {**copies, log: bytes(torn)}.items():
        each.write_bytes(there)
    before = {each.name for each in file.parent.iterdir()}
    command = [sys.executable, "-c", LOOKS_AND_DIES, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, check=False)
    assert ran.returncode == -9
    assert file.stat().st_nlink == 2

    if next_one == "inspects":
        assert "can't be read" in (await found_in(file))[0].what
    else:
        with pytest.raises(StoreUnavailable, match="Nothing was repaired"):
            await DuckDBStore(file).open()

    assert file.stat().st_nlink == 1
    assert {each.name for each in file.parent.iterdir()} == before
