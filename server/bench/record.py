"""`edgewise record`: a session that was played becomes a replay in the tester's folder."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.failed import told as told_of
from runtime.bench.player import Result, played
from runtime.bench.recording import LONG, UNKEPT, Prompts, recorded_since_move
from runtime.bench.replay import SUFFIX, Replay
from runtime.bench.replay_file import read_replays
from runtime.bench.written import step_text
from runtime.errors import Refusal
from runtime.export import import_lines, survey
from runtime.flow_yaml import word
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server.bench import again
from server.bench.gathering import REPLAYS
from server.bench.keys import refuse_keys, write
from server.options import settings_of
from server.owner import Owner, Told, owner_of
from server.play.table import Refused
from server.settings import Settings
from server.tend.pages import clean
from server.tend.reading import path_of
from server.tend.working import FINDINGS, GOOD, ended
from server.typed import typed

_MENDED = f"{UNKEPT}a text before it was mended, and this replay tells that part otherwise."


_TITLE = re.compile(r"^replay: .*$", re.MULTILINE)


class Recording(Struct, frozen=True):
    """A session as a replay: its text, the same read, how it plays on its own machine, and what must be said of it."""

    text: str
    replay: Replay
    result: Result
    notes: tuple[str, ...]


def record(options: dict[str, Any]) -> NoReturn:
    """Write a session down as a replay, or a replay anew, and end with the exit code.

    0: good; 1: it doesn't play so again, or can't be told anew; 2: wrong use.
    """
    if (options["session"] is None) == (options["again"] is None):
        raise click.UsageError("name a session, or a file with --again")
    if options["again"] is not None:
        again.record(options)
    _session(options)


def _session(options: dict[str, Any]) -> NoReturn:
    told = Told(options["url"], options["token"])
    settings = settings_of({name: options[name] for name in ("project", "store")})
    prompts: Prompts = "all" if options["is_whole"] else "asked"

    async def work() -> int:
        async with owner_of(settings, told) as owner:
            found = await recording_of(owner, options["session"], prompts)
        file = options["output"] or file_of(settings, found.replay)
        refuse_file(file, "--output", is_forced=options["is_forced"])
        refuse_keys(found.text, settings)
        write(file, found.text)
        _report(file, found, settings, options["form"])
        return GOOD if found.result.is_good else FINDINGS

    sys.exit(ended(work()))


def keep(file: Path, text: str, settings: Settings) -> str:
    """Write a play down, called as its file; the sentence that says so.

    Its session began and ended with the play: that one's id would tell a reader nothing.
    Raises Refused where a key stands in it, or no replay can hold it, OSError.
    """
    called = f"replay: {word(file.name.removesuffix(SUFFIX))}"
    text = _TITLE.sub(lambda _: called, text, count=1)
    _read_again(text)
    refuse_keys(text, settings)
    write(file, text)
    return f"{clean(file)} is written. Play it: {typed('replay', str(file), *_project(settings))}"


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
    last = max((node for node in about.nodes if node.turn in about.branch), key=lambda node: node.turn)
    machine = about.machines[last.digest]
    parts = await recorded_since_move(runtime.store, about, prompts)
    return await _checked(parts, machine, *([LONG] if LONG in parts[0] else []))


async def _checked(parts: tuple[str, ...], machine: Machine, *notes: str) -> Recording:
    """A recording that was played once, without the prompts that its own answers don't lead to. Raises Refused."""
    text = "".join(parts)
    replay = _read_again(text)
    result = await played(replay, machine)
    unlike = [came.number for came in result.came if came.step.prompt not in (None, came.prompt)]
    if not unlike:
        return Recording(text, replay, result, notes)
    said = f"Steps {', '.join(map(str, unlike))} have no prompt: what was told before them had been mended."
    return await _checked(tuple(_without(parts, replay, unlike)), machine, *notes, said)


def _read_again(text: str) -> Replay:
    """What was written, as it is read. Raises Refused."""
    replays, faults = read_replays(f"recording{SUFFIX}", text)
    if faults:
        raise Refused("wrong_use", f"no replay can hold this session: {faults[0].message}", "Export it as jsonl")
    return replays[0]


def _without(parts: tuple[str, ...], replay: Replay, numbers: list[int]) -> Iterator[str]:
    """A recording's parts without the prompts of some steps."""
    yield parts[0]
    for number, step in enumerate(replay.steps, start=1):
        yield f"  # {_MENDED}\n" if number in numbers else parts[2 * number - 1]
        yield step_text(replace(step, prompt=None)) if number in numbers else parts[2 * number]


def file_of(settings: Settings, replay: Replay) -> Path:
    """Where a recording stands if nobody says otherwise: in its machine's folder, by a name that every system takes."""
    name = re.sub("[^A-Za-z0-9_-]+", "_", replay.name.removeprefix("session "))
    return settings.project_path / REPLAYS / replay.given.machine / f"{name}{SUFFIX}"


def refuse_file(file: Path, option: str, *, is_forced: bool = False) -> None:
    """Pass a file that a recording may be written to. Raises UsageError."""
    if not file.name.endswith(SUFFIX):
        raise click.UsageError(f"{option} {file}: a replay's file is called NAME{SUFFIX}")
    if file.exists() and not is_forced:
        over = ", or write over it with --force" if option == "--output" else ""
        raise click.UsageError(f"{file} exists: name another with {option}{over}")


def _report(file: Path, found: Recording, settings: Settings, form: str) -> None:
    steps = found.replay.steps
    facts = {
        "file": str(file),
        "machine": found.replay.given.machine,
        "steps": len(steps),
        "narrated": sum(step.narrate is not None for step in steps),
        "prompts": sum(step.prompt is not None for step in steps),
        "is_from_move": found.replay.given.state is not None,
        "plays": found.result.is_good,
        "notes": found.notes,
    }
    if form == "json":
        click.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    click.echo(clean(f"{file}: {_counted(facts)}"))
    if facts["is_from_move"]:
        click.echo("The session has moved to another version: the replay begins behind the move, in the state and")
        click.echo("with the variables that it left; what was visited and used up before is not known to it.")
    for note in found.notes:
        click.echo(note)
    if not found.result.is_good:
        click.echo("It doesn't play again as it was:")
        click.echo("\n".join(map(clean, told_of(found.result))))
    click.echo(f"Play it: {typed('replay', str(file), *_project(settings))}")


def _counted(facts: dict[str, Any]) -> str:
    told = f", {facts['narrated']} told by a model" if facts["narrated"] else ", told offline"
    prompts = f", {facts['prompts']} with the prompt that was sent" if facts["prompts"] else ""
    return f"{facts['steps']} turns of {facts['machine']}{told}{prompts}"


def _project(settings: Settings) -> list[str]:
    return [] if settings.project == "." else ["--project", settings.project]
