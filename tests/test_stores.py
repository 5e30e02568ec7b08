"""What every store does: one suite, run against each that ships.

In this order: an entry and its head, the compare-and-set, claims, keys, the tree, whole sessions
at once, lists, deletion, the ledger, definitions, what is kept over a restart, and the walk over all rows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from every_store import EVERY_STORE, Home, homed
from journal_entries import entry_after, is_whole, line_of
from served import ROOT

from runtime.errors import SessionExists, StaleTurn, ValidationError
from runtime.formats import is_intact, read_entry
from runtime.session import NOTHING, Entry, Expense, body_of, sealed, summed
from runtime.stores import Row, Store
from runtime.stores.heads import node_of, row_of

SECRET_WORD = "裂帛👻"  # noqa: S105 - a word that must be gone


@pytest.fixture(params=EVERY_STORE)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """Where a journal is kept, empty."""
    with homed(request.param, tmp_path) as made:
        yield made


@pytest.fixture
async def store(home: Home) -> AsyncIterator[Store]:
    """An open store, empty."""
    opened = home.store()
    await opened.open()
    yield opened
    await opened.close()


async def append_all(store: Store, entries: list[Entry]) -> None:
    """Append one after the other."""
    for entry in entries:
        await store.append(entry)


async def rows_of(store: Store, after: str = "") -> list[Row]:
    """All that a walk gives."""
    return [row async for row in store.walk(after)]


def keyed(head: Entry | None, key: str, session_id: str = "s1", request_hash: str = "r" * 64, **more: Any) -> Entry:
    """The entry that follows, made by a request with a key."""
    entry = entry_after(head, session_id)
    return sealed(msgspec.structs.replace(entry, key=key, request_hash=request_hash, **more))


def moved_back(head: Entry, to: Entry, key: str | None = None) -> Entry:
    """A rewind's entry: it tells nothing, and stands on an earlier turn."""
    return sealed(
        msgspec.structs.replace(
            head,
            kind="rewind",
            seq=head.seq + 1,
            turn=to.turn,
            parent=head.turn,
            last_turn=max(head.last_turn, head.turn),
            key=key,
            outcome=NOTHING,
            narration={},
            request={},
            after=to.after,
            prev_hash=head.hash,
        )
    )


@pytest.mark.slow
async def test_a_session_that_never_was_has_no_head_and_no_entries(store: Store) -> None:
    """Asking makes nothing."""
    assert await store.head("nobody") is None
    assert await store.entry("nobody", 1) is None
    assert await store.entries("nobody") == []
    assert await store.sessions() == ([], None)


async def test_the_head_is_the_entry_appended_last(store: Store) -> None:
    """Equal in every field, whether it comes from memory or from the file."""
    first, second = line_of(2)

    await store.append(first)
    assert await store.head("s1") == first

    await store.append(second)
    assert await store.head("s1") == second


async def test_entries_come_back_equal_in_their_order(store: Store) -> None:
    """Chinese, emoji, quotes, nested sets and numbers included."""
    entries = line_of(5)
    await append_all(store, entries)

    assert await store.entries("s1") == entries
    assert is_whole(await store.entries("s1"))
    assert await store.entry("s1", 3) == entries[2]
    assert await store.entry("s1", 6) is None


async def test_entries_are_paged_by_seq(store: Store) -> None:
    """`after` is the seq seen last, `limit` the most that come."""
    entries = line_of(5)
    await append_all(store, entries)

    assert await store.entries("s1", after=1, limit=2) == entries[1:3]
    assert await store.entries("s1", after=4, limit=9) == entries[4:]
    assert await store.entries("s1", after=5) == []


async def test_the_answer_keeps_its_bytes(store: Store) -> None:
    """It is sent again as it was: spacing and the order of keys too."""
    answer = '{"b" : 1,\n "a":"夜\\u0041"}'.encode()
    entry = msgspec.structs.replace(entry_after(None), answer=msgspec.Raw(answer))
    await store.append(entry)

    (kept,) = await store.entries("s1")

    assert bytes(kept.answer) == answer


async def test_a_body_of_200_kilobytes_comes_back_equal(store: Store) -> None:
    """A session that carries much is no exception."""
    entry = entry_after(None, scene="裂帛👻" * 5000)
    assert len(msgspec.json.encode(entry)) > 200_000
    await store.append(entry)

    assert await store.entries("s1") == [entry]


async def test_an_escaped_nul_comes_back_equal(store: Store) -> None:
    """The edge refuses NUL; a store does not choke on one either."""
    entry = entry_after(None, scene="a\x00b")
    await store.append(entry)

    assert await store.entries("s1") == [entry]


@pytest.mark.parametrize("wrong", [{"seq": 1}, {"seq": 2}, {"seq": 4}, {"prev_hash": ""}, {"prev_hash": "f" * 64}])
async def test_an_entry_that_does_not_follow_the_head_is_stale_and_changes_nothing(
    store: Store, wrong: dict[str, Any]
) -> None:
    """The compare-and-set: next seq, and the head's hash."""
    entries = line_of(2)
    await append_all(store, entries)
    entry = msgspec.structs.replace(entry_after(entries[-1]), **wrong)

    with pytest.raises(StaleTurn, match="'s1' has moved on to turn 2") as stale:
        await store.append(entry)

    assert stale.value.facts == {"expected_turn": 2, "turn": 2, "allowed_event_types": ("DECISION", "END")}
    assert await store.entries("s1") == entries
    assert await store.head("s1") == entries[-1]


async def test_a_session_begins_at_seq_one(store: Store) -> None:
    """A later entry of a session that does not exist is stale."""
    _, second = line_of(2)

    with pytest.raises(StaleTurn):
        await store.append(second)

    assert await store.head("s1") is None


async def test_of_two_entries_on_one_head_the_first_is_kept(store: Store) -> None:
    """Sent at once: one is durable, the other is stale."""
    first = entry_after(None)
    await store.append(first)
    rivals = [entry_after(first, scene=f"told {n}") for n in range(2)]

    outcomes = await asyncio.gather(*map(store.append, rivals), return_exceptions=True)

    assert outcomes[0] is None
    assert isinstance(outcomes[1], StaleTurn)
    assert await store.entries("s1") == [first, rivals[0]]


@pytest.mark.slow
async def test_a_hundred_sessions_append_at_once(store: Store) -> None:
    """A thousand entries, none lost and none out of order."""

    async def play(session_id: str) -> list[Entry]:
        entries = line_of(10, session_id)
        await append_all(store, entries)
        return entries

    played = await asyncio.gather(*(play(f"s{number}") for number in range(100)))

    for entries in played:
        assert await store.entries(entries[0].session_id) == entries
        assert await store.head(entries[0].session_id) == entries[-1]


async def test_a_cancelled_caller_leaves_a_whole_journal(store: Store) -> None:
    """Its entry is there or it is not; the next one follows the head that there is."""
    entry = entry_after(None)
    task = asyncio.create_task(store.append(entry))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await store.append(entry_after(await store.head("other"), "other"))
    for _ in range(2):  # the cancelled one may still be on its way: then what follows the old head is stale, once
        with suppress(StaleTurn):
            await store.append(entry_after(await store.head("s1")))

    assert is_whole(await store.entries("s1"))
    assert await store.head("s1") is not None


async def test_of_thirty_appends_at_once_exactly_one_is_kept(store: Store) -> None:
    """Whoever loses is told, and the journal is one chain."""
    head: Entry | None = None
    for _ in range(5):
        rivals = [entry_after(head, scene=f"told {n}") for n in range(30)]
        outcomes = await asyncio.gather(*map(store.append, rivals), return_exceptions=True)
        won = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
        assert len(won) == 1
        assert all(isinstance(outcome, StaleTurn) for outcome in outcomes if outcome is not None)
        (head,) = won

    assert is_whole(await store.entries("s1"))
    assert await store.head("s1") == head


async def test_ids_differ_by_case_and_by_their_last_sign(store: Store) -> None:
    """No collation, no padding and no length folds two ids into one."""
    ids = ["a", "A", "a.", "a:b", "a-b", "a_b", "1", "01", "x" * 128, "x" * 127]
    await append_all(store, [entry_after(None, session_id) for session_id in ids])

    heads = [await store.head(session_id) for session_id in ids]

    assert [head.session_id for head in heads if head] == ids
    assert await store.count() == len(ids)


# Claims.


async def test_a_session_that_is_claimed_is_held_until_it_is_given_back(store: Store) -> None:
    """It need not exist yet; the claim brings its head."""
    (first,) = line_of(1)
    assert await store.in_progress("s1") is False

    unbegun = await store.claim("s1")
    assert unbegun.is_mine
    assert unbegun.head is None
    assert await store.in_progress("s1") is True

    await store.release(unbegun)
    assert await store.in_progress("s1") is False
    await store.append(first)
    assert (await store.claim("s1")).head == first


async def test_a_second_claim_shows_whose_turn_is_under_way(store: Store) -> None:
    """It has the head, and the holder's key and fingerprint; releasing it gives nothing back."""
    (first,) = line_of(1)
    await store.append(first)
    held = await store.claim("s1", key="k-1", request_hash="a" * 64)

    second = await store.claim("s1", key="k-2", request_hash="b" * 64)

    assert held.is_mine
    assert not second.is_mine
    assert (second.head, second.key, second.request_hash, second.answered) == (first, "k-1", "a" * 64, None)
    await store.release(second)
    assert await store.in_progress("s1") is True
    assert not (await store.claim("s1")).is_mine


async def test_a_holder_without_a_key_shows_none(store: Store) -> None:
    """Not the asker's own."""
    assert (await store.claim("s1")).is_mine

    second = await store.claim("s1", key="k-2", request_hash="b" * 64)

    assert (second.is_mine, second.key, second.request_hash) == (False, None, "")


async def test_of_thirty_claims_at_once_exactly_one_holds(store: Store) -> None:
    """Of a session that exists, and of one that does not."""
    await store.append(entry_after(None, "begun"))
    for session_id in ("begun", "unbegun"):
        claims = await asyncio.gather(*(store.claim(session_id) for _ in range(30)))
        assert sum(claim.is_mine for claim in claims) == 1


async def test_a_claim_ends_with_its_append(store: Store) -> None:
    """The next one finds what was appended."""
    claim = await store.claim("s1")
    first = entry_after(None)

    await store.append(first, claim)

    assert await store.in_progress("s1") is False
    after = await store.claim("s1")
    assert after.is_mine
    assert after.head == first


async def test_a_claim_that_was_used_or_given_back_frees_nobody_elses(store: Store) -> None:
    """Giving it back again is no error."""
    used = await store.claim("s1")
    first = entry_after(None)
    await store.append(first, used)
    given_back = await store.claim("s1")
    await store.release(given_back)
    held = await store.claim("s1")

    await store.release(used)
    await store.release(given_back)

    assert await store.in_progress("s1") is True
    await store.append(entry_after(first), held)


async def test_an_append_with_a_claim_that_was_lost_is_stale_and_changes_nothing(store: Store) -> None:
    """Also where the head has not moved since: the session is somebody else's now, and stays it."""
    (first,) = line_of(1)
    await store.append(first)
    lost = await store.claim("s1")
    await store.release(lost)
    held = await store.claim("s1", key="k")

    with pytest.raises(StaleTurn):
        await store.append(entry_after(first, scene="too late"), lost)

    assert await store.entries("s1") == [first]
    assert await store.head("s1") == first
    assert (await store.claim("s1")).key == "k"
    second = entry_after(first)
    await store.append(second, held)
    with pytest.raises(StaleTurn):
        await store.append(entry_after(second), held)
    assert await store.entries("s1") == [first, second]


async def test_an_append_with_a_claim_still_has_to_follow_the_head(store: Store) -> None:
    """The claim only spares a narration: the compare-and-set decides."""
    first, second = line_of(2)
    await store.append(first)
    claim = await store.claim("s1")
    await store.append(second)

    with pytest.raises(StaleTurn):
        await store.append(entry_after(first, scene="too late"), claim)

    assert await store.entries("s1") == [first, second]


async def test_whoever_waits_is_woken_when_the_session_is_free(store: Store) -> None:
    """By a release, by an append, by a deletion; and at once where nobody holds it."""
    await store.freed("s1", 60)

    held = await store.claim("s1")
    waiting = [asyncio.create_task(store.freed("s1", 60)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.release(held)
    await asyncio.gather(*waiting)

    held = await store.claim("s1")
    waiting = [asyncio.create_task(store.freed("s1", 60)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.append(entry_after(None), held)
    await asyncio.gather(*waiting)

    held = await store.claim("s1")
    waiting = [asyncio.create_task(store.freed("s1", 60)) for _ in range(5)]
    await asyncio.sleep(0)
    await store.delete("s1", held)
    await asyncio.gather(*waiting)
    assert await store.in_progress("s1") is False


async def test_whoever_waits_too_long_goes_on(store: Store) -> None:
    """And the session is still held."""
    await store.claim("s1")

    await store.freed("s1", 0.01)
    await store.freed("s1", 0)

    assert await store.in_progress("s1") is True


@pytest.mark.slow
async def test_ten_who_claim_and_append_make_one_chain(store: Store) -> None:
    """Each waits for its turn; none of the hundred entries is lost or doubled."""

    async def play(name: str) -> None:
        left = 10
        while left:
            claim = await store.claim("s1")
            if claim.is_mine:
                await store.append(entry_after(claim.head, scene=f"{name} {left}"), claim)
                left -= 1
            else:
                await store.freed("s1", 60)

    await asyncio.gather(*(play(f"player {number}") for number in range(10)))

    entries = await store.entries("s1", limit=1000)
    assert is_whole(entries)
    assert len({bytes(entry.answer) for entry in entries}) == len(entries) == 100


# Keys.


async def test_a_key_finds_the_entry_that_it_made(store: Store) -> None:
    """Whatever came after it; nothing is held then."""
    first = keyed(None, "k-1")
    second = keyed(first, "k-2")
    third = entry_after(second)
    await append_all(store, [first, second, third])

    for entry in (first, second):
        claim = await store.claim("s1", key=entry.key, request_hash="any")
        assert claim.answered == entry
        assert claim.head == third
        assert not claim.is_mine
    assert await store.in_progress("s1") is False


async def test_a_key_is_found_while_another_turn_runs(store: Store) -> None:
    """Its answer is there, so it has nothing to wait for."""
    first = keyed(None, "k-1")
    await store.append(first)
    held = await store.claim("s1", key="k-2")

    assert (await store.claim("s1", key="k-1")).answered == first
    assert held.is_mine


async def test_a_key_is_one_sessions_and_one_spelling(store: Store) -> None:
    """Neither another session's, nor another case's, nor a longer one."""
    await store.append(keyed(None, "k-1"))

    for session_id, key in (("s2", "k-1"), ("s1", "K-1"), ("s1", "k-1 "), ("s1", "k-"), ("s1", "k-1%"), ("s1", "k_1")):
        claim = await store.claim(session_id, key=key)
        assert claim.answered is None
        assert claim.is_mine
        await store.release(claim)


@pytest.mark.parametrize("key", ["~" * 255, "'; --", '"', "\\", "%_", " ", "{}", "$1"])
async def test_a_key_may_hold_any_printable_sign(store: Store, key: str) -> None:
    """All 255 of them."""
    entry = keyed(None, key)
    await store.append(entry)

    assert (await store.claim("s1", key=key)).answered == entry


async def test_a_key_is_forgotten_where_its_entry_is_older_than_asked(store: Store) -> None:
    """To the millisecond; the newest is found where it was used again."""
    old = keyed(None, "k", at_ms=1_000)
    await store.append(old)

    assert (await store.claim("s1", key="k", since_ms=1_000)).answered == old
    late = await store.claim("s1", key="k", since_ms=1_001)
    assert late.answered is None
    assert late.is_mine
    new = keyed(old, "k", at_ms=2_000)
    await store.append(new, late)

    assert (await store.claim("s1", key="k", since_ms=1_000)).answered == new


async def test_a_key_of_a_rewind_is_found_too(store: Store) -> None:
    """Every kind of entry answers."""
    first, second = line_of(2)
    back = moved_back(second, first, key="back")
    await append_all(store, [first, second, back])

    assert (await store.claim("s1", key="back")).answered == back


async def test_a_deleted_sessions_key_is_gone(store: Store) -> None:
    """What begins anew under the id may use it again."""
    await store.append(keyed(None, "k"))
    await store.delete("s1")

    claim = await store.claim("s1", key="k")
    assert (claim.answered, claim.head, claim.is_mine) == (None, None, True)
    again = keyed(None, "k", at_ms=9)
    await store.append(again, claim)
    assert (await store.claim("s1", key="k")).answered == again


# The tree.


async def test_a_turn_is_found_by_its_number_though_heads_moved_back_to_it(store: Store) -> None:
    """What is found is what told it."""
    first, second = line_of(2)
    back = moved_back(second, first)
    third = sealed(
        msgspec.structs.replace(
            entry_after(back), turn=3, parent=1, last_turn=3, kind="regenerate", prev_hash=back.hash
        )
    )
    await append_all(store, [first, second, back, third])

    assert [await store.entry("s1", turn) for turn in (1, 2, 3, 4)] == [first, second, third, None]
    assert await store.head("s1") == third
    assert await store.entries("s1") == [first, second, back, third]


async def test_the_tree_has_every_entry_without_its_texts(store: Store) -> None:
    """Oldest first: turns, and the moves between them."""
    first, second = line_of(2)
    back = moved_back(second, first)
    await append_all(store, [first, second, back])

    tree = await store.tree("s1")

    assert tree == [node_of(first), node_of(second), node_of(back)]
    assert [(node.kind, node.turn, node.parent) for node in tree] == [
        ("turn", 1, None),
        ("turn", 2, 1),
        ("rewind", 1, 2),
    ]
    assert await store.tree("nobody") == []


async def test_a_long_tree_is_given_whole(store: Store) -> None:
    """There is no page to ask for."""
    entries = line_of(300)
    await store.adopt([*map(row_of, entries)])

    assert await store.tree("s1") == [*map(node_of, entries)]


# Whole sessions at once.


async def test_a_session_that_is_adopted_is_there_as_if_it_had_been_played(store: Store) -> None:
    """Head, entries, list, keys; and play goes on."""
    first = keyed(None, "k-1")
    entries = [first, entry_after(first)]

    await store.adopt([*map(row_of, entries)])

    assert await store.head("s1") == entries[-1]
    assert await store.entries("s1") == entries
    assert (await store.sessions())[0] == [entries[-1]]
    assert (await store.claim("s1", key="k-1")).answered == first
    assert await store.count() == 2
    third = entry_after(entries[-1])
    await store.append(third, await store.claim("s1"))
    assert is_whole(await store.entries("s1"))


async def test_a_session_that_exists_is_not_adopted(store: Store) -> None:
    """Nothing of it changes."""
    kept = line_of(2)
    await append_all(store, kept)

    with pytest.raises(SessionExists) as refused:
        await store.adopt([*map(row_of, line_of(3, scene="another"))])

    assert refused.value.facts == {"state": "DECISION", "turn": 2}
    assert await store.entries("s1") == kept
    assert await store.count() == 2


async def test_of_an_adoption_and_a_beginning_at_once_one_is_kept_whole(store: Store) -> None:
    """And of ten adoptions one."""
    adopted, begun = line_of(5, scene="adopted"), entry_after(None, scene="begun")
    both = await asyncio.gather(store.adopt([*map(row_of, adopted)]), store.append(begun), return_exceptions=True)
    assert sum(outcome is None for outcome in both) == 1
    assert await store.entries("s1") in (adopted, [begun])

    rivals = [line_of(3, "s2", scene=f"rival {number}") for number in range(10)]
    outcomes = await asyncio.gather(*(store.adopt([*map(row_of, each)]) for each in rivals), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(outcome, SessionExists) for outcome in outcomes if outcome is not None)
    assert await store.entries("s2") in rivals


async def test_what_format_1_wrote_is_adopted_byte_for_byte(store: Store) -> None:
    """Its hash holds over its own bytes; a newer entry follows it in the same chain."""
    _, *lines = (ROOT / "tests" / "journals" / "format1.jsonl").read_text(encoding="utf-8").splitlines()
    old = [json.loads(line) for line in lines]
    rows = [Row("old", seq, line["body"].encode(), line["hash"]) for seq, line in enumerate(old, 1)]
    await store.adopt(rows)

    head = await store.head("old")
    assert head == read_entry(rows[-1].body, rows[-1].hash)
    assert head is not None
    assert head.format == 1
    await store.append(entry_after(head, "old"))

    walked = await rows_of(store)
    assert [(row.session_id, row.seq, row.body, row.hash) for row in walked[:-1]] == [
        (row.session_id, row.seq, row.body, row.hash) for row in rows
    ]
    assert all(is_intact(row.body, row.hash) for row in walked)
    assert read_entry(walked[-1].body, "").prev_hash == rows[-1].hash
    assert [damage async for damage in store.audit()] == []


# Lists.


async def test_sessions_are_listed_newest_head_first(store: Store) -> None:
    """A turn brings its session to the front."""
    heads = {session_id: entry_after(None, session_id) for session_id in ("a", "b", "c")}
    await append_all(store, list(heads.values()))
    heads["a"] = entry_after(heads["a"], "a")
    await store.append(heads["a"])

    listed, more = await store.sessions()

    assert listed == [heads["a"], heads["c"], heads["b"]]
    assert more is None


async def test_the_list_is_filtered_by_its_heads(store: Store) -> None:
    """By player, by whether it has ended, and by both; a session that ended counts by its head."""
    await store.append(entry_after(None, "a", player_id="ann"))
    b = entry_after(None, "b", player_id="ann")
    await append_all(store, [b, entry_after(b, "b", player_id="ann", ended=True)])
    await append_all(store, [entry_after(None, "c", player_id="bob", ended=True), entry_after(None, "d")])

    async def listed(**filters: Any) -> list[str]:
        return [entry.session_id for entry in (await store.sessions(**filters))[0]]

    assert await listed() == ["d", "c", "b", "a"]
    assert await listed(player_id="ann") == ["b", "a"]
    assert await listed(ended=True) == ["c", "b"]
    assert await listed(ended=False) == ["d", "a"]
    assert await listed(player_id="ann", ended=False) == ["a"]
    assert await listed(player_id="nobody") == []


async def test_the_cursor_goes_through_the_list_once(store: Store) -> None:
    """Also while sessions move to the front, begin, and go: none comes twice."""
    await append_all(store, [entry_after(None, f"s{number}") for number in range(7)])

    page, cursor = await store.sessions(limit=3)
    assert [entry.session_id for entry in page] == ["s6", "s5", "s4"]

    await store.append(entry_after(None, "new"))
    await store.append(entry_after(page[0], "s6"))
    await store.delete("s2")
    page, cursor = await store.sessions(limit=3, after=cursor)
    assert [entry.session_id for entry in page] == ["s3", "s1", "s0"]
    assert cursor is None


async def test_a_page_that_ends_the_list_has_no_cursor(store: Store) -> None:
    """Not even one to an empty page."""
    await append_all(store, [entry_after(None, f"s{number}") for number in range(4)])

    _, cursor = await store.sessions(limit=2)
    page, end = await store.sessions(limit=2, after=cursor)

    assert [entry.session_id for entry in page] == ["s1", "s0"]
    assert end is None


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "²", "9" * 30])
async def test_a_cursor_that_no_list_gave_is_refused(store: Store, cursor: str) -> None:
    """With the place of the fault."""
    with pytest.raises(ValidationError, match="'after' is not a cursor") as refused:
        await store.sessions(after=cursor)

    assert refused.value.facts["details"][0]["loc"] == ["query", "after"]


# Deletion.


async def test_a_deleted_session_is_gone_everywhere(store: Store) -> None:
    """Head, entries and lists; others are untouched; deleting again says that there was none."""
    kept = line_of(2, "kept")
    await append_all(store, [*kept, *line_of(3, "gone")])

    assert await store.delete("gone") is True

    assert await store.head("gone") is None
    assert await store.entries("gone") == []
    assert [entry.session_id for entry in (await store.sessions())[0]] == ["kept"]
    assert await store.entries("kept") == kept
    assert await store.delete("gone") is False


async def test_no_word_of_a_deleted_session_can_be_read(store: Store) -> None:
    """Not by any way into the store; the others are whole, and nothing is said to be damaged."""
    kept = line_of(2, "kept", scene="kept")
    gone = keyed(None, f"key of {SECRET_WORD.encode().hex()}", "gone")
    await append_all(store, [gone, entry_after(gone, "gone"), *kept])

    assert await store.delete("gone") is True

    assert await store.entry("gone", 1) is None
    assert await store.tree("gone") == []
    rows = await rows_of(store)
    assert {row.session_id for row in rows if row.body and SECRET_WORD.encode() in row.body} == set()
    assert [row.body for row in rows if row.session_id == "kept"] == [*map(body_of, kept)]
    assert await store.in_progress("gone") is False
    assert [damage async for damage in store.audit()] == []


async def test_a_deletion_with_a_claim_that_was_lost_deletes_nothing(store: Store) -> None:
    """A stalled caller that wakes is told so."""
    entries = line_of(2)
    await append_all(store, entries)
    lost = await store.claim("s1")
    await store.release(lost)
    held = await store.claim("s1")

    with pytest.raises(StaleTurn):
        await store.delete("s1", lost)

    assert await store.entries("s1") == entries
    assert await store.delete("s1", held) is True
    assert await store.in_progress("s1") is False


async def test_a_session_goes_and_comes_many_times(store: Store) -> None:
    """Each life is its own, whatever it had before."""
    for life in range(4):
        entries = line_of(3, scene=f"life {life}")
        await append_all(store, entries)
        assert await store.entries("s1") == entries
        assert await store.delete("s1") is True
        assert await store.head("s1") is None

    assert await store.count() == 0
    assert [damage async for damage in store.audit()] == []


async def test_after_a_deletion_the_same_id_begins_anew(store: Store) -> None:
    """At seq 1; what followed the old head is stale."""
    old = line_of(2)
    await append_all(store, old)
    await store.delete("s1")

    with pytest.raises(StaleTurn):
        await store.append(entry_after(old[-1]))
    new = entry_after(None, scene="anew")
    await store.append(new)

    assert await store.entries("s1") == [new]


async def test_a_deletion_and_an_append_at_once_leave_one_or_the_other(store: Store) -> None:
    """The append that comes after a deletion finds no session."""
    head = entry_after(None)
    await store.append(head)

    deleted, appended = await asyncio.gather(
        store.delete("s1"), store.append(entry_after(head)), return_exceptions=True
    )

    assert deleted is True
    assert isinstance(appended, StaleTurn)
    assert await store.entries("s1") == []


async def test_what_a_caller_does_with_what_it_read_stays_its_own(store: Store) -> None:
    """A dict inside an entry that was read from the journal is a copy."""
    await append_all(store, line_of(2))

    (first, *_) = await store.entries("s1")
    first.after.context["hp"] = 0  # type: ignore[index]  # that it is possible is the point

    assert (await store.entries("s1"))[0].after.context["hp"] == 12


# Definitions, the secret, the count.


DEAR = Expense(
    day=20_000, provider="deepseek", model="小模型", prompt_tokens=1000, completion_tokens=200, cached_tokens=900,
    calls=2, cost_micros=1234, turns=1,
)  # fmt: skip


async def test_what_an_entry_cost_is_in_the_ledger_once_it_is_appended(store: Store) -> None:
    """Summed by day, provider and model, over all sessions."""
    first, second = line_of(2)
    other_model = msgspec.structs.replace(DEAR, model="")
    next_day = msgspec.structs.replace(DEAR, day=20_001)

    await store.append(first, await store.claim("s1"), DEAR)
    await store.append(second, None, next_day)
    await store.append(entry_after(None, "s2"), None, DEAR)
    await store.append(entry_after(None, "s3"), None, other_model)
    await store.append(entry_after(None, "s4"))

    assert await store.expenses(0) == [other_model, summed([DEAR, DEAR])[0], next_day]
    assert await store.expenses(20_001) == [next_day]
    assert await store.expenses(20_002) == []


async def test_a_session_that_spends_many_times_a_day_has_one_sum(store: Store) -> None:
    for entry in line_of(5):
        await store.append(entry, None, DEAR)

    assert await store.expenses(0) == summed([DEAR] * 5)


async def test_a_hundred_sessions_that_spend_at_once_are_all_counted(store: Store) -> None:
    """Some of them cost nothing."""
    entries = [entry_after(None, f"s{number}") for number in range(100)]

    await asyncio.gather(*(store.append(each, None, DEAR if at % 3 else None) for at, each in enumerate(entries)))

    assert await store.expenses(0) == summed([DEAR] * 66)


async def test_an_entry_that_is_not_kept_costs_nothing(store: Store) -> None:
    first, second = line_of(2)
    await store.append(first, None, DEAR)

    with pytest.raises(StaleTurn):
        await store.append(first, None, DEAR)
    held = await store.claim("s1")
    await store.release(held)
    assert (await store.claim("s1")).is_mine
    with pytest.raises(StaleTurn):
        await store.append(second, held, DEAR)

    assert await store.expenses(0) == [DEAR]


async def test_what_a_turn_cost_that_came_to_nothing_is_in_the_ledger_too(store: Store) -> None:
    """Of a session that is not there, too."""
    lost = msgspec.structs.replace(DEAR, turns=0, failed=1)

    await store.spend("s1", lost)
    await store.append(entry_after(None), None, DEAR)
    await store.spend("nobody", lost)

    assert await store.expenses(0) == summed([lost, DEAR, lost])
    assert await store.head("nobody") is None


async def test_what_a_deleted_session_had_cost_stays_spent(store: Store) -> None:
    await store.append(entry_after(None), None, DEAR)

    assert await store.delete("s1") is True

    assert await store.expenses(0) == [DEAR]


async def test_a_session_that_is_taken_in_costs_nothing(store: Store) -> None:
    """What it took was spent where it was played."""
    await store.adopt([row_of(entry) for entry in line_of(3)])

    assert await store.expenses(0) == []


async def test_the_ledger_is_there_when_the_store_is_opened_again(home: Home) -> None:
    for _ in range(2):
        store = home.store()
        await store.open()
        await store.spend("s1", DEAR)
        await store.close()

    store = home.store()
    await store.open()
    assert await store.expenses(0) == summed([DEAR, DEAR])
    await store.close()


async def test_definitions_are_kept_by_their_digest(store: Store) -> None:
    """Once kept they stay as they were first given."""
    files = {"machines/灯.yaml": "machine: 灯\n", "prompts/x/init.prompty": "---\n---\n"}

    assert await store.kept("abc") is None
    await store.keep("abc", files)
    await store.keep("abc", files)
    await asyncio.gather(*(store.keep("def", {"a": "b"}) for _ in range(5)))

    assert await store.kept("abc") == files
    assert await store.kept("def") == {"a": "b"}


async def test_every_digest_that_is_kept_is_listed(store: Store) -> None:
    """Once."""
    assert await store.digests() == []
    for digest in ("b" * 64, "a" * 64, "b" * 64):
        await store.keep(digest, {"a": digest})

    assert sorted(await store.digests()) == ["a" * 64, "b" * 64]


async def test_the_secret_is_made_once(store: Store) -> None:
    """Though ten ask at once."""
    secrets = await asyncio.gather(*(store.secret() for _ in range(10)))

    assert len(set(secrets)) == 1
    assert len(secrets[0]) == 32
    assert len(set(secrets[0])) > 1


async def test_entries_are_counted(store: Store) -> None:
    """Those that are there now."""
    assert await store.count() == 0
    await append_all(store, [*line_of(3), *line_of(2, "s2")])
    assert await store.count() == 5

    await store.delete("s1")

    assert await store.count() == 2


async def test_ping_proves_an_open_store(store: Store) -> None:
    """It changes no list."""
    await store.ping()

    assert await store.sessions() == ([], None)


# What is kept over a restart.


async def test_all_is_there_when_the_store_is_opened_again(home: Home) -> None:
    """Heads, keys, deletions, definitions, the secret; claims of the process that ended are not waited for long."""
    first = home.store()
    await first.open()
    played = [keyed(None, "k-1"), *line_of(3, "s2"), *line_of(1, "gone")]
    await append_all(first, played)
    await first.adopt([*map(row_of, line_of(2, "adopted"))])
    await first.delete("gone")
    await first.keep("d" * 64, {"a": "灯"})
    secret = await first.secret()
    walked = await rows_of(first)
    await first.close()

    again = home.store()
    await again.open()

    assert await again.head("s1") == played[0]
    assert await again.entries("s2") == played[1:4]
    assert await again.entries("adopted") == line_of(2, "adopted")
    assert await again.head("gone") is None
    assert (await again.claim("s1", key="k-1")).answered == played[0]
    assert [entry.session_id for entry in (await again.sessions())[0]] == ["adopted", "s2", "s1"]
    assert await again.kept("d" * 64) == {"a": "灯"}
    assert await again.secret() == secret
    assert await rows_of(again) == walked
    assert await again.count() == 6
    assert [damage async for damage in again.audit()] == []
    claim = await again.claim("s2")
    await again.append(entry_after(claim.head, "s2"), claim)
    await again.append(entry_after(None, "gone", scene="anew"))
    assert is_whole(await again.entries("s2"))
    await again.close()


# The walk over all rows.


async def test_the_walk_gives_every_row_once_as_it_is_kept(store: Store) -> None:
    """Each session's in the order of its seq: its body, its hash."""
    played = {name: line_of(count, name) for name, count in (("a", 3), ("b", 1), ("c", 5))}
    for turn in range(5):
        await append_all(store, [entries[turn] for entries in played.values() if turn < len(entries)])

    rows = await rows_of(store)

    assert len(rows) == 9
    for name, entries in played.items():
        mine = [row for row in rows if row.session_id == name]
        assert [(row.seq, row.body, row.hash) for row in mine] == [
            (entry.seq, body_of(entry), entry.hash) for entry in entries
        ]
    assert len({row.cursor for row in rows}) == 9


async def test_the_walk_goes_on_after_any_row(store: Store) -> None:
    """With what it had not given yet, and nothing twice."""
    await append_all(store, [*line_of(3, "a"), *line_of(2, "b"), *line_of(1, "c")])
    rows = await rows_of(store)

    for at, row in enumerate(rows, 1):
        assert await rows_of(store, row.cursor) == rows[at:]


async def test_the_walk_of_an_empty_store_ends_at_once(store: Store) -> None:
    """And so does its audit."""
    assert await rows_of(store) == []
    assert [damage async for damage in store.audit()] == []


async def test_a_walk_can_be_left_in_the_middle(store: Store) -> None:
    """The store is as usable as before."""
    await append_all(store, line_of(5))
    walk = store.walk()
    assert (await anext(walk)).seq == 1
    await walk.aclose()  # type: ignore[attr-defined]

    await store.append(entry_after(await store.head("s1")))

    assert len(await rows_of(store)) == 6
