"""`edgewise test` and `edgewise mutate`: one summary, one exit code, and what CI servers read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from server.bench.cases import Case, Outcome, as_github
from server.bench.junit import junit
from server.bench.testing import Shard
from server.cli import cli

LAMP = """\
machine: {name}
title: {{zh: 灯 🏮, en: Lamp}}
language: en
initial: HALL
context:
  oil: {{type: int, default: 2, min: 0, max: 3}}
events: {{WAIT: {{}}}}
states:
  HALL:
    on:
      WAIT:
        - {{name: dims, guard: oil > 0, target: HALL, assign: {{oil: oil - 1}}}}
        - {{name: dies, target: DARK}}
      OUT: OUT
  DARK: {{type: final}}
  OUT: {{type: final}}
"""
WALK = """\
replay: 走出去 🚪
given: {machine: NAME}
steps:
  - send: HALL
  - {send: OUT, expect: {ended: true, ending: OUT}}
"""
BURN = """\
replay: it burns down
given: {machine: NAME}
steps:
  - {send: HALL, expect: {next: WAIT, options: [continue]}}
  - {send: WAIT, expect: {edge: HALL.dims, context: {oil: 1}, allowed: [WAIT, OUT]}}
  - {send: WAIT, expect: {context: {oil: 0}}}
  - {send: WAIT, expect: {edge: HALL.dies, ending: DARK}}
"""
WRONG = WALK.replace("ending: OUT", "ending: DARK").replace("走出去 🚪", "走错了 🚪")
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")

Made = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Made:
    """A project of the machine `lamp`, with these replays: file → text; other files by their path."""

    def made(replays: dict[str, str] | None = None, **files: str) -> Path:
        put(tmp_path, {"machines/lamp.yaml": LAMP.format(name="lamp")})
        put(tmp_path, {f"replays/lamp/{name}.replay.yaml": own("lamp", text) for name, text in (replays or {}).items()})
        put(tmp_path, {name.replace("__", "/").replace("_yaml", ".yaml"): text for name, text in files.items()})
        return tmp_path

    return made


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def own(machine: str, text: str) -> str:
    return text.replace("NAME", machine)


class Said(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def command(folder: Path, *words: str) -> Said:
    """Run a command in a folder, in this process."""
    with chdir(folder):
        done = CliRunner().invoke(cli, [*words], catch_exceptions=False)
    return Said(done.exit_code, done.stdout, done.stderr)


def run(folder: Path, *words: str) -> Said:
    """Test a project in one process."""
    return command(folder, "test", *(() if "-j" in words else ("-j", "1")), *words)


def case_of(told: dict[str, Any], what: str) -> list[dict[str, Any]]:
    return [case for case in told["cases"] if case["what"] == what]


# What is tested, and what fails.


def test_a_good_project_passes_with_a_line_for_each_machine(project: Made) -> None:
    done = run(project({"walk": WALK, "burn": BURN}))

    heading, line, verdict = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert heading.split() == [
        "MACHINE", "CHECK", "REPLAYS", "PROPERTIES", "EXPLORED", "EDGES", "GUARDS", "ENDINGS", "MUTANTS",
    ]  # fmt: skip
    assert line.split()[:4] == ["lamp", "ok", "2", "passed"]
    assert line.split()[-4:] == ["100%", "100%", "100%", "-"]
    assert verdict.startswith("passed: 4 passed in ")


def test_a_replay_that_fails_is_told_with_its_difference_and_kept_until_it_passes(project: Made) -> None:
    folder = project({"walk": WRONG})

    done = run(folder)

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "FAILED lamp replay replays/lamp/walk.replay.yaml::走错了 🚪"
    assert lines[1] == "  replays/lamp/walk.replay.yaml:5 step 2 (send OUT): ending"
    (kept,) = (folder / ".edgewise" / "failed").iterdir()
    assert (folder / ".edgewise" / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert command(folder, "replay", str(kept)).returncode == 1
    project({"walk": WRONG.replace("DARK", "OUT")})
    assert run(folder).returncode == 0
    assert not kept.exists()


def test_a_machine_with_a_fault_fails_its_check_and_its_replays_and_no_other(project: Made) -> None:
    folder = project(
        {"walk": WALK}, machines__mine_yaml=LAMP.format(name="mine").replace("target: DARK", "target: DRK")
    )
    put(folder, {"replays/mine/walk.replay.yaml": own("mine", WALK)})

    told = json.loads(run(folder, "--format", "json").stdout)

    assert [(case["machine"], case["verdict"]) for case in case_of(told, "check")] == [
        ("lamp", "passed"), ("mine", "failed"),
    ]  # fmt: skip
    assert case_of(told, "check")[1]["lines"][0].startswith("machines/mine.yaml:13:32 E103")
    assert [case["verdict"] for case in case_of(told, "replay")] == ["passed", "failed"]
    assert [case["verdict"] for case in case_of(told, "explore")] == ["passed", "skipped"]
    assert told["passed"] is False


def test_faults_of_files_that_are_no_machines_fail_as_well(project: Made) -> None:
    folder = project(
        {"bad": WALK.replace("send: OUT", "sned: OUT"), "stray": WALK.replace("NAME", "lmap")},
        edgewise_yaml="test: {coverage: {edge: 100}}\n",
    )

    done = run(folder)

    assert done.returncode == 1
    assert "edgewise.yaml:1:19 E101 no key 'edge' here. Did you mean 'edges'?" in done.stdout
    assert "replays/lamp/bad.replay.yaml:5:6 E101" in done.stdout
    assert "there is no machine 'lmap'. Did you mean 'lamp'?" in done.stdout


def test_a_property_that_a_play_breaks_is_found_without_a_replay(project: Made) -> None:
    folder = project(
        {"walk": WALK}, machines__lamp_yaml=LAMP.format(name="lamp") + "properties:\n  lit: {always: oil > 0}\n"
    )

    done = run(folder)

    assert done.returncode == 1
    assert "FAILED lamp explore quick exploration" in done.stdout
    assert "1 of 1 broken" in done.stdout
    (kept,) = (folder / ".edgewise" / "failed").iterdir()
    assert f"edgewise replay .edgewise/failed/{kept.name}" in done.stdout
    assert command(folder, "replay", f".edgewise/failed/{kept.name}").returncode == 1


def test_without_replays_nothing_fails_and_it_is_said_how_to_make_some(project: Made) -> None:
    done = run(project())

    assert done.returncode == 0
    assert "no replay plays lamp. `edgewise paths MACHINE --cover guards --write replays/MACHINE`" in done.stdout


# What a project asks for.


def test_a_threshold_that_isnt_met_fails_and_names_what_is_missed(project: Made) -> None:
    folder = project({"walk": WALK}, edgewise_yaml="test: {coverage: {edges: 75, endings: 50}}\n")

    done = run(folder)

    assert done.returncode == 1
    assert "FAILED lamp coverage coverage of edges" in done.stdout
    assert "  50% is under 75%. Replays miss:" in done.stdout
    assert "  machines/lamp.yaml:12 HALL.dims" in done.stdout
    assert "coverage of endings" not in done.stdout


def test_mutants_are_judged_where_that_is_asked_for(project: Made) -> None:
    folder = project({"walk": WALK}, edgewise_yaml="test: {mutation: 100}\n")

    done = run(folder)
    bare = run(project({}, edgewise_yaml="test: {}\n"), "--mutate")

    assert done.returncode == 1
    assert "FAILED lamp mutation mutants killed" in done.stdout
    assert "is under 100%" in done.stdout
    assert bare.returncode == 0
    assert bare.stdout.splitlines()[1].split()[-1].endswith("%")


def test_a_machines_own_threshold_stands_over_the_projects(project: Made) -> None:
    rule = "test: {coverage: 100, machines: {lamp: {coverage: 50}}}\n"

    assert run(project({"walk": WALK, "burn": BURN}, edgewise_yaml=rule)).returncode == 0


# Parts of the work.


@given(st.sets(st.text(min_size=1), max_size=40), st.integers(1, 9))
def test_each_test_is_in_one_shard_and_no_shard_loses_any(names: set[str], count: int) -> None:
    parts = [{name for name in names if Shard(index, count).has(name)} for index in range(1, count + 1)]

    assert set().union(*parts) == names
    assert sum(map(len, parts)) == len(names)


def test_the_shards_replays_are_all_replays_and_coverage_is_not_judged_in_them(project: Made) -> None:
    folder = project({"walk": WALK, "burn": BURN}, edgewise_yaml="test: {coverage: 100}\n")

    parts = [run(folder, "--shard", f"{index}/2", "--format", "json") for index in (1, 2)]

    told = [json.loads(part.stdout) for part in parts]
    assert [part.returncode for part in parts] == [0, 0]
    played = [case["name"] for each in told for case in case_of(each, "replay")]
    assert sorted(played) == [
        "replays/lamp/burn.replay.yaml::it burns down",
        "replays/lamp/walk.replay.yaml::走出去 🚪",
    ]
    assert not case_of(told[0], "coverage") + case_of(told[1], "coverage")
    assert sum(len(case_of(each, "explore")) for each in told) == 1
    assert told[0]["said"][0].startswith("shard 1 of 2: ")


def test_each_case_is_in_one_shard_alone_whatever_is_faulty(project: Made) -> None:
    folder = project(
        {"walk": WALK, "burn": BURN, "bad": "replay: x\n", "stray": WALK.replace("NAME", "lapm")},
        edgewise_yaml="test: {}\n",
        machines__mine_yaml=LAMP.format(name="mine").replace("oil > 0", "oli > 0"),
    )
    put(folder, {"replays/mine/one.replay.yaml": own("mine", WALK), "replays/mine/two.replay.yaml": own("mine", BURN)})

    def cases(*words: str) -> list[tuple[str, str, str, str]]:
        told = json.loads(run(folder, "--format", "json", *words).stdout)
        return [(case["machine"], case["what"], case["name"], case["verdict"]) for case in told["cases"]]

    parts = [case for index in (1, 2, 3) for case in cases("--shard", f"{index}/3")]

    assert sorted(parts) == sorted(cases())


def test_what_a_budget_leaves_out_is_told_first_and_is_no_failure(project: Made) -> None:
    folder = project({"walk": WALK, "burn": BURN}, edgewise_yaml="test: {coverage: 100}\n")

    done = run(folder, "--budget", "1ms", "--junit", "out/report.xml")

    assert done.returncode == 0
    assert done.stdout.startswith(
        "incomplete: the time was up. Left out: replays/lamp/burn.replay.yaml::it burns down, "
    )
    assert "lamp: quick exploration" in done.stdout.splitlines()[0]
    skipped = [each.get("message") for each in ET.parse(folder / "out" / "report.xml").iter("skipped")]  # noqa: S314 - our own
    assert skipped == ["left out: the time was up"] * 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shard", "3/2"), "--shard is a part of all parts, like 2/5, and not '3/2'"),
        (("--shard", "0/2"), "like 2/5"),
        (("--budget", "soon"), "--budget is a time, like 60s or 2m, and not 'soon'"),
        (("--budget", "0s"), "--budget is a time"),
        (("lamb",), "there is no machine 'lamb'. Did you mean 'lamp'?"),
        (("-j", "0"), "-j"),
    ],
)
def test_wrong_use_is_told_and_tests_nothing(project: Made, words: tuple[str, ...], said: str) -> None:
    folder = project({"walk": WRONG})

    done = run(folder, *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (folder / ".edgewise").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mutate", "--fail-under", "nan"), "nan is not a finite number"),
        (("explore", "--seconds", "nan"), "nan is not a finite number"),
        (("explore", "--seconds", "inf"), "inf is not a finite number"),
        (("paths", "lamp", "--seconds", "inf"), "inf is not a finite number"),
        (("mutate", "--fail-under", "101"), "not in the range 0<=x<=100"),
    ],
)
def test_a_bound_that_bounds_nothing_is_wrong_use(project: Made, words: tuple[str, ...], said: str) -> None:
    done = command(project({"walk": WALK}), *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "words",
    [
        ("test", "-j", "1", "--junit", "machines/lamp.yaml/灯.xml"),
        ("mutate", "-j", "1", "--write", "machines/lamp.yaml/灯"),
        ("paths", "lamp", "--write", "machines/lamp.yaml/灯"),
        ("coverage", "-j", "1", "--output", "machines/lamp.yaml/灯"),
        ("compare", "lamp", "-j", "1", "--with-narrator", "offline", "--output", "machines/lamp.yaml/灯.md"),
        ("graph", "lamp", "--output", "machines/lamp.yaml/灯"),
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_wrong_use(project: Made, words: tuple[str, ...]) -> None:
    done = command(project({"walk": WALK}), *words)

    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "machines/lamp.yaml/灯" in said
    assert "can't be written: " in said


# What changed.


def git(folder: Path, *words: str) -> None:
    subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True)


def machines_tested(folder: Path, *words: str) -> list[str]:
    return [line["machine"] for line in json.loads(run(folder, *words, "--format", "json").stdout)["machines"]]


def test_only_machines_that_changed_are_tested(project: Made) -> None:
    folder = project({"walk": WALK}, machines__mine_yaml=LAMP.format(name="mine"), prompts__mine__turn_yaml="")
    (folder / "prompts" / "mine" / "turn.yaml").unlink()
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    since = ("--changed-since", "HEAD")

    none = run(folder, *since)
    put(folder, {"prompts/mine/offline.en.yaml": "scene:\n  - {say: [A lamp.]}\n"})
    by_prompt = machines_tested(folder, *since)
    put(folder, {"elsewhere/灯.replay.yaml": "replay: x\n", "replays/lamp/more.replay.yaml": own("lamp", BURN)})
    by_replay = machines_tested(folder, *since)
    put(folder, {"edgewise.yaml": "test: {}\n"})

    assert none.returncode == 0
    assert "nothing changed: no machine is to be tested" in none.stdout
    assert by_prompt == ["mine"]
    assert by_replay == ["lamp", "mine"]
    assert machines_tested(folder, *since) == ["lamp", "mine"]


def test_what_git_doesnt_know_is_told_in_a_sentence(project: Made) -> None:
    folder = project({"walk": WALK})

    outside = run(folder, "--changed-since", "HEAD")
    git(folder, "init", "-q")
    unknown = run(folder, "--changed-since", "--output=x")

    assert outside.returncode == unknown.returncode == 2
    assert "is in no git repository" in " ".join(outside.stderr.replace("│", " ").split())
    assert "git knows no revision '--output=x'" in " ".join(unknown.stderr.replace("│", " ").split())
    assert not (folder / "x").exists()


def test_where_git_fails_nothing_passes_as_unchanged(project: Made) -> None:
    folder = project({"walk": WRONG})
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    (folder / ".git" / "index").write_bytes(b"no index")

    done = run(folder, "--changed-since", "HEAD")

    assert (done.returncode, done.stdout) == (2, "")
    said = " ".join(done.stderr.replace("│", " ").split())
    assert "--changed-since asks `git diff`, which fails: " in said
    assert "index file" in said


# What CI servers read.


def test_the_junit_report_has_a_case_for_each_replay_and_each_check(project: Made) -> None:
    folder = project({"walk": WRONG, "burn": BURN})

    run(folder, "--junit", "report.xml")

    root = ET.parse(folder / "report.xml").getroot()  # noqa: S314 - our own
    names = [(each.get("classname"), each.get("name")) for each in root.iter("testcase")]
    assert names == [
        ("lamp.check", "check"),
        ("lamp.replay", "replays/lamp/burn.replay.yaml::it burns down"),
        ("lamp.replay", "replays/lamp/walk.replay.yaml::走错了 🚪"),
        ("lamp.explore", "quick exploration"),
    ]
    assert (root.get("tests"), root.get("failures")) == ("4", "1")
    (failure,) = root.iter("failure")
    assert "expected: DARK" in (failure.text or "")


def test_what_no_xml_can_hold_breaks_no_report() -> None:
    case = Case(machine="a<b&", what="replay", name='\x1b[31m"灯\ud800', verdict="failed", lines=("]]>\x00\ufffe 🏮",))

    read = ET.fromstring(junit(Outcome(cases=(case,), machines=())))  # noqa: S314 - our own

    assert read[0][0].get("name") == '\ufffd[31m"灯\ufffd'
    assert read[0][0][0].text == "]]>\ufffd\ufffd 🏮"


def test_github_is_told_of_each_fault_at_its_place(project: Made) -> None:
    folder = project({"walk": WRONG}, edgewise_yaml="test: {coverage: {edges: 100}}\n")

    done = run(folder, "--format", "github")

    errors = [line for line in done.stdout.splitlines() if line.startswith("::error ")]
    assert errors[0].startswith("::error file=replays/lamp/walk.replay.yaml,line=5,title=lamp replay::")
    assert "%0A" in errors[0]
    assert "::error file=machines/lamp.yaml,line=12,title=lamp coverage::no replay covers HALL.dims" in errors
    assert done.returncode == 1


def test_no_text_becomes_a_workflow_command() -> None:
    line = "100%, a:b\n\x1b[31m::set-output name=x::y"
    case = Case(machine="x,y:z", what="replay", name="::warning::n", verdict="failed", file="a,b.yaml", lines=(line,))

    told = list(as_github(Outcome(cases=(case,), machines=(), hints=("::stop::",)), Path()))

    assert told[0] == (
        "::error file=a%2Cb.yaml,title=x%2Cy%3Az replay::100%25, a:b%0A[31m::set-output name=x::y"
    )  # fmt: skip
    assert not [line for line in told[1:] if line.startswith("::")]


@pytest.mark.slow
def test_several_processes_tell_what_one_tells_in_the_same_order(project: Made) -> None:
    folder = project({"walk": WRONG, "burn": BURN}, machines__mine_yaml=LAMP.format(name="mine"))

    told = [json.loads(run(folder, "-j", jobs, "--format", "json").stdout) for jobs in ("1", "2")]

    for each in told:
        each["seconds"] = 0
        for case in each["cases"]:
            case["seconds"] = 0
    assert told[0] == told[1]


# edgewise mutate.


def test_survivors_are_listed_with_their_place_the_change_and_who_played_over_it(project: Made) -> None:
    done = command(project({"walk": WALK}), "mutate", "--fail-under", "90")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = lines.index("    machines/lamp.yaml:12:24 HALL.dims: guard: oil > 0 → oil > 1")
    assert lines[at + 1] == "      played over by 1 replay: replays/lamp/walk.replay.yaml::走出去 🚪"
    assert lines[at + 2].startswith("      would show in turn 2, choose continue: ")
    assert "lamp: " in done.stderr
    assert done.stderr.rstrip().endswith("is under 90%")


def test_replays_written_for_survivors_make_the_score_whole(project: Made) -> None:
    folder = project({"walk": WALK})

    first = json.loads(command(folder, "mutate", "--format", "json", "--write", "replays/lamp").stdout)
    again = json.loads(command(folder, "mutate", "--format", "json").stdout)

    assert first["machines"][0]["percent"] < again["machines"][0]["percent"] == 100.0
    assert again["machines"][0]["survived"] == 0
    assert command(folder, "replay").returncode == 0
    assert {each["fate"] for each in again["machines"][0]["mutants"]} <= {"killed", "equivalent", "invalid"}


def test_replays_that_fail_as_they_are_judge_no_mutant(project: Made) -> None:
    done = command(project({"walk": WRONG, "burn": BURN}), "mutate")

    assert done.returncode == 0
    assert "killed by 1 replay;" in done.stdout
    assert "1 replay that fail as it is judge nothing" not in done.stdout
    assert "fails as it is and judges nothing: replays/lamp/walk.replay.yaml::走错了 🚪" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("explore", "lamp"),
        ("explore", "lamp", "--random", "3"),
        ("explore", "lamp", "--hostile"),
        ("paths", "lamp"),
        ("mutate", "lamp"),
        ("coverage", "lamp", "--explore"),
        ("compare", "lamp", "--with-narrator", "offline"),
        ("test", "lamp"),
    ],
    ids=" ".join,
)
def test_a_machine_is_worked_on_whatever_is_wrong_with_another(project: Made, words: tuple[str, ...]) -> None:
    folder = project({"burn": BURN}, machines__mine_yaml=LAMP.format(name="mine").replace("oil > 0", "oli > 0"))

    done = command(folder, *words, *(() if words[0] == "paths" else ("-j", "1")))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine" not in done.stdout + done.stderr


def test_one_turn_is_no_turns(project: Made) -> None:
    folder = project(
        machines__mine_yaml="machine: mine\ntitle: Mine\nlanguage: en\ninitial: END\nstates: {END: {type: final}}\n"
    )

    found = command(folder, "paths", "mine").stdout

    assert found.splitlines()[-1] == "mine: 1 play with 1 turn covers 1 of 1 edges, 1 of 1 states, 1 of 1 endings"
    assert "1 turn to END" in found
    assert "1 session in 2 turns" in command(folder, "explore", "mine", "-j", "1").stdout
    assert "not found within 1 turn\n" in command(folder, "explore", "lamp", "-j", "1", "--budget", "1").stdout


def test_without_a_replay_there_is_nothing_to_judge_by(project: Made) -> None:
    done = command(project(), "mutate")

    assert (done.returncode, done.stdout) == (2, "")
    assert "no replay plays lamp" in " ".join(done.stderr.replace("│", " ").split())
