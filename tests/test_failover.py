"""Several providers: who is asked next after what, who is left alone, and what a turn gets where nobody answers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from conftest import tiny
from fake_llm import FakeLLM, cuts_off, hangs, hangs_up, refuses, says
from served import Web, runtime_of, serving
from tasks import GOOD, task, tell

from runtime.errors import NarratorUnavailable, Overloaded
from runtime.narrators.breaker import LONG_REST_S, REST_S
from runtime.narrators.openai import OpenAI, Profile
from runtime.prices import Prices
from runtime.session import Usage
from server.fake.http import chunk, head_of
from server.fake.sending import CHUNKED, EVENTS

USED = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_cache_hit_tokens": 60}
PATIENCE_S = 30.0
MACHINE = """
initial: INIT
states:
  INIT: {on: {END: END}}
  END: {type: final}
"""


@pytest.fixture
def llms() -> Iterator[Callable[[int], list[FakeLLM]]]:
    """So many chat APIs, each on a real socket."""
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(FakeLLM()) for _ in range(count)]


class Time:
    """Time that passes only where it is told, or slept away."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@asynccontextmanager
async def narrator(*llms: FakeLLM, time: Time | None = None, **profile: Any) -> AsyncIterator[OpenAI]:
    """A narrator with a provider for each, named `other`, `other-2`, … in this order."""
    time = time or Time()
    made = [Profile(base_url=llm.url, model="asked-1", **profile) for llm in llms]
    under_test = OpenAI(*made, sleep=time.sleep, jitter=lambda: 1.0, steady=time)
    try:
        yield under_test
    finally:
        await under_test.close()


def stalls() -> Any:
    """Begin the good answer and send no more of it, without end."""
    word = {"choices": [{"index": 0, "delta": {"content": json.dumps(GOOD)[:60]}}]}

    async def behave(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(head_of(200, {**EVENTS, **CHUNKED}) + chunk(f"data: {json.dumps(word)}\n\n".encode()))
        await asyncio.Event().wait()

    return behave


def asked(*llms: FakeLLM) -> list[int]:
    """How many calls each got."""
    return [len(llm.requests) for llm in llms]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
async def test_what_will_not_pass_fails_over_at_once(llms: Any, status: int) -> None:
    """Without a wait and without another try: each provider's rules, keys and balances are its own."""
    first, second = llms(2)
    first.will(refuses(status))
    second.will(says(GOOD, usage=USED))
    time = Time()

    async with narrator(first, second, time=time) as openai:
        narration = await tell(openai, task())

    assert asked(first, second) == [1, 1]
    assert time.slept == []
    assert narration.rungs == ("json_object", "failover")
    assert (narration.attempts, narration.spent.provider, narration.spent.calls) == (2, "other-2", 2)
    assert narration.learned["scene"] == GOOD["scene"]


async def test_what_may_pass_is_tried_once_more_and_then_fails_over(llms: Any) -> None:
    first, second = llms(2)
    first.will(refuses(503))
    second.will(says(GOOD))
    time = Time()

    async with narrator(first, second, time=time) as openai:
        narration = await tell(openai, task())

    assert asked(first, second) == [2, 1]
    assert time.slept == [0.5]
    assert narration.rungs == ("json_object", "retry", "failover")


async def test_three_calls_are_the_most_whoever_gets_them(llms: Any) -> None:
    first, second, third = llms(3)
    for llm in (first, second, third):
        llm.will(refuses(503))

    async with narrator(first, second, third) as openai:
        with pytest.raises(NarratorUnavailable, match="answered 503, after 3 calls"):
            await tell(openai, task(on_failure="refuse"))

    assert asked(first, second, third) == [2, 1, 0]


@pytest.mark.parametrize("value", ["2", "31"])
async def test_a_wait_is_not_waited_while_another_can_be_asked(llms: Any, value: str) -> None:
    first, second = llms(2)
    first.will(refuses(429, headers={"Retry-After": value}))
    second.will(says(GOOD))
    time = Time()

    async with narrator(first, second, time=time) as openai:
        await tell(openai, task())

    assert (asked(first, second), time.slept) == ([1, 1], [])


@pytest.mark.parametrize("failure", [hangs(), hangs_up()], ids=["silence", "no connection"])
async def test_one_that_says_nothing_in_time_fails_over(llms: Any, failure: Any) -> None:
    first, second = llms(2)
    first.will(failure)
    second.will(says(GOOD))

    async with narrator(first, second, first_token_s=0.5) as openai:
        narration = await tell(openai, task())

    assert (narration.attempts, narration.spent.provider) == (2, "other-2")
    assert "failover" in narration.rungs


async def test_a_stream_that_breaks_off_is_asked_for_the_rest(llms: Any) -> None:
    """By the same provider, as a re-ask: there is only one."""
    (llm,) = llms(1)
    llm.will(cuts_off(GOOD, keep=2000, announced=False), says(GOOD))

    async with narrator(llm) as openai:
        narration = await tell(openai, task())

    assert asked(llm) == [2]
    assert narration.rungs[-1] == "reask"
    assert narration.output["scene"] == GOOD["scene"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cut", [cuts_off(GOOD, keep=2000, announced=False), stalls()], ids=["by the host", "by our own limit"]
)
async def test_what_a_cut_answer_lacks_is_asked_of_another(llms: Any, cut: Any) -> None:
    """One that is slow or broken would be so again; and it counts against it."""
    first, second = llms(2)
    first.will(cut)
    second.will(says(GOOD))

    async with narrator(first, second, attempt_timeout_s=2.0, failures=1) as openai:
        narration = await tell(openai, task())
        assert [each.breaker for each in openai.standing()] == ["open", "closed"]

    assert asked(first, second) == [1, 1]
    assert narration.rungs[-2:] == ("reask", "failover")
    assert narration.output["scene"] == GOOD["scene"]
    assert narration.fallback == ()


async def test_an_answer_that_adds_nothing_has_told_nothing(llms: Any) -> None:
    """The model that a label names is the one whose words are read."""
    first, second = llms(2)
    first.will(says({**GOOD, "options": []}, model="first-1"), refuses(401))
    second.will(says("no json", model="second-1"))

    async with narrator(first, second) as openai:
        narration = await tell(openai, task())

    assert asked(first, second) == [2, 1]
    assert (narration.model, narration.spent.provider) == ("first-1", "other")
    assert narration.attempts == 3


async def test_calls_that_were_never_made_are_not_counted(llms: Any) -> None:
    (llm,) = llms(1)
    held = threading.Event()

    async def fails(asked: Any, writer: Any) -> None:
        await asyncio.to_thread(held.wait, PATIENCE_S)
        await refuses(401)(asked, writer)

    llm.will(fails)
    async with narrator(llm, max_in_flight=1) as openai:
        turns = [asyncio.create_task(tell(openai, task())) for _ in range(3)]
        assert await asyncio.to_thread(llm.wait_for_requests, 1)
        held.set()
        told = await asyncio.gather(*turns)

    assert asked(llm) == [1]
    assert [(each.attempts, each.spent.calls, each.usage) for each in told] == [
        (1, 1, Usage()), (0, 0, Usage()), (0, 0, Usage()),
    ]  # fmt: skip
    assert [each.rungs for each in told] == [("json_object", "offline"), ("offline",), ("offline",)]


async def test_turns_that_are_refused_a_format_together_step_on_by_one(llms: Any) -> None:
    (llm,) = llms(1)
    all_asked = threading.Event()

    async def answers(asked: Any, writer: Any) -> None:
        if asked.body.get("response_format", {}).get("type") != "json_schema":
            await says(GOOD)(asked, writer)
            return
        await asyncio.to_thread(all_asked.wait, PATIENCE_S)
        await refuses(400, {"message": "response_format json_schema is not supported"})(asked, writer)

    llm.will(answers)
    async with narrator(llm, safe_format="json_schema") as openai:
        turns = [asyncio.create_task(tell(openai, task())) for _ in range(4)]
        assert await asyncio.to_thread(llm.wait_for_requests, 4)
        all_asked.set()
        told = await asyncio.gather(*turns)
        assert openai.standing()[0].response_format == "json_object"

    assert {each.rungs for each in told} == {("json_schema", "json_object")}


async def test_a_re_ask_goes_to_the_one_that_answered(llms: Any) -> None:
    first, second = llms(2)
    first.will(says("no json"), says(GOOD))

    async with narrator(first, second) as openai:
        await tell(openai, task())

    assert asked(first, second) == [2, 0]


async def test_a_re_ask_that_fails_fails_over_with_what_was_wrong(llms: Any) -> None:
    first, second = llms(2)
    first.will(says("no json"), refuses(401))
    second.will(says(GOOD))

    async with narrator(first, second) as openai:
        narration = await tell(openai, task())

    assert asked(first, second) == [2, 1]
    assert narration.rungs[-2:] == ("reask", "failover")
    assert "could not be used" in second.requests[0].body["messages"][-1]["content"]


async def test_after_a_call_without_a_word_the_next_is_heard_as_it_comes(llms: Any) -> None:
    first, second = llms(2)
    first.will(refuses(503))
    second.will(says(GOOD))
    heard: list[str] = []

    async with narrator(first, second) as openai:
        await tell(openai, task(), lambda event, data: heard.append(f"{event} {data['text']}"))

    assert heard == [f"field.delta {GOOD['scene']}"]


async def test_of_a_second_answer_nothing_is_heard_before_the_whole(llms: Any) -> None:
    """What it brings has its place in the whole, which the first one began."""
    (llm,) = llms(1)
    llm.will(says({**GOOD, "options": []}), says({**GOOD, "scene": "Another scene."}))
    heard: list[str] = []

    async with narrator(llm) as openai:
        await tell(openai, task(), lambda event, data: heard.append(f"{event} {data['text']}"))

    assert heard == [f"field.delta {GOOD['scene']}"]


# The breaker.


async def test_one_that_keeps_failing_is_left_alone_without_waiting(llms: Any) -> None:
    first, second = llms(2)
    first.will(refuses(503))
    second.will(says(GOOD))
    time = Time()

    async with narrator(first, second, time=time, failures=2) as openai:
        for _ in range(4):
            await tell(openai, task())
        assert [each.breaker for each in openai.standing()] == ["open", "closed"]
        narration = await tell(openai, task())

    assert asked(first, second) == [2, 5]
    assert narration.attempts == 1


async def test_a_wrong_key_is_not_tried_again_before_a_long_rest(llms: Any) -> None:
    first, second = llms(2)
    first.will(refuses(401), says(GOOD))
    second.will(says(GOOD))
    time = Time()

    async with narrator(first, second, time=time) as openai:
        await tell(openai, task())
        time.now_s += REST_S
        await tell(openai, task())
        assert asked(first, second) == [1, 2]
        time.now_s += LONG_REST_S
        await tell(openai, task())

        assert asked(first, second) == [2, 2]
        assert openai.standing()[0].breaker == "closed"


async def test_of_many_turns_exactly_one_tries_a_rested_provider(llms: Any) -> None:
    first, second = llms(2)
    first.will(refuses(503), hangs())
    second.will(says(GOOD))
    time = Time()

    async with narrator(first, second, time=time, failures=1) as openai:
        await tell(openai, task())
        time.now_s += REST_S
        turns = [asyncio.create_task(tell(openai, task())) for _ in range(8)]
        assert await asyncio.to_thread(second.wait_for_requests, 8)
        assert asked(first, second) == [2, 8]
        for turn in turns:
            turn.cancel()
        await asyncio.wait(turns)


async def test_with_every_provider_at_rest_a_turn_is_told_offline_at_once(llms: Any) -> None:
    (llm,) = llms(1)
    llm.will(refuses(402))

    async with narrator(llm) as openai:
        with pytest.raises(NarratorUnavailable, match="answered 402"):
            await tell(openai, task(on_failure="refuse"))
        with pytest.raises(NarratorUnavailable, match="every provider rests") as refused:
            await tell(openai, task(on_failure="refuse"))

    assert asked(llm) == [1]
    assert refused.value.facts == {"rungs": (), "attempts": 0, "retry_after_seconds": LONG_REST_S}


# Many at once.


async def test_past_the_queue_a_turn_is_turned_away_at_once(llms: Any) -> None:
    """Whatever the machine says of failures: 503 overloaded, and nothing was asked for it."""
    (llm,) = llms(1)
    llm.will(hangs())

    async with narrator(llm, max_in_flight=1, queue=1) as openai:
        turns = [asyncio.create_task(tell(openai, task())) for _ in range(2)]
        assert await asyncio.to_thread(llm.wait_for_requests, 1)
        assert [each.queued for each in openai.standing()] == [1]
        with pytest.raises(Overloaded) as refused:
            await tell(openai, task())
        for turn in turns:
            turn.cancel()
        await asyncio.wait(turns)

    assert refused.value.facts["retry_after_seconds"] == 1
    assert asked(llm) == [1]


async def test_a_full_provider_gives_way_to_the_next(llms: Any) -> None:
    first, second = llms(2)
    first.will(hangs())
    second.will(says(GOOD))

    async with narrator(first, second, max_in_flight=1, queue=0) as openai:
        turn = asyncio.create_task(tell(openai, task()))
        assert await asyncio.to_thread(first.wait_for_requests, 1)
        narration = await tell(openai, task())
        turn.cancel()
        await asyncio.wait([turn])

    assert narration.spent.provider == "other-2"


# What is counted.


async def test_every_call_is_counted_and_priced_also_those_in_vain(llms: Any) -> None:
    (llm,) = llms(1)
    llm.will(says("no json", usage=USED), says(GOOD, usage=USED))

    async with narrator(llm, own_prices=Prices(2.0, 1.0, 10.0)) as openai:
        narration = await tell(openai, task())

    assert narration.usage == Usage(200, 20, 120)
    assert narration.spent.cost_micros == 2 * (40 * 2 + 60 * 1 + 10 * 10)
    assert narration.spent.first_token_ms > 0
    assert narration.spent.total_ms >= narration.spent.first_token_ms


async def test_a_refused_turn_says_what_it_took(llms: Any) -> None:
    (llm,) = llms(1)
    llm.will(says("no json", usage=USED), hangs_up())

    async with narrator(llm, own_prices=Prices(2.0, 1.0, 10.0)) as openai:
        with pytest.raises(Exception, match="after 3 calls") as refused:
            await tell(openai, task(on_failure="refuse"))

    error: Any = refused.value
    assert error.usage == Usage(100, 10, 60)
    assert (error.spent.calls, error.spent.cost_micros) == (3, 240)


# Response formats.


async def test_a_format_that_is_refused_gives_way_at_once_and_for_good(llms: Any) -> None:
    (llm,) = llms(1)
    llm.will(refuses(400, {"message": "response_format json_object is not supported"}), says(GOOD))
    time = Time()

    async with narrator(llm, time=time) as openai:
        first = await tell(openai, task())
        second = await tell(openai, task())

    assert [request.body.get("response_format") for request in llm.requests] == [{"type": "json_object"}, None, None]
    assert (first.rungs, second.rungs) == (("json_object", "text"), ("text",))
    assert time.slept == []


async def test_a_narrator_names_providers_of_one_kind_apart() -> None:
    openai = OpenAI(*(Profile(base_url=f"http://llm{number}.example", model="any") for number in range(3)))

    assert [each.name for each in openai.standing()] == ["other", "other-2", "other-3"]
    await openai.close()


# In the server.


@pytest.mark.slow
def test_ready_names_a_provider_that_is_left_alone(llms: Any) -> None:
    """The server stays ready: its turns are told all the same."""
    (llm,) = llms(1)
    llm.will(refuses(401))
    openai = OpenAI(Profile(base_url=llm.url, model="asked-1", key="sk-secret"))

    with serving(runtime_of(tiny(MACHINE), narrator=openai)) as server:
        before = httpx.get(f"{server.url}/ready", trust_env=False).json()["data"]
        with Web(server.url) as web:
            told = web.invoke("s1", "INIT")
        after = httpx.get(f"{server.url}/ready", trust_env=False)
        figures = httpx.get(f"{server.url}/metrics", trust_env=False).text

    assert before["checks"]["narrator"]["providers"] == [{"name": "other", "breaker": "closed", "rest_s": 0}]
    assert told["payload"]["meta"]["fallback"] == ["*"]
    assert after.status_code == 200
    assert after.json()["data"]["checks"]["narrator"]["providers"] == [
        {"name": "other", "breaker": "open", "rest_s": LONG_REST_S}
    ]
    assert 'edgewise_breaker_open{provider="other"} 1.0' in figures
    assert "sk-secret" not in after.text


@pytest.mark.slow
def test_a_client_that_goes_away_stops_no_turn(llms: Any) -> None:
    """Its turn is told to the end by the model, and is in the journal."""
    (llm,) = llms(1)
    told, held = threading.Event(), threading.Event()
    answer = {"scene": "The lamp burns on.", "options": [{"key": "continue", "text": "Go on"}]}
    body = {"event": {"type": "INIT"}, "session": {"session_id": "s1"}}

    async def waits(asked: Any, writer: Any) -> None:
        told.set()
        await asyncio.to_thread(held.wait, PATIENCE_S)
        await says(answer)(asked, writer)

    llm.will(waits)
    openai = OpenAI(Profile(base_url=llm.url, model="asked-1"))

    with serving(runtime_of(tiny(MACHINE), narrator=openai)) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/invoke", json=body, timeout=0.3, trust_env=False)
        assert told.wait(PATIENCE_S)
        held.set()
        server.run(server.runtime.drain())
        (entry,) = server.journal("s1")

    assert b"The lamp burns on." in entry
    assert len(llm.requests) == 1
