"""Every route and every error that a client can see, over HTTP: one envelope, and a refusal changes nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import msgspec
import pytest
from conftest import tiny
from served import living

from runtime import errors
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from server import answers, openapi
from server.app import create_app
from server.auth import Pace
from server.query import SessionsQuery, read_query
from server.refusals import TABLE, RateLimited
from server.settings import Settings

HALL = """
initial: {event: INIT, target: HALL}
title: {zh: 门厅, en: The Hall}
language: zh
context:
  hp: {type: int, default: 3, min: 0, max: 3, show: true, label: {zh: 生命, en: Health}}
  hidden: {type: int, default: 7, secret: true}
events:
  BLESS: {role: operator}
  SAY: {payload: {text: text}}
  BREAK: {}
on:
  BLESS: [{target: HALL, assign: {hp: 3}}]
states:
  HALL:
    label: {zh: 门厅, en: Hall}
    options:
      - {key: hit, text: {zh: 捶墙, en: Hit the wall}, target: HALL, assign: {hp: hp - 1}}
      - {key: leave, text: {zh: 离开, en: Leave}, guard: "hp < 3", target: END_OUT}
    on:
      SAY: [{guard: "payload.text == 'friend'", target: END_OUT}]
      BREAK: [{target: HALL, assign: {hp: "1 / (hp - hp)"}}]
  END_OUT: {type: final, ending: {title: {zh: 出来了, en: Out}, good: true}}
"""
OPEN = Settings()
TOKENS = Settings(play_tokens=("player-token",), operator_tokens=("operator-token",))
PLAYER = {"Authorization": "Bearer player-token"}
OPERATOR = {"authorization": "bearer operator-token"}


def runtime_of(machine: Machine, narrator: Any = None) -> Runtime:
    return Runtime(MemoryStore(), narrator or Offline(), {machine.name: machine}, machine.name)


class Web:
    """A client of one server; `runtime` is the engine behind it."""

    def __init__(self, client: httpx.AsyncClient, runtime: Runtime) -> None:
        self.client = client
        self.runtime = runtime

    async def ask(self, method: str, path: str, expect: int = 200, **more: Any) -> Any:
        """The answer's `data`; its envelope is checked on the way."""
        answer = await self.client.request(method, path, **more)
        body = answer.json()
        assert answer.status_code == expect, body
        assert set(body) == {"code", "message", "data"}
        assert body["code"] == (0 if expect == 200 else expect)
        assert answer.headers["X-Request-Id"]
        if expect != 200:
            msgspec.convert(body["data"], answers.Failure)
            assert TABLE[body["data"]["error"]].status == expect
        return body["data"]

    async def invoke(self, event: str | None = None, option: int | None = None, expect: int = 200, **more: Any) -> Any:
        payload = {"selected_option_id": option} if option is not None else {}
        body = {
            "event": {"type": event} if event else {},
            "session": {"session_id": "s1", **more.pop("session", {})},
            "payload": {**payload, **more.pop("payload", {})},
        }
        headers = more.pop("headers", {})
        return await self.ask("POST", "/invoke", expect, json={**body, **more}, headers=headers)

    async def journal(self) -> list[Any]:
        return await self.runtime.store.entries("s1", limit=1000)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def serving(settings: Settings = OPEN, narrator: Any = None, machine: str = HALL) -> Web:
            runtime = runtime_of(tiny(machine), narrator)
            app = create_app(settings, runtime)
            await runtime.open()  # app.lifespan() can't: a fixture's two halves are two tasks
            stack.push_async_callback(runtime.close)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))
            return Web(client, runtime)

        yield serving


@pytest.fixture
async def web(serve) -> Web:
    return await serve()


# What follows goes down the contract's table of errors, in the order in which they are checked.


async def test_the_role_is_asked_before_anything_of_the_body(serve):
    web = await serve(TOKENS)
    missing = await web.ask("POST", "/invoke", 401, content=b"x" * 300_000)
    unknown = await web.ask("POST", "/invoke", 401, content=b"{", headers={"Authorization": "Bearer nobody"})
    assert missing["error"] == unknown["error"] == "unauthenticated"
    assert missing["role_needed"] == "player"
    answer = await web.client.post("/invoke")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_operators_routes_are_closed_to_players(serve):
    web = await serve(TOKENS)
    await web.invoke("INIT", headers=PLAYER)
    for method, path in (
        ("GET", "/metrics"), ("GET", "/machines/tiny/graph"), ("GET", "/sessions"), ("DELETE", "/sessions/s1"),
        ("GET", "/sessions/s1/turns/1/explain"), ("POST", "/store/backup"),
    ):  # fmt: skip
        refused = await web.ask(method, path, 403, headers=PLAYER)
        assert (refused["error"], refused["role_needed"]) == ("forbidden", "operator")
        assert (await web.client.request(method, path)).status_code == 401
    assert len(await web.journal()) == 1


async def test_some_routes_are_open_to_everyone(serve):
    web = await serve(TOKENS)
    for path in ("/health", "/ready"):
        await web.ask("GET", path)
    assert (await web.client.get("/schema")).status_code == 200


async def test_only_play_tokens_means_no_operator_and_only_operator_tokens_no_stranger(serve):
    players = await serve(Settings(play_tokens=("p",)))
    await players.ask("GET", "/metrics", 403, headers={"Authorization": "Bearer p"})
    operators = await serve(Settings(operator_tokens=("o",)))
    await operators.ask("GET", "/machines", 401)
    await operators.ask("GET", "/machines", headers={"Authorization": "Bearer o"})


async def test_size_then_media_type_then_json_then_shape(web):
    large = await web.ask("POST", "/invoke", 413, content=b"x" * 262_145)
    untyped = await web.ask("POST", "/invoke", 415, content=b"{")
    broken = await web.ask("POST", "/invoke", 400, content=b"{", headers={"Content-Type": "application/json"})
    wrong = await web.ask("POST", "/invoke", 422, json={"evnt": 1}, headers={"Idempotency-Key": "k"})
    assert (large["error"], large["limit_bytes"]) == ("body_too_large", 262_144)
    assert (untyped["error"], untyped["accepted_types"]) == (
        "unsupported_media_type", ["application/json", "application/*+json"],
    )  # fmt: skip
    assert (broken["error"], broken["position"]["column"]) == ("malformed_json", 2)
    assert wrong["error"] == "validation_error"
    assert [each["loc"] for each in wrong["details"]] == [["body", "evnt"], ["body", "event", "type"]]


@pytest.mark.parametrize(
    "accept",
    [
        "*/*", "", "text/html", "text/*", "application/json", "application/json, text/event-stream",
        "text/event-stream, application/json", "text/event-stream;q=0.5, application/json;q=0.9",
        "text/event-stream;q=0.5, */*", "text/event-stream;q=0", "text/event-stream;q=0, application/x-ndjson;q=0.0",
        "application/*, application/x-ndjson;q=0.3",
    ],
)  # fmt: skip
async def test_json_is_given_where_no_stream_is_wanted_more(web, accept):
    await web.invoke("INIT")
    assert (await web.invoke(option=1, headers={"Accept": accept}))["session"]["turn"] == 2


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("text/event-stream", "text/event-stream"),
        ("Text/Event-Stream ; Q=0.1", "text/event-stream"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/event-stream, */*", "text/event-stream"),
        ("application/*;q=0.2, application/x-ndjson;q=0.3", "application/x-ndjson"),
        ("application/json;q=0.8, application/x-ndjson;q=0.9", "application/x-ndjson"),
        ("application/x-ndjson, text/event-stream", "text/event-stream"),
        ("application/x-ndjson, text/event-stream;q=0.9, application/json;q=0.95", "application/x-ndjson"),
    ],
)
async def test_a_stream_is_given_to_who_names_it_and_wants_it_more(web, accept, given):
    await web.invoke("INIT")
    sent = {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}
    answer = await web.client.post("/invoke", json=sent, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, given)
    assert len(await web.journal()) == 2


@pytest.mark.parametrize(
    ("begin", "sent", "status", "error", "retry", "facts"),
    [
        (0, {"option": 1}, 404, "session_not_found", "never", {"session_id"}),
        (0, {"event": "INIT", "session": {"machine": "tny"}}, 404, "machine_not_found", "never", {"did_you_mean"}),
        (1, {"event": "INIT"}, 409, "session_exists", "refresh", {"state", "turn"}),
        (2, {"option": 1}, 409, "session_ended", "refresh", {"ending", "turn"}),
        (1, {"option": 1, "session": {"expected_turn": 0}}, 409, "stale_turn", "refresh", {"expected_turn", "turn"}),
        (1, {"event": "DANCE"}, 422, "unknown_event_type", "never", {"machine", "event_types", "did_you_mean"}),
        (1, {"option": 9}, 422, "option_not_offered", "refresh", {"offered"}),
        (1, {"event": "BREAK", "option": 1}, 422, "option_event_mismatch", "refresh", {"offered", "event_type"}),
        (1, {"event": "HALL"}, 422, "option_not_offered", "refresh", {"offered"}),
        (1, {"event": "SAY", "payload": {"text": "foe"}}, 409, "guard_refused", "refresh", {"why", "considered"}),
        (1, {"event": "SAY"}, 422, "validation_error", "never", {"details"}),
        (1, {"event": "BREAK"}, 500, "machine_fault", "never", {"machine", "edge"}),
    ],
)  # fmt: skip
async def test_a_refused_event_says_why_and_changes_nothing(web, begin, sent, status, error, retry, facts):
    if begin:
        await web.invoke("INIT")
    if begin == 2:
        await web.invoke("SAY", payload={"text": "friend"})
    before = await web.journal()

    refused = await web.invoke(expect=status, **sent)

    assert (refused["error"], refused["retry"]) == (error, retry)
    assert facts <= set(refused)
    assert refused["hint"]
    assert await web.journal() == before


async def test_guards_and_the_values_they_read_are_told_to_operators_only(serve):
    web = await serve(TOKENS)
    await web.invoke("INIT", headers=PLAYER)
    said = {"event": "SAY", "payload": {"text": "foe"}, "expect": 409}
    assert "considered" in await web.invoke(**said, headers=OPERATOR)
    assert "considered" not in await web.invoke(**said, headers=PLAYER)


async def test_an_event_for_operators_is_forbidden_to_players(serve):
    web = await serve(TOKENS)
    await web.invoke("INIT", headers=PLAYER)
    refused = await web.invoke("BLESS", expect=403, headers=PLAYER)
    assert refused["role_needed"] == "operator"
    assert (await web.invoke("BLESS", headers=OPERATOR))["session"]["turn"] == 2


async def test_two_turns_at_once_on_a_session_and_one_is_played(serve):
    class Waiting(Offline):
        async def narrate(self, task, _release):
            await asyncio.sleep(0.05)
            return self.tell(task)

    web = await serve(narrator=Waiting())
    await web.invoke("INIT")
    sent = {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}
    answered = await asyncio.gather(*(web.client.post("/invoke", json=sent) for _ in range(3)))
    statuses = sorted(answer.status_code for answer in answered)
    assert statuses == [200, 409, 409]
    refused = next(answer for answer in answered if answer.status_code == 409)
    assert refused.json()["data"]["error"] == "turn_in_progress"
    assert refused.headers["Retry-After"] == "1"
    assert len(await web.journal()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (errors.NarratorUnavailable("gone"), 503, "narrator_unavailable"),
        (errors.NarrationInvalid("babble"), 503, "narration_invalid"),
        (RuntimeError("a secret of ours"), 500, "internal_error"),
    ],
)
async def test_a_narrator_that_fails_leaves_the_session_as_it_was(serve, failure, status, code):
    class Failing(Offline):
        async def narrate(self, _, _release):
            raise failure

    web = await serve(narrator=Failing(), machine=f"on_failure: refuse{HALL}")
    refused = await web.invoke("INIT", expect=status)
    assert (refused["error"], refused["retry"]) == (code, "same")
    assert "secret of ours" not in str(refused)
    assert await web.journal() == []

    if status == 503:
        unready = await web.ask("GET", "/ready", 503)
        assert unready["error"] == "narrator_unavailable"
        assert (unready["checks"]["store"]["ok"], unready["checks"]["narrator"]["ok"]) == (True, False)
    web.runtime.narrator = Offline()
    await web.invoke("INIT")
    assert (await web.ask("GET", "/ready"))["checks"]["narrator"]["ok"] is True


async def test_a_store_that_fails_is_told_without_its_places(serve):
    class Failing(MemoryStore):
        async def append(self, _, claim=None, expense=None):  # noqa: ARG002 - the Protocol's signature
            raise errors.StoreUnavailable("/srv/secret/edgewise.duckdb can't be written")

        async def ping(self):
            raise errors.StoreUnavailable("/srv/secret/edgewise.duckdb can't be read")

    web = await serve(TOKENS)
    web.runtime.store = Failing()
    player = await web.invoke("INIT", expect=503, headers=PLAYER)
    assert player["error"] == "store_unavailable"
    told = await web.client.post("/invoke", json={"event": {"type": "INIT"}}, headers=PLAYER)
    assert "secret" not in told.text
    unready = await web.ask("GET", "/ready", 503)
    assert unready["error"] == "store_unavailable"
    assert unready["checks"]["store"] == {"ok": False}
    assert "secret" not in str(unready)


async def test_a_journal_that_is_lost_ends_the_process_once_and_gracefully():
    """However many turns fail of it, and also where nobody asks anything: a second signal would end it at once."""

    class Lost(MemoryStore):
        def __init__(self):
            super().__init__()
            self.lost = asyncio.Event()

        async def until_failed(self):
            await self.lost.wait()
            return "the disk is gone"

        async def append(self, _, claim=None, expense=None):  # noqa: ARG002 - the Protocol's signature
            self.lost.set()
            raise errors.StoreUnavailable("the disk is gone")

    told = asyncio.Event()
    signals = []

    def heard(number, _):
        signals.append(number)
        told.set()

    before = signal.signal(signal.SIGTERM, heard)
    runtime = runtime_of(tiny(HALL))
    runtime.store = Lost()
    app = create_app(Settings(), runtime)
    try:
        async with (
            living(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://house") as web,
        ):
            asked = [web.post("/invoke", json={"event": {"type": "INIT"}}) for _ in range(5)]
            answers = await asyncio.gather(*asked)
            await told.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [answer.status_code for answer in answers] == [503] * 5
    assert signals == [signal.SIGTERM]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_the_journals_own_token_is_good_for_nothing_that_a_proxy_passed_on(header):
    app = create_app(TOKENS, runtime_of(tiny(HALL)), own_token="own")  # noqa: S106 - a test's
    to_app = httpx.ASGITransport(app, client=("127.0.0.1", 9))
    own = {"Authorization": "Bearer own"}
    async with living(app), httpx.AsyncClient(transport=to_app, base_url="http://house", headers=own) as web:
        assert (await web.get("/sessions")).status_code == 200
        assert (await web.get("/sessions", headers={header: "127.0.0.1"})).status_code == 401


async def test_unknown_paths_and_methods_are_in_the_envelope(web):
    assert (await web.ask("GET", "/nowhere", 404))["path"] == "/nowhere"
    assert (await web.ask("GET", "/invoke", 405))["allowed_methods"] == ["POST"]
    assert (await web.ask("PUT", "/sessions/s1", 405))["allowed_methods"] == ["GET", "DELETE"]
    assert (await web.ask("GET", "/sessions/s1/turns/one/explain", 404))["error"] == "not_found"
    assert (await web.client.put("/invoke")).headers["Allow"] == "POST"


async def test_a_sane_request_id_is_kept_and_another_replaced(web):
    kept = await web.client.get("/nowhere", headers={"X-Request-Id": "my-id:1"})
    made = await web.client.get("/health", headers={"X-Request-Id": "no good id"})
    assert kept.headers["X-Request-Id"] == kept.json()["data"]["request_id"] == "my-id:1"
    assert made.headers["X-Request-Id"] not in {"", "no good id"}


async def test_the_player_is_spoken_to_in_the_sessions_language(web):
    await web.invoke("INIT", constraints={"language": "en"})
    assert (await web.invoke("DANCE", expect=422))["player_message"] == TABLE["unknown_event_type"].en
    asked = await web.ask("POST", "/invoke", 422, json={"constraints": {"language": "en"}})
    assert asked["player_message"] == TABLE["validation_error"].en
    accepted = await web.ask("GET", "/nowhere", 404, headers={"Accept-Language": "en-GB, zh;q=0.3"})
    assert accepted["player_message"] == TABLE["not_found"].en
    assert (await web.ask("GET", "/nowhere", 404))["player_message"] == TABLE["not_found"].zh


async def test_a_token_has_only_so_many_turns_a_minute(serve):
    web = await serve(Settings(turns_per_minute=2))
    await web.invoke("INIT")
    await web.invoke(option=1)
    refused = await web.invoke(option=1, expect=429)
    assert (refused["error"], refused["retry"], refused["retry_after_seconds"]) == ("rate_limited", "same", 30)
    assert len(await web.journal()) == 2
    await web.ask("GET", "/sessions/s1")


def test_a_pause_fills_the_minute_again():
    now = [0.0]
    pace = Pace(2, lambda: now[0])
    for _ in range(2):
        pace.take("a")
    pace.take("b")
    with pytest.raises(RateLimited):
        pace.take("a")
    now[0] = 30.0
    pace.take("a")
    with pytest.raises(RateLimited):
        pace.take("a")


async def test_health_touches_nothing(serve):
    web = await serve(TOKENS)
    store, web.runtime.store = web.runtime.store, None
    answer = await web.client.get("/health")
    web.runtime.store = store
    assert answer.json() == {"code": 0, "message": "success", "data": {"status": "ok"}}


async def test_a_session_shows_its_head_turns_answer_exactly_as_sent(serve):
    web = await serve(TOKENS)
    begun = await web.client.post(
        "/invoke", json={"event": {"type": "init"}, "session": {"session_id": "s1"}}, headers=PLAYER
    )
    shown = await web.client.get("/sessions/s1", headers=PLAYER)
    assert begun.content.removeprefix(b'{"code":0,"message":"success","data":')[:-1] in shown.content
    data = shown.json()["data"]
    assert data["session"] == begun.json()["data"]["session"]
    assert data["allowed_event_types"] == data["answer"]["payload"]["routing"]["allowed_event_types"]
    assert (data["in_progress"], data["can_rewind_to"]) == (False, [])
    assert "context" not in data
    operators = await web.ask("GET", "/sessions/s1", headers=OPERATOR)
    assert operators["context"] == {"hp": 3}


@pytest.mark.parametrize("path", ["none", "none/turns", "none/turns/1/explain", "a%20b", "%00"])
async def test_a_session_that_is_not_there_is_not_found(web, path):
    assert (await web.ask("GET", f"/sessions/{path}", 404))["error"] == "session_not_found"


async def test_turns_are_listed_with_their_lineage_and_pages_go_on(web):
    await web.invoke("INIT")
    await web.invoke(option=1)
    await web.invoke(option=1)
    first = await web.ask("GET", "/sessions/s1/turns?limit=2")
    rest = await web.ask("GET", f"/sessions/s1/turns?after={first['next_after']}")
    assert [(each["turn"], each["parent"]) for each in first["items"] + rest["items"]] == [(1, None), (2, 1), (3, 2)]
    assert rest["next_after"] is None


async def test_explain_tells_each_edge_and_knows_no_other_turn(web):
    await web.invoke("INIT")
    await web.invoke(option=1)
    told = await web.ask("GET", "/sessions/s1/turns/2/explain")
    assert told["edge"] == "HALL.hit"
    assert told["considered"]
    assert (await web.ask("GET", "/sessions/s1/turns/9/explain", 404))["error"] == "turn_not_found"


async def test_sessions_are_listed_newest_first_and_a_players_own_to_that_player(serve):
    web = await serve(TOKENS)
    for number in range(3):
        session = {"session_id": f"p{number}", "player_id": "ann" if number else "bob"}
        await web.invoke("INIT", session=session, headers=PLAYER)
    mine = await web.ask("GET", "/sessions?player_id=ann", headers=PLAYER)
    assert [each["session"]["session_id"] for each in mine["items"]] == ["p2", "p1"]
    first = await web.ask("GET", "/sessions?limit=2", headers=OPERATOR)
    rest = await web.ask("GET", f"/sessions?after={first['next_after']}", headers=OPERATOR)
    assert [each["session"]["session_id"] for each in first["items"] + rest["items"]] == ["p2", "p1", "p0"]
    assert (await web.ask("GET", "/sessions?ended=true", headers=OPERATOR))["items"] == []
    assert (await web.ask("GET", "/sessions?after=nonsense", 422, headers=OPERATOR))["error"] == "validation_error"


async def test_a_deleted_session_is_gone_and_again_answers_the_same(web):
    await web.invoke("INIT")
    first, again = [await web.ask("DELETE", "/sessions/s1") for _ in range(2)]
    assert first == again == {"session_id": "s1", "deleted": True}
    await web.ask("GET", "/sessions/s1", 404)


async def test_every_fault_of_a_query_is_told_at_once(web):
    refused = await web.ask("GET", "/sessions?limit=0&ended=maybe&playr_id=x&limit=2", 422)
    assert [(each["loc"][1], each["type"]) for each in refused["details"]] == [
        ("limit", "type"), ("ended", "type"), ("playr_id", "unknown_key"), ("limit", "repeated"),
    ]  # fmt: skip
    assert "Did you mean 'player_id'?" in refused["details"][2]["msg"]


def test_a_query_may_leave_everything_out():
    assert read_query(SessionsQuery, b"") == SessionsQuery()


async def test_a_machine_shows_its_events_and_its_definition_to_operators(serve):
    web = await serve(TOKENS)
    (line,) = (await web.ask("GET", "/machines", headers=PLAYER))["items"]
    assert (line["name"], line["title"], line["languages"], line["is_default"]) == (
        "tiny", {"zh": "门厅", "en": "The Hall"}, ["zh", "en"], True,
    )  # fmt: skip
    told = await web.ask("GET", "/machines/tiny", headers=PLAYER)
    assert told["initial_event"] == "INIT"
    assert told["events"]["BLESS"]["role"] == "operator"
    assert told["events"]["SAY"]["payload"]["required"] == ["text"]
    assert "definition" not in told
    assert "hidden" not in str(told)
    whole = await web.ask("GET", "/machines/tiny", headers=OPERATOR)
    assert "hidden" in whole["definition"]["context"]
    missing = await web.ask("GET", "/machines/tinny", 404, headers=PLAYER)
    assert missing["did_you_mean"] == "tiny"


async def test_a_machine_is_drawn_three_ways(web):
    mermaid = await web.client.get("/machines/tiny/graph")
    dot = await web.client.get("/machines/tiny/graph?format=dot")
    plain = await web.ask("GET", "/machines/tiny/graph?format=json")
    assert mermaid.text.startswith("stateDiagram-v2\n")
    assert "HALL --> END_OUT: END_OUT / leave [hp #60; 3]" in mermaid.text
    assert "END_OUT --> [*]" in mermaid.text
    assert dot.text.startswith('digraph "tiny" {')
    assert '"HALL" -> "END_OUT" [label="END_OUT / leave [hp < 3]"];' in dot.text
    assert {"from": None, "to": "HALL"}.items() <= plain["edges"][0].items()
    assert {state["name"] for state in plain["states"]} == {"HALL", "END_OUT"}
    assert (await web.ask("GET", "/machines/tiny/graph?format=svg", 422))["error"] == "validation_error"


async def test_metrics_count_turns_requests_and_refusals(web):
    await web.invoke("INIT")
    await web.invoke("INIT", expect=409)
    figures = (await web.client.get("/metrics")).text
    assert 'edgewise_turns_total{machine="tiny",narrator="offline"} 1.0' in figures
    assert 'edgewise_refusals_total{error="session_exists"} 1.0' in figures
    assert 'edgewise_requests_total{method="POST",route="/invoke",status="409"} 1.0' in figures
    assert "edgewise_turn_store_seconds_count 1.0" in figures
    assert "edgewise_turns_under_way 0.0" in figures


async def test_other_origins_may_call_only_where_they_are_named(serve):
    web = await serve(Settings(cors_origins=("https://play.example",)))
    named = await web.client.get("/health", headers={"Origin": "https://play.example"})
    other = await web.client.get("/health", headers={"Origin": "https://evil.example"})
    assert named.headers["Access-Control-Allow-Origin"] == "https://play.example"
    exposed = named.headers["Access-Control-Expose-Headers"].split(",")
    assert {"X-Request-Id", "Idempotency-Replayed"} <= {name.strip() for name in exposed}
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_a_turn_goes_on_when_its_client_goes_away_and_shutdown_waits_for_it():
    class Slow(Offline):
        async def narrate(self, task, _release):
            began.set()
            await asyncio.sleep(0.05)
            return self.tell(task)

    began = asyncio.Event()
    runtime = runtime_of(tiny(HALL), Slow())
    app = create_app(Settings(), runtime)
    async with living(app):
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        asking = asyncio.create_task(
            client.post("/invoke", json={"event": {"type": "INIT"}, "session": {"session_id": "s1"}})
        )
        await began.wait()
        asking.cancel()
    assert len(await runtime.store.entries("s1")) == 1


# The OpenAPI document.


def operations(app: Any) -> set[tuple[str, str]]:
    return {
        (method.lower(), route.path_format)
        for route in app.routes
        for method in route.methods
        if method not in {"OPTIONS", "HEAD"}
    }


async def test_the_document_has_every_route_and_no_other():
    app = create_app(Settings(), runtime_of(tiny(HALL)))
    assert {(each.method, each.path) for each in openapi.OPERATIONS} == {
        (method, path.replace(":str", "").replace(":int", "")) for method, path in operations(app)
    }


def test_every_reference_of_the_document_leads_somewhere():
    document = openapi.document()

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for inner in part.values() for found in references(inner)]
        return [found for inner in part for found in references(inner)] if isinstance(part, list) else []

    for reference in references(document):
        part: Any = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]


def test_every_error_is_described_and_so_is_the_token():
    document = openapi.document()
    described = " ".join(part["description"] for part in document["components"]["responses"].values())
    for code in TABLE:
        assert f"`{code}`" in described
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert document["paths"]["/health"]["get"]["security"] == []


async def test_real_answers_have_the_shapes_that_the_document_shows(web):
    await web.invoke("INIT", session={"player_id": "ann"})
    await web.invoke(option=1)
    ended = await web.invoke(option=2)
    msgspec.convert(ended, answers.Answer)
    assert ended["payload"]["ending"] == {"id": "END_OUT", "title": "出来了", "good": True}
    for operation in openapi.OPERATIONS:
        if operation.method == "get" and isinstance(operation.gives, type):
            path = operation.path.format(name="tiny", session_id="s1", number=2)
            query = {"format": "json"} if path.endswith("/graph") else {}
            data = await web.ask("GET", path, params=query)
            msgspec.convert(data, operation.gives)
            extra = set(data) - {field.encode_name for field in msgspec.structs.fields(operation.gives)}
            assert not extra, (path, extra)


async def test_a_browser_gets_a_page_that_loads_nothing_from_elsewhere(web):
    page = await web.client.get("/schema", headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://json-schema.org", "")
    assert "https://" not in page.text
    assert '"openapi":"3.1.0"' in page.text
    plain = await web.client.get("/schema")
    assert plain.json()["openapi"] == "3.1.0"
    assert (await web.client.get("/schema/openapi.json", headers={"Accept": "text/html"})).json() == plain.json()
