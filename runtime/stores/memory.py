"""A journal that lives as long as its process: for tests and for play in a terminal."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from runtime.session import Entry
from runtime.stores.heads import cursor_of, follows, position_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class MemoryStore:
    """A Store in memory.

    Entries are kept encoded: what is read is what a file would give back, and nothing that a
    caller does with an entry reaches the journal.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[bytes]] = {}
        self._positions: dict[str, int] = {}  # session → where its head stands, oldest first
        self._position = 0
        self._kept: dict[str, dict[str, str]] = {}

    async def open(self) -> None:
        """Nothing to make ready."""

    async def head(self, session_id: str) -> Entry | None:
        """The session's newest entry, None where the session does not exist."""
        bodies = self._entries.get(session_id)
        return _decode(bodies[-1]) if bodies else None

    async def entry(self, session_id: str, turn: int) -> Entry | None:
        """The entry of a turn."""
        entries = map(_decode, reversed(self._entries.get(session_id, [])))
        return next((entry for entry in entries if entry.turn == turn), None)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:
        """Entries with `seq > after`, oldest first, at most `limit`."""
        bodies = self._entries.get(session_id, [])
        return [_decode(body) for body in islice(bodies, after, after + limit)]

    async def append(self, entry: Entry) -> None:
        """Add an entry. Raises StaleTurn where it does not follow the head."""
        follows(entry, await self.head(entry.session_id))
        self._entries.setdefault(entry.session_id, []).append(_encode(entry))
        self._position += 1
        self._positions.pop(entry.session_id, None)
        self._positions[entry.session_id] = self._position

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

    async def delete(self, session_id: str) -> bool:
        """Remove a session for good; False where there was none."""
        self._positions.pop(session_id, None)
        return self._entries.pop(session_id, None) is not None

    async def keep(self, digest: str, files: Mapping[str, str]) -> None:
        """Keep a definition's files (path → text) under their digest; again is no error."""
        self._kept.setdefault(digest, dict(files))

    async def kept(self, digest: str) -> dict[str, str] | None:
        """The files kept under a digest."""
        files = self._kept.get(digest)
        return None if files is None else dict(files)

    async def ping(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """Nothing to let go of: a closed store can still be read, so that a test can look."""

    def _heads_before(self, position: int) -> Iterator[tuple[int, Entry]]:
        for session_id, at in reversed(self._positions.items()):
            if at < position:
                yield at, _decode(self._entries[session_id][-1])
