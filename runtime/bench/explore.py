"""What may happen in a machine, without a model: every edge, every guard both ways, every ending. Start at `quick`.

What it finds wrong is a `Bug` with a short path; what it didn't see, it says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.conditions import numbers_in
from runtime.bench.coverage import KINDS, Coverage, Goal
from runtime.bench.finding import Bug
from runtime.bench.moves import Move, expecting, replay_of, tried
from runtime.bench.places import Atlas
from runtime.bench.replay import Replay
from runtime.bench.search import Flaw, GoalKey, Search
from runtime.bench.shrinking import shrunk
from runtime.bench.trial import Trial
from runtime.errors import Refusal
from runtime.expression import tokens
from runtime.machine import Machine
from runtime.model import ROOT
from runtime.session import Session

BUDGET = 60_000
"""How many turns a quick exploration takes at most."""


class Explored(Struct, frozen=True, kw_only=True):
    """What an exploration saw of a machine, what is wrong there, and what it didn't see.

    `shortest` has for each goal (its kind and key) a shortest path, as a replay whose dice are fixed and
    that expects nothing; shortest of all where `is_whole`, else of those that were tried. `is_whole`:
    every session that the values tried can lead to was seen, so what is missed can't be reached by them.
    """

    machine: str
    coverage: Coverage
    bugs: tuple[Bug, ...]
    shortest: Mapping[GoalKey, Replay]
    not_covered: tuple[tuple[Goal, str], ...]
    bounded: tuple[str, ...]
    is_whole: bool
    turns: int
    sessions: int


def quick(machine: Machine, budget: int = BUDGET, seconds: float | None = None) -> Explored:
    """Explore a machine in at most `budget` turns: the same each time, but where `seconds` end it before."""
    search = Search(machine, budget, seconds)
    search.run()
    atlas = Atlas(machine)
    missed = tuple(goal for goal in search.goals if (goal.kind, goal.key) not in search.seen)
    why = tuple((goal, why_not(search, goal)) for goal in missed)
    return Explored(
        machine=machine.name,
        coverage=_coverage(search),
        bugs=tuple(_bugs(search, atlas, why)),
        shortest={key: replay_of(machine, search.path(*found), _named(key)) for key, found in search.seen.items()},
        not_covered=why,
        bounded=tuple(_bounded(search)),
        is_whole=search.is_exhausted,
        turns=search.turns,
        sessions=len(search.nodes),
    )


def _named(key: GoalKey) -> str:
    kind, name = key
    told = name if isinstance(name, str) else f"{name[0]} is {str(name[1]).lower()}"
    return f"{kind.removesuffix('s')} {told}"


def _coverage(search: Search) -> Coverage:
    """What was seen; of what is looked for only the goals: an option that only leads on is none."""
    hits: dict[str, dict[Any, int]] = {kind: {} for kind in KINDS}
    wanted = {(goal.kind, goal.key) for goal in search.goals}
    counted = {kind for kind, _ in wanted}
    for kind, key in search.seen:
        if kind not in counted or (kind, key) in wanted:
            hits[kind][key] = 1
    hits["pairs"] = dict.fromkeys(search.pairs, 1)
    return Coverage(**hits, turns=search.turns)


def counted(number: int, thing: str) -> str:
    """`1 turn`, `1,200 turns`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _bounded(search: Search) -> Iterator[str]:
    """What was not tried, in sentences."""
    turns, sessions = counted(search.turns, "turn"), counted(len(search.nodes), "session")
    if search.is_late:
        yield f"the time was up after {turns}: what is found may differ from run to run"
    elif search.is_exhausted:
        yield f"every session was seen that the values tried can lead to: {sessions} in {turns}"
        if search.is_sampled:
            yield "not every value was tried: another may lead elsewhere"
    elif search.is_done:
        yield f"the search ended when all was covered, after {turns} and {sessions}: not every session was seen"
    else:
        yield f"the search ended after {turns} and {sessions}: not every session was seen"
    if not search.is_exhausted:
        yield "paths are the shortest of those tried; beyond the breadth-first part there may be shorter ones"
    yield (
        "of dice, payloads and learned values those were tried that a guard tells apart, and the ends of "
        "ranges; of words those that guards ask for"
    )


# What wasn't seen, and why.


WHOLE = "no session that the values tried can lead to has it: all were seen"
"""Where no value that wasn't tried could make a difference."""
SAMPLED = "no value that was tried leads to it; not every value was tried"
_MOST_EDGES = 4
"""Of how many edges into one state each one's reason is told."""


def why_not(search: Search, goal: Goal) -> str:
    """Why a goal wasn't seen, as far as it is known."""
    edges, outcome = _about(search, goal)
    reasons = {edge: _why_edge(search, edge, outcome=outcome) for edge in edges}
    if len(set(reasons.values())) > 1:
        told = [f"{edge}: {why}" for edge, why in reasons.items()]
        more = [f"and {len(told) - _MOST_EDGES} more edges"] if len(told) > _MOST_EDGES else []
        return "; ".join([*told[:_MOST_EDGES], *more])
    return next(iter(reasons.values()), "") or nothing_leads(search)


def is_proven(search: Search, goal: Goal) -> bool:
    """Whether it is certain that nothing leads to a goal, whatever comes."""
    edges, outcome = _about(search, goal)
    is_barred = bool(edges) and all(_impossible(search, edge, outcome=outcome) for edge in edges)
    return is_barred or (search.is_exhausted and not search.is_sampled)


def nothing_leads(search: Search) -> str:
    """What a search that has not found something says of it."""
    if search.is_exhausted:
        return SAMPLED if search.is_sampled else WHOLE
    return f"not found within {counted(search.turns, 'turn')}"


def _why_edge(search: Search, edge: str, *, outcome: bool) -> str:
    if impossible := _impossible(search, edge, outcome=outcome):
        return impossible
    missing = "" if search.is_exhausted else _nearest(search, edge, outcome=outcome)
    return nothing_leads(search) + missing


def _about(search: Search, goal: Goal) -> tuple[list[str], bool]:
    """The edges of which a goal needs one, and the outcome of their guards."""
    if goal.kind == "edges":
        return [str(goal.key)], True
    if goal.kind == "guards":
        return [str(goal.key[0])], bool(goal.key[1])
    edges = (each for each in search.machine.edges if goal.key in (each.target, f"{each.source}.{each.option}"))
    return [each.full_name for each in edges if each.source != goal.key], True


def _impossible(search: Search, edge: str, *, outcome: bool) -> str:
    """Why a guard can't be so, where one of its comparisons is beyond a variable's range."""
    formula = search.conditions.formulas.get(edge, ("and",))
    if not outcome or any(part[0] == "or" for part in _parts(formula)):
        return ""
    for number in dict.fromkeys(numbers_in(formula)):
        condition = search.conditions.all[number]
        if (found := _beyond(search.machine, condition.source)) and not _is_negated_in(formula, number):
            return f"`{condition.source}` can't be true: {found}"
    return ""


def _parts(formula: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield formula
    if formula[0] != "is":
        for part in formula[1:]:
            yield from _parts(part)


def _is_negated_in(formula: tuple[Any, ...], number: int) -> bool:
    return any(part[0] == "not" and number in numbers_in(part) for part in _parts(formula))


def _beyond(machine: Machine, source: str) -> str:
    """`hp > 100` where hp is at most 12."""
    words = [token.text for token in tokens(source)]
    variable = machine.definition.context.get(words[0]) if words else None
    if variable is None or len(words) != 3 or not words[2].isdigit():  # noqa: PLR2004 - a name, a sign, a number
        return ""
    name, sign, number = words[0], words[1], int(words[2])
    low, high = variable.min, variable.max
    if high is not None and ((sign in (">=", "==") and number > high) or (sign == ">" and number >= high)):
        return f"{name} is at most {high}"
    if low is not None and ((sign in ("<=", "==") and number < low) or (sign == "<" and number <= low)):
        return f"{name} is at least {low}"
    return ""


def _nearest(search: Search, edge: str, *, outcome: bool) -> str:
    missing, holds = search.closest(edge, outcome)
    if not holds:
        return f"; no session in {_source(search.machine, edge)} was seen"
    if not outcome or not missing:
        return ""
    lacking = list(dict.fromkeys(search.conditions.missing(edge, holds)))
    return f"; nearest by all but `{'`, `'.join(lacking)}`" if lacking else ""


def _source(machine: Machine, edge: str) -> str:
    source = next(each.source for each in machine.edges if each.full_name == edge)
    return "any state" if source == ROOT else f"state {source}"


# What is wrong.


def _bugs(search: Search, atlas: Atlas, missed: Sequence[tuple[Goal, str]]) -> Iterator[Bug]:
    machine = search.machine
    for flaw in search.flaws.values():
        yield _flaw(search, atlas, flaw)
    yield from stuck(search, atlas)
    for goal, why in missed:
        if goal.kind == "endings":
            how = "is never reached" if is_proven(search, goal) else "was not reached"
            what = f"ending {goal.key} {how}: {why}"
            yield Bug(kind="unreached", machine=machine.name, what=what, where=str(goal.place))


def _flaw(search: Search, atlas: Atlas, flaw: Flaw) -> Bug:
    machine = search.machine
    path, what = shrunk(search.trial, search.path(flaw.node, flaw.move), flaw.kind, flaw.what)
    edge = next((each for each in machine.edges if each.full_name == flaw.edge), None)
    where = flaw.edge if flaw.kind == "property" else atlas.file if edge is None else str(atlas.edge(edge))
    return Bug(
        kind=flaw.kind,  # type: ignore[arg-type]
        machine=machine.name,
        what=what,
        where=where,
        replay=shown(search.trial, path, f"{flaw.kind}: {what}"),
    )


def shown(trial: Trial, moves: Sequence[Move], name: str) -> Replay:
    """A path that shows something: what comes of each step is expected, but of one that falls over nothing."""
    replay, session = replay_of(trial.machine, moves, name), None
    steps = []
    for move, step in zip(moves, replay.steps, strict=True):
        try:
            came = tried(trial, session, move)
        except Refusal as refusal:
            steps.append(expecting(step, refusal, trial.machine))
        except Exception:  # noqa: BLE001 - that it falls over is what is shown
            steps.append(step)
        else:
            steps.append(expecting(step, came, trial.machine))
            session = came.after
    return replace(replay, steps=tuple(steps))


def stuck(search: Search, atlas: Atlas) -> Iterator[Bug]:
    """Sessions that can't go on, and sessions that go on for ever: of each state the one that is reached first.

    Only what was seen to its end counts: a session from which something untried leads on may still end.
    """
    hopeful = _hopeful(search)
    told: set[tuple[str, str]] = set()
    for number, node in enumerate(search.nodes):
        if number in hopeful:
            continue
        is_trap = not node.following - {number}
        kind, state = ("trap" if not node.following else "loop"), node.session.state
        if (kind, state) in told or (not is_trap and any(each == kind for each, _ in told)):
            continue
        told.add((kind, state))
        yield Bug(
            kind=kind,  # type: ignore[arg-type]
            machine=search.machine.name,
            what=_stuck_how(node.session, kind),
            where=str(atlas.state(state)),
            replay=shown(search.trial, search.path(number), f"{kind} in {state}"),
        )


def _hopeful(search: Search) -> set[int]:
    """The nodes that may still come to an ending: one is there, or something is left to try."""
    before: dict[int, list[int]] = {}
    for number, node in enumerate(search.nodes):
        for following in node.following:
            before.setdefault(following, []).append(number)
    hopeful = {number for number, node in enumerate(search.nodes) if node.session.ended or not node.is_expanded}
    waiting = [*hopeful]
    while waiting:
        fresh = set(before.get(waiting.pop(), ())) - hopeful
        hopeful |= fresh
        waiting += fresh
    return hopeful


def _stuck_how(session: Session, kind: str) -> str:
    stands = f"state {session.state} at turn {session.turn}"
    if kind == "loop":
        return f"from {stands} no ending can be reached any more: it goes round without end"
    allowed = ", ".join(session.routing.allowed_event_types)
    said = f"{allowed} stays refused, whatever comes with it" if allowed else "no event is allowed"
    return f"{stands} can't be left: {said}"
