"""`edgewise coverage`: what replays, explorations and players hit of machines, and what nobody does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import click

from runtime import loader
from runtime.bench.against import UNKNOWN, findings_against
from runtime.bench.coverage import KINDS, Coverage, Kind, merged, seen
from runtime.bench.explore import quick
from runtime.bench.player import played
from runtime.bench.pool import cores, shared_out
from runtime.bench.replay import Replay
from runtime.errors import DesignError, Finding
from runtime.machine import Machine
from runtime.request import nearest
from runtime.shape import did_you_mean
from server.bench.coverage_html import page
from server.bench.coverage_report import GATED, Explored, OfReplays, Report, Under, as_json, report_of, text
from server.bench.gathering import REPLAYS, Bundles, bundles_of, replays_in
from server.bench.graph_svg import svg
from server.bench.graphing import heat_of, show
from server.bench.played import Journal, played_in_journal
from server.options import settings_of
from server.owner import Told, owner_of
from server.tend.working import bar, ended

FAILED = ("failed", "xpassed")
Item = TypeVar("Item")
Result = TypeVar("Result")
Asked = tuple[str, Replay]
"""The project's folder, and a replay of one of its machines."""


def cover(options: dict[str, Any]) -> int:
    """Measure coverage and tell it; 1 where a threshold isn't met. Raises UsageError, DesignError."""
    form, output = options.pop("form"), options.pop("output")
    wanted = thresholds(options.pop("fail_under"))
    machines = machines_of(options.get("project") or Path(), options.pop("machines"))
    if form == "graph" and len(machines) > 1:
        raise click.UsageError(f"a graph is of one machine: name one of {', '.join(machines)}")
    reports = _reports(machines, options)
    under = {report.machine.name: report.under(wanted) for report in reports}
    show(_TOLD[form](reports, under), output)
    return int(any(under.values()))


def _reports(machines: Mapping[str, Machine], options: dict[str, Any]) -> list[Report]:
    """A report for each machine; where the journal can't be asked the command ends."""
    folder, jobs = options.pop("replays"), options.pop("jobs") or cores()
    project = options.get("project") or Path()
    tested = played_all(project, machines, folder or project / REPLAYS, jobs)
    explored = explored_all(project, machines, jobs) if options.pop("explore") else {}
    journals = _journals(machines, options)
    return [
        report_of(machine, tested[name], explored.get(name), journals.get(name)) for name, machine in machines.items()
    ]


def _journals(machines: Mapping[str, Machine], options: dict[str, Any]) -> dict[str, Journal]:
    told = Told(options.pop("url"), options.pop("token"))
    if not (options.pop("journal") or options.get("store") or told.url):
        return {}
    settings, found = settings_of(options), dict[str, Journal]()

    async def work() -> int:
        async with owner_of(settings, told) as owner:
            found.update(await played_in_journal(owner, machines.values()))
        return 0

    if code := ended(work()):
        sys.exit(code)
    return found


def machines_of(project: Path, names: Iterable[str]) -> dict[str, Machine]:
    """The machines of a project that are named, all where none is. Raises UsageError, DesignError."""
    return {name: loader.load(files) for name, files in bundles_of(project, names).items()}


def thresholds(written: str | None) -> dict[Kind, float]:
    """`90`, `edges=100,guards=95`, or both: a number alone is for edges, guards and endings. Raises UsageError."""
    found: dict[Kind, float] = {}
    named: dict[Kind, float] = {}
    for part in [] if written is None else written.split(","):
        kind, is_named, number = part.rpartition("=")
        if is_named:
            named[_kind(kind.strip())] = _percent(number)
        else:
            found |= dict.fromkeys(GATED, _percent(number))
    return found | named


def _kind(name: str) -> Kind:
    if name not in KINDS:
        meant = nearest(name, KINDS)
        hint = f"did you mean '{meant}'?" if meant else f"there is {', '.join(KINDS)}"
        raise click.UsageError(f"--fail-under knows no '{name}': {hint}")
    return name


def _percent(number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1
    if not 0 <= value <= 100:  # noqa: PLR2004 - percent
        raise click.UsageError(f"--fail-under wants percent from 0 to 100, or KIND=PERCENT, and not '{number}'")
    return value


# Replays.


def played_all(project: Path, machines: Mapping[str, Machine], folder: Path, jobs: int) -> dict[str, OfReplays]:
    """What the replays of a folder hit of each machine. Raises DesignError with every fault of their files."""
    found, faults = replays_in(project, folder)
    known = loader.read_project(project)
    faults += [fault for replay in found for fault in _against(machines, known, replay)]
    if faults:
        raise DesignError(sorted(set(faults)))
    replays = [each for each in found if each.given.machine in machines]
    items: list[Asked] = [(str(project), each) for each in replays]
    parts: dict[str, list[Coverage]] = {name: [] for name in machines}
    failed: dict[str, list[str]] = {name: [] for name in machines}
    came = dict(_shown("playing replays", items, play_one, project, jobs))
    for number, replay in enumerate(replays):  # in their order, whichever process was first
        coverage, verdict = came[number]
        parts[replay.given.machine].append(coverage)
        if verdict in FAILED:
            failed[replay.given.machine].append(replay.id)
    return {name: OfReplays(merged(*parts[name]), len(parts[name]), tuple(sorted(failed[name]))) for name in machines}


def _against(machines: Mapping[str, Machine], known: Iterable[str], replay: Replay) -> list[Finding]:
    """What a replay asks of its machine that isn't there; nothing of one that isn't measured."""
    name = replay.given.machine
    if name in machines:
        return findings_against(machines[name], replay)
    if name in known:
        return []
    place = replay.places.get("given.machine", (replay.file, 1, 1))
    return [Finding(*place, UNKNOWN, f"no machine '{name}'{did_you_mean(name, known, 'There is ' + ', '.join(known))}")]


def play_one(asked: Asked) -> tuple[Coverage, str]:
    """What one replay hits, up to where it fails, and its verdict."""
    project, replay = asked
    machine = _loaded(project, replay.given.machine)
    result = asyncio.run(played(replay, machine))
    return seen(machine, result.came), result.verdict


def explored_all(project: Path, machines: Mapping[str, Machine], jobs: int) -> dict[str, Explored]:
    """What a quick exploration hits of each machine."""
    names = list(machines)
    items = [(str(project), name) for name in names]
    found = _shown("exploring", items, explore_one, project, jobs)
    return {names[number]: explored for number, explored in sorted(found, key=itemgetter(0))}


def _shown(
    doing: str, items: Sequence[Item], work: Callable[[Item], Result], project: Path, jobs: int
) -> Iterator[tuple[int, Result]]:
    """Work shared out over processes, with a bar on a terminal."""
    with bar(doing) as (shown, task):
        shown.update(task, total=len(items))
        for found in shared_out(work, items, jobs, prepare, (str(project),)):
            shown.advance(task)
            yield found


def explore_one(asked: tuple[str, str]) -> Explored:
    """What a quick exploration hits of one machine."""
    project, name = asked
    explored = quick(_loaded(project, name))
    why: dict[tuple[str, Any], str] = {(goal.kind, goal.key): said for goal, said in explored.not_covered}
    return Explored(explored.coverage, why, explored.bounded)


def prepare(project: str) -> None:
    """Read the project's files, once in each process; a machine is loaded when it is asked for."""
    _loaded.cache_clear()
    _read.cache_clear()
    _read(project)


@cache
def _read(project: str) -> Bundles:
    return bundles_of(Path(project), ())


@cache
def _loaded(project: str, name: str) -> Machine:
    return loader.load(_read(project)[name])


# How it is told.


def _as_text(reports: list[Report], under: Mapping[str, list[Under]]) -> str:
    return "\n\n".join("\n".join(text(report, under[report.machine.name])) for report in reports) + "\n"


def _as_json(reports: list[Report], under: Mapping[str, list[Under]]) -> str:
    told = {"machines": [as_json(report, under[report.machine.name]) for report in reports]}
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def _as_html(reports: list[Report], under: Mapping[str, list[Under]]) -> str:
    return page(reports, under)


def _as_graph(reports: list[Report], _: Mapping[str, list[Under]]) -> str:
    (report,) = reports
    return svg(report.machine, heat_of(report.together, "Turns of tests and players."))


_TOLD = {"text": _as_text, "json": _as_json, "html": _as_html, "graph": _as_graph}
