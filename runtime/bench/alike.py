"""Turns of a machine from all over it, to hold another version of it against. Start at `samples`.

A bounded search brings what guards tell apart, by the shortest paths; plays at random bring what lies
between: values that no guard reads, whatever a model may teach, long ways. All follow from the machine
alone, so that the same question has the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.conditions import compiled_edges
from runtime.bench.moves import Move, expecting, tried
from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep
from runtime.bench.search import Search, openings
from runtime.bench.trial import NOTHING_LEARNED, Learned, Step, Trial
from runtime.bench.values import members, nested, payload_values
from runtime.errors import Refusal
from runtime.machine import Machine
from runtime.model import Variable
from runtime.session import Invoke, Session

SEARCHED_TURNS = 1_500
"""How many turns the search may take."""
WALKED_TURNS = 1_500
"""How many turns are played at random."""
LONGEST_WALK = 60
"""The most turns of one play."""
_TELLS = 0.8
"""How often a model teaches a thing that it may teach."""
_WITHIN = 0.7
"""How often a number is any of its range, not one of the ends."""
_WAITS_S = (0, 0, 0, 0, 5, 60, 600)
"""How long a player at random thinks: mostly no time at all."""


class Sample(Struct, frozen=True, kw_only=True):
    """A turn that was tried: from where, what was sent, and what the rules made of it.

    `came` is the step, or the code of its refusal; `states` are those that it stands in before and after.
    """

    session: Session | None
    invoke: Invoke
    learned: Learned
    came: Step | str
    states: frozenset[str]
    edge: str


def samples(machine: Machine) -> list[Sample]:
    """Turns from all over a machine: the same for the same machine."""
    noting = _Noting(machine)
    search = Search(machine, SEARCHED_TURNS)
    search.trial = noting
    search.run()
    _Walker(machine).walk(noting, WALKED_TURNS)
    return noting.samples


def differing(sample: Sample, trial: Trial) -> tuple[str, ...]:
    """What another machine makes otherwise of a turn, by name: `edge`, `context.hp`, `options`…; () where nothing."""
    try:
        if sample.session is None:
            came: Step | str = trial.begin(sample.invoke, sample.learned)
        else:
            came = trial.take(sample.session, sample.invoke, sample.learned)
    except Refusal as refusal:
        came = refusal.code
    except Exception as error:  # noqa: BLE001 - a mutant may break what no machine that was checked breaks
        return (type(error).__name__,)
    return apart(sample.came, came)


def apart(one: Step | str, other: Step | str) -> tuple[str, ...]:
    """What differs of two turns, or of the codes of their refusals, by name; () where nothing does."""
    if isinstance(one, str) or isinstance(other, str):
        return () if one == other else ("error",)
    before, now = _shown(one), _shown(other)
    return tuple(name for name in {**before, **now} if before.get(name) != now.get(name))


def _shown(step: Step) -> dict[str, Any]:
    """All of a turn that a replay can see, or that a later turn hangs on."""
    after, outcome = step.after, step.outcome
    return {
        "edge": outcome.edge,
        "state": after.state,
        "ended": after.ended,
        **{f"context.{name}": value for name, value in after.context.items()},
        "dice": outcome.dice,
        "used": frozenset(after.used),
        "next": after.routing.next_event_type,
        "allowed": after.routing.allowed_event_types,
        "should_end": after.routing.should_end,
        "options": tuple((each.key or each.kind, each.event_type) for each in after.offer),
    }


class _Walker:
    """Plays at random: any option, any event, anything that a player says and a model teaches."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._rng = random.Random(machine.name)  # noqa: S311 - no secret
        self._sources = [guard.source for edge in compiled_edges(machine) for guard in edge.guards]
        self._taught = {
            name.removeprefix("output."): machine.definition.context[rule.name]
            for edge in compiled_edges(machine)
            for rule in edge.learn
            for name in rule.source.names
            if name.startswith("output.")
        }

    def walk(self, trial: Trial, turns: int) -> None:
        """Play one session after the other, as many turns as are wanted in all."""
        numbers = iter(range(turns))
        for number in numbers:
            session = self._taken(trial, None, self._first(number))
            for _, _ in zip(range(LONGEST_WALK), numbers, strict=False):
                moves = [] if session is None or session.ended else list(openings(self._machine, session))
                if not moves:
                    break
                session = self._taken(trial, session, self._bringing(self._rng.choice(moves)))

    def _taken(self, trial: Trial, session: Session | None, move: Move) -> Session | None:
        """Where the session stands then; a refusal leaves it."""
        try:
            return tried(trial, session, move).after
        except Refusal:
            return session
        except Exception:  # noqa: BLE001 - whatever it is, exploration tells of it; here it is nothing to compare with
            return None

    def _first(self, number: int) -> Move:
        return self._bringing(Move(event=self._machine.definition.first.event, begins={"seed": f"walk-{number}"}))

    def _bringing(self, move: Move) -> Move:
        """A move with what it needs; its dice are left to the seed."""
        rng = self._rng
        declared = self._machine.definition.event(move.event).payload
        payload = {name: rng.choice(payload_values(kind, self._sources)) for name, kind in declared.items()}
        learned = {path: self._any(variable) for path, variable in self._taught.items() if rng.random() < _TELLS}
        return replace(
            move,
            payload={name: value for name, value in payload.items() if value is not None},
            learned=nested(learned),
            after_ms=1000 * rng.choice(_WAITS_S),
        )

    def _any(self, variable: Variable) -> Any:
        """Any value that a variable may hold; of a range the ends more often."""
        if variable.type == "int" and self._rng.random() < _WITHIN:
            low, *_, high = (*members(variable), *members(variable))
            return self._rng.randint(low, high)
        return self._rng.choice(members(variable))


class _Noting(Trial):
    """A trial that notes down every turn that it takes."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.samples: list[Sample] = []

    def begin(self, invoke: Invoke, learned: Learned = NOTHING_LEARNED) -> Step:
        return self._noted(None, invoke, learned)

    def take(self, session: Session, invoke: Invoke, learned: Learned = NOTHING_LEARNED) -> Step:
        return self._noted(session, invoke, learned)

    def _noted(self, session: Session | None, invoke: Invoke, learned: Learned) -> Step:
        try:
            step = super().begin(invoke, learned) if session is None else super().take(session, invoke, learned)
        except Refusal as refusal:
            self._note(session, invoke, learned, refusal.code)
            raise
        self._note(session, invoke, learned, step)
        return step

    def _note(self, session: Session | None, invoke: Invoke, learned: Learned, came: Step | str) -> None:
        stood = () if session is None else (session.state,)
        arrived = () if isinstance(came, str) else (came.after.state,)
        sample = Sample(
            session=session,
            invoke=invoke,
            learned=learned,
            came=came,
            states=frozenset((*stood, *arrived)),
            edge="" if isinstance(came, str) else came.outcome.edge,
        )
        self.samples.append(sample)


def telling_apart(found: list[Sample], sample: Sample, names: Collection[str], machine: Machine, name: str) -> Replay:
    """The play that leads to a sample and takes it, as a replay that expects what comes on this machine.

    Of the last turn it expects what has the `names` as well: those that `differing` gave.
    """
    path = _path(found, sample)
    first = path[0].invoke
    given = Given(
        machine=machine.name,
        language=first.constraints.get("language", machine.definition.language),
        seed=first.run_seed,
        slots=first.slots,
        player_count=first.player_count,
        difficulty=first.difficulty,
    )
    *before, last = (_step(each, machine) for each in path)
    return Replay(name=name, given=given, steps=(*before, naming(last, sample.came, names)))


def naming(step: ReplayStep, came: Step | str, names: Collection[str]) -> ReplayStep:
    """The step with what has these names among what it expects."""
    if isinstance(came, str):
        return step
    after, expect = came.after, step.expect
    told = {name: value for name, value in after.context.items() if f"context.{name}" in names}
    allowed = after.routing.allowed_event_types if "allowed" in names else None
    return replace(step, expect=replace(expect, context={**expect.context, **told}, allowed=allowed))


def _path(found: list[Sample], sample: Sample) -> list[Sample]:
    by_session = {id(each.came.after): each for each in found if isinstance(each.came, Step)}
    path = [sample]
    while path[-1].session is not None:
        path.append(by_session[id(path[-1].session)])
    return path[::-1]


def _step(sample: Sample, machine: Machine) -> ReplayStep:
    """A turn as a replay has it, its dice as they fell."""
    invoke, before = sample.invoke, sample.session
    offer = () if before is None else before.offer
    chosen = next((each for each in offer if each.id == invoke.selected_option_id), None)
    dice = dict(invoke.dice)
    if isinstance(sample.came, Step):
        dice |= {die.name: die.value for die in sample.came.outcome.dice}
    elapsed_ms = round(1000 * (invoke.elapsed_active_seconds or 0))
    step = ReplayStep(
        choose=None if chosen is None else Chosen(key=chosen.key) if chosen.key else Chosen(kind=chosen.kind),
        send=invoke.event if chosen is None else None,
        with_=dict(invoke.payload),
        dice=dice,
        narrate=dict(sample.learned) or None if isinstance(sample.learned, Mapping) else None,
        after_ms=max(0, elapsed_ms - (0 if before is None else before.elapsed_ms)),
    )
    return told(step, sample.came, machine)


def told(step: ReplayStep, came: Step | str, machine: Machine) -> ReplayStep:
    """A step that expects what came: a turn, or the code of a refusal."""
    if isinstance(came, str):
        return replace(step, expect=Expect(error=came))
    return expecting(step, came, machine)
