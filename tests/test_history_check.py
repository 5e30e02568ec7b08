"""The history checker finds what it is for: each fault is planted alone, in a store or in a history, and is caught.

The stores below are the memory store with one promise broken. They are played by the same clients,
over the same application, with the same troubles (turns that yield, leases that run out, stores
that fail before they write, answers that get lost) as the honest one, which passes.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from clients import ROUNDS, Ask, Plan, over, play
from conftest import SCALE, tiny
from history_check import Log, Sent, check, mark_of
from served import living, runtime_of

from runtime.errors import StoreUnavailable
from runtime.formats import read_entry
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.session import NOTHING, Entry, body_of, sealed
from runtime.stores import Claim, Row
from runtime.stores.heads import row_of
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server.app import create_app
from server.settings import Settings

MACHINE = tiny(ROUNDS, "rounds")
PLAN = Plan(sessions=2, clients=6, turns=14, bare=0.25)


class Slow(Offline):
    """Tells as the offline narrator does, after letting others go first now and then."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def narrate(self, task: Task, release: Any) -> Narration:
        """Tell the task, later."""
        for _ in range(self._chance.randrange(12)):
            await asyncio.sleep(0)
        return await super().narrate(task, release)


class Honest(MemoryStore):
    """The memory store in a rough world: it fails before it writes, and the leases of slow turns run out."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.holders: dict[str, Claim] = {}

    async def claim(self, session_id: str, **how: Any) -> Claim:
        """Claim as ever; now and then the holder's lease has run out just now."""
        if session_id in self.holders and self.chance.random() < 0.1:
            await super().release(self.holders.pop(session_id))
        claim = await super().claim(session_id, **how)
        if claim.is_mine:
            self.holders[session_id] = claim
        return claim

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Any = None) -> None:  # noqa: ARG002 - all is offline
        """Append as ever, or fail first."""
        await asyncio.sleep(0)
        if self.chance.random() < 0.05:
            raise StoreUnavailable("the store can't be written now", "Send the same again.")
        await self.write(entry, claim)

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """What the faulty ones do otherwise."""
        await super().append(entry, claim)

    async def crash(self) -> None:
        """What a kill -9 leaves: all that was written, and no claims."""
        for claim in self.holders.values():
            await super().release(claim)
        self.holders.clear()


class AnswersBeforeItCommits(Honest):
    """An entry is acknowledged, and written with the next one of its session."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.unwritten: dict[str, tuple[bytes, str]] = {}

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Write, and let the kept rows end before the newest; reads still see it."""
        await super().write(entry, claim)
        self.unwritten[entry.session_id] = self._entries[entry.session_id][-1]

    async def crash(self) -> None:
        """What was not written is gone."""
        await super().crash()
        for session_id, row in self.unwritten.items():
            self._entries[session_id].remove(row)


class Blind(Honest):
    """No compare-and-set: whatever comes is inserted, and nobody holds a session."""

    async def claim(self, session_id: str, **how: Any) -> Claim:
        """As on a host that has only its own leases to look at."""
        claim = await super().claim(session_id, **how)
        return claim if claim.answered else msgspec.structs.replace(claim, epoch=10**6 + self.chance.randrange(10**6))

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Insert."""
        await self.release(claim or Claim(session_id="", head=None))
        self._entries.setdefault(entry.session_id, []).append((body_of(entry), entry.hash))
        self._moved(entry.session_id)


class LastWriteWins(Blind):
    """No compare-and-set, and a row for each seq: the later turn takes the earlier one's place."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Insert or replace."""
        rows = self._entries.setdefault(entry.session_id, [])
        del rows[entry.seq - 1 :]
        await super().write(entry, claim)


class LeaseOnly(Honest):
    """One at a time holds a session, and whoever wrote is believed, though the lease has run out meanwhile."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Insert, whoever holds the session now."""
        rows = self._entries.setdefault(entry.session_id, [])
        del rows[entry.seq - 1 :]
        rows.append((body_of(entry), entry.hash))
        self._moved(entry.session_id)
        if claim is not None:
            await self.release(claim)


class NoKeys(Honest):
    """Keys are kept, and never looked for."""

    async def claim(self, session_id: str, **_: Any) -> Claim:
        """Claim as if the key were new; its own turn under way isn't known by it either."""
        claim = await super().claim(session_id)
        return msgspec.structs.replace(claim, key=None) if not claim.is_mine else claim


class CommitsAndFails(Honest):
    """The write is done, and the caller hears that nothing was changed."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Append, then raise."""
        await super().write(entry, claim)
        if self.chance.random() < 0.5:
            raise StoreUnavailable("the store can't be written now", "Send the same again.")


class CommitsNothing(Honest):
    """A statement fails, and the commit after it says that all is well."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Sometimes write nothing, and say nothing."""
        if self.chance.random() < 0.2:
            await self.release(claim or Claim(session_id="", head=None))
        else:
            await super().write(entry, claim)


class StaleHead(Honest):
    """Heads are cached, and another process's turns don't reach the cache: reads show the past."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.cached: dict[str, Entry] = {}

    async def head(self, session_id: str) -> Entry | None:
        """The head as this process knows it, refreshed now and then."""
        head = await super().head(session_id)
        if head is not None and (session_id not in self.cached or self.chance.random() < 0.5):
            self.cached[session_id] = head
        return self.cached.get(session_id)


class StaleHeadThatIsCompared(StaleHead):
    """The same, and the compare-and-set believes the cache too."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Compare with the cached head, then insert."""
        self._entries.setdefault(entry.session_id, []).append((body_of(entry), entry.hash))
        self._moved(entry.session_id)
        if claim is not None:
            await self.release(claim)


class WritesAnswersAnew(Honest):
    """The answer is parsed and written again in a neater way."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Keep what the answer says, and not its bytes."""
        neat = msgspec.json.format(bytes(entry.answer), indent=1)
        await super().write(sealed(msgspec.structs.replace(entry, answer=msgspec.Raw(neat))), claim)


class WritesWhatItRefuses(Honest):
    """A turn that does not follow the head is refused, and kept."""

    async def write(self, entry: Entry, claim: Claim | None) -> None:
        """Keep the loser's turn at the end, as if it had been played after the winner's."""
        head = await self.head(entry.session_id)
        try:
            await super().write(entry, claim)
        except Exception:
            after = msgspec.structs.replace(
                entry, seq=head.seq + 1, turn=head.next_turn, last_turn=head.next_turn, prev_hash=head.hash
            )
            await super().write(sealed(after), None)
            raise


@asynccontextmanager
async def asking(store: MemoryStore, chance: random.Random, loses: float = 0.1) -> AsyncIterator[Ask]:
    """The application over a store; on the way back some answers get lost."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(io.StringIO()))
    runtime: Runtime = runtime_of(MACHINE, narrator=Slow(chance), store=store)
    app: Any = create_app(Settings(), runtime)
    try:
        async with (
            living(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http,
        ):
            ask = over(http)

            async def asked(method: str, path: str, body: Any, headers: Mapping[str, str]) -> httpx.Response:
                answer = await ask(method, path, body, headers)
                if chance.random() < loses:
                    raise httpx.ReadError("the answer got lost")
                return answer

            yield asked
    finally:
        structlog.reset_defaults()


async def played(make: Callable[[random.Random], Honest], seed: int, plan: Plan = PLAN) -> tuple[Log, list[Row]]:
    """What clients saw of a store, with a crash in the middle, and what it has in the end."""
    chance = random.Random(seed)  # noqa: S311 - a play is no secret
    log, store = Log(), make(chance)
    for name in ("before", "after"):
        async with asking(store, chance) as ask:
            async with asyncio.timeout(60):
                await play(log, ask, plan, chance, name)
        await store.crash()
    return log, [row async for row in store.walk()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2 * SCALE))
async def test_an_honest_store_passes(seed: int):
    """And it was really tried: turns were refused, keys were heard again, answers were lost."""
    log, rows = await played(Honest, seed)

    assert check(log, rows) == []
    assert log.answered > len(rows) > 30
    assert {request.status for request in log.requests} >= {0, 200, 409}
    assert any(request.is_replayed for request in log.requests)


FAULTS = {
    AnswersBeforeItCommits: {"lost"},
    Blind: {"chain", "numbers"},
    LastWriteWins: {"lost", "altered"},
    LeaseOnly: {"lost", "altered"},
    NoKeys: {"twice"},
    CommitsAndFails: {"twice"},
    CommitsNothing: {"lost", "altered", "twice"},
    StaleHead: {"read", "chain"},
    StaleHeadThatIsCompared: {"chain", "numbers"},
    WritesAnswersAnew: {"altered"},
    WritesWhatItRefuses: {"changed", "expected", "lineage"},
}
"""Each fault, and the rules of which one at least has to say so."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("seed", range(SCALE))
async def test_a_store_with_one_fault_is_caught(fault: type[Honest], seed: int):
    """By the rule that is meant for it."""
    log, rows = await played(fault, seed)

    assert {violation.rule for violation in check(log, rows)} & FAULTS[fault]


# A history that is right, and what is done to it.


Tampering = Callable[[Log, list[Entry]], list[Entry] | None]


def again(entries: list[Entry]) -> list[Entry]:
    """The same entries, numbered, linked and sealed anew: the chain is whole whatever was changed in them."""
    linked: list[Entry] = []
    for seq, entry in enumerate(entries, 1):
        link = linked[-1].hash if linked else ""
        linked.append(sealed(msgspec.structs.replace(entry, seq=seq, prev_hash=link)))
    return linked


def changed(entries: list[Entry], at: int, **parts: Any) -> list[Entry]:
    """One of the entries changed, and the chain made anew."""
    entries[at] = msgspec.structs.replace(entries[at], **parts)
    return again(entries)


def settled_elsewhere(_: Log, entries: list[Entry]) -> list[Entry]:
    """A turn that begins in another state than the one before it left."""
    outcome = msgspec.structs.replace(entries[2].outcome, source="CELLAR")
    return changed(entries, 2, outcome=outcome)


def migrated(log: Log, entries: list[Entry]) -> list[Entry]:
    """The same, with a migration before it that made that state of the old one."""
    moved = msgspec.structs.replace(entries[1].after, state="CELLAR")
    migration = msgspec.structs.replace(
        entries[1], kind="migration", outcome=NOTHING, after=moved, request={}, key=None, answer=msgspec.Raw(b"{}")
    )
    return again([*entries[:2], migration, *settled_elsewhere(log, entries)[2:]])


def answered_otherwise(_: Log, entries: list[Entry]) -> list[Entry]:
    """One answer of the store's differs in a space."""
    return changed(entries, 1, answer=msgspec.Raw(b"{ " + bytes(entries[1].answer)[1:]))


def skipped(_: Log, entries: list[Entry]) -> list[Entry]:
    """A number that no turn has."""
    return changed(entries, 4, turn=entries[4].turn + 7)


def grown_from_nothing(_: Log, entries: list[Entry]) -> list[Entry]:
    """A parent that is not there."""
    return changed(entries, 3, parent=17)


def begun_in_the_middle(_: Log, entries: list[Entry]) -> list[Entry]:
    """A root whose turn begins in a state."""
    return changed(entries, 3, parent=None)


def resent(log: Log, entries: list[Entry]) -> list[Entry]:
    """A client that expected another head."""
    request = next(each for each in log.requests if each.mark == mark_of(entries[2]))
    request.expected_turn = 77
    return entries


def swapped(_: Log, entries: list[Entry]) -> list[Entry]:
    """Two turns in the other order, each numbered as if it had been so."""
    entries[2], entries[3] = entries[3], entries[2]
    return again(entries)


def forgotten(log: Log, entries: list[Entry]) -> list[Entry]:
    """A turn that no client ever sent."""
    log.requests[:] = [each for each in log.requests if each.mark != mark_of(entries[3])]
    return entries


def refused(log: Log, entries: list[Entry]) -> list[Entry]:
    """A turn whose client heard that it was refused."""
    for each in log.requests:
        if each.mark == mark_of(entries[3]):
            each.status = 409
    return entries


def told_twice(log: Log, entries: list[Entry]) -> list[Entry]:
    """An answer that was heard as new, and once more as new."""
    request = next(each for each in log.requests if each.mark == mark_of(entries[3]) and each.is_answered)
    log.requests.append(msgspec.structs.replace(request))
    return entries


def told_in_two_ways(log: Log, entries: list[Entry]) -> list[Entry]:
    """A retry that heard another turn's answer."""
    request = next(each for each in log.requests if each.mark == mark_of(entries[3]) and each.is_answered)
    log.requests.append(msgspec.structs.replace(request, data=bytes(entries[4].answer), is_replayed=True))
    return entries


def one_key_for_two(_: Log, entries: list[Entry]) -> list[Entry]:
    """Two turns with one key."""
    entries[4] = msgspec.structs.replace(entries[4], key=entries[3].key)
    return again(entries)


def looked(log: Log, at: int, shown: Entry) -> None:
    """Let a client look at the session, where `at` stands in the log's order."""
    for each in log.requests:
        each.sent_at += 2 * (each.sent_at >= at)
        each.heard_at += 2 * (each.heard_at >= at)
    data = bytes(shown.answer)
    look = Sent(mark="look", client="eye", session_id="s0", kind="read", sent_at=at, heard_at=at + 1, status=200)
    look.data = data
    log.requests.append(look)


def shown_old(log: Log, entries: list[Entry]) -> list[Entry]:
    """A session that is shown as it was before its last answer was heard."""
    looked(log, 10**6, entries[-2])
    return entries


def shown_early(log: Log, entries: list[Entry]) -> list[Entry]:
    """A session that is shown as it was only later."""
    looked(log, 1, entries[-1])
    return entries


def shown_well(log: Log, entries: list[Entry]) -> list[Entry]:
    """A session that is shown as it is."""
    looked(log, 10**6, entries[-1])
    return entries


TAMPERINGS: dict[Tampering, set[str]] = {
    lambda _, entries: entries: set(),
    shown_well: set(),
    migrated: set(),
    lambda _, entries: entries[:-1]: {"lost"},
    lambda _, entries: entries[1:]: {"lost", "chain", "lineage", "numbers"},
    lambda _, entries: [*entries[:2], *entries[3:]]: {"lost", "chain", "lineage", "numbers"},
    lambda *_: []: {"lost"},
    lambda _, entries: [*entries, entries[-1]]: {"chain", "lineage", "numbers", "twice"},
    settled_elsewhere: {"lineage"},
    answered_otherwise: {"altered"},
    skipped: {"numbers", "lineage"},
    grown_from_nothing: {"lineage"},
    begun_in_the_middle: {"lineage"},
    resent: {"expected"},
    swapped: {"order", "lineage", "numbers"},
    forgotten: {"unasked"},
    refused: {"changed"},
    told_twice: {"twice"},
    told_in_two_ways: {"twice"},
    one_key_for_two: {"twice"},
    shown_old: {"read"},
    shown_early: {"read"},
}
"""What is done to a history that was right, and all the rules that then speak."""


@pytest.mark.slow
@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: each.__name__)
async def test_each_rule_speaks_where_its_promise_is_broken_and_nowhere_else(tampering: Tampering):
    """One client's six turns, one after the other; then one thing is not as it was."""
    chance = random.Random(5)  # noqa: S311 - a play is no secret
    log, store = Log(), MemoryStore()
    alone = Plan(sessions=1, clients=1, turns=7, reads=0, doubled=0, again=0, bare=0, seen=0)
    async with asking(store, chance, loses=0) as ask:
        await play(log, ask, alone, chance)
    entries = [read_entry(row.body, row.hash) async for row in store.walk()]
    assert len(entries) == 7

    tampered = tampering(log, entries)

    assert {violation.rule for violation in check(log, map(row_of, tampered))} == TAMPERINGS[tampering]


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 3, 6])
async def test_a_body_with_one_byte_changed_breaks_the_chain(at: int):
    """Whatever the byte was."""
    chance = random.Random(5)  # noqa: S311 - a play is no secret
    log, store = Log(), MemoryStore()
    async with asking(store, chance, loses=0) as ask:
        await play(log, ask, Plan(sessions=1, clients=1, turns=7, reads=0), chance)
    rows = [row async for row in store.walk()]
    rows[at] = msgspec.structs.replace(rows[at], body=rows[at].body.replace(b'"player_count":1', b'"player_count":2'))

    found = check(log, rows)

    assert [violation.rule for violation in found] == ["chain"]
    assert str(found[0]) == f"chain: session 's0': seq {at + 1} has another hash than its body"
