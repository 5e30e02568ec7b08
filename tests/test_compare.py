"""`edgewise compare`: two versions of a machine play the same, or it is told where they part and why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from fake_llm import FakeLLM, refuses, says

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

LAMP = """
machine: lamp
title: {zh: 灯, en: The Lamp}
language: zh
initial: {event: INIT, target: HALL}
context:
  mood: {type: enum, of: [calm, tense], default: calm, show: true}
states:
  HALL:
    prompt: hall
    learn: {mood: {from: output.mood, otherwise: mood}}
    options:
      - {key: rub, text: {zh: 擦灯🪔, en: Rub it}, dice: {cost: 1d20}, edges: [
          {name: burnt, guard: dice.cost > 18, target: END_OUT}, {name: glows, target: HALL}]}
      - {key: leave, text: {zh: 走开, en: Leave}, target: END_OUT}
  END_OUT: {type: final}
"""
PROMPT = """---
inputs: [text]
outputs: {scene: scene, mood: "str?"}
---
system:
你是说书人。
user:
玩家说：{{ text }}
"""
REPLAY = {"replay": "灯亮了", "given": {"machine": "lamp", "language": "zh"}}
STEPS: list[Mapping[str, Any]] = [{"send": "INIT"}, {"choose": "rub", "dice": {"cost": 9}}, {"choose": "leave"}]
KEY = "sk-1234567890"
OPTIONS = [{"key": "rub", "text": "擦灯"}, {"key": "leave", "text": "走开"}]
CALM = {"scene": "灯影静静的。", "mood": "calm", "options": OPTIONS}
TENSE = {**CALM, "scene": "灯影晃了晃。", "mood": "tense"}


def lamp(folder: Path, machine: str = LAMP, prompt: str = PROMPT, steps: list[Any] | None = None) -> Path:
    """A project with the lamp in it, and a replay of it unless `steps` is []."""
    files = {"machines/lamp.yaml": machine, "prompts/lamp/hall.prompty": prompt}
    if steps != []:
        replay = {**REPLAY, "steps": steps or STEPS}
        files["replays/lamp.replay.yaml"] = yaml.safe_dump(replay, allow_unicode=True, sort_keys=False)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def played(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner(env=dict(env or {})).invoke(compare, ["lamp", "--project", str(folder), *words])


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


# Prompts.


def test_another_prompt_is_told_though_the_words_are_equal(tmp_path: Path):
    here = lamp(tmp_path / "here")
    there = lamp(tmp_path / "there", prompt=PROMPT.replace("说书人", "守灯人"))

    done = played(here, "--against", str(there))
    told = json.loads(played(here, "--against", str(there), "--format", "json", "--strict").stdout)

    assert done.exit_code == 0, done.output
    assert "prompts part: prompts/lamp/hall.prompty" in done.stdout
    assert "-你是说书人。" in done.stdout
    assert "+你是守灯人。" in done.stdout
    # The same edit is shown once, then named.
    assert done.stdout.count("-你是说书人。") == 1
    assert "prompts part as above: prompts/lamp/hall.prompty, turn 2" in done.stdout
    assert (told["words"], told["parted"], told["prompts"]) == (0, 0, 2)
    assert played(here, "--against", str(there), "--strict").exit_code == 1


# Two models.


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as llm:
        yield llm


def told_by(llm: FakeLLM, folder: Path, *words: str) -> Result:
    """Compare what two models of the project's list tell, a path at a time."""
    providers = [
        {"profile": "other", "base_url": llm.url, "model": model, "response_format": "json_object"}
        for model in ("one", "two")
    ]
    (folder / "edgewise.yaml").write_text(yaml.safe_dump({"providers": providers}), encoding="utf-8")
    return played(folder, "-j", "1", *words, env={"EDGEWISE_OPENAI_API_KEY": KEY})


def test_two_models_are_asked_the_same_and_their_words_part_softly(tmp_path: Path, llm: FakeLLM):
    llm.will(*[says(CALM)] * 2, *[says({**CALM, "scene": "灯影👻晃晃。"})] * 2)

    done = told_by(llm, lamp(tmp_path, steps=STEPS[:2]), "--model", "one", "--with-model", "two")

    assert done.exit_code == 0, done.output
    assert "scene: 灯影" in done.stdout
    asked = [request.body for request in llm.requests]
    assert [each["model"] for each in asked] == ["one", "one", "two", "two"]
    assert asked[0]["messages"][0] == asked[2]["messages"][0]
    assert "0 part in state" in done.stdout
    assert KEY not in done.output


def test_what_one_model_teaches_otherwise_parts_with_what_it_told(tmp_path: Path, llm: FakeLLM):
    llm.will(*[says(CALM)] * 2, *[says(TENSE, model="two")] * 2)

    done = told_by(llm, lamp(tmp_path, steps=STEPS[:2]), "--model", "one", "--with-model", "two")

    assert done.exit_code == 1, done.output
    assert "turn 1 (INIT)" in done.stdout
    assert "PARTS at context.mood: calm ≠ tense" in done.stdout
    assert "there:   learn: mood from output.mood" in done.stdout
    assert "there:   told by two: {mood: tense}" in done.stdout
    # The words of the turn in which the rules part are shown beside it.
    assert "scene: 灯影[-静静的-]{+晃了晃+}。" in done.stdout


def test_a_model_that_fails_is_said_to_have_failed(tmp_path: Path, llm: FakeLLM):
    llm.will(refuses(401, {"message": f"{KEY} is no key"}))

    done = told_by(llm, lamp(tmp_path), "--narrator", "offline", "--with-narrator", "openai", "--format", "json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["parted"], told["words"]) == (0, 0, 0)
    notes = [note for turn in told["differing"][0]["turns"] for note in turn["notes"]]
    assert len(notes) == 3
    assert all(note.startswith("there: told offline, for the model failed: the turn") for note in notes)
    assert KEY not in done.output


def test_a_key_that_a_model_says_is_not_printed_nor_written(tmp_path: Path, llm: FakeLLM):
    llm.will(says({**CALM, "scene": f"钥匙是 {KEY}。"}))
    output = tmp_path / "report.html"

    done = told_by(llm, lamp(tmp_path), "--with-narrator", "openai", "--output", str(output))

    assert done.exit_code == 2
    assert "EDGEWISE_OPENAI_API_KEY" in done.stderr
    assert KEY not in done.output
    assert not output.exists()


def test_recorded_words_are_compared_with_what_is_told_offline(tmp_path: Path):
    steps = [{"send": "INIT", "narrate": TENSE}, *STEPS[1:]]

    done = played(lamp(tmp_path, steps=steps), "--with-narrator", "offline")

    assert done.exit_code == 1
    assert "PARTS at context.mood: tense ≠ calm" in done.stdout
    assert "here:   told by cassette: {mood: tense}" in done.stdout
    assert "there:   told by offline: nothing to learn from" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--narrator", "offline", "--model", "x", "--against", "."], "--model x is asked by --narrator openai"),
        (["--with-narrator", "offline", "--with-model", "x"], "--with-model x is asked by --with-narrator openai"),
        (["--narrator", "offline", "--with-narrator", "offline"], "both sides are the same"),
        (["--with-narrator", "opena"], "'opena' is not one of"),
    ],
)
def test_tellers_that_do_not_fit_are_wrong_use(tmp_path: Path, words: list[str], told: str):
    done = played(lamp(tmp_path), *words, env={"COLUMNS": "200"})

    assert done.exit_code == 2
    assert told in done.stderr


# Dice, and edges that one side alone has.


@pytest.mark.parametrize(
    ("there", "specs", "becoming"),
    [
        (LAMP.replace("1d20", "1d8"), "1d20 ≠ 1d8", "changed"),
        (LAMP.replace("dice: {cost: 1d20}, ", "").replace("dice.cost > 18", "mood == 'tense'"), "1d20 ≠ —", "removed"),
    ],
)
def test_a_fixed_die_that_the_other_side_does_not_roll_parts_at_its_place(
    tmp_path: Path, there: str, specs: str, becoming: str
):
    done = played(lamp(tmp_path / "here"), "--against", str(lamp(tmp_path / "there", there)))

    assert done.exit_code == 1
    plain = done.stdout.replace('"', "")
    assert f"PARTS at dice.cost: {specs}" in plain
    assert f"here: the die was {becoming}: machines/lamp.yaml:13 rolls cost 1d20." in plain
    assert "there: machines/lamp.yaml:13" in plain


def test_a_die_that_was_added_is_found_by_the_other_versions_plays(tmp_path: Path):
    without = LAMP.replace("dice: {cost: 1d20}, ", "").replace("dice.cost > 18", "mood == 'tense'")
    here, there = lamp(tmp_path / "here", without, steps=[]), lamp(tmp_path / "there", LAMP, steps=[])

    done = played(here, "--against", str(there))

    assert done.exit_code == 1
    assert "found there" in done.stdout
    assert "PARTS at dice.cost: — ≠ 1d20" in done.stdout.replace('"', "")
    assert "there:   the other side doesn't: machines/lamp.yaml:13 rolls cost 1d20." in done.stdout
    assert "here: the die was added: machines/lamp.yaml:13 rolls no cost." in done.stdout


def test_an_edge_that_only_the_other_version_has_is_played_or_named(tmp_path: Path):
    there = LAMP.replace("    options:\n", "    on: {SHOUT: END_OUT}\n    options:\n", 1).replace(
        "states:\n", "events: {SHOUT: {}}\nstates:\n", 1
    )
    covered = played(lamp(tmp_path / "a", steps=[]), "--against", str(lamp(tmp_path / "b", there, steps=[])))
    other = lamp(tmp_path / "d", there)
    known = json.loads(played(lamp(tmp_path / "c"), "--against", str(other), "--format", "json").stdout)

    assert covered.exit_code == 1
    assert "HALL.SHOUT" not in covered.stdout.partition("edges that no path walked")[2]
    missed = {each["edge"]: each for each in known["unwalked"]}
    assert missed["HALL.SHOUT>END_OUT"] == {
        "edge": "HALL.SHOUT>END_OUT", "side": "there", "where": "machines/lamp.yaml:13", "is_only": True,
    }  # fmt: skip
    assert missed["HALL.burnt"]["side"] == "both"


# Reports.


class Seen(HTMLParser):
    """The tags of a page, and the text of its `ins`."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def reported(tmp_path: Path, suffix: str) -> str:
    """The report on an option that says something nasty, and on a prompt that does."""
    nasty = "<script>*"
    here = lamp(tmp_path / "here")
    there = lamp(tmp_path / "there", LAMP.replace("走开", nasty), PROMPT.replace("说书人", nasty))
    output = tmp_path / f"report{suffix}"
    assert played(here, "--against", str(there), "--output", str(output)).exit_code == 0
    return output.read_text(encoding="utf-8")


def test_a_page_is_in_its_languages_and_runs_nothing_of_what_it_tells(tmp_path: Path):
    text = reported(tmp_path, ".html")

    seen = Seen()
    seen.feed(text)
    assert ("html", {"lang": "en"}) in seen.tags
    assert ("span", {"lang": "zh"}) in seen.tags
    assert ("pre", {"lang": "zh"}) in seen.tags
    assert "script" not in {tag for tag, _ in seen.tags}
    assert "<script>*" in seen.text
    assert "prefers-color-scheme:dark" in text
    assert "color-scheme:light dark" in text


def test_markdown_takes_nothing_for_its_own(tmp_path: Path):
    text = reported(tmp_path, ".md")

    assert text.startswith("# Compared: lamp\n")
    assert "## replays/lamp.replay.yaml::灯亮了" in text
    assert "<del>走开</del><ins>&lt;script&gt;\\*</ins>" in text
    assert "<script>" not in "".join(line for line in text.splitlines() if not line.startswith("      "))
    assert "      +你是<script>*。" in text


@pytest.mark.slow
def test_several_processes_tell_the_same_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.bench.comparing._WORTH_A_PROCESS", 1)
    here, there = lamp(tmp_path / "a"), lamp(tmp_path / "b", LAMP.replace("> 18", "> 10"))
    words = ["--against", str(there), "--random", "6", "--seed", "a"]

    one, more = (played(here, *words, "-j", jobs) for jobs in ("1", "2"))

    assert one.exit_code == more.exit_code == 1
    assert one.stdout == more.stdout


def test_colours_are_for_terminals_alone(tmp_path: Path):
    here, there = lamp(tmp_path / "a"), lamp(tmp_path / "b", LAMP.replace("走开", "走掉"))
    words = ["lamp", "--project", str(here), "--against", str(there)]

    plain, coloured = (CliRunner().invoke(compare, words, color=color).stdout for color in (False, True))

    assert "走[-开-]{+掉+}" in plain
    assert "\x1b[" not in plain
    assert "\x1b[31m[-开-]" in coloured
