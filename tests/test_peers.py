"""The narrator against servers that we did not write: a mock with strict fixtures and chaos, and a real llama.cpp.

Each is skipped, with the reason, where it can't be had: npm for the one, the wheel for the other.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from lamp import HEARD, LANGUAGES, assert_within, begun, harmless_play, house, rules_of, told_by  # noqa: F401 - a fixture
from served import PATIENCE_S, Server, Web, runtime_of, serving

pytestmark = [pytest.mark.peer, pytest.mark.slow]

AIMOCK = "@copilotkit/aimock@1.43.0"
INSTALL_S = 60
LLAMA = Path(__file__).parent / "tiny_llama.py"
SCENES = {"zh": "灯火一晃，那东西缩回了墙角。", "en": "The flame leaps, and the thing shrinks into its corner."}
TELLS = {"zh": "灯砸中了它", "en": "The lamp lands"}
WORDS = {"zh": ("再砸一次", "跑出门去"), "en": ("Swing it again", "Out through the door")}
CHAOS = ("dropRate", "malformedRate", "disconnectRate", "rateLimitRate")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(runtime_of(house("house", "offline"))) as served:
        yield served


@contextmanager
def listening(*command: str, cwd: Path) -> Iterator[str]:
    """A foreign server as a process, until the block ends; the address that it says it listens on."""
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace",
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            said = []
            for line in child.stdout:
                said.append(line)
                if "listens on http" in line or "server listening on http" in line:
                    break
            assert said, "it said nothing"
            assert "http" in said[-1], "".join(said)
            threading.Thread(target=child.stdout.read, daemon=True).start()
            yield said[-1].split(" on ")[-1].strip()
        finally:
            child.kill()


def played(server: Server, base_url: str, session_id: str, language: str, kind: str, **profile: Any) -> Any:
    """The first choice of a session that began offline, told by this server."""
    with Web(server.url) as web:
        begun(web, session_id, language)
        with told_by(server, base_url, kind, model="tiny", **profile):
            return web.invoke(session_id, option=1)


# aimock: strict fixtures, and chaos.


def answer(language: str) -> str:
    options = [{"key": key, "text": text} for key, text in zip(("strike", "leave"), WORDS[language], strict=True)]
    return json.dumps({"scene": SCENES[language], "omen": HEARD, "options": options}, ensure_ascii=False)


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The mock, installed by npm, with a fixture for the turn of each language; strict: anything else fails."""
    folder = tmp_path_factory.mktemp("aimock")
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    install = ("npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--prefix", ".", AIMOCK)
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm can't install {AIMOCK}: is there a network?")
    fixtures = [
        {"match": {"userMessage": TELLS[language]}, "response": {"content": answer(language)}} for language in LANGUAGES
    ]
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": fixtures}), encoding="utf-8")
    command = (str(folder / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"), "--port", "0", "--strict")
    with listening("node", *command, "--fixtures", "fixtures.json", cwd=folder) as url:
        yield url


def journal_of(aimock: str) -> list[Any]:
    """The requests that the mock has heard, in their order."""
    return list(httpx.get(f"{aimock}/__aimock/journal", trust_env=False).json())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_strict_mock_is_asked_what_it_knows(
    server: Server, aimock: str, harmless: Mapping[str, Any], language: str
) -> None:
    """Its fixture becomes the turn, word for word; it heard one request, streamed, that ends with the shape."""
    before = journal_of(aimock)
    data = played(server, f"{aimock}/v1", f"strict-{language}", language, "other")
    asked = journal_of(aimock)[len(before) :]

    payload = data["payload"]
    assert payload["scene"] == SCENES[language]
    assert [option["text"] for option in payload["options"]] == list(WORDS[language])
    assert (payload["meta"]["rungs"], payload["meta"]["fallback"]) == (["json_object"], [])
    assert payload["meta"]["usage"]["completion_tokens"] > 0
    assert payload["status"]["fear"]["value"] == HEARD
    assert rules_of(data) == harmless[language]
    assert [entry["body"]["stream"] for entry in asked] == [True]
    assert "json" in asked[0]["body"]["messages"][-1]["content"]


def test_a_request_without_a_fixture_is_told_offline(server: Server, aimock: str) -> None:
    """Strict mode answers 503, which may pass: three calls, then the offline narrator."""
    with Web(server.url) as web:
        begun(web, "unknown", "en")
        with told_by(server, f"{aimock}/v1", "other", model="tiny"):
            payload = web.invoke("unknown", option=2)["payload"]

    assert (payload["meta"]["attempts"], payload["meta"]["fallback"]) == (3, ["*"])
    assert payload["ending"]["id"] == "OUT"


@contextmanager
def chaos(aimock: str, **rates: float) -> Iterator[None]:
    """The mock's chaos switch."""
    httpx.post(f"{aimock}/__aimock/chaos", json=rates, trust_env=False).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(f"{aimock}/__aimock/chaos", trust_env=False).raise_for_status()


@pytest.mark.parametrize("kind", CHAOS)
def test_the_mocks_chaos_is_no_more_than_a_pause(
    server: Server, aimock: str, harmless: Mapping[str, Any], kind: str
) -> None:
    with chaos(aimock, **{kind: 1.0}):
        data = played(server, f"{aimock}/v1", f"chaos-{kind}", "zh", "other")

    assert rules_of(data) == harmless["zh"]
    assert_within(data["payload"], "zh")
    assert data["payload"]["meta"]["fallback"] == ["*"]


def test_chaos_at_random_changes_no_session(server: Server, aimock: str, harmless: Mapping[str, Any]) -> None:
    with chaos(aimock, **dict.fromkeys(CHAOS, 0.2)):
        for number in range(10):
            language = LANGUAGES[number % 2]
            data = played(server, f"{aimock}/v1", f"random-{number}", language, "other")

            assert rules_of(data) == harmless[language]
            assert_within(data["payload"], language)


# llama.cpp: a real server that writes nonsense.


@pytest.fixture(scope="module", params=["letters", "bytes"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A llama.cpp server of a model without sense, of letters or of bytes."""
    missing = [name for name in ("xllamacpp", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}, which have no wheel here")
    folder = tmp_path_factory.mktemp(f"llama-{request.param}")
    with listening(sys.executable, str(LLAMA), str(folder), request.param, cwd=folder) as url:
        yield url


@pytest.mark.parametrize("language", LANGUAGES)
def test_nonsense_of_a_real_model_is_held_to_the_rules(
    server: Server, llama: str, harmless: Mapping[str, Any], language: str
) -> None:
    """Whatever it writes, the turn is within the rules, what it can't tell is told offline, the session is right."""
    session_id = f"llama-{llama.rpartition(':')[2]}-{language}"

    data = played(server, f"{llama}/v1", session_id, language, "llamacpp", response_format="json_schema")

    meta = data["payload"]["meta"]
    assert rules_of(data) == harmless[language]
    assert_within(data["payload"], language)
    assert meta["rungs"][0] == "json_schema"
    # It was asked once, and once again for what was wrong; no call was lost on a connection that it had closed.
    assert "retry" not in meta["rungs"]
    assert meta["attempts"] <= 2


def test_llama_cpp_writes_to_the_schema_that_it_is_sent(llama: str) -> None:
    """What the tests above rest on: the server is llama.cpp, and it does hold its model to a schema."""
    schema = {
        "type": "object",
        "properties": {"omen": {"type": "integer", "minimum": 0, "maximum": 9}, "mood": {"enum": ["calm", "tense"]}},
        "required": ["omen", "mood"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "user", "content": "json"}],
        "max_tokens": 200,
        "response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": schema}},
    }
    answered = httpx.post(f"{llama}/v1/chat/completions", json=body, timeout=PATIENCE_S, trust_env=False).json()

    found = json.loads(answered["choices"][0]["message"]["content"])
    assert 0 <= found["omen"] <= 9
    assert found["mood"] in ("calm", "tense")
