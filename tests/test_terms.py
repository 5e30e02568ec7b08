"""Forbidden terms: seen through symbols, through the two ways of writing Chinese, and across no clause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import terms as terms_module
from runtime.terms import find_term, mask, may_begin_term

SYMBOLS = "* ＊ · • . ． - ‐ _ ~ ～ 〜 / | + = @ # × → ★ ■ 🔥 👍🏽 ❤️ 👨‍👩‍👧 ・ ( ) 【 】 [ ]"
INSERTED = [*SYMBOLS.split(), " ", "\u3000", "\t", "\n", "\u0336", "\u20e0", "\u200b", "\u2060", "* "]
CLAUSE_ENDS = ["...", "。\n", "……", "——", *"。！？，、；：…—,!?;:“」"]


@pytest.mark.parametrize("between", INSERTED)
def test_a_symbol_between_two_han_letters_is_seen_through(between):
    text = f"一片血{between}腥的景象"

    assert find_term(text, ("血腥",)) == "血腥"
    assert find_term(mask(text, ("血腥",)), ("血腥",)) is None


@pytest.mark.parametrize("between", CLAUSE_ENDS)
def test_a_mark_that_ends_a_clause_joins_no_two_words(between):
    text = f"他身上有血{between}腥味扑鼻"

    assert find_term(text, ("血腥",)) is None
    assert mask(text, ("血腥",)) == text


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("血a腥", "血腥"),
        ("血1腥", "血腥"),
        ("血的腥", "血腥"),
        ("*血", "血腥"),
        ("a.b", "ab"),
        ("d-i-c-e", "dice"),
        ("血.a", "血a"),
    ],
)
def test_letters_are_no_symbols_and_latin_words_are_not_joined(text, term):
    assert find_term(text, (term,)) is None


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("他殺死了守衛", "杀死"),
        ("他杀死了守卫", "殺死"),
        ("頭髮散亂", "头发"),
        ("賭＊博", "赌博"),
        ("毒\u200b·品", "毒品"),
        ("裡面", "里面"),
        ("裏面", "里面"),
        ("⾎腥", "血腥"),
        ("ひ・み・つ", "ひみつ"),
        ("비 밀", "비밀"),
        ("约翰史密斯", "约翰·史密斯"),
        ("约翰・史密斯", "约翰·史密斯"),
        ("𠀾", "𠀾"),
    ],
)
def test_simplified_and_traditional_fall_together(text, term):
    assert find_term(text, (term,)) == term


def test_a_mask_covers_what_was_inserted_too():
    assert mask("一片血 * 腥！", ("血腥",)) == "一片＊***＊！"
    assert mask("他殺🔥死了", ("杀死",)) == "他＊＊＊了"


def test_what_a_mask_leaves_can_be_no_term_again():
    assert mask("骰骰子子", ("骰子",)) == "＊＊＊＊"


@pytest.mark.parametrize("text", ["が", "한글"])
def test_a_letter_and_its_voiced_form_are_two_letters(text):
    assert find_term(text, ("か", "하")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一片血", True),
        ("一片血*", True),
        ("一片血。", False),
        ("一片血腥", False),
        ("we roll the di", True),
        ("we roll the ", False),
        ("a studi", False),
        ("殺", True),
        ("Mr.", True),
        ("", False),
    ],
)
def test_a_text_cut_off_may_end_in_what_becomes_a_term(text, expected):
    assert may_begin_term(text, ("血腥", "dice", "杀死", "Mr. Smith")) is expected
    assert may_begin_term(text, ()) is False


@given(st.lists(st.sampled_from(["血", "腥", "殺", "。", "…", "，", "\u0336", *INSERTED]), max_size=20))
def test_masking_any_mixture_leaves_no_term(parts):
    terms = ("血腥", "杀", "*", "·")
    text = "".join(parts)

    masked = mask(text, terms)

    assert len(masked) == len(text)
    assert find_term(masked, terms) is None


@given(st.text(alphabet="血腥殺杀 *·。…🔥a", max_size=30), st.text(alphabet="血腥殺杀 *·。…🔥a", max_size=30))
def test_a_term_stays_found_whatever_stands_around_it(before, after):
    assert find_term(f"{before}，血*腥，{after}", ("血腥",)) == "血腥"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("你好" + " " * 250_000 + "a", None),
        ("你好" + "*" * 250_000 + "a血 腥", "血腥"),
        ("血" + "·" * 250_000 + "腥", "血腥"),
        ("你 " * 125_000, None),
    ],
)
def test_a_text_that_repeats_one_sign_is_gone_over_once(text, found):
    assert find_term(text, ("血腥",)) == found


@pytest.mark.parametrize("layers", [4, 20_000])
def test_terms_within_terms_are_covered_however_many(layers):
    text = "血" * layers + "腥" * layers + "味"
    assert mask(text, ("血腥",)) == "＊" * (2 * layers) + "味"


def test_where_no_mark_is_free_terms_within_terms_are_taken_out():
    terms = ("血腥", *"＊*□·○—_-…x")
    assert mask("他" + "血" * 2_000 + "腥" * 2_000 + " 走了", terms) == "他 走了"


def test_a_pattern_is_made_for_a_term_whose_letters_stand_in_a_text_alone():
    terms = tuple(f"禁语{number}号" for number in range(200))
    before = terms_module._pattern.cache_info().misses

    assert find_term("这里说的是禁语7号。", terms) == "禁语7号"
    assert terms_module._pattern.cache_info().misses - before == 1
