"""What came, written into the `expect` of a replay's file; all else in the file stays as it was written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from runtime.bench.course import Result
from runtime.bench.expecting import Came, in_language, is_found, seen_of, value_at
from runtime.bench.player import CRASH
from runtime.bench.replay import Expect, Text, bare
from runtime.bench.replay_file import read_replays, text_of
from runtime.bench.written import expected_parts
from runtime.document import Document, read
from runtime.errors import MachineFault
from runtime.flow_yaml import flow
from runtime.model import Path

_SCALARS = ("edge", "state", "next", "should_end", "ended", "ending")
_FAULTS = frozenset({MachineFault.code, CRASH})
"""The errors that are nobody's refusal, but a fault of the machine or of Edgewise."""
_BRACKETS = {"{": "}", "[": "]"}
_STRING = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|(?<!\S)#[^\n]*""", re.DOTALL)
"""What brackets stand in without being any: a quoted text, a comment."""


_COMMENT = re.compile(r"""(?<![^\s\[{,:])(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')|(?P<comment>(?<!\S)#[^\n]*)""", re.DOTALL)
"""A quoted text, where one may begin, or a comment."""
_STRANGE_END = re.compile("[\x85\u2028\u2029]")
"""What YAML takes for the end of a line, and editors don't."""


class NotUpdated(Exception):
    """The file can't be made to expect what came; the reason is one sentence."""


def updated(file: str, text: str, play: Callable[..., Result], source: Callable[[str], str] = text_of) -> str:
    """The file's text, expecting what `play` makes of its replays; a known failure stays as it is.

    Raises NotUpdated where it differs in more than its own expectations, or its combinations differ.
    """
    times: Counter[int] = Counter()
    while True:
        replays, faults = read_replays(file, text, source)
        if faults:
            raise NotUpdated(f"it has faults: {faults[0]}")
        failed = next((each for each in map(play, replays) if each.verdict == "failed"), None)
        if failed is None:
            return text
        number, expect = _mend(failed, text)
        times[number] += 1
        if times[number] > len(replays):
            name = failed.difference.field if failed.difference else ""
            raise NotUpdated(f"its combinations differ in `{name}` of step {number + 1}: give each a replay of its own")
        text = _rewritten(file, text, number, expect, source)


def _mend(result: Result, text: str) -> tuple[int, Expect]:
    """Which of the file's own steps is to expect what."""
    found = result.difference
    name = found.field.partition(".")[0] if found is not None else ""
    if found is None or found.step == 0 or name in ("dice", "properties", "prompt", "times", "unchanged"):
        raise NotUpdated(f"no expectation of it differs, but {found.field if found else 'nothing'}")
    own = len(read(result.replay.file, text, may_be_null=lambda _: True).value.get("steps", []))
    number = found.step - 1 - (len(result.replay.steps) - own)
    if number < 0:
        raise NotUpdated("it differs in a step of the replay that it reproduces: update that one")
    came = result.came[found.step - 1]
    if came.error in _FAULTS:
        raise NotUpdated(f"step {number + 1} came to {came.error}, which nobody should expect")
    return number, expect_of(came, came.session.constraints.language if came.session else "")


def expect_of(came: Came, language: str) -> Expect:
    """What a step expects once it expects what came: of the same fields; of a refusal that was not expected, its code.

    A text that held stays as it is; one that didn't becomes what was told. Where nothing of that came,
    or no refusal where one was expected, it expects the edge and the state.
    """
    asked = came.step.expect
    if came.error is not None and asked.error != came.error:
        return Expect(error=came.error)
    seen = seen_of(came)
    told = came.answer["payload"] if came.answer is not None else came.refusal or {}
    meta, context = told.get("meta") or {}, seen.get("context", {})
    expect = Expect(
        **{name: None if getattr(asked, name) is None else seen.get(name) for name in _SCALARS},
        error=came.error,
        context={name: context.get(name, value) for name, value in asked.context.items()},
        allowed=None if asked.allowed is None else tuple(seen.get("allowed", ())),
        options=None if asked.options is None else tuple(seen.get("options", ())),
        texts=dict(_texts(asked, told, language)),
        meta={name: meta.get(name) for name in asked.meta},
    )
    if came.error is None and (asked.error is not None or expect == Expect()):
        return replace(expect, edge=seen.get("edge"), state=seen.get("state"))
    return expect


def _texts(asked: Expect, told: Mapping[str, Any], language: str) -> Iterator[tuple[str, Text]]:
    for path, text in asked.texts.items():
        got = value_at(told, path)
        if isinstance(got, str):
            yield path, _text(text, got, language)


def _text(text: Text, got: str, language: str) -> Text:
    contains = None if text.contains is None else in_language(text.contains, language)
    pattern = None if text.pattern is None else in_language(text.pattern, language)
    if text.contains is not None and (contains is None or contains not in got):
        return Text(contains=_said(text.contains, got, language))
    if text.pattern is not None and (pattern is None or not is_found(pattern, got)):
        return Text(contains=got)
    return text


def _said(words: str | Mapping[str, str], got: str, language: str) -> str | dict[str, str]:
    if isinstance(words, str):
        return got
    base = language.partition("-")[0]
    return {**words, language if language in words or base not in words else base: got}


# The text.


def _rewritten(file: str, text: str, number: int, expect: Expect, source: Callable[[str], str]) -> str:
    """The text with one expectation changed, as little of it as will do. Raises NotUpdated."""
    if _STRANGE_END.search(text):
        raise NotUpdated("a line of it ends with U+0085, U+2028 or U+2029: end it as the others do")
    document = read(file, text, may_be_null=lambda _: True)
    step = ("steps", number)
    parts = _as_written(document.value["steps"][number].get("expect", {}), expect)
    for tried in (_value_by_value, _whole, _added):
        changed = tried(document, text, step, parts)
        if changed is not None and _says(file, text, changed, number, expect, source):
            return changed
    raise NotUpdated(f"`expect` of step {number + 1} can't be rewritten where it stands: write it in one line")


def _as_written(before: Mapping[str, Any], expect: Expect) -> dict[str, Any]:
    """What is expected, each text in the form in which it stands: {contains: …} where that is written."""
    parts = dict(expected_parts(expect))
    for path, text in expect.texts.items():
        if text.pattern is None and isinstance(old := before.get(path), dict) and "contains" in old:
            parts[path] = {"contains": text.contains}
    return parts


def _says(file: str, text: str, changed: str, number: int, expect: Expect, source: Callable[[str], str]) -> bool:
    """Whether the changed file differs in that expectation alone, and has it right."""
    before, after = read_replays(file, text, source)[0], read_replays(file, changed, source)[0]
    if len(before) != len(after):
        return False
    own = number - len(read(file, text, may_be_null=lambda _: True).value["steps"])
    for old, new in zip(map(bare, before), map(bare, after), strict=True):
        steps = list(old.steps)
        steps[own] = replace(steps[own], expect=expect)
        if new != replace(old, steps=tuple(steps)):
            return False
    return True


Parts = Mapping[str, Any]


def _value_by_value(document: Document, text: str, step: Path, parts: Parts) -> str | None:
    """Each value that changed, alone; None where a key comes or goes, or a value has no end that is known."""
    step_value = document.value["steps"][step[1]]
    spans = []
    for path, value in _changes(step_value.get("expect", {}), parts, (*step, "expect")):
        span = _span(document, text, path)
        if span is None:
            return None
        spans.append((*span, flow(value)))
    for start, end, value in sorted(spans, reverse=True):
        text = _put(text, start, end, value)
    return text


def _put(text: str, start: int, end: int, value: str) -> str:
    """The text with a part of it written anew. Raises NotUpdated where a comment stands in that."""
    found = next((each["comment"] for each in _COMMENT.finditer(text, start, end) if each["comment"]), None)
    if found is not None:
        raise NotUpdated(f"the comment `{found}` would be lost: move it out of `expect`, or write that anew by hand")
    return text[:start] + value + text[end:]


def _changes(old: Parts, new: Parts, path: Path) -> Iterator[tuple[Path, Any]]:
    if old.keys() != new.keys():
        yield path, new
        return
    for name, value in new.items():
        before = old[name]
        if isinstance(before, dict) and isinstance(value, Mapping):
            yield from _changes(before, value, (*path, name))
        elif before != (list(value) if isinstance(value, tuple) else value):
            yield (*path, name), value


def _span(document: Document, text: str, path: Path) -> tuple[int, int] | None:
    """Where a value begins and ends in the text; None where that isn't known."""
    if path not in document.places.values or document.places.mends:
        return None
    start = _offset(text, *document.places.values[path])
    if text[start : start + 1] in _BRACKETS:
        return start, _closed(text, start)
    written = document.places.written.get(path)
    return None if written is None else (start, start + len(written))


def _whole(document: Document, text: str, step: Path, parts: Parts) -> str | None:
    """The expectation as a whole, in one line."""
    path = (*step, "expect")
    if path not in document.places.values:
        return None
    if span := _span(document, text, path):
        return _put(text, *span, flow(parts))
    return _put(text, *_block(document, text, path), f" {flow(parts)}")


def _block(document: Document, text: str, path: Path) -> tuple[int, int]:
    """From behind the key's colon to the last line that is deeper than the key."""
    line, col = document.places.keys[path]
    start = _offset(text, line, col) + len("expect:")
    lines = text.split("\n")
    last = line
    for number in range(line, len(lines)):
        stripped = lines[number].strip()
        if stripped and not stripped.startswith("#"):
            if len(lines[number]) - len(lines[number].lstrip()) < col:
                break
            last = number + 1
    end = _offset(text, last, len(lines[last - 1]) + 1)
    return start, end


def _added(document: Document, text: str, step: Path, parts: Parts) -> str | None:
    """An expectation where none was: inside the step's braces, or on a line of its own."""
    places = document.places
    line, col = places.values[step]
    start = _offset(text, line, col)
    written = f"expect: {flow(parts)}"
    if text[start : start + 1] == "{":
        end = _closed(text, start) - 1
        comma = ", " if text[start + 1 : end].strip() else ""
        return f"{text[:end].rstrip()}{comma}{written}{text[end:]}"
    last = max((path for path in places.keys if path[:-1] == step), key=lambda path: places.keys[path])
    if span := _span(document, text, last):
        end = (text.find("\n", span[1]) + 1 or len(text) + 1) - 1
        return f"{text[:end]}\n{' ' * (col - 1)}{written}{text[end:]}"
    return f"{text[:start]}{written}\n{' ' * (col - 1)}{text[start:]}"


def _offset(text: str, line: int, col: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return start + col - 1


def _closed(text: str, start: int) -> int:
    """Behind the bracket that closes the one at `start`."""
    depth, at = 0, start
    while at < len(text):
        if (found := _STRING.match(text, at)) is not None:
            at = found.end()
            continue
        depth += (text[at] in "{[") - (text[at] in "}]")
        at += 1
        if depth == 0:
            break
    return at
