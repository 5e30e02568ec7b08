"""A task as the flow would give it to a narrator: a small fight, with two options to word."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec.structs import replace

from runtime import loader, request
from runtime.advance import arrived, route
from runtime.constraints import Bounds, answer_schema
from runtime.narrators import Narration, Narrator, Task
from runtime.narrators.release import Hear, Release, unheard
from runtime.prompt import Prompt, parse_prompt, render
from runtime.session import Invoke, Offer
from runtime.turn import brief, choose_edge, settled_by

PLAYER_TEXT = "the-player-said-this"
OFFER = (
    Offer(1, "Strike again", "COMBAT", key="strike"),
    Offer(2, "Run for the door", "DECISION", key="flee"),
)
BOUNDS = Bounds(language="en", max_chars_scene=80, max_chars_option=20, forbidden_terms=("blood",))
GOOD = {
    "scene": "The lamp lands, and the thing in the hall folds up with a shriek.",
    "mood": "tense",
    "ai_state": {"tone": "grim"},
    "options": [{"key": "strike", "text": "Hit it again"}, {"key": "flee", "text": "Run for it"}],
}
OUTPUTS = {"scene": "scene", "mood": "str?", "clue": "text?", "danger": "int?"}


MACHINE = """
machine: fight
title: {en: A fight, zh: 一场打斗}
language: en
on_failure: %s
initial: COMBAT
ai_state: {tone: output.tone}
states:
  COMBAT:
    prompt: combat
    options:
      - {key: strike, text: {en: Strike again, zh: 再打一下}, target: COMBAT}
      - {key: flee, text: {en: Run for the door, zh: 夺门而逃}, target: DECISION}
    on: {OVER: OVER}
  DECISION: {prompt: combat, on: {OVER: OVER}}
  OVER: {type: final, prompt: combat}
"""
PROMPT = """---
description: A fight
inputs: [text]
outputs: {scene: scene, mood: "str?", clue: "text?", danger: "int?"}
---
system:
Tell what came of it.
user:
The player said: {{ text }}
"""


def prompt(options: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None) -> Prompt:
    """A prompt that quotes the player."""
    front = {
        "description": "A fight",
        "inputs": ["text"],
        "outputs": outputs or OUTPUTS,
        "model": {"options": options or {}},
    }
    body = "system:\nTell what came of it.\nuser:\nThe player said: {{ text }}\n"
    made, faults = parse_prompt("combat", None, "prompts/t/combat.prompty", front, body, 8, {})
    assert made, faults
    return made


@cache
def told(on_failure: str = "offline") -> Task:
    """The first turn of the fight, as the flow gives it to a narrator."""
    machine = loader.load({"machines/fight.yaml": MACHINE % on_failure, "prompts/fight/combat.prompty": PROMPT})
    invoke = Invoke(event="COMBAT", session_id="s1", run_seed="a")
    opened = request.begin(machine, invoke, "s1", lambda: "made", 0)
    asked = request.read(opened, invoke, "player")
    settled = settled_by(choose_edge(opened, asked, "player"), opened, asked)
    return brief(opened, settled, asked, route(machine, arrived(settled.session)).offer, 45.0)


def task(
    *,
    bounds: Bounds = BOUNDS,
    offer: tuple[Offer, ...] = OFFER,
    options: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    on_failure: str = "offline",
    deadline_s: float = 45.0,
) -> Task:
    """One telling; with `on_failure` as the machine says."""
    asked = prompt(options, outputs)
    inputs = {"text": PLAYER_TEXT}
    return replace(
        told(on_failure),
        prompt=asked,
        inputs=inputs,
        offer=offer,
        bounds=bounds,
        messages=render(asked, inputs),
        schema=answer_schema(asked, ("tone",), offer, bounds),
        deadline_s=deadline_s,
    )


async def tell(narrator: Narrator, asked: Task, hear: Hear = unheard) -> Narration:
    """One telling, as the turn asks for it."""
    return await narrator.narrate(asked, Release(asked, hear))
