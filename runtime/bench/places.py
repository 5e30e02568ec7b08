"""Where the parts of a machine stand in its files: file:line for what a tester is told of.

A machine is compiled without its places, so its file is read once more, by the same reader.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from runtime.document import read
from runtime.draft import option_path
from runtime.machine import Machine
from runtime.model import Edge, Path
from runtime.places import Places


class Place(Struct, frozen=True, order=True):
    """Where a part begins; line and column from 1. `file` is a path in the project."""

    file: str
    line: int
    col: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Atlas:
    """The places in one machine's own file."""

    def __init__(self, machine: Machine) -> None:
        """Read the machine's file again."""
        self.file = file_of(machine)
        self._places: Places = _places(self.file, machine.files[self.file])

    def key(self, path: Path) -> Place:
        """Where an entry's key stands, or a list's item."""
        return Place(self.file, *self._places.key(path))

    def value(self, path: Path) -> Place:
        """Where an entry's value stands."""
        return Place(self.file, *self._places.value(path))

    def state(self, name: str) -> Place:
        """Where a state stands."""
        return self.key(("states", name))

    def edge(self, edge: Edge) -> Place:
        """Where an edge stands: its entry under `on`, or its option."""
        return self.key(edge.path)

    def guard(self, edge: Edge) -> Place:
        """Where an edge's guard stands: its own, else its option's."""
        own = (*edge.path, "guard")
        return self.value(own if edge.guard is not None else (*option_path(edge), "guard"))

    def die(self, edge: Edge, name: str) -> Place:
        """Where a die of an edge stands: at its option, its event's entry, or the initial edge."""
        around = option_path(edge) if edge.option else edge.path[:-2] if edge.source else edge.path
        return self.key((*around, "dice", name))

    def option(self, state: str, index: int) -> Place:
        """Where an authored option stands; `index` counts from 0."""
        return self.key(("states", state, "options", index))

    def kind(self, state: str, kind: str) -> Place:
        """Where a kind of free options stands."""
        return self.key(("states", state, "options", "kinds", kind))


@lru_cache(maxsize=8)
def _places(file: str, text: str) -> Places:
    """Where all stands in a file; of one machine many are asked for, one after another."""
    return read(file, text, may_be_null=lambda path: path[:1] == ("slots",)).places


def file_of(machine: Machine) -> str:
    """The path of a machine's own file in its project."""
    return next(name for name in machine.files if name.startswith("machines/"))
