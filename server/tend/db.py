"""`edgewise db` and `edgewise migrate`: the journal as a whole.

Imports stand inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from server.options import examples, format_option, project_option, tends

file_type = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "edgewise ledger",
        "edgewise ledger --day 2026-01-31 --days 31 --format json",
    )
)
@click.option(
    "--days", type=click.IntRange(1, 366), default=7, show_default=True, help="How many days, back from --day."
)
@click.option("--day", metavar="YYYY-MM-DD", help="The newest day, by UTC; today by default.")
@tends
@format_option
def ledger(**options: Any) -> None:
    """Show what telling has cost, day by day, newest first: turns, calls, tokens, and their price.

    FAILED counts turns that cost something and came to nothing; CACHED is a part of TOKENS. The day's
    sums stay when sessions are deleted.
    """
    from server.tend import ledger as page  # noqa: PLC0415 - see the module

    page.show(options)


@click.group(
    epilog=examples(
        "edgewise db verify",
        "edgewise db backup monday.duckdb",
        "edgewise db copy duckdb:///path/to/edgewise.duckdb postgresql://host/edgewise",
    )
)
def db() -> None:
    """Back up, verify, compact and copy the journal, also while a server holds it."""


@db.command(
    epilog=examples(
        "edgewise db backup monday.duckdb",
        "edgewise serve --store duckdb:///path/to/monday.duckdb",
    )
)
@click.argument("file", type=file_type)
@tends
@format_option
def backup(**options: Any) -> None:
    """Copy the journal into FILE, a DuckDB journal of its own, while it is in use. Replaces nothing.

    FILE ends in .duckdb. With --url FILE is a name: the server writes it to its own data folder.
    """
    from server.tend import keeping  # noqa: PLC0415 - see the module

    keeping.backup(options)


@db.command(
    epilog=examples(
        "edgewise db verify",
        "edgewise db verify monday.duckdb",
    )
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@tends
@format_option
def verify(**options: Any) -> None:
    """Check that the journal, or the one in FILE, is as it was written; nothing is mended.

    Each entry's hash, the chain that binds it to the one before, the turn computed again from its
    parent, and where the file ends. A finding names the sessions that it touches. Exit code 1: there
    are findings. No entry is changed or repaired; a journal that nobody holds is opened as a server would
    open it, which takes its log in: to keep a damaged one as evidence, verify a copy of the file and its log.
    """
    from server.tend import keeping  # noqa: PLC0415 - see the module

    keeping.verify(options)


@db.command(epilog=examples("edgewise db compact"))
@tends
@format_option
def compact(**options: Any) -> None:
    """Take the bytes of deleted sessions out of the file, and give their space back.

    The file is written anew; turns wait meanwhile. Without deletions it may come out a little larger.
    PostgreSQL does so by itself.
    """
    from server.tend import keeping  # noqa: PLC0415 - see the module

    keeping.compact(options)


@db.command(epilog=examples("edgewise db copy duckdb:///path/to/edgewise.duckdb postgresql://user@host/edgewise"))
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@project_option
@format_option
def copy(**options: Any) -> None:
    """Copy the journal at FROM into the one at TO, byte for byte, and read it back.

    Both are URLs: duckdb:///path/to/file or postgresql://…. TO is empty, or an earlier copy of the same
    journal: what it lacks is added, so that a copy that broke off goes on when it is run again. While
    a server holds FROM, what it has at that moment is copied.
    """
    from server.tend import keeping  # noqa: PLC0415 - see the module

    keeping.copy(options)


@click.command(
    epilog=examples(
        "edgewise migrate --dry-run",
        "edgewise migrate mine_adventure",
    )
)
@click.argument("machine", required=False)
@click.option("--dry-run", is_flag=True, help="Only say how many would move, and which can't, and why.")
@tends
@format_option
def migrate(**options: Any) -> None:
    """Move live sessions of MACHINE (all by default) to the version of it that the project has now.

    A session stays on the version that it began with until this is run. The machine's `migrations:`
    say how it moves. Begin with --dry-run: it runs the real sessions through the new version.
    Exit code 1: some that a rule is for can't move. Where a server holds the journal, that is the version
    which it has read: start it again after an edit.
    """
    from server.tend import keeping  # noqa: PLC0415 - see the module

    keeping.migrate(options)
