"""Replays as pytest has them: read at their file's place, and played on their project's machines."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

from msgspec import Struct

from runtime import loader
from runtime.bench import failed
from runtime.bench.against import findings_against
from runtime.bench.modes import Mode
from runtime.bench.player import Result, played
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays, text_of
from runtime.bench.updating import NotUpdated, updated
from runtime.errors import DesignError, MachineNotFound
from runtime.machine import Machine
from runtime.request import nearest
from server.tend.changing import whole_file
from server.tend.pages import clean
from server.typed import typed

_LINE_END = re.compile("\r\n|[\r\n]")

__all__ = ["NotUpdated", "keep_run", "named", "played_in_project", "replays_of", "rewrite", "told", "update"]


def replays_of(path: Path, root: Path) -> tuple[tuple[Replay, ...], list[str]]:
    """The replays of a file, named as seen from a folder, and its faults as they are printed."""
    file = named(path, root)
    try:
        text = text_of(str(path))
    except (OSError, UnicodeDecodeError) as error:
        return (), [f"{file}: can't be read as UTF-8: {error}"]
    replays, findings = read_replays(file, text, lambda other: text_of(str(root / other)))
    return replays, [str(finding) for finding in findings]


def named(path: Path, root: Path) -> str:
    """A file's name as seen from a folder."""
    return Path(os.path.relpath(path, root)).as_posix()


def project_of(path: Path) -> Path:
    """The project that a file is of: the nearest folder above it with machines/. Raises MachineNotFound."""
    for folder in path.resolve().parents:
        if (folder / loader.MACHINES).is_dir():
            return folder
    raise MachineNotFound(f"no folder above {path} has machines/", "Put the replay into a project's replays/.")


def played_in_project(replay: Replay, path: Path, mode: Mode, *, is_updated: bool = False) -> Result:
    """Play a replay on the machine that its project has. Raises DesignError, MachineNotFound."""
    machine = machine_of(project_of(path), replay.given.machine)
    if findings := findings_against(machine, replay, is_updated=is_updated):
        raise DesignError(findings)
    return failed.located(asyncio.run(played(replay, machine, mode=mode)), machine)


def told(result: Result, path: Path, mode: Mode) -> str:
    """What is otherwise than a file says, and how to play the run again, which is kept; '' where all is right."""
    run = failed.failed_text(result) if result.verdict == "failed" else ""
    kept = keep_run(result.replay, path, project_of(path), run)
    return "\n".join([*failed.told(result), *(f"  {line}" for line in kept.lines(mode))])


@cache
def machine_of(project: Path, name: str) -> Machine:
    """A machine of a project. Raises MachineNotFound, DesignError with all its faults."""
    bundles = _bundles(project)
    if name not in bundles:
        meant = nearest(name, bundles)
        mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(bundles)}."
        raise MachineNotFound(f"there is no machine '{name}'", mend)
    return loader.load(bundles[name])


@cache
def _bundles(project: Path) -> Mapping[str, Mapping[str, str]]:
    return loader.read_project(project)


def update(path: Path, root: Path, mode: Mode) -> bool:
    """Let a file's replays expect what comes; whether anything was written. Raises NotUpdated, and as playing does."""

    def change(text: str) -> str:
        return updated(
            named(path, root), text, lambda replay: played_in_project(replay, path, mode, is_updated=True),
            lambda other: text_of(str(root / other)),
        )  # fmt: skip

    return rewrite(path, change)


def rewrite(path: Path, change: Callable[[str], str]) -> bool:
    """Change a text in its file, line ends and mark kept; whether it was. Raises UnicodeDecodeError, OSError."""
    whole = path.read_bytes().decode("utf-8")
    text = _LINE_END.sub("\n", whole.removeprefix("\ufeff"))
    changed = change(text)
    if changed == text:
        return False
    mark = "\ufeff" if whole.startswith("\ufeff") else ""
    with whole_file(path) as out:
        out.write((mark + _ended(changed, text, _LINE_END.findall(whole))).encode())
    return True


def _ended(changed: str, text: str, ends: list[str]) -> str:
    """A text whose lines end as they ended before it was changed; new ones as those that they replace, or the first."""
    before, after = text.split("\n"), changed.split("\n")
    new = [ends[0] if ends else "\n"] * len(after)
    for _, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for old, at in zip(range(start, min(end, len(ends))), range(new_start, new_end), strict=False):
            new[at] = ends[old]
    return "".join(f"{line}{end}" for line, end in zip(after[:-1], new, strict=False)) + after[-1]


class Kept(Struct, frozen=True):
    """Where a failed run is kept, '' for none; `why` says what kept it from being written."""

    file: str = ""
    why: str = ""

    def lines(self, mode: Mode) -> tuple[str, ...]:
        """How to play it again as it was played, or why it isn't there."""
        if self.why:
            return (f"the run is not kept: {clean(self.why)}",)
        more = () if mode == "structure" else ("--mode", mode)
        return (f"play it again: {clean(typed('replay', self.file, *more))}",) if self.file else ()


def keep_run(replay: Replay, file: Path, project: Path, run: str) -> Kept:
    """Keep the text of a failed run of a file's replay in the project; without one, the run of before no longer."""
    folder = project / failed.FOLDER
    if file.resolve().is_relative_to(folder.resolve()):
        return Kept(str(file) if run else "")
    kept = folder / failed.failed_name(named(file, project) + replay.id.removeprefix(replay.file))
    try:
        if run:
            _keep(kept, run)
        elif kept.exists():
            kept.unlink(missing_ok=True)
    except OSError as error:
        return Kept(why=str(error))
    return Kept(os.path.relpath(kept) if run else "")


def _keep(kept: Path, run: str) -> None:
    """Write a run, and let no version control see it. Raises OSError."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    (kept.parents[1] / ".gitignore").write_text("*\n", encoding="utf-8")
    kept.write_text(run, encoding="utf-8", newline="\n")
