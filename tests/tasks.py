"""A task as the flow would give it to a narrator: a small fight, with two options to word."""

from __future__ import annotations

from typing import Any, cast

from runtime.constraints import Bounds, answer_schema
from runtime.narrators import Narration, Narrator, Task
from runtime.narrators.release import Hear, Release, unheard
from runtime.prompt import Prompt, parse_prompt, render
from runtime.session import Offer

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


def task(
    *,
    bounds: Bounds = BOUNDS,
    offer: tuple[Offer, ...] = OFFER,
    options: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
) -> Task:
    """One telling. What no model's narrator reads (machine, session, edge, outcome) is left empty."""
    asked = prompt(options, outputs)
    inputs = {"text": PLAYER_TEXT}
    unread = cast("Any", None)
    return Task(
        machine=unread,
        session=unread,
        edge=unread,
        outcome=unread,
        prompt=asked,
        inputs=inputs,
        scope={},
        offer=offer,
        bounds=bounds,
        messages=render(asked, inputs),
        schema=answer_schema(asked, ("tone",), offer, bounds),
    )


async def tell(narrator: Narrator, told: Task, hear: Hear = unheard) -> Narration:
    """One telling, as the turn asks for it."""
    return await narrator.narrate(told, Release(told, hear))
