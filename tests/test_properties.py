"""What must be so of every play: `never`, `always`, `eventually`, and that play itself never asks.

Each machine of tests/machines/properties shows one behaviour. What a mistake in `properties` is told stands
with the others, in test_check.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from conftest import SCALE, Client, tiny
from served import SHIPPED, Web, runtime_of, serving, shipped

from runtime import loader
from runtime.bench.properties import Broken, begun, followed
from runtime.bench.trial import Step, Trial, placed
from runtime.errors import Refusal
from runtime.explain import explain
from runtime.history import rewind
from runtime.machine import Machine
from runtime.migrate import migrate
from runtime.narrators.offline import Offline
from runtime.properties import Watch
from runtime.session import Invoke, Session
from runtime.turn import Runtime
from server import openapi
from server.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "machines" / "properties"
IS_SHORT = "fight_is_short"


def kept(name: str) -> Machine:
    """A machine of the folder."""
    return loader.load({f"machines/{name}.yaml": (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")})


def chosen(session: Session, key: str) -> Invoke:
    """The request that chooses an offered option by its key."""
    return Invoke(selected_option_id={each.key: each.id for each in session.offer}[key])


def steps_of(machine: Machine, keys: Sequence[str]) -> list[Step]:
    """The first turn, and one for each option chosen."""
    trial = Trial(machine)
    steps = [trial.begin(Invoke(event=machine.definition.first.event, run_seed="p"))]
    for key in keys:
        steps.append(trial.take(steps[-1].after, chosen(steps[-1].after, key)))
    return steps


def watched(machine: Machine, steps: Sequence[Step], given: Session | None = None) -> list[tuple[int, Broken]]:
    """What each turn, from 1, breaks."""
    watch, found = begun(machine, given), []
    for number, step in enumerate(steps, 1):
        watch, broken = followed(machine, watch, step)
        found += [(number, each) for each in broken]
    return found


def broken_by(machine: Machine, *keys: str) -> list[tuple[int, str]]:
    return [(number, each.name) for number, each in watched(machine, steps_of(machine, keys))]


# never, always.


def test_a_never_is_broken_by_the_turn_after_which_it_holds():
    machine = kept("never")

    assert broken_by(machine, "fight", "flee", "home") == []
    assert broken_by(machine, "fight", "flee", "fight") == [(4, "no_fight_after_flight")]


def test_what_is_broken_is_told_with_its_rule_its_values_and_its_place():
    """And a secret is among the values: testers are told it."""
    machine = kept("never")
    ((_, fight),) = watched(machine, steps_of(machine, ["fight", "flee", "fight"]))
    ((_, ghost),) = watched(machine, steps_of(machine, ["fight", "look"]))

    assert fight == Broken(
        "no_fight_after_flight",
        'never: state == "COMBAT" && fled',
        "it holds (state COMBAT, fled true)",
        "machines/never.yaml:10:3",
    )
    assert ghost.what == "it holds (ended true, truth ghost)"


def test_an_always_is_asked_after_every_turn_and_told_for_each_that_breaks_it():
    machine = kept("always")

    assert broken_by(machine, "blow", "light", "blow") == []
    assert broken_by(machine, "blow", "blow", "blow", "light", "light", "light", "out") == [
        (3, "some_light"), (4, "some_light"), (5, "some_light"),
    ]  # fmt: skip
    assert broken_by(machine, "blow", "blow", "out") == [(3, "some_light"), (4, "some_light")]


def test_the_first_turn_is_asked_too():
    machine = tiny("""
    initial: A
    properties: {elsewhere: {always: 'state == "B"'}}
    states: {A: {on: {B: B}}, B: {type: final}}
    """)

    assert broken_by(machine) == [(1, "elsewhere")]


# eventually.


@pytest.mark.parametrize(
    ("keys", "broken"),
    [
        (["find"], []),
        (["wait", "find", "lose", "wait", "wait", "wait"], []),  # once is enough
        (["wait", "wait"], [(3, "found_soon")]),
        (["wait", "wait", "find", "lose", "wait"], [(3, "found_soon")]),  # too late, and told once
        (["wait", "wait", "wait", "out"], [(3, "found_soon")]),
        (["out"], [(2, "found_soon")]),  # the play is over before it came
        (["wait", "out"], [(3, "found_soon")]),
        (["find", "out"], []),
        ([], []),
    ],
)
def test_an_eventually_has_so_many_turns_from_the_start(keys: list[str], broken: list[tuple[int, str]]):
    assert broken_by(kept("eventually"), *keys) == broken


@pytest.mark.parametrize(
    ("keys", "broken"),
    [
        (["rest", "rest", "rest", "home"], []),  # never asked
        (["fight", "win", "home"], []),
        (["fight", "strike", "win"], []),
        (["fight", "strike", "strike", "strike", "strike"], [(4, IS_SHORT)]),  # told once a fight
        (["fight", "win", "rest", "fight", "strike", "strike"], [(7, IS_SHORT)]),
        (["fight", "strike", "strike", "win", "fight", "strike", "strike"], [(4, IS_SHORT), (8, IS_SHORT)]),
    ],
)
def test_with_a_when_the_turns_count_from_each_time_that_it_becomes_true(
    keys: list[str], broken: list[tuple[int, str]]
):
    assert broken_by(kept("eventually_when"), *keys) == broken


def test_a_when_that_becomes_true_again_gives_no_more_turns():
    machine = tiny("""
    initial: A
    context: {bell: {type: bool}, open: {type: bool}}
    properties: {answered: {when: bell, eventually: open, within: 3}}
    states:
      A:
        options:
          - {key: ring, text: Ring, target: A, assign: {bell: true}}
          - {key: rest, text: Rest, target: A, assign: {bell: false}}
          - {key: open, text: Open, target: A, assign: {open: true}}
          - {key: out, text: Out, target: B}
      B: {type: final}
    """)

    assert broken_by(machine, "ring", "rest", "ring", "ring") == [(5, "answered")]
    assert broken_by(machine, "ring", "rest", "ring", "open", "ring") == []
    assert broken_by(machine, "rest", "out") == []


def test_what_holds_at_once_is_met_at_once():
    """Also on the last turn of a play: an ending that is asked for when the play ends has come."""
    machine = tiny("""
    initial: A
    properties: {good: {when: ended, eventually: 'state == "B"', within: 1}}
    states:
      A: {on: {B: B, C: C}}
      B: {type: final}
      C: {type: final}
    """)

    trial = Trial(machine)
    first = trial.begin(Invoke(event="A"))
    assert watched(machine, [first, trial.take(first.after, Invoke(event="B"))]) == []
    ((number, bad),) = watched(machine, [first, trial.take(first.after, Invoke(event="C"))])
    assert (number, bad.what) == (2, "the play ended before it held (state C, ended true)")


def test_how_long_it_waited_is_told():
    machine = kept("eventually_when")
    ((_, fight),) = watched(machine, steps_of(machine, ["fight", "strike", "strike"]))
    ((_, found),) = watched(kept("eventually"), steps_of(kept("eventually"), ["wait", "wait"]))

    since = 'from where `state == "COMBAT"` became true'
    assert fight.what == f"it held after none of the 2 turns {since} (state COMBAT)"
    assert found.what == "it held after none of the 3 turns of the play (found false)"


def test_a_play_that_begins_somewhere_is_asked_from_there():
    """What stands at the beginning was put there by the tester, and is not broken by any turn."""
    machine = kept("eventually_when")
    given = placed(machine, Invoke(event="ROAD"), "COMBAT", {})
    trial = Trial(machine)
    strike = trial.take(given, chosen(given, "strike"))
    strikes = [strike, trial.take(strike.after, chosen(strike.after, "strike"))]

    assert begun(machine, given) == Watch(open=(("fight_is_short", 2),), held=("fight_is_short",))
    assert [number for number, _ in watched(machine, strikes, given)] == [2]
    assert (
        begun(kept("eventually"), placed(kept("eventually"), Invoke(event="HALL"), "HALL", {"found": True})) == Watch()
    )


def test_what_is_still_asked_can_be_a_key_and_goes_to_another_process():
    machine = kept("eventually")
    watch, _ = followed(machine, begun(machine), steps_of(machine, [])[0])

    assert {begun(machine): 1, watch: 2} == {Watch((("found_soon", 3),)): 1, Watch((("found_soon", 2),)): 2}
    assert msgspec.json.decode(msgspec.json.encode(watch), type=Watch) == watch


# Errors.


def test_a_property_without_a_value_is_broken_and_says_why():
    machine = kept("errs")

    found = watched(machine, steps_of(machine, ["fall"]))

    assert [(number, each.name) for number, each in found] == [(2, "half"), (2, "soon")]
    assert found[0][1].what == "it errs: divide by zero (hp 0)"


# A model of it: the words of the page, read slowly.


def said(trace: Sequence[tuple[bool, bool]], within: int, *, has_when: bool, is_ended: bool) -> set[int]:
    """The turns (from 1) that break an `eventually`, by looking at the whole play; `trace` has (when, what)."""
    broken, asked = set(), 0 if not has_when else None
    for turn, (when, what) in enumerate(trace, 1):
        before = turn > 1 and trace[turn - 2][0]
        if has_when and asked is None and when and not before:
            asked = turn
        if asked is None:
            continue
        if what:
            asked = None
        elif turn == asked + within or (is_ended and turn == len(trace)):
            broken.add(turn)
            asked = None
    return broken


RANDOM = """
initial: A
context: {w: {type: bool}, q: {type: bool}}
properties:
  plain: {eventually: q, within: %d}
  asked: {when: w, eventually: q, within: %d}
states:
  A:
    options:
      - {key: none, text: None, target: A, assign: {w: false, q: false}}
      - {key: w, text: When, target: A, assign: {w: true, q: false}}
      - {key: q, text: What, target: A, assign: {w: false, q: true}}
      - {key: both, text: Both, target: A, assign: {w: true, q: true}}
      - {key: out, text: Out, target: B}
  B: {type: final}
"""


@pytest.mark.parametrize("within", [1, 2, 5])
def test_any_play_is_judged_as_a_look_at_the_whole_of_it_says(within: int):
    machine, rng = tiny(RANDOM % (within, within)), random.Random(f"properties {within}")  # noqa: S311 - no secret
    for _ in range(10 * SCALE):
        keys = rng.choices(["none", "w", "q", "both"], [4, 2, 1, 1], k=rng.randrange(12))
        steps = steps_of(machine, [*keys, *rng.choice([[], ["out"]])])
        trace = [(step.after.context["w"], step.after.context["q"]) for step in steps]
        told: dict[str, set[int]] = {"plain": set(), "asked": set()}
        for number, each in watched(machine, steps):
            told[each.name].add(number)

        for name, has_when in (("plain", False), ("asked", True)):
            is_ended = steps[-1].after.ended
            assert told[name] == said(trace, within, has_when=has_when, is_ended=is_ended), (name, keys)


# Play never asks.


class Poison:
    """What no turn may touch."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"play read '{name}' of a property")


async def test_a_served_turn_asks_no_property(start: Any):
    """Not even one that errs, or that is broken."""
    machine = kept("errs")
    poisoned = msgspec.structs.replace(machine, properties=Poison())
    client = await start(poisoned)

    await client.send("HALL")
    answer = await client.choose("fall")

    assert (answer["session"]["turn"], (await client.session()).context) == (2, {"hp": 0})


async def test_a_machine_with_properties_plays_as_one_without(start: Any):
    """Byte for byte, but for the digest: that is over the whole file, and knows another version by it."""
    text = (FOLDER / "never.yaml").read_text(encoding="utf-8")
    bare = text[: text.index("properties:")] + text[text.index("states:") :]
    plays = []
    for each in (text, bare):
        client = await start(loader.load({"machines/never.yaml": each}))
        first = [await client.send("ROAD", run_seed="same")]
        answers = first + [await client.choose(key) for key in ("fight", "flee", "fight", "look")]
        plays.append((answers, (await client.session()).digest))

    (with_, digest), (without, other) = plays
    assert msgspec.json.encode(with_).replace(digest.encode(), b"") == msgspec.json.encode(without).replace(
        other.encode(), b""
    )
    assert digest != other


# explain.


async def test_explain_has_each_property_with_its_verdict_and_what_it_read(start: Any):
    client = await start(kept("never"))
    await client.send("ROAD")
    for key in ("fight", "flee", "fight"):
        await client.choose(key)

    told = [(await explain(client.runtime, "s1", turn))["properties"] for turn in (1, 4)]

    assert told[0][0] == {
        "name": "no_fight_after_flight",
        "never": 'state == "COMBAT" && fled',
        "verdict": "holds",
        "reason": "",
        "values": {"state": "ROAD", "fled": False},
    }
    assert [(each["verdict"], each["reason"]) for each in told[1]] == [("broken", "it holds"), ("holds", "")]
    assert told[1][1]["values"] == {"ended": False, "truth": "cat"}


async def test_explain_counts_on_the_branch_that_a_turn_stands_on(start: Any):
    """Turns that were taken back are no turns of the play."""
    client = await start(kept("eventually"))
    await client.send("HALL")
    await client.choose("wait")
    await client.choose("wait")
    await rewind(client.runtime, "s1", 1)
    await client.choose("wait")
    await client.choose("wait")
    once, again, broken = [await explain(client.runtime, "s1", turn) for turn in (2, 4, 5)]

    assert once["properties"] == again["properties"]
    assert again["properties"] == [
        {
            "name": "found_soon", "eventually": "found", "within": 3, "verdict": "open", "reason": "",
            "turns_left": 1, "values": {"found": False},
        }
    ]  # fmt: skip
    assert broken["properties"][0]["reason"] == "it held after none of the 3 turns of the play"


async def test_explain_counts_from_where_a_session_moved_to_this_version(start: Any):
    """What the turns before were judged by is another file's."""
    text = (FOLDER / "eventually.yaml").read_text(encoding="utf-8")
    new = loader.load(
        {"machines/eventually.yaml": text.replace("initial:", "version: 2\nmigrations: [{from: 1}]\ninitial:")}
    )
    client = await start(kept("eventually"))
    await client.send("HALL")
    await client.choose("wait")

    runtime = Runtime(client.runtime.store, Offline(), {new.name: new}, new.name)
    await runtime.open()
    moved = [step async for step in migrate(runtime)]
    await Client(runtime).choose("wait")
    (told,) = (await explain(runtime, "s1", 3))["properties"]

    assert moved
    assert (told["verdict"], told["turns_left"]) == ("open", 2)


@pytest.mark.slow
def test_explain_is_served_in_the_shape_that_the_document_shows(tmp_path: Path):
    settings = Settings(project=str(tmp_path), store="memory:")
    with serving(runtime_of(kept("eventually_when")), settings) as server, Web(server.url) as web:
        web.invoke("s1", "ROAD")
        web.invoke("s1", option=1)
        told = web.ask("GET", "/sessions/s1/turns/2/explain")

    answered = openapi.document()["components"]["schemas"]["Explained"]
    validator = jsonschema_rs.validator_for({**answered, "components": openapi.document()["components"]})
    assert [error.message for error in validator.iter_errors(told)] == []
    assert [each["verdict"] for each in told["properties"]] == ["open"]
    assert "properties" in answered["required"]


# Names.


def test_without_properties_a_machine_may_have_their_names():
    """Machines that were written before there were properties stay good."""
    machine = tiny("""
    initial: A
    context: {ended: {type: bool}, mood: {type: enum, of: [calm, state]}}
    states: {A: {on: {B: [{guard: mood == state || !ended, target: B}]}}, B: {type: final}}
    """)

    assert (machine.warnings, machine.properties) == ((), ())


# The machines that ship.


def next_of(rng: random.Random, machine: Machine, session: Session) -> Invoke:
    """Some option; else, and sometimes all the same, some event that is open."""
    if session.offer and rng.random() < 0.95:
        return Invoke(selected_option_id=rng.choice(session.offer).id)
    event = rng.choice(session.routing.allowed_event_types)
    return Invoke(event=event, payload=dict.fromkeys(machine.definition.event(event).payload, "宁 👻"))


def learned(rng: random.Random, machine: Machine) -> dict[str, Any]:
    """What a model might have taught: any member, and numbers around every limit."""
    context = machine.definition.context.items()
    members = {name: rng.choice([*variable.of, "无"]) for name, variable in context if variable.of}
    numbers = {name: rng.choice([-1, 0, 49, 50, 51, 69, 70, 100]) for name, each in context if each.type == "int"}
    return {**members, **numbers} if rng.random() < 0.8 else {}


def play_of(machine: Machine, number: int) -> list[Step]:
    """One play to its end, at random."""
    rng = random.Random(f"{machine.name} {number}")  # noqa: S311 - no secret
    trial, difficulty = Trial(machine), rng.choice(["EASY", "NORMAL", "HARD"])
    first = Invoke(event=machine.definition.first.event, run_seed=str(number), difficulty=difficulty)
    steps = [trial.begin(first)]
    while not steps[-1].after.ended:
        before = steps[-1].after
        try:
            steps.append(trial.take(before, next_of(rng, machine, before), learned(rng, machine)))
        except Refusal:
            continue  # a payload or a guard; another choice is drawn
    return steps


@pytest.mark.parametrize("name", SHIPPED)
def test_no_play_of_a_machine_that_ships_breaks_what_it_says(name: str):
    machine = shipped()[name]
    for number in range(20 * SCALE):
        assert watched(machine, play_of(machine, number)) == [], number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said", "written", "changed"),
    [
        ("haunted_house", "friend_is_not_left", 'guard: "!found && hp > 0 && fear < 10', 'guard: "hp > 0 && fear < 10'),
        ("haunted_house", "release_is_earned", '"found && answer == right && hp > 0', '"found && hp > 0'),
        ("haunted_house", "ghost_fades_after_a_struggle", 'fear: "fear + 1", ghost_hp: 0, ', 'fear: "fear + 1", '),
        ("mine_adventure", "clue_is_true", "assign: {clue: black}", "assign: {clue: red}"),
        ("mine_adventure", "tam_is_not_left", "guard: found         # the boy", "guard: found && slain   # the boy"),
        ("mine_adventure", "only_debtors_are_kept", "guard: debt && silver < 6", "guard: silver < 6"),
        ("ticket_triage", "large_refunds_are_approved", "_needed && refund <= refund_limit\n", "_needed\n"),
        ("ticket_triage", "doubts_are_seen", "guard: confidence >= confidence_needed &&", "guard: attempts > 0 &&"),
        ("ticket_triage", "waits_for_a_person_only", "attempts < 3, target: ACTION", "attempts < 3, target: APPROVAL"),
    ],
)
def test_a_change_of_an_edge_breaks_what_a_machine_says(name: str, said: str, written: str, changed: str):
    """What ships says something: each of these rules is kept by some edge, and by no clamp."""
    path, text = f"machines/{name}.yaml", shipped()[name].files[f"machines/{name}.yaml"]
    assert written in text
    machine = loader.load({**shipped()[name].files, path: text.replace(written, changed)})

    plays = (watched(machine, play_of(machine, number)) for number in range(400))

    assert said in {each.name for _, each in next(filter(None, plays), [])}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_machine_that_ships_says_what_must_be_so(name: str):
    assert len(shipped()[name].properties) >= 2
