"""What stores share: which entry may follow a head, a bounded cache of heads, and the lists' cursors."""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from runtime.errors import SessionExists, StaleTurn, ValidationError
from runtime.session import Node, body_of
from runtime.stores import Row

if TYPE_CHECKING:
    from runtime.session import Entry


def follows(entry: Entry, head: Entry | None) -> None:
    """Pass where the entry is the next one after the head (None: the session does not exist).

    Raises StaleTurn otherwise.
    """
    seq, hash_ = (head.seq, head.hash) if head else (0, "")
    if entry.seq == seq + 1 and entry.prev_hash == hash_:
        return
    raise StaleTurn(
        f"session '{entry.session_id}' has moved on to turn {head.turn if head else 0}: "
        f"turn {entry.turn} was played on an older head",
        hint="Read the session, then choose again.",
        expected_turn=entry.turn - 1,
        turn=head.turn if head else 0,
        allowed_event_types=head.after.routing.allowed_event_types if head else (),
    )


def refuse_existing(head: Entry | None) -> None:
    """Pass where there is no session. Raises SessionExists."""
    if head is not None:
        raise SessionExists(
            f"session '{head.session_id}' exists already: it stands in state '{head.after.state}' at turn {head.turn}",
            "Name another session_id, or delete that session first.",
            state=head.after.state,
            turn=head.turn,
        )


def row_of(entry: Entry) -> Row:
    """The entry as it is kept."""
    return Row(entry.session_id, entry.seq, body_of(entry), entry.hash)


def node_of(entry: Entry) -> Node:
    """The entry without its texts."""
    return Node(
        seq=entry.seq,
        turn=entry.turn,
        parent=entry.parent,
        kind=entry.kind,
        source=entry.outcome.source,
        state=entry.after.state,
        digest=entry.digest,
        at_ms=entry.at_ms,
    )


def cursor_of(position: int) -> str:
    """The cursor that continues a list after the head at this position of the journal."""
    return str(position)


def position_of(cursor: str) -> int:
    """The position that a cursor stands for.

    Raises ValidationError for what no list has given out.
    """
    if cursor.isascii() and cursor.isdigit() and len(cursor) <= len(str(2**63)) - 1:
        return int(cursor)
    detail = {"loc": ["query", "after"], "msg": "not a cursor: send 'next_after' of the page before", "type": "cursor"}
    raise ValidationError("'after' is not a cursor of this list", hint="Begin without 'after'.", details=[detail])


class Heads:
    """Heads of live sessions, the least recently used dropped first; None = known not to exist.

    A held session is not dropped, so the cache may exceed its bound by as many as are held.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._heads: OrderedDict[str, Entry | None] = OrderedDict()
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._heads

    def get(self, session_id: str) -> Entry | None:
        """The head, now the most recently used. Raises KeyError where it isn't cached."""
        self._heads.move_to_end(session_id)
        return self._heads[session_id]

    def put(self, session_id: str, head: Entry | None) -> None:
        """Remember a head, and drop what exceeds the bound."""
        self._heads[session_id] = head
        self._heads.move_to_end(session_id)
        self._trim()

    def hold(self, session_id: str) -> None:
        """Keep the session's head from being dropped until it is released as often as held."""
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
