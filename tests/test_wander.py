"""Plays at random: the same from the same seed however they are shared out, and true to what is played."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import tiny
from served import shipped

from runtime.bench.moves import Move
from runtime.bench.pool import shared_out
from runtime.bench.shrinking import shortened, shrunk
from runtime.bench.trial import Trial
from runtime.bench.wander import CHUNK, Wandered, Wandering, chunks, together, wander

ROOT = Path(__file__).parents[1]
TRIAGE = "ticket_triage"
PLAYS = 2 * CHUNK
WALK = """
initial: HALL
context:
  steps: {type: int, default: 0, min: 0, max: 99, show: true}
  bag: {type: set, of: [lamp, rope], show: true}
  hidden: {type: int, default: 7}
states:
  HALL:
    options:
      - {key: on, text: 走🏮, target: HALL, assign: {steps: steps + 1, bag: 'add(bag, lamp)'}}
      - {key: out, text: 出去, guard: steps > 1, target: OUT}
  OUT: {type: final}
"""


def play_all(name: str, chunk: tuple[int, int]) -> Wandered:
    machine = tiny(WALK) if name == "walk" else shipped()[TRIAGE]
    return wander(machine, Wandering("种子", PLAYS), chunk)


def part(chunk: tuple[int, int]) -> Wandered:
    return play_all("walk", chunk)


def test_the_same_plays_come_of_a_seed_in_any_order_of_its_chunks():
    machine = tiny(WALK)
    wandering = Wandering("种子", PLAYS, avoids_used=True)
    forward = [wander(machine, wandering, chunk) for chunk in chunks(wandering)]
    backward = [wander(machine, wandering, chunk) for chunk in reversed(chunks(wandering))]

    assert together(forward) == together(backward[::-1])
    other = Wandering("另一个", PLAYS)
    assert together([wander(machine, other, chunk) for chunk in chunks(other)]) != together(forward)


@pytest.mark.slow
def test_two_processes_play_what_one_plays():
    alone = [found for _, found in shared_out(part, chunks(Wandering("种子", PLAYS)), 1)]
    numbered = dict(shared_out(part, chunks(Wandering("种子", PLAYS)), 2))

    assert together([numbered[number] for number in sorted(numbered)]) == together(alone)


def test_distributions_count_every_play_once():
    found = together([play_all("walk", chunk) for chunk in chunks(Wandering("种子", PLAYS))])

    assert found.plays == PLAYS
    assert found.endings == {"OUT": PLAYS}
    assert sum(found.lengths.values()) == PLAYS
    assert sum(length * plays for length, plays in found.lengths.items()) == found.turns
    assert found.coverage.turns == found.turns
    assert set(found.values) == {"steps", "bag"}
    assert found.values["bag"] == {"lamp": PLAYS}
    assert sum(found.values["steps"].values()) == PLAYS
    assert "0" not in found.values["steps"]


def test_who_avoids_what_was_used_sees_every_option_soon():
    """Ten doors in one room: ten plays open them all."""
    doors = "".join(f"      - {{key: d{number}, text: Door {number}, target: OUT}}\n" for number in range(10))
    machine = tiny(f"initial: HALL\nstates:\n  HALL:\n    options:\n{doors}  OUT: {{type: final}}\n")

    avoiding = wander(machine, Wandering("a", 10, avoids_used=True), (0, 10))
    plain = wander(machine, Wandering("a", 10), (0, 10))

    assert len(avoiding.coverage.options) == 10
    assert len(plain.coverage.options) < 10


def test_payloads_and_lessons_are_drawn_and_refusals_counted():
    found = wander(shipped()[TRIAGE], Wandering("a", CHUNK), (0, CHUNK))

    assert found.refused > 0
    assert set(found.endings) <= {"END", "END_ESCALATED", "END_EXPIRED"}
    assert found.coverage.edges["ACTION.draft"] > 0
    assert found.bugs == ()


def test_a_play_without_end_is_cut_and_told_as_a_loop():
    machine = tiny(WALK.replace("steps > 1", "hidden > 7"))

    found = wander(machine, Wandering("a", 1), (0, 1))

    assert [(bug.kind, bug.what) for bug in found.bugs] == [("loop", "no ending within 500 turns")]
    assert found.endings == {"": 1}


def test_what_is_not_needed_is_shrunk_away():
    machine = tiny(
        """
        initial: HALL
        context: {n: {type: int, default: 0}}
        states:
          HALL:
            options:
              - {key: idle, text: Idle, target: HALL}
              - {key: one, text: One, target: HALL, assign: {n: n + 1}}
              - {key: bad, text: Bad, target: OUT, guard: n > 0, assign: {n: 1 / (n - 1)}}
          OUT: {type: final}
        """
    )
    keys = ["idle", "one", "idle", "idle", "bad"]
    moves = [Move(event="HALL"), *(Move(event="HALL", key=key) for key in keys)]
    what = "edge HALL.bad: `n: 1 / (n - 1)` errs: divide by zero"

    kept, said = shrunk(Trial(machine), moves, "fault", what)

    assert [move.key for move in kept] == ["", "one", "bad"]
    assert said == what


def test_moves_that_only_make_sense_together_go_together_and_what_is_broken_then_is_said():
    """There and back again is no single move; and the property is broken by another value without it."""
    machine = tiny(
        """
        initial: HALL
        context: {n: {type: int, default: 0}}
        properties: {small: {always: n < 3}}
        states:
          HALL:
            options:
              - {key: there, text: There, target: YARD}
              - {key: one, text: One, target: HALL, assign: {n: n + 1}}
              - {key: many, text: Many, target: HALL, assign: {n: n + 5}}
              - {key: out, text: Out, target: OUT}
          YARD: {options: [{key: back, text: Back, target: HALL}]}
          OUT: {type: final}
        """
    )
    keys = ["there", "back", "one", "there", "back", "many"]
    moves = [Move(event="HALL"), *(Move(event="YARD" if key == "there" else "HALL", key=key) for key in keys)]

    kept, said = shrunk(Trial(machine), moves, "property", "small: always: n < 3: it does not hold (n 6)")

    assert [move.key for move in kept] == ["", "many"]
    assert said.startswith("small: ")
    assert "n 5" in said


def test_shrinking_ends_when_its_turns_are_used_up():
    tried = []

    kept = shortened(range(40), lambda fewer: tried.append(len(fewer)), most_turns=100)

    assert kept == [*range(40)]
    assert sum(tried) <= 100
