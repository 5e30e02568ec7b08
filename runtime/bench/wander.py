"""Plays at random, as players may play: how stories end, how long they are, and what goes wrong on the way.

Each play depends on its own seed and on the plays of its chunk before it: so the same plays come of
the same seed, however many processes share them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench import properties
from runtime.bench.conditions import compiled_edges
from runtime.bench.coverage import Coverage, Tally, merged
from runtime.bench.explore import shown
from runtime.bench.finding import Bug, Kind
from runtime.bench.moves import Move, replay_of, settled, tried
from runtime.bench.places import Atlas
from runtime.bench.replay import Expect, Replay, Text
from runtime.bench.search import openings
from runtime.bench.shrinking import erred, said_of, shrunk
from runtime.bench.trial import Step, Trial
from runtime.bench.values import learnable, members, nested, payload_values
from runtime.constraints import bounds_of, text_breaches, text_paths
from runtime.cutting import sentences
from runtime.errors import Refusal
from runtime.facts import facts_of
from runtime.machine import CompiledEdge, Machine

MOST_TURNS = 500
"""How many turns a play takes at most; one that is longer is told as a loop."""
TRIES = 8
"""How often an event is sent again with another payload before it counts as refused whatever comes."""
CHUNK = 25
"""How many plays follow each other in one process, and know what was used before: the same for any number of them."""
SECONDS = 15
"""A player thinks for less than this, in seconds."""
SHOWN_REPEATS = 5
"""How many repeated sentences are told of, the most frequent first."""
SHORT = 8
"""Sentences of fewer characters than this may be said twice."""


class Wandering(Struct, frozen=True):
    """How plays are played: which machine's, from which seed; told in a language, or by the rules alone."""

    seed: str
    plays: int
    avoids_used: bool = False
    tells: bool = False
    language: str | None = None


class Wandered(Struct, frozen=True, kw_only=True):
    """What came of plays: how often they ended where, how long they were, and what variables ended as.

    `endings` has '' for plays that ended nowhere. `values` has each shown variable's values, with members
    of sets counted alone. `repeats` counts plays in which a sentence was told again, `told` those in which
    it was told at all; `examples` has for each the shortest such play, up to the turn that tells it again.
    """

    plays: int = 0
    turns: int = 0
    endings: Mapping[str, int] = {}
    lengths: Mapping[int, int] = {}
    values: Mapping[str, Mapping[str, int]] = {}
    refused: int = 0
    coverage: Coverage = Coverage()
    bugs: tuple[Bug, ...] = ()
    repeats: Mapping[str, int] = {}
    told: Mapping[str, int] = {}
    examples: Mapping[str, Replay] = {}


def chunks(wandering: Wandering) -> list[tuple[int, int]]:
    """The plays in parts: the first one's number, and the one's after the last."""
    return [(start, min(start + CHUNK, wandering.plays)) for start in range(0, wandering.plays, CHUNK)]


def wander(machine: Machine, wandering: Wandering, chunk: tuple[int, int]) -> Wandered:
    """Play the plays of one chunk."""
    walker = _Walker(machine, wandering)
    return together([walker.play(number) for number in range(*chunk)])


def together(parts: Sequence[Wandered]) -> Wandered:
    """The sum of several, in their order; of bugs of one kind and place the shortest, the earliest of those."""
    bugs: dict[tuple[str, str, str], Bug] = {}
    for bug in (bug for part in parts for bug in part.bugs):
        key = (bug.kind, bug.where, bug.what if bug.kind == "fault" else "")
        if key not in bugs or _length(bug) < _length(bugs[key]):
            bugs[key] = bug
    values: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.values.items():
            values.setdefault(name, Counter()).update(counts)
    return Wandered(
        plays=sum(part.plays for part in parts),
        turns=sum(part.turns for part in parts),
        endings=_summed([part.endings for part in parts]),
        lengths=_summed([part.lengths for part in parts]),
        values={name: dict(counts) for name, counts in values.items()},
        refused=sum(part.refused for part in parts),
        coverage=merged(*(part.coverage for part in parts)),
        bugs=tuple(bugs.values()),
        repeats=_summed([part.repeats for part in parts]),
        told=_summed([part.told for part in parts]),
        examples=_shortest([part.examples for part in parts]),
    )


def _shortest(parts: Sequence[Mapping[str, Replay]]) -> dict[str, Replay]:
    found: dict[str, Replay] = {}
    for part in parts:
        for text, replay in part.items():
            if text not in found or len(replay.steps) < len(found[text].steps):
                found[text] = replay
    return found


def _length(bug: Bug) -> int:
    return len(bug.replay.steps) if bug.replay else 0


def _summed(parts: Sequence[Mapping[Any, int]]) -> dict[Any, int]:
    counts: Counter[Any] = Counter()
    for part in parts:
        counts.update(part)
    return dict(counts)


class _Fell(Exception):
    """A play went wrong: how, and at which edge."""

    def __init__(self, kind: Kind, what: str, edge: str, move: Move | None) -> None:
        super().__init__(what)
        self.kind, self.what, self.edge, self.move = kind, what, edge, move


class _Walker:
    """Plays one play after the other, and knows what was used in those before."""

    def __init__(self, machine: Machine, wandering: Wandering) -> None:
        self.machine, self.wandering = machine, wandering
        self.trial = Trial(machine, tells=wandering.tells)
        self.rules = Trial(machine)
        self.used: Counter[str] = Counter()
        self.shortest: dict[tuple[str, str, str], int] = {}
        self.atlas = Atlas(machine)
        self.edges = {each.full_name: each for each in compiled_edges(machine)}
        self.sources = [guard.source for each in self.edges.values() for guard in each.guards]

    def is_news(self, found: tuple[str, str, str], turns: int) -> bool:
        """Whether no play of this chunk has shown the same in as few turns."""
        least = self.shortest.get(found)
        self.shortest[found] = turns if least is None else min(turns, least)
        return least is None or turns < least

    def play(self, number: int) -> Wandered:
        """One play, to its ending or to where it goes wrong."""
        seed = f"{self.wandering.seed}:{number}"
        play = _Play(self, random.Random(seed), seed)  # noqa: S311 - no secret
        try:
            play.run()
        except _Fell as fell:
            play.fell(fell)
        return play.told()

    def begins(self, seed: str) -> dict[str, Any]:
        """A session's own fields."""
        language = self.wandering.language
        return {"seed": seed, **({} if language is None else {"language": language})}


class _Play:
    """One play under way."""

    def __init__(self, walker: _Walker, rng: random.Random, seed: str) -> None:
        self.walker, self.rng, self.seed = walker, rng, seed
        self.machine, self.trial = walker.machine, walker.trial
        self.watch = properties.begun(walker.machine)
        self.moves: list[Move] = []
        self.step: Step | None = None
        self.tally = Tally()
        self.refused = 0
        self.bugs: list[Bug] = []
        self.sentences: Counter[str] = Counter()
        self.examples: dict[str, Replay] = {}

    def run(self) -> None:
        initial = self.machine.initial.edge
        self._take(
            Move(event=initial.event, begins=self.walker.begins(self.seed), payload=self._payload(initial.event))
        )
        while self.step is not None and not self.step.after.ended:
            if len(self.moves) >= MOST_TURNS:
                raise _Fell("loop", f"no ending within {MOST_TURNS} turns", self.step.outcome.edge, None)
            self._go_on(self.step)

    def _go_on(self, step: Step) -> None:
        """Take one of the moves that there are, the least used first where that is asked for."""
        state = step.after.state
        found = list(openings(self.machine, step.after))
        self.rng.shuffle(found)
        if self.walker.wandering.avoids_used:
            found.sort(key=lambda move: self.walker.used[_name(state, move)])
        for move in found:
            for _ in range(TRIES):
                with_more = replace(move, payload=self._payload(move.event), after_ms=self._after_ms())
                if self._take(with_more):
                    self.walker.used[_name(state, move)] += 1
                    return
                if not with_more.payload:
                    break
        raise _Fell("trap", f"state {state} can't be left: nothing that was tried is allowed", step.outcome.edge, None)

    def _after_ms(self) -> int:
        return self.rng.randrange(SECONDS) * 1000

    def _payload(self, event: str) -> dict[str, Any]:
        declared = self.machine.definition.event(event).payload
        drawn = {name: self.rng.choice(payload_values(kind, self.walker.sources)) for name, kind in declared.items()}
        return {name: value for name, value in drawn.items() if value is not None}

    def _take(self, move: Move) -> bool:
        """Take a move; False where it is refused. Raises _Fell where it goes wrong."""
        session = None if self.step is None else self.step.after
        try:
            step = tried(self.trial, session, move)
            lesson = {} if self.walker.wandering.tells else self._lesson(self.walker.edges[step.outcome.edge])
            if lesson:
                move = replace(move, learned=lesson)
                step = tried(self.trial, session, move)
        except Refusal as refusal:
            if refusal.code == "machine_fault":
                edge = str(refusal.facts.get("edge", ""))
                raise _Fell("fault", refusal.message, edge, move) from None
            self.refused += 1
            return False
        except Exception as error:
            edge = "" if self.step is None else self.step.outcome.edge
            raise _Fell("crash", f"{type(error).__name__}: {error}", edge, move) from error
        self._keep(move, step)
        return True

    def _lesson(self, compiled: CompiledEdge) -> dict[str, Any]:
        """What a model may teach: half of the time all of it, at random."""
        learning = learnable(self.machine, compiled, frozenset(rule.name for rule in compiled.learn))
        if not learning or self.rng.random() < 0.5:  # noqa: PLR2004 - half
            return {}
        return nested({path: self.rng.choice(members(variable)) for path, (_, variable) in learning.items()})

    def _keep(self, move: Move, step: Step) -> None:
        self.moves.append(settled(self.machine, move, step))
        self.step = step
        self.tally.add(step)
        self.watch, broken = properties.followed(self.machine, self.watch, step)
        for each in broken:
            self._bug("property", said_of(each), each.place)
        for name, what in erred(step).items():
            self._bug("fault", what, str(self.walker.atlas.edge(self.walker.edges[name].edge)))
        if step.narration is not None:
            self._hear(step)

    def _hear(self, step: Step) -> None:
        """Judge the texts of a turn that was told."""
        assert step.narration is not None  # noqa: S101 - asked before
        edge = self.walker.edges[step.outcome.edge].edge
        prompt = self.machine.prompt_for(edge, step.after.constraints.language)
        known = facts_of(self.machine, step.after, step.outcome)
        bounds = replace(bounds_of(self.machine, step.after.constraints), facts=known)
        for path, text in text_paths(step.narration.output):
            for breach in text_breaches(path, text, prompt, bounds):
                what = f"the text at {path} breaks its bounds by {breach.rule}: {breach.message}"
                self._bug("constraint", what, str(self.walker.atlas.edge(edge)))
            for said in (each for each in map(str.strip, sentences(text)) if len(each) >= SHORT):
                self.sentences[said] += 1
                if self.sentences[said] == 2:  # noqa: PLR2004 - told again
                    self.examples[said] = self._telling(path, said)

    def _telling(self, path: str, said: str) -> Replay:
        """The play so far, which must tell a sentence at last."""
        replay = replay_of(self.machine, self.moves, f"told again: {said}")
        *before, last = replay.steps
        return replace(replay, steps=(*before, replace(last, expect=Expect(texts={path: Text(contains=said)}))))

    def _bug(self, kind: Kind, what: str, where: str, moves: Sequence[Move] | None = None) -> None:
        if any((bug.kind, bug.where) == (kind, where) for bug in self.bugs):
            return
        found = list(self.moves if moves is None else moves)
        if not self.walker.is_news((kind, where, what if kind == "fault" else ""), len(found)):
            return
        if kind in ("fault", "crash", "property"):
            found, what = shrunk(self.walker.rules, found, kind, what)
        replay = shown(self.walker.rules, found, f"{kind}: {what}")
        self.bugs.append(
            Bug(kind=kind, machine=self.machine.name, what=what, where=where, replay=replay, seed=self.seed)
        )

    def fell(self, fell: _Fell) -> None:
        edge = self.walker.edges.get(fell.edge)
        where = self.walker.atlas.file if edge is None else str(self.walker.atlas.edge(edge.edge))
        if fell.kind in ("trap", "loop") and self.step is not None:
            where = str(self.walker.atlas.state(self.step.after.state))
        self._bug(fell.kind, fell.what, where, [*self.moves, *([fell.move] if fell.move else [])])

    def told(self) -> Wandered:
        """What came of it."""
        after = None if self.step is None else self.step.after
        ended = after is not None and after.ended
        return Wandered(
            plays=1,
            turns=len(self.moves),
            endings={after.state if after is not None and ended else "": 1},
            lengths={len(self.moves): 1},
            values={} if after is None else _values(self.machine, after.context),
            refused=self.refused,
            coverage=self.tally.coverage(),
            bugs=tuple(self.bugs),
            repeats={text: 1 for text, count in self.sentences.items() if count > 1},
            told=dict.fromkeys(self.sentences, 1),
            examples=self.examples,
        )


def _name(state: str, move: Move) -> str:
    return f"{state}.{move.key or move.kind or move.event}"


def _values(machine: Machine, context: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    shown_ones = [name for name, variable in machine.definition.context.items() if variable.show]
    return {name: dict.fromkeys(_parts(context[name]), 1) for name in shown_ones}


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        yield from value or ["(none)"]
    else:
        yield str(value).lower() if isinstance(value, bool) else str(value)


def repeated(machine: Machine, found: Wandered) -> Iterator[Bug]:
    """The sentences that most plays told again."""
    often = sorted(found.repeats.items(), key=lambda each: (-each[1], each[0]))[:SHOWN_REPEATS]
    for text, plays in often:
        told = found.told[text]
        what = f"told again in {plays:,} of the {told:,} plays that told it: {text}"
        replay = found.examples[text]
        seed = replay.given.seed or ""
        yield Bug(kind="repeats", machine=machine.name, what=what, where=Atlas(machine).file, replay=replay, seed=seed)
