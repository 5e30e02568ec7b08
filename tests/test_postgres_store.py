"""The PostgreSQL store where processes, hosts and networks fail: what the suite of all stores can't ask.

In this order: two processes, leases and fencing, a commit whose answer is lost, a server that is
gone, the tables, and what the statements name. Two stores on one database stand for two processes.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import psycopg
import pytest
from conftest import SCALE
from journal_entries import entry_after, is_whole, line_of
from postgres import database, name_of, pgbouncer, server
from proxy import Proxy

from runtime.errors import SessionExists, StaleTurn, StoreUnavailable
from runtime.session import Entry, body_of, sealed
from runtime.stores import Claim, Damage, pg_statements
from runtime.stores.heads import row_of
from runtime.stores.pg_writer import entry_values
from runtime.stores.postgres import PostgresStore

MODES = [False, True]
"""Turns of many sessions in one statement, or each in a transaction of its own."""


@pytest.fixture
def url() -> Iterator[str]:
    """A database with the tables of this version."""
    with database() as fresh:
        yield fresh


@pytest.fixture(params=MODES, ids=["grouped", "cluster-safe"])
def is_cluster_safe(request: pytest.FixtureRequest) -> bool:
    """Both ways of writing."""
    return bool(request.param)


@pytest.fixture
async def stores() -> AsyncIterator[Callable[..., Any]]:
    """Opens stores, and closes them in the end; where one is to be dead, nothing renews its leases."""
    async with AsyncExitStack() as closing:

        async def opened(url: str, *, is_dead: bool = False, **settings: Any) -> PostgresStore:
            store = PostgresStore(url, **settings)
            closing.push_async_callback(store.close)
            if not is_dead:
                await store.open()
            return store

        yield opened


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A network before the server."""
    async with Proxy(server().port) as before:
        yield before


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What the database says, beside any store."""
    return server().execute(sql, name_of(url))


def hang_up(url: str) -> None:
    """End every connection to the database, as its administrator."""
    ours = f"SELECT pid FROM pg_stat_activity WHERE datname = '{name_of(url)}' AND pid <> pg_backend_pid()"  # noqa: S608
    asked(url, f"SELECT pg_terminate_backend(pid) FROM ({ours}) AS ours")  # noqa: S608 - a name of our own


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another process makes true."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is outside of this process
            await asyncio.sleep(0.01)


# Two processes.


@pytest.mark.slow
async def test_of_two_processes_that_claim_a_session_one_holds_it(url, stores, is_cluster_safe):
    """Begun or not; the other sees the holder's key."""
    one, two = [await stores(url, is_cluster_safe=is_cluster_safe) for _ in range(2)]
    for number in range(20 * SCALE):
        session_id = f"s{number}"
        if number % 2:
            await one.append(entry_after(None, session_id))

        claims = await asyncio.gather(one.claim(session_id, key="k-1"), two.claim(session_id, key="k-2"))

        (mine,) = [claim for claim in claims if claim.is_mine]
        (other,) = [claim for claim in claims if not claim.is_mine]
        assert (other.key, other.head) == (mine.key, mine.head)


async def test_of_two_processes_that_append_one_is_told_that_it_is_stale(url, stores, is_cluster_safe):
    """Also where neither has claimed: the entry names the head that it follows."""
    one, two = [await stores(url, is_cluster_safe=is_cluster_safe) for _ in range(2)]
    head: Entry | None = None
    for _ in range(20 * SCALE):
        rivals = [entry_after(head, scene=scene) for scene in ("one", "two")]
        outcomes = await asyncio.gather(one.append(rivals[0]), two.append(rivals[1]), return_exceptions=True)
        (head,) = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [StaleTurn]
        assert await one.head("s1") == await two.head("s1") == head

    assert is_whole(await one.entries("s1", limit=1000))


async def test_two_processes_that_wait_for_each_other_make_one_chain(url, stores, is_cluster_safe):
    """Each looks until the other's turn has ended; a key that both use is played once."""
    one, two = [await stores(url, is_cluster_safe=is_cluster_safe) for _ in range(2)]

    async def play(store: PostgresStore) -> None:
        turn = 1
        while turn <= 5:
            claim = await store.claim("s1", key=f"key {turn}")
            if claim.is_mine:
                entry = entry_after(claim.head)
                await store.append(sealed(msgspec.structs.replace(entry, key=f"key {turn}")), claim)
            elif not claim.answered:
                await store.freed("s1", 60)
            turn += bool(claim.answered)

    await asyncio.gather(play(one), play(two))

    entries = await one.entries("s1")
    assert is_whole(entries)
    assert [entry.key for entry in entries] == [f"key {turn}" for turn in range(1, 6)]


async def test_a_claim_that_waited_for_anothers_commit_sees_what_that_wrote(url, stores, is_cluster_safe):
    """Though it began before: the head, and the entry of its own key."""
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    head = entry_after(None)
    await store.append(head)
    for key, other_key in (("k-1", "k-2"), ("k", "k")):
        entry = sealed(msgspec.structs.replace(entry_after(head), key=other_key))
        async with await psycopg.AsyncConnection.connect(url) as other:
            moved = {**entry_values(entry, body_of(entry).decode()), "player_id": None, "ended": False, "epoch": 0}
            await other.execute(pg_statements.MOVE.encode(), {**moved, "prev_hash": head.hash})
            await other.execute(pg_statements.WRITE.encode(), moved)
            claiming = asyncio.create_task(store.claim("s1", key=key))
            await until(lambda: bool(asked(url, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))
            await other.commit()

        claim = await claiming

        assert claim.head == entry
        assert (claim.is_mine, claim.answered) == ((False, entry) if key == other_key else (True, None))
        assert await store.in_progress("s1") == claim.is_mine
        await store.release(claim)
        head = entry


async def test_a_list_that_another_process_writes_to_is_read_once_through(url, stores):
    one, two = await stores(url), await stores(url)
    for number in range(6):
        await (one, two)[number % 2].append(entry_after(None, f"s{number}"))

    page, cursor = await one.sessions(limit=2)
    await two.append(entry_after(page[0], page[0].session_id))
    rest, end = await two.sessions(limit=9, after=cursor)

    assert [entry.session_id for entry in [*page, *rest]] == ["s5", "s4", "s3", "s2", "s1", "s0"]
    assert end is None


# Leases and fencing.


async def test_a_dead_processs_session_is_free_when_its_lease_has_run_out(url, stores, is_cluster_safe):
    """By the database's clock. Whoever waits for it is told."""
    dead = await stores(url, is_dead=True, is_cluster_safe=is_cluster_safe, lease_s=0.5)
    held = await dead.claim("s1", key="k-dead")
    living = await stores(url, is_cluster_safe=is_cluster_safe)
    assert (await living.claim("s1")).key == "k-dead"

    await living.freed("s1", 60)

    claim = await living.claim("s1")
    assert claim.is_mine
    first = entry_after(None)
    await living.append(first, claim)
    with pytest.raises(StaleTurn):
        await dead.append(entry_after(None, scene="too late"), held)
    assert await living.entries("s1") == [first]


async def test_a_stalled_owner_that_wakes_after_its_lease_cannot_commit(url, stores, is_cluster_safe):
    """Though the head is the one that it knew, and though the new owner has not written yet."""
    stalled = await stores(url, is_dead=True, is_cluster_safe=is_cluster_safe, lease_s=0.2)
    first = entry_after(None)
    await stalled.append(first)
    held = await stalled.claim("s1")
    living = await stores(url, is_cluster_safe=is_cluster_safe)
    await living.freed("s1", 60)
    taken = await living.claim("s1")
    assert (taken.is_mine, taken.head) == (True, first)

    with pytest.raises(StaleTurn, match="taken over"):
        await stalled.append(entry_after(first, scene="too late"), held)
    with pytest.raises(StaleTurn):
        await stalled.delete("s1", held)
    await stalled.release(held)

    assert await living.in_progress("s1")
    second = entry_after(first)
    await living.append(second, taken)
    assert await living.entries("s1") == [first, second]


async def test_a_lease_that_ran_out_and_that_nobody_took_still_commits(url, stores):
    """The lease only spares a narration: nothing was lost by its end."""
    slow = await stores(url, is_dead=True, lease_s=0.01)
    claim = await slow.claim("s1")
    await slow.freed("s1", 60)

    await slow.append(entry_after(None), claim)

    assert await slow.head("s1") is not None


async def test_a_lease_is_renewed_while_its_process_lives(url, stores):
    living, other = await stores(url, lease_s=0.6), await stores(url)
    held = await living.claim("s1")
    ((first_end,),) = asked(url, "SELECT lease_until FROM edgewise_sessions")

    def is_past_first_end() -> bool:
        return bool(asked(url, f"SELECT 1 WHERE statement_timestamp() > '{first_end}'"))

    await until(is_past_first_end)

    assert not (await other.claim("s1")).is_mine
    await living.append(entry_after(None), held)
    assert (await other.claim("s1")).is_mine


async def test_closing_gives_back_what_is_held(url, stores):
    closing, other = await stores(url), await stores(url)
    await closing.claim("s1")

    await closing.close()

    assert (await other.claim("s1")).is_mine


async def test_a_session_that_is_only_claimed_is_no_session_anywhere(url, stores):
    store = await stores(url)
    claim = await store.claim("s1", key="k")

    assert (await store.head("s1"), await store.entries("s1"), await store.tree("s1")) == (None, [], [])
    assert await store.sessions() == ([], None)
    assert await store.count() == 0
    assert [row async for row in store.walk()] == []
    assert [damage async for damage in store.audit()] == []
    assert await store.delete("s1") is False
    assert await store.in_progress("s1")

    await store.release(claim)
    assert asked(url, "SELECT * FROM edgewise_sessions") == []


async def test_what_a_dead_process_left_of_sessions_unbegun_is_swept(url, stores):
    dead = await stores(url, is_dead=True)
    for session_id in ("gone", "held"):
        await dead.claim(session_id)
    asked(url, "UPDATE edgewise_sessions SET lease_until = now() - interval '2 hours' WHERE session_id = 'gone'")

    await stores(url)

    assert asked(url, "SELECT session_id FROM edgewise_sessions") == [("held",)]


async def test_a_claim_that_nobody_waits_for_any_more_is_given_back(url, stores, proxy):
    """The client went away while the answer was on its way."""
    store = await stores(proxy.url(url))
    proxy.latency_s = 0.05
    claiming = asyncio.create_task(store.claim("s1"))
    await until(lambda: bool(asked(url, "SELECT 1 FROM edgewise_sessions")))
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming

    assert asked(url, "SELECT 1 FROM edgewise_sessions") == []


async def test_a_release_costs_nothing_after_an_append(url, stores, proxy):
    store = await stores(proxy.url(url))
    claim = await store.claim("s1")
    await store.append(entry_after(None), claim)
    passed = dict(proxy.passed)

    await store.release(claim)

    assert proxy.passed == passed


async def test_a_claim_and_an_append_are_a_round_trip_each(url, stores, proxy):
    """Of the head, the key and the lease at once; grouped."""
    store = await stores(proxy.url(url))
    await store.append(entry_after(None))
    asked(url, f"ALTER DATABASE {name_of(url)} SET log_statement = 'all'")
    logged = await stores(proxy.url(url), connections=1)
    start = server().log.stat().st_size

    claim = await logged.claim("s1", key="k")
    await logged.append(entry_after(claim.head), claim)

    statements = [sql for sql, _ in statements_of(url, start) if "edgewise_entries" in sql]
    assert len(statements) == 2


# A commit whose answer is lost.


async def outcome_of(work: Any) -> Any:
    """What was returned or refused; nothing else may be raised."""
    try:
        return await work
    except StoreUnavailable as error:
        return error


async def bytes_of_append(store: PostgresStore, proxy: Proxy, session_id: str) -> dict[str, int]:
    """How much an append sends and gets."""
    claim = await store.claim(session_id)
    before = dict(proxy.passed)
    await store.append(entry_after(None, session_id), claim)
    return {way: count - before[way] for way, count in proxy.passed.items()}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_commit_cut_at_any_byte_is_settled(url, stores, proxy, is_cluster_safe, way):
    """The line is cut within the statement or within its answer: the entry is there, once, and that is said."""
    store = await stores(proxy.url(url), is_cluster_safe=is_cluster_safe)
    size = (await bytes_of_append(store, proxy, "measured"))[way]
    offsets = sorted({*range(0, size, max(1, size // (20 * SCALE))), *range(max(0, size - 12), size)})
    for offset in offsets:
        session_id = f"{way} {offset}"
        claim = await store.claim(session_id, key="k")
        first = sealed(msgspec.structs.replace(entry_after(None, session_id), key="k"))
        proxy.cut_after(**{way: offset})

        await store.append(first, claim)
        await store.release(claim)

        assert await store.entries(session_id) == [first]
        again = await store.claim(session_id, key="k")
        assert again.answered == first
        assert not await store.in_progress(session_id)
    assert proxy.cuts == len(offsets)
    assert [damage async for damage in store.audit()] == []


@pytest.mark.slow
async def test_no_entry_is_lost_or_doubled_though_every_line_is_cut_again_and_again(
    url, stores, proxy, is_cluster_safe
):
    """What was acknowledged is there; what was refused may be sent again, and is there once."""
    settings = {"is_cluster_safe": is_cluster_safe, "budget_s": 0.3, "within_s": 0.3, "wait_s": 0.3, "lease_s": 0.5}
    store, healthy = await stores(proxy.url(url), **settings), await stores(url)
    refused = 0
    sizes = await bytes_of_append(store, proxy, "measured")
    for number in range(15 * SCALE):
        head = await healthy.head("s1")
        entry = entry_after(head, scene=f"told {number}")
        proxy.cut_after(down=number * 13 % 400, times=3)
        claim = await outcome_of(store.claim("s1"))
        if isinstance(claim, Claim) and claim.is_mine:
            proxy.cut_after(up=sizes["up"] * (number % 5) // 4, down=number * 7 % (sizes["down"] + 40), times=9)
            acknowledged = await outcome_of(store.append(entry, claim)) is None
            refused += not acknowledged
            proxy.cut_after()
            await store.release(claim)
            newest = await healthy.head("s1")
            assert newest in ((entry,) if acknowledged else (entry, head))
        proxy.cut_after()
        await healthy.freed("s1", 60)

    entries = await healthy.entries("s1", limit=1000)
    assert is_whole(entries)
    assert len({bytes(entry.answer) for entry in entries}) == len(entries)


@pytest.mark.slow
async def test_a_statement_that_comes_late_has_no_effect(url, stores, proxy, is_cluster_safe):
    """It hung in the network, was given up, and written again; then it arrives after all."""
    store = await stores(proxy.url(url), is_cluster_safe=is_cluster_safe, within_s=0.3)
    first = entry_after(None)
    claim = await store.claim("s1")
    await store.append(first, claim)
    claim = await store.claim("s1")
    second = entry_after(first)
    proxy.stall("up")

    await store.append(second, claim)
    await store.release(claim)
    assert await store.entries("s1") == [first, second]

    third = entry_after(second)
    await store.append(third)
    await proxy.resume_to_the_end()
    assert await store.entries("s1") == [first, second, third]
    assert [damage async for damage in store.audit()] == []


@pytest.mark.slow
async def test_an_append_that_was_refused_does_not_come_true_later(url, stores, proxy, is_cluster_safe):
    """The statement still hung in the network when its time and its budget were over."""
    store = await stores(proxy.url(url), is_cluster_safe=is_cluster_safe, within_s=0.3, budget_s=0.1)
    first = entry_after(None)
    await store.append(first)
    claim = await store.claim("s1")
    proxy.stall("up")

    with pytest.raises(StoreUnavailable):
        await store.append(entry_after(first), claim)
    assert await store.head("s1") == first
    await proxy.resume_to_the_end()

    await store.ping()
    assert await store.head("s1") == first
    await store.release(claim)
    assert not await store.in_progress("s1")


@pytest.mark.slow
async def test_an_entry_that_cannot_be_settled_is_refused_and_never_guessed(url, stores, proxy, is_cluster_safe):
    """The answer is lost and nobody can be asked: the client is told to send the same again."""
    impatient = {"budget_s": 0.2, "within_s": 0.2, "wait_s": 0.2, "lease_s": 1.0}
    store = await stores(proxy.url(url), is_cluster_safe=is_cluster_safe, **impatient)
    healthy = await stores(url)
    claim = await store.claim("s1", key="k")
    first = sealed(msgspec.structs.replace(entry_after(None), key="k"))
    proxy.stall("down")
    await proxy.refuse()

    with pytest.raises(StoreUnavailable, match="can't be found out") as refused:
        await store.append(first, claim)

    assert refused.value.retry == "same"
    await store.release(claim)
    proxy.resume()
    await proxy.accept()
    await healthy.freed("s1", 60)
    again = await healthy.claim("s1", key="k")
    assert again.is_mine != (again.answered == first)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["40001", "40P01", "40003"])
async def test_a_transaction_that_the_database_wants_again_is_run_again(url, stores, is_cluster_safe, state):
    """The same entry, so nothing is narrated twice; twenty sessions that share its statement don't notice.

    40003 says that the outcome is not known: it is found out first.
    """
    asked(url, "CREATE SEQUENCE injected")
    asked(url, f"""
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('injected') <= 2 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '{state}'; END IF;
            RETURN NEW;
        END $$""")  # fmt: skip
    asked(url, "CREATE TRIGGER conflict BEFORE INSERT ON edgewise_entries FOR EACH ROW EXECUTE FUNCTION conflict()")
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    entries = [entry_after(None, f"s{number}") for number in range(20)]

    await asyncio.gather(*map(store.append, entries))

    assert [await store.entries(entry.session_id) for entry in entries] == [[entry] for entry in entries]


async def test_a_conflict_without_end_ends_with_the_budget(url, stores, is_cluster_safe):
    asked(url, """
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'injected' USING ERRCODE = '40001';
        END $$""")  # fmt: skip
    asked(url, "CREATE TRIGGER conflict BEFORE INSERT ON edgewise_entries FOR EACH ROW EXECUTE FUNCTION conflict()")
    store = await stores(url, is_cluster_safe=is_cluster_safe, budget_s=0.2)
    claim = await store.claim("s1")

    with pytest.raises(StoreUnavailable):
        await store.append(entry_after(None), claim)

    await store.release(claim)
    assert await store.head("s1") is None
    assert await store.in_progress("s1") is False


async def test_an_entry_that_cannot_be_written_fails_alone(url, stores, is_cluster_safe):
    """Others that share its statement are durable."""
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    good = [entry_after(None, f"s{number}") for number in range(9)]
    bad = entry_after(None, "bad", player_id="a\x00b")

    outcomes = await asyncio.gather(*map(store.append, [*good[:5], bad, *good[5:]]), return_exceptions=True)

    assert isinstance(outcomes.pop(5), StoreUnavailable)
    assert outcomes == [None] * 9
    assert await store.count() == 9


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down"])
async def test_an_adoption_and_a_deletion_cut_at_any_byte_are_settled(url, stores, proxy, way):
    """A whole session, once; or nothing of it."""
    store = await stores(proxy.url(url))
    before = dict(proxy.passed)
    await store.adopt([*map(row_of, line_of(3, "measured"))])
    size = proxy.passed[way] - before[way]  # type: ignore[literal-required]
    for offset in range(0, size, max(1, size // (8 * SCALE))):
        entries = line_of(3, f"s{offset}")
        proxy.cut_after(**{way: offset})
        await store.adopt([*map(row_of, entries)])
        assert await store.entries(f"s{offset}") == entries
        with pytest.raises(SessionExists):
            await store.adopt([*map(row_of, entries)])

        proxy.cut_after(**{way: min(offset, 40 * (offset % 17))})
        assert await store.delete(f"s{offset}") is True
        assert await store.entries(f"s{offset}") == []
    assert await store.count() == 3


# A server that is gone.


@pytest.mark.slow
async def test_a_store_whose_server_is_gone_refuses_at_once_and_heals(url, stores, is_cluster_safe):
    """Stopped or killed; nothing is opened again by hand, and what was acknowledged is there."""
    store = await stores(url, is_cluster_safe=is_cluster_safe, budget_s=1.0)
    entries = [entry_after(None)]
    await store.append(entries[0])
    for end in (server().stop, server().kill):
        claim = await store.claim("s1")
        end()
        try:
            asked = (store.head("s1"), store.claim("s1"), store.ping(), store.sessions())
            written = store.append(entry_after(entries[-1]), claim)
            heard = await asyncio.gather(*asked, written, return_exceptions=True)
            assert [type(each) for each in heard] == [StoreUnavailable] * 5
        finally:
            server().start()

        await store.ping()
        await store.release(claim)
        entries.append(entry_after(entries[-1]))
        await store.append(entries[-1], await store.claim("s1"))
        assert await store.entries("s1") == entries


async def test_connections_that_died_in_the_pool_are_nobodys_fault(url, stores, is_cluster_safe):
    """Each next call finds a new one: reads, claims and appends."""
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    head: Entry | None = None
    for _ in range(3):
        claim = await store.claim("s1")
        await asyncio.gather(*(store.head("s1") for _ in range(5)))
        hang_up(url)
        head = entry_after(head)
        await store.append(head, claim)
        assert await store.head("s1") == head


@pytest.mark.slow
async def test_a_network_that_swallows_everything_is_given_up_in_time(url, stores, proxy):
    """A read is tried again on a new line; where there is none, it is refused."""
    store = await stores(proxy.url(url), within_s=0.3, wait_s=0.3)
    await store.append(entry_after(None))
    proxy.stall()
    assert await store.head("s1") is not None

    proxy.stall()
    await proxy.refuse()
    with pytest.raises(StoreUnavailable):
        await store.head("s1")

    await proxy.accept()
    assert await store.head("s1") is not None


async def test_more_callers_than_connections_wait_their_turn(url, stores):
    store = await stores(url, connections=2)
    await store.append(entry_after(None))

    heads = await asyncio.gather(*(store.head("s1") for _ in range(50)))

    assert {head.hash for head in heads if head} == {heads[0].hash}


async def test_a_reader_that_goes_away_takes_no_connection_with_it(url, stores, proxy):
    store = await stores(proxy.url(url), connections=2)
    await store.append(entry_after(None))
    for _ in range(6):
        proxy.stall()
        reading = asyncio.create_task(store.head("s1"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        proxy.resume()

    assert await store.head("s1") is not None


async def test_a_database_that_refuses_writes_is_no_store(url, stores):
    """A standby answers reads; ping tells it apart."""
    store = await stores(url)
    asked(url, f"ALTER DATABASE {name_of(url)} SET default_transaction_read_only = on")
    hang_up(url)

    for refused in (store.ping(), store.claim("s1"), store.append(entry_after(None))):
        with pytest.raises(StoreUnavailable):
            await refused

    server().execute(f"ALTER DATABASE {name_of(url)} RESET default_transaction_read_only")
    await store.ping()


async def test_no_password_is_told_or_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    for address in ("postgresql://me:hu@sh@127.0.0.1:1/x", "postgresql://me:hush@127.0.0.1:1/x", "postgresql://[hush"):
        with pytest.raises(StoreUnavailable) as refused:
            await PostgresStore(address, wait_s=1, within_s=1).open()
        assert "sh@" not in str(refused.value) + caplog.text
        assert "hush" not in str(refused.value) + caplog.text


# Through pgbouncer.


@pytest.mark.slow
@pytest.mark.peer
async def test_many_sessions_are_played_through_a_pooler_with_few_connections(url, stores, is_cluster_safe):
    """In transaction mode each transaction may get another connection; two stores of ten share three."""
    with pgbouncer(url, pool_size=3) as pooled:
        one, two = [await stores(pooled, is_cluster_safe=is_cluster_safe) for _ in range(2)]

        async def play(session_id: str) -> None:
            for turn in range(1, 6):
                store = (one, two)[turn % 2]
                claim = await store.claim(session_id, key=f"k{turn}")
                assert claim.is_mine
                await store.append(entry_after(claim.head, session_id), claim)

        await asyncio.gather(*(play(f"s{number}") for number in range(30)))

        for number in range(30):
            assert is_whole(await one.entries(f"s{number}"))
        assert await two.count() == 150
        assert [damage async for damage in two.audit()] == []


# The tables.


async def test_two_hosts_that_start_at_once_make_the_tables_once():
    """And agree on the secret."""
    with database(is_empty=True) as empty:
        rivals = [PostgresStore(empty) for _ in range(8)]
        await asyncio.gather(*(store.open() for store in rivals))
        secrets = await asyncio.gather(*(store.secret() for store in rivals))
        await asyncio.gather(*(store.close() for store in rivals))

        assert asked(empty, "SELECT number, name FROM edgewise_migrations") == [
            (1, "0001_journal.sql"),
            (2, "0002_ledger.sql"),
        ]
        assert len(set(secrets)) == 1
        assert len(secrets[0]) == 32


def harm_first_table(url: str, raised: str) -> None:
    """Whatever the database does when its first table is made, it does that first."""
    asked(url, f"""
        CREATE FUNCTION harm() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {raised} END $$;
        CREATE SEQUENCE harmed;
        CREATE EVENT TRIGGER harm ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION harm()""")  # fmt: skip


LOSS = "PERFORM pg_terminate_backend(pg_backend_pid());"
CONFLICT = "RAISE EXCEPTION 'injected' USING ERRCODE = '40001';"


@pytest.mark.parametrize("raised", [LOSS, CONFLICT])
async def test_a_first_start_whose_connection_is_lost_goes_on(stores, raised):
    """Twice; a sequence counts on through what is rolled back."""
    with database(is_empty=True) as empty:
        harm_first_table(empty, f"IF nextval('harmed') <= 2 THEN {raised} END IF;")
        store = await stores(empty)
        assert await store.count() == 0
        await store.close()


@pytest.mark.parametrize("raised", [LOSS, CONFLICT])
async def test_a_first_start_that_never_gets_through_is_refused_with_what_to_look_at(raised):
    with database(is_empty=True) as empty:
        harm_first_table(empty, raised)
        with pytest.raises(StoreUnavailable) as refused:
            await PostgresStore(empty).open()
        assert "Is the database up" in refused.value.hint


async def test_tables_of_a_newer_version_are_refused(url):
    asked(url, "INSERT INTO edgewise_migrations VALUES (9999, '9999_later.sql', now())")

    with pytest.raises(StoreUnavailable, match="have version 9999, and this version of Edgewise knows 2"):
        await PostgresStore(url).open()


async def test_a_host_without_the_right_to_change_tables_starts_on_ready_ones(url):
    asked(url, "CREATE ROLE player LOGIN")
    try:
        asked(url, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO player")
        store = PostgresStore(url.replace("postgres@", "player@"))
        await store.open()
        await store.append(entry_after(None), await store.claim("s1"))
        assert await store.delete("s1") is True
        await store.close()
    finally:
        asked(url, "DROP OWNED BY player")
        asked(url, "DROP ROLE player")


async def test_a_database_of_another_encoding_is_refused():
    server().execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreUnavailable, match="LATIN1"):
            await PostgresStore(server().url("latin")).open()
    finally:
        server().execute("DROP DATABASE latin WITH (FORCE)")


DISTRIBUTED = {"edgewise_sessions", "edgewise_entries", "edgewise_tombstones", "edgewise_ledger"}
REFERENCES = {"edgewise_definitions", "edgewise_meta", "edgewise_migrations"}


def test_the_tables_can_be_distributed_by_session_id(url):
    """What Citus asks for: every unique constraint has session_id, and nothing refers across sessions."""
    kinds = dict(asked(url, "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace"))
    unique = asked(url, """
        SELECT c.relname, i.relname, a.attname FROM pg_index JOIN pg_class c ON c.oid = indrelid
        JOIN pg_class i ON i.oid = indexrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = indkey[0]
        WHERE indisunique AND c.relnamespace = 'public'::regnamespace""")  # fmt: skip

    assert {name for name, kind in kinds.items() if kind == "r"} == DISTRIBUTED | REFERENCES
    assert not {name for name, kind in kinds.items() if kind == "S"}
    assert {(table, column) for table, _, column in unique if table in DISTRIBUTED} == {
        (table, "session_id") for table in DISTRIBUTED
    }
    assert asked(url, "SELECT conname FROM pg_constraint WHERE contype IN ('f', 'x')") == []


# What is said of damage.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "damage"),
    [
        ("DELETE FROM edgewise_entries WHERE session_id = 's1' AND seq = 3",
         Damage("session 's1' ends at entry 2, and its head is entry 3", ("s1",), 3)),
        ("UPDATE edgewise_entries SET hash = 'f' WHERE session_id = 's1' AND seq = 3",
         Damage("session 's1' has another entry 3 than its head says", ("s1",), 3)),
        ("UPDATE edgewise_sessions SET seq = 2 WHERE session_id = 's1'",
         Damage("session 's1' has entries after its head, entry 2: up to 3", ("s1",), 3)),
        ("DELETE FROM edgewise_sessions WHERE session_id = 's1'",
         Damage("session 's1' has entries and no head", ("s1",))),
        ("DELETE FROM edgewise_entries WHERE session_id = 's1'",
         Damage("session 's1' ends at entry 0, and its head is entry 3", ("s1",), 3)),
    ],
)  # fmt: skip
async def test_an_entry_cut_off_or_exchanged_is_found(url, stores, harm, damage):
    """What no entry tells of itself; among many sessions that are whole."""
    store = await stores(url)
    await asyncio.gather(*(store.adopt([*map(row_of, line_of(3, f"s{number}"))]) for number in range(250)))
    assert [each async for each in store.audit()] == []

    asked(url, harm)

    assert [each async for each in store.audit()] == [damage]


HARMS = [
    "DELETE FROM edgewise_entries WHERE session_id = 's1' AND seq = 3",
    "UPDATE edgewise_entries SET body = left(body, 40) WHERE session_id = 's1' AND seq = 3",
]


@pytest.mark.parametrize("harm", HARMS)
async def test_a_session_whose_newest_entry_is_lost_or_torn_is_there_and_refused(url, stores, is_cluster_safe, harm):
    """It is neither taken for none nor waited for, and a claim that fails holds nothing."""
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    whole = line_of(3)
    await store.adopt([*map(row_of, whole)])
    asked(url, harm)

    for refused in (
        store.adopt([*map(row_of, whole)]),
        store.head("s1"),
        store.claim("s1"),
        store.claim("s1", key="k"),
    ):
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable):
                await refused

    assert not await store.in_progress("s1")
    assert [damage.sessions async for damage in store.audit()] == ([("s1",)] if harm == HARMS[0] else [])


async def test_a_lost_newest_entry_is_told_with_what_to_run(url, stores):
    store = await stores(url)
    await store.adopt([*map(row_of, line_of(3))])
    asked(url, HARMS[0])

    with pytest.raises(StoreUnavailable, match="newest entry is not in the journal") as refused:
        await store.adopt([*map(row_of, line_of(3))])
    assert "db verify" in refused.value.hint


async def test_a_tombstone_keeps_the_chains_end_and_no_text(url, stores):
    store = await stores(url)
    entries = line_of(3)
    for entry in entries:
        await store.append(entry)

    await store.delete("s1")

    ((row,),) = asked(url, "SELECT to_jsonb(t) FROM edgewise_tombstones AS t")
    assert (row["session_id"], row["hash"], row["entries"]) == ("s1", entries[-1].hash, 3)
    assert set(row) == {"session_id", "hash", "entries", "deletion", "deleted_at"}


@pytest.mark.slow
async def test_a_body_of_megabytes_comes_back_equal(url, stores, is_cluster_safe):
    store = await stores(url, is_cluster_safe=is_cluster_safe)
    entry = entry_after(None, scene="裂帛👻\\\"'" * 250_000)
    await store.append(entry, await store.claim("s1"))

    assert await store.head("s1") == entry


# What the statements name.


def statements_of(url: str, start: int) -> list[tuple[str, str]]:
    """Each statement on a database that the server logged, with its parameters."""
    with server().log.open("rb") as log:
        log.seek(start)
        text = log.read().decode(errors="replace")
    lines = re.split(r"\n(?=\S)", text)
    ours = [line.removeprefix(f"{name_of(url)} ") for line in lines if line.startswith(f"{name_of(url)} ")]
    found: list[tuple[str, str]] = []
    for line in ours:
        kind, _, rest = line.partition(":  ")
        if kind == "LOG" and (sql := re.match(r"(?:execute|statement)[^:]*: (.*)", rest, re.DOTALL)):
            found.append((sql[1], ""))
        elif kind == "DETAIL" and found:
            found[-1] = (found[-1][0], rest)
    return found


async def turns_of_two_sessions(url: str, store: PostgresStore) -> list[tuple[str, str]]:
    """The statements of turns of two sessions at once: claimed, answered again, released, and gone wrong."""
    start = server().log.stat().st_size
    ids = ["session-一", "session-二"]
    for _ in range(3):
        claims = await asyncio.gather(*(store.claim(session_id, key="k") for session_id in ids))
        await asyncio.gather(*(store.claim(session_id, key="other") for session_id in ids))
        entries = [
            sealed(msgspec.structs.replace(entry_after(claim.head, session_id), key="used"))
            for claim, session_id in zip(claims, ids, strict=True)
        ]
        await asyncio.gather(*map(store.append, entries, claims))
        assert all(claim.answered for claim in await asyncio.gather(*(store.claim(each, key="used") for each in ids)))
        late = await asyncio.gather(*map(store.append, entries, claims), return_exceptions=True)
        assert all(isinstance(each, StaleTurn) for each in late)
        held = await asyncio.gather(*map(store.claim, ids))
        await asyncio.gather(*map(store.release, held))
    return [(sql, values) for sql, values in statements_of(url, start) if "edgewise_" in sql]


def names_one_session(sql: str, values: str) -> bool:
    """Whether a statement is about the one session that its parameters name."""
    named = {session_id for session_id in ("session-一", "session-二") if session_id in values}
    conditions = re.findall(r"\bsession_id\s*(=|IN|>|<)\s*(\S+)", sql)
    joined = [right for _, right in conditions if re.fullmatch(r"\w+\.session_id", right)]
    direct = [right for _, right in conditions if re.match(r"\$\d+", right)]
    is_keyed = bool(direct) or "VALUES ($1" in re.sub(r"\s+", " ", sql)
    return len(named) == 1 and is_keyed and len(joined) + len(direct) == len(conditions) and "ANY(" not in (
        sql.replace("lease_epoch = ANY(", "")
    )  # fmt: skip


async def test_every_statement_of_a_turn_names_one_session_where_that_is_asked_for(url, stores):
    """So that the same tables can be distributed; by the server's own log. A group's statement does not."""
    asked(url, f"ALTER DATABASE {name_of(url)} SET log_statement = 'all'")
    safe = await turns_of_two_sessions(url, await stores(url, is_cluster_safe=True))
    grouped = await turns_of_two_sessions(url, await stores(url))

    assert len(safe) > 60
    assert [(sql, values) for sql, values in safe if not names_one_session(sql, values)] == []
    assert [sql for sql, values in grouped if not names_one_session(sql, values)] != []


async def test_no_statement_needs_a_session_of_its_own(url, stores):
    """Nothing that a pooler in transaction mode breaks."""
    asked(url, f"ALTER DATABASE {name_of(url)} SET log_statement = 'all'")
    start = server().log.stat().st_size
    store = await stores(url, is_cluster_safe=True)
    await turns_of_two_sessions(url, store)
    await store.adopt([*map(row_of, line_of(2, "adopted"))])
    await store.delete("adopted")

    everything = " ".join(sql for sql, _ in statements_of(url, start))
    assert "edgewise_entries" in everything
    assert (
        re.findall(r"advisory|LISTEN|NOTIFY|PREPARE|DEALLOCATE|TEMP|DECLARE|\bSET (?!LOCAL)\w+ TO ", everything) == []
    )
