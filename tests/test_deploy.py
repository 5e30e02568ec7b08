"""deploy/ agrees with what is deployed: settings, routes, limits, tables, commands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pages import ROOT, Page, Shell, ticked

from runtime.stores.pg_schema import migrations
from runtime.stores.postgres import LEASE_S, PostgresStore
from server import openapi, serving
from server.auth import Pace
from server.body import MAX_BODY_BYTES
from server.cli import cli
from server.settings import ALIASES, ELSEWHERE, Settings, load

DEPLOY = ROOT / "deploy"
PAGE = Page(DEPLOY / "README.md")


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    """The services of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.fixture(scope="module")
def kinds() -> Mapping[str, Any]:
    """The objects of the Kubernetes manifest by their kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


@pytest.fixture(scope="module")
def pod(kinds) -> Mapping[str, Any]:
    """What the Deployment runs."""
    return kinds["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> Mapping[str, Any]:
    """Its one container."""
    (found,) = pod["containers"]
    return found


def deadline_s(environment: Mapping[str, Any]) -> float:
    """The turn's deadline that an environment sets, else the default."""
    return float(environment.get("EDGEWISE_TURN_DEADLINE_S", Settings().turn_deadline_s))


def seconds(written: str) -> float:
    """`55s` as a number."""
    return float(written.removesuffix("s"))


# Settings.


@pytest.mark.parametrize("name", ["README.md", "Dockerfile", "compose.yaml", "kubernetes.yaml", "nginx.conf"])
def test_every_variable_that_is_named_is_a_setting(name):
    known = {each.variable for each in load({}, environ={}).listing()} | ELSEWHERE | set(ALIASES.values())
    text = (DEPLOY / name).read_text(encoding="utf-8")

    assert set(re.findall(r"\b(?:EDGEWISE|DEEPSEEK)_[A-Z_]+[A-Z]", text)) <= known


def test_the_settings_of_the_containers_are_ones_that_load(compose, container):
    secret = {"EDGEWISE_PLAY_TOKENS": "play", "EDGEWISE_OPERATOR_TOKENS": "operate", "EDGEWISE_HOST": "0.0.0.0"}  # noqa: S104
    in_compose = {name: value for name, value in compose["edgewise"]["environment"].items() if "$" not in value}
    in_pod = {each["name"]: each["value"] for each in container["env"]}
    for environment in (in_compose, in_pod):
        store = {"EDGEWISE_STORE": "postgresql://edgewise:secret@db:5432/edgewise"}

        settings = load({}, environ={**store, **secret, **environment}, dotenv=Path("/nowhere"))

        assert settings.is_shared
        assert settings.exposure is None
        assert settings.warnings == ()


def test_what_must_be_secret_is_written_nowhere(compose, kinds):
    written = compose["edgewise"]["environment"] | compose["postgres"]["environment"]
    for name in ("EDGEWISE_PLAY_TOKENS", "EDGEWISE_OPERATOR_TOKENS", "POSTGRES_PASSWORD"):
        assert re.fullmatch(rf"\$\{{{name}:\?.+\}}", written[name])
    assert "Secret" not in kinds
    for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines():
        assert not re.search(r"TOKEN|PASSWORD|KEY=", line)


# Probes, ports and the end.


def test_the_probes_ask_routes_that_need_no_token_on_the_port_that_is_served(container, compose, kinds):
    open_routes = {each.path for each in openapi.OPERATIONS if each.method == "get" and each.role is None}
    (port,) = container["ports"]
    environment = {each["name"]: each["value"] for each in container["env"]}

    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness", "startup")]

    assert [probe["path"] for probe in probes] == ["/health", "/ready", "/health"]
    assert {probe["path"] for probe in probes} <= open_routes
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert kinds["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert port["containerPort"] == int(environment["EDGEWISE_PORT"])
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", compose["edgewise"]["healthcheck"]["test"][-1])
    assert asked == (str(Settings().port), "/ready")


def test_whoever_stops_a_process_waits_until_its_turns_have_ended(pod, container, compose):
    environment = {each["name"]: each["value"] for each in container["env"]}
    pause_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])

    assert pod["terminationGracePeriodSeconds"] >= deadline_s(environment) + serving.LATE_S + pause_s
    grace_s = seconds(compose["edgewise"]["stop_grace_period"])
    assert grace_s >= deadline_s(compose["edgewise"]["environment"]) + serving.LATE_S


def test_the_labels_lead_to_the_pods(kinds):
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]

    for selector in (
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["Service"]["spec"]["selector"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert kinds["Deployment"]["spec"]["replicas"] > kinds["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_nothing_runs_as_root_or_writes_to_its_image(kinds, compose):
    job = kinds["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for pod_ in (kinds["Deployment"]["spec"]["template"]["spec"], job):
        assert pod_["securityContext"]["runAsNonRoot"]
        for each in pod_["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"]
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert {mount["name"] for mount in each["volumeMounts"]} <= {volume["name"] for volume in pod_["volumes"]}
    assert compose["edgewise"]["read_only"]
    assert "/tmp" in compose["edgewise"]["tmpfs"]  # noqa: S108 - a mount, not a file
    user = re.search(r"^USER (\d+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert user is not None
    assert int(user[1]) == job["securityContext"]["runAsUser"] > 0


# The proxy and its numbers, here and on the page.


def nginx(name: str) -> str:
    """A directive's value."""
    found = re.findall(rf"^\s*{name} ([^;]+);", (DEPLOY / "nginx.conf").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(found)) == 1 or name == "keepalive_timeout", f"{name}: {found}"
    return found[0]


def test_the_proxy_waits_longer_than_the_server_and_takes_more():
    """So that the server's own answers, refusals too, reach the client."""
    assert seconds(nginx("proxy_read_timeout")) > Settings().turn_deadline_s
    assert int(nginx("client_max_body_size").removesuffix("k")) * 1024 > MAX_BODY_BYTES
    assert seconds(nginx("keepalive_timeout")) < serving.IDLE_S


def test_the_proxy_says_itself_who_asks():
    """What a client claims of where it comes from reaches no server."""
    conf = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    headers = dict(re.findall(r"^\s*proxy_set_header ([\w-]+) ([^;]+);", conf, re.MULTILINE))
    assert (headers["X-Forwarded-For"], headers["Forwarded"]) == ("$remote_addr", '""')


def test_the_page_has_the_numbers_of_the_proxy():
    bounds = {what: bound for what, bound, _ in PAGE.table("What stands before it")}

    assert bounds["headers and body, time to arrive"] == f"{seconds(nginx('client_header_timeout')):g} s"
    assert nginx("client_header_timeout") == nginx("client_body_timeout")
    assert bounds["headers, size"] == nginx("large_client_header_buffers").split()[1].upper().replace("K", " KB")
    assert bounds["body, size"] == nginx("client_max_body_size").upper().replace("K", " KB")
    assert bounds["answer, time"] == f"{seconds(nginx('proxy_read_timeout')):g} s"
    assert bounds["idle connections"] == f"under {serving.IDLE_S} s"


def test_the_page_has_the_numbers_of_the_server():
    connections = inspect.signature(PostgresStore).parameters["connections"].default

    assert f"each process takes up to {connections}." in PAGE.text
    assert f"processes × {connections} below" in PAGE.text
    assert f"its sessions are free after {LEASE_S:g} s" in PAGE.text
    assert f"`EDGEWISE_TURN_DEADLINE_S` + {serving.LATE_S} s" in PAGE.text
    assert f"at least\n  {Settings().turn_deadline_s + serving.LATE_S:g} s" in PAGE.text
    assert f"refuses over {MAX_BODY_BYTES // 1024} KB" in PAGE.text
    assert f"over `EDGEWISE_TURN_DEADLINE_S` ({Settings().turn_deadline_s:g})" in PAGE.text


def test_the_rate_limit_is_each_processs_own():
    """As the page says: one process knows nothing of another's count."""
    first, second = Pace(1), Pace(1)
    first.take("caller")

    second.take("caller")

    assert "N of them let through N times as many" in PAGE.text


# Tables.


def test_every_table_is_distributed_by_session_or_the_same_everywhere():
    """By its key: a table whose key begins with session_id is distributed, any other one is a reference table."""
    made = {name: key for _, _, text in migrations() for name, key in tables_of(text)}
    (block,) = PAGE.blocks("sql")
    distributed = set(re.findall(r"create_distributed_table\('(\w+)', 'session_id'", block.text))
    reference = set(re.findall(r"create_reference_table\('(\w+)'\)", block.text))

    assert distributed == {name for name, key in made.items() if key == "session_id"}
    assert reference - {"edgewise_migrations"} == {name for name, key in made.items() if key != "session_id"}
    assert "edgewise_migrations" in reference
    assert len(block.text.splitlines()) == len(distributed) + len(reference)


def tables_of(sql: str) -> Iterator[tuple[str, str]]:
    """Each table that a file of SQL makes, with the first column of its key."""
    for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\)", sql, re.DOTALL):
        own = re.search(r"PRIMARY KEY \((\w+)", body) or re.search(r"^\s*(\w+) .*PRIMARY KEY", body, re.MULTILINE)
        assert own is not None, name
        yield name, own[1]


# Commands.


def lines() -> list[str]:
    return [line for block in PAGE.blocks("sh") for line in block.text.splitlines()]


def edgewise_lines(compose: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[list[str]]:
    """What follows `edgewise` wherever it is run: on the page, in containers, in jobs."""
    (job,) = kinds["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    on_page = [shlex.split(line)[1:] for line in lines() if line.startswith("edgewise ")]
    in_run = [
        shlex.split(line.partition(" run --rm edgewise ")[2]) for line in lines() if " run --rm edgewise " in line
    ]
    return [*on_page, *in_run, compose["edgewise"]["command"], container["args"], job["args"]]


def parsed(words: list[str]) -> list[str]:
    """The names of the command that words call. Raises click.UsageError for what none takes."""
    command: Any = cli
    names, context = [], None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, words, parent=context)
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        names.append(str(name))
    command.make_context(names[-1], list(words), parent=context)
    return names


def test_every_command_is_one_of_ours_with_options_that_it_takes(compose, kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "monday.duckdb").touch()

    called = {" ".join(parsed(list(words))) for words in edgewise_lines(compose, kinds)}

    assert called >= {"serve", "db backup", "db verify", "db copy", "sessions prune"}
    with pytest.raises(click.UsageError):
        parsed(["sessions", "prune", "--older-then", "90d"])


@pytest.mark.slow
def test_keeping_a_journal_works_as_the_page_says(tmp_path):
    shell = Shell(tmp_path)
    commands = [line for line in lines() if line.startswith("edgewise ") and "serve" not in line and "://" not in line]
    begun = ["edgewise init .story", "cp -r .story/machines .story/prompts .",
             "printf '1\\n' | edgewise play --session s1 --store duckdb:data/edgewise.duckdb"]  # fmt: skip

    for command in (*begun, *commands):
        done = shell.run_soon(command)

        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(commands) == 7
    assert (tmp_path / "monday.duckdb").exists()


def test_every_file_that_a_command_names_is_there():
    files = {word for line in lines() for word in shlex.split(line) if word.startswith("deploy/")}

    assert files == {"deploy/compose.yaml", "deploy/kubernetes.yaml"}
    for file in files:
        assert (ROOT / file).is_file()
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for copied in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
    assert "deploy/Dockerfile" in dockerfile


def test_every_file_of_the_folder_is_linked_on_the_page():
    linked = {path for path, _ in PAGE.links() if not path.startswith("../")}

    assert linked == {path.name for path in DEPLOY.iterdir()} - {"README.md"}


def test_the_choice_of_a_journal_names_both_commands():
    (start,) = [row for row in PAGE.table("Running Edgewise") if row[0] == "start"]

    assert [ticked(cell)[0].split()[:2] for cell in start[1:]] == [["edgewise", "serve"]] * 2
