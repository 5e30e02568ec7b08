"""What a store is: an append-only journal of entries, and the definitions that they were made by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.session import Entry


class Store(Protocol):
    """A journal. Every method may raise StoreUnavailable; then nothing was changed."""

    async def open(self) -> None:
        """Make ready: create what is missing, read what is needed. Called once, before all else."""
        ...

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        ...

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The entry of a turn."""
        ...

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        ...

    async def append(self, entry: Entry) -> None:
        """Add an entry; returns when it is durable.

        Compare-and-set: raises StaleTurn unless `entry.seq` is the head's `seq + 1` and
        `entry.prev_hash` its hash (1 and '' where there is no session).
        """
        ...

    async def sessions(
        self, *, player_id: str | None = None, ended: bool | None = None, limit: int = 50, after: str | None = None
    ) -> tuple[list[Entry], str | None]:
        """Head entries, newest first, and the cursor that continues the list (None at its end)."""
        ...

    async def delete(self, session_id: str) -> bool:
        """Remove a session for good; False where there was none."""
        ...

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        ...

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        ...

    async def ping(self) -> None:
        """Prove that the store can be read and written now."""
        ...

    async def close(self) -> None:
        """Finish what was promised, then let go."""
        ...
