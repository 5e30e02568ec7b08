"""`edgewise sessions`: the players' sessions, listed, read, moved in their history, exported and deleted.

Imports stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from server.options import examples, format_option, tends


@click.group(
    epilog=examples(
        "edgewise sessions list --live",
        "edgewise sessions show SESSION",
        "edgewise sessions rewind SESSION previous",
        "edgewise sessions export SESSION --format md -o story.md",
        "edgewise sessions prune --older-than 30d --dry-run",
    )
)
def sessions() -> None:
    """List, read, rewind, fork, export, import and delete sessions.

    It works while a server holds the journal, through that server; and while none does, by itself.
    `--url` asks any server, with an operator's `--token`.
    """


@sessions.command(
    "list",
    epilog=examples(
        "edgewise sessions list --player ann --ended",
        "edgewise sessions list --machine mine_adventure --all --format json",
    ),
)
@click.option("--player", help="Only this player's.")
@click.option("--ended/--live", default=None, help="Only those that have ended, or that have not.")
@click.option("--machine", help="Only those of this machine.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.option("--all", "is_all", is_flag=True, help="All of them, however many.")
@tends
@format_option
def list_(**options: Any) -> None:
    """List sessions, the last played first."""
    from server.tend import reading  # noqa: PLC0415 - see the module

    reading.list_(options)


@sessions.command(epilog=examples("edgewise sessions show SESSION"))
@click.argument("session")
@tends
@format_option
def show(**options: Any) -> None:
    """Show where SESSION stands, and its history as a tree: turn, edge, state and choice.

    ◀ is the head, where the next turn goes on. Turns that share a parent stand under ├─ and └─.
    """
    from server.tend import reading  # noqa: PLC0415 - see the module

    reading.show(options)


@sessions.command(
    epilog=examples(
        "edgewise sessions tail SESSION -n 3",
        "edgewise sessions tail SESSION -f",
    )
)
@click.argument("session")
@click.option("-n", "--last", type=click.IntRange(min=0), default=10, show_default=True, help="How many turns.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each new turn, until the session has ended or Ctrl-C.")
@tends
@format_option
def tail(**options: Any) -> None:
    """Read the last turns of SESSION: what was chosen, and what was told."""
    from server.tend import reading  # noqa: PLC0415 - see the module

    reading.tail(options)


@sessions.command(
    epilog=examples(
        "edgewise sessions rewind SESSION 4",
        "edgewise sessions rewind SESSION previous",
    )
)
@click.argument("session")
@click.argument("turn")
@tends
@format_option
def rewind(**options: Any) -> None:
    """Go back in SESSION to TURN, or to the `previous` one. Nothing is deleted: it can go forward again.

    The machine says how far: `history: {rewind: off | checkpoint | free}`.
    """
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.rewind(options)


@sessions.command(epilog=examples("edgewise sessions fork SESSION --at 4 --id what-if"))
@click.argument("session")
@click.option("--at", type=click.IntRange(min=1), help="The turn to branch off at; the head by default.")
@click.option("--id", "new_id", help="The new session's id; made by the server by default.")
@click.option("--same-dice", is_flag=True, help="Let the fork roll what SESSION would roll.")
@tends
@format_option
def fork(**options: Any) -> None:
    """Make a new session that shares SESSION's past up to a turn, and goes its own way from there."""
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.fork(options)


@sessions.command(epilog=examples("edgewise sessions regenerate SESSION"))
@click.argument("session")
@tends
@format_option
def regenerate(**options: Any) -> None:
    """Have SESSION's head turn told anew: the same edge and dice, other words, as a sibling of the turn."""
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.regenerate(options)


@sessions.command(
    epilog=examples(
        "edgewise sessions export SESSION > session.jsonl",
        "edgewise sessions export SESSION --format html -o story.html",
    )
)
@click.argument("session")
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "md", "html", "replay"]), default="jsonl", show_default=True,
    help="jsonl: the record, to import again. md, html: the story to read. replay: a test.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@tends
def export(**options: Any) -> None:
    """Write SESSION down: its record, the story to read, or a replay for the tests."""
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.export(options)


@sessions.command(
    "import",
    epilog=examples(
        "edgewise sessions import session.jsonl",
        "edgewise sessions export a | edgewise sessions import - --id b",
    ),
)
@click.argument("file", type=click.File("rb"))
@click.option("--id", "new_id", help="Keep it under this id; its own by default.")
@tends
@format_option
def import_(**options: Any) -> None:
    """Take in a session from FILE, as `export --format jsonl` wrote it; - is standard input.

    All of it or nothing. A session that exists is never written over.
    """
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.import_(options)


@sessions.command(epilog=examples("edgewise sessions delete SESSION --yes"))
@click.argument("session", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@tends
@format_option
def delete(**options: Any) -> None:
    """Delete each SESSION for good: nothing brings it back.

    Its bytes leave a DuckDB file with the next `edgewise db compact`, and backups in their time.
    """
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.delete(options)


@sessions.command(
    epilog=examples(
        "edgewise sessions prune --older-than 30d --dry-run",
        "edgewise sessions prune --older-than 8w --all --yes",
    )
)
@click.option("--older-than", required=True, metavar="AGE", help="Last played so long ago: 30d, 12h, 8w.")
@click.option("--all", "is_all", is_flag=True, help="Those that have not ended, too.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@tends
@format_option
def prune(**options: Any) -> None:
    """Delete whole sessions that were last played long ago; only those that have ended, unless told --all.

    A session that is being played stays. A fork stands by itself: it stays when its source goes. The
    bytes leave a DuckDB file with the next `edgewise db compact`.
    """
    from server.tend import changing  # noqa: PLC0415 - see the module

    changing.prune(options)
