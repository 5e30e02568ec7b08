"""`edgewise compare`: the same paths on two versions of a machine or with two narrators, and where they part."""

from __future__ import annotations

import asyncio
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.bench.compare import Compared, Side, compared, unwalked
from runtime.bench.moves import Move, replay_of, tried
from runtime.bench.paths import cover
from runtime.bench.pool import cores, shared_out
from runtime.bench.replay import Expect, Replay, bare
from runtime.bench.search import openings
from runtime.bench.trial import Trial
from runtime.errors import DesignError, Refusal
from runtime.machine import Machine
from runtime.narrators import Narrator
from runtime.narrators.offline import Offline
from server import project_file
from server.bench.compare_report import Report, lines, markdown, page, plain
from server.bench.gathering import REPLAYS, bundles_of, by_machine, replays_in, writing_to
from server.bench.keys import refuse_keys
from server.build import known_path, profiles_of
from server.options import settings_of
from server.play.table import Refused
from server.settings import Settings, variables_of
from server.tend.changing import whole_file

if TYPE_CHECKING:
    from runtime.narrators.profile import Profile

MOST_TURNS = 200
"""How many turns a random walk takes at most."""
RECORDED, OFFLINE, MODEL = "recorded", "offline", "openai"
"""Who tells: what a replay has recorded and else the offline narrator, that one alone, or a model."""
_WORTH_A_PROCESS = 24
"""How many paths one more process is worth starting for."""
Files = dict[str, str]
"""A machine's files, path → text."""


class Told(Struct, frozen=True):
    """Who tells a side's turns; `model` is None for the configured one, and where no model tells."""

    narrator: str
    model: str | None = None

    def __str__(self) -> str:
        return f"{self.narrator}{f' {self.model}' if self.model else ''}"


def compare(name: str, options: dict[str, Any]) -> int:
    """Compare; 0 where the states are the same, 1 where they part. Raises UsageError, DesignError, SettingsError."""
    tellers = _tellers(options)
    project, against = options["project"] or Path(), options["against"]
    files = bundles_of(project, [name])[name]
    others = _files_against(project, against, name) if against else files
    here, there = loader.load(files), loader.load(others)
    paths = _paths(project, here, there, options)
    if MODEL in {each.narrator for each in tellers}:
        found = asyncio.run(_asked(paths, (here, there), tellers, options))
    else:
        found = _played(paths, (files, others), tellers, options["jobs"] or cores())
    report = Report(
        machine=name,
        here=f"{project}, told by {tellers[0]}",
        there=f"{against or project}, told by {tellers[1]}",
        found=tuple(found),
        unwalked=unwalked(found, here, there),
    )
    _tell(report, options, is_asked=MODEL in {each.narrator for each in tellers})
    is_strict = options["is_strict"] and (report.words or report.prompts)
    return int(bool(report.parted or is_strict))


def _tell(report: Report, options: dict[str, Any], *, is_asked: bool) -> None:
    """Print the report, and write it where that is asked for. Raises UsageError where a model let a key out."""
    is_json, output = options["form"] == "json", options["output"]
    told = json.dumps(plain(report), ensure_ascii=False, indent=2) if is_json else "\n".join(lines(report))
    if is_asked:
        try:
            refuse_keys(told, settings_of({"project": options["project"]}))
        except Refused as refused:
            raise click.UsageError(f"{refused.message}. {refused.hint}.") from None
    if output:
        with writing_to(output), whole_file(output) as file:
            file.write((page(report) if output.suffix == ".html" else markdown(report)).encode())
    click.echo(told)


# Who tells.


def _tellers(options: dict[str, Any]) -> tuple[Told, Told]:
    """Who tells here and there. Raises UsageError where that fits nothing, or there is nothing to compare."""
    model, other = options["model"], options["with_model"]
    narrator = options["narrator"] or (MODEL if model or other else RECORDED)
    with_narrator = options["with_narrator"] or (MODEL if other else narrator)
    here = Told(narrator, model)
    there = Told(with_narrator, other or (model if with_narrator == MODEL else None))
    for each, name in ((here, "--model"), (there, "--with-model")):
        if each.model and each.narrator != MODEL:
            raise click.UsageError(f"{name} {each.model} is asked by {name[:-5]}narrator {MODEL} alone.")
    if not (options["against"] or options["with_narrator"] or other):
        raise click.UsageError(
            "there is nothing to compare with: add --against DIR or REV, --with-narrator or --with-model."
        )
    if not options["against"] and here == there != Told(MODEL, model):
        raise click.UsageError(f"both sides are the same machine, told by {here}: name another with --with-narrator.")
    return here, there


def _profiles(settings: Settings, options: dict[str, Any], model: str | None) -> tuple[Profile, ...]:
    """How a side's model is reached: of the providers that the project lists the one of that model, else the first."""
    if model is None:
        return profiles_of(settings)
    is_described = settings.openai_base_url or settings.openai_model or settings.openai_profile
    project = settings.project_path
    listed = () if is_described else project_file.profiles_of(project, variables_of(project))
    if listed:
        return tuple(each for each in listed if each.model == model) or (replace(listed[0], model=model),)
    return profiles_of(settings_of({"project": options["project"], "narrator": MODEL, "openai_model": model}))


def _narrator(told: Told, options: dict[str, Any]) -> Narrator | None:
    """Who tells a side, not open yet. Raises SettingsError, DesignError."""
    if told.narrator != MODEL:
        return Offline() if told.narrator == OFFLINE else None
    from runtime.narrators.openai import OpenAI  # noqa: PLC0415 - takes longer to import than most comparisons
    from runtime.narrators.probing import Known  # noqa: PLC0415 - the same

    settings = settings_of({"project": options["project"], "narrator": MODEL})
    return OpenAI(*_profiles(settings, options, told.model), known=Known(known_path(settings)))


# The other version.


def _files_against(project: Path, against: str, name: str) -> Files:
    """The machine's files in another folder, or in a revision of this project. Raises UsageError."""
    if Path(against).is_dir():
        return bundles_of(Path(against), [name])[name]
    with _archived(project, against) as folder:
        return bundles_of(folder, [name])[name]


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


def _paths(project: Path, here: Machine, there: Machine, options: dict[str, Any]) -> list[Replay]:
    """The machine's replays, else plays that cover the edges of both versions, or random ones if asked for."""
    if options["plays"]:
        return [_walk(here, f"{options['seed']}:{number}") for number in range(options["plays"])]
    replays, faults = replays_in(project, project / REPLAYS)
    if faults:
        raise DesignError(faults)
    return by_machine(replays, [here.name])[here.name] or _covers(here, there)


def _covers(here: Machine, there: Machine) -> list[Replay]:
    """Plays that cover the edges of either version; those of both that are the same once."""
    found: dict[bytes, Replay] = {}
    for machine, side in ((here, "here"), (there, "there")):
        for each in cover(machine, "edges").replays:
            found.setdefault(_sent(each), replace(each, id=f"{each.name}, found {side}"))
    return list(found.values())


def _sent(replay: Replay) -> bytes:
    """What a replay sends, whatever comes of it."""
    steps = tuple(replace(step, expect=Expect(), line=0) for step in replay.steps)
    return repr(bare(replace(replay, steps=steps, name=""))).encode()


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


# Playing.

_SIDES: list[Side] = []
"""The two sides, in whichever process plays them."""


def _set_up(files: Files, others: Files, is_offline: tuple[bool, bool]) -> None:
    _SIDES[:] = [
        Side(loader.load(each), Offline() if offline else None)
        for each, offline in zip((files, others), is_offline, strict=True)
    ]


def _compared(replay: Replay) -> Compared:
    return asyncio.run(compared(replay, *_SIDES))


def _played(
    paths: Sequence[Replay], files: tuple[Files, Files], tellers: tuple[Told, Told], jobs: int
) -> list[Compared]:  # fmt: skip
    """Every path on both sides, in their order; several processes only where that is worth it."""
    is_offline = tuple(each.narrator == OFFLINE for each in tellers)
    worth = min(jobs, 1 + len(paths) // _WORTH_A_PROCESS)
    found: dict[int, Compared] = {}
    with _bar(len(paths)) as bar:
        for number, each in shared_out(_compared, paths, worth, _set_up, (*files, is_offline)):
            found[number] = each
            bar.update(1)
    return [found[number] for number in sorted(found)]


async def _asked(
    paths: Sequence[Replay], machines: tuple[Machine, Machine], tellers: tuple[Told, Told], options: dict[str, Any]
) -> list[Compared]:
    """Every path on both sides, as many at once as there are jobs: a model is waited for, and no core is."""
    narrators = [_narrator(each, options) for each in tellers]
    sides = [Side(machine, narrator) for machine, narrator in zip(machines, narrators, strict=True)]
    turnstile = asyncio.Semaphore(options["jobs"] or cores())
    opened: list[Narrator] = []

    async def one(replay: Replay, bar: Any) -> Compared:
        async with turnstile:
            found = await compared(replay, *sides)
        bar.update(1)
        return found

    try:
        for narrator in filter(None, narrators):
            await narrator.open()
            opened.append(narrator)
        with _bar(len(paths)) as bar:
            return await asyncio.gather(*(one(each, bar) for each in paths))
    finally:
        for narrator in opened:
            await narrator.close()


def _bar(count: int) -> Any:
    return click.progressbar(length=count, label="paths", file=sys.stderr, hidden=not sys.stderr.isatty())
