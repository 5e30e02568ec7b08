"""Prose against the rules' word: numbers of shown variables, of damage, and endings that were not reached."""

from __future__ import annotations

import pytest
from conftest import tiny

from runtime.facts import UNKNOWN, Facts, Quantity, contradictions, facts_of
from runtime.session import Change, Choice, Constraints, Outcome, Rolled, Session

FELL = frozenset({5.0, 3.0, 2.0, 0.0, 12.0})
"""Health fell from 5 to 3, between 0 and 12."""
FEAR = frozenset({1.0, 0.0, 10.0})
CHANGED = frozenset({2.0, 14.0})
ZH = Facts((Quantity(("体力", "hp"), FELL), Quantity(("恐惧", "fear"), FEAR)), CHANGED, True, ("灯灭了",))
EN = Facts((Quantity(("Health", "hp"), FELL), Quantity(("Dread", "fear"), FEAR)), CHANGED, True, ("The Last Match",))


def _lines(block):
    return [line.strip() for line in block.strip().splitlines()]


@pytest.mark.parametrize(
    "text",
    _lines("""
    体力只剩7。
    你的体力：８
    体力降到了4
    体力从5降到4
    体力从6降到3
    剩下7点体力
    失去4点体力
    你失去了四点体力
    体力-4
    受到5点伤害
    挨了五点火焰伤害
    体力只剩七点。
    体力为十一
    HP：9
    体力值只剩 1
    体力 8/12
    -7 体力
    结局：灯灭了
    结局是《灯灭了》
    “灯灭了”的结局
    体力减少了6点
    体力9
"""),
)
def test_a_chinese_text_that_says_another_number_or_ending_contradicts(text):
    assert len(list(contradictions(f"你退了一步。{text}", ZH))) == 1


@pytest.mark.parametrize(
    "text",
    _lines("""
    体力只剩3。
    体力从5降到3
    失去2点体力
    失去两点体力
    体力-2
    受到2点伤害
    受到14点伤害
    体力只剩三成
    恐惧是一点一点爬上来的
    恐惧一点点漫上来
    体力三番五次
    再失去7点体力你就会死
    灯灭了，你站在黑里
    体力恢复了一些
    体力 3/12
    你有9个体力瓶
    恐惧在3点钟降临
    如果你失去4点体力
    你的体力是昨天的一半
    体力也是一种天赋
    恐惧是一把刀
    体力不支，9步之外
    第七天，体力耗尽
    体力七天才恢复
    三点零七分，恐惧来了
"""),
)
def test_a_chinese_text_that_says_what_is_or_might_be_does_not(text):
    assert list(contradictions(text, ZH)) == []


@pytest.mark.parametrize(
    "text",
    _lines("""
    Health: 7.
    Your health is now 8.
    Your health drops to four.
    HP 9
    you have 7 health.
    You lose 4 health.
    You take 5 damage.
    five points of damage
    You have 9 points of health left
    health falls from 6 to 3
    Ending: The Last Match
    the ending is “The Last Match”
    -4 health
    Health -4
"""),
)
def test_an_english_text_that_says_another_number_or_ending_contradicts(text):
    assert len(list(contradictions(f"You step back. {text}", EN))) == 1


@pytest.mark.parametrize(
    "text",
    _lines("""
    Health: 3.
    Your health is now 3 of 12
    You lose 2 health.
    2 damage
    health 3/12
    Health is one thing, courage another.
    You would lose 4 health.
    She struck the last match.
    It costs 3 dollars for health care
    Dread is 3:07 by the clock
    Your dread has 4 walls
    the health of 7 people
    the dread of 9 winters
    You will take 5 damage if you stay
"""),
)
def test_an_english_text_that_says_what_is_or_might_be_does_not(text):
    assert list(contradictions(text, EN)) == []


def test_what_is_not_known_is_contradicted_by_nothing():
    assert list(contradictions("体力只剩7。受到5点伤害。结局：灯灭了", UNKNOWN)) == []


def test_a_contradiction_names_what_is_known_and_repeats_no_number_of_the_text():
    (told,) = contradictions("体力只剩77。", ZH)

    assert "'体力'" in told
    assert "0, 2, 3, 5, 12" in told
    assert "77" not in told


MACHINE = """
initial: {event: INIT, target: A}
title: {zh: 灯, en: The lamp}
language: zh
context:
  hp: {type: int, default: 5, min: 0, max: 12, show: true, label: {zh: 生命, en: Health}}
  heat: {type: float, default: 0.5, show: true}
  gold: {type: int, default: 7}
  truth: {type: int, default: 9, secret: true}
states:
  A: {label: {zh: 甲, en: A}, on: {END: END, OUT: OUT}}
  END: {type: final, ending: {title: {zh: 灯灭了, en: Dark}}}
  OUT: {type: final, ending: {title: {zh: 走出去, en: Away}}}
"""


def known(state="A", changes=(), dice=()):
    machine = tiny(MACHINE)
    session = Session(
        session_id="s", machine="tiny", version=1, digest="d", run_seed="r", constraints=Constraints("zh"), state=state,
        context={"hp": 3, "heat": 0.5, "gold": 7, "truth": 9},
    )  # fmt: skip
    return facts_of(machine, session, Outcome("A", "A.x", "A", state, Choice(), tuple(dice), tuple(changes)))


def test_the_facts_of_a_turn_are_its_shown_numbers_and_what_changed():
    facts = known(changes=[Change("hp", 5, 3), Change("truth", 9, 1)], dice=[Rolled("d", "1d20", 14)])

    assert facts.quantities == (
        Quantity(("生命", "hp"), frozenset({5.0, 3.0, 0.0, 12.0, 2.0})),
        Quantity(("heat",), frozenset({0.5, 0.0})),
    )
    assert facts.changed == {2.0, 14.0}


def test_every_ending_but_the_one_reached_is_none_to_tell():
    assert known().endings == ("灯灭了", "走出去")
    assert known("END").endings == ("走出去",)
    assert list(contradictions("结局：灯灭了", known("END"))) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "伤害" + "一" * 250_000,
        "体力+3" + " " * 250_000 + "x",
        "体力剩" + "一" * 250_000 + "x",
        "Health is" + " now" * 60_000 + " x",
    ],
)
def test_a_text_that_repeats_one_word_is_gone_over_once(text):
    facts = Facts((Quantity(("体力", "health"), frozenset({3.0})),), is_counted=True)
    assert list(contradictions(text, facts)) == []


@pytest.mark.parametrize("said", ["fıve points of damage", "FİVE points of damage", "five points of damage"])
def test_a_letter_that_only_looks_alike_is_read_alike(said):
    (why,) = contradictions(f"It deals {said}.", Facts(is_counted=True))
    assert why == "the damage is none that the rules dealt. Leave its number out."


@pytest.mark.parametrize("said", ["Health is fıve.", "Health is nİne."])
def test_a_number_word_with_another_i_is_a_number(said):
    (why,) = contradictions(said, Facts((Quantity(("health",), frozenset({3.0})),)))
    assert why.startswith("a number beside 'health'")
