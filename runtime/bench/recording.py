"""A session's branch as a replay: what was sent, what chance and the model brought, and what came of it.

The form is DESIGN's. It holds all that a turn takes from outside, so that the same steps lead to
the same states on any later version of the machine, or show where they don't. What a model was
told stands with it, made again from the journal, so that a change of a prompt can be shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime.advance import arrived, route
from runtime.bench.modes import prompt_text
from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep, fixed_dice
from runtime.bench.written import step_text, written
from runtime.document import MAX_BYTES
from runtime.errors import MachineChanged, Refusal, ValidationError
from runtime.export import Survey, entries_of
from runtime.exported import read_answer
from runtime.flow_yaml import flow
from runtime.machine import Machine
from runtime.recompute import asked_again, judged_on, returned, settled_again, unbegun
from runtime.request import Opened
from runtime.session import Constraints, Entry, Session, is_spent, meta_of
from runtime.stores import Store
from runtime.turn import brief, prompt_hash

Prompts = Literal["none", "asked", "all"]
"""Which turns keep their prompt: none (no player may read it), those a model was asked for, or all."""
Parts = dict[str, Any]
_BROKEN = (Refusal, LookupError, TypeError, ValueError, msgspec.MsgspecError)
"""What the rules raise on a turn that they would not make any more."""
UNKEPT = "The prompt that was sent is not here: "
"""How a comment begins that stands where a prompt is left out."""
_UNKEPT = f"{UNKEPT}Edgewise has changed since, and makes another of this turn."
LONG = "It is long: the prompts are left out, so that it can be read as one file."
"""What is said of a recording that would be too long with them."""


class Turn(Struct, frozen=True):
    """A telling of the branch, what it was judged on, and what was left of it for the next one.

    `before` is what the turn before had left, None at the beginning. `left` has the time that a
    rewind didn't give back. `is_moved` where the session had moved to another version just before.
    """

    before: Session | None
    found: Session
    entry: Entry
    left: Session
    is_moved: bool = False


async def recorded(store: Store, about: Survey, prompts: Prompts) -> AsyncGenerator[str, None]:
    """A branch as a replay's text, a step at a time; without prompts where nobody could read it with them.

    Raises ValidationError before the first part where it is too long even so, MachineChanged where the
    branch moved from one definition to another (and back), or its own can't be read; StoreUnavailable.
    """
    refuse_moved(about)
    for part in await _fitting(about, lambda: turns_of(store, about), prompts):
        yield part


async def recorded_since_move(store: Store, about: Survey, prompts: Prompts) -> tuple[str, ...]:
    """A branch as a replay's text, from where the session last moved to another version.

    What it had used up, visited and played before is not known to such a replay: it stands in the
    state with the variables that the move left. It is as `recorded` where it is long. Raises
    MachineChanged where the definition can't be read, ValidationError, StoreUnavailable.
    """
    turns: list[Turn] = []
    async for turn in turns_of(store, about):
        turns = [turn] if turn.is_moved else [*turns, turn]

    async def those() -> AsyncIterator[Turn]:
        for turn in turns:
            yield turn

    return await _fitting(about, those, prompts)


async def _fitting(
    about: Survey, turns: Callable[[], AsyncIterator[Turn]], prompts: Prompts, note: str = ""
) -> tuple[str, ...]:
    """A replay's text that can be read as one file. Raises ValidationError where it is too long for that."""
    parts, size = [], 0
    async with aclosing(_written(about, turns(), prompts, note)) as written_parts:
        async for part in written_parts:
            parts.append(part)
            size += len(part.encode())
            if size > MAX_BYTES:
                break
        else:
            return tuple(parts)
    if prompts != "none":
        return await _fitting(about, turns, "none", LONG)
    message = f"a replay of this session is too long: a file has {MAX_BYTES:,} bytes at most"
    detail = {"loc": ["query", "format"], "msg": message, "type": "too_long"}
    raise ValidationError(message, "Export it as jsonl.", details=[detail])


def refuse_moved(about: Survey) -> None:
    """Pass a branch of one definition. Raises MachineChanged.

    A move there and back has one too, and what it did to the variables no step of a replay would do.
    """
    digests = {node.digest for node in about.nodes if node.turn in about.branch}
    if about.has_moved or len(digests) > 1:
        raise _changed(about, "moved on to another", "migrated")


def _changed(about: Survey, what: str, reason: str) -> MachineChanged:
    return MachineChanged(
        f"a replay is of one definition, and this session {what}",
        "Ask for jsonl.",
        machine=about.head.after.machine,
        digest=about.head.digest,
        reasons=[reason],
    )


async def turns_of(store: Store, about: Survey) -> AsyncIterator[Turn]:
    """The tellings of the branch, oldest first. Raises MachineChanged, StoreUnavailable."""
    held: Turn | None = None
    moved: Session | None = None
    async for entry in entries_of(store, about.head):
        if held is not None and entry.kind == "migration" and entry.turn == held.entry.turn:
            moved = entry.after
        if not entry.is_telling or entry.turn not in about.branch:
            continue
        machine = _machine_of(about, entry)
        if held is None:
            held = Turn(None, judged_on(unbegun(machine, entry.after), entry), entry, entry.after)
            continue
        left = held.left if moved else _left(machine, held.entry.after, entry)
        yield replace(held, left=left)
        found = judged_on(moved or held.entry.after, entry)
        # To a replay that begins there, all the time before counts with its first step.
        before = replace(moved, elapsed_ms=0) if moved else left
        held = Turn(before, found, entry, entry.after, is_moved=moved is not None)
        moved = None
    if held is not None:
        yield held


def _machine_of(about: Survey, entry: Entry) -> Machine:
    if entry.digest not in about.machines:
        raise _changed(about, "lost its own", "definition_missing")
    return about.machines[entry.digest]


def _left(machine: Machine, told: Session, following: Entry) -> Session:
    """What a turn left to the next one. A rewind gives no time back: what passed meanwhile counts with this turn."""
    judged = following.judged
    if judged is None:
        return told
    return returned(machine, told, replace(told, elapsed_ms=judged.elapsed_ms, salt=judged.salt))


async def _written(about: Survey, turns: AsyncIterator[Turn], prompts: Prompts, note: str) -> AsyncGenerator[str, None]:
    is_begun = False
    async for turn in turns:
        machine = about.machines[turn.entry.digest]
        if not is_begun:
            is_begun = True
            given = given_of(machine, turn)
            head = Replay(name=f"session {about.session_id}", given=given, steps=())
            yield written(head, "\n".join(filter(None, (_comment(machine, about, turn), note))))
        prompt = prompt_of(machine, turn) if _is_kept(turn.entry, prompts) else None
        yield f"  # {_UNKEPT}\n" if prompt == "" else ""
        yield step_text(step_of(turn, prompt or None))


def _comment(machine: Machine, about: Survey, first: Turn) -> str:
    """What stands above a recording."""
    lines = [
        f"Recorded on {machine.name}, version {flow(first.entry.after.version)}, definition {machine.digest}.",
        "`narrate` is what a model wrote: AI-generated. A step without it is told by the machine's own texts.",
    ]
    if first.is_moved:
        lines.append(f"It begins at turn {first.entry.turn}, where the session moved to this version.")
        lines.append("What was visited and used up before is left out.")
    if about.aigc_of_branch:
        lines.append(f"AIGC: {flow(about.aigc_of_branch.told)}")
    return "\n".join(lines)


# Where it begins.


def given_of(machine: Machine, first: Turn) -> Given:
    """Where a recording begins, but for what is the machine's default: before its first event, or after a move."""
    session = first.before or first.entry.after
    limit_s = machine.definition.limits.seconds
    parts = {
        "machine": session.machine,
        "seed": session.run_seed,
        "language": session.constraints.language,
        "constraints": _constraints(session.constraints),
        "slots": {name: value for name, value in session.slots.items() if value is not None},
        "player_count": session.player_count,
        "difficulty": session.difficulty,
        "hard_limit_seconds": _seconds(session.limit_ms) if session.limit_ms != _ms(limit_s) else None,
    }
    given = msgspec.convert(parts, Given)
    return replace(given, state=first.found.state, context=first.found.context) if first.is_moved else given


def _ms(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * 1000


def _seconds(ms: int | None) -> float | int | None:
    if ms is None:
        return None
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


def _constraints(constraints: Constraints) -> Parts:
    told: Parts = msgspec.to_builtins(constraints)
    return {name: value for name, value in told.items() if name != "language"}


# A step.


def step_of(turn: Turn, prompt: str | None = None) -> ReplayStep:
    """A turn as a step, from what was before it to what it left."""
    before, entry, left = turn.before, turn.entry, turn.left
    choice = entry.outcome.choice
    is_chosen = bool(choice.key or choice.kind)
    return ReplayStep(
        choose=Chosen(key=choice.key or None, kind=None if choice.key else choice.kind) if is_chosen else None,
        send=None if is_chosen else entry.outcome.event,
        with_={name: value for name, value in entry.request.get("payload", {}).items() if value is not None},
        constraints=_changed_constraints(before, left),
        dice=fixed_dice(entry.outcome.dice, left.offer),
        narrate=narrated(entry) or None,
        after_ms=left.elapsed_ms - (before.elapsed_ms if before else 0),
        expect=_expected(before, entry, left),
        prompt=prompt,
    )


def _changed_constraints(before: Session | None, left: Session) -> Parts:
    """What a later request asked of the texts anew."""
    if before is None:
        return {}
    old, new = before.constraints, left.constraints
    names = (name for name in Constraints.__struct_fields__ if getattr(old, name) != getattr(new, name))
    return {name: getattr(new, name) for name in names}


def narrated(entry: Entry) -> Parts:
    """What the model answered; {} where it didn't."""
    meta = read_answer(entry.answer).payload.meta
    return answered(entry.narration, meta.fallback) if meta.ai_generated else {}


def answered(told: Mapping[str, Any], fallback: tuple[str, ...]) -> Parts:
    """What a model answered and what passed unmended, in the form in which it answers.

    `told` has `output`, `ai_state`, `options` and `learned` of its narration, `fallback` what others told.
    """
    learned, words = told.get("learned", {}), told.get("ai_state", {})
    answer = {name: value for name, value in learned.items() if name in told["output"]}
    remembered = {name: words[name] for name in words if name in learned and name not in answer}
    options = [{"key": key, "text": text} for key, text in told.get("options", {}).items()]
    is_whole = not any(path.partition(".")[0] in ("options", "*") for path in fallback)
    more = {"ai_state": remembered, "options": options if is_whole else []}
    return answer | {name: value for name, value in more.items() if value}


def _expected(before: Session | None, entry: Entry, left: Session) -> Expect:
    old = before.context if before else {}
    context = {name: value for name, value in left.context.items() if name not in old or old[name] != value}
    expected = Expect(edge=entry.outcome.edge, state=left.state, context=context)
    if left.ended:
        return replace(expected, ended=True, ending=left.state)
    return replace(
        expected,
        next=left.routing.next_event_type,
        should_end=left.routing.should_end,
        options=tuple(each.key or each.kind for each in left.offer),
    )


# Its prompt.


def _is_kept(entry: Entry, prompts: Prompts) -> bool:
    """Whether a turn's prompt belongs into the file."""
    if prompts != "asked":
        return prompts == "all"
    return meta_of(entry.answer).ai_generated or is_spent(entry.usage, entry.spent)


def prompt_of(machine: Machine, turn: Turn) -> str:
    """The prompt that a turn was told by, as it was sent; '' where today's rules make another one."""
    entry = turn.entry
    opened = Opened(
        machine=machine,
        session=turn.found,
        head=None,
        constraints=entry.after.constraints,
        elapsed_ms=entry.after.elapsed_ms,
        now_ms=entry.at_ms,
        next_turn=entry.turn,
    )
    try:
        asked = asked_again(machine, entry)
        settled = settled_again(opened, asked, entry)
        settled = replace(settled, session=replace(settled.session, salt=entry.after.salt))
        task = brief(opened, settled, asked, route(machine, arrived(settled.session)).offer)
    except _BROKEN:
        return ""
    return prompt_text(task.messages) if prompt_hash(task.messages) == entry.prompt_hash else ""
