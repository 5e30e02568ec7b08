"""Exploration: every edge, both outcomes of every guard, by shortest paths; and what was not seen, with why."""

from __future__ import annotations

import random
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import SCALE, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from served import shipped

from runtime import loader
from runtime.advance import scope_of
from runtime.bench.conditions import Conditions
from runtime.bench.coverage import covered, goals, is_hit
from runtime.bench.explore import quick
from runtime.bench.moves import played_again
from runtime.bench.player import played, played_by_rules
from runtime.bench.replay import Replay
from runtime.bench.search import Search
from runtime.bench.trial import Step, Trial
from runtime.session import Invoke

ROOT = Path(__file__).parents[1]
JUGS = (Path(__file__).parent / "machines" / "explore" / "jugs.yaml").read_text(encoding="utf-8")


def jugs(a: int, b: int, goal: int) -> Any:
    text = JUGS
    for name, known, value in (("size_a", 3, a), ("size_b", 5, b), ("goal", 4, goal)):
        text = text.replace(f"{name}: {{type: int, default: {known}}}", f"{name}: {{type: int, default: {value}}}")
    return loader.load({"machines/jugs.yaml": text})


def poured(replay: Replay) -> list[str]:
    """The pours, without the first event."""
    return [step.choose.key for step in replay.steps if step.choose and step.choose.key != "continue"]


def fewest_pours(a: int, b: int, goal: int) -> int | None:
    """A breadth-first search of its own over what the two jugs hold; None where the goal can't be measured."""
    waiting, seen = deque([((0, 0), 0)]), {(0, 0)}
    while waiting:
        (x, y), pours = waiting.popleft()
        if goal in (x, y):
            return pours
        to_b, to_a = min(x, b - y), min(y, a - x)
        for after in ((a, y), (x, b), (0, y), (x, 0), (x - to_b, y + to_b), (x + to_a, y - to_a)):
            if after not in seen:
                seen.add(after)
                waiting.append((after, pours + 1))
    return None


def test_four_gallons_of_jugs_of_three_and_five_take_six_pours():
    """Die Hard's puzzle has a known shortest solution."""
    explored = quick(jugs(3, 5, 4))

    pours = poured(explored.shortest["edges", "*.measured"])
    assert pours == ["fill_b", "b_into_a", "empty_a", "b_into_a", "fill_b", "b_into_a"]
    assert explored.is_whole
    assert explored.bugs == ()


@pytest.mark.slow
@given(a=st.integers(1, 7), b=st.integers(1, 7), goal=st.integers(1, 8))
@settings(max_examples=10 * SCALE)
def test_jugs_of_any_size_are_solved_as_fast_as_they_can_be(a: int, b: int, goal: int):
    """Or it is said that they can't be: every session was seen."""
    explored = quick(jugs(a, b, goal), budget=5_000)

    known = fewest_pours(a, b, goal)
    found = explored.shortest.get(("endings", "MEASURED"))
    assert explored.is_whole
    if known is None:
        assert found is None
        assert [(bug.kind, bug.what.partition(":")[0]) for bug in explored.bugs if bug.kind == "unreached"] == [
            ("unreached", "ending MEASURED is never reached")
        ]
    else:
        assert found is not None
        assert len(poured(found)) == known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ticket_triage", "mine_adventure"][: 1 if SCALE == 1 else None])
def test_all_of_a_machine_that_ships_is_seen(name: str):
    """Every state, edge, option, ending and both outcomes of every guard.

    For every change, the plays that were found of the larger machines are played again: test_shipped_bench.py.
    """
    machine = shipped()[name]

    explored = quick(machine, budget=20_000)

    assert explored.not_covered == ()
    assert explored.bugs == ()
    wanted = goals(machine, ("states", "edges", "guards", "options", "endings"))
    assert all(is_hit(explored.coverage, goal) for goal in wanted)


def test_only_what_a_machine_is_asked_for_is_counted():
    """Where an event that isn't an option's own is offered, as one to go on with, it is no option of the machine."""
    machine = tiny(
        """
        initial: HALL
        context: {n: {type: int, default: 0, min: 0, max: 3}}
        events: {END: {}}
        on: {END: [{name: over, guard: n > 1, target: OUT, must: true}]}
        states:
          HALL: {options: [{key: on, text: On, target: HALL, assign: {n: n + 1}}]}
          OUT: {type: final}
        """
    )

    found = quick(machine).coverage

    assert [*found.options] == ["HALL.on"]
    assert {*found.edges} == {goal.key for goal in goals(machine, ["edges"])}


@pytest.mark.slow
def test_each_path_goes_as_it_was_found():
    """Its dice, payloads, lessons and times are fixed: the rules and the server play it the same from any seed."""
    machine = shipped()["ticket_triage"]
    search = Search(machine, 3_000)
    search.run()

    for (kind, key), found in search.seen.items():
        came = [each for each in played_again(Trial(machine), search.path(*found)) if isinstance(each, Step)]
        is_by_refusal = len(came) < len(search.path(*found))
        assert is_by_refusal or key in covered(machine, came).of(kind), (kind, key)


DICE = """
initial: HALL
states:
  HALL:
    options:
      - key: roll
        text: Roll
        dice: {attack: 2d6+1, way: {pick: [left, right, down]}, luck: 30%}
        edges:
          - {name: twelve, guard: dice.attack == 13, target: OUT}
          - {name: lucky, guard: "dice.luck && dice.attack >= 5", target: OUT}
          - {name: down, guard: 'dice.way == "down"', target: OUT}
          - {name: rest, target: HALL}
  OUT: {type: final}
"""


async def test_dice_fall_as_guards_tell_them_apart_and_the_paths_fix_them():
    machine = tiny(DICE)

    explored = quick(machine)

    assert explored.not_covered == ()
    shown = explored.shortest["edges", "HALL.twelve"].steps[-1].dice
    assert shown["attack"] == 13
    for name in ("twelve", "lucky", "down", "rest"):
        result = await played(explored.shortest["edges", f"HALL.{name}"], machine)
        assert result.verdict == "passed"
        assert result.came[-1].turn is not None
        assert result.came[-1].turn.outcome.edge == f"HALL.{name}"


WORDS = """
initial: DOOR
limits: {seconds: 60}
events: {SAY: {payload: {text: text}}, BID: {payload: {coins: "int?"}}, LATE: {}, LEAVE: {}}
slots: {tone: soft}
on:
  LATE: [{name: late, guard: time.remaining_seconds <= 0, target: END, must: true}]
states:
  DOOR:
    on:
      SAY:
        - {name: opened, guard: 'norm(payload.text) == "芝麻开门"', target: HALL}
        - {name: hard, guard: 'session.difficulty == "HARD"', target: DOOR, assign: {}}
        - {name: many, guard: session.player_count > 3, target: DOOR}
        - {name: slot, guard: 'slots.tone == "grim"', target: DOOR}
      BID:
        - {name: rich, guard: payload.coins >= 700, target: HALL}
        - {name: nothing, guard: "!given(payload.coins)", target: DOOR}
        - {name: poor, target: DOOR}
  HALL:
    on: {LEAVE: END}
  END: {type: final}
"""


def test_words_numbers_time_and_what_a_session_begins_with_are_tried():
    """Each guard is opened by what it asks for itself."""
    machine = tiny(WORDS)

    explored = quick(machine)

    assert explored.not_covered == ()
    said = explored.shortest["edges", "DOOR.opened"].steps[-1].with_["text"]
    assert "芝麻开门" in said
    assert explored.shortest["edges", "DOOR.many"].given.player_count == 4
    assert explored.shortest["edges", "DOOR.slot"].given.slots == {"tone": "grim"}
    assert sum(step.after_ms for step in explored.shortest["edges", "*.late"].steps) >= 60_000
    assert played_by_rules(explored.shortest["edges", "*.late"], machine).verdict == "passed"


def test_what_cannot_be_is_said_with_its_reason():
    machine = tiny(
        """
        initial: HALL
        context: {hp: {type: int, default: 3, min: 0, max: 12}, bag: {type: set, of: [lamp]}}
        states:
          HALL:
            options:
              - {key: fly, text: Fly, guard: hp > 100, target: OUT}
              - {key: light, text: Light, guard: lamp in bag, target: OUT}
              - {key: rest, text: Rest, target: OUT}
          OUT: {type: final}
        """
    )

    explored = quick(machine)

    why = {goal.name: why for goal, why in explored.not_covered if goal.kind == "edges"}
    assert why["HALL.fly"] == "`hp > 100` can't be true: hp is at most 12"
    assert why["HALL.light"].endswith("all were seen")
    places = {goal.name: str(goal.place) for goal, _ in explored.not_covered if goal.kind == "edges"}
    assert places["HALL.fly"] == "machines/tiny.yaml:9"


DEEP = """
initial: HALL
context: {n: {type: int, default: 0, min: 0, max: 400}, m: {type: int, default: 0, min: 0, max: 400}}
states:
  HALL:
    options:
      - {key: more, text: More, target: HALL, assign: {n: n + 1}}
      - {key: other, text: Other, target: HALL, assign: {m: m + 1}}
      - {key: end, text: End, guard: "n == 60 && m == 3", target: OUT}
  OUT: {type: final}
"""


def test_a_deep_goal_is_looked_for_where_least_is_missing():
    """Breadth alone would need some thousand sessions; and it is said that not all was seen."""
    explored = quick(tiny(DEEP), budget=2_000)

    found = explored.shortest["edges", "HALL.end"]
    assert [step.choose.key for step in found.steps if step.choose].count("more") == 60
    assert not explored.is_whole
    assert "not every session was seen" in explored.bounded[0]


def test_a_search_that_is_cut_says_so_and_names_what_is_nearest():
    explored = quick(tiny(DEEP), budget=40)

    why = {goal.name: why for goal, why in explored.not_covered if goal.kind == "edges"}
    assert why == {"HALL.end": "not found within 40 turns; nearest by all but `n == 60`"}
    assert explored.turns == 40


@pytest.mark.slow
def test_the_same_search_finds_the_same():
    machine = shipped()["ticket_triage"]

    assert quick(machine, budget=500) == quick(machine, budget=500)


GUARD = "(a > 1 || !c) && x in s && (b ? a < 3 : a > 5)"


def test_a_guard_comes_apart_into_its_conditions():
    """And what is far is measured: from the wrong side, and nearer with each step."""
    machine = tiny(
        f"""
        initial: HALL
        context:
          a: {{type: int, default: 0}}
          b: {{type: bool, default: true}}
          c: {{type: bool, default: true}}
          s: {{type: set, of: [x, y]}}
        states:
          HALL:
            options:
              - {{key: go, text: Go, guard: '{GUARD}', target: OUT, assign: {{a: a + 1}}}}
              - {{key: rest, text: Rest, target: HALL, assign: {{a: a + 1, b: "!b", s: 'add(s, x)'}}}}
          OUT: {{type: final}}
        """
    )
    conditions = Conditions(machine)
    formula = conditions.formulas["HALL.go"]
    session = Trial(machine).begin(Invoke(event="HALL", run_seed="a")).after
    scope = scope_of(machine, session)

    assert [each.source for each in conditions.all][:4] == ["a > 1", "c", "x in s", "b ? a < 3 : a > 5"]
    far = [conditions.judged({**scope, "a": value, "s": []}).distance(formula) for value in (-9, 0, 1, 2)]
    assert far == sorted(set(far), reverse=True)
    assert conditions.judged({**scope, "a": 2, "s": ["x"]}).distance(formula) == 0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15 * SCALE)
def test_a_formula_says_what_its_guard_says(seed: int):
    """Nothing is missing exactly where the whole guard holds."""
    machine = shipped()["haunted_house"]
    conditions = conditions_of("haunted_house")
    rng, trial = random.Random(seed), Trial(machine)  # noqa: S311 - no secret
    step = trial.begin(Invoke(event="INIT", run_seed=str(seed)))
    for _ in range(rng.randrange(20)):
        if step.after.ended:
            break
        step = trial.take(step.after, Invoke(selected_option_id=rng.choice(step.after.offer).id))

    judged = conditions.judged(scope_of(machine, step.after))
    for each in step.routed:
        if not any(
            conditions.all[number].inputs for number in numbers(conditions.formulas.get(each.compiled.full_name))
        ):
            is_there = each.reason != "guard: false"
            if each.compiled.guards and not each.reason.startswith("once"):
                assert (judged.distance(conditions.formulas[each.compiled.full_name]) == 0) == is_there


def numbers(formula: Any) -> list[int]:
    if formula is None:
        return []
    return [formula[1]] if formula[0] == "is" else [each for part in formula[1:] for each in numbers(part)]


@cache
def conditions_of(name: str) -> Conditions:
    return Conditions(shipped()[name])
