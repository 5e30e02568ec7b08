"""The command `edgewise`: serve, play, check, prompts, init, settings, schema; sessions, db and migrate are in `tend`.

Exit codes everywhere: 0 good, 1 findings (a machine has faults), 2 wrong use, 3 our own fault.
Imports stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from runtime.errors import DesignError, EdgewiseError, Refusal
from server.bench.commands import mutate, test
from server.bench.compare_command import compare
from server.bench.explore_commands import explore, paths
from server.fake.command import fake_llm
from server.options import examples, format_option, project_option, settings_of, tends
from server.tend.db import db, ledger, migrate
from server.tend.sessions import sessions

GOOD, FINDINGS, WRONG_USE, OUR_FAULT, INTERRUPTED = 0, 1, 2, 3, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgewise")
def cli() -> None:
    """Persisted state machines, narrated by a language model and served over HTTP.

    The machine decides what happens; the model only tells it.

    Start with `edgewise play`, then `edgewise init my_story`, then `edgewise serve`.
    """


@cli.command()
@click.option("--host", help="Where to listen; 127.0.0.1 by default.")
@click.option("--port", type=int, help="The port; 8000 by default, 0 takes a free one.")
@click.option("--store", help="The journal: duckdb:///path/to/file or memory:.")
@project_option
@click.option("--machine", help="The default machine of new sessions.")
@click.option("--narrator", help="Who tells the turns: offline or openai.")
@click.option("--workers", type=int, help="Processes; a DuckDB file belongs to one.")
@click.option("--dev", is_flag=True, default=None, help="Start again when a file of the project changes.")
@click.option("--open", is_flag=True, default=None, help="Listen beyond this machine though no tokens are set.")
def serve(**options: Any) -> None:
    """Serve POST /invoke and all that is around it.

    Every option may stand in the environment or in .env as EDGEWISE_HOST, EDGEWISE_PORT and so on;
    `edgewise settings` lists them all.
    """
    from server import serving  # noqa: PLC0415 - see the module

    sys.exit(serving.serve(settings_of(options)))


@cli.command()
@click.argument("machine", required=False)
@project_option
@click.option("--url", help="Play against a server instead: http://127.0.0.1:8000.")
@click.option("--token", envvar="EDGEWISE_TOKEN", help="The token for --url.")
@click.option("--session", "session_id", help="Go on with a session, or begin one of this id.")
@click.option("--seed", help="The run seed: same machine, seed and choices, same story.")
@click.option("--language", help="zh, en or another that the machine offers.")
@click.option("--store", help="Keep the session in this journal; in memory by default.")
@click.option("--narrator", help="Who tells the turns: offline or openai.")
@click.option(
    "--transcript",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the play to this file, as it goes; an existing one is replaced.",
)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the play to this file at its end, as a replay: replays/MACHINE/NAME.replay.yaml.",
)
def play(**options: Any) -> None:
    r"""Play MACHINE in the terminal: choices by number or arrow, free text where a state takes it.

    Where input is no terminal, each line is a number, or text where text is taken:
    `printf '1\n2\n' | edgewise play haunted_house --seed demo`.
    """
    from server.play import flow  # noqa: PLC0415 - see the module

    own = {
        name: options.pop(name) for name in ("url", "token", "session_id", "seed", "language", "transcript", "record")
    }
    sys.exit(flow.play(settings_of({**options, "store": options["store"] or "memory:", "workers": 1}), **own))


@cli.command()
@click.argument("machines", nargs=-1)
@project_option
@format_option
@click.option("--strict", is_flag=True, help="Count warnings as faults.")
def check(machines: tuple[str, ...], project: Path | None, form: str, *, strict: bool) -> None:
    """Check MACHINES (all by default): every fault at once, as file:line:col CODE message.

    Exit code 0: none; 1: there are faults; 2: no such machine or project.
    """
    from server import checking  # noqa: PLC0415 - see the module

    sys.exit(checking.check(project or Path(), machines, form, strict=strict))


@cli.command(
    epilog=examples(
        "edgewise coverage haunted_house",
        "edgewise coverage haunted_house --explore",
        "edgewise coverage --fail-under edges=100,guards=95",
        "edgewise coverage --journal --format html -o coverage.html",
    )
)
@click.argument("machines", nargs=-1)
@click.option(
    "--replays", type=click.Path(exists=True, path_type=Path), help="The tests; the project's replays/ by default."
)
@click.option("--explore", is_flag=True, help="What a quick exploration hits, too; and why it doesn't hit the rest.")
@click.option(
    "--journal", is_flag=True, help="What players hit, too, by the journal; --store and --url say so as well."
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "html", "graph"]), default="text", show_default=True,
    help="html: a page with the machine's lines. graph: an SVG with the heat of each edge.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@click.option(
    "--fail-under", metavar="PERCENT|KIND=PERCENT,…",
    help="Exit with 1 where tests hit less. PERCENT alone is for edges, guards and endings, each by itself.",
)  # fmt: skip
@click.option("-j", "jobs", type=click.IntRange(min=1), help="Processes; one for each core by default.")
@tends
def coverage(**options: Any) -> None:
    """Tell what replays hit of MACHINES (all by default), and what they miss, by file:line.

    States, edges, both outcomes of each guard, options, pairs of edges, prompts, endings. What players
    hit stands beside it with --journal: of turns of another version it counts what still exists by its
    name. A threshold is for tests alone, that is for replays and what --explore adds: players prove nothing.
    """
    from server.bench import covering  # noqa: PLC0415 - see the module

    sys.exit(covering.cover(options))


@cli.command(
    epilog=examples(
        "edgewise graph haunted_house",
        "edgewise graph haunted_house --format svg --language en -o house.svg",
        "edgewise graph haunted_house --session SESSION",
        "edgewise graph haunted_house --heat --format svg -o heat.svg",
    )
)
@click.argument("machine")
@click.option(
    "--format", "form", type=click.Choice(["terminal", "svg", "mermaid", "dot"]), default="terminal", show_default=True,
    help="svg: a page of its own, without a script. mermaid, dot: text for others to draw.",
)  # fmt: skip
@click.option("--session", help="Show the path of this session on it, by its turns' numbers.")
@click.option("--heat", is_flag=True, help="Show how often players took each edge, by the journal.")
@click.option("--language", help="The language of names: zh, en or another that the machine offers.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@tends
def graph(**options: Any) -> None:
    """Draw MACHINE: its states, with their names, and every edge with its guard.

    --session and --heat read the journal, also while a server holds it. No other program is needed.
    """
    from server.bench import graphing  # noqa: PLC0415 - see the module

    sys.exit(graphing.draw(options))


@cli.command(
    epilog=examples(
        "edgewise prompts haunted_house DECISION --choose hall_coat --context hp=3",
        "edgewise prompts --session SESSION --turn 7",
        "edgewise prompts --session SESSION --shared",
    )
)
@click.argument("machine", required=False)
@click.argument("state", required=False)
@click.option("--choose", metavar="OPTION", help="By this option.")
@click.option("--edge", help="By this edge, in full: COMBAT.hit.")
@click.option("--context", multiple=True, metavar="NAME=VALUE", help="A variable's value; a set's members by commas.")
@click.option("--text", help="What the player says, where the event takes text.")
@click.option("--language", help="zh, en or another that the machine offers.")
@click.option("--seed", default="prompts", show_default=True, help="The run seed: what is drawn follows it.")
@click.option("--session", help="A session that was played, in place of MACHINE and STATE.")
@click.option("--turn", type=click.IntRange(min=1), help="Its turn; the last one by default.")
@click.option("--shared", "is_shared", is_flag=True, help="How much each turn's prompt begins as the one before.")
@tends
@format_option
def prompts(**options: Any) -> None:
    """Print the prompt of a turn that arrives in STATE of MACHINE (the first turn by default), and its tokens, roughly.

    With --session it is the prompt that a turn was told with, how far it begins as the turn before
    it, and which line ends that. Nothing is played or written.
    """
    from server import prompts as page  # noqa: PLC0415 - see the module

    page.prompts(options)


@cli.command()
@project_option
@click.option("--machine", help="The machine whose first prompt is tried; the default one without it.")
@click.option("--narrator", help="openai: try the providers though turns are told offline.")
@format_option
def doctor(form: str, **options: Any) -> None:
    """Ask every provider of a model what it can do: key, model, formats, speed, and one whole answer.

    Exit code 0: turns can be told with each; 1: not with all of them. No key is printed.
    """
    from server import doctor as asking  # noqa: PLC0415 - see the module

    sys.exit(asking.doctor(settings_of(options), form))


@cli.command(
    epilog=examples(
        "edgewise record SESSION",
        "edgewise record SESSION --output replays/haunted_house/the_lamp_breaks.replay.yaml",
        "edgewise record SESSION --url https://stories.example --token TOKEN",
        "edgewise record --again replays/haunted_house/the_lamp_breaks.replay.yaml",
    )
)
@click.argument("session", required=False)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="The file; replays/MACHINE/SESSION.replay.yaml by default.",
)  # fmt: skip
@click.option(
    "--force", "is_forced", is_flag=True, help="Write over a file that exists; with --again, though comments are lost."
)
@click.option(
    "--prompts", "is_whole", is_flag=True, help="Keep the prompt of every turn, not only of those that a model told."
)
@click.option(
    "--again", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="Ask the model again for each turn of a recording whose prompt is not the recorded one, and write it anew.",
)  # fmt: skip
@click.option("--narrator", help="Who tells the turns of --again: openai.")
@tends
@format_option
def record(**options: Any) -> None:
    """Write SESSION down as a replay: what the player did, what the dice showed and what the model told.

    The replay plays the same turns offline, and expects what came of them: a player's bug becomes a
    test. Only the branch that the session stands on is written. No key is ever written.
    """
    from server.bench import record as recording  # noqa: PLC0415 - see the module

    recording.record(options)


@cli.command(
    epilog=examples(
        "edgewise replay",
        "edgewise replay replays/haunted_house --mode strict",
        "edgewise replay replays/haunted_house/attic.replay.yaml --update",
        "edgewise replay --url https://stories.example --token TOKEN",
    )
)
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[FILE|FOLDER]...")
@project_option
@click.option("-j", "jobs", type=click.IntRange(min=1), help="Processes; one for each core by default.")
@click.option(
    "--mode", type=click.Choice(["structure", "strict", "rerun"]), default="structure", show_default=True,
    help="strict: the prompts too, byte for byte; rerun: have the narrator tell each turn anew.",
)  # fmt: skip
@click.option("--narrator", help="Who tells the turns anew with --mode rerun: openai.")
@click.option("--update", "is_update", is_flag=True, help="Write what came into `expect` where it differs; not in CI.")
@click.option("--url", help="Play them against a server: http://127.0.0.1:8000. What only a bench can do is skipped.")
@click.option("--token", envvar="EDGEWISE_TOKEN", help="The token for --url; an operator's may look at all variables.")
@format_option
def replay(**options: Any) -> None:
    """Play the replays of FILEs and FOLDERs (replays/ by default), and hold them to what they expect.

    Of each that fails, the first difference is told, and why the machine went so; the run up to there
    is kept in .edgewise/failed/ as a replay of its own. Nothing is asked of a model, and no store is
    touched, unless --mode says so. Exit code 0: all went as they say; 1: one didn't.
    """
    from server.bench import replaying  # noqa: PLC0415 - see the module

    sys.exit(replaying.replay(options))


@cli.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Make a project in FOLDER: one machine, its prompts and fragments, ready to play and to check."""
    from server import scaffold  # noqa: PLC0415 - see the module

    sys.exit(scaffold.init(folder))


@cli.command()
@project_option
@format_option
def settings(project: Path | None, form: str) -> None:
    """List every setting, its value and where it came from; keys and tokens are masked."""
    import msgspec  # noqa: PLC0415 - see the module

    found = settings_of({"project": project})
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found.listing())))
        return
    rows = [(each.variable, each.value, each.source) for each in found.listing()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for variable, value, source in rows:
        click.echo(f"{variable:<{widths[0]}}  {value:<{widths[1]}}  {source}")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of machines, for editors: machines/machine.schema.json."""
    import json  # noqa: PLC0415 - see the module

    from runtime import loader  # noqa: PLC0415 - see the module

    click.echo(json.dumps(loader.schema(), ensure_ascii=False, indent=2))


for command in (sessions, db, ledger, migrate, fake_llm, mutate, test, explore, paths, compare):
    cli.add_command(command)


def main() -> None:
    """Run the command; what nobody foresaw is our own fault, and is said so without a traceback."""
    guarded(lambda: cli(standalone_mode=False))


def guarded(command: Callable[[], Any]) -> None:
    """Run a command, and end this process with its exit code; every error in its own words."""
    try:
        result = command()
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG_USE)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except DesignError as error:
        click.echo(error, err=True)
        sys.exit(FINDINGS)
    except Refusal as refusal:
        click.echo(f"{refusal.message}\n{refusal.hint}".strip(), err=True)
        sys.exit(WRONG_USE)
    except EdgewiseError as error:
        click.echo(error, err=True)
        sys.exit(WRONG_USE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(GOOD)
    except OSError as error:
        click.echo(f"can't go on: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", err=True)
        sys.exit(OUR_FAULT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last door: every other error has its own sentence
        click.echo(f"edgewise has a fault of its own: {type(error).__name__}: {error}", err=True)
        click.echo("Please report it, with the command that you ran.", err=True)
        sys.exit(OUR_FAULT)
    sys.exit(result if isinstance(result, int) else GOOD)
