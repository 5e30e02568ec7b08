"""edgewise.yaml: which providers a project lists, every fault at its place, and no key in it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import edgewise
from pages import ROOT, Page, ticked

from runtime.errors import DesignError
from runtime.narrators.profile import PROFILES, Profile, configured
from runtime.prices import FREE, Prices
from server import project_file
from server.banner import narrator_line
from server.build import known_path, narrator_of, profile_of, profiles_of
from server.settings import PROJECT_FILE, Settings, SettingsError, load

TWO = """
providers:
  - {profile: deepseek}
  - profile: other
    base_url: https://gateway.example/v1
    model: big-one
    key_variable: GATEWAY_KEY
    prices: {input: 2, output: 8}
    max_in_flight: 3
    queue: 0
    timeout_s: 12.5
"""
KEYS = {"DEEPSEEK_API_KEY": "sk-deep", "GATEWAY_KEY": "sk-gate"}


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """A project whose file says this."""

    def made(text: str) -> Path:
        (tmp_path / PROJECT_FILE).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
        return tmp_path

    return made


def faults(folder: Path) -> list[str]:
    found = [str(each) for each in project_file.findings_of(folder)]
    with pytest.raises(DesignError) as refused:
        project_file.profiles_of(folder, KEYS)
    assert [str(each) for each in refused.value.findings] == found
    return found


def settings(folder: Path, **environ: str) -> Settings:
    """The settings of a server that asks models."""
    return load({"narrator": "openai", "project": str(folder)}, environ=environ, dotenv=folder / ".env")


def test_providers_are_asked_in_the_order_of_the_file(project: Any) -> None:
    first, second = project_file.profiles_of(project(TWO), KEYS)

    assert (first.name, first.host, first.model, first.key) == (
        "deepseek", "api.deepseek.com", "deepseek-flash", "sk-deep",
    )  # fmt: skip
    assert (second.name, second.host, second.model, second.key) == ("other", "gateway.example", "big-one", "sk-gate")
    assert second.prices == Prices(2.0, 2.0, 8.0)
    assert (second.max_in_flight, second.queue, second.timeout_s) == (3, 0, 12.5)


def test_what_a_line_leaves_out_is_the_profiles(project: Any) -> None:
    (made,) = project_file.profiles_of(project("providers: [{profile: ollama, model: qwen3}]"), {})

    assert made == configured("ollama", model="qwen3", key="")


def test_a_project_without_a_file_lists_none(tmp_path: Path) -> None:
    assert project_file.profiles_of(tmp_path, KEYS) == ()
    assert project_file.findings_of(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("providers:\n  - {profile: deepsek}",
         ("edgewise.yaml:2:15 E106 'deepsek' is not one of deepseek, fake, llamacpp, ollama, openai, other, vllm. "
         "Did you mean 'deepseek'?")),
        ("providers:\n  - {profile: deepseek, key: sk-secret}",
         ("edgewise.yaml:2:25 E101 no key 'key' here: a secret stands in no file. Write key_variable: and the name of "
         "its variable")),
        ("providers:\n  - {profile: deepseek, queu: 1}",
         "edgewise.yaml:2:25 E101 no key 'queu' here. Did you mean 'queue'?"),
        ("providers:\n  - {profile: ollama, url: x}",
         "edgewise.yaml:2:23 E101 no key 'url' here. Did you mean 'base_url'?"),
        ("providers:\n  - {model: x}", "edgewise.yaml:2:5 E102 'profile' is missing here. Add it"),
        ("providers:\n  - {profile: ollama, model: 3}", "edgewise.yaml:2:30 E105 'model' is a text"),
        ("providers: {profile: ollama}", "edgewise.yaml:1:12 E105 'providers' is a list"),
        ("providers: []", "edgewise.yaml:1:12 E110 'providers' is too short: at least 1 long"),
        ("providers:\n  - {profile: ollama, timeout_s: 0}",
         "edgewise.yaml:2:34 E110 'timeout_s' is too small: more than 0"),
        ("providers:\n  - {profile: vllm, prices: {input: -1, output: 1}}",
         "edgewise.yaml:2:37 E110 'input' is too small: at least 0"),
        ("providers:\n  - {profile: vllm, key_variable: 'sk-x y'}",
         ("edgewise.yaml:2:35 E110 'key_variable' is no name of a variable: write the name under which the environment "
         "or .env has the key")),
        ("providers:\n  - {profile: vllm, base_url: 'https://me:pw@x/'}",
         ("edgewise.yaml:2:31 E110 'base_url' is no base URL: write http:// or https://, a host and a path; a key has "
         "a variable of its own")),
        ("provider: 1", "edgewise.yaml:1:1 E101 no key 'provider' here. Did you mean 'providers'?"),
        ("providers: [\n", "edgewise.yaml:2:1 E001"),
        ("providers: &a []\n", "edgewise.yaml:1:12 E005"),
    ],
    ids=["profile", "a key", "a typo", "another name", "no profile", "type", "no list", "empty", "range", "price",
         "key in the variable's place", "password", "root", "no YAML", "anchor"],
)  # fmt: skip
def test_a_fault_is_told_at_its_place_with_the_mend(project: Any, text: str, expected: str) -> None:
    told = faults(project(text))

    assert told[0].startswith(expected)
    for secret in ("sk-secret", "sk-x", "me:pw"):
        assert secret not in "".join(told)


def test_every_fault_is_told_at_once(project: Any) -> None:
    told = faults(project("providers:\n  - {profile: x}\n  - {profile: vllm, queue: -1}\nother: 1\n"))

    assert [line.split(" ")[0] for line in told] == ["edgewise.yaml:2:15", "edgewise.yaml:3:28", "edgewise.yaml:4:1"]


def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / PROJECT_FILE).write_bytes(b"\xff\xfe")

    assert faults(tmp_path)[0].startswith("edgewise.yaml:1:1 E002")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{profile: deepseek}", "the profile 'deepseek' needs a key: set DEEPSEEK_API_KEY"),
        ("{profile: vllm, model: x, key_variable: NOBODY}", "the profile 'vllm' needs a key: set NOBODY"),
        ("{profile: vllm}", "the profile 'vllm' needs a model: name one that 127.0.0.1:8000 has"),
        ("{profile: other, model: x}", "the profile 'other' needs a base URL"),
    ],
)
def test_what_a_provider_lacks_is_told_at_its_line(project: Any, line: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        project_file.profiles_of(project(f"providers:\n  - {line}\n  - {{profile: openai}}\n"), {})

    assert refused.value.faults[0].startswith(f"edgewise.yaml:2:5: {expected}")
    assert refused.value.faults[1].startswith("edgewise.yaml:3:5: the profile 'openai' needs a key: set OPENAI_API_KEY")


@pytest.mark.slow
def test_check_tells_the_files_faults_beside_the_machines(project: Any) -> None:
    folder = project("providers: [{profile: deepsek}]")
    for name in ("machines", "prompts"):
        (folder / name).symlink_to(Path(__file__).parent / "projects" / "lantern" / name)

    done = edgewise("check", "--project", str(folder))

    assert done.returncode == 1
    assert "lantern_house: no faults" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("edgewise.yaml:1:23 E106 'deepsek' is not one of ")
    assert done.stdout.splitlines()[-1] == "edgewise.yaml: 1 fault"
    assert edgewise("check", "lantern_house", "--project", str(folder)).returncode == 0


# With the settings.


def test_a_server_asks_those_that_the_file_lists(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    folder = project(TWO)
    given = settings(folder)

    assert [profile.host for profile in profiles_of(given)] == ["api.deepseek.com", "gateway.example"]
    assert narrator_line(given) == (
        "openai: calls api.deepseek.com for the model deepseek-flash, then gateway.example for the model big-one"
    )
    assert [each.name for each in narrator_of(given).standing()] == ["deepseek", "other"]  # type: ignore[attr-defined]
    assert known_path(given) == folder / "data" / "providers.json"


def test_keys_may_stand_in_the_projects_env_file(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    folder = project("providers: [{profile: deepseek}]")
    (folder / ".env").write_text("DEEPSEEK_API_KEY=sk-from-file\n", encoding="utf-8")

    assert [profile.key for profile in profiles_of(settings(folder))] == ["sk-from-file"]


def test_settings_that_describe_a_provider_win_with_a_warning(project: Any, caplog: pytest.LogCaptureFixture,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    given = settings(project(TWO), EDGEWISE_OPENAI_BASE_URL="http://127.0.0.1:9/v1", EDGEWISE_OPENAI_MODEL="mine")

    assert [(profile.host, profile.model) for profile in profiles_of(given)] == [("127.0.0.1:9", "mine")]
    assert "those that edgewise.yaml lists are not" in caplog.text


def test_a_key_alone_describes_no_provider(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    assert len(profiles_of(settings(project(TWO), DEEPSEEK_API_KEY="sk-deep"))) == 2


def test_told_offline_no_provider_is_made(project: Any) -> None:
    """The file may list some all the same: nothing of it is needed."""
    assert profile_of(Settings(project=str(project("providers: [{profile: deepseek}]")))) is None


def test_the_settings_name_a_profile_too() -> None:
    made = profile_of(Settings(narrator="openai", openai_profile="fake"))

    assert made is not None
    assert (made.host, made.model, made.sends_hint) == ("127.0.0.1:8088", "fake-1", True)


def test_a_profile_that_lacks_something_is_refused_by_the_setting() -> None:
    with pytest.raises(SettingsError, match="EDGEWISE_NARRATOR = openai: the profile 'vllm' needs a model"):
        profile_of(Settings(narrator="openai", openai_profile="vllm"))


# Profiles as data.


def test_every_profile_can_be_listed_in_the_file_and_named_in_a_setting(project: Any) -> None:
    lines = "".join(f"  - {{profile: {name}}}\n" for name in PROFILES)

    assert project_file.findings_of(project(f"providers:\n{lines}")) == []
    assert {load({}, environ={"EDGEWISE_OPENAI_PROFILE": name}).openai_profile for name in PROFILES} == set(PROFILES)
    assert all(name == profile.name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_asks_for_a_format_that_it_knows(name: str) -> None:
    profile = PROFILES[name]

    assert profile.safe_format in profile.formats
    assert profile.formats[-1] == "text"


def test_a_price_is_the_operators_else_the_tables_else_none() -> None:
    table = PROFILES["deepseek"]

    assert configured("deepseek", key="k").prices == table.price_table["deepseek-flash"] != FREE
    assert configured("deepseek", key="k", model="unheard-of").prices == FREE
    assert configured("deepseek", key="k", own_prices=Prices(1, 1, 1)).prices == Prices(1, 1, 1)


def test_only_the_fake_is_told_the_offline_answer() -> None:
    assert [name for name, profile in PROFILES.items() if profile.sends_hint] == ["fake"]


def test_a_key_goes_to_no_host_that_it_was_not_named_for() -> None:
    """Local servers get none unless the project says which."""
    assert {name for name, profile in PROFILES.items() if profile.key_variable} == {"deepseek", "openai"}


def test_a_retired_name_is_mapped_and_remembered() -> None:
    made = configured("deepseek", key="k", model="deepseek-chat")

    assert (made.model, made.replaces) == ("deepseek-flash", "deepseek-chat")
    assert Profile(base_url="http://x", model="deepseek-chat").model == "deepseek-chat"


# The page.


PAGE = Page(ROOT / "deploy" / "README.md")


def test_the_file_on_the_page_is_one_that_can_be_used(project: Any) -> None:
    (block,) = PAGE.blocks("yaml")

    profiles = project_file.profiles_of(project(block.text), KEYS)

    assert [profile.name for profile in profiles] == ["deepseek", "other", "ollama"]


def test_the_profiles_on_the_page_are_those_that_there_are() -> None:
    rows = PAGE.table("Models")

    assert {ticked(row[0])[0]: [*map(told, row[1:4])] for row in rows} == {
        name: [profile.base_url, profile.key_variable, profile.model] for name, profile in PROFILES.items()
    }


def test_the_keys_on_the_page_are_those_that_the_file_takes() -> None:
    named = {name: told(row[1]) for row in PAGE.table("Models", 1) for name in ticked(row[0])}
    defaults = Profile(base_url="")

    assert set(named) == set(project_file.ProviderLine.__struct_fields__) - {"profile"}
    numbers = [name for name, default in named.items() if default and default[0].isdigit()]
    assert len(numbers) == 8
    for name in numbers:
        assert float(named[name]) == getattr(defaults, name)


def told(cell: str) -> str:
    """What a cell has in ticks, '' where it has nothing."""
    return (ticked(cell) or [""])[0]
