"""Attacks on a server in this process: what holds is not told, and what breaks is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from runtime import loader
from runtime.bench import hostile
from runtime.bench.hostile import attack
from runtime.machine import Machine

ROOT = Path(__file__).parents[1]
HALL = """
initial: HALL
context: {n: {type: int, default: 0, min: 0, max: 9}}
events: {SAY: {payload: {text: text, loud: "bool?"}}}
states:
  HALL:
    options:
      - {key: on, text: 走🏮, target: HALL, assign: {n: n + 1}}
      - {key: out, text: 出去, guard: n > 3, target: OUT}
    on: {SAY: HALL}
  OUT: {type: final}
"""


async def test_every_kind_of_attack_is_refused_or_played_and_breaks_nothing():
    found = await attack(tiny(HALL), "种子")

    assert found.bugs == ()
    for kind in (
        "an event that isn't", "an option that isn't", "free text", "a value of a wrong kind", "an unknown field",
        "a turn that is gone", "a key again", "a key for another request", "a race", "a rewind", "an odd beginning",
        "before the first event", "the first event again", "narrow constraints",
    ):  # fmt: skip
        assert found.tried[kind] > 0, kind
    for kind in ("an event that isn't", "an option that isn't", "an unknown field", "a key for another request"):
        assert found.tried[f"{kind}: refused"] == found.tried[kind], kind


async def test_the_same_attacks_come_of_a_seed():
    assert await attack(tiny(HALL), "a", walks=1) == await attack(tiny(HALL), "a", walks=1)


@pytest.mark.slow
async def test_a_machine_that_errs_under_attack_is_told_with_a_replay():
    """Only a text of one character divides by zero."""
    faulty = HALL.replace("on: {SAY: HALL}", "on: {SAY: [{target: HALL, assign: {n: 1 / (size(payload.text) - 1)}}]}")

    found = await attack(tiny(faulty), "a", walks=1)

    bug = next(bug for bug in found.bugs if bug.kind == "fault")
    assert bug.replay is not None
    assert bug.replay.steps[-1].with_["text"] == "!"
    assert "divide by zero" in bug.what


class Leaky(hostile.MemoryStore):
    """A store that keeps what was refused as well: its owner's fault, which the attack must see."""

    async def append(self, entry: Any, *more: Any, **named: Any) -> Any:
        kept = await super().append(entry, *more, **named)
        if entry.turn > 1:
            raise RuntimeError("kept, and fell over")
        return kept


async def test_a_server_that_falls_over_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hostile, "MemoryStore", Leaky)

    found = await attack(tiny(HALL), "a")

    assert any(bug.kind == "crash" and "kept, and fell over" in bug.what for bug in found.bugs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ticket_triage", "mine_adventure", "haunted_house"])
async def test_no_machine_that_ships_breaks_under_attack(name: str):
    machine: Machine = loader.load(loader.read_project(ROOT)[name])

    assert (await attack(machine, "a")).bugs == ()
