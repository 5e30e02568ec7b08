"""Few plays that cover a machine: each goes as it is written, together they cover all, and none is in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import tiny
from msgspec.structs import replace
from served import shipped

from runtime.bench.coverage import Kind, covered, goals
from runtime.bench.paths import KINDS, Cover, Paths, cover
from runtime.bench.player import played, played_by_rules
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays
from runtime.bench.written import written
from runtime.machine import Machine

ROOT = Path(__file__).parents[1]
TRIAGE = "ticket_triage"
FORK = """
initial: HALL
context: {tired: {type: bool, default: false}}
states:
  HALL:
    options:
      - {key: left, text: 左🏮, target: LEFT}
      - {key: right, text: 右, target: RIGHT, assign: {tired: true}}
  LEFT:
    options: [{key: back, text: 回去, target: HALL}, {key: out, text: 出去, guard: "!tired", target: OUT}]
  RIGHT:
    options: [{key: back, text: 回去, target: HALL}, {key: sleep, text: 睡, target: OUT}]
  OUT: {type: final}
"""


def hit_by(machine: Machine, replays: tuple[Replay, ...]) -> set[tuple[Kind, object]]:
    """What replays cover as they are played by the rules, refusals left out."""
    found: set[tuple[Kind, object]] = set()
    for replay in replays:
        turns = [came.turn for came in played_by_rules(replay, machine).came if came.turn is not None]
        coverage = covered(machine, turns)
        found |= {(kind, key) for kind in KINDS["guards"] for key in coverage.of(kind)}
        found |= {("pairs", key) for key in coverage.pairs}
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_plays_cover_all_that_can_be_covered_and_none_is_in_vain(kind: Cover):
    machine = tiny(FORK)

    found = cover(machine, kind)

    missing = {(goal.kind, goal.key) for goal, _ in found.not_covered}
    wanted = {(goal.kind, goal.key) for goal in goals(machine, KINDS[kind])} - missing
    assert wanted <= hit_by(machine, found.replays)
    for each in found.replays:
        others = tuple(other for other in found.replays if other is not each)
        assert not wanted <= hit_by(machine, others)


def test_pairs_that_no_play_can_have_are_told():
    """Who is tired doesn't leave to the left: the table alone can't know it."""
    rested = cover(tiny(FORK), "pairs")
    tired = cover(tiny(FORK.replace("default: false", "default: true")), "pairs")

    why = {goal.name: why for goal, why in tired.not_covered}
    assert why.keys() - {goal.name for goal, _ in rested.not_covered} == {"LEFT.out", "HALL.left, then LEFT.out"}
    assert why["HALL.left, then LEFT.out"].endswith("all were seen")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edges", "guards"])
async def test_each_written_play_is_served_as_it_says(kind: Cover):
    """Read from its file's text, told offline, refusals too."""
    found = cover(shipped()[TRIAGE], kind, budget=3_000)

    assert found.not_covered == ()
    for each in found.replays:
        (again,), faults = read_replays("a.replay.yaml", written(each))
        assert faults == []
        assert (await played(again, shipped()[TRIAGE])).verdict == "passed"
        assert played_by_rules(again, shipped()[TRIAGE]).verdict == "passed"


@pytest.mark.slow
def test_every_step_of_a_written_play_expects_what_came():
    found = cover(shipped()[TRIAGE], "guards", budget=3_000)

    for step in (step for each in found.replays for step in each.steps):
        assert step.expect.error or (step.expect.edge and step.expect.state and step.expect.options is not None)
    assert any(step.expect.error == "guard_refused" for each in found.replays for step in each.steps)
    assert any(step.narrate for each in found.replays for step in each.steps)


async def test_a_play_fixes_its_dice_so_that_no_seed_decides():
    machine = tiny(
        """
        initial: {event: INIT, target: HALL, dice: {lot: {pick: [red, black]}}, assign: {colour: dice.lot}}
        context: {colour: {type: enum, of: [red, black]}}
        states:
          HALL:
            options:
              - key: roll
                text: Roll
                dice: {luck: 1d20}
                edges:
                  - {name: won, guard: "dice.luck == 17 && colour == black", target: OUT}
                  - {name: lost, target: HALL}
          OUT: {type: final}
        """
    )

    found = cover(machine, "guards")

    assert found.not_covered == ()
    for each in found.replays:
        for seed in ("a", "另一个"):
            other = replace(each, given=replace(each.given, seed=seed))
            assert (await played(other, machine)).verdict == "passed"


@pytest.mark.slow
def test_the_same_plays_come_each_time():
    once, again = (cover(shipped()[TRIAGE], "edges", budget=1_000) for _ in range(2))

    assert told(once) == told(again)


def told(found: Paths) -> list[str]:
    return [written(each) for each in found.replays]
