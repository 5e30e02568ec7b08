"""The server as a process: what a kill, a signal and a second server do to turns that were answered or under way."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from conftest import SCALE
from fake_llm import Asked, Behaviour, FakeLLM, asked_plainly, says
from msgspec import Struct
from served import PATIENCE_S, ROOT, TLS, Process, Web, envelope, runtime_of, serving, shipped

from runtime.session import Entry
from runtime.stores.duckdb import DuckDBStore

pytestmark = pytest.mark.slow
TREADMILL = """
machine: treadmill
title: {zh: 走廊, en: The Corridor}
language: zh
initial: {event: INIT, target: HALL}
context: {steps: {type: int, default: 0, min: 0, max: 1000000, show: true}}
states:
  HALL:
    options:
      - {key: on, text: {zh: 往前走, en: Walk on}, target: HALL, assign: {steps: steps + 1}}
      - {key: back, text: {zh: 往回走, en: Walk back}, target: HALL, assign: {steps: steps - 1}}
      - {key: out, text: {zh: 出去, en: Leave}, target: END_OUT}
  END_OUT: {type: final}
"""
PROMPT = """---
description: A turn
inputs: [option]
outputs: {scene: scene}
---
system:
Tell what came of it.
user:
The player chose {{ option.text }}.
"""
HEAD = b'{"code":0,"message":"success","data":'
WRONG_USE = 2


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one machine goes on for as long as anyone plays."""
    folder = tmp_path / "project"
    (folder / "machines").mkdir(parents=True)
    (folder / "machines" / "treadmill.yaml").write_text(TREADMILL.lstrip(), encoding="utf-8")
    return folder


@pytest.fixture
def start(project: Path, tmp_path: Path) -> Callable[..., Process]:
    """Makes the server's process, again and again on the same journal."""

    def started(**variables: str) -> Process:
        return Process(project, tmp_path / "journal.duckdb", EDGEWISE_MACHINE="treadmill", **variables)

    return started


class Shown(Struct):
    """How a session is shown, with its head turn's answer in the very bytes."""

    session: dict[str, Any]
    answer: msgspec.Raw
    in_progress: bool


class ShownBody(Struct):
    data: Shown


class Player(threading.Thread):
    """Plays one session until the server is gone; `answered` has each answer's `data`, as bytes."""

    def __init__(self, url: str, session_id: str, answered: list[bytes], on_answer: Callable[[], None]) -> None:
        super().__init__(name=session_id, daemon=True)
        self.session_id = session_id
        self.answered = answered
        self._on_answer = on_answer
        self._http = httpx.Client(base_url=url, trust_env=False, verify=TLS, timeout=PATIENCE_S)
        self._chance = random.Random(session_id)  # noqa: S311 - a play is no secret

    def run(self) -> None:
        with self._http:
            try:
                while True:
                    self._play()
            except httpx.TransportError:
                return

    def _play(self) -> None:
        chosen = {"payload": {"selected_option_id": self._chance.choice([1, 1, 2])}}
        body = chosen if self.answered else {"event": {"type": "INIT"}}
        answer = self._http.post("/invoke", json={**body, "session": {"session_id": self.session_id}})
        envelope(answer)
        self.answered.append(answer.content.removeprefix(HEAD)[:-1])
        self._on_answer()


class Load:
    """Several sessions played at once against one server, until it dies."""

    def __init__(self, played: dict[str, list[bytes]]) -> None:
        self.played = played
        self._more = threading.Condition()
        self._count = 0

    def run_until(self, server: Process, count: int) -> None:
        """Let them all play, and kill the server once so many turns more were answered."""
        players = [Player(server.url, each, answered, self._counted) for each, answered in self.played.items()]
        for player in players:
            player.start()
        with self._more:
            assert self._more.wait_for(lambda: self._count >= count, PATIENCE_S)
        server.kill()
        for player in players:
            player.join(PATIENCE_S)
            assert not player.is_alive()

    def _counted(self) -> None:
        with self._more:
            self._count += 1
            self._more.notify_all()


def answer_of(web: Web, session_id: str) -> tuple[int, bytes]:
    """The head turn, and its answer exactly as the session shows it."""
    shown = msgspec.json.decode(web.http.get(f"/sessions/{session_id}").content, type=ShownBody).data
    assert shown.in_progress is False
    return shown.session["turn"], bytes(shown.answer)


def check_all(web: Web, load: dict[str, list[bytes]]) -> None:
    """Every session that was ever answered is kept, and so is one whose first answer was never heard."""
    for session_id, answered in load.items():
        if answered or web.http.get(f"/sessions/{session_id}").status_code == httpx.codes.OK:
            check_kept(web, session_id, answered)


def check_kept(web: Web, session_id: str, answered: list[bytes]) -> None:
    """Every answered turn is there, in order and as it was; at most one more was committed unanswered."""
    turn, head = answer_of(web, session_id)
    assert turn in {len(answered), len(answered) + 1}
    if turn > len(answered):
        answered.append(head)
    assert head == answered[-1]

    told = web.turns(session_id)
    assert [each["turn"] for each in told] == list(range(1, turn + 1))
    assert [each["parent"] for each in told] == [None, *range(1, turn)]
    for each, raw in zip(told, answered, strict=True):
        answer = msgspec.json.decode(raw)
        assert each["session"] == answer["session"]
        assert each["outcome"] == answer["payload"]["outcome"]
        assert each["routing"] == answer["payload"]["routing"]
        assert each["options"] == answer["payload"]["options"]


def test_a_server_that_is_killed_loses_no_answered_turn_and_shows_no_half_one(start):
    """It is killed under load at random moments, several times over, and each session goes on from where it stood."""
    chance = random.Random(7)  # noqa: S311 - a moment is no secret
    load = {f"walk-{number}": [] for number in range(6)}
    for _ in range(3 * SCALE):
        with start() as server, Web(server.url) as web:
            check_all(web, load)
            Load(load).run_until(server, chance.randint(1, 150))
    with start() as server, Web(server.url) as web:
        check_all(web, load)
    assert sum(map(len, load.values())) > 0


def test_a_whole_story_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path):
    """The default machine, killed after every few turns: the same outcomes and words as without a kill."""
    answers: list[Any] = []
    for end in (1, 6, 10):
        with Process(ROOT, tmp_path / "story.duckdb") as server, Web(server.url) as web:
            answers += told(web, len(answers), end)
            server.kill()

    with serving(runtime_of(*shipped().values())) as untroubled, Web(untroubled.url) as web:
        assert answers == told(web, 0, 10)


def told(web: Web, begun: int, end: int) -> list[Any]:
    """What a story tells from one turn to another: all but the day, which is in the trace id."""
    first = {"event": "INIT", "seed": {"run_seed": "killed"}}
    steps = [({"option": 1} if turn else first) for turn in range(begun, end)]
    payloads = [web.invoke("story", **step, time={"elapsed_active_seconds": 0})["payload"] for step in steps]
    return [{**payload, "meta": {}} for payload in payloads]


def test_a_session_is_shown_after_a_restart_byte_for_byte(start):
    with start() as server, Web(server.url) as web:
        web.invoke("s", "INIT")
        sent = web.http.post("/invoke", json={"session": {"session_id": "s"}, "payload": {"selected_option_id": "2"}})
        server.kill()
    with start() as server, Web(server.url) as web:
        assert answer_of(web, "s") == (2, sent.content.removeprefix(HEAD)[:-1])
        assert web.invoke("s", option=1)["session"]["turn"] == 3


def test_a_session_keeps_its_own_machine_when_the_project_has_changed(start, project):
    with start() as server, Web(server.url) as web:
        web.invoke("old", "INIT")
        server.ask_to_end()
        assert server.exit_code() == 0
    file = project / "machines" / "treadmill.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("steps + 1", "steps + 10"), encoding="utf-8")

    with start() as server, Web(server.url) as web:
        web.invoke("new", "INIT")
        assert web.invoke("old", option=1)["payload"]["status"]["steps"]["value"] == 1
        assert web.invoke("new", option=1)["payload"]["status"]["steps"]["value"] == 10


def test_a_second_server_on_the_journal_is_refused_in_a_sentence_that_helps(start):
    with start() as server, Web(server.url) as web:
        web.invoke("s", "INIT")
        second = start()
        with pytest.raises(AssertionError), second:
            pass

        said = second.log.read_text(encoding="utf-8")
        assert second.child.returncode == WRONG_USE
        assert "journal.duckdb" in said
        assert "PostgreSQL" in said
        assert "Traceback" not in said
        assert "listens" not in "".join(second.said)
        assert web.invoke("s", option=1)["session"]["turn"] == 2


def gated(gate: threading.Event) -> Behaviour:
    """Answer well once the gate is open."""
    answer = {
        "scene": "你往前走了一步，地板在脚下响了一声。",
        "options": [{"key": "on", "text": "往前走"}, {"key": "back", "text": "往回走"}, {"key": "out", "text": "出去"}],
    }

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(gate.wait, PATIENCE_S)
        await says(answer)(asked, writer)

    return behave


@pytest.fixture
def slow_model(project: Path) -> Iterator[tuple[FakeLLM, threading.Event]]:
    """A model that answers when the gate is opened, and a machine whose turns ask it."""
    (project / "prompts" / "treadmill").mkdir(parents=True)
    (project / "prompts" / "treadmill" / "turn.prompty").write_text(PROMPT, encoding="utf-8")
    file = project / "machines" / "treadmill.yaml"
    asking = file.read_text(encoding="utf-8").replace("  HALL:\n", "  HALL:\n    prompt: turn\n")
    file.write_text(asking, encoding="utf-8")
    gate = threading.Event()
    with FakeLLM() as llm:
        llm.will(gated(gate))
        yield llm, gate
        gate.set()


def refuses_connections(url: str) -> bool:
    """Whether nobody listens there any more."""
    address = urlsplit(url)
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=PATIENCE_S).close()
    except OSError:
        return True
    return False


def test_a_server_that_is_asked_to_end_finishes_the_turn_under_way(start, project, slow_model):
    llm, gate = slow_model
    asking = asked_plainly(project, llm)
    with start(**asking) as server, Web(server.url) as web, ThreadPoolExecutor(1) as pool:
        playing: Future[Any] = pool.submit(web.invoke, "s", "INIT")
        assert llm.wait_for_requests(1)

        server.ask_to_end()
        while not refuses_connections(server.url):
            assert server.child.poll() is None
        assert not playing.done()
        gate.set()

        answer = playing.result(PATIENCE_S)
        assert answer["payload"]["meta"]["narrator"] == "openai"
        assert answer["payload"]["scene"].startswith("你往前走了一步")
        assert server.exit_code() == 0
    with start() as server, Web(server.url) as web:
        assert web.session("s")["answer"] == answer


def test_a_server_with_nothing_to_do_ends_at_once_and_well(start):
    with start() as server:
        server.ask_to_end()
        assert server.exit_code() == 0
        assert "Traceback" not in server.log.read_text(encoding="utf-8")


def test_a_turn_whose_server_was_killed_is_played_whole_or_not_at_all(start, project, slow_model):
    llm, gate = slow_model
    asking = asked_plainly(project, llm)
    with start(**asking) as server, Web(server.url) as web, ThreadPoolExecutor(1) as pool:
        playing: Future[Any] = pool.submit(web.invoke, "s", "INIT")
        assert llm.wait_for_requests(1)
        server.kill()
        with pytest.raises(httpx.TransportError):
            playing.result(PATIENCE_S)
        gate.set()
    with start() as server, Web(server.url) as web:
        assert web.ask("GET", "/sessions/s", 404)["error"] == "session_not_found"
        assert web.invoke("s", "INIT")["session"]["turn"] == 1


async def test_what_the_process_wrote_is_a_whole_journal(start, tmp_path):
    """After a kill each entry follows the one before it, by its number and its hash."""
    with start() as server, Web(server.url) as web:
        web.invoke("s", "INIT")
        for _ in range(5):
            web.invoke("s", option=1)
        server.kill()
    store = DuckDBStore(tmp_path / "journal.duckdb")
    await store.open()
    try:
        entries: list[Entry] = await store.entries("s")
    finally:
        await store.close()
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.prev_hash for entry in entries] == ["", *(entry.hash for entry in entries[:-1])]
