"""What `edgewise test` found, case by case: as text, as JSON, and as GitHub's workflow commands. Pure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from runtime.bench.coverage import Kind, Share
from runtime.bench.mutate import Score
from server.tend.pages import aligned, clean

Verdict = Literal["passed", "failed", "xfailed", "skipped", "left out"]
VERDICTS: tuple[Verdict, ...] = ("passed", "failed", "xfailed", "skipped", "left out")
What = Literal["check", "replay", "explore", "coverage", "mutation"]
KINDS: tuple[Kind, ...] = ("edges", "guards", "endings")
"""The kinds of coverage that every machine's line has."""
PROJECT = "project"
"""The suite of what belongs to no machine."""


class Note(Struct, frozen=True):
    """A sentence about a place of a file, as seen from the project; line and col from 1, 0 = none."""

    file: str
    line: int
    col: int
    text: str
    is_warning: bool = False


class Case(Struct, frozen=True, kw_only=True):
    """One thing that was tested: of which machine, and how it came out.

    `lines` say why it is not passed, `notes` are what a review shows beside the files.
    """

    machine: str
    what: What
    name: str
    verdict: Verdict
    file: str = ""
    line: int = 0
    lines: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0


class Line(Struct, frozen=True, kw_only=True):
    """A machine in the summary. None = that was not looked at."""

    machine: str
    properties: int = 0
    broken: int = 0
    explored_turns: int | None = None
    shares: Mapping[Kind, Share] = {}
    score: Score | None = None


class Outcome(Struct, frozen=True, kw_only=True):
    """All that a run found: in the machines' order, whatever came first. `said` is told before all else."""

    cases: tuple[Case, ...]
    machines: tuple[Line, ...]
    said: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def has_failed(self) -> bool:
        """Whether anything has failed."""
        return any(case.verdict == "failed" for case in self.cases)

    def counts(self, what: What | None = None, machine: str | None = None) -> Counter[Verdict]:
        """How many cases came out how, of one kind and one machine where these are said."""
        cases = (each for each in self.cases if what in (None, each.what) and machine in (None, each.machine))
        return Counter(each.verdict for each in cases)


# As text.


def as_text(found: Outcome) -> Iterator[str]:
    """What was left out first, then each failure, the summary, and the verdict."""
    yield from map(clean, found.said)
    for case in found.cases:
        if case.verdict == "failed":
            yield f"FAILED {clean(case.machine)} {case.what} {clean(case.name)}"
            yield from (f"  {clean(line)}" for line in case.lines)
    yield from summary(found)


def summary(found: Outcome) -> Iterator[str]:
    """The table, what to do next, and the verdict in a line."""
    if found.machines:
        heading = ("MACHINE", "CHECK", "REPLAYS", "PROPERTIES", "EXPLORED", *map(str.upper, KINDS), "MUTANTS")
        yield from aligned([heading, *(_row(found, line) for line in found.machines)])
    yield from found.hints
    counts = found.counts()
    told = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict])
    yield f"{'FAILED' if found.has_failed else 'passed'}: {told or 'nothing to test'} in {found.seconds:.1f} s"


def _row(found: Outcome, line: Line) -> list[str]:
    checked, explored = (found.counts(what, line.machine) for what in ("check", "explore"))
    replays = found.counts("replay", line.machine)
    turns = "-" if line.explored_turns is None else f"{line.explored_turns:,} turns"
    held = f"{line.broken} of {line.properties} broken" if line.broken else f"{line.properties} held"
    return [
        clean(line.machine),
        _of(checked, "ok"),
        ", ".join(f"{replays[each]:,} {each}" for each in VERDICTS if replays[each]) or "none",
        held if line.properties else "-",
        "FAILED" if explored["failed"] else turns,
        *(_share(line.shares.get(kind)) for kind in KINDS),
        "-" if line.score is None else percent(line.score.percent),
    ]


def _of(counts: Mapping[Verdict, int], good: str) -> str:
    if counts["failed"]:
        return "FAILED"
    return good if counts["passed"] else "-"


def _share(share: Share | None) -> str:
    return "-" if share is None else percent(share.percent)


def percent(value: float) -> str:
    """Percent with one digit; never 100% while something is missed."""
    return f"{int(value * 10) / 10:g}%"


# As JSON.


def as_json(found: Outcome) -> str:
    """The whole outcome."""
    told: dict[str, Any] = {
        "passed": not found.has_failed,
        "said": found.said,
        "hints": found.hints,
        "seconds": round(found.seconds, 3),
        "counts": dict(found.counts()),
        "machines": [_machine(line) for line in found.machines],
        "cases": [msgspec.to_builtins(case) for case in found.cases],
    }
    return msgspec.json.format(msgspec.json.encode(told)).decode()


def _machine(line: Line) -> dict[str, Any]:
    shares = {kind: {"hit": share.hit, "total": share.total} for kind, share in line.shares.items()}
    score = None if line.score is None else {**msgspec.to_builtins(line.score), "percent": round(line.score.percent, 2)}
    return {**msgspec.to_builtins(line), "shares": shares, "score": score}


# As GitHub's workflow commands.


def as_github(found: Outcome, project: Path) -> Iterator[str]:
    """A command for each note, so that it stands beside the line that it is about; then the summary.

    Source: docs.github.com, "Workflow commands for GitHub Actions", setting an error message.
    """
    yield from (f"::warning::{_escaped(said)}" for said in found.said)
    for case in found.cases:
        yield from (_command(note, case, project) for note in _notes(case))
    yield from (f" {line}" for line in summary(found))  # no line of ours is read as a command


def _notes(case: Case) -> Sequence[Note]:
    if case.notes or case.verdict != "failed":
        return case.notes
    return (Note(case.file, case.line, 0, "\n".join(case.lines)),)


def _command(note: Note, case: Case, project: Path) -> str:
    where = {
        "file": Path(os.path.relpath(project / note.file)).as_posix() if note.file else "",
        "line": note.line or "",
        "col": note.col or "",
        "title": f"{case.machine} {case.what}",
    }
    told = ",".join(f"{name}={_escaped(value, in_property=True)}" for name, value in where.items() if value)
    return f"::{'warning' if note.is_warning else 'error'} {told}::{_escaped(note.text)}"


def _escaped(value: object, *, in_property: bool = False) -> str:
    text = "\n".join(map(clean, str(value).splitlines())).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if in_property else text


def in_order(cases: Iterable[Case], machines: Iterable[str]) -> tuple[Case, ...]:
    """Cases machine by machine, each in the order of its making."""
    rank = {name: number for number, name in enumerate((PROJECT, *machines))}
    return tuple(sorted(cases, key=lambda case: rank.get(case.machine, 0)))
