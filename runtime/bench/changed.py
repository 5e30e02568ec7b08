"""Which turns of a machine may come otherwise on a mutant of it, as far as looking at them tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.bench.expecting import Came
from runtime.bench.mutants import Mutant, Touch
from runtime.bench.trial import Step
from runtime.machine import CompiledEdge, Considered, Machine, consider
from runtime.session import Session

_NAMED_BY_HAND = frozenset({"assign", "entry", "learn", "dice"})
"""Keys under which a name may be `guard` as well."""


class Changed:
    """What a mutant changes, and so which turns it leaves as they were.

    A turn that neither stands where a change is nor takes a changed edge comes as it came. Where guards alone
    are changed, so does one in which each of them, judged again by what was known then, says what it said.
    """

    def __init__(self, mutant: Mutant, machine: Machine, changed: Machine) -> None:
        """Compare a machine with its mutant."""
        self._touch: Touch = mutant.touch
        self._guards = _guards(mutant, machine, changed)

    def may_differ(self, found: Session | None, came: Came) -> bool:
        """Whether a step that found a session may come to something else."""
        if came.turn is not None:
            return self.may_turn(came.turn)
        return found is None or found.state in self._touch.states

    def may_turn(self, turn: Step) -> bool:
        """Whether a turn may come to something else."""
        states, edge = (turn.before.state, turn.after.state), turn.outcome.edge
        if self._touch.states.isdisjoint(states) and edge not in self._touch.edges:
            return False
        return self._guards is None or _says_otherwise(self._guards, (*turn.considered, *turn.routed))


def _guards(mutant: Mutant, machine: Machine, changed: Machine) -> Mapping[str, CompiledEdge] | None:
    """The changed edges by their full names, where nothing but their guards is changed; None where more may be.

    A must edge's guard shuts other edges, and one that asks for the option is judged for each: None as well.
    """
    path = mutant.edits[0].path
    if len(mutant.edits) > 1 or path[-1] != "guard" or path[-2] in _NAMED_BY_HAND:
        return None
    pairs = [*zip(_edges(machine), _edges(changed), strict=True)]
    other = [pair for pair in pairs if pair[0] is not pair[1]]
    if any(each.reads_option or each.edge.must for pair in other for each in pair):
        return None
    return {after.full_name: after for _, after in other}


def _edges(machine: Machine) -> Iterable[CompiledEdge]:
    return (each for row in machine.table.values() for each in row)


def _says_otherwise(guards: Mapping[str, CompiledEdge], judged: Iterable[Considered]) -> bool:
    for each in judged:
        after = guards.get(each.compiled.full_name)
        if after is not None:
            again = consider(after, each.known)
            if (again.verdict, again.reason) != (each.verdict, each.reason):
                return True
    return False
