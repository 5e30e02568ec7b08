"""Expressions: CEL behind one door, typed when compiled, honest about what is not known yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.expression import EvaluationError, ExpressionError, Names, NotKnown, activation, evaluate, norm, prepare

NAMES = Names(
    {
        "hp": "int",
        "speed": "float",
        "bag": "set",
        "key": "str",
        "mood": "str",
        "ready": "bool",
        "dice.attack": "int",
        "visits.HALL": "int",
        "payload.text": "str",
        "given.payload.text": "bool",
    }
)
VALUES = {"hp": 3, "speed": 1.5, "bag": ["key"], "key": "key", "mood": "calm", "ready": True, "visits.HALL": 2}


def value_of(source, **more):
    return evaluate(NAMES.compile(source), activation({**VALUES, **more}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hp + 1", 4),
        ("hp > 2 && visits.HALL == 2", True),
        ("key in bag", True),
        ('!("lamp" in bag)', True),
        ('add(bag, "lamp")', ["key", "lamp"]),
        ("add(bag, key)", ["key"]),
        ("remove(bag, key)", []),
        ("min(hp, 2)", 2),
        ("max(speed, 2.5)", 2.5),
        ("clamp(hp, 5, 9)", 5),
        ("ready ? 'yes' : 'no'", "yes"),
        ("size(bag)", 1),
        ("bag.exists(each, each == 'key')", True),
        (7, 7),
        (1.0, 1.0),
        (True, True),
    ],
)
def test_an_expression_gives_its_value(source, expected):
    assert value_of(source) == expected


@pytest.mark.parametrize(
    ("source", "col", "says"),
    [
        ("hpp > 1", 1, "undeclared reference to 'hpp'"),
        ("hp > 1.0", 4, "no matching overload"),
        ("hp +", 5, "Syntax error"),
        ("ready && dice.atack > 1", 14, "undeclared reference to 'dice.atack'"),
        ("has(payload.text)", 1, "use given(payload.x)"),
        ("'''x''' == key", 1, "triple quotes"),
        ("timestamp(0)", 1, "no variable can hold"),
        ("hp" + "+hp" * 40, 1, "too deep or too long"),
        ("x" * 3000, 1, "longer than"),
        (2**63, 1, "64 bits"),
        (float("inf"), 1, "finite"),
    ],
)
def test_a_wrong_expression_is_refused_when_it_is_compiled_with_its_place(source, col, says):
    with pytest.raises(ExpressionError) as caught:
        NAMES.compile(source)
    assert caught.value.col == col
    assert says in caught.value.message


def test_what_is_not_known_yet_is_said_by_name_unless_the_rest_decides():
    with pytest.raises(NotKnown) as caught:
        value_of("dice.attack > 10")
    assert caught.value.name == "dice.attack"
    assert value_of("hp > 1 || dice.attack > 10") is True
    assert value_of("hp > 5 && dice.attack > 10") is False


@pytest.mark.parametrize("source", ["hp / 0", "9223372036854775807 + hp", "speed / 0.0", "bag[7]"])
def test_what_errs_while_it_runs_raises(source):
    with pytest.raises(EvaluationError):
        value_of(source)


def test_given_tells_an_absent_field_from_an_empty_one():
    absent = {"payload.text": "", "given.payload.text": False}
    assert value_of("given( payload.text )", **absent) is False
    assert value_of("given(payload.text) && hp > 1", **{**absent, "given.payload.text": True}) is True


def test_the_names_that_are_read_are_known_strings_left_out():
    assert NAMES.compile('"hp" in bag && dice.attack > hp').names == ("bag", "dice.attack", "hp")


@pytest.mark.parametrize(
    ("spoken", "norms"),
    [("芝麻，开门！", "芝麻开门"), ("ＯＰＥＮ  Sesame!", "opensesame"), ("Straße", "strasse"), ("👻…", ""), ("é", "é")],
)
def test_norm_compares_what_was_said_not_how(spoken, norms):
    assert norm(spoken) == norms


@given(
    st.lists(
        st.sampled_from(["hp > 2", "ready", "key in bag", "hp / 0 > 1", "dice.attack > 1", "speed > 2.0"]), max_size=6
    )
)
def test_a_batch_gives_what_each_gives_alone(sources):
    expressions = [NAMES.compile(source) for source in sources]
    known = activation(VALUES)
    prepare(NAMES.batch(expressions), known)

    def outcome(expression, values):
        try:
            return evaluate(expression, values)
        except EvaluationError as error:
            return type(error), str(error)

    assert [outcome(each, known) for each in expressions] == [outcome(each, activation(VALUES)) for each in expressions]
