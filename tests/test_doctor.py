"""`edgewise doctor`: what each provider can do, in plain words, with the mend; and never a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ESCAPE, edgewise
from fake_llm import FakeLLM, hangs_up, misbehaves, refuses, replies, says
from msgspec.structs import replace

from runtime.errors import DesignError
from server.build import known_path
from server.doctor import doctor
from server.fake.reply import Reply
from server.settings import Settings

KEY = "sk-this-is-the-secret-key"
CANNOT = refuses(400, {"message": "response_format is not supported"})
LANTERN = Path(__file__).parent / "projects" / "lantern"


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as fake:
        yield fake


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a machine, and a `data` folder of its own."""
    for name in ("machines", "prompts"):
        (tmp_path / name).symlink_to(LANTERN / name)
    return tmp_path


@pytest.fixture
def settings(llm: FakeLLM, project: Path) -> Settings:
    """Turns are told by the fake."""
    return Settings(
        project=str(project), narrator="openai", openai_profile="fake", openai_base_url=llm.url, openai_api_key=KEY
    )


def lists(*models: str) -> Any:
    """Answer which models there are."""
    return replies(Reply(content=None, listing=models))


@pytest.fixture
def examined(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """The exit code, the verdicts by what was looked at, and all that was printed."""

    def run(**changed: Any) -> tuple[int, dict[str, Any], str]:
        code = doctor(replace(settings, **changed), "json")
        printed = capsys.readouterr()
        (report,) = json.loads(printed.out)
        return code, {each["what"]: each for each in report["checks"]}, printed.out + printed.err

    return run


def verdicts(checks: dict[str, Any]) -> dict[str, str]:
    return {what: check["verdict"] for what, check in checks.items()}


def test_a_provider_that_can_do_everything_is_good(llm: FakeLLM, examined: Any, settings: Settings) -> None:
    llm.will(misbehaves())

    code, checks, _ = examined()

    assert code == 0
    assert verdicts(checks) == dict.fromkeys(("key", "model", "formats", "latency", "answer"), "good")
    assert checks["formats"]["found"] == "json_schema, json_object, text; json_schema is asked for"
    assert "first word after" in checks["latency"]["found"]
    assert checks["answer"]["found"].startswith("whole, within every limit (json_schema; ")
    assert json.loads(known_path(settings).read_text())["providers"][f"{llm.url} fake-1"]["response_format"]


def test_the_answer_is_asked_with_a_real_prompt_of_the_default_machine(llm: FakeLLM, examined: Any) -> None:
    llm.will(misbehaves())
    examined()

    asked = llm.requests[-1].body
    assert asked["response_format"]["type"] == "json_schema"
    assert asked["messages"][0]["role"] == "system"
    assert "options" in asked["response_format"]["json_schema"]["schema"]["required"]


@pytest.mark.parametrize(
    ("answers", "what", "found", "mend"),
    [
        ([refuses(401)], "key", "it answered 401: the key is not accepted", "Check the API key."),
        ([hangs_up()], "model", "it could not be reached", "Check the base URL"),
        ([lists("fake-1"), refuses(402)], "formats", "none: it answered 402", "top it up"),
        ([lists("fake-1"), refuses(503)], "formats", "none: it answered 503", "later"),
    ],
    ids=["key", "nobody there", "balance", "busy"],
)
def test_what_is_bad_is_said_with_the_mend(
    llm: FakeLLM, examined: Any, answers: list[Any], what: str, found: str, mend: str
) -> None:
    llm.will(*answers)

    code, checks, _ = examined()

    assert code == 1
    assert checks[what]["verdict"] == "bad"
    assert checks[what]["found"].startswith(found)
    assert mend in checks[what]["mend"]


def test_formats_that_it_lacks_are_named(llm: FakeLLM, examined: Any) -> None:
    llm.will(lists("fake-1"), CANNOT, says({}), says("hm"), misbehaves())

    code, checks, _ = examined()

    assert code == 0
    assert checks["formats"]["found"] == (
        "json_object, text (not json_schema: it answered 400); json_object is asked for"
    )


@pytest.mark.parametrize(
    ("listing", "found", "mend"),
    [
        (lists("fake-2", "big"), "it doesn't list fake-1; it lists fake-2, big", "Did you mean fake-2?"),
        (refuses(404), "it lists no models", ""),
        (says("what?"), "it lists no models", ""),
    ],
    ids=["another", "no such path", "no list"],
)
def test_a_model_that_is_not_listed_is_left_to_the_answers(
    llm: FakeLLM, examined: Any, listing: Any, found: str, mend: str
) -> None:
    """Gateways serve more than they list."""
    llm.will(listing, misbehaves())

    code, checks, _ = examined()

    assert code == 0
    assert checks["model"]["verdict"] == "unsure"
    assert checks["model"]["found"].startswith(found)
    assert checks["model"]["mend"] == mend


def test_a_retired_model_is_named(llm: FakeLLM, examined: Any) -> None:
    llm.will(lists("deepseek-flash"), misbehaves())

    _, checks, _ = examined(openai_profile="deepseek", openai_model="deepseek-chat")

    assert checks["model"]["found"] == "deepseek-chat was retired: deepseek-flash is asked in its place"


def test_what_is_known_is_found_out_anew(llm: FakeLLM, examined: Any) -> None:
    llm.will(misbehaves())
    examined()
    before = len(llm.requests)
    examined()

    assert len(llm.requests) == 2 * before


@pytest.mark.slow
def test_no_key_is_printed_in_any_case(llm: FakeLLM, examined: Any) -> None:
    for answers in ([misbehaves()], [refuses(401, {"code": KEY, "message": KEY})], [hangs_up()]):
        llm.will(*answers)
        assert KEY not in examined()[2]


def test_every_provider_is_examined_by_itself(llm: FakeLLM, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that fails is not stood in for by the next."""
    lines = f"  - {{profile: fake, base_url: '{llm.url}'}}\n" * 2
    (project / "edgewise.yaml").write_text(f"providers:\n{lines}", encoding="utf-8")
    llm.will(refuses(401), misbehaves())

    code = doctor(Settings(project=str(project), narrator="openai"), "text")

    printed = capsys.readouterr()
    assert code == 1
    assert printed.out.count("model fake-1") == 2
    assert "  FAIL  key     it answered 401: the key is not accepted\n" in printed.out
    assert "  ok    answer  whole, within every limit" in printed.out
    assert printed.err.count("asking fake") == 4


def test_offline_there_is_nothing_to_ask(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "edgewise.yaml").write_text("providers: [{profile: fake}]", encoding="utf-8")

    assert doctor(Settings(project=str(project)), "text") == 0

    told = capsys.readouterr().out
    assert told.startswith("offline: ")
    assert "--narrator openai" in told


def test_offline_a_program_is_told_how_a_described_model_is_checked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(Settings(project=str(project)), "json") == 0
    assert json.loads(capsys.readouterr().out) == {"narrator": "offline", "hint": ""}

    assert doctor(Settings(project=str(project), openai_base_url="http://127.0.0.1:1/v1"), "json") == 0
    hint = json.loads(capsys.readouterr().out)["hint"]
    assert hint.startswith("EDGEWISE_OPENAI_BASE_URL is read where EDGEWISE_NARRATOR = openai")
    assert "--narrator openai" in hint


def test_offline_the_faults_of_the_projects_file_are_said_all_the_same(project: Path) -> None:
    (project / "edgewise.yaml").write_text("providers: [{profile: fake, max_in_flight: 0}]", encoding="utf-8")

    with pytest.raises(DesignError, match="'max_in_flight' is too small: at least 1"):
        doctor(Settings(project=str(project)), "text")


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_only_an_answer_refuses_is_bad(llm: FakeLLM, examined: Any, status: int) -> None:
    """Some list their models to anyone."""
    llm.will(lists("fake-1"), refuses(status))

    code, checks, _ = examined()

    assert code == 1
    assert (checks["key"]["verdict"], checks["formats"]["verdict"]) == ("bad", "bad")
    assert checks["key"]["found"] == f"a call was answered {status}: the key is not accepted"
    assert "key" in checks["key"]["mend"]


@pytest.mark.slow
def test_a_port_that_there_is_not_is_a_fault_of_the_settings(project: Path) -> None:
    done = edgewise(
        "doctor", "--project", str(project), "--narrator", "openai",
        EDGEWISE_OPENAI_BASE_URL="http://localhost:99999/v1", EDGEWISE_OPENAI_MODEL="any",
    )  # fmt: skip

    assert done.returncode == 2
    assert "names a port that there isn't" in done.stderr


@pytest.mark.slow
def test_the_command_answers_in_words_and_exit_codes(llm: FakeLLM, project: Path) -> None:
    llm.will(misbehaves())
    asked = {"EDGEWISE_OPENAI_PROFILE": "fake", "EDGEWISE_OPENAI_BASE_URL": llm.url, "EDGEWISE_OPENAI_API_KEY": KEY}

    done = edgewise("doctor", "--project", str(project), "--narrator", "openai", **asked)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"fake: {llm.url.split('/')[2]}, model fake-1"
    assert ESCAPE not in done.stdout
    assert KEY not in done.stdout + done.stderr


@pytest.mark.slow
def test_wrong_settings_are_wrong_use(project: Path) -> None:
    done = edgewise("doctor", "--project", str(project), "--narrator", "openai", EDGEWISE_OPENAI_PROFILE="vllm")

    assert done.returncode == 2
    assert "needs a model" in done.stderr
