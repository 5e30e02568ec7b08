"""`edgewise compare`: the same paths on two versions of a machine or with two narrators, and where they part."""

from __future__ import annotations

import asyncio
import io
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import click

from runtime import loader
from runtime.bench.compare import Compared, Side, Span, Turn, compared
from runtime.bench.moves import Move, replay_of, tried
from runtime.bench.paths import cover
from runtime.bench.replay import Replay
from runtime.bench.search import openings
from runtime.bench.trial import Trial
from runtime.errors import DesignError, Refusal
from runtime.flow_yaml import flow
from runtime.machine import Machine
from server.bench.gathering import REPLAYS, bundles_of, by_machine, replays_in
from server.build import narrator_of
from server.options import settings_of
from server.tend.changing import whole_file
from server.tend.pages import clean
from server.tend.working import told_as_json

MOST_TURNS = 200
"""How many turns a random walk takes at most."""
CONTEXT = 24
"""How many characters of what is the same stand around a difference."""
MARKS = {
    "text": {"=": ("", ""), "-": ("[-", "-]"), "+": ("{+", "+}")},
    "md": {"=": ("", ""), "-": ("<del>", "</del>"), "+": ("<ins>", "</ins>")},
}


def compare(name: str, options: dict[str, Any]) -> int:
    """Compare; 0 where the states are the same, 1 where they part. Raises UsageError, DesignError, SettingsError."""
    if not any(options[each] for each in ("against", "with_narrator", "with_model")):
        raise click.UsageError(
            "there is nothing to compare with: add --against DIR or REV, --with-narrator or --with-model."
        )
    project = options["project"] or Path()
    here = loader.load(bundles_of(project, [name])[name])
    there = _machine_against(project, options["against"], name) if options["against"] else here
    found = asyncio.run(_compared_all(_paths(project, here, options), here, there, options))
    if output := options["output"]:
        form = "html" if output.suffix == ".html" else "md"
        with whole_file(output) as file:
            file.write((_html(name, found) if form == "html" else _markdown(name, found)).encode())
    if options["form"] == "json":
        told_as_json(_plain(name, found))
    else:
        click.echo("\n".join(_lines(found)))
    has_parted = any(each.parting for each in found) or (options["is_strict"] and any(each.words for each in found))
    return int(has_parted)


def _machine_against(project: Path, against: str, name: str) -> Machine:
    """The machine of another folder, or of a revision of this project."""
    if Path(against).is_dir():
        return loader.load(bundles_of(Path(against), [name])[name])
    with _archived(project, against) as folder:
        return loader.load(bundles_of(folder, [name])[name])


@contextmanager
def _archived(project: Path, revision: str) -> Iterator[Path]:
    """The project as a revision has it, in a folder that goes again. Raises UsageError."""
    words = ["git", "-C", str(project), "archive", "--format=tar"]
    try:
        # No option can be meant by it: whatever begins with a dash is no revision.
        if revision.startswith("-"):
            raise click.UsageError(f"--against '{revision}' is neither a folder nor a revision that git knows.")
        done = subprocess.run([*words, revision, "."], capture_output=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError:
        raise click.UsageError(f"--against '{revision}' is no folder, and there is no git to ask.") from None
    if done.returncode:
        raise click.UsageError(f"--against '{revision}' is neither a folder nor a revision that git knows.")
    with tempfile.TemporaryDirectory() as name:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(name, filter="data")
        yield Path(name)


# Which paths.


def _paths(project: Path, machine: Machine, options: dict[str, Any]) -> list[Replay]:
    """The machine's replays, else plays that cover its edges, or random ones where they are asked for."""
    if options["plays"]:
        return [_walk(machine, f"{options['seed']}:{number}") for number in range(options["plays"])]
    replays, faults = replays_in(project, project / REPLAYS)
    if faults:
        raise DesignError(faults)
    return by_machine(replays, [machine.name])[machine.name] or [*cover(machine, "edges").replays]


def _walk(machine: Machine, seed: str) -> Replay:
    """A random play whose dice are left to its seed: both sides throw the same ones."""
    rng, trial = random.Random(seed), Trial(machine)  # noqa: S311 - no secret
    moves = [Move(event=machine.definition.first.event, begins={"seed": seed})]
    step = tried(trial, None, moves[0])
    while not step.after.ended and len(moves) < MOST_TURNS:
        found = list(openings(machine, step.after))
        rng.shuffle(found)
        for move in found:
            try:
                step = tried(trial, step.after, move)
            except Refusal:
                continue
            moves.append(move)
            break
        else:
            break
    return replay_of(machine, moves, f"random {seed}")


async def _compared_all(
    paths: Sequence[Replay], here: Machine, there: Machine, options: dict[str, Any]
) -> list[Compared]:
    """Every path on both sides; narrators are opened once, and only where one was asked for."""
    is_told = any(options[each] for each in ("narrator", "with_narrator", "model", "with_model"))
    if not is_told:
        return [await compared(each, Side(here), Side(there)) for each in paths]
    narrator, model = options["narrator"], options["model"]
    others = options["with_narrator"] or narrator, options["with_model"] or model
    tellers = [narrator_of(_settings(options, *each)) for each in ((narrator, model), others)]
    try:
        for each in tellers:
            await each.open()
        sides = [Side(machine, teller) for machine, teller in zip((here, there), tellers, strict=True)]
        return [await compared(each, *sides) for each in paths]
    finally:
        for each in tellers:
            await each.close()


def _settings(options: dict[str, Any], narrator: str | None, model: str | None) -> Any:
    return settings_of({"project": options["project"], "narrator": narrator, "openai_model": model})


# Told.


def _lines(found: Sequence[Compared]) -> Iterator[str]:
    """What is printed: each path in which something parts, then the sum."""
    for each in found:
        if each.turns:
            yield f"{clean(each.replay.id or each.replay.name)}"
        for turn in each.turns:
            yield f"  turn {turn.step} ({clean(turn.sent)})"
            yield from (f"    {line}" for line in _told(turn))
    yield _sum(found)


def _told(turn: Turn) -> Iterator[str]:
    for words in turn.words:
        yield f"{words.path}: {marked(words.spans, 'text')}"
    if parting := turn.parting:
        yield f"PARTS at {parting.field}: {clean(flow(parting.here))} ≠ {clean(flow(parting.there))}"
        for name, why in (("here", parting.why_here), ("there", parting.why_there)):
            yield from (f"  {name}: {clean(line)}" for line in why.splitlines())


def _sum(found: Sequence[Compared]) -> str:
    parted, words = sum(1 for each in found if each.parting), sum(each.words for each in found)
    turns = sum(each.steps for each in found)
    return f"{len(found)} paths, {turns} turns: {parted} part in state, {words} texts are told otherwise"


def marked(spans: Sequence[Span], form: str) -> str:
    """A text with what was taken out and put in marked; of what is the same only what stands beside that."""
    parts = []
    for number, (sign, text) in enumerate(spans):
        before, after = MARKS["text" if form == "text" else "md"][sign]
        shown = _near(text, is_first=number == 0, is_last=number == len(spans) - 1) if sign == "=" else text
        shown = clean(shown)
        parts.append(before + (shown if form == "text" else escape(shown)) + after)
    return "".join(parts)


def _near(text: str, *, is_first: bool, is_last: bool) -> str:
    head, tail = ("" if is_first else text[:CONTEXT]), ("" if is_last else text[-CONTEXT:])
    return text if len(text) <= len(head) + len(tail) else f"{head}…{tail}"


def _plain(name: str, found: Sequence[Compared]) -> dict[str, Any]:
    return {
        "machine": name,
        "paths": len(found),
        "parted": sum(1 for each in found if each.parting),
        "words": sum(each.words for each in found),
        "differing": [
            {
                "path": each.replay.id or each.replay.name,
                "turns": [_plain_turn(turn) for turn in each.turns],
            }
            for each in found
            if each.turns
        ],
    }


def _plain_turn(turn: Turn) -> dict[str, Any]:
    parting = turn.parting
    return {
        "turn": turn.step,
        "sent": turn.sent,
        "parting": None if parting is None else {each: getattr(parting, each) for each in parting.__struct_fields__},
        "words": [{"path": each.path, "spans": [list(span) for span in each.spans]} for each in turn.words],
    }


def _markdown(name: str, found: Sequence[Compared]) -> str:
    lines = [f"# Compared: {name}", "", _sum(found), ""]
    for each in found:
        lines += [f"## {escape(clean(each.replay.id or each.replay.name))}", ""] if each.turns else []
        for turn in each.turns:
            lines += [f"### Turn {turn.step}: {escape(clean(turn.sent))}", ""]
            lines += [f"- `{words.path}`: {marked(words.spans, 'md')}" for words in turn.words]
            lines += _parting_lines(turn)
            lines.append("")
    return "\n".join(lines)


def _parting_lines(turn: Turn) -> list[str]:
    parting = turn.parting
    if parting is None:
        return []
    values = f"{clean(flow(parting.here))} ≠ {clean(flow(parting.there))}"
    told = [f"- **parts at {escape(parting.field)}**: {escape(values)}"]
    sides = (("here", parting.why_here), ("there", parting.why_there))
    return told + [f"  - {side}: {escape(clean(why))}" for side, why in sides if why]


def _html(name: str, found: Sequence[Compared]) -> str:
    rows = []
    for each in found:
        rows += [f"<h2>{escape(clean(each.replay.id or each.replay.name))}</h2>"] if each.turns else []
        for turn in each.turns:
            rows.append(f"<h3>Turn {turn.step}: {escape(clean(turn.sent))}</h3><ul>")
            told = [f"<code>{escape(words.path)}</code>: {marked(words.spans, 'md')}" for words in turn.words]
            if parting := turn.parting:
                values = f"{clean(flow(parting.here))} ≠ {clean(flow(parting.there))}"
                told.append(f"<b>parts at {escape(parting.field)}</b>: {escape(values)}")
                sides = (("here", parting.why_here), ("there", parting.why_there))
                told += [f"{side}<pre>{escape(why)}</pre>" for side, why in sides if why]
            rows += [*(f"<li>{line}</li>" for line in told), "</ul>"]
    style = (
        "body{font:15px/1.6 system-ui;max-width:60rem;margin:2rem auto}del{background:#ffd7d5}ins{background:#ccffd8}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Compared: {escape(name)}</title>'
        f"<style>{style}</style></head><body><h1>Compared: {escape(name)}</h1><p>{_sum(found)}</p>"
        f"{''.join(rows)}</body></html>\n"
    )
