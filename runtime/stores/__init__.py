"""What a store is: an append-only journal of entries, and the definitions that they were made by.

A turn claims its session first. The claim spares a second narration; what keeps two turns apart is
the compare-and-set of `append`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from runtime.session import Entry, Expense, Node


class Claim(Struct, frozen=True, kw_only=True):
    """A session as it was found when a turn asked for it.

    `epoch` is not 0 where the caller now holds the session: until its append, its release, or the
    end of the lease. Else `key` and `request_hash` are the holder's. `answered` is the entry that
    the caller's own key made before; then nothing is held.
    """

    session_id: str
    head: Entry | None
    epoch: int = 0
    key: str | None = None
    request_hash: str = ""
    answered: Entry | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the caller holds the session."""
        return self.epoch != 0


class Row(Struct, frozen=True):
    """An entry as it is kept: its body's bytes and the hash beside them.

    Copies are made of rows and not of entries, so that what an older format wrote keeps its bytes.
    `cursor` continues a walk after it.
    """

    session_id: str
    seq: int
    body: bytes
    hash: str
    cursor: str = ""


class Damage(Struct, frozen=True):
    """Something in a store that is not as it was written; `sessions` are those that it touches."""

    what: str
    sessions: tuple[str, ...] = ()
    seq: int | None = None


class Store(Protocol):
    """A journal. Every method may raise StoreUnavailable; then nothing was changed."""

    async def open(self) -> None:
        """Make ready: create what is missing, read what is needed. Called once, before all else."""
        ...

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        ...

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The telling of a turn."""
        ...

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        ...

    async def rows(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Row]:
        """The same entries as they are kept, for who copies them; their cursors are empty."""
        ...

    async def tree(self, session_id: str) -> list[Node]:
        """Every entry of a session without its texts, oldest first."""
        ...

    async def claim(
        self, session_id: str, *, key: str | None = None, request_hash: str = "", since_ms: int = 0
    ) -> Claim:
        """Ask for a session, to play a turn on it; it need not exist yet.

        Where `key` made an entry of the session at `since_ms` (epoch) or later, that is `answered`.
        """
        ...

    async def release(self, claim: Claim) -> None:
        """Give a claim back; one that was used, lost or never held is no error."""
        ...

    async def freed(self, session_id: str, wait_s: float) -> None:
        """Wait until nobody holds the session, at most `wait_s` seconds; it may be held again at once."""
        ...

    async def in_progress(self, session_id: str) -> bool:
        """Whether somebody holds the session now."""
        ...

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Expense | None = None) -> None:
        """Add an entry, and to the ledger what it cost; returns when both are durable, and the claim is over.

        Compare-and-set: raises StaleTurn unless `entry.seq` is the head's `seq + 1` and
        `entry.prev_hash` its hash (1 and '' where there is no session), and where the claim was
        lost to another.
        """
        ...

    async def adopt(self, rows: Sequence[Row]) -> None:
        """Add a whole session at once, seq 1 to n; all of it is there or nothing. Raises SessionExists."""
        ...

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        ...

    async def delete(self, session_id: str, claim: Claim | None = None) -> bool:
        """Remove a session for good; False where there was none.

        What stays is a tombstone that keeps the chain of hashes, without text; and in the ledger what
        it had cost, since that was spent.
        """
        ...

    async def spend(self, session_id: str, expense: Expense) -> None:
        """Add to the ledger what no entry of the session says: what a turn cost that came to nothing."""
        ...

    async def expenses(self, since: int) -> list[Expense]:
        """The ledger from a day on: one sum for each day, provider and model, oldest first."""
        ...

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        ...

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        ...

    async def digests(self) -> list[str]:
        """Every digest that a definition is kept under."""
        ...

    async def secret(self) -> bytes:
        """32 random bytes, made once for this store: ids are derived from a key under it."""
        ...

    async def keep_secret(self, secret: bytes) -> None:
        """Take over the secret of the store that this one becomes a copy of."""
        ...

    async def count(self) -> int:
        """How many entries there are."""
        ...

    def walk(self, after: str = "") -> AsyncIterator[Row]:
        """Every entry as it is kept, each session's in the order of its seq; `after` is a Row's cursor."""
        ...

    def audit(self) -> AsyncIterator[Damage]:
        """What is wrong with the store beyond what its entries tell of themselves; nothing is mended."""
        ...

    async def ping(self) -> None:
        """Prove that the store can be read and written now."""
        ...

    async def close(self) -> None:
        """Finish what was promised, then let go."""
        ...
