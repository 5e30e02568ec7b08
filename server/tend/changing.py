"""What the commands of `edgewise sessions` do that change a session, or carry it in and out."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from server.owner import Owner
from server.tend import pages
from server.tend.reading import path_of
from server.tend.working import GOOD, figures, follow, report, tend, told_as_json

PIECE_BYTES = 1 << 16
HOURS = {"h": 1, "d": 24, "w": 168}
_AGE = re.compile(r"(\d{1,6}(?:\.\d+)?)([hdw])")


def rewind(options: dict[str, Any]) -> NoReturn:
    """Go back to a turn."""
    turn = options.pop("turn")
    if turn != "previous" and not turn.isdecimal():
        raise click.UsageError(f"TURN is a turn's number or previous, not {turn!r}")
    _change(options, "rewind", {"to_turn": turn if turn == "previous" else int(turn)})


def fork(options: dict[str, Any]) -> NoReturn:
    """Branch off a new session."""
    sent = {"at_turn": options.pop("at"), "session_id": options.pop("new_id")}
    body = {name: value for name, value in sent.items() if value is not None}
    _change(options, "fork", {**body, "same_dice": options.pop("same_dice")})


def regenerate(options: dict[str, Any]) -> NoReturn:
    """Tell the head turn anew."""
    _change(options, "regenerate", {})


def _change(options: dict[str, Any], what: str, body: Mapping[str, Any]) -> NoReturn:
    """Ask for an entry under a key of our own, so that asking again is safe; then say where the session stands."""
    form, session_id = options.pop("form"), options.pop("session")

    async def work(owner: Owner) -> int:
        shown = await owner.ask("POST", f"{path_of(session_id)}/{what}", body, key=str(uuid.uuid4()))
        if form == "json":
            told_as_json(shown)
        else:
            click.echo("\n".join(pages.standing(shown)))
        return GOOD

    tend(options, work)


def export(options: dict[str, Any]) -> NoReturn:
    """Write a session to a file or to standard output."""
    form, session_id, output = options.pop("form"), options.pop("session"), options.pop("output")

    async def work(owner: Owner) -> int:
        async with aclosing(owner.download(f"{path_of(session_id)}/export", format=form)) as pieces:
            with whole_file(output) if output else nullcontext(sys.stdout.buffer) as file:
                async for piece in pieces:
                    file.write(piece)
                file.flush()
        return GOOD

    tend(options, work)


@contextmanager
def whole_file(output: Path) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all. An existing one is replaced, and keeps its mode.

    A link is followed; a device or a pipe is written into, and stays what it is.
    """
    target = output.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield file
        return
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise click.FileError(str(output), error.strerror or str(error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """What this process leaves out of a new file's mode; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def import_(options: dict[str, Any]) -> NoReturn:
    """Take a session in."""
    form, file, new_id = options.pop("form"), options.pop("file"), options.pop("new_id")

    async def work(owner: Owner) -> int:
        return await report(owner.steps("import", lines=_pieces(file), session_id=new_id), form, "importing")

    tend(options, work, makes_journal=True)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def delete(options: dict[str, Any]) -> NoReturn:
    """Delete sessions, after asking."""
    form, ids, is_sure = options.pop("form"), options.pop("session"), options.pop("yes")
    _must_be_asked(is_sure=is_sure)

    async def work(owner: Owner) -> int:
        for session_id in ids:  # none is deleted where one is not there: a name may be mistyped
            await owner.ask("GET", path_of(session_id))
        if not is_sure:
            click.confirm(f"Delete {', '.join(map(pages.clean, ids))} for good?", abort=True, err=True)
        for session_id in ids:
            gone = await owner.ask("DELETE", path_of(session_id))
            if form == "text":
                click.echo(f"deleted {gone['session_id']}")
        if form == "json":
            told_as_json({"deleted": list(ids)})
        return GOOD

    tend(options, work)


def prune(options: dict[str, Any]) -> NoReturn:
    """Delete old sessions, after asking."""
    form, is_sure, is_dry = options.pop("form"), options.pop("yes"), options.pop("dry_run")
    if not is_dry:
        _must_be_asked(is_sure=is_sure)
    body = {"older_than_days": days_of(options.pop("older_than")), "ended_only": not options.pop("is_all")}

    async def work(owner: Owner) -> int:
        if is_dry:
            return await report(owner.steps("prune", {**body, "dry_run": True}), form, "looking")
        if not is_sure:
            would = (await follow(owner.steps("prune", {**body, "dry_run": True}), "text", "looking"))["facts"]
            click.echo("\n".join(figures(would)), err=True)
            click.confirm(f"Delete {would['sessions']} sessions for good?", abort=True, err=True)
        return await report(owner.steps("prune", body), form, "deleting")

    tend(options, work)


def days_of(age: str) -> float:
    """An age in days: 30d, 12h or 8w. Raises UsageError."""
    found = _AGE.fullmatch(age)
    if not found:
        raise click.UsageError(f"--older-than is a number of hours, days or weeks, as 12h, 30d or 8w; not {age!r}")
    return float(found[1]) * HOURS[found[2]] / 24


def _must_be_asked(*, is_sure: bool) -> None:
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes if it is meant")
