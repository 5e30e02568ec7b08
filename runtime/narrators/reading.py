"""The JSON object in a model's text: read as it comes, and read where it is not quite JSON.

A model writes fences and prose around its answer, leaves a comma before a bracket, takes “ ” ： ，
for JSON's own marks, breaks a line inside a text, or stops in the middle. All of that is read past,
and noted. Nothing is invented: what was cut off is marked, a number that was cut off is left out,
and behind what can't be read nothing more is read. Pure, and linear in the length of the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

MAX_DEPTH = 16
"""How deeply an answer may nest."""
MAX_CHARS = 256 * 1024
"""The longest answer that is read, in code points."""

Path = tuple[str | int, ...]
"""Where a value stands: names of members and indexes from 0."""
Repair = Literal["around", "comma", "quotes", "punctuation", "newline", "escape", "comment", "cut", "unreadable"]
"""What was read past: `cut` is a missing end, `unreadable` is that nothing was read from some place on."""

_BLANK = re.compile(r"[ \t\r\n\u3000\ufeff\xa0]*")
_QUOTES = frozenset('"“”＂')
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_PLAIN_WIDE = re.compile(r'[^"“”＂\\\x00-\x1f]+')
_ESCAPED = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"u[0-9a-fA-F]{0,4}")
_HEX_CHARS = 5
_HIGH, _LOW, _BEHIND = 0xD800, 0xDC00, 0xE000
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LOST = "\ufffd"
"""Stands for half of a surrogate pair, and for an escape that is none."""
_TOKEN = re.compile(r"[A-Za-z0-9+.\-]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<real>(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_NAMED = {"true": True, "false": False, "null": None}
_MAX_TOKEN_CHARS = 400
_BEGINS_VALUE = _QUOTES | frozenset("{[-0123456789tfn")


class AnswerError(ValueError):
    """The text holds no JSON object; the message says why, and quotes nothing of it."""


class Reading(Struct, frozen=True):
    """What was read: the object, the paths whose values were cut off, and what was read past."""

    value: dict[str, Any]
    incomplete: tuple[Path, ...] = ()
    repairs: frozenset[Repair] = frozenset()


class Grown(Struct, frozen=True):
    """A text that has grown: by `text`, at `path`.

    `is_new` where it begins here; the same path may begin again, and then the later text counts.
    `is_closed` where the text is whole now.
    """

    path: Path
    text: str
    is_new: bool = False
    is_closed: bool = False


def read(text: str) -> Reading:
    """The JSON object in a model's text. Raises AnswerError where there is none."""
    if len(text) > MAX_CHARS:
        raise AnswerError(_TOO_LONG)
    reading = _strict(text)
    if reading is None:
        reader = Reader()
        reader.feed(text)
        reading = reader.end()
    return reading


_TOO_LONG = "it is too long"
_TOO_DEEP = "its JSON is nested too deeply"


def _strict(text: str) -> Reading | None:
    """The reading of a text that is JSON already; None where it is not, or is no object."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return None
    except RecursionError:
        raise AnswerError(_TOO_DEEP) from None
    if not isinstance(found, dict):
        return None
    if not _depth_within(found, MAX_DEPTH):
        raise AnswerError(_TOO_DEEP)
    return Reading(found)


def _depth_within(value: object, max_depth: int) -> bool:
    layer = [value]
    for _ in range(max_depth):
        layer = [child for parent in layer for child in _nested(parent)]
    return not layer


def _nested(value: object) -> Iterator[object]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (member for member in members if isinstance(member, dict | list))


class Reader:
    """Reads one object out of chunks that may be cut anywhere.

    A quote may end a text or stand in it: the letters behind it say which (`_doubtful`), and what
    was read meanwhile waits. Each letter is looked at once.
    """

    def __init__(self) -> None:
        """Begin before the object."""
        self._repairs: set[Repair] = set()
        self._grown: list[Grown] = []
        self._chars = 0
        self._is_blank = True
        self._is_too_deep = False
        self._mode: Callable[[str, int], int] = self._seek
        self._root: dict[str, Any] | None = None
        # The containers that are open, outermost first, and the member of each that is under way.
        self._open: list[Any] = []
        self._path: list[Any] = []
        self._has_comma = False
        self._behind_comment: Callable[[str, int], int] = self._seek
        # The text under way; what may have ended it; an escape; the first half of a surrogate pair; a number or word.
        self._text: list[str] = []
        self._is_key = False
        self._plain = _PLAIN
        self._doubt: list[str] = []
        self._comma = ""
        self._escape = ""
        self._high = 0
        self._token = ""
        self._last: Path | None = None
        self._cut: list[Path] = []

    def feed(self, chunk: str) -> list[Grown]:
        """Read on; how texts have grown by it, in order. Behind MAX_CHARS nothing is read."""
        self._grown = []
        chunk = chunk[: max(0, MAX_CHARS - self._chars)]
        self._chars += len(chunk)
        self._is_blank = self._is_blank and not chunk.strip()
        at = 0
        while at < len(chunk):
            at = self._mode(chunk, at)
        return self._grown

    def end(self) -> Reading:
        """What was read, now that no more comes. Raises AnswerError where there is no object."""
        if self._is_too_deep:
            raise AnswerError(_TOO_DEEP)
        if self._mode == self._doubtful:
            self._close_text()
        elif self._mode in (self._in_text, self._in_escape) and not self._is_key:
            self._put("".join(self._text))
            self._cut.append(tuple(self._path))
        elif self._mode == self._in_token:
            self._cut.append(tuple(self._path))
        if self._root is None:
            raise AnswerError("it is blank" if self._is_blank else "it holds no JSON object")
        if self._open and "unreadable" not in self._repairs:
            self._repairs.add("cut")
        return Reading(self._root, tuple(dict.fromkeys(self._incomplete())), frozenset(self._repairs))

    def _incomplete(self) -> Iterator[Path]:
        yield from (tuple(self._path[:depth]) for depth in range(len(self._open)))
        yield from self._cut

    # Before and behind the object.

    def _seek(self, chunk: str, at: int) -> int:
        begins = chunk.find("{", at)
        if chunk[at : begins if begins >= 0 else len(chunk)].strip():
            self._repairs.add("around")
        if begins < 0:
            return len(chunk)
        self._mode = self._begun
        return begins + 1

    def _begun(self, chunk: str, at: int) -> int:
        """A bracket of prose is followed by anything, an object's by a name, its end or a comment."""
        at = _behind_blanks(chunk, at)
        if at == len(chunk):
            return at
        if chunk[at] in _QUOTES or chunk[at] in "}/":
            if self._root is not None:
                self._repairs.add("around")
            self._root = {}
            self._open, self._path = [self._root], [""]
            self._has_comma = False
            self._mode = self._name
        else:
            self._repairs.add("around")
            self._mode = self._seek
        return at

    def _done(self, chunk: str, at: int) -> int:
        if not self._root:
            self._mode = self._seek
            return at
        if chunk[at:].strip():
            self._repairs.add("around")
        return len(chunk)

    def _nothing(self, chunk: str, _at: int) -> int:
        return len(chunk)

    def _lose(self, at: int) -> int:
        """Give up what is under way: the text before it may have ended wrongly too."""
        self._repairs.add("unreadable")
        if not self._root:
            self._root, self._open, self._path = None, [], []
            self._mode = self._seek
            return at
        self._cut += [self._last] if self._last is not None else []
        self._mode = self._nothing
        return at

    # Between values.

    def _name(self, chunk: str, at: int) -> int:
        at = _behind_blanks(chunk, at)
        if at == len(chunk):
            return at
        if chunk[at] in _QUOTES:
            return self._begin_text(chunk[at], at, is_key=True)
        if chunk[at] == "}":
            return self._close(at)
        return self._comment_or_lose(chunk, at)

    def _colon(self, chunk: str, at: int) -> int:
        at = _behind_blanks(chunk, at)
        if at == len(chunk):
            return at
        if chunk[at] not in ":：":
            return self._comment_or_lose(chunk, at)
        self._note_wide(chunk[at])
        self._mode = self._value
        return at + 1

    def _value(self, chunk: str, at: int) -> int:
        at = _behind_blanks(chunk, at)
        if at == len(chunk):
            return at
        letter = chunk[at]
        if letter in _QUOTES:
            return self._begin_text(letter, at, is_key=False)
        if letter in "{[":
            return self._nest({} if letter == "{" else [], at)
        if letter == "]" and isinstance(self._open[-1], list):
            return self._close(at)
        if _TOKEN.match(letter):
            self._token = ""
            self._mode = self._in_token
            return at
        return self._comment_or_lose(chunk, at)

    def _after(self, chunk: str, at: int) -> int:
        at = _behind_blanks(chunk, at)
        if at == len(chunk):
            return at
        letter = chunk[at]
        if letter in ",，":
            self._after_comma(letter)
            return at + 1
        if letter == ("]" if isinstance(self._open[-1], list) else "}"):
            self._has_comma = False
            return self._close(at)
        if letter in _QUOTES:
            self._after_comma("")
            return at
        return self._comment_or_lose(chunk, at)

    def _after_comma(self, comma: str) -> None:
        """Go on to the next member; `comma` is '' where it is missing."""
        if not comma:
            self._repairs.add("comma")
        self._note_wide(comma)
        self._has_comma = True
        self._mode = self._value if isinstance(self._open[-1], list) else self._name

    def _note_wide(self, mark: str) -> None:
        if not mark.isascii():
            self._repairs.add("punctuation")

    def _comment_or_lose(self, chunk: str, at: int) -> int:
        if chunk[at] != "/":
            return self._lose(at)
        self._behind_comment = self._mode
        self._mode = self._slash
        return at + 1

    def _slash(self, chunk: str, at: int) -> int:
        if chunk[at] != "/":
            return self._lose(at)
        self._repairs.add("comment")
        self._mode = self._comment
        return at + 1

    def _comment(self, chunk: str, at: int) -> int:
        ends = chunk.find("\n", at)
        if ends < 0:
            return len(chunk)
        self._mode = self._behind_comment
        return ends + 1

    # Containers.

    def _put(self, value: Any) -> None:
        container = self._open[-1]
        if isinstance(container, list):
            container.append(value)
        else:
            container[self._path[-1]] = value

    def _nest(self, container: dict[str, Any] | list[Any], at: int) -> int:
        if len(self._open) == MAX_DEPTH:
            self._is_too_deep = True
            self._mode = self._nothing
            return at
        self._put(container)
        self._open.append(container)
        self._path.append(0 if isinstance(container, list) else "")
        self._has_comma = False
        self._mode = self._value if isinstance(container, list) else self._name
        return at + 1

    def _close(self, at: int) -> int:
        if self._has_comma:
            self._repairs.add("comma")
        self._open.pop()
        self._path.pop()
        self._valued()
        if not self._open:
            self._mode = self._done
        return at + 1

    def _valued(self) -> None:
        """A value is whole: its list goes on to the next index."""
        if self._open and isinstance(self._open[-1], list):
            self._path[-1] += 1
        self._mode = self._after

    # Numbers and words.

    def _in_token(self, chunk: str, at: int) -> int:
        match = _TOKEN.match(chunk, at)
        ends = match.end() if match else at
        self._token += chunk[at:ends][: _MAX_TOKEN_CHARS + 1]
        if len(self._token) > _MAX_TOKEN_CHARS:
            return self._lose(ends)
        if ends < len(chunk):
            try:
                self._put(_datum(self._token))
            except ValueError:
                return self._lose(ends)
            self._last = None
            self._valued()
        return ends

    # Texts.

    def _begin_text(self, quote: str, at: int, *, is_key: bool) -> int:
        self._plain = _PLAIN if quote == '"' else _PLAIN_WIDE
        if quote != '"':
            self._repairs.add("quotes")
        self._text, self._is_key, self._high = [], is_key, 0
        self._mode = self._in_text
        if not is_key:
            self._grown.append(Grown(tuple(self._path), "", is_new=True))
        return at + 1

    def _in_text(self, chunk: str, at: int) -> int:
        match = self._plain.match(chunk, at)
        if match:
            self._take(match.group())
            return match.end()
        letter = chunk[at]
        if letter == "\\":
            self._escape = ""
            self._mode = self._in_escape
        elif letter not in _QUOTES:
            self._repairs.add("newline")
            self._take(letter)
        elif self._is_key:
            self._path[-1] = self._ended_text()
            self._mode = self._colon
        else:
            self._doubt, self._comma = [letter], ""
            self._mode = self._doubtful
        return at + 1

    def _take(self, text: str) -> None:
        if self._high:
            self._high = 0
            text = _LOST + text
        if not text.isascii():
            text = _SURROGATE.sub(_LOST, text)
        self._text.append(text)
        if not self._is_key:
            self._grown.append(Grown(tuple(self._path), text))

    def _ended_text(self) -> str:
        if self._high:
            self._take("")
        return "".join(self._text)

    def _close_text(self) -> None:
        self._put(self._ended_text())
        self._last = tuple(self._path)
        self._grown.append(Grown(self._last, "", is_closed=True))
        self._valued()

    def _doubtful(self, chunk: str, at: int) -> int:
        """A quote was read inside a text: what stands behind it says whether it ends the text."""
        behind = _behind_blanks(chunk, at)
        if behind > at:
            self._doubt.append(chunk[at:behind])
        if behind == len(chunk):
            return behind
        letter = chunk[behind]
        if not self._comma and letter in ",，":
            self._comma = letter
            self._doubt.append(letter)
            return behind + 1
        if self._ends_text(letter):
            self._close_text()
            if self._comma:
                self._after_comma(self._comma)
        else:
            self._repairs.add("quotes")
            self._mode = self._in_text
            self._take("".join(self._doubt))
        return behind

    def _ends_text(self, letter: str) -> bool:
        if not self._comma:
            return letter in "}]:/" or (letter in _QUOTES and len(self._doubt) > 1)
        if isinstance(self._open[-1], list):
            return letter in _BEGINS_VALUE or letter in "]/"
        return letter in _QUOTES or letter in "}/"

    def _in_escape(self, chunk: str, at: int) -> int:
        letter = chunk[at]
        if not self._escape and letter != "u":
            if letter not in _ESCAPED:
                self._repairs.add("escape")
            self._mode = self._in_text
            self._take(_ESCAPED.get(letter, letter))
            return at + 1
        if not _HEX.fullmatch(self._escape + letter):
            self._repairs.add("escape")
            self._mode = self._in_text
            self._take(_LOST)
            return at
        self._escape += letter
        if len(self._escape) == _HEX_CHARS:
            self._mode = self._in_text
            self._take_code(int(self._escape[1:], 16))
        return at + 1

    def _take_code(self, code: int) -> None:
        if _LOW <= code < _BEHIND and self._high:
            code = 0x10000 + ((self._high - _HIGH) << 10) + (code - _LOW)
            self._high = 0
        if _HIGH <= code < _LOW:
            if self._high:
                self._take("")
            self._high = code
        else:
            self._take(chr(code))


def _behind_blanks(chunk: str, at: int) -> int:
    match = _BLANK.match(chunk, at)
    return match.end() if match else at


def _datum(token: str) -> Any:
    """A number, true, false or null. Raises ValueError for anything else."""
    if token in _NAMED:
        return _NAMED[token]
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise ValueError(token)
    if not match["real"]:
        return int(token)
    number = float(token)
    if not math.isfinite(number):
        raise ValueError(token)
    return number
