"""The table of errors, row by row, over a real socket: what provokes each, what it says, and that nothing changed."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import tiny
from fake_llm import FakeLLM, hangs_up, refuses, says
from msgspec import Struct
from paid import Paid
from served import PATIENCE_S, Server, Web, envelope, facts, runtime_of, serving

from runtime import errors
from runtime.ledger import Budgets
from runtime.narrators.offline import Offline
from runtime.narrators.openai import OpenAI, Profile
from runtime.stores.memory import MemoryStore
from server.refusals import TABLE, kinds
from server.settings import Settings

HOUSE = """
machine: house
title: {zh: 房子, en: The House}
language: zh
initial: {event: INIT, target: HALL}
context:
  hp: {type: int, default: 3, min: 0, max: 3, show: true, label: {zh: 生命, en: Health}}
  hidden: {type: int, default: 7, secret: true}
events:
  SAY: {payload: {text: text}}
  HIT: {}
  OPEN: {}
  BREAK: {}
  SPLIT: {}
  KICK: {}
  FALL: {}
  BLESS: {role: operator}
on_failure: refuse
on:
  FALL: [{guard: hp <= 0, target: END_DEAD, must: true}]
states:
  HALL:
    narrate: written
    options:
      - {key: hit, event: HIT, text: {zh: 捶墙, en: Hit the wall}, target: HALL, assign: {hp: hp - 1}}
      - {key: go, text: {zh: 进屋, en: Go in}, target: ROOM}
      - {key: leave, text: {zh: 离开, en: Leave}, target: END_OUT}
    on:
      SAY: [{guard: "payload.text == 'friend'", target: END_OUT}]
      OPEN: [{guard: hp < 2 && hidden == 7, why: {zh: 门还锁着。, en: It is locked.}, target: END_OUT}]
      BREAK: [{target: HALL, assign: {hp: "1 / (hp - hp)"}}]
      SPLIT: [{guard: "1 / (hp - hp) > 0", target: HALL}]
      BLESS: [{target: HALL, assign: {hp: 3}}]
  ROOM:
    options:
      - {key: back, text: {zh: 回去, en: Go back}, target: HALL}
      - {key: out, text: {zh: 出去, en: Go out}, target: END_OUT}
    on: {KICK: HALL}
  END_OUT: {type: final, ending: {title: {zh: 出来了, en: Out}, good: true}}
  END_DEAD: {type: final, ending: {title: {zh: 完了, en: Gone}, good: false}}
"""
TOKENS = Settings(play_tokens=("play",), operator_tokens=("operate",))
PLAY, OPERATE = {"Authorization": "Bearer play"}, {"Authorization": "Bearer operate"}
SECRET = "the-secret-place-on-disk"  # noqa: S105 - what must not leak
_numbers = itertools.count(1)


class Failing(Offline):
    """Fails as it is told to, in every state that isn't told in written words."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def narrate(self, task: Any, _release: Any) -> Any:  # noqa: ARG002 - the Protocol's signature
        raise self.failure


class Hanging(Offline):
    """Never tells anything."""

    async def narrate(self, task: Any, _release: Any) -> Any:  # noqa: ARG002 - the Protocol's signature
        await asyncio.Event().wait()


class Gated(Offline):
    """Tells a turn once the gate is open; `waiting` is set while one waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.waiting = threading.Event(), threading.Event()

    async def narrate(self, task: Any, _release: Any) -> Any:
        self.waiting.set()
        await asyncio.to_thread(self.gate.wait)
        return self.tell(task)


class Brittle(MemoryStore):
    """A store that breaks after each session's first entry."""

    async def append(self, entry: Any, claim: Any = None, expense: Any = None) -> None:
        if entry.seq > 1:
            raise errors.StoreUnavailable(f"{SECRET} can't be written", "Mend the disk.")
        await super().append(entry, claim, expense)


class Forgetful(MemoryStore):
    """A store that has lost the definitions."""

    async def kept(self, digest: str) -> dict[str, str] | None:  # noqa: ARG002 - the Protocol's signature
        return None


class Row(Struct, frozen=True):
    """One cause: the session's steps before it, the request, and what is answered.

    `steps` are the options chosen after the initial event; None = no session. `{}` in a path or a
    body's session_id is the session's id. `where` names the server.
    """

    name: str
    status: int
    error: str
    retry: str
    facts: set[str]
    steps: tuple[int, ...] | None = ()
    method: str = "POST"
    path: str = "/invoke"
    body: Any = None
    headers: Mapping[str, str] = {}
    where: str = "plain"
    raw: bytes | None = None


def invoke(event: str | None = None, option: Any = None, **more: Any) -> dict[str, Any]:
    session = {"session_id": "{}", **more.pop("session", {})}
    payload = {**more.pop("payload", {}), **({} if option is None else {"selected_option_id": option})}
    return {"session": session, "payload": payload, **({"event": {"type": event}} if event else {}), **more}


ROWS = [
    # 400
    Row("no json", 400, "malformed_json", "never", {"position"}, raw=b'{"event": '),
    Row("no utf-8", 400, "malformed_json", "never", {"position"}, raw=b'{"event": "\xff"}'),
    Row("nested over 64", 400, "malformed_json", "never", {"position"}, raw=b"[" * 65 + b"]" * 65),
    Row("a repeated key", 400, "malformed_json", "never", {"position"}, raw=b'{"event": {}, "event": {}}'),
    # 401 and 403
    Row("no token", 401, "unauthenticated", "never", {"role_needed"}, body=invoke(option=1), where="tokens"),
    Row(
        "an unknown token",
        401,
        "unauthenticated",
        "never",
        {"role_needed"},
        body=invoke(option=1),
        where="tokens",
        headers={"Authorization": "Bearer who"},
    ),
    Row(
        "a player on an operator's route",
        403,
        "forbidden",
        "never",
        {"role_needed"},
        method="DELETE",
        path="/sessions/{}",
        headers=PLAY,
        where="tokens",
    ),
    Row(
        "a player explains a turn",
        403,
        "forbidden",
        "never",
        {"role_needed"},
        method="GET",
        path="/sessions/{}/turns/1/explain",
        headers=PLAY,
        where="tokens",
    ),
    Row(
        "a player sends an operator's event",
        403,
        "forbidden",
        "never",
        {"role_needed"},
        body=invoke("BLESS"),
        headers=PLAY,
        where="tokens",
    ),
    # 404
    Row("no such session", 404, "session_not_found", "never", {"session_id"}, steps=None, body=invoke(option=1)),
    Row(
        "no such session to read",
        404,
        "session_not_found",
        "never",
        {"session_id"},
        steps=None,
        method="GET",
        path="/sessions/{}",
    ),
    Row(
        "no such machine",
        404,
        "machine_not_found",
        "never",
        {"machine", "machines", "did_you_mean"},
        steps=None,
        body=invoke("INIT", session={"machine": "huose"}),
    ),
    Row(
        "no such machine to read",
        404,
        "machine_not_found",
        "never",
        {"machine", "machines", "did_you_mean"},
        method="GET",
        path="/machines/huose",
    ),
    Row(
        "no such turn",
        404,
        "turn_not_found",
        "never",
        {"session_id", "turn"},
        method="GET",
        path="/sessions/{}/turns/9/explain",
    ),
    Row("no such path", 404, "not_found", "never", {"path"}, path="/invok", body=invoke(option=1)),
    # 405, 413, 415
    Row("no such method", 405, "method_not_allowed", "never", {"allowed_methods"}, method="GET"),
    Row(
        "no such method on a session",
        405,
        "method_not_allowed",
        "never",
        {"allowed_methods"},
        method="PUT",
        path="/sessions/{}",
        body={},
    ),
    Row("over 256 KB", 413, "body_too_large", "never", {"limit_bytes"}, raw=b" " * 262_145),
    Row(
        "not called json",
        415,
        "unsupported_media_type",
        "never",
        {"accepted_types"},
        body=invoke(option=1),
        headers={"Content-Type": "text/plain"},
    ),
    Row(
        "compressed",
        415,
        "unsupported_media_type",
        "never",
        {"accepted_types"},
        body=invoke(option=1),
        headers={"Content-Encoding": "gzip"},
    ),
    # 409
    Row("begun already", 409, "session_exists", "refresh", {"state", "turn"}, body=invoke("INIT")),
    Row(
        "no edge for the event",
        409,
        "event_not_allowed",
        "refresh",
        {"state", "allowed_event_types", "because"},
        body=invoke("KICK"),
    ),
    Row(
        "another event must come first",
        409,
        "event_not_allowed",
        "refresh",
        {"state", "allowed_event_types", "because"},
        steps=(1, 1, 1),
        body=invoke("SAY", payload={"text": "x"}),
    ),
    Row(
        "a first event without a session's id",
        409,
        "event_not_allowed",
        "refresh",
        {"state", "allowed_event_types", "because"},
        steps=None,
        body={"event": {"type": "KICK"}},
    ),
    Row(
        "every guard is closed",
        409,
        "guard_refused",
        "refresh",
        {"state", "allowed_event_types", "why", "considered"},
        body=invoke("OPEN"),
    ),
    Row(
        "every guard is closed, to a player",
        409,
        "guard_refused",
        "refresh",
        {"state", "allowed_event_types", "why"},
        body=invoke("OPEN"),
        headers=PLAY,
        where="tokens",
    ),
    Row(
        "the payload opens no guard",
        409,
        "guard_refused",
        "refresh",
        {"state", "allowed_event_types", "why", "considered"},
        body=invoke("SAY", payload={"text": "foe"}),
    ),
    Row("ended", 409, "session_ended", "refresh", {"ending", "turn"}, steps=(3,), body=invoke(option=1)),
    Row(
        "ended, and any event", 409, "session_ended", "refresh", {"ending", "turn"}, steps=(3,), body=invoke("NO_SUCH")
    ),
    Row(
        "another turn is under way",
        409,
        "turn_in_progress",
        "same",
        {"same_key", "retry_after_seconds"},
        body=invoke(option=1),
        where="gated",
    ),
    Row(
        "deleted while a turn is under way",
        409,
        "turn_in_progress",
        "same",
        {"same_key", "retry_after_seconds"},
        method="DELETE",
        path="/sessions/{}",
        where="gated",
    ),
    Row(
        "an old turn expected",
        409,
        "stale_turn",
        "refresh",
        {"expected_turn", "turn", "allowed_event_types"},
        body=invoke(option=1, session={"expected_turn": 0}),
    ),
    Row(
        "a turn to come expected",
        409,
        "stale_turn",
        "refresh",
        {"expected_turn", "turn", "allowed_event_types"},
        body=invoke(option=1, session={"expected_turn": 5}),
    ),
    Row(
        "the definition is gone",
        409,
        "machine_changed",
        "refresh",
        {"machine", "digest", "reasons"},
        body=invoke(option=1),
        where="changed",
    ),
    Row(
        "a rewind before the beginning",
        409,
        "rewind_refused",
        "refresh",
        {"reasons"},
        path="/sessions/{}/rewind",
        body={"to_turn": "previous"},
    ),
    # 422
    Row("wrong in shape", 422, "validation_error", "never", {"details"}, body=invoke(option=1, sesion={})),
    Row(
        "wrong in the event's payload",
        422,
        "validation_error",
        "never",
        {"details"},
        body=invoke("SAY", payload={"txt": "x"}),
    ),
    Row(
        "wrong in the query",
        422,
        "validation_error",
        "never",
        {"details"},
        method="GET",
        path="/sessions/{}/turns?limit=0",
    ),
    Row(
        "no such event",
        422,
        "unknown_event_type",
        "never",
        {"machine", "event_types", "did_you_mean"},
        body=invoke("KCIK"),
    ),
    Row("no such option", 422, "option_not_offered", "refresh", {"offered"}, body=invoke(option=4)),
    Row("an option is needed", 422, "option_not_offered", "refresh", {"offered"}, body=invoke("ROOM")),
    Row(
        "another event's option",
        422,
        "option_event_mismatch",
        "refresh",
        {"offered", "event_type"},
        body=invoke("ROOM", 1),
    ),
    Row(
        "a forbidden term in a player's text",
        422,
        "text_not_allowed",
        "never",
        {"what"},
        body=invoke("SAY", payload={"text": "一只鬼"}, constraints={"forbidden_terms": ["鬼"]}),
    ),
    Row(
        "a language that the machine has not",
        422,
        "constraints_unsatisfiable",
        "never",
        {"what"},
        body=invoke(option=1, constraints={"language": "fr"}),
    ),
    # 429
    Row(
        "too many turns in a minute",
        429,
        "rate_limited",
        "same",
        {"retry_after_seconds"},
        body=invoke(option=1),
        where="paced",
    ),
    Row(
        "nothing is left to tell with",
        429,
        "budget_exhausted",
        "same",
        {"budget", "retry_after_seconds"},
        steps=(2, 1),
        body=invoke(option=2),
        where="short of money",
    ),
    # 500
    Row("an assign that errs", 500, "machine_fault", "never", {"machine", "edge"}, body=invoke("BREAK")),
    Row("a guard that errs", 500, "machine_fault", "never", {"machine", "edge"}, body=invoke("SPLIT")),
    Row("a fault of ours", 500, "internal_error", "same", set(), body=invoke(option=2), where="crashing"),
    # 503
    Row(
        "the model refuses",
        503,
        "narrator_unavailable",
        "same",
        {"rungs", "attempts"},
        body=invoke(option=2),
        where="refusing model",
    ),
    Row(
        "the model hangs up",
        503,
        "narrator_unavailable",
        "same",
        {"rungs", "attempts"},
        body=invoke(option=2),
        where="absent model",
    ),
    Row(
        "the model babbles",
        503,
        "narration_invalid",
        "same",
        {"rungs", "attempts"},
        body=invoke(option=2),
        where="babbling model",
    ),
    Row(
        "the turn's deadline passes",
        503,
        "narrator_unavailable",
        "same",
        {"rungs"},
        body=invoke(option=2),
        where="hanging",
    ),
    Row(
        "the journal can't be written",
        503,
        "store_unavailable",
        "same",
        set(),
        body=invoke(option=2),
        headers=PLAY,
        where="brittle",
    ),
]

UNPROVOKED = {
    "bad_request": "HTTP itself is broken: the socket's library answers that, or the client has gone",
    "overloaded": "nothing is refused for load yet",
    "idempotency_mismatch": "it takes two requests: tests/test_idempotency.py",
    "not_implemented": "the contract has nothing that this version has not",
}


async def no_wait(_: float) -> None:
    """Wait between two calls to a model as if it were over."""


class Stand:
    """A server for some rows, and a client that sees all of it."""

    def __init__(self, server: Server, stack: ExitStack, narrator: Gated | None = None) -> None:
        self.server = server
        self.narrator = narrator
        self.observer = stack.enter_context(Web(server.url, **OPERATE))
        self.beginner = self.observer
        self.pool = stack.enter_context(ThreadPoolExecutor(1))
        if narrator is not None:
            stack.callback(narrator.gate.set)

    def begin(self, steps: tuple[int, ...] | None) -> str:
        """A session that stands after these options; only its id where there are none.

        Where the narrator is gated, one more turn of it is under way.
        """
        session_id = f"row-{next(_numbers)}"
        if steps is not None:
            self.beginner.invoke(session_id, "INIT")
        for option in steps or ():
            self.beginner.invoke(session_id, option=option)
        if self.narrator is not None:
            self.narrator.gate.clear()
            self.narrator.waiting.clear()
            self.pool.submit(self.observer.invoke, session_id, option=2)
            assert self.narrator.waiting.wait(PATIENCE_S)
        return session_id

    def seen(self, session_id: str) -> list[Any]:
        """All that can be seen of a session, from outside and in the journal."""
        answers = [self.observer.http.get(f"/sessions/{session_id}{part}").json() for part in ("", "/turns")]
        told = [answer["data"] if answer["code"] == 0 else answer["data"]["error"] for answer in answers]
        return [*told, self.server.journal(session_id)]


def stand_of(where: str, stack: ExitStack) -> Stand:
    """A server by its name, until the stack ends."""

    def stand(narrator: Any = None, settings: Settings | None = None, machine: str = HOUSE, **more: Any) -> Stand:
        runtime = runtime_of(tiny(machine, "house"), narrator=narrator, **more)
        server = stack.enter_context(serving(runtime, settings))
        return Stand(server, stack, narrator if isinstance(narrator, Gated) else None)

    def asking(*behaviours: Callable[..., Any]) -> Stand:
        llm = stack.enter_context(FakeLLM())
        llm.will(*behaviours)
        return stand(OpenAI(Profile(base_url=llm.url, model="any"), sleep=no_wait))

    def changed() -> Stand:
        store = Forgetful()
        newer = stand(store=store, machine=HOUSE.replace("hp - 1", "hp - 2"))
        newer.beginner = stand(store=store).observer
        return newer

    made: Mapping[str, Callable[[], Stand]] = {
        "plain": stand,
        "tokens": lambda: stand(settings=TOKENS),
        "paced": lambda: stand(settings=Settings(turns_per_minute=1)),
        "crashing": lambda: stand(Failing(RuntimeError(SECRET))),
        "hanging": lambda: stand(Hanging(), turn_deadline_s=0.01),
        "brittle": lambda: stand(settings=TOKENS, store=Brittle()),
        "changed": changed,
        "gated": lambda: stand(Gated()),
        "short of money": lambda: stand(Paid(), budgets=Budgets(day_tokens=1, on_budget="refuse")),
        "refusing model": lambda: asking(refuses(500)),
        "absent model": lambda: asking(hangs_up()),
        "babbling model": lambda: asking(says("I would rather not.")),
    }
    return made[where]()


@pytest.fixture(scope="module")
def stands() -> Iterator[Callable[[str], Stand]]:
    """Servers by name, each started when it is first asked for."""
    started: dict[str, Stand] = {}
    with ExitStack() as stack:

        def stand(where: str) -> Stand:
            if where not in started:
                started[where] = stand_of(where, stack)
            return started[where]

        yield stand


def asked(row: Row, web: Web, session_id: str) -> Any:
    """The answer to a row's request."""
    sent = json.dumps(row.body).replace('"{}"', f'"{session_id}"').encode() if row.body is not None else row.raw
    path = row.path.format(session_id)
    headers = {"Content-Type": "application/json", **row.headers}
    return web.http.request(row.method, path, content=sent, headers=headers)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.error}: {row.name}")
def test_a_refusal_has_its_row_of_the_table_and_changes_nothing(stands, row):
    stand = stands(row.where)
    session_id = stand.begin(row.steps)
    before = stand.seen(session_id)

    with Web(stand.server.url) as web:
        answer = asked(row, web, session_id)
        failure = envelope(answer, row.status)

    assert (failure["error"], failure["retry"]) == (row.error, row.retry)
    assert set(facts(failure)) == row.facts
    assert failure["hint"]
    assert failure["player_message"] in {TABLE[row.error].zh, TABLE[row.error].en}
    assert TABLE[row.error].status == row.status
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert stand.seen(session_id) == before
    if row.where == "gated":
        stand.narrator.gate.set()


def test_every_error_that_the_server_knows_is_provoked_or_says_why_not():
    provoked = {row.error for row in ROWS}
    assert {kind.code for kind in kinds()} == set(TABLE)
    assert provoked | set(UNPROVOKED) == set(TABLE)
    assert not provoked & set(UNPROVOKED)


def test_every_row_says_what_its_code_always_says():
    for code in {row.error for row in ROWS}:
        rows = [row for row in ROWS if row.error == code]
        assert len({(row.status, row.retry) for row in rows}) == 1


def refused(stands: Callable[[str], Stand], name: str) -> Any:
    """The failure that a row's request is answered with."""
    row = next(row for row in ROWS if row.name == name)
    stand = stands(row.where)
    with Web(stand.server.url) as web:
        return envelope(asked(row, web, stand.begin(row.steps)), row.status)


def test_a_closed_guard_says_the_edges_own_why(stands):
    failure = refused(stands, "every guard is closed")
    assert failure["why"] == "门还锁着。"
    assert failure["state"] == "HALL"
    assert failure["considered"][0]["values"]["hp"] == 3


def test_a_must_edge_that_is_open_is_named(stands):
    failure = refused(stands, "another event must come first")
    assert failure["because"] == "*.FALL>END_DEAD"
    assert failure["allowed_event_types"] == ["FALL"]


def test_what_was_meant_is_guessed(stands):
    assert refused(stands, "no such event")["did_you_mean"] == "KICK"
    assert refused(stands, "no such machine")["did_you_mean"] == "house"


def test_an_option_of_another_event_names_its_own(stands):
    failure = refused(stands, "another event's option")
    assert failure["event_type"] == "HIT"
    assert [each["id"] for each in failure["offered"]] == [1, 2, 3]


def test_an_ended_session_names_its_ending(stands):
    failure = refused(stands, "ended")
    assert (failure["ending"], failure["turn"]) == ({"id": "END_OUT", "title": "出来了", "good": True}, 2)


@pytest.mark.slow
def test_the_checks_come_in_the_contracts_order(stands):
    """Role; size, media type, JSON; shape; session; stale; event; option; event allowed."""
    stand = stands("tokens")
    session_id = stand.begin(())
    wrong: dict[str, Any] = {
        "session": {"session_id": session_id, "expected_turn": 9},
        "event": {"type": "NO_SUCH"},
        "payload": {"selected_option_id": 9},
    }

    def error(content: bytes, **headers: str) -> str:
        with Web(stand.server.url) as web:
            return str(web.http.post("/invoke", content=content, headers=headers).json()["data"]["error"])

    def mended(**changes: Any) -> str:
        body = json.dumps({**wrong, **changes}).encode()
        return error(body, **PLAY, **{"Content-Type": "application/json"})

    json_type = {"Content-Type": "application/json"}
    here = {"session_id": session_id}
    assert error(b"x" * 300_000) == "unauthenticated"
    assert error(b"x" * 300_000, **PLAY) == "body_too_large"
    assert error(b"x", **PLAY, **{"Content-Type": "text/plain"}) == "unsupported_media_type"
    assert error(b"x", **PLAY, **json_type) == "malformed_json"
    assert error(b"{}", **PLAY, **json_type, **{"Idempotency-Key": "k"}) == "validation_error"
    assert (
        error(
            json.dumps({**wrong, "session": {"session_id": "nobody"}}).encode(),
            **PLAY,
            **json_type,
            Accept="text/event-stream",
        )
        == "session_not_found"
    )
    assert mended(session={"session_id": "nobody"}) == "session_not_found"
    assert mended() == "stale_turn"
    assert mended(session=here) == "unknown_event_type"
    assert mended(session=here, event={"type": "KICK"}) == "option_not_offered"
    assert mended(session=here, event={"type": "KICK"}, payload={"selected_option_id": 1}) == "option_event_mismatch"
    assert mended(session=here, event={"type": "KICK"}, payload={}) == "event_not_allowed"
    assert mended(session=here, event={"type": "OPEN"}, payload={}) == "guard_refused"
