"""Do the replays test anything? Each mutant of a machine is played by the replays that come where it was changed.

A mutant is *killed* by the first replay that doesn't come as it expects; it is *invalid* where the
check refuses it, since no such machine is ever served. What no replay notices has *survived*: a test
is missing, or the change makes no difference. That it makes none can't be proved by playing, but it
is likely where a whole exploration comes out the same: then it is told as *probably equivalent*, by
name, and the score counts it neither as killed nor as survived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.bench.alike import Sample, apart, differing, naming, samples, telling_apart, told
from runtime.bench.changed import Changed
from runtime.bench.course import given_session
from runtime.bench.mutants import Mutant, Touch, mutants, mutated
from runtime.bench.nearby import plays
from runtime.bench.player import Taken, played_by_rules, played_over, taken_by_rules
from runtime.bench.pool import shared_out
from runtime.bench.replay import Given, Replay
from runtime.bench.trial import Step, Trial
from runtime.errors import Finding, Refusal
from runtime.machine import Machine
from runtime.session import Session

Fate = Literal["killed", "survived", "equivalent", "invalid"]
FATES: tuple[Fate, ...] = ("killed", "survived", "equivalent", "invalid")


class Judged(Struct, frozen=True, kw_only=True):
    """What became of a mutant. `turns` is how many were played for it.

    `by` says what settled it: the replay and its difference, the check's finding, how many turns came out the
    same, or for a survivor what a play would have shown ('' where exploration came to none); `killer`
    is that play. `over` are the ids of the replays that come to its place.
    """

    mutant: Mutant
    fate: Fate
    by: str = ""
    over: tuple[str, ...] = ()
    turns: int = 0
    killer: Replay | None = None


class Score(Struct, frozen=True):
    """How many mutants came to which fate."""

    killed: int = 0
    survived: int = 0
    equivalent: int = 0
    invalid: int = 0

    @property
    def percent(self) -> float:
        """Killed, of those that can be told apart, of 100; 100 where there is none."""
        counted = self.killed + self.survived
        return 100.0 * self.killed / counted if counted else 100.0


def score_of(judged: Iterable[Judged]) -> Score:
    """The score of some mutants."""
    fates = [each.fate for each in judged]
    return Score(*(fates.count(fate) for fate in FATES))


def mutants_of(files: Mapping[str, str]) -> tuple[Mutant, ...]:
    """Every mutant of a machine's files, in file order. Raises DesignError."""
    return mutants(loader.drafted(files))


def judged(files: Mapping[str, str], replays: Sequence[Replay], jobs: int = 1) -> Iterator[tuple[int, Judged]]:
    """What becomes of each mutant, with its number in file order, as it comes. Raises DesignError.

    Whoever stops listening leaves the rest unjudged.
    """
    numbers = range(len(mutants_of(files)))
    yield from shared_out(_judge, numbers, jobs, _prepare, (dict(files), tuple(replays)))


def passes(replay: Replay, machine: Machine) -> bool:
    """Whether a replay passes by the rules alone: only then its failure on a mutant says anything."""
    return played_by_rules(replay, machine).verdict == "passed"


def killers(files: Mapping[str, str], found: Iterable[Judged]) -> tuple[tuple[Mutant, Replay], ...]:
    """Replays that would have noticed the survivors, as far as exploration has come to any; few, not the fewest.

    Each stands with the first mutant that it notices.
    """
    draft = loader.drafted(files)
    plain = loader.built(draft, files)
    chosen: list[tuple[Mutant, Replay]] = []
    for each in found:
        if each.killer is None:
            continue
        machine = mutated(draft, files, each.mutant, plain)
        if not isinstance(machine, Finding) and all(passes(killer, machine) for _, killer in chosen):
            chosen.append((each.mutant, each.killer))
    return tuple(chosen)


_HERE: list[_Bench] = []
"""What this process judges by: its setup puts it there, once."""


def _prepare(files: Mapping[str, str], replays: Sequence[Replay]) -> None:
    _HERE[:] = [_Bench(files, replays)]


def _judge(number: int) -> Judged:
    return _HERE[0].judge(number)


class _Way(Struct, frozen=True):
    """A replay as it goes on the machine itself: where it stands, what it takes, how long it is."""

    replay: Replay
    taken: Taken
    states: frozenset[str]
    edges: frozenset[str]
    turns: int

    def comes_to(self, touch: Touch) -> bool:
        return not self.states.isdisjoint(touch.states) or not self.edges.isdisjoint(touch.edges)

    def takes(self, touch: Touch) -> bool:
        return not self.edges.isdisjoint(touch.edges)


class _Bench:
    """A machine, its mutants, and what they are judged by."""

    def __init__(self, files: Mapping[str, str], replays: Sequence[Replay]) -> None:
        self._files = files
        self._draft = loader.drafted(files)
        self._mutants = mutants(self._draft)
        self._machine = loader.built(self._draft, files)
        self._ways = [way for each in replays if (way := _way(each, self._machine)) is not None]

    def judge(self, number: int) -> Judged:
        mutant = self._mutants[number]
        machine = mutated(self._draft, self._files, mutant, self._machine)
        if isinstance(machine, Finding):
            return Judged(mutant=mutant, fate="invalid", by=str(machine))
        changed = Changed(mutant, self._machine, machine)
        ways = self._over(mutant.touch)
        over = tuple(way.replay.id for way in ways)
        turns = 0
        for way in ways:
            result = played_over(way.taken, machine, changed.may_differ)
            turns += len(result.came)
            if result.verdict == "failed" and result.difference is not None:
                found = result.difference
                by = f"{way.replay.id}, step {found.step}: {found.field}"
                return Judged(mutant=mutant, fate="killed", by=by, over=over, turns=turns)
        return self._unnoticed(mutant, machine, changed, over, turns)

    def _over(self, touch: Touch) -> list[_Way]:
        """The replays that come to a place: those that take its edge first, the shortest of them first."""
        ways = [way for way in self._ways if way.comes_to(touch)]
        return sorted(ways, key=lambda way: (not way.takes(touch), way.turns))

    def _unnoticed(
        self, mutant: Mutant, machine: Machine, changed: Changed, over: tuple[str, ...], turns: int
    ) -> Judged:
        """What becomes of a mutant that no replay noticed: a sample of all turns tells whether any could."""
        tried, trial = 0, Trial(machine)
        for sample in self._explored:
            if sample.states.isdisjoint(mutant.touch.states) and sample.edge not in mutant.touch.edges:
                continue
            tried += 1
            if isinstance(sample.came, Step) and not changed.may_turn(sample.came):
                continue
            if names := differing(sample, trial):
                killer = telling_apart(self._explored, sample, names, self._machine, _named(mutant))
                return self._survived(mutant, machine, killer, names, over, turns + tried)
        beside = _Beside(self._machine, machine, changed)
        for play in self._nearby(mutant, machine):
            tried += 1
            came, names = beside.told_apart(play)
            if names:
                step = naming(told(play.steps[0], came, self._machine), came, names)
                killer = replace(play, name=_named(mutant), steps=(step,))
                return self._survived(mutant, machine, killer, names, over, turns + tried)
        fate: Fate = "equivalent" if tried else "survived"
        by = f"the same in {tried:,} turns" if tried else ""
        return Judged(mutant=mutant, fate=fate, by=by, over=over, turns=turns + tried)

    def _nearby(self, mutant: Mutant, machine: Machine) -> Iterator[Replay]:
        sessions = (each.session for each in self._explored if each.session is not None)
        return plays(self._machine, mutant, machine, sessions)

    def _survived(
        self, mutant: Mutant, machine: Machine, killer: Replay, names: tuple[str, ...], over: tuple[str, ...],
        turns: int,
    ) -> Judged:  # fmt: skip
        last = killer.steps[-1]
        sent = f"choose {last.choose.key or last.choose.kind}" if last.choose else f"send {last.send}"
        where = f"in {killer.given.state}" if killer.given.state else f"in turn {len(killer.steps)}"
        by = f"{where}, {sent}: {', '.join(names)}"
        tells = passes(killer, self._machine) and not passes(killer, machine)
        return Judged(
            mutant=mutant, fate="survived", by=by, over=over, turns=turns, killer=killer if tells else None
        )  # fmt: skip

    @cached_property
    def _explored(self) -> list[Sample]:
        """Turns from all over the machine as it is; most mutants are killed before they are asked for."""
        return samples(self._machine)


def _way(replay: Replay, machine: Machine) -> _Way | None:
    """How a replay goes; None where it doesn't pass on the machine as it is."""
    taken = taken_by_rules(replay, machine)
    result = taken.result
    if result.verdict != "passed":
        return None
    states = {came.session.state for came in result.came if came.session is not None}
    edges = {came.turn.outcome.edge for came in result.came if came.turn is not None}
    given = {replay.given.state} if replay.given.state else set()
    return _Way(replay, taken, frozenset(states | given), frozenset(edges), len(result.came))


def _named(mutant: Mutant) -> str:
    return f"{mutant.what}, {mutant.kind}"


class _Beside:
    """Plays of one turn on a machine and on its mutant, each place where they begin found out once."""

    def __init__(self, machine: Machine, mutant: Machine, changed: Changed) -> None:
        self._machines = (machine, mutant)
        self._changed = changed
        self._places: dict[int, tuple[Given, list[Session | None]]] = {}

    def told_apart(self, play: Replay) -> tuple[Step | str, tuple[str, ...]]:
        """What comes of a play on the machine, and what the mutant makes otherwise of it, by name."""
        here, there = self._placed(play)
        came = _came(play, self._machines[0], here)
        if isinstance(came, Step) and here is not None and here == there and not self._changed.may_turn(came):
            return came, ()
        return came, apart(came, _came(play, self._machines[1], there))

    def _placed(self, play: Replay) -> list[Session | None]:
        given = play.given
        if id(given) not in self._places:
            self._places[id(given)] = given, [_placed(play, each) for each in self._machines]
        return self._places[id(given)][1]


def _placed(play: Replay, machine: Machine) -> Session | None:
    """Where a play is given to stand, None where it can't."""
    try:
        return given_session(play, machine)
    except Refusal:
        return None


def _came(play: Replay, machine: Machine, given: Session | None) -> Step | str:
    """What comes of a play of one turn: the turn, or the code of its refusal."""
    came = taken_by_rules(play, machine, given).result.came
    turn = came[0].turn if came else None
    return turn if turn is not None else (came[0].error or "" if came else "given")
