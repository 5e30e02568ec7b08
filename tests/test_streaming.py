"""A turn as a stream of events, over a real socket: its order, its end, coming back to it, what holds nothing up."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import tiny
from msgspec import Struct
from served import PATIENCE_S, ROOT, TLS, Process, Server, Web, envelope, runtime_of, serving

from runtime.errors import NarratorUnavailable
from runtime.narrators import Narration
from runtime.narrators.offline import Offline
from server.forms import NDJSON, SSE, in_ascii
from server.settings import Settings

LAMP = """
machine: tiny
title: {zh: 灯, en: The Lamp}
language: en
on_failure: refuse
initial: {event: INIT, target: HALL}
states:
  HALL:
    narrate: written
    options:
      - {key: up, text: {zh: 上楼, en: Go up}, target: STAIRS}
      - {key: out, text: {zh: 出去, en: Go out}, target: OUT}
  STAIRS:
    options:
      - {key: on, text: {zh: 往上, en: Climb on}, target: STAIRS}
      - {key: down, text: {zh: 下楼, en: Go down}, target: HALL}
  OUT: {type: final}
"""
SENTENCES = ("The lamp goes out. ", "Somebody breathes — very near. ", "It is you.")
KEY = "a-key-of-enough-letters"
CROWD = 50


class Dictating(Offline):
    """Writes a scene sentence by sentence, each when it is let; fails instead of an end where it is told to."""

    def __init__(self, *sentences: str) -> None:
        super().__init__()
        self.sentences = sentences
        self.failure: Exception | None = None
        self.told = 0
        self._gate = asyncio.Semaphore(0)

    async def let(self, steps: int = 1) -> None:
        """Let so many sentences, or ends, be written."""
        for _ in range(steps):
            self._gate.release()

    async def narrate(self, task: Any, release: Any) -> Narration:
        self.told += 1
        release.feed('{"scene": "')
        for piece in self._pieces():
            await self._gate.acquire()
            release.feed(json.dumps(piece, ensure_ascii=False)[1:-1])
        await self._gate.acquire()
        if self.failure:
            raise self.failure
        release.feed('"}')
        texts = {each.key or each.kind: each.text for each in task.offer}
        return Narration(narrator="dictating", output={"scene": "".join(self.sentences)}, options=texts)

    def _pieces(self) -> Iterator[str]:
        """Each sentence with the first character of the next: only that shows where a sentence ends."""
        scene, start = "".join(self.sentences), 0
        for end in itertools.accumulate(map(len, self.sentences)):
            yield scene[start : end + 1]
            start = end + 1


class House:
    """A server, its narrator, and clients of it."""

    def __init__(self, server: Server, narrator: Dictating) -> None:
        self.server = server
        self.narrator = narrator
        self.web = Web(server.url)

    def begin(self, session_id: str = "s1", **more: Any) -> None:
        self.web.invoke(session_id, "INIT", **more)

    def let(self, steps: int = 1) -> None:
        self.server.run(self.narrator.let(steps))

    def let_all(self) -> None:
        self.let(len(self.narrator.sentences) + 1)

    def stream(self, form: str = NDJSON, session_id: str = "s1", **headers: str) -> Reading:
        return Reading(self.server.url, going_up(session_id), Accept=form, **headers)


class Heard(Struct, frozen=True):
    """An event as a client hears it."""

    id: str
    event: str
    data: Any


class Reading:
    """One stream that is read. Leaving it closes its connection."""

    def __init__(self, url: str, body: Any, **headers: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False, verify=TLS)
        self._request = self._http.build_request("POST", "/invoke", json=body, headers=headers)

    def __enter__(self) -> Self:
        self.answer = self._http.send(self._request, stream=True)
        self._lines = self.answer.iter_lines()
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self._http.close()

    def whole(self) -> httpx.Response:
        """The answer, to its end."""
        self.answer.read()
        return self.answer

    def events(self) -> Iterator[Heard]:
        """The events as they come, heartbeats too."""
        is_sse = self.answer.headers["Content-Type"] == SSE
        return _of_sse(self._lines) if is_sse else (Heard(**json.loads(line)) for line in self._lines)

    def next(self, *names: str) -> list[Heard]:
        """The next events, which must have these names; heartbeats are passed over."""
        events = self.events()
        found = [next(event for event in events if event.event != "heartbeat") for _ in names]
        assert [event.event for event in found] == list(names)
        return found

    def rest(self) -> list[Heard]:
        """All that comes, to the end, without heartbeats."""
        return [event for event in self.events() if event.event != "heartbeat"]


def _of_sse(lines: Iterator[str]) -> Iterator[Heard]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield Heard("", "heartbeat", {})
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Heard(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def going_up(session_id: str = "s1", option: int = 1) -> dict[str, Any]:
    return {"session": {"session_id": session_id}, "payload": {"selected_option_id": option}}


def names(events: list[Heard]) -> list[str]:
    return [event.event for event in events]


def texts(events: list[Heard]) -> list[str]:
    return [event.data["text"] for event in events if event.event == "field.delta"]


@contextmanager
def house_of(narrator: Dictating, machine: str = LAMP, **more: Any) -> Iterator[House]:
    """A house with a session `s1` at its first turn."""
    with serving(runtime_of(tiny(machine), narrator=narrator), more.pop("settings", None), **more) as server:
        house = House(server, narrator)
        with house.web:
            yield house


@pytest.fixture
def house() -> Iterator[House]:
    with house_of(Dictating(*SENTENCES)) as house:
        house.begin()
        yield house


# The order of events, and the end.


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_sentences_come_as_they_are_written_and_the_end_when_it_is_durable(house, form):
    with house.stream(form) as reading:
        (accepted,) = reading.next("turn.accepted")
        assert accepted.data == {"session_id": "s1", "turn": 2, "event": {"type": "STAIRS"}}
        house.let(2)
        heard = reading.next("field.delta", "field.delta")
        assert house.web.session("s1")["session"]["turn"] == 1
        assert house.web.session("s1")["in_progress"] is True

        house.let(2)
        *more, committed = reading.rest()

        assert house.web.session("s1")["session"]["turn"] == 2
    assert names(more) == ["field.delta"]
    assert [event.data["path"] for event in (*heard, *more)] == ["scene"] * 3
    assert "".join(texts([*heard, *more])) == committed.data["data"]["payload"]["scene"] == "".join(SENTENCES)
    assert committed.event == "turn.committed"
    assert len({event.id for event in (accepted, *heard, *more, committed)}) == 5


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_the_end_is_the_plain_answer(house, form):
    house.let_all()
    key = {"Idempotency-Key": KEY}
    with house.stream(form, **key) as reading:
        told = reading.whole().text
    plain = house.web.http.post("/invoke", json=going_up(), headers=key)

    assert plain.headers["Idempotency-Replayed"] == "true"
    envelope(plain)
    assert in_ascii(plain.content) in told


def test_both_forms_tell_the_same(house):
    house.let_all()
    with house.stream(SSE) as reading:
        as_sse = reading.rest()
    house.let_all()
    with house.stream(NDJSON, session_id="s1") as reading:
        as_lines = reading.rest()

    assert names(as_sse) == names(as_lines) == ["turn.accepted", *["field.delta"] * 3, "turn.committed"]
    assert texts(as_sse) == texts(as_lines)


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_chinese_emoji_and_every_end_of_a_line_are_escaped(form):
    scene = ("灯灭了🕯️。", "谁在喘气\u2028\u2029\x85？", "“是你。”")
    with house_of(Dictating(*scene), LAMP.replace("language: en", "language: zh")) as house:
        house.begin()
        house.let_all()
        with house.stream(form) as reading:
            told = reading.whole().content
            assert told.isascii()
        with house.stream(form, **{"Idempotency-Key": KEY}) as reading:
            house.let_all()
            events = reading.rest()

    assert events[-1].data["data"]["payload"]["scene"] == "".join(texts(events)) == "".join(scene)


def test_the_headers_keep_a_stream_from_being_kept_or_held_back(house):
    house.let_all()
    with house.stream(SSE, **{"X-Request-Id": "mine", "Origin": "http://x"}) as reading:
        headers = reading.whole().headers

    assert headers["Content-Type"] == SSE
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert headers["X-Request-Id"] == "mine"
    assert "Idempotency-Replayed" not in headers


def test_a_web_page_from_elsewhere_may_read_a_stream():
    settings = Settings(cors_origins=("http://elsewhere",))
    with house_of(Dictating(), settings=settings) as house:
        house.begin()
        house.let_all()
        with house.stream(SSE, Origin="http://elsewhere") as reading:
            headers = reading.whole().headers

    assert headers["Access-Control-Allow-Origin"] == "http://elsewhere"
    assert "Idempotency-Replayed" in headers["Access-Control-Expose-Headers"]


def test_a_reader_of_http_1_0_gets_the_whole_in_one_piece(house):
    house.let_all()
    address = urlsplit(house.server.url)
    body = json.dumps(going_up()).encode()
    head = f"POST /invoke HTTP/1.0\r\nContent-Type: application/json\r\nAccept: {NDJSON}\r\nContent-Length: {len(body)}"
    with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        with connection.makefile("rb") as file:
            answer, _, told = file.read().partition(b"\r\n\r\n")

    assert f"content-length: {len(told)}".encode() in answer
    assert b"transfer-encoding" not in answer.lower()
    assert [json.loads(line)["event"] for line in told.splitlines()][-1] == "turn.committed"


# Refusals and failures.


@pytest.mark.parametrize("form", [SSE, NDJSON])
@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        ({"event": {"type": "DANCE"}}, 422, "unknown_event_type"),
        ({"payload": {"selected_option_id": 7}}, 422, "option_not_offered"),
        ({"session": {"session_id": "nobody"}}, 404, "session_not_found"),
        ({"session": {"session_id": "s1", "expected_turn": 0}}, 409, "stale_turn"),
        ({"sesion": {}}, 422, "validation_error"),
    ],
)
def test_a_refusal_before_the_first_event_is_plain_json(house, form, sent, status, error):
    before = house.server.journal("s1")
    answer = house.web.http.post("/invoke", json={**going_up(), **sent}, headers={"Accept": form})

    assert envelope(answer, status)["error"] == error
    assert house.server.journal("s1") == before


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_a_turn_that_fails_says_so_at_the_end_and_changes_nothing(house, form):
    before = house.server.journal("s1")
    house.narrator.failure = NarratorUnavailable("the storyteller is away")
    with house.stream(form, **{"X-Request-Id": "mine", "Idempotency-Key": KEY}) as reading:
        house.let_all()
        *_, failed = reading.rest()

    assert failed.event == "turn.failed"
    assert failed.data["code"] == 503
    assert (failed.data["data"]["error"], failed.data["data"]["retry"]) == ("narrator_unavailable", "same")
    assert failed.data["data"]["request_id"] == "mine"
    assert failed.data["data"]["player_message"] == "The storyteller has stepped away. Please try again soon."
    assert house.server.journal("s1") == before

    house.narrator.failure = None
    with house.stream(form, **{"Idempotency-Key": KEY, "Last-Event-ID": failed.id}) as reading:
        house.let_all()
        assert names(reading.rest())[-1] == "turn.committed"


def test_a_fault_of_ours_says_nothing_of_ours(house):
    before = house.server.journal("s1")
    house.narrator.failure = RuntimeError("a secret of ours")
    with house.stream() as reading:
        house.let_all()
        told = reading.whole().text

    failed = json.loads(told.splitlines()[-1])
    assert (failed["event"], failed["data"]["data"]["error"]) == ("turn.failed", "internal_error")
    assert "secret" not in told
    assert house.server.journal("s1") == before


def test_a_failure_and_the_first_text_are_counted(house):
    house.let_all()
    with house.stream() as reading:
        reading.rest()
    house.narrator.failure = NarratorUnavailable("away")
    house.let_all()
    with house.stream() as reading:
        reading.rest()

    figures = house.web.http.get("/metrics").text
    assert 'edgewise_first_text_seconds_count{narrator="offline"} 2.0' in figures
    assert 'edgewise_refusals_total{error="narrator_unavailable"} 1.0' in figures


# Readers that go away, come back, or are slow.


def test_a_reader_that_goes_away_stops_no_turn_and_hears_its_end_later(house):
    with house.stream(**{"Idempotency-Key": KEY}) as reading:
        reading.next("turn.accepted")
        house.let()
        reading.next("field.delta")
    house.let_all()

    with house.stream(**{"Idempotency-Key": KEY}) as reading:
        assert reading.rest()[-1].event == "turn.committed"
    assert (len(house.server.journal("s1")), house.narrator.told) == (2, 1)


def test_a_reader_that_comes_back_goes_on_where_it_was(house):
    again = {"Idempotency-Key": KEY}
    with house.stream(**again) as reading:
        house.let(2)
        _, first, second = reading.next("turn.accepted", "field.delta", "field.delta")
    with house.stream(**again, **{"Last-Event-ID": first.id}) as reading:
        (missed,) = reading.next("field.delta")
        house.let(2)
        more = reading.rest()
        assert "Idempotency-Replayed" not in reading.answer.headers

    assert missed == second
    assert names(more) == ["field.delta", "turn.committed"]
    assert "".join(texts([first, missed, *more])) == "".join(SENTENCES)


@pytest.mark.parametrize("last_id", ["", "nothing-1", "turn-1", "0"])
def test_a_reader_that_saw_nothing_of_this_turn_hears_it_from_its_first_event(house, last_id):
    with house.stream(**{"Idempotency-Key": KEY}) as reading:
        first = reading.next("turn.accepted")
        with house.stream(**{"Idempotency-Key": KEY, "Last-Event-ID": last_id}) as other:
            house.let_all()
            assert other.rest() == [*first, *reading.rest()]


def test_two_readers_of_a_turn_hear_the_same_in_either_form(house):
    with house.stream(NDJSON, **{"Idempotency-Key": KEY}) as one:
        first = one.next("turn.accepted")
        with house.stream(SSE, **{"Idempotency-Key": KEY}) as other:
            house.let_all()
            heard = [*first, *one.rest()]
            assert other.rest() == heard
    assert house.narrator.told == 1


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_after_the_commit_the_stored_answer_is_told_again(house, form):
    house.let_all()
    with house.stream(form, **{"Idempotency-Key": KEY}) as reading:
        *_, committed = reading.rest()
    with house.stream(form, **{"Idempotency-Key": KEY, "Last-Event-ID": committed.id}) as reading:
        assert reading.rest() == [committed]
        assert reading.answer.headers["Idempotency-Replayed"] == "true"


def test_a_plain_request_with_the_key_of_a_stream_waits_for_its_end(house):
    with house.stream(**{"Idempotency-Key": KEY}) as reading, ThreadPoolExecutor() as pool:
        reading.next("turn.accepted")
        plain = pool.submit(house.web.http.post, "/invoke", json=going_up(), headers={"Idempotency-Key": KEY})
        house.let_all()
        assert plain.result(PATIENCE_S).json() == reading.rest()[-1].data
    assert house.narrator.told == 1


def test_other_requests_meanwhile_are_refused_at_once(house):
    with house.stream(**{"Idempotency-Key": KEY}) as reading:
        reading.next("turn.accepted")
        refused = []
        for option, headers in ((1, {"Idempotency-Key": "another"}), (2, {"Idempotency-Key": KEY}), (1, {})):
            sent = {"json": going_up(option=option), "headers": {"Accept": NDJSON, **headers}}
            refused.append(house.web.http.post("/invoke", **sent))
        house.let_all()
        assert reading.rest()[-1].event == "turn.committed"

    found = [(answer.status_code, answer.json()["data"]["error"]) for answer in refused]
    assert found == [(409, "turn_in_progress"), (422, "idempotency_mismatch"), (409, "turn_in_progress")]


def test_a_reader_that_does_not_read_holds_no_turn_up():
    long = f"So it goes. {'🕯' * 9_900}. "
    with house_of(Dictating(long, long), LAMP + "limits: {scene_chars: {en: 20000}}\n") as house:
        house.begin()
        address = urlsplit(house.server.url)
        body = json.dumps(going_up()).encode()
        head = f"POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAccept: {SSE}\r\n"
        with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(f"{head}Content-Length: {len(body)}\r\nIdempotency-Key: {KEY}\r\n\r\n".encode() + body)
            connection.recv(1)
            house.let_all()
            with house.stream(**{"Idempotency-Key": KEY}) as reading:
                assert reading.rest()[-1].event == "turn.committed"
        assert len(house.server.journal("s1")) == 2


@pytest.mark.slow
def test_many_streams_at_once_each_hear_their_own_turn(house):
    for number in range(CROWD):
        house.begin(f"many-{number}")

    def read(number: int) -> list[Heard]:
        with house.stream(session_id=f"many-{number}") as reading:
            first = reading.next("turn.accepted")
            together.wait(PATIENCE_S)
            return [*first, *reading.rest()]

    together = threading.Barrier(CROWD + 1)
    with ThreadPoolExecutor(CROWD) as pool:
        reading = [pool.submit(read, number) for number in range(CROWD)]
        together.wait(PATIENCE_S)
        house.let(CROWD * (len(SENTENCES) + 1))
        heard = [each.result(PATIENCE_S) for each in reading]

    for number, events in enumerate(heard):
        assert events[0].data["session_id"] == f"many-{number}"
        assert "".join(texts(events)) == "".join(SENTENCES)
        assert events[-1].data["data"]["session"] == {**events[-1].data["data"]["session"], "turn": 2}


# Signs of life, restarts, and the end of the server.


@pytest.mark.parametrize("form", [SSE, NDJSON])
def test_a_stream_that_is_silent_gives_signs_of_life(form):
    with house_of(Dictating(*SENTENCES), heartbeat_s=0.005) as house:
        house.begin()
        with house.stream(form) as reading:
            events = reading.events()
            accepted = next(events)
            beats = [next(events) for _ in range(3)]
            house.let_all()
            assert reading.rest()[-1].event == "turn.committed"

    assert names([accepted, *beats]) == ["turn.accepted", *["heartbeat"] * 3]
    assert {beat.id for beat in beats} == ({""} if form == SSE else {accepted.id})


def test_a_stream_that_waits_for_its_keys_plain_request_gives_signs_of_life_too():
    with house_of(Dictating(*SENTENCES), heartbeat_s=0.005) as house, ThreadPoolExecutor() as pool:
        house.begin()
        key = {"Idempotency-Key": KEY}
        plain = pool.submit(house.web.http.post, "/invoke", json=going_up(), headers=key)
        with Web(house.server.url) as other:
            while not other.session("s1")["in_progress"]:
                pass
        with house.stream(**key) as reading:
            assert next(reading.events()) == Heard("", "heartbeat", {})
            house.let_all()
            (committed,) = reading.rest()
        assert committed.data == plain.result(PATIENCE_S).json()
    assert house.narrator.told == 1


@pytest.mark.slow
def test_after_a_restart_the_stored_answer_is_told(tmp_path):
    key = {"Idempotency-Key": KEY}
    body = {"event": {"type": "INIT"}, "seed": {"run_seed": "restart"}}
    journal = tmp_path / "journal.duckdb"
    with Process(ROOT, journal) as process:
        with Reading(process.url, body, Accept=NDJSON, **key) as reading:
            *_, committed = reading.rest()
        process.kill()
    with Process(ROOT, journal) as process, Reading(process.url, body, Accept=NDJSON, **key) as reading:
        assert reading.rest() == [committed]
        assert reading.answer.headers["Idempotency-Replayed"] == "true"


def test_a_server_that_is_to_end_tells_its_streams_to_their_end(house):
    with house.stream() as reading:
        reading.next("turn.accepted")
        house.server.ask_to_end()
        house.let_all()
        assert reading.rest()[-1].event == "turn.committed"


def test_a_turn_that_has_ended_is_kept_no_longer(house):
    house.let_all()
    with house.stream(**{"Idempotency-Key": KEY}) as reading:
        reading.rest()

    assert len(house.server.app.state["house"].streams) == 0
