"""Replays as pytest has them: read at their file's place, and played on their project's machines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from runtime import loader
from runtime.bench.against import findings_against
from runtime.bench.modes import Mode
from runtime.bench.player import Result, played
from runtime.bench.replay import Replay, ReplayStep
from runtime.bench.replay_file import read_replays, text_of
from runtime.errors import DesignError, MachineNotFound
from runtime.flow_yaml import flow
from runtime.machine import Machine
from runtime.request import nearest
from server.tend.pages import clean


def replays_of(path: Path, root: Path) -> tuple[tuple[Replay, ...], list[str]]:
    """The replays of a file, named as seen from a folder, and its faults as they are printed."""
    file = Path(os.path.relpath(path, root)).as_posix()
    try:
        text = text_of(str(path))
    except (OSError, UnicodeDecodeError) as error:
        return (), [f"{file}: can't be read as UTF-8: {error}"]
    replays, findings = read_replays(file, text, lambda other: text_of(str(root / other)))
    return replays, [str(finding) for finding in findings]


def project_of(path: Path) -> Path:
    """The project that a file is of: the nearest folder above it with machines/. Raises MachineNotFound."""
    for folder in path.resolve().parents:
        if (folder / loader.MACHINES).is_dir():
            return folder
    raise MachineNotFound(f"no folder above {path} has machines/", "Put the replay into a project's replays/.")


def played_in_project(replay: Replay, path: Path, mode: Mode) -> Result:
    """Play a replay on the machine that its project has. Raises DesignError, MachineNotFound."""
    machine = machine_of(project_of(path), replay.given.machine)
    if findings := findings_against(machine, replay):
        raise DesignError(findings)
    return asyncio.run(played(replay, machine, mode=mode))


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


def told(result: Result) -> str:
    """What is otherwise than a replay's file says: where, what was expected, what came, and why."""
    found = result.difference
    if found is None:
        return ""
    step = result.replay.steps[found.step - 1] if found.step else None
    place = f"{result.replay.file}:{step.line}" if step else result.replay.file
    lines = [f"{place} step {found.step}{_done(step)}: {found.field}"]
    if found.field == "prompt":
        return "\n".join([*lines, found.why])
    lines += [f"  expected: {_shown(found.expected)}", f"  got:      {_shown(found.got)}"]
    return "\n".join([*lines, *(f"  {line}" for line in found.why.splitlines())])


def _done(step: ReplayStep | None) -> str:
    if step is None:
        return " (given)"
    chosen = step.choose
    if chosen is None:
        return f" (send {step.send})" if step.send else ""
    named = next(value for value in (chosen.key, chosen.kind, chosen.text, chosen.id) if value is not None)
    return f" (choose {named})"


def _shown(value: Any) -> str:
    return "nothing" if value is None else clean(flow(value))
