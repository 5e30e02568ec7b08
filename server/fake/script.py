"""A script: what to answer in turn, as YAML.

then: loop                 # or `last` (the last step stays), or `well` (answer well from then on)
steps:
- {fault: fences}
- {status: 429, retry_after: 2, times: 2}
- {content: {scene: A lamp.}, delay: 1.5}
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from runtime import document
from runtime.document import Document
from runtime.errors import DesignError, Finding
from runtime.model import Path as Place
from runtime.shape import did_you_mean
from server.fake.faults import FAULTS, clashes

THEN = ("well", "loop", "last")
UNKNOWN_KEY, MISSING_KEY, WRONG_VALUE = "E101", "E102", "E105"


class Step(Struct, frozen=True, kw_only=True):
    """What is answered to one request, or to `times` requests. Waits are in seconds."""

    fault: tuple[str, ...] = ()
    status: int = 0
    retry_after: int | None = None
    error: str | Mapping[str, Any] = ""
    content: str | Mapping[str, Any] | None = None
    finish: str = ""
    delay: float = 0.0
    tokens_per_second: float = 0.0
    times: int = 1

    @property
    def told_error(self) -> Mapping[str, Any]:
        """The `error` of the body."""
        if isinstance(self.error, Mapping):
            return self.error
        return {"message": self.error or f"Scripted {self.status}.", "type": "scripted", "param": None, "code": None}


WELL = Step()


class Script(Struct, frozen=True, kw_only=True, dict=True):
    """Steps in their order, and what comes after them."""

    steps: tuple[Step, ...] = ()
    then: str = "well"

    def step(self, number: int) -> Step:
        """The step of the `number`-th request, from 1."""
        if not self.steps:
            return WELL
        last = self._ends[-1]
        if number > last and self.then != "loop":
            return self.steps[-1] if self.then == "last" else WELL
        return self.steps[bisect.bisect_left(self._ends, (number - 1) % last + 1)]

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(step.times for step in self.steps))


def load(path: Path) -> Script:
    """The script of a file. Raises DesignError with every fault at its line, OSError where it can't be read."""
    return parse(path.name, path.read_text(encoding="utf-8", errors="replace"))


def parse(file: str, text: str) -> Script:
    """The script in a text. Raises DesignError."""
    read = document.read(file, text)
    findings = list(read.findings)
    if read.value is not None:
        findings += _faults(read)
    if findings or read.value is None:
        raise DesignError(sorted(findings))
    return msgspec.convert(_with_lists(read.value), Script)


def _with_lists(value: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "steps": [{**step, "fault": _names(step.get("fault", []))} for step in value["steps"]]}


def _names(fault: Any) -> list[str]:
    return [fault] if isinstance(fault, str) else fault


def _faults(read: Document) -> Iterator[Finding]:
    yield from _unknown(read, (), ("steps", "then"))
    if read.value.get("then", "well") not in THEN:
        yield _wrong(read, ("then",), f"`then` is one of {', '.join(THEN)}")
    steps = read.value.get("steps")
    if not isinstance(steps, list) or not steps:
        yield Finding(read.file, *read.places.key(("steps",)), MISSING_KEY, "a script has `steps`: a list of answers")
        return
    for index, step in enumerate(steps):
        if isinstance(step, dict):
            yield from _of_step(read, step, ("steps", index))
        else:
            yield _wrong(read, ("steps", index), "a step is a map, as {fault: fences}")


def _of_step(read: Document, step: Mapping[str, Any], at: Place) -> Iterator[Finding]:
    yield from _unknown(read, at, Step.__struct_fields__)
    for name, value in step.items():
        if name == "fault":
            yield from _of_names(read, value, (*at, name))
        elif name in _CHECKS and not _is(value, *_CHECKS[name]):
            yield _wrong(read, (*at, name), f"`{name}` is {_CHECKS[name][-1]}")
    if "status" in step and "fault" in step:
        yield _wrong(read, (*at, "fault"), "a step has a status or a fault, not both")


def _of_names(read: Document, value: Any, at: Place) -> Iterator[Finding]:
    names = _names(value)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        yield _wrong(read, at, "`fault` is a name, or a list of names")
        return
    unknown = [name for name in names if name not in FAULTS]
    for name in unknown:
        yield _wrong(read, at, f"no fault '{name}'{did_you_mean(name, FAULTS, 'They are: ' + ', '.join(FAULTS))}")
    if not unknown and (why := clashes(tuple(names))):
        yield _wrong(read, at, why)


_CHECKS: Mapping[str, tuple[Any, float, float, str]] = {
    "status": (int, 400, 599, "a whole number from 400 to 599"),
    "retry_after": (int, 0, 86_400, "a whole number of seconds"),
    "times": (int, 1, 1_000_000, "a whole number from 1"),
    "delay": ((int, float), 0, 3600, "a number of seconds, at most 3600"),
    "tokens_per_second": ((int, float), 0.1, 1e6, "a number from 0.1"),
    "error": ((str, dict), 0, 0, "a text or a map"),
    "content": ((str, dict), 0, 0, "a text, or a map that is answered as JSON"),
    "finish": (str, 0, 0, "a text: stop, length, content_filter"),
}


def _is(value: Any, kind: Any, low: float, high: float, _: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    return not isinstance(value, int | float) or low <= value <= high


def _unknown(read: Document, at: Place, known: tuple[str, ...]) -> Iterator[Finding]:
    value: Any = read.value
    for part in at:
        value = value[part]
    for key in value:
        if key not in known:
            said = f"unknown key '{key}'{did_you_mean(key, known, 'Keys are ' + ', '.join(known))}"
            yield Finding(read.file, *read.places.key((*at, key)), UNKNOWN_KEY, said)


def _wrong(read: Document, at: Place, said: str) -> Finding:
    return Finding(read.file, *read.places.value(at), WRONG_VALUE, said)
