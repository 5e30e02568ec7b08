"""The order of a prompt's parts: what stands there for good, and what is read between.

A provider charges a fiftieth for the part of a prompt that begins as an earlier one did. So what
changes from turn to turn belongs behind what doesn't; `check_costs` holds prompts against that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct

from runtime.source import QUOTED, TAG, Source

_NAME = re.compile(r"(?<![\w.])[A-Za-z]\w*(?!\w|\s*=[^=])")
_BOUND = re.compile(r"\b(?:set|for)\s+(\w+)(?:\s*,\s*(\w+))?\s*(?:=|\bin\b)")
_INCLUDE = re.compile(r"""include\s+['"]([^'"]+)['"]""")


class Piece(Struct, frozen=True):
    """Either a text that stands in a template as it is, or a tag that reads inputs, with its place.

    `under` are the inputs that decide whether it comes at all: those of the blocks around it.
    """

    text: str
    reads: frozenset[str]
    under: frozenset[str]
    file: str
    line: int
    col: int


def laid_out(source: Source, includes: Mapping[str, str], inputs: Collection[str]) -> Iterator[Piece]:
    """A faultless template's pieces in their order, those of its includes in their place."""
    yield from _Walk(includes, inputs).pieces(source)


class _Walk:
    """Goes through a template and its includes once; knows the blocks that are open, and the template's own names."""

    def __init__(self, includes: Mapping[str, str], inputs: Collection[str]) -> None:
        self.includes, self.inputs = includes, frozenset(inputs)
        self.own: dict[str, frozenset[str]] = {}
        self.around: list[frozenset[str]] = []

    def pieces(self, source: Source) -> Iterator[Piece]:
        end = 0
        for tag in TAG.finditer(source.text):
            yield from self._text(source, end, tag.start())
            end = tag.end()
            if included := self._included(tag.group()):
                yield from self.pieces(included)
            elif not tag.group().startswith("{#"):
                yield from self._read(source, tag)
        yield from self._text(source, end, len(source.text))

    def _included(self, tag: str) -> Source | None:
        name = _INCLUDE.search(tag) if tag.startswith("{%") else None
        return Source("prompts/" + name[1], self.includes[name[1]]) if name else None

    def _text(self, source: Source, start: int, end: int) -> Iterator[Piece]:
        if text := source.text[start:end].strip():
            yield self._piece(source, start, text, frozenset())

    def _read(self, source: Source, tag: re.Match[str]) -> Iterator[Piece]:
        code = QUOTED.sub("''", tag.group()).strip("{}%- ")
        word = code.partition(" ")[0]
        reads = self._reads(code)
        if word in ("endif", "endfor") and self.around:
            self.around.pop()
        elif word == "elif" and self.around:
            self.around[-1] |= reads
        if reads:
            places = [tag.group().find(name) for name in reads]
            yield self._piece(source, tag.start() + max(0, min(places)), "", reads)
        if bound := _BOUND.match(code):
            self.own |= dict.fromkeys((name for name in bound.groups() if name), reads)
        if word in ("if", "for"):
            self.around.append(reads)

    def _reads(self, code: str) -> frozenset[str]:
        names = frozenset(_NAME.findall(code))
        of_own = (self.own[name] for name in names if name in self.own)
        return (names & self.inputs - self.own.keys()).union(*of_own)

    def _piece(self, source: Source, at: int, text: str, reads: frozenset[str]) -> Piece:
        line_start = source.text.rfind("\n", 0, at) + 1
        line = source.line + source.text.count("\n", 0, at)
        return Piece(text, reads, frozenset().union(*self.around), source.file, line, at - line_start + 1)
