"""`edgewise graph`: a machine as a picture, with the path of a session or the heat of a journal on it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from runtime import loader
from runtime.bench.coverage import Coverage
from runtime.machine import Machine
from server import graph
from server.bench.gathering import bundles_of, writing_to
from server.bench.graph_svg import svg
from server.bench.graph_terminal import NARROW, terminal
from server.bench.marks import BLANK, Marks, path_of
from server.bench.played import counted, played_in_journal
from server.options import settings_of
from server.owner import Owner, Told, owner_of
from server.tend.reading import path_of as session_path
from server.tend.reading import turns_of
from server.tend.working import ended

Draw = Callable[[Machine, Marks, str], str]
FORMATS: Mapping[str, Draw] = {
    "terminal": lambda machine, marks, language: terminal(machine, marks, language, _columns()),
    "svg": svg,
    "mermaid": graph.mermaid,
    "dot": graph.dot,
}


def draw(options: dict[str, Any]) -> int:
    """Draw a machine. Raises UsageError for a machine or a language that isn't there."""
    name, form, output = options.pop("machine"), options.pop("form"), options.pop("output")
    language, session, is_hot = options.pop("language") or "", options.pop("session"), options.pop("heat")
    told = Told(options.pop("url"), options.pop("token"))
    machine = loader.load(bundles_of(options.get("project") or Path(), [name])[name])
    if language and language not in machine.definition.languages:
        raise click.UsageError(f"{machine.name} offers {', '.join(machine.definition.languages)}, and no {language}")
    if session and is_hot:
        raise click.UsageError("--session and --heat are two pictures: give one of them")
    if not session and not is_hot:
        return show(FORMATS[form](machine, BLANK, language), output)
    settings = settings_of(options)

    async def work() -> int:
        async with owner_of(settings, told) as owner:
            marks = await _path(owner, machine, session) if session else await _heat(owner, machine)
        return show(FORMATS[form](machine, marks, language), output)

    return ended(work())


def show(picture: str, output: Path | None) -> int:
    """Print a text, or write it to a file; colour goes to a terminal only."""
    if output is None:
        click.echo(picture, nl=False)
    else:
        with writing_to(output):
            output.write_text(click.unstyle(picture), encoding="utf-8")
    return 0


async def _path(owner: Owner, machine: Machine, session: str) -> Marks:
    """The branch that a session's head stands on."""
    shown = await owner.ask("GET", session_path(session))
    played = shown["session"]["machine"]
    if played != machine.name:
        raise click.UsageError(f"session '{session}' plays {played}, and not {machine.name}")
    turns = {turn["turn"]: turn async for turn in turns_of(owner, session) if turn["kind"] in ("turn", "regenerate")}
    branch = []
    at = shown["session"]["turn"]
    while at in turns:
        branch.append(turns[at])
        at = turns[at]["parent"]
    taken = [(turn["turn"], turn["outcome"]["edge"], turn["outcome"]["to"]) for turn in reversed(branch)]
    return path_of(taken, f"The path of session {session}: {counted(len(taken), 'turn')}{_strange(machine, taken)}.")


def _strange(machine: Machine, taken: list[tuple[int, str, str]]) -> str:
    """What of a path this version of the machine doesn't have."""
    known = {edge.full_name for edge in machine.edges}
    gone = list(dict.fromkeys(edge for _, edge, _ in taken if edge not in known))
    return f"; this version has no edge {', '.join(gone)}" if gone else ""


async def _heat(owner: Owner, machine: Machine) -> Marks:
    journal = (await played_in_journal(owner, [machine]))[machine.name]
    return heat_of(journal.coverage, f"The journal has {journal.said}.")


def heat_of(coverage: Coverage, said: str = "") -> Marks:
    """The marks of what was counted."""
    return Marks(counts=coverage.edges, visits=coverage.states, said=said)


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else NARROW
