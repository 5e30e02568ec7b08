"""Replay files, read: every fault at once, at its file:line:col, with the mend. A file makes one test or several.

The form is `replay`'s. What a machine must have for it is asked of a machine by `findings_against`.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from runtime import model
from runtime.bench.against import findings_against
from runtime.bench.expecting import pattern_fault
from runtime.bench.replay import (
    SEED_PATTERN,
    SUFFIX,
    Chosen,
    Expect,
    Given,
    Limits,
    Parts,
    Place,
    Replay,
    ReplayStep,
    Text,
)
from runtime.document import Document, read
from runtime.errors import Finding
from runtime.shape import did_you_mean
from runtime.shaped import Form, faults_of, form_of

__all__ = ["findings_against", "read_replays", "replay_files", "text_of"]

FAILED = ".edgewise"
"""The folder that no replay is collected from: what failed is written there."""
_DURATION = r"^[0-9]+(\.[0-9]{1,3})?(ms|s|m|h)$"
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_MAY_BE_NULL = frozenset({"narrate", "constraints", "slots", "with", "meta"})
_LONGEST_MS = 1000 * _MS["h"]
_KEY = r"^[ -~]{1,255}$"
_MENDS = {
    _DURATION: "is no time: write 20s, 1.5s, 2m or 250ms",
    _KEY: "is no key: write 1 to 255 printable characters of ASCII, such as k1",
    SEED_PATTERN: "is no seed: write 1 to 128 of A-Z, a-z, 0-9 and _ . : -",
}
MOST_COMBINATIONS = 1000
"""How many tests a file's `each` may make."""
_MEANT = {
    "option": "choose",
    "event": "send",
    "payload": "with",
    "wait": "after",
    "answer": "narrate",
    "then": "expect",
    "name": "replay",
    "extends": "reproduce",
    "variables": "context",
    "vars": "context",
    "run_seed": "seed",
}
_ASK = "Write {contains: …} or {pattern: …}"
_TEXT_KEYS = frozenset(Text.__struct_fields__)
_LANGUAGE = re.compile(model.LANGUAGE_PATTERN)
Words = str | dict[str, str]


class StepLimits(Limits, total=False):
    """What a later request asks of the texts."""

    language: str | None


class OptionPart(Struct, frozen=True):
    """An option named otherwise than by its key."""

    kind: str | None = None
    text: Words | None = None


class ExpectPart(Struct, frozen=True):
    """What stands under `expect`; every other key is the path of a text."""

    edge: str | None = None
    state: str | None = None
    context: dict[str, Any] = {}
    next: str | None = None
    allowed: list[str] | None = None
    should_end: bool | None = None
    ended: bool | None = None
    ending: str | None = None
    options: list[str] | None = None
    error: str | None = None
    meta: dict[str, Any] = {}


class StepPart(Struct, frozen=True):
    """A step as it stands in a file."""

    choose: str | int | OptionPart | None = None
    send: str | None = None
    with_: dict[str, Any] = field(name="with", default={})
    constraints: StepLimits = {}
    dice: dict[str, bool | int | str | list[str]] = {}
    narrate: dict[str, Any] | None = None
    after: Annotated[str, Meta(pattern=_DURATION)] | None = None
    key: Annotated[str, Meta(pattern=_KEY)] | None = None
    times: Annotated[int, Meta(ge=1, le=100)] = 1
    expect: ExpectPart = ExpectPart()
    prompt: str | None = None


EachPart = msgspec.defstruct(
    "EachPart",
    [
        (each.name, Annotated[list[each.type], Meta(min_length=1)] | None, None)  # type: ignore[name-defined]
        for each in msgspec.structs.fields(Given)
    ],
    frozen=True,
)
"""Lists of what `given` may be: one test per combination."""


class FilePart(Struct, frozen=True):
    """The whole file."""

    replay: Annotated[str, Meta(min_length=1)]
    given: Given | None = None
    each: EachPart | None = None  # type: ignore[valid-type]
    steps: list[StepPart] = []
    reproduce: Annotated[str, Meta(min_length=1)] | None = None
    xfail: Annotated[str, Meta(min_length=1)] | None = None


def text_of(file: str) -> str:
    """A file's text. Raises OSError, UnicodeDecodeError."""
    return Path(file).read_text(encoding="utf-8-sig")


def read_replays(
    file: str, text: str, source: Callable[[str], str] = text_of
) -> tuple[tuple[Replay, ...], list[Finding]]:
    """The tests of a file, one per combination of its `each`, and its faults; no test where it has any.

    `source` gives the text of a file that is reproduced, whose name is relative to this one's.
    """
    try:
        return _read(file, text, source, ())
    except Exception as error:  # noqa: BLE001 - one file never takes the others down with it
        message = f"the file can't be read, which is a fault of Edgewise: {type(error).__name__}: {error}"
        return (), [Finding(file, 1, 1, "E002", message)]


def _read(
    file: str, text: str, source: Callable[[str], str], around: tuple[str, ...]
) -> tuple[tuple[Replay, ...], list[Finding]]:
    document = read(
        file,
        text.replace("\r\n", "\n"),
        may_be_null=lambda path: not _MAY_BE_NULL.isdisjoint(path[:-1]),
        shorten="Make several replays of it",
    )
    findings = [*document.findings, *faults_of(document, _form())]
    if document.value is not None and not findings:
        findings = list(_faults(document))
    if document.value is None or findings:
        return (), sorted(set(findings))
    part = msgspec.convert(_known(document.value), FilePart)
    if part.reproduce is None:
        return tuple(_replays(document, part)), []
    before, findings = _before(document, part.reproduce, source, (*around, file))
    return tuple(_reproducing(document, part, before)), findings


@cache
def _form() -> Form:
    words = str | dict[str, Words]
    return form_of(FilePart, meant=_MEANT, mends=_MENDS, others={"ExpectPart": words})


def _known(value: Any) -> Any:
    """The file without the texts that are expected: they have no names of their own."""
    steps = [
        {**step, "expect": {name: part for name, part in step.get("expect", {}).items() if name in _NAMED}}
        for step in value.get("steps", [])
    ]
    return {**value, "steps": steps}


_NAMED = frozenset(ExpectPart.__struct_fields__)


# What the shape alone can't say.


def _faults(document: Document) -> Iterator[Finding]:
    value = document.value
    if "reproduce" in value and (more := [key for key in ("given", "each") if key in value]):
        message = f"the replay that is reproduced says what is given. Delete '{more[0]}'"
        yield _at(document, (more[0],), "E904", message)
    if "reproduce" not in value:
        if not value.get("steps"):
            yield _at(document, ("steps",), "E102", "'steps' is missing here. Add it")
        if "given" not in value:
            yield _at(document, ("given",), "E102", "'given' is missing here. Add given: {machine: NAME}")
    if (many := math.prod(map(len, value.get("each", {}).values()))) > MOST_COMBINATIONS:
        message = f"{many:,} combinations; {MOST_COMBINATIONS:,} are allowed. Leave some out, or write several files"
        yield _at(document, ("each",), "E904", message)
    for name, values in value.get("each", {}).items():
        yield from _repeated(document, name, values)
    for number, step in enumerate(value.get("steps", [])):
        yield from _step_faults(document, ("steps", number), step, is_first=number == 0 and "reproduce" not in value)


def _repeated(document: Document, name: str, values: list[Any]) -> Iterator[Finding]:
    seen: list[Any] = []
    for number, each in enumerate(values):
        if each in seen:
            yield _at(
                document, ("each", name, number), "E904", f"'{_label(each)}' stands here a second time. Delete one"
            )
        seen.append(each)


def _step_faults(document: Document, path: model.Path, step: Parts, *, is_first: bool) -> Iterator[Finding]:
    if not is_first and "choose" not in step and "send" not in step:
        yield _at(document, path, "E102", "a step chooses or sends. Add choose: OPTION, or send: EVENT")
    if isinstance(chosen := step.get("choose"), dict) and len(chosen) != 1:
        yield _at(document, (*path, "choose"), "E904", "an option has one name here: {kind: …} or {text: …}")
    if step.get("times", 1) > 1 and "key" not in step:
        yield _at(document, (*path, "times"), "E904", "without a key each request is a turn of its own. Add key: k1")
    if _ms(step.get("after")) > _LONGEST_MS:
        yield _at(document, (*path, "after"), "E110", f"'after' is too long: at most {_LONGEST_MS // _MS['h']}h")
    if "selected_option_id" in step.get("with", {}):
        message = f"an option is chosen beside the payload: write choose: {step['with']['selected_option_id']}"
        yield _at(document, (*path, "with", "selected_option_id"), "E904", message)
    for name, expected in step.get("expect", {}).items():
        if name not in _NAMED:
            yield from _text_faults(document, (*path, "expect", name), expected)


def _text_faults(document: Document, path: model.Path, expected: Any) -> Iterator[Finding]:
    if not expected:
        yield _at(document, path, "E904", f"nothing is asked of '{path[-1]}'. {_ASK}")
    if isinstance(expected, str):
        return
    is_by_language = not _TEXT_KEYS & expected.keys() and all(_LANGUAGE.fullmatch(key) for key in expected)
    for name, words in expected.items():
        if name not in _TEXT_KEYS and not is_by_language:
            hint = did_you_mean(name, _TEXT_KEYS, "Keys are contains, pattern, or languages")
            yield _at(document, (*path, name), "E101", f"no key '{name}' here{hint}")
        elif is_by_language and isinstance(words, dict):
            yield _at(document, (*path, name), "E105", f"'{name}' is a text")
        else:
            yield from _word_faults(document, (*path, name), words, is_pattern=name == "pattern")


def _word_faults(document: Document, path: model.Path, words: Words, *, is_pattern: bool) -> Iterator[Finding]:
    """Faults of what a text must hold: that it is empty, or no regular expression."""
    by_path = {(*path, name): each for name, each in words.items()} if isinstance(words, dict) else {path: words}
    for where, each in by_path.items():
        if not each:
            yield _at(document, where, "E904", f"an empty text asks nothing. {_ASK}")
        elif is_pattern and (wrong := pattern_fault(each)):
            yield _at(document, where, "E903", f"'{each}' is no regular expression of RE2: {wrong}")


def _at(document: Document, path: model.Path, code: str, message: str) -> Finding:
    at_key = code == "E101" or path == ("given",)
    line, col = document.places.key(path) if at_key else document.places.value(path)
    return Finding(document.file, line, col, code, message)


# What it becomes.


def _replays(document: Document, part: FilePart) -> Iterator[Replay]:
    steps = _steps(document, part)
    places = _places(document, ("given",), "given") | {"": (document.file, 1, 1)}
    own = dict(document.value.get("given", {}))
    varied = document.value.get("each", {})
    labels: set[str] = set()
    for combination in product(*varied.values()):
        over = dict(zip(varied, combination, strict=True))
        label = _unlike(f"{'-'.join(map(_label, combination))}", labels) if over else ""
        over_places = {
            f"given.{name}": _place(document, ("each", name, varied[name].index(over[name]))) for name in over
        }
        yield Replay(
            name=part.replay,
            given=msgspec.convert({**own, **over}, Given),
            steps=steps,
            xfail=part.xfail,
            file=document.file,
            id=f"{document.file}::{part.replay}{label}",
            places=places | over_places,
        )


def _unlike(label: str, taken: set[str]) -> str:
    """A combination's label in brackets, with a number where another one reads the same: `[zh-a]`, `[zh-a#2]`."""
    numbered = (f"[{label}{'' if number == 1 else f'#{number}'}]" for number in count(1))
    found = next(each for each in numbered if each not in taken)
    taken.add(found)
    return found


def _label(value: Any) -> str:
    """A value in a test's id: `zh`, `hp=1,mood=calm`, `true`."""
    if isinstance(value, dict):
        return ",".join(f"{name}={_label(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "+".join(map(_label, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _steps(document: Document, part: FilePart) -> tuple[ReplayStep, ...]:
    written = document.value.get("steps", [])
    return tuple(_step(document, number, each, written[number]) for number, each in enumerate(part.steps))


def _step(document: Document, number: int, part: StepPart, written: Parts) -> ReplayStep:
    path = ("steps", number)
    line, _ = document.places.key(path)
    return ReplayStep(
        choose=_choice(part.choose),
        send=part.send,
        with_=part.with_,
        constraints=part.constraints,
        dice=part.dice,
        narrate=part.narrate,
        after_ms=_ms(part.after),
        key=part.key,
        times=part.times,
        expect=_expect(part.expect, written.get("expect", {})),
        prompt=part.prompt,
        line=line,
        places=_places(document, path),
    )


def _choice(choose: str | int | OptionPart | None) -> Chosen | None:
    if choose is None:
        return None
    if isinstance(choose, OptionPart):
        return Chosen(kind=choose.kind, text=choose.text)
    return Chosen(key=choose) if isinstance(choose, str) else Chosen(id=choose)


def _ms(after: str | None) -> int:
    """A time in ms; one that is far too long as a little too long."""
    if after is None:
        return 0
    number = after.rstrip("hms")
    return round(min(float(number) * _MS[after[len(number) :]], _LONGEST_MS + 1))


def _expect(part: ExpectPart, written: Parts) -> Expect:
    named = {name: getattr(part, name) for name in _NAMED}
    lists = {name: None if named[name] is None else tuple(named[name]) for name in ("allowed", "options")}
    texts = {name: _text(each) for name, each in written.items() if name not in _NAMED}
    return Expect(**{**named, **lists}, texts=texts)


def _text(written: Any) -> Text:
    if isinstance(written, str) or not _TEXT_KEYS & written.keys():
        return Text(contains=written)
    return Text(**written)


def _places(document: Document, around: model.Path, name: str = "") -> dict[str, Place]:
    """The keys and items below a part by their dotted path, and the part itself."""
    places = document.places
    found = {name: _place(document, around)}
    for path in places.keys:
        if len(path) > len(around) and path[: len(around)] == around:
            dotted = ".".join(map(str, path[len(around) :]))
            found[f"{name}.{dotted}" if name else dotted] = (document.file, *places.key(path))
    return found


def _place(document: Document, path: model.Path) -> Place:
    return (document.file, *document.places.key(path))


# Replays that begin with another one.


def _before(
    document: Document, name: str, source: Callable[[str], str], around: tuple[str, ...]
) -> tuple[tuple[Replay, ...], list[Finding]]:
    other = posixpath.normpath(posixpath.join(posixpath.dirname(document.file), name))
    if other in {posixpath.normpath(each) for each in around}:
        message = f"'{name}' leads back to this file: {' → '.join((*around, other))}. Let one of them begin by itself"
        return (), [_at(document, ("reproduce",), "E902", message)]
    try:
        text = source(other)
    except (OSError, UnicodeDecodeError, KeyError) as error:
        why = getattr(error, "strerror", None) or "it isn't there, or is no UTF-8"
        return (), [
            _at(document, ("reproduce",), "E902", f"'{name}' can't be read: {why}. It is relative to this file")
        ]
    return _read(other, text, source, around)


def _reproducing(document: Document, part: FilePart, before: Iterable[Replay]) -> Iterator[Replay]:
    steps = _steps(document, part)
    for other in before:
        label = other.id.removeprefix(f"{other.file}::{other.name}")
        yield replace(
            other,
            name=part.replay,
            steps=(*other.steps, *steps),
            xfail=part.xfail,
            file=document.file,
            id=f"{document.file}::{part.replay}{label}",
        )


def replay_files(paths: Iterable[Path]) -> list[Path]:
    """The replay files at these paths, in order: files as named, folders through and through.

    What lies below .edgewise/ of a folder is no test; a file of it counts only where it is named itself.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = path.rglob(f"*{SUFFIX}") if path.is_dir() else [path]
        found |= dict.fromkeys(
            sorted(each for each in inside if each == path or FAILED not in each.relative_to(path).parts)
        )
    return list(found)
