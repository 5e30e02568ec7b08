"""What exploration tries of numbers, and that it claims no more than it has tried."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import tiny

from runtime import loader
from runtime.bench.alike import differing, samples
from runtime.bench.explore import Explored, quick
from runtime.bench.trial import Trial
from runtime.bench.values import payload_values

RATED = """
initial: HALL
events: {{RATE: {{payload: {{x: float, said: text}}}}}}
context: {{n: {{type: int, default: 0, min: 0, max: 3}}}}
states:
  HALL:
    on:
      RATE:
        - {{name: never, guard: n > 5, target: MID}}
        - {{name: mid, guard: '{guard}', target: MID}}
        - {{name: no, target: LOW}}
  LOW: {{type: final}}
  MID: {{type: final}}
"""


def missed(explored: Explored) -> dict[tuple[str, Any], str]:
    return {(goal.kind, goal.key): why for goal, why in explored.not_covered}


@pytest.mark.parametrize(
    "guard",
    [
        "payload.x >= 0.6 && payload.x < 0.7",
        "payload.x > 0.25 && payload.x < 0.2501",
        "payload.x < -0.5 && payload.x > -0.75",
        "payload.x == 0.3",
        "payload.x > 1e7",
    ],
)
def test_what_lies_between_two_numbers_of_a_guard_is_tried(guard: str):
    explored = quick(tiny(RATED.format(guard=guard)))

    assert set(missed(explored)) == {("edges", "HALL.never"), ("guards", ("HALL.never", True))}
    assert explored.bugs == ()


def test_all_numbers_of_a_guard_and_either_side_of_each_are_values_of_a_float():
    values = payload_values("float", ["payload.x >= 0.6 && payload.x < 0.7"])

    assert {0.6, 0.7} <= set(values)
    assert any(0.6 < each < 0.7 for each in values)
    assert any(0.599 < each < 0.6 for each in values)
    assert any(0.7 < each < 0.701 for each in values)


def test_an_ending_that_no_value_tried_leads_to_is_not_called_unreachable():
    """And each edge into it has the reason that is its own."""
    machine = tiny(RATED.format(guard='size(payload.said) > 100 && payload.said.endsWith("灯🏮")'))

    explored = quick(machine)

    (bug,) = explored.bugs
    assert bug.kind == "unreached"
    assert bug.what == (
        "ending MID was not reached: HALL.never: `n > 5` can't be true: n is at most 3; "
        "HALL.mid: no value that was tried leads to it; not every value was tried"
    )
    assert "not every value was tried: another may lead elsewhere" in explored.bounded


def test_an_ending_that_no_edge_can_lead_to_is_never_reached():
    explored = quick(tiny(RATED.format(guard="n > 3")))

    (bug,) = explored.bugs
    assert bug.what == (
        "ending MID is never reached: HALL.never: `n > 5` can't be true: n is at most 3; "
        "HALL.mid: `n > 3` can't be true: n is at most 3"
    )


WIDE = """
initial: HALL
states:
  HALL:
    options:
      - key: roll
        text: Roll
        event: ROLL
        dice: {{a: 1d{faces}}}
        edges:
          - {{name: win, guard: dice.a % 50 == 17 && dice.a > {least}, target: WIN}}
          - {{name: lose, target: LOSE}}
  WIN: {{type: final}}
  LOSE: {{type: final}}
events: {{ROLL: {{}}}}
"""


def test_every_face_of_a_wide_die_is_tried_where_its_guard_reckons_with_it():
    explored = quick(tiny(WIDE.format(faces=200, least=60)))

    assert explored.not_covered == ()
    assert explored.shortest["endings", "WIN"].steps[-1].dice["a"] in (67, 117, 167)


def test_a_die_of_too_many_faces_is_not_called_seen():
    explored = quick(tiny(WIDE.format(faces=9_000, least=60)))

    assert missed(explored)["endings", "WIN"].startswith("no value that was tried leads to it")
    assert [bug.what.partition(":")[0] for bug in explored.bugs] == ["ending WIN was not reached"]


GROWING = """
initial: HALL
context: {{n: {{type: int, default: 1{ends}}}}}
states:
  HALL:
    options:
      - {{key: grow, text: Grow, target: HALL, event: GROW, assign: {{n: '{value}'}}}}
      - {{key: out, text: Out, target: OUT}}
  OUT: {{type: final}}
events: {{GROW: {{}}}}
"""


@pytest.mark.parametrize("value", ["n * 1000000000000", "n + 4000000000000000000"])
def test_a_number_that_grows_out_of_its_range_is_found_however_late(value: str):
    (bug,) = quick(tiny(GROWING.format(ends="", value=value))).bugs

    assert bug.kind == "fault"
    assert "overflow" in bug.what


@pytest.mark.parametrize(("ends", "value"), [(", min: 0, max: 9", "n * 2"), ("", "n + 1")])
def test_a_number_that_stays_small_makes_no_sessions_of_its_own(ends: str, value: str):
    explored = quick(tiny(GROWING.format(ends=ends, value=value)), budget=300)

    assert explored.is_whole
    assert explored.bugs == ()
    assert explored.sessions < 20


@pytest.mark.parametrize(
    ("written", "mutated"),
    [(">= 0.6", "> 0.6"), ("< 0.7", "<= 0.7"), (">= 0.6", ">= 0.65"), ("< 0.7", "< 0.7000001")],
)
def test_a_machine_that_differs_at_a_number_of_its_guard_alone_is_told_apart(written: str, mutated: str):
    guard = "payload.x >= 0.6 && payload.x < 0.7"
    machine = tiny(RATED.format(guard=guard))
    other = Trial(tiny(RATED.format(guard=guard.replace(written, mutated))))

    assert any(differing(sample, other) for sample in samples(machine))


TAUGHT = """
machine: taught
title: Taught
language: en
initial: HALL
context: {trust: {type: float, default: 0.0, min: 0.0, max: 1.0}}
states:
  HALL:
    prompt: hall
    learn: {trust: {from: output.trust, otherwise: trust}}
    options:
      - {key: close, text: Close, guard: trust > 0.25 && trust < 0.3, target: OUT}
      - {key: stay, text: Stay, target: HALL}
  OUT: {type: final}
"""
PROMPT = """---
inputs: [text]
outputs: {scene: scene, trust: "float?"}
---
system:
Tell the tale.
user:
{{ text }}
"""


def test_a_fraction_that_a_model_teaches_is_tried_between_the_numbers_of_a_guard():
    machine = loader.load({"machines/taught.yaml": TAUGHT, "prompts/taught/hall.prompty": PROMPT})

    assert quick(machine).not_covered == ()
