"""What a narration may teach a machine: within bounds, only what a model wrote, and nothing else."""

from __future__ import annotations

import pytest

from runtime import errors, loader

MACHINE = """
machine: tiny
title: {en: Tiny, zh: 小}
language: en
initial: DESK
context:
  category: {type: enum, of: [billing, bug, other], default: other, show: true}
  confidence: {type: int, default: 0, min: 0, max: 100, show: true}
  note: {type: str}
  limit: {type: int, default: 90}
ai_state: {summary: output.summary, sure: confidence}
states:
  DESK:
    prompt: triage
    learn:
      category: {from: output.category, otherwise: other}
      confidence: {from: output.confidence, at_least: 5, at_most: limit, otherwise: 1}
      note: {from: 'output.deep.why + "!"'}
    options:
      - {key: again, text: {en: Again, zh: 再来}, target: DESK}
      - {key: close, text: {en: Close, zh: 结束}, guard: confidence >= 80, target: DONE}
  DONE: {type: final, prompt: triage}
"""
PROMPT = """---
description: Sort a ticket
inputs: [title]
outputs: {category: "str?", confidence: "int?", deep: {why: "text?"}, reply: text}
---
system:
You sort tickets for {{ title }}.
user:
Sort this one.
"""
REPLY = {"reply": "We look into it."}
AGAIN = [{"key": "again", "text": "Look again"}]


@pytest.fixture
def desk():
    return loader.load({"machines/tiny.yaml": MACHINE, "prompts/tiny/triage.prompty": PROMPT})


def status(answer):
    return {name: shown["value"] for name, shown in answer["payload"]["status"].items()}


async def test_values_are_learned_within_their_bounds_and_open_what_they_should(start, desk):
    sure = {**REPLY, "category": "bug", "confidence": 99, "deep": {"why": "Traces"}, "options": AGAIN}
    client = await start(desk, answers=[sure])
    answer = await client.send("DESK")

    assert status(answer) == {"category": "bug", "confidence": 90}
    assert (await client.session()).context["note"] == "Traces!"
    assert answer["payload"]["ai_state"]["sure"] == 90
    assert [each["text"] for each in answer["payload"]["options"]] == ["Look again", "Close"]


async def test_what_the_model_left_out_takes_otherwise_or_stays(start, desk):
    client = await start(desk, answers=[{**REPLY, "options": AGAIN}])
    answer = await client.send("DESK")
    assert status(answer) == {"category": "other", "confidence": 1}
    assert (await client.session()).context["note"] == ""


async def test_what_the_offline_narrator_wrote_teaches_nothing(start, desk):
    client = await start(desk)
    assert status(await client.send("DESK")) == {"category": "other", "confidence": 1}


async def test_a_value_that_is_no_member_is_refused_with_a_warning(start, desk):
    client = await start(desk, answers=[{**REPLY, "category": "refund", "options": AGAIN}])
    answer = await client.send("DESK")
    assert status(answer)["category"] == "other"
    assert any("'refund' is not one of" in warning for warning in answer["payload"]["meta"]["warnings"])


async def test_nothing_that_a_model_writes_moves_the_machine(start, desk):
    wish = {
        **REPLY,
        "routing": {"next_event_type": "DONE", "should_end": True},
        "state": "DONE",
        "context": {"confidence": 100},
        "options": AGAIN,
    }
    client = await start(desk, answers=[wish])
    answer = await client.send("DESK")

    assert answer["session"]["state"] == "DESK"
    assert answer["payload"]["routing"]["allowed_event_types"] == ["DESK"]
    assert status(answer)["confidence"] == 1
    with pytest.raises(errors.OptionNotOffered):
        await client.send("DONE")


async def test_words_of_the_model_stand_until_the_next_ones(start, desk):
    told = {**REPLY, "ai_state": {"summary": "A bill is wrong."}, "options": AGAIN}
    client = await start(
        desk, answers=[told, {**REPLY, "options": AGAIN}, {**REPLY, "ai_state": {"summary": "Sorted."}}]
    )
    first = await client.send("DESK")
    second = await client.choose("again")
    third = await client.choose("again")
    assert [each["payload"]["ai_state"]["summary"] for each in (first, second, third)] == [
        "A bill is wrong.",
        "A bill is wrong.",
        "Sorted.",
    ]


async def test_written_states_are_never_told_by_a_model(start):
    written = MACHINE.replace("  DESK:\n    prompt: triage\n", "  DESK:\n    prompt: triage\n    narrate: written\n")
    machine = loader.load({"machines/tiny.yaml": written, "prompts/tiny/triage.prompty": PROMPT})
    client = await start(machine, answers=[])
    answer = await client.send("DESK")
    assert answer["payload"]["meta"]["narrator"] == "offline"
    assert answer["payload"]["meta"]["ai_generated"] is False
