"""README.md, tests/README.md and machines/README.md do what they say: commands, code, tables and links.

`sh` blocks are run line by line in a copy of the project with nothing but defaults; a line that installs uv is not.
`edgewise` and `python3 -m uv run` stand for this very checkout, `pytest` for collecting some of its tests, and port
8000 for a free one. In `console` blocks the output must be what is printed. `python` blocks are run.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import command as own_command
from command import environment
from pages import ROOT, Block, Page, Shell, ticked
from served import Process, Web, runtime_of, serving, shipped
from test_check import expected_of
from test_docs_machines import bundles

from runtime import loader
from runtime.model import said_in
from server.fake import script
from server.fake.faults import FAULTS
from server.refusals import TABLE, kinds
from server.settings import ELSEWHERE, Settings, load

README = Page(ROOT / "README.md")
TESTS = Page(ROOT / "tests" / "README.md")
MACHINES = Page(ROOT / "machines" / "README.md")
CHANGELOG = Page(ROOT / "CHANGELOG.md")
DEPLOY = Page(ROOT / "deploy" / "README.md")  # what it says beside its links and settings is test_deploy's
PAGES = (README, TESTS, MACHINES, CHANGELOG, DEPLOY)
ADDRESS = "http://127.0.0.1:8000"
UV = "uv run "


def commands(page: Page) -> list[str]:
    """The lines of a page's `sh` blocks, without comments."""
    lines = [line for block in page.blocks("sh") for line in block.text.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def own(command: str) -> str:
    """A command without what installs uv, and with uv's commands as this checkout's."""
    _, is_run, rest = command.rpartition(UV)
    before = re.match(r"(\w+=\S+ )*", command)
    return f"{before[0] if before else ''}{rest}" if is_run else command


ALL = [own(command) for page in (README, TESTS, MACHINES) for command in commands(page)]
STAYS = re.compile(r"curl|uv|.*\bedgewise serve\b|edgewise fake-llm (?!--fault list$)")
PLAIN = [command for command in ALL if not STAYS.match(command)]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in a project that holds what this one holds, and the machines of the machines' page."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in {"machines", "data"} and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / "machines").mkdir()
    for path in (ROOT / "machines").iterdir():
        (folder / "machines" / path.name).symlink_to(path)
    for name, text in bundles()["attic"].items():
        (folder / name).write_text(text, encoding="utf-8")
    return Shell(folder)


TESTING = re.compile(r"(?:EDGEWISE_TEST_SCALE=\d+ )?pytest\b(.*)")


@pytest.mark.slow
def test_every_command_works(shell: Shell) -> None:
    """In the order of the pages: a project that one command makes is there for the next."""
    for command in dict.fromkeys(command for command in PLAIN if not TESTING.match(command)):
        done = shell.run_soon(command)

        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_every_command_that_tests_finds_tests(shell: Shell) -> None:
    """One collection with the options and files of them all is as good as many."""
    words = dict.fromkeys(found[1].strip() for command in PLAIN if (found := TESTING.match(command)))
    assert len(words) >= 6

    done = shell.run(f"pytest --collect-only {' '.join(words)}")

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for name in re.findall(r"tests/\w+\.py", " ".join(words)):
        assert (ROOT / name).is_file()


@pytest.mark.slow
def test_the_machines_page_prints_what_check_prints(tmp_path: Path) -> None:
    for files in bundles().values():
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
    for block in MACHINES.blocks("console"):
        command, _, printed = block.text.removeprefix("$ ").partition("\n")

        assert Shell(tmp_path).run(command).stdout == printed


@pytest.mark.slow
def test_the_serving_command_serves_this_project(tmp_path: Path) -> None:
    assert [command for command in ALL if re.match(r"edgewise serve\b", command)] == ["edgewise serve"] * 2

    with Process(ROOT, tmp_path / "journal.duckdb") as process:
        assert process.url.startswith("http://127.0.0.1:")


def test_only_uv_is_installed_by_hand() -> None:
    """What a fresh machine needs is what the page says: python3 and pip."""
    installing = [command for command in commands(README) if "install" in command]

    assert [re.findall(r"install (\S+)", command) for command in installing] == [["uv"], ["uv"]]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of the machines that ship, haunted_house first."""
    machines = shipped()
    with serving(runtime_of(machines["haunted_house"], *machines.values())) as server:
        yield server.url


def covers(shown: Any, whole: Any) -> bool:
    """Whether a shortened answer is part of a whole one; `…` stands for any text."""
    if shown == "…":
        return isinstance(whole, str) and whole != ""
    if isinstance(shown, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and covers(value, whole[key]) for key, value in shown.items())
    if isinstance(shown, list) and shown and isinstance(whole, list):
        return len(shown) <= len(whole) and all(map(covers, shown, whole))
    return bool(shown == whole)


def test_the_first_request_is_answered_as_shown(address: str, tmp_path: Path) -> None:
    command, _ = [command for command in commands(README) if command.startswith("curl")]
    (shown,) = README.blocks("json")

    for _ in range(2):
        done = Shell(tmp_path).run(command.replace(ADDRESS, address))
        assert done.returncode == 0, done.stderr
        assert covers(json.loads(shown.text), json.loads(done.stdout))


def test_the_first_stream_is_told_as_it_says(address: str, tmp_path: Path) -> None:
    _, command = [command for command in commands(README) if command.startswith("curl")]

    done = Shell(tmp_path).run(command.replace(ADDRESS, address))

    accepted, *told, committed = [json.loads(line) for line in done.stdout.splitlines()]
    assert (accepted["event"], {each["event"] for each in told}) == ("turn.accepted", {"field.delta"})
    assert (committed["event"], committed["data"]["code"]) == ("turn.committed", 0)


def test_the_clients_loop_plays_to_an_end(address: str, tmp_path: Path) -> None:
    (loop,) = README.blocks("python")
    (tmp_path / "loop.py").write_text(loop.text.replace(ADDRESS, address), encoding="utf-8")

    done = Shell(tmp_path).run(f'"{sys.executable}" loop.py')

    endings = [state.ending for state in shipped()["haunted_house"].definition.states.values() if state.ending]
    assert done.stdout.strip() in [said_in(ending.title, "zh") for ending in endings], done.stderr


def examples_of(block: Block) -> dict[str, Any]:
    """The test functions that a python block defines."""
    space: dict[str, Any] = {}
    exec(compile(block.text, f"tests/README.md:{block.line}", "exec"), space)  # noqa: S102 - the page's own code
    return {name: value for name, value in space.items() if name.startswith("test_")}


@pytest.mark.parametrize("block", TESTS.blocks("python"), ids=lambda block: block.section)
async def test_an_example_of_a_test_passes(start: Any, block: Block) -> None:
    (example,) = examples_of(block).values()
    done = example(**({"start": start} if "start" in inspect.signature(example).parameters else {}))
    if inspect.isawaitable(done):
        await done


def test_the_example_of_a_broken_file_is_told_as_it_says() -> None:
    (block,) = [block for block in TESTS.blocks("yaml") if block.section == "A mistake"]
    files = {"machines/x.yaml": block.text}

    assert [str(finding) for finding in loader.findings_of(files)] == expected_of(files)


@pytest.mark.slow
def test_a_server_asks_the_fake_provider_as_the_page_says(tmp_path: Path) -> None:
    """The faulty provider and the server that asks it, as written, each on a free port."""
    (asks,) = [command for command in commands(TESTS) if command.endswith("edgewise serve --narrator openai")]
    (fake,) = [command for command in commands(TESTS) if command.startswith("edgewise fake-llm --fault fences")]
    profile, narrator = re.findall(r"EDGEWISE_OPENAI_PROFILE=(\w+)|--narrator (\w+)", asks)
    with faking(*fake.removeprefix("edgewise ").split()) as url:
        variables = {"EDGEWISE_NARRATOR": narrator[1], "EDGEWISE_OPENAI_PROFILE": profile[0]}
        variables["EDGEWISE_OPENAI_BASE_URL"] = url
        with Process(ROOT, tmp_path / "j.duckdb", **variables) as process, Web(process.url) as web:
            meta = web.invoke("s1", "INIT")["payload"]["meta"]

    assert (meta["narrator"], meta["fallback"], meta["ai_generated"]) == ("openai", [], True)
    assert "parsed" in meta["rungs"]


@contextmanager
def faking(*words: str) -> Iterator[str]:
    """The fake provider as a process, on a free port; where it listens."""
    with subprocess.Popen(
        own_command(*words, "--port", "0"), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            yield child.stdout.readline().split(" listens on ")[1].split()[0]
        finally:
            child.kill()


def test_the_example_of_a_script_is_one() -> None:
    (block,) = [block for block in TESTS.blocks("yaml") if block.section == "A client, and a model that fails"]

    played = script.parse("script.yaml", block.text)

    assert [played.step(number).status for number in range(1, 8)] == [429, 429, 0, 0, 0, 0, 0]
    assert (played.step(3).fault, played.step(8).status) == (("fences", "overlong"), 429)


# --- tables and links ---


def test_the_faults_are_those_of_the_fake_provider() -> None:
    written = {ticked(name)[0]: about for name, about in TESTS.table("A client, and a model that fails")}

    assert written == {name: fault.about for name, fault in FAULTS.items()}


def test_the_errors_are_those_of_the_server() -> None:
    retry = {kind.code: kind.retry for kind in kinds()}

    written = [(int(status), ticked(error)[0], again, about) for status, error, again, about in README.table("Errors")]

    assert written == [(row.status, code, retry[code], row.about) for code, row in TABLE.items()]


def test_the_settings_are_those_of_the_server(tmp_path: Path) -> None:
    listing = load({}, environ={}, dotenv=tmp_path / ".env").listing()
    defaults = {each.variable: each.value for each in listing} | {"EDGEWISE_STORE": "duckdb:…/data/edgewise.duckdb"}

    written = {ticked(variable)[0]: (ticked(default), about) for variable, default, about in README.table("Settings")}

    assert written == {
        each.variable: ([defaults[each.variable]] if defaults[each.variable] else [], each.about) for each in listing
    }
    assert len(written) == len(set(Settings.__struct_fields__) - {"sources", "warnings"})


def test_no_page_names_a_setting_that_is_none() -> None:
    known = {each.variable for each in load({}, environ={}).listing()} | ELSEWHERE | {"EDGEWISE_TEST_SCALE"}
    for page in PAGES:
        assert set(re.findall(r"\bEDGEWISE_[A-Z_]+[A-Z]", page.text)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Page) -> None:
    for path, anchor in page.links():
        target = page.path.parent / path
        assert target.exists(), path
        assert not anchor or anchor in (Page(target) if path else page).anchors(), anchor


def test_every_file_of_tests_stands_in_the_table_once() -> None:
    """A tester finds the file of a concept, and no file is named that isn't there."""
    named = re.findall(r"\((test_\w+\.py)\)", TESTS.section("Where things are"))

    assert len(named) == len(set(named))
    assert set(named) <= {path.name for path in (ROOT / "tests").glob("test_*.py")}


def test_a_newcomer_finds_a_first_file_at_once() -> None:
    """Each of the four users has a section that begins with the first file to open, and the page stays short."""
    for heading in ("I call it: clients", "I write it: designers", "I test it: testers", "I keep it: operators"):
        assert README.section(heading).strip().startswith("**First file: [")
    assert README.text.count("\n") <= 300
