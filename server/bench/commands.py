"""The commands `edgewise mutate` and `edgewise test`.

Imports stand inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from server.options import FiniteRange, examples, format_option, project_option

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
@click.option("--fail-under", type=FiniteRange(0, 100), help="Exit with 1 where a machine's score is lower.")
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


@click.command(
    epilog=examples(
        "edgewise test",
        "edgewise test haunted_house --mutate",
        "edgewise test --changed-since origin/main --format github --junit report.xml",
        "edgewise test --shard 2/5 --budget 60s",
    )
)
@click.argument("machines", nargs=-1, metavar="[MACHINE]...")
@project_option
@replays_option
@jobs_option
@click.option(
    "--changed-since", metavar="REV", help="Only machines whose files or replays changed since a git revision."
)
@click.option("--shard", metavar="K/N", help="Only the K-th of N parts; each test is in one of them.")
@click.option(
    "--budget", metavar="TIME", help="Begin nothing more after this time, like 60s or 2m; what is left out is said."
)
@click.option(
    "--mutate",
    "is_mutating",
    is_flag=True,
    help="Judge mutants too, which takes long; a threshold asks for it as well.",
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report to this file.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "github"]), default="text",
    help="github: a note beside each line that something is wrong with.",
)  # fmt: skip
def test(**options: Any) -> None:
    """The whole bench for MACHINES (all by default): check, replays, properties, exploration, coverage.

    A fault, a replay that fails, a property that is broken or anything that exploration finds wrong is a
    failure. More is asked where `test:` in edgewise.yaml has thresholds, of coverage by replays and of
    mutants killed, for all machines and for each. What fails is kept in .edgewise/failed/ as a replay.

    Exit code 0: nothing failed, though something may have been left out, which is told first; 1: something did.
    """
    from server.bench import testing  # noqa: PLC0415 - see the module

    sys.exit(testing.test(options))
