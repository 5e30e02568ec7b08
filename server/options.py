"""What commands have in common: options that several take, and the settings that they lead to.

Imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.settings import Settings

Command = TypeVar("Command", bound="Callable[..., Any]")


class FiniteRange(click.FloatRange):
    """A number of a range, and one that there is: `nan` is under no bound and over none, and so holds nothing."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number. Raises BadParameter where it isn't finite or isn't in the range."""
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


project_option = click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder with machines/ and prompts/; the current one by default.",
)
format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print."
)


def examples(*lines: str) -> str:
    """The end of a command's help: commands to copy, each a paragraph, so that none is joined with the next."""
    return "\n\n".join(("Examples:", *lines))


def tends(command: Command) -> Command:
    """Give a command the options that say whose journal it is about."""
    for option in (
        click.option("--token", envvar="EDGEWISE_TOKEN", help="An operator's token for --url."),
        click.option("--url", help="Ask this server: http://127.0.0.1:8000."),
        click.option("--store", help="The journal; the project's by default."),
        project_option,
    ):
        command = option(command)
    return command


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings with the command line's over them; an unusable one ends the command with its name."""
    from server.settings import SettingsError, load  # noqa: PLC0415 - see the module

    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    folder = Path(given.get("project") or "")
    try:
        found = load(given, dotenv=folder / ".env")
    except SettingsError as error:
        raise click.UsageError("\n".join(error.faults)) from None
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    return found
