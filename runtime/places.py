"""Where the parts of a YAML file stand, so that every finding has its line and column."""

from __future__ import annotations

from msgspec import Struct

from runtime import cuts
from runtime.model import Path

_ESCAPES = {"x": 4, "u": 6, "U": 10}


class Places(Struct, frozen=True):
    """Where the parts of a file stand: (line, column), both from 1.

    `keys` has the place of each mapping entry's key and of each list item, `values` that of each
    value; `written` the source of each string on one line, quotes included. All three are of the
    text with its `mends`; what the methods answer is of the file.
    """

    keys: dict[Path, tuple[int, int]]
    values: dict[Path, tuple[int, int]]
    written: dict[Path, str]
    mends: tuple[cuts.Mend, ...] = ()

    def key(self, path: Path) -> tuple[int, int]:
        """The place of an entry's key, or of the nearest part around it that is there."""
        return self._in_file(*_nearest(self.keys, path))

    def value(self, path: Path) -> tuple[int, int]:
        """The place of an entry's value, or of the nearest part around it that is there."""
        return self._in_file(*self._value(path))

    def inside(self, path: Path, col: int) -> tuple[int, int]:
        """The place of the `col`-th character (from 1) of a string, as it is written."""
        line, start = self._value(path)
        written = self.written.get(path)
        offset = 0 if written is None else _written_offset(written, col - 1)
        return self._in_file(line, start + offset)

    def _value(self, path: Path) -> tuple[int, int]:
        return self.values[path] if path in self.values else _nearest(self.keys, path)

    def _in_file(self, line: int, col: int) -> tuple[int, int]:
        return line, cuts.original(self.mends, line, col - 1) + 1


def _nearest(places: dict[Path, tuple[int, int]], path: Path) -> tuple[int, int]:
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            return places[path[:length]]
    return 1, 1


def _written_offset(written: str, count: int) -> int:
    """How far the `count`-th character of a string stands from the start of its source."""
    quote = written[:1]
    if quote not in {'"', "'"}:
        return count
    at = 1
    for _ in range(count):
        if quote == '"' and written[at : at + 1] == "\\":
            at += _ESCAPES.get(written[at + 1 : at + 2], 2)
        else:
            at += 2 if written[at : at + 2] == "''" and quote == "'" else 1
    return min(at, len(written))
