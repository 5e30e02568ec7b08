"""Which fragment is drawn, and what is said of a faulty file."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.expression import Names, activation
from runtime.fragments import Fragments, Place, by_seed, draw, draws, identity_of, parse_fragments

NAMES = Names({"hp": "int", "dice.hit": "int", "bag": "set"})
FILE = "prompts/tiny/offline.en.yaml"


def parsed(values: Any) -> Fragments:
    fragments, faults = parse_fragments(values, NAMES, FILE)
    assert fragments is not None, faults
    return fragments


def at(edge: str = "A.go", state: str = "B", said: dict[str, int] | None = None, step: int = 20, **known: Any) -> Place:
    return Place(edge, state, activation({"hp": 5, "bag": [], **known}), said or {}, step, "seed")


def texts(groups: list[Any], place: Place, *, fresh_first: bool = True) -> list[str]:
    return [each.say.source for each in draws(parsed({"scene": groups}), "scene", place, fresh_first=fresh_first)]


def test_an_edge_comes_before_a_state_and_a_state_before_neither() -> None:
    groups = [
        {"say": ["anywhere"]},
        {"at": "B", "say": ["state"]},
        {"at": "A.go", "say": ["edge"]},
        {"at": "C", "say": ["no"]},
    ]

    assert texts(groups, at()) == ["edge", "state", "anywhere"]


@pytest.mark.parametrize("edge", ["*.over", "initial", "A.go>B"])
def test_root_edges_the_initial_one_and_unnamed_ones_are_named_as_in_the_journal(edge: str) -> None:
    assert texts([{"say": ["anywhere"]}, {"at": edge, "say": ["edge"]}], at(edge=edge))[0] == "edge"


def test_a_when_that_holds_comes_before_none_and_then_the_order_of_the_file() -> None:
    groups = [
        {"at": "B", "say": ["plain one"]},
        {"at": "B", "say": ["plain two"]},
        {"at": "B", "when": "hp < 3", "say": ["does not hold"]},
        {"at": "B", "when": "hp < 6", "say": ["holds"]},
        {"when": True, "say": ["anywhere"]},
    ]

    assert texts(groups, at()) == ["holds", "plain one", "plain two", "anywhere"]


def test_a_when_that_errs_or_reads_what_is_not_known_does_not_fit() -> None:
    groups = [
        {"when": "10 / (hp - 5) > 1", "say": ["divides by zero"]},
        {"when": "dice.hit > 3", "say": ["not rolled"]},
        {"say": ["last"]},
    ]

    assert texts(groups, at()) == ["last"]


def test_texts_never_heard_come_first_in_the_order_of_the_seed_then_the_one_heard_longest_ago() -> None:
    names = ["a", "b", "c", "d"]
    ids = {name: identity_of("scene", name) for name in names}
    unheard = sorted(["a", "c"], key=lambda name: by_seed("seed", ids[name]))

    drawn = texts([{"say": names}], at(said={ids["b"]: 9, ids["d"]: 2}))

    assert drawn == [*unheard, "d", "b"]


def test_another_seed_draws_another_order() -> None:
    group = parsed({"scene": [{"say": [f"text {number}" for number in range(8)]}]})
    orders = set()
    for seed in "abcdef":
        place = Place("e", "s", activation({"hp": 1}), {}, 0, seed)
        orders.add(tuple(each.id for each in draws(group, "scene", place, fresh_first=True)))

    assert len(orders) == 6


def test_a_once_group_gives_each_text_once_and_is_then_passed_over() -> None:
    groups = [{"at": "B", "once": True, "say": ["first time"]}, {"say": ["always"]}]
    heard = {identity_of("scene", "first time"): 1}

    assert texts(groups, at())[0] == "first time"
    assert texts(groups, at(said=heard, step=100)) == ["always"]


def test_what_was_heard_within_ten_turns_gives_way_to_what_was_not_however_general() -> None:
    groups = [{"at": "A.go", "say": ["edge"]}, {"say": ["anywhere"]}]
    heard = {identity_of("scene", "edge"): 11}

    assert texts(groups, at(said=heard, step=20)) == ["anywhere", "edge"]
    assert texts(groups, at(said=heard, step=21)) == ["edge", "anywhere"]


def test_where_the_exact_text_counts_the_most_specific_goes_first_always() -> None:
    groups = [{"at": "A.go", "say": ["edge"]}, {"say": ["anywhere"]}]
    heard = {identity_of("scene", "edge"): 19}

    assert texts(groups, at(said=heard, step=20), fresh_first=False) == ["edge", "anywhere"]


def test_a_field_without_groups_draws_nothing() -> None:
    assert draw(parsed({"scene": [{"say": ["x"]}]}), "npc_line", at()) is None


def test_an_id_depends_on_the_field_and_the_text_alone() -> None:
    first = parsed({"scene": [{"at": "B", "say": ["same"]}], "clue": [{"say": ["same"]}]})
    second = parsed({"scene": [{"say": ["other"]}, {"say": ["same"]}]})

    assert first.groups["scene"][0].ids == second.groups["scene"][1].ids == ("4ed8d6cf018c",)
    assert first.groups["clue"][0].ids != first.groups["scene"][0].ids


def test_the_language_is_the_files() -> None:
    assert parsed({"scene": [{"say": ["x"]}]}).language == "en"


def test_words_take_numbers_and_bools_as_they_are_written() -> None:
    words = parsed({"words": {"hp": {3: "three"}, "lit": {True: "burning"}, "npc": {"恶鬼": "那东西"}}}).words

    assert words == {"hp": {"3": "three"}, "lit": {"true": "burning"}, "npc": {"恶鬼": "那东西"}}


FAULTS = [
    ([1], (), "E501", 'fragments are a map of output fields to lists: `scene: [{say: ["…"]}]`'),
    ({"scene": {}}, ("scene",), "E501", 'scene wants a list of groups: `scene: [{say: ["…"]}]`'),
    ({"scene": ["x"]}, ("scene", 0), "E501", "a group is a map with `say`, and perhaps `at`, `when`, `once`"),
    ({"a b": []}, ("a b",), "E502", "'a b' is no output's path: write names joined by dots, like opening.scene"),
    (
        {"scene": [{"say": ["x"], "wen": True}]},
        ("scene", 0, "wen"),
        "E503",
        "a group has no key 'wen'. Did you mean 'when'?",
    ),
    (
        {"scene": [{"say": ["x"], "zzz": 1}]},
        ("scene", 0, "zzz"),
        "E503",
        "a group has no key 'zzz'. A group has at, when, say, once.",
    ),
    (
        {"scene": [{"say": ["x"], "at": "A."}]},
        ("scene", 0, "at"),
        "E504",
        "'A.' is no place: write STATE, STATE.edge, \"*.edge\" or initial, or leave it out",
    ),
    (
        {"scene": [{"say": ["x"], "when": "hp"}]},
        ("scene", 0, "when"),
        "E505",
        "`when` wants a bool, and this gives int: compare it with something",
    ),
    (
        {"scene": [{"say": ["x"], "when": ["hp > 1"]}]},
        ("scene", 0, "when"),
        "E505",
        "`when` wants an expression; quote it if it holds a comma, a colon or brackets",
    ),
    ({"scene": [{"at": "B"}]}, ("scene", 0), "E506", '`say` wants a list of at least one text: `say: ["…"]`'),
    ({"scene": [{"say": "x"}]}, ("scene", 0, "say"), "E506", '`say` wants a list of at least one text: `say: ["…"]`'),
    (
        {"scene": [{"say": ["x", " "]}]},
        ("scene", 0, "say", 1),
        "E506",
        "a text of `say` is a text in quotes, and not empty",
    ),
    ({"scene": [{"say": ["x"], "once": 1}]}, ("scene", 0, "once"), "E508", "`once` is true or false, not 1"),
    ({"words": []}, ("words",), "E509", "`words` wants a map: `words: {npc_bias: {恶鬼: 那东西}}`"),
    ({"words": {"hp": "x"}}, ("words", "hp"), "E509", "`hp` wants a map of its values to words: `hp: {value: spoken}`"),
    ({"words": {"hp": {"1": 2}}}, ("words", "hp", "1"), "E509", "the word for '1' is a text in quotes"),
    (
        {"scene": [{"say": ["x", "x"]}]},
        ("scene", 0, "say", 1),
        "E510",
        "this text stands twice in its group: write another or drop it",
    ),
]


@pytest.mark.parametrize(("values", "path", "code", "message"), FAULTS)
def test_a_fault_says_what_where_and_the_mend(values: Any, path: tuple[Any, ...], code: str, message: str) -> None:
    assert parse_fragments(values, NAMES, FILE)[1] == [(path, code, message)]


def test_the_groups_without_a_fault_are_kept_to_be_judged() -> None:
    fragments, faults = parse_fragments({"scene": [{"say": "x"}, {"say": ["y"]}]}, NAMES, FILE)

    assert [code for _, code, _ in faults] == ["E506"]
    assert fragments is not None
    assert [(group.index, group.say[0].source) for group in fragments.groups["scene"]] == [(1, "y")]


def test_an_expression_that_cannot_be_read_says_at_which_character() -> None:
    _, faults = parse_fragments({"scene": [{"say": ["x"], "when": "hp > 1 && mana > 2"}]}, NAMES, FILE)

    assert [(path, code) for path, code, _ in faults] == [(("scene", 0, "when"), "E505")]
    assert faults[0][2].startswith("`when` can't be read (at character 11): ")


def test_a_text_that_cannot_be_rendered_says_at_which_character() -> None:
    _, faults = parse_fragments({"scene": [{"say": ["ok", "no {{ x"]}]}, NAMES, FILE)

    assert [(path, code) for path, code, _ in faults] == [(("scene", 0, "say", 1), "E507")]
    assert "at character" in faults[0][2]


def test_all_faults_of_a_file_come_at_once() -> None:
    values = {"a b": [], "scene": [{"say": ["x"], "at": "?", "once": 1}, {"say": []}], "words": 3}

    _, faults = parse_fragments(values, NAMES, FILE)

    assert [code for _, code, _ in faults] == ["E502", "E504", "E508", "E506", "E509"]
