"""What of a machine was played: counts of hits, the goals that there are, and what is missed, with file:line.

Whatever takes turns feeds it with `trial.Step`s: replays, explorations, the production journal. Start at
`covered`; `merged` adds several up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.expecting import Came
from runtime.bench.places import Atlas, Place
from runtime.bench.trial import Step
from runtime.check_graph import is_false, is_true
from runtime.machine import WAITS, CompiledEdge, Considered, Machine
from runtime.model import Edge
from runtime.session import Session

Kind = Literal["states", "edges", "guards", "options", "pairs", "prompts", "endings"]
KINDS: tuple[Kind, ...] = ("states", "edges", "guards", "options", "pairs", "prompts", "endings")
"""What has goals, in the order in which it is told."""
Key = str | tuple[str, bool] | tuple[str, str]
"""What is counted: a guard's is (edge, outcome), a pair's (edge, edge), the others' a name.

Edges have their full names, options `STATE.key` or `STATE.kind`, prompts their files, endings their states.
"""
GUARD_FALSE = "guard: false"
"""Why an edge is closed whose guard was asked and said no."""


class Coverage(Struct, frozen=True):
    """How often each thing was hit, by its key; what never was is absent. `turns` counts the steps.

    `rungs` are the narrators' rungs that told; there is no goal among them.
    """

    states: Mapping[str, int] = {}
    edges: Mapping[str, int] = {}
    guards: Mapping[tuple[str, bool], int] = {}
    options: Mapping[str, int] = {}
    pairs: Mapping[tuple[str, str], int] = {}
    prompts: Mapping[str, int] = {}
    endings: Mapping[str, int] = {}
    rungs: Mapping[str, int] = {}
    turns: int = 0

    def of(self, kind: Kind) -> Mapping[Any, int]:
        """The hits of one kind."""
        found: Mapping[Any, int] = getattr(self, kind)
        return found


class Goal(Struct, frozen=True):
    """One thing to cover, and where it is written.

    `option` is the one whose guard is meant, `COMBAT.strike`, where its edge has none of its own; else ''.
    """

    kind: Kind
    key: Key
    place: Place
    option: str = ""

    @property
    def name(self) -> str:
        """Its key in words: `COMBAT.hit is false`, `option COMBAT.strike is true`, `INIT.go, then HALL.out`."""
        if isinstance(self.key, str):
            return self.key
        first, second = self.key
        if isinstance(second, str):
            return f"{first}, then {second}"
        return f"{f'option {self.option}' if self.option else first} is {str(second).lower()}"


Goals = tuple[Goal, ...]


def nothing(machine: Machine) -> Coverage:  # noqa: ARG001 - a sum begins with a machine, whatever it has
    """The coverage of no play."""
    return Coverage()


def covered(machine: Machine, steps: Iterable[Step]) -> Coverage:  # noqa: ARG001 - coverage is a machine's
    """What steps hit. Those of one play come in their order, one after the other; then plays may follow each other.

    A pair is counted where a step goes on from where the one before it ended.
    """
    tally = Tally()
    for step in steps:
        tally.add(step)
    return tally.coverage()


def seen(machine: Machine, came: Iterable[Came]) -> Coverage:
    """What the steps of a replay hit: those that are turns, and the guards that refusals have judged."""
    whole = tuple(came)
    hits: dict[Key, int] = {}
    for key in (key for each in whole if each.turn is None for key in _judged(machine, each)):
        hits[key] = hits.get(key, 0) + 1
    turns = covered(machine, (each.turn for each in whole if each.turn is not None))
    return merged(turns, replace(nothing(machine), guards=hits))


def _judged(machine: Machine, refused: Came) -> Iterator[tuple[str, bool]]:
    """The guards that a refusal is about, and what they said."""
    state = refused.session.state if refused.session is not None else ""
    by_name = {each.full_name: each for each in machine.table.get(state, ())}
    for told in (refused.refusal or {}).get("considered", ()):
        judged = by_name.get(told["edge"])
        if judged is not None and (said := _said(judged, told["verdict"], told["reason"])) is not None:
            yield told["edge"], said


class Tally:
    """Coverage that grows step by step; `turns` counts them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._hits: dict[str, dict[Any, int]] = {kind: {} for kind in (*KINDS, "rungs")}
        self.turns = 0
        self._last: Step | None = None

    def add(self, step: Step, previous: Step | str | None = None) -> None:
        """Count a step. `previous` is the step before it, or the edge that was taken then; else the last one added."""
        for kind, key in touched(step):
            self._count(kind, key)
        for rung in step.rungs:
            self._count("rungs", rung)
        if edge := _edge_before(step, self._last if previous is None else previous):
            self._count("pairs", (edge, step.outcome.edge))
        self.turns += 1
        self._last = step

    def _count(self, kind: str, key: Any) -> None:
        hits = self._hits[kind]
        hits[key] = hits.get(key, 0) + 1

    def coverage(self) -> Coverage:
        """What was counted so far."""
        return Coverage(**{kind: dict(hits) for kind, hits in self._hits.items()}, turns=self.turns)


def _edge_before(step: Step, previous: Step | str | None) -> str:
    if isinstance(previous, str):
        return previous
    return previous.outcome.edge if previous is not None and follows(previous, step) else ""


def follows(previous: Step, step: Step) -> bool:
    """Whether a step goes on from where another one ended, as far as the rules can tell."""
    left, found = previous.after, step.before
    return left is found or (bool(found.state) and _stands(left) == _stands(found))


def _stands(session: Session) -> tuple[Any, ...]:
    return session.session_id, session.step, session.state, session.visits, session.used, session.context


def touched(step: Step) -> Iterator[tuple[Kind, Key]]:
    """What one step hits by itself: all but pairs. A guard that was asked twice is told twice."""
    outcome, after = step.outcome, step.after
    yield "states", after.state
    yield "edges", outcome.edge
    for each in step.considered:
        if (said := said_by(each)) is not None:
            yield "guards", (each.compiled.full_name, said)
    for each in step.routed:
        if (said := said_by(each)) is not None:
            yield "guards", (each.compiled.full_name, said)
    if chosen := outcome.choice.key or outcome.choice.kind:
        yield "options", f"{outcome.source}.{chosen}"
    if step.prompt:
        yield "prompts", step.prompt
    if after.ended:
        yield "endings", after.state


def said_by(considered: Considered) -> bool | None:
    """What an edge's guards said together; None where there are none, one wasn't known, or one erred.

    An option's edge that waits for nothing but its choice has heard its guards say yes.
    """
    return _said(considered.compiled, considered.verdict, considered.reason)


def _said(compiled: CompiledEdge, verdict: str, reason: str) -> bool | None:
    if not compiled.guards:
        return None
    if verdict == "open" or (reason == WAITS and not compiled.reads_option):
        return True
    return False if reason == GUARD_FALSE else None


def merged(*parts: Coverage) -> Coverage:
    """The sum of several."""
    hits: dict[str, dict[Any, int]] = {kind: {} for kind in (*KINDS, "rungs")}
    for part in parts:
        for kind, counts in hits.items():
            for key, count in getattr(part, kind).items():
                counts[key] = counts.get(key, 0) + count
    return Coverage(**hits, turns=sum(part.turns for part in parts))


# Goals.


def goals(machine: Machine, kinds: Iterable[Kind] = KINDS, atlas: Atlas | None = None) -> Goals:
    """All that there is to cover of some kinds, kind by kind, as it stands in the file.

    A guard that is written as true or false can't be seen both ways, and is none; nor is a prompt that
    nothing names. Pairs are those that the table allows: an edge into a state and one out of it.
    """
    places = atlas or Atlas(machine)
    return tuple(goal for kind in kinds for goal in _GOALS[kind](machine, places))


def _states(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    for name in machine.definition.states:
        yield Goal("states", name, atlas.state(name))


def _edges(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    for edge in machine.edges:
        yield Goal("edges", edge.full_name, atlas.edge(edge))


def _guards(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    for edge in machine.edges:
        if not is_constant(edge):
            place, option = atlas.guard(edge), _whose_guard(edge)
            yield Goal("guards", (edge.full_name, True), place, option)
            yield Goal("guards", (edge.full_name, False), place, option)


def _whose_guard(edge: Edge) -> str:
    """The option whose guard is the only one that stands before one of its several edges; else ''."""
    name = f"{edge.source}.{edge.option}"
    return name if edge.option and edge.guard is None and edge.full_name != name else ""


def is_constant(edge: Edge) -> bool:
    """Whether an edge's guards can be seen one way only: there is none, all are `true`, or one is `false`."""
    written = (edge.option_guard, edge.guard)
    return all(map(is_true, written)) or any(map(is_false, written))


def _options(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    for name, state in machine.definition.states.items():
        for index, option in enumerate(state.authored):
            yield Goal("options", f"{name}.{option.key}", atlas.option(name, index))
        for kind in state.kinds:
            yield Goal("options", f"{name}.{kind}", atlas.kind(name, kind))


def _pairs(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    places = {edge.full_name: atlas.edge(edge) for edge in machine.edges}
    for edge in machine.edges:
        for following in machine.table[edge.target]:
            name = following.full_name
            yield Goal("pairs", (edge.full_name, name), places[name])


def _prompts(machine: Machine, _: Atlas) -> Iterator[Goal]:
    states = machine.definition.states
    named = dict.fromkeys(edge.prompt or states[edge.target].prompt for edge in machine.edges)
    for name in named:
        for prompt in machine.prompts.get(name or "", {}).values():
            yield Goal("prompts", prompt.file, Place(prompt.file, 1))


def _endings(machine: Machine, atlas: Atlas) -> Iterator[Goal]:
    for name, state in machine.definition.states.items():
        if state.is_final:
            yield Goal("endings", name, atlas.state(name))


_GOALS = {
    "states": _states, "edges": _edges, "guards": _guards, "options": _options, "pairs": _pairs,
    "prompts": _prompts, "endings": _endings,
}  # fmt: skip


# What is missed.


class Share(Struct, frozen=True):
    """How many goals of one kind were hit, of how many."""

    hit: int
    total: int

    @property
    def percent(self) -> float:
        """Of 100; 100 where there is nothing to hit."""
        return 100.0 * self.hit / self.total if self.total else 100.0


def is_hit(coverage: Coverage, goal: Goal) -> bool:
    """Whether a goal was hit."""
    return goal.key in coverage.of(goal.kind)


def missed(coverage: Coverage, wanted: Iterable[Goal]) -> Goals:
    """The goals that were not hit, in their order."""
    return tuple(goal for goal in wanted if not is_hit(coverage, goal))


def shares(coverage: Coverage, wanted: Iterable[Goal]) -> dict[Kind, Share]:
    """How much of each kind was hit; kinds without a goal among them are absent."""
    found: dict[Kind, tuple[int, int]] = {}
    for goal in wanted:
        hit, total = found.get(goal.kind, (0, 0))
        found[goal.kind] = (hit + is_hit(coverage, goal), total + 1)
    return {kind: Share(*counts) for kind, counts in found.items()}


def within(coverage: Coverage, wanted: Iterable[Goal]) -> Coverage:
    """Only the hits that are goals: what another version of the machine had besides is left out."""
    keys: dict[str, set[Key]] = {kind: set() for kind in KINDS}
    for goal in wanted:
        keys[goal.kind].add(goal.key)
    kept = {kind: {key: count for key, count in coverage.of(kind).items() if key in keys[kind]} for kind in KINDS}
    return Coverage(**kept, rungs=coverage.rungs, turns=coverage.turns)


# As plain values.


def plain(coverage: Coverage) -> dict[str, Any]:
    """As JSON holds it: keys of guards as `{edge: {"true": n, "false": n}}`, pairs as `[edge, edge, n]`."""
    guards: dict[str, dict[str, int]] = {}
    for (edge, said), count in coverage.guards.items():
        guards.setdefault(edge, {})[str(said).lower()] = count
    named = {kind: dict(getattr(coverage, kind)) for kind in _NAMED}
    pairs = [[first, second, count] for (first, second), count in coverage.pairs.items()]
    return {**named, "guards": guards, "pairs": pairs, "turns": coverage.turns}


_NAMED = ("states", "edges", "options", "prompts", "endings", "rungs")


def read_plain(told: Mapping[str, Any]) -> Coverage:
    """What `plain` told."""
    guards = {(edge, said == "true"): count for edge, said_ in told["guards"].items() for said, count in said_.items()}
    pairs = {(first, second): count for first, second, count in told["pairs"]}
    return Coverage(**{kind: told[kind] for kind in _NAMED}, guards=guards, pairs=pairs, turns=told["turns"])
