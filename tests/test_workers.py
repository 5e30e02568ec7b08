"""`edgewise serve --workers 2` and gunicorn, on a real PostgreSQL: one port, several processes, one journal."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
import pytest
from command import edgewise
from fake_llm import FakeLLM, asked_plainly
from postgres import database, free_port
from served import PATIENCE_S, ROOT, Process, Web, envelope
from test_restart import PROMPT, TREADMILL, gated, refuses_connections

from server.workers import LONGEST_PAUSE_S, pause_before

WRONG_USE = 2
KEY = {"Idempotency-Key": "0123456789abcdef"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one machine goes on for as long as anyone plays."""
    folder = tmp_path / "project"
    (folder / "machines").mkdir(parents=True)
    (folder / "machines" / "treadmill.yaml").write_text(TREADMILL.lstrip(), encoding="utf-8")
    return folder


@pytest.fixture
def url() -> Iterator[str]:
    """A database of this test's own."""
    with database() as own:
        yield own


class Workers(Process):
    """Two workers and who keeps them; `pids` are the workers that have logged so far."""

    def __init__(self, project: Path, url: str, **variables: str) -> None:
        more = {"EDGEWISE_MACHINE": "treadmill", "EDGEWISE_LOG_FORMAT": "json", "EDGEWISE_WORKERS": "2"}
        super().__init__(project, project.parent / "served", **more, **variables)
        self.command[-1] = url

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        while self.url and not refuses_connections(self.url):  # they end when nobody keeps them
            pass

    def logged(self) -> list[dict[str, Any]]:
        """The log's lines so far."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]

    def turns_by(self) -> dict[int, int]:
        """How many turns each worker has played."""
        pids = [line["pid"] for line in self.logged() if line["message"] == "turn"]
        return {pid: pids.count(pid) for pid in pids}

    def until(self, is_so: Callable[[Self], bool]) -> None:
        """Wait until something is so; fails where the server ends instead."""
        while not is_so(self):
            assert self.child.poll() is None, self.log.read_text(encoding="utf-8")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def post(server: Workers, session_id: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    """A request over a connection of its own, so that any worker may take it."""
    sent = {"session": {"session_id": session_id}, **body}
    return httpx.post(f"{server.url}/invoke", json=sent, headers=headers, timeout=PATIENCE_S, trust_env=False)


def step(server: Workers, session_id: str) -> Any:
    """One step on the treadmill."""
    return envelope(post(server, session_id, payload={"selected_option_id": 1}))


@pytest.mark.slow
def test_two_workers_play_one_session_and_their_figures_are_one(project, url):
    with Workers(project, url) as server:
        envelope(post(server, "s", event={"type": "INIT"}))
        server.until(lambda it: step(it, "s")["session"]["turn"] > 0 and len(it.turns_by()) == 2)

        with Web(server.url) as web:
            turns = web.turns("s")
            figures = {web.http.get("/metrics", headers={"Connection": "close"}).text for _ in range(8)}

        assert [turn["turn"] for turn in turns] == list(range(1, len(turns) + 1))
        assert [after["parent"] for _, after in pairwise(turns)] == [before["turn"] for before, _ in pairwise(turns)]
        assert sum(server.turns_by().values()) == len(turns)
        for told in figures:
            (count,) = re.findall(r"^edgewise_turns_total\{.*\} (\S+)$", told, re.MULTILINE)
            assert float(count) == len(turns)
        # How many are under way is looked at now and then: the last look may be from before the end.
        server.until(lambda it: "edgewise_turns_under_way 0.0" in httpx.get(f"{it.url}/metrics", trust_env=False).text)
        assert "".join(server.said).count("Edgewise listens on") == 1


@pytest.fixture
def asking(project: Path) -> Iterator[tuple[FakeLLM, threading.Event, dict[str, str]]]:
    """A model that answers when the gate is opened, and the settings with which turns ask it."""
    (project / "prompts" / "treadmill").mkdir(parents=True)
    (project / "prompts" / "treadmill" / "turn.prompty").write_text(PROMPT, encoding="utf-8")
    file = project / "machines" / "treadmill.yaml"
    told = file.read_text(encoding="utf-8").replace("  HALL:\n", "  HALL:\n    prompt: turn\n")
    file.write_text(told, encoding="utf-8")
    gate = threading.Event()
    with FakeLLM() as llm:
        llm.will(*[gated(gate)] * 4)
        yield llm, gate, asked_plainly(project, llm)
        gate.set()


def holder_of(url: str, session_id: str) -> int:
    """The pid of the worker that holds a session."""
    with psycopg.connect(url) as db:
        row = db.execute("SELECT lease_owner FROM edgewise_sessions WHERE session_id = %s", [session_id]).fetchone()
    assert row is not None
    return int(row[0].rpartition(":")[2])


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_turn_comes_back_and_the_turn_is_played_once(project, url, asking):
    """The same key, sent again, waits for the dead worker's lease, and plays on whichever worker it meets."""
    llm, gate, settings = asking
    with Workers(project, url, **settings) as server, ThreadPoolExecutor(1) as pool:
        playing = pool.submit(post, server, "s", KEY, event={"type": "INIT"})
        assert llm.wait_for_requests(1)
        killed = holder_of(url, "s")

        os.kill(killed, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            playing.result(PATIENCE_S)
        gate.set()
        again = post(server, "s", {**KEY, "Prefer": "wait=40"}, event={"type": "INIT"})

        told = envelope(again)
        assert (told["session"]["turn"], told["payload"]["meta"]["narrator"]) == (1, "openai")
        (ended,) = [line for line in server.logged() if line["message"].startswith("a worker ended")]
        assert (ended["worker"], ended["code"], ended["level"]) == (killed, -signal.SIGKILL, "warning")
        server.until(lambda it: step(it, "s")["session"]["turn"] > 1 and len(it.turns_by()) == 2)
        assert killed not in server.turns_by()
        with Web(server.url) as web:
            turns = [turn["turn"] for turn in web.turns("s")]
        assert turns == list(range(1, len(turns) + 1))
        assert is_alive(server.child.pid)


@pytest.mark.slow
def test_a_second_worker_that_dies_while_it_starts_ends_nothing(project, url):
    """The first one serves already: what befalls another is mended as it is later."""
    server = Workers(project, url)
    killed: list[int] = []

    def kill_the_second() -> None:
        while not hasattr(server, "child") or len(children := children_of(server.child.pid)) < 2:
            pass
        killed.append(children[1])
        os.kill(children[1], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_second, daemon=True)
    killer.start()
    with server:
        killer.join(PATIENCE_S)
        envelope(post(server, "s", event={"type": "INIT"}))
        server.until(lambda it: any(line.get("worker") == killed[0] for line in it.logged()))
        server.until(lambda it: len(children_of(it.child.pid)) == 2)
        server.ask_to_end()
        assert server.exit_code() == 0


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are still there, in that order."""
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_worker_finish_and_all_end_well(project, url, asking, number):
    llm, gate, settings = asking
    with Workers(project, url, **settings) as server, ThreadPoolExecutor(1) as pool:
        playing = pool.submit(post, server, "s", event={"type": "INIT"})
        assert llm.wait_for_requests(1)
        worker = holder_of(url, "s")

        server.child.send_signal(number)
        server.until(lambda it: refuses_connections(it.url))
        assert not playing.done()
        gate.set()

        assert envelope(playing.result(PATIENCE_S))["payload"]["scene"].startswith("你往前走了一步")
        assert server.exit_code() == 0
        assert not is_alive(worker)
        assert "Traceback" not in server.log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_workers_that_nobody_keeps_any_more_end_too(project, url):
    with Workers(project, url) as server:
        envelope(post(server, "s", event={"type": "INIT"}))

        server.kill()

        while not refuses_connections(server.url):
            pass


@pytest.mark.slow
def test_what_keeps_a_worker_from_starting_is_told_once_and_ends_the_whole(project):
    nobody = f"postgresql://postgres@127.0.0.1:{free_port()}/x"

    ran = edgewise("serve", "--project", str(project), "--port", "0", "--workers", "2", "--store", nobody)

    assert (ran.returncode, ran.stdout) == (WRONG_USE, "")
    assert ran.stderr.count("the journal can't be read or written now") == 1
    assert "Connection refused" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_workers_and_dev_are_refused_together(project):
    words = ["--project", str(project), "--workers", "2", "--dev", "--store", "postgresql://db/x"]

    ran = edgewise("serve", *words)

    assert (ran.returncode, ran.stdout) == (WRONG_USE, "")
    assert "--dev starts one process again when a file changes; use 1 worker" in ran.stderr


def test_a_play_passes_the_number_of_workers_over(project):
    ran = edgewise("play", "--project", str(project), typed="3\n", EDGEWISE_WORKERS="2")

    assert ran.returncode == 0, ran.stderr


def test_the_pause_before_a_worker_starts_again_grows_to_its_limit():
    pauses = [pause_before(hasty) for hasty in range(40)]

    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


@pytest.mark.slow
def test_gunicorn_serves_with_several_workers(project, url):
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "server.app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2"]
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEWISE_", "DEEPSEEK_"))}
    variables = {
        "PYTHONPATH": str(ROOT), "EDGEWISE_PROJECT": str(project), "EDGEWISE_STORE": url,
        "EDGEWISE_NARRATOR": "offline", "PROMETHEUS_MULTIPROC_DIR": str(project.parent),
    }  # fmt: skip
    with subprocess.Popen([*command, "-b", f"127.0.0.1:{port}"], env={**mine, **variables}, cwd=project) as child:
        try:
            while not listens(port):
                assert child.poll() is None
            with Web(f"http://127.0.0.1:{port}") as web:
                web.invoke("s", "INIT")
                turns = [
                    web.invoke("s", option=1, headers={"Connection": "close"})["session"]["turn"] for _ in range(20)
                ]
                told = web.http.get("/metrics").text
        finally:
            child.terminate()
            child.wait(PATIENCE_S)

    assert turns == list(range(2, 22))
    assert re.search(r'^edgewise_turns_total\{machine="treadmill",narrator="offline"\} 21\.0$', told, re.MULTILINE)
    assert child.returncode == 0


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
