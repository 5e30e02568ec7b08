"""Settings: where each comes from, every wrong one at once by its name, and no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.build import default_machine, profile_of, store_of, url_of
from server.settings import Settings, SettingsError, is_loopback, load, store_fault

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound


@pytest.fixture
def read(tmp_path: Path):
    """Settings from a `.env` text, an environment and a command line."""

    def reading(environ: dict[str, str] | None = None, dotenv: str = "", **options: Any) -> Settings:
        file = tmp_path / ".env"
        file.write_text(dotenv, encoding="utf-8")
        return load(options, environ=environ or {}, dotenv=file)

    return reading


def faults(read, *args: Any, **more: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(*args, **more)
    return caught.value.faults


def test_with_nothing_set_it_serves_the_default_machine_offline_on_loopback(read):
    settings = read()
    assert (settings.host, settings.port, settings.machine, settings.narrator) == (
        "127.0.0.1",
        8000,
        "haunted_house",
        "offline",
    )
    assert settings.store_path == Path.cwd() / "data" / "edgewise.duckdb"
    assert settings.must_be_loopback
    assert settings.exposure is None


def test_the_command_line_is_over_the_environment_and_that_over_the_file(read):
    file = "EDGEWISE_HOST=file\nEDGEWISE_PORT=1\nEDGEWISE_MACHINE=file"
    settings = read({"EDGEWISE_PORT": "2", "EDGEWISE_HOST": "env"}, file, host="line", machine=None)
    assert (settings.host, settings.port, settings.machine) == ("line", 2, "file")
    assert settings.sources == {
        "host": "the command line",
        "port": "EDGEWISE_PORT in the environment",
        "machine": "EDGEWISE_MACHINE in .env",
    }


def test_every_wrong_value_is_told_at_once_by_its_name(read):
    wrong = {
        "EDGEWISE_WORKERS": "two",
        "EDGEWISE_NARRATOR": "opnai",
        "EDGEWISE_TURN_DEADLINE_S": "nan",
        "EDGEWISE_STORE": "sqlite:///x",
        "EDGEWISE_CORS_ORIGINS": "https://good.example, bad/",
    }
    assert faults(read, wrong, port=70_000) == [
        "--port = 70000: must be a whole number <= 65535",
        "EDGEWISE_NARRATOR in the environment = 'opnai': must be one of offline, openai. Did you mean 'openai'?",
        "EDGEWISE_WORKERS in the environment = 'two': must be a whole number",
        "EDGEWISE_TURN_DEADLINE_S in the environment = 'nan': must be a number > 0.0",
        f"EDGEWISE_STORE in the environment = 'sqlite:///x': {store_fault('sqlite:///x')}",
        "EDGEWISE_CORS_ORIGINS in the environment = 'bad/': an origin is a scheme and a host, with no path: https://example.org",
    ]  # fmt: skip


def test_an_empty_value_counts_as_not_set(read):
    assert read({"EDGEWISE_PORT": "", "EDGEWISE_PLAY_TOKENS": " "}).sources == {}


def test_a_name_that_sets_nothing_is_warned_of(read):
    assert read({"EDGEWISE_PROT": "1", "EDGEWISE_TOKEN": "x", "OTHER": "y"}).warnings == (
        "EDGEWISE_PROT is no setting and was passed over. Did you mean EDGEWISE_PORT?",
    )


def test_lists_are_written_with_commas(read):
    assert read({"EDGEWISE_PLAY_TOKENS": " a , b,,"}).play_tokens == ("a", "b")


def test_secrets_are_masked_wherever_settings_are_shown(read):
    secret = {"EDGEWISE_PLAY_TOKENS": "sesame", "EDGEWISE_OPERATOR_TOKENS": "alibaba", "DEEPSEEK_API_KEY": "sk-key"}
    settings = read(secret)
    shown = repr(settings) + str([*settings.listing()])
    for word in ("sesame", "alibaba", "sk-key"):
        assert word not in shown
    assert "********" in shown


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("postgresql://me:hush@db/x", "postgresql://me:********@db/x"),
        ("postgres://me:hu/sh@hush@db:1/x", "postgres://me:********@db:1/x"),
        ("postgresql://db/x?user=me&password=hush&sslmode=require",
         "postgresql://db/x?user=me&password=********&sslmode=require"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
    ],
)  # fmt: skip
def test_a_databases_password_is_masked_wherever_it_stands(read, store, shown):
    settings = read({"EDGEWISE_STORE": store})
    assert settings.store == store
    assert settings.store_shown == shown
    assert {setting.name: setting.value for setting in settings.listing()}["store"] == shown
    assert "hush" not in repr(settings)


def test_a_fault_names_no_secret_and_no_password(read):
    told = "\n".join(
        faults(read, {"EDGEWISE_PLAY_TOKENS": "öffne dich", "EDGEWISE_STORE": "mysql://me:hush@db/x"}),
    )
    assert "öffne" not in told
    assert "hush" not in told
    assert "is no store" in told


def test_an_address_of_a_database_names_a_place():
    assert store_fault("sqlite:///x") == (
        "is no store: use duckdb:///path/to/file, postgresql://user@host/database or memory:"
    )
    assert "postgresql://user:password@host" in (store_fault("postgresql:db") or "")
    assert store_fault("postgresql:///db?host=/run/postgresql") is None
    assert store_fault("postgresql://one:1,two:2/db") is None


def test_without_its_driver_postgresql_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "uv sync --extra postgres" in (store_fault("postgresql://db/x") or "")
    assert "pip install 'edgewise[postgres]'" in (store_fault("postgresql://db/x") or "")


def test_every_setting_is_listed_with_its_variable_and_its_source(read):
    listed = {setting.name: setting for setting in read({"EDGEWISE_PORT": "9"}).listing()}
    assert set(listed) == set(Settings.__struct_fields__) - {"sources", "warnings"}
    assert (listed["port"].variable, listed["port"].value, listed["port"].source) == (
        "EDGEWISE_PORT", "9", "EDGEWISE_PORT in the environment",
    )  # fmt: skip
    assert listed["host"].source == "default"
    assert all(setting.about for setting in listed.values())


def test_the_model_is_asked_by_default_only_where_deepseeks_key_is_set(read):
    settings = read({"DEEPSEEK_API_KEY": "sk-x"})
    assert settings.narrator == "openai"
    assert settings.sources["narrator"] == "default, as DEEPSEEK_API_KEY is set"
    profile = profile_of(settings)
    assert profile is not None
    assert (profile.host, profile.key) == ("api.deepseek.com", "sk-x")
    assert read({"DEEPSEEK_API_KEY": "sk-x"}, narrator="offline").narrator == "offline"


def test_another_server_is_asked_as_it_is_named(read):
    profile = profile_of(
        read(
            {
                "EDGEWISE_NARRATOR": "openai",
                "EDGEWISE_OPENAI_BASE_URL": "http://localhost:11434/v1",
                "EDGEWISE_OPENAI_MODEL": "deepseek-chat",
            }
        )
    )
    assert profile is not None
    assert (profile.host, profile.model, profile.thinking) == ("localhost:11434", "deepseek-chat", None)


def test_deepseeks_own_variables_describe_deepseeks_api_wherever_it_stands(read):
    """A gateway in front of it: the same model, and no key where it wants none."""
    profile = profile_of(read({"DEEPSEEK_API_BASE": "http://gateway.example/v1", "EDGEWISE_NARRATOR": "openai"}))
    assert profile is not None
    assert (profile.name, profile.host, profile.model) == ("deepseek", "gateway.example", "deepseek-flash")


def test_a_server_that_nobody_knows_needs_a_model(read):
    asked = {"EDGEWISE_OPENAI_BASE_URL": "http://llm.example/v1", "EDGEWISE_NARRATOR": "openai"}
    with pytest.raises(SettingsError, match=r"needs a model: name one that llm\.example has"):
        profile_of(read(asked))


def test_a_model_without_a_key_is_refused(read):
    (fault,) = faults(read, {"EDGEWISE_NARRATOR": "openai"})
    assert fault.startswith("EDGEWISE_NARRATOR = openai needs a key: set DEEPSEEK_API_KEY, or ")


@pytest.mark.parametrize("store", ["memory:", "duckdb:///x/y.duckdb"])
def test_several_workers_on_one_processs_store_are_refused(read, store):
    (fault,) = faults(read, workers=2, store=store)
    assert fault == "EDGEWISE_WORKERS = 2: a DuckDB file or memory belongs to one process; use 1 worker"


def test_several_workers_are_not_started_again_on_a_change(read):
    told = "\n".join(faults(read, {"EDGEWISE_DEV": "true"}, workers=3, store="memory:"))
    assert "EDGEWISE_WORKERS = 3: --dev starts one process again when a file changes; use 1 worker" in told


@pytest.mark.parametrize(
    ("store", "path"),
    [
        ("duckdb:///a/b.db", "/a/b.db"),
        ("duckdb:////a", "/a"),
        ("duckdb:data/x", "data/x"),
        ("duckdb:///a#1?b%20", "/a#1?b%20"),
    ],
)
def test_a_duckdb_url_names_a_file_as_written(store, path):
    assert store_fault(store) is None
    assert Settings(store=store).store_path == Path(path)


def test_a_database_is_shared_and_has_no_file(read):
    settings = read({"EDGEWISE_STORE": "postgres://db/x", "EDGEWISE_STORE_CLUSTER_SAFE": "true"}, workers=4)
    assert (settings.workers, settings.store_path, settings.is_shared, settings.store_cluster_safe) == (
        4, None, True, True,
    )  # fmt: skip
    assert type(store_of(settings)).__name__ == "PostgresStore"


@pytest.mark.parametrize("store", ["duckdb://host/x", "duckdb:///", "duckdb:", "file.db", "memory"])
def test_what_names_no_file_is_no_store(store):
    assert store_fault(store)


def test_nothing_guarded_and_not_opened_must_stay_on_loopback(read):
    assert "EDGEWISE_PLAY_TOKENS" in (read(host=EVERYWHERE).exposure or "")
    assert read(host=EVERYWHERE, open=True).exposure is None
    assert read({"EDGEWISE_OPERATOR_TOKENS": "t"}, host=EVERYWHERE).exposure is None
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "[::1]", "localhost", EVERYWHERE, "example.org")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes(b"A=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env can't be read"):
        load(environ={}, dotenv=file)


def test_the_projects_first_machine_serves_where_nobody_chose_one(read):
    assert default_machine(read(), ["haunted_house", "mine"]) == "haunted_house"
    assert default_machine(read(), ["mine", "zoo"]) == "mine"
    with pytest.raises(SettingsError, match="EDGEWISE_MACHINE = 'nine': the project has no such machine; it has mine"):
        default_machine(read(machine="nine"), ["mine"])


def test_the_store_knows_where_its_owner_answers(read):
    assert url_of(read(host=EVERYWHERE, port=1)) == "http://127.0.0.1:1"
    assert url_of(read(host="::1", port=1)) == "http://[::1]:1"
    assert type(store_of(read(store="memory:"))).__name__ == "MemoryStore"
