"""`edgewise serve` as a process: what it says when it listens, how it ends, and what it refuses to begin."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from command import edgewise, environment
from fake_llm import Asked, FakeLLM, asked_plainly, says
from served import PATIENCE_S, Process, Web, envelope

from server.scaffold import project_files

pytestmark = pytest.mark.slow
FIRST = "machines/first_story.yaml"
TOLD = {
    "scene": "栈桥尽头泊着一条船，灯还亮着。",
    "options": [
        {"key": "search", "text": "摸一摸木板"},
        {"key": "untie", "text": "解下缆绳"},
        {"key": "board", "text": "上船"},
    ],
    "ai_state": {"title": "末班渡船", "memory_summary": "有人来到渡口。"},
}


def story_in(folder: Path) -> Path:
    """A small project, as `init` makes it."""
    for name, text in project_files().items():
        path = folder / "story" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "story"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project of this test's own."""
    return story_in(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The small project, served to every test that leaves the server up."""
    folder = tmp_path_factory.mktemp("served")
    with Process(story_in(folder), folder / "journal.duckdb") as process:
        yield process


def banner_of(process: Process) -> str:
    """What the server prints up to its last line."""
    while not process.said or not process.said[-1].startswith("Ctrl-C"):
        process.next_line()
    return "".join(process.said)


def run_curl(line: str, variables: Mapping[str, str] = MappingProxyType({})) -> Any:
    """What the printed command gives, run by a shell; by Python where there is no curl."""
    if shutil.which("curl"):
        ran = subprocess.run(["sh", "-c", line], env=environment(**variables), capture_output=True, check=True)
        return json.loads(ran.stdout)
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    words = shlex.split(line)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    url = next(word for word in words if word.startswith("http"))
    return httpx.post(url, headers=headers, content=words[words.index("-d") + 1], trust_env=False).json()


def curl_in(banner: str) -> str:
    """The command that the banner shows."""
    return next(line.strip() for line in banner.splitlines() if line.strip().startswith("curl "))


def test_the_banner_says_where_with_what_and_how(served: Process):
    lines = banner_of(served).splitlines()

    assert lines[0] == f"Edgewise listens on {served.url}"
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", served.url)
    assert "  machine   first_story" in lines
    assert "  narrator  offline: told from written fragments; no model, no network" in lines
    assert f"  store     {served.store}" in lines
    assert f"  OpenAPI   {served.url}/schema" in lines


def test_the_printed_curl_works_however_often_it_is_sent(served: Process):
    line = curl_in(banner_of(served))

    first, second = run_curl(line), run_curl(line)

    assert (first["code"], second["code"]) == (0, 0)
    assert first["data"]["session"]["turn"] == second["data"]["session"]["turn"] == 1
    assert first["data"]["session"]["session_id"] != second["data"]["session"]["session_id"]


def test_with_tokens_the_printed_curl_takes_one_from_the_environment(project: Path, tmp_path: Path):
    with Process(project, tmp_path / "journal.duckdb", EDGEWISE_PLAY_TOKENS="secret-one") as process:
        banner = banner_of(process)
        refused = run_curl(curl_in(banner), {"EDGEWISE_TOKEN": "another"})
        begun = run_curl(curl_in(banner), {"EDGEWISE_TOKEN": "secret-one"})

    assert "secret-one" not in banner
    assert (refused["code"], begun["code"]) == (401, 0)


def test_the_page_that_the_banner_names_is_there(served: Process):
    page = httpx.get(f"{served.url}/schema", headers={"Accept": "text/html"}, trust_env=False)

    assert page.status_code == 200
    assert "server" not in page.headers


def test_a_model_is_named_with_the_host_that_will_be_called(project: Path, tmp_path: Path):
    variables = {"EDGEWISE_NARRATOR": "openai", "EDGEWISE_OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}

    with Process(project, tmp_path / "journal.duckdb", **variables, EDGEWISE_OPENAI_MODEL="some-model") as process:
        banner = banner_of(process)

    assert "  narrator  openai: calls 127.0.0.1:9 for the model some-model\n" in banner


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_with_exit_code_0(project: Path, tmp_path: Path, number: signal.Signals):
    with Process(project, tmp_path / "journal.duckdb") as process, Web(process.url) as web:
        web.ask("GET", "/health")  # leaves an open connection, which must not hold the end up

        process.child.send_signal(number)

        assert process.exit_code() == 0
    assert "Traceback" not in process.log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_signal_during_a_turn_lets_it_finish(project: Path, tmp_path: Path):
    may_answer = threading.Event()

    async def says_when_allowed(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(may_answer.wait, PATIENCE_S)
        await says(TOLD)(asked, writer)

    with FakeLLM() as llm, ThreadPoolExecutor(1) as others:
        llm.will(says_when_allowed)
        variables = asked_plainly(project, llm)
        with Process(project, tmp_path / "journal.duckdb", **variables) as process, Web(process.url) as web:
            turn = others.submit(web.invoke, "s1", "INIT")
            assert llm.wait_for_requests(1)

            process.ask_to_end()
            refused_to_listen(process.url)
            may_answer.set()

            assert turn.result(PATIENCE_S)["payload"]["scene"] == TOLD["scene"]
            assert process.exit_code() == 0

    with Process(project, tmp_path / "journal.duckdb") as process, Web(process.url) as web:
        assert web.session("s1")["session"]["turn"] == 1


def refused_to_listen(url: str) -> None:
    """Wait until a server takes no new connections: it has heard the signal."""
    host, port = url.removeprefix("http://").split(":")
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionError:
            return


def test_a_faulty_machine_is_refused_in_the_words_of_check(project: Path):
    machine = project / FIRST
    machine.write_text(machine.read_text(encoding="utf-8").replace("target: RIVER", "target: RIVR"), encoding="utf-8")

    checked = edgewise("check", "--project", str(project))
    served = edgewise("serve", "--project", str(project), "--port", "0")

    faults = [line for line in checked.stdout.splitlines() if line.startswith(FIRST)]
    assert len(faults) > 1
    assert (served.returncode, served.stdout) == (1, "")
    assert served.stderr.splitlines() == faults


def test_a_busy_port_is_told_with_the_mend(project: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ran = edgewise("serve", "--project", str(project), "--port", str(port), "--store", "memory:")

    assert (ran.returncode, ran.stdout) == (2, "")
    told = f"127.0.0.1:{port} is in use by another program: stop that, or take another port: --port 0 takes a free one"
    assert ran.stderr.strip() == told


def test_a_host_that_is_not_ours_is_told_with_the_mend(project: Path):
    ran = edgewise("serve", "--project", str(project), "--host", "203.0.113.7", "--open", "--port", "0")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "EDGEWISE_HOST = '203.0.113.7' is no address of this machine" in ran.stderr


def test_an_open_host_without_tokens_is_refused(project: Path):
    ran = edgewise("serve", "--project", str(project), "--host", "0.0.0.0")  # noqa: S104 - it is refused

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "would let anyone in" in ran.stderr
    assert "--open" in ran.stderr


def test_an_unknown_default_machine_is_refused(project: Path):
    ran = edgewise("serve", "--project", str(project), "--machine", "last_story")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "first_story" in ran.stderr


def test_several_workers_on_one_file_are_refused(project: Path):
    ran = edgewise("serve", "--project", str(project), "--workers", "2")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "one process" in ran.stderr


@pytest.mark.slow
def test_a_second_server_on_the_file_is_refused_and_the_first_goes_on(served: Process, project: Path):
    ran = edgewise("serve", "--project", str(project), "--port", "0", "--store", f"duckdb://{served.store}")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert str(served.child.pid) in ran.stderr
    assert served.url in ran.stderr
    assert "PostgreSQL" in ran.stderr
    assert "Traceback" not in ran.stderr
    with Web(served.url) as web:
        web.invoke("s1", "INIT")


def test_a_store_that_cannot_be_made_is_told_in_a_sentence(project: Path):
    in_a_file = f"duckdb://{project / 'README.md'}/journal.duckdb"

    ran = edgewise("serve", "--project", str(project), "--port", "0", "--store", in_a_file)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert "README.md" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_uvicorn_serves_the_application_by_its_name(project: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "server.app:app", "--port", str(port), "--log-level", "info"]
    variables = environment(EDGEWISE_PROJECT=str(project), EDGEWISE_STORE="memory:", EDGEWISE_LOG_FORMAT="text")

    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            next(line for line in child.stderr if "running on" in line)
            answer = httpx.post(f"http://127.0.0.1:{port}/invoke", json={"event": {"type": "INIT"}}, trust_env=False)
        finally:
            child.terminate()
            child.communicate(timeout=PATIENCE_S)

    assert envelope(answer)["session"]["machine"] == "first_story"


class Watched(Process):
    """The server under --dev; what it says on the error stream is said too."""

    def __init__(self, project: Path, store: Path) -> None:
        super().__init__(project, store)
        self.command.append("--dev")

    def until(self, words: str) -> str:
        """The next line that holds these words."""
        while words not in (line := self.next_line()):
            pass
        return line

    def until_logged(self, words: str) -> None:
        """Wait until the error stream holds these words."""
        deadline = threading.Event()
        while words not in self.log.read_text(encoding="utf-8"):
            assert self.child.poll() is None
            deadline.wait(0.01)


@pytest.mark.slow
def test_dev_starts_again_on_a_change_and_outlives_a_fault(project: Path, tmp_path: Path):
    machine = project / FIRST
    sound = machine.read_text(encoding="utf-8")

    with Watched(project, tmp_path / "journal.duckdb") as process:
        # A fault: it is told in check's words, and the last good server goes on.
        machine.write_text(sound.replace("target: RIVER", "target: RIVR"), encoding="utf-8")
        process.until_logged(f"{FIRST}:")
        process.until_logged("Waiting for a change.")
        with Web(process.url) as web:
            web.ask("GET", "/health")

        # The mend, with another title: a new server has it.
        machine.write_text(sound.replace("The Last Ferry}", "The First Ferry}"), encoding="utf-8")
        url = process.until(" listens on ").split(" listens on ")[1].strip()
        with Web(url) as web:
            titles = [each["title"]["en"] for each in web.ask("GET", "/machines")["items"]]

        process.ask_to_end()
        assert process.exit_code() == 0
    assert titles == ["The First Ferry"]
