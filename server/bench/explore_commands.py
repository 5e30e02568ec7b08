"""The commands `edgewise explore` and `edgewise paths`.

Imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from server.options import FiniteRange, examples, format_option, project_option

budget_option = click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=60_000,
    show_default=True,
    help="How many turns a machine's search takes at most.",
)
seconds_option = click.option(
    "--seconds", type=FiniteRange(min=0.1), help="End a machine's search after this time, too; it is said then."
)


@click.command(
    epilog=examples(
        "edgewise explore haunted_house",
        "edgewise explore haunted_house --random 10000 --seed a --avoid-used",
        "edgewise explore haunted_house --random 200 --tells",
        "edgewise explore --hostile --seed a",
    )
)
@click.argument("machines", nargs=-1, metavar="[MACHINE]...")
@project_option
@click.option("--quick", "is_quick", is_flag=True, help="Search for every edge and guard outcome; what is done anyway.")
@click.option("--random", "plays", type=click.IntRange(min=1), metavar="N", help="Play N times at random instead.")
@click.option("--hostile", "is_hostile", is_flag=True, help="Attack a server in this process instead.")
@click.option("--seed", default="explore", show_default=True, help="Same seed, same plays; with --random, --hostile.")
@click.option("--avoid-used", is_flag=True, help="At random: prefer options that were chosen least so far.")
@click.option("--tells", is_flag=True, help="At random: have each turn told offline, and judge its texts.")
@click.option("--language", help="At random: zh, en or another that the machine offers.")
@budget_option
@seconds_option
@click.option("-j", "jobs", type=click.IntRange(min=1), help="Processes; one for each core by default.")
@format_option
def explore(**options: Any) -> None:
    """Play MACHINES (all by default) without a model and without a test, and tell what may happen and what is wrong.

    A quick exploration searches for every state, edge, ending and both outcomes of every guard, with all
    dice, payloads and learned values that guards tell apart; it says what it did not reach, and why.
    --random plays as players may, and counts how stories end. --hostile sends what no client should.

    What is wrong is kept in .edgewise/failed/, with the command that plays it again. Exit code 0: nothing
    is wrong and all was seen; 1: something is, or wasn't.
    """
    from server.bench import exploring  # noqa: PLC0415 - see the module

    sys.exit(exploring.explore(options))


@click.command(
    epilog=examples(
        "edgewise paths haunted_house --cover edges",
        "edgewise paths haunted_house --cover guards --write replays/haunted_house",
    )
)
@click.argument("machine")
@project_option
@click.option(
    "--cover",
    "kind",
    type=click.Choice(["states", "edges", "guards", "pairs"]),
    default="edges",
    show_default=True,
    help="What the plays must cover together; with guards every edge as well, with pairs each edge after each other.",
)
@click.option(
    "--write", type=click.Path(file_okay=False, path_type=Path), help="Write the replays into this folder, a file each."
)
@budget_option
@seconds_option
@format_option
def paths(**options: Any) -> None:
    """Find few plays that cover MACHINE, as replays whose dice are fixed and that expect what came.

    None of them is in vain, though others might do with fewer: of the plays that a search knows the one that
    covers most is taken, again and again.
    Each is played before it is written. A file that is there is never overwritten by another play.
    One that breaks a property of the machine is told of, and not written.

    Exit code 0: all is covered; 1: something isn't, and it is said why, or a property is broken.
    """
    from server.bench import exploring  # noqa: PLC0415 - see the module

    sys.exit(exploring.paths(options))
