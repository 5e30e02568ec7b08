"""The commands explore and paths as their users run them: what they tell and keep, and how it is played again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from command import edgewise

GOOD, FINDINGS, WRONG_USE = 0, 1, 2
LAMP = """
machine: lighthouse
title: {zh: 灯塔, en: The lighthouse}
language: zh
initial: HALL
context:
  oil: {type: int, default: 2, min: 0, max: 9, label: {zh: 灯油, en: Oil}, show: true}
states:
  HALL:
    options:
      - {key: climb, text: {zh: 上楼🏮, en: Climb}, target: TOP, assign: {oil: oil - 1}}
      - {key: leave, text: {zh: 离开, en: Leave}, target: OUT}
  TOP:
    options:
      - {key: down, text: {zh: 下楼, en: Down}, target: HALL}
      - {key: pour, text: {zh: 倒油, en: Pour}, target: TOP, assign: {oil: 9 / oil}}
  OUT: {type: final}
"""
SOUND = LAMP.replace(", assign: {oil: 9 / oil}", "")


def project(folder: Path, machine: str) -> Path:
    (folder / "machines").mkdir(parents=True)
    (folder / "machines" / "lighthouse.yaml").write_text(machine.lstrip(), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_all_is_told_of_a_machine_without_a_fault(tmp_path: Path):
    done = edgewise("explore", cwd=project(tmp_path, SOUND))

    assert done.returncode == GOOD
    assert "edges    5 of 5  100%" in done.stdout
    assert "every session was seen that the values tried can lead to" in done.stdout
    assert not (tmp_path / ".edgewise").exists()


@pytest.mark.slow
def test_a_fault_is_told_with_its_path_and_one_command_that_plays_it_again(tmp_path: Path):
    folder = project(tmp_path, LAMP)

    done = edgewise("explore", "lighthouse", cwd=folder)

    assert done.returncode == FINDINGS
    told = done.stdout.splitlines()
    at = next(number for number, line in enumerate(told) if line.startswith("  fault: machines/lighthouse.yaml:15"))
    assert told[at + 1].strip().startswith("5 turns: HALL → climb → down → climb → pour")
    command = told[at + 2].strip().removeprefix("play it again: edgewise ")
    again = edgewise(*shlex.split(command), cwd=folder)
    assert again.returncode == GOOD, again.stdout
    assert "1 passed" in again.stdout
    kept = next((folder / ".edgewise" / "failed").glob("*.replay.yaml")).read_text(encoding="utf-8")
    assert "error: machine_fault" in kept
    assert (folder / ".edgewise" / ".gitignore").read_text(encoding="utf-8") == "*\n"


@pytest.mark.slow
def test_json_says_the_same(tmp_path: Path):
    done = edgewise("explore", "--format", "json", cwd=project(tmp_path, LAMP))

    told = json.loads(done.stdout)["lighthouse"]
    assert told["covered"]["edges"] == {"hit": 5, "total": 5}
    (finding,) = told["findings"]
    assert (finding["kind"], finding["where"], finding["turns"]) == ("fault", "machines/lighthouse.yaml:15", 5)
    assert finding["command"] == f"edgewise replay {finding['replay']}"
    assert told["is_whole"] is True


@pytest.mark.slow
def test_what_a_small_budget_leaves_is_told_and_counts(tmp_path: Path):
    done = edgewise("explore", "--budget", "3", cwd=project(tmp_path, SOUND))

    assert done.returncode == FINDINGS
    assert "not found within 3 turns" in done.stdout
    assert "not every session was seen" in done.stdout


@pytest.mark.slow
def test_plays_at_random_are_counted_with_bars_and_their_seed_is_told(tmp_path: Path):
    folder = project(tmp_path, LAMP)

    one = edgewise("explore", "--random", "60", "--seed", "种子", "--avoid-used", "-j", "1", cwd=folder)
    two = edgewise("explore", "--random", "60", "--seed", "种子", "--avoid-used", "-j", "2", cwd=folder)

    assert one.stdout == two.stdout
    assert "60 plays from seed 种子" in one.stdout
    assert any("OUT" in line and "█" in line for line in one.stdout.splitlines())
    assert "seed 种子:" in one.stdout
    assert one.returncode == FINDINGS


@pytest.mark.slow
def test_a_shrunk_random_finding_plays_again(tmp_path: Path):
    folder = project(tmp_path, LAMP)

    told = json.loads(edgewise("explore", "--random", "60", "-j", "1", "--format", "json", cwd=folder).stdout)[
        "lighthouse"
    ]

    (finding,) = (each for each in told["findings"] if each["kind"] == "fault")
    assert finding["seed"].startswith("explore:")
    assert finding["turns"] == 5
    again = edgewise(*shlex.split(finding["command"].removeprefix("edgewise ")), cwd=folder)
    assert again.returncode == GOOD, again.stdout
    assert sum(told["endings"].values()) == told["plays"] == 60


@pytest.mark.slow
def test_sentences_that_are_told_again_are_notes_and_no_fault(tmp_path: Path):
    folder = project(tmp_path, SOUND)

    done = edgewise("explore", "--random", "20", "--tells", "-j", "1", cwd=folder)
    told = json.loads(
        edgewise("explore", "--random", "20", "--tells", "-j", "1", "--format", "json", cwd=folder).stdout
    )["lighthouse"]

    assert done.returncode == GOOD, done.stdout
    assert "  note: machines/lighthouse.yaml: told again in" in done.stdout
    assert told["findings"] == []
    assert told["notes"][0]["what"].startswith("told again in")
    assert not (tmp_path / ".edgewise").exists()


@pytest.mark.slow
def test_attacks_are_counted(tmp_path: Path):
    done = edgewise("explore", "--hostile", "--format", "json", cwd=project(tmp_path, SOUND))

    assert done.returncode == GOOD
    told = json.loads(done.stdout)["lighthouse"]
    assert told["tried"]["a race"] > 0
    assert told["findings"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explore", "lighthose"), "Did you mean 'lighthouse'"),
        (("explore", "--random", "5", "--hostile"), "choose one"),
        (("explore", "--quick", "--hostile"), "choose one"),
        (("explore", "--tells"), "add --random N"),
        (("explore", "--random", "5", "--language", "fr"), "no language 'fr'"),
        (("paths", "lighthouse", "--cover", "words"), "words"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_written(tmp_path: Path, words: tuple[str, ...], said: str):
    done = edgewise(*words, cwd=project(tmp_path, SOUND))

    assert done.returncode == WRONG_USE
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / ".edgewise").exists()


@pytest.mark.slow
def test_paths_are_written_and_pass(tmp_path: Path):
    folder = project(tmp_path, SOUND)

    done = edgewise("paths", "lighthouse", "--cover", "guards", "--write", "replays/lighthouse", cwd=folder)

    assert done.returncode == GOOD
    files = sorted((folder / "replays" / "lighthouse").iterdir())
    assert f"lighthouse: {len(files)} plays" in done.stdout
    assert all(file.name.startswith("guards-") for file in files)
    again = edgewise("replay", cwd=folder)
    assert again.returncode == GOOD, again.stdout
    assert f"{len(files)} passed" in again.stdout


@pytest.mark.slow
def test_a_play_that_breaks_a_property_is_told_and_the_others_are_written(tmp_path: Path):
    broken = SOUND + "properties: {thrifty: {always: oil > 1}}\n"
    folder = project(tmp_path, broken)

    done = edgewise("paths", "lighthouse", "--write", "replays", "--format", "json", cwd=folder)

    assert done.returncode == FINDINGS, done.stderr
    told = json.loads(done.stdout)
    at = broken.strip().count("\n") + 1
    assert {(each["kind"], each["where"].split(":")[1]) for each in told["findings"]} == {("property", str(at))}
    assert all("thrifty: always: oil > 1" in each["what"] for each in told["findings"])
    sound = [each["file"] for each in told["plays"] if each["file"]]
    assert len(told["plays"]) == len(told["findings"]) + len(sound)
    assert sorted(str(file.relative_to(folder)) for file in (folder / "replays").iterdir()) == sorted(sound)
    again = edgewise(*shlex.split(told["findings"][0]["command"].removeprefix("edgewise ")), cwd=folder)
    assert again.returncode == FINDINGS
    assert "properties.thrifty" in again.stdout


@pytest.mark.slow
def test_a_file_that_is_another_play_is_not_lost(tmp_path: Path):
    folder = project(tmp_path, SOUND)
    edgewise("paths", "lighthouse", "--write", "replays", cwd=folder)
    first, *others = sorted((folder / "replays").iterdir())
    first.write_text("replay: 我的\n", encoding="utf-8")
    for other in others:
        other.unlink()

    done = edgewise("paths", "lighthouse", "--write", "replays", cwd=folder)

    assert done.returncode == WRONG_USE
    assert first.read_text(encoding="utf-8") == "replay: 我的\n"
    assert list(first.parent.iterdir()) == [first]
