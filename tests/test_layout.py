"""The order of a prompt's parts, as `check` sees it, and what the shipped prompts make of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pages import Page, ticked
from served import SHIPPED, shipped

from runtime import loader
from runtime.layout import laid_out
from runtime.machine import Machine
from runtime.narrators import Narration, Task, answer
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from runtime.prompt import Message
from runtime.source import Source
from runtime.tokens import roughly
from server.briefs import Wanted, of_state
from server.scaffold import project_files

ROOT = Path(__file__).resolve().parent.parent
STILL = "Tell it in plain words, one thing that can be touched in each paragraph, and never a number. " * 4
MOST_AROUND = 2500
"""The most tokens of a shipped prompt beside what it remembers."""


# Pieces.


def pieces(text: str, **includes: str) -> list[tuple[str, str, str]]:
    """Each piece's text, what it reads, and what decides whether it comes."""
    files = {f"m/{name}.md": body for name, body in includes.items()}
    inputs = ("hp", "bag", "recent", "slots", "friend", "text")
    found = laid_out(Source("p", text), files, inputs)
    return [(each.text, " ".join(sorted(each.reads)), " ".join(sorted(each.under))) for each in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("You have {{ hp }} left.", [("You have", "", ""), ("", "hp", ""), ("left.", "", "")]),
        ("{{ 'hp' }} {{ slots.hp }}", [("", "slots", "")]),
        ("{{ bag | join(sep=', ') }}", [("", "bag", "")]),
        ("{# hp #}Go.", [("Go.", "", "")]),
        ("{% if text %}He said.{% endif %}Go.", [("", "text", ""), ("He said.", "", "text"), ("Go.", "", "")]),
        (
            "{% for r in recent %}- {{ r.scene }}{% endfor %}.",
            [("", "recent", ""), ("-", "", "recent"), ("", "recent", "recent"), (".", "", "")],
        ),
        ("{% set x = hp %}{{ x }}", [("", "hp", ""), ("", "hp", "")]),
        (
            "{% if hp > 3 %}A{% elif bag %}B{% else %}C{% endif %}",
            [("", "hp", ""), ("A", "", "hp"), ("", "bag", "bag hp"), ("B", "", "bag hp"), ("C", "", "bag hp")],
        ),
        ("{{ {'a': '甲'}[friend] }}，走。", [("", "friend", ""), ("，走。", "", "")]),
    ],
)
def test_a_prompt_is_taken_apart_in_its_order(text, found):
    assert pieces(text) == found


def test_an_includes_pieces_stand_in_its_place():
    found = pieces('A {% include "m/x.md" %} C', x='B {{ hp }} {% include "m/y.md" %}', y="{{ bag }}")

    assert found == [("A", "", ""), ("B", "", ""), ("", "hp", ""), ("", "bag", ""), ("C", "", "")]


def test_a_piece_knows_its_place():
    found = list(laid_out(Source("p", "One\n  two {{ 'hp' ~ hp }}", 7), {}, ("hp",)))

    assert [(each.line, each.col) for each in found] == [(7, 1), (8, 11)]


# What `check` says of an order.

MACHINE = """\
machine: x
title: The test
language: en
initial: {event: INIT, target: A, assign: {friend: '"Ann"'}}
slots: {tone: dry}
context: {hp: {type: int, default: 3}, friend: {type: str}, mood: {type: str}, ghost: {type: int}}
states:
  A:
    prompt: turn
    learn: {mood: {from: output.mood}}
    on: {B: [{target: B, assign: {hp: hp - 1}}]}
  B: {type: final, prompt: turn, entry: {ghost: 2}}
"""


def warned(body: str, inputs: str) -> list[str]:
    """The codes and the first words of what `check` finds in a prompt."""
    front = f'---\ninputs: [{inputs}]\noutputs: {{scene: scene, mood: "str?"}}\n---\n'
    found = loader.findings_of({"machines/x.yaml": MACHINE, "prompts/x/turn.prompty": front + body})
    return [f"{each.code} {each.message.partition(' ')[0]}" for each in found]


@pytest.mark.parametrize("name", ["hp", "mood", "ghost", "step", "tell", "memory", "state"])
def test_what_changes_from_turn_to_turn_belongs_behind_what_never_does(name):
    read = "{{ " + name + " }}"

    assert warned(f"system:\n{read}\n{STILL}\nuser:\nGo.\n", name) == [f"W412 '{name}'"]
    assert warned(f"system:\n{STILL}\nuser:\n{read}\nGo.\n", name) == []


@pytest.mark.parametrize("name", ["friend", "slots.tone", "language", "title", "limits.scene_chars", "recent | length"])
def test_what_stays_for_a_session_or_only_grows_may_stand_before(name):
    body = f"system:\n{{{{ {name} }}}}\n{STILL}\nuser:\nGo.\n"

    assert warned(body, name.partition(".")[0].partition(" ")[0]) == []


def test_labels_between_values_are_no_text_to_move():
    body = (
        "system:\nTell it.\nuser:\n" + "Health {{ hp }} of twelve, and no more. Mood {{ mood }}, as it was told.\n" * 20
    )

    assert warned(body, "hp, mood") == []


def test_a_text_that_only_some_turns_have_is_no_text_to_move():
    body = f"system:\nTell it.\nuser:\n{{% if hp < 2 %}}{STILL}{{% endif %}}\n{{{{ hp }}}}\n"

    assert warned(body, "hp") == []


def test_a_machine_with_faults_is_not_judged_by_what_may_be_missing():
    front = "---\ninputs: [friend]\noutputs: {scene: scene}\n---\n"
    files = {
        "machines/x.yaml": MACHINE.replace("learn: {mood: {from: output.mood}}", "leran: {}"),
        "prompts/x/turn.prompty": f"{front}system:\n{{{{ friend }}}}\n{STILL}\nuser:\nGo.\n",
    }

    assert [each.code for each in loader.findings_of(files)] == ["E101"]


# The shipped prompts, played.


class Wordy(Offline):
    """The offline narrator, with scenes as long as they may be, that keeps what a model would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[tuple[Message, ...]] = []

    async def narrate(self, task: Task, release: Release) -> Narration:
        self.prompts.append((*task.messages, Message("system", answer.closing(task))))
        told = await super().narrate(task, release)
        word = {"zh": "她把空信匣摆正，好让邮差一眼看见。", "en": "She sets the empty letter rack straight. "}
        text = f"{len(self.prompts):02d} " + word[task.bounds.language] * 40
        scene = {"scene": text[: task.bounds.max_chars_scene]} if "scene" in told.output else {}
        return Narration(
            narrator="wordy", output={**told.output, **scene}, ai_state=told.ai_state, options=told.options
        )


FIRST_STORY = {name: text for name, text in project_files().items() if "first_story" in name}
PLAYS = [(name, language) for name in (*SHIPPED, "first_story") for language in ("zh", "en")]
PAGE = Page(ROOT / "machines" / "README.md")
SHARES = {
    (ticked(name)[0], language): int(share.rstrip("%")) / 100
    for name, *shares in PAGE.table("In which order")
    for language, share in zip(("zh", "en"), shares, strict=True)
}
"""What machines/README.md says of the prompts' tokens that begin as the prompt before, over a play of 30 turns."""
CLOSE = 0.03
"""How far what is measured may be from it, after a text here or there has changed."""


def machine_of(name: str) -> Machine:
    return loader.load(FIRST_STORY) if name == "first_story" else shipped()[name]


@pytest.mark.parametrize("name", [*SHIPPED, "first_story"])
def test_each_machine_is_walked_in_each_of_its_languages(name):
    assert [(name, language) for language in machine_of(name).definition.languages] == [
        each for each in PLAYS if each[0] == name
    ]


async def walked(start: Any, machine: Machine, language: str, turns: int = 30) -> list[tuple[Message, ...]]:
    """The prompts of a play, by one option after the other."""
    client = await start(machine)
    client.runtime.narrator = narrator = Wordy()
    answer = await client.send(machine.definition.first.event, run_seed="walk-3", constraints={"language": language})
    for turn in range(1, turns):
        payload = answer["payload"]
        if answer["session"]["ended"]:
            break
        if payload["options"]:
            answer = await client.send(option=payload["options"][turn % len(payload["options"])]["id"], role="operator")
        else:
            asked = payload["inputs"][0]
            answer = await client.send(asked["event_type"], payload={asked["field"]: "我被重复扣款了，请退款。"})
    return narrator.prompts


def size(messages: tuple[Message, ...]) -> int:
    return sum(roughly(message.content) for message in messages)


def whole(messages: tuple[Message, ...]) -> str:
    return "".join(f"{message.role}: {message.content}\n" for message in messages)


def common(one: str, other: str) -> str:
    """How both begin."""
    return one[: next((at for at, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), len(one))]


@pytest.mark.parametrize(("name", "language"), PLAYS)
async def test_a_shipped_machines_prompts_begin_alike(start, name, language):
    """What never changes is the same in every kind of turn; the turns so far only grow, but where a block goes."""
    prompts = await walked(start, machine_of(name), language)

    assert len(prompts) >= 4
    if name != "first_story":
        assert len({messages[0] for messages in prompts}) == 1
    same_tokens = sum(roughly(common(whole(one), whole(other))) for one, other in pairwise(prompts))
    assert abs(same_tokens / sum(map(size, prompts[1:])) - SHARES[name, language]) <= CLOSE


@pytest.mark.parametrize(("name", "language"), PLAYS)
async def test_a_shipped_machines_prompts_stay_bounded(start, name, language):
    prompts = await walked(start, machine_of(name), language, 60)

    budget_tokens = machine_of(name).definition.memory_tokens
    assert max(map(size, prompts)) <= budget_tokens + MOST_AROUND


@pytest.mark.parametrize("name", ["haunted_house", "mine_adventure"])
@pytest.mark.parametrize("language", ["zh", "en"])
async def test_a_storys_prompts_say_that_facts_are_not_in_what_was_told(start, name, language):
    prompts = await walked(start, machine_of(name), language)

    assert {"zh": "事实", "en": "the facts are"}[language] in prompts[-1][1].content
    assert {"zh": "以事实为准", "en": "the facts are right"}[language] in prompts[-1][2].content


@pytest.mark.parametrize(("name", "language"), PLAYS)
def test_every_turn_of_a_shipped_machine_can_be_rendered(name, language):
    """By each edge, whether or not it is open: the prompt is its own, and says what came of it."""
    machine = machine_of(name)
    edges = {each.full_name for compiled in machine.table.values() for each in compiled}

    for edge in edges:
        found = of_state(machine, Wanted(edge=edge, language=language))
        assert found.edge == edge
        assert found.file in {prompt.file for variants in machine.prompts.values() for prompt in variants.values()}
        assert found.messages[-1].role == "system"
