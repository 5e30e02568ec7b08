"""Attacks on a server in this process: what holds is not told, and what breaks is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from msgspec.structs import replace

from runtime import loader, turn
from runtime.bench import hostile
from runtime.bench.hostile import attack
from runtime.errors import Refusal, StaleTurn
from runtime.machine import Machine
from runtime.session import Invoke

ROOT = Path(__file__).parents[1]
HALL = """
initial: HALL
context: {n: {type: int, default: 0, min: 0, max: 9}}
events: {SAY: {payload: {text: text, loud: "bool?"}}}
slots: {tone: calm}
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
        "a text that is too long", "a value of no right kind", "a rewind to nowhere", "odd slots",
        "a turn that is gone", "a key again", "a key for another request", "a race", "a rewind", "an odd beginning",
        "before the first event", "the first event again", "narrow constraints",
    ):  # fmt: skip
        assert found.tried[kind] > 0, kind
    for kind in (*hostile.REFUSED, "a key for another request"):
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
    assert len(bug.replay.steps[-1].with_["text"]) == 1
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


def _lenient(kind: str) -> Any:
    """A server that takes what it must refuse: the request of one kind, as if something right had been sent."""
    wrong = {
        "an option that isn't": lambda invoke: invoke.selected_option_id in hostile.ODD_IDS,
        "an unknown field": lambda invoke: "no_such_field" in invoke.payload,
        "a turn that is gone": lambda invoke: invoke.expected_turn is not None,
    }[kind]

    async def play(runtime: Any, invoke: Invoke, *more: Any) -> Any:
        if wrong(invoke):
            named = {"selected_option_id": None, "event": "SAY", "payload": {"text": "a"}, "expected_turn": None}
            invoke = replace(invoke, **named)
        return await turn.play(runtime, invoke, *more)

    return play


@pytest.mark.parametrize("kind", ["an option that isn't", "an unknown field", "a turn that is gone"])
async def test_a_server_that_takes_what_it_must_refuse_is_told(monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(hostile, "play", _lenient(kind))

    found = await attack(tiny(HALL), "种子", walks=1)

    assert any(bug.what.startswith(f"{kind}: it was taken, where ") for bug in found.bugs)


async def test_a_refusal_with_another_code_than_is_due_is_told(monkeypatch: pytest.MonkeyPatch):
    async def play(runtime: Any, invoke: Invoke, *more: Any) -> Any:
        if "no_such_field" in invoke.payload:
            raise StaleTurn("这一回合已经过去了", "")
        return await turn.play(runtime, invoke, *more)

    monkeypatch.setattr(hostile, "play", play)

    found = await attack(tiny(HALL), "a", walks=1)

    assert {bug.what.partition(", where ")[0] for bug in found.bugs} == {"an unknown field: refused with stale_turn"}


async def test_each_attack_is_made_on_the_newest_turn(monkeypatch: pytest.MonkeyPatch):
    """What was taken moves the session on: no request after it may be refused for being late."""
    codes: set[tuple[str, str]] = set()

    async def play(runtime: Any, invoke: Invoke, *more: Any) -> Any:
        try:
            return await turn.play(runtime, invoke, *more)
        except Refusal as refusal:
            codes.add((refusal.code, "stale" if invoke.expected_turn is not None else ""))
            raise

    monkeypatch.setattr(hostile, "play", play)

    await attack(tiny(HALL), "a", walks=2)

    assert ("stale_turn", "stale") in codes
    assert not {code for code, late in codes if not late} & {"session_ended", "stale_turn"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ticket_triage", "mine_adventure", "haunted_house"])
async def test_no_machine_that_ships_breaks_under_attack(name: str):
    machine: Machine = loader.load(loader.read_project(ROOT)[name])

    assert (await attack(machine, "a")).bugs == ()
