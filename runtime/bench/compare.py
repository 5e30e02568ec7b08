"""The same requests to two sides: two versions of a machine, or two narrators. Start at `compared`.

Where the rules part (edge, state, context, a refusal, a die) a path ends, with why on both sides: from
there on the two play different stories. Where they part in what is open next, each such difference is told
once, and the path goes on, as it does where only words or prompts part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.coverage import goals
from runtime.bench.expecting import Came
from runtime.bench.modes import CONTEXT_LINES
from runtime.bench.places import Atlas
from runtime.bench.player import Result, played
from runtime.bench.replay import Chosen, Expect, Replay, ReplayStep
from runtime.bench.spans import Span, spans_of
from runtime.bench.trial import Step
from runtime.bench.why import why
from runtime.dice import spec_of
from runtime.flow_yaml import flow
from runtime.machine import Machine
from runtime.narrators import Narrator
from runtime.session import Entry, Outcome, Session

_NO_PROSE = frozenset({"meta", "outcome", "routing", "inputs", "error", "request_id", "details", "considered"})
"""Parts of an answer or a refusal that are no words for a player; the rules among them are compared as such."""
_NO_TEXT = frozenset({"key", "kind", "event_type", "value", "id"})
"""What names an option or an ending to a client, and a variable's value: its text is beside it."""
OPEN = frozenset({"options", "next", "allowed", "should_end"})
"""What is open next: where that parts, the same request may still be sent to both."""
NOT_THERE = "—"
"""What stands for a value that a side doesn't have."""


class Side(Struct, frozen=True):
    """Who plays: a machine, told by a narrator that is open; None = as the replay says, else offline."""

    machine: Machine
    narrator: Narrator | None = None


class Words(Struct, frozen=True):
    """A text that is told otherwise, by its dotted path."""

    path: str
    spans: tuple[Span, ...]


class Prompts(Struct, frozen=True):
    """A turn that is told by other prompts: their files, '' for the built-in one, and what differs, line by line."""

    here: str
    there: str
    lines: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file, or both."""
        names = dict.fromkeys(each or "built-in" for each in (self.here, self.there))
        return " ≠ ".join(names)


class Parting(Struct, frozen=True):
    """The first thing that the rules of two sides settle differently, and how each came to it."""

    field: str
    here: Any
    there: Any
    why_here: str
    why_there: str

    @property
    def is_end(self) -> bool:
        """Whether the two play different stories from there on."""
        return self.field not in OPEN


class Turn(Struct, frozen=True, kw_only=True):
    """A turn in which something parted; `step` counts from 1, 0 = what is given. `sent` says what both were sent.

    `notes` say which side's model failed there.
    """

    step: int
    sent: str
    parting: Parting | None = None
    words: tuple[Words, ...] = ()
    prompts: Prompts | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_telling(self) -> bool:
        """Whether there is anything to say of it."""
        return bool(self.parting or self.words or self.prompts or self.notes)


class Compared(Struct, frozen=True, kw_only=True):
    """A path as two sides played it: how many turns were compared, and those in which something parted.

    `walked` are the edges that were taken here and there, in the turns that were compared.
    """

    replay: Replay
    language: str
    steps: int
    turns: tuple[Turn, ...]
    walked: tuple[frozenset[str], frozenset[str]]

    @property
    def name(self) -> str:
        """What the path is called."""
        return self.replay.id or self.replay.name

    @property
    def parting(self) -> Turn | None:
        """Where the rules part first; None where they don't."""
        return next((each for each in self.turns if each.parting), None)

    @property
    def words(self) -> int:
        """How many texts were told otherwise."""
        return sum(len(each.words) for each in self.turns)

    @property
    def prompts(self) -> int:
        """How many turns were told by other prompts."""
        return sum(each.prompts is not None for each in self.turns)


class Unwalked(Struct, frozen=True):
    """An edge that no path took, on which side, and where it stands; `is_only` where the other side has none such."""

    edge: str
    side: Literal["here", "there", "both"]
    where: str
    is_only: bool


async def compared(replay: Replay, here: Side, there: Side) -> Compared:
    """Play a path on both sides, up to where the rules part. What it expects is not asked."""
    asked = _unexpecting(replay)
    ours = await played(asked, here.machine, here.narrator)
    given = replace(asked.given, machine=there.machine.name)
    meant = replace(asked, given=given, steps=_as_chosen(asked.steps, ours.came))
    theirs = await played(meant, there.machine, there.narrator)
    turns = tuple(_turns(asked.steps, ours, theirs, here, there))
    count = min(len(ours.came), len(theirs.came))
    steps = next((each.step for each in turns if each.parting and each.parting.is_end), count)
    return Compared(
        replay=replay,
        language=replay.given.language or here.machine.definition.language,
        steps=steps,
        turns=turns,
        walked=(_walked(ours, steps), _walked(theirs, steps)),
    )


def unwalked(found: Iterable[Compared], here: Machine, there: Machine) -> tuple[Unwalked, ...]:
    """The edges of either version that no path took, in the order of their files: what was not compared."""
    paths = list(found)
    taken = [frozenset[str]().union(*(each.walked[side] for each in paths)) for side in (0, 1)]
    ours, theirs = (
        {str(goal.key): str(goal.place) for goal in goals(machine, ("edges",))} for machine in (here, there)
    )
    missed_here, missed_there = (
        [each for each in edges if each not in walked] for edges, walked in zip((ours, theirs), taken, strict=True)
    )
    first = [
        Unwalked(each, "both" if each in missed_there else "here", ours[each], each not in theirs)
        for each in missed_here
    ]
    rest = [Unwalked(each, "there", theirs[each], each not in ours) for each in missed_there if each not in missed_here]
    return (*first, *rest)


def _walked(result: Result, steps: int) -> frozenset[str]:
    return frozenset(each.turn.outcome.edge for each in result.came[:steps] if each.turn is not None)


def _unexpecting(replay: Replay) -> Replay:
    steps = tuple(replace(step, expect=Expect(), times=1, prompt=None) for step in replay.steps)
    return replace(replay, steps=steps, xfail=None)


def _as_chosen(steps: tuple[ReplayStep, ...], came: tuple[Came, ...]) -> tuple[ReplayStep, ...]:
    """The steps, with options by the key or kind that was chosen: their texts and numbers may be others there."""
    chosen = [_choice(step, each) for step, each in zip(steps, came, strict=False)]
    return (*chosen, *steps[len(chosen) :])


def _choice(step: ReplayStep, came: Came) -> ReplayStep:
    if step.choose is None or came.turn is None:
        return step
    choice = came.turn.outcome.choice
    same = [each for each in came.turn.before.offer if each.kind == choice.kind]
    if choice.key:
        return replace(step, choose=Chosen(key=choice.key))
    return replace(step, choose=Chosen(kind=choice.kind)) if choice.kind and len(same) == 1 else step


def sent_by(step: ReplayStep) -> str:
    """What a step sends, in a few words."""
    chosen = step.choose
    name = ""
    if chosen is not None:
        name = str(next(each for each in (chosen.key, chosen.kind, chosen.text, chosen.id) if each is not None))
    return " ".join(filter(None, (step.send or "", name))) or "the first event"


# Turn by turn.


def _turns(
    steps: tuple[ReplayStep, ...], ours: Result, theirs: Result, here: Side, there: Side
) -> Iterator[Turn]:  # fmt: skip
    """The turns in which something parts, up to where the stories do."""
    is_told_alike = True
    known: list[Parting] = []
    for step, one, other in zip(steps, ours.came, theirs.came, strict=False):
        parting = _parting(one, other, here.machine, there.machine, known)
        is_end = parting is not None and parting.is_end
        turn = Turn(
            step=one.number,
            sent=sent_by(step),
            parting=parting,
            words=tuple(_words(one, other)),
            # Another story has other prompts: that says nothing of either.
            prompts=None if is_end else _prompts(one, other, here.machine, there.machine, is_told_alike=is_told_alike),
            notes=(*_failed("here", one, here), *_failed("there", other, there)),
        )
        if turn.is_telling:
            yield turn
        if is_end:
            return
        known += [parting] if parting else []
        is_told_alike = is_told_alike and not turn.words
    if parting := _stopped(ours, theirs):
        number = min(len(ours.came), len(theirs.came))
        yield Turn(step=number, sent=sent_by(steps[number - 1]) if number else "what is given", parting=parting)


def _failed(name: str, came: Came, side: Side) -> Iterator[str]:
    """That a side's model didn't tell a turn, or not the whole of it."""
    meta = came.answer["payload"]["meta"] if came.answer is not None else {}
    if side.narrator is None or not meta.get("fallback"):
        return
    parts = "the turn" if "*" in meta["fallback"] else ", ".join(meta["fallback"])
    yield f"{name}: told offline, for the model failed: {parts} (tried: {', '.join(meta['rungs'])})"


# Where the rules part.


def _parting(one: Came, other: Came, here: Machine, there: Machine, known: Sequence[Parting]) -> Parting | None:
    """The first thing that is settled differently, and is not `known` from a turn before."""
    told = [(each.field, each.here, each.there) for each in known]
    if found := _die(one, other, here, there):
        return found
    ours, theirs = dict(_settled(one)), dict(_settled(other))
    for field in {**ours, **theirs}:
        mine, yours = ours.get(field, NOT_THERE), theirs.get(field, NOT_THERE)
        is_same = type(mine) is type(yours) and mine == yours
        if not is_same and (field, mine, yours) not in told:
            return Parting(field, mine, yours, _why(one, other, field, here), _why(other, one, field, there))
    return None


def _settled(came: Came) -> Iterator[tuple[str, Any]]:
    """What the rules settled, in the order in which it is told."""
    yield "error", came.error
    if came.turn is not None:
        yield "edge", came.turn.outcome.edge
    if came.session is not None:
        yield from _standing(came.session)


def _standing(session: Session) -> Iterator[tuple[str, Any]]:
    routing = session.routing
    yield "state", session.state
    yield "ended", session.ended
    yield from ((f"context.{name}", value) for name, value in sorted(session.context.items()))
    yield "options", [each.key or each.kind for each in session.offer]
    yield "next", routing.next_event_type
    yield "allowed", sorted(routing.allowed_event_types)
    yield "should_end", routing.should_end


def _why(came: Came, other: Came, field: str, machine: Machine) -> str:
    """How a side came to it; with what a variable was learned from, and the dice that the other side doesn't roll."""
    told = [why(came, field, machine)]
    if field.startswith("context.") and came.turn is not None and came.entry is not None:
        told += _learned(came.turn, came.entry, field.removeprefix("context."), machine)
    if field not in OPEN and came.turn is not None and other.turn is not None:
        rolled = {(each.name, each.spec) for each in other.turn.outcome.dice}
        own = [each for each in came.turn.outcome.dice if (each.name, each.spec) not in rolled]
        told += [f"  the other side doesn't: {_rolled(each.name, came.turn.outcome, machine)[1]}" for each in own]
    return "\n".join(told)


def _learned(turn: Step, entry: Entry, name: str, machine: Machine) -> Iterator[str]:
    """What a variable was learned from, as it was told."""
    edges = (*machine.table.get(turn.outcome.source, ()), machine.initial)
    taken = next(each for each in edges if each.full_name == turn.outcome.edge)
    learned: Mapping[str, Any] = entry.narration.get("learned", {})
    for rule in taken.learn:
        if rule.name == name:
            read = {*re.findall(r"\w+", rule.source.source)}
            found = {each: value for each, value in learned.items() if each in read}
            yield f"  told by {entry.model or entry.narrator}: {flow(found) if found else 'nothing to learn from'}"


def _stopped(ours: Result, theirs: Result) -> Parting | None:
    """One side could not go on: what was given can't be there, a property was broken, it fell over."""
    sides = (ours, theirs)
    stops = [(len(each.came), each.difference and (each.difference.field, each.difference.why)) for each in sides]
    if stops[0] == stops[1]:
        return None
    first = next((stop for _, stop in stops if stop), None)
    told = [stop[1] if stop else "it goes on" for _, stop in stops]
    here, there = ("stops" if stop else "goes on" for _, stop in stops)
    return Parting(first[0] if first else "end", here, there, *told)


# Dice that are fixed, and don't fall so on one of the sides.


def _die(one: Came, other: Came, here: Machine, there: Machine) -> Parting | None:
    """A fixed die that one side doesn't roll, or can't roll so: it was added, removed or changed."""
    faults = [_faults(each) for each in (one, other)]
    name = next((each for each in {**faults[0], **faults[1]} if (each in faults[0]) != (each in faults[1])), None)
    played_on = one.turn or other.turn
    if name is None or played_on is None:
        return None
    outcome = played_on.outcome
    sides = [_rolled(name, outcome, machine) for machine in (here, there)]
    (mine, _), (yours, _) = sides
    becoming = "added" if mine == NOT_THERE else "removed" if yours == NOT_THERE else "changed"
    whys = [
        where if spec == NOT_THERE else f"{where} {fault.get(name, '')}".strip()
        for (spec, where), fault in zip(sides, faults, strict=True)
    ]
    return Parting(f"dice.{name}", mine, yours, f"the die was {becoming}: {whys[0]}", whys[1])


def _faults(came: Came) -> Mapping[str, str]:
    """What is wrong with fixed dice, by their names."""
    details: Sequence[Mapping[str, Any]] = (came.refusal or {}).get("details", ())
    return {str(each["loc"][1]): each["msg"] for each in details if each.get("loc", [""])[0] == "dice"}


def _rolled(name: str, outcome: Outcome, machine: Machine) -> tuple[str, str]:
    """How a machine rolls a die of a turn, and where that stands; of one that it doesn't roll, where it would."""
    atlas = Atlas(machine)
    key = outcome.choice.key
    row = machine.table.get(outcome.source, ()) if outcome.source else (machine.initial,)
    edges = [each.edge for each in row if each.edge.event == outcome.event and each.edge.option in ("", key)]
    for edge in edges:
        if name in edge.dice:
            spec = spec_of(edge.dice[name])
            return spec, f"{atlas.die(edge, name)} rolls {name} {spec}."
    return NOT_THERE, f"{atlas.die(edges[0], name)} rolls no {name}." if edges else ""


# Where words part.


def _words(one: Came, other: Came) -> Iterator[Words]:
    """What is told otherwise; where one side alone is refused there is nothing to hold its words against."""
    if (one.error is None) != (other.error is None):
        return
    ours, theirs = _texts(one), _texts(other)
    for path in {**ours, **theirs}:
        here, there = ours.get(path, ""), theirs.get(path, "")
        if here != there:
            yield Words(path, spans_of(here, there))


def _texts(came: Came) -> dict[str, str]:
    """Every text of an answer or a refusal by its path."""
    told = (came.answer or {}).get("payload", {}) if came.refusal is None else came.refusal
    return dict(_leaves({name: each for name, each in told.items() if name not in _NO_PROSE}, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                yield from _leaves(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}.{index}")


# Where prompts part.


def _prompts(one: Came, other: Came, here: Machine, there: Machine, *, is_told_alike: bool) -> Prompts | None:
    """Two prompts that differ. Once words have parted each holds its own story: then only other files are told."""
    if one.prompt is None or other.prompt is None or one.prompt == other.prompt or not (one.turn and other.turn):
        return None
    files = one.turn.prompt, other.turn.prompt
    if not is_told_alike and here.files.get(files[0]) == there.files.get(files[1]):
        return None
    lines = difflib.unified_diff(
        one.prompt.split("\n"), other.prompt.split("\n"), "here", "there", lineterm="", n=CONTEXT_LINES
    )
    return Prompts(*files, tuple(lines))
