"""A request that is sent twice is played once: over a socket, at once, after a failure, and after a restart."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import tiny
from served import PATIENCE_S, TLS, Process, Server, Web, envelope, facts, runtime_of, serving

from runtime.claims import KEY_KEPT_MS
from runtime.errors import NarratorUnavailable
from runtime.narrators import Narration
from runtime.narrators.offline import Offline
from runtime.stores.memory import MemoryStore
from server.settings import Settings

GATE = """
machine: gate
title: {zh: 城门, en: The Gate}
language: zh
on_failure: refuse
initial: {event: INIT, target: GATE}
states:
  GATE:
    options:
      - {key: knock, text: {zh: 敲门, en: Knock}, target: GATE, dice: {answer: 1d1000}}
      - {key: leave, text: {zh: 离开, en: Leave}, target: END_AWAY}
  END_AWAY: {type: final}
"""
LONG = "0123456789abcdef"
CROWD = 50


class Watched(MemoryStore):
    """A store that says how many requests wait for their key's turn."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self._more = threading.Condition()

    async def freed(self, session_id: str, wait_s: float) -> None:
        with self._more:
            self.waiting += 1
            self._more.notify_all()
        await super().freed(session_id, wait_s)

    def wait_for(self, count: int) -> None:
        """Block until so many requests have begun to wait."""
        with self._more:
            assert self._more.wait_for(lambda: self.waiting >= count, PATIENCE_S)


class Slow(Offline):
    """Tells nothing while the gate is shut; counts what it was asked, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.asked = 0
        self.failures = 0

    async def narrate(self, task: Any, _release: Any) -> Narration:
        self.asked += 1
        self.waiting.set()
        await asyncio.to_thread(self.gate.wait)
        if self.failures:
            self.failures -= 1
            raise NarratorUnavailable("the storyteller is away")
        return self.tell(task)

    def shut(self) -> None:
        """Let the next turn wait."""
        self.waiting.clear()
        self.gate.clear()


class House:
    """A server, its narrator, its store and the time that it reads."""

    def __init__(self, server: Server, narrator: Slow, store: Watched, clock: list[int]) -> None:
        self.server = server
        self.narrator = narrator
        self.store = store
        self.clock = clock
        self.http = browser(server.url)

    def post(self, path: str, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
        """One request; as many at once as there are threads."""
        return post(self.http, path, body, key, **headers)

    def journal(self, session_id: str = "s") -> list[bytes]:
        return self.server.journal(session_id)


def browser(url: str) -> httpx.Client:
    """A client with a connection for each thread of a crowd."""
    return httpx.Client(
        base_url=url, timeout=PATIENCE_S, trust_env=False, verify=TLS, limits=httpx.Limits(max_connections=CROWD)
    )


def post(http: httpx.Client, path: str, body: Any = None, key: str | None = None, **headers: str) -> httpx.Response:
    keyed = headers if key is None else {**headers, "Idempotency-Key": key}
    return http.post(path, headers=keyed, **({} if body is None else {"json": body}))


def first(session_id: str | None = "s", **session: Any) -> dict[str, Any]:
    named = session if session_id is None else {"session_id": session_id, **session}
    return {"event": {"type": "INIT"}, "session": named, "seed": {"run_seed": "key"}}


def knock(option: int = 1, session_id: str = "s") -> dict[str, Any]:
    return {"session": {"session_id": session_id}, "payload": {"selected_option_id": option}}


def replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("Idempotency-Replayed") == "true"


@pytest.fixture
def open_house() -> Iterator[Callable[..., House]]:
    """Makes a house for some settings; each test has one."""
    ended: list[Callable[[], None]] = []

    def opened(settings: Settings | None = None) -> House:
        narrator, store, clock = Slow(), Watched(), [1_750_000_000_000]
        runtime = runtime_of(tiny(GATE, "gate"), narrator=narrator, store=store, clock_ms=lambda: clock[0])
        context = serving(runtime, settings)
        server = context.__enter__()
        ended.append(lambda: context.__exit__(None, None, None))
        ended.append(narrator.gate.set)
        house = House(server, narrator, store, clock)
        ended.append(house.http.close)
        return house

    yield opened
    for end in reversed(ended):
        end()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    """A house with a session that has begun."""
    opened = open_house()
    envelope(opened.post("/invoke", first()))
    return opened


CHANGES: dict[str, tuple[str, Any]] = {
    "turn": ("/invoke", knock()),
    "rewind": ("/sessions/s/rewind", {"to_turn": 1}),
    "fork": ("/sessions/s/fork", {"at_turn": 1}),
    "fork of the head": ("/sessions/s/fork", None),
    "regenerate": ("/sessions/s/regenerate", None),
    "first turn": ("/invoke", first("new")),
    "restart": ("/invoke", first(on_exists="restart")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_key_and_request_again_hear_the_same_bytes_and_nothing_more_happens(house, change):
    envelope(house.post("/invoke", knock()))
    path, body = CHANGES[change]
    once = house.post(path, body, "key")
    envelope(once)
    asked, walked = house.narrator.asked, house.server.run(_everything(house.store))

    again = house.post(path, body, "key")

    assert again.content == once.content
    assert (replayed(once), replayed(again)) == (False, True)
    assert house.narrator.asked == asked
    assert house.server.run(_everything(house.store)) == walked


async def _everything(store: MemoryStore) -> list[Any]:
    return [(row.session_id, row.seq, row.hash) async for row in store.walk()]


@pytest.mark.parametrize("change", ["turn", "regenerate", "first turn"])
def test_fifty_at_once_with_one_key_are_told_once_and_hear_the_same_bytes(house, change):
    path, body = CHANGES[change]
    asked = house.narrator.asked
    house.narrator.shut()
    with ThreadPoolExecutor(CROWD) as pool:
        posting = [pool.submit(house.post, path, body, "fifty") for _ in range(CROWD)]
        house.store.wait_for(CROWD - 1)
        house.narrator.gate.set()
        answers = [each.result(PATIENCE_S) for each in posting]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [replayed(answer) for answer in answers].count(False) == 1
    assert house.narrator.asked == asked + 1


@pytest.mark.parametrize("change", ["rewind", "fork"])
def test_fifty_at_once_with_one_key_move_the_head_or_branch_off_once(house, change):
    envelope(house.post("/invoke", knock()))
    path, body = CHANGES[change]
    before = len(house.server.run(_everything(house.store)))
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [*pool.map(lambda _: house.post(path, body, "fifty"), range(CROWD))]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert [replayed(answer) for answer in answers].count(False) == 1
    added = {"rewind": 1, "fork": 3}[change]  # a fork: the copy, the child's entry and the source's
    assert len(house.server.run(_everything(house.store))) == before + added


def test_the_same_json_value_is_the_same_request_however_it_is_written(house):
    once = house.post("/invoke", knock(), "key")
    written = b'{ "payload" : {"selected_option_id":1},\n"session":{"session_id":"\\u0073"} }'
    headers = {"Idempotency-Key": "key", "Content-Type": "application/json; charset=utf-8"}
    again = httpx.post(f"{house.server.url}/invoke", content=written, headers=headers, trust_env=False, verify=TLS)
    assert (again.content, replayed(again)) == (once.content, True)


def test_a_key_with_another_request_is_a_mismatch_and_changes_nothing(house):
    envelope(house.post("/invoke", knock(), "key"))
    before = house.journal()
    others = [
        ("/invoke", knock(2)),
        ("/invoke", {**knock(), "client_context": {"try": 2}}),
        ("/sessions/s/rewind", {"to_turn": 1}),
        ("/sessions/s/regenerate", None),
    ]
    for path, body in others:
        failure = envelope(house.post(path, body, "key"), 422)
        assert (failure["error"], failure["retry"], facts(failure)) == ("idempotency_mismatch", "never", {})
    assert house.journal() == before


def test_a_key_belongs_to_one_route(house):
    envelope(house.post("/sessions/s/regenerate", {}, "key"))
    assert envelope(house.post("/sessions/s/fork", {}, "key"), 422)["error"] == "idempotency_mismatch"


def test_a_key_belongs_to_its_session_and_a_forks_to_its_source(house):
    envelope(house.post("/invoke", first("other")))
    one, two = house.post("/invoke", knock(), "key"), house.post("/invoke", knock(1, "other"), "key")
    assert (replayed(one), replayed(two)) == (False, False)
    child = envelope(house.post("/sessions/s/fork", {"session_id": "child"}, "fork-key"))["session"]["session_id"]
    answer = house.post("/invoke", knock(1, child), "fork-key")
    assert envelope(answer)["session"]["turn"] == 3
    assert not replayed(answer)
    assert replayed(house.post("/sessions/s/fork", {"session_id": "child"}, "fork-key"))
    copied = house.post("/invoke", knock(1, child), "key")
    assert (envelope(copied)["session"]["turn"], replayed(copied)) == (4, False)


def test_a_stored_answer_is_heard_whatever_has_happened_since(house):
    once = house.post("/invoke", knock(), "key")
    envelope(house.post("/invoke", knock(), "key-2"))
    envelope(house.post("/sessions/s/rewind", {"to_turn": 1}))
    envelope(house.post("/invoke", knock(2)))
    again = house.post("/invoke", {**knock()}, "key")
    assert (again.content, replayed(again)) == (once.content, True)
    stale = knock()
    stale["session"]["expected_turn"] = 1
    assert envelope(house.post("/invoke", stale, "key"), 422)["error"] == "idempotency_mismatch"


def test_a_failed_turn_keeps_no_key_and_the_same_key_plays(house):
    before = house.journal()
    house.narrator.failures = 1
    failed = envelope(house.post("/invoke", knock(), "key"), 503)
    assert failed["retry"] == "same"
    assert house.journal() == before

    played = house.post("/invoke", knock(), "key")

    assert (envelope(played)["session"]["turn"], replayed(played)) == (2, False)
    refused = house.post("/invoke", knock(9), "other")
    assert envelope(refused, 422)["error"] == "option_not_offered"
    assert replayed(house.post("/invoke", knock(), "key"))
    mended = house.post("/invoke", knock(2), "other")
    assert envelope(mended)["session"]["ended"] is True


def test_another_key_or_none_does_not_wait(house):
    house.narrator.shut()
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(house.post, "/invoke", knock(), "key")
        assert house.narrator.waiting.wait(PATIENCE_S)
        for key in ("other", None):
            refused = house.post("/invoke", knock(), key)
            assert facts(envelope(refused, 409)) == {"same_key": False, "retry_after_seconds": 1}
        mismatch = envelope(house.post("/invoke", knock(2), "key"), 422)
        house.narrator.gate.set()
        assert envelope(playing.result(PATIENCE_S))["session"]["turn"] == 2
    assert mismatch["error"] == "idempotency_mismatch"
    assert house.store.waiting == 0


def test_a_wait_that_is_outlasted_says_that_it_is_the_same_key_and_the_turn_goes_on(house):
    house.narrator.shut()
    with ThreadPoolExecutor() as pool:
        playing = pool.submit(house.post, "/invoke", knock(), "key")
        assert house.narrator.waiting.wait(PATIENCE_S)
        for wait in ("wait=0", "respond-async, wait=0", 'WAIT="0"'):
            refused = envelope(house.post("/invoke", knock(), "key", Prefer=wait), 409)
            assert (refused["error"], refused["retry"]) == ("turn_in_progress", "same")
            assert facts(refused) == {"same_key": True, "retry_after_seconds": 1}
        waiting = pool.submit(house.post, "/invoke", knock(), "key", Prefer="wait=60")
        house.store.wait_for(1)
        house.narrator.gate.set()
        answers = [playing.result(PATIENCE_S), waiting.result(PATIENCE_S)]
    assert answers[0].content == answers[1].content
    assert [replayed(answer) for answer in answers] == [False, True]


def test_where_the_turn_that_was_waited_for_fails_the_one_that_waited_plays(house):
    house.narrator.shut()
    house.narrator.failures = 1
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(house.post, "/invoke", knock(), "key")
        assert house.narrator.waiting.wait(PATIENCE_S)
        waiting = pool.submit(house.post, "/invoke", knock(), "key")
        house.store.wait_for(1)
        house.narrator.gate.set()
        assert failing.result(PATIENCE_S).status_code == httpx.codes.SERVICE_UNAVAILABLE
        played = waiting.result(PATIENCE_S)
    assert (envelope(played)["session"]["turn"], replayed(played)) == (2, False)
    assert len(house.journal()) == 2


def test_a_client_that_went_away_hears_its_turn_by_asking_again(house):
    house.narrator.shut()
    leaving = httpx.Client(
        base_url=house.server.url, trust_env=False, verify=TLS, timeout=httpx.Timeout(PATIENCE_S, read=0.05)
    )
    with leaving, pytest.raises(httpx.ReadTimeout):
        leaving.post("/invoke", json=knock(), headers={"Idempotency-Key": "key"})
    assert house.narrator.waiting.wait(PATIENCE_S)
    asked = house.narrator.asked
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(house.post, "/invoke", knock(), "key")
        house.store.wait_for(1)
        house.narrator.gate.set()
        answer = asking.result(PATIENCE_S)
    assert (envelope(answer)["session"]["turn"], replayed(answer)) == (2, True)
    assert house.narrator.asked == asked


@pytest.mark.parametrize(
    "key", ["k" * 256, "ключ".encode().decode("latin-1"), "钥匙".encode().decode("latin-1"), "a\tb"]
)
def test_a_key_that_is_too_long_or_not_printable_ascii_is_refused(house, key):
    before = house.journal()
    for path, body in (("/invoke", knock()), ("/sessions/s/regenerate", {})):
        raw = [(b"idempotency-key", key.encode("latin-1")), (b"content-type", b"application/json")]
        answer = httpx.post(
            f"{house.server.url}{path}",
            content=json.dumps(body),
            headers=raw,
            trust_env=False,
            verify=TLS,
            timeout=PATIENCE_S,
        )
        failure = envelope(answer, 422)
        assert failure["error"] == "validation_error"
        assert [each["loc"] for each in failure["details"]] == [["header", "idempotency-key"]]
    assert house.journal() == before


def test_two_keys_are_one_other_key(house):
    """Header lines of one name are one list: neither of them is taken for the other, or left out in silence."""

    def post(*keys: str) -> httpx.Response:
        raw = [(b"idempotency-key", key.encode()) for key in keys]
        headers = [*raw, (b"content-type", b"application/json")]
        url = f"{house.server.url}/invoke"
        return httpx.post(
            url, content=json.dumps(knock()), headers=headers, trust_env=False, verify=TLS, timeout=PATIENCE_S
        )

    turns = [
        envelope(post(*keys))["session"]["turn"] for keys in (("a", "b"), ("a", "c"), ("a",), ("a", "b"), ("a, b",))
    ]

    assert turns == [2, 3, 4, 2, 2]


def test_the_longest_key_and_every_printable_one_are_taken(house):
    printable = "".join(map(chr, range(0x21, 0x7F)))
    for number, key in enumerate(("k" * 255, printable, "k"), 2):
        assert envelope(house.post("/invoke", knock(), key))["session"]["turn"] == number
        assert replayed(house.post("/invoke", knock(), key))


def test_a_key_is_found_for_two_days_and_then_plays_again(house):
    once = house.post("/invoke", knock(), "key")
    house.clock[0] += KEY_KEPT_MS
    assert house.post("/invoke", knock(), "key").content == once.content
    house.clock[0] += 1
    late = house.post("/invoke", knock(), "key")
    assert (envelope(late)["session"]["turn"], replayed(late)) == (3, False)


# A session that a key begins without naming it.


def test_a_key_that_begins_a_session_without_naming_it_makes_one_session(house):
    body = first(None)
    with ThreadPoolExecutor(CROWD) as pool:
        answers = [*pool.map(lambda _: house.post("/invoke", body, LONG), range(CROWD))]
    assert len({answer.content for answer in answers}) == 1
    assert [replayed(answer) for answer in answers].count(False) == 1
    made = envelope(answers[0])["session"]["session_id"]
    assert made != LONG
    assert len(house.journal(made)) == 1


def test_a_short_key_names_no_session(house):
    failure = envelope(house.post("/invoke", first(None), LONG[:-1]), 422)
    assert failure["error"] == "validation_error"
    assert [(each["loc"], each["type"]) for each in failure["details"]] == [
        (["header", "idempotency-key"], "too_short")
    ]
    assert envelope(house.post("/invoke", first("named"), "k"))["session"]["turn"] == 1


def test_the_same_key_of_another_player_or_token_begins_another_session(open_house):
    house = open_house(Settings(play_tokens=("one", "two")))

    def begun(token: str, **session: Any) -> str:
        answer = house.post("/invoke", first(None, **session), LONG, Authorization=f"Bearer {token}")
        return str(envelope(answer)["session"]["session_id"])

    made = [begun("one"), begun("two"), begun("one", player_id="ann"), begun("one", player_id="兰")]
    assert len(set(made)) == len(made)
    assert made == [begun("one"), begun("two"), begun("one", player_id="ann"), begun("one", player_id="兰")]


def test_a_session_that_was_deleted_can_be_begun_by_its_key_again(house):
    once = envelope(house.post("/invoke", first(None), LONG))
    with Web(house.server.url) as web:
        web.ask("DELETE", f"/sessions/{once['session']['session_id']}")
    again = house.post("/invoke", first(None), LONG)
    assert not replayed(again)
    assert envelope(again)["session"] == once["session"]


# After a restart.


@pytest.mark.slow
def test_after_a_kill_the_same_keys_hear_the_same_bytes(tmp_path: Path):
    """A real process and its file: a turn, a first turn without an id, a rewind, a fork and a regenerate."""
    (tmp_path / "project" / "machines").mkdir(parents=True)
    (tmp_path / "project" / "machines" / "gate.yaml").write_text(GATE.lstrip(), encoding="utf-8")
    requests = [
        ("/invoke", first(), "begin"),
        ("/invoke", knock(), "turn"),
        ("/invoke", first(None), LONG),
        ("/sessions/s/rewind", {"to_turn": 1}, "rewind"),
        ("/sessions/s/regenerate", None, "regenerate"),
        ("/sessions/s/fork", {"at_turn": 2}, "fork"),
    ]

    def process() -> Process:
        return Process(tmp_path / "project", tmp_path / "journal.duckdb", EDGEWISE_MACHINE="gate")

    with process() as server, browser(server.url) as http:
        heard = [post(http, *request) for request in requests]
        assert [replayed(answer) for answer in heard] == [False] * len(requests)
        server.kill()
    with process() as server, Web(server.url) as web, browser(server.url) as http:
        with ThreadPoolExecutor(CROWD) as pool:
            again = [*pool.map(lambda request: post(http, *request), requests * 5)]
        assert [answer.content for answer in again] == [answer.content for answer in heard] * 5
        assert all(replayed(answer) for answer in again)
        assert [each["kind"] for each in web.turns("s")] == ["turn", "turn", "rewind", "regenerate", "fork"]
        assert envelope(post(http, "/invoke", knock(2), "turn"), 422)["error"] == "idempotency_mismatch"
        assert len(web.ask("GET", "/sessions")["items"]) == 3
