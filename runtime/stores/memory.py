"""A journal that lives as long as its process: for tests and for play in a terminal."""

from __future__ import annotations

import secrets
from itertools import islice
from typing import TYPE_CHECKING

from runtime.formats import read_entry
from runtime.session import Entry, Expense, Node, body_of, summed
from runtime.stores import Claim, Damage, Row
from runtime.stores.heads import cursor_of, follows, node_of, position_of, refuse_existing
from runtime.stores.leases import Leases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence


class MemoryStore:
    """A Store in memory.

    Entries are kept encoded: what is read is what a file would give back, and nothing that a
    caller does with an entry reaches the journal.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[tuple[bytes, str]]] = {}
        self._positions: dict[str, int] = {}  # session → where its head stands, oldest first
        self._position = 0
        self._kept: dict[str, dict[str, str]] = {}
        self._expenses: list[Expense] = []
        self._secret = secrets.token_bytes(32)
        self._leases = Leases()

    async def open(self) -> None:
        """Nothing to make ready."""

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        rows = self._entries.get(session_id)
        return read_entry(*rows[-1]) if rows else None

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        return next((each for each in self._read(session_id) if each.turn == turn and each.is_telling), None)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        return [*islice(self._read(session_id, after), limit)]

    async def rows(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Row]:
        """The same entries as they are kept."""
        kept = self._entries.get(session_id, [])[after : after + limit]
        return [Row(session_id, seq, body, hash_) for seq, (body, hash_) in enumerate(kept, after + 1)]

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts, oldest first."""
        return [*map(node_of, self._read(session_id))]

    async def claim(
        self, session_id: str, *, key: str | None = None, request_hash: str = "", since_ms: int = 0
    ) -> Claim:
        """Ask for a session, to play a turn on it."""
        head = await self.head(session_id)
        claim = Claim(session_id=session_id, head=head, key=key, request_hash=request_hash)
        answered = None if key is None or head is None else self._made_by(session_id, key, since_ms)
        if answered is not None:
            return Claim(session_id=session_id, head=head, answered=answered)
        return self._leases.take(claim)

    async def release(self, claim: Claim) -> None:
        """Give a claim back; one that was used, lost or never held is no error."""
        self._leases.release(claim)

    async def freed(self, session_id: str, wait_s: float) -> None:
        """Wait until nobody holds the session, at most `wait_s` seconds."""
        await self._leases.freed(session_id, wait_s)

    async def in_progress(self, session_id: str) -> bool:
        """Whether somebody holds the session now."""
        return session_id in self._leases

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Expense | None = None) -> None:
        """Add an entry. Raises StaleTurn where it does not follow the head, or the claim was lost."""
        follows(entry, await self.head(entry.session_id))
        self._leases.check(claim)
        self._entries.setdefault(entry.session_id, []).append((body_of(entry), entry.hash))
        if expense is not None:
            await self.spend(entry.session_id, expense)
        self._moved(entry.session_id)
        self._leases.release(claim)

    async def adopt(self, rows: Sequence[Row]) -> None:
        """Add a whole session at once. Raises SessionExists."""
        session_id = rows[0].session_id
        refuse_existing(await self.head(session_id))
        self._entries[session_id] = [(row.body, row.hash) for row in rows]
        self._moved(session_id)

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        before = self._position + 1 if after is None else position_of(after)
        found = (
            (position, head)
            for position, head in self._heads_before(before)
            if (player_id is None or head.after.player_id == player_id) and (ended is None or head.after.ended == ended)
        )
        page = [*islice(found, limit + 1)]
        heads = [head for _, head in page[:limit]]
        return heads, cursor_of(page[limit - 1][0]) if len(page) > limit else None

    async def delete(self, session_id: str, claim: Claim | None = None) -> bool:
        """Remove a session for good; False where there was none."""
        self._leases.check(claim)
        self._positions.pop(session_id, None)
        self._leases.release(claim)
        return self._entries.pop(session_id, None) is not None

    async def spend(self, session_id: str, expense: Expense) -> None:  # noqa: ARG002 - the sum is all that is asked for
        """Add to the ledger what no entry of the session says."""
        self._expenses = summed([*self._expenses, expense])

    async def expenses(self, since: int) -> list[Expense]:
        """The ledger from a day on."""
        return [each for each in self._expenses if each.day >= since]

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        self._kept.setdefault(digest, dict(files))

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        files = self._kept.get(digest)
        return None if files is None else dict(files)

    async def digests(self) -> list[str]:
        """Every digest that a definition is kept under."""
        return [*self._kept]

    async def secret(self) -> bytes:
        """32 random bytes, made once for this store."""
        return self._secret

    async def keep_secret(self, secret: bytes) -> None:
        """Take over the secret of the store that this one becomes a copy of."""
        self._secret = secret

    async def count(self) -> int:
        """How many entries there are."""
        return sum(map(len, self._entries.values()))

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        """Every entry as it is kept, session by session."""
        for session_id in [*self._entries]:
            for seq, (body, hash_) in enumerate(self._entries.get(session_id, []), 1):
                cursor = f"{seq}:{session_id}"
                if not after:
                    yield Row(session_id, seq, body, hash_, cursor)
                elif cursor == after:
                    after = ""

    async def audit(self) -> AsyncIterator[Damage]:
        """Memory has nothing beyond its entries."""
        return
        yield

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """Nothing to let go of: a closed store can still be read, so that a test can look."""

    def _moved(self, session_id: str) -> None:
        self._position += 1
        self._positions.pop(session_id, None)
        self._positions[session_id] = self._position

    def _read(self, session_id: str, after: int = 0) -> Iterator[Entry]:
        return (read_entry(*row) for row in self._entries.get(session_id, [])[after:])

    def _made_by(self, session_id: str, key: str, since_ms: int) -> Entry | None:
        newest_first = (read_entry(*row) for row in reversed(self._entries.get(session_id, [])))
        return next((entry for entry in newest_first if entry.key == key and entry.at_ms >= since_ms), None)

    def _heads_before(self, position: int) -> Iterator[tuple[int, Entry]]:
        for session_id, at in reversed(self._positions.items()):
            if at < position:
                yield at, read_entry(*self._entries[session_id][-1])
