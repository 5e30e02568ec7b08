"""The plays that stand beside the default machine are what it tells today, byte for byte."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from command import edgewise

ROOT = Path(__file__).resolve().parent.parent
PLAYS = sorted((ROOT / "machines" / "haunted_house.plays").glob("*.md"))
AGAIN = re.compile(r"`edgewise play (\w+) --seed (\S+) --language (\w+)`")
TURN = re.compile(r"^## \d+(?: · (.*))?$", re.MULTILINE)
OPTION = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE)


def choices(transcript: str) -> list[str]:
    """The numbers that were chosen: each turn's heading is an option of the turn before."""
    headings = list(TURN.finditer(transcript))
    chosen = []
    for before, after in itertools.pairwise(headings):
        offered = {text: number for number, text in OPTION.findall(transcript[before.end() : after.start()])}
        chosen.append(offered[after.group(1)])
    return chosen


def test_there_are_ten_in_both_languages():
    assert sorted(play.name[:2] for play in PLAYS) == ["en"] * 5 + ["zh"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.stem)
def test_a_play_is_told_again_as_it_stands(play: Path, tmp_path: Path):
    """Where this fails the story has changed: play it again with `--transcript` and read it."""
    stands = play.read_text(encoding="utf-8")
    machine, seed, language = AGAIN.search(stands).groups()
    again = tmp_path / play.name

    typed = "".join(f"{number}\n" for number in choices(stands))
    ran = edgewise("play", machine, "--seed", seed, "--language", language, "--transcript", str(again), typed=typed)

    assert ran.returncode == 0, ran.stderr
    assert again.read_text(encoding="utf-8") == stands
