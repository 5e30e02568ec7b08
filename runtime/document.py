"""A YAML file as plain values, each with its place: the only door to PyYAML.

YAML 1.2's core types, read from the parser's events, so that what a machine must not hold
(anchors, tags, duplicate keys, nulls) is seen and reported with its place, and nesting is
bounded before anything recursive sees it. A value that YAML has cut in a known way (`!x`,
`"a" in b`, `a ? b : c`, `f(a, b)` inside {}, ` #`) is reported with the entry quoted right,
quoted in memory, and read again, so that the rest of the file is still checked.

Source: yaml.org/spec/1.2.2, chapter 10.3 (core schema).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, structs
from yaml import CSafeLoader, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.reader import ReaderError

from runtime import cuts, fullwidth
from runtime.errors import Finding
from runtime.model import LANGUAGE_PATTERN, Path
from runtime.places import Places

MAX_BYTES = 1024 * 1024
"""The largest file, in bytes of UTF-8."""
MAX_DEPTH = 64
"""The deepest nesting of mappings and lists."""
MAX_MENDS = 200
"""How many cut values of one file are mended and reported before the reading stops."""

EXPRESSION_KEYS = frozenset({"guard", "when", "from", "otherwise", "at_least", "at_most"})
"""Keys whose value is an expression."""
PROPERTY_KEYS = frozenset({"never", "always", "eventually", "when"})
"""Keys of a property whose value is an expression."""
EXPRESSION_MAPS = frozenset({"assign", "entry", "ai_state"})
"""Keys whose values are expressions, one per name."""
TEXT_KEYS = frozenset({"title", "text", "short", "label", "tell", "why"})
"""Keys whose value is a text for players, or a map of texts by language."""
TEXT_MAPS = frozenset({"say", "kinds", "words", "slots"})
"""Keys under which every value is a text."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
SPLIT = "Split the machine"
"""What is done about a file of a machine that is too long."""
_GONE: Any = object()
_NAMED = 2
"""How long the path of a part with a name is: its section, its name."""
Event = Any
"""PyYAML's events; its stubs leave every mark optional, which its parser does not."""

_MENDS = {
    "tab": "Indent with spaces",
    "expected key": "Is this line indented like its neighbours?",
    "expected ',' or": "Is a bracket left open, or a quote or comma missing before this?",
    "mapping values": "Is the line above indented less, and its text in quotes?",
    "block end": "Is this line indented like its neighbours?",
    "'-' indicator": "Is this line indented like its neighbours?",
    "cannot start any token": "Put the text in quotes",
    "end of stream": "Is a quote mark left open above?",
    "escape": "Inside double quotes a backslash is written twice; single quotes take it as it stands",
}


class Document(Struct, frozen=True):
    """A file that was read: `value` is None where nothing could be read.

    `gone` has the paths of parts that are reported and left out of `value`.
    """

    file: str
    value: Any
    places: Places
    findings: tuple[Finding, ...]
    gone: frozenset[Path]


def read(
    file: str,
    text: str,
    *,
    first_line: int = 1,
    may_be_null: Callable[[Path], bool] = lambda _: False,
    shorten: str = SPLIT,
) -> Document:
    """Read one YAML document whose root is a mapping; every fault is in `findings`.

    `first_line` is the line of the file at which `text` begins (for a prompt's front matter). `shorten`
    says what is done about one that is too long.
    """
    text = text.removeprefix("\ufeff")
    if fault := _unreadable(file, text, first_line, shorten):
        return Document(file, None, Places({}, {}, {}), (fault,), frozenset())
    text, mends, marks = fullwidth.mended(text)
    findings = [Finding(file, mark.line + first_line, mark.column + 1, mark.code, mark.message) for mark in marks]
    quoted: list[cuts.Mend] = []
    while len(mends) < MAX_MENDS:
        reader = _Reader(file, text, first_line, may_be_null, tuple(mends))
        try:
            value = reader.document()
        except _Cut as cut:
            # Told already; and quotes in quotes would double from mend to mend.
            if any(_begins_in(cut.mend, each) for each in quoted):
                break
            findings.append(cut.finding)
            text = cut.mended
            quoted.append(cut.mend)
            mends.append(cut.mend)
            continue
        except _Unreadable as stop:
            value = None
            findings.append(stop.finding)
        return Document(file, value, reader.places, (*findings, *reader.findings), frozenset(reader.gone))
    return Document(file, None, Places({}, {}, {}), tuple(findings), frozenset())


def _begins_in(mend: cuts.Mend, around: cuts.Mend) -> bool:
    """Whether a value to be quoted begins inside one that was quoted before."""
    return mend.line == around.line and around.column <= mend.column < around.column + around.after


def too_large(file: str, size: int, shorten: str = SPLIT) -> Finding | None:
    """The fault of a file of more than MAX_BYTES bytes."""
    if size <= MAX_BYTES:
        return None
    return Finding(file, 1, 1, "E002", f"the file has {size:,} bytes; {MAX_BYTES:,} are allowed. {shorten}")


def _unreadable(file: str, text: str, first_line: int, shorten: str) -> Finding | None:
    found = _UNREADABLE.search(text)
    if found is None:
        return too_large(file, len(text.encode(errors="surrogatepass")), shorten)
    before = _LINE_END.split(text[: found.start()])
    message = f"the character U+{ord(found.group()):04X} can't stand in a text file. Delete it"
    return Finding(file, first_line + len(before) - 1, len(before[-1]) + 1, "E002", message)


class _Unreadable(Exception):
    """The file can't be read any further."""

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.finding = finding


class _Cut(Exception):
    """A value that YAML has cut: `mended` is the whole text with the value quoted."""

    def __init__(self, finding: Finding, mended: str, mend: cuts.Mend) -> None:
        super().__init__()
        self.finding = finding
        self.mended = mended
        self.mend = mend


class _Reader:
    """Reads the parser's events once."""

    def __init__(
        self, file: str, text: str, first_line: int, may_be_null: Callable[[Path], bool], mends: tuple[cuts.Mend, ...]
    ) -> None:
        self.places = Places({}, {}, {}, tuple(structs.replace(mend, line=mend.line + first_line) for mend in mends))
        self._mends = mends
        self.findings: list[Finding] = []
        self.gone: set[Path] = set()
        self._file = file
        self._text = text
        self._lines = _LINE_END.split(text)
        self._first_line = first_line
        self._may_be_null = may_be_null
        self._parser = CSafeLoader(text)
        self._flow: list[bool] = []
        self._scalar_before: Event = None
        self._here: Path = ()

    def document(self) -> Any:
        """The root mapping. Raises _Cut and _Unreadable."""
        event = self._next()
        while not isinstance(event, DocumentStartEvent | StreamEndEvent):
            event = self._next()
        if isinstance(event, StreamEndEvent):
            raise self._stop(0, 0, "E007", "the file is empty. A file holds one mapping of keys to values")
        root = self._next()
        if not isinstance(root, MappingStartEvent):
            raise self._stop_at(root, "E007", "a file holds one mapping: begin with `key: value`")
        self.places.keys[()] = self.places.values[()] = self._place(root)
        value = self._mapping(root, ())
        self._end()
        return value

    def _end(self) -> None:
        self._next()
        event = self._next()
        if isinstance(event, DocumentStartEvent):
            self._fault(event, "E007", "a second document begins here. A file holds one: delete `---` and what follows")

    def _next(self) -> Event:
        try:
            return self._parser.get_event()
        except ReaderError as error:
            raise self._stop(0, 0, "E002", f"the file can't be read: {error.reason}") from None
        except YAMLError as error:
            raise self._syntax(error) from None

    def _node(self, event: Event, path: Path) -> Any:
        self.places.values[path] = self._place(event)
        if isinstance(event, NodeEvent) and event.anchor:
            self._fault(
                event, "E005", "anchors and aliases (& and *) are not part of the language. Write the value out"
            )
        if isinstance(event, AliasEvent):
            return self._drop(path)
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if event.tag:
            self._fault(event, "E006", f"tags are not part of the language. Delete '{_tag(event)}'")
        return self._mapping(event, path) if isinstance(event, MappingStartEvent) else self._sequence(event, path)

    def _deeper(self, event: Event) -> None:
        self._flow.append(bool(event.flow_style))
        if len(self._flow) > MAX_DEPTH:
            raise self._stop_at(event, "E002", f"nested more than {MAX_DEPTH} levels deep. Write it flatter")

    def _sequence(self, start: Event, path: Path) -> list[Any]:
        self._deeper(start)
        items: list[Any] = []
        self._here = (*path, 0)
        while not isinstance(event := self._next(), SequenceEndEvent):
            here = self._here = (*path, len(items))
            self.places.keys[here] = self._place(event)
            item = self._node(event, here)
            if item is not _GONE:
                items.append(item)
        self._flow.pop()
        return items

    def _mapping(self, start: Event, path: Path) -> dict[str, Any]:
        self._deeper(start)
        entries: dict[str, Any] = {}
        previous: Event | None = None
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(event, path, entries)
            self._here = (*path, key or "")
            value = self._next()
            if start.flow_style and _has_no_colon(event, value) and _is_plain(previous):
                raise self._cut(previous, "E013")
            self._entry(entries, key, event, value, path)
            previous = value
        self._flow.pop()
        return {key: value for key, value in entries.items() if value is not _GONE}

    def _entry(self, entries: dict[str, Any], key: str | None, event: Event, value: Event, path: Path) -> None:
        if key is None or key in entries:
            self._skip(value)
            return
        self.places.keys[*path, key] = self._place(event)
        entries[key] = self._node(value, (*path, key))

    def _key(self, event: Event, path: Path, entries: dict[str, Any]) -> str | None:
        """The key as text, or None where it can't be one (and is reported)."""
        if not isinstance(event, ScalarEvent):
            self._fault(event, "E007", "a key is a plain word. Write `key: value`")
            self._skip(event)
            return None
        key: str = event.value
        if event.anchor or event.tag:
            self._fault(event, "E006", f"tags and anchors are not part of the language. Write '{key}' alone")
        if key == "<<" and not event.style:
            self._fault(event, "E005", "merge keys (<<) are not part of the language. Write the keys out")
            return None
        if key in entries:
            line, _ = self.places.keys[*path, key]
            self._fault(event, "E004", f"'{key}' stands here a second time; the first is in line {line}. Delete one")
        return key

    def _skip(self, event: Event) -> None:
        depth = 0
        while True:
            depth += isinstance(event, MappingStartEvent | SequenceStartEvent)
            depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
            if depth <= 0:
                return
            if depth + len(self._flow) > MAX_DEPTH:
                self._deeper(event)
            event = self._next()

    def _scalar(self, event: Event, path: Path) -> Any:
        self._scalar_before = event
        if event.tag:
            return self._tagged(event, path)
        if event.start_mark.line == event.end_mark.line:
            self.places.written[path] = self._line(event.start_mark)[event.start_mark.column : event.end_mark.column]
        if event.style or not event.implicit[0]:
            return self._string(event, path)
        if is_expression(path) and cuts.unbalanced(event.value) and self._comment_follows(event):
            raise self._cut(event, "E014")
        if _is_text(path):
            self._hashed(event)
        return self._plain(event, path)

    def _hashed(self, event: Event) -> None:
        """Tell a text that goes on behind ` #`."""
        line, column = event.start_mark.line, event.start_mark.column
        code = cuts.goes_on(self._line(event.end_mark)[event.end_mark.column :], in_flow=self._in_flow)
        if code == "E014":
            raise self._cut_at(line, column, code, in_flow=True, has_comment=False)
        if code:
            _, entry, _ = cuts.mended(self._lines[line], line, column, in_flow=self._in_flow, has_comment=False)
            self._fault(event, code, cuts.MESSAGES[code].format(entry=entry))

    def _tagged(self, event: Event, path: Path) -> Any:
        if is_expression(path) and self._line(event.start_mark)[event.start_mark.column :].startswith("!"):
            raise self._cut(event, "E010")
        self._fault(event, "E006", f"tags are not part of the language. Delete '{_tag(event)}', or quote the text")
        return self._drop(path)

    def _string(self, event: Event, path: Path) -> Any:
        if "\0" not in event.value:
            return event.value
        self._fault(event, "E009", "a text can't hold the character U+0000. Delete the escape")
        return self._drop(path)

    def _plain(self, event: Event, path: Path) -> Any:
        text: str = event.value
        if text in _NULL:
            return self._null(path)
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text) and len(text) <= MAX_DEPTH:
            return int(text, 10 if text[:2] not in {"0o", "0x"} else 0)
        if _FLOAT.fullmatch(text) and len(text) <= MAX_DEPTH:
            return self._finite(event, path)
        if _NOT_FINITE.fullmatch(text):
            return self._not_finite(event, path)
        return text

    def _finite(self, event: Event, path: Path) -> Any:
        number = float(event.value)
        return number if abs(number) != float("inf") else self._not_finite(event, path)

    def _not_finite(self, event: Event, path: Path) -> Any:
        self._fault(event, "E009", f"{event.value} is no finite number. Write one, or quote it if it is a text")
        return self._drop(path)

    def _null(self, path: Path) -> Any:
        if self._may_be_null(path):
            return None
        name = f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this item"
        line, col = self.places.key(path)
        self.findings.append(
            Finding(self._file, line, col, "E008", f"{name} has no value. Give it one, or delete the line")
        )
        return self._drop(path)

    def _drop(self, path: Path) -> Any:
        self.gone.add(path)
        return _GONE

    def _place(self, event: Event) -> tuple[int, int]:
        """Where an event stands in the text as it was mended."""
        return event.start_mark.line + self._first_line, event.start_mark.column + 1

    def _written_at(self, line: int, column: int) -> tuple[int, int]:
        """Where something at a mark stands in the file."""
        return line + self._first_line, cuts.original(self._mends, line, column) + 1

    def _line(self, mark: Any) -> str:
        return self._lines[mark.line] if mark.line < len(self._lines) else ""

    def _comment_follows(self, event: Event) -> bool:
        return self._line(event.end_mark)[event.end_mark.column :].lstrip(" \t").startswith("#")

    def _fault(self, event: Event, code: str, message: str) -> None:
        line, col = self._written_at(event.start_mark.line, event.start_mark.column)
        self.findings.append(Finding(self._file, line, col, code, message))

    def _stop_at(self, event: Event, code: str, message: str) -> _Unreadable:
        return self._stop(event.start_mark.line, event.start_mark.column, code, message)

    def _stop(self, line: int, column: int, code: str, message: str) -> _Unreadable:
        return _Unreadable(Finding(self._file, *self._written_at(line, column), code, message))

    def _cut(self, event: Any, code: str) -> _Cut:
        return self._cut_at(event.start_mark.line, event.start_mark.column, code, in_flow=self._in_flow)

    @property
    def _in_flow(self) -> bool:
        return bool(self._flow) and self._flow[-1]

    def _cut_at(self, line: int, column: int, code: str, *, in_flow: bool, has_comment: bool = True) -> _Cut:
        source = self._lines[line]
        in_text = _is_text(self._here)
        written, entry, mend = cuts.mended(
            source, line, column, in_flow=in_flow, has_comment=has_comment, is_text=in_text and code == "E011"
        )
        is_text = in_text or (entry.partition(":")[0] in TEXT_KEYS and not is_expression(self._here))
        message = cuts.MESSAGES[code].format(entry=entry, what="text" if is_text else "expression")
        finding = Finding(self._file, *self._written_at(line, column), code, message)
        return _Cut(finding, "\n".join([*self._lines[:line], written, *self._lines[line + 1 :]]), mend)

    def _syntax(self, error: Any) -> Exception:
        """What a syntax error comes from: a value that YAML has cut, or else the error itself."""
        mark = error.problem_mark or error.context_mark
        for line, column in self._suspects(error, mark):
            code = self._cut_code(line, column, error)
            if code and (line, column) not in {(mend.line, mend.column) for mend in self._mends}:
                return self._cut_at(line, column, code, in_flow=self._in_flow)
        code = "E003" if "\t" in self._line(mark)[: mark.column + 1] else "E001"
        return self._stop(mark.line, mark.column, code, _explained(error, code, self._first_line))

    def _suspects(self, error: Any, mark: Any) -> Iterator[tuple[int, int]]:
        """Where a cut value may begin: at a tag, or at the last scalar that was read."""
        if "tag" in (error.context or ""):
            yield error.context_mark.line, error.context_mark.column
        for found in re.finditer(r"[:\-]\s+(?=!)", self._line(mark)[: mark.column]):
            yield mark.line, found.end()
        before = self._scalar_before
        if before is not None:
            yield before.start_mark.line, before.start_mark.column

    def _cut_code(self, line: int, column: int, error: Any) -> str | None:
        raw = cuts.whole(self._lines[line][column:], in_flow=self._in_flow)
        before = self._scalar_before
        if raw.startswith("!"):
            return "E010"
        if before is None or "indent" in error.problem:
            return None
        tail = self._line(before.end_mark)[before.end_mark.column :].lstrip(" \t")
        is_on_line = before.start_mark.line == error.problem_mark.line
        scalar = cuts.Scalar(before.value, before.style or "", tail, is_on_line)
        return cuts.code_of(raw, scalar, in_flow=self._in_flow)


def _explained(error: Any, code: str, first_line: int) -> str:
    if code == "E003":
        return "a tab stands here. Indent with spaces"
    inside = f", {error.context} that begins in line {error.context_mark.line + first_line}" if error.context else ""
    mend = next((mend for part, mend in _MENDS.items() if part in error.problem), "Is a quote or bracket missing?")
    return f"not YAML: {error.problem}{inside}. {mend}"


def _tag(event: Event) -> str:
    return str(event.tag).replace("tag:yaml.org,2002:", "!!")


def _has_no_colon(key: Event, value: Event) -> bool:
    is_empty = isinstance(value, ScalarEvent) and not value.value and not value.style
    return is_empty and bool(value.start_mark.index == key.end_mark.index == value.end_mark.index)


def _is_plain(event: Event | None) -> bool:
    return isinstance(event, ScalarEvent) and not event.style and bool(event.value)


def is_expression(path: Path) -> bool:
    """Whether an expression stands at a path; the plain values of `migrations` are none."""
    if not path or path[0] == "migrations":
        return False
    if path[0] == "properties":
        return len(path) > _NAMED and path[-1] in PROPERTY_KEYS
    return path[-1] in EXPRESSION_KEYS or (len(path) > 1 and path[-2] in EXPRESSION_MAPS)


def _is_text(path: Path) -> bool:
    """Whether a text for players stands at a path, alone or in one of its languages."""
    if not path or is_expression(path) or "payload" in path:
        return False
    in_language = len(path) > 1 and path[-2] in TEXT_KEYS and re.fullmatch(LANGUAGE_PATTERN, str(path[-1]))
    return path[-1] in TEXT_KEYS or bool(in_language) or not TEXT_MAPS.isdisjoint(path[-3:-1])
