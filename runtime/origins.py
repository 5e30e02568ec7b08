"""An entry as another session keeps it: what a fork's child has of its source, and an import under a new id."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from runtime.session import JOURNAL_FORMAT, NO_TOTAL, NOT_SHOWN, Entry, Origin, sealed


def copied(entry: Entry, session_id: str, prev: Entry | None) -> Entry:
    """The entry with another session's id and links, sealed; `prev` is the copy before it.

    It keeps its turn and says where it came from. Keys stay behind: they asked for turns of the
    session that they were sent to.
    """
    return sealed(
        replace(
            entry,
            format=JOURNAL_FORMAT,
            session_id=session_id,
            seq=prev.seq + 1 if prev else 1,
            last_turn=max(prev.last_turn if prev else 0, entry.turn),
            after=replace(entry.after, session_id=session_id),
            answer=_renamed(entry.answer, session_id),
            shown=NOT_SHOWN,
            key=None,
            request_hash="",
            total=NO_TOTAL,
            origin=Origin(entry.session_id, entry.turn, entry.hash),
            prev_hash=prev.hash if prev else "",
        )
    )


def _renamed(answer: msgspec.Raw, session_id: str) -> msgspec.Raw:
    """An answer with the session's id in it; all else as it was sent."""
    told = msgspec.json.decode(answer)
    for part in (told, told.get("answer") or {}):
        if "session" in part:
            part["session"]["session_id"] = session_id
    return msgspec.Raw(msgspec.json.encode(told))
