"""`edgewise explore` and `edgewise paths`: plays that nobody wrote, what they found, and how to play it again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from runtime.bench import failed, wander
from runtime.bench.coverage import KINDS, Share, goals
from runtime.bench.explore import Explored, quick
from runtime.bench.finding import Bug
from runtime.bench.paths import KINDS as COVERED
from runtime.bench.paths import Cover, Paths, cover
from runtime.bench.player import played
from runtime.bench.pool import cores, shared_out
from runtime.bench.replay import SUFFIX, Replay, ReplayStep
from runtime.bench.wander import Wandered, Wandering
from runtime.bench.written import written
from server.bench.covering import machines_of
from server.bench.gathering import writing_to
from server.bench.played import counted
from server.tend.changing import whole_file
from server.tend.pages import aligned, clean
from server.tend.working import told_as_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.machine import Machine

BAR_COLUMNS = 30
"""How wide the longest bar is."""
MOST_ROWS = 12
"""How many values of one variable are told, the most frequent first."""
PROPERTY = "properties."
"""How the field of a difference begins where a property is broken."""
_PATH_STEPS = 12
"""How many of a path's last moves stand in the line below a finding; the file has all."""


def explore(options: dict[str, Any]) -> int:
    """Explore the machines named; 1 where something is wrong or was not seen, else 0. Raises UsageError."""
    if options["plays"] and (options["is_hostile"] or options["is_quick"]):
        raise click.UsageError("--quick, --random and --hostile are three ways to explore: choose one.")
    if options["is_hostile"] and options["is_quick"]:
        raise click.UsageError("--quick, --random and --hostile are three ways to explore: choose one.")
    if (options["avoid_used"] or options["tells"] or options["language"]) and not options["plays"]:
        raise click.UsageError("--avoid-used, --tells and --language are for plays at random: add --random N.")
    project = options["project"] or Path()
    machines = machines_of(project, options["machines"])
    if options["plays"]:
        return _at_random(project, machines, options)
    if options["is_hostile"]:
        return _attacked(project, machines, options)
    return _searched(project, machines, options)


# Quick.


_LOADED: dict[str, Machine] = {}


def _load(project: str, names: tuple[str, ...]) -> None:
    """What each process needs once: the machines that are asked for, whatever is wrong with others."""
    _LOADED.update(machines_of(Path(project), names))


def _quick(asked: tuple[str, int, float | None]) -> Explored:
    name, budget, seconds = asked
    return quick(_LOADED[name], budget, seconds)


def _searched(project: Path, machines: Mapping[str, Machine], options: dict[str, Any]) -> int:
    asked = [(name, options["budget"], options["seconds"]) for name in machines]
    found = list(_shared(_quick, asked, options["jobs"], project, "exploring"))
    bugs = {bug: _kept(project, bug) for each in found for bug in each.bugs}
    if options["form"] == "json":
        told_as_json({each.machine: _explored_plain(each, bugs) for each in found})
    else:
        for each in found:
            _show(_explored_lines(each, bugs))
    return int(any(each.bugs or each.not_covered for each in found))


def _shared(
    work: Callable[[Any], Any], asked: Sequence[Any], jobs: int | None, project: Path, doing: str
) -> Iterator[Any]:
    """The results in the order of what was asked, with a bar while they come."""
    found: dict[int, Any] = {}
    names = tuple(dict.fromkeys(name for name, *_ in asked))
    with _bar(doing, len(asked)) as forward:
        for number, result in shared_out(work, asked, jobs or cores(), _load, (str(project), names)):
            found[number] = result
            forward()
    yield from (found[number] for number in range(len(asked)))


@contextmanager
def _bar(doing: str, length: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, on standard error."""
    from rich.console import Console  # noqa: PLC0415 - only where something is waited for
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(doing, total=length)
        yield lambda: progress.advance(task)


def _shares(found: Explored) -> Iterator[tuple[str, Share]]:
    """How much of each kind was seen; pairs and prompts aren't looked for."""
    for kind in KINDS:
        missed = sum(goal.kind == kind for goal, _ in found.not_covered)
        hit = len(found.coverage.of(kind))
        if kind not in ("pairs", "prompts"):
            yield kind, Share(hit, hit + missed)


def _explored_plain(found: Explored, bugs: Mapping[Bug, str]) -> dict[str, Any]:
    return {
        "turns": found.turns,
        "sessions": found.sessions,
        "is_whole": found.is_whole,
        "covered": {kind: {"hit": share.hit, "total": share.total} for kind, share in _shares(found)},
        "not_covered": [
            {"kind": goal.kind, "name": goal.name, "place": str(goal.place), "why": why}
            for goal, why in found.not_covered
        ],
        "bounded": list(found.bounded),
        "findings": [_bug_plain(bug, bugs[bug]) for bug in found.bugs],
    }


def _explored_lines(found: Explored, bugs: Mapping[Bug, str]) -> Iterator[str]:
    yield click.style(found.machine, bold=True)
    rows = [
        (f"  {kind}", f"{share.hit:,} of {share.total:,}", f"{share.percent:.0f}%") for kind, share in _shares(found)
    ]
    yield from aligned(rows)
    for goal, why in found.not_covered:
        yield click.style(
            f"  not seen: {goal.kind.removesuffix('s')} {goal.name} ({goal.place}): {clean(why)}", fg="yellow"
        )
    for bug in found.bugs:
        yield from bug_lines(bug, bugs[bug])
    yield from (f"  {line}" for line in found.bounded)


# At random.


def _wander(asked: tuple[str, Wandering, tuple[int, int]]) -> Wandered:
    name, wandering, chunk = asked
    return wander.wander(_LOADED[name], wandering, chunk)


def _at_random(project: Path, machines: Mapping[str, Machine], options: dict[str, Any]) -> int:
    wandering = Wandering(
        options["seed"], options["plays"], options["avoid_used"], options["tells"], options["language"]
    )
    _refuse_language(machines, options["language"])
    asked = [(name, wandering, chunk) for name in machines for chunk in wander.chunks(wandering)]
    parts = list(_shared(_wander, asked, options["jobs"], project, "playing"))
    found = {
        name: wander.together([part for part, (of, _, _) in zip(parts, asked, strict=True) if of == name])
        for name in machines
    }
    bugs: dict[str, dict[Bug, str]] = {}
    for name, each in found.items():
        bugs[name] = {bug: _kept(project, bug) for bug in each.bugs}
    notes = {name: list(wander.repeated(machines[name], each)) for name, each in found.items()}
    if options["form"] == "json":
        told_as_json({name: _wandered_plain(each, wandering, bugs[name], notes[name]) for name, each in found.items()})
    else:
        for name, each in found.items():
            _show(_wandered_lines(machines[name], each, wandering, bugs[name]))
            _show(line for note in notes[name] for line in _note_lines(note))
    return int(any(bugs.values()))


def _note_lines(note: Bug) -> Iterator[str]:
    """What is worth knowing and no fault: nothing is kept of it."""
    yield click.style(f"  note: {note.where}: {clean(note.what)}", fg="yellow")
    if note.replay is not None:
        yield f"    seed {clean(note.seed)}: {path_of(note.replay.steps)}"


def _refuse_language(machines: Mapping[str, Machine], language: str | None) -> None:
    for name, machine in machines.items():
        offered = machine.definition.languages
        if language is not None and language not in offered:
            raise click.UsageError(f"machine '{name}' has no language '{language}'. It has: {', '.join(offered)}.")


def _wandered_plain(
    found: Wandered, wandering: Wandering, bugs: Mapping[Bug, str], notes: Sequence[Bug]
) -> dict[str, Any]:
    return {
        "plays": found.plays,
        "seed": wandering.seed,
        "turns": found.turns,
        "refused": found.refused,
        "endings": dict(_by_count(found.endings)),
        "lengths": {str(length): found.lengths[length] for length in sorted(found.lengths)},
        "values": {name: dict(_by_count(counts)) for name, counts in found.values.items()},
        "findings": [_bug_plain(bug, file) for bug, file in bugs.items()],
        "notes": [{"what": note.what, "where": note.where, "seed": note.seed or None} for note in notes],
    }


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _wandered_lines(machine: Machine, found: Wandered, wandering: Wandering, bugs: Mapping[Bug, str]) -> Iterator[str]:
    yield click.style(machine.name, bold=True)
    mean = found.turns / found.plays
    lengths = sorted(found.lengths)
    told = f"{counted(found.plays, 'play')} from seed {clean(wandering.seed)}, {counted(found.turns, 'turn')}"
    yield f"  {told}, {found.refused:,} refused"
    yield f"  turns in a play: {lengths[0]} to {lengths[-1]}, {mean:.1f} on average"
    unseen = [name for name, state in machine.definition.states.items() if state.is_final and name not in found.endings]
    endings = [(name or "(no ending)", count) for name, count in _by_count(found.endings)]
    yield from _bars("endings", [*endings, *((name, 0) for name in unseen)], found.plays)
    yield from _bars("turns", _ranges(found.lengths), found.plays)
    for name, counts in found.values.items():
        yield from _bars(name, _by_count(counts)[:MOST_ROWS], found.plays)
    for bug, file in bugs.items():
        yield from bug_lines(bug, file)


def _ranges(lengths: Mapping[int, int]) -> list[tuple[str, int]]:
    """Lengths in at most a dozen parts of equal width."""
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // MOST_ROWS)
    rows = []
    for start in range(low, high + 1, width):
        end = min(start + width - 1, high)
        count = sum(plays for length, plays in lengths.items() if start <= length <= end)
        rows.append((str(start) if end == start else f"{start}–{end}", count))
    return rows


def _bars(title: str, rows: Sequence[tuple[str, int]], whole: int) -> Iterator[str]:
    """A heading, and a line with a bar for each value."""
    yield f"  {clean(title)}"
    most = max((count for _, count in rows), default=0) or 1
    told = [
        (f"    {clean(name)}", f"{count:,}", f"{100 * count / whole:.1f}%", "█" * round(BAR_COLUMNS * count / most))
        for name, count in rows
    ]
    yield from aligned(told) if told else ()


# Hostile.


def _attacked(project: Path, machines: Mapping[str, Machine], options: dict[str, Any]) -> int:
    from runtime.bench.hostile import attack  # noqa: PLC0415 - a runtime and its store

    found = {name: asyncio.run(attack(machine, options["seed"])) for name, machine in machines.items()}
    bugs = {bug: _kept(project, bug) for each in found.values() for bug in each.bugs}
    if options["form"] == "json":
        told_as_json(
            {
                name: {"tried": dict(each.tried), "findings": [_bug_plain(bug, bugs[bug]) for bug in each.bugs]}
                for name, each in found.items()
            }
        )
    else:
        for name, each in found.items():
            _show([click.style(name, bold=True)])
            _show(aligned([(f"  {clean(what)}", f"{count:,}") for what, count in each.tried.items()]))
            for bug in each.bugs:
                _show(bug_lines(bug, bugs[bug]))
    return int(bool(bugs))


# What was found.


def bug_lines(bug: Bug, file: str) -> Iterator[str]:
    """A finding in lines: what and where, by which path, and the one command that plays it again."""
    yield click.style(f"  {bug.kind}: {bug.where}: {clean(bug.what)}", fg="red")
    seed = f"seed {clean(bug.seed)}, " if bug.seed else ""
    if bug.replay is not None:
        yield f"    {seed}{counted(len(bug.replay.steps), 'turn')}: {path_of(bug.replay.steps)}"
    yield f"    play it again: {command(bug, file)}"


def command(bug: Bug, file: str) -> str:
    """The one command that shows a finding again."""
    if file:
        return f"edgewise replay {clean(file)}"
    return f"edgewise explore {bug.machine}{f' --hostile --seed {clean(bug.seed)}' if bug.seed else ''}"


def path_of(steps: Sequence[ReplayStep]) -> str:
    """A path in a line: what was sent or chosen, with its dice."""
    told = [_move(step) for step in steps]
    cut = ["…"] if len(told) > _PATH_STEPS else []
    return " → ".join([*cut, *told[-_PATH_STEPS:]])


def _move(step: ReplayStep) -> str:
    chosen = step.choose
    name = step.send or (chosen and (chosen.key or chosen.kind or chosen.text or chosen.id)) or ""
    dice = ", ".join(f"{die} {value}" for die, value in step.dice.items())
    return clean(f"{name} ({dice})" if dice else str(name))


def _bug_plain(bug: Bug, file: str) -> dict[str, Any]:
    return {
        "kind": bug.kind,
        "what": bug.what,
        "where": bug.where,
        "seed": bug.seed or None,
        "turns": None if bug.replay is None else len(bug.replay.steps),
        "path": None if bug.replay is None else path_of(bug.replay.steps),
        "replay": file or None,
        "command": command(bug, file),
    }


def _kept(project: Path, bug: Bug) -> str:
    """Where the replay of a finding is kept, '' where it has none."""
    if bug.replay is None:
        return ""
    folder = project / failed.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    file = folder / failed.bug_name(bug.machine, bug.kind, bug.what, bug.replay)
    seed = f"\nseed {bug.seed}" if bug.seed else ""
    with whole_file(file) as out:
        out.write(written(bug.replay, f"{bug.kind}: {bug.where}: {bug.what}{seed}").encode())
    return os.path.relpath(file)


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


# Paths.


def paths(options: dict[str, Any]) -> int:
    """Find plays that cover a machine, hold them to the server, write them; 1 where one goal isn't covered."""
    project = options["project"] or Path()
    machine = machines_of(project, [options["machine"]])[options["machine"]]
    with _bar("searching", 1) as forward:
        found = cover(machine, options["kind"], options["budget"], options["seconds"])
        forward()
    broken = {each.name: bug for each in found.replays if (bug := _broken_in(each, machine)) is not None}
    sound = replace(found, replays=tuple(each for each in found.replays if each.name not in broken))
    files = _written(sound, machine.name, options["kind"], options["write"]) if options["write"] else {}
    bugs = {bug: _kept(project, bug) for bug in broken.values()}
    if options["form"] == "json":
        told_as_json(_paths_plain(found, files, bugs))
    else:
        _show(_paths_lines(found, machine, options["kind"], files))
        _show(line for bug, file in bugs.items() for line in bug_lines(bug, file))
    return int(bool(found.not_covered or bugs))


def _broken_in(replay: Replay, machine: Machine) -> Bug | None:
    """Hold a replay to what is served, before anyone relies on it: the property that it breaks, None where none."""
    result = asyncio.run(played(replay, machine))
    found = result.difference
    if result.verdict == "passed":
        return None
    if found is None or not found.field.startswith(PROPERTY):
        raise RuntimeError(f"the play '{replay.name}' is served otherwise: {found or result.reason}")
    name = found.field.removeprefix(PROPERTY)
    where = next((each.place for each in machine.properties if each.name == name), "")
    what = f"{name}: {found.expected}: {found.got}"
    shown = replace(replay, steps=replay.steps[: found.step])
    return Bug(kind="property", machine=machine.name, what=what, where=where, replay=shown)


def _written(found: Paths, machine: str, kind: str, folder: Path) -> dict[str, str]:
    """Write each play into a file of its own: its name → the file.

    Raises UsageError where that can't be, and before a foreign file is lost.
    """
    texts = {
        folder / f"{each.name.replace(' ', '-')}{SUFFIX}": written(
            each, f"{_about(each)}\nedgewise paths {machine} --cover {kind}"
        )
        for each in found.replays
    }
    for file, text in texts.items():
        if file.exists() and file.read_bytes() != text.encode():
            raise click.UsageError(f"{file} is there and is another play: remove it, or write into another folder.")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with whole_file(file) as out:
                out.write(text.encode())
    return {each.name: str(file) for each, file in zip(found.replays, texts, strict=True)}


def _about(replay: Replay) -> str:
    last = replay.steps[-1].expect
    end = f"refused with {last.error}" if last.error else f"to {last.state}"
    return f"{counted(len(replay.steps), 'turn')} {end}"


def _paths_plain(found: Paths, files: Mapping[str, str], bugs: Mapping[Bug, str]) -> dict[str, Any]:
    return {
        "goals": found.goals,
        "covered": found.goals - len(found.not_covered),
        "turns_searched": found.turns,
        "plays": [
            {
                "name": each.name,
                "turns": len(each.steps),
                "path": path_of(each.steps),
                "file": files.get(each.name),
                "replay": written(each),
            }
            for each in found.replays
        ],
        "not_covered": [
            {"kind": goal.kind, "name": goal.name, "place": str(goal.place), "why": why}
            for goal, why in found.not_covered
        ],
        "findings": [_bug_plain(bug, file) for bug, file in bugs.items()],
    }


def _covered(found: Paths, machine: Machine, kind: Cover) -> str:
    """`30 of 30 edges, 8 of 8 states, 3 of 3 endings`: what was asked for first."""
    wanted = Counter(goal.kind for goal in goals(machine, COVERED[kind]))
    missed = Counter(goal.kind for goal, _ in found.not_covered)
    kinds = sorted(wanted, key=lambda each: each != kind)
    return ", ".join(f"{wanted[each] - missed[each]:,} of {wanted[each]:,} {each}" for each in kinds)


def _paths_lines(found: Paths, machine: Machine, kind: Cover, files: Mapping[str, str]) -> Iterator[str]:
    rows = [(f"  {each.name}", _about(each), clean(files.get(each.name, ""))) for each in found.replays]
    yield from aligned(rows) if rows else ()
    turns = sum(len(each.steps) for each in found.replays)
    cover = "covers" if len(rows) == 1 else "cover"
    told = f"{counted(len(rows), 'play')} with {counted(turns, 'turn')} {cover}"
    yield f"{machine.name}: {told} {_covered(found, machine, kind)}"
    for goal, why in found.not_covered:
        yield click.style(
            f"  not covered: {goal.kind.removesuffix('s')} {goal.name} ({goal.place}): {clean(why)}", fg="yellow"
        )
