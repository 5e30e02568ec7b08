"""A model's JSON, read as it comes and where it is not quite JSON: nothing is invented, nothing is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.narrators import reading
from runtime.narrators.reading import AnswerError, Path, Reader, Reading, read

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['灯灭了。他说："走！"', "“引号”，：", "\U0001f3ee\u200d\U0001f525", '\\"', "// no", "{}", '", "a": "', "\u2028"]
)
DATA = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(DATA, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)
WRITTEN = st.builds(
    lambda value, is_ascii, indent: json.dumps(value, ensure_ascii=is_ascii, indent=indent),
    OBJECTS,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)


def in_chunks(text: str, cuts: list[int]) -> list[str]:
    """The text cut at some places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)] or [text]


def fed(chunks: list[str]) -> tuple[Reading, dict[Path, str]]:
    """What a reader makes of the chunks, and the texts as they grew."""
    reader = Reader()
    grown: dict[Path, str] = {}
    for chunk in chunks:
        for piece in reader.feed(chunk):
            grown[piece.path] = ("" if piece.is_new else grown[piece.path]) + piece.text
    return reader.end(), grown


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield from texts(member, (*path, name))


def at(value: Any, path: Path) -> Any:
    for name in path:
        value = value[name]
    return value


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    is_leaf = True
    for name, member in members:
        is_leaf = False
        yield from leaves(member, (*path, name))
    if is_leaf:
        yield path


# Valid JSON.


@given(WRITTEN, st.lists(st.integers(0, 10_000), max_size=8))
@example('{"a": "\\ud83c\\udfee"}', [9, 12, 15])
@example('{"a": "b", "c": [1, "d" , "e"]}', [9, 10, 11, 20, 22])
def test_any_object_in_any_chunks_reads_as_json_does(text, cuts):
    read_, grown = fed(in_chunks(text, cuts))

    assert read_ == Reading(json.loads(text))
    assert grown == dict(texts(read_.value))


@given(WRITTEN)
def test_letter_by_letter_is_as_the_whole(text):
    assert fed(list(text)) == fed([text])


@given(WRITTEN, st.integers(0, 10_000))
def test_of_a_text_cut_anywhere_every_whole_part_is_as_it_was(text, cut):
    """What isn't whole is marked, and nothing else is."""
    whole, cut_text = json.loads(text), text[: cut % (len(text) + 1)]
    if cut_text.strip() in {"", "{"}:
        return

    found, _ = fed([cut_text])

    for path in leaves(found.value):
        if path not in found.incomplete:
            assert at(found.value, path) == at(whole, path)
        elif isinstance(at(found.value, path), str):
            assert at(whole, path).startswith(at(found.value, path))


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from([*'{}[]",:，：“”＂/\\ \nu0a1-e', "true", "{"]), max_size=40).map("".join)
)
def test_any_text_at_all_is_read_or_has_no_object(text):
    """And in the same way however it is cut."""
    try:
        whole: Any = fed([text])
    except AnswerError as error:
        whole = str(error)
    try:
        by_letter: Any = fed(list(text))
    except AnswerError as error:
        by_letter = str(error)
    assert by_letter == whole


def test_a_name_that_stands_twice_has_its_last_value():
    assert read('{"a": 1, "a": 2}').value == {"a": 2}
    found, grown = fed(['{"a": "one", "a": "two",}'])
    assert (found.value, grown) == ({"a": "two"}, {("a",): "two"})


# What is read past.

GOOD = {"scene": "灯灭了。", "mood": "tense"}


@pytest.mark.parametrize(
    ("text", "repair"),
    [
        ('```json\n{"scene": "灯灭了。", "mood": "tense"}\n```', "around"),
        ('好的，{这是} 回答：\n{"scene": "灯灭了。", "mood": "tense"}\n希望你喜欢 {它}。', "around"),
        ('{"scene": "灯灭了。", "mood": "tense",}', "comma"),
        ('{"scene": "灯灭了。"\n "mood": "tense"}', "comma"),
        ("{“scene”: “灯灭了。”, “mood”: “tense”}", "quotes"),
        ("{”scene”: ”灯灭了。”, ＂mood＂: ＂tense＂}", "quotes"),
        ('{"scene"："灯灭了。"，"mood"："tense"}', "punctuation"),
        ('{\u3000"scene": "灯灭了。", // so it goes\n "mood": "tense" // and\n}', "comment"),
        ('{"scene": "灯灭了。", "mood": "tense"', "cut"),
        ('{} {"scene": "灯灭了。", "mood": "tense"}', "around"),
    ],
)
def test_what_is_not_quite_json_is_read_past_and_noted(text, repair):
    whole = read(text)

    assert whole.value == GOOD
    assert repair in whole.repairs
    assert set(whole.incomplete) <= {()}
    assert fed(list(text))[0] == whole


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ('{"scene": "他说"快跑"就走了。", "mood": "tense"}', '他说"快跑"就走了。'),
        ('{"scene": "他说"好"，就走了", "mood": "tense"}', '他说"好"，就走了'),
        ("{“scene”: “他说：“快跑”，就走了。”, “mood”: “tense”}", "他说：“快跑”，就走了。"),
        ('{"scene": "他说"快跑"", "mood": "tense"}', '他说"快跑"'),
        ('{"scene": "It\\\'s dark.\n\tRun.", "mood": "tense"}', "It's dark.\n\tRun."),
        (
            '{"scene": "half \\ud83c of a pair, \\u12 of an escape", "mood": "tense"}',
            "half � of a pair, � of an escape",
        ),
    ],
)
def test_quotes_and_breaks_inside_a_text_stay_in_it(text, scene):
    found, grown = fed(list(text))

    assert found.value == {"scene": scene, "mood": "tense"}
    assert grown[("scene",)] == scene
    assert found.incomplete == ()
    assert found.repairs


@pytest.mark.parametrize(
    ("text", "value", "incomplete"),
    [
        ('{"scene": "灯灭', {"scene": "灯灭"}, {(), ("scene",)}),
        ('{"scene": "灯\\', {"scene": "灯"}, {(), ("scene",)}),
        ('{"scene": "灯\\ud83', {"scene": "灯"}, {(), ("scene",)}),
        ('{"scene": "灯灭了。"', {"scene": "灯灭了。"}, {()}),
        ('{"scene": "a", "hp": 12', {"scene": "a"}, {(), ("hp",)}),
        ('{"scene": "a", "is": tru', {"scene": "a"}, {(), ("is",)}),
        ('{"scene": "a", "mood":', {"scene": "a"}, {()}),
        ('{"scene": "a", "mo', {"scene": "a"}, {()}),
        ('{"a": {"b": "c", "d": ["e", "f', {"a": {"b": "c", "d": ["e", "f"]}}, {(), ("a",), ("a", "d"), ("a", "d", 1)}),
    ],
)
def test_what_was_cut_off_is_marked_and_a_cut_number_left_out(text, value, incomplete):
    found = read(text)

    assert found.value == value
    assert set(found.incomplete) == incomplete
    assert found.repairs == {"cut"}


@pytest.mark.parametrize(
    "text",
    [
        '{"mood": "tense", "scene": "He said "run", "now"."}',
        '{"mood": "tense", "scene": "one" : "two"}',
        '{"mood": "tense", "scene": "one"]',
    ],
)
def test_behind_what_cant_be_read_nothing_is_and_the_text_before_it_is_in_doubt(text):
    found = read(text)

    assert found.value["mood"] == "tense"
    assert set(found.value) == {"mood", "scene"}
    assert ("scene",) in found.incomplete
    assert "unreadable" in found.repairs


@pytest.mark.parametrize("number", ["1e400", "01", "0x1F", "NaN", "--1", "1" * 500, "Infinity"])
def test_what_is_no_number_of_json_is_no_value(number):
    found = read(f'{{"a": "b", "n": {number}, "c": 1,}}')
    assert found.value == {"a": "b"}
    assert "unreadable" in found.repairs


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "blank"),
        (" \n\t", "blank"),
        ("I would rather not.", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('"text"', "no JSON object"),
        ("{curly} {brackets", "no JSON object"),
        ("{", "no JSON object"),
        ('{"a": ' * 17 + "1" + "}" * 17, "too deeply"),
        ('{"a": ' * 17, "too deeply"),
        ('{"a": ' * 100_000, "too long"),
        ('{"a": ' * 40_000, "too deeply"),
    ],
)
def test_where_there_is_no_object_the_reason_is_told(text, why):
    with pytest.raises(AnswerError, match=why):
        read(text)


def test_a_text_of_any_kind_grows_by_its_path_before_its_end():
    reader = Reader()
    assert [piece.text for piece in reader.feed('{"opening": {"scene": "灯\\u706d')] == ["", "灯", "灭"]
    assert reader.feed("了。")[0] == reading.Grown(("opening", "scene"), "了。")
    assert reader.feed('"') == []
    assert reader.feed(" }")[0] == reading.Grown(("opening", "scene"), "", is_closed=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['{"a": "' + '"  , ' * 20_000, '{"a"' + " " * 100_000 + ":", '{"a": "' + "\\u706f" * 20_000, "{" * 100_000]
)
def test_each_letter_is_looked_at_a_bounded_number_of_times(text):
    """Counted, not timed: the calls that a reader makes when it is fed letter by letter."""
    calls = 0

    def count(_frame: Any, event: str, _called: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    reader = Reader()
    sys.setprofile(count)
    try:
        for letter in text:
            reader.feed(letter)
    finally:
        sys.setprofile(None)
    assert calls <= 25 * len(text)
