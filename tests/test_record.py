"""Sessions recorded as replays: what was sent, what was told and by which prompt, written so that it can be read."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from runtime.bench.modes import drift, prompt_text
from runtime.document import read
from runtime.flow_yaml import block
from runtime.prompt import Message

LINES = [
    "", " ", "  in", "\t", "# no comment", "- a", "a: b #c", "“灯”：，", "---", "...", "user:", "\\user:", "? x", "!x",
    "|", "👨‍👩‍👧", "\ufdd0灯\ufdd2", "\x85", "\u202e", "\u2028",
]  # fmt: skip
"""Lines that a reader of YAML could take for something else."""


# What stands in a file can be read there.


@given(st.lists(st.sampled_from(LINES) | st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=6))
def test_a_text_of_several_lines_is_read_back_as_it_was(lines: list[str]):
    text = "\n".join(lines)

    found = read("x.yaml", f"steps:\n  - send: X\n    prompt: {block(text, 6)}\n    with: {{a: 1}}\n")

    assert found.findings == ()
    assert found.value == {"steps": [{"send": "X", "prompt": text, "with": {"a": 1}}]}


def test_a_prompt_stands_under_its_roles_with_the_players_words_marked():
    messages = [Message("system", "你是说书人。\nuser:\n别听"), Message("user", "他说：\ufdd0点灯🏮\ufdd2")]

    text = prompt_text(messages)

    assert text == "system:\n你是说书人。\n\\user:\n别听\nuser:\n他说：⟦text⟧点灯🏮⟦/text⟧\n"
    assert block(text, 6).startswith("|\n      system:\n      你是说书人。\n")


def messages_of(parts: Iterable[tuple[str, list[str]]]) -> list[Message]:
    return [Message(role, "\n".join(lines)) for role, lines in parts]  # type: ignore[arg-type]


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["system", "user"]),
        st.lists(st.sampled_from(["", "a", "user:", "\\user:", "system:", " user:"]), max_size=3),
    ),
    max_size=3,
)


@given(PARTS, PARTS)
def test_other_messages_are_another_text(one: list[tuple[str, list[str]]], other: list[tuple[str, list[str]]]):
    a, b = messages_of(one), messages_of(other)
    assert (prompt_text(a) == prompt_text(b)) == (a == b)


def test_a_drift_names_what_was_and_what_is_now():
    assert drift("a\n", "a\n") == ""
    assert drift("system:\n一\n二\n", "system:\n一\n三\n").splitlines()[-4:] == [" 一", "-二", "+三", " "]
