"""Where a session may go: open, closed, depends; what is offered; what is next."""

from __future__ import annotations

import msgspec
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

from runtime import errors
from runtime.explain import explain


def routing(answer):
    return answer["payload"]["routing"]


def keys(answer):
    return [each.get("key") or each.get("kind") for each in answer["payload"]["options"]]


async def test_a_guard_that_reads_dice_depends_and_counts_as_allowed(start):
    client = await start(
        tiny("""
    initial: A
    events: {GAMBLE: {}, WALK: {}}
    states:
      A:
        on:
          GAMBLE:
            dice: {luck: 1d6}
            edges: [{guard: dice.luck > 3, target: WON}, {name: lost, guard: dice.luck <= 3, target: LOST}]
          WALK: [{target: A}]
      WON: {type: final}
      LOST: {type: final}
    """)
    )
    answer = await client.send("A")
    assert routing(answer) == {
        "next_event_type": "GAMBLE",
        "should_end": True,
        "allowed_event_types": ["GAMBLE", "WALK"],
    }
    assert answer["payload"]["options"] == [{"id": 1, "text": "Continue", "event_type": "GAMBLE", "key": "continue"}]


async def test_an_edge_not_suggested_is_allowed_and_never_next(start):
    client = await start(
        tiny("""
    initial: A
    events: {QUIT: {}, GO: {}}
    on:
      QUIT: [{target: Z, suggest: false}]
    states:
      A: {on: {GO: [{target: A}]}}
      Z: {type: final}
    """)
    )
    answer = await client.send("A")
    assert routing(answer) == {"next_event_type": "GO", "should_end": False, "allowed_event_types": ["QUIT", "GO"]}
    assert (await client.send("QUIT"))["session"]["ended"]


async def test_an_option_whose_every_edge_is_closed_is_not_offered(start):
    client = await start(
        tiny("""
    initial: A
    context: {n: {type: int, default: 1}}
    states:
      A:
        options:
          - {key: a, text: First, guard: n > 5, target: A}
          - {key: b, text: Second, target: A, assign: {n: n + 5}}
          - key: c
            text: Third
            event: A
            dice: {d: 1d6}
            edges: [{name: lucky, guard: dice.d > 3, target: Z}, {name: bad, guard: n > 5, target: A}]
      Z: {type: final}
    """)
    )
    assert keys(await client.send("A")) == ["b", "c"]
    assert keys(await client.choose("b")) == ["a", "b", "c"]


async def test_while_a_must_edge_is_open_nothing_else_is_offered_or_allowed(start):
    client = await start(
        tiny("""
    initial: A
    context: {hp: {type: int, default: 2, min: 0, max: 2}}
    on:
      DEAD: [{guard: hp <= 0, target: DEAD, must: true}]
    states:
      A: {options: [{key: fight, text: Fight, target: A, assign: {hp: hp - 1}}, {key: flee, text: Flee, target: Z}]}
      DEAD: {type: final}
      Z: {type: final}
    """)
    )
    await client.send("A")
    assert keys(await client.choose("fight")) == ["fight", "flee"]
    dead = await client.choose("fight")
    assert keys(dead) == ["continue"]
    assert routing(dead) == {"next_event_type": "DEAD", "should_end": True, "allowed_event_types": ["DEAD"]}


async def test_where_every_event_needs_a_payload_inputs_are_asked_for_instead_of_options(start):
    client = await start(
        tiny("""
    initial: A
    events: {SAY: {payload: {text: text}}}
    states: {A: {on: {SAY: Z}}, Z: {type: final}}
    """)
    )
    answer = await client.send("A")
    assert answer["payload"]["options"] == []
    assert answer["payload"]["inputs"] == [{"event_type": "SAY", "field": "text", "max_chars": 500}]


async def test_continue_goes_to_the_first_event_that_needs_no_payload(start):
    client = await start(
        tiny("""
    initial: A
    events: {SAY: {payload: {text: text}}, LEAVE: {}}
    states: {A: {on: {SAY: Z, LEAVE: Z}}, Z: {type: final}}
    """)
    )
    answer = await client.send("A")
    assert routing(answer)["next_event_type"] == "SAY"
    assert [(each["key"], each["event_type"]) for each in answer["payload"]["options"]] == [("continue", "LEAVE")]
    assert (await client.send(option=1))["event"]["type"] == "LEAVE"


async def test_a_state_where_nothing_is_open_says_so(start):
    client = await start(
        tiny("""
    initial: A
    context: {n: {type: int, default: 5}}
    states: {A: {on: {Z: [{guard: n > 9, target: Z}]}}, Z: {type: final}}
    """)
    )
    answer = await client.send("A")
    assert routing(answer) == {"next_event_type": None, "should_end": False, "allowed_event_types": []}
    assert answer["payload"]["options"] == []
    assert any("no event is open" in warning for warning in answer["payload"]["meta"]["warnings"])


FREE = """
initial: A
context: {n: {type: int}}
states:
  A:
    options: {free: 2..3, event: A, kinds: {bold: Be bold, careful: Be careful, sly: Be sly, mad: Be mad}}
    on:
      A:
        - {name: leap, guard: option.kind == "bold", target: A, assign: {n: n + 10}}
        - {name: mad, guard: option.kind == "mad" && n > 10, target: Z}
        - {name: step, guard: option.kind != "mad", target: A, assign: {n: n + 1}}
      Z: [{target: Z, suggest: false}]
  Z: {type: final}
"""


async def test_free_options_are_drawn_from_the_kinds_that_lead_on(start):
    client = await start(tiny(FREE))
    answer = await client.send("A", run_seed="x")
    seen = set()
    for _ in range(30):
        offered = keys(answer)
        n = (await client.session()).context["n"]
        assert 2 <= len(offered) <= 3
        assert len(set(offered)) == len(offered)
        assert "mad" not in offered or n > 10
        seen |= set(offered)
        if "bold" in offered:
            answer = await client.choose("bold")
            assert answer["payload"]["outcome"]["edge"] == "A.leap"
        else:
            safe = next(kind for kind in offered if kind != "mad")
            answer = await client.choose(safe)
            assert answer["payload"]["outcome"]["edge"] == "A.step"
    assert seen == {"bold", "careful", "sly", "mad"}


async def test_a_root_edge_comes_before_the_states_own(start):
    client = await start(
        tiny("""
    initial: A
    context: {n: {type: int}}
    events: {GO: {}}
    on:
      GO: [{name: caught, guard: n > 0, target: Z}]
    states:
      A: {on: {GO: [{target: A, assign: {n: n + 1}}]}}
      Z: {type: final}
    """)
    )
    await client.send("A")
    first = await client.send("GO")
    second = await client.send("GO")
    assert first["payload"]["outcome"]["edge"] == "A.GO>A"
    assert second["payload"]["outcome"]["edge"] == "*.caught"


async def test_what_stands_first_in_the_file_is_next(start):
    text = """
    initial: A
    context: {n: {type: int}}
    states:
      A:
        %s
        %s
      R: {type: final}
    """
    options = "options: [{key: a, text: Stay, target: A}, {key: b, text: Too, target: A}]"
    on = "on: {R: [{guard: n >= 0, target: R}]}"
    before = await start(tiny(text % (on, options)))
    after = await start(tiny(text % (options, on)))
    assert routing(await before.send("A"))["next_event_type"] == "R"
    assert routing(await after.send("A"))["next_event_type"] == "A"


async def test_explain_names_every_edge_with_what_it_read_and_why(start):
    client = await start(tiny(FREE))
    await client.send("A", run_seed="x")
    offered = keys(await client.send(option=1))
    explained = await explain(client.runtime, "s1", 2)
    looked_at = {each["edge"]: each for each in explained["considered"]}

    assert set(looked_at) == {"A.leap", "A.mad", "A.step"}
    assert [each["edge"] for each in explained["considered"] if each["taken"]] == [explained["edge"]]
    assert looked_at["A.leap"]["guard"] == 'option.kind == "bold"'
    assert looked_at["A.leap"]["values"]["option.kind"] == explained["choice"]["kind"]
    assert {each["verdict"] for each in explained["considered"]} <= {"open", "closed", "depends"}
    assert list(explained["routing"]["allowed_event_types"]) == ["A", "Z"]
    assert {each["edge"] for each in explained["routing"]["considered"]} == {"A.leap", "A.mad", "A.step", "A.Z>Z"}
    assert offered


DOORS = """
initial: A
context: {n: {type: int, min: 0, max: 9}}
events: {UP: {}, DOWN: {}, JUMP: {}, OUT: {}}
on:
  OUT: [{guard: n == 9, target: Z, must: true}]
states:
  A:
    on:
      UP: [{guard: n < 9, target: A, assign: {n: n + 1}}]
      DOWN: [{guard: n > 0, target: A, assign: {n: n - 1}}]
      JUMP:
        dice: {far: 1d4}
        edges: [{guard: n + dice.far <= 9, target: A, assign: {n: n + dice.far}}, {name: fall, guard: n > 2, target: B}]
  B: {on: {UP: A, OUT: [{name: end, target: Z}]}}
  Z: {type: final}
"""


@given(st.lists(st.integers(0, 3), max_size=25), st.text("abc", min_size=1, max_size=4))
async def test_whatever_routing_suggests_is_then_accepted_and_nothing_else_that_it_shuts(start, picks, seed):
    """Open means accepted, closed means refused: what an answer says holds at the next turn."""
    client = await start(tiny(DOORS))
    answer = await client.send("A", run_seed=seed, elapsed_active_seconds=0)
    for pick in picks:
        allowed = routing(answer)["allowed_event_types"]
        event = ["UP", "DOWN", "JUMP", "OUT"][pick]
        if answer["session"]["ended"]:
            break
        if event in allowed and event != "JUMP":
            answer = await client.send(event)
            continue
        try:
            answer = await client.send(event)
        except (errors.EventNotAllowed, errors.GuardRefused):
            continue
        assert event in allowed


async def test_routing_reads_back_equal_from_the_journal(start):
    client = await start(tiny(DOORS))
    answer = await client.send("A")
    assert msgspec.to_builtins((await client.session()).routing) == {
        **routing(answer),
        "allowed_event_types": tuple(routing(answer)["allowed_event_types"]),
    }
