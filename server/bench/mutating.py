"""`edgewise mutate`: which small faults of a machine its replays would let pass."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from runtime import loader
from runtime.bench.mutate import Fate, Judged, Score, judged, killers, mutants_of, passes, score_of
from runtime.bench.player import played
from runtime.bench.pool import cores
from runtime.bench.replay import SUFFIX, Replay
from runtime.bench.written import written
from runtime.errors import DesignError
from runtime.machine import Machine
from server.bench.gathering import HOW_TO_MAKE_ONE, REPLAYS, bundles_of, by_machine, replays_in, writing_to
from server.bench.played import counted
from server.tend.pages import clean

_WORTH_A_PROCESS = 40
"""How many mutants one more process is worth starting for."""
_NAMED = 3
"""How many replays are named."""
_HEADINGS: dict[Fate, str] = {
    "survived": "survived: no replay notices",
    "equivalent": "probably equivalent, not counted: no play that was tried tells them from the machine",
}


class Mutated(Struct, frozen=True, kw_only=True):
    """What became of a machine's mutants, in file order.

    `replays` is how many judged them; `unfit` are those that fail on the machine itself. `left_out` is how
    many mutants there was no time for.
    """

    machine: str
    found: tuple[Judged, ...]
    replays: int
    unfit: tuple[str, ...]
    seconds: float
    left_out: int = 0

    @property
    def score(self) -> Score:
        """How many came to which fate."""
        return score_of(self.found)

    def of(self, fate: Fate) -> list[Judged]:
        """Those of one fate."""
        return [each for each in self.found if each.fate == fate]


def mutate(options: dict[str, Any]) -> int:
    """Judge the mutants of machines and tell of them; 1 where a score is too low. Raises UsageError, DesignError."""
    project, least = options["project"] or Path(), options["fail_under"]
    bundles = bundles_of(project, options["machines"])
    replays, faults = replays_in(project, options["replays"] or project / REPLAYS)
    if faults:
        raise DesignError(faults)
    own = by_machine(replays, bundles)
    if not any(own.values()):
        raise click.UsageError(f"no replay plays {', '.join(bundles)}, so none can notice anything. {HOW_TO_MAKE_ONE}.")
    jobs = options["jobs"] or cores()
    pages = [mutated_of(loader.load(files), own[name], jobs) for name, files in bundles.items()]
    notes = [note for page in pages for note in _written(page, bundles[page.machine], options["write"])]
    if options["form"] == "json":
        click.echo(msgspec.json.format(msgspec.json.encode({"machines": [plain(page) for page in pages]})))
    else:
        for page in pages:
            click.echo("\n".join(told(page)))
    for note in notes:
        click.echo(note, err=options["form"] == "json")
    under = [page for page in pages if least is not None and page.score.percent < least]
    for page in under:
        click.echo(f"{page.machine}: {rounded(page.score)} is under {least:g}%", err=True)
    return int(bool(under))


def mutated_of(machine: Machine, replays: Sequence[Replay], jobs: int, ends_at: float | None = None) -> Mutated:
    """Judge every mutant of a machine, or as many as there is time for: `ends_at` is by the monotonic clock."""
    begun = time.monotonic()
    fit = [each for each in replays if passes(each, machine)]
    unfit = tuple(each.id for each in replays if each not in fit and each.xfail is None)
    total = len(mutants_of(machine.files))
    found: dict[int, Judged] = {}
    worth = min(jobs, 1 + total // _WORTH_A_PROCESS)
    with click.progressbar(
        length=total, label=f"mutants of {machine.name}", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        for number, each in judged(machine.files, fit, worth):
            found[number] = each
            bar.update(1)
            if ends_at is not None and time.monotonic() > ends_at:
                break
    return Mutated(
        machine=machine.name,
        found=tuple(found[number] for number in sorted(found)),
        replays=len(fit),
        unfit=unfit,
        seconds=time.monotonic() - begun,
        left_out=total - len(found),
    )


# How it is told.


def rounded(score: Score) -> str:
    """A score in percent with one digit; never 100% while something survives."""
    return f"{int(score.percent * 10) / 10:g}%"


def told(page: Mutated) -> Iterator[str]:
    """The score, then each survivor with where it is, what was changed and who played over it."""
    score = page.score
    total = score.killed + score.survived
    killed = f"{score.killed:,} of {total:,} mutants killed by {_replays(page.replays)}"
    rest = f"{score.equivalent:,} probably equivalent, {score.invalid:,} invalid"
    yield f"{page.machine}: {rounded(score)}, {killed}; {rest}"
    if page.unfit:
        fails = "fails as it is and judges" if len(page.unfit) == 1 else "fail as they are and judge"
        yield clean(f"  {_replays(len(page.unfit))} {fails} nothing: {_listed(page.unfit)}")
    for fate, heading in _HEADINGS.items():
        found = page.of(fate)
        if found:
            yield f"  {heading}:"
        for each in found:
            yield from _lines(each)
    turns = sum(each.turns for each in page.found)
    yield f"  {counted(len(page.found), 'mutant')}, {counted(turns, 'turn')}, {page.seconds:.1f} s"


def _lines(each: Judged) -> Iterator[str]:
    mutant = each.mutant
    yield clean(f"    {mutant.place} {mutant.what}: {mutant.diff}")
    if each.fate == "equivalent":
        yield f"      {each.by}"
        return
    over = f"played over by {_replays(len(each.over))}: {_listed(each.over)}" if each.over else "no replay comes there"
    yield clean(f"      {over}")
    if each.by:
        yield clean(f"      would show {each.by}")


def _replays(count: int) -> str:
    return f"{count:,} replay{'' if count == 1 else 's'}"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def plain(page: Mutated) -> dict[str, Any]:
    """A machine's mutants as JSON has them."""
    score = page.score
    return {
        "machine": page.machine,
        "percent": round(score.percent, 2),
        **msgspec.to_builtins(score),
        "replays": page.replays,
        "unfit": page.unfit,
        "turns": sum(each.turns for each in page.found),
        "seconds": round(page.seconds, 3),
        "mutants": [_plain(each) for each in page.found],
    }


def _plain(each: Judged) -> dict[str, Any]:
    mutant = each.mutant
    names = ("kind", "file", "line", "col", "what", "diff")
    told = {name: getattr(mutant, name) for name in names}
    return {**told, "fate": each.fate, "by": each.by, "over": each.over, "turns": each.turns}


# Replays for what survived.


def _written(page: Mutated, files: dict[str, str], folder: Path | None) -> list[str]:
    """Write the replays that would have noticed; a line for each. Nothing that is there is written over."""
    if folder is None:
        return []
    machine = loader.load(files)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = [pair for pair in killers(files, page.of("survived")) if _passes_served(pair[1], machine)]
    notes = []
    for mutant, killer in found:
        file = _free(folder, mutant.what)
        comment = clean(f"It notices a small fault in {mutant.what}: {mutant.diff}")
        with writing_to(file):
            file.write_text(written(killer, comment), encoding="utf-8", newline="\n")
        notes.append(f"written: {file}")
    return notes or [f"{page.machine}: no replay could be written that notices more"]


def _passes_served(replay: Replay, machine: Machine) -> bool:
    """Whether it passes as it will be played: told, and by the whole of a turn."""
    return asyncio.run(played(replay, machine)).verdict == "passed"


def _free(folder: Path, name: str) -> Path:
    """A file that isn't there yet."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    names: Iterable[str] = (f"{plain}{number}" for number in ("", *(f"_{each}" for each in range(2, 10_000))))
    return next(file for each in names if not (file := folder / f"mutant_{each}{SUFFIX}").exists())
