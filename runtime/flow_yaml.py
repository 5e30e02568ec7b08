"""Values as YAML that our own reader reads back unchanged: flow style, and quotes wherever a word could be more.

A text of several lines may stand as a block, so that it can be read, and compared line by line.
Source: yaml.org/spec/1.2.2, chapters 5.7 (escapes in double quotes: JSON's, and more), 7.4 (flow style)
and 8.1 (block scalars).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that some reader of YAML takes for more than a word."""
_UNSAFE = re.compile("[\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]")
"""What JSON leaves as it is, and YAML may not hold, or a reader would not see."""
_NO_BLOCK = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""What a block can't hold as it is, or what would change how its lines are read."""
_LONGEST_KEY = 1000
"""A key of more than 1024 characters needs a mark before it."""


def flow(value: Any) -> str:
    """A JSON value in a line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)}: {flow(part)}" for name, part in value.items()) + "}"
    if isinstance(value, str):
        return word(value)
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(flow, value)) + "]"
    return json.dumps(value)


def word(text: str) -> str:
    """A string, quoted unless it is a plain word."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_WORDS:
        return text
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _key(name: str) -> str:
    written = word(name)
    return written if len(written) < _LONGEST_KEY else f"? {written} "


def block(text: str, indent: int) -> str:
    """What stands behind `key: ` for a text: its lines as a literal block, `indent` spaces in; flow where it can't.

    The key must stand two columns before the lines.
    """
    if "\n" not in text or not text.strip() or _NO_BLOCK.search(text):
        return word(text)
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    # An indent that begins with a blank can't be told from the first line.
    marks = ("2" if body[0] in " \n" else "") + {0: "-", 1: ""}.get(ends, "+")
    lines = [f"{' ' * indent}{line}" if line else "" for line in body.split("\n")]
    return "\n".join([f"|{marks}", *lines, *[""] * (ends - 1)])
