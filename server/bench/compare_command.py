"""The command `edgewise compare`.

Imports stand inside the function, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from server.options import examples, format_option, project_option

TELLERS = click.Choice(["recorded", "offline", "openai"])


@click.command(
    epilog=examples(
        "edgewise compare haunted_house --against main",
        "edgewise compare haunted_house --against ../other --random 100 --seed a --output report.html",
        "edgewise compare haunted_house --narrator offline --with-narrator openai",
        "edgewise compare haunted_house --model deepseek-chat --with-model qwen3:8b",
    )
)
@click.argument("machine")
@project_option
@click.option("--against", metavar="DIR|REV", help="The other version: a project's folder, or a revision of git's.")
@click.option("--narrator", type=TELLERS, help="Who tells here; recorded by default: as a replay's answers have it.")
@click.option("--with-narrator", type=TELLERS, help="Who tells there; as here by default.")
@click.option("--model", help="The model here, which openai asks.")
@click.option("--with-model", help="The model there.")
@click.option("--random", "plays", type=click.IntRange(min=1), metavar="N", help="Play N random paths.")
@click.option("--seed", default="compare", show_default=True, help="Same seed, same paths; with --random.")
@click.option("--strict", "is_strict", is_flag=True, help="Other words and other prompts fail, too.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Paths at once; as many as there are cores by default.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write a report: .html or .md.")
@format_option
def compare(machine: str, **options: Any) -> None:
    """Play the same paths of MACHINE on two versions or with two narrators, and tell where they part.

    The paths are the machine's replays, else plays that cover the edges of both versions. Where the rules part
    (edge, state, context, routing, options, a die that falls) a path ends and both sides say why; where only words
    part, or the prompts that they are told by, it goes on. Edges that no path walked are named.

    Exit code 0: the states are the same; 1: they part, or with --strict the words or prompts do.
    """
    from server.bench import comparing  # noqa: PLC0415 - see the module

    if options["output"] and options["output"].suffix not in (".html", ".md"):
        raise click.UsageError("--output: end its name with .html or .md.")
    sys.exit(comparing.compare(machine, options))
