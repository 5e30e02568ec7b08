"""Forbidden terms: finding them however they are spelled, and covering them.

Texts are compared folded: compatibility forms (full-width letters, ligatures, circled letters)
and case fall together, traditional characters become simplified ones, accents are taken apart,
and what has no width is dropped. So is what was inserted between two letters of a script without
word bounds (`血*腥`, `血 腥`, `血·腥`, `血🔥腥`, `血(腥)`): blanks, symbols, emoji, brackets, and any
mark that ends no clause. Marks that do (`。！？，、；：…——`) and quotes stand between two words, and
nothing is seen across them. A term that begins or ends with a Latin letter or digit must begin or
end a word there, so that `rule` is not found in `ruler`; other scripts have no word bounds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby
from string import whitespace

from msgspec import Struct
from opencc import OpenCC

MARKS = ("＊", "*", "□", "·", "○", "—", "_", "-", "…", "x")
"""What covers a term, in the order tried: the first for wide letters, the second for others, the rest for need."""

_MAX_LAYERS = 8
"""How often a text is covered anew before all letters of its terms are."""

_LETTER = r"a-z0-9\u00df-\u024f"
_ACCENT = r"\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\u3099\u309a"
_VOICED = r"\u3099\u309a"
_INVISIBLE = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_KEPT = r"\x00-@\[-\x7f—…‘’“”、。《》「」『』\uac00-\ud7a3"
"""What folding leaves alone. Hangul syllables stay whole: taken apart, one would begin another."""
_HAN = (0x3400, 0xA000)

_UNBOUND = (
    r"\u3005\u3007\u3041-\u3096\u3099\u309a\u30a1-\u30fa\u30fc-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
)
"""Letters of scripts without word bounds, folded: Han, kana, Hangul."""
_INSERTED = (
    r"\s#$%&*+\-./<=>@\\^_`|~()\[\]{}\u00a1-\u00b6\u00b8-\u00bf\u00b7\u00d7\u00f7\u02c2-\u02df\u0300-\u036f\u1ab0-\u1aff"
    r"\u1dc0-\u1dff\u2010-\u2012\u2016\u2017\u2020-\u2023\u2027\u2030-\u2038\u203b\u203e-\u205e\u20a0-\u20f0\u2190-\u2bff"
    r"\u2e00-\u2e39\u2e3c-\u2e5d\u3003\u3004\u3010-\u301b\u301c\u3020\u3030\u3036\u3037\u303e\u303f\u30fb\ue000-\uf8ff"
    r"\ufffc\ufffd\U0001f000-\U0001faff"
)
"""What may be inserted, folded: blanks, symbols, emoji, brackets, hyphens, dots; `..` is an ellipsis and no dot."""
# Possessive, and begun behind a letter alone: a run of 10,000 blanks is gone over once.
_RUNS = re.compile(f"(?<=[{_UNBOUND}])[{_INSERTED}]++(?=[{_UNBOUND}])")
_is_unbound = re.compile(f"[{_UNBOUND}]").match


@cache
def _converter() -> OpenCC:
    return OpenCC("t2s")


@cache
def _folds() -> re.Pattern[str]:
    """What folding may change: among Han letters, the traditional ones."""
    letters = [chr(code) for code in range(*_HAN)]
    simple = _converter().convert("\n".join(letters)).split("\n")
    runs = groupby(range(len(letters)), key=lambda index: letters[index] == simple[index])
    kept = [list(run) for is_same, run in runs if is_same]
    ranges = "".join(f"{letters[run[0]]}-{letters[run[-1]]}" for run in kept)
    return re.compile(f"[^{_KEPT}{ranges}]")


@lru_cache(maxsize=8192)
def _folded(letter: str) -> str:
    """One code point folded: '' for what has no width."""
    if _INVISIBLE.match(letter) or unicodedata.category(letter) == "Cf":
        return ""
    if letter == "…":
        return letter
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", letter).casefold())
    return plain if plain.isascii() else _converter().convert(plain)


def _fold_match(match: re.Match[str]) -> str:
    return _folded(match.group())


def fold(text: str) -> str:
    """The text as terms are compared, what was inserted still in it; every code point is folded for itself."""
    return text.lower() if text.isascii() else _folds().sub(_fold_match, text)


def _is_inserted(run: re.Match[str]) -> bool:
    return ".." not in run.group()


def _joined(run: re.Match[str]) -> str:
    return "" if _is_inserted(run) else run.group()


def bare(text: str) -> str:
    """The text folded, without what was inserted."""
    folded = fold(text)
    return folded if folded.isascii() else _RUNS.sub(_joined, folded)


class _Terms(Struct, frozen=True):
    """The terms, as given and folded. Where `screen` matches nothing, no term does: most texts end there."""

    terms: tuple[tuple[str, str], ...]
    screen: re.Pattern[str]
    beginnings: frozenset[str]
    longest: int
    mark: str
    wide_mark: str


_is_letter = re.compile(f"[{_LETTER}]").match
_NEVER = r"(?!)"


@lru_cache(maxsize=64)
def _compiled(terms: tuple[str, ...]) -> _Terms:
    folded = {term: bare(term).strip() for term in terms}
    held = "".join(folded.values())
    free = [mark for mark in MARKS if fold(mark) not in held]
    spelled = sorted({short for short in folded.values() if short})
    return _Terms(
        terms=tuple((term, short) for term, short in folded.items() if short),
        screen=_screen(spelled),
        beginnings=frozenset(short[:count] for short in spelled for count in range(1, len(short))),
        longest=max(map(len, spelled), default=0),
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


@lru_cache(maxsize=512)
def _pattern(folded: str) -> re.Pattern[str]:
    """One term's pattern: made when a text holds its letters, since hardly one ever does."""
    before = f"(?<![{_LETTER}{_ACCENT}])" if _is_letter(folded[0]) else ""
    after = _LETTER + _ACCENT if _is_letter(folded[-1]) else _VOICED if _is_unbound(folded[-1]) else _ACCENT
    return re.compile(f"{before}{re.escape(folded)}(?![{after}])")


def find_term(text: str, terms: tuple[str, ...]) -> str | None:
    """The first of `terms`, in their order, that stands in the text, as the terms spell it; None where none does."""
    if not terms:
        return None
    seen = bare(text)
    compiled = _compiled(terms)
    if not compiled.screen.search(seen):
        return None
    return next((term for term, short in compiled.terms if short in seen and _pattern(short).search(seen)), None)


def may_begin_term(text: str, terms: tuple[str, ...]) -> bool:
    """Whether a text ends in what may become one of the terms, once it goes on."""
    if not terms:
        return False
    compiled, end = _compiled(terms), bare(f"{text}字").removesuffix("字").rstrip()
    tails = (end[-count:] for count in range(1, min(len(end), compiled.longest) + 1))
    return any(tail in compiled.beginnings and not _is_inside_word(end, len(tail)) for tail in tails)


def _is_inside_word(text: str, count: int) -> bool:
    """Whether the last `count` letters of a folded text begin inside a Latin word."""
    before = text[-count - 1 : -count]
    return bool(before and _is_letter(before) and _is_letter(text[-count]))


def mask(text: str, terms: tuple[str, ...]) -> str:
    """The text with every forbidden term covered, mark for code point: ＊ for wide letters, * for others.

    A mark that a term itself holds gives way to the next of `MARKS`; where a session forbids them
    all (`free_mark`), terms are taken out and the text grows shorter. What is covered may bring letters
    of a term together once more; where that goes on and on, all letters that terms hold are covered.
    """
    for _ in range(_MAX_LAYERS):
        if find_term(text, terms) is None:
            return text
        text = _covered(text, _spans(text, _compiled(terms)), _compiled(terms))
    return text if find_term(text, terms) is None else _covered(text, _held(text, _compiled(terms)), _compiled(terms))


def free_mark(terms: tuple[str, ...]) -> str:
    """A mark that no term holds, '' where they hold them all."""
    return _compiled(terms).wide_mark


def _covered(text: str, spans: Iterable[tuple[int, int]], terms: _Terms) -> str:
    letters = list(text)
    for start, end in spans:
        for index in range(start, end):
            letters[index] = terms.mark if text[index].isascii() else terms.wide_mark
    return "".join(letters)


def _spans(text: str, terms: _Terms) -> Iterator[tuple[int, int]]:
    """Where terms stand in the text as written: from and to, in code points, with what was inserted."""
    pieces = [fold(letter) for letter in text]
    origin = [index for index, piece in enumerate(pieces) for _ in piece]
    folded = "".join(pieces)
    inserted = {at for run in _RUNS.finditer(folded) if _is_inserted(run) for at in range(*run.span())}
    origin = [index for at, index in enumerate(origin) if at not in inserted]
    seen = "".join(letter for at, letter in enumerate(folded) if at not in inserted)
    for _, short in terms.terms:
        for match in _pattern(short).finditer(seen) if short in seen else ():
            yield origin[match.start()], origin[match.end() - 1] + 1


def _held(text: str, terms: _Terms) -> Iterator[tuple[int, int]]:
    """Where any letter of any term stands."""
    held = set("".join(short for _, short in terms.terms)) - set(whitespace)
    for index, letter in enumerate(text):
        if not held.isdisjoint(fold(letter)):
            yield index, index + 1
