"""Prose that gives away what a model was told: a passage of its instructions, a secret word in them, a mark.

What a story is made of may be told in its own words, and short phrases fall together by chance. So
a passage counts from a length on that no telling reaches by itself; what the turn itself brought
into the instructions (a `tell`, a slot, an option's words) is no part of them. A secret word (a
key, a code, a canary) counts alone, also spelled apart, backwards or encoded.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runtime.cutting import sentences
from runtime.quoting import clean, has_mark

if TYPE_CHECKING:
    from runtime.prompt import Message, Prompt

PASSAGE = 72
"""From which weight on a repeated passage leaks; measured with the prompts and the fragments that ship."""
HAN_WEIGHT = 3
"""A Han letter weighs so much, any other letter or digit 1: a passage is 24 Han letters, or about fourteen words."""
SECRET_CHARS = 8
"""From which length on a word with a letter and a digit is taken for a secret."""
BROUGHT_CHARS = 6
"""Shorter values that a turn brings into its instructions are left in them, in code points."""

SENTENCE = 12
"""From which weight on a sentence of the instructions is known again where it is all that is said."""
CLAUSE = 24
"""From which weight on it is known again inside another."""

_WINDOW = 12
_SECRET = re.compile(rf"(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{{{SECRET_CHARS},}}")
_HELD = re.compile("[\ufdd0\ufdd1][^\ufdd0-\ufdd2]*\ufdd2")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{24,}")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class _Told(Struct, frozen=True):
    """Instructions, prepared: the windows of their letters, their secrets in each disguise, their sentences."""

    windows: frozenset[str]
    secrets: tuple[str, ...]
    sentences: frozenset[str]
    clauses: tuple[str, ...]


def instructions(prompt: Prompt, messages: Iterable[Message], inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The system messages of a turn without what the turn brought into them."""
    told = tuple(message.content for message in messages if message.role == "system")
    if not any(part.names for role, part in prompt.parts if role == "system"):
        return told
    brought = sorted({value for value in _texts(inputs) if len(value) >= BROUGHT_CHARS}, key=len, reverse=True)
    return tuple(_without(text, brought) for text in told)


def _without(text: str, brought: Iterable[str]) -> str:
    text = _HELD.sub("\n", text)
    for value in brought:
        text = text.replace(value, "\n")
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def leaked(text: str, told: tuple[str, ...]) -> str | None:
    """What a text gives away of the instructions, in words that repeat none of it; None where nothing."""
    if has_mark(text):
        return "a mark"
    if not told:
        return None
    prepared = _prepared(told)
    letters = _letters(text)
    if any(secret in letters for secret in prepared.secrets):
        return "a secret word"
    if _is_passage(letters, prepared.windows):
        return "a passage"
    decoded = (_letters(each) for found in _ENCODED.findall(text) for each in _decoded(found))
    gives_away = (
        _is_passage(each, prepared.windows) or any(map(each.__contains__, prepared.secrets)) for each in decoded
    )
    return "an encoded passage" if any(gives_away) else None


def repeats(sentence: str, told: tuple[str, ...]) -> bool:
    """Whether a sentence is one of the instructions, or has a long one in it.

    That is too little for a leak, since a story may say so of itself; but where one follows another it is one.
    """
    if not told:
        return False
    prepared, letters = _prepared(told), _letters(sentence)
    return letters in prepared.sentences or any(clause in letters for clause in prepared.clauses)


def _letters(text: str) -> str:
    """A text's letters and digits, folded: spaces, signs and case hide nothing."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", clean(text))
    return "".join(filter(str.isalnum, text.casefold()))


def _is_passage(letters: str, windows: frozenset[str]) -> bool:
    """Whether a run of letters stands in the instructions just so, and is long enough."""
    start = 0
    for end in range(_WINDOW, len(letters) + 1):
        if letters[end - _WINDOW : end] not in windows:
            start = end - _WINDOW + 1
        elif end - start >= PASSAGE // HAN_WEIGHT and _weight(letters[start:end]) >= PASSAGE:
            return True
    return False


def _weight(letters: str) -> int:
    return len(letters) + (HAN_WEIGHT - 1) * len(_HAN.findall(letters))


@lru_cache(maxsize=128)
def _prepared(told: tuple[str, ...]) -> _Told:
    windows: set[str] = set()
    secrets: dict[str, None] = {}
    for text in told:
        letters = _letters(text)
        windows.update(letters[at : at + _WINDOW] for at in range(len(letters) - _WINDOW + 1))
        for found in _SECRET.findall(text):
            secrets |= dict.fromkeys(_letters(each) for each in _disguises(found))
    kept = tuple(secret for secret in secrets if len(secret) >= SECRET_CHARS - 2)
    weights = {letters: _weight(letters) for letters in map(_letters, _sentences(told))}
    return _Told(
        windows=frozenset(windows),
        secrets=kept,
        sentences=frozenset(letters for letters, weight in weights.items() if weight >= SENTENCE),
        clauses=tuple(letters for letters, weight in weights.items() if weight >= CLAUSE),
    )


def _sentences(told: tuple[str, ...]) -> Iterator[str]:
    for text in told:
        for line in text.splitlines():
            yield line
            yield from sentences(line)


def _disguises(secret: str) -> Iterator[str]:
    """A secret as it may be written: plain, backwards, shifted by 13 letters, in hex, in base64 wherever it begins."""
    for each in dict.fromkeys((secret, secret.upper(), secret.lower())):
        yield from (each, each[::-1], codecs.encode(each, "rot13"), each.encode().hex())
        for before in range(3):
            coded = base64.b64encode(b" " * before + each.encode()).decode().rstrip("=")
            yield coded[(0, 2, 3)[before] : -1]


def _decoded(found: str) -> Iterator[str]:
    """What a run of letters may stand for: base64 or hex of a text."""
    plain = found.replace("-", "+").replace("_", "/")
    for decode in (_base64, bytes.fromhex):
        try:
            yield decode(plain).decode(errors="ignore")
        except (ValueError, binascii.Error):
            continue


def _base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
