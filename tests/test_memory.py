"""What a prompt remembers: the recent turns within a budget, added at the end and dropped in blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st

from runtime import loader
from runtime.machine import Machine
from runtime.memory import remembered, tokens_of
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from runtime.prompt import Message
from runtime.session import RECENT_TURNS, Told
from runtime.tokens import roughly

LONG = {"zh": "她把空信匣摆正，好让邮差一眼看见。", "en": "She sets the empty letter rack straight. "}
TURNS = 200


# Tokens, roughly.


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("The lamp lands. ", 5),
        ("她把信摆正。", 4),
        ("灯 lamp 灯", 3),
        ("👻", 2),
        ("\U0002a6d6", 2),
        ("naïve café", 3),
    ],
)
def test_a_text_takes_about_so_many_tokens(text, tokens):
    assert roughly(text) == tokens


@given(st.text(), st.text())
def test_two_texts_take_what_they_take_together(one, other):
    """A sum of estimates is never below that of the whole, and at most one above."""
    assert roughly(one + other) <= roughly(one) + roughly(other) <= roughly(one + other) + 1


# What is kept.

TOLD = st.builds(
    Told, st.text(max_size=30), st.text("字a。. 👻", max_size=120).map(lambda text: text * 3) | st.just(LONG["zh"] * 9)
)


def kept_after_each(turns: list[Told], budget_tokens: int) -> list[tuple[Told, ...]]:
    """What is remembered after every turn."""
    kept: list[tuple[Told, ...]] = []
    for told in turns:
        kept.append(remembered(kept[-1] if kept else (), told, budget_tokens))
    return kept


def grew(before: tuple[Told, ...], after: tuple[Told, ...]) -> bool:
    return after[: len(before)] == before


@given(st.lists(TOLD, max_size=40), st.integers(50, 3000))
def test_what_is_remembered_fits_the_budget(turns, budget_tokens):
    for kept in kept_after_each(turns, budget_tokens):
        assert sum(map(tokens_of, kept)) <= budget_tokens
        assert 1 <= len(kept) <= RECENT_TURNS


@given(st.lists(TOLD, min_size=1, max_size=40), st.integers(50, 3000))
def test_the_last_turns_are_remembered_in_their_order(turns, budget_tokens):
    for number, kept in enumerate(kept_after_each(turns, budget_tokens), 1):
        told = turns[number - len(kept) : number]
        assert all(each.scene.startswith(was.scene.rstrip("…")) for was, each in zip(kept, told, strict=True))
        assert all(was == each for was, each in zip(kept, told, strict=True) if tokens_of(each) <= budget_tokens)


@given(st.lists(TOLD, min_size=2, max_size=40), st.integers(50, 3000))
def test_turns_are_added_at_the_end_or_half_of_them_goes(turns, budget_tokens):
    for before, after in pairwise(kept_after_each(turns, budget_tokens)):
        newest = after[-1]
        assert after[:-1] == before[len(before) + 1 - len(after) :]
        if not grew(before, after):
            rest = sum(map(tokens_of, after))
            assert len(after) <= RECENT_TURNS // 2
            assert rest <= budget_tokens // 2 or after == (newest,)


@given(st.integers(10, 60), st.integers(1, 4))
def test_most_turns_add_to_what_the_turn_before_remembered(tokens, share):
    """Where a budget holds ten turns or more, no more than one in five turns drops any."""
    turns = [Told("", "字" * (tokens * 10 // 6) + str(number % 10)) for number in range(TURNS)]
    budget_tokens = max(map(tokens_of, turns)) * 10 * share

    kept = kept_after_each(turns, budget_tokens)

    dropped = sum(not grew(before, after) for before, after in pairwise(kept))
    assert dropped <= TURNS / 5


def test_one_turn_beyond_the_budget_is_cut_at_the_end_of_a_sentence():
    (kept,) = remembered((), Told("看信", LONG["zh"] * 20), 100)

    assert kept.choice == "看信"
    assert kept.scene
    assert kept.scene == LONG["zh"] * (len(kept.scene) // len(LONG["zh"]))
    assert 50 < tokens_of(kept) <= 100


def test_a_choice_beyond_the_budget_leaves_no_room_for_its_scene():
    (kept,) = remembered((), Told("word " * 200, "The scene."), 50)

    assert tokens_of(kept) <= 50
    assert kept.choice.endswith("…")


def test_a_memory_from_before_there_was_a_budget_is_taken_over():
    """A journal holds twelve turns, whatever they take: the next turn brings them within the budget."""
    old = tuple(Told(f"choice {number}", LONG["en"] * 14) for number in range(12))

    kept = remembered(old, Told("next", "The end."), 1000)

    assert kept[-1] == Told("next", "The end.")
    assert kept[:-1] == old[13 - len(kept) :]
    assert sum(map(tokens_of, kept)) <= 500


# In a session.

WALK = """\
title: {zh: 走, en: A walk}
language: zh
initial: {event: INIT, target: ROAD}
limits: {scene_chars: {zh: 220, en: 600}, MEMORY}
context: {steps: {type: int}}
ai_state: {memory_summary: output.memory_summary}
states:
  ROAD:
    prompt: turn
    options:
      - {key: left, text: {zh: 向左, en: Left}, target: ROAD, assign: {steps: steps + 1}}
      - {key: right, text: {zh: 向右, en: Right}, target: ROAD}
      - {key: stop, text: {zh: 停下, en: Stop}, target: END}
  END: {type: final, prompt: turn}
"""
PROMPT = """\
---
inputs: [recent, memory, tell, steps, option]
outputs: {scene: scene}
---
system:
You tell it.
user:
{% for turn in recent %}{{ turn.choice }}: {{ turn.scene }}
{% endfor %}
user:
{{ steps }} {{ memory }} {{ option.text }} {{ tell }}
"""


class Wordy:
    """Tells every turn as long as it may, each time in other words, and keeps the prompts that it was given."""

    def __init__(self) -> None:
        self.prompts: list[tuple[Message, ...]] = []
        self.written = Offline()

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def narrate(self, task: Task, _release: Release) -> Narration:
        """The offline telling, with the longest scene and summary that fit."""
        self.prompts.append(task.messages)
        text = f"{len(self.prompts):03d} " + LONG[task.bounds.language] * 40
        told = self.written.tell(task)
        summary = {"memory_summary": text[:300]} if "memory_summary" in told.ai_state else {}
        scene = {"scene": text[: task.bounds.max_chars_scene]} if "scene" in told.output else {}
        return Narration(
            narrator="wordy",
            output={**told.output, **scene},
            ai_state={**told.ai_state, **summary},
            options=told.options,
        )


async def walked(machine: Machine, start: Any, language: str, turns: int) -> tuple[Wordy, Any]:
    """Play by the first option that does not end it; the narrator and the client."""
    client = await start(machine)
    client.runtime.narrator = narrator = Wordy()
    answer = await client.send(machine.definition.first.event, run_seed="walk", constraints={"language": language})
    while answer["payload"]["options"] and len(narrator.prompts) < turns:
        answer = await client.send(option=answer["payload"]["options"][len(narrator.prompts) % 2]["id"])
    return narrator, client


def size(messages: tuple[Message, ...]) -> int:
    return sum(roughly(message.content) for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize(("written", "budget_tokens"), [("", 2000), (", memory_tokens: 600", 600)])
async def test_a_session_of_two_hundred_turns_keeps_its_prompt_bounded(start, language, written, budget_tokens):
    machine = loaded(WALK.replace(", MEMORY", written))

    narrator, client = await walked(machine, start, language, TURNS)

    recents = [messages[1].content for messages in narrator.prompts if len(messages) == 3]
    assert len(narrator.prompts) == TURNS
    assert max(map(size, narrator.prompts)) <= budget_tokens + 300
    assert max(map(roughly, recents)) > budget_tokens / 2
    grown = sum(after.startswith(before) for before, after in pairwise(recents))
    assert grown / len(recents) >= (0.75 if budget_tokens == 2000 else 0.3)
    assert sum(map(tokens_of, (await client.session()).recent)) <= budget_tokens


def loaded(text: str) -> Machine:
    """The walk with its prompt."""
    files = {"machines/walk.yaml": "machine: walk\n" + text, "prompts/walk/turn.prompty": PROMPT}
    return loader.load(files)


async def test_without_a_model_a_prompt_is_bounded_too(start):
    machine = tiny("initial: A\nstates:\n  A: {on: {A: A, B: B}}\n  B: {type: final}")
    client = await start(machine)

    for _ in range(41):
        await client.send("A")

    session = await client.session()
    assert session.turn == 41
    assert RECENT_TURNS // 2 <= len(session.recent) <= RECENT_TURNS
