"""Text on a screen: cleaned of what could move the cursor, and wrapped by its real widths.

Chinese may break between any two characters, but no line begins with a closing mark or ends with
an opening one. Source: GB/T 15834-2011, section 5.1, and W3C's Requirements for Chinese Text Layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import wcwidth

NOT_FIRST = frozenset("，。、；：！？）》」』】〕〉”’…—～·%‰,.;:!?)]}»›")
"""Marks that no line begins with."""
NOT_LAST = frozenset("（《「『【〔〈“‘([{«‹$￥")
"""Marks that no line ends with."""
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """The text without what a terminal would obey: control and bidi characters; tabs become spaces."""
    return _UNSAFE.sub(lambda found: " " if found[0] == "\t" else "", text.replace("\r\n", "\n"))


def width(text: str) -> int:
    """How many columns a text takes; emoji and Chinese characters take two."""
    return wcwidth.width(text)


def wrap(text: str, columns: int, indent: str = "") -> list[str]:
    """Lines of at most `columns`; all but the first of a paragraph begin with `indent`.

    What has no place to break (a long URL) is cut where the line ends.
    """
    return [line for paragraph in text.split("\n") for line in _wrapped(paragraph, columns, indent)]


def _wrapped(paragraph: str, columns: int, indent: str) -> Iterator[str]:
    line = ""
    for unit in _fitting(_bound(paragraph), columns - width(indent)):
        if line.strip() and width(line) + width(unit.rstrip()) > columns:
            yield line.rstrip()
            line = indent + unit.lstrip()
        else:
            line += unit
    yield line.rstrip()


def _fitting(units: Iterator[str], columns: int) -> Iterator[str]:
    """The units, those that no line could hold cut into graphemes."""
    for unit in units:
        if width(unit.rstrip()) <= max(columns, 2):
            yield unit
        else:
            yield from wcwidth.iter_graphemes(unit)


def _bound(paragraph: str) -> Iterator[str]:
    """Units that no break may stand in: a word with its space, a character with its marks."""
    unit = ""
    for piece in _pieces(paragraph):
        if unit and not _holds(unit, piece):
            yield unit
            unit = ""
        unit += piece
    if unit:
        yield unit


def _holds(unit: str, piece: str) -> bool:
    return piece.isspace() or piece[0] in NOT_FIRST or unit[-1] in NOT_LAST


def _pieces(paragraph: str) -> Iterator[str]:
    """Runs of narrow characters (words), wide graphemes one by one, and spaces."""
    run = ""
    for grapheme in wcwidth.iter_graphemes(paragraph):
        is_word = width(grapheme) == 1 and not grapheme.isspace() and grapheme not in "“‘…—"
        if run and not is_word:
            yield run
            run = ""
        if is_word:
            run += grapheme
        else:
            yield grapheme
    if run:
        yield run
