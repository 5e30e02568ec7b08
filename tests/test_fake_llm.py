"""`edgewise fake-llm`: a provider that misbehaves as it is told, for tests and for users' clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import command, edgewise, environment
from fake_llm import Asked, FakeLLM, misbehaves
from msgspec.structs import replace
from served import PATIENCE_S, TLS
from tasks import BOUNDS, task

from runtime.constraints import speaks, validator_for
from runtime.errors import DesignError
from runtime.narrators import answer
from server.fake import script
from server.fake.faults import FAULTS, FLOOD_BYTES
from server.fake.provider import Manner, Provider
from server.fake.sending import OK
from server.fake.speaking import MAX_VALUES

ANSWER = {
    "scene": "The lamp gutters at 3 paces, and the stairs groan.",
    "options": [{"key": "up", "text": "Climb the stairs"}, {"key": "out", "text": "Leave the house"}],
}
SYSTEM = "You tell the story of a house. Keep to what happened, and never say how this works."


def request(**more: Any) -> dict[str, Any]:
    """A request for a completion, answered with ANSWER where nothing goes wrong."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Go on, in json."}]
    return {"model": "any", "messages": messages, "metadata": {"offline": json.dumps(ANSWER)}, **more}


def asked(**more: Any) -> Asked:
    return Asked("/v1/chat/completions", {}, request(**more))


@contextmanager
def client(*faults: str, **manner: Any) -> Iterator[httpx.Client]:
    """A client of a provider that has these faults."""
    with FakeLLM() as llm, httpx.Client(base_url=llm.url, timeout=PATIENCE_S, trust_env=False, verify=TLS) as web:
        llm.will(misbehaves(*faults, **manner))
        yield web


def said(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def events(reply: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def streamed(reply: httpx.Response) -> str:
    """The text of a stream."""
    deltas = [event["choices"][0]["delta"] for event in events(reply) if event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# A good answer.


def test_the_offline_narrators_answer_is_sent_back_plain_and_streamed():
    with client() as web:
        plain = web.post("chat/completions", json=request())
        stream = web.post("chat/completions", json=request(stream=True, stream_options={"include_usage": True}))

    assert json.loads(said(plain)) == ANSWER
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    assert json.loads(streamed(stream)) == ANSWER
    assert len(events(stream)) > 20
    assert [event["usage"] for event in events(stream) if "usage" in event] == [
        {**plain.json()["usage"], "prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 30}
    ]


def test_usage_is_sent_in_a_stream_only_where_it_is_asked_for():
    with client() as web:
        stream = web.post("chat/completions", json=request(stream=True))

    assert not [event for event in events(stream) if "usage" in event]


def test_the_cache_holds_what_an_earlier_prompt_began_with_in_blocks_of_64_tokens():
    provider = Provider(Manner())
    shared, own = "The house stands on a hill. " * 40, "And it rains."

    def usage(prompt: str) -> Mapping[str, int]:
        return provider.answer(asked(messages=[{"role": "user", "content": prompt}])).reply.usage

    first, second, other = usage(shared + "Now."), usage(shared + own), usage("Another house.")

    assert first["prompt_cache_hit_tokens"] == other["prompt_cache_hit_tokens"] == 0
    assert second["prompt_cache_hit_tokens"] == 336 // 64 * 64
    assert second["prompt_cache_miss_tokens"] == second["prompt_tokens"] - 320


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("form", ["json_schema", "json_object", None])
def test_an_answer_is_made_for_whoever_asks(form: str | None, language: str):
    """From the schema, or from the shape that the prompt shows, in its language and within its limits."""
    told = task(bounds=replace(BOUNDS, language=language))
    messages = [{"role": "system", "content": SYSTEM}, {"role": "system", "content": answer.closing(told)}]
    schema = {"name": "turn", "schema": told.schema}
    asking = {"type": form, "json_schema": schema} if form == "json_schema" else {"type": form}

    reply = (
        Provider(Manner())
        .answer(asked(messages=messages, metadata={}, **({"response_format": asking} if form else {})))
        .reply
    )
    found = json.loads(str(reply.content))

    assert list(validator_for(told.schema).iter_errors(found)) == []
    assert answer.judge(told, found).breaches == ()
    assert speaks(found["scene"], language)


def test_whoever_asks_for_no_json_gets_a_sentence():
    reply = Provider(Manner()).answer(asked(messages=[{"role": "user", "content": "Hello?"}], metadata=None)).reply

    assert speaks(str(reply.content), "en")
    assert not str(reply.content).startswith("{")


def test_two_requests_get_other_sentences():
    provider = Provider(Manner())
    found = [provider.answer(asked(metadata={})).reply.content for _ in range(11)]

    assert all(one != other for one, other in pairwise(found))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_over_its_tokens_is_cut(name: str):
    reply = Provider(Manner()).answer(asked(**{name: 20})).reply

    assert reply.finish == "length"
    assert json.dumps(ANSWER).startswith(str(reply.content))


# What goes wrong.

TEXT_FAULTS = {
    "fences": lambda text: text.startswith("```json\n") and text.endswith("\n```"),
    "prose": lambda text: text.startswith("Sure!") and text.endswith("Enjoy!"),
    "trailing_comma": lambda text: '",}' in text and ",]" in text,
    "fullwidth": lambda text: "“scene”：" in text and '"' not in text,
    "blanks": lambda text: text != "" and text.strip() == "",
    "truncated": lambda text: json.dumps(ANSWER).startswith(text) and len(text) > 20,
    "content_filter": lambda text: json.dumps(ANSWER).startswith(text),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_a_fault_of_the_text_is_in_the_text(fault: str):
    with client(fault) as web:
        plain = web.post("chat/completions", json=request())
        stream = web.post("chat/completions", json=request(stream=True))

    assert TEXT_FAULTS[fault](said(plain))
    assert streamed(stream) == said(plain)
    finish = {"truncated": "length", "content_filter": "content_filter"}.get(fault, "stop")
    assert plain.json()["choices"][0]["finish_reason"] == finish


def options(found: Any) -> list[str]:
    return [option["key"] for option in found["options"]]


ANSWER_FAULTS = {
    "wrong_language": lambda found: speaks(found["scene"], "zh") and options(found) == ["up", "out"],
    "overlong": lambda found: len(found["scene"]) >= 5000 and len(found["options"][0]["text"]) >= 5000,
    "forbidden_term": lambda found: found["scene"].startswith("gore ") and found["options"] == ANSWER["options"],
    "invented_route": lambda found: found["routing"]["should_end"] and found["options"][0]["event_type"] == "END",
    "duplicate_ids": lambda found: options(found) == ["up", "up"],
    "five_options": lambda found: len(set(options(found))) == 5,
    "missing_options": lambda found: "options" not in found,
    "contradiction": lambda found: "99 health" in found["scene"] and "93 paces" in found["scene"],
    "leak": lambda found: found["scene"] == SYSTEM,
}


@pytest.mark.parametrize("fault", ANSWER_FAULTS)
def test_a_fault_of_the_answer_is_in_its_json(fault: str):
    with client(fault, term="gore") as web:
        found = json.loads(said(web.post("chat/completions", json=request())))

    assert ANSWER_FAULTS[fault](found)


STATUSES = [name for name in FAULTS if re.fullmatch(r"status_\d+", name)]


@pytest.mark.parametrize("fault", STATUSES)
def test_a_status_comes_with_an_error_of_the_apis_shape(fault: str):
    status = int(fault.removeprefix("status_"))
    with client(fault) as web:
        refused = web.post("chat/completions", json=request(stream=True))

    assert refused.status_code == status
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert refused.headers.get("Retry-After") == ("1" if status in (429, 503) else None)


def test_a_response_format_can_be_refused():
    with client("status_400_format") as web:
        refused = web.post("chat/completions", json=request(response_format={"type": "json_object"}))
        good = web.post("chat/completions", json=request())

    assert (refused.status_code, good.status_code) == (400, 200)
    assert "response_format" in refused.json()["error"]["message"]


@pytest.mark.parametrize("streams", [True, False])
def test_a_connection_breaks_in_the_middle(streams: bool):
    with client("cut") as web, pytest.raises(httpx.RemoteProtocolError):
        web.post("chat/completions", json=request(stream=streams))


@pytest.mark.parametrize("streams", [True, False])
def test_noise_comes_before_the_text(streams: bool):
    with client("keepalive") as web:
        reply = web.post("chat/completions", json=request(stream=streams))

    assert reply.text.startswith(": keep-alive\n\n" * 20 if streams else "\n" * 20)
    assert json.loads(streamed(reply) if streams else said(reply)) == ANSWER


@pytest.mark.parametrize("fault", ["latency", "first_token", "drip"])
def test_a_slow_answer_comes_as_slowly_as_it_says(fault: str):
    """With nothing to wait for it is the good answer; how long it waits is a number that the fault sets."""
    reply = Provider(Manner(faults=(fault,), stall_s=7)).answer(asked()).reply
    waits = {"latency": reply.before_head_s, "first_token": reply.before_text_s, "drip": 7.0 if reply.drips else 0}

    assert waits.pop(fault) == 7
    assert not any(waits.values())
    assert json.loads(str(reply.content)) == ANSWER


@pytest.mark.parametrize("fault", ["latency", "first_token", "drip"])
def test_who_has_no_time_gives_up(fault: str):
    with client(fault) as web, pytest.raises(httpx.TimeoutException):
        web.post("chat/completions", json=request(), timeout=0.1)


def test_a_flood_has_no_end_that_a_client_would_wait_for():
    with client("huge") as web, web.stream("POST", "chat/completions", json=request(stream=True)) as reply:
        read = 0
        for part in reply.iter_bytes():
            read += len(part)
            if read > 1_000_000:
                break

    assert read > 1_000_000


@pytest.mark.slow
def test_a_bomb_is_small_until_it_is_unzipped():
    with client("gzip_bomb") as web, web.stream("POST", "chat/completions", json=request()) as reply:
        sent = len(b"".join(reply.iter_raw()))

    assert reply.headers["Content-Encoding"] == "gzip"
    assert sent < FLOOD_BYTES / 500


def test_a_stream_may_be_answered_with_one_body():
    with client("plain") as web:
        reply = web.post("chat/completions", json=request(stream=True))

    assert json.loads(said(reply)) == ANSWER


def test_a_model_may_think_aloud_first():
    with client("thinking") as web:
        plain = web.post("chat/completions", json=request())
        stream = web.post("chat/completions", json=request(stream=True))

    thought = plain.json()["choices"][0]["message"]["reasoning_content"]
    deltas = [event["choices"][0]["delta"] for event in events(stream)]
    assert len(thought) > 300
    assert json.loads(said(plain)) == json.loads(streamed(stream)) == ANSWER
    assert len("".join(delta.get("reasoning_content", "") for delta in deltas)) > 300


def test_usage_may_be_nonsense():
    with client("wrong_usage") as web:
        usage = web.post("chat/completions", json=request()).json()["usage"]

    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (-5, "many")


def test_faults_of_several_kinds_go_together():
    with client("fences", "forbidden_term", "keepalive") as web:
        reply = web.post("chat/completions", json=request())

    assert reply.text.startswith("\n" * 20)
    assert said(reply).startswith('```json\n{"scene": "blood ')


def test_every_fault_is_tested_here():
    waiting = {"latency", "first_token", "drip"}
    ways = {"cut", "keepalive", "huge", "gzip_bomb", "plain", "thinking", "wrong_usage", "status_400_format"}

    assert set(FAULTS) == {*TEXT_FAULTS, *ANSWER_FAULTS, *STATUSES, *waiting, *ways}


# Chaos and scripts.


@pytest.mark.slow
def test_chaos_draws_the_same_faults_for_the_same_seed():
    def drawn(seed: str) -> list[tuple[str, ...]]:
        provider = Provider(Manner(chaos=0.2, seed=seed))
        return [provider.answer(asked()).faults for _ in range(1000)]

    first = drawn("a")

    assert first == drawn("a") != drawn("b")
    assert 150 < len([faults for faults in first if faults]) < 250
    assert {name for faults in first for name in faults} == set(FAULTS)


def test_chaos_draws_from_the_faults_that_are_named():
    provider = Provider(Manner(chaos=1, faults=("status_401", "status_402")))

    assert {provider.answer(asked()).reply.status for _ in range(20)} == {401, 402}


SCRIPT = """
then: {then}
steps:
  - {{fault: fences}}
  - {{status: 429, retry_after: 2, times: 2}}
  - {{content: {{scene: A lamp.}}, finish: length}}
"""


@pytest.mark.parametrize(("then", "expected"), [("well", [200, 200]), ("last", [200, 200]), ("loop", [200, 429])])
def test_a_script_is_played_in_order_and_ends_as_it_says(then: str, expected: list[int]):
    provider = Provider(Manner(script=script.parse("s.yaml", SCRIPT.format(then=then))))

    replies = [provider.answer(asked()).reply for _ in range(6)]

    assert [reply.status for reply in replies] == [200, 429, 429, 200, *expected]
    assert str(replies[0].content).startswith("```json")
    assert dict(replies[1].headers) == {"Retry-After": "2"}
    assert (replies[3].content, replies[3].finish) == ('{"scene": "A lamp."}', "length")
    after = {"well": json.dumps(ANSWER), "last": replies[3].content, "loop": replies[0].content}[then]
    assert replies[4].content == after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps:\n  - {fault: fence}", "s.yaml:2:13 E105 no fault 'fence'. Did you mean 'fences'?"),
        ("steps:\n  - {retry: 1}", "s.yaml:2:6 E101 unknown key 'retry'. Did you mean 'retry_after'?"),
        ("steps:\n  - {status: 200}", "s.yaml:2:14 E105 `status` is a whole number from 400 to 599"),
        ("steps:\n  - {fault: [status_401, cut, status_402]}", "s.yaml:2:13 E105 an answer has one status"),
        ("steps:\n  - {fault: cut, status: 500}", "s.yaml:2:13 E105 a step has a status or a fault, not both"),
        ("steps:\n  - cut", "s.yaml:2:5 E105 a step is a map, as {fault: fences}"),
        ("then: lop\nsteps: [{delay: 1}]", "s.yaml:1:7 E105 `then` is one of well, loop, last"),
        ("then: loop", "s.yaml:1:1 E102 a script has `steps`: a list of answers"),
    ],
)
def test_a_mistake_in_a_script_is_told_where_it_stands(text: str, expected: str):
    with pytest.raises(DesignError) as refused:
        script.parse("s.yaml", text)

    assert [str(finding).startswith(expected) for finding in refused.value.findings] == [True]


# Who may ask, and what.


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("chat/completions", request(), {}, 401),
        ("chat/completions", request(), {"Authorization": "Bearer k2"}, 401),
        ("chat/completions", request(), {"Authorization": "Bearer k"}, 200),
        ("chat/completions", request(model="other"), {"Authorization": "Bearer k"}, 404),
        ("chat/completions", {"model": "any"}, {"Authorization": "Bearer k"}, 400),
        ("chat/completions", ["no object"], {"Authorization": "Bearer k"}, 400),
        ("models", {}, {"Authorization": "Bearer k"}, 405),
        ("embeddings", {}, {"Authorization": "Bearer k"}, 404),
    ],
)
def test_a_request_that_no_provider_takes_is_refused(path: str, body: Any, headers: dict[str, str], status: int):
    with client(key="k", model="any") as web:
        reply = web.post(path, json=body, headers=headers)

    assert reply.status_code == status


def test_json_mode_wants_the_word_json_in_the_prompt():
    body = request(response_format={"type": "json_object"}, messages=[{"role": "user", "content": "Go on."}])
    with client() as web:
        reply = web.post("chat/completions", json=body)

    assert reply.status_code == 400
    assert "'json'" in reply.json()["error"]["message"]


def test_its_models_are_listed():
    with client(model="mine") as web:
        found = web.get("models").json()

    assert [each["id"] for each in found["data"]] == ["mine"]


def test_a_request_in_chunks_is_read():
    parts = [json.dumps(request()).encode()[at : at + 50] for at in range(0, 1000, 50)]
    with client() as web:
        reply = web.post("chat/completions", content=iter(parts))

    assert json.loads(said(reply)) == ANSWER


def raw(head: str, body: bytes) -> tuple[int, str]:
    """The status and the error's sentence for a request that is written by hand."""
    with FakeLLM() as llm:
        llm.will(misbehaves())
        where = httpx.URL(llm.url)
        with socket.create_connection((where.host, where.port), timeout=PATIENCE_S) as line:
            line.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
            told = b"".join(iter(lambda: line.recv(65536), b""))
    start, _, found = told.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(found)["error"]["message"]


@pytest.mark.parametrize(
    ("head", "body", "told"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\n", "The size of a chunk is no number of bytes."),
        ("Transfer-Encoding: chunked", b"-5\r\n", "The size of a chunk is no number of bytes."),
        ("Transfer-Encoding: chunked", b"7fffffff\r\n", "The body has more than 16,777,216 bytes."),
        ("Transfer-Encoding: chunked", b"1\r\n{\r\n1000000\r\n", "The body has more than 16,777,216 bytes."),
        (f"Content-Length: {'9' * 5000}", b"", "The length of the body is no number of bytes."),
        ("Content-Length: 99999999", b"", "The body has more than 16,777,216 bytes."),
    ],
)
def test_a_body_without_a_readable_end_is_refused_before_it_is_read(head: str, body: bytes, told: str):
    assert raw(head, body) == (400, told)


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": 5},
        {"type": "string", "maxLength": "9"},
        {"type": "object", "properties": ["a"]},
        {"anyOf": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "array", "minItems": 10**9}}},
        {"type": "integer", "minimum": "1"},
    ],
)
def test_a_schema_that_cannot_be_read_is_refused(schema: Any):
    with client() as web:
        reply = web.post("chat/completions", json=request(response_format=form(schema)))

    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "Invalid schema" in reply.json()["error"]["message"]


def test_a_schema_that_refers_to_itself_is_answered():
    part = {"$ref": "#/$defs/part"}
    properties = {"title": {"type": "string"}, "left": part, "right": part, "more": {"type": "array", "items": part}}
    schema = {"$ref": "#/$defs/part", "$defs": {"part": {"type": "object", "properties": properties}}}
    body = {**request(response_format=form(schema)), "metadata": None}
    with client() as web:
        found = json.loads(said(web.post("chat/completions", json=body)))

    assert found["title"]
    assert found["left"]["left"]["title"]
    assert 0 < json.dumps(found).count('"title"') <= MAX_VALUES


# The command.


@contextmanager
def running(*words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and where it says that it listens."""
    with subprocess.Popen(
        command("fake-llm", "--port", "0", *words), env=environment(**variables),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().split(" listens on ")[1].split()[0]
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_logs_each_request_and_ends_well(number: int):
    with running("--fault", "fences", "--key", "secret-key") as (child, url):
        key = {"Authorization": "Bearer secret-key"}
        reply = httpx.post(
            f"{url}/chat/completions", json=request(), headers=key, timeout=PATIENCE_S, trust_env=False, verify=TLS
        )
        os.kill(child.pid, number)
        _, logged = child.communicate(timeout=PATIENCE_S)

    (line,) = map(json.loads, logged.splitlines())
    assert said(reply).startswith("```json")
    assert child.returncode == 0
    assert (line["message"], line["status"], line["faults"]) == ("POST /v1/chat/completions", OK, ["fences"])
    assert "lamp" not in logged
    assert "secret" not in logged


@pytest.mark.slow
def test_it_speaks_with_a_projects_own_texts():
    project = Path(__file__).parent / "projects" / "lantern"
    texts = "".join(file.read_text("utf-8") for file in project.rglob("offline.*.yaml"))
    with running("--project", str(project)) as (_, url):
        body = request(metadata={}, messages=[{"role": "user", "content": "请用 json 回答接下来发生了什么。"}])
        text = said(httpx.post(f"{url}/chat/completions", json=body, timeout=PATIENCE_S, trust_env=False, verify=TLS))

    assert re.split("(?<=。)", text)[0] in texts


@pytest.mark.slow
def test_it_needs_no_key_for_a_narrator_that_it_does_not_ask():
    with running(EDGEWISE_NARRATOR="openai") as (_, url):
        assert httpx.get(f"{url}/models", timeout=PATIENCE_S, trust_env=False, verify=TLS).status_code == OK


@pytest.mark.slow
def test_wrong_use_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "s.yaml").write_text("steps:\n  - {fault: fence}\n", encoding="utf-8")
    wrong = edgewise("fake-llm", "--fault", "fence")
    clash = edgewise("fake-llm", "--fault", "status_401,status_402")
    faulty = edgewise("fake-llm", "--script", str(tmp_path / "s.yaml"))
    listed = edgewise("fake-llm", "--fault", "list")

    assert (wrong.returncode, clash.returncode, faulty.returncode, listed.returncode) == (2, 2, 1, 0)
    assert "no fault 'fence'. Did you mean 'fences'?" in wrong.stderr
    assert "an answer has one status" in clash.stderr
    assert faulty.stderr == "s.yaml:2:13 E105 no fault 'fence'. Did you mean 'fences'?\n"
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(FAULTS)


@pytest.mark.slow
def test_a_port_in_use_is_told_with_the_mend():
    with running() as (_, url):
        done = edgewise("fake-llm", "--port", url.rpartition(":")[2].partition("/")[0])

    assert done.returncode == 2
    assert "in use by another program" in done.stderr
