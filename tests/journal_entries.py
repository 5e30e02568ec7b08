"""Entries for the stores' tests: plausible ones, linked by their hashes as the flow links them."""

from __future__ import annotations

from typing import Any

import msgspec

from runtime.session import (
    JOURNAL_FORMAT,
    Choice,
    Constraints,
    Entry,
    Offer,
    Outcome,
    Rolled,
    Routing,
    Session,
    Told,
    Usage,
    hash_of,
    sealed,
)

SCENE = '灯影一晃，那东西发出裂帛般的尖啸。👻👨‍👩‍👧 “Who’s there?”\n\t"quoted" \\ '


def entry_after(head: Entry | None, session_id: str = "s1", *, scene: str = SCENE, **after: Any) -> Entry:
    """The entry that follows `head`; `after` overrides what the session holds after it."""
    seq = head.seq + 1 if head else 1
    session = Session(
        session_id=session_id,
        machine="lantern_house",
        version=1,
        digest="d" * 64,
        run_seed="seed",
        constraints=Constraints("zh", forbidden_terms=("血腥",)),
        state="DECISION",
        turn=seq,
        step=seq,
        context={"hp": 12, "bag": ["key", "lamp"], "mood": "tense", "luck": 0.5, "seen": True},
        offer=(Offer(1, "循声上楼", "DECISION", key="stairs"), Offer(2, "bold", "DECISION", kind="bold")),
        routing=Routing("DECISION", should_end=False, allowed_event_types=("DECISION", "END")),
        recent=(Told("循声上楼", scene),),
        said={"a1b2": seq},
    )
    entry = Entry(
        format=JOURNAL_FORMAT,
        session_id=session_id,
        seq=seq,
        turn=seq,
        parent=head.turn if head else None,
        at_ms=1_700_000_000_000 + seq,
        digest="d" * 64,
        request={"event": "DECISION", "payload": {"text": scene}, "slots": {"tone_bias": None}},
        outcome=Outcome(
            "DECISION", "DECISION.stairs", "INIT", "DECISION", Choice("stairs"), (Rolled("attack", "1d20", 14),), ()
        ),
        prompt_hash="p" * 64,
        narration={"output": {"scene": scene}},
        narrator="offline",
        model=None,
        usage=Usage(),
        after=msgspec.structs.replace(session, **after),
        answer=msgspec.Raw(msgspec.json.encode({"scene": scene})),
        prev_hash=head.hash if head else "",
    )
    return sealed(entry)


def line_of(count: int, session_id: str = "s1", **after: Any) -> list[Entry]:
    """A session's first `count` entries."""
    entries: list[Entry] = []
    for _ in range(count):
        entries.append(entry_after(entries[-1] if entries else None, session_id, **after))
    return entries


def is_whole(entries: list[Entry]) -> bool:
    """Whether the entries are one session from its beginning: no gap, each hash its own and the next one's link."""
    links = ["", *(entry.hash for entry in entries)]
    return all(
        entry.seq == seq and entry.prev_hash == link and entry.hash == hash_of(entry)
        for seq, (entry, link) in enumerate(zip(entries, links, strict=False), 1)
    )
