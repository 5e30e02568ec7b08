"""`edgewise record`: a session that was played becomes a replay in the tester's folder."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import Struct

from runtime.bench.recording import Prompts, recorded_since_move
from runtime.bench.replay import SUFFIX, Replay
from runtime.bench.replay_file import read_replays
from runtime.errors import Refusal
from runtime.export import Survey, import_lines, survey
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server.bench.keys import refuse_keys
from server.options import settings_of
from server.owner import Owner, Told, owner_of
from server.play.table import Refused
from server.settings import Settings
from server.tend.changing import whole_file
from server.tend.pages import clean
from server.tend.reading import path_of
from server.tend.working import GOOD, ended
from server.typed import typed

REPLAYS = "replays"
"""The project's folder of replays, one folder in it for each machine."""


class Recording(Struct, frozen=True):
    """A session as a replay: its text, the same read, and what else is known of it."""

    text: str
    replay: Replay
    about: Survey


def record(options: dict[str, Any]) -> NoReturn:
    """Write a session down as a replay, and end with the exit code: 0 good, 2 wrong use."""
    told = Told(options["url"], options["token"])
    settings = settings_of({name: options[name] for name in ("project", "store")})
    prompts: Prompts = "all" if options["is_whole"] else "asked"

    async def work() -> int:
        async with owner_of(settings, told) as owner:
            found = await recording_of(owner, options["session"], prompts)
        file = options["output"] or file_of(settings, found.replay)
        refuse_keys(found.text, settings)
        write(file, found.text, is_forced=options["is_forced"])
        _report(file, found, settings, options["form"])
        return GOOD

    sys.exit(ended(work()))


async def recording_of(owner: Owner, session_id: str, prompts: Prompts) -> Recording:
    """A session of the owner's as a replay. Raises Refused, also where its record comes without its machine."""
    async with aclosing(owner.download(f"{path_of(session_id)}/export", format="jsonl")) as pieces:
        lines = b"".join([piece async for piece in pieces]).splitlines()
    try:
        return await _recorded(lines, session_id, prompts)
    except Refusal as refusal:
        raise Refused(refusal.code, refusal.message, refusal.hint) from None


async def _recorded(lines: list[bytes], session_id: str, prompts: Prompts) -> Recording:
    """A session's record as a replay. Raises Refusal, Refused."""
    if not json.loads(lines[0])["definitions"]:
        where = f"the record of session '{session_id}' comes without its machine"
        raise Refused("forbidden", where, "Ask with an operator's token: --token")

    async def told() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    runtime = Runtime(MemoryStore(), Offline(), {}, "")
    await runtime.open()
    async for _ in import_lines(runtime, told()):
        pass
    about = await survey(runtime, session_id)
    text = "".join(await recorded_since_move(runtime.store, about, prompts))
    (replay,), _ = read_replays("", text)
    return Recording(text, replay, about)


def file_of(settings: Settings, replay: Replay) -> Path:
    """Where a recording stands if nobody says otherwise: in its machine's folder, by a name that every system takes."""
    name = re.sub("[^A-Za-z0-9_-]+", "_", replay.name.removeprefix("session "))
    return settings.project_path / REPLAYS / replay.given.machine / f"{name}{SUFFIX}"


def write(file: Path, text: str, *, is_forced: bool) -> None:
    """Write a recording where none is, whole or not at all. Raises UsageError."""
    if file.exists() and not is_forced:
        raise click.UsageError(f"{file} exists: name another with --output, or write over it with --force")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as out:
        out.write(text.encode())


def _report(file: Path, found: Recording, settings: Settings, form: str) -> None:
    steps = found.replay.steps
    facts = {
        "file": str(file),
        "machine": found.replay.given.machine,
        "steps": len(steps),
        "narrated": sum(step.narrate is not None for step in steps),
        "prompts": sum(step.prompt is not None for step in steps),
        "is_from_move": found.replay.given.state is not None,
    }
    if form == "json":
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    click.echo(clean(f"{file}: {_counted(facts)}"))
    if facts["is_from_move"]:
        click.echo("The session has moved to another version: the replay begins behind the move, in the state and")
        click.echo("with the variables that it left; what was visited and used up before is not known to it.")
    click.echo(f"Play it: {typed('replay', str(file), *_project(settings))}")


def _counted(facts: dict[str, Any]) -> str:
    told = f", {facts['narrated']} told by a model" if facts["narrated"] else ", told offline"
    prompts = f", {facts['prompts']} with the prompt that was sent" if facts["prompts"] else ""
    return f"{facts['steps']} turns of {facts['machine']}{told}{prompts}"


def _project(settings: Settings) -> list[str]:
    return [] if settings.project == "." else ["--project", settings.project]
