"""The machines that ship, on their own bench: their replays pass, cover them whole, and notice small faults.

`replays/MACHINE/` has what was written by hand; below it, `cover/` is what `edgewise paths --cover guards`
writes, and `small-faults/` what `edgewise mutate --write` does.
"""

from __future__ import annotations

import asyncio
import random
from functools import cache

import pytest
from conftest import SCALE
from pages import ROOT
from served import shipped

from runtime import loader
from runtime.bench.course import Result
from runtime.bench.coverage import Coverage, goals, is_hit, merged, missed, seen
from runtime.bench.mutants import mutated
from runtime.bench.mutate import judged, mutants_of, score_of
from runtime.bench.paths import KINDS
from runtime.bench.player import played, played_by_rules
from runtime.bench.pool import cores
from runtime.bench.replay import Replay
from runtime.errors import Finding
from server import project_file
from server.bench.gathering import replays_in

MACHINES = ("haunted_house", "mine_adventure", "ticket_triage")
SAMPLE = 8 * SCALE
"""How many mutants of a machine are tried: a few for every change, all of them in a night."""


@cache
def replays_of(name: str) -> tuple[Replay, ...]:
    found, faults = replays_in(ROOT, ROOT / "replays" / name)
    assert faults == []
    return tuple(found)


@cache
def cover_of(name: str) -> dict[str, Coverage]:
    """What each of the generated plays covers, by its name."""
    machine = shipped()[name]
    own = [each for each in replays_of(name) if each.file.startswith(f"replays/{name}/cover/")]
    return {each.name: seen(machine, played_by_rules(each, machine).came) for each in own}


def by_hand(name: str) -> tuple[Replay, ...]:
    return tuple(each for each in replays_of(name) if each.file.count("/") == 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_the_replays_of_a_machine_that_ships_pass(name: str):
    """Those that a fault made are played by the rules alone: they are many, and expect no words."""
    machine = shipped()[name]

    async def result(replay: Replay) -> Result:
        is_quick = "/small-faults/" in replay.file
        return played_by_rules(replay, machine) if is_quick else await played(replay, machine)

    async def verdicts() -> dict[str, str]:
        return {each.id: (await result(each)).verdict for each in replays_of(name)}

    found = asyncio.run(verdicts())

    assert len(found) == len(replays_of(name)) >= 15
    assert {replay: verdict for replay, verdict in found.items() if verdict != "passed"} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_the_generated_plays_alone_cover_every_state_edge_guard_and_ending(name: str):
    machine = shipped()[name]

    coverage = merged(*cover_of(name).values())

    assert missed(coverage, goals(machine, KINDS["guards"])) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_each_generated_play_is_there_for_something_that_its_name_says(name: str):
    """No two of them are for the same: what is in the name, the others don't come to."""
    wanted = goals(shipped()[name], KINDS["guards"])
    found = cover_of(name)

    for named, coverage in found.items():
        own = [goal for goal in wanted if goal.name.replace("*.", "") == named.split(" ", 2)[2]]
        others = [other for each, other in found.items() if each != named]
        assert [goal for goal in own if is_hit(coverage, goal) and not any(is_hit(each, goal) for each in others)]


@pytest.mark.parametrize("name", MACHINES)
def test_the_project_asks_as_much_of_its_machines_as_they_reach(name: str):
    asked = project_file.thresholds_of(ROOT, name)

    assert {kind: asked.coverage[kind] for kind in KINDS["guards"]} == dict.fromkeys(KINDS["guards"], 100)
    assert (asked.mutation or 0) >= 90


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_written_by_hand_speaks_both_languages(name: str):
    assert len({each.file for each in by_hand(name)}) >= 3
    assert {each.given.language for each in by_hand(name)} >= {"zh", "en"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_small_faults_of_a_machine_that_ships_are_noticed(name: str):
    """Of a sample. One that makes no difference is counted as unnoticed here, so a few may be."""
    machine = shipped()[name]
    draft, every = loader.drafted(machine.files), mutants_of(machine.files)
    sample = random.Random(name).sample(every, min(SAMPLE, len(every)))  # noqa: S311 - it only has to vary
    if len(sample) == len(every):
        score = score_of(each for _, each in judged(machine.files, replays_of(name), cores()))
        assert score.percent >= (project_file.thresholds_of(ROOT, name).mutation or 100)
        return

    changed = [mutated(draft, machine.files, each) for each in sample]
    fit = [each for each in changed if not isinstance(each, Finding)]
    noticed = [any(played_by_rules(each, one).verdict == "failed" for each in replays_of(name)) for one in fit]

    assert len(fit) >= len(sample) // 2
    assert noticed.count(True) >= len(fit) * 0.85
