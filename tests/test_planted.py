"""A machine with a planted bug of each kind: exploration finds it, by the shortest path, and its replay shows it.

Each file of tests/machines/planted has one bug. Its first comments say what is found, where, and by which path:
the first event, then the options chosen, each with the dice and lessons that it takes. Adding a file is
adding the test.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from command import edgewise
from msgspec import Struct
from msgspec.structs import replace

from runtime import loader
from runtime.bench.explore import Explored, quick
from runtime.bench.finding import Bug, Kind
from runtime.bench.player import Result, played, played_by_rules
from runtime.bench.replay import Replay, ReplayStep
from runtime.bench.replay_file import read_replays
from runtime.bench.trial import Trial
from runtime.bench.wander import CHUNK, Wandering, chunks, repeated, together, wander
from runtime.bench.written import written
from runtime.expression import Expression
from runtime.flow_yaml import flow
from runtime.machine import Assign, Machine
from runtime.session import Invoke

FOLDER = Path(__file__).parent / "machines" / "planted"
PLANTED = sorted(FOLDER.glob("*.yaml"))
TOLD = sorted((FOLDER / "told").iterdir())
"""Projects whose bug is in their words: each must be told to be found."""
TURNS = 2_000
"""The budget of a search: each planted machine is searched to its end with less."""


def machine_of(file: Path) -> Machine:
    return loader.load({f"machines/{file.name}": file.read_text(encoding="utf-8")})


def said_of(file: Path, key: str) -> str:
    """What a file's first comments say of its bug, '' where they don't."""
    lines = (line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines())
    return next((line.removeprefix(f"{key}: ") for line in lines if line.startswith(f"{key}: ")), "")


def path_of(replay: Replay | None) -> str:
    return " ".join(map(word_of, replay.steps)) if replay is not None else ""


def word_of(step: ReplayStep) -> str:
    """`dive={cold: 6}`."""
    chosen = step.choose
    name = step.send or (chosen.key or chosen.kind if chosen else "")
    brought = {**step.dice, **(step.narrate or {})}
    return f"{name}={flow(brought)}" if brought else str(name)


def read_again(replay: Replay) -> Replay:
    """The replay as its file gives it back."""
    (again,), faults = read_replays("planted.replay.yaml", written(replay))
    assert faults == []
    return again


# What is found.


@pytest.mark.parametrize("file", PLANTED, ids=lambda file: file.stem)
def test_the_planted_bug_is_found_where_it_is_by_the_shortest_path(file: Path):
    """And nothing else is: what the machine does well is no finding."""
    explored = quick(machine_of(file), TURNS)

    found = [(f"{bug.kind} {bug.where}", path_of(bug.replay)) for bug in explored.bugs]
    assert found == [(said_of(file, "finds"), said_of(file, "path"))]
    assert explored.is_whole


@pytest.mark.parametrize("file", PLANTED, ids=lambda file: file.stem)
async def test_its_replay_shows_it(file: Path):
    """Served, and by the rules alone; as it was found, and as its file gives it back."""
    machine = machine_of(file)
    (bug,) = quick(machine, TURNS).bugs
    if bug.replay is None:
        assert bug.kind == "unreached"
        return

    for result in (await played(read_again(bug.replay), machine), played_by_rules(read_again(bug.replay), machine)):
        SHOWS[bug.kind](Shown(bug, machine, result))


class Shown(Struct):
    """A bug, the machine that has it, and what came of its replay."""

    bug: Bug
    machine: Machine
    result: Result


def shows_fault(shown: Shown) -> None:
    """The last step is refused, or its routing closed an edge whose guard errs."""
    last = shown.result.came[-1]
    erred = [each for each in last.turn.routed if each.has_erred] if last.turn else []
    assert (last.error == "machine_fault") != bool(erred)
    assert shown.result.verdict == "passed"


def shows_trap(shown: Shown) -> None:
    session = shown.result.came[-1].session
    assert session is not None
    assert (session.ended, session.routing.allowed_event_types, session.offer) == (False, (), ())
    assert shown.result.verdict == "passed"


def shows_loop(shown: Shown) -> None:
    """However it goes on, it does, and no ending comes."""
    trial, rng = Trial(shown.machine), random.Random("round")  # noqa: S311 - no secret
    session = shown.result.came[-1].session
    assert session is not None
    for _ in range(60):
        session = trial.take(session, Invoke(selected_option_id=rng.choice(session.offer).id)).after
        assert not session.ended
    assert shown.result.verdict == "passed"


def shows_property(shown: Shown) -> None:
    """The replay fails at its last step, and names the property and its place."""
    found, bug = shown.result.difference, shown.bug
    assert found is not None
    assert bug.replay is not None
    assert (shown.result.verdict, found.step) == ("failed", len(bug.replay.steps))
    assert found.field == f"properties.{bug.what.partition(':')[0]}"
    assert bug.where in found.why


SHOWS: dict[str, Callable[[Shown], None]] = {
    "fault": shows_fault,
    "trap": shows_trap,
    "loop": shows_loop,
    "property": shows_property,
}


def test_what_can_not_be_reached_is_told_with_why():
    explored = quick(machine_of(FOLDER / "unreached.yaml"), TURNS)

    assert {(goal.kind, goal.key) for goal, _ in explored.not_covered} >= {("endings", "ACROSS"), ("states", "ACROSS")}
    assert all(why for _, why in explored.not_covered)


@pytest.mark.parametrize("file", [each for each in PLANTED if each.stem != "loop"], ids=lambda file: file.stem)
def test_plays_at_random_find_it_too(file: Path):
    """But not that an ending is never reached, nor where a loop begins: no play proves that."""
    machine = machine_of(file)
    plays = Wandering("planted", CHUNK)
    found = together([wander(machine, plays, chunk) for chunk in chunks(plays)])

    told = {f"{bug.kind} {bug.where}" for bug in found.bugs}
    wanted = said_of(file, "finds")
    assert told == (set() if wanted.startswith("unreached") else {wanted})


# What is found in words.


def told_bugs(folder: Path) -> tuple[Machine, list[Bug]]:
    machine = loader.load_project(folder)[folder.name]
    plays = Wandering("planted", 12, tells=True)
    found = together([wander(machine, plays, chunk) for chunk in chunks(plays)])
    return machine, [*found.bugs, *repeated(machine, found)]


@pytest.mark.parametrize("folder", TOLD, ids=lambda folder: folder.name)
async def test_the_planted_text_is_found_and_told_again_by_its_replay(folder: Path):
    machine, bugs = told_bugs(folder)

    (bug,) = bugs
    file = folder / "machines" / f"{folder.name}.yaml"
    assert (f"{bug.kind} {bug.where}", path_of(bug.replay)) == (said_of(file, "finds"), said_of(file, "path"))
    assert bug.replay is not None
    result = await played(read_again(bug.replay), machine)
    scenes = [each.answer["payload"]["scene"] for each in result.came if each.answer]
    assert result.verdict == "passed"
    assert said_of(file, "tells") in scenes[-1]
    assert (said_of(file, "tells") in scenes[-2]) == (bug.kind == "repeats")


# A crash: what no machine can do by its rules.


class Bomb:
    """A compiled expression that falls over, as a fault of ours would."""

    def eval(self, data: Any) -> Any:  # noqa: ARG002 - as the library calls it
        raise ZeroDivisionError("boom 💥")


def mined() -> Machine:
    """A machine in whose cellar the runtime falls over."""
    machine = machine_of(FOLDER / "trap.yaml")
    bomb = Assign("bag", Expression("bomb", "set", (), Bomb()))
    return replace(machine, entries={**machine.entries, "CELLAR": (bomb,)})


def test_a_crash_is_found_and_ends_nothing():
    """All else is explored all the same."""
    explored = quick(mined(), TURNS)

    (crash,) = [bug for bug in explored.bugs if bug.kind == "crash"]
    assert (crash.what, path_of(crash.replay)) == ("ZeroDivisionError: boom 💥", "HALL jump")
    assert crash.where.startswith("machines/trap.yaml")
    assert "OUT" in explored.coverage.endings


async def test_its_replay_falls_over_and_says_so():
    (crash,) = [bug for bug in quick(mined(), TURNS).bugs if bug.kind == "crash"]
    assert crash.replay is not None

    result = await played(read_again(crash.replay), mined())

    assert (result.verdict, result.came[-1].error) == ("failed", "crash")
    assert result.difference is not None
    assert result.difference.step == 2


# The commands.


@pytest.mark.slow
def test_the_command_names_each_with_its_place_its_path_and_how_to_play_it_again(tmp_path: Path):
    """What it says to run finds the bug again: the broken property fails, what the machine does wrong is played."""
    (tmp_path / "machines").mkdir()
    for file in PLANTED:
        shutil.copy(file, tmp_path / "machines")

    told = edgewise("explore", "-j", "1", cwd=tmp_path)

    assert told.returncode == 1, told.stderr
    for file in PLANTED:
        kind, _, where = said_of(file, "finds").partition(" ")
        assert f"  {kind}: {where}: " in told.stdout
    again = re.findall(r"play it again: edgewise (replay \S+)", told.stdout)
    assert len(again) == len([file for file in PLANTED if said_of(file, "path")])
    files = [each.removeprefix("replay ") for each in again if "somebody_lives" in each or "CELLAR" in each]
    shown = edgewise("replay", "-j", "1", *files, cwd=tmp_path)
    assert shown.returncode == 1
    assert "properties.somebody_lives" in shown.stdout
    assert shown.stdout.endswith("2 replays: 1 failed, 1 passed\n")


# All kinds.


def test_every_kind_of_finding_is_planted():
    files = [*PLANTED, *(folder / "machines" / f"{folder.name}.yaml" for folder in TOLD)]

    planted = {said_of(file, "finds").split()[0] for file in files}

    assert planted | {"crash"} == set(get_args(Kind))


def test_the_same_search_finds_the_same():
    def told(explored: Explored) -> list[tuple[str, str, str]]:
        return [(bug.kind, bug.what, path_of(bug.replay)) for bug in explored.bugs]

    for file in PLANTED:
        assert told(quick(machine_of(file), TURNS)) == told(quick(machine_of(file), TURNS))
