"""Every fault of the fake provider, over real sockets: what the client gets, what the journal holds, and the session.

The rules never depend on what a model writes: whatever goes wrong, the same choices lead to the same session, and no
text breaks the session's constraints. `fear` is learned from the model's own answer: 0 where it was heard, else 9.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from fake_llm import FakeLLM, misbehaves
from msgspec import Struct
from msgspec.structs import replace
from served import Server, Web, runtime_of, serving

from runtime import loader
from runtime.constraints import find_term, speaks
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.narrators.openai import OpenAI
from runtime.narrators.profile import configured
from server.fake.faults import FAULTS

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
TERMS = {"zh": "血", "en": "blood"}
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
HEARD, UNHEARD = 0, 9
SECRET = "the house remembers everyone"  # noqa: S105 - what must stay in the prompt
LANGUAGES = ("zh", "en")
SHORT_S = 1.0
"""How long the model is waited for where it never speaks in time."""


def house(name: str, on_failure: str) -> Machine:
    text = HOUSE.replace("machine: house", f"machine: {name}\non_failure: {on_failure}")
    return loader.load({f"machines/{name}.yaml": text.lstrip(), f"prompts/{name}/turn.prompty": PROMPT})


class Row(Struct, frozen=True, kw_only=True):
    """What one fault comes to while it lasts.

    `calls` are the calls of the turn, `rungs` those beside the response format. `told` is who told
    the turn: `model` (unmended), `mended`, or `offline`; `refused` the error where the machine
    refuses to go on without the model. `is_late`: it is a matter of time. `is_billed`: the provider
    says what it took.
    """

    calls: int = 1
    rungs: tuple[str, ...] = ()
    told: str = "model"
    refused: str = ""
    retry_after: int | None = None
    is_late: bool = False
    is_billed: bool = True


LATE = Row(told="offline", rungs=("offline",), refused="narrator_unavailable", is_late=True, is_billed=False)
STATUS = Row(told="offline", rungs=("offline",), refused="narrator_unavailable", is_billed=False)
AGAIN = replace(STATUS, calls=3, rungs=("retry", "offline"))
UNREAD = Row(calls=2, rungs=("reask", "offline"), told="offline", refused="narration_invalid")
ROWS: Mapping[str, Row] = {
    "latency": LATE,
    "first_token": LATE,
    "drip": LATE,
    "truncated": UNREAD,
    "fences": Row(),
    "prose": Row(),
    "trailing_comma": UNREAD,
    "fullwidth": UNREAD,
    "blanks": UNREAD,
    "wrong_language": UNREAD,
    "overlong": UNREAD,
    "forbidden_term": UNREAD,
    "invented_route": Row(),
    "duplicate_ids": UNREAD,
    "five_options": UNREAD,
    "missing_options": UNREAD,
    "contradiction": UNREAD,
    "leak": UNREAD,
    "status_400": STATUS,
    "status_400_format": Row(calls=2, rungs=("text",)),
    "status_401": replace(STATUS, retry_after=300),
    "status_402": replace(STATUS, retry_after=300),
    "status_422": STATUS,
    "status_429": replace(AGAIN, retry_after=1),
    "status_500": AGAIN,
    "status_503": replace(AGAIN, retry_after=1),
    "cut": replace(UNREAD, is_billed=False),
    "keepalive": Row(),
    "content_filter": UNREAD,
    "wrong_usage": Row(is_billed=False),
    "huge": Row(is_billed=False),
    "gzip_bomb": STATUS,
    "plain": Row(),
    "thinking": Row(),
}
"""Each fault, and what it comes to."""


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(runtime_of(house("house", "offline"), house("strict", "refuse"))) as served:
        yield served


@contextmanager
def told_by(server: Server, llm: FakeLLM, *, is_late: bool = False) -> Iterator[None]:
    """The server's turns told by the fake provider, with breakers of their own; nothing is waited for between calls."""
    given: dict[str, Any] = {"timeout_s": SHORT_S} if is_late else {}
    narrator = OpenAI(configured("fake", base_url=llm.url, **given), sleep=_at_once)
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


def entry_of(server: Server, session_id: str) -> dict[str, Any]:
    """The session's last entry."""
    return dict(json.loads(server.journal(session_id)[-1]))


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
    most_scene, most_option = {"zh": (120, 14), "en": (240, 40)}[language]
    assert 0 < len(scene) <= most_scene
    assert all(0 < len(text) <= most_option for text in options)
    assert len(set(options)) == len(options)
    assert all(speaks(text, language) and find_term(text, (TERMS[language],)) is None for text in (scene, *options))
    assert SECRET not in json.dumps(payload, ensure_ascii=False)


@pytest.fixture(scope="module")
def harmless(server: Server) -> Mapping[str, Any]:
    """What the rules say where nothing goes wrong, by language: the same play, told offline."""
    found = {}
    with Web(server.url) as web:
        for language in LANGUAGES:
            begun(web, f"offline-{language}", language)
            found[language] = rules_of(web.invoke(f"offline-{language}", option=1))
    return found


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", ROWS)
def test_a_fault_is_no_more_than_a_pause(
    server: Server, llm: FakeLLM, harmless: Mapping[str, Any], fault: str, language: str
):
    """The turn is told, within the rules; the journal says how; the session is that of a harmless play."""
    row, session_id = ROWS[fault], f"{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language)
        llm.will(misbehaves(fault))

        with told_by(server, llm, is_late=row.is_late):
            data = web.invoke(session_id, option=1)
        calls = len(llm.requests)
        entry = entry_of(server, session_id)
        after = web.session(session_id)
        llm.will(misbehaves())
        with told_by(server, llm):
            last = web.invoke(session_id, option=2)

    payload, meta = data["payload"], data["payload"]["meta"]
    assert rules_of(data) == harmless[language]
    assert_within(payload, language)
    assert (calls, meta["attempts"]) == (row.calls, row.calls)
    assert tuple(meta["rungs"][1:]) == row.rungs
    assert_told(payload, row)
    assert_journaled(entry, data, row)
    assert after["answer"] == data
    assert last["session"]["ended"]
    assert last["payload"]["meta"]["narrator"] == "openai"


def assert_told(payload: Any, row: Row) -> None:
    """Who told the turn, and what was learned from it."""
    meta, is_models = payload["meta"], row.told == "model"
    assert payload["status"]["fear"]["value"] == (HEARD if is_models else UNHEARD)
    assert bool(meta["fallback"]) == (row.told == "offline")
    assert meta["ai_generated"] == (row.told != "offline")


def assert_journaled(entry: Mapping[str, Any], data: Any, row: Row) -> None:
    """The entry holds what was answered, what was learned from the model alone, and what the calls took."""
    meta, kept = data["payload"]["meta"], entry["narration"]
    assert entry["answer"] == data
    assert kept["output"]["scene"] == data["payload"]["scene"]
    assert ("omen" in kept["learned"]) == (data["payload"]["status"]["fear"]["value"] == HEARD)
    assert (entry["narrator"], entry.get("model")) == (meta["narrator"], meta["model"])
    assert entry["spent"]["calls"] == row.calls
    assert entry.get("usage", NO_USAGE) == meta["usage"]
    assert (meta["usage"]["prompt_tokens"] > 0) == row.is_billed


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row.refused])
def test_a_machine_may_refuse_to_go_on_without_its_model(server: Server, llm: FakeLLM, fault: str, language: str):
    """503, with what to do; nothing has changed, and the same again plays once the model is well."""
    row, session_id = ROWS[fault], f"strict-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language, "strict")
        before = server.journal(session_id)
        llm.will(misbehaves(fault))

        with told_by(server, llm, is_late=row.is_late):
            failure = web.invoke(session_id, option=1, expect=503)
        unchanged = server.journal(session_id)
        llm.will(misbehaves())
        with told_by(server, llm):
            again = web.invoke(session_id, option=1)

    assert failure["error"] == row.refused
    assert failure["retry"] == "same"
    assert failure["attempts"] == row.calls
    assert failure.get("retry_after_seconds") == row.retry_after
    assert speaks(failure["player_message"], language)
    assert unchanged == before
    assert again["session"]["turn"] == 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row.calls > 1])
def test_a_fault_that_passes_is_mended_by_the_next_call(server: Server, llm: FakeLLM, fault: str, language: str):
    """The second call brings what the first did not: the model is heard, and nothing is made up for it."""
    session_id = f"once-{fault}-{language}"
    with Web(server.url) as web:
        begun(web, session_id, language)
        llm.will(misbehaves(fault), misbehaves())

        with told_by(server, llm):
            payload = web.invoke(session_id, option=1)["payload"]

    assert payload["meta"]["attempts"] == 2
    assert payload["meta"]["fallback"] == []
    assert payload["status"]["fear"]["value"] == HEARD
    assert_within(payload, language)


def test_every_fault_has_its_row():
    assert list(ROWS) == list(FAULTS)
