"""Any text as Markdown that shows it as it is, whoever wrote it."""

from __future__ import annotations

import re

from server.play.wrapping import plain

_MARKS = re.compile(r"([\\`*_\[\]<>|~&$])")
_LINK = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_LINE_START = re.compile(r"^[ ]{0,3}(?:([#+=-])|(\d{1,9})([.)]))(?=[\s#+=-]|$)", re.MULTILINE)
_INDENT = re.compile(r"^[ \u3000]+", re.MULTILINE)


def escaped(text: str) -> str:
    """The text with a backslash before whatever Markdown, or GitHub's, would take for more than a character."""
    marked = _LINK.sub(r"\\\g<0>", _MARKS.sub(r"\\\1", plain(text)))
    return _LINE_START.sub(lambda found: f"{found[2] or ''}\\{found[1] or found[3]}", _INDENT.sub("", marked))


def quoted(text: str) -> str:
    """Escaped text as a block quote."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
