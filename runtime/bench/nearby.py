"""Plays of one turn close to where a machine was changed: what a replay could be given to tell the two apart.

A replay may stand in any state with any values of its variables. So the states that a change is about are
taken as they were found in play, and the variables, dice and payloads that the changed expressions read are
set to their ends and to either side of every number that is written there. Start at `plays`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, Literal

from msgspec import Struct

from runtime.advance import begun
from runtime.bench.conditions import literals
from runtime.bench.course import given_session
from runtime.bench.moves import Move, replay_step
from runtime.bench.mutants import Mutant
from runtime.bench.replay import Given, Replay
from runtime.bench.search import openings
from runtime.bench.values import faces, members, near, payload_values
from runtime.dice import bounds_of, spec_of
from runtime.errors import Refusal
from runtime.expression import tokens
from runtime.machine import Machine
from runtime.model import Die, LongDie, dice_parts
from runtime.session import Session

MOST_PLAYS = 400
"""How many plays are tried of one change."""
MOST_PLACES = 60
"""How many sessions, of all states and variations, they begin in."""
MOST_BASES = 8
"""How many sessions of a state are varied."""
MOST_BROUGHT = 12
"""How many combinations of dice and payload one event is sent with."""
SEED = "near"
_DIFFICULTIES: tuple[Literal["EASY", "NORMAL", "HARD"], ...] = ("EASY", "NORMAL", "HARD")


class _Read(Struct, frozen=True):
    """What the changed expressions read: their sources, the names in them, and the numbers."""

    sources: tuple[str, ...]
    names: frozenset[str]
    numbers: frozenset[int]


def plays(machine: Machine, mutant: Mutant, changed: Machine, sessions: Iterable[Session]) -> Iterator[Replay]:
    """Plays around a change, from the `sessions` that were seen; each expects nothing yet. The same every time."""
    read = _read(machine, mutant)
    rng = random.Random(repr(mutant.edits))  # noqa: S311 - no secret
    states = _states(machine, mutant)
    seen = [each for each in sessions if each.state in states]
    found = [_from(machine, mutant, changed, given, read, rng) for given in _givens(machine, states, seen, read, rng)]
    # One play of each place first, so that none takes all that may be tried.
    turns = (play for row in _rows(found) for play in row)
    yield from islice(turns, MOST_PLAYS)


def _rows(found: Sequence[list[Replay]]) -> Iterator[list[Replay]]:
    for number in range(max(map(len, found), default=0)):
        yield [each[number] for each in found if number < len(each)]


def _read(machine: Machine, mutant: Mutant) -> _Read:
    """What the change is about: the expression itself, else the guards of the edges concerned."""
    edges = [each for each in machine.edges if each.full_name in mutant.touch.edges]
    guards = [str(guard) for edge in edges for guard in (edge.guard, edge.option_guard) if guard is not None]
    sources = tuple(dict.fromkeys((mutant.before, mutant.after, *guards)))
    names = frozenset(token.text for source in sources for token in tokens(source) if token.kind == "name")
    dice = ((f"dice.{name}", die) for edge in edges for name, die in edge.dice.items())
    shown = {each for name, die in dice if name in names for each in faces(die) if type(each) is int}
    ends = {min(shown), max(shown)} if shown else set()
    return _Read(sources, names, frozenset(literals(sources) | ends))


def _states(machine: Machine, mutant: Mutant) -> list[str]:
    """The states that a play has to stand in: those of the change, and those from which its edges are taken."""
    sources = {edge.source for edge in machine.edges if edge.full_name in mutant.touch.edges}
    live = {name for name, state in machine.definition.states.items() if not state.is_final}
    wanted = mutant.touch.states | sources if sources <= live else mutant.touch.states | live
    return [name for name in machine.definition.states if name in wanted and name in live]


def _givens(
    machine: Machine, states: Sequence[str], sessions: Sequence[Session], read: _Read, rng: random.Random
) -> list[Given]:
    """Where plays begin: the contexts seen in each state, with the variables that are read set to what matters."""
    varied = {
        name: members(variable, read.numbers)
        for name, variable in machine.definition.context.items()
        if name in read.names
    }
    plain = begun(machine)
    found = []
    for state in states:
        bases = [each.context for each in sessions if each.state == state]
        entered = machine.definition.states[state].entry
        for base in [{}, *rng.sample(bases, min(MOST_BASES, len(bases)))]:
            for values in _drawn(varied, rng, MOST_PLACES):
                whole = {**base, **values}
                context = {name: whole[name] for name in whole if whole[name] != plain.get(name) or name in entered}
                given = Given(
                    machine=machine.name,
                    language=machine.definition.language,
                    seed=SEED,
                    state=state,
                    context=context,
                    difficulty=rng.choice(_DIFFICULTIES) if "session.difficulty" in read.names else "NORMAL",
                )
                found.append(given)
    rng.shuffle(found)
    return found[:MOST_PLACES]


def _drawn(varied: Mapping[str, Sequence[Any]], rng: random.Random, most: int) -> Iterator[dict[str, Any]]:
    """Combinations of values: all of them, or as many as are wanted, at random."""
    count = 1
    for values in varied.values():
        count *= len(values)
    if count <= most:
        yield from (dict(zip(varied, values, strict=True)) for values in product(*varied.values()))
        return
    for _ in range(most):
        yield {name: rng.choice(values) for name, values in varied.items()}


def _from(
    machine: Machine, mutant: Mutant, changed: Machine, given: Given, read: _Read, rng: random.Random
) -> list[Replay]:
    """The moves from a place, on either machine, that may take a changed edge, with what they may bring."""
    moves: dict[tuple[str, str, str], Move] = {}
    for each in (machine, changed):
        try:
            session = given_session(Replay(name="", given=given, steps=()), each)
        except Refusal:
            continue
        moves |= {(move.event, move.key, move.kind): move for move in openings(each, session)}
    concerned = [move for move in moves.values() if _concerns(machine, mutant, move)] or [*moves.values()]
    found = [
        Replay(name="", given=given, steps=(replay_step(machine, move),))
        for opening in concerned
        for move in _bringing(machine, given.state or "", opening, read, rng)
    ]
    rng.shuffle(found)
    return found


def _concerns(machine: Machine, mutant: Mutant, move: Move) -> bool:
    """Whether a move may take one of the edges that were changed."""
    edges = (each for each in machine.edges if each.full_name in mutant.touch.edges)
    return any(each.event == move.event and each.option in ("", move.key) for each in edges)


def _bringing(machine: Machine, state: str, move: Move, read: _Read, rng: random.Random) -> Iterator[Move]:
    dice = {
        name: _shown(die, read)
        for name, die in machine.dice_of(state, move.event, move.key).items()
        if f"dice.{name}" in read.names
    }
    declared = machine.definition.event(move.event).payload
    payload = {name: payload_values(kind, read.sources) for name, kind in declared.items()}
    waits = _waits(machine) if any(name.startswith("time.") for name in read.names) else (0,)
    varied: dict[str, Sequence[Any]] = {"after": waits, **payload}
    rolled = list(_drawn({f"dice {name}": values for name, values in dice.items()}, rng, MOST_BROUGHT))
    for values in _drawn(varied, rng, MOST_BROUGHT):
        for dice_values in rolled:
            yield Move(
                event=move.event,
                key=move.key,
                kind=move.kind,
                dice={name.removeprefix("dice "): value for name, value in dice_values.items()},
                payload={name: values[name] for name in declared if values[name] is not None},
                after_ms=values["after"],
            )


def _shown(die: Die, read: _Read) -> tuple[Any, ...]:
    """What a die shows near the numbers that are written; all of a pick or a chance."""
    is_pick = isinstance(die, LongDie) and die.pick is not None
    parts = None if is_pick else dice_parts(spec_of(die))
    return tuple(near(*bounds_of(parts), read.numbers)) if isinstance(parts, tuple) else faces(die)


def _waits(machine: Machine) -> tuple[int, ...]:
    """Waits (ms) up to the machine's limit, and right before it."""
    seconds = machine.definition.limits.seconds or 60
    return (0, *(1000 * each for each in (seconds - 2, seconds - 1, seconds) if each > 0))
