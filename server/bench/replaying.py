"""`edgewise replay`: plays replays, says of each whether it went as its file says, and keeps the runs that did not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime.bench import failed
from runtime.bench.against import findings_against
from runtime.bench.expecting import Came
from runtime.bench.modes import Mode
from runtime.bench.player import Result, played
from runtime.bench.pool import cores, shared_out
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays, replay_files
from runtime.bench.updating import NotUpdated, updated
from runtime.errors import DesignError, Refusal
from runtime.machine import Machine
from server.bench.collecting import keep_run, machine_of, project_of, replays_of, rewrite
from server.bench.gathering import REPLAYS
from server.bench.remote import Shown, played_at
from server.build import narrator_of
from server.options import settings_of
from server.owner import Told, owner_of
from server.tend.pages import clean
from server.tend.working import ended, told_as_json

FAULTY = "faulty"
"""The verdict of what could not be played: its file, or its machine, has faults."""
BAD = frozenset({"failed", "xpassed", FAULTY})
_WORTH_A_PROCESS = 40
"""How many replays another process is worth beginning for: it must load the machines anew."""
_MOST_NAMES = 12
"""How many replays that fail for the same reason are named; `--format json` names each."""
_COLOURS = {
    "passed": "green",
    "failed": "red",
    "xpassed": "red",
    FAULTY: "red",
    "xfailed": "yellow",
    "skipped": "yellow",
}


class Item(Struct, frozen=True):
    """A replay to be played, and the project whose machine it plays."""

    replay: Replay
    project: Path
    mode: Mode


class Report(Struct, frozen=True, kw_only=True):
    """What is said of one replay; `lines` tell why it is bad, `run` is the text that is kept of it.

    `again` says how to play that again; `not_looked_at` is what it expects and nobody could judge.
    `cause` is the same for what is bad for the same reason, which is told once; None stands alone.
    """

    id: str
    verdict: str
    reason: str = ""
    difference: Mapping[str, Any] | None = None
    lines: tuple[str, ...] = ()
    run: str = ""
    failed_run: str = ""
    again: tuple[str, ...] = ()
    not_looked_at: tuple[str, ...] = ()
    cause: Hashable = None


def replay(options: dict[str, Any]) -> int:
    """Play the replays at some paths; 1 where one of them is bad, else 0. Raises UsageError."""
    _refuse_mixed(options)
    project, mode = options["project"], options["mode"]
    paths = options["paths"] or [(project or Path()) / REPLAYS]
    files = replay_files(path for path in paths if path.exists())
    if not files:
        where = ", ".join(map(str, paths))
        raise click.UsageError(f"no *.replay.yaml is in {where}. `edgewise record` makes one of a session.")
    notes = _updates(files, project, mode) if options["is_update"] else []
    items, reports = _read(files, project, mode)
    if options["url"]:
        reports += _played_elsewhere(items, options, notes)
    elif mode == "rerun":
        reports += _told_anew(items, options)
    else:
        reports += _played(items, options["jobs"] or cores())
    _show(reports, notes, options["form"])
    return int(any(report.verdict in BAD for report in reports))


def _read(files: Iterable[Path], project: Path | None, mode: Mode) -> tuple[list[Item], list[Report]]:
    """The replays of all files, and a report of each file that has faults."""
    items, faulty = [], []
    for file in files:
        replays, faults = replays_of(file, Path())
        items += [Item(each, project or project_of(file), mode) for each in replays]
        if faults:
            faulty.append(Report(id=str(file), verdict=FAULTY, lines=tuple(faults)))
    return items, faulty


# Playing.


def _played(items: Sequence[Item], jobs: int) -> list[Report]:
    """A report of each, in their order; several processes only where that is worth it."""
    worth = min(jobs, 1 + len(items) // _WORTH_A_PROCESS)
    reports: dict[int, Report] = {}
    with click.progressbar(length=len(items), label="replays", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for number, report in shared_out(_play, items, worth):
            reports[number] = report
            bar.update(1)
    return [_kept(reports[number], item) for number, item in enumerate(items)]


def _play(item: Item) -> Report:
    return asyncio.run(_report(item, partial(played, mode=item.mode)))


def _refuse_mixed(options: Mapping[str, Any]) -> None:
    """Refuse what a server elsewhere can't be asked. Raises UsageError."""
    if options["url"] and (options["mode"] != "structure" or options["is_update"]):
        raise click.UsageError("--url plays by the rules of a server: leave out --mode and --update.")


def _played_elsewhere(items: Sequence[Item], options: dict[str, Any], notes: list[str]) -> list[Report]:
    """A report of each, as a server plays it; noted is which machines it has in another version."""
    settings = settings_of({"project": options["project"]})
    reports: list[Report] = []

    async def work() -> int:
        async with owner_of(settings, Told(options["url"], options["token"])) as owner:
            served = {each["name"]: each["digest"] for each in (await owner.ask("GET", "/machines"))["items"]}
            reports.extend([replace(await _report(item, partial(played_at, owner)), run="") for item in items])
        for name in sorted({item.replay.given.machine for item in items}):
            notes.extend(_otherwise(name, served, items))
        return 0

    if code := ended(work()):
        sys.exit(code)
    return reports


def _otherwise(name: str, served: Mapping[str, str], items: Sequence[Item]) -> Iterator[str]:
    """What is said of a machine that a server has otherwise, or not at all."""
    project = next(item.project for item in items if item.replay.given.machine == name)
    try:
        own = machine_of(project, name).digest
    except (DesignError, Refusal):
        return
    if served.get(name, own) != own:
        yield f"machine '{name}' of the server is another version than this project's"


async def _report(item: Item, play: Callable[[Replay, Machine], Awaitable[Result]]) -> Report:
    """A report of a replay, as it is played; of what can't be played, what is wrong with it."""
    try:
        machine = machine_of(item.project, item.replay.given.machine)
        if findings := findings_against(machine, item.replay):
            return _faulty(item, map(str, findings))
    except DesignError as error:
        return _faulty(item, (f"machine '{item.replay.given.machine}': {each}" for each in error.findings))
    except Refusal as refusal:
        return _faulty(item, [f"{refusal.message}. {refusal.hint}"])
    return _told(failed.located(await play(item.replay, machine), machine), item.mode)


def _faulty(item: Item, lines: Iterable[str]) -> Report:
    told = tuple(lines)
    return Report(id=item.replay.id, verdict=FAULTY, lines=told, cause=told)


def _told(result: Result, mode: Mode) -> Report:
    found = result.difference
    anew = tuple(_anew(result.came)) if mode == "rerun" else ()
    is_bad = result.verdict == "failed"
    return Report(
        id=result.replay.id,
        verdict=result.verdict,
        reason=result.reason,
        not_looked_at=result.not_looked_at if isinstance(result, Shown) else (),
        difference=None if found is None else msgspec.to_builtins(found),
        lines=(*anew, *(failed.told(result) if is_bad else ())),
        run=failed.failed_text(result) if is_bad else "",
        cause=_cause(result) if is_bad else None,
    )


def _cause(result: Result) -> Hashable:
    """What a failure has in common with another one that came of the same: of the same edge, field and reason.

    Values of variables and words that were told are other ones in each play.
    """
    found = result.difference
    if found is None or found.step == 0:
        return None
    came = result.came[found.step - 1]
    edge = came.turn.outcome.edge if came.turn is not None else str(came.refusal)
    is_ruled = "." not in found.field and found.field not in came.step.expect.texts
    values = (repr(found.expected), repr(found.got)) if is_ruled else ()
    return result.replay.given.machine, found.field, edge, values


def _anew(came: Iterable[Came]) -> Iterator[str]:
    """A line for each turn that was told anew: by whom, over which rungs, at what cost."""
    for each in came:
        if each.answer is not None and each.prompt is not None:
            meta = each.answer["payload"]["meta"]
            tokens = meta["usage"]["prompt_tokens"] + meta["usage"]["completion_tokens"]
            edge, rungs = each.answer["payload"]["outcome"]["edge"], ", ".join(meta["rungs"])
            yield f"step {each.number} {edge}: {meta['model'] or meta['narrator']}, {rungs}, {tokens:,} tokens"


def _told_anew(items: Sequence[Item], options: dict[str, Any]) -> list[Report]:
    """A report of each, as the configured narrator tells it now."""
    settings = settings_of({"project": options["project"], "narrator": options["narrator"]})
    narrator = narrator_of(settings)
    if narrator.name == "offline":
        raise click.UsageError("there is no model to ask again: the narrator is offline. Add --narrator openai.")

    async def work() -> list[Report]:
        await narrator.open()
        try:
            return [await _report(item, partial(played, narrator=narrator, mode=item.mode)) for item in items]
        finally:
            await narrator.close()

    reports: list[Report] = []

    async def worked() -> int:
        reports.extend(await work())
        return 0

    if code := ended(worked()):
        sys.exit(code)
    return [_kept(report, item) for report, item in zip(reports, items, strict=True)]


# What is kept of a failure.


def _kept(report: Report, item: Item) -> Report:
    """The report with where its run is kept; what failed before and passes now is kept no longer."""
    kept = keep_run(item.replay, Path(item.replay.file), item.project, report.run)
    return replace(report, failed_run=kept.file, again=kept.lines(item.mode))


# Making files expect what came.


def _updates(files: Iterable[Path], project: Path | None, mode: Mode) -> list[str]:
    """Write what comes into the files; a line for each that changed, or couldn't. Raises UsageError."""
    if os.environ.get("CI"):
        raise click.UsageError("--update is not for CI: run it where you read what it changes, and commit that.")
    if mode == "rerun":
        raise click.UsageError("--update writes what always comes; what a model tells anew is another thing each time.")
    return [line for file in files if (line := _update(file, project or project_of(file), mode))]


def _update(file: Path, project: Path, mode: Mode) -> str:
    def change(text: str) -> str:
        if read_replays(str(file), text)[1]:
            return text
        return updated(str(file), text, lambda each: _result(each, project, mode))

    try:
        return f"updated: {file}" if rewrite(file, change) else ""
    except (UnicodeDecodeError, DesignError, Refusal):
        return ""
    except NotUpdated as error:
        return f"not updated: {file}: {error}"


def _result(each: Replay, project: Path, mode: Mode) -> Result:
    machine = machine_of(project, each.given.machine)
    if findings := findings_against(machine, each, is_updated=True):
        raise DesignError(findings)
    return asyncio.run(played(each, machine, mode=mode))


# Showing.


def _show(reports: Sequence[Report], notes: Sequence[str], form: str) -> None:
    counts = Counter(report.verdict for report in reports)
    if unseen := sum(bool(report.not_looked_at) for report in reports):
        counts["not wholly looked at"] = unseen
    if form == "json":
        names = [name for name in Report.__struct_fields__ if name not in ("run", "again", "cause")]
        listed = [{name: getattr(each, name) for name in names} for each in reports]
        told_as_json({"replays": msgspec.to_builtins(listed), "counts": dict(counts), "notes": list(notes)})
        return
    for note in notes:
        click.echo(clean(note))
    for report, others in _grouped(reports):
        for line in (*_lines(report), *_also(others)):
            click.echo(line)
    told = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(counts.items()))
    click.echo(f"{len(reports):,} {'replay' if len(reports) == 1 else 'replays'}: {told}")


def _grouped(reports: Iterable[Report]) -> list[tuple[Report, list[str]]]:
    """The reports in their order, each cause once: with the names of the others that it has made bad."""
    groups: dict[Hashable, tuple[Report, list[str]]] = {}
    for number, report in enumerate(reports):
        cause = number if report.cause is None else (report.verdict, report.cause)
        _, others = groups.setdefault(cause, (report, []))
        others.append(report.id)
    return [(report, names[1:]) for report, names in groups.values()]


def _also(names: Sequence[str]) -> Iterator[str]:
    """The replays that are bad for the reason that was told above."""
    if names:
        more = f", … and {len(names) - _MOST_NAMES:,} others" if len(names) > _MOST_NAMES else ""
        counted = "1 more replay" if len(names) == 1 else f"{len(names):,} more replays"
        yield f"  and {counted}: {', '.join(map(clean, names[:_MOST_NAMES]))}{more}"


def _lines(report: Report) -> Iterator[str]:
    reason = f" ({clean(report.reason)})" if report.reason else ""
    verdict = click.style(f"{report.verdict:<7}", fg=_COLOURS.get(report.verdict, "red"))
    yield f"{verdict} {clean(report.id)}{reason}"
    yield from (f"  {clean(line)}" for line in report.lines)
    yield from (f"  {line}" for line in report.again)
