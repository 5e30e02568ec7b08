"""Holding a session: one entry at a time, and a key's request once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_entries import entry_after
from msgspec.structs import replace

from runtime.claims import KEY_KEPT_MS, Idempotency, append, claiming, must_hold, session_id_from
from runtime.errors import IdempotencyMismatch, StaleTurn, TurnInProgress, ValidationError
from runtime.session import Entry, sealed
from runtime.stores.memory import MemoryStore

NOW_MS = 1_750_000_000_000
ONCE = Idempotency(key="k1", request_hash="a", wait_s=60)


def keyed(head: Entry | None, once: Idempotency, at_ms: int = NOW_MS) -> Entry:
    return sealed(replace(entry_after(head), key=once.key, request_hash=once.request_hash, at_ms=at_ms))


async def test_a_session_is_held_by_one_request_at_a_time():
    store = MemoryStore()

    async with claiming(store, "s1", None, NOW_MS) as first:
        assert first.is_mine
        assert await store.in_progress("s1")
        async with claiming(store, "s1", None, NOW_MS) as second:
            with pytest.raises(TurnInProgress) as refused:
                must_hold(second)
        async with claiming(store, "s2", None, NOW_MS) as other:
            assert other.is_mine

    assert refused.value.facts == {"same_key": False, "retry_after_seconds": 1}
    assert not await store.in_progress("s1")


async def test_whatever_is_raised_gives_the_session_back():
    store = MemoryStore()

    with pytest.raises(ZeroDivisionError):
        async with claiming(store, "s1", ONCE, NOW_MS):
            raise ZeroDivisionError

    assert not await store.in_progress("s1")
    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        assert claim.is_mine


async def test_a_refused_request_that_held_nothing_releases_nobody_elses_claim():
    store = MemoryStore()

    async with claiming(store, "s1", None, NOW_MS):
        async with claiming(store, "s1", None, NOW_MS):
            pass
        assert await store.in_progress("s1")


async def test_a_keys_answer_is_found_again_and_nothing_is_held():
    store = MemoryStore()
    entry = keyed(None, ONCE)
    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        await store.append(entry, claim)

    async with claiming(store, "s1", ONCE, NOW_MS + 1) as again:
        assert again.answered == entry
        assert not again.is_mine
        assert not await store.in_progress("s1")


async def test_a_keys_answer_is_found_while_another_turn_runs():
    store = MemoryStore()
    entry = keyed(None, ONCE)
    await store.append(entry)

    async with claiming(store, "s1", None, NOW_MS) as running, claiming(store, "s1", ONCE, NOW_MS) as again:
        assert running.is_mine
        assert again.answered == entry


@pytest.mark.parametrize("age_ms", [24 * 3_600_000, KEY_KEPT_MS])
async def test_a_key_is_known_for_two_days(age_ms: int):
    store = MemoryStore()
    await store.append(keyed(None, ONCE, NOW_MS - age_ms))

    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        assert claim.answered is not None


async def test_an_older_key_is_a_new_one():
    store = MemoryStore()
    await store.append(keyed(None, ONCE, NOW_MS - KEY_KEPT_MS - 1))

    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        assert claim.answered is None
        assert claim.is_mine


async def test_a_key_with_another_request_is_refused_answered_or_not():
    store = MemoryStore()
    other = replace(ONCE, request_hash="b")

    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        with pytest.raises(IdempotencyMismatch):
            async with claiming(store, "s1", other, NOW_MS):
                pass
        await store.append(keyed(None, ONCE), claim)
    with pytest.raises(IdempotencyMismatch):
        async with claiming(store, "s1", other, NOW_MS):
            pass


async def test_the_same_key_waits_for_its_turn_and_another_is_told_at_once():
    store = MemoryStore()
    waiting = asyncio.Event()

    async def again() -> Entry | None:
        waiting.set()
        async with claiming(store, "s1", ONCE, NOW_MS) as claim:
            return claim.answered

    async with claiming(store, "s1", ONCE, NOW_MS) as claim:
        task = asyncio.create_task(again())
        await waiting.wait()
        async with claiming(store, "s1", replace(ONCE, key="k2"), NOW_MS) as other:
            assert not other.is_mine
        assert not task.done()
        entry = keyed(None, ONCE)
        await store.append(entry, claim)

    assert await task == entry


async def test_a_key_whose_turn_failed_is_played_by_who_waits():
    store = MemoryStore()
    waiting = asyncio.Event()

    async def again() -> bool:
        waiting.set()
        async with claiming(store, "s1", ONCE, NOW_MS) as claim:
            return claim.is_mine

    async def failing() -> None:
        async with claiming(store, "s1", ONCE, NOW_MS):
            tasks.append(asyncio.create_task(again()))
            await waiting.wait()
            raise ZeroDivisionError

    tasks: list[asyncio.Task[bool]] = []
    with pytest.raises(ZeroDivisionError):
        await failing()

    assert await tasks[0]


async def test_a_wait_that_is_over_says_that_it_is_the_same_key():
    store = MemoryStore()

    async with claiming(store, "s1", ONCE, NOW_MS):
        with pytest.raises(TurnInProgress) as refused:
            async with claiming(store, "s1", replace(ONCE, wait_s=0), NOW_MS):
                pass

    assert refused.value.facts["same_key"] is True


async def test_a_claim_that_was_lost_appends_nothing():
    store = MemoryStore()
    async with claiming(store, "s1", None, NOW_MS) as lost:
        await store.release(lost)
        async with claiming(store, "s1", None, NOW_MS) as claim:
            with pytest.raises(StaleTurn):
                await store.append(entry_after(None), lost)
            assert await store.count() == 0
            await store.append(entry_after(None), claim)

    assert await store.count() == 1


async def test_a_turn_that_lost_its_claim_hears_what_its_own_key_was_answered_meanwhile():
    """A process that stalled past its lease wakes, and another has played the same request."""
    store = MemoryStore()
    first, second = keyed(None, ONCE), keyed(entry_after(None), ONCE)
    async with claiming(store, "s1", ONCE, NOW_MS) as lost:
        await store.release(lost)
        async with claiming(store, "s1", ONCE, NOW_MS) as claim:
            assert await append(store, first, claim, ONCE, NOW_MS) is first

        assert await append(store, second, lost, ONCE, NOW_MS) == first

    assert await store.count() == 1


@pytest.mark.parametrize("once", [None, replace(ONCE, key="k2")])
async def test_a_turn_that_lost_its_claim_to_another_request_is_stale(once: Idempotency | None):
    store = MemoryStore()
    async with claiming(store, "s1", once, NOW_MS) as lost:
        await store.release(lost)
        await store.append(keyed(None, ONCE))

        with pytest.raises(StaleTurn):
            await append(store, entry_after(None), lost, once, NOW_MS)

    assert await store.count() == 1
    assert not await store.in_progress("s1")


SECRET = bytes(32)
LONG = Idempotency(key="k" * 16, request_hash="a", caller="ann")


def test_a_sessions_id_from_a_key_is_the_same_for_the_same_request():
    made = session_id_from(SECRET, LONG, "甲")

    assert made == session_id_from(SECRET, replace(LONG, request_hash="b"), "甲")
    others = [
        session_id_from(bytes([1]) * 32, LONG, "甲"),
        session_id_from(SECRET, LONG, "乙"),
        session_id_from(SECRET, LONG, None),
        session_id_from(SECRET, replace(LONG, caller="bob"), "甲"),
        session_id_from(SECRET, replace(LONG, key="j" * 16), "甲"),
    ]
    assert len({made, *others}) == 6


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3), min_size=3, max_size=3), st.integers(0, 2))
def test_no_two_callers_meet_in_an_id(parts: list[str], moved: int):
    """What ends one part can't begin the next: a, bc and ab, c are two."""
    caller, player, key = parts[0], parts[1], parts[2] + "k" * 16
    split = player[:moved]
    other = session_id_from(SECRET, replace(LONG, caller=caller + split, key=key), player[moved:])
    mine = session_id_from(SECRET, replace(LONG, caller=caller, key=key), player)
    assert (mine == other) is (split == "")


def test_a_short_key_begins_no_session_without_a_name():
    with pytest.raises(ValidationError) as refused:
        session_id_from(SECRET, ONCE, None)

    assert refused.value.facts["details"][0]["loc"] == ["header", "idempotency-key"]
