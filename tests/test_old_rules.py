"""What a client may not ask today is no damage in a journal that took it before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Client, tiny
from served import runtime_of
from test_ledger import HALL

from runtime import request
from runtime.errors import ConstraintsUnsatisfiable, ValidationError
from runtime.turn import Runtime
from runtime.verify import verify
from server.wire import read_invoke

SLOTS = {"tone_bias": "calm\x1b[2J"}


async def played(monkeypatch: pytest.MonkeyPatch, **sent: Any) -> Runtime:
    """A session that was begun, and went on, when nobody refused what it sent."""
    runtime = runtime_of(tiny(HALL))
    await runtime.open()
    client = Client(runtime)
    with monkeypatch.context() as before:
        before.setattr(request, "broken_slots", lambda _: [])
        await client.send("INIT", **sent)
        await client.choose("look")
    monkeypatch.setattr(request, "why_not", lambda *_: "no words are left")
    return runtime


@pytest.mark.parametrize("sent", [{"slots": SLOTS}, {"constraints": {"max_chars_option": 2}}])
async def test_a_journal_that_took_more_is_good_still(monkeypatch, sent):
    runtime = await played(monkeypatch, **sent)

    told = [step async for step in verify(runtime)][-1]

    assert told.is_good


@pytest.mark.parametrize(
    ("sent", "kind"),
    [({"slots": SLOTS}, ValidationError), ({"constraints": {"max_chars_option": 2}}, ConstraintsUnsatisfiable)],
)
async def test_today_a_client_may_not(monkeypatch, sent, kind):
    monkeypatch.setattr(request, "why_not", lambda *_: "no words are left")
    runtime = runtime_of(tiny(HALL))
    await runtime.open()

    with pytest.raises(kind):
        await Client(runtime).send("INIT", **sent)

    assert await runtime.store.count() == 0


def test_slots_that_no_terminal_can_show_are_refused_with_every_other_fault():
    body = {"event": {"type": "INIT"}, "slots": {**SLOTS, "fine": "ok"}, "session": {"player_count": 0}}

    with pytest.raises(ValidationError) as refused:
        read_invoke(json.dumps(body).encode(), body)

    assert [fault["loc"] for fault in refused.value.facts["details"]] == [
        ["body", "session", "player_count"], ["body", "slots", "tone_bias"],
    ]  # fmt: skip
