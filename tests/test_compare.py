"""`edgewise compare`: two versions of a machine play the same, or it is told where they part and why."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runtime.bench.spans import spans_of
from server.bench.compare_command import compare

HALL = """
machine: hall
title: {zh: 门厅, en: The Hall}
language: zh
initial: {event: INIT, target: HALL}
context: {hp: {type: int, default: 3, min: 0, show: true}}
states:
  HALL:
    options:
      - {key: hit, text: {zh: 捶墙👻, en: Hit}, target: HALL, assign: {hp: hp - 1}, guard: hp > 1}
      - {key: leave, text: {zh: 离开, en: Leave}, target: END_OUT}
  END_OUT: {type: final}
"""


def project(folder: Path, text: str) -> Path:
    (folder / "machines").mkdir(parents=True)
    (folder / "machines" / "hall.yaml").write_text(text, encoding="utf-8")
    return folder


def ran(tmp_path: Path, there: str, *words: str) -> Any:
    here, other = project(tmp_path / "here", HALL), project(tmp_path / "there", there)
    return CliRunner().invoke(compare, ["hall", "--project", str(here), "--against", str(other), *words])


def test_two_equal_versions_part_nowhere(tmp_path: Path):
    done = ran(tmp_path, HALL, "--strict", "--format", "json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["parted"], told["words"], told["differing"]) == (0, 0, 0, [])
    assert told["paths"] >= 1


@pytest.mark.parametrize("words", [(), ("--random", "20", "--seed", "a")])
def test_a_changed_guard_is_found_with_its_path(tmp_path: Path, words: tuple[str, ...]):
    done = ran(tmp_path, HALL.replace("guard: hp > 1", "guard: hp > 2"), "--format", "json", *words)

    assert done.exit_code == 1
    turns = [turn for path in json.loads(done.stdout)["differing"] for turn in path["turns"] if turn["parting"]]
    assert turns
    assert all("hp > 2" in turn["parting"]["why_there"] for turn in turns)


def test_changed_words_are_soft_and_fail_only_where_that_is_asked(tmp_path: Path):
    there = HALL.replace("捶墙👻", "踢墙👻")
    output = tmp_path / "report.html"

    done = ran(tmp_path, there, "--output", str(output))

    assert done.exit_code == 0
    assert "[-捶-]{+踢+}墙👻" in done.stdout
    assert "<del>捶</del><ins>踢</ins>墙👻" in output.read_text(encoding="utf-8")
    assert ran(tmp_path / "again", there, "--strict").exit_code == 1


def test_an_option_that_is_gone_parts(tmp_path: Path):
    gone = "".join(line for line in HALL.splitlines(keepends=True) if "key: hit" not in line)

    done = ran(tmp_path, gone)

    assert done.exit_code == 1
    assert "PARTS at options: [hit, leave] ≠ [leave]" in done.stdout


def test_a_revision_is_compared_with_what_stands_in_the_folder(tmp_path: Path):
    here = project(tmp_path, HALL)
    git = ["git", "-C", str(here), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    (here / "machines" / "hall.yaml").write_text(HALL.replace("hp - 1", "hp - 2"), encoding="utf-8")

    done = CliRunner().invoke(compare, ["hall", "--project", str(here), "--against", "HEAD"])

    assert done.exit_code == 1
    assert "PARTS at context.hp: 1 ≠ 2" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to compare with"),
        (["--against", "no-such-revision"], "neither a folder nor a revision"),
        (["--against", "--output=x"], "neither a folder nor a revision"),
        (["--against", ".", "--output", "report.txt"], ".html or .md"),
    ],
)
def test_wrong_use_is_told(tmp_path: Path, words: list[str], told: str):
    here = project(tmp_path, HALL)

    done = CliRunner().invoke(compare, ["hall", "--project", str(here), *words], env={"COLUMNS": "200"})

    assert done.exit_code == 2
    assert told in done.stderr


def test_a_joined_emoji_is_one_sign():
    spans = spans_of("门厅👨‍👩‍👧，灯灭了。", "厨房👨‍👩‍👧，灯灭了！")

    assert spans == (("-", "门厅"), ("+", "厨房"), ("=", "👨‍👩‍👧，灯灭了"), ("-", "。"), ("+", "！"))
