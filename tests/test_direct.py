"""Direct expressions: whatever CEL says of an expression, its closures say too, or leave it to CEL."""

from __future__ import annotations

import pytest
from conftest import SCALE
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runtime.expression import EvaluationError, Names, NotKnown, activation, evaluate
from runtime.model import INT_MAX, INT_MIN

TYPES = {
    "hp": "int",
    "dice.attack": "int",
    "mood": "str",
    "payload.text": "str",
    "given.payload.text": "bool",
    "lamp": "str",
    "bag": "set",
    "dice.found": "set",
    "ready": "bool",
    "dice.lucky": "bool",
    "speed": "float",
}
NAMES = Names(TYPES)  # type: ignore[arg-type] - the names of types, as a plain dict
WORDS = ("lamp", "calm", "", "油灯", "灯", "👻")
INTS = st.sampled_from((INT_MIN, INT_MIN + 1, -1, 0, 1, 2, 3, INT_MAX - 1, INT_MAX))
SETS = st.lists(st.sampled_from(WORDS), max_size=3, unique=True)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "hp": INTS,
        "dice.attack": INTS,
        "mood": st.sampled_from(WORDS),
        "payload.text": st.sampled_from(WORDS),
        "given.payload.text": st.booleans(),
        "lamp": st.just("lamp"),
        "bag": SETS,
        "dice.found": SETS,
        "ready": st.booleans(),
        "dice.lucky": st.booleans(),
    },
)


def written(pattern, *parts):
    return st.builds(pattern.format, *parts)


def literal(text):
    return f'"{text}"' if "l" in text else f"'{text}'"


def wider(by_kind):
    """Expressions of each kind, made of smaller ones."""
    ints, bools, texts, sets = by_kind
    return (
        st.one_of(
            ints,
            st.builds("{} {} {}".format, ints, st.sampled_from(("+", "-", "*")), ints),
            written("({})", ints),
            written("size({})", st.one_of(sets, texts)),
            st.builds("{}({}, {})".format, st.sampled_from(("min", "max")), ints, ints),
            written("clamp({}, {}, {})", ints, ints, ints),
            written("({} ? {} : {})", bools, ints, ints),
        ),
        st.one_of(
            bools,
            st.builds("({}) {} ({})".format, ints, st.sampled_from(("<", "<=", ">", ">=", "==", "!=")), ints),
            st.builds("({}) {} ({})".format, texts, st.sampled_from(("==", "!=")), texts),
            st.builds("({}) {} ({})".format, bools, st.sampled_from(("==", "!=")), bools),
            st.builds("{} {} {}".format, bools, st.sampled_from(("&&", "||")), bools),
            written("({}) in {}", texts, sets),
            written('({}) in ["lamp", "灯"]', texts),
            written("!({})", bools),
            st.builds("({}).{}({})".format, texts, st.sampled_from(("contains", "startsWith", "endsWith")), texts),
            written("({} ? {} : {})", bools, bools, bools),
        ),
        st.one_of(texts, written("norm({})", texts), written("({} ? {} : {})", bools, texts, texts)),
        st.one_of(sets, written("add({}, {})", sets, texts), written("remove({}, {})", sets, texts)),
    )


PLAIN = (
    st.sampled_from(("hp", "dice.attack", "0", "1", "7", str(INT_MAX))),
    st.sampled_from(("ready", "dice.lucky", "given(payload.text)", "true", "false", "hp > 2", "mood.contains('灯')")),
    st.sampled_from(("mood", "payload.text", "lamp", *map(literal, WORDS))),
    st.sampled_from(("bag", "dice.found")),
)
WIDE = wider(wider(PLAIN))
EXPRESSIONS, BOOLS = st.one_of(*WIDE), WIDE[1]


def outcome(expression, values):
    try:
        value = evaluate(expression, activation(values))
    except EvaluationError as error:
        return type(error).__name__, str(error)
    return type(value).__name__, value


def both(source, values):
    """What is found directly, and what CEL finds."""
    expression = NAMES.compile(source)
    assert expression.direct is not None, source
    return outcome(expression, values), outcome(replace(expression, direct=None), values)


@pytest.mark.slow
@settings(max_examples=300 * SCALE)
@given(EXPRESSIONS, VALUES)
def test_what_is_found_directly_is_what_cel_finds(source, values):
    direct, cel = both(source, values)
    assert direct == cel


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("hp + 1", {"hp": INT_MAX}),
        ("hp * dice.attack", {"hp": INT_MIN, "dice.attack": -1}),
        ("ready || hp + 1 > 0", {"ready": True, "hp": INT_MAX}),
        ("hp + 1 > 0 || ready", {"ready": True, "hp": INT_MAX}),
        ("hp > 1", {"hp": 1.0}),
        ("hp > 1", {"hp": True}),
        ("ready", {"ready": 1}),
        ("mood == lamp", {"mood": 3, "lamp": "lamp"}),
        ("ready && dice.lucky", {}),
        ("dice.lucky && ready", {"ready": False}),
        ("dice.lucky ? hp : dice.attack", {"hp": 1}),
        ("ready ? hp : dice.attack", {"ready": True, "hp": 1}),
    ],
)
def test_what_leaves_a_doubt_is_what_cel_says(source, values):
    """An overflow, a value of another type, a name without one."""
    direct, cel = both(source, values)
    assert direct == cel


@pytest.mark.parametrize(
    "source",
    [
        "hp / 2",
        "hp % 2",
        "-hp",
        "speed > 1.0",
        "bag == dice.found",
        "bag.exists(each, each == lamp)",
        "bag[0]",
        "mood < lamp",
        r"mood == 'a\n'",
        "b'a' == b'a' || ready",
        "mood.matches('a')",
        "hp > 0x10",
        "ready // a note",
    ],
)
def test_what_has_a_meaning_of_its_own_stays_with_cel(source):
    assert NAMES.compile(source).direct is None


def test_a_set_that_was_found_is_a_new_one():
    bag = ["lamp"]
    found = evaluate(NAMES.compile("add(bag, lamp)"), activation({"bag": bag, "lamp": "lamp"}))
    assert found == bag
    assert found is not bag


def test_a_name_that_is_missing_is_said_only_where_the_rest_does_not_decide():
    expression = NAMES.compile("dice.lucky && hp > 2")
    assert evaluate(expression, activation({"hp": 1})) is False
    with pytest.raises(NotKnown) as caught:
        evaluate(expression, activation({"hp": 3}))
    assert caught.value.name == "dice.lucky"


@pytest.mark.slow
@settings(max_examples=100 * SCALE)
@given(st.sampled_from(('mood == "calm"', "mood == lamp", 'mood == "lamp" && ({})')), BOOLS, VALUES)
def test_what_an_expression_asks_first_of_a_text_closes_it(pattern, source, values):
    """Whatever the rest is, missing or erring, it is false where the text is another."""
    expression = NAMES.compile(pattern.format(source))
    asked = expression.direct.asked
    assert (asked.name, asked.text) in (("mood", "calm"), ("mood", "lamp"))
    assert outcome(expression, {**values, "mood": "灯", "lamp": "lamp"}) == ("bool", False)


@pytest.mark.parametrize(
    "source", ["mood == lamp || ready", "mood != lamp", "ready && mood == lamp", "!(mood == lamp)"]
)
def test_what_may_hold_all_the_same_asks_nothing(source):
    assert NAMES.compile(source).direct.asked is None


class Counted(dict):
    """Values that count how often one was asked for."""

    asked = 0

    def get(self, name, default=None):
        self.asked += 1
        return super().get(name, default)


@pytest.mark.parametrize(
    ("pattern", "value"), [("({} || ready)", False), ("({} && ready)", True), ("(ready || {})", False)]
)
def test_a_nested_guard_on_a_missing_name_reads_each_name_once(pattern, value):
    source, depth = "dice.lucky", 30
    for _ in range(depth):
        source = pattern.format(source)
    values = Counted({"ready": value})
    with pytest.raises(NotKnown) as caught:
        NAMES.compile(source).direct.value(values)
    assert (caught.value.name, values.asked) == ("dice.lucky", depth + 1)
