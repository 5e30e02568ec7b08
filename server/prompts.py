"""`edgewise prompts`: what a model is told, for a state or for a turn that was played, and what it costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from runtime import loader
from runtime.request import nearest
from runtime.tokens import roughly
from server import briefs
from server.briefs import Record, Rendered, Shared, Wanted
from server.owner import Owner
from server.play.table import Refused
from server.play.wrapping import width
from server.tend.pages import clean
from server.tend.reading import path_of
from server.tend.working import GOOD, WRONG_USE, tend

LINE_CHARS = 60
"""How much of a line that breaks a prefix is shown."""


def prompts(options: dict[str, Any]) -> NoReturn:
    """Render prompts, and end with the exit code: 0 good, 2 wrong use."""
    if options["session"] is None:
        sys.exit(_of_state(options))
    _of_session(options)


def _of_state(options: dict[str, Any]) -> int:
    if options["is_shared"] or options["turn"] is not None:
        raise click.UsageError("--turn and --shared are about a session that was played: name it with --session.")
    machine = _machine(options["project"] or Path(), options["machine"])
    wanted = Wanted(
        state=options["state"] or "",
        choose=options["choose"] or "",
        edge=options["edge"] or "",
        text=options["text"] or "",
        language=options["language"],
        seed=options["seed"],
        context=dict(map(_assigned, options["context"])),
    )
    try:
        found = briefs.of_state(machine, wanted)
    except Refused as refused:
        end = "" if refused.hint.endswith("?") else "."
        click.echo(f"{refused.message}. {refused.hint.rstrip('.')}{end}", err=True)
        return WRONG_USE
    _print(_page(found), _facts(found), options["form"])
    return GOOD


def _machine(project: Path, name: str | None) -> Any:
    """A machine of the project. Raises UsageError where there is none of that name, DesignError."""
    bundles = loader.read_project(project)
    if name in bundles:
        return loader.load(bundles[name])
    if not bundles:
        raise click.UsageError(f"{project} holds no machine: there is no machines/*.yaml.")
    if name is None:
        raise click.UsageError(f"name a machine, or a session with --session. There are: {', '.join(bundles)}.")
    meant = nearest(name, bundles)
    mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(bundles)}."
    raise click.UsageError(f"there is no machine '{name}'. {mend}")


def _assigned(written: str) -> tuple[str, str]:
    name, sign, value = written.partition("=")
    if not sign:
        raise click.UsageError(f"--context {written}: write NAME=VALUE.")
    return name.strip(), value.strip()


def _of_session(options: dict[str, Any]) -> NoReturn:
    given = [name for name in ("machine", "choose", "edge", "text", "language") if options[name]]
    if given or options["context"]:
        raise click.UsageError("--session renders what was played: leave out MACHINE, STATE and what a turn would be.")
    session_id, turn, form, is_shared = (options[name] for name in ("session", "turn", "form", "is_shared"))

    async def work(owner: Owner) -> int:
        record = Record(await _lines(owner, session_id))
        if is_shared and turn is None:
            found = await briefs.of_branch(record)
            _print(_table(found), [_facts(each, part) for each, part in briefs.pairs(found)], form)
            return GOOD
        told = await briefs.of_turn(record, record.branch[-1] if turn is None else turn)
        part = briefs.shared(await briefs.of_turn(record, told.parent), told) if told.parent else None
        _print(_page(told, part), _facts(told, part), form)
        return GOOD

    tend({name: options[name] for name in ("project", "store", "url", "token")}, work)


async def _lines(owner: Owner, session_id: str) -> list[bytes]:
    """A session's record, line by line."""
    async with aclosing(owner.download(f"{path_of(session_id)}/export", format="jsonl")) as pieces:
        return b"".join([piece async for piece in pieces]).split(b"\n")


# What is printed.


def _print(lines: Iterable[str], facts: Any, form: str) -> None:
    text = json.dumps(facts, ensure_ascii=False, indent=2) if form == "json" else "\n".join(lines)
    click.echo(text)


def _facts(found: Rendered, part: Shared | None = None) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(found)
    for message, shown in zip(found.messages, facts["messages"], strict=True):
        shown["tokens"] = roughly(message.content)
    facts["tokens"] = found.tokens
    if not found.turn:
        del facts["turn"], facts["parent"], facts["is_as_sent"]
    if part is not None:
        facts["shared"] = {**msgspec.to_builtins(part), "share": round(part.share, 3)}
    return facts


def _page(found: Rendered, part: Shared | None = None) -> Iterator[str]:
    """A prompt to read: where it comes from, each message with its tokens, and what it shares with the one before."""
    way = f"{found.source} to {found.target}" if found.source else found.target
    chosen = f", chosen: {clean(found.choice)}" if found.choice else ""
    turn = f"turn {found.turn}: " if found.turn else ""
    yield f"{turn}{found.machine}, {found.language}: {found.edge}, {way}{chosen}"
    yield f"prompt: {found.file}"
    if not found.is_open:
        yield "the edge is not open here: its guard doesn't hold with these values"
    if found.is_as_sent is False:
        yield "this is not what was sent then: Edgewise has changed since, or it was told in another way"
    for number, message in enumerate(found.messages, 1):
        own = ", the runtime's own" if number == len(found.messages) else ""
        yield from ("", f"── {number} {message.role}, about {roughly(message.content):,} tokens{own}")
        yield from map(clean, message.content.split("\n"))
    yield from ("", f"in all about {found.tokens:,} tokens")
    if part is not None:
        yield from _told(found, part)


def _told(found: Rendered, part: Shared) -> Iterator[str]:
    yield (
        f"shared with turn {found.parent}: {part.chars:,} characters, about {part.tokens:,} of {part.of_tokens:,} "
        f"tokens ({part.share:.0%})"
    )
    if part.message:
        yield f"broken by message {part.message} ({part.role}), line {part.line}:"
        yield f"  was: {_short(part.was) or '(nothing: the message ended)'}"
        yield f"  now: {_short(part.now) or '(nothing: the message ends)'}"


def _short(line: str) -> str:
    shown = clean(line)
    return shown if len(shown) <= LINE_CHARS else f"{shown[: LINE_CHARS - 1]}…"


def _table(found: Sequence[Rendered]) -> Iterator[str]:
    """For each turn what it shares with the one before, and in all."""
    rows = [("turn", "state", "tokens", "shared", "share", "broken by")]
    compared = list(briefs.pairs(found))
    for each, part in compared:
        broken = f"{part.message} {part.role}, line {part.line}: {_short(part.now)}" if part.message else ""
        rows.append((str(each.turn), each.target, f"{each.tokens:,}", f"{part.tokens:,}", f"{part.share:.0%}", broken))
    widths = [max(width(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        yield "  ".join([*(_padded(row[column], widths[column]) for column in range(5)), row[5]]).rstrip()
    whole, common = sum(part.of_tokens for _, part in compared), sum(part.tokens for _, part in compared)
    if whole:
        turns = f"{len(compared)} turn{'' if len(compared) == 1 else 's'} after the first"
        yield f"in all about {whole:,} tokens in {turns}, of which {common:,} ({common / whole:.0%}) begin as before"
    else:
        yield "only one turn was told: there is nothing to compare"


def _padded(cell: str, columns: int) -> str:
    return cell + " " * (columns - width(cell))
