"""The same requests to two sides: two versions of a machine, or two narrators. Start at `compared`.

Where the rules part (edge, state, context, routing, options, a refusal) a path ends, with why on both
sides: from there on the two play different stories. Where only words part it goes on.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.expecting import Came
from runtime.bench.player import played
from runtime.bench.replay import Chosen, Expect, Replay, ReplayStep
from runtime.bench.why import why
from runtime.cutting import is_inside
from runtime.machine import Machine
from runtime.narrators import Narrator
from runtime.session import Session

Span = tuple[Literal["=", "-", "+"], str]
"""A part of a text: in both, only on this side, only on the other."""
_NO_PROSE = frozenset({"meta", "error", "request_id"})
"""Parts of an answer or a refusal that tell a player nothing."""
NOT_THERE = "—"
"""What stands for a value that a side doesn't have."""


class Side(Struct, frozen=True):
    """Who plays: a machine, told by a narrator that is open; None = as the replay says, else offline."""

    machine: Machine
    narrator: Narrator | None = None


class Words(Struct, frozen=True):
    """A text that is told otherwise, by its dotted path; `prompt` is what the turn was told by."""

    path: str
    spans: tuple[Span, ...]


class Parting(Struct, frozen=True):
    """The first thing that the rules of two sides settle differently, and how each came to it."""

    field: str
    here: Any
    there: Any
    why_here: str
    why_there: str


class Turn(Struct, frozen=True):
    """A turn in which something parted; `sent` says what both were sent."""

    step: int
    sent: str
    parting: Parting | None
    words: tuple[Words, ...]


class Compared(Struct, frozen=True, kw_only=True):
    """A path as two sides played it: how many turns were compared, and those in which something parted."""

    replay: Replay
    steps: int
    turns: tuple[Turn, ...]

    @property
    def parting(self) -> Turn | None:
        """Where the rules part; None where they don't."""
        return next((each for each in self.turns if each.parting), None)

    @property
    def words(self) -> int:
        """How many texts were told otherwise."""
        return sum(len(each.words) for each in self.turns)


async def compared(replay: Replay, here: Side, there: Side) -> Compared:
    """Play a path on both sides, up to where the rules part. What it expects is not asked."""
    asked = _unexpecting(replay)
    ours = await played(asked, here.machine, here.narrator)
    given = replace(asked.given, machine=there.machine.name)
    meant = replace(asked, given=given, steps=_as_chosen(asked.steps, ours.came))
    theirs = await played(meant, there.machine, there.narrator)
    stops = [
        None if each.difference is None else (each.difference.field, each.difference.why) for each in (ours, theirs)
    ]
    turns: list[Turn] = []
    count = max(len(ours.came), len(theirs.came))
    for index in range(count):
        one, other = (side.came[index] if index < len(side.came) else None for side in (ours, theirs))
        parting = _stopped(stops) if one is None or other is None else _parting(one, other, here.machine, there.machine)
        words = tuple(_words(one, other)) if parting is None and one is not None and other is not None else ()
        if parting or words:
            turns.append(Turn(index + 1, sent_by(asked.steps[index]), parting, words))
        if parting:
            return Compared(replay=replay, steps=index + 1, turns=tuple(turns))
    if stops[0] != stops[1]:
        turns.append(Turn(count, "", _stopped(stops), ()))
    return Compared(replay=replay, steps=count, turns=tuple(turns))


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


# Where the rules part.


def _parting(one: Came, other: Came, here: Machine, there: Machine) -> Parting | None:
    ours, theirs = dict(_settled(one)), dict(_settled(other))
    for field in {**ours, **theirs}:
        mine, yours = ours.get(field, NOT_THERE), theirs.get(field, NOT_THERE)
        if type(mine) is not type(yours) or mine != yours:
            return Parting(field, mine, yours, why(one, field, here), why(other, field, there))
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


def _stopped(stops: list[tuple[str, str] | None]) -> Parting:
    """One side could not go on: what was given can't be there, a property was broken, it fell over."""
    (here, there) = stops
    field = (here or there or ("end", ""))[0]
    told = ["it goes on" if each is None else each[1] for each in stops]
    return Parting(field, *("goes on" if each is None else "stops" for each in stops), *told)


# Where words part.


def _words(one: Came, other: Came) -> Iterator[Words]:
    ours, theirs = _texts(one), _texts(other)
    for path in {**ours, **theirs}:
        here, there = ours.get(path, ""), theirs.get(path, "")
        if here != there:
            yield Words(path, spans_of(here, there))


def _texts(came: Came) -> dict[str, str]:
    """Every text of an answer or a refusal by its path, and the prompt."""
    told = (came.answer or {}).get("payload", {}) if came.refusal is None else came.refusal
    prompt = {} if came.prompt is None else {"prompt": came.prompt}
    return {**dict(_leaves(told, "")), **prompt}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if path or name not in _NO_PROSE:
                yield from _leaves(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}.{index}")


def spans_of(here: str, there: str) -> tuple[Span, ...]:
    """What was taken out of a text and put into it: by words, sign by sign where none stand apart, as in Chinese.

    Line by line first, so that a long prompt is quickly done.
    """
    found: list[Span] = []
    for ours, theirs in _blocks(here.splitlines(keepends=True), there.splitlines(keepends=True)):
        if ours == theirs:
            found.append(("=", "".join(ours)))
        else:
            found += _inside(_tokens("".join(ours)), _tokens("".join(theirs)))
    return tuple(_joined(found))


Block = tuple[list[str], list[str]]
"""Parts that stand for each other."""


def _blocks(ours: list[str], theirs: list[str]) -> Iterator[Block]:
    for _, start, end, begin, stop in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        yield ours[start:end], theirs[begin:stop]


def _inside(ours: list[str], theirs: list[str]) -> Iterator[Span]:
    for gone, come in _blocks(ours, theirs):
        if gone == come:
            yield "=", "".join(gone)
            continue
        if gone:
            yield "-", "".join(gone)
        if come:
            yield "+", "".join(come)


def _joined(spans: list[Span]) -> Iterator[Span]:
    for sign, parts in groupby(spans, key=itemgetter(0)):
        yield sign, "".join(text for _, text in parts)


def _tokens(text: str) -> list[str]:
    """Words of letters that stand apart by spaces, and every other sign, whole as a reader sees it."""
    found: list[str] = []
    for at, letter in enumerate(text):
        if at and (is_inside(text, at) or (_is_of_word(text[at - 1]) and _is_of_word(letter))):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _is_of_word(letter: str) -> bool:
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"
