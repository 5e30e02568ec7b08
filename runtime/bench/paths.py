"""Few plays that cover a machine: its states, edges, guards both ways, or pairs of edges. Start at `cover`.

Of all plays that a search knows the one that covers most is taken again and again; what the others
cover by then is dropped, and so are steps at an end that cover nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from runtime.bench.coverage import Goal, Kind, goals, touched
from runtime.bench.explore import BUDGET, nothing_leads, why_not
from runtime.bench.moves import Move, played_again, recorded, refused
from runtime.bench.replay import Replay
from runtime.bench.search import GoalKey, Search
from runtime.bench.trial import Step, Trial
from runtime.machine import Machine

Cover = Literal["states", "edges", "guards", "pairs"]
KINDS: Mapping[Cover, tuple[Kind, ...]] = {
    "states": ("states", "endings"),
    "edges": ("states", "edges", "endings"),
    "guards": ("states", "edges", "guards", "endings"),
    "pairs": ("states", "edges", "endings", "pairs"),
}
"""What each kind of cover covers beside: with every edge also every state and ending."""
_TELLING: tuple[Kind, ...] = ("endings", "states", "edges", "pairs", "guards")
"""What names a play best, first."""


class Paths(Struct, frozen=True, kw_only=True):
    """Plays that cover a machine together, and what they don't cover, with why.

    Each is a replay with its dice fixed that expects what came. `goals` is how many they were to cover.
    """

    replays: tuple[Replay, ...]
    goals: int
    not_covered: tuple[tuple[Goal, str], ...]
    turns: int


class _Play(Struct, frozen=True):
    """A play that is a candidate: its moves, and which goals it covers, as bits."""

    moves: tuple[Move, ...]
    bits: int


def cover(machine: Machine, kind: Cover = "edges", budget: int = BUDGET, seconds: float | None = None) -> Paths:
    """Few plays that cover a machine, each as a replay, none in vain; the same each time."""
    search = Search(machine, budget, seconds, is_for_pairs=kind == "pairs")
    search.run()
    wanted = goals(search.machine, KINDS[kind])
    bit_of: dict[GoalKey, int] = {(goal.kind, goal.key): 1 << number for number, goal in enumerate(wanted)}
    played = [_Play(each.moves, covered_by(search.trial, each.moves, bit_of)[-1]) for each in _chosen(search, bit_of)]
    chosen = _pruned(sorted(played, key=lambda each: len(each.moves)))
    for number, each in enumerate(chosen):
        chosen[number] = _cut(search.trial, each, _together(chosen, each), bit_of)
    covered = _together(chosen)
    missed = tuple(goal for goal in wanted if not bit_of[goal.kind, goal.key] & covered)
    return Paths(
        replays=tuple(
            recorded(search.trial, each.moves, f"{kind} {number:0{len(str(len(chosen)))}} {name}")
            for number, (each, name) in enumerate(zip(chosen, _named(chosen, wanted, bit_of), strict=True), start=1)
        ),
        goals=len(wanted),
        not_covered=tuple((goal, _why(search, goal)) for goal in missed),
        turns=search.turns,
    )


def _why(search: Search, goal: Goal) -> str:
    if goal.kind == "pairs":
        return nothing_leads(search)
    return why_not(search, goal)


def _named(plays: Sequence[_Play], wanted: Sequence[Goal], bit_of: Mapping[GoalKey, int]) -> Iterator[str]:
    """A name for each play: what no other of them covers, an end before a way, and a way before a guard."""
    for each in plays:
        alone = each.bits & ~_together(plays, each)
        own = [goal for goal in wanted if bit_of[goal.kind, goal.key] & alone]
        yield min(own, key=lambda goal: _TELLING.index(goal.kind)).name.replace("*.", "")


# Which plays are taken.


def _chosen(search: Search, bit_of: Mapping[GoalKey, int]) -> list[_Play]:
    """Plays that cover all that can be covered; each covers most of what was left, or as much in fewer turns."""
    bits = _bits_of_nodes(search, bit_of)
    ends = [*_ends(search, bits, bit_of)]
    chosen: list[_Play] = []
    covered = 0
    while True:
        best = max(ends, key=lambda end: ((end[2] & ~covered).bit_count(), -end[3]), default=None)
        if best is None or not best[2] & ~covered:
            return chosen
        number, move, found, _ = best
        covered |= found
        chosen.append(_Play(tuple(search.path(number, move)), found))
        ends = [end for end in ends if end[2] & ~covered]


def _bits_of_nodes(search: Search, bit_of: Mapping[GoalKey, int]) -> list[int]:
    """What the play to each node covers."""
    bits: list[int] = []
    for node in search.nodes:
        found = bits[node.parent] if node.parent >= 0 else 0
        for goal in node.hits:
            found |= bit_of.get(goal, 0)
        if node.parent >= 0:
            found |= bit_of.get(("pairs", (search.nodes[node.parent].edge, node.edge)), 0)
        bits.append(found)
    return bits


End = tuple[int, Move | None, int, int]
"""A node, one more move, what the play covers, and its turns."""


def _ends(search: Search, bits: Sequence[int], bit_of: Mapping[GoalKey, int]) -> Iterator[End]:
    """Where plays may end: at each node, and with one more move where that shows something."""
    yield from ((number, None, bits[number], node.depth) for number, node in enumerate(search.nodes))
    more: dict[tuple[int, int], tuple[int, Move, int]] = {}
    seen: Iterable[tuple[GoalKey, tuple[int, Move | None]]] = search.seen.items()
    paired: Iterable[tuple[GoalKey, tuple[int, Move | None]]] = (
        (("pairs", key), at) for key, at in search.pairs.items()
    )
    for goal, (number, move) in (*seen, *paired):
        if move is not None and bit_of.get(goal):
            before = more.get((number, id(move)), (number, move, 0))
            more[number, id(move)] = (number, move, before[2] | bit_of[goal])
    for number, move, found in more.values():
        own = bits[number] if number >= 0 else 0
        yield number, move, own | found, (search.nodes[number].depth if number >= 0 else 0) + 1


def _cut(trial: Trial, play: _Play, others: int, bit_of: Mapping[GoalKey, int]) -> _Play:
    """The play up to the last move that covers what no other play does."""
    bits = covered_by(trial, play.moves, bit_of)
    needed = bits[-1] & ~others
    end = next(number for number, found in enumerate(bits) if not needed & ~found)
    return _Play(play.moves[: end + 1], bits[end])


def _together(plays: Iterable[_Play], but: _Play | None = None) -> int:
    """What plays cover, one left out."""
    found = 0
    for each in plays:
        found |= 0 if each is but else each.bits
    return found


def covered_by(trial: Trial, moves: Sequence[Move], bit_of: Mapping[GoalKey, int]) -> list[int]:
    """What a play covers by the end of each of its moves."""
    found, bits, edge = 0, [], ""
    session = None
    for came in played_again(trial, moves):
        step = came if isinstance(came, Step) else None
        if step is None and session is not None:
            step = refused(trial.machine, session, came)  # type: ignore[arg-type]
            hits = [goal for goal in touched(step) if goal[0] == "guards"] if step else []
        else:
            hits = list(touched(step)) if step else []
        for goal in hits:
            found |= bit_of.get(goal, 0)
        if isinstance(came, Step):
            found |= bit_of.get(("pairs", (edge, came.outcome.edge)), 0)
            edge, session = came.outcome.edge, came.after
        bits.append(found)
    return bits


def _pruned(plays: Sequence[_Play]) -> list[_Play]:
    """Without those whose goals the others cover, the shortest first to go."""
    kept = list(plays)
    for each in plays:
        if not each.bits & ~_together(kept, each):
            kept.remove(each)
    return kept
