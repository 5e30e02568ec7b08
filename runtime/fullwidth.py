"""Chinese punctuation where YAML wants its own: `label：…`, `{zh: 后厨，en: …}`, `[ash、shoe]`, `｛…｝`.

Such a mark is told where it can be nothing else, and mended in memory, so that the rest is still checked.
Texts in quotes, texts of several lines and comments are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from runtime.cuts import Mend, original

MAX_MARKS = 100
"""How many marks of one file are mended and reported."""
KEYS = frozenset(
    [
        "machine",
        "version",
        "title",
        "language",
        "initial",
        "limits",
        "slots",
        "context",
        "ai_state",
        "events",
        "history",
        "migrations",
        "fallback",
        "properties",
        "never",
        "always",
        "eventually",
        "within",
        "on_failure",
        "on",
        "states",
        "event",
        "target",
        "dice",
        "assign",
        "tell",
        "prompt",
        "learn",
        "turns",
        "seconds",
        "scene_chars",
        "option_chars",
        "memory_tokens",
        "type",
        "default",
        "min",
        "max",
        "of",
        "label",
        "show",
        "secret",
        "payload",
        "role",
        "rewind",
        "narrate",
        "checkpoint",
        "entry",
        "options",
        "ending",
        "key",
        "text",
        "short",
        "guard",
        "why",
        "once",
        "suggest",
        "must",
        "name",
        "edges",
        "free",
        "kinds",
        "pick",
        "roll",
        "from",
        "otherwise",
        "at_least",
        "at_most",
        "good",
        "scene",
        "words",
        "at",
        "when",
        "say",
        "description",
        "inputs",
        "outputs",
        "model",
    ]
)
"""Keys that a line may begin with."""

_NAMES = {
    "：": ("colon", "': '"),
    "，": ("comma", "', '"),
    "、": ("comma", "', '"),
    "｛": ("brace", "'{'"),
    "［": ("bracket", "'['"),
    "“": ("quote mark", "'\"'"),
    "\u3000": ("space", "two spaces"),
}
_ASCII = {
    "：": ":",
    "，": ",",
    "、": ",",
    "｛": "{",
    "｝": "}",
    "［": "[",
    "］": "]",
    "“": '"',
    "”": '"',
    "\u3000": "  ",
}
_ANY = re.compile(
    "[：，、｛［“\u3000\u00a0]|^ *(?:- +)*[a-z_]+:[^ ]|^ *-[a-z_]+:|[{,] *[a-z_]+:[^ ]|^ *-[\u2e80-\uffff]",
    re.MULTILINE,
)
_HIDDEN = "\x7f"

_NO_SPACE = re.compile(r"^ *(?:- +)*([a-z_]+)(:)(?=[^ \t])", re.ASCII)
_NO_SPACE_IN_FLOW = re.compile(r"[{,] *([a-z_]+)(:)(?=[^ \t])", re.ASCII)
_NO_SPACE_IN_LIST = re.compile(r"^ *(-)([a-z_]+): ", re.ASCII)
_ITEM = re.compile(r"( *)(-)(?: |(?=[\u2e80-\uffff]))")
_BLOCK_KEY = re.compile(r"^[ \u3000]*(?:- +)*([A-Za-z]\w*) *(：)(.*)$", re.ASCII)
_VALUE = re.compile(r" *([{\[｛［].*|[A-Za-z]\w*)? *$", re.ASCII)
_FLOW_KEY = re.compile(r"[{,，] *[\"']?[A-Za-z]\w*[\"']? *(：)", re.ASCII)
_FLOW_COMMA = re.compile(r"(，)(?= *[A-Za-z]\w* *(?:：|:(?:[ {\[\"']|$)))", re.ASCII)
_LIST_COMMA = re.compile(r"(?<=[\[,、，]) *[A-Za-z]\w* *([、，])(?= *[A-Za-z]\w* *[、，,\]])", re.ASCII)
_BRACE = re.compile(r"[:：] *(｛)(?= *[A-Za-z]\w* *[:：][^｛]*(?:｝|$))", re.ASCII)
_BRACKET = re.compile(r"\b(?:of|inputs|options|edges|pick|forbidden_terms|G|PG|PG13|R) *[:：] *(［)")
_QUOTES = re.compile(
    r"\b(?:machine|language|initial|type|target|prompt|event|key|name|guard|when|from|never|always|eventually)"
    r" *[:：] *(“)[^“”\"]*”"
)
_INDENT = re.compile(r"^ *(\u3000)[ \u3000]*(?:- |[A-Za-z]\w* *[:：](?: |$|[^ -~]))", re.ASCII)
_CLOSING = {"｛": "｝", "［": "］", "“": "”"}
_BLOCK_SCALAR = re.compile(r"(?:^|[:：\-] +)[|>][+\-\d]*\s*(?:#.*)?$")


class Mark(Struct, frozen=True):
    """A full-width mark: its line and column from 0 as the file has it, and the sentence."""

    line: int
    column: int
    message: str
    code: str = "E016"


def mended(text: str) -> tuple[str, list[Mend], list[Mark]]:
    """A text with its full-width syntax written as YAML's, what was done, and what to tell."""
    mends: list[Mend] = []
    marks: list[Mark] = []
    if not _ANY.search(text):
        return text, mends, marks
    lines = text.split("\n")
    while len(marks) < MAX_MARKS and (found := sorted(set(_found(lines)), reverse=True)):
        for line, column, is_told in found:
            char = lines[line][column]
            if char in ":-":
                is_odd = lines[line][column + 1] == "\u00a0"
                found_there = "a no-break space" if is_odd else "none"
                message = f"YAML wants a space after '{char}', and {found_there} stands here"
                marks.append(Mark(line, original(mends, line, column), message, "E017"))
                cut = column + 1 + is_odd
                lines[line] = f"{lines[line][: column + 1]} {lines[line][cut:]}"
                mends.append(Mend(line, column, 1 + is_odd, 2))
                continue
            if is_told:
                name, wanted = _NAMES[char]
                message = f"'{char}' is a full-width {name}; YAML wants {wanted} here"
                marks.append(Mark(line, original(mends, line, column), message))
            after = _ASCII[char] + (" " if char in "：，、" and lines[line][column + 1 : column + 2] != " " else "")
            lines[line] = lines[line][:column] + after + lines[line][column + 1 :]
            mends.append(Mend(line, column, 1, len(after)))
    return "\n".join(lines), mends, sorted(marks, key=lambda mark: (mark.line, mark.column))


def _found(lines: list[str]) -> Iterator[tuple[int, int, bool]]:
    """The marks that are syntax: line, column, and whether to tell it (a closing one goes with its opening one)."""
    indent = -1
    for number, (line, around) in enumerate(_seen(lines)):
        item = _ITEM.match(line)
        if item and around[item.start(2)] == " ":
            # Beside an item, at its very indent, nothing but another item can stand.
            if line[item.end() - 1] == "-" and item.start(2) == indent:
                yield number, item.start(2), True
            elif line[item.end() - 1] != "-":
                indent = item.start(2)
        elif line.strip() and line[: indent + 1].strip():
            indent = -1
        if _ANY.search(line):
            yield from ((number, column, is_told) for column, is_told in _in_line(line, around))
            yield from ((number, column, True) for column in _spaces(line, around))


def _in_line(line: str, around: str) -> Iterator[tuple[int, bool]]:
    for match in _INDENT.finditer(line):
        spaces = [at for at in range(len(line) - len(line.lstrip(" \u3000"))) if line[at] == "\u3000"]
        yield from ((at, at == match.start(1)) for at in spaces)
    key = _BLOCK_KEY.match(line)
    if key and around[key.start(2)] == " " and _is_key(key[1], key[3]):
        yield key.start(2), True
    for pattern, place in ((_FLOW_KEY, "{"), (_FLOW_COMMA, "{"), (_LIST_COMMA, "[")):
        for match in pattern.finditer(line):
            if around[match.start(1)] == place:
                yield match.start(1), True
    for pattern in (_BRACE, _BRACKET, _QUOTES):
        for match in pattern.finditer(line):
            yield match.start(1), True
            end = line.find(_CLOSING[match[1]], match.start(1))
            if end >= 0:
                yield end, False


def _spaces(line: str, around: str) -> Iterator[int]:
    """Where a space is missing behind a key's colon or an item's dash."""
    for match in (*_NO_SPACE.finditer(line), *_NO_SPACE_IN_FLOW.finditer(line)):
        place = "{" if match.re is _NO_SPACE_IN_FLOW else " "
        if around[match.start(2)] == place and (match[1] in KEYS or len(match[1]) == len("zh")):
            yield match.start(2)
    item = _NO_SPACE_IN_LIST.match(line)
    if item and around[item.start(1)] == " " and item[2] in KEYS:
        yield item.start(1)


def _is_key(word: str, rest: str) -> bool:
    return word in KEYS or (len(word) == len("zh") and word.islower()) or _VALUE.match(rest) is not None


def _seen(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each line with its quoted texts and comments hidden, and the bracket that stands around each character."""
    stack: list[str] = []
    quote, block = "", -1
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if block >= 0 and (not line.strip() or indent > block):
            yield _HIDDEN * len(line), " " * len(line)
            continue
        block = -1
        shown, around, quote = _line(line, stack, quote)
        if not stack and not quote and _BLOCK_SCALAR.search(shown):
            item = re.match(r" *(?:- +)*(?=\w+ *[:：])", line)
            block = item.end() if item else indent
        yield shown, around


def _line(line: str, stack: list[str], quote: str) -> tuple[str, str, str]:
    shown, around = "", ""
    is_start = True
    for at, char in enumerate(line):
        around += stack[-1] if stack else " "
        if quote:
            is_escaped = quote == '"' and (len(line[:at]) - len(line[:at].rstrip("\\"))) % 2 == 1
            shown += _HIDDEN if char != quote or is_escaped else char
            quote = "" if char == quote and not is_escaped else quote
            is_start = False
            continue
        if char == "#" and line[at - 1 : at] in {"", " ", "\t"}:
            rest = len(line) - at
            return shown + _HIDDEN * rest, around + " " * (rest - 1), quote
        shown += char
        if char in "\"'" and is_start:
            quote = char
        elif char in "{[" and (is_start or stack):
            stack.append(char)
        elif char in "}]" and stack:
            stack.pop()
        is_start = _starts(line, at, is_start=is_start, in_flow=bool(stack))
    return shown, around, quote


def _starts(line: str, at: int, *, is_start: bool, in_flow: bool) -> bool:
    """Whether a value may begin behind a character."""
    char = line[at]
    if char in " \t\u3000":
        return is_start
    if char == "：" or (char in ":-" and line[at + 1 : at + 2] in {"", " "}):
        return char != "-" or is_start
    return in_flow and char in ",{["
