# ruff: noqa: ASYNC240 - a test may look at a file while its loop waits
"""A DuckDB journal's file: older formats, damage of each kind, backups, and bytes that are really gone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import duckdb
import pytest
from duckdb_journal import journal_file, opened  # noqa: F401 - a fixture
from journal_entries import SCENE, entry_after, is_whole, line_of

from runtime.errors import StoreUnavailable, ValidationError
from runtime.formats import is_intact
from runtime.progress import Done, Found, Progress, Step
from runtime.session import Expense
from runtime.stores import duckfile
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.headfile import HeadFile
from runtime.stores.inspecting import inspect

JOURNALS = Path(__file__).parent / "journals"
KILLED = """
import asyncio, os, sys
from journal_entries import line_of
from runtime.stores.duckdb import DuckDBStore

async def main():
    store = DuckDBStore(sys.argv[1])
    await store.open()
    for session in sys.argv[2:]:
        for entry in line_of(4, session):
            await store.append(entry)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
"""Appends four entries to each session named, and dies: they stand in the write-ahead log."""


def beside(file: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return file.with_name(file.name + suffix)


async def filled(file: Path, *sessions: str) -> None:
    """A journal that was closed and opened well, each session with four entries."""
    async with opened(file) as store:
        for session in sessions:
            for entry in line_of(4, session):
                await store.append(entry)
    async with opened(file):
        pass


async def killed(file: Path, *sessions: str) -> None:
    """A process that wrote these sessions and was killed."""
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, "-c", KILLED, str(file), *sessions]
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, check=False)
    assert ran.returncode == -9


async def looked(file: Path) -> tuple[list[Found], Done]:
    """What an inspection found, and how it ended."""
    steps = [step async for step in inspect(file)]
    assert isinstance(steps[-1], Done)
    return [step for step in steps if isinstance(step, Found)], steps[-1]


def touched(found: list[Found]) -> set[str]:
    """The sessions that are named."""
    return {session for each in found for session in each.sessions}


def content(file: Path) -> dict[str, bytes]:
    """Every file beside the journal, but not who held it."""
    return {each.name: each.read_bytes() for each in file.parent.iterdir() if each.suffix != ".lock"}


def altered(file: Path, *statements: str) -> None:
    """Do something to the tables that no store does."""
    with duckdb.connect(str(file)) as db:
        for statement in statements:
            db.execute(statement)


def counted(file: Path, query: str) -> object:
    """The one value that a query gives."""
    with duckdb.connect(str(file)) as db:
        ((value,),) = db.execute(query).fetchall()
    return value


# Formats.


def of_format_1(file: Path) -> None:
    """A journal that the version before wrote: two sessions, a deletion, then more in a log that nobody closed."""
    file.parent.mkdir()
    with tarfile.open(JOURNALS / "format-1.tar.gz") as kept:
        kept.extractall(file.parent, filter="data")


@pytest.mark.slow
async def test_a_journal_of_format_1_is_read_continued_and_verified(file: Path) -> None:
    """Its entries keep their bytes and hashes; what was deleted stays deleted; nothing is found wrong."""
    of_format_1(file)

    async with opened(file) as store:
        entries = await store.entries("灯-ann")
        rows = [row async for row in store.walk()]
        assert [entry.seq for entry in entries] == [*range(1, 10)]
        assert {entry.format for entry in entries} == {1}
        assert len(rows) == await store.count() == 13
        assert all(is_intact(row.body, row.hash) for row in rows)
        assert [head.session_id for head in (await store.sessions())[0]] == ["cy", "灯-ann", "bob"]
        assert [await store.head(gone) for gone in ("gone", "gone too")] == [None, None]
        assert await store.kept("d" * 64) == {"machines/a.yaml": "灯"}
        await store.append(entry_after(entries[-1], "灯-ann"))

    async with opened(file) as store:
        continued = await store.entries("灯-ann")
        assert continued[:-1] == entries
        assert continued[-1].prev_hash == entries[-1].hash
        assert [node.parent for node in await store.tree("灯-ann")] == [None, *range(1, 10)]
        assert [damage async for damage in store.audit()] == []
    assert await looked(file) == ([], Done(is_good=True, facts={"path": str(file), "last": 16, "found": 0}))


async def test_a_journal_of_format_2_is_read_continued_and_verified(file: Path) -> None:
    """It gets a ledger; its entries keep their bytes; an older version would refuse it from now on."""
    file.parent.mkdir()
    with tarfile.open(JOURNALS / "format-2.tar.gz") as kept:
        kept.extractall(file.parent, filter="data")

    async with opened(file) as store:
        entries = await store.entries("two")
        rows = [row async for row in store.walk()]
        assert {entry.format for entry in entries} == {2}
        assert [entry.kind for entry in entries][-3:] == ["turn", "regenerate", "fork"]
        assert all(is_intact(row.body, row.hash) for row in rows)
        assert await store.expenses(0) == []
        head = await store.head("child")
        assert head is not None
        await store.append(entry_after(head, "child"), None, Expense(day=1, calls=1))

    async with opened(file) as store:
        assert [row async for row in store.walk()][: len(rows)] == rows
        assert await store.expenses(0) == [Expense(day=1, calls=1)]
        assert [damage async for damage in store.audit()] == []
    assert counted(file, "SELECT value FROM meta WHERE name = 'format'") == "3"


async def test_a_long_ledger_is_added_up_when_the_file_is_opened(file: Path) -> None:
    """A row for each group is written; what is read is the same sum."""
    rows = duckfile.SPENT_ROWS_MAX + 1
    async with opened(file) as store:
        await store.spend("s1", Expense(day=2, provider="deepseek", calls=1))
    one = "INSERT INTO ledger SELECT 1, 'deepseek', 'm', 1, 2, 3, 1, 7, 1, 0 FROM range(%d)"
    altered(file, one % rows)

    async with opened(file) as store:
        first, second = await store.expenses(0)
    assert (first.prompt_tokens, first.cost_micros, first.turns, first.failed) == (rows, 7 * rows, rows, 0)
    assert second == Expense(day=2, provider="deepseek", calls=1)
    assert counted(file, "SELECT count(*) FROM ledger") == 2


async def test_a_journal_of_format_1_is_inspected_as_it_is(file: Path) -> None:
    """And not upgraded by being looked at; an altered body is found."""
    of_format_1(file)
    before = content(file)

    assert (await looked(file))[1].is_good
    assert content(file) == before

    altered(file, "UPDATE entries SET body = replace(body, '灯', '火') WHERE session_id = 'bob' AND seq = 2")
    found, done = await looked(file)
    assert not done.is_good
    assert touched(found) == {"bob"}


async def test_a_journal_of_format_1_that_lost_its_log_is_refused_and_left_alone(file: Path) -> None:
    """By its own mark; nothing was upgraded."""
    of_format_1(file)
    beside(file, ".wal").unlink()
    before = content(file)

    with pytest.raises(StoreUnavailable, match=r"goes to group 17, and it ends at group 11: entries are missing"):
        await DuckDBStore(file).open()

    assert content(file) == before


@pytest.mark.slow
async def test_an_upgrade_that_died_before_its_record_was_written_is_no_damage(file: Path) -> None:
    """The new file with the old one's mark."""
    of_format_1(file)
    mark = beside(file, ".head").read_bytes()
    async with opened(file):
        pass
    beside(file, ".head").write_bytes(mark)
    beside(file, ".copy").write_text("half a copy of an upgrade that died earlier")

    async with opened(file) as store:
        assert await store.count() == 13

    assert sorted(content(file)) == ["journal.duckdb", "journal.duckdb.head"]


async def test_a_later_format_is_refused_by_the_inspection_too(file: Path) -> None:
    """Rather than misread."""
    await filled(file, "a")
    altered(file, "UPDATE meta SET value = '99' WHERE name = 'format'")

    found, done = await looked(file)

    assert not done.is_good
    assert "has format 99" in found[0].what


# Damage: found where it is, with the sessions that it touches, and never mended in silence.


@pytest.mark.slow
async def test_a_sound_journal_is_sound_with_its_log_and_without(file: Path) -> None:
    """No false alarm, deletions included."""
    await filled(file, "a", "b")
    async with opened(file) as store:
        await store.delete("a")
        assert [damage async for damage in store.audit()] == []
    await killed(file, "c")

    found, done = await looked(file)

    assert found == []
    assert done.is_good
    assert done.facts["last"] == 13


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "named", "what"),
    [
        ("DELETE FROM entries WHERE session_id = 'b' AND seq = 2", {"b"}, "entry 6 is missing"),
        ("DELETE FROM entries WHERE session_id = 'a'", set(), "entries 1 to 4 are missing"),
        ("DELETE FROM tombstones WHERE pos = 10", set(), "entry 10 is missing"),
        ("UPDATE entries SET hash = 'f' WHERE session_id = 'b' AND seq = 2", {"b"}, "entry 6 was altered"),
        ("UPDATE entries SET chain = 'f' WHERE session_id = 'b' AND seq = 2", {"b"}, "entry 6 was altered"),
        (
            "UPDATE entries SET body = replace(body, 'seed', 'seek') WHERE session_id = 'b' AND seq = 2",
            {"b"},
            "the body of entry 6 was altered",
        ),
        ("UPDATE entries SET ended = true WHERE pos = 6", {"b"}, "the columns ended of entry 6 were altered"),
        ("UPDATE entries SET session_id = 'x' WHERE pos = 6", {"b", "x"}, "the columns session_id of entry 6"),
        ("UPDATE entries SET sid = 1 WHERE pos = 6", {"b"}, "the columns sid of entry 6"),
        ("UPDATE entries SET pos = 7 - (pos - 6) WHERE pos IN (6, 7)", {"b"}, "entry 6 was altered, or stands in"),
        ("INSERT INTO entries FROM entries WHERE pos = 6", {"b"}, "entry 6 stands there twice"),
    ],
)
async def test_what_was_lost_altered_or_moved_is_found_at_its_position(
    file: Path, sql: str, named: set[str], what: str
) -> None:
    """In the middle of the file, by the audit of an open store and by the inspection of a closed one."""
    await filled(file, "a", "b", "gone")
    async with opened(file) as store:
        await store.delete("gone")
        await store.append(entry_after(None, "c"))
    async with opened(file):
        pass
    altered(file, sql)

    found, done = await looked(file)
    async with opened(file) as store:
        damages = [damage async for damage in store.audit()]

    assert not done.is_good
    assert found[0].what.startswith(what)
    assert named <= touched(found) <= named | {"b"}
    assert [Found(damage.what, damage.sessions) for damage in damages] == found


def truncate(log: Path) -> None:
    """Lose the last third."""
    os.truncate(log, log.stat().st_size * 2 // 3)


def flip(log: Path) -> None:
    """Flip one bit in the last third."""
    flip_at(log, log.stat().st_size * 2 // 3)


def flip_at(file: Path, at: int) -> None:
    """Flip one bit."""
    with file.open("r+b") as raw:
        raw.seek(at)
        (byte,) = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte ^ 16]))


def misname(log: Path) -> None:
    """Flip a bit of its first bytes: then DuckDB reads nothing of it and says nothing."""
    flip_at(log, 3)


def mismatch(log: Path) -> None:
    """Flip a bit of what says whose log it is."""
    flip_at(log, 9)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip, misname, mismatch])
async def test_a_log_that_is_cut_flipped_or_missing_is_refused_and_says_whose_entries_are_lost(
    file: Path, harm: Callable[[Path], None]
) -> None:
    """How many, and of which sessions; opened or inspected, everything stays as it is."""
    await filled(file, "old")
    await killed(file, "灯", "ann")
    harm(beside(file, ".wal"))
    before = content(file)

    with pytest.raises(StoreUnavailable, match="Nothing was repaired") as refused:
        await DuckDBStore(file).open()
    found, done = await looked(file)

    assert content(file) == before
    assert not done.is_good
    is_whole_lost = harm not in {truncate, flip}
    lost = next(each for each in found if "missing" in each.what)
    assert touched(found) == {"灯", "ann"} if is_whole_lost else touched(found) == {"ann"}
    assert lost.what in refused.value.message
    assert "'ann'" in lost.what
    assert (
        not is_whole_lost or "8 entries are missing: it goes to entry 12, and the journal ends at entry 4" in lost.what
    )
    assert "old" not in lost.what
    assert "to go on with what is there" in refused.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("harm", [truncate, flip])
async def test_whoever_does_what_the_refusal_says_goes_on_with_what_is_there(
    file: Path, harm: Callable[[Path], None]
) -> None:
    """An explicit act: the record is removed, and a log that can't be read is cut where it says."""
    await filled(file, "old")
    await killed(file, "ann", "bob")
    harm(beside(file, ".wal"))
    with pytest.raises(StoreUnavailable) as refused:
        await DuckDBStore(file).open()

    if harm is flip:
        command = refused.value.hint.partition("(")[2].partition(")")[0]
        await asyncio.to_thread(subprocess.run, command.split(), cwd=file.parent, check=True)
    beside(file, ".head").unlink()

    async with opened(file) as store:
        for session in ("old", "ann"):
            assert len(await store.entries(session)) == 4
        bob = await store.entries("bob")
        assert is_whole(bob)
        assert len(bob) < 4
        await store.append(entry_after(bob[-1] if bob else None, "bob"))
        assert [damage async for damage in store.audit()] == []


@pytest.mark.slow
async def test_a_flipped_bit_in_the_file_itself_is_found(file: Path) -> None:
    """DuckDB's blocks carry checksums; what can't be read is said to be so."""
    async with opened(file) as store:
        for entry in line_of(40, "a", scene="裂帛" * 2000):
            await store.append(entry)
    raw = file.read_bytes()
    flip_at(file, raw.index("裂帛".encode() * 100))

    found, done = await looked(file)

    assert not done.is_good
    assert "can't be read" in found[0].what


async def test_a_journal_that_somebody_holds_is_not_inspected(file: Path) -> None:
    """The holder is named, and asked instead."""
    async with opened(file, url="http://127.0.0.1:1"):
        with pytest.raises(StoreUnavailable, match="is held by process"):
            await looked(file)


async def test_no_journal_is_no_sound_journal(file: Path) -> None:
    """Nor is one that vanished beside its record."""
    file.parent.mkdir()
    with pytest.raises(StoreUnavailable, match="there is no journal"):
        await looked(file)

    await filled(file, "a")
    file.unlink()
    found, done = await looked(file)
    assert not done.is_good
    assert "4 entries are missing" in found[0].what


@pytest.mark.slow
async def test_the_record_goes_on_from_an_automatic_checkpoint(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the file itself needs no record; it stays small, and still names what the log holds."""
    monkeypatch.setitem(duckfile._CONFIG, "wal_autocheckpoint", "100KB")
    sizes = []
    async with opened(file) as store:
        for entry in line_of(100, scene=SCENE * 20):
            await store.append(entry)
            sizes.append(len(beside(file, ".head").read_bytes().splitlines()))
        links = HeadFile(beside(file, ".head")).read()

    assert max(sizes) < 60
    assert sizes[-1] < 100
    assert links[-1].pos == 100
    assert links[-1].session_id == "s1"
    async with opened(file) as store:
        assert [damage async for damage in store.audit()] == []


# Backups and compaction.

NEEDLE = "忘れ物🔑needle"


def is_told(file: Path, text: str = NEEDLE) -> bool:
    """Whether any file beside the journal holds a text."""
    return any(text.encode() in body for body in content(file).values())


async def steps_of(work: AsyncIterator[Step]) -> tuple[list[Progress], Done]:
    """How far the work said it was, and how it ended."""
    *steps, done = [step async for step in work]
    assert isinstance(done, Done)
    progress = [step for step in steps if isinstance(step, Progress)]
    assert len(progress) == len(steps)
    return progress, done


def is_honest(progress: list[Progress]) -> bool:
    """It only grows, and ends where it said that it would."""
    done = [step.done for step in progress]
    return done == sorted(set(done)) and {step.total for step in progress} == {done[-1]}


@pytest.mark.slow
async def test_a_backup_is_a_journal_of_its_own(file: Path, tmp_path: Path) -> None:
    """It opens and verifies, has its own record and the same secret, and goes on by itself."""
    target = tmp_path / "backups 夜" / "of today.duckdb"
    target.parent.mkdir()
    await filled(file, "a", "b", "gone")
    async with opened(file) as store:
        await store.delete("gone")
        await store.keep("abc", {"machines/a.yaml": "灯"})
        progress, done = await steps_of(store.backup(target))
        secret = await store.secret()
        await store.append(entry_after(None, "later"))

    assert is_honest(progress)
    assert done.is_good
    assert done.facts == {"path": str(target), "last": 13, "bytes": target.stat().st_size}
    assert sorted(content(target)) == ["of today.duckdb", "of today.duckdb.head"]
    assert (await looked(target))[1].is_good
    async with opened(target) as copy, opened(file) as store:
        assert await copy.secret() == secret
        assert await copy.kept("abc") == {"machines/a.yaml": "灯"}
        assert await copy.head("later") is None
        assert await copy.entries("a") == await store.entries("a")
        await copy.append(entry_after(await copy.head("a"), "a"))
        assert [damage async for damage in copy.audit()] == []


@pytest.mark.slow
async def test_a_backup_and_a_compaction_keep_the_ledger(file: Path, tmp_path: Path) -> None:
    expense = Expense(day=1, provider="deepseek", model="m", calls=1, cost_micros=7, turns=1)
    async with opened(file) as store:
        await store.append(entry_after(None), None, expense)
        await store.delete("s1")
        _ = [step async for step in store.backup(tmp_path / "copy.duckdb")]
        _ = [step async for step in store.compact()]
        assert await store.expenses(0) == [expense]

    async with opened(tmp_path / "copy.duckdb") as copy:
        assert await copy.expenses(0) == [expense]


@pytest.mark.slow
async def test_a_backup_that_lost_its_end_is_found(file: Path, tmp_path: Path) -> None:
    """Its record is as good as the journal's."""
    target = tmp_path / "copy.duckdb"
    await filled(file, "a")
    async with opened(file) as store:
        await steps_of(store.backup(target))
    altered(target, "DELETE FROM entries WHERE pos = 4")

    with pytest.raises(StoreUnavailable, match="1 entry is missing"):
        await DuckDBStore(target).open()


@pytest.mark.slow
async def test_a_backup_writes_over_nothing(file: Path, tmp_path: Path) -> None:
    """Not over a file, nor over what would belong to the new one."""
    await filled(file, "a")
    target = tmp_path / "there.duckdb"
    async with opened(file) as store:
        for there in (target, beside(target, ".wal"), beside(target, ".head")):
            there.write_text("somebody's")
            with pytest.raises(ValidationError, match="exists already"):
                await steps_of(store.backup(target))
            assert there.read_text() == "somebody's"
            there.unlink()
        with pytest.raises(StoreUnavailable, match="can't be written"):
            await steps_of(store.backup(tmp_path / "nowhere" / "x.duckdb"))
        assert store.failed == ""
        assert sorted(content(file)) == ["journal.duckdb", "journal.duckdb.head"]
        await steps_of(store.backup(target))


@pytest.mark.slow
async def test_a_backup_holds_one_moment_while_turns_go_on(file: Path, tmp_path: Path) -> None:
    """Each session whole, the chain unbroken, deletions done or not done."""
    await filled(file, *(f"s{number}" for number in range(30)))
    target = tmp_path / "copy.duckdb"
    async with opened(file) as store:
        heads = {head.session_id: head for head in (await store.sessions())[0]}

        async def play_on() -> None:
            for session_id, head in heads.items():
                await store.append(entry_after(head, session_id))
                if session_id.endswith("5"):
                    await store.delete(session_id)

        await asyncio.gather(steps_of(store.backup(target)), play_on())
        assert await store.count() == 27 * 5

    assert (await looked(target))[1].is_good
    async with opened(target) as copy:
        async for row in copy.walk():
            assert is_whole(await copy.entries(row.session_id))


@pytest.mark.slow
async def test_deleted_text_is_gone_from_every_byte_once_compacted(file: Path) -> None:
    """Before, it can still be found in the file or its log; nobody can read it from the store."""
    await filled(file, "kept")
    async with opened(file) as store:
        await store.append(entry_after(None, "warm", scene=NEEDLE))
    async with opened(file) as store:
        await store.append(entry_after(None, "fresh", scene=NEEDLE))
        await store.delete("warm")
        await store.delete("fresh")
        assert is_told(file)
        assert await store.entries("warm") == []

        progress, done = await steps_of(store.compact())

        assert is_honest(progress)
        assert done.is_good
        assert done.facts["bytes"] == file.stat().st_size
        assert not is_told(file)
        assert not is_told(file, "warm")
        assert not is_told(file, "fresh")
        assert sorted(content(file)) == ["journal.duckdb", "journal.duckdb.head"]
        assert len(await store.entries("kept")) == 4
        await store.append(entry_after(await store.head("kept"), "kept"))
        assert [damage async for damage in store.audit()] == []

    assert (await looked(file))[1].is_good
    assert not is_told(file)


@pytest.mark.slow
async def test_what_is_asked_while_a_journal_is_compacted_is_answered(file: Path) -> None:
    """Writes wait for its end, reads for the moment in which the files change places."""
    await filled(file, *(f"s{number}" for number in range(20)))
    async with opened(file, cached_heads=1) as store:
        heads = [await store.head(f"s{number}") for number in range(20)]
        compacting = asyncio.create_task(steps_of(store.compact()))
        await asyncio.sleep(0)
        appends = [store.append(entry_after(head, f"s{number}")) for number, head in enumerate(heads)]
        reads = [store.entries(f"s{number}") for number in range(20)]
        with pytest.raises(StoreUnavailable, match="is being copied already"):
            await steps_of(store.backup(file.with_name("other")))
        await asyncio.gather(compacting, *appends, *reads)

        assert await store.count() == 100
        assert [damage async for damage in store.audit()] == []


@pytest.mark.slow
async def test_a_copy_that_nobody_listens_to_is_finished(file: Path) -> None:
    """A client that went away leaves no half of one."""
    await filled(file, "a", "gone")
    async with opened(file) as store:
        await store.delete("gone")
        work = store.compact()
        await anext(work)
        await work.aclose()
        assert store._copying is not None
        await store._copying

    assert not is_told(file, "gone")
    assert sorted(content(file)) == ["journal.duckdb", "journal.duckdb.head"]


DYING = """
import asyncio, os, sys
from pathlib import Path
from runtime.stores import duckcopy, duckfile, headfile
from runtime.stores.duckdb import DuckDBStore

def die(*_, **__):
    os.kill(os.getpid(), 9)

def then_die(call):
    return lambda *args, **named: (call(*args, **named), die())

async def main(file, point):
    store = DuckDBStore(file)
    await store.open()
    if point == "before the swap":
        duckfile._replace = die
    elif point == "after the swap":
        duckfile.sync_folder = die
    elif point == "opened anew":
        duckfile._lock_up = die
    elif point == "record written":
        headfile.HeadFile.begin = then_die(headfile.HeadFile.begin)
    async for step in store.compact():
        if point == "copied" or (point == "checked" and step.done == step.total):
            die()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["copied", "checked", "before the swap", "after the swap", "opened anew", "record written"]
)
async def test_a_kill_at_any_step_of_a_compaction_leaves_a_whole_journal(file: Path, point: str) -> None:
    """The old file or the new one; what was half made is cleared away."""
    await filled(file, "a", "b", "gone")
    async with opened(file) as store:
        await store.delete("gone")

    command = [sys.executable, "-c", DYING, str(file), point]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, check=False)
    assert ran.returncode == -9

    assert (await looked(file))[1].is_good
    async with opened(file) as store:
        assert [len(await store.entries(session)) for session in ("a", "b", "gone")] == [4, 4, 0]
        await store.append(entry_after(await store.head("a"), "a"))
        assert [damage async for damage in store.audit()] == []
    assert sorted(content(file)) == ["journal.duckdb", "journal.duckdb.head"]
