"""Nothing answered is lost and nothing is played twice, though the server dies, stops, or is raced.

The server is the real application in a process of its own (`crashing`); clients retry as the
contract says; in the end all that they heard is held against all that the store has
(`history_check`). Counts are small here and grow with EDGEWISE_TEST_SCALE.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clients import ROUNDS, Client, Plan
from conftest import SCALE
from crashing import POINTS
from every_store import Home, homed, in_file
from history_check import Log, Sent, check
from racing import MACHINE, race, servers_on
from served import runtime_of
from surviving import Door, Mortal

from runtime.formats import read_entry
from runtime.session import Entry, Invoke
from runtime.stores import Row
from runtime.turn import play

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one machine goes on for as long as anyone plays."""
    folder = tmp_path / "project"
    (folder / "machines").mkdir(parents=True)
    (folder / "machines" / "rounds.yaml").write_text(ROUNDS.lstrip(), encoding="utf-8")
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal's file."""
    return tmp_path / "journal.duckdb"


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """Where a journal is kept, empty: PostgreSQL where the test names no other store."""
    with homed(getattr(request, "param", "postgres"), tmp_path) as made:
        yield made


async def rows_in(home: Home) -> list[Row]:
    """All that a journal has, once its server is gone; it has to find itself in order."""
    store = home.store()
    await store.open()
    try:
        assert [damage async for damage in store.audit()] == []
        return [row async for row in store.walk()]
    finally:
        await store.close()


async def outcomes_untroubled(entries: list[Entry]) -> list[Any]:
    """What the same requests come to where nothing goes wrong: outcome and context of each turn."""
    runtime = runtime_of(MACHINE)
    await runtime.open()
    found = []
    for entry in entries:
        invoke = msgspec.convert({k: v for k, v in entry.request.items() if k != "played"}, Invoke)
        again = (await play(runtime, msgspec.structs.replace(invoke, expected_turn=None))).entry
        found.append((again.outcome, again.after.context, again.after.offer))
    return found


async def check_all(log: Log, rows: list[Row]) -> None:
    """The history is right, and each session's dice and outcomes are those of an untroubled play."""
    assert check(log, rows) == []
    entries = [read_entry(row.body, row.hash) for row in rows]
    for session_id in {entry.session_id for entry in entries}:
        mine = [entry for entry in entries if entry.session_id == session_id]
        kept = [(entry.outcome, entry.after.context, entry.after.offer) for entry in mine]
        assert kept == await outcomes_untroubled(mine)


# Deaths.


async def test_a_server_may_die_at_any_point_of_a_turn(project: Path, journal: Path):
    """One client, one session, eight deaths: each retry hears what the dead one settled, and goes on from there."""
    door, log, chance = Door(), Log(), random.Random(1)  # noqa: S311 - a play is no secret
    alone = Plan(sessions=1, clients=1, turns=10_000, reads=0, doubled=0, bare=0)
    async with door.played(log, alone, chance) as settled:
        for deaths, point in enumerate(POINTS, 1):
            with Mortal(project, journal, point=point, nth=3) as server:
                async with door.opened(server):
                    assert await server.died() == KILLED
            lost = {each.mark for each in log.requests if each.status == 0}
            assert deaths - 1 <= len(lost) <= deaths, "only what was under way was not heard"
        with Mortal(project, journal) as server:
            async with door.opened(server):
                await door.heard(3)
                await settled()

    await check_all(log, await rows_in(in_file(journal)))
    assert all(each.is_answered for each in log.requests if each.status)


async def test_a_server_may_be_killed_at_any_moment_under_load(project: Path, journal: Path):
    """Twelve clients on five sessions, with keys, doubled and sent again; some reads, some without a key."""
    door, log, chance = Door(), Log(), random.Random(2)  # noqa: S311 - a play is no secret
    crowd = Plan(sessions=5, clients=12, turns=100_000, bare=0.1)
    async with door.played(log, crowd, chance) as settled:
        for _ in range(4 * SCALE):
            with Mortal(project, journal) as server:
                async with door.opened(server):
                    await door.heard(chance.randint(1, 120))
                    server.child.kill()
                    assert await server.died() == KILLED
        with Mortal(project, journal) as server:
            async with door.opened(server):
                await door.heard(10)
                await settled()

    await check_all(log, await rows_in(in_file(journal)))
    assert any(each.is_replayed for each in log.requests)
    assert any(each.status == 0 for each in log.requests)


async def test_a_change_of_history_is_made_once_though_its_server_dies(project: Path, journal: Path):
    """A fork between its two writes, a rewind that was never answered, a retelling half answered: each is retried."""
    door, log = Door(), Log()
    player = Client("c", log, door.ask, Plan(sessions=1), seed=1)

    async def play() -> list[Sent]:
        await player.begin("s0")
        for turn in ("one", "two"):
            body = {"payload": {"selected_option_id": 2}}
            assert (await player.settle("s0", turn, body, key=f"key-{turn}")).is_answered
        return [
            await player.change("s0", "fork", {"at_turn": 2}, "key-fork"),
            await player.change("s0", "rewind", {"to_turn": 1}, "key-rewind"),
            await player.change("s0", "regenerate", {}, "key-regenerate"),
        ]

    playing = asyncio.create_task(play())
    for point, nth in (("checked", 4), ("appended", 2), ("answering", 2)):
        with Mortal(project, journal, point=point, nth=nth) as server:
            async with door.opened(server):
                assert await server.died() == KILLED
    with Mortal(project, journal) as server:
        async with door.opened(server):
            heard = await playing

    assert [(each.status, each.is_replayed) for each in heard] == [(200, False), (200, True), (200, True)]
    rows = await rows_in(in_file(journal))
    assert check(log, rows) == []
    entries = [read_entry(row.body, row.hash) for row in rows]
    mine = [entry.kind for entry in entries if entry.session_id == "s0"]
    assert mine == ["turn", "turn", "turn", "fork", "rewind", "regenerate"]
    (source,) = [entry for entry in entries if entry.kind == "fork" and entry.session_id == "s0"]
    assert [entry.kind for entry in entries if entry.session_id == source.child] == ["turn", "turn", "fork"]
    assert {entry.session_id for entry in entries} == {"s0", source.child}


# Several processes on one journal, in PostgreSQL.


LEASE = ("--lease-s", "1.5")
"""How long a turn holds its session without a sign of life: a death strands it no longer than that."""


async def test_of_two_processes_on_one_journal_one_may_die_at_any_point(project: Path, home: Home):
    """The other goes on with its sessions, its keys and the turns that it left; nothing is played twice."""
    door, log, chance = Door(), Log(), random.Random(3)  # noqa: S311 - a play is no secret
    crowd = Plan(sessions=3, clients=8, turns=100_000, bare=0.1)
    with Mortal(project, project / "survivor", home.url, more=LEASE) as survivor:
        async with door.opened(survivor), door.played(log, crowd, chance) as settled:
            await door.heard(5)
            for point in chance.sample(POINTS, min(len(POINTS), 3 * SCALE)):
                nth = chance.randint(1, 6)
                with Mortal(project, project / "mortal", home.url, point=point, nth=nth, more=LEASE) as server:
                    async with door.opened(server):
                        assert await server.died() == KILLED
            await door.heard(20)
            await settled()

    await check_all(log, await rows_in(home))
    assert any(each.status == 0 for each in log.requests)


async def test_a_process_that_was_stopped_beyond_its_lease_commits_nothing(project: Path, home: Home):
    """Another takes the turn meanwhile, by the same key; what wakes up finds that the session was taken from it."""
    door, log = Door(), Log()
    player = Client("c", log, door.ask, Plan(sessions=1), seed=1)
    turn = {"payload": {"selected_option_id": 1}}
    stops = (*LEASE, "--stop")
    with (
        Mortal(project, project / "stalled", home.url, point="checked", nth=2, more=stops) as stalled,
        Mortal(project, project / "awake", home.url, more=LEASE) as awake,
    ):
        async with door.opened(stalled):
            await player.begin("s0")
            waiting = asyncio.create_task(player.send("s0", "c.turn", turn, key="key-turn"))
            await stalled.stopped()
            async with door.opened(awake, alone=True):
                assert (await player.settle("s0", "c.turn", turn, key="key-turn")).is_answered
                assert (await player.settle("s0", "c.next", turn, key="key-next")).is_answered
            stalled.child.send_signal(signal.SIGCONT)
            late = await waiting

    rows = await rows_in(home)
    assert check(log, rows) == []
    assert len(rows) == 3
    assert late.is_replayed or b'"stale_turn"' in late.data


# Races.


@pytest.mark.parametrize("rivals", [2, 10])
@pytest.mark.parametrize(("home", "servers"), [("duckdb", 1), ("postgres", 1), ("postgres", 3)], indirect=["home"])
async def test_of_clients_that_race_for_a_turn_exactly_one_gets_it(home: Home, servers: int, rivals: int):
    """Again and again; the others are told what is open now, or that a turn is under way. Across servers too."""
    log = Log()
    async with servers_on(home, servers) as asks:
        clients = [Client(f"c{at}", log, asks[at % servers], Plan(), seed=at) for at in range(rivals)]
        await clients[0].begin("s0")
        for turn in range(1, 1 + 10 * SCALE):
            assert_one_won(await race(clients, turn), turn)
    assert check(log, await rows_in(home)) == []


def assert_one_won(heard: list[Sent], turn: int) -> None:
    """One was answered; each other was told why not, and what to do."""
    assert sorted(each.status for each in heard) == [200, *[409] * (len(heard) - 1)]
    for each in heard:
        data = msgspec.json.decode(each.data)
        if each.is_answered:
            assert data["session"]["turn"] == turn + 1
        elif data["error"] == "stale_turn":
            assert (data["expected_turn"], data["turn"], data["retry"]) == (turn, turn + 1, "refresh")
            assert data["allowed_event_types"]
        else:
            assert (data["error"], data["same_key"], data["retry"]) == ("turn_in_progress", False, "same")
