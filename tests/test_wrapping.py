"""Text on a terminal: nothing in it moves the cursor, and it is wrapped by real widths and Chinese rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.play.wrapping import NOT_FIRST, NOT_LAST, plain, width, wrap

TEXTS = st.text(st.sampled_from("水灯a bc，。！？」』（「“”…—🙂👩‍👩‍👧é'-1"), max_size=200)


def test_english_breaks_between_words():
    assert wrap("The far bank is a darker line", 12) == ["The far bank", "is a darker", "line"]


def test_chinese_breaks_anywhere():
    assert wrap("路走到头是一截栈桥", 8) == ["路走到头", "是一截栈", "桥"]


def test_a_closing_mark_never_begins_a_line():
    assert wrap("路走到头，是栈桥。", 8) == ["路走到", "头，是栈", "桥。"]


def test_an_opening_mark_never_ends_a_line():
    assert wrap("他说了「走」字", 8) == ["他说了", "「走」字"]


def test_a_dash_or_dots_of_two_are_not_parted():
    assert wrap("他走了……再没回来", 6) == ["他走", "了……再", "没回来"]


def test_emoji_are_as_wide_as_they_are_drawn():
    assert wrap("👩‍👩‍👧👩‍👩‍👧👩‍👩‍👧", 4) == ["👩‍👩‍👧👩‍👩‍👧", "👩‍👩‍👧"]


def test_what_has_no_place_to_break_is_cut():
    assert wrap("https://example.org/x", 10) == ["https://ex", "ample.org/", "x"]


def test_paragraphs_stay_apart():
    assert wrap("one\n\ntwo", 10) == ["one", "", "two"]


@given(TEXTS, st.integers(8, 40))
def test_no_line_is_too_wide_begins_or_ends_wrong_and_nothing_is_lost(text: str, columns: int):
    lines = wrap(text, columns)

    assert "".join("".join(lines).split()) == "".join(text.split())
    for before, line in pairwise(lines):
        is_cut = width(before) >= columns - 1
        assert width(line) <= columns
        assert line[:1] not in NOT_FIRST or is_cut
        assert before[-1:] not in NOT_LAST or is_cut


@pytest.mark.parametrize("evil", ["\x1b[2Jgone", "\x9b31m", "back\x08\x08", "\r over", "\u202eright to left"])
def test_nothing_that_a_terminal_obeys_is_left(evil: str):
    assert not any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 or letter == "\u202e" for letter in plain(evil))
