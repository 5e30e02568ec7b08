"""Cutting a text to a length without breaking a sentence, a word, or what a reader sees as one letter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

MARK = "…"
"""Stands where a text was cut inside a sentence."""

_ZWJ = "\u200d"
_VIRAMA = 9
_CLOSING = "」』”’\"')）\\]】》"
_SENTENCE = re.compile(rf"(?:[。！？!?…]+|(?<!\.)\.++(?=[{_CLOSING}]*+(?:\s|$)))[{_CLOSING}]*")
_ABBREVIATED = re.compile(r"(?<![A-Za-z])(?:Dr|Mr|Mrs|Ms|Prof|St|Rev|Capt|Lt|Sgt|Mme|vs)$")
"""Words behind which a full stop ends no sentence."""
_LONGEST_ABBREVIATED = 8
_PAIRS = (("“", "”"), ("「", "」"), ("（", "）"), ("(", ")"), ("《", "》"))
_PHRASE = re.compile(r"[，、；：,;:—]+|\s+")
_TRAILING = "，、；：,;:—-（(「『“‘"
_LOOK_AHEAD = 64  # code points behind the limit, so that the quotes after a sentence are seen


def cut(text: str, max_chars: int) -> str:
    """The text, or as much of it as fits into `max_chars` code points.

    A longer text ends with the last sentence that ends in the last half (closing quotes stay with
    it); else behind the last whole phrase or word there, with `…`; else behind the last whole
    letter (emoji, flags, accents stay whole), with `…`. '' only where `max_chars` is below 1 or the
    text is empty.
    """
    if len(text) <= max_chars:
        return text
    if max_chars < 1:
        return ""
    end = max((at for at in _sentence_ends(text, max_chars) if 2 * at >= max_chars), default=0)
    return text[:end] if end else _with_mark(text, max_chars)


def _sentence_ends(text: str, max_chars: int) -> Iterator[int]:
    for match in _SENTENCE.finditer(text[: max_chars + _LOOK_AHEAD]):
        if match.end() <= max_chars and not is_inside(text, match.end()) and not _is_abbreviated(match):
            yield match.end()


def _is_abbreviated(stop: re.Match[str]) -> bool:
    before = stop.string[max(0, stop.start() - _LONGEST_ABBREVIATED) : stop.start()]
    return stop.group() == "." and _ABBREVIATED.search(before) is not None


def sentences(text: str) -> list[str]:
    """The text in pieces, each up to the end of a sentence with its closing quotes; what ends in none comes last."""
    ends = list(dict.fromkeys([0, *_sentence_ends(text, len(text)), len(text)]))
    return [text[start:end] for start, end in pairwise(ends)]


def finished(text: str) -> str:
    """The whole sentences of a text that breaks off; '' where it has none.

    A full stop at the very end is none: `3.` may have gone on as `3.5`, `Dr.` as a name.
    """
    ends = [end for end in _sentence_ends(text, len(text)) if end < len(text) or text[end - 1] != "."]
    return text[: max(ends, default=0)]


def is_balanced(text: str) -> bool:
    """Whether every quotation and bracket that begins in a text ends in it."""
    return all(text.count(left) == text.count(right) for left, right in _PAIRS)


def _with_mark(text: str, max_chars: int) -> str:
    room = max_chars - len(MARK)
    half = room // 2
    phrases = (match.start() for match in _PHRASE.finditer(text, half, room + 1))
    end = max((at for at in phrases if half <= at <= room), default=0) or _word_end(text, room)
    return _bare(text, _whole(text, end)) + MARK


def _word_end(text: str, room: int) -> int:
    """The last place up to `room` that isn't inside a Latin word; `room` where the word is all there is."""
    end = room
    while end > room // 2 and _is_latin(text[end - 1]) and _is_latin(text[end]):
        end -= 1
    return end if end > room // 2 else room


def _is_latin(letter: str) -> bool:
    return letter.isalnum() and ord(letter) < 0x250  # noqa: PLR2004 - Latin Extended-B ends here


def _bare(text: str, end: int) -> str:
    """Without the blanks, commas and opening quotes that would stand before the mark."""
    while end and (text[end - 1].isspace() or text[end - 1] in _TRAILING):
        end = _whole(text, end - 1)
    return text[:end]


def _whole(text: str, end: int) -> int:
    """The nearest place at or before `end` that breaks no letter."""
    while is_inside(text, end):
        end -= 1
    return end


def is_inside(text: str, at: int) -> bool:
    """Whether a cut before `text[at]` would break what a reader sees as one letter.

    After Unicode's rules for grapheme clusters (UAX 29), a little stricter: joined emoji, skin
    tones, flags, keycaps, accents, Hangul letters, consonants joined by a virama, CR LF.
    """
    if at <= 0 or at >= len(text):
        return False
    before, after = text[at - 1], text[at]
    return (
        before == _ZWJ
        or _extends(after)
        or unicodedata.combining(before) == _VIRAMA
        or (before, after) == ("\r", "\n")
        or (_is_between(before, "\ud800", "\udbff") and _is_between(after, "\udc00", "\udfff"))
        or (_is_flag(after) and _flags_before(text, at) % 2 == 1)
    )


def _is_between(letter: str, low: str, high: str) -> bool:
    return low <= letter <= high


def _extends(letter: str) -> bool:
    return (
        unicodedata.category(letter) in {"Mn", "Me", "Mc"}
        or letter in {_ZWJ, "\u200c"}
        or _is_between(letter, "\U0001f3fb", "\U0001f3ff")
        or _is_between(letter, "\U000e0020", "\U000e007f")
        or _is_between(letter, "\u1160", "\u11ff")
    )


def _is_flag(letter: str) -> bool:
    return _is_between(letter, "\U0001f1e6", "\U0001f1ff")


def _flags_before(text: str, at: int) -> int:
    start = at
    while start and _is_flag(text[start - 1]):
        start -= 1
    return at - start
