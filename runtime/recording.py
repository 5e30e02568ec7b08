"""A session's branch as a replay: what was sent, what chance and the model brought, and what came of it.

The form is DESIGN's. It holds all that a turn takes from outside, so that the same steps lead to
the same states on any later version of the machine, or show where they don't.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from runtime.exported import Aigc, read_answer
from runtime.flow_yaml import flow, word
from runtime.machine import Machine
from runtime.recompute import returned
from runtime.session import Constraints, Entry, Session

Parts = dict[str, Any]
_NORMAL = "NORMAL"


async def recorded(
    machine: Machine, entries: AsyncIterator[Entry], branch: frozenset[int], aigc: Aigc | None = None
) -> AsyncIterator[str]:
    """The replay's text, a step at a time; `branch` are the turns that belong to it, all of one machine.

    `aigc` is the label that it carries where a model told any of it.
    """
    before: Session | None = None
    held: Entry | None = None
    async for entry in entries:
        if not entry.is_telling or entry.turn not in branch:
            continue
        if held is None:
            yield _head(machine, entry, aigc)
        else:
            left = _left(machine, held.after, entry)
            yield _step(before, held, left)
            before = left
        held = entry
    if held is not None:
        yield _step(before, held, held.after)


def _left(machine: Machine, told: Session, following: Entry) -> Session:
    """What a turn left to the next one. A rewind gives no time back: what passed meanwhile counts with this turn."""
    judged = following.judged
    if judged is None:
        return told
    return returned(machine, told, replace(told, elapsed_ms=judged.elapsed_ms, salt=judged.salt))


def _head(machine: Machine, root: Entry, aigc: Aigc | None) -> str:
    """What comes before the first step."""
    session = root.after
    label = f"# AIGC: {flow(aigc.told)}\n" if aigc else ""
    return (
        f"# Recorded on {machine.name}, version {flow(session.version)}, definition {machine.digest}.\n"
        f"# `narrate` is what a model wrote: AI-generated. A step without it is told by the machine's own texts.\n"
        f"{label}"
        f"replay: {word(f'session {session.session_id}')}\n"
        f"given: {flow(_given(machine, session))}\n"
        f"steps:\n"
    )


def _given(machine: Machine, session: Session) -> Parts:
    """Where a session begins, but for what is the machine's default."""
    limit_s = machine.definition.limits.seconds
    given: Parts = {"machine": session.machine, "seed": session.run_seed, "language": session.constraints.language}
    optional = {
        "constraints": _constraints(session.constraints),
        "slots": {name: value for name, value in session.slots.items() if value is not None},
        "player_count": session.player_count if session.player_count != 1 else None,
        "difficulty": session.difficulty if session.difficulty != _NORMAL else None,
        "hard_limit_seconds": _seconds(session.limit_ms) if session.limit_ms != _ms(limit_s) else None,
    }
    return given | {name: value for name, value in optional.items() if value not in (None, {})}


def _ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000


def _seconds(ms: int | None) -> float | int | None:
    if ms is None:
        return None
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


def _constraints(constraints: Constraints) -> Parts:
    told: Parts = msgspec.to_builtins(constraints)
    return {name: value for name, value in told.items() if name != "language"}


def _step(before: Session | None, entry: Entry, left: Session) -> str:
    """A turn as a step, from what was before it to what it left."""
    parts = [(name, value) for name, value in _parts(before, entry, left) if value not in ({}, "")]
    lines = [f"{name}: {value if name == 'after' else flow(value)}" for name, value in parts]
    return "".join(f"{'  - ' if at == 0 else '    '}{line}\n" for at, line in enumerate(lines))


def _parts(before: Session | None, entry: Entry, left: Session) -> Iterator[tuple[str, Any]]:
    choice = entry.outcome.choice
    if choice.key or choice.kind:
        yield "choose", choice.key or {"kind": choice.kind}
    else:
        yield "send", entry.outcome.event
    yield "with", {name: value for name, value in entry.request.get("payload", {}).items() if value is not None}
    yield "constraints", _changed_constraints(before, left)
    yield "dice", _dice(entry, left)
    yield "narrate", _narrated(entry)
    yield "after", _after(before, left)
    yield "expect", _expected(before, entry, left)


def _changed_constraints(before: Session | None, left: Session) -> Parts:
    """What a later request asked of the texts anew."""
    if before is None:
        return {}
    old, new = before.constraints, left.constraints
    names = (name for name in Constraints.__struct_fields__ if getattr(old, name) != getattr(new, name))
    return {name: getattr(new, name) for name in names}


def _dice(entry: Entry, left: Session) -> Parts:
    """Every die of the turn, secret ones too, and the kinds that were drawn for the next choice."""
    dice: Parts = {die.name: die.value for die in entry.outcome.dice}
    kinds = [each.kind for each in left.offer if each.kind]
    return {**dice, "kinds": kinds} if kinds else dice


def _narrated(entry: Entry) -> Parts:
    """What the model answered and what passed unmended, in the form in which it answers; {} where it didn't."""
    meta = read_answer(entry.answer).payload.meta
    if not meta.ai_generated:
        return {}
    learned, told = entry.narration.get("learned", {}), entry.narration
    answer = {name: value for name, value in learned.items() if name in told["output"]}
    words = told.get("ai_state", {})
    remembered = {name: words[name] for name in words if name in learned and name not in answer}
    options = [{"key": key, "text": text} for key, text in told.get("options", {}).items()]
    is_whole = not any(path.partition(".")[0] in ("options", "*") for path in meta.fallback)
    more = {"ai_state": remembered, "options": options if is_whole else []}
    return answer | {name: value for name, value in more.items() if value}


def _after(before: Session | None, left: Session) -> str:
    """The player's clock since the turn before."""
    ms = left.elapsed_ms - (before.elapsed_ms if before else 0)
    return f"{_seconds(ms)}s" if ms else ""


def _expected(before: Session | None, entry: Entry, left: Session) -> Parts:
    old = before.context if before else {}
    context = {name: value for name, value in left.context.items() if name not in old or old[name] != value}
    expected: Parts = {"edge": entry.outcome.edge, "state": left.state}
    expected |= {"context": context} if context else {}
    if left.ended:
        return {**expected, "ended": True, "ending": left.state}
    following = left.routing.next_event_type
    expected |= {"next": following} if following else {}
    expected["should_end"] = left.routing.should_end
    return {**expected, "options": [each.key or each.kind for each in left.offer]}
