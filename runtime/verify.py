"""The journal checks itself: every chain of hashes, every turn's number and parent, every rule played again.

One pass over the store. What is kept in mind for a session is where its chain stands; entries that
others grew from are kept while there is room, and read again where there isn't. Nothing is mended.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from runtime import loader, recompute
from runtime.claims import KEY_KEPT_MS
from runtime.errors import DesignError, StoreUnavailable
from runtime.formats import is_intact, read_entry
from runtime.progress import Done, Found, Progress, Step
from runtime.session import Entry, Node, Session

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.stores import Row, Store
    from runtime.turn import Runtime

EVERY = 500
"""Entries between two reports of progress."""
KEPT_ENTRIES = 2_000
"""How many entries are kept in memory, twice, for those that grow from them."""
KEPT_MACHINES = 64
_KEY_BITS = 2**27
"""A key that may have been seen is looked up; so many bits (16 MiB) tell most that were not."""
_PAGE = 200
_Key = TypeVar("_Key", str, tuple[str, int])


async def verify(runtime: Runtime, *, every: int = EVERY, kept: int = KEPT_ENTRIES) -> AsyncIterator[Step]:
    """Check the store and every session in it; tell how far it is `every` so many entries.

    Finds what the store's own audit finds; entries altered, missing or out of place; turn numbers
    and keys used twice; parents and definitions that are gone; and for each session the first
    entry that doesn't follow from the rules. The facts at the end count `entries`, `sessions`,
    and `damaged` sessions. Raises StoreUnavailable where the store can't be read at all.
    """
    store, damaged, faults = runtime.store, set[str](), 0
    async for damage in store.audit():
        damaged.update(damage.sessions)
        faults += 1
        yield Found(damage.what, damage.sessions)
    chains, rules, keys = _Chains(), Rules(store, kept), _Keys(store)
    definitions = _Definitions(store)
    total, done = await store.count(), 0
    async for row in store.walk():
        done += 1
        entry, problems = chains.add(row)
        if entry is not None:
            problems += await keys.add(entry)
            was_whole = row.session_id not in damaged and not problems
            problems += [] if not was_whole else await _unfollowed(rules, definitions, entry)
            rules.keep(entry)
        if problems and not await _is_gone(store, row.session_id):
            damaged.add(row.session_id)
            faults += len(problems)
            for problem in problems:
                yield Found(f"session '{row.session_id}': {problem}", (row.session_id,))
        if done % every == 0:
            yield Progress(done, max(done, total))
        await asyncio.sleep(0)  # the rules wait for nothing: let the turns that are played go on
    facts = {"entries": done, "sessions": len(chains), "damaged": len(damaged)}
    yield Done(is_good=not faults, facts=facts)


async def _is_gone(store: Store, session_id: str) -> bool:
    """Whether the session was deleted since its entry was read."""
    try:
        return await store.head(session_id) is None
    except (StoreUnavailable, msgspec.MsgspecError):
        return False


class _Link(Struct):
    """Where a session's chain stands: its last entry's seq and hash, and the highest turn so far."""

    seq: int = 0
    hash: str = ""
    last_turn: int = 0


class _Chains:
    """Every session's chain of hashes, as far as it was walked."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def __len__(self) -> int:
        return len(self._links)

    def add(self, row: Row) -> tuple[Entry | None, list[str]]:
        """The row's entry, None where it can't be read; and what is wrong with its place in the chain."""
        link = self._links.setdefault(row.session_id, _Link())
        problems = [*self._misplaced(row, link)]
        is_next = not problems
        link.seq = row.seq
        entry = None
        if is_intact(row.body, row.hash):
            entry, unread = _decoded(row)
            problems += unread
        else:
            problems.append(f"entry {row.seq} is not what was written: its hash is another")
        if entry is not None:
            problems += _unlinked(row, entry, link if is_next else None)
            link.last_turn = max(link.last_turn, entry.turn, entry.last_turn)
        link.hash = row.hash
        return entry, problems

    def _misplaced(self, row: Row, link: _Link) -> Iterator[str]:
        if row.seq > link.seq + 1:
            missing = f"{link.seq + 1}" if row.seq == link.seq + 2 else f"{link.seq + 1} to {row.seq - 1}"
            yield f"entry {missing} is missing"
        elif row.seq <= link.seq:
            yield f"entry {row.seq} stands after entry {link.seq}"


def _decoded(row: Row) -> tuple[Entry | None, list[str]]:
    try:
        return read_entry(row.body, row.hash), []
    except msgspec.MsgspecError as error:
        return None, [f"entry {row.seq} can't be read: {error}"]


def _unlinked(row: Row, entry: Entry, link: _Link | None) -> Iterator[str]:
    """What an entry says of itself that its place denies; `link` is where the chain stood, None after a gap."""
    if (entry.session_id, entry.seq) != (row.session_id, row.seq):
        yield f"entry {row.seq} is entry {entry.seq} of session '{entry.session_id}', and out of place"
    if link is None:
        return
    if entry.prev_hash != link.hash:
        yield f"entry {row.seq} doesn't follow the entry before it: its link is another hash"
    if entry.is_telling and entry.turn <= link.last_turn:
        yield f"entry {row.seq} uses turn number {entry.turn} again"
    if not entry.is_telling and entry.turn > link.last_turn:
        yield f"entry {row.seq} stands at turn {entry.turn}, which was never told"
    if entry.last_turn and entry.last_turn != max(entry.turn, link.last_turn):
        yield f"entry {row.seq} counts {entry.last_turn} turns, and there were {max(entry.turn, link.last_turn)}"


class _Keys:
    """Which keys were met: each makes one entry of its session within the time that it is kept.

    A filter of bits says of most keys that they are new. What may not be is looked up in its session.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bits = bytearray()

    async def add(self, entry: Entry) -> list[str]:
        """What is wrong with an entry's key."""
        if entry.key is None:
            return []
        named = hashlib.sha256(f"{entry.session_id}\0{entry.key}".encode()).digest()
        byte, bit = divmod(int.from_bytes(named[:8]) % _KEY_BITS, 8)
        self._bits = self._bits or bytearray(_KEY_BITS // 8)
        was_set = self._bits[byte] >> bit & 1
        self._bits[byte] |= 1 << bit
        try:
            return await self._twice(entry) if was_set else []
        except (StoreUnavailable, msgspec.MsgspecError):
            return []  # what can't be read is found where it stands

    async def _twice(self, entry: Entry) -> list[str]:
        after = 0
        while after < entry.seq - 1:
            page = await self._store.entries(entry.session_id, after=after, limit=min(_PAGE, entry.seq - 1 - after))
            for other in page:
                if other.key == entry.key and entry.at_ms - other.at_ms <= KEY_KEPT_MS:
                    return [f"entry {entry.seq} has the Idempotency-Key of entry {other.seq}"]
            if not page:
                break
            after = page[-1].seq
        return []


class _Kept:
    """The store as the rules read it: entries that were just walked are at hand."""

    def __init__(self, store: recompute.Reads, bound: int) -> None:
        self._store = store
        self._bound = bound
        self._heads: OrderedDict[str, Entry] = OrderedDict()
        self._turns: OrderedDict[tuple[str, int], Entry] = OrderedDict()

    def keep(self, entry: Entry) -> None:
        """Remember an entry that was walked."""
        _put(self._heads, entry.session_id, entry, self._bound)
        if entry.is_telling:
            _put(self._turns, (entry.session_id, entry.turn), entry, self._bound)

    async def before(self, entry: Entry) -> Entry | None:
        """The entry with the seq before it. Raises StoreUnavailable where the session is gone meanwhile."""
        if entry.seq == 1:
            return None
        head = self._heads.get(entry.session_id)
        if head is not None and head.seq == entry.seq - 1:
            return head
        page = await self.entries(entry.session_id, after=entry.seq - 2, limit=1)
        if not page:
            raise recompute.lost(entry.session_id, entry.turn)
        return page[0]

    async def telling(self, entry: Entry) -> Entry:
        """The telling that an entry stands at. Raises StoreUnavailable where it is gone."""
        found = await self.entry(entry.session_id, entry.turn)
        if found is None:
            raise recompute.lost(entry.session_id, entry.turn)
        return found

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        found = self._turns.get((session_id, turn))
        return found or await self._store.entry(session_id, turn)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        return await self._store.entries(session_id, after=after, limit=limit)

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts."""
        return await self._store.tree(session_id)


def _put(kept: OrderedDict[_Key, Entry], key: _Key, value: Entry, bound: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > bound:
        kept.popitem(last=False)


class Rules:
    """Plays entries again, each from what its session has before it; `bound` as for what is kept in memory."""

    def __init__(self, store: recompute.Reads, bound: int = KEPT_ENTRIES) -> None:
        self._kept = _Kept(store, bound)
        self._restarted: set[str] = set()

    def keep(self, entry: Entry) -> None:
        """Remember an entry for those that follow."""
        self._kept.keep(entry)
        if entry.kind == "turn" and entry.parent is None and entry.seq > 1:
            self._restarted.add(entry.session_id)

    async def why_not(self, machine: Machine, entry: Entry) -> str:
        """The first thing in an entry that doesn't follow from the rules of its machine, '' where all does.

        Raises StoreUnavailable, MsgspecError where what it stands on can't be read.
        """
        if entry.after.digest != entry.digest:
            return "the session after it has another definition"
        head = await self._kept.before(entry)
        if why := recompute.miscounted(entry, head):
            return why
        if entry.is_telling:
            return await self._why_told(machine, entry, head)
        if head is None:
            return f"a session begins with a turn, and not with a {entry.kind}"
        telling = await self._kept.telling(entry)
        if entry.kind == "rewind":
            return recompute.of_rewind(machine, entry, telling, head, await self._left(entry, head))
        return recompute.of_fork(entry, head) if entry.kind == "fork" else recompute.of_migration(machine, entry, head)

    async def _left(self, entry: Entry, head: Entry) -> Session:
        """What the head that a rewind left leaves to its turn; the tree is read where there was a restart."""
        if entry.session_id not in self._restarted:
            return head.after
        nodes = [node for node in await self._kept.tree(entry.session_id) if node.seq < entry.seq]
        return await recompute.left_to(self._kept, nodes, entry.turn, head)

    async def _why_told(self, machine: Machine, entry: Entry, head: Entry | None) -> str:
        if entry.origin is not None:
            return recompute.of_copy(machine, entry, await recompute.before(self._kept, machine, entry))
        if entry.kind == "turn":
            return recompute.of_turn(machine, entry, head)
        if head is None:
            return "a session begins with a turn"
        telling = await self._kept.telling(head)
        found = await recompute.before(self._kept, machine, telling)
        return recompute.of_sibling(machine, entry, found, telling, head)


async def _unfollowed(rules: Rules, definitions: _Definitions, entry: Entry) -> list[str]:
    """The first thing in an entry that doesn't add up, as the only item."""
    where = f"entry {entry.seq} (turn {entry.turn}, {entry.kind}): "
    machine = await definitions.machine(entry.digest)
    if isinstance(machine, str):
        return [where + machine]
    try:
        why = await rules.why_not(machine, entry)
    except (StoreUnavailable, msgspec.MsgspecError) as error:
        why = f"what it stands on can't be read: {error}"
    return [where + why] if why else []


class _Definitions:
    """The machines that a store keeps, compiled."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._machines: OrderedDict[str, Machine | str] = OrderedDict()

    async def machine(self, digest: str) -> Machine | str:
        """The definition under a digest; a sentence where there is none that can be played."""
        if digest not in self._machines:
            self._machines[digest] = await self._loaded(digest)
            if len(self._machines) > KEPT_MACHINES:
                self._machines.popitem(last=False)
        return self._machines[digest]

    async def _loaded(self, digest: str) -> Machine | str:
        files = await self._store.kept(digest)
        if files is None:
            return f"its definition {digest} is not in the store"
        if loader.digest_of(files) != digest:
            return f"the definition that the store keeps as {digest} was altered"
        try:
            return await asyncio.to_thread(loader.load_kept, files)
        except DesignError as error:
            return f"its definition {digest} can't be read: {error}"
