"""The ladder: what passed stays, what was wrong costs its own part, and every turn ends in a narration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tasks import BOUNDS, GOOD, OFFER, task

from runtime import constraints
from runtime.constraints import Bounds
from runtime.errors import NarrationInvalid
from runtime.narrators import Narration, Task, answer, ladder, offline
from runtime.narrators.ladder import EMPTY, Draft
from runtime.session import Offer, Spent, Usage

MORE = {"narrator": "openai", "model": "m", "rungs": ("text",), "attempts": 1}
ZH = Bounds(language="zh", max_chars_scene=40, max_chars_option=8, forbidden_terms=("血腥",))
ZH_GOOD = {
    "scene": "灯砸中了它。那东西尖叫着缩回门后。🏮",
    "options": [{"key": "strike", "text": "再来一下"}, {"key": "flee", "text": "快逃"}],
}


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def received(value: Any, finish: str = "stop", before: Draft = EMPTY, asked: Task | None = None) -> Draft:
    return ladder.received(asked or task(), written(value), finish, before)


def concluded(value: Any, finish: str = "stop", asked: Task | None = None) -> Narration:
    return ladder.concluded(asked or task(), received(value, finish, asked=asked), **MORE)


def good(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


def options(**texts: str) -> list[dict[str, str]]:
    return [{"key": key, "text": text} for key, text in texts.items()]


def rules(draft: Draft) -> list[tuple[str, str]]:
    return [(each.path, each.rule) for each in draft.wrong]


# What stands.


def test_a_good_answer_is_whole_and_told_as_it_was_written():
    draft = received(GOOD)
    narration = ladder.concluded(task(), draft, **MORE, usage=Usage(7, 8, 9), spent=Spent(calls=1))

    assert (draft.is_whole, draft.wrong, draft.rungs) == (True, (), ())
    assert narration == Narration(
        narrator="openai",
        model="m",
        output={"scene": GOOD["scene"], "mood": "tense"},
        ai_state={"tone": "grim"},
        options={"strike": "Hit it again", "flee": "Run for it"},
        learned={"tone": "grim", "scene": GOOD["scene"], "mood": "tense"},
        ai_generated=True,
        rungs=("text",),
        usage=Usage(7, 8, 9),
        spent=Spent(calls=1),
    )


def test_what_passed_stays_beside_what_is_wrong():
    draft = received(good(scene="There is blood on the lamp.", options=options(strike="Hit it", flee="x" * 21)))

    assert draft.kept == {"mood": "tense", "ai_state": {"tone": "grim"}, "options": {"strike": "Hit it"}}
    assert draft.missing == ("scene", "options.flee")
    assert rules(draft) == [("options.flee", "length"), ("scene", "term")]
    assert draft.raw == {"scene": "There is blood on the lamp.", "options.flee": "x" * 21}


@pytest.mark.parametrize(
    ("told", "missing", "ignored"),
    [
        (options(strike="Hit it", flee="hit IT."), ("options.flee",), ()),
        (options(strike="Hit it"), ("options.flee",), ()),
        (options(strike="Hit it", fly="Fly"), ("options.flee",), ("options.fly",)),
        (options(strike="Hit it", flee="Run", fly="Fly", swim="Swim", sing="Sing"), (),
         ("options.fly", "options.swim", "options.sing")),
        ([*options(strike="Hit it", flee="Run"), *options(strike="Hit twice")], (), ("options.strike",)),
        ([], ("options.strike", "options.flee"), ()),
        ("Hit it", ("options.strike", "options.flee"), ()),
        ([1, {"text": "Hit it"}, {"key": ["strike"], "text": "Hit it"}, {"key": "flee", "text": 3}],
         ("options.strike", "options.flee"), ()),
    ],
    ids=["twins", "dropped", "renamed", "five", "twice", "none", "no list", "no options"],
)  # fmt: skip
def test_options_are_matched_by_key_and_none_is_invented(told, missing, ignored):
    draft = received(good(options=told))

    assert draft.missing == missing
    assert draft.ignored == ignored
    assert set(draft.kept.get("options", {})) == {"strike", "flee"} - {path.partition(".")[2] for path in missing}
    assert concluded(good(options=told)).options.keys() == {"strike", "flee"}


def test_what_has_to_be_read_past_is_a_rung():
    draft = received(f"Sure!\n```json\n{json.dumps(GOOD)}\n```")
    assert (draft.rungs, draft.kept, draft.is_whole) == (("parsed",), received(GOOD).kept, True)


@pytest.mark.parametrize("text", ["", "I'd rather not.", "[1]", '{"a": ' * 40])
def test_where_there_is_no_answer_what_stood_stays(text):
    before = received(good(scene=...))
    after = received(text, before=before)

    assert (after.kept, after.missing, after.raw) == (before.kept, before.missing, before.raw)
    assert after.wrong[0].path == ""
    assert received(text).missing == ("",)


def test_an_object_that_lacks_what_it_cant_be_without_is_dropped_whole():
    clue = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "where": {"type": "string"}},
        "required": ["name"],
    }
    asked = task(
        outputs={"type": "object", "properties": {"line": {"type": "string"}, "clue": clue}, "required": ["line"]}
    )
    half = received({"line": "Hush.", "clue": {"where": "in the well"}, "options": GOOD["options"]}, asked=asked)
    whole = received({"line": "Hush.", "clue": {"name": "key", "why": 3}, "options": GOOD["options"]}, asked=asked)

    assert (half.is_whole, half.kept.get("clue")) == (True, None)
    assert rules(half) == [("clue", "schema")]
    assert whole.kept["clue"] == {"name": "key"}
    assert whole.ignored == ("why",)


# Asking again.


def test_all_is_asked_for_again_where_nothing_stands():
    assert ladder.still_asked(task(), received("no")) == task().schema


def test_only_what_is_missing_or_wrong_is_asked_for_again():
    draft = received(good(scene="There is blood.", clue="灯灭了，四下里一片漆黑。", options=options(strike="Hit it")))
    schema = ladder.still_asked(task(), draft)

    assert set(schema["properties"]) == {"scene", "clue", "options"}
    assert schema["required"] == ["scene", "options"]
    assert schema["properties"]["options"]["items"]["properties"]["key"]["enum"] == ["flee"]
    assert schema["properties"]["options"]["maxItems"] == 1
    assert answer.constraints.validator_for(schema).is_valid({"scene": "A", "options": options(flee="Run")})

    closing = answer.closing(task(), answer.told_of(draft.wrong), schema)
    full = answer.closing(task())
    assert closing.startswith(full)
    assert "the rest of it stands" in closing
    rest = closing.removeprefix(full)
    assert '"key": "strike"' not in rest
    assert "scene: holds 'blood', which is forbidden" in rest
    assert "options.flee: is missing" in rest


def test_a_second_answer_fills_in_and_moves_nothing_that_stands():
    first = received(good(scene="There is blood.", options=options(strike="Hit it")))
    second = received(
        {"scene": "The lamp lands.", "mood": "calm", "options": options(strike="Wait", flee="Run")}, before=first
    )

    assert second.is_whole
    assert second.kept == {
        "scene": "The lamp lands.",
        "mood": "tense",
        "ai_state": {"tone": "grim"},
        "options": {"strike": "Hit it", "flee": "Run"},
    }
    assert ladder.concluded(task(), second, **MORE).learned["mood"] == "tense"


def test_a_second_option_in_the_words_of_one_that_stands_is_the_wrong_one():
    first = received(good(options=options(strike="Run")))
    second = received({"options": options(flee="run!")}, before=first)

    assert second.missing == ("options.flee",)
    assert second.kept["options"] == {"strike": "Run"}


def test_nested_outputs_are_asked_for_by_their_leaves():
    asked = task(outputs={"opening": {"scene": "scene", "premise": "text"}, "epilogue": "text"})
    draft = received(
        {"opening": {"premise": "It rains."}, "epilogue": "So it ends.", "options": GOOD["options"]}, asked=asked
    )

    assert draft.missing == ("opening.scene",)
    schema = ladder.still_asked(asked, draft)
    assert set(schema["properties"]) == {"opening"}
    assert set(schema["properties"]["opening"]["properties"]) == {"scene"}
    after = received({"opening": {"scene": "A lamp."}}, before=draft, asked=asked)
    assert after.kept["opening"] == {"premise": "It rains.", "scene": "A lamp."}


# Mending.


@pytest.mark.parametrize(
    ("scene", "mended"),
    [
        ("The lamp lands. It falls. " * 4, ("The lamp lands. It falls. " * 3).strip()),
        ("The lamp lands, and it folds. There is blood on it. Then all is still.",
         "The lamp lands, and it folds. Then all is still."),
        ("The lamp\u0000 lands.\u001b", "The lamp lands."),
    ],
    ids=["too long", "a term", "controls"],
)  # fmt: skip
def test_a_text_is_mended_by_taking_out_what_cant_stay(scene, mended):
    narration = concluded(good(scene=scene))

    assert narration.output["scene"] == mended
    assert narration.rungs == ("text", "mended")
    assert (narration.fallback, narration.ai_generated) == ((), True)
    assert "scene" not in narration.learned


def test_a_chinese_text_is_mended_by_sentences():
    asked = task(bounds=ZH)
    long = concluded({**ZH_GOOD, "scene": "灯灭了。" * 20}, asked=asked)
    term = concluded({**ZH_GOOD, "scene": "灯砸中了它，它缩回门后。好一片血·腥。四下里静了下来。"}, asked=asked)

    assert long.output["scene"] == "灯灭了。" * 10
    assert term.output["scene"] == "灯砸中了它，它缩回门后。四下里静了下来。"


@pytest.mark.parametrize("finish", ["length", "cut", "stop"])
def test_of_a_text_that_breaks_off_the_whole_sentences_are_told(finish):
    text = written(ZH_GOOD)[: written(ZH_GOOD).index("缩回")]
    draft = received(text, finish, asked=task(bounds=ZH))
    narration = ladder.concluded(task(bounds=ZH), draft, **MORE)

    assert ("", "length") in rules(draft) or finish != "length"
    assert narration.output["scene"] == "灯砸中了它。"
    assert set(narration.fallback) >= {"options.strike", "options.flee"}
    assert narration.rungs == ("text", "mended", "offline")


def test_of_what_a_provider_filtered_nothing_stands():
    draft = received(GOOD, "content_filter")
    assert (draft.kept, draft.missing) == ({}, ("",))


def test_a_wrong_output_that_nobody_needs_is_mended_or_dropped():
    long = concluded(good(clue="A key hangs there. " * 40))
    foreign = concluded(good(clue="灯灭了，四下里一片漆黑。", danger="high"))

    assert long.output["clue"].startswith("A key hangs there. ")
    assert len(long.output["clue"]) <= BOUNDS.max_chars_text
    assert "clue" not in long.learned
    assert received(good(clue="灯灭了，四下里一片漆黑。")).is_whole
    assert foreign.output.keys() == {"scene", "mood"}
    assert foreign.warnings == ("dropped: clue, danger",)
    assert foreign.rungs == ("text", "mended")


# Told offline.


def test_what_cant_be_mended_is_told_offline_and_marked_by_path():
    narration = concluded(
        good(scene="灯砸中了它，那东西发出一声尖啸。", options=options(strike="Hit it", flee="血" * 5))
    )

    assert narration.fallback[0] == "scene"
    assert set(narration.fallback) == {"scene", "options.flee"}
    assert narration.options == {"strike": "Hit it", "flee": "Run for the door"}
    assert narration.output["mood"] == "tense"
    assert narration.learned == {"mood": "tense", "tone": "grim"}
    assert (narration.narrator, narration.model, narration.ai_generated) == ("openai", "m", True)
    assert narration.rungs == ("text", "offline")
    assert narration.said


def test_where_nothing_of_the_model_stands_the_narration_is_offlines_own():
    narration = concluded("no")

    assert narration == replace(offline.tell(task()), fallback=("*",), rungs=("text", "offline"), attempts=1)
    assert (narration.narrator, narration.model, narration.ai_generated, narration.learned) == (
        "offline",
        None,
        False,
        {},
    )


def test_where_options_alone_are_missing_what_was_left_out_stays_out():
    narration = concluded(good(mood=..., ai_state=..., options=[]))

    assert narration.output == {"scene": GOOD["scene"]}
    assert narration.ai_state == {}
    assert narration.fallback == ("options.strike", "options.flee")


def test_an_offline_option_gives_way_to_the_same_words_of_a_model():
    narration = concluded(good(options=options(strike="Run for the door!")))

    assert narration.options["strike"] == "Run for the door!"
    assert constraints.same_words(narration.options["flee"]) != constraints.same_words("Run for the door!")


def test_where_the_machine_refuses_the_error_says_rules_and_places_alone():
    asked = task(on_failure="refuse")
    with pytest.raises(NarrationInvalid) as refused:
        ladder.concluded(
            asked, received(good(scene="blood"), asked=asked), **MORE, usage=Usage(1, 2, 3), spent=Spent(calls=2)
        )

    assert "scene (term)" in refused.value.message
    assert "blood" not in refused.value.message
    assert refused.value.facts == {"rungs": ("text",), "attempts": 1}
    assert (vars(refused.value)["usage"], vars(refused.value)["spent"]) == (Usage(1, 2, 3), Spent(calls=2))


def test_where_the_machine_refuses_mending_still_counts():
    asked = task(on_failure="refuse")
    assert concluded(good(scene="The lamp lands. " * 9), asked=asked).rungs == ("text", "mended")


# Whatever comes, something that may be told comes out of it.

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "The lamp lands.", "The lamp lands. " * 9, "There is blood. It falls.", "b l o o d", "Hit it", "hit it!",
        "灯灭了。", "灯灭了。" * 30, "血腥的一幕。灯灭了，四下静了。", "血。腥", "再来一下", "\u0000灯",
        "🏮" * 50, "", "  ",
    ]
)  # fmt: skip
ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXTS
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, TEXTS, max_size=2)
)
ITEMS = st.fixed_dictionaries(
    {}, optional={"key": st.sampled_from(["strike", "flee", "fly"]) | ODD, "text": TEXTS | ODD}
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "scene": TEXTS | ODD, "mood": TEXTS | ODD, "clue": TEXTS | ODD, "danger": st.integers() | ODD,
        "ai_state": st.dictionaries(st.sampled_from(["tone", "other"]), TEXTS | ODD) | ODD,
        "options": st.lists(ITEMS | ODD, max_size=5) | ODD, "routing": ODD,
    },
)  # fmt: skip
ENDINGS = st.sampled_from(["stop", "length", "content_filter", "cut"])


def may_be_told(asked: Task, narration: Narration) -> None:
    told = [{"key": key, "text": text} for key, text in narration.options.items()]
    whole = {**narration.output, "ai_state": narration.ai_state, "options": told}
    validator = constraints.validator_for(asked.schema)
    assert constraints.breaches(whole, validator, asked.prompt, asked.offer, asked.bounds) == []


@pytest.mark.slow
@given(st.lists(st.tuples(ANSWERS.map(written) | TEXTS, ENDINGS, st.integers(0, 400)), max_size=3), st.booleans())
def test_any_answers_end_in_a_narration_that_may_be_told(answers, is_chinese):
    asked = task(bounds=ZH if is_chinese else BOUNDS)
    draft = EMPTY
    for text, finish, cut in answers:
        before, schema = draft, ladder.still_asked(asked, draft)
        draft = ladder.received(asked, text[:cut] if finish == "cut" else text, finish, draft)
        assert before.parts.items() <= draft.parts.items()
        assert schema["properties"].keys() <= asked.schema["properties"].keys()

    narration = ladder.concluded(asked, draft, **MORE)

    may_be_told(asked, narration)
    assert list(narration.options) == ["strike", "flee"]
    assert narration.ai_generated == (narration.fallback != ("*",)) == (narration.model == "m")
    for path in narration.learned:
        assert path not in narration.fallback


def test_every_way_of_being_wrong_costs_its_own_part_alone():
    """The model's other parts are told as they were written, whatever is wrong with one."""
    for bad in ("灯砸中了它，那东西发出一声尖啸。", 7, None, "", "blood", ["a"], {"a": 1}):
        narration = concluded(good(scene=bad))
        assert narration.options == {"strike": "Hit it again", "flee": "Run for it"}, bad
        assert narration.fallback[0] == "scene", bad


def test_an_offer_of_one_and_of_none_is_told():
    one = (Offer(1, "Go on", "COMBAT", key="continue"),)
    assert concluded(good(options=[]), asked=task(offer=one)).options == {"continue": "Continue"}
    assert concluded(good(options=...), asked=task(offer=())).options == {}
    assert OFFER


# What a model may make up, and what it may do to us.

PLACES = {
    "type": "object",
    "properties": {
        "line": {"type": "string"},
        "npcs": {"type": "object", "additionalProperties": {"type": "string"}},
        "room": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": True,
        },
        "count": {"type": "integer"},
        "share": {"type": "number"},
    },
    "required": ["line"],
}
LINE = {"line": "Hush, it hears you.", "options": GOOD["options"]}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("blood drinker", "term"),
        ("bl\x00ob", "schema"),
        ("\x1b[2Jtall", "schema"),
        ("\ufdd0\ufdd2", "schema"),
        ("x" * 201, "length"),
        ("x" * 200_000, "length"),
    ],
)
def test_a_key_that_a_model_makes_up_is_judged_as_a_text_is(name, rule):
    asked = task(outputs=PLACES)
    leaf = received({**LINE, "npcs": {"Mara": "Tall.", name: "He is tall."}}, asked=asked)
    branch = received({**LINE, "room": {"name": "Attic", name: "Dark."}}, asked=asked)

    assert (leaf.is_whole, branch.is_whole) == (True, True)
    assert ("npcs" in leaf.kept, branch.kept.get("room")) == (False, {"name": "Attic"})
    assert {rule} <= {each.rule for each in leaf.wrong} & {each.rule for each in branch.wrong}
    assert not any(name in said for said in answer.told_of((*leaf.wrong, *branch.wrong)))
    assert received({**LINE, "npcs": {"Mara": "Tall."}}, asked=asked).kept["npcs"] == {"Mara": "Tall."}


def test_a_name_that_a_designer_declared_is_no_ones_to_judge():
    outputs = {"type": "object", "properties": {"blood": {"type": "array", "items": {"type": "object", "properties": {
        "blood type": {"type": "string"}}}}}, "required": ["blood"]}  # fmt: skip
    asked = task(outputs=outputs)
    assert received({"blood": [{"blood type": "A"}], "options": GOOD["options"]}, asked=asked).is_whole


def test_a_name_with_a_dot_takes_no_other_parts_place():
    draft = received(
        {**LINE, "room": {"name": "Attic", "name.first": "boo", "cold": "yes"}}, asked=task(outputs=PLACES)
    )
    assert (draft.kept["room"], draft.ignored) == ({"name": "Attic", "cold": "yes"}, ("name.first",))


@pytest.mark.parametrize("name", ["count", "share"])
@pytest.mark.parametrize("number", [2**53, -(2**53), 10**390, 1e300])
def test_a_number_that_readers_of_json_would_not_agree_on_is_left_out(name, number):
    draft = received({**LINE, name: number}, asked=task(outputs=PLACES))
    assert (draft.is_whole, name in draft.kept) == (True, False)
    assert rules(draft) == [(name, "schema")]
    assert received({**LINE, name: 2**53 - 1}, asked=task(outputs=PLACES)).kept[name] == 2**53 - 1


def test_a_crowd_of_keys_costs_no_more_than_their_number():
    asked = task(outputs=PLACES)
    many = {f"key_{index}": "blood" for index in range(5_000)}
    draft = received({**LINE, **many, "room": {"name": "Attic", **many}}, asked=asked)
    narration = ladder.concluded(asked, draft, **MORE)

    assert (draft.kept["room"], len(draft.ignored)) == ({"name": "Attic"}, 5_000)
    assert narration.warnings[0].endswith("key_7, 4992 more")
    assert narration.output == {"line": LINE["line"], "room": {"name": "Attic"}}


@pytest.mark.parametrize(
    "text",
    [
        '{"options":[{"key":"strike"}],"options":{"k":{?',
        '{"opening":{"scene":"It is dark.","scene.y":"boo"}}',
        json.dumps(good(scene="It deals fıve points of damage.")),
        json.dumps(good(scene="no " * 80_000)),
    ],
)
def test_what_a_model_writes_ends_in_a_narration(text):
    scene = {"type": "string"}
    opening = {"type": "object", "properties": {"scene": scene}, "additionalProperties": True}
    outputs = {"type": "object", "properties": {"scene": scene, "opening": opening}, "required": ["scene"]}
    for asked in (task(), task(outputs=outputs)):
        told = ladder.concluded(asked, received(text, "cut", asked=asked), **MORE)
        assert told.options.keys() == {"strike", "flee"}


@pytest.mark.parametrize("place", ["joined", "held"])
def test_where_judging_fails_the_turn_is_told_offline_and_that_is_noted(place, monkeypatch, caplog):
    def fail(*_):
        raise KeyError("a word of the answer")

    draft = received(GOOD)
    monkeypatch.setattr(answer, place, fail)
    unread = received(GOOD)
    assert (unread.missing, unread.wrong[0].path) == (("",), "")
    narration = ladder.concluded(task(), unread if place == "joined" else draft, **MORE)

    assert (narration.fallback, narration.ai_generated, narration.rungs[-1]) == (("*",), False, "offline")
    assert "KeyError in fail" in caplog.text
    assert "a word of the answer" not in caplog.text
    with pytest.raises(NarrationInvalid):
        ladder.concluded(task(on_failure="refuse"), unread, **MORE)


def test_an_options_key_that_was_cut_off_is_not_named():
    text = json.dumps(good())
    draft = received(text[: text.index("flee") + 2], "cut")
    assert (draft.ignored, "options.strike" in draft.parts) == ((), True)


# What the story remembers is in the session's language.


@pytest.mark.parametrize("wrong", ["他走进了黑暗的大厅，灯灭了。", "", " \n", "blood on the wall"])
def test_what_a_model_remembers_keeps_to_the_rules_or_is_dropped(wrong):
    draft = received(good(ai_state={"tone": wrong}))
    narration = ladder.concluded(task(), draft, **MORE)

    assert (draft.is_whole, rules(draft)[0][0]) == (True, "ai_state.tone")
    assert (narration.ai_state, "tone" in narration.learned, narration.fallback) == ({}, False, ())
    assert narration.warnings == ("dropped: ai_state.tone",)


@pytest.mark.parametrize("tone", ["grim", "north_gate_key_7", "阴森", "Lantern Light"])
def test_a_name_is_of_no_language(tone):
    asked = task(bounds=ZH)
    assert received({**ZH_GOOD, "ai_state": {"tone": tone}}, asked=asked).kept["ai_state"] == {"tone": tone}


def test_a_free_str_keeps_to_the_language_and_a_spelled_one_is_data():
    schema = {
        "free": {"type": "string"},
        "one": {"enum": ["黑暗的大厅里"]},
        "code": {"type": "string", "pattern": "^.+$"},
    }
    asked = task(outputs={"type": "object", "properties": schema, "required": ["free"]})
    zh = "黑暗的大厅里"
    draft = received({"free": zh, "one": zh, "code": zh, "options": GOOD["options"]}, asked=asked)

    assert (rules(draft), draft.missing) == ([("free", "language")], ("free",))
    assert (draft.kept["one"], draft.kept["code"]) == (zh, zh)
