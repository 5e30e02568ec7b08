"""What the owner of a journal remembers of a session in play: its head, and the keys it was asked by."""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtime.session import Entry

NO_KEYS_MS = 2**62
"""A time that no key is as new as: whoever asks since then asks for none."""
TRIM_AT = 256
"""So many keys more, and those that are too old are dropped."""


class Known:
    """A session's head (None: there is no such session) and its keys since `since_ms` (epoch)."""

    def __init__(self, head: Entry | None, keys: Iterable[Mapping[str, object]] = (), since_ms: int = 0) -> None:
        self.head = head
        self.since_ms = since_ms
        self._keys: dict[str, tuple[int, int]] = {}
        self._trimmed = 0
        self.learn(keys, since_ms)

    def made_by(self, key: str | None, since_ms: int) -> int | None:
        """The seq of the entry that a key made at `since_ms` or later."""
        seq, at_ms = self._keys.get(key or "", (0, 0))
        return seq if seq and at_ms >= since_ms else None

    def learn(self, keys: Iterable[Mapping[str, object]], since_ms: int) -> None:
        """Add what was read from the file; what is known already is newer."""
        read = {str(each["key"]): (int(str(each["seq"])), int(str(each["at_ms"]))) for each in keys}
        self._keys = {**read, **self._keys}
        self.since_ms = since_ms

    def follow(self, entry: Entry, since_ms: int) -> None:
        """Move to an entry that was appended; keys older than `since_ms` need not be kept."""
        self.head = entry
        if entry.key is not None:
            self._keys[entry.key] = (entry.seq, entry.at_ms)
            self._trim(since_ms)

    def forget(self, key: str) -> None:
        """Drop a key whose entry is not there."""
        self._keys.pop(key, None)

    def _trim(self, since_ms: int) -> None:
        if len(self._keys) >= self._trimmed + TRIM_AT and since_ms < NO_KEYS_MS:
            self._keys = {key: made for key, made in self._keys.items() if made[1] >= since_ms}
            self.since_ms = max(self.since_ms, since_ms)
            self._trimmed = len(self._keys)


class Heads:
    """What is known of live sessions, the least recently used dropped first.

    A held session is not dropped, so the cache may exceed its bound by as many as are held.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._heads: OrderedDict[str, Known] = OrderedDict()
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._heads

    def get(self, session_id: str) -> Known:
        """What is known of it, now the most recently used. Raises KeyError where it isn't cached."""
        self._heads.move_to_end(session_id)
        return self._heads[session_id]

    def put(self, session_id: str, known: Known) -> None:
        """Remember a session, and drop what exceeds the bound."""
        self._heads[session_id] = known
        self._heads.move_to_end(session_id)
        self._trim()

    def hold(self, session_id: str) -> None:
        """Keep the session from being dropped until it is released as often as held."""
        self._held[session_id] += 1

    def release(self, session_id: str) -> None:
        """Undo one hold."""
        self._held[session_id] -= 1
        if not self._held[session_id]:
            del self._held[session_id]
            self._trim()

    def _trim(self) -> None:
        excess = max(0, len(self._heads) - self._bound)
        for session_id in [*islice(self._heads, excess)]:
            if session_id in self._held:
                self._heads.move_to_end(session_id)
            else:
                del self._heads[session_id]
