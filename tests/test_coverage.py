"""Coverage counts what was played, knows what there is, and names what is missed by file:line."""

from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from runtime import loader
from runtime.bench import coverage
from runtime.bench.coverage import Coverage, covered, goals, merged, missed, nothing, plain, read_plain, seen, shares
from runtime.bench.player import played_by_rules
from runtime.bench.replay import Expect, Given, Replay, ReplayStep
from runtime.bench.trial import Step, Trial
from runtime.machine import Machine
from runtime.session import Invoke

LAMP = """
machine: tiny
title: {zh: 灯, en: The lamp}
language: zh
initial: {event: INIT, target: HALL}
context: {oil: {type: int, default: 1, min: 0, max: 3}}
events: {GIVE_UP: {}, STAY: {}, WIND: {}}
on:
  GIVE_UP: [{name: away, guard: "step > 1", target: DARK}]
states:
  HALL:
    label: {zh: 前厅, en: The hall}
    options:
      - {key: light, text: {zh: 点灯, en: Light it}, guard: oil > 0, event: STAY, target: HALL, assign: {oil: oil - 1}}
      - {key: leave, text: {zh: 出门, en: Leave}, target: OUT}
    on:
      WIND:
        dice: {gust: 1d6}
        edges:
          - {name: gust, guard: "dice.gust >= 5", target: DARK}
          - {name: breeze, target: HALL}
  DARK: {type: final, ending: {title: {zh: 灯灭了, en: Out of light}}}
  OUT: {type: final}
"""


@pytest.fixture(scope="module")
def lamp() -> Machine:
    return tiny(LAMP)


def walk(machine: Machine, *sent: str | dict[str, object], tells: bool = False) -> list[Step]:
    """A play: an option by its key, an event in capitals, or all of an Invoke."""
    trial = Trial(machine, tells=tells)
    steps = [trial.begin(Invoke(event=machine.definition.first.event, run_seed="a"))]
    for each in sent:
        offer = {option.key or option.kind: option.id for option in steps[-1].after.offer}
        asked = each if isinstance(each, dict) else {"selected_option_id": offer[each]} if each in offer else None
        steps.append(trial.take(steps[-1].after, Invoke(**(asked or {"event": each}))))
    return steps


def test_a_refusal_shows_the_guards_that_it_was_about(lamp: Machine):
    """`away` is closed at the first step: no turn can show it, for who sends it then is refused."""
    steps = (ReplayStep(send="INIT"), ReplayStep(send="GIVE_UP", expect=Expect(error="guard_refused")))
    replay = Replay(name="too early", given=Given(machine="tiny"), steps=steps)
    came = played_by_rules(replay, lamp).came

    assert [each.error for each in came] == [None, "guard_refused"]
    assert seen(lamp, came).guards[("*.away", False)] == seen(lamp, came[:1]).guards.get(("*.away", False), 0) + 1
    assert replace(seen(lamp, came), guards={}) == replace(seen(lamp, came[:1]), guards={})


def test_a_play_hits_its_states_edges_options_and_ending(lamp):
    found = covered(lamp, walk(lamp, "light", "leave"))

    assert found.states == {"HALL": 2, "OUT": 1}
    assert found.edges == {"initial": 1, "HALL.light": 1, "HALL.leave": 1}
    assert found.options == {"HALL.light": 1, "HALL.leave": 1}
    assert found.endings == {"OUT": 1}
    assert found.turns == 3


def test_a_guard_is_seen_both_ways(lamp):
    found = covered(lamp, walk(lamp, "light"))

    assert ("HALL.light", True) in found.guards
    assert ("HALL.light", False) in found.guards


def test_a_guard_that_waits_for_dice_is_seen_only_once_they_fell(lamp):
    calm = covered(lamp, walk(lamp, {"event": "WIND", "dice": {"gust": 1}}))
    wild = covered(lamp, walk(lamp, {"event": "WIND", "dice": {"gust": 6}}))
    still = covered(lamp, walk(lamp, "light"))

    assert [key for key in calm.guards if key[0] == "HALL.gust"] == [("HALL.gust", False)]
    assert [key for key in wild.guards if key[0] == "HALL.gust"] == [("HALL.gust", True)]
    assert [key for key in still.guards if key[0] == "HALL.gust"] == []


def test_the_guard_of_an_option_is_called_by_the_option_and_stands_there():
    machine = tiny(
        """
        initial: HALL
        context: {armed: {type: bool, default: true}}
        states:
          HALL:
            options:
              - key: strike
                text: 砍🗡
                guard: armed
                dice: {hit: 1d6}
                edges:
                  - {name: hit, guard: dice.hit > 3, target: OUT}
                  - {name: miss, target: HALL}
              - {key: flee, text: Flee, guard: armed, target: OUT}
          OUT: {type: final}
        """
    )

    told = {goal.name: goal.place.line for goal in goals(machine, ["guards"]) if goal.key[1] is True}
    lines = next(iter(machine.files.values())).splitlines()

    assert [*told] == ["HALL.hit is true", "option HALL.strike is true", "HALL.flee is true"]
    assert lines[told["option HALL.strike is true"] - 1].strip() == "guard: armed"


def test_an_edge_without_a_guard_or_with_a_constant_one_is_no_goal():
    machine = tiny(
        """
        initial: {event: INIT, target: HALL}
        states:
          HALL: {on: {OUT: [{name: sure, guard: true, target: OUT}], HALL: HALL}}
          OUT: {type: final}
        """
    )

    assert goals(machine, ["guards"]) == ()
    assert shares(nothing(machine), goals(machine, ["guards"])) == {}


def test_pairs_are_those_of_one_play(lamp):
    one, other = walk(lamp, "light"), walk(lamp, "leave")

    found = covered(lamp, [*one, *other])

    assert set(found.pairs) == {("initial", "HALL.light"), ("initial", "HALL.leave")}


def test_a_step_that_is_tried_again_makes_no_pair_with_the_try_before_it(lamp):
    trial = Trial(lamp)
    first = trial.begin(Invoke(event="INIT", run_seed="a"))
    tries = [trial.take(first.after, Invoke(selected_option_id=each.id)) for each in first.after.offer]

    assert set(covered(lamp, [first, *tries]).pairs) == {("initial", "HALL.light")}


def test_goals_are_all_there_is_and_pairs_only_what_the_table_allows(lamp):
    found = goals(lamp)

    names = {kind: [goal.name for goal in found if goal.kind == kind] for kind in coverage.KINDS}
    assert names["states"] == ["HALL", "DARK", "OUT"]
    assert names["edges"] == ["initial", "*.away", "HALL.light", "HALL.leave", "HALL.gust", "HALL.breeze"]
    assert names["guards"][:2] == ["*.away is true", "*.away is false"]
    assert names["options"] == ["HALL.light", "HALL.leave"]
    assert names["endings"] == ["DARK", "OUT"]
    assert "HALL.light, then *.away" in names["pairs"]
    assert not [name for name in names["pairs"] if name.startswith("HALL.leave, then")]
    # initial, light and breeze lead into HALL, and five edges lead out of it.
    assert len(names["pairs"]) == 15


def test_what_is_missed_is_named_by_file_and_line(lamp):
    lines = lamp.files["machines/tiny.yaml"].splitlines()

    left = missed(covered(lamp, walk(lamp, "light", "leave")), goals(lamp, ["states", "edges", "guards", "endings"]))

    told = {f"{goal.kind} {goal.name}": goal.place for goal in left}
    assert sorted(told) == [
        "edges *.away", "edges HALL.breeze", "edges HALL.gust", "endings DARK",
        "guards HALL.gust is false", "guards HALL.gust is true", "states DARK",
    ]  # fmt: skip
    for name, place in told.items():
        written = name.split()[1].rpartition(".")[2]
        assert written in lines[place.line - 1]
        assert str(place) == f"machines/tiny.yaml:{place.line}"
    assert lines[told["guards HALL.gust is true"].line - 1][told["guards HALL.gust is true"].col - 1 :].startswith(
        '"dice'
    )


def test_a_free_option_is_covered_by_its_kind():
    machine = tiny(
        """
        initial: {event: INIT, target: HALL}
        events: {ACT: {}}
        states:
          HALL:
            options: {free: 2, event: ACT, kinds: {brave: Be bold, shy: Hide}}
            on: {ACT: [{name: bold, guard: "option.kind == 'brave'", target: OUT}, {name: hid, target: HALL}]}
          OUT: {type: final}
        """
    )

    found = covered(machine, walk(machine, "shy", "brave"))

    assert found.options == {"HALL.shy": 1, "HALL.brave": 1}
    assert missed(found, goals(machine, ["options", "guards"])) == ()


def test_rungs_are_counted_as_they_told(lamp):
    steps = [replace(step, rungs=("mend", "offline")) for step in walk(lamp, "light")]

    assert covered(lamp, steps).rungs == {"mend": 2, "offline": 2}


@pytest.mark.slow
def test_prompts_are_counted_where_a_turn_was_told():
    machine = loader.load_project(Path(__file__).parents[1])["ticket_triage"]

    told = covered(machine, walk(machine, tells=True))
    ruled = covered(machine, walk(machine))

    assert list(told.prompts) == ["prompts/ticket_triage/intake.zh.prompty"]
    assert ruled.prompts == {}
    wanted = {goal.key for goal in goals(machine, ["prompts"])}
    assert wanted == {name for name in machine.files if name.endswith(".prompty")}


def test_shares_and_what_another_version_had_besides(lamp):
    found = covered(lamp, walk(lamp, "light", "leave"))
    old = merged(found, Coverage(edges={"HALL.gone": 3}, states={"LOFT": 2}))

    assert shares(found, goals(lamp, ["edges", "endings"])) == {
        "edges": coverage.Share(3, 6),
        "endings": coverage.Share(1, 2),
    }
    assert coverage.within(old, goals(lamp)).edges == found.edges
    assert coverage.Share(3, 6).percent == 50


COUNTS = st.dictionaries(st.sampled_from(["A.x", "甲.乙", "🏮"]), st.integers(1, 9))
COVERAGES = st.builds(
    Coverage,
    edges=COUNTS,
    rungs=COUNTS,
    guards=st.dictionaries(st.tuples(st.sampled_from(["A.x", "甲.乙"]), st.booleans()), st.integers(1, 9)),
    pairs=st.dictionaries(st.tuples(st.sampled_from("AB"), st.sampled_from("甲B")), st.integers(1, 9)),
    turns=st.integers(0, 9),
)


@pytest.mark.slow
@given(COVERAGES, COVERAGES, COVERAGES)
def test_a_sum_has_no_order_and_survives_json_and_pickle(one: Coverage, other: Coverage, third: Coverage):
    assert merged(one, other) == merged(other, one)
    assert merged(merged(one, other), third) == merged(one, other, third)
    assert merged(one) == merged(one, Coverage()) == one
    assert read_plain(msgspec.json.decode(msgspec.json.encode(plain(one)))) == one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
