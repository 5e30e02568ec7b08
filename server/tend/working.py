"""Running a command against the journal's owner, and showing long work on its way."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from server.options import settings_of
from server.owner import Owner, Told, owner_of
from server.play.table import Refused
from server.tend.pages import aligned, clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

GOOD, FINDINGS, WRONG_USE, OUR_FAULT, INTERRUPTED = 0, 1, 2, 3, 130
NOT_THE_USERS = frozenset({"internal_error", "store_unavailable", "broken_off"})
"""Refusals that no other use of the command would have spared."""
NAMED = 8
"""How many sessions a finding names before it counts the rest."""

Steps = AsyncGenerator[Mapping[str, Any], None]


def tend(
    options: dict[str, Any],
    work: Callable[[Owner], Awaitable[int]],
    *,
    needs_project: bool = False,
    makes_journal: bool = False,
) -> NoReturn:
    """Do a command's work with the owner that its options name, and end with its exit code."""
    told = Told(options.pop("url"), options.pop("token"))
    settings = settings_of(options)

    async def worked() -> int:
        owner = owner_of(settings, told, needs_project=needs_project, makes_journal=makes_journal)
        async with owner as found:
            return await work(found)

    sys.exit(ended(worked()))


def ended(work: Awaitable[int]) -> int:
    """The exit code of work; what refuses it is said in a sentence."""

    async def awaited() -> int:
        return await work

    try:
        return asyncio.run(awaited())
    except Refused as refused:
        click.echo(f"{refused.message}. {refused.hint}".strip(), err=True)
        return OUR_FAULT if refused.error in NOT_THE_USERS else WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


def told_as_json(value: Any) -> None:
    """Print a value as one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


async def follow(steps: Steps, form: str, doing: str) -> Mapping[str, Any]:
    """Show work to its end: findings on standard output, a bar on standard error; the last step.

    As JSON each step is a line, as it came. Where it can't be shown any more, the work is ended.
    """
    async with aclosing(steps):
        return await (_as_lines(steps) if form == "json" else _as_bar(steps, doing))


async def _as_lines(steps: Steps) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {}
    async for last in steps:
        click.echo(json.dumps(last, ensure_ascii=False))
    return last


async def _as_bar(steps: Steps, doing: str) -> Mapping[str, Any]:
    last: Mapping[str, Any] = {}
    with bar(doing) as (shown, task):
        async for last in steps:
            if last["type"] == "progress":
                shown.update(task, completed=last["done"], total=last["total"] or None)
            elif last["type"] == "found":
                _say(shown, finding(last))
    return last


async def report(steps: Steps, form: str, doing: str) -> int:
    """Show work to its end, and its figures; the exit code: 0 good, 1 it found something wrong."""
    last = await follow(steps, form, doing)
    if form == "text":
        click.echo("\n".join(figures(last["facts"])))
    return GOOD if last["is_good"] else FINDINGS


def finding(step: Mapping[str, Any]) -> str:
    """One thing that was found, with the sessions that it touches where its sentence doesn't name them."""
    unnamed = [each for each in step["sessions"] if each not in step["what"]]
    named = ", ".join(unnamed[:NAMED]) + (f" and {len(unnamed) - NAMED} more" if len(unnamed) > NAMED else "")
    return clean(step["what"] + (f" ({named})" if named else ""))


def figures(facts: Mapping[str, Any]) -> list[str]:
    """What a work counted, a line each; what is inside others is not shown."""
    shown = {name: value for name, value in facts.items() if not isinstance(value, dict | list)}
    return aligned([(name.replace("_", " "), _told(value)) for name, value in shown.items()])


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else clean(str(value))


@contextmanager
def bar(doing: str) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on standard error, where that is a terminal."""
    from rich import progress  # noqa: PLC0415 - takes longer to import than a list to print
    from rich.console import Console  # noqa: PLC0415 - the same

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    is_live = console.is_terminal
    with progress.Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False, disable=not is_live
    ) as shown:
        yield shown, shown.add_task(doing, total=None)


def _say(shown: Progress, line: str) -> None:
    """Print a line, above the bar where both are on the terminal."""
    if not shown.disable and sys.stdout.isatty():
        shown.console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        click.echo(line)
