"""Lengths, forbidden terms, languages, and the judging of a model's whole answer."""

from __future__ import annotations

import copy
import json
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from runtime.constraints import (
    Bounds,
    answer_schema,
    bounds_of,
    breaches,
    cut,
    find_term,
    fit,
    mask,
    satisfiable,
    speaks,
    terms_of,
    text_breaches,
    text_paths,
    validator_for,
)
from runtime.cutting import sentences
from runtime.facts import Facts, Quantity
from runtime.loader import digest_of, load, load_kept
from runtime.prompt import parse_prompt
from runtime.session import Constraints, Offer
from runtime.terms import MARKS

LETTERS = ["a", "B", "字", "夜", " ", "，", "。", "！", "”", ".", "\n", "각"]
CLUSTERS = ["e\u0301", "❤️", "1️⃣", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪", "🇯🇵"]
"""What a reader sees as one letter, though it is several code points."""
TEXTS = st.lists(st.sampled_from(LETTERS + CLUSTERS), max_size=60)
TERMS = st.lists(st.text(min_size=1, max_size=8), max_size=6).map(tuple)


# --- cutting ---


@pytest.mark.slow
@given(st.text(), st.integers(0, 60))
def test_a_cut_text_is_never_longer_than_allowed(text, max_chars):
    assert len(cut(text, max_chars)) <= max_chars


@given(st.text(min_size=1), st.integers(2, 60))
def test_a_cut_text_is_never_empty(text, max_chars):
    assert cut(text, max_chars) != ""


@given(st.text(), st.integers(0, 60))
def test_a_cut_text_is_the_texts_beginning_up_to_the_mark(text, max_chars):
    result = cut(text, max_chars)

    assert text.startswith(result) or (result.endswith("…") and text.startswith(result[:-1]))


@given(TEXTS, st.integers(2, 60))
def test_no_emoji_flag_or_accent_is_cut_apart(letters, max_chars):
    text = "".join(letters)
    beginnings = {"".join(letters[:count]) for count in range(len(letters) + 1)}

    result = cut(text, max_chars)

    assert (result if text.startswith(result) else result.removesuffix("…")) in beginnings


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("短。", 2, "短。"),
        ("灯灭了。门开了。你走进去", 9, "灯灭了。门开了。"),
        ("他说：“走吧。”门便开了，没有人", 9, "他说：“走吧。”"),
        ("他说：“走吧。”门便开了，没有人", 7, "他说：“走吧…"),
        ("The lamp dies. The door opens wide", 20, "The lamp dies."),
        ('"Go." It went on and on', 6, '"Go."'),
        ("It costs 3.50 at the door, they say", 14, "It costs 3.50…"),
        ("A long corridor without an end", 18, "A long corridor…"),
        ("推开那扇吱呀作响的门，走进长长的走廊里去", 14, "推开那扇吱呀作响的门…"),
        ("推开那扇吱呀作响的旧木门走进去", 8, "推开那扇吱呀作…"),
        ("Donaudampfschifffahrt", 8, "Donauda…"),
        ("a 👨‍👩‍👧‍👦 b", 5, "a…"),
        ("👨‍👩‍👧‍👦👨‍👩‍👧‍👦", 3, "…"),
        ("🇩🇪🇯🇵🇫🇷", 4, "🇩🇪…"),
        ("灯……把灯拿近些，再近些", 5, "灯……"),
    ],
)
def test_a_cut_ends_where_a_reader_would_pause(text, max_chars, expected):
    assert cut(text, max_chars) == expected


# --- forbidden terms ---


@pytest.mark.parametrize(
    "text",
    [
        "掷骰子吧",
        "骰\u200b子",
        "骰\u2060\ufeff子",
        "ＤＩＣＥ",
        "a Dice!",
        "di\u00adce",
        "ⓓⓘⓒⓔ",
        "掷dice吧",
        "d\u200dice",
        "骰︀子",
    ],
)
def test_a_term_is_found_however_it_is_spelled(text):
    assert find_term(text, ("骰子", "dice")) in {"骰子", "dice"}


@pytest.mark.parametrize("text", ["dicey", "paradice", "dicé", "骰", "子骰", "", "d ice", "di ce"])
def test_a_latin_term_is_a_whole_word(text):
    assert find_term(text, ("骰子", "dice")) is None


def test_accents_are_seen_whichever_way_they_are_written():
    assert find_term("un cafe\u0301 noir", ("café",)) == "café"
    assert find_term("un caf\u00e9 noir", ("cafe\u0301",)) == "cafe\u0301"
    assert find_term("un café noir", ("cafe",)) is None


def test_the_first_term_in_their_order_is_named_as_it_was_given():
    assert find_term("ab CD", ("Cd", "AB")) == "Cd"


def test_a_term_that_is_nothing_is_found_nowhere():
    assert find_term("a b", ("\u200b", " ")) is None


@given(st.text(), st.text(min_size=1, max_size=12), st.text())
def test_a_term_is_found_in_any_case_and_width_between_blanks(before, term, after):
    assume(find_term(term, (term,)) is not None)

    wide = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in term)

    assert find_term(f"{before} {term} {after}", (term,)) == term
    assert find_term(f"{before} {wide} {after}", (term,)) is not None


@given(st.text(), TERMS)
def test_masking_leaves_no_term(text, terms):
    assert find_term(mask(text, terms), terms) is None


@given(
    st.text(alphabet="abAB骰子 ＊*…x_-", max_size=30),
    st.lists(st.text("abAB骰子＊*", min_size=1, max_size=3), max_size=4),
)
def test_masking_keeps_the_length_while_a_mark_is_free(text, terms):
    masked = mask(text, tuple(terms))

    assert len(masked) == len(text)
    assert find_term(masked, tuple(terms)) is None


def test_masking_leaves_a_text_without_terms_as_it_is():
    assert mask("ＡＢ e\u0301 \u200b灯", ("骰子",)) == "ＡＢ e\u0301 \u200b灯"


@pytest.mark.parametrize(
    ("text", "terms", "expected"),
    [
        ("掷骰子吧", ("骰子",), "掷＊＊吧"),
        ("roll the dice!", ("dice",), "roll the ****!"),
        ("骰\u200b子", ("骰子",), "＊＊＊"),
        ("骰子", ("骰子", "*"), "□□"),
        ("ab", ("ab", "*"), "□□"),
        ("ﬁn", ("fin",), "＊*"),
    ],
)
def test_a_mask_covers_mark_for_letter(text, terms, expected):
    assert mask(text, terms) == expected


def test_where_every_mark_is_forbidden_terms_are_taken_out():
    assert mask("a骰子b", (*MARKS, "骰子")) == "ab"


@given(st.text(), st.integers(2, 40), TERMS)
def test_a_fitted_text_keeps_to_length_and_terms(text, max_chars, terms):
    fitted, changed = fit(text, max_chars, terms)

    assert len(fitted) <= max_chars
    assert find_term(fitted, terms) is None
    assert changed == (fitted != text)


# --- languages ---


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("你推开门，走廊尽头有光。", "zh", True),
        ("你遇见了 Alexander Hamilton，他举着灯。", "zh", True),
        ("Maria！", "zh", True),
        ("……3 × 4 = 12 🔥", "zh", True),
        ("You open the door to the attic.", "zh", False),
        ("门 and then the corridor goes on and on", "zh", False),
        ("これはにほんごのぶんしょうです", "zh", False),
        ("Это дверь", "zh", False),
        ("你推开门", "zh-Hans", True),
        ("你推開門", "zh-TW", True),
        ("Open it", "zh-TW", True),
        ("You open the door.", "en", True),
        ("The café’s naïve façade… “déjà vu” – 12 °C 🔥", "en-US", True),
        ("The thing, 恶鬼, waits.", "en", False),
        ("你推开门", "en", False),
        ("上楼", "en", False),
        ("Это дверь", "en", False),
        ("", "en", True),
        ("", "zh", True),
        ("Это дверь", "ru", True),
        ("你遇见了 Alexander Hamilton 和 John Smith，他们举着灯。", "zh", True),
        ("Мария пришла, 她笑了笑，走进了屋子。", "zh", True),
        ("“I will come back to you,” 她低声说，转身走了。", "zh", True),
        ("「さあ」她笑着说了一句日语。", "zh", True),
        ("ＨＰ１２", "zh", True),
        ("①②③ Ⅻ", "zh", True),
        ("扉を開けると、そこには誰もいなかった。", "zh", False),
        ("彼女は扉を開く", "zh", False),
        ("문을 열자 아무도 없었다", "zh", False),
        ("ＴＨＥ ＤＯＯＲ ＯＰＥＮＳ ＮＯＷ", "zh", False),
        ("Yоu ореn thе dооr", "zh", False),
        ("مرحبا بك", "zh", False),
        ("The 灯 burns low.", "en", True),
        ("门", "en", False),
        ("🔥🔥", "en", True),
        ("12:30", "en", True),
        ("π ≈ 3", "en", True),
        ("He said “да”.", "en", True),
        ("Ｔｈｅ　ｄｏｏｒ", "en", True),
        ("Тhе dооr ореns slоwlу", "en", False),
        ("문을 열자", "en", False),
        ("ไทย", "en", False),
    ],
)
def test_a_text_speaks_a_language_by_its_script(text, language, expected):
    assert speaks(text, language) is expected


# --- bounds ---


MACHINE = """
initial: {event: INIT, target: A}
title: {zh: 宅, en: The house}
language: zh
limits: {scene_chars: {en: 200}}
states:
  A: {label: {zh: 甲, en: A}, on: {B: B}}
  B: {type: final, label: {zh: 乙, en: B}}
"""


def machine(**files):
    """The tiny machine with more files, by their names in its prompts folder (`.` is `__`)."""
    own = {f"prompts/tiny/{name.replace('__', '.')}": text for name, text in files.items()}
    return load({"machines/tiny.yaml": f"machine: tiny{MACHINE}", **own})


def test_bounds_are_the_machines_where_the_session_names_none():
    bounds = bounds_of(machine(), Constraints("zh", forbidden_terms=("骰子",)))

    assert bounds == Bounds(language="zh", max_chars_scene=220, max_chars_option=14, forbidden_terms=("骰子",))


def test_a_session_may_lower_and_raise_the_limits():
    bounds = bounds_of(machine(), Constraints(language="en", max_chars_scene=1000, max_chars_option=2))

    assert (bounds.max_chars_scene, bounds.max_chars_option) == (1000, 2)
    assert bounds_of(machine(), Constraints("en")).max_chars_scene == 200


def test_a_rating_adds_its_packs_terms_behind_the_sessions_own():
    own = machine(rating__zh__yaml="G: [哭]\nPG: [血]\nR: [骰子, 杀]\n")

    bounds = bounds_of(own, Constraints("zh", content_rating="PG", forbidden_terms=("骰子",)))

    assert bounds.forbidden_terms == ("骰子", "血", "杀")
    assert bounds.rated_terms == ("血", "杀")
    assert terms_of(own, Constraints("zh", content_rating="R")) == ("骰子", "杀")
    assert terms_of(own, Constraints("zh", content_rating="G")) == ("哭", "血", "骰子", "杀")
    assert terms_of(own, Constraints("zh")) == ()


def test_a_machines_own_pack_takes_the_place_of_ours_in_its_language_alone():
    own = machine(rating__zh__yaml="PG: [血]\n")

    assert terms_of(own, Constraints("zh", content_rating="PG")) == ("血",)
    assert terms_of(own, Constraints("zh-TW", content_rating="PG")) == ("血",)
    assert "shit" in terms_of(own, Constraints("en", content_rating="PG"))
    assert "血腥" in terms_of(machine(), Constraints("zh", content_rating="PG"))
    assert "血腥" not in terms_of(machine(), Constraints("zh", content_rating="PG13"))


def test_a_digest_covers_a_machines_own_packs_and_what_was_kept_has_them():
    plain, own = machine(), machine(rating__zh__yaml="PG: [血]\n")
    other = machine(rating__zh__yaml="PG: [骨]\n")

    assert len({plain.digest, own.digest, other.digest}) == 3
    assert plain.digest == digest_of({"machines/tiny.yaml": f"machine: tiny{MACHINE}"})
    assert terms_of(load_kept(own.files), Constraints("zh", content_rating="PG")) == ("血",)


def test_bounds_can_be_met_unless_every_mark_is_forbidden():
    base = {"language": "zh", "max_chars_scene": 20, "max_chars_option": 2}

    assert satisfiable(Bounds(**base, forbidden_terms=MARKS[:-1])) is None
    assert "every mark" in satisfiable(Bounds(**base, forbidden_terms=MARKS))


# --- a model's answer ---

BOUNDS = Bounds(language="zh", max_chars_scene=20, max_chars_option=5, forbidden_terms=("骰子", "dice"))
OFFER = (Offer(1, "上楼", "DECISION", key="stairs"), Offer(2, "冒险", "DECISION", kind="bold"))
PROMPT, _ = parse_prompt(
    "turn",
    None,
    "turn.prompty",
    {
        "outputs": {
            "scene": "scene",
            "decision": {"text": "text"},
            "mood": "str?",
            "n": "int?",
            "name": {"type": "string", "maxLength": 3},
            "tags": {"type": "array", "items": {"type": "string"}},
        }
    },
    "user:\nGo.",
    1,
    {},
)
SCHEMA = answer_schema(PROMPT, ("title", "tone"), OFFER, BOUNDS)
VALIDATOR = validator_for(SCHEMA)
GOOD = {
    "scene": "灯灭了。",
    "decision": {"text": "你走上楼。"},
    "name": "abc",
    "tags": ["x"],
    "ai_state": {"title": "凶宅"},
    "options": [{"key": "bold", "text": "闯进去"}, {"key": "stairs", "text": "走上楼"}],
}


def broken(**changes):
    return {**copy.deepcopy(GOOD), **changes}


def found(answer):
    return [(breach.path, breach.rule) for breach in breaches(answer, VALIDATOR, PROMPT, OFFER, BOUNDS)]


def test_a_good_answer_has_no_breach():
    assert found(GOOD) == []


def test_the_schema_writes_the_sessions_limits_in():
    properties = SCHEMA["properties"]

    assert properties["scene"] == {"type": "string", "minLength": 1, "maxLength": 20}
    assert properties["decision"]["properties"]["text"]["maxLength"] == 600
    assert properties["mood"]["maxLength"] == 200
    assert properties["name"]["maxLength"] == 3
    assert properties["ai_state"]["properties"]["tone"]["maxLength"] == 300
    assert properties["options"]["items"]["properties"]["text"]["maxLength"] == 5


def test_the_schema_names_the_offered_keys_and_kinds_in_their_order():
    options = SCHEMA["properties"]["options"]

    assert options["items"]["properties"]["key"]["enum"] == ["stairs", "bold"]
    assert (options["minItems"], options["maxItems"]) == (2, 2)
    assert SCHEMA["required"] == ["scene", "decision", "name", "tags", "options"]


def test_the_schema_leaves_out_what_there_is_none_of():
    assert set(answer_schema(PROMPT, (), (), BOUNDS)["properties"]) == set(PROMPT.outputs["properties"])


def test_the_prompts_own_schema_is_left_as_it_was():
    before = json.dumps(PROMPT.outputs)
    answer_schema(PROMPT, ("title",), OFFER, BOUNDS)

    assert json.dumps(PROMPT.outputs) == before


def test_equal_schemas_share_one_validator():
    assert validator_for(copy.deepcopy(SCHEMA)) is VALIDATOR


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scene": "灯" * 21}, [("scene", "length")]),
        ({"scene": ""}, [("scene", "schema")]),
        ({"scene": " \u200b\n"}, [("scene", "schema")]),
        ({"scene": 3}, [("scene", "schema")]),
        ({"more": 1}, [("", "schema")]),
        ({"n": "x"}, [("n", "schema")]),
        ({"scene": "他掷骰\u200b子。"}, [("scene", "term")]),
        ({"ai_state": {"title": "DICE"}}, [("ai_state.title", "term")]),
        ({"ai_state": {"plot": "x"}}, [("ai_state", "schema")]),
        ({"ai_state": {"title": "x" * 301}}, [("ai_state.title", "length")]),
        ({"tags": ["dice"]}, [("tags.0", "term")]),
        ({"tags": ["x" * 601]}, [("tags.0", "length")]),
        ({"scene": "The lamp goes out."}, [("scene", "language")]),
        ({"decision": {"text": "You climb the long stairs."}}, [("decision.text", "language")]),
        ({"name": "cat"}, []),
        ({"options": [{"key": "stairs", "text": "走上楼"}]}, [("options", "options")]),
        ({"options": [{"key": "stairs", "text": "走"}, {"key": "stairs", "text": "上"}]}, [("options", "options")]),
        ({"options": [{"key": "stairs", "text": "走"}, {"key": "fly", "text": "飞"}]}, [("options", "options")]),
        (
            {"options": [{"key": "stairs", "text": "走"}, {"key": "bold", "text": "走 "}]},
            [("options.1.text", "options")],
        ),
        (
            {"options": [{"key": "stairs", "text": "走上楼去看看"}, {"key": "bold", "text": "闯"}]},
            [("options.0.text", "length")],
        ),
        ({"options": "none"}, [("options", "schema")]),
        ({"options": [1, None]}, [("options", "options"), ("options.0", "schema"), ("options.1", "schema")]),
    ],
)
def test_each_breach_is_named_by_path_and_rule(changes, expected):
    assert found(broken(**changes)) == expected


def test_a_rated_term_a_contradiction_and_options_alike_but_for_their_marks_are_breaches():
    rated = replace(
        BOUNDS,
        forbidden_terms=("骰子", "血"),
        rated_terms=("血",),
        content_rating="PG",
        facts=Facts((Quantity(("生命",), frozenset({3.0})),)),
    )
    options = [{"key": "stairs", "text": "走上楼"}, {"key": "bold", "text": "走，上楼！"}]
    answer = broken(scene="一滴血。", decision={"text": "生命只剩 7。"}, options=options)

    told = breaches(answer, VALIDATOR, PROMPT, OFFER, rated)

    assert [(breach.path, breach.rule) for breach in told] == [
        ("decision.text", "facts"),
        ("options.1.text", "options"),
        ("scene", "rating"),
    ]
    assert "rating PG" in told[-1].message


def test_a_beginning_of_a_text_is_judged_as_far_as_it_goes():
    def rules(text):
        return [breach.rule for breach in text_breaches("scene", text, PROMPT, BOUNDS)]

    assert rules("灯灭了。") == []
    assert rules("他掷骰子。") == ["term"]
    assert rules("灯" * 21) == ["length"]
    assert rules("The lamp goes out.") == ["language"]


def test_all_breaches_are_found_at_once():
    answer = broken(scene="dice " * 9, options=[])

    assert found(answer) == [("options", "options"), ("scene", "language"), ("scene", "length"), ("scene", "term")]


def test_a_missing_part_is_a_breach_of_the_whole():
    assert found({name: value for name, value in GOOD.items() if name != "options"}) == [("", "schema")]


def test_a_breach_repeats_no_text_of_the_answer_but_the_term():
    (breach, *_) = breaches(broken(n="a player's words"), VALIDATOR, PROMPT, OFFER, BOUNDS)

    assert "a player's words" not in breach.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@pytest.mark.slow
@given(JSON | st.fixed_dictionaries({"options": JSON, "scene": JSON, "ai_state": JSON}))
def test_an_answer_of_any_shape_is_judged_and_never_crashes(answer):
    assert found(answer) != []


def test_texts_are_named_by_dotted_paths_without_the_options_keys():
    assert list(text_paths(GOOD)) == [
        ("scene", "灯灭了。"),
        ("decision.text", "你走上楼。"),
        ("name", "abc"),
        ("tags.0", "x"),
        ("ai_state.title", "凶宅"),
        ("options.0.text", "闯进去"),
        ("options.1.text", "走上楼"),
    ]


def test_marks_are_visible_single_letters():
    assert all(len(mark) == 1 and unicodedata.category(mark)[0] in "PSL" for mark in MARKS)


def test_a_free_option_is_named_by_its_kind():
    options = answer_schema(PROMPT, (), (Offer(1, "冒险", "DECISION", kind="bold"),), BOUNDS)["properties"]["options"]

    assert options["items"]["properties"]["key"]["enum"] == ["bold"]


def test_a_name_with_its_title_is_one_sentence():
    text = "It is old Dr. Harrow's place, not Mrs. Lee's. Nobody calls. He was the last."
    assert sentences(text) == ["It is old Dr. Harrow's place, not Mrs. Lee's.", " Nobody calls.", " He was the last."]
    assert cut("He left. Nobody but old Dr. Harrow", 29) == "He left. Nobody but old Dr.…"


def test_a_text_of_full_stops_is_gone_over_once():
    assert sentences("." * 250_000 + "a") == ["." * 250_000 + "a"]
