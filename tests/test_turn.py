"""One turn: what the rules settle, in which order, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio

import pytest
from conftest import tiny

from runtime import errors
from runtime.narrators.offline import Offline

HALL = """
initial: {event: INIT, target: HALL, assign: {hp: "hp - 1"}}
context:
  hp: {type: int, default: 12, min: 0, max: 12, show: true, label: Health}
  bag: {type: set, of: [key, lamp], show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
  hidden: {type: int, default: 7, secret: true}
states:
  HALL:
    options:
      - {key: hit, text: Hit the wall, target: HALL, assign: {hp: "hp - 5", hidden: "hidden + 1"}, tell: It hurts.}
      - {key: take, text: Take the lamp, target: HALL, once: true, assign: {bag: "add(bag, lamp)"}}
      - {key: leave, text: Leave, guard: "lamp in bag", why: It is too dark., target: END_OUT}
  END_OUT: {type: final, ending: {title: Out, good: true}}
"""
REFUSING = f"on_failure: refuse{HALL}"


async def test_a_turn_takes_the_edge_and_tells_it(start):
    client = await start(tiny(HALL))

    begun = await client.send("init")
    hit = await client.choose("hit")

    assert begun["event"] == {"type": "init"}
    assert begun["session"]["state"] == "HALL"
    assert begun["payload"]["outcome"]["edge"] == "initial"
    assert hit["event"] == {"type": "HALL"}
    assert hit["payload"]["outcome"] == {
        "edge": "HALL.hit",
        "from": "HALL",
        "to": "HALL",
        "dice": [],
        "changes": [{"name": "hp", "from": 11, "to": 6}],
    }
    assert hit["payload"]["status"]["hp"] == {"value": 6, "min": 0, "max": 12, "label": "Health", "text": "6"}
    assert "It hurts." in hit["payload"]["scene"]
    assert (hit["session"]["turn"], hit["session"]["step"]) == (2, 2)


async def test_secrets_are_in_no_answer(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    answer = await client.choose("hit")
    assert "hidden" not in str(answer)
    assert (await client.session()).context["hidden"] == 8


async def test_results_are_clamped_to_the_range(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    for _ in range(3):
        answer = await client.choose("hit")
    assert answer["payload"]["status"]["hp"]["value"] == 0


async def test_an_option_taken_once_is_not_offered_again(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    answer = await client.choose("take")
    assert [each["key"] for each in answer["payload"]["options"]] == ["hit", "leave"]
    assert [each["id"] for each in answer["payload"]["options"]] == [1, 2]


async def test_a_final_state_ends_the_session(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    await client.choose("take")
    ended = await client.choose("leave")
    payload = ended["payload"]

    assert ended["session"]["ended"] is True
    assert payload["ending"] == {"id": "END_OUT", "title": "Out", "good": True}
    assert payload["options"] == []
    assert payload["routing"] == {"next_event_type": None, "should_end": True, "allowed_event_types": []}
    assert payload["key_choices"] == [{"turn": 2, "text": "Take the lamp"}, {"turn": 3, "text": "Leave"}]


async def refused(client, error, **send):
    """The refusal of a request, having checked that nothing changed."""
    before = await client.journal()
    with pytest.raises(error) as caught:
        await client.send(**send)
    assert await client.journal() == before
    return caught.value


async def test_every_refusal_of_the_engine_changes_nothing(start):
    client = await start(tiny(HALL))
    assert (await refused(client, errors.SessionNotFound, event="HALL")).facts["session_id"] == "s1"
    await client.send("INIT")

    exists = await refused(client, errors.SessionExists, event="INIT")
    unknown = await refused(client, errors.UnknownEventType, event="HALLL")
    bare = await refused(client, errors.OptionNotOffered, event="HALL")
    absent = await refused(client, errors.OptionNotOffered, option=9)
    mismatch = await refused(client, errors.OptionEventMismatch, event="END_OUT", option=1)
    stale = await refused(client, errors.StaleTurn, option=1, expected_turn=0)
    nothing = await refused(client, errors.ValidationError)
    field = await refused(client, errors.ValidationError, option=1, payload={"selected_option": 1})
    language = await refused(client, errors.ConstraintsUnsatisfiable, option=1, constraints={"language": "fr"})

    assert exists.facts == {"state": "HALL", "turn": 1}
    assert unknown.facts["did_you_mean"] == "HALL"
    assert bare.facts["offered"] == absent.facts["offered"]
    assert [each["id"] for each in absent.facts["offered"]] == [1, 2]
    assert mismatch.facts["event_type"] == "HALL"
    assert (stale.facts["expected_turn"], stale.facts["turn"]) == (0, 1)
    assert nothing.facts["details"][0]["loc"] == ["body", "event", "type"]
    assert "Did you mean 'selected_option_id'?" in field.facts["details"][0]["msg"]
    assert language.facts["what"]["languages"] == ["en"]


async def test_an_ended_session_is_told_so(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    await client.choose("take")
    await client.choose("leave")
    ended = await refused(client, errors.SessionEnded, event="HALL", option=1)
    assert ended.facts["ending"]["id"] == "END_OUT"
    assert ended.facts["turn"] == 3


GUARDED = """
initial: DOOR
context: {key: {type: bool}}
events: {OPEN: {}, SWEEP: {}}
states:
  DOOR:
    on:
      OPEN: [{guard: key, target: END_IN, why: {en: The lock holds., zh: 锁着。}}]
      SWEEP: DOOR
  END_IN: {type: final}
title: {en: Tiny, zh: 小}
"""


async def test_a_closed_guard_says_why_and_operators_see_what_it_read(start):
    client = await start(tiny(GUARDED))
    await client.send("DOOR", constraints={"language": "zh"})

    player = await refused(client, errors.GuardRefused, event="OPEN")
    operator = await refused(client, errors.GuardRefused, event="OPEN", role="operator")

    assert player.facts == {"state": "DOOR", "allowed_event_types": ["SWEEP"], "why": "锁着。"}
    assert player.language == "zh"
    assert operator.facts["considered"][0]["values"] == {"key": False}
    assert operator.facts["considered"][0]["verdict"] == "closed"


async def test_an_event_without_an_edge_in_the_state_is_not_allowed(start):
    client = await start(tiny(GUARDED.replace("SWEEP: {}", "SWEEP: {}, KICK: {}")))
    await client.send("DOOR")
    not_allowed = await refused(client, errors.EventNotAllowed, event="KICK")
    assert not_allowed.facts == {"state": "DOOR", "allowed_event_types": ["SWEEP"], "because": None}


FAULTY = """
initial: A
context: {n: {type: int, default: 0}}
events: {GO: {}, DIVIDE: {}}
states:
  A:
    on:
      GO: [{guard: "1 / n > 0", target: B}, {target: A}]
      DIVIDE: [{target: A, assign: {n: "1 / n"}}]
      B: B
  B: {type: final}
"""


async def test_a_guard_or_assign_that_errs_is_a_fault_and_changes_nothing(start):
    client = await start(tiny(FAULTY))
    begun = await client.send("A")
    guard = await refused(client, errors.MachineFault, event="GO")
    assign = await refused(client, errors.MachineFault, event="DIVIDE")

    assert guard.facts == {"machine": "tiny", "edge": "A.GO>B"}
    assert assign.facts == {"machine": "tiny", "edge": "A.DIVIDE>A"}
    assert "GO" in begun["payload"]["routing"]["allowed_event_types"]
    assert any("divide by zero" in warning for warning in begun["payload"]["meta"]["warnings"])


ORDER = """
initial: A
context: {a: {type: int}, b: {type: int}, c: {type: int}, seen: {type: int}}
states:
  A: {options: [{key: go, text: Go, target: B, assign: {a: "a + 1", b: "a * 10", seen: "step + visits.B * 100"}}]}
  B:
    entry: {c: "b + 1"}
    options:
      - {key: stay, text: Stay, target: B, assign: {seen: "step + visits.B * 100"}}
      - {key: out, text: Out, target: C}
  C: {type: final}
"""


async def test_assigns_see_the_lines_above_and_entry_comes_after_them_when_a_state_is_entered(start):
    client = await start(tiny(ORDER))
    await client.send("A")
    await client.choose("go")
    context = (await client.session()).context
    assert (context["a"], context["b"], context["c"]) == (1, 10, 11)

    await client.choose("stay")
    assert (await client.session()).context["c"] == 11


async def test_step_and_visits_hold_their_old_values_while_a_turn_settles(start):
    client = await start(tiny(ORDER))
    await client.send("A")
    await client.choose("go")
    assert (await client.session()).context["seen"] == 1
    await client.choose("stay")
    assert (await client.session()).context["seen"] == 2 + 100


PAYLOAD = """
initial: DOOR
events: {SAY: {payload: {word: text, loud: "bool?", times: "int?"}}, LEAVE: {}}
context: {heard: {type: str}, given_loud: {type: bool}}
states:
  DOOR:
    on:
      SAY:
        - {guard: 'norm(payload.word) == "芝麻开门"', target: END_IN}
        - {target: DOOR, assign: {heard: payload.word, given_loud: given(payload.loud)}}
      LEAVE: [{target: END_OUT, suggest: false}]
  END_IN: {type: final}
  END_OUT: {type: final}
"""


async def test_free_text_is_asked_for_and_reaches_the_guard(start):
    client = await start(tiny(PAYLOAD))
    begun = await client.send("DOOR")
    assert begun["payload"]["options"] == []
    assert begun["payload"]["inputs"] == [{"event_type": "SAY", "field": "word", "max_chars": 500}]
    assert begun["payload"]["routing"]["allowed_event_types"] == ["SAY", "LEAVE"]
    assert begun["payload"]["routing"]["should_end"] is False

    await client.send("SAY", payload={"word": "system: {{ 7 * 7 }} 👩‍👩‍👧", "loud": False})
    context = (await client.session()).context
    assert context == {"heard": "system: {{ 7 * 7 }} 👩‍👩‍👧", "given_loud": True}

    opened = await client.send("SAY", payload={"word": "芝麻，开门！"})
    assert opened["session"]["state"] == "END_IN"


async def test_a_wrong_payload_is_refused_with_all_its_faults(start):
    client = await start(tiny(PAYLOAD))
    await client.send("DOOR")
    wrong = {"word": "x" * 501, "loud": 1, "wrod": 2}
    faults = await refused(client, errors.ValidationError, event="SAY", payload=wrong)
    assert [fault["loc"][-1] for fault in faults.facts["details"]] == ["wrod", "word", "loud"]
    assert "Did you mean 'word'?" in faults.facts["details"][0]["msg"]
    missing = await refused(client, errors.ValidationError, event="SAY")
    assert missing.facts["details"][0]["type"] == "missing"


async def test_a_players_text_with_a_forbidden_term_is_refused(start):
    client = await start(tiny(PAYLOAD))
    await client.send("DOOR", constraints={"forbidden_terms": ["骰子"]})
    term = await refused(client, errors.TextNotAllowed, event="SAY", payload={"word": "掷骰子！"})
    assert term.facts["what"]["term"] == "骰子"


LIMITED = """
initial: A
limits: {seconds: 100, turns: 3}
on:
  LATE: [{name: dawn, guard: "time.remaining_seconds <= 0 || turns_left <= 0", target: LATE, must: true}]
states:
  A: {options: [{key: stay, text: Stay, target: A}, {key: go, text: Go, target: OUT}]}
  LATE: {type: final}
  OUT: {type: final}
"""


async def test_time_counts_after_the_guards_so_that_what_routing_promised_holds(start):
    client = await start(tiny(LIMITED))
    await client.send("A", elapsed_active_seconds=0)
    late = await client.choose("stay", elapsed_active_seconds=150)
    assert late["session"]["state"] == "A"
    assert late["session"]["time"] == {"elapsed_active_seconds": 150, "remaining_seconds": 0}
    assert late["payload"]["routing"] == {
        "next_event_type": "LATE",
        "should_end": True,
        "allowed_event_types": ["LATE"],
    }
    assert [(each["key"], each["event_type"]) for each in late["payload"]["options"]] == [("continue", "LATE")]

    shut = await refused(client, errors.EventNotAllowed, event="A")
    assert shut.facts["because"] == "*.dawn"


async def test_a_clock_that_runs_backwards_moves_nothing(start, clock):
    client = await start(tiny(LIMITED))
    await client.send("A", elapsed_active_seconds=80)
    back = await client.choose("stay", elapsed_active_seconds=10)
    assert back["session"]["time"]["elapsed_active_seconds"] == 80
    assert any("backwards" in warning for warning in back["payload"]["meta"]["warnings"])

    clock[0] -= 10_000_000
    again = await client.choose("stay")
    assert again["session"]["time"]["elapsed_active_seconds"] == 80


async def test_the_server_adds_at_most_a_minute_where_the_client_sends_no_time(start, clock):
    client = await start(tiny(LIMITED))
    await client.send("A")
    clock[0] += 5_500
    assert (await client.choose("stay"))["session"]["time"]["elapsed_active_seconds"] == 5
    clock[0] += 5_000_000
    assert (await client.choose("stay"))["session"]["time"]["elapsed_active_seconds"] == 65


async def test_a_client_may_only_lower_the_limit(start):
    lower = await (await start(tiny(LIMITED))).send("A", hard_limit_seconds=30)
    higher = await (await start(tiny(LIMITED))).send("A", hard_limit_seconds=900)
    assert lower["session"]["time"]["remaining_seconds"] == 30
    assert higher["session"]["time"]["remaining_seconds"] == 100
    assert any("lowered" in warning for warning in higher["payload"]["meta"]["warnings"])


async def test_the_turn_limit_ends_the_story(start):
    client = await start(tiny(LIMITED))
    await client.send("A")
    await client.choose("stay")
    last = await client.choose("stay")
    assert last["payload"]["routing"]["next_event_type"] == "LATE"
    assert (await client.send("late", option=1))["session"]["state"] == "LATE"


async def test_the_clients_context_decides_nothing(start):
    client = await start(tiny(HALL))
    await client.send("INIT", context={"hp": 99, "bag": ["lamp"]}, client_context={"state": "END_OUT"})
    answer = await client.choose("hit", context={"hp": 99})
    assert answer["payload"]["status"]["hp"]["value"] == 6


class Slow(Offline):
    """Tells offline, and only once the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()

    async def narrate(self, task, release):
        await self.gate.wait()
        return await super().narrate(task, release)


async def test_of_two_turns_at_once_one_is_played(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    client.runtime.narrator = slow = Slow()

    turns = [asyncio.create_task(client.send(option=1)) for _ in range(10)]
    done, _ = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
    slow.gate.set()
    results = await asyncio.gather(*turns, return_exceptions=True)

    assert all(isinstance(each.exception(), errors.TurnInProgress) for each in done)
    assert [each["session"]["turn"] for each in results if isinstance(each, dict)] == [2]
    assert sum(isinstance(each, errors.TurnInProgress) for each in results) == 9
    assert len(await client.journal()) == 2


async def test_a_narrator_that_never_answers_is_given_up_at_the_deadline(start):
    client = await start(tiny(REFUSING), turn_deadline_s=0.01)
    await client.send("INIT")
    client.runtime.narrator = Slow()
    await refused(client, errors.NarratorUnavailable, option=1)
    client.runtime.narrator = Offline()
    assert (await client.choose("hit"))["session"]["turn"] == 2


async def test_where_a_narrator_never_answers_the_offline_one_steps_in_at_the_deadline(start):
    client = await start(tiny(HALL), turn_deadline_s=0.01)
    await client.send("INIT")
    client.runtime.narrator = Slow()

    answer = await client.choose("hit")

    assert answer["session"]["turn"] == 2
    assert answer["payload"]["meta"]["fallback"] == ["*"]
    assert (answer["payload"]["meta"]["narrator"], answer["payload"]["meta"]["ai_generated"]) == ("offline", False)


async def test_a_failed_narration_leaves_the_session_as_it_was(start):
    down = errors.NarratorUnavailable("down", rungs=["json_object"])
    client = await start(tiny(REFUSING), answers=[{"scene": "You stand in the hall."}, down])
    await client.send("INIT")
    assert client.runtime.trouble is None
    assert (await refused(client, errors.NarratorUnavailable, option=1)).retry == "same"
    assert client.runtime.trouble == ("narrator_unavailable", client.runtime.clock_ms())


async def test_where_the_model_fails_the_offline_narrator_steps_in(start):
    down = errors.NarratorUnavailable("down", rungs=["json_object"], attempts=2)
    client = await start(tiny(HALL), answers=[down])
    meta = (await client.send("INIT"))["payload"]["meta"]
    assert meta["narrator"] == "offline"
    assert meta["rungs"] == ["json_object", "offline"]
    assert meta["fallback"] == ["*"]


async def test_a_client_that_goes_away_does_not_stop_its_turn(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    going = asyncio.create_task(client.send(option=1))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    await client.runtime.close()
    assert (await client.session()).turn == 2


async def test_on_exists_restarts_or_resumes(start):
    client = await start(tiny(HALL))
    first = await client.send("INIT", run_seed="one")
    await client.choose("hit")
    head = await client.choose("hit")

    resumed = await client.send("INIT", on_exists="resume")
    restarted = await client.send("INIT", on_exists="restart", run_seed="two")

    assert resumed == head
    assert (restarted["session"]["turn"], restarted["session"]["step"]) == (4, 1)
    assert restarted["payload"]["status"]["hp"] == first["payload"]["status"]["hp"]
    assert len(await client.journal()) == 4
    assert (await client.session()).run_seed == "two"


async def test_an_event_for_operators_is_refused_to_players(start):
    approve = """
    initial: WAIT
    events: {APPROVE: {role: operator}}
    states:
      WAIT: {on: {APPROVE: DONE}}
      DONE: {type: final}
    """
    client = await start(tiny(approve))
    waiting = await client.send("WAIT")
    assert waiting["payload"]["options"] == []
    assert waiting["payload"]["routing"]["next_event_type"] == "APPROVE"
    forbidden = await refused(client, errors.Forbidden, event="APPROVE")
    assert forbidden.facts == {"role_needed": "operator"}
    assert (await client.send("APPROVE", role="operator"))["session"]["ended"]


async def test_the_event_comes_back_in_the_clients_spelling_only_if_it_sent_that_one(start):
    client = await start(tiny(HALL))
    await client.send("iNiT")
    assert (await client.send("hAlL", option=1))["event"]["type"] == "hAlL"
    assert (await client.send(option=1))["event"]["type"] == "HALL"


async def test_a_choice_sent_with_the_last_next_event_plays_the_choices_own_event(start):
    client = await start(tiny(HALL))
    await client.send("INIT")
    await client.choose("take")
    offered = (await client.session()).offer
    leave = next(each for each in offered if each.key == "leave")
    answer = await client.send("HALL", option=leave.id)
    assert answer["event"]["type"] == "END_OUT"
    assert any("belongs to 'END_OUT'" in warning for warning in answer["payload"]["meta"]["warnings"])


async def test_a_first_event_without_a_session_id_gets_one(start):
    client = await start(tiny(HALL))
    client.session_id = None
    answer = await client.send("INIT")
    assert answer["session"]["session_id"].startswith("made-")
    with pytest.raises(errors.EventNotAllowed):
        await client.send("HALL")
    with pytest.raises(errors.UnknownEventType):
        await client.send("NOPE")
    with pytest.raises(errors.MachineNotFound) as caught:
        await client.send("INIT", machine="tinny")
    assert caught.value.facts["did_you_mean"] == "tiny"


async def test_the_same_seed_and_choices_give_the_same_bytes(start):
    dicey = """
    initial: A
    context: {n: {type: int}}
    states:
      A:
        options:
          - key: roll
            text: Roll
            dice: {d: 1d100, ok: 50%, who: {pick: [x, y, z]}}
            target: A
            assign: {n: "n + dice.d"}
          - {key: out, text: Out, target: Z}
      Z: {type: final}
    """
    answers = []
    for _ in range(2):
        client = await start(tiny(dicey))
        await client.send("A", run_seed="s")
        answers.append([await client.choose("roll") for _ in range(5)])
    assert answers[0] == answers[1]
    assert len({str(each["payload"]["outcome"]["dice"]) for each in answers[0]}) > 1


MANY = """
initial: {event: INIT, target: HALL}
context: {zeal: {type: int, default: 0}, fear: {type: int, default: 0, show: true}, ease: {type: int, default: 0}}
states:
  HALL:
    options:
      - {key: on, text: Go on, target: HALL, assign: {ease: ease + 1, zeal: zeal + 1, fear: fear + 1}}
      - {key: off, text: Go off, target: OUT}
  OUT: {type: final}
"""


async def test_changes_stand_in_the_machines_order_whether_the_session_was_just_played_or_read_again(start):
    """A journal sorts keys: an outcome that followed a context's own order would not be the same after a restart."""
    client = await start(tiny(MANY))
    await client.send("INIT")

    answer = await client.choose("on")

    head = await client.runtime.store.head("s1")
    assert [change.name for change in head.outcome.changes] == ["zeal", "fear", "ease"]
    assert [change["name"] for change in answer["payload"]["outcome"]["changes"]] == ["fear"]
