"""Values that YAML cuts where a designer didn't mean it to, and the entry quoted right.

`guard: !x`, `guard: "a" in b`, `hp: a ? b : c`, `{bag: add(bag, key)}`, `door == "No #3"`: natural to
write, and read as something else. Here is how each is told from other errors, and mended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from msgspec import Struct

MESSAGES = {
    "E010": "YAML reads a leading '!' as a tag. Quote the {what}: {entry}",
    "E011": "YAML ends the value at its second quote mark. Quote the whole: {entry}",
    "E012": "YAML reads the ':' of '? :' as a key's. Quote the {what}: {entry}",
    "E013": "YAML ends a value inside {{}} at a comma or bracket. Quote the whole: {entry}",
    "E014": "YAML begins a comment at ' #'. Quote the whole: {entry}",
    "E015": "YAML reads ': ' inside a text as a key and its value. Quote the text: {entry}",
    "W014": "YAML begins a comment at ' #', so this text ends before it. Quote the whole: {entry}. "
    "Is it a comment? Write '# ' with a space",
}
"""What each cut is called; `entry` is the key with its value quoted right, `what` a text or an expression."""

_NEXT_KEY = re.compile(r"\s*[\w.\-]+\s*:(\s|$)")
_KEY_BEFORE = re.compile(r"""([\w.\-]+)["']?\s*:\s*$""")
_HASH_WORD = re.compile(r"[ \t]+#\w")
_CLOSES = re.compile(r"[}\]]|,\s*[\w.\-]+\s*:\s")


class Mend(Struct, frozen=True):
    """A value that was quoted in memory: its line and column from 0, its length before and after."""

    line: int
    column: int
    before: int
    after: int


class Scalar(Struct, frozen=True):
    """The last value that was read before an error: its text, its quote mark ('' for none) and what follows it."""

    text: str
    quote: str
    tail: str
    is_on_line: bool


def mended(
    source: str, line: int, column: int, *, in_flow: bool, has_comment: bool = True, is_text: bool = False
) -> tuple[str, str, Mend]:
    """A line with the value at `column` quoted, the entry as it should be written, and what was done.

    Without `has_comment` a ` #` is a part of the value. A text that is in quotes as a whole gets others.
    """
    raw = whole(source[column:], in_flow=in_flow, has_comment=has_comment)
    is_quoted = is_text and len(raw) > len("''") and raw[0] == raw[-1] and raw[0] in "\"'"
    quoted = in_quotes(raw[1:-1] if is_quoted else raw)
    key = _KEY_BEFORE.search(source[:column])
    entry = f"{key.group(1)}: {quoted}" if key else quoted
    return source[:column] + quoted + source[column + len(raw) :], entry, Mend(line, column, len(raw), len(quoted))


def original(mends: Iterable[Mend], line: int, column: int) -> int:
    """The column, from 0, at which something in the mended text stands in the file."""
    for mend in reversed(list(mends)):
        if mend.line == line and column >= mend.column + mend.after:
            column -= mend.after - mend.before
        elif mend.line == line and column > mend.column:
            column -= 1
    return column


def code_of(raw: str, before: Scalar, *, in_flow: bool) -> str | None:
    """Why the value before an error is only a part of what was meant (`raw`); None where it isn't."""
    tail = before.tail
    if before.quote:
        return "E011" if tail[:1] not in {"", ",", "}", "]", ":", "#"} else None
    if tail.startswith("#") and unbalanced(before.text):
        return "E014"
    if not before.is_on_line:
        return None
    if tail.startswith(":"):
        return "E012" if " ?" in raw else "E015"
    return "E013" if in_flow and tail[:1] in {"[", "{"} else None


def unbalanced(text: str) -> bool:
    """Whether a quote or bracket is left open."""
    return _scan(text, lambda *_: False) is None


def goes_on(tail: str, *, in_flow: bool) -> str | None:
    """The code of a plain text that a ` #` may have cut, from what follows it: `Room #4`, and no `# comment`.

    Inside {} it is certain where the comment took a bracket or the next key with it.
    """
    if not _HASH_WORD.match(tail):
        return None
    return "E014" if in_flow and _CLOSES.search(tail) else "W014"


def whole(rest: str, *, in_flow: bool, has_comment: bool = True) -> str:
    """The value that was meant, from its start to where its entry ends on the line."""

    def ends(at: int) -> bool:
        if has_comment and rest[at] == "#" and rest[at - 1 : at] in {" ", "\t"}:
            return True
        return in_flow and (rest[at] in "}]" or (rest[at] == "," and _NEXT_KEY.match(rest, at + 1) is not None))

    end = _scan(rest, ends)
    return (rest if end is None else rest[:end]).rstrip()


def _scan(text: str, ends: Callable[[int], bool]) -> int | None:
    """The first place outside quotes and brackets where `ends` holds, else the length.

    None where a quote or bracket is still open at the end. An apostrophe in a word is no quote.
    """
    closing: list[str] = []
    for at, char in enumerate(text):
        if closing and closing[-1] in "\"'":
            closing = closing[:-1] if char == closing[-1] else closing
        elif not closing and ends(at):
            return at
        elif char == '"' or (char == "'" and not text[at - 1 : at].isalnum()):
            closing.append(char)
        elif char in "([{":
            closing.append({"(": ")", "[": "]", "{": "}"}[char])
        elif closing and char == closing[-1]:
            closing.pop()
    return None if closing else len(text)


def in_quotes(raw: str) -> str:
    """A value in the quote marks that need the fewest changes."""
    if "'" not in raw:
        return f"'{raw}'"
    if '"' not in raw and "\\" not in raw:
        return f'"{raw}"'
    return "'" + raw.replace("'", "''") + "'"
