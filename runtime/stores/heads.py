"""What stores share: which entry may follow a head, an entry as it is kept, and the lists' cursors."""

from __future__ import annotations

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
