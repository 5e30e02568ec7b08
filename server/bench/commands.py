"""The commands `edgewise mutate` and `edgewise test`.

Imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from server.options import examples, format_option, project_option

replays_option = click.option(
    "--replays",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of replays; the project's replays/ by default.",
)
jobs_option = click.option("-j", "--jobs", type=click.IntRange(min=1), help="Processes; one for each core by default.")


@click.command(
    epilog=examples(
        "edgewise mutate haunted_house",
        "edgewise mutate --fail-under 90",
        "edgewise mutate haunted_house --write replays/haunted_house",
    )
)
@click.argument("machines", nargs=-1, metavar="[MACHINE]...")
@project_option
@replays_option
@jobs_option
@click.option("--fail-under", type=click.FloatRange(0, 100), help="Exit with 1 where a machine's score is lower.")
@click.option(
    "--write",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write replays into this folder that notice what survived, as far as exploration finds them.",
)
@format_option
def mutate(**options: Any) -> None:
    """Do the tests test anything? Put one small fault after the other into MACHINES (all by default) and replay.

    An edge is dropped, a guard flipped or loosened, a number is one off, two targets are swapped, a die
    is changed, a `must` is lost. A replay that fails has noticed: the mutant is killed. What survives is
    listed with file:line, the change, and the replays that played over it. The score is killed of killed
    and survived. A mutant that the check refuses is invalid; one that no play told apart from the machine,
    in thousands of turns all over it, is probably equivalent: neither is counted, both are told.
    """
    from server.bench import mutating  # noqa: PLC0415 - see the module

    sys.exit(mutating.mutate(options))
