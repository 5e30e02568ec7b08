"""What is drawn onto a machine's picture: how often each edge was taken, or the turns of one path. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log

from msgspec import Struct

HOTTEST = 4
"""The highest level of heat; 0 is an edge that was never taken."""
NAMED_TURNS = 6
"""How many turns of one edge are named; the rest are counted."""


class Marks(Struct, frozen=True):
    """`counts` are turns by edge and by state, None without heat; `turns` are a path's turns by edge and by state."""

    counts: Mapping[str, int] | None = None
    visits: Mapping[str, int] = {}
    turns: Mapping[str, tuple[int, ...]] = {}
    stops: Mapping[str, tuple[int, ...]] = {}
    said: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to draw."""
        return self.counts is None and not self.turns

    def edge(self, name: str) -> str:
        """What stands beside an edge: `12×`, or `turn 1, 4`; '' for nothing."""
        return _counted(self.counts, name) or _numbered(self.turns.get(name, ()))

    def state(self, name: str) -> str:
        """What stands beside a state."""
        return _counted(None if self.counts is None else self.visits, name) or _numbered(self.stops.get(name, ()))

    def heat(self, name: str) -> int | None:
        """An edge's level, 0 to HOTTEST, as the logarithm of its turns goes; None where no heat is drawn."""
        return None if self.counts is None else _level(self.counts.get(name, 0), max(self.counts.values(), default=0))

    def heat_of_state(self, name: str) -> int | None:
        """A state's level."""
        return None if self.counts is None else _level(self.visits.get(name, 0), max(self.visits.values(), default=0))

    def is_on_path(self, name: str) -> bool:
        """Whether an edge or a state lies on the path."""
        return name in self.turns or name in self.stops


BLANK = Marks()
"""A picture of the machine alone."""


def path_of(taken: Iterable[tuple[int, str, str]], said: str = "") -> Marks:
    """The marks of a path: (turn, edge, state that it led to), in their order."""
    turns: dict[str, tuple[int, ...]] = {}
    stops: dict[str, tuple[int, ...]] = {}
    for number, edge, state in taken:
        turns[edge] = (*turns.get(edge, ()), number)
        stops[state] = (*stops.get(state, ()), number)
    return Marks(turns=turns, stops=stops, said=said)


def _counted(counts: Mapping[str, int] | None, name: str) -> str:
    return "" if counts is None else f"{counts.get(name, 0):,}×"


def _numbered(turns: tuple[int, ...]) -> str:
    if not turns:
        return ""
    more = len(turns) - NAMED_TURNS
    named = ", ".join(map(str, turns[:NAMED_TURNS]))
    return f"turn {named}" + (f" and {more} more" if more > 0 else "")


def _level(count: int, most: int) -> int:
    if not count:
        return 0
    return min(HOTTEST, 1 + int(HOTTEST * log(count) / log(most + 1)))
