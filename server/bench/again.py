"""`edgewise record --again`: a recording whose prompts have changed is told anew where they have, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from msgspec import Struct

from runtime.bench import failed
from runtime.bench.again import RecordedAgain, Retold, recorded_again
from runtime.bench.player import played
from runtime.bench.recording import UNKEPT
from runtime.bench.replay import Replay
from runtime.bench.updating import NotUpdated, updated
from runtime.bench.written import written
from runtime.errors import Refusal
from runtime.exported import Aigc
from runtime.flow_yaml import flow
from runtime.machine import Machine
from runtime.narrators import Narrator
from server.bench.collecting import machine_of, project_of, replays_of
from server.bench.keys import refuse_keys, write
from server.build import narrator_of
from server.options import settings_of
from server.play.table import Refused
from server.settings import Settings
from server.tend.pages import aligned, clean
from server.tend.working import FINDINGS, GOOD, ended

_LABEL = "AIGC:"


class Recording(Struct, frozen=True):
    """A file with one replay, what stands above it, and the machine that it plays."""

    file: Path
    comment: str
    replay: Replay
    machine: Machine


def record(options: dict[str, Any]) -> NoReturn:
    """Tell a recording anew where its prompts have changed; ends with 0, or 1 where it can't be."""
    settings = settings_of({"project": options["project"], "narrator": options["narrator"]})
    found = _read(options["again"], options["project"])
    if not options["is_forced"]:
        _refuse_lost(found)

    async def work() -> int:
        narrator = _narrator_of(settings)
        await narrator.open()
        try:
            came = await recorded_again(found.replay, found.machine, narrator)
        finally:
            await narrator.close()
        return await asyncio.to_thread(_kept, found, came, settings, options["form"])

    sys.exit(ended(work()))


def _narrator_of(settings: Settings) -> Narrator:
    narrator = narrator_of(settings)
    if narrator.name == "offline":
        where = "there is no model to ask again: the narrator is offline"
        raise Refused("wrong_use", where, "Add --narrator openai, or set its key")
    return narrator


def _read(file: Path, project: Path | None) -> Recording:
    """The file's one replay. Raises UsageError, DesignError."""
    replays, faults = replays_of(file, Path())
    if faults:
        raise click.UsageError("\n".join(faults))
    text = file.read_text(encoding="utf-8-sig")
    if len(replays) != 1 or "\nreproduce:" in f"\n{text}":
        raise click.UsageError(f"{file} is more than a recording: one with `each` or `reproduce` is written by hand")
    lines = text.splitlines()
    above = lines[: next((at for at, line in enumerate(lines) if not line.startswith("#")), 0)]
    comment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in above)
    try:
        machine = machine_of(project or project_of(file), replays[0].given.machine)
    except Refusal as refusal:
        raise click.UsageError(f"{refusal.message}. {refusal.hint}") from None
    return Recording(file, comment, replays[0], machine)


def _refuse_lost(found: Recording) -> None:
    """Pass a file that loses no comment when it is written anew. Raises UsageError."""
    lines = found.file.read_text(encoding="utf-8-sig").splitlines()
    kept = {line.strip() for line in written(found.replay, found.comment).splitlines()}
    for number, line in enumerate(lines, start=1):
        if "#" in line and line.strip() not in kept and not line.strip().startswith(f"# {UNKEPT}"):
            where = f"{found.file}:{number}: `{clean(line.strip())}` would be lost, the file is written anew"
            raise click.UsageError(f"{where}. Move it to the top of the file, or add --force")


def _kept(found: Recording, came: RecordedAgain, settings: Settings, form: str) -> int:
    """Write what came, and say so; the exit code."""
    if came.stopped is not None:
        click.echo(f"{clean(found.file)} stays as it was: it can't be told anew to its end.")
        click.echo("\n".join(map(clean, failed.told(came.stopped))))
        return FINDINGS
    text = _text(found, came, settings)
    if came.replay != found.replay:
        refuse_keys(text, settings)
        write(found.file, text)
    _report(found, came.retold, form)
    return GOOD


def _text(found: Recording, came: RecordedAgain, settings: Settings) -> str:
    """The file's new text: it expects what the new answers lead to."""
    comment = found.comment
    if came.retold and _LABEL not in comment:
        label = Aigc(content_producer=settings.label_producer, produce_id=found.replay.name)
        comment = f"{comment}\n{_LABEL} {flow(label.told)}".strip()
    text = written(came.replay, comment)
    if not came.retold:
        return text
    try:
        return updated(str(found.file), text, lambda replay: asyncio.run(played(replay, found.machine)))
    except NotUpdated as why:
        raise Refused("wrong_use", f"{found.file} stays as it was: {why}", "Record it anew from a session") from None


def _report(found: Recording, retold: tuple[Retold, ...], form: str) -> None:
    if form == "json":
        told = [{name: getattr(each, name) for name in ("step", "model", "rungs", "fallback")} for each in retold]
        click.echo(json.dumps({"file": str(found.file), "retold": told}, ensure_ascii=False, indent=2))
        return
    kept = sum(step.narrate is not None for step in found.replay.steps) - len(retold)
    click.echo(clean(f"{found.file}: {len(retold)} turns told anew, {max(0, kept)} kept as they were recorded"))
    rows = [(f"  step {each.step}", clean(each.model), ", ".join(each.rungs), _cost(each)) for each in retold]
    click.echo("\n".join(aligned(rows)) if rows else "  every prompt is as it was")


def _cost(each: Retold) -> str:
    tokens = f"{each.usage.prompt_tokens + each.usage.completion_tokens:,} tokens"
    return tokens + (f", not by the model: {', '.join(each.fallback)}" if each.fallback else "")
