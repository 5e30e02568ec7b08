"""Whether replays notice a fault that was put into the machine: killed, survived, invalid, probably equivalent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from conftest import SCALE, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import loader
from runtime.bench.changed import Changed
from runtime.bench.mutants import Mutant, mutants, mutated
from runtime.bench.mutate import Judged, Score, judged, killers, mutants_of, passes, score_of
from runtime.bench.player import Taken, played_by_rules, played_over, taken_by_rules
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays, replay_files
from runtime.draft import Draft
from runtime.errors import Finding
from runtime.machine import Machine

FIGHT = """
initial: HALL
context:
  hp: {type: int, default: 3, min: 0, max: 9}
events: {STRIKE: {}}
on:
  DEAD: [{guard: hp <= 0, target: DEAD, must: true}]
states:
  HALL:
    label: 厅堂🏮
    on:
      STRIKE:
        dice: {hit: 1d6}
        edges:
          - {name: won, guard: dice.hit >= 4, target: OUT}
          - {name: hurt, target: HALL, assign: {hp: hp - 1}}
  OUT: {type: final}
  DEAD: {type: final}
"""
WIN = """
replay: 一击即中 🏮
given: {machine: tiny}
steps:
  - send: HALL
  - {send: STRIKE, dice: {hit: 4}, expect: {edge: HALL.won, ended: true}}
"""
LOSE = """
replay: three blows
given: {machine: tiny}
steps:
  - send: HALL
  - {send: STRIKE, dice: {hit: 3}, expect: {edge: HALL.hurt, context: {hp: 2}, next: STRIKE}}
  - {send: STRIKE, dice: {hit: 1}, expect: {context: {hp: 1}, allowed: [STRIKE]}}
  - {send: STRIKE, dice: {hit: 2}, expect: {context: {hp: 0}, next: DEAD, allowed: [DEAD], should_end: true}}
  - {send: DEAD, expect: {ending: DEAD}}
"""
WRONG = """
replay: it is wrong
given: {machine: tiny}
steps:
  - {send: HALL, expect: {state: OUT}}
"""


def replays(*texts: str) -> tuple[Replay, ...]:
    found = [read_replays(f"replays/{number}.replay.yaml", text) for number, text in enumerate(texts)]
    assert not any(findings for _, findings in found)
    return tuple(each for read, _ in found for each in read)


@cache
def judge(text: str, *texts: str, jobs: int = 1) -> list[Judged]:
    came = dict(judged(tiny(text).files, replays(*texts), jobs))
    return [came[number] for number in sorted(came)]


def fate(found: list[Judged], diff: str) -> Judged:
    (one,) = [each for each in found if each.mutant.diff == diff]
    return one


def test_a_replay_that_comes_otherwise_kills_and_says_where() -> None:
    found = judge(FIGHT, WIN, LOSE)

    shifted = fate(found, "guard: dice.hit >= 4 → dice.hit > 4")
    assert (shifted.fate, shifted.by) == ("killed", "replays/0.replay.yaml::一击即中 🏮, step 2: edge")
    weaker = fate(found, "hp: hp - 1 → hp - 2")
    assert (weaker.fate, weaker.by) == ("killed", "replays/1.replay.yaml::three blows, step 2: context.hp")


def test_without_a_replay_that_comes_there_a_mutant_survives_and_says_so() -> None:
    found = judge(FIGHT, WIN)

    missed = fate(found, "hp: hp - 1 → hp - 2")
    assert (missed.fate, missed.over) == ("survived", ())
    assert missed.mutant.place.startswith("machines/tiny.yaml:")
    assert "context.hp" in missed.by


def test_a_mutant_that_the_check_refuses_is_invalid_and_not_killed() -> None:
    found = judge(FIGHT, WIN, LOSE)

    loosened = fate(found, "guard: dice.hit >= 4 → true")
    assert loosened.fate == "invalid"
    assert "E204" in loosened.by


def test_a_replay_that_fails_on_the_machine_itself_kills_nothing() -> None:
    assert not passes(replays(WRONG)[0], tiny(FIGHT))
    assert {each.fate for each in judge(FIGHT, WRONG)} == {"survived", "invalid"}


@pytest.mark.slow
def test_an_expected_failure_kills_nothing() -> None:
    known = WRONG.replace("steps:", "xfail: known since long\nsteps:")

    assert "killed" not in {each.fate for each in judge(FIGHT, known)}


@pytest.mark.slow
def test_what_makes_no_difference_anywhere_is_told_apart_from_what_no_test_notices() -> None:
    found = judge("""
    initial: A
    context: {n: {type: int, default: 1, min: 0, max: 5}}
    events: {GO: {}}
    states:
      A:
        on:
          GO:
            - {name: less, guard: n < 3, target: A, assign: {n: n + 1}}
            - {name: more, guard: n >= 3, target: B}
      B: {type: final}
    """)

    swapped = next(each for each in found if each.mutant.kind == "edges reordered")
    assert swapped.fate == "equivalent"
    assert swapped.by.startswith("the same in ")
    assert fate(found, "guard: n < 3 → n < 2").fate == "survived"


@pytest.mark.slow
def test_what_only_a_rare_play_would_show_is_no_equivalent() -> None:
    found = judge("""
    initial: CAMP
    context:
      foe: {type: int, default: 6, min: 0, max: 6}
      silver: {type: int, default: 0, min: 0, max: 90}
      debt: {type: bool}
    events: {STRIKE: {}, PAY: {}}
    states:
      CAMP:
        on:
          PAY: [{name: called, guard: debt && silver < 57, target: DEAD}, {name: free, target: CAMP}]
          STRIKE:
            dice: {attack: 1d20, wound: 1d4}
            edges:
              - {name: slay, guard: dice.attack >= 9 && dice.wound >= foe, target: WON}
              - {name: miss, target: CAMP}
      WON: {type: final}
      DEAD: {type: final}
    """)

    poorer = fate(found, "guard: debt && silver < 57 → debt && silver < 56")
    luckier = fate(found, "guard: dice.attack >= 9 && dice.wound >= foe → dice.attack >= 8 && dice.wound >= foe")
    assert [poorer.fate, luckier.fate] == ["survived", "survived"]
    assert poorer.killer is not None
    assert (poorer.killer.given.state, poorer.killer.given.context["silver"]) == ("CAMP", 56)
    assert luckier.killer is not None
    assert luckier.killer.steps[-1].dice["attack"] == 8


def test_the_score_counts_neither_what_is_equivalent_nor_what_is_invalid() -> None:
    assert Score(killed=9, survived=1, equivalent=5, invalid=7).percent == 90.0
    assert Score(equivalent=2).percent == 100.0
    found = judge(FIGHT, WIN, LOSE)
    score = score_of(found)
    assert (
        score.killed + score.survived + score.equivalent + score.invalid
        == len(found)
        == len(mutants_of(tiny(FIGHT).files))
    )


@pytest.mark.slow
def test_the_play_that_is_given_for_a_survivor_kills_it() -> None:
    files = tiny(FIGHT).files
    survivors = [each for each in judge(FIGHT, WIN) if each.fate == "survived"]
    assert survivors

    chosen = [killer for _, killer in killers(files, survivors)]
    again = dict(judged(files, (*replays(WIN), *chosen)))

    assert 0 < len(chosen) < len(survivors)
    assert all(passes(each, tiny(FIGHT)) for each in chosen)
    told = {each.mutant.edits for each in survivors if each.killer is not None}
    assert not [each for each in again.values() if each.fate == "survived" and each.mutant.edits in told]


def test_the_same_question_has_the_same_answer() -> None:
    assert judge.__wrapped__(FIGHT, WIN) == judge(FIGHT, WIN)


@pytest.mark.slow
def test_several_processes_come_to_what_one_comes_to() -> None:
    assert judge.__wrapped__(FIGHT, WIN, LOSE, jobs=2) == judge(FIGHT, WIN, LOSE)


ROOT = Path(__file__).parents[1]
SHIPPED = ("ticket_triage", "mine_adventure")


@cache
def shipped(name: str) -> tuple[Draft, Machine, tuple[Mutant, ...], Sequence[Taken]]:
    """A machine of ours, its mutants, and its replays as they go on it."""
    files = loader.read_project(ROOT)[name]
    draft = loader.drafted(files)
    machine = loader.built(draft, files)
    found = replay_files([ROOT / "replays" / name])
    read = [each for file in found for each in read_replays(str(file), file.read_text(encoding="utf-8"))[0]]
    taken = [taken_by_rules(each, machine) for each in read]
    return draft, machine, mutants(draft), [each for each in taken if each.result.verdict == "passed"]


@pytest.mark.slow
@settings(max_examples=30 * SCALE)
@given(st.sampled_from(SHIPPED), st.randoms(use_true_random=False))
def test_to_take_only_what_may_differ_comes_to_what_a_whole_play_comes_to(name: str, rng: random.Random) -> None:
    draft, machine, found, taken = shipped(name)
    mutant, before = rng.choice(found), rng.choice(taken)
    changed = mutated(draft, machine.files, mutant, machine)
    assert changed == mutated(draft, machine.files, mutant) or not isinstance(changed, Finding)
    if isinstance(changed, Finding):
        return

    over = played_over(before, changed, Changed(mutant, machine, changed).may_differ)

    whole = played_by_rules(before.result.replay, changed)
    assert (over.verdict, over.reason, over.difference) == (whole.verdict, whole.reason, whole.difference)
    assert len(over.came) == len(whole.came)
