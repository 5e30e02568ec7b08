# ruff: noqa: ASYNC240 - a test may look at a file while its loop waits
"""What a DuckDB journal promises beyond the suite: durability, one owner, a known end, groups that fail by parts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from duckdb_journal import journal_file, opened  # noqa: F401 - a fixture
from journal_entries import entry_after, is_whole, line_of

from runtime.errors import StaleTurn, StoreUnavailable
from runtime.session import Entry, sealed
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.groups import GroupWriter
from runtime.stores.lockfile import Owner, owner_of

SCALE = int(os.environ.get("EDGEWISE_TEST_SCALE", "1"))
"""How many times as much chance to find something as in a plain run."""
CHILD = Path(__file__).parent / "journal_child.py"


async def filled(file: Path, count: int = 3) -> None:
    """A journal that was closed well."""
    async with opened(file) as store:
        for entry in line_of(count):
            await store.append(entry)


def beside(file: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return file.with_name(file.name + suffix)


def killed_child(file: Path, sessions: int, lines: int) -> dict[str, int]:
    """Run a writer, kill it with -9 after so many acknowledgements; session → the last seq acknowledged."""
    root = Path(__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(file), str(sessions)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    seen = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    seen += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    acknowledged: dict[str, int] = defaultdict(int)
    for line in seen:
        if line.endswith("\n"):
            session_id, seq = line.split()
            acknowledged[session_id] = int(seq)
    return acknowledged


@pytest.mark.slow
async def test_a_kill_at_any_moment_loses_no_acknowledged_entry(file: Path) -> None:
    """Reopened: each is there, in order, its chain right, none half; and play goes on from there."""
    chance = random.Random(7)  # noqa: S311 - moments, no secrets
    for _ in range(3 * SCALE):
        acknowledged = killed_child(file, sessions=20, lines=chance.randrange(1, 400))

        async with opened(file) as store:
            for session_id, seq in acknowledged.items():
                entries = await store.entries(session_id, limit=1_000_000)
                assert is_whole(entries)
                assert entries[-1].seq in (seq, seq + 1), "one more may have become durable, unheard"
                assert await store.head(session_id) == entries[-1]


async def test_all_comes_back_after_a_restart(file: Path) -> None:
    """Entries, lists, definitions, and what follows the head."""
    entries = line_of(3)
    async with opened(file) as store:
        for entry in entries:
            await store.append(entry)
        await store.keep("abc", {"machines/a.yaml": "灯"})

    async with opened(file) as store:
        assert await store.head("s1") == entries[-1]
        assert await store.entries("s1") == entries
        assert (await store.sessions())[0] == [entries[-1]]
        assert await store.kept("abc") == {"machines/a.yaml": "灯"}
        with pytest.raises(StaleTurn):
            await store.append(entries[-1])
        await store.append(entry_after(entries[-1]))


async def test_a_deletion_lasts_and_leaves_no_word_of_the_session(file: Path) -> None:
    """Also as the last thing that happened before the file was closed."""
    async with opened(file) as store:
        await store.append(entry_after(None, "gone"))
        await store.delete("gone")

    async with opened(file) as store:
        assert await store.head("gone") is None
        assert await store.sessions() == ([], None)
    with duckdb.connect(str(file)) as db:
        tables = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        assert "gone" not in str([db.execute(f"FROM {name}").fetchall() for name in tables])


async def test_heads_kept_in_memory_stay_within_their_bound(file: Path) -> None:
    """A session that was dropped is read from the file."""
    heads = [entry_after(None, f"s{number}") for number in range(50)]
    async with opened(file, cached_heads=5) as store:
        await asyncio.gather(*map(store.append, heads))

        assert len(store._heads) <= 5
        assert await asyncio.gather(*(store.head(head.session_id) for head in heads)) == heads
        await asyncio.gather(*(store.append(entry_after(head, head.session_id)) for head in heads))
        assert len(store._heads) <= 5


async def test_cold_sessions_that_are_asked_for_together_share_one_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred askers, no more than a handful of queries."""
    heads = [entry_after(None, f"s{number}") for number in range(50)]
    async with opened(file) as store:
        await asyncio.gather(*map(store.append, heads))

    async with opened(file) as store:
        queries: list[str] = []
        read = store._read

        async def counted(sql: str, values: list[Any]) -> list[Any]:
            queries.append(sql)
            return await read(sql, values)

        monkeypatch.setattr(store, "_read", counted)
        found = await asyncio.gather(*(store.head(head.session_id) for head in heads * 2))

    assert found == heads * 2
    assert len(queries) == 1


async def test_a_second_owner_is_refused_in_a_sentence_that_helps(file: Path) -> None:
    """Who holds it, where that one answers, and what several processes need."""
    async with opened(file, url="http://127.0.0.1:8000"):
        with pytest.raises(StoreUnavailable, match="is held by process") as refused:
            await DuckDBStore(file, lock_wait_s=0.1).open()

    assert refused.value.facts == {"owner_pid": os.getpid(), "owner_url": "http://127.0.0.1:8000"}
    assert str(file) in refused.value.message
    assert "PostgreSQL" in refused.value.hint


@pytest.mark.slow
async def test_another_process_is_refused_too(file: Path) -> None:
    """While the first one, which has opened and closed the file meanwhile, still holds its lock."""
    async with opened(file) as store:
        await store.append(entry_after(None))
        file.open("rb").close()
        program = f"import asyncio; from runtime.stores.duckdb import DuckDBStore as D; asyncio.run(D({str(file)!r}, lock_wait_s=0.1).open())"  # noqa: E501 - one program
        ran = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )

    assert ran.returncode != 0
    assert f"is held by process {os.getpid()}" in ran.stderr


async def test_a_second_owner_waits_for_the_first_to_let_go(file: Path) -> None:
    """As when a server is replaced."""
    first, second = DuckDBStore(file), DuckDBStore(file)
    await first.open()
    waiting = asyncio.create_task(second.open())
    await first.append(entry_after(None))

    await first.close()
    await waiting

    assert await second.head("s1") is not None
    await second.close()


async def test_the_lock_file_is_its_owners_and_names_it(file: Path) -> None:
    """Mode 0600; empty once let go."""
    lock = beside(file, ".lock")
    async with opened(file, url="http://127.0.0.1:1") as store:
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
        assert json.loads(lock.read_bytes()) == {
            "pid": os.getpid(),
            "url": "http://127.0.0.1:1",
            "token": store.owner_token,
        }
        assert len(store.owner_token) >= 32
        assert await asyncio.to_thread(owner_of, file) == Owner(os.getpid(), "http://127.0.0.1:1", store.owner_token)

    assert lock.read_bytes() == b""
    assert owner_of(file) is None


def test_who_holds_a_journal_is_asked_of_the_lock_and_not_of_what_stands_there(file: Path) -> None:
    """A process that was killed left its name in the file, and holds nothing."""
    file.parent.mkdir()
    assert owner_of(file) is None

    beside(file, ".lock").write_text('{"pid":1,"url":"http://127.0.0.1:1","token":"x"}')
    assert owner_of(file) is None


async def test_a_refused_file_lets_its_lock_go(file: Path) -> None:
    """What is not a DuckDB file is left as it is."""
    file.parent.mkdir()
    file.write_text("not a journal")

    with pytest.raises(StoreUnavailable, match="can't be opened"):
        await DuckDBStore(file).open()

    assert file.read_text() == "not a journal"
    file.unlink()
    async with opened(file, lock_wait_s=0):
        pass


async def test_a_file_of_a_later_format_is_refused(file: Path) -> None:
    """Rather than misread."""
    await filled(file)
    with duckdb.connect(str(file)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'format'")

    with pytest.raises(StoreUnavailable, match="the journal has format 99"):
        await DuckDBStore(file).open()


@pytest.mark.slow
async def test_entries_cut_off_the_end_are_found(file: Path) -> None:
    """A write-ahead log that lost its tail: refused, and the file and its log stay as they are."""
    killed_child(file, sessions=3, lines=50)
    log = beside(file, ".wal")
    os.truncate(log, log.stat().st_size * 2 // 3)
    before = file.read_bytes(), log.read_bytes()

    with pytest.raises(StoreUnavailable, match=r"entries are missing: .* of session 's[012]'.* Nothing was repaired"):
        await DuckDBStore(file).open()

    assert (file.read_bytes(), log.read_bytes()) == before


async def test_a_journal_that_vanished_is_found(file: Path) -> None:
    """No new one is begun in its place in silence."""
    await filled(file)
    file.unlink()

    with pytest.raises(StoreUnavailable, match="ends at entry 0; missing are seq 1 to 3 of session 's1'"):
        await DuckDBStore(file).open()

    assert not file.exists()


async def test_a_last_entry_that_was_altered_is_found(file: Path) -> None:
    """Its hash is not the one that was chained."""
    await filled(file)
    with duckdb.connect(str(file)) as db:
        db.execute("UPDATE entries SET hash = 'f' WHERE seq = 3")

    with pytest.raises(StoreUnavailable, match="entry 3 was altered, or stands in another's place"):
        await DuckDBStore(file).open()


async def test_a_head_file_that_cannot_be_read_is_refused(file: Path) -> None:
    """It is evidence; it is not thrown away."""
    await filled(file)
    beside(file, ".head").write_text("{")

    with pytest.raises(StoreUnavailable, match=r"\.head can't be read"):
        await DuckDBStore(file).open()

    assert beside(file, ".head").read_text() == "{"


@pytest.mark.parametrize("behind", ['{"group":1,"hash":"x"}', "", None])
async def test_a_head_file_that_is_behind_is_caught_up_with(file: Path, behind: str | None) -> None:
    """A crash between a commit and its mark, a power cut that emptied the file, a restored backup."""
    await filled(file)
    async with opened(file):
        pass
    head = beside(file, ".head")
    right = head.read_bytes()
    head.unlink()
    if behind is not None:
        head.write_text(behind)

    async with opened(file) as store:
        assert len(await store.entries("s1")) == 3

    assert head.read_bytes() == right


@pytest.mark.slow
async def test_a_row_that_cannot_be_written_fails_alone(file: Path) -> None:
    """Among many that arrive together; the others are durable, and its session is as it was."""
    good = [entry_after(None, f"s{number}") for number in range(30)]
    bad = msgspec.structs.replace(entry_after(None, "bad"), at_ms=2**80)
    arrived = [*good[:13], bad, *good[13:]]
    async with opened(file) as store:
        outcomes = await asyncio.gather(*map(store.append, arrived), return_exceptions=True)

        assert [type(outcome) for outcome in outcomes if outcome is not None] == [StoreUnavailable]
        assert isinstance(outcomes[13], StoreUnavailable)
        assert store.failed == ""
        assert await store.head("bad") is None
        await store.append(entry_after(None, "bad"))

    async with opened(file) as store:
        for entry in [*good, entry_after(None, "bad")]:
            assert await store.entries(entry.session_id) == [entry]


async def test_an_entry_that_cannot_be_encoded_never_reaches_the_group(file: Path) -> None:
    """A lone surrogate, had one come through the edge."""
    async with opened(file) as store:
        bad = msgspec.structs.replace(entry_after(None), narrator="\ud800")
        with pytest.raises(StoreUnavailable, match="turn 1 of 's1' can't be written"):
            await store.append(bad)

        await store.append(entry_after(None))
        assert len(await store.entries("s1")) == 1


async def test_a_head_that_cannot_be_read_fails_alone(file: Path) -> None:
    """Those asked for in the same read are answered."""
    async with opened(file) as store:
        for session_id in ("bad", "good"):
            await store.append(entry_after(None, session_id))
    with duckdb.connect(str(file)) as db:
        db.execute("UPDATE entries SET body = '{}' WHERE session_id = 'bad'")

    async with opened(file) as store:
        bad, good = await asyncio.gather(store.head("bad"), store.head("good"), return_exceptions=True)

    assert isinstance(bad, StoreUnavailable)
    assert good == entry_after(None, "good")


@pytest.mark.slow
async def test_what_is_queued_is_written_before_the_store_closes(file: Path) -> None:
    """And what comes later is refused."""
    entries = [entry_after(None, f"s{number}") for number in range(20)]
    store = DuckDBStore(file)
    await store.open()
    for entry in entries:
        assert await store.head(entry.session_id) is None
    appends = [asyncio.create_task(store.append(entry)) for entry in entries]
    await asyncio.sleep(0)

    await store.close()
    await asyncio.gather(*appends)

    with pytest.raises(StoreUnavailable):
        await store.append(entry_after(None, "late"))
    await store.close()
    async with opened(file) as store:
        assert len((await store.sessions())[0]) == 20


async def test_a_fatal_error_ends_the_store(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written or read any more, and whoever waits for that hears the reason."""
    async with opened(file) as store:
        ending = asyncio.create_task(store.until_failed())
        await store.append(entry_after(None))

        def fatal() -> None:
            raise duckdb.FatalException("the database has been invalidated")

        journal = store._opened()
        monkeypatch.setattr(journal, "_commit", fatal)
        with pytest.raises(StoreUnavailable):
            await store.append(entry_after(None, "s2"))
        monkeypatch.undo()

        assert "fatal error" in await ending
        assert store.failed == await ending
        for refused in (store.append(entry_after(None, "s3")), store.entries("s1"), store.ping()):
            with pytest.raises(StoreUnavailable, match="the journal has failed"):
                await refused

    async with opened(file) as store:
        assert [entry.session_id for entry in (await store.sessions())[0]] == ["s1"]


async def test_the_list_looks_as_far_back_as_it_must(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose head is old is found behind many new entries of another."""
    monkeypatch.setattr("runtime.stores.duckdb.LIST_SPAN", 2)
    async with opened(file) as store:
        old = entry_after(None, "old", player_id="ann")
        await store.append(old)
        for entry in line_of(9, "busy"):
            await store.append(entry)

        assert [entry.session_id for entry in (await store.sessions())[0]] == ["busy", "old"]
        assert await store.sessions(player_id="ann") == ([old], None)


async def test_rows_that_arrive_together_are_committed_together() -> None:
    """While one group is being committed, the next gathers."""
    groups: list[list[int]] = []
    writer = GroupWriter[int](lambda rows: groups.append([*rows]), lambda: False)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    blocked = writer.run(lambda: asyncio.run_coroutine_threadsafe(gate.wait(), loop).result())
    rows = [writer.write(number) for number in range(10)]
    gate.set()
    await asyncio.gather(blocked, *rows)
    await asyncio.to_thread(writer.stop)

    assert groups == [[*range(10)]]


async def test_work_keeps_its_place_between_rows() -> None:
    """What came before it is written before it."""
    order: list[object] = []
    writer = GroupWriter[int](order.extend, lambda: False)

    done = [writer.write(1), writer.run(lambda: order.append("work")), writer.write(2)]
    await asyncio.gather(*done)
    await asyncio.to_thread(writer.stop)

    assert order == [1, "work", 2]


async def test_a_broken_journal_is_not_tried_again() -> None:
    """Each waiter hears the error; nothing is halved."""
    tries: list[int] = []

    def commit(rows: Any) -> None:
        tries.append(len(rows))
        raise StoreUnavailable("broken")

    writer = GroupWriter[int](commit, lambda: True)
    outcomes = await asyncio.gather(*(writer.write(number) for number in range(4)), return_exceptions=True)
    await asyncio.to_thread(writer.stop)

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 4
    assert sum(tries) == 4


# Claims and keys, as far as the file and its cache have a part in them; the suite has the rest.


def keyed(entries: list[Entry], *keys: str | None) -> list[Entry]:
    """A session's entries made by these keys, linked anew."""
    linked: list[Entry] = []
    for entry, key in zip(entries, keys, strict=True):
        link = linked[-1].hash if linked else ""
        linked.append(sealed(msgspec.structs.replace(entry, key=key, request_hash="r", prev_hash=link, hash="")))
    return linked


async def counted_reads(store: DuckDBStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that the store sends from now on."""
    queries: list[str] = []
    read = store._read

    async def counted(sql: str, values: list[Any]) -> list[Any]:
        queries.append(sql)
        return await read(sql, values)

    monkeypatch.setattr(store, "_read", counted)
    return queries


async def test_a_new_key_costs_no_look_into_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cold session's keys come with its head; a hit reads its one entry."""
    entries = keyed(line_of(3), "k1", None, "k3")
    async with opened(file) as store:
        for entry in entries:
            await store.append(entry)

    async with opened(file) as store:
        queries = await counted_reads(store, monkeypatch)
        first = await store.claim("s1", key="new")
        assert (first.head, first.is_mine, len(queries)) == (entries[-1], True, 1)
        for number in range(5):
            await store.release(first)
            first = await store.claim("s1", key=f"new{number}")
        assert len(queries) == 1

        assert (await store.claim("s1", key="k1")).answered == entries[0]
        assert (await store.claim("s1", key="k3")).answered == entries[2]
        assert len(queries) == 3


async def test_keys_that_are_older_than_what_was_read_are_read_when_they_are_asked_for(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was set back finds them too; what was appended meanwhile is kept."""
    entries = keyed(line_of(4), "k1", "k2", "k3", "k4")
    async with opened(file) as store:
        for entry in entries[:3]:
            await store.append(entry)

    async with opened(file) as store:
        since_ms = entries[2].at_ms
        queries = await counted_reads(store, monkeypatch)
        assert (await store.claim("s1", key="k3", since_ms=since_ms)).answered == entries[2]
        claim = await store.claim("s1", key="k1", since_ms=since_ms)
        assert (claim.answered, claim.is_mine, len(queries)) == (None, True, 2)
        await store.append(entries[3], claim)

        assert (await store.claim("s1", key="k2", since_ms=entries[1].at_ms)).answered == entries[1]
        assert (await store.claim("s1", key="k4", since_ms=0)).answered == entries[3]
        assert (await store.claim("s1", key="k1", since_ms=0)).answered == entries[0]


@pytest.mark.slow
async def test_many_who_ask_for_one_cold_session_by_different_times_are_all_answered(file: Path) -> None:
    """None waits for ever on another's read."""
    entries = keyed(line_of(4), "k1", "k2", "k3", "k4")
    async with opened(file) as store:
        for entry in entries:
            await store.append(entry)

    async with opened(file, cached_heads=1) as store:
        asked = [store.claim("s1", key=entry.key, since_ms=entry.at_ms) for entry in entries * 5]
        heads = [store.head(f"s{number % 3}") for number in range(20)]
        claims = await asyncio.gather(*asked)
        await asyncio.gather(*heads)

    assert [claim.answered for claim in claims] == entries * 5


@pytest.mark.slow
async def test_the_keys_of_a_session_that_never_rests_are_bounded(file: Path) -> None:
    """Those that are too old to be asked for are dropped, and found again where somebody does."""
    entries = keyed(line_of(700), *(f"k{number}" for number in range(700)))
    async with opened(file) as store:
        for entry in entries:
            await store.append(entry, await store.claim("s1", key=entry.key, since_ms=entry.at_ms - 10))

        assert len(store._heads.get("s1")._keys) < 300
        assert (await store.claim("s1", key="k5", since_ms=0)).answered == entries[5]


async def test_a_key_of_a_deleted_session_is_nobodys(file: Path) -> None:
    """Nor of the session that has its id now."""
    old = keyed(line_of(2), "k1", "k2")
    async with opened(file) as store:
        for entry in old:
            await store.append(entry)
        assert await store.delete("s1")
        claim = await store.claim("s1", key="k2")
        assert (claim.head, claim.answered, claim.is_mine) == (None, None, True)
        await store.append(keyed(line_of(1), "k3")[0], claim)
        assert (await store.claim("s1", key="k1")).answered is None

    async with opened(file) as store:
        assert (await store.claim("s1", key="k1")).answered is None
        assert (await store.claim("s1", key="k3")).answered is not None


async def test_whoever_goes_away_while_its_entry_is_written_is_found_by_its_key(file: Path) -> None:
    """The claim is given back at once; the next one waits for the write, and hears of it."""
    (entry,) = keyed(line_of(1), "k1")
    async with opened(file) as store:
        claim = await store.claim("s1", key="k1")
        appending = asyncio.create_task(store.append(entry, claim))
        await asyncio.sleep(0)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        await store.release(claim)

        assert (await store.claim("s1", key="k1")).answered == entry
