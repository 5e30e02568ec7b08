"""What `edgewise sessions list`, `show` and `tail` do."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any, NoReturn
from urllib.parse import quote

import click

from server.owner import Owner
from server.play.table import Refused
from server.tend import pages
from server.tend.working import GOOD, tend, told_as_json

PAGE = 200
POLL_S = 1.0
NARROW = 80
"""Columns of prose where there is no terminal."""


def list_(options: dict[str, Any]) -> NoReturn:
    """List sessions."""
    form, machine, is_all = options.pop("form"), options.pop("machine"), options.pop("is_all")
    limit = options.pop("limit")
    ended = options.pop("ended")
    query = {"player_id": options.pop("player"), "ended": None if ended is None else str(ended).lower()}

    async def work(owner: Owner) -> int:
        found = []
        async for item in _sessions(owner, query, PAGE if is_all or machine else min(limit, PAGE)):
            if machine in (None, item["session"]["machine"]):
                found.append(item)
            if len(found) == limit and not is_all:
                break
        if form == "json":
            told_as_json(found)
        else:
            click.echo("\n".join(pages.session_table(found, _columns()) if found else ["no sessions"]))
        return GOOD

    tend(options, work)


async def _sessions(owner: Owner, query: dict[str, Any], limit: int) -> AsyncIterator[dict[str, Any]]:
    after = None
    while True:
        page = await owner.ask("GET", "/sessions", **query, limit=limit, after=after)
        for item in page["items"]:
            yield item
        after = page["next_after"]
        if after is None:
            return


def show(options: dict[str, Any]) -> NoReturn:
    """Show a session and its history as a tree."""
    form, session_id = options.pop("form"), options.pop("session")

    async def work(owner: Owner) -> int:
        shown = await owner.ask("GET", path_of(session_id))
        turns = [turn async for turn in turns_of(owner, session_id)]
        if form == "json":
            told_as_json({**shown, "turns": turns})
            return GOOD
        history = [*pages.tree(turns, shown["session"]["turn"], _columns())]
        marks = pages.marks(turns)
        parts = [pages.standing(shown), history, *([marks] if marks else [])]
        click.echo("\n\n".join("\n".join(part) for part in parts))
        return GOOD

    tend(options, work)


async def turns_of(owner: Owner, session_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """The history after an entry, page by page."""
    at: int | None = after
    while at is not None:
        page = await owner.ask("GET", f"{path_of(session_id)}/turns", after=at, limit=PAGE)
        for item in page["items"]:
            yield item
        at = page["next_after"]


def tail(options: dict[str, Any]) -> NoReturn:
    """Read the last turns, and those that follow."""
    form, session_id = options.pop("form"), options.pop("session")
    last, is_following = options.pop("last"), options.pop("follow")

    async def work(owner: Owner) -> int:
        if is_following and owner.is_alone:
            raise Refused("wrong_use", "nobody can play while this command holds the journal", "Leave out --follow.")
        turns = [turn async for turn in turns_of(owner, session_id)]
        for turn in turns[len(turns) - last if last < len(turns) else 0 :]:
            _read_out(turn, form)
        while is_following and not (await owner.ask("GET", path_of(session_id)))["session"]["ended"]:
            await asyncio.sleep(POLL_S)
            async for turn in turns_of(owner, session_id, len(turns)):
                turns.append(turn)
                _read_out(turn, form)
        return GOOD

    tend(options, work)


def _read_out(turn: pages.Turn, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(turn, ensure_ascii=False))
    else:
        click.echo("\n".join(pages.readable(turn, _columns() or NARROW)))
    sys.stdout.flush()


def path_of(session_id: str) -> str:
    """A session's path."""
    return f"/sessions/{quote(session_id, safe='')}"


def _columns() -> int | None:
    """How wide the terminal is; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
