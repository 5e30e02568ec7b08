"""The narrator that asks a model: what it sends, what it takes, what it tries again, and when it gives up."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_llm import (
    FakeLLM,
    completion,
    cuts_off,
    drips,
    hangs,
    hangs_up,
    keeps_alive,
    refuses,
    response,
    says,
    sends,
)
from msgspec.structs import replace
from tasks import BOUNDS, GOOD, OFFER, PLAYER_TEXT, task, tell

from runtime import loader
from runtime.errors import NarrationInvalid, NarratorUnavailable, WorldError
from runtime.narrators.openai import MAX_ANSWER_BYTES, OpenAI, Profile, deepseek
from runtime.narrators.scripted import Scripted
from runtime.prices import Prices
from runtime.session import Invoke, Usage
from runtime.stores.memory import MemoryStore
from runtime.tokens import roughly
from runtime.turn import Runtime, play

KEY = "sk-this-is-the-secret-key"
SIX = {"prompt_tokens": 6, "completion_tokens": 1}
WHOLE_TURN = 3
"""The most calls of one turn."""
PATIENCE_S = 30
"""How long a test waits before it calls a deadline broken: far above any that it sets."""


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    """A chat API on a real socket."""
    with FakeLLM() as fake:
        yield fake


class Clock:
    """Notes how long the narrator would have slept, and doesn't sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@asynccontextmanager
async def narrator(llm: FakeLLM, clock: Clock | None = None, **profile: Any) -> AsyncIterator[OpenAI]:
    """The narrator under test: jitter at its most, and no time passing between calls."""
    made = Profile(base_url=llm.url, model="asked-1", key=KEY, **profile)
    under_test = OpenAI(made, sleep=(clock or Clock()).sleep, jitter=lambda: 1.0, clock=lambda: 1_700_000_000.0)
    try:
        yield under_test
    finally:
        await under_test.close()


# What it sends.


async def test_the_request_carries_the_prompt_then_the_shape_of_the_answer(llm: FakeLLM) -> None:
    """The prompt's messages come first, unchanged; the last one names every key, every limit, and json."""
    llm.will(says(GOOD))

    async with narrator(llm) as openai:
        await tell(openai, task())

    asked = llm.requests[0]
    messages = asked.body["messages"]
    assert asked.path == "/v1/chat/completions"
    assert [message["role"] for message in messages] == ["system", "user", "system"]
    assert PLAYER_TEXT in messages[1]["content"]
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["accept-encoding"] == "identity"
    for wanted in ("json", '"scene": "<text of at most 80 characters>"', '"key": "flee"', "at most 20", '"tone"'):
        assert wanted in messages[2]["content"]


async def test_the_shape_is_told_in_the_language_of_the_session(llm: FakeLLM) -> None:
    """A Chinese session is asked in Chinese, so that the model doesn't slip into English."""
    llm.will(refuses(400))

    async with narrator(llm) as openai:
        with pytest.raises(NarratorUnavailable):
            await tell(openai, task(on_failure="refuse", bounds=replace(BOUNDS, language="zh")))

    told = llm.requests[0].body["messages"][-1]["content"]
    assert "json" in told
    assert "至多 80 字" in told


async def test_a_designers_own_json_schema_is_told_and_checked(llm: FakeLLM) -> None:
    """Lists, choices and values of any kind are described; what they hold is left as written."""
    own = {
        "type": "object",
        "properties": {
            "scene": {"type": "string"},
            "mood": {"type": "string", "enum": ["calm", "tense"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "anything": True,
        },
        "required": ["scene", "mood"],
        "additionalProperties": False,
    }
    answer = {**GOOD, "tags": ["lamp"], "anything": {"goes": [1]}}
    llm.will(says({**answer, "mood": "bored"}), says(answer))

    async with narrator(llm) as openai:
        narration = await tell(openai, task(outputs=own))

    told = llm.requests[0].body["messages"][-1]["content"]
    assert '"mood": "<one of calm, tense>"' in told
    assert '"tags": ["<optional text' in told
    assert '"anything": <optional any JSON value>' in told
    assert narration.attempts == 2
    assert narration.learned["anything"] == {"goes": [1]}


@pytest.mark.parametrize(("options", "expected"), [({"max_tokens": 700}, 700), ({}, 1200)])
async def test_max_tokens_is_always_set(llm: FakeLLM, options: dict[str, Any], expected: int) -> None:
    """From the prompt where it says, else from the profile."""
    llm.will(says(GOOD))

    async with narrator(llm) as openai:
        await tell(openai, task(options={"temperature": 0.2, **options}))

    assert llm.requests[0].body["max_tokens"] == expected
    assert llm.requests[0].body["temperature"] == 0.2


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("json_object", "json_object"), ("json_schema", "json_schema"), ("text", None)],
)
async def test_the_response_format_is_the_profiles(llm: FakeLLM, asked: Any, expected: str | None) -> None:
    """`text` sends none; `json_schema` sends the task's schema."""
    llm.will(says(GOOD))
    telling = task()

    async with narrator(llm, response_format=asked) as openai:
        narration = await tell(openai, telling)

    sent = llm.requests[0].body.get("response_format", {})
    assert sent.get("type") == expected
    assert narration.rungs == (asked,)
    if asked == "json_schema":
        assert sent["json_schema"]["schema"] == telling.schema


async def test_a_local_server_needs_no_key(llm: FakeLLM) -> None:
    """Without a key no Authorization header is sent."""
    llm.will(says(GOOD))
    openai = OpenAI(Profile(base_url=llm.url, model="any"))

    await tell(openai, task())
    await openai.close()

    assert "authorization" not in llm.requests[0].headers


async def sent_to(profile: Profile) -> Mapping[str, Any]:
    """The body that would go to the profile's host, caught before the network."""
    caught: list[bytes] = []

    def catch(request: httpx.Request) -> httpx.Response:
        caught.append(request.content)
        return httpx.Response(200, stream=httpx.ByteStream(completion(GOOD)))

    openai = OpenAI(profile, transport=httpx.MockTransport(catch))
    await tell(openai, task())
    await openai.close()
    return json.loads(caught[0])


async def test_thinking_is_switched_off_at_deepseek() -> None:
    """Its own host gets the switch, since thinking is on there by default."""
    body = await sent_to(deepseek(KEY))

    assert body["thinking"] == {"type": "disabled"}
    assert body["model"] == "deepseek-flash"


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:9/v1", "https://api.deepseek.com.example.org", "https://llm.example/"]
)
async def test_the_thinking_switch_goes_to_no_other_host(base_url: str) -> None:
    """Others may refuse a parameter that they don't know."""
    assert "thinking" not in await sent_to(deepseek(KEY, base_url))


# What it takes.


async def test_a_good_answer_becomes_a_narration(llm: FakeLLM) -> None:
    """Outputs, ai_state and options apart; learned has what the model wrote; the usage is the provider's."""
    usage = {"prompt_tokens": 400, "completion_tokens": 90, "prompt_cache_hit_tokens": 320}
    llm.will(says(GOOD, usage=usage, model="fake-1"))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.narrator == "openai"
    assert narration.output == {"scene": GOOD["scene"], "mood": "tense"}
    assert narration.ai_state == {"tone": "grim"}
    assert narration.options == {"strike": "Hit it again", "flee": "Run for it"}
    assert narration.learned == {"scene": GOOD["scene"], "mood": "tense", "tone": "grim"}
    assert (narration.model, narration.ai_generated, narration.attempts) == ("fake-1", True, 1)
    assert narration.usage == Usage(400, 90, 320)
    assert narration.warnings == ()


async def test_nested_outputs_stay_nested_in_what_is_learned(llm: FakeLLM) -> None:
    """`output.opening.scene` is found where the prompt declares it."""
    opening = {"opening": {"scene": "A lamp burns in the hall.", "mood": "calm"}}
    llm.will(says({**opening, "options": GOOD["options"]}))

    async with narrator(llm) as openai:
        narration = await tell(openai, task(outputs={"opening": {"scene": "scene", "mood": "str"}}))

    assert narration.learned == opening


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 7}}, Usage(9, 4, 7)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 5}, Usage(9, 4, 5)),
    ],
)
async def test_usage_is_read_in_each_providers_words(llm: FakeLLM, usage: object, expected: Usage) -> None:
    llm.will(says(GOOD, usage=usage))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.usage == expected


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": "9", "completion_tokens": -4, "prompt_tokens_details": None}, "none", None, {}],
    ids=["insane", "no map", "null", "empty"],
)
async def test_usage_that_says_nothing_sane_is_estimated(llm: FakeLLM, usage: object) -> None:
    """It is paid for all the same, and a budget would never bind."""
    llm.will(says(GOOD, usage=usage))

    async with narrator(llm, own_prices=Prices(1.0, 1.0, 1.0)) as openai:
        narration = await tell(openai, task())

    assert narration.usage == estimated(llm, json.dumps(GOOD, ensure_ascii=False))
    assert narration.spent.cost_micros == narration.usage.prompt_tokens + narration.usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("failure", "written"),
    [(hangs(), ""), (says("null"), "null"), (sends(response(200, b"<html>")), "")],
    ids=["no word in time", "no use", "no answer"],
)
async def test_a_call_in_vain_that_reached_its_provider_is_estimated(llm: FakeLLM, failure: Any, written: str) -> None:
    llm.will(failure, refuses(400))

    async with narrator(llm, first_token_s=0.3, attempt_timeout_s=1.0) as openai:
        with pytest.raises(WorldError) as refused:
            await tell(openai, task(on_failure="refuse"))

    error: Any = refused.value
    assert error.usage == estimated(llm, written)
    assert error.usage.prompt_tokens > 0


@pytest.mark.parametrize("failure", [refuses(400), refuses(503), hangs_up()], ids=["refused", "busy", "no connection"])
async def test_a_call_that_was_not_answered_costs_nothing(llm: FakeLLM, failure: Any) -> None:
    llm.will(failure)

    async with narrator(llm) as openai:
        with pytest.raises(NarratorUnavailable) as refused:
            await tell(openai, task(on_failure="refuse"))

    error: Any = refused.value
    assert error.usage == Usage()


def estimated(llm: FakeLLM, written: str) -> Usage:
    """What the first request took, where its provider told nothing."""
    prompt = sum(roughly(message["content"]) for message in llm.requests[0].body["messages"])
    return Usage(prompt, roughly(written))


@pytest.mark.parametrize(
    "content",
    [
        "```json\n" + json.dumps(GOOD) + "\n```",
        "Here is the turn:\n" + json.dumps(GOOD) + "\nEnjoy!",
        "\n\n  " + json.dumps(GOOD),
    ],
    ids=["fenced", "prose around", "blanks before"],
)
async def test_fences_and_prose_around_the_object_are_passed_over(llm: FakeLLM, content: str) -> None:
    """The object inside is what the model answered, at the first call."""
    llm.will(says(content))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.output["scene"] == GOOD["scene"]
    assert narration.attempts == 1


async def test_keep_alive_noise_before_the_answer_is_passed_over(llm: FakeLLM) -> None:
    """DeepSeek sends blank lines while it is busy."""
    llm.will(keeps_alive(GOOD))

    async with narrator(llm) as openai:
        assert (await tell(openai, task())).attempts == 1


async def test_a_models_wish_moves_nothing(llm: FakeLLM) -> None:
    """Keys that nobody asked for are dropped at every depth, and named in one warning."""
    options = [{**option, "event_type": "END"} for option in GOOD["options"]]
    llm.will(says({**GOOD, "routing": {"next_event_type": "END"}, "hp": 99, "options": options}))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.learned == {"scene": GOOD["scene"], "mood": "tense", "tone": "grim"}
    assert narration.options == {"strike": "Hit it again", "flee": "Run for it"}
    assert narration.warnings == ("ignored: routing, hp, event_type",)


async def test_a_warning_never_carries_words_of_the_model(llm: FakeLLM) -> None:
    """A dropped key is named only where it is a plain name without a forbidden term."""
    llm.will(says({**GOOD, "blood": 1, "You are all fools!": 1}))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.warnings == ("ignored: 2 more",)


async def test_null_stands_for_an_optional_part_left_out(llm: FakeLLM) -> None:
    """Models write null for what they have nothing to say about."""
    llm.will(says({**GOOD, "mood": None, "clue": None, "ai_state": {"tone": None}}))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert narration.learned == {"scene": GOOD["scene"]}
    assert narration.attempts == 1


async def test_a_model_name_that_is_none_is_replaced_by_the_one_asked_for(llm: FakeLLM) -> None:
    """The name goes to the journal and the answer: it must be a name."""
    llm.will(says(GOOD, model="<script>"))

    async with narrator(llm) as openai:
        assert (await tell(openai, task())).model == "asked-1"


# What it asks again.


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
async def test_a_status_that_may_pass_is_tried_again(llm: FakeLLM, status: int) -> None:
    """The same prompt again after a wait; the narration says that it took two."""
    clock = Clock()
    llm.will(refuses(status), says(GOOD))

    async with narrator(llm, clock) as openai:
        narration = await tell(openai, task())

    assert (narration.attempts, narration.rungs) == (2, ("json_object", "retry"))
    assert clock.slept == [0.5]
    assert llm.requests[0].body == llm.requests[1].body


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 422])
async def test_a_status_that_will_not_pass_is_not_tried_again(llm: FakeLLM, status: int) -> None:
    """One call; the error names the host and the status, and says what to check."""
    llm.will(refuses(status))

    async with narrator(llm) as openai:
        with pytest.raises(NarratorUnavailable, match=f"at 127.0.0.1:\\d+ answered {status}, after 1 call") as refused:
            await tell(openai, task(on_failure="refuse"))

    assert len(llm.requests) == 1
    resting = {"retry_after_seconds": 300} if status in (401, 402, 404) else {}
    assert refused.value.facts == {"rungs": ("json_object",), "attempts": 1, **resting}
    assert refused.value.hint


async def test_an_empty_balance_is_not_waited_for(llm: FakeLLM) -> None:
    """OpenAI says 429 for it too; its code tells them apart, and is named."""
    llm.will(refuses(429, {"code": "insufficient_quota", "message": f"{KEY} has no credit"}))

    async with narrator(llm) as openai:
        with pytest.raises(NarratorUnavailable, match=r"answered 429 \(insufficient_quota\), after 1 call"):
            await tell(openai, task(on_failure="refuse"))


async def test_three_calls_are_the_most(llm: FakeLLM) -> None:
    """The waits double; the third failure ends it."""
    clock = Clock()
    llm.will(refuses(503))

    async with narrator(llm, clock) as openai:
        with pytest.raises(NarratorUnavailable, match="answered 503, after 3 calls") as refused:
            await tell(openai, task(on_failure="refuse"))

    assert len(llm.requests) == WHOLE_TURN
    assert clock.slept == [0.5, 1.0]
    assert refused.value.facts == {"rungs": ("json_object", "retry"), "attempts": 3}


async def test_jitter_takes_up_to_half_of_a_wait(llm: FakeLLM) -> None:
    """So that many turns that failed together don't come back together."""
    clock = Clock()
    llm.will(refuses(503), refuses(503), says(GOOD))
    openai = OpenAI(Profile(base_url=llm.url, model="any"), sleep=clock.sleep, jitter=lambda: 0.0)

    await tell(openai, task())
    await openai.close()

    assert clock.slept == [0.25, 0.5]


@pytest.mark.parametrize(
    ("value", "waited"),
    [("7", 7.0), ("Tue, 14 Nov 2023 22:13:29 GMT", 9.0), ("Tue, 14 Nov 2023 22:13:00 GMT", 0.5), ("soon", 0.5)],
    ids=["seconds", "date", "past date", "nonsense"],
)
async def test_retry_after_is_honoured(llm: FakeLLM, value: str, waited: float) -> None:
    """As seconds and as a date; the backoff is the least."""
    clock = Clock()
    llm.will(refuses(429, headers={"Retry-After": value}), says(GOOD))

    async with narrator(llm, clock) as openai:
        await tell(openai, task())

    assert clock.slept == [waited]


@pytest.mark.parametrize("value", ["31", "9" * 400])
async def test_a_wait_beyond_the_budget_is_not_begun(llm: FakeLLM, value: str) -> None:
    """The turn fails at once, and the client is told when to come back."""
    clock = Clock()
    llm.will(refuses(429, headers={"Retry-After": value}))

    async with narrator(llm, clock) as openai:
        with pytest.raises(NarratorUnavailable) as refused:
            await tell(openai, task(on_failure="refuse"))

    assert clock.slept == []
    assert refused.value.facts["attempts"] == 1
    assert refused.value.facts["retry_after_seconds"] == min(int(value), 86_400)


@pytest.mark.parametrize(
    "failure",
    [
        hangs_up(),
        sends(b"SSH-2.0-nonsense\r\n\r\n", then_close=True),
        cuts_off(GOOD, keep=90, announced=True),
        cuts_off(GOOD, keep=90, announced=False),
        sends(response(200, b"<html>busy</html>")),
        sends(response(200, b'{"error": {"message": "busy"}}')),
        sends(response(200, b'{"choices": []}')),
        sends(response(200, b"[" * 100_000)),
        sends(response(200, b"\xff\xfe")),
        sends(response(200, b'{"choices": [{"message": {"content": [1]}}]}')),
        sends(response(200, b" " * (MAX_ANSWER_BYTES + 1))),
    ],
    ids=["closed", "no http", "cut", "cut unannounced", "html", "error in 200", "no choice", "deep", "no utf-8",
         "no text", "too large"],
)  # fmt: skip
async def test_what_is_no_completion_is_tried_again(llm: FakeLLM, failure: Any) -> None:
    """Connections break, proxies answer in the model's place; the next call may be good."""
    llm.will(failure, says(GOOD))

    async with narrator(llm) as openai:
        assert (await tell(openai, task())).attempts == 2

    assert len(llm.requests) == 2


async def test_no_connection_is_unavailable() -> None:
    """Nobody listens: three tries, then the error names the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    openai = OpenAI(Profile(base_url=f"http://127.0.0.1:{port}", model="any"), sleep=Clock().sleep)

    with pytest.raises(NarratorUnavailable, match=rf"127\.0\.0\.1:{port} could not be reached.*after 3 calls"):
        await tell(openai, task(on_failure="refuse"))
    await openai.close()


OPTIONAL: dict[str, Any] = {
    "wrong type of what may be left out": {**GOOD, "danger": "high"},
    "option added": {**GOOD, "options": [*GOOD["options"], {"key": "pray", "text": "Pray"}]},
    "unclosed": json.dumps(GOOD)[:-1],
}
MENDED: dict[str, Any] = {
    "scene too long": {**GOOD, "scene": "The lamp lands. " * 6},
    "control character": {**GOOD, "scene": "The lamp lands.\u001b[2J"},
    "NUL": {**GOOD, "scene": "The lamp\u0000 lands."},
}
BREACHES: dict[str, Any] = {
    "required output missing": {key: value for key, value in GOOD.items() if key != "scene"},
    "option too long": {**GOOD, "options": [GOOD["options"][0], {"key": "flee", "text": "Run for the door at once"}]},
    "forbidden term": {**GOOD, "scene": "There is blood on the lamp."},
    "forbidden term in an option": {**GOOD, "options": [{"key": "strike", "text": "More blood"}, GOOD["options"][1]]},
    "wrong language": {**GOOD, "scene": "灯砸中了它，那东西发出一声尖啸，退回黑暗里去了。"},
    "option dropped": {**GOOD, "options": GOOD["options"][:1]},
    "option twice": {**GOOD, "options": [GOOD["options"][0], GOOD["options"][0]]},
    "no options": {key: value for key, value in GOOD.items() if key != "options"},
    "blank": "   \n",
    "null content": None,
    "not json": "The lamp lands, and the thing folds up.",
    "a list": "[1, 2]",
    "nested deeply": '{"scene": ' * 40 + "1" + "}" * 40,
}


@pytest.mark.parametrize("bad", OPTIONAL.values(), ids=OPTIONAL)
async def test_what_nobody_needs_is_worth_no_call(llm: FakeLLM, bad: Any) -> None:
    """What may be left out is, what nobody asked for is dropped, what only ends early is closed."""
    llm.will(says(bad))

    async with narrator(llm) as openai:
        narration = await tell(openai, task(on_failure="refuse"))

    assert len(llm.requests) == 1
    assert narration.output == {"scene": GOOD["scene"], "mood": "tense"}
    assert narration.options == {"strike": "Hit it again", "flee": "Run for it"}


@pytest.mark.parametrize("bad", MENDED.values(), ids=MENDED)
async def test_what_a_re_ask_does_not_cure_is_mended_and_not_learned_from(llm: FakeLLM, bad: Any) -> None:
    llm.will(says(bad))

    async with narrator(llm) as openai:
        narration = await tell(openai, task(on_failure="refuse"))

    assert len(llm.requests) == 2
    assert narration.rungs[-2:] == ("reask", "mended")
    assert 0 < len(narration.output["scene"]) <= BOUNDS.max_chars_scene
    assert "\u001b" not in narration.output["scene"]
    assert narration.learned == {"mood": "tense", "tone": "grim"}


@pytest.mark.parametrize("bad", {**BREACHES, **MENDED}.values(), ids={**BREACHES, **MENDED})
async def test_an_answer_against_the_rules_is_asked_again(llm: FakeLLM, bad: Any) -> None:
    """At once, with the same prompt and a word on what was wrong; the good answer then is taken."""
    clock = Clock()
    llm.will(says(bad, usage={"prompt_tokens": 5, "completion_tokens": 1}), says(GOOD, usage=SIX))

    async with narrator(llm, clock) as openai:
        narration = await tell(openai, task())

    first, second = (request.body["messages"] for request in llm.requests)
    assert narration.attempts == 2
    assert narration.rungs[0] == "json_object"
    assert narration.rungs[-1] == "reask"
    assert narration.output["scene"] == GOOD["scene"]
    assert narration.usage == Usage(11, 2)
    assert clock.slept == []
    assert second[:-1] == first[:-1]
    assert second[-1]["content"].startswith(first[-1]["content"])
    assert "could not be used" in second[-1]["content"]


@pytest.mark.parametrize("bad", BREACHES.values(), ids=BREACHES)
async def test_answers_never_within_the_rules_are_invalid(llm: FakeLLM, bad: Any) -> None:
    """One re-ask, then narration_invalid: it names paths and rules, and not one word of the text."""
    llm.will(says(bad))

    async with narrator(llm) as openai:
        with pytest.raises(NarrationInvalid, match=r"answered, and .*, after 2 calls") as refused:
            await tell(openai, task(on_failure="refuse"))

    assert len(llm.requests) == 2
    assert refused.value.facts["rungs"][-1] == "reask"
    assert refused.value.facts["attempts"] == 2
    for word in ("lamp", "blood", "灯", "Run for", PLAYER_TEXT, KEY):
        assert word not in refused.value.message + refused.value.hint


async def test_an_answer_cut_at_max_tokens_is_asked_to_be_shorter(llm: FakeLLM) -> None:
    """finish_reason tells why the object doesn't close."""
    llm.will(says(json.dumps(GOOD)[:60], finish_reason="length"), says(GOOD))

    async with narrator(llm) as openai:
        await tell(openai, task())

    assert "cut off" in llm.requests[1].body["messages"][-1]["content"]


async def test_what_the_content_filter_cut_is_not_told(llm: FakeLLM) -> None:
    """Even where what is left of it would pass."""
    llm.will(says(GOOD, finish_reason="content_filter"))

    async with narrator(llm) as openai:
        with pytest.raises(NarrationInvalid, match="content filter"):
            await tell(openai, task(on_failure="refuse"))


async def test_one_answer_is_enough_to_call_it_invalid(llm: FakeLLM) -> None:
    """The model spoke once and then broke down: the narration is invalid, and the last word says why."""
    llm.will(says("no json"), refuses(401))

    async with narrator(llm) as openai:
        with pytest.raises(NarrationInvalid, match="answered 401, after 2 calls"):
            await tell(openai, task(on_failure="refuse"))


async def test_what_was_wrong_is_remembered_over_a_broken_call(llm: FakeLLM) -> None:
    """A 503 between two answers doesn't make the model forget what to mend."""
    llm.will(says("no json"), refuses(503), says(GOOD))

    async with narrator(llm) as openai:
        await tell(openai, task())

    assert llm.requests[1].body == llm.requests[2].body
    assert "could not be used" in llm.requests[2].body["messages"][-1]["content"]


# Deadlines, and many at once.


async def test_a_call_that_hangs_is_left_and_tried_again(llm: FakeLLM) -> None:
    """One call's own time is shorter than the turn's."""
    llm.will(hangs(), says(GOOD))

    async with narrator(llm, attempt_timeout_s=0.2) as openai:
        assert (await tell(openai, task())).attempts == 2


@pytest.mark.parametrize("failure", [hangs(), drips(every_s=0.01)], ids=["silence", "slow drip"])
async def test_the_total_deadline_holds(llm: FakeLLM, failure: Any) -> None:
    """Whatever trickles in meanwhile: the turn ends when its time is over."""
    llm.will(failure)

    async with narrator(llm, timeout_s=0.4) as openai, asyncio.timeout(PATIENCE_S):
        with pytest.raises(NarratorUnavailable, match=r"no answer within 0\.[34]\d* s, after 1 call"):
            await tell(openai, task(on_failure="refuse"))


async def test_waiting_for_a_free_place_counts_within_the_deadline(llm: FakeLLM) -> None:
    """Ten turns and one place: none waits longer than its own time."""
    llm.will(hangs())

    async with narrator(llm, timeout_s=0.3, max_in_flight=1) as openai, asyncio.timeout(PATIENCE_S):
        ended = await asyncio.gather(
            *(tell(openai, task(on_failure="refuse")) for _ in range(10)), return_exceptions=True
        )

    assert all(isinstance(end, NarratorUnavailable) for end in ended)


async def test_connections_are_used_again(llm: FakeLLM) -> None:
    """Ten turns one after another go over one connection, refusals included."""
    llm.will(refuses(503), says(GOOD))

    async with narrator(llm) as openai:
        for _ in range(10):
            await tell(openai, task())

    assert len(llm.requests) == 11
    assert llm.connections == 1


async def test_a_narrator_keeps_no_cookies(llm: FakeLLM) -> None:
    """What one player's call brought is not sent with another's."""
    llm.will(sends(response(200, completion(GOOD), {"Set-Cookie": "who=player-one"})), says(GOOD))

    async with narrator(llm) as openai:
        await tell(openai, task())
        await tell(openai, task())

    assert "cookie" not in llm.requests[1].headers


async def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    llm: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local model is reached directly, whatever the proxy for the outside is."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    llm.will(says(GOOD))

    async with narrator(llm) as openai:
        assert (await tell(openai, task())).attempts == 1


# In the flow.


async def test_a_failed_narration_leaves_the_session_unchanged(llm: FakeLLM) -> None:
    """The turn is refused, the journal is as it was, and the same event plays once the model is back."""
    llm.will(refuses(401))
    files = loader.read_project(Path(__file__).parent / "projects" / "lantern")["lantern_house"]
    name = "machines/lantern_house.yaml"
    machines = {"lantern_house": loader.load({**files, name: files[name] + "\non_failure: refuse\n"})}

    async with narrator(llm) as openai:
        runtime = Runtime(MemoryStore(), openai, machines, "lantern_house")
        await runtime.open()
        with pytest.raises(NarratorUnavailable):
            await play(runtime, Invoke(event="INIT", session_id="s1", run_seed="a"))
        assert await runtime.store.head("s1") is None

        runtime.narrator = Scripted([{}], fill=True)
        played = await play(runtime, Invoke(event="INIT", session_id="s1", run_seed="a"))

    assert played.entry.turn == 1


# Secrets.


async def test_no_log_line_holds_a_key_a_prompt_or_a_players_text(
    llm: FakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    """At any level, for calls that fail in each way; the URL isn't logged either."""
    error = {"message": f"the key {KEY} said {PLAYER_TEXT}", "code": "busy"}
    llm.will(refuses(500, error), says({**GOOD, "scene": f"blood, and {PLAYER_TEXT}"}), says(GOOD))

    with caplog.at_level(logging.INFO):
        async with narrator(llm) as openai:
            await tell(openai, task(on_failure="refuse"))

    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "call 1 of 3" in line and "answered 500 (busy)" in line]
    assert [line for line in lines if "call 2 of 3" in line and "scene (term)" in line]
    for secret in (KEY, PLAYER_TEXT, "Tell what came of it", "chat/completions"):
        assert secret not in caplog.text


def test_the_offer_of_this_file_is_the_one_that_its_answers_word() -> None:
    """The answers above word exactly the options that the task offers."""
    assert [option["key"] for option in GOOD["options"]] == [offer.key for offer in OFFER]
