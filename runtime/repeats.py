"""How soon a machine's offline telling repeats itself: an estimate from counts, for `edgewise check`.

A play is taken as a walk that takes each edge of a state as likely as the next, `must` edges left
out, up to the machine's limit of turns. Inside one play no text is told twice while others are
left; so what counts is how many texts there are for the visits that a play makes.
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.fragments import Fragments
from runtime.machine import Machine
from runtime.model import Edge

TURNS = 40
"""How long a play is taken to be where the machine has no limit, in turns."""


def repeats(machine: Machine) -> list[str]:
    """One line per state and language: its texts, its visits in a play, and how many plays they last."""
    visits = expected_visits(machine)
    return [
        line
        for language, fragments in machine.fragments.items()
        for line in _lines(machine, language, fragments, visits)
    ]


def expected_visits(machine: Machine) -> dict[str, float]:
    """How often an average play arrives in each state; the first state is arrived in once at least."""
    start = machine.initial.edge.target
    visits = dict.fromkeys(machine.definition.states, 0.0)
    here = {start: 1.0}
    for _ in range(min(machine.definition.limits.turns or TURNS, TURNS)):
        for state, share in here.items():
            visits[state] += share
        here = _moved(machine, here)
    return visits


def _moved(machine: Machine, here: dict[str, float]) -> dict[str, float]:
    there: dict[str, float] = {}
    for state, share in here.items():
        edges = [compiled.edge for compiled in machine.table[state] if not compiled.edge.must]
        for edge in edges:
            there[edge.target] = there.get(edge.target, 0.0) + share / len(edges)
    return there


def _lines(machine: Machine, language: str, fragments: Fragments, visits: dict[str, float]) -> Iterator[str]:
    for state, written in machine.definition.states.items():
        edges = [edge for edge in machine.edges if edge.target == state]
        count = len(_texts(machine, language, fragments, edges))
        if written.is_final or not count or not visits[state]:
            continue
        plays = count / visits[state]
        yield (
            f"{state} ({language}): {_counted(count, 'text')} for {_counted(visits[state], 'visit')} a play: "
            f"{_counted(plays, 'play')} before it repeats itself"
        )


def _texts(machine: Machine, language: str, fragments: Fragments, edges: list[Edge]) -> set[str]:
    """The ids of every scene that an arrival by one of the edges may draw."""
    ids: set[str] = set()
    for edge in edges:
        fields = machine.prompt_for(edge, language).fields
        for field in (field for field, kind in fields.items() if kind == "scene"):
            places = fragments.places.get(field, {})
            for at in (edge.full_name, edge.target, ""):
                ids |= {each for group in places.get(at, ()) for each in group.ids}
    return ids


def _counted(number: float, noun: str) -> str:
    rounded = f"{number:.1f}".removesuffix(".0")
    return f"{rounded} {noun}{'' if rounded == '1' else 's'}"
