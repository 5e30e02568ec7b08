"""`edgewise check`: every fault of a project's machines, and of its own file, as file:line:col CODE message."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from runtime import loader, repeats
from runtime.errors import Finding
from runtime.request import nearest
from server import project_file
from server.settings import PROJECT_FILE


def check(project: Path, wanted: tuple[str, ...], form: str, *, strict: bool) -> int:
    """Print the findings of the machines named (all where none is); 1 where there are faults, else 0.

    `strict` counts warnings as faults. Raises UsageError for a machine that isn't there.
    """
    bundles = loader.read_project(project)
    _refuse_strangers(project, bundles, wanted)
    chosen = {name: files for name, files in bundles.items() if not wanted or name in wanted}
    findings = {name: loader.findings_of(files) for name, files in chosen.items()}
    own = [] if wanted else project_file.findings_of(project)
    found = [each for some in findings.values() for each in some] + own
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        _print(chosen, findings)
        _print_own(own)
    return int(any(each.is_fault or strict for each in found))


def _refuse_strangers(project: Path, bundles: dict[str, dict[str, str]], wanted: tuple[str, ...]) -> None:
    if not bundles:
        message = f"{project} holds no machine: there is no machines/*.yaml. `edgewise init DIR` makes a project."
        raise click.UsageError(message)
    for name in wanted:
        if name not in bundles:
            meant = nearest(name, bundles)
            mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(bundles)}."
            raise click.UsageError(f"there is no machine '{name}'. {mend}")


def _print(chosen: dict[str, dict[str, str]], findings: dict[str, list[Finding]]) -> None:
    for name, files in chosen.items():
        for each in findings[name]:
            click.echo(click.style(str(each), fg="red" if each.is_fault else "yellow"))
        faults = sum(each.is_fault for each in findings[name])
        warnings = len(findings[name]) - faults
        click.echo(f"{name}: {_count(faults, 'fault')}, {_count(warnings, 'warning')}")
        if not faults:
            for line in repeats.repeats(loader.load(files)):
                click.echo(f"  {line}")


def _print_own(own: list[Finding]) -> None:
    """The faults of the project's own file; it is not named where it has none."""
    for each in own:
        click.echo(click.style(str(each), fg="red"))
    if own:
        click.echo(f"{PROJECT_FILE}: {_count(len(own), 'fault')}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
