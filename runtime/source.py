"""Where things stand in a template's text.

Jinja knows lines and no columns: the column is that of the word at fault, looked up in the line's
code, so that the same word in the text around it isn't taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

ROLE_LINE = re.compile(r"^(system|user|assistant):[ \t]*$", re.MULTILINE)
"""A line that begins a message."""
CODES: Mapping[str, str] = {
    "E420": "A template's syntax is broken, or it is nested too deep or too long.",
    "E421": "A template holds a construct that prompts don't have (macro, import, call, block, a nested list …).",
    "E422": "A template uses a filter or test that isn't on the list.",
    "E423": "A template uses an operator that could make huge texts (`**`, `%`, `*` on texts, `+` on lists).",
    "E424": "A template reads a name or attribute that begins with `_`, or one of Jinja's own names.",
    "E425": "Loops are nested deeper than two.",
    "E426": "An include doesn't exist, or its name is not a plain text.",
    "E427": "Includes go round in a circle, or there are too many.",
    "W420": "An include has a role line, which is plain text there.",
}
"""The codes of faults and warnings in templates."""

TAG = re.compile(r"\{#.*?(?:#\}|\Z)|\{%.*?(?:%\}|\Z)|\{\{.*?(?:\}\}|\Z)", re.DOTALL)
"""A comment, a statement or a value in a template."""
QUOTED = re.compile(r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"")
"""A text in a template's code."""
_VISIBLE = re.compile(r"[^\n]")


class Flaw(Struct, frozen=True, order=True):
    """A fault or warning at a place in a template's file; lines and columns count from 1."""

    file: str
    line: int
    col: int
    code: str
    message: str


class Read(Struct, frozen=True):
    """A key that a template reads of an input: `option.text` is the key `text` of `option`.

    `is_sure` is false where the template asks first whether the key is there. `include` is the
    path of the include that it stands in, '' for the template itself; `line` and `col` count from 1 there.
    """

    name: str
    key: str
    is_sure: bool
    include: str
    line: int
    col: int


class Source(Struct, frozen=True):
    """A template's text and where it stands: its first line's number in the file."""

    file: str
    text: str
    line: int = 1


class Places:
    """Finds the places of words in one source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.code = _code_of(source.text)

    def flaw(self, lineno: int, word: str, code: str, message: str) -> Flaw:
        """A flaw at a word in a line of the text, from 1; at the line's first code where the word isn't there."""
        row = self.code[lineno - 1] if 0 < lineno <= len(self.code) else ""
        found = (word and _pattern(word).search(row)) or re.search(r"\w", row) or re.search(r"\S", row)
        col = found.start() + 1 if found else 1
        return Flaw(self.source.file, self.source.line + lineno - 1, col, code, message)

    def first(self, word: str, code: str, message: str) -> Flaw:
        """A flaw at the first place where the code has a word; in the first line where it has none."""
        return self.flaw(self._line_of(word) or 1, word, code, message)

    def has(self, word: str) -> bool:
        """Whether the code has a word."""
        return self._line_of(word) > 0

    def _line_of(self, word: str) -> int:
        pattern = _pattern(word)
        return next((number for number, row in enumerate(self.code, 1) if pattern.search(row)), 0)


def _pattern(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)" if word.isidentifier() else re.escape(word))


def _blank(text: str) -> str:
    return _VISIBLE.sub(" ", text)


def _code_of(text: str) -> list[str]:
    """The text's lines with all but the code blanked."""
    code, end = "", 0
    for tag in TAG.finditer(text):
        is_comment = tag.group().startswith("{#")
        body = tag.group() if is_comment else QUOTED.sub(lambda quoted: _blank(quoted.group()), tag.group())
        code += _blank(text[end : tag.start()]) + (_blank(body) if is_comment else body)
        end = tag.end()
    return (code + _blank(text[end:])).split("\n")
