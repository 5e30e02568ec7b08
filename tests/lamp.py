"""A small story by a lamp, in zh and en: what goes wrong with a model is played on it, and held against its rules.

The rules never depend on what a model writes. `fear` is learned from the model's own answer: 0 where it was heard,
else 9.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from served import Server, Web

from runtime import loader
from runtime.constraints import find_term, speaks
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.narrators.openai import OpenAI
from runtime.narrators.profile import configured

HOUSE = """
machine: house
title: {zh: 灯下, en: By the lamp}
language: zh
initial: {event: INIT, target: HALL}
limits: {scene_chars: {zh: 120, en: 240}, option_chars: {zh: 14, en: 40}}
context:
  hp: {type: int, default: 12, min: 0, max: 12, label: {zh: 生命, en: Health}, show: true}
  fear: {type: int, default: 5, min: 0, max: 9, show: true}
states:
  HALL:
    prompt: turn
    learn: {fear: {from: output.omen, otherwise: 9}}
    options:
      - key: strike
        text: {zh: 挥灯猛砸, en: Swing the lamp}
        dice: {wound: 1d4}
        edges: [{target: HALL, assign: {hp: hp - dice.wound}, tell: {zh: 灯砸中了它。, en: The lamp lands.}}]
      - {key: leave, text: {zh: 夺门而出, en: Run for the door}, target: OUT}
  OUT: {type: final, prompt: turn, ending: {title: {zh: 出来了, en: Out}, good: true}}
"""
PROMPT = """---
description: One step in the house
inputs: [tell, language]
outputs: {scene: scene, omen: int}
---
system:
You are the voice of an old house, and the house remembers everyone who came in and never went out again.
Write what the player sees, in two sentences, and do not name the rules of the house.
user:
It happened: {{ tell }} ({{ language }})
"""
MAX_SCENE, MAX_OPTION = {"zh": 120, "en": 240}, {"zh": 14, "en": 40}
TERMS = {"zh": "血", "en": "blood"}
HEARD, UNHEARD = 0, 9
SECRET = "the house remembers everyone"  # noqa: S105 - what must stay in the prompt
LANGUAGES = ("zh", "en")


def house(name: str, on_failure: str) -> Machine:
    text = HOUSE.replace("machine: house", f"machine: {name}\non_failure: {on_failure}")
    return loader.load({f"machines/{name}.yaml": text.lstrip(), f"prompts/{name}/turn.prompty": PROMPT})


@contextmanager
def told_by(server: Server, base_url: str, kind: str = "fake", **profile: Any) -> Iterator[None]:
    """The server's turns told by this provider, with breakers of their own; nothing is waited for between calls."""
    narrator = OpenAI(configured(kind, base_url=base_url, **profile), sleep=_at_once)
    server.runtime.narrator = narrator
    try:
        yield
    finally:
        server.runtime.narrator = Offline()
        server.run(narrator.close())


async def _at_once(_: float) -> None:
    """Wait for nothing."""


def begun(web: Web, session_id: str, language: str, machine: str = "house") -> Any:
    session = {"machine": machine}
    constraints = {"language": language, "forbidden_terms": [TERMS[language]]}
    return web.invoke(session_id, "INIT", session=session, constraints=constraints, seed={"run_seed": "s"})


def rules_of(data: Any) -> Any:
    """What the rules alone say of an answer."""
    payload, session = data["payload"], data["session"]
    return {
        "session": {name: session[name] for name in ("state", "turn", "step", "ended")},
        "routing": payload["routing"],
        "outcome": {**payload["outcome"], "changes": [c for c in payload["outcome"]["changes"] if c["name"] != "fear"]},
        "hp": payload["status"]["hp"],
        "options": [(option["id"], option["key"], option["event_type"]) for option in payload["options"]],
    }


def assert_within(payload: Any, language: str) -> None:
    """No text breaks a rule of the session."""
    scene, options = payload["scene"], [option["text"] for option in payload["options"]]
    assert 0 < len(scene) <= MAX_SCENE[language]
    assert all(0 < len(text) <= MAX_OPTION[language] for text in options)
    assert len(set(options)) == len(options)
    assert all(speaks(text, language) and find_term(text, (TERMS[language],)) is None for text in (scene, *options))
    assert SECRET not in json.dumps(payload, ensure_ascii=False)


@pytest.fixture(name="harmless", scope="module")
def harmless_play(server: Server) -> Mapping[str, Any]:
    """What the rules say where nothing goes wrong, by language: the same play, told offline."""
    found = {}
    with Web(server.url) as web:
        for language in LANGUAGES:
            begun(web, f"offline-{language}", language)
            found[language] = rules_of(web.invoke(f"offline-{language}", option=1))
    return found
