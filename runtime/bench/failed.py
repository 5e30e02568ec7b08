"""A replay that failed, as a replay of its own: up to the step that differs, with the dice as they fell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Any

from msgspec.structs import replace

from runtime.bench.course import Result
from runtime.bench.expecting import Came, Difference
from runtime.bench.modes import Mode
from runtime.bench.places import Atlas
from runtime.bench.recording import narrated
from runtime.bench.replay import SUFFIX, Replay, ReplayStep, fixed_dice
from runtime.bench.why import EXTRA, MISSING
from runtime.bench.written import written
from runtime.flow_yaml import flow
from runtime.machine import Machine

FOLDER = ".edgewise/failed"
"""Where failed runs are kept in a project; nothing below it is collected as a test."""
_NAME_BYTES = 200
_HASH_CHARS = 8
_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What no file of YAML holds, not even in a comment."""
_STRANGE = re.compile(r"[^\w.+=,-]+")


def failed_run(result: Result) -> Replay:
    """What was played, so that it goes the same way again: every die fixed, in a session of the same seed."""
    found = result.difference
    came = result.came[: found.step] if found is not None and found.step else result.came
    steps = tuple(_fixed(each, result.mode) for each in came) or result.replay.steps
    if result.mode == "rerun" and found is not None and found.field == "meta.fallback":
        expect = replace(steps[-1].expect, meta={"fallback": found.expected})
        steps = (*steps[:-1], replace(steps[-1], expect=expect))
    return replace(result.replay, steps=steps, xfail=None)


def _fixed(came: Came, mode: Mode) -> ReplayStep:
    """The step that came, so that it comes again; of one that a model told anew, with what it answered."""
    step = came.step
    if came.turn is not None:
        step = replace(step, dice=fixed_dice(came.turn.outcome.dice, came.turn.after.offer))
    if mode == "rerun" and came.entry is not None and came.prompt is not None:
        step = replace(step, narrate=narrated(came.entry))
    return step


def failed_text(result: Result) -> str:
    """The file of a failed run: what differed stands above it."""
    comment = "\n".join((f"Failed: {result.replay.id}", *told(result)))
    return written(failed_run(result), _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", comment))


def failed_name(replay_id: str) -> str:
    """A file's name for a test's id, which no other id has and every file system takes."""
    named = unicodedata.normalize("NFC", replay_id.replace(SUFFIX, ""))
    return _file_name(named, replay_id)


def bug_name(machine: str, kind: str, what: str, replay: Replay | None) -> str:
    """A file's name for a finding: the same for the same steps, whoever found them; it begins with the machine."""
    steps = () if replay is None else tuple((each.choose, each.send, each.with_, each.dice) for each in replay.steps)
    return _file_name(f"{machine}-{kind}-{unicodedata.normalize('NFC', what)}", f"{machine} {kind} {steps!r}")


def _file_name(named: str, whole: str) -> str:
    """What names a thing, cut at its end, and a hash of all that makes it this one."""
    plain = _STRANGE.sub("-", named).strip("-.").encode()[:_NAME_BYTES].decode(errors="ignore")
    return f"{plain}-{sha256(whole.encode(errors='surrogatepass')).hexdigest()[:_HASH_CHARS]}{SUFFIX}"


def told(result: Result) -> Iterator[str]:
    """The first difference in lines: where, the step and the field, what was expected, what came, and why."""
    found = result.difference
    if found is None:
        return
    yield f"{_at(result, found)}: {found.field}"
    if found.field != "prompt":
        yield f"  expected: {said(found.field, found.expected)}"
        yield f"  got:      {said(found.field, found.got)}"
    yield from (f"  {line}" for line in found.why.splitlines())


def located(result: Result, machine: Machine) -> Result:
    """The result with where the edges stand that its difference is about: the taken and the expected one.

    The machine's file is read again for it, so it is for what is told, not for every difference that is found.
    """
    found = result.difference
    if found is None or found.step == 0 or found.field == "prompt":
        return result
    atlas, why = Atlas(machine), found.why
    edges = [machine.initial, *(each for row in machine.table.values() for each in row)]
    known = {each.full_name: each for each in edges}
    for name in _meant(result.came[found.step - 1], found, known):
        place = atlas.edge(known[name].edge)
        met = _named(name).search(why)
        why = f"{why[: met.end()]} ({place}){why[met.end() :]}" if met else f"{why}\n{name} stands at {place}"
    return replace(result, difference=replace(found, why=why))


def _meant(came: Came, found: Difference, known: Collection[str]) -> list[str]:
    """The edges that a difference is about, in the order of the machine."""
    meant = {found.expected} if found.field == "edge" else set()
    if found.field == "options" or came.turn is None:
        first = [line for line in found.why.splitlines() if came.turn is None or line.startswith((MISSING, EXTRA))]
        meant |= {name for name in known if any(_named(name).search(line) for line in first)}
    else:
        meant |= {came.turn.outcome.edge}
    return [name for name in known if name in meant]


def _named(edge: str) -> re.Pattern[str]:
    """An edge's name in a sentence, and not as a part of another's."""
    return re.compile(rf"(?<![\w.*>]){re.escape(edge)}(?![\w.>])")


def _at(result: Result, found: Difference) -> str:
    if found.step == 0:
        return f"{result.replay.file} what is given"
    step = result.came[found.step - 1].step
    file, line, _ = step.places.get("", (result.replay.file, step.line, 1))
    return f"{file}:{line} step {found.step}{_done(step)}"


def _done(step: ReplayStep) -> str:
    chosen = step.choose
    names = () if chosen is None else (chosen.key, chosen.kind, chosen.text, chosen.id)
    doing = [f"choose {flow(each)}" for each in names if each is not None]
    doing += [f"send {step.send}"] if step.send is not None else []
    return f" ({', '.join(doing)})" if doing else ""


def said(field: str, value: Any) -> str:
    """A value as a reader of the difference sees it."""
    if field == "error" and value is None:
        return "no refusal"
    return "nothing" if value is None else flow(value)
