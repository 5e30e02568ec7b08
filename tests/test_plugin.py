"""Replays collected by pytest: ids that can be chosen, failures that name the first difference, and no surprises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import conftest
import pytest
from command import environment
from served import ROOT

pytest_plugins = ["pytester"]

MACHINE = """
machine: lamp
title: {zh: 灯, en: The Lamp}
language: zh
initial: {event: INIT, target: HALL}
context: {oil: {type: int, default: 3, min: 0, max: 9, show: true}}
states:
  HALL:
    options:
      - {key: burn, text: {zh: 点灯, en: Light it}, dice: {cost: 1d4}, edges: [
          {name: bright, guard: "dice.cost < oil", target: HALL, assign: {oil: oil - dice.cost}},
          {name: dark, target: END_DARK}]}
      - {key: leave, text: {zh: 走开, en: Leave}, target: END_OUT}
  END_DARK: {type: final, ending: {title: {zh: 灯灭, en: Dark}, good: false}}
  END_OUT: {type: final, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
"""
GOOD = """
replay: 灯亮着
given: {machine: lamp, seed: a}
each: {language: [zh, en]}
steps:
  - send: INIT
  - {choose: burn, dice: {cost: 2}, expect: {edge: HALL.bright, context: {oil: 1}}}
"""
WRONG = """
replay: it goes dark
given: {machine: lamp, language: en, state: HALL, context: {oil: 5}}
steps:
  - {choose: burn, dice: {cost: 4}, expect: {edge: HALL.dark, state: END_DARK}}
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with one machine; the tests' own options don't count in it."""
    write(pytester, "machines/lamp.yaml", MACHINE)
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


def write(pytester: pytest.Pytester, name: str, text: str) -> Path:
    file = pytester.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.slow
def test_a_replay_is_a_test_for_each_of_its_combinations(folder: pytest.Pytester):
    write(folder, "replays/lamp/灯.replay.yaml", GOOD)

    listed = folder.runpytest_inprocess("--collect-only", "-q")
    chosen = folder.runpytest_inprocess("replays/lamp/灯.replay.yaml::灯亮着[en]")
    by_word = folder.runpytest_inprocess("-k", "zh")

    assert listed.outlines[:2] == ["replays/lamp/灯.replay.yaml::灯亮着[zh]", "replays/lamp/灯.replay.yaml::灯亮着[en]"]
    chosen.assert_outcomes(passed=1)
    by_word.assert_outcomes(passed=1, deselected=1)


def test_a_failure_names_the_first_difference_and_why_without_a_traceback(folder: pytest.Pytester):
    write(folder, "replays/lamp/dark.replay.yaml", WRONG)

    done = folder.runpytest_inprocess()

    done.assert_outcomes(failed=1)
    shown = done.stdout.str()
    assert "replays/lamp/dark.replay.yaml:5 step 1 (choose burn): edge" in shown
    assert 'expected: "HALL.dark"' in shown
    assert 'got:      "HALL.bright"' in shown
    assert "dice.cost < oil" in shown
    assert "took HALL.bright (machines/lamp.yaml:11) to HALL" in shown
    assert "HALL.dark stands at machines/lamp.yaml:12" in shown
    assert "Traceback" not in shown
    assert ".py:" not in shown


def test_what_is_known_to_fail_must_fail(folder: pytest.Pytester):
    write(folder, "replays/known.replay.yaml", WRONG + "xfail: it is not dark enough\n")
    write(folder, "replays/mended.replay.yaml", GOOD + "xfail: 灯坏了\n")

    done = folder.runpytest_inprocess("-rx")

    done.assert_outcomes(xfailed=1, failed=2)
    assert "[XPASS(strict)] 灯坏了" in done.stdout.str()
    assert "it is not dark enough" in done.stdout.str()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("HALL.dark", "HALL.drak", "Did you mean 'HALL.dark'?"),
        ("machine: lamp", "machine: lmap", "there is no machine 'lmap'"),
        ("cost: 4", "cost: 9", "dice.cost"),
        ("oil: 5", "oil: 50", "'oil' is at most 9"),
    ],
)
def test_a_fault_of_the_file_is_never_what_is_known_to_fail(
    folder: pytest.Pytester, before: str, after: str, told: str
):
    write(folder, "replays/known.replay.yaml", WRONG.replace(before, after) + "xfail: it is not dark enough\n")

    done = folder.runpytest_inprocess()

    done.assert_outcomes(failed=1)
    assert told in done.stdout.str()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD.replace("send: INIT", "sned: INIT"), "x.replay.yaml:6:5 E101 no key 'sned' here. Did you mean 'send'?"),
        (GOOD.replace("machine: lamp", "machine: lmap"), "there is no machine 'lmap'"),
        (GOOD.replace("HALL.bright", "HALL.brigt"), "Did you mean 'HALL.bright'?"),
    ],
)  # fmt: skip
def test_a_fault_of_a_file_is_told_at_its_place(folder: pytest.Pytester, text: str, fault: str):
    write(folder, "replays/x.replay.yaml", text)

    done = folder.runpytest_inprocess()

    assert done.ret != 0
    assert fault in done.stdout.str()
    assert "Traceback" not in done.stdout.str()


@pytest.mark.slow
def test_a_faulty_machine_fails_its_replays_with_its_faults(folder: pytest.Pytester):
    write(folder, "machines/lamp.yaml", MACHINE.replace("target: END_OUT}", "target: END_OTU}"))
    write(folder, "replays/x.replay.yaml", GOOD)

    done = folder.runpytest_inprocess()

    done.assert_outcomes(failed=2)
    assert "Did you mean 'END_OUT'?" in done.stdout.str()


@pytest.mark.slow
def test_what_failed_before_is_never_collected(folder: pytest.Pytester):
    write(folder, "replays/good.replay.yaml", GOOD)
    file = write(folder, ".edgewise/failed/x.replay.yaml", WRONG)

    folder.runpytest_inprocess().assert_outcomes(passed=2)
    folder.runpytest_inprocess(str(file.parent)).assert_outcomes()
    named = folder.runpytest_inprocess("--collect-only", str(file))
    assert "it goes dark" not in named.stdout.str()


@pytest.mark.slow
def test_a_run_without_replays_imports_nothing_of_the_engine():
    looked = (
        "import sys, pathlib; from server.bench import plugin; "
        "assert plugin.pytest_collect_file(pathlib.Path('tests/test_x.py'), None) is None; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'runtime', 'click', 'litestar', 'yaml'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", looked], env=environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_our_own_suite_collects_no_replay_beside_its_tests(pytestconfig: pytest.Config):
    """What ships is played by a test, once; what stands below tests/ is a fixture of some test."""
    assert pytestconfig.getini("testpaths") == ["tests"]
    assert conftest.collect_ignore_glob == ["*.replay.yaml"]


@pytest.mark.slow
def test_a_failed_run_is_kept_until_it_passes(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """In the place and form of the command's; it is nobody's test."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    file = write(folder, "replays/dark.replay.yaml", WRONG)

    shown = folder.runpytest_inprocess().stdout.str()

    (kept,) = (folder.path / ".edgewise" / "failed").iterdir()
    assert f"play it again: edgewise replay .edgewise/failed/{kept.name}" in shown
    assert "# Failed: replays/dark.replay.yaml::it goes dark" in kept.read_text(encoding="utf-8")
    assert (folder.path / ".edgewise" / ".gitignore").read_text(encoding="utf-8") == "*\n"
    file.write_text(WRONG.replace("HALL.dark", "HALL.bright").replace("END_DARK", "HALL"), encoding="utf-8")
    folder.runpytest_inprocess().assert_outcomes(passed=1)
    assert not kept.exists()


def test_the_run_is_played_again_as_it_was_played(folder: pytest.Pytester):
    write(folder, "replays/dark.replay.yaml", WRONG)
    assert ".replay.yaml --mode strict" in folder.runpytest_inprocess("--replay-mode", "strict").stdout.str()


def test_a_verdict_needs_no_place_for_the_run(folder: pytest.Pytester):
    write(folder, "replays/dark.replay.yaml", WRONG)
    write(folder, "replays/good.replay.yaml", GOOD)
    write(folder, ".edgewise", "a file in its place")

    done = folder.runpytest_inprocess()

    done.assert_outcomes(failed=1, passed=2)
    assert "the run is not kept: " in done.stdout.str()
    assert 'expected: "HALL.dark"' in done.stdout.str()


# Letting replays expect what comes.


@pytest.mark.slow
def test_what_came_is_written_where_it_is_asked_for(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """And where CI runs the tests it is refused, and nothing is written."""
    file = write(folder, "replays/dark.replay.yaml", "# mine\n" + WRONG)
    good = write(folder, "replays/good.replay.yaml", GOOD)
    kept = good.read_bytes()

    monkeypatch.setenv("CI", "true")
    refused = folder.runpytest_inprocess("--replay-update")
    assert (refused.ret, "not for CI" in refused.stderr.str()) == (pytest.ExitCode.USAGE_ERROR, True)
    assert file.read_text(encoding="utf-8") == "# mine\n" + WRONG

    monkeypatch.delenv("CI")
    done = folder.runpytest_inprocess("--replay-update")
    done.assert_outcomes(passed=3)
    assert "dark.replay.yaml expects what came now" in done.stdout.str()
    expected = WRONG.replace("HALL.dark", '"HALL.bright"').replace("state: END_DARK", "state: HALL")
    assert file.read_text(encoding="utf-8") == "# mine\n" + expected
    assert good.read_bytes() == kept
    folder.runpytest_inprocess().assert_outcomes(passed=3)


def test_what_has_another_name_now_is_written_as_the_rest_and_what_is_sent_is_not(
    folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CI", raising=False)
    file = write(folder, "replays/dark.replay.yaml", WRONG.replace("HALL.dark", "HALL.dim"))
    sent = write(folder, "replays/sent.replay.yaml", WRONG.replace("burn", "brun"))
    before = sent.read_bytes()

    done = folder.runpytest_inprocess("--replay-update")

    done.assert_outcomes(passed=1, failed=1)
    assert "no option 'brun' in the machine. Did you mean 'burn'?" in done.stdout.str()
    expected = WRONG.replace("HALL.dark", '"HALL.bright"').replace("state: END_DARK", "state: HALL")
    assert (file.read_text(encoding="utf-8"), sent.read_bytes()) == (expected, before)
    write(folder, "replays/dark.replay.yaml", WRONG.replace("HALL.dark", "HALL.dim"))
    folder.runpytest_inprocess().assert_outcomes(failed=2)


def test_a_files_line_ends_stay_what_they_are(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    file = folder.path / "x.replay.yaml"
    file.write_bytes(WRONG.replace("\n", "\r\n").encode("utf-8-sig"))

    folder.runpytest_inprocess("--replay-update").assert_outcomes(passed=1)

    expected = WRONG.replace("HALL.dark", '"HALL.bright"').replace("state: END_DARK", "state: HALL")
    assert file.read_bytes() == expected.replace("\n", "\r\n").encode("utf-8-sig")


def test_what_can_not_be_updated_fails_and_says_why(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    file = write(folder, "replays/x.replay.yaml", WRONG.replace("cost: 4", "cost: 9"))
    before = file.read_bytes()

    done = folder.runpytest_inprocess("--replay-update")

    done.assert_outcomes(failed=1)
    assert "x.replay.yaml is not updated: " in done.stdout.str()
    assert file.read_bytes() == before


def test_processes_side_by_side_rewrite_nothing(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    file = write(folder, "replays/dark.replay.yaml", WRONG)
    refused = folder.runpytest_inprocess("-n2", "--replay-update")
    assert (refused.ret, file.read_text(encoding="utf-8")) == (pytest.ExitCode.USAGE_ERROR, WRONG)
    assert "add -n0" in refused.stderr.str()


@pytest.mark.slow
def test_a_project_that_has_not_our_tools_sees_no_warning(folder: pytest.Pytester):
    write(folder, "replays/good.replay.yaml", GOOD)
    folder.makeini("[pytest]\n")

    done = folder.runpytest_subprocess("-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error")

    done.assert_outcomes(passed=2)
    assert "Warning" not in done.stdout.str() + done.stderr.str()


@pytest.mark.slow
def test_files_are_played_by_processes_side_by_side(folder: pytest.Pytester):
    write(folder, "replays/good.replay.yaml", GOOD)
    folder.runpytest_inprocess("-n1").assert_outcomes(passed=2)
