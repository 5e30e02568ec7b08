"""What was taken out of a text and put into it: by words, sign by sign where none stand apart, as in Chinese.

Start at `spans_of`.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Literal

from runtime.cutting import is_inside

Span = tuple[Literal["=", "-", "+"], str]
"""A part of a text: in both, only on this side, only on the other."""
Block = tuple[list[str], list[str]]
"""Parts that stand for each other."""


def spans_of(here: str, there: str) -> tuple[Span, ...]:
    """The parts of two texts in their order. Line by line first, so that a long text is quickly done."""
    found: list[Span] = []
    for ours, theirs in _blocks(here.splitlines(keepends=True), there.splitlines(keepends=True)):
        if ours == theirs:
            found.append(("=", "".join(ours)))
        else:
            found += _inside(_tokens("".join(ours)), _tokens("".join(theirs)))
    return tuple(_joined(found))


def _blocks(ours: list[str], theirs: list[str]) -> Iterator[Block]:
    for _, start, end, begin, stop in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        yield ours[start:end], theirs[begin:stop]


def _inside(ours: list[str], theirs: list[str]) -> Iterator[Span]:
    for gone, come in _blocks(ours, theirs):
        if gone == come:
            yield "=", "".join(gone)
            continue
        if gone:
            yield "-", "".join(gone)
        if come:
            yield "+", "".join(come)


def _joined(spans: list[Span]) -> Iterator[Span]:
    for sign, parts in groupby(spans, key=itemgetter(0)):
        yield sign, "".join(text for _, text in parts)


def _tokens(text: str) -> list[str]:
    """Words of letters that stand apart by spaces, and every other sign, whole as a reader sees it."""
    found: list[str] = []
    for at, letter in enumerate(text):
        if at and (is_inside(text, at) or (_is_of_word(text[at - 1]) and _is_of_word(letter))):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _is_of_word(letter: str) -> bool:
    return letter.isalnum() and unicodedata.east_asian_width(letter) not in "WF"
