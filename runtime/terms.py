"""Forbidden terms: finding them however they are spelled, and covering them.

Texts are compared folded: compatibility forms (full-width letters, ligatures, circled letters)
and case fall together, accents are taken apart, and what has no width is dropped. A term that
begins or ends with a Latin letter or digit must begin or end a word there, so that `rule` is not
found in `ruler`; other scripts have no word bounds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby

from msgspec import Struct

MARKS = ("＊", "*", "□", "·", "○", "—", "_", "-", "…", "x")
"""What covers a term, in the order tried: the first for wide letters, the second for others, the rest for need."""

_LETTER = r"a-z0-9\u00df-\u024f"
_ACCENT = r"\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\u3099\u309a"
_INVISIBLE = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_FOLDS = re.compile(r"[^\x00-@\[-\x7f—‘’“”、。《》「」『』\u3400-\u9fff\uac00-\ud7a3]")
"""What folding may change. Hangul syllables stay whole: taken apart, one would begin another."""


@lru_cache(maxsize=4096)
def _folded(letter: str) -> str:
    """One code point folded: '' for what has no width."""
    if _INVISIBLE.match(letter) or unicodedata.category(letter) == "Cf":
        return ""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", letter).casefold())


def _fold_match(match: re.Match[str]) -> str:
    return _folded(match.group())


def fold(text: str) -> str:
    """The text as terms are compared; every code point is folded for itself."""
    return text.lower() if text.isascii() else _FOLDS.sub(_fold_match, text)


class _Term(Struct, frozen=True):
    term: str
    pattern: re.Pattern[str]


class _Terms(Struct, frozen=True):
    """The terms compiled. Where `screen` matches nothing, no term does: most texts end there."""

    terms: tuple[_Term, ...]
    screen: re.Pattern[str]
    mark: str
    wide_mark: str


_is_letter = re.compile(f"[{_LETTER}]").match
_NEVER = r"(?!)"


@lru_cache(maxsize=512)
def _compiled(terms: tuple[str, ...]) -> _Terms:
    folded = {term: fold(term).strip() for term in terms}
    held = "".join(folded.values())
    free = [mark for mark in MARKS if fold(mark) not in held]
    spelled = sorted({short for short in folded.values() if short})
    return _Terms(
        terms=tuple(_Term(term, _pattern(short)) for term, short in folded.items() if short),
        screen=_screen(spelled),
        mark=next((mark for mark in free if mark != MARKS[0]), ""),
        wide_mark=next(iter(free), ""),
    )


def _screen(folded: list[str]) -> re.Pattern[str]:
    """A pattern for any of the terms, which branches by the first letter: 200 terms cost little more than one.

    It begins with plain letters, so that `re` skips at once to where one of them stands.
    """
    branches = []
    for first, terms in groupby(folded, key=lambda term: term[0]):
        bound = f"(?<![{_LETTER}]{first})" if _is_letter(first) else ""
        rest = "|".join(re.escape(term[1:]) for term in terms)
        branches.append(f"{re.escape(first)}{bound}(?:{rest})")
    return re.compile("|".join(branches) or _NEVER)


def _pattern(folded: str) -> re.Pattern[str]:
    before = f"(?<![{_LETTER}{_ACCENT}])" if _is_letter(folded[0]) else ""
    after = f"(?![{_LETTER}{_ACCENT}])" if _is_letter(folded[-1]) else f"(?![{_ACCENT}])"
    return re.compile(before + re.escape(folded) + after)


def find_term(text: str, terms: tuple[str, ...]) -> str | None:
    """The first of `terms`, in their order, that stands in the text, as the terms spell it; None where none does."""
    seen = fold(text)
    compiled = _compiled(terms)
    if not compiled.screen.search(seen):
        return None
    return next((term.term for term in compiled.terms if term.pattern.search(seen)), None)


def mask(text: str, terms: tuple[str, ...]) -> str:
    """The text with every forbidden term covered, mark for code point: ＊ for wide letters, * for others.

    A mark that a term itself holds gives way to the next of `MARKS`; where a session forbids them
    all (`free_mark`), terms are taken out and the text grows shorter.
    """
    while find_term(text, terms) is not None:
        text = _masked(text, _compiled(terms))
    return text


def free_mark(terms: tuple[str, ...]) -> str:
    """A mark that no term holds, '' where they hold them all."""
    return _compiled(terms).wide_mark


def _masked(text: str, terms: _Terms) -> str:
    letters = list(text)
    for start, end in _spans(text, terms):
        for index in range(start, end):
            letters[index] = terms.mark if text[index].isascii() else terms.wide_mark
    return "".join(letters)


def _spans(text: str, terms: _Terms) -> Iterator[tuple[int, int]]:
    """Where terms stand in the text as written: from and to, in code points."""
    pieces = [fold(letter) for letter in text]
    origin = [index for index, piece in enumerate(pieces) for _ in piece]
    seen = "".join(pieces)
    for term in terms.terms:
        for match in term.pattern.finditer(seen):
            yield origin[match.start()], origin[match.end() - 1] + 1
