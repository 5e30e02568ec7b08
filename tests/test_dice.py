"""Dice are a pure function of where and when they are rolled."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import dice
from runtime.model import Die, LongDie

KEY = ("seed", "", 3, "HALL", "DECISION", "stairs")
KNOWN = [17, 1, 8, 11, 8, 13, 9, 1]


@given(st.integers(1, 9), st.integers(1, 100), st.integers(-50, 50), st.text(max_size=9))
def test_a_roll_lies_in_its_range(count: int, sides: int, plus: int, seed: str):
    spec = f"{count}d{sides}{plus:+d}"
    value = dice.roll("d", spec, (seed, 1)).value
    assert count + plus <= value <= count * sides + plus


def test_the_same_key_rolls_the_same():
    assert dice.roll("attack", "1d20", KEY) == dice.roll("attack", "1d20", KEY)


def test_each_part_of_the_key_counts():
    keys = {KEY, ("other", *KEY[1:]), (*KEY[:2], 4, *KEY[3:]), (*KEY[:5], "clock"), ("seed", "fork", *KEY[2:])}
    assert len({dice.roll("attack", "1d9999", key).value for key in keys}) == len(keys)


def test_keys_are_not_run_together():
    assert dice.roll("d", "9d9999", ("ab", "c")).value != dice.roll("d", "9d9999", ("a", "bc")).value


def test_a_known_roll_never_changes():
    """Replays and retries rest on these very numbers."""
    assert [dice.roll("attack", "1d20", (*KEY, turn)).value for turn in range(8)] == KNOWN


def test_every_side_is_about_as_likely():
    fell = Counter(dice.roll("d", "1d6", ("seed", turn)).value for turn in range(6000))
    assert set(fell) == {1, 2, 3, 4, 5, 6}
    assert max(fell.values()) < 1.25 * min(fell.values())


def test_a_percentage_is_a_bool():
    fell = [dice.roll("d", "30%", ("seed", turn)).value for turn in range(3000)]
    assert set(fell) == {True, False}
    assert 0.25 < sum(fell) / 3000 < 0.35
    assert dice.roll("d", "0%", ("x",)).value is False
    assert dice.roll("d", "100%", ("x",)).value is True


def test_a_pick_draws_one_of_its_strings_and_may_be_secret():
    die = LongDie(pick=["信", "镜", "井"], secret=True)
    rolled = [dice.roll("truth", die, ("seed", turn)) for turn in range(60)]
    assert {each.value for each in rolled} == {"信", "镜", "井"}
    assert all(each.secret and each.spec == "pick" for each in rolled)


@given(st.integers(0, 6), st.lists(st.text(min_size=1, max_size=3), unique=True, max_size=6), st.text(max_size=5))
def test_a_draw_takes_some_without_putting_back_in_the_order_given(wanted: int, among: list[str], seed: str):
    drawn = dice.draw(wanted, among, (seed,))
    assert len(drawn) == min(wanted, len(among))
    assert drawn == [each for each in among if each in drawn]


# Fixed dice: what a replay brings.


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ("1d20", [1, 20]),
        ("2d6+1", [3, 13]),
        ("30%", [True, False]),
        ("100%", [True]),
        ({"pick": ["灯", "b"]}, ["灯", "b"]),
    ],
)
def test_a_die_can_be_fixed_at_whatever_it_may_show(rule: Any, shown: list[Any]):
    die = msgspec.convert(rule, Die)
    assert [dice.fixed("x", die, value).value for value in shown] == shown
    assert [dice.unfit(die, value) for value in shown] == [""] * len(shown)


@pytest.mark.parametrize(
    ("rule", "value", "why"),
    [
        ("1d20", 21, "1d20 shows 1 to 20"),
        ("1d20", 0, "1d20 shows 1 to 20"),
        ("1d20", True, "1d20 shows 1 to 20"),
        ("1d20", 3.0, "1d20 shows 1 to 20"),
        ("1d20", "3", "1d20 shows 1 to 20"),
        ("30%", 1, "30% shows false or true"),
        ("100%", False, "100% shows true"),
        ({"pick": ["灯", "b"]}, "c", "shows one of 灯, b"),
    ],
)
def test_a_die_cannot_be_fixed_at_anything_else(rule: Any, value: Any, why: str):
    assert dice.unfit(msgspec.convert(rule, Die), value) == why
