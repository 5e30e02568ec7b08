"""The pieces of work of `edgewise test`, each done by whichever process is free: a check, a replay, an exploration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.bench import explore, failed
from runtime.bench.against import findings_against
from runtime.bench.coverage import Coverage, Goals, goals, seen
from runtime.bench.finding import Bug
from runtime.bench.player import Result, played
from runtime.bench.replay import Replay
from runtime.bench.written import written
from runtime.errors import DesignError, Finding
from runtime.machine import Machine
from server.bench.cases import Case, Note
from server.bench.gathering import Bundles
from server.bench.played import counted
from server.tend.pages import clean

EXPLORATION = "quick exploration"
"""The name of an exploration's case."""
_PROPERTY = "properties."
"""How the field of a difference begins where a property is broken."""


class Task(Struct, frozen=True, kw_only=True):
    """One piece of work on one machine. `ends_at` is by the monotonic clock, which processes share."""

    what: Literal["check", "replay", "explore"]
    machine: str
    replay: Replay | None = None
    ends_at: float | None = None


class Done(Struct, frozen=True, kw_only=True):
    """What came of a piece of work.

    `runs` are failed plays as texts, by the name of the file that keeps them. `broken` are the names of
    properties. `goals` are the machine's own, from its check, `properties` how many it has, from whatever was
    done; `bugs` are an exploration's, which `judged` makes its case of.
    """

    case: Case
    coverage: Coverage | None = None
    runs: Mapping[str, str] = {}
    broken: tuple[str, ...] = ()
    goals: Goals = ()
    properties: int = 0
    bugs: tuple[Bug, ...] = ()


def done(task: Task) -> Done:
    """Do a piece of work."""
    begun = time.monotonic()
    found = _DOING[task.what](task)
    return replace(found, case=replace(found.case, seconds=time.monotonic() - begun))


class _Here:
    """The machines of this run, each loaded once in each process."""

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles
        self.loaded: dict[str, Machine | None] = {}

    def machine(self, name: str) -> Machine | None:
        """A machine, None where it has faults."""
        if name not in self.loaded:
            try:
                self.loaded[name] = loader.load(self.bundles[name])
            except DesignError:
                self.loaded[name] = None
        return self.loaded[name]


_HERE: list[_Here] = []
"""What this process works on: its setup puts it there, once."""


def prepare(bundles: Bundles) -> None:
    """Have this process work on these machines."""
    _HERE[:] = [_Here(bundles)]


# The check.


def _checked(task: Task) -> Done:
    case = case_of_findings(task.machine, "check", loader.findings_of(_HERE[0].bundles[task.machine]))
    machine = _HERE[0].machine(task.machine)
    if machine is None:
        return Done(case=case)
    return Done(case=case, goals=goals(machine), properties=len(machine.properties))


def case_of_findings(machine: str, name: str, findings: list[Finding]) -> Case:
    """A check's case: failed where there is a fault. Warnings are noted."""
    faults = [each for each in findings if each.is_fault]
    notes = (
        Note(each.file, each.line, each.col, f"{each.code} {each.message}", is_warning=not each.is_fault)
        for each in findings
    )
    first = faults[0] if faults else None
    return Case(
        machine=machine,
        what="check",
        name=name,
        verdict="failed" if faults else "passed",
        file=first.file if first else "",
        line=first.line if first else 0,
        lines=tuple(map(str, faults)),
        notes=tuple(notes),
    )


# Replays.


def _replayed(task: Task) -> Done:
    replay = task.replay
    if replay is None:
        raise ValueError(task)
    machine = _HERE[0].machine(task.machine)
    if machine is None:
        return Done(case=_unplayed(replay, ("its machine has faults",)))
    if findings := findings_against(machine, replay):
        return Done(case=_unplayed(replay, tuple(map(str, findings)), findings))
    result = failed.located(asyncio.run(played(replay, machine)), machine)
    return Done(
        case=_case_of_replay(result),
        coverage=seen(machine, result.came),
        runs={failed.failed_name(replay.id): failed.failed_text(result)} if result.verdict == "failed" else {},
        broken=_broken(result),
        properties=len(machine.properties),
    )


def _unplayed(replay: Replay, lines: tuple[str, ...], findings: list[Finding] | None = None) -> Case:
    notes = tuple(Note(each.file, each.line, each.col, f"{each.code} {each.message}") for each in findings or ())
    return Case(
        machine=replay.given.machine,
        what="replay",
        name=replay.id,
        verdict="failed",
        file=replay.file,
        line=notes[0].line if notes else 1,
        lines=lines,
        notes=notes,
    )


def _case_of_replay(result: Result) -> Case:
    replay, found = result.replay, result.difference
    lines: tuple[str, ...] = tuple(failed.told(result)) if result.verdict == "failed" else (result.reason,)
    if result.verdict == "xpassed":
        lines = (f"it passes, and its file says that it fails: {result.reason}. Take out its xfail.",)
    steps = [step.line for step in replay.steps]
    return Case(
        machine=replay.given.machine,
        what="replay",
        name=replay.id,
        verdict="failed" if result.verdict == "xpassed" else result.verdict,
        file=replay.file,
        line=(steps[found.step - 1] if found is not None and found.step else 0) or 1,
        lines=() if result.verdict == "passed" else lines,
    )


def _broken(result: Result) -> tuple[str, ...]:
    found = result.difference
    if found is None or not found.field.startswith(_PROPERTY):
        return ()
    return (found.field.removeprefix(_PROPERTY),)


# Exploration.


def _explored(task: Task) -> Done:
    machine = _HERE[0].machine(task.machine)
    case = Case(machine=task.machine, what="explore", name=EXPLORATION, verdict="passed")
    if machine is None:
        return Done(case=replace(case, verdict="skipped", lines=("the machine has faults",)))
    seconds = None if task.ends_at is None else max(0.0, task.ends_at - time.monotonic())
    found = explore.quick(machine, seconds=seconds)
    return Done(case=case, coverage=found.coverage, bugs=found.bugs, properties=len(machine.properties))


def judged(found: Done, reached: Collection[str]) -> Done:
    """An exploration by its bugs, of which an ending that replays have `reached` is none."""
    bugs = [bug for bug in found.bugs if not _is_reached(bug, reached)]
    runs = {_run_name(bug): written(bug.replay, f"{bug.where} {bug.kind}: {bug.what}") for bug in bugs if bug.replay}
    notes = tuple(Note(*_place(bug.where), f"{bug.kind}: {bug.what}") for bug in bugs)
    case = replace(
        found.case,
        verdict="failed" if bugs else found.case.verdict,
        file=notes[0].file if notes else "",
        line=notes[0].line if notes else 0,
        lines=tuple(line for bug in bugs for line in _told(bug)) or found.case.lines,
        notes=notes,
    )
    broken = tuple(bug.what.partition(":")[0] for bug in bugs if bug.kind == "property")
    return replace(found, case=case, runs=runs, broken=broken)


def _is_reached(bug: Bug, reached: Collection[str]) -> bool:
    return bug.kind == "unreached" and any(bug.what.startswith(f"ending {state} ") for state in reached)


def _run_name(bug: Bug) -> str:
    return failed.bug_name(bug.machine, bug.kind, bug.what, bug.replay)


def _told(bug: Bug) -> Iterator[str]:
    yield clean(f"{bug.where} {bug.kind}: {bug.what}")
    if bug.replay is not None:
        yield f"  after {counted(len(bug.replay.steps), 'turn')}: edgewise replay {failed.FOLDER}/{_run_name(bug)}"


def _place(where: str) -> tuple[str, int, int]:
    """`file:line` or `file:line:col` in its parts; 0 for what it doesn't have."""
    file, *numbers = where.split(":")
    line, col, *_ = (*(int(each) if each.isdigit() else 0 for each in numbers), 0, 0)
    return file, line, col


_DOING: Mapping[str, Callable[[Task], Done]] = {"check": _checked, "replay": _replayed, "explore": _explored}
