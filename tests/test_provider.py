"""One call to a provider: its stream, its deadlines, its size, its places, and what a failure says of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_llm import Asked, Behaviour, FakeLLM, completion, hangs, refuses, response, says, sends, zips

from runtime.narrators import provider as door
from runtime.narrators.profile import PROFILES, Profile
from runtime.narrators.provider import MAX_ANSWER_BYTES, TOKEN_BYTES, Answer, CallError, Provider
from runtime.session import Usage
from server.fake.http import chunk, head_of
from server.fake.sending import CHUNKED, EVENTS

TEXT = "灯砸中了它。🔥 The lamp lands."
BODY = {"model": "asked-1", "messages": [], "max_tokens": 10, "stream": True}
PATIENCE_S = 30.0
"""How long a test waits before it calls a deadline broken: far above any that it sets."""


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@asynccontextmanager
async def provider(llm: FakeLLM, **profile: Any) -> AsyncIterator[Provider]:
    made = Provider(Profile(base_url=llm.url, model="asked-1", **profile))
    try:
        yield made
    finally:
        await made.close()


async def ask(asked: Provider, within_s: float = PATIENCE_S) -> tuple[Answer, list[str]]:
    """One call, and the words as they were heard."""
    heard: list[str] = []
    return await asked.ask(BODY, heard.append, within_s), heard


def event(delta: Any = None, **more: Any) -> bytes:
    """One event of a stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}]
    return (
        b"data: " + json.dumps({"model": "fake-1", "choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"
    )


def words(text: str = TEXT) -> bytes:
    return b"".join(event({"content": letter}) for letter in text)


END = event({}, finish="stop")
USAGE = event(usage={"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 7})
DONE = b"data: [DONE]\n\n"


def streams(*pieces: bytes, ends: bool = True, stays: bool = False) -> Behaviour:
    """A stream of these pieces; `ends`: its body is closed well, `stays`: it never ends."""

    async def behave(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head_of(200, {**EVENTS, **CHUNKED}))
        for piece in pieces:
            writer.write(chunk(piece))
            await writer.drain()
        if stays:
            await asyncio.Event().wait()
        writer.write(chunk(b"")) if ends else writer.close()

    return behave


# What is read.


async def test_a_stream_is_heard_word_by_word_and_kept_whole(llm: FakeLLM) -> None:
    llm.will(streams(words(), END, USAGE, DONE))

    async with provider(llm) as asked:
        answer, heard = await ask(asked)

    assert "".join(heard) == answer.text == TEXT
    assert (answer.finish, answer.model, answer.usage) == ("stop", "fake-1", Usage(9, 4, 7))
    assert answer.first_token_ms > 0


@pytest.mark.parametrize(
    "behaviour",
    [
        streams(words(), END, USAGE),
        streams(words() + END + USAGE + b"data: [DONE]"),
        streams((words() + END + USAGE + DONE).replace(b"\n", b"\r\n")),
        streams(*(bytes([byte]) for byte in words() + END + USAGE + DONE)),
        streams(b"\n\n: keep-alive\n\n" * 20, words(), b": keep-alive\n\n", END, b"\n\n", USAGE, DONE),
        streams(b"retry: 10\nevent: message\n", words(), b"data: : ping\n\n", END, USAGE, DONE),
        streams(event({"reasoning_content": "Let me think. {"}), words(), END, USAGE, DONE),
        streams(event({"role": "assistant", "content": None}), words(), END, USAGE, DONE, b"data: {}\n\n"),
        sends(response(200, completion(TEXT, model="fake-1", usage={"prompt_tokens": 9, "completion_tokens": 4,
              "prompt_tokens_details": {"cached_tokens": 7}}))),
        sends(response(200, b"\n" * 30 + completion(TEXT, usage={"prompt_tokens": 9, "completion_tokens": 4,
              "prompt_cache_hit_tokens": 7}), {"Content-Type": "text/event-stream"})),
    ],
    ids=["no end mark", "no last line end", "CRLF", "a byte at a time", "keep-alive", "other fields", "reasoning",
         "null content", "plain JSON", "plain JSON named a stream"],
)  # fmt: skip
async def test_an_answer_is_the_same_however_it_is_sent(llm: FakeLLM, behaviour: Behaviour) -> None:
    llm.will(behaviour)

    async with provider(llm) as asked:
        answer, heard = await ask(asked)

    assert (answer.text, "".join(heard), answer.finish, answer.usage) == (TEXT, TEXT, "stop", Usage(9, 4, 7))


async def test_a_stream_that_stays_open_after_its_end_is_not_waited_for(llm: FakeLLM) -> None:
    """What ends an answer is its finish, not its connection."""
    llm.will(streams(words(), END, stays=True))

    async with provider(llm) as asked:
        answer, _ = await ask(asked)

    assert (answer.text, answer.finish) == (TEXT, "stop")


@pytest.mark.parametrize("finish", ["length", "content_filter"])
async def test_the_finish_is_the_providers(llm: FakeLLM, finish: str) -> None:
    llm.will(streams(words(), event({}, finish=finish), DONE))

    async with provider(llm) as asked:
        assert (await ask(asked))[0].finish == finish


@pytest.mark.parametrize(
    "behaviour",
    [
        streams(words(), ends=False),
        streams(words()),
        streams(words(), event(error={"code": "overloaded", "message": "secret words"})),
        streams(words(), b'error: {"error": {"message": "secret words"}}\n\n'),
    ],
    ids=["closed", "ended without a finish", "error object", "error field"],
)
async def test_a_stream_that_breaks_off_keeps_what_came(llm: FakeLLM, behaviour: Behaviour) -> None:
    llm.will(behaviour)

    async with provider(llm) as asked:
        answer, heard = await ask(asked)
        assert asked.standing().calls == {"cut": 1}

    assert (answer.text, answer.finish, "".join(heard)) == (TEXT, "cut", TEXT)
    assert answer.why
    assert "secret" not in answer.why


@pytest.mark.parametrize(
    "behaviour",
    [
        streams(event(error={"code": "overloaded", "message": "secret words"})),
        streams(DONE),
        streams(b": keep-alive\n\n"),
        streams(b"data: nonsense\n\n"),
        streams(event({"reasoning_content": "hm"}), ends=False),
        sends(response(200, b"")),
        sends(response(200, b"<html>busy</html>")),
        sends(response(200, b'{"error": {"message": "secret words"}}')),
    ],
    ids=["error", "only its end", "only noise", "no JSON", "only reasoning", "empty", "html", "error in 200"],
)
async def test_a_call_without_a_word_fails_and_may_pass(llm: FakeLLM, behaviour: Behaviour) -> None:
    llm.will(behaviour)

    async with provider(llm) as asked:
        with pytest.raises(CallError) as failed:
            await ask(asked)

    assert failed.value.may_pass
    assert "secret" not in failed.value.why


# Deadlines.


@pytest.mark.parametrize(
    ("behaviour", "profile"),
    [
        (hangs(), {"first_token_s": 0.2}),
        (streams(b": keep-alive\n\n" * 5, stays=True), {"first_token_s": 0.2}),
        (streams(event({"reasoning_content": "hm"}) * 50, stays=True), {"first_token_s": 0.2}),
        (streams(stays=True), {"attempt_timeout_s": 0.2}),
    ],
    ids=["silence", "keep-alive", "reasoning", "the call's own"],
)
async def test_a_first_word_that_does_not_come_ends_the_call(llm: FakeLLM, behaviour: Behaviour, profile: Any) -> None:
    """Whatever keeps the connection alive meanwhile."""
    llm.will(behaviour)

    async with provider(llm, **profile) as asked, asyncio.timeout(PATIENCE_S):
        with pytest.raises(CallError, match=r"gave no answer within 0.2 s") as failed:
            await ask(asked)

    assert failed.value.outcome == "late"


@pytest.mark.slow
@pytest.mark.parametrize("profile", [{"gap_s": 0.5}, {"attempt_timeout_s": 1.5}], ids=["gap", "total"])
async def test_words_that_stop_coming_end_the_call_and_are_kept(llm: FakeLLM, profile: Any) -> None:
    llm.will(streams(words(), stays=True))

    async with provider(llm, **profile) as asked, asyncio.timeout(PATIENCE_S):
        answer, _ = await ask(asked)

    assert (answer.text, answer.finish) == (TEXT, "cut")


@pytest.mark.slow
async def test_a_slow_drip_is_cut_by_the_whole_calls_time(llm: FakeLLM) -> None:
    """Each word comes in time, and still it ends."""

    async def drip(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head_of(200, {**EVENTS, **CHUNKED}))
        while True:
            writer.write(chunk(event({"content": "x"})))
            await writer.drain()
            await asyncio.sleep(0.01)

    llm.will(drip)

    async with provider(llm, attempt_timeout_s=1.5) as asked, asyncio.timeout(PATIENCE_S):
        answer, _ = await ask(asked)

    assert answer.finish == "cut"
    assert set(answer.text) == {"x"}


async def test_the_callers_own_deadline_holds_too(llm: FakeLLM) -> None:
    llm.will(hangs())

    async with provider(llm) as asked, asyncio.timeout(PATIENCE_S):
        with pytest.raises(CallError) as failed:
            await ask(asked, within_s=0.2)

    assert failed.value.outcome == "late"


# Sizes.


@pytest.mark.parametrize(
    "noise",
    [b": keep-alive\n\n", b"\n", event({"reasoning_content": "x" * 100})],
    ids=["comments", "blanks", "reasoning"],
)
async def test_every_byte_counts_also_those_that_say_nothing(llm: FakeLLM, noise: bytes) -> None:
    block = noise * (64 * 1024 // len(noise))
    blocks = (MAX_ANSWER_BYTES + 10 * TOKEN_BYTES) // len(block) + 2
    llm.will(streams(*[block] * blocks, stays=True))

    async with provider(llm) as asked:
        with pytest.raises(CallError, match="sent more than 266 KB"):
            await ask(asked)


async def test_a_huge_text_is_cut_and_what_came_is_kept(llm: FakeLLM) -> None:
    llm.will(streams(event({"content": "x" * MAX_ANSWER_BYTES}), event({"content": "y" * 100}), stays=True))

    async with provider(llm) as asked:
        answer, _ = await ask(asked)

    assert answer.finish == "cut"
    assert len(answer.text) <= MAX_ANSWER_BYTES + 10 * TOKEN_BYTES


async def test_a_compressed_answer_is_not_opened(llm: FakeLLM) -> None:
    llm.will(zips({"scene": TEXT}))

    async with provider(llm) as asked:
        with pytest.raises(CallError, match="compressed its answer") as failed:
            await ask(asked)

    assert not failed.value.may_pass
    assert llm.requests[0].headers["accept-encoding"] == "identity"


# Places.


async def test_who_finds_the_queue_full_is_told_so(llm: FakeLLM) -> None:
    llm.will(hangs())

    async with provider(llm, max_in_flight=2, queue=3) as asked:
        calls = [asyncio.create_task(ask(asked)) for _ in range(5)]
        assert await asyncio.to_thread(llm.wait_for_requests, 2)
        assert (asked.is_full, asked.in_flight, asked.queued) == (True, 2, 3)

        calls[0].cancel()
        await asyncio.wait(calls[:1])
        assert await asyncio.to_thread(llm.wait_for_requests, 3)
        assert (asked.is_full, asked.in_flight, asked.queued) == (False, 2, 2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    assert (asked.in_flight, asked.queued) == (0, 0)


async def test_waiting_for_a_place_says_nothing_against_the_provider(llm: FakeLLM) -> None:
    llm.will(hangs())

    async with provider(llm, max_in_flight=1, failures=1) as asked, asyncio.timeout(PATIENCE_S):
        first = asyncio.create_task(ask(asked))
        assert await asyncio.to_thread(llm.wait_for_requests, 1)
        with pytest.raises(CallError, match=r"had no free place within 0.1 s"):
            await ask(asked, within_s=0.1)
        assert asked.breaker.state == "closed"
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.slow
@pytest.mark.parametrize("max_in_flight", [500, 32], ids=["all on the wire", "most waiting"])
async def test_five_hundred_cancelled_calls_leave_every_place_free(llm: FakeLLM, max_in_flight: int) -> None:
    llm.will(*[hangs()] * max_in_flight, says(TEXT))

    async with provider(llm, max_in_flight=max_in_flight, queue=500) as asked:
        calls = [asyncio.create_task(ask(asked)) for _ in range(500)]
        assert await asyncio.to_thread(llm.wait_for_requests, max_in_flight, timeout_s=PATIENCE_S)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        after = await asyncio.gather(*(ask(asked) for _ in range(max_in_flight)))
        standing = asked.standing()

    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    assert {answer.text for answer, _ in after} == {TEXT}
    assert (standing.in_flight, standing.queued, standing.breaker) == (0, 0, "closed")
    assert standing.calls == {"left": max_in_flight, "answered": max_in_flight}


# What a failure says of the provider.


@pytest.mark.parametrize(
    ("behaviour", "outcome", "state"),
    [
        (refuses(401), "refused", "open"),
        (refuses(402), "refused", "open"),
        (refuses(404), "refused", "open"),
        (refuses(429, {"code": "insufficient_quota"}), "refused", "open"),
        (refuses(429, headers={"Retry-After": "60"}), "busy", "open"),
        (refuses(429, headers={"Retry-After": "1"}), "busy", "closed"),
        (refuses(503), "busy", "closed"),
        (refuses(400), "rejected", "closed"),
        (refuses(403), "rejected", "closed"),
        (refuses(422), "rejected", "closed"),
        (refuses(400, {"message": "response_format json_schema is not supported"}), "format", "closed"),
        (refuses(422, {"message": "bad value", "param": "response_format"}), "format", "closed"),
        (refuses(400, {"message": "x" * 400 + "response_format"}), "rejected", "closed"),
    ],
    ids=["key", "balance", "no such model", "balance as 429", "a wait no turn can wait", "a short wait", "busy",
         "bad request", "forbidden", "unprocessable", "format", "format by its parameter", "a prompt quoted"],
)  # fmt: skip
async def test_only_what_is_the_providers_counts_against_it(
    llm: FakeLLM, behaviour: Behaviour, outcome: str, state: str
) -> None:
    """A request that is rejected may be so for a player's own words."""
    llm.will(behaviour)

    async with provider(llm) as asked:
        with pytest.raises(CallError) as failed:
            await ask(asked)

    assert failed.value.outcome == outcome
    assert asked.standing().breaker == state
    assert asked.standing().calls == {outcome: 1}


async def test_a_rejected_request_never_opens_the_breaker_however_often(llm: FakeLLM) -> None:
    llm.will(refuses(400))

    async with provider(llm, failures=2) as asked:
        for _ in range(5):
            with pytest.raises(CallError):
                await ask(asked)
        assert asked.breaker.state == "closed"


async def test_a_provider_that_rests_is_not_called(llm: FakeLLM) -> None:
    llm.will(refuses(503))

    async with provider(llm, failures=1) as asked:
        for _ in range(3):
            with pytest.raises(CallError):
                await ask(asked)

    assert len(llm.requests) == 1


@pytest.mark.parametrize(("text", "completion"), [("门开了", 8), ("门" * 40, 10)], ids=["as written", "at the most"])
async def test_what_a_cut_answer_took_is_estimated_with_its_reasoning(llm: FakeLLM, text: str, completion: int) -> None:
    """At 0.6 tokens for each Chinese character, and never above what the call may write."""
    thought = {"reasoning_content": "想" * 10, "reasoning": "想" * 10}
    llm.will(streams(event(thought), words(text), ends=False))

    async with provider(llm) as asked:
        body = {**BODY, "messages": [{"role": "user", "content": "门" * 20}]}
        answer = await asked.ask(body, lambda _: None, PATIENCE_S)

    assert answer.finish == "cut"
    assert answer.usage == Usage(12, completion)


async def test_a_blank_before_a_stream_breaks_is_no_word(llm: FakeLLM) -> None:
    llm.will(streams(event({"content": " "}), ends=False))

    async with provider(llm, failures=1) as asked:
        with pytest.raises(CallError, match="broke off"):
            await ask(asked)
        assert asked.breaker.state == "open"


@pytest.mark.parametrize(
    ("within_s", "usual_s", "state"), [(0.3, 30.0, "closed"), (0.3, 0.3, "open")], ids=["hurried", "all there is"]
)
@pytest.mark.parametrize("behaviour", [hangs(), streams(words("门"), stays=True)], ids=["silent", "slow"])
async def test_a_call_in_a_hurry_says_nothing_against_the_provider(
    llm: FakeLLM, behaviour: Behaviour, within_s: float, usual_s: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of its time had gone by waiting; another one would have had its answer."""
    monkeypatch.setattr(door, "LEAST_S", 0.1)
    llm.will(behaviour)

    async with provider(llm, failures=1) as asked:
        with contextlib.suppress(CallError):
            await asked.ask(BODY, lambda _: None, within_s, usual_s)
        assert asked.breaker.state == state
    assert len(llm.requests) == 1


async def test_no_call_is_made_that_has_no_time(llm: FakeLLM) -> None:
    async with provider(llm) as asked:
        with pytest.raises(CallError, match="had no free place") as refused:
            await asked.ask(BODY, lambda _: None, 0.9, 30.0)

    assert not refused.value.is_made
    assert (llm.requests, asked.standing().calls) == ([], {})


async def test_who_waits_for_a_place_is_not_sent_to_a_provider_that_failed_meanwhile(llm: FakeLLM) -> None:
    all_wait = threading.Event()

    async def fails(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(all_wait.wait, PATIENCE_S)
        await refuses(503)(asked, writer)

    llm.will(fails)
    async with provider(llm, max_in_flight=1, failures=1) as asked:
        calls = [asyncio.create_task(ask(asked)) for _ in range(4)]
        assert await asyncio.to_thread(llm.wait_for_requests, 1)
        all_wait.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)

    assert [getattr(end, "is_made", None) for end in ended] == [True, False, False, False]
    assert len(llm.requests) == 1
    assert asked.standing().calls == {"busy": 1}


async def test_an_outage_leaves_its_trace_in_the_log(llm: FakeLLM, caplog: pytest.LogCaptureFixture) -> None:
    """When it begins, with why and for how long, and when it is over; not in between."""
    now_s = [0.0]
    llm.will(refuses(503), says(TEXT))
    asked = Provider(Profile(base_url=llm.url, model="asked-1", failures=1), steady=lambda: now_s[0])

    with caplog.at_level(logging.INFO, "runtime"):
        for _ in range(2):
            with pytest.raises(CallError):
                await ask(asked)
        now_s[0] = 15.0
        await ask(asked)
        await ask(asked)
    await asked.close()

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"provider other is left alone for 15 s: the model at {asked.profile.host} answered 503"),
        ("INFO", f"provider other is asked again: the model at {asked.profile.host} answers"),
    ]


def test_calls_that_are_refused_a_format_together_go_on_by_one() -> None:
    asked = Provider(PROFILES["vllm"], name="local")
    asked.format = "json_schema"

    assert all(asked.refuse_format("json_schema") for _ in range(4))
    assert asked.format == "json_object"


def test_a_refused_format_gives_way_to_the_next_until_there_is_none() -> None:
    asked = Provider(PROFILES["vllm"], name="local")
    asked.format = "json_schema"

    steps = [(asked.refuse_format(asked.format), asked.format) for _ in range(3)]

    assert steps == [(True, "json_object"), (True, "text"), (False, "text")]


def test_a_format_that_was_settled_stays() -> None:
    asked = Provider(Profile(base_url="http://llm.example", model="any", response_format="json_schema"))

    assert not asked.refuse_format("json_schema")
    assert asked.format == "json_schema"


async def test_its_standing_shows_no_key(llm: FakeLLM) -> None:
    async with provider(llm, key="sk-secret") as asked:
        assert "sk-secret" not in f"{asked.standing()!r} {asked.profile!r}"


def test_the_module_says_how_every_call_may_end() -> None:
    """Figures by outcome have as many rows as there are words for one."""
    assert len(door.Outcome.__args__) == 10
