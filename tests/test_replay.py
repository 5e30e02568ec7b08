"""Replays, played: what they hold a machine to, what differs first and why, and that the rules alone say the same."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from conftest import SCALE
from den import ANEW, DEN, PROMPT, at, both, den, differs, played_once, replays, ruled_once
from msgspec import structs
from served import ROOT, SHIPPED, shipped

from runtime import loader
from runtime.bench import player
from runtime.bench.expecting import is_found, seen_of
from runtime.bench.failed import failed_name, failed_run, failed_text, located
from runtime.bench.player import Result, played, played_by_rules
from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep, bare
from runtime.bench.replay_file import read_replays
from runtime.machine import Machine
from runtime.narrators import Task
from runtime.narrators.scripted import Scripted
from runtime.turn import play

MISS = "choose: strike, dice: {attack: 3, wound: 2}"
STEP = "steps:\n  - {{{}}}\n"


def one(step: str, **given: Any) -> str:
    """A replay of one step at the den's mouth."""
    return at(**given) + STEP.format(step)


# What it holds a machine to.

HOLDS = (
    "edge: MOUTH.miss", "state: MOUTH", "context: {hp: 3, bag: [], warmth: 0.5, mood: calm, loud: false}",
    "next: MOUTH", "allowed: [SAY, MOUTH]", "should_end: false", "ended: false", "options: [strike, take]",
    "scene: 洞口", "scene: {pattern: ^.+$}", "result.text: {contains: 落空, pattern: '。$'}", "status.hp.label: 生命",
    "options.0.text: {zh: 石头}", "meta: {narrator: offline, fallback: [], model: null}",
)  # fmt: skip


@pytest.mark.parametrize("expected", HOLDS)
def test_what_came_as_expected_passes(expected: str):
    assert played_once(one(f"{MISS}, expect: {{{expected}}}")).difference is None


@pytest.mark.parametrize(
    ("expected", "differing"),
    [
        ("edge: MOUTH.hit", ("edge", "MOUTH.hit", "MOUTH.miss")),
        ("state: FORK", ("state", "FORK", "MOUTH")),
        ("context: {mood: calm, hp: 4}", ("context.hp", 4, 3)),
        ("context: {bag: [lamp]}", ("context.bag", ["lamp"], [])),
        ("context: {loud: true}", ("context.loud", True, False)),
        ("next: GO", ("next", "GO", "MOUTH")),
        ("allowed: [SAY]", ("allowed", ["SAY"], ["MOUTH", "SAY"])),
        ("should_end: true", ("should_end", True, False)),
        ("ended: true", ("ended", True, False)),
        ("ending: END_OUT", ("ending", "END_OUT", None)),
        ("options: [take, strike]", ("options", ["take", "strike"], ["strike", "take"])),
        ("error: guard_refused", ("error", "guard_refused", None)),
    ],
)
def test_what_the_rules_came_to_otherwise_is_the_difference(expected: str, differing: tuple[Any, ...]):
    result = both(one(f"{MISS}, expect: {{{expected}}}"))

    assert (result.verdict, differs(result)) == ("failed", (1, *differing))


@pytest.mark.parametrize(
    ("expected", "differing"),
    [
        ("result.text: 砸中", ("result.text", {"contains": "砸中"}, "石头落空了。")),
        ("result.text: {pattern: ^空}", ("result.text", {"pattern": "^空"}, "石头落空了。")),
        ("npc.text: 你", ("npc.text", {"contains": "你"}, None)),
        ("result.text: {en: miss}", ("result.text", "a text for language zh; there is one for en", "石头落空了。")),
        ("meta: {attempts: 1, narrator: openai}", ("meta.narrator", "openai", "offline")),
    ],
)
def test_what_was_told_otherwise_is_the_difference_and_no_rules_know_it(expected: str, differing: tuple[Any, ...]):
    text = one(f"{MISS}, expect: {{{expected}}}")

    assert differs(played_once(text)) == (1, *differing)
    assert ruled_once(text).verdict == "passed"
    assert "not looked at" in ruled_once(text).reason


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_text_is_held_to_in_the_sessions_language(language: str):
    text = one(f"{MISS}, expect: {{result.text: {{zh: 落空, en: misses}}}}", language=language)

    assert played_once(text).verdict == "passed"


def test_the_language_may_change_on_the_way():
    text = at() + (
        "steps:\n"
        f"  - {{{MISS}, expect: {{result.text: 落空}}}}\n"
        f"  - {{{MISS}, constraints: {{language: en}}, expect: {{result.text: {{zh: 落空, en: misses}}}}}}\n"
    )

    assert played_once(text).verdict == "passed"


# Refusals.


def test_a_refusal_that_is_expected_leaves_the_session_where_it_stood():
    result = both(
        at()
        + """\
steps:
  - {send: FORK, expect: {error: guard_refused, why: 虚弱, state: MOUTH, context: {hp: 5}, options: [strike, take]}}
  - {send: NOTHING, expect: {error: unknown_event_type, message: NOTHING}}
  - {choose: deeper, expect: {error: option_not_offered}}
  - {choose: 9, expect: {error: option_not_offered}}
  - {choose: strike, send: SAY, expect: {error: option_event_mismatch}}
  - {send: SAY, with: {txt: 灯}, expect: {error: validation_error}}
  - {send: INIT, expect: {error: session_exists}}
  - {send: GO, expect: {error: event_not_allowed}}
  - {choose: take, expect: {edge: MOUTH.take, context: {bag: [lamp]}, options: [strike, deeper]}}
"""
    )

    assert result.difference is None
    assert [each.error for each in result.came] == [
        "guard_refused", "unknown_event_type", "option_not_offered", "option_not_offered", "option_event_mismatch",
        "validation_error", "session_exists", "event_not_allowed", None,
    ]  # fmt: skip


def test_a_refusal_that_nobody_expects_is_the_difference():
    assert differs(both(one("choose: deeper"))) == (1, "error", None, "option_not_offered")
    assert differs(both(one("choose: deeper, expect: {error: guard_refused}")))[2:] == (
        "guard_refused", "option_not_offered",
    )  # fmt: skip
    assert differs(both(ANEW + "steps: [{send: SAY, with: {text: a}}]"))[3] == "session_not_found"


def test_what_falls_over_is_a_difference_too():
    """An engine's own fault ends that replay and no other; this template asks for a name that a Task lacks."""
    machine = den()

    class Falls:
        name = "falls"

        async def open(self) -> None:
            raise AssertionError("it is open already")

        async def narrate(self, *_: Any) -> Any:
            raise RuntimeError("out of the blue")

        async def close(self) -> None:
            raise AssertionError("it is another's")

    result = asyncio.run(played(replays(one(MISS))[0], machine, Falls()))  # type: ignore[arg-type]

    assert differs(result) == (1, "error", None, "crash")
    assert result.difference is not None
    assert "RuntimeError: out of the blue" in result.difference.why


# Dice, answers, time, keys.


def test_dice_fall_as_they_are_fixed_and_one_that_is_not_rolled_is_never_expected():
    assert both(one("choose: strike, dice: {attack: 20, wound: 1}, expect: {edge: MOUTH.hit}")).verdict == "passed"
    for step in (
        "choose: take, dice: {attack: 1}",
        "choose: take, dice: {attack: 1}, expect: {error: validation_error}",
    ):
        assert differs(both(one(step)))[1:3] == ("dice.attack", 1)
    assert differs(both(one("choose: strike, dice: {attack: 21}")))[1:3] == ("dice.attack", 21)


def test_the_free_options_are_those_that_are_drawn():
    text = one("send: SAY, with: {text: 芝麻开门！}, dice: {kinds: [shy]}, expect: {options: [shy], state: FORK}")

    assert both(text).verdict == "passed"
    assert both(text.rstrip("\n") + "\n  - {choose: {kind: shy}, expect: {edge: FORK.other}}\n").verdict == "passed"
    assert differs(both(text.replace("[shy]}, e", "[shy, bold, odd]}, e")))[1] == "dice.kinds"


def test_what_the_model_answered_teaches_and_is_told():
    text = one(
        f"{MISS}, narrate: {{scene: 风停了, result: {{text: 空了}}, mood: tense}}, "
        "expect: {context: {mood: tense}, options: [strike, take, deeper]}"
    )

    result = both(text.replace("expect: {", "expect: {"))

    assert result.verdict == "passed"
    (came,) = result.came
    assert came.answer is not None
    assert came.answer["payload"]["scene"] == "风停了"
    assert came.answer["payload"]["meta"]["narrator"] == "cassette"
    assert both(one(f"{MISS}, narrate: {{mood: angry}}, expect: {{context: {{mood: calm}}}}")).verdict == "passed"
    assert both(one(f"{MISS}, narrate: {{}}, expect: {{context: {{mood: calm}}}}")).verdict == "passed"
    assert both(one(f"{MISS}, expect: {{context: {{mood: calm}}}}")).verdict == "passed"


def test_an_answer_that_breaks_the_rules_is_refused_where_the_machine_says_so():
    strict = den(("language: zh\n", "language: zh\non_failure: refuse\n"))
    answer = "narrate: {scene: 3, result: {text: 空了}, mood: tense}"

    assert both(one(f"{MISS}, {answer}, expect: {{error: narration_invalid}}"), strict).verdict == "passed"
    assert both(one(f"{MISS}, {answer}, expect: {{context: {{mood: tense, hp: 3}}}}")).verdict == "passed"


def test_time_is_the_players_and_stands_still_otherwise():
    result = both(
        at()
        + """\
steps:
  - {choose: take, after: 98s, expect: {allowed: [MOUTH, SAY, FORK]}}
  - {choose: strike, after: 1.999s, expect: {allowed: [MOUTH, SAY, FORK]}}
  - {choose: strike, expect: {allowed: [MOUTH, SAY, FORK]}}
  - {choose: strike, after: 1ms, expect: {allowed: [LATE], options: [continue], next: LATE, should_end: true}}
  - {send: LATE, expect: {ending: END_LATE, ended: true, should_end: true, options: [], allowed: []}}
"""
    )

    assert result.difference is None
    assert [each.session.elapsed_ms for each in result.came if each.session] == [
        98_000, 99_999, 99_999, 100_000, 100_000,
    ]  # fmt: skip


@pytest.mark.parametrize("ms", [1, 999, 1001, 1999, 4001, 8003, 33_333, 99_999])
def test_no_millisecond_is_lost(ms: int):
    text = one(f"choose: take, after: {ms}ms")

    (came,) = both(text).came

    assert came.session is not None
    assert came.session.elapsed_ms == ms


def test_what_is_sent_again_under_its_key_is_played_once():
    result = both(
        at()
        + f"""\
steps:
  - {{{MISS}, key: k1, times: 3, expect: {{context: {{hp: 3}}}}}}
  - {{{MISS}, key: k1, expect: {{context: {{hp: 3}}, edge: MOUTH.miss}}}}
  - {{choose: take, key: k1, expect: {{error: idempotency_mismatch}}}}
  - {{{MISS}, key: k2, expect: {{context: {{hp: 1}}}}}}
"""
    )

    assert result.verdict == "passed"
    assert [each.is_replayed for each in result.came] == [False, True, False, False]


def test_the_same_words_in_other_bytes_are_another_answer(monkeypatch: pytest.MonkeyPatch):
    answers = iter([b"", b" "])

    async def spaced(*args: Any) -> Any:
        answered = await play(*args)
        told = msgspec.Raw(bytes(answered.entry.answer) + next(answers))
        return structs.replace(answered, entry=structs.replace(answered.entry, answer=told))

    monkeypatch.setattr(player, "play", spaced)

    assert differs(played_once(one(f"{MISS}, key: k1, times: 2")))[1] == "times"


def test_a_key_that_was_refused_is_free_again():
    assert (
        both(at() + "steps:\n  - {choose: deeper, key: k, times: 2, expect: {error: option_not_offered}}\n"
             "  - {choose: take, key: k, expect: {edge: MOUTH.take}}\n").verdict == "passed"
    )  # fmt: skip


# Where it begins.


def test_a_replay_begins_anew_with_the_initial_event_or_where_it_is_given_to_stand():
    anew = both(ANEW + "steps: [{expect: {edge: initial, state: MOUTH, context: {hp: 5}}}]")
    given = both(
        at("FORK", context="{hp: 2, warmth: 1, bag: [rope, key]}")
        + "steps: [{send: RULE, expect: {error: event_not_allowed}}]"
    )

    assert (anew.verdict, given.verdict) == ("passed", "passed")
    (came,) = given.came
    assert came.session is not None
    assert (came.session.step, came.session.turn, came.session.visits) == (1, 1, {"FORK": 1})
    assert came.session.context == {"hp": 2, "warmth": 1.0, "bag": ["key", "rope"], "mood": "calm", "loud": False}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"state": "MOUT"}, "the machine has no state 'MOUT'"),
        ({"context": "{hpp: 1}"}, "the machine has no variable 'hpp'"),
        ({"language": "fr"}, "machine 'den' has no language 'fr'"),
    ],
)
def test_what_can_not_be_given_is_the_difference_before_the_first_step(given: dict[str, str], why: str):
    result = both(at(**{"state": "MOUTH", **given}) + "steps: [{choose: take}]")

    assert differs(result)[:2] == (0, "given")
    assert result.difference is not None
    assert why in result.difference.why
    assert result.came == ()


def test_seeds_and_slots_and_limits_are_what_is_given():
    rolls = {
        seed: played_once(one("choose: strike", seed=seed)).came[0].turn.outcome.dice  # type: ignore[union-attr]
        for seed in ("a", "b", "c", "a")
    }
    late = both(at(hard_limit_seconds="10", slots="{beast: 狼}", difficulty="HARD", player_count="3")
                + "steps: [{choose: take, after: 10s, expect: {allowed: [LATE]}}]")  # fmt: skip

    assert len({tuple(each.value for each in dice) for dice in rolls.values()}) == 3
    assert late.verdict == "passed"
    assert late.came[0].session is not None
    assert late.came[0].session.slots == {"beast": "狼"}


@pytest.mark.parametrize(
    ("text", "verdict"), [("石头", "passed"), ("挥石头", "passed"), ("头", "passed"), ("拾", "passed")]
)
def test_an_option_is_found_by_its_text(text: str, verdict: str):
    assert both(one(f"choose: {{text: {text}}}")).verdict == verdict


def test_a_text_that_two_options_have_is_none():
    machine = den(("拾起提灯", "拾起石头"))

    both_named = (1, "choose", "one option", "matches 挥石头 and 拾起石头")
    assert differs(played_once(one("choose: {text: 石头}"), machine)) == both_named
    refused = one("choose: {text: 石头}, expect: {error: option_not_offered}")
    assert differs(played_once(refused, machine)) == both_named
    assert ruled_once(one("choose: {text: 石头}"), machine).verdict == "skipped"
    assert both(one("choose: {text: 拾起石头}, expect: {edge: MOUTH.take}"), machine).verdict == "passed"


def test_a_variable_that_is_not_there_is_not_as_expected():
    text = ANEW + "steps: [{send: SAY, with: {text: a}, expect: {error: session_not_found, context: {hp: 5}}}]"

    assert differs(both(text)) == (1, "context.hp", 5, None)


@pytest.mark.parametrize(
    ("expected", "got"), [("attempts: false", 1), ("ai_generated: 0", False), ("usage: {prompt_tokens: false}", ...)]
)
def test_false_is_no_zero_in_meta(expected: str, got: Any):
    found = differs(played_once(one(f"{MISS}, expect: {{meta: {{{expected}}}}}")))

    assert found[1] == f"meta.{expected.partition(':')[0]}"
    assert got in (..., found[3])


def test_no_pattern_hangs_a_test():
    slow = "(a*)*b" * 3

    assert not is_found(f"^{slow}$", "a" * 5_000)
    assert is_found("(亮|灭)了。$", "灯🏮亮了。")


# Known failures, properties.


def test_a_known_failure_must_fail():
    fails = one(f"{MISS}, expect: {{edge: MOUTH.hit}}").replace("steps:", "xfail: '#7'\nsteps:")

    xfailed = both(fails)
    xpassed = both(fails.replace("MOUTH.hit", "MOUTH.miss"))

    assert (xfailed.verdict, xfailed.reason, xfailed.is_good) == ("xfailed", "#7", True)
    assert (xpassed.verdict, xpassed.is_good) == ("xpassed", False)


def test_a_property_that_breaks_is_a_difference():
    machine = den(("states:\n", 'properties:\n  hale: {always: "hp > 3"}\nstates:\n'))

    result = both(one(f"{MISS}"), machine)

    assert differs(result)[:2] == (1, "properties.hale")
    assert both(one("choose: take"), machine).verdict == "passed"


# Why.


def why(text: str, machine: Machine | None = None) -> list[str]:
    found = both(text, machine).difference
    assert found is not None
    return found.why.splitlines()


def test_why_an_edge_was_taken_names_guards_values_and_dice():
    assert why(one(f"{MISS}, expect: {{edge: MOUTH.hit}}")) == [
        "MOUTH by strike at MOUTH (洞口): took MOUTH.miss to MOUTH (洞口)",
        "dice: attack 1d20 = 3, wound 1d4 = 2",
        "  MOUTH.hit is closed: dice.attack > 10 is false (dice.attack = 3)",
        "  MOUTH.miss is taken: it has no guard",
    ]


def test_why_a_variable_is_what_it_is_names_the_line_that_set_it():
    assert why(one(f"{MISS}, expect: {{context: {{hp: 5}}}}"))[::2] == [
        "MOUTH.miss: hp (生命) 5 → 3", "  assign: hp: hp - dice.wound",
    ]  # fmt: skip
    assert why(one(f"{MISS}, expect: {{context: {{loud: true}}}}"))[-1] == "  nothing of this edge sets loud"
    fork = one("send: SAY, with: {text: 芝麻开门}, expect: {context: {hp: 5}}", language="en")
    assert why(fork)[0] == "MOUTH.heard: hp (Health) 5 → 6"
    assert why(fork)[-1] == "  entry of FORK: hp: hp + 1"


LATE = "time.remaining_seconds <= 0 || turns_left <= 0"


def test_why_routing_is_what_it_is_names_every_edge():
    assert why(one(f"{MISS}, expect: {{next: FORK}}")) == [
        "open at MOUTH (洞口): MOUTH, SAY",
        "offered: 1 strike “挥石头”, 2 take “拾起提灯”",
        f"  *.LATE>END_LATE is closed: {LATE} is false (time.remaining_seconds = 100, turns_left = 28)",
        "  MOUTH.hit depends: dice.attack is not known yet",
        "  MOUTH.miss depends: waits for the choice",
        "  MOUTH.take depends: waits for the choice",
        '  MOUTH.deeper is closed: "lamp" in bag || mood == tense is false (bag = [], mood = calm)',
        "  MOUTH.heard depends: payload.text is not known yet",
        "  MOUTH.unheard is open: it has no guard",
        "  MOUTH.RULE>FORK is closed: hp < 0 is false (hp = 3)",
        "  MOUTH.FORK>FORK is closed: hp > 8 is false (hp = 3)",
    ]


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ("[strike, take, deeper, tak]", [
            'missing: deeper — MOUTH.deeper is closed: "lamp" in bag || mood == tense is false (bag = [], mood = calm)',
            "missing: tak — no option of MOUTH (洞口). Did you mean 'take'?",
        ]),
        ("[strike]", ["extra: take — MOUTH.take depends: waits for the choice"]),
        ("[take, strike]", ["the same options, in another order or number"]),
    ],
)  # fmt: skip
def test_why_options_differ_names_first_which_and_the_rest_in_a_line(expected: str, told: list[str]):
    lines = why(one(f"{MISS}, expect: {{options: {expected}}}"))

    assert lines[: len(told)] == told
    assert lines[len(told) : -1] == [
        "open at MOUTH (洞口): MOUTH, SAY",
        "offered: 1 strike “挥石头”, 2 take “拾起提灯”",
    ]
    assert lines[-1].startswith("beside: *.LATE>END_LATE closed, MOUTH.hit depends, ")
    assert not any(line.partition(" — ")[2].partition(" ")[0] in lines[-1] for line in told if " — MOUTH." in line)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (f"{MISS}, expect: {{edge: MOUTH.hit}}", {"MOUTH.miss": 28, "MOUTH.hit": 27}),
        (f"{MISS}, expect: {{context: {{hp: 5}}}}", {"MOUTH.miss": 28}),
        (f"{MISS}, expect: {{result.text: 灯}}", {"MOUTH.miss": 28}),
        (f"{MISS}, expect: {{options: [strike, take, deeper]}}", {"MOUTH.deeper": 30}),
        ("choose: deeper", {"MOUTH.deeper": 30}),
        ("send: FORK", {"MOUTH.FORK>FORK": 36}),
    ],
)
def test_a_difference_says_where_its_edges_stand(step: str, told: dict[str, int]):
    found = located(played_once(one(step)), den()).difference

    assert found is not None
    assert {name: f"{name} (machines/den.yaml:{line})" in found.why for name, line in told.items()} == dict.fromkeys(
        told, True
    )
    assert found.why.count("machines/den.yaml") == len(told)
    assert DEN.splitlines()[27].strip().startswith("- {name: miss")


def test_an_edge_that_was_not_looked_at_has_its_place_and_so_has_the_first_one():
    elsewhere = located(played_once(one(f"{MISS}, expect: {{edge: FORK.bold}}")), den()).difference
    first = located(played_once(ANEW + "steps: [{send: INIT, expect: {state: FORK}}]"), den()).difference

    assert elsewhere is not None
    assert elsewhere.why.splitlines()[-1] == "FORK.bold stands at machines/den.yaml:43"
    assert first is not None
    assert "(machines/den.yaml:5) to MOUTH" in first.why


def test_why_something_was_refused_says_what_is_open_instead():
    assert why(one("choose: deeper")) == [
        "deeper is not offered at MOUTH (洞口)",
        "open at MOUTH (洞口): MOUTH, SAY",
        "offered: 1 strike “挥石头”, 2 take “拾起提灯”",
        '  MOUTH.deeper is closed: "lamp" in bag || mood == tense is false (bag = [], mood = calm)',
    ]
    assert why(one("choose: deepr"))[0] == "deepr is no option of MOUTH (洞口). Did you mean 'deeper'?"
    assert why(one("send: FORK"))[1:] == ["  MOUTH.FORK>FORK is closed: hp > 8 is false (hp = 5)"]


# How closely.


def test_strict_holds_the_prompt_to_the_letter_and_shows_what_changed():
    (came,) = played_once(one(MISS)).came
    assert came.prompt is not None
    block = "".join(f"      {line}\n" for line in came.prompt.splitlines())
    text = at() + f"steps:\n  - choose: strike\n    dice: {{attack: 3, wound: 2}}\n    prompt: |\n{block}"
    reworded = den(prompt=PROMPT.replace("Tell it.", "Tell it well."))

    assert played_once(text, mode="strict").verdict == "passed"
    assert played_once(text, reworded).verdict == "passed"
    changed = played_once(text, reworded, mode="strict")
    assert differs(changed)[:2] == (1, "prompt")
    assert changed.difference is not None
    assert changed.difference.why.splitlines()[3:6] == [" system:", "-Tell it.", "+Tell it well."]


def whole(task: Task) -> dict[str, Any]:
    """An answer that keeps to everything."""
    options = [{"key": each.key, "text": each.text} for each in task.offer]
    return {"scene": "风停了。", "result": {"text": "空了。"}, "options": options}


def test_rerun_asks_again_and_holds_it_to_the_contract_and_the_structure():
    text = one(
        f"{MISS}, narrate: {{mood: tense}}, expect: {{edge: MOUTH.miss, scene: 无, context: {{mood: tense, hp: 3}}}}"
    )

    def again(text: str, answer: Any) -> Result:
        return played_once(text, narrator=Scripted([answer], fill=True), mode="rerun")

    assert again(text, whole).difference is None
    assert differs(again(text, {}))[:3] == (1, "meta.fallback", [])
    assert differs(again(text.replace("hp: 3", "hp: 4"), whole))[1:3] == ("context.hp", 4)


def test_a_result_is_spelled_out_in_a_line():
    """Event loops do that with what they ran: with every session in it, that takes longer than the play."""
    assert repr(played_once(one(MISS))) == "<passed: x.replay.yaml::t>"


# What is kept of a failure.


def test_a_failed_rerun_is_kept_with_what_the_model_answered():
    """Played again without a model, it goes the same way."""
    recorded = f"{MISS}, narrate: {{mood: tense}}, expect: {{scene: 无, context: {{mood: tense, hp: 4}}}}"

    def again(text: str, answer: Any) -> None:
        result = played_once(text, narrator=Scripted([answer], fill=True), mode="rerun")
        (kept,), faults = read_replays("y.replay.yaml", failed_text(result))
        assert faults == []
        assert differs(asyncio.run(played(kept, den()))) == differs(result)

    again(one(recorded), whole)
    again(one(recorded.replace("hp: 4", "hp: 3")), {})


def test_a_failed_run_plays_the_same_again_whatever_its_seed():
    text = at() + (
        "steps:\n  - {choose: strike}\n  - {choose: strike, narrate: {mood: tense}, expect: {edge: MOUTH.none}}\n"
        "  - {choose: take}\n"
    )
    result = played_once(text)
    kept = failed_run(result)

    again = asyncio.run(played(kept, den()))

    assert len(kept.steps) == 2
    assert all(set(step.dice) == {"attack", "wound"} for step in kept.steps)
    assert differs(again) == differs(result)
    elsewhere = Replay(name="t", given=Given(machine="den", state="MOUTH", seed="another"), steps=kept.steps)
    assert differs(asyncio.run(played(elsewhere, den()))) == differs(result)
    (read,), findings = read_replays("y.replay.yaml", failed_text(result))
    assert (findings, bare(read)) == ([], bare(kept))


def test_a_failed_runs_file_has_a_name_of_its_own():
    names = [
        failed_name(f"replays/灯/{name}")
        for name in ("a.replay.yaml::x[zh]", "a.replay.yaml::x[en]", f"{'b' * 300}::y")
    ]

    assert len(set(names)) == 3
    assert all(len(name.encode()) < 255 and "/" not in name and "[" not in name for name in names)
    assert names[0].startswith("replays-灯-a-x-zh-")
    assert len(failed_name("灯" * 300).encode()) < 255
    assert failed_name("\udce9.replay.yaml::x").endswith(".replay.yaml")


def test_what_differs_in_control_characters_is_kept_all_the_same():
    result = played_once(one(MISS + ", expect: {edge: MOUTH.hit}"))
    assert result.difference is not None
    strange = structs.replace(result.difference, why="a\x00\x1b[2J\ud800灯")

    text = failed_text(structs.replace(result, difference=strange))

    assert "灯" in text.encode().decode()
    assert read_replays("y.replay.yaml", text)[1] == []


# The rules alone say the same.


def machine_of(name: str) -> Machine:
    if name == "den":
        return loader.load({"machines/den.yaml": DEN, "prompts/den/told.prompty": PROMPT})
    return shipped()[name] if name in SHIPPED else loader.load_project(ROOT / "tests" / "projects" / "lantern")[name]


PLAYS = 2 * SCALE
TURNS = 14
WORDS = {"int": 1, "float": 0.5, "bool": True, "str": "灯", "text": "芝麻开门🏮"}


def any_step(rng: random.Random, machine: Machine, offered: list[str]) -> ReplayStep:
    """Something that a player may do, and now and then may not."""
    roll = rng.random()
    learned = {"mood": rng.choice(["tense", "calm", "odd"]), "scene": "风停了。"}
    more: dict[str, Any] = {
        "narrate": rng.choice([None, None, {}, learned]),
        "after_ms": rng.choice([0, 0, 1, 1999, 30_000]),
        "constraints": {"language": rng.choice(["zh", "en"])} if rng.random() < 0.1 else {},
    }
    if offered and roll < 0.8:
        return ReplayStep(choose=Chosen(id=rng.randrange(len(offered)) + 1), **more)
    if roll < 0.85:
        return ReplayStep(choose=Chosen(key=rng.choice(["strike", "none"])), **more)
    event = rng.choice([*machine.definition.event_types, "NONE"])
    declared = machine.definition.event(event).payload
    payload = {name: WORDS[kind.rstrip("?")] for name, kind in declared.items() if rng.random() < 0.9}
    key = rng.choice([None, None, "k1", "k2"])
    return ReplayStep(send=event, with_=payload, key=key, times=1 if key is None else 2, **more)


def any_replay(rng: random.Random, machine: Machine) -> Replay:
    """A play that expects its own refusals, made step by step."""
    states = [name for name, state in machine.definition.states.items() if not state.is_final]
    given = Given(machine=machine.name, seed=str(rng.random()), state=rng.choice([None, *states]))
    replay = Replay(name="t", given=given, steps=())
    for _ in range(TURNS):
        came = played_by_rules(replay, machine).came
        session = came[-1].session if came else None
        begins = given.state is None and session is None
        offered = [each.key for each in session.offer] if session else ["?"]
        step = ReplayStep() if begins else any_step(rng, machine, offered)
        tried = Replay(name="t", given=given, steps=(*replay.steps, step))
        error = played_by_rules(tried, machine).came[-1].error
        steps = (*replay.steps, ReplayStep(**{**_fields(step), "expect": Expect(error=error)}))
        replay = Replay(name="t", given=given, steps=steps)
    return replay


def _fields(step: ReplayStep) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__struct_fields__}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, "lantern_house", "den"])
def test_the_rules_alone_come_to_what_a_server_comes_to(name: str):
    machine = machine_of(name)
    for number in range(PLAYS):
        replay = any_replay(random.Random(f"{name} {number}"), machine)  # noqa: S311 - no secret

        served, ruled = asyncio.run(played(replay, machine)), played_by_rules(replay, machine)

        assert served.difference == ruled.difference
        assert len(served.came) == TURNS
        for one_came, other in zip(served.came, ruled.came, strict=True):
            assert (one_came.error, one_came.is_replayed) == (other.error, other.is_replayed)
            assert as_lists(seen_of(one_came)) == as_lists(seen_of(other)), (number, one_came.number, one_came.step)


def as_lists(seen: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in seen.items()}
