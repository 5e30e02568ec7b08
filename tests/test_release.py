"""What is heard of a turn under way: sentence by sentence, and nothing that the rules exclude."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tasks import BOUNDS, GOOD, task

from runtime import constraints
from runtime.constraints import Bounds
from runtime.narrators import Narration, Task, ladder, release
from runtime.narrators.release import Release

ZH = Bounds(language="zh", max_chars_scene=60, max_chars_option=8, forbidden_terms=("血腥", "鬼门"))
EN = Bounds(language="en", max_chars_scene=80, max_chars_option=20, forbidden_terms=("blood", "Dr. No"))
MORE = {"narrator": "openai", "model": "m", "rungs": ("text",)}


class Heard:
    """A listener: what it was told, and how its texts read now."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.texts: dict[str, str] = {}

    def __call__(self, event: str, data: Mapping[str, Any]) -> None:
        path, text = data["path"], data["text"]
        self.events.append((event, path, text))
        self.texts[path] = self.texts.get(path, "") + text if event == "field.delta" else text

    @property
    def deltas(self) -> list[str]:
        return [text for event, _, text in self.events if event == "field.delta"]


def chinese(outputs: dict[str, Any] | None = None) -> Task:
    return task(bounds=ZH, outputs=outputs)


def spoken(asked: Task, *chunks: str) -> Heard:
    """What is heard of chunks before the narration is known."""
    heard = Heard()
    release = Release(asked, heard)
    for chunk in chunks:
        release.feed(chunk)
    return heard


def settled(asked: Task, text: str, size: int = 1) -> tuple[Heard, Heard, Narration]:
    """What is heard of a whole answer before its narration is known, and when it is; and the narration."""
    before, after = Heard(), Heard()
    narration = ladder.concluded(asked, ladder.received(asked, text, "stop"), **MORE)
    for heard in (before, after):
        release = Release(asked, heard)
        for start in range(0, len(text), size):
            release.feed(text[start : start + size])
        release.hold()
        if heard is after:
            release.settle(narration.output)
    return before, after, narration


# Sentence by sentence.


def test_a_sentence_is_heard_once_something_follows_it():
    asked = chinese()
    assert spoken(asked, '{"scene": "灯灭了，四下一片黑。').deltas == []
    assert spoken(asked, '{"scene": "灯灭了，四下一片黑。', "有").deltas == ["灯灭了，四下一片黑。"]
    assert spoken(asked, '{"scene": "他低声喊道：“快跑！', "”").deltas == []
    assert spoken(asked, '{"scene": "他低声喊道：“快跑！', "”", "灯").deltas == ["他低声喊道：“快跑！”"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_escapes_and_pairs_cut_anywhere_are_heard_whole(size):
    scene = "灯“灭”了，四下一片黑。🏮它\n来了！"
    for is_ascii in (True, False):
        text = json.dumps({"scene": scene, "options": []}, ensure_ascii=is_ascii)
        _, heard, narration = settled(chinese(), text, size)
        assert heard.texts["scene"] == narration.output["scene"] == scene
        assert {event for event, _, _ in heard.events} == {"field.delta"}


def test_english_sentences_end_at_stops_and_not_inside_numbers():
    text = json.dumps({**GOOD, "scene": "It costs 3.50 coins. “Dear,” he says. We go… Now"})
    before, _, _ = settled(task(), text)
    assert before.deltas == ["It costs 3.50 coins.", " “Dear,” he says.", " We go…", " Now"]


def test_each_output_is_heard_by_its_path_and_options_are_not():
    asked = chinese({"opening": {"scene": "scene", "mood": "str?"}, "epilogue": "text?"})
    text = json.dumps({
        "opening": {"mood": "紧张而压抑的夜。", "scene": "灯灭了，四下一片黑。"}, "epilogue": "一切又静了下来。",
        "ai_state": {"tone": "压抑而阴冷的夜。"}, "options": [{"key": "strike", "text": "再打一下它吧。"}],
    })  # fmt: skip
    before, _, _ = settled(asked, text)
    assert before.texts == {"opening.scene": "灯灭了，四下一片黑。", "epilogue": "一切又静了下来。"}


# What is not heard.


@pytest.mark.parametrize(
    ("bounds", "scene", "heard"),
    [
        (ZH, "灯灭了，四下一片黑。一幕血腥。它来了。", "灯灭了，四下一片黑。"),
        (ZH, "灯灭了，四下一片黑。一片血·腥。它来了。", "灯灭了，四下一片黑。"),
        (ZH, "灯灭了，四下一片黑。地上有血. 腥气扑面。", "灯灭了，四下一片黑。"),
        (ZH, "灯灭了，四下一片黑。那是鬼.\n门后没有人。它来了。", "灯灭了，四下一片黑。"),
        (EN, "The lamp goes out. There is blood here. It comes.", "The lamp goes out."),
        (EN, "The lamp goes out. Here is Dr. No himself. It comes.", "The lamp goes out."),
        (ZH, "灯灭了，四下一片黑。Something is moving about in the dark hall behind me. It.", "灯灭了，四下一片黑。"),
        (ZH, "灯灭了，四下一片黑。\u001b[2J它来了。又走了。", "灯灭了，四下一片黑。"),
        (ZH, "灯灭了，四下一片黑。你说⟦ffffffffff⟧开门⟦/ffffffffff⟧。它来了。", "灯灭了，四下一片黑。"),
        (ZH, "四下一片黑。" * 11, "四下一片黑。" * 10),
    ],
    ids=["term", "inserted", "astride", "a line", "English", "a stop inside", "language", "control", "mark", "length"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_behind_the_first_breach_nothing_more_is_heard(bounds, scene, heard, size):
    asked = task(bounds=bounds)
    text = json.dumps({"scene": scene, "options": GOOD["options"]}, ensure_ascii=False)
    before, after, narration = settled(asked, text, size)

    assert before.texts.get("scene", "") == heard
    assert after.texts["scene"] == narration.output["scene"]


def test_an_end_that_turns_out_harmless_waits_for_the_next_sentence():
    asked = task(bounds=EN)
    assert spoken(asked, '{"scene": "The lamp is for Dr.').deltas == []
    assert spoken(asked, '{"scene": "The lamp is for Dr. W').deltas == []
    assert spoken(asked, '{"scene": "The lamp is for Dr. Who now. It').deltas == ["The lamp is for Dr. Who now."]
    assert spoken(asked, '{"scene": "The lamp is for Dr. ", "mo').deltas == ["The lamp is for Dr. "]


def test_a_first_cry_waits_until_its_language_can_be_told():
    assert spoken(chinese(), '{"scene": "OK! Go! 灯').deltas == []
    assert spoken(chinese(), '{"scene": "OK! Go! 灯灭了，四下一片黑。它').deltas == ["OK! Go! 灯灭了，四下一片黑。"]


# When the narration is known.


def test_what_the_whole_shows_is_replaced():
    """A text that is dropped reads '' in the end; one that was told offline, as it was told then."""
    asked = chinese({"scene": "scene", "clue": "text?"})
    release = Release(asked, heard := Heard())
    release.feed('{"scene": "灯灭了，四下一片黑。", "clue": "井里有一封旧信。", "mo')
    release.hold()
    release.feed(', "clue": "不会有人听见。"}')
    release.settle({"scene": "一切都静了下来。"})

    assert heard.events[-2:] == [("field.replaced", "scene", "一切都静了下来。"), ("field.replaced", "clue", "")]


def test_a_name_that_comes_twice_reads_as_its_later_text():
    text = '{"scene": "灯灭了，四下一片黑。", "options": [], "scene": "门开了，一阵冷风。"}'
    before, after, narration = settled(chinese(), text)

    assert before.texts["scene"] == "灯灭了，四下一片黑。"
    assert after.texts["scene"] == narration.output["scene"] == "门开了，一阵冷风。"


def test_what_another_attempt_brings_does_not_go_on_where_one_broke_off():
    release = Release(chinese(), heard := Heard())
    release.feed('{"scene": "灯灭了，四下一片黑。它')
    release.hold()
    release.feed('{"scene": "门开了，一阵冷风。它')
    assert heard.deltas == ["灯灭了，四下一片黑。"]


def test_an_attempt_that_brought_nothing_holds_nothing():
    release = Release(chinese(), heard := Heard())
    release.hold()
    release.feed('{"scene": "灯灭了，四下一片黑。它')
    assert heard.deltas == ["灯灭了，四下一片黑。"]


def test_who_hears_nothing_costs_nothing():
    release = Release(chinese())
    release.feed('{"scene": "灯灭了。它')
    release.hold()
    release.settle({"scene": "灯灭了。它来了。"})


def test_a_told_narration_that_was_never_fed_is_released_at_once():
    release = Release(chinese(), heard := Heard())
    release.settle({"scene": "灯灭了。"})
    assert heard.events == [("field.delta", "scene", "灯灭了。")]


# Any answer in any chunks.

WORDS = st.sampled_from(
    [
        "灯灭了。", "四下一片黑，", "“快跑！”", "血", "腥", "血腥", "血。", "·", "鬼", "门", "它来了。", "🏮",
        "\u200d", " ", "\n", "The lamp goes out. ", "Dr. ", "No", "blood", "blo", "od. ", "3.", "5 ", "Go! ", "…", "」",
        '"', "\\", "é", "\u0301",
        "\u0000",
    ]
)  # fmt: skip
PROSE = st.lists(WORDS, max_size=14).map("".join) | st.text(max_size=12)
WRITTEN = st.builds(
    lambda parts, is_ascii, indent: json.dumps(parts, ensure_ascii=is_ascii, indent=indent),
    st.fixed_dictionaries(
        {"scene": PROSE},
        optional={"clue": PROSE | st.none() | st.integers(), "options": st.just(GOOD["options"])},
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)


@given(WRITTEN, st.lists(st.integers(0, 400), max_size=6), st.sampled_from([ZH, EN, BOUNDS]), st.booleans())
def test_what_was_heard_reads_as_the_narration_and_never_broke_a_rule(text, cuts, bounds, is_cut):
    asked = task(bounds=bounds)
    text = text[: cuts[0]] if is_cut and cuts else text
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    release = Release(asked, heard := Heard())
    for start, end in pairwise(places):
        release.feed(text[start:end])
        for path, told in heard.texts.items():
            assert list(constraints.text_breaches(path, told, asked.prompt, bounds)) == []
            assert "\u0000" not in told
    release.hold()
    narration = ladder.concluded(asked, ladder.received(asked, text, "cut" if is_cut else "stop"), **MORE)

    release.settle(narration.output)

    told = {path: value for path, value in narration.output.items() if path in {"scene", "clue"} and value}
    assert {path: value for path, value in heard.texts.items() if value} == told
    if narration.output["scene"] == narration.learned.get("scene"):
        assert ("field.replaced", "scene") not in [event[:2] for event in heard.events]


TOLD = (
    "你是《凶宅回响》的说书人。\n- 只讲眼前，不讲后来。\n冷。\nYou are the narrator of an old house. Never say why.",
)


@pytest.mark.parametrize(
    ("scene", "heard"),
    [
        ("你是《凶宅回响》的说书人。你推开了门。", ""),
        ("你慢慢推开了门。“你是凶宅回响的说书人！”它说。", "你慢慢推开了门。"),
        ("你慢慢推开了门。只讲眼前， 不讲后来。你走了进去。", "你慢慢推开了门。"),
        ("门外真冷。冷。你走了进去。", "门外真冷。冷。你走了进去。"),
        ("说书人不在了。你推开了门。", "说书人不在了。你推开了门。"),
    ],
)
def test_a_sentence_of_the_instructions_waits_for_the_whole(scene, heard):
    asked = task(bounds=replace(ZH, instructions=TOLD))
    text = json.dumps({**GOOD, "scene": scene}, ensure_ascii=False)
    before, after, narration = settled(asked, text)

    assert "".join(before.deltas) == heard
    assert (narration.output["scene"], after.texts["scene"]) == (scene, scene)
    assert {event for event, _, _ in after.events} == {"field.delta"}


def test_a_leak_is_heard_neither_before_nor_when_the_whole_shows_it():
    told = (
        "You are the narrator of an old house. You tell of nothing but the hall, the stairs, and the cellar. Be brief."
    )
    asked = task(bounds=replace(EN, max_chars_scene=400, instructions=(told,)))
    before, after, _ = settled(asked, json.dumps({**GOOD, "scene": told}))

    assert before.deltas == []
    assert "narrator" not in "".join(after.deltas)


def test_what_cant_be_judged_is_not_heard(monkeypatch):
    def fail(*_):
        raise ValueError

    monkeypatch.setattr(release, "text_breaches", fail)
    assert spoken(chinese(), '{"scene": "门开了。屋里很黑。门又关上了。"}').events == []
