"""A search through everything that a session may become. Start at `Search.run`.

First breadth-first, over what guards can read of a session: where that ends, all was seen, and every
path found is a shortest one. A machine with many variables has too much of it. So then what is new
goes first: a value that was never seen in its state, a combination of a guard's conditions that never
held together. At last each goal that is still open is looked for by itself, from wherever least is
missing. All is bounded by a number of turns, so that the same search finds the same.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.advance import scope_of
from runtime.bench import properties
from runtime.bench.conditions import NEVER, Conditions, Formula, Judgement, compiled_edges, literals, numbers_in
from runtime.bench.coverage import Goal, goals, said_by, touched
from runtime.bench.moves import Move, refused, settled, tried
from runtime.bench.shrinking import erred, said_of
from runtime.bench.trial import Step, Trial
from runtime.bench.values import (
    Inputs,
    drawn,
    first_times,
    learnable,
    relevance,
    sessions_asked,
    taught,
    value_key,
)
from runtime.errors import Refusal
from runtime.machine import CompiledEdge, Machine, consider, known_values
from runtime.model import ROOT, UNLIMITED, FreeOptions
from runtime.properties import Watch
from runtime.session import Session

Key = tuple[Any, ...]
GoalKey = tuple[str, Any]
"""A goal's kind and key."""
BREADTH_SHARE = 0.1
"""How much of the budget the breadth-first search may take."""
NOVELTY_SHARE = 0.25
"""Up to where in the budget combinations are looked for."""
FOCUS_SHARE = 0.12
"""How much of what is left one open goal may take at a time."""
COARSE = 32
"""How many steps a wide range is seen in, where only what is new counts."""


class Spent(Exception):
    """The budget is used up."""


class Node(Struct):
    """A session that was reached: from which node, by which move, at which depth; what came of it.

    `parent` is -1 for a first turn. `hits` are the goals of the turn that led here first, `following` the
    nodes that it leads to.
    """

    session: Session
    watch: Watch
    parent: int
    move: Move
    depth: int
    edge: str
    hits: frozenset[GoalKey]
    is_expanded: bool = False
    following: set[int] = set()


class Flaw(Struct, frozen=True):
    """Something that went wrong: the path to it is its node's, and then the move."""

    kind: str
    what: str
    edge: str
    node: int
    move: Move | None


class Search:
    """One search. After `run` it has the nodes, the goals that were seen with where, and the flaws."""

    def __init__(
        self, machine: Machine, budget: int, seconds: float | None = None, *, is_for_pairs: bool = False
    ) -> None:
        """Prepare a search of at most `budget` turns, and `seconds` by the clock where that is said.

        For pairs of edges, sessions that the same edge did not lead to are not the same.
        """
        self.machine, self.budget, self.is_for_pairs = machine, budget, is_for_pairs
        self.trial = Trial(machine)
        self.conditions = Conditions(machine)
        self.relevance = relevance(machine)
        self.goals: tuple[Goal, ...] = goals(machine, ("states", "edges", "guards", "options", "endings"))
        self.turns = 0
        self.nodes: list[Node] = []
        self.seen: dict[GoalKey, tuple[int, Move | None]] = {}
        self.pairs: dict[tuple[str, str], tuple[int, Move]] = {}
        self.flaws: dict[tuple[str, str], Flaw] = {}
        self.is_exhausted = self.is_late = False
        self._ends_at = None if seconds is None else time.monotonic() + seconds
        self._known: dict[Key, int] = {}
        self._shared: dict[frozenset[GoalKey], frozenset[GoalKey]] = {}
        self._inputs: dict[tuple[str, str, str], Inputs | None] = {}
        self._clips = _clips(machine, self.conditions)
        self._edges = {each.full_name: each for each in compiled_edges(machine)}
        self._open = {(goal.kind, goal.key) for goal in self.goals}
        self._novel: set[Key] = set()
        self._late: set[Key] = set()
        self._judgements: dict[int, Judgement] = {}
        self._hops: dict[int, dict[tuple[str, str], float]] = {}
        self._roads = _roads(machine)
        self._times: dict[int | None, tuple[int, ...]] = {}
        self._queue: list[tuple[int, int, int]] = []
        self._numbers = {
            name: tuple(dict.fromkeys(each for each in numbers_in(formula) if not self.conditions.all[each].inputs))
            for name, formula in self.conditions.formulas.items()
        }
        self._timely = _timely(self.conditions, self._numbers)

    @property
    def is_done(self) -> bool:
        """Whether every goal was seen."""
        return not self._open

    @property
    def is_sampled(self) -> bool:
        """Whether values that weren't tried might lead to what was not seen."""
        names, definition = self.relevance.names, self.machine.definition
        begins = [*sessions_asked(self.machine, names)][1:]
        if any("player_count" in each or "slots" in each for each in begins) or len({*map(tuple, begins)}) > 1:
            return True
        if any(clip is None for name, clip in self._clips.items() if name.startswith("time.")):
            return True
        if any(isinstance(each.options, FreeOptions) for each in definition.states.values()):
            return True
        if any(learnable(self.machine, each, names) for each in self._edges.values()):
            return True
        flows = {flow for each in self.relevance.flows.values() for flow in each}
        return any(inputs is not None and inputs.is_sampled(flows) for inputs in self._inputs.values())

    def run(self) -> None:
        """Search until all is seen, or the budget is used up."""
        try:
            self._begin()
            self._breadth()
            if not self.is_exhausted and not self.is_done:
                self._novelty()
                self._focus()
        except Spent:
            pass

    # The three ways to go on.

    def _begin(self) -> None:
        for begins in sessions_asked(self.machine, self.relevance.names):
            inputs = self._inputs_of("", self.machine.initial.edge.event, "")
            if inputs is None:
                return
            base = Move(event=inputs.event, begins=begins)
            flows = self.relevance.flows[self.machine.initial.full_name]
            for brought in _first_brought(inputs, flows, is_whole=not begins):
                self._follow(-1, _bringing(base, brought), set())

    def _breadth(self) -> None:
        """In the order of depth, until all is expanded or the share of the budget is used up."""
        waiting = deque(range(len(self.nodes)))
        limit = self.budget * BREADTH_SHARE
        while waiting:
            if self.turns >= limit:
                return
            before = len(self.nodes)
            self._expand(waiting.popleft())
            waiting.extend(range(before, len(self.nodes)))
        self.is_exhausted = True

    def _novelty(self) -> None:
        """What is new first: values, then combinations; what is neither is left."""
        for number in range(len(self.nodes)):
            self._weigh(number)
        while self._queue and not self.is_done:
            newness, _, number = heapq.heappop(self._queue)
            if newness > 1 and self.turns > self.budget * NOVELTY_SHARE:
                heapq.heappush(self._queue, (newness, self.nodes[number].depth, number))
                return
            if not self.nodes[number].is_expanded:
                before = len(self.nodes)
                self._expand(number)
                for each in range(before, len(self.nodes)):
                    self._weigh(each)

    def _focus(self) -> None:
        """Each open goal by itself, from where least is missing; again and again with what is left."""
        while self._open:
            before = self.turns
            wanted = [(goal.kind, goal.key) for goal in self.goals]
            for goal in wanted:
                if goal in self._open:
                    self._look_for(goal, int((self.budget - self.turns) * FOCUS_SHARE) + 50)
            if self.turns == before:
                return

    def _look_for(self, goal: GoalKey, turns: int) -> None:
        aims = [(each, self._wanted(each, outcome)) for each, outcome in _aimed(self.machine, goal)]
        if not aims:
            return
        ends_at = self.turns + turns
        waiting = [(self._missing(each, aims), each) for each in self._unexpanded()]
        heapq.heapify(waiting)
        while waiting and self.turns < ends_at and goal in self._open:
            before = len(self.nodes)
            self._expand(heapq.heappop(waiting)[1])
            for each in range(before, len(self.nodes)):
                if not self.nodes[each].session.ended:
                    heapq.heappush(waiting, (self._missing(each, aims), each))

    def _wanted(self, compiled: CompiledEdge, outcome: bool | None) -> Formula:  # noqa: FBT001 - a guard's
        """What must hold: an outcome of an edge's guards, or that it is the first of its event that is open."""
        own = self.conditions.formulas.get(compiled.full_name, ("and",))
        if outcome is not None:
            return own if outcome else ("not", own)
        edge = compiled.edge
        before = []
        for each in self.machine.table.get(edge.source, ()):
            if each is compiled:
                break
            if each.edge.event == edge.event and each.edge.option in ("", edge.option):
                before.append(("not", self.conditions.formulas.get(each.full_name, ("and",))))
        return ("and", own, *before)

    def _unexpanded(self) -> Iterator[int]:
        return (number for number, each in enumerate(self.nodes) if not each.is_expanded and not each.session.ended)

    def _missing(self, number: int, aims: Sequence[tuple[CompiledEdge, Formula]]) -> float:
        """How far a session is from the nearest aim: states to go, and conditions that don't hold."""
        judged, session = self.judged(number), self.nodes[number].session
        away = []
        for compiled, wanted in aims:
            edge = compiled.edge
            used = edge.once and edge.once in session.used
            to_go = 0.0 if edge.source == ROOT else self._to_go(number, edge.source)
            away.append(judged.distance(wanted) + to_go + (NEVER if used else 0.0))
        return min(away) + 0.001 * self.nodes[number].depth

    def _to_go(self, number: int, wanted: str) -> float:
        """How far another state is: one for each edge on the best way, and what is missing to take it."""
        if number not in self._hops:
            judged, guards = self.judged(number), self.conditions.formulas
            self._hops[number] = {
                pair: min(judged.distance(guards.get(each.full_name, ("and",))) for each in edges)
                for pair, edges in self._roads.items()
            }
        costs, here = self._hops[number], self.nodes[number].session.state
        best, waiting = {here: 0.0}, [(0.0, here)]
        while waiting:
            cost, state = heapq.heappop(waiting)
            if state == wanted:
                return cost
            for (source, target), missing in costs.items():
                total = cost + 1.0 + missing
                if source == state and total < best.get(target, NEVER):
                    best[target] = total
                    heapq.heappush(waiting, (total, target))
        return NEVER

    def judged(self, number: int) -> Judgement:
        """A node's conditions, judged once."""
        if number not in self._judgements:
            scope = scope_of(self.machine, self.nodes[number].session)
            self._judgements[number] = self.conditions.judged(scope)
        return self._judgements[number]

    # One session, and what may come of it.

    def _expand(self, number: int) -> None:
        """Try all that is worth trying in a session."""
        node = self.nodes[number]
        if node.is_expanded or node.session.ended:
            return
        taken: set[str] = set()
        for move in openings(self.machine, node.session):
            inputs = self._inputs_of(node.session.state, move.event, move.key)
            if inputs is None:
                continue
            chosen = {"option.key": move.key, "option.kind": move.kind}
            for brought in inputs.told_apart(node.session, chosen):
                self._follow(number, _bringing(move, brought), taken)
        node.is_expanded = True

    def _follow(self, number: int, move: Move, taken: set[str]) -> None:
        """Take a move; where it is the first by its edge, also with all else that it may bring."""
        step = self._take(number, move)
        if step is None or step.outcome.edge in taken:
            return
        taken.add(step.outcome.edge)
        compiled = self._edges[step.outcome.edge]
        for other in self._others(number, move, step, compiled):
            self._take(number, other)

    def _others(self, number: int, move: Move, step: Step, compiled: CompiledEdge) -> Iterator[Move]:
        """The same move with other dice and payloads that flow on, other lessons, options drawn and times."""
        inputs = self._inputs_of(step.outcome.source, move.event, move.key)
        if inputs is not None and number >= 0:
            brought = _brought(inputs, move)
            for other in inputs.varied(brought, self.relevance.flows[compiled.full_name]):
                yield _bringing(move, other)
        for learned in taught(self.conditions, step.after, learnable(self.machine, compiled, self.relevance.names))[1:]:
            yield replace(move, learned=learned)
        for kinds in drawable(self.machine, step.after):
            yield replace(move, kinds=kinds)
        yield from self._later(number, move, step)

    def _later(self, number: int, move: Move, step: Step) -> Iterator[Move]:
        """The same move after a long time, where some guard may read that the time is up."""
        if not self._timely or step.after.ended:
            return
        holds = self.conditions.judged(scope_of(self.machine, step.after)).holds
        before = self.nodes[number].session.elapsed_ms if number >= 0 else 0
        for seconds in self._seconds(step.after.limit_ms):
            key = (seconds, step.after.state, tuple(holds[each] for each in self._timely))
            if seconds * 1000 > step.after.elapsed_ms and key not in self._late:
                self._late.add(key)
                yield replace(move, after_ms=seconds * 1000 - before)

    def _seconds(self, limit_ms: int | None) -> tuple[int, ...]:
        if limit_ms not in self._times:
            self._times[limit_ms] = first_times(self.conditions, limit_ms)
        return self._times[limit_ms]

    def _take(self, number: int, move: Move) -> Step | None:
        """Take a move from a node; what comes of it is kept. None where it is refused, or goes wrong."""
        if self.turns >= self.budget or (self._ends_at is not None and time.monotonic() > self._ends_at):
            self.is_late = self.turns < self.budget
            raise Spent
        self.turns += 1
        session = self.nodes[number].session if number >= 0 else None
        try:
            step = tried(self.trial, session, move)
        except Refusal as refusal:
            self._refused(number, move, refusal)
            return None
        except Exception as error:  # noqa: BLE001 - any error that is no refusal is what is looked for
            self._flawed("crash", f"{type(error).__name__}: {error}", "", number, move)
            return None
        self._keep(number, move, step)
        return step

    def _refused(self, number: int, move: Move, refusal: Refusal) -> None:
        if refusal.code == "machine_fault":
            self._flawed("fault", refusal.message, str(refusal.facts.get("edge", "")), number, move)
        if number < 0:
            return
        shown = refused(self.machine, self.nodes[number].session, refusal)
        for each in shown.considered if shown else ():
            if (said := said_by(each)) is not None:
                self._saw(("guards", (each.compiled.full_name, said)), number, move)

    def _flawed(self, kind: str, what: str, edge: str, number: int, move: Move | None) -> None:
        """Keep the first of a kind that says the same; of a property, whose edge is its place, the first at all."""
        self.flaws.setdefault((kind, edge if kind == "property" else what), Flaw(kind, what, edge, number, move))

    def _saw(self, goal: GoalKey, number: int, move: Move | None = None) -> None:
        self.seen.setdefault(goal, (number, move))
        self._open.discard(goal)

    def _keep(self, number: int, move: Move, step: Step) -> None:
        """What a step shows, and the node that it leads to."""
        before = self.nodes[number].watch if number >= 0 else properties.begun(self.machine)
        watch, broken = properties.followed(self.machine, before, step)
        certain = settled(self.machine, move, step)
        hits = frozenset(touched(step))
        arrived = self._node_of(number, certain, step, watch, hits)
        for goal in hits:
            if goal not in self.seen:
                is_there = self.nodes[arrived].parent == number and self.nodes[arrived].move == certain
                self._saw(goal, arrived if is_there else number, None if is_there else certain)
        if number >= 0:
            self.pairs.setdefault((self.nodes[number].edge, step.outcome.edge), (number, certain))
        for fault in broken:
            self._flawed("property", said_of(fault), fault.place, number, certain)
        for name, what in erred(step).items():
            self._flawed("fault", what, name, number, certain)

    def _node_of(self, number: int, move: Move, step: Step, watch: Watch, hits: frozenset[GoalKey]) -> int:
        key = (*self._key(step.after), watch, step.outcome.edge if self.is_for_pairs else "")
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = len(self.nodes)
            depth = self.nodes[number].depth + 1 if number >= 0 else 1
            shared = self._shared.setdefault(hits, hits)
            node = Node(step.after, watch, number, move, depth, step.outcome.edge, shared, following=set())
            self.nodes.append(node)
        if number >= 0:
            self.nodes[number].following.add(found)
        return found

    def _key(self, session: Session) -> Key:
        """All of a session that can make a difference to a guard."""
        names, scope = self.relevance.names, scope_of(self.machine, session)
        values = tuple(value_key(value) for name, value in session.context.items() if name in names)
        read = tuple(_clipped(scope[name], clip) for name, clip in self._clips.items())
        offer = tuple(each.key or each.kind for each in session.offer)
        slots = tuple(sorted((name, value) for name, value in session.slots.items() if f"slots.{name}" in names))
        return (session.state, values, read, tuple(sorted(session.used)), offer, slots)

    def _weigh(self, number: int) -> None:
        """Put a node in the queue by what is new about it: 0 a value in its state, 1 a combination, 2 nothing."""
        node = self.nodes[number]
        if node.is_expanded or node.session.ended:
            return
        scope = scope_of(self.machine, node.session)
        holds = self.judged(number).holds
        combined = {(name, *(holds[each] for each in own)) for name, own in self._numbers.items()}
        newness = 2
        for level, features in ((1, combined), (0, set(self._features(node.session, scope)))):
            if not features <= self._novel:
                newness = level
                self._novel |= features
        heapq.heappush(self._queue, (newness, node.depth, number))

    def _features(self, session: Session, scope: Mapping[str, Any]) -> Iterator[Key]:
        for name, value in session.context.items():
            if name not in self.relevance.names:
                continue
            if isinstance(value, list):
                yield from ((session.state, name, each) for each in value)
                yield (session.state, name, len(value))
            else:
                yield (session.state, name, self._coarse(name, value))
        yield from ((session.state, name, _clipped(scope[name], clip)) for name, clip in self._clips.items())

    def _coarse(self, name: str, value: Any) -> Any:
        """A value; of a wide range the part that it lies in."""
        variable = self.machine.definition.context[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if variable.min is None or variable.max is None:
            return value if abs(value) <= COARSE else round(value / COARSE) * COARSE
        width = (variable.max - variable.min) / COARSE
        return value if width <= 1 else int((value - variable.min) / width)

    def _inputs_of(self, state: str, event: str, option: str) -> Inputs | None:
        """What an event brings in a state, None where it has no edge there."""
        key = (state, event, option)
        if key not in self._inputs:
            here = self.machine.table[state] if state else (self.machine.initial,)
            edges = [each for each in here if each.edge.event == event and each.edge.option in ("", option)]
            self._inputs[key] = Inputs(self.machine, self.conditions, edges, option) if edges else None
        return self._inputs[key]

    # What was found.

    def path(self, number: int, move: Move | None = None) -> list[Move]:
        """The moves that lead to a node, and one more."""
        moves = [] if move is None else [move]
        while number >= 0:
            moves.append(self.nodes[number].move)
            number = self.nodes[number].parent
        return moves[::-1]

    def closest(self, edge: str, outcome: bool) -> tuple[float, tuple[bool | None, ...]]:  # noqa: FBT001 - a guard's
        """The least that was missing to an outcome of an edge's guards in any session, and what held there."""
        compiled = self._edges[edge]
        formula = self.conditions.formulas.get(edge, ("and",))
        source = compiled.edge.source
        best: tuple[float, tuple[bool | None, ...]] = (float("inf"), ())
        for number, node in enumerate(self.nodes):
            if source in (ROOT, node.session.state) and not node.session.ended:
                judged = self.judged(number)
                missing = judged.distance(formula, wanted=outcome, deep=0)
                if missing < best[0]:
                    best = (missing, judged.holds)
        return best


def openings(machine: Machine, session: Session) -> Iterator[Move]:
    """What may be sent in a session: every option offered, and every event that needs none."""
    yield from (Move(event=each.event_type, key=each.key, kind=each.kind) for each in session.offer)
    sent = {each.event_type for each in session.offer if not each.kind and not _is_authored(machine, session, each.key)}
    for event in session.routing.allowed_event_types:
        bare = any(
            each.edge.event == event and not each.edge.option and not each.reads_option
            for each in machine.table[session.state]
        )
        if bare and event not in sent:
            yield Move(event=event)


def _is_authored(machine: Machine, session: Session, key: str) -> bool:
    return any(each.key == key for each in machine.definition.states[session.state].authored)


def drawable(machine: Machine, session: Session) -> Iterator[tuple[str, ...]]:
    """Which other free options may be drawn where a session stands."""
    free = machine.definition.states[session.state].options
    if not isinstance(free, FreeOptions):
        return
    scope = scope_of(machine, session)
    own = [each for each in machine.table[session.state] if each.edge.event == free.event and not each.edge.option]
    leading = [
        kind
        for kind in free.kinds
        for known in [known_values({**scope, "option.key": "", "option.kind": kind}, session.used, "")]
        if any(consider(each, known).verdict != "closed" for each in own)
    ]
    there = tuple(each.kind for each in session.offer if each.kind)
    yield from (kinds for kinds in drawn(leading, *free.bounds) if there and kinds != there)


def _bringing(move: Move, brought: Mapping[str, Any]) -> Move:
    dice = {name[5:]: value for name, value in brought.items() if name.startswith("dice.")}
    payload = {name[8:]: value for name, value in brought.items() if name.startswith("payload.") and value is not None}
    return replace(move, dice=dice, payload=payload)


def _brought(inputs: Inputs, move: Move) -> dict[str, Any]:
    values = {f"dice.{name}": value for name, value in move.dice.items()}
    return {**inputs.base, **values, **{f"payload.{name}": value for name, value in move.payload.items()}}


def _first_brought(inputs: Inputs, flows: Iterable[str], *, is_whole: bool) -> list[Mapping[str, Any]]:
    """What the first turn brings: every combination of dice that matter, where these are few."""
    from runtime.bench.values import together  # noqa: PLC0415

    asked = {name: inputs.values[name] for name in sorted(flows) if name in inputs.values}
    return list(together(inputs.base, asked)) if is_whole else [inputs.base]


def _aimed(machine: Machine, goal: GoalKey) -> Iterator[tuple[CompiledEdge, bool | None]]:
    """The edges that a goal is about, each with the outcome of its guards that is wanted; None = to be taken."""
    kind, key = goal
    for compiled in compiled_edges(machine):
        edge = compiled.edge
        if kind == "guards" and edge.full_name == key[0]:
            yield compiled, bool(key[1])
        elif key in {"edges": (edge.full_name,), "options": (f"{edge.source}.{edge.option}",)}.get(
            kind, (edge.target,)
        ):
            yield compiled, None


def _roads(machine: Machine) -> dict[tuple[str, str], list[CompiledEdge]]:
    """The edges from each state to each other one; root edges lead only to where a story ends."""
    roads: dict[tuple[str, str], list[CompiledEdge]] = {}
    for compiled in compiled_edges(machine):
        edge = compiled.edge
        if edge.source not in ("", ROOT, edge.target):
            roads.setdefault((edge.source, edge.target), []).append(compiled)
    return roads


def _timely(conditions: Conditions, numbers: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The conditions that stand in one guard with one on time, those on time left out."""
    reads = {
        number
        for number, each in enumerate(conditions.all)
        if any(name.startswith("time.") for name in each.expression.names)
    }
    beside = {each for own in numbers.values() if reads & set(own) for each in own}
    return tuple(sorted(beside - reads)) or tuple(sorted(reads))


def _clips(machine: Machine, conditions: Conditions) -> dict[str, tuple[int, ...] | None]:
    """What guards read beside variables: the numbers that it is compared with, None where all of it counts.

    Visits beyond the greatest number that any guard asks for are all the same; so is time between two.
    """
    names = relevance(machine).names - machine.definition.context.keys()
    found: dict[str, tuple[int, ...] | None] = {}
    for name in sorted(names):
        if not name.startswith(("visits.", "time.", "session.")) and name not in ("step", "turns_left"):
            continue
        asked = [each for each in conditions.all if name in each.expression.names]
        is_plain = all(len(each.expression.names) == 1 and each.gap is not None for each in asked)
        flows = any(name in line.value.names for each in compiled_edges(machine) for line in each.assigns)
        counted = name.startswith(("visits.", "time.")) and is_plain and not flows
        found[name] = tuple(sorted(literals(each.source for each in asked))) if counted else None
    return found


def _clipped(value: Any, clip: tuple[int, ...] | None) -> Any:
    if clip is None or value == UNLIMITED:
        return value
    return sum((value >= each) + (value > each) for each in clip)
