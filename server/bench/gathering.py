"""What a bench command works on: machines by name, and the replays of a project, read at their places."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from runtime import loader
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays, replay_files, text_of
from runtime.errors import DesignError, Finding
from runtime.request import nearest

REPLAYS = "replays"
"""Where a project's replays stand."""
HOW_TO_MAKE_ONE = (
    "`edgewise paths MACHINE --cover guards --write replays/MACHINE` writes replays, "
    "`edgewise record SESSION` makes one of what was played"
)
"""What is told where there are none."""
Bundles = dict[str, dict[str, str]]
"""Machine → its files, path → text."""


def bundles_of(project: Path, names: Iterable[str]) -> Bundles:
    """The files of the machines that are named, of all where none is. Raises UsageError, DesignError."""
    try:
        bundles = loader.read_project(project)
    except DesignError as error:
        if (project / loader.MACHINES).is_dir() and any((project / loader.MACHINES).glob("*.yaml")):
            raise
        message = f"{project} holds no machine: there is no machines/*.yaml. `edgewise init DIR` makes a project."
        raise click.UsageError(message) from error
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in bundles:
            meant = nearest(name, bundles)
            mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(bundles)}."
            raise click.UsageError(f"there is no machine '{name}'. {mend}")
    return {name: bundles[name] for name in bundles if not wanted or name in wanted}


def replays_in(project: Path, folder: Path) -> tuple[list[Replay], list[Finding]]:
    """The replays below a folder, their files named as seen from the project, and every fault of the files."""
    found: list[Replay] = []
    faults: set[Finding] = set()
    for file in replay_files([folder] if folder.exists() else []):
        name = Path(os.path.relpath(file, project)).as_posix()
        try:
            text = text_of(str(file))
        except (OSError, UnicodeDecodeError) as error:
            faults.add(Finding(name, 1, 1, "E002", f"the file can't be read as UTF-8: {error}"))
            continue
        replays, findings = read_replays(name, text, lambda other: text_of(str(project / other)))
        found += replays
        faults.update(findings)
    return found, sorted(faults)


def by_machine(replays: Iterable[Replay], machines: Iterable[str]) -> Mapping[str, list[Replay]]:
    """The replays of each of some machines."""
    found: dict[str, list[Replay]] = {name: [] for name in machines}
    for replay in replays:
        if replay.given.machine in found:
            found[replay.given.machine].append(replay)
    return found


@contextmanager
def writing_to(place: Path) -> Iterator[Path]:
    """Write to a file or into a folder that was named. Raises UsageError where that can't be."""
    try:
        yield place
    except (OSError, click.FileError) as error:
        why = error.message if isinstance(error, click.FileError) else error.strerror or error
        raise click.UsageError(f"{place} can't be written: {why}.") from None
