"""How closely a replay holds a machine to what was recorded: its prompts, its rules, or what a model may tell."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_llm import FakeLLM, refuses, says
from msgspec.structs import replace
from test_record import MACHINE, PROMPT, TOLD, Stage, project
from test_sessions_cli import whole

from runtime import loader
from runtime.bench.again import RecordedAgain, recorded_again
from runtime.bench.modes import Mode
from runtime.bench.player import Result as Played
from runtime.bench.player import played
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays
from runtime.errors import NarratorUnavailable
from runtime.machine import Machine
from runtime.narrators.scripted import Scripted

OTHER = PROMPT.replace("灯油还有 {{ oil }}。", "灯油还剩 {{ oil }} 滴。")
"""The prompt, edited: every turn of the machine is told by it."""
LATER = PROMPT.replace("{{ text }}", "{{ text }}{% if oil < 9 %}（灯暗了）{% endif %}")
"""The prompt, edited so that it is another only once the lamp has burned."""
OPTIONS = [{"key": "rub", "text": "擦灯🪔"}, {"key": "leave", "text": "走开"}]
ANEW = {"scene": "灯火一跳。", "mood": "calm", "options": OPTIONS}


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recording of three turns that a model told, as its file."""
    stage = Stage(tmp_path_factory.mktemp("recorded"), [TOLD] * 9)
    stage.do("INIT", ("你好",), ":rub")
    stage.recorded()
    return stage.file.read_text(encoding="utf-8")


def lamp(machine: str = MACHINE, prompt: str = PROMPT) -> Machine:
    return loader.load({"machines/lamp.yaml": machine, "prompts/lamp/hall.prompty": prompt})


def replay_of(text: str) -> Replay:
    (replay,), faults = read_replays("s1.replay.yaml", text)
    assert faults == []
    return replay


def play(text: str, machine: Machine, mode: Mode = "structure", answers: list[Any] | None = None) -> Played:
    narrator = None if answers is None else Scripted(answers, fill=True)
    return asyncio.run(played(replay_of(text), machine, narrator, mode))


# strict.


@pytest.mark.slow
def test_a_recording_is_strictly_itself(kept: str):
    assert kept.count("prompt: |") == 3
    assert play(kept, lamp(), "strict").verdict == "passed"


def test_a_changed_prompt_is_shown_as_a_change_of_lines(kept: str):
    result = play(kept, lamp(prompt=LATER), "strict")

    found = result.difference
    assert found is not None
    assert (found.step, found.field) == (3, "prompt")
    lines = found.why.splitlines()
    assert [line for line in lines if line.startswith(("-", "+")) and line[:3] not in ("---", "+++")] == [
        "-玩家说：", "+玩家说：（灯暗了）",
    ]  # fmt: skip
    assert "ufdd" not in repr(found.why)


def test_a_changed_prompt_is_nothing_to_the_rules(kept: str):
    assert play(kept, lamp(prompt=OTHER)).verdict == "passed"


def test_a_replay_without_prompts_says_that_none_was_compared(kept: str):
    written_by_hand = "replay: mine\ngiven: {machine: lamp}\nsteps: [{send: INIT}]\n"
    result = play(written_by_hand, lamp(), "strict")
    assert (result.verdict, result.reason) == ("passed", "no prompt is recorded: only the structure was looked at")
    assert play(kept, lamp(), "strict").reason == ""


# rerun.


def test_told_anew_it_may_say_and_teach_what_it_will(kept: str):
    assert play(kept, lamp(), "rerun", [ANEW] * 3).verdict == "passed"


def test_told_anew_against_the_contract_it_fails(kept: str):
    result = play(kept, lamp(), "rerun", [ANEW, {"mood": "tense", "options": OPTIONS}, ANEW])

    assert result.difference is not None
    assert (result.difference.step, result.difference.field) == (2, "meta.fallback")
    assert "scene" in str(result.difference.got)


def test_told_anew_the_rules_hold_all_the_same(kept: str):
    result = play(kept, lamp(MACHINE.replace("oil - dice.cost", "oil")), "rerun", [ANEW] * 3)
    assert result.difference is not None
    assert result.difference.field == "context.oil"


def test_where_a_model_teaches_otherwise_another_way_may_open(kept: str):
    """From there on only the contract is looked at, and that is said."""
    calm = MACHINE.replace("- {key: rub, text", "- {key: rub, guard: mood == tense, text")

    other = play(kept, lamp(calm), "rerun", [ANEW] * 3)
    same = play(kept, lamp(calm), "rerun", [{**ANEW, "mood": "tense"}] * 3)

    assert (other.verdict, same.verdict, same.reason) == ("passed", "passed", "")
    assert other.reason == "taught otherwise in step 1: from there only the contract was looked at"
    assert other.came[2].error == "option_not_offered"


# Recorded again.


def again(text: str, machine: Machine, answers: list[Any]) -> tuple[RecordedAgain, Scripted]:
    narrator = Scripted(answers, fill=True)
    return asyncio.run(recorded_again(replay_of(text), machine, narrator)), narrator


def test_only_turns_whose_prompt_changed_are_asked_again(kept: str):
    came, narrator = again(kept, lamp(prompt=LATER), [ANEW])

    assert [each.step for each in came.retold] == [3]
    assert len(narrator.seen) == 1
    assert [step.narrate for step in came.replay.steps] == [TOLD, TOLD, ANEW]
    assert "（灯暗了）" in (came.replay.steps[2].prompt or "")
    assert came.replay.steps[:2] == replay_of(kept).steps[:2]


def test_what_is_told_otherwise_changes_the_prompts_after_it(kept: str):
    """They hold what was told before."""
    came, narrator = again(kept, lamp(prompt=OTHER), [ANEW] * 3)
    assert ([each.step for each in came.retold], len(narrator.seen)) == ([1, 2, 3], 3)


def test_where_no_prompt_changed_nobody_is_asked(kept: str):
    came, narrator = again(kept, lamp(), [])
    assert (came.replay, came.retold, narrator.seen) == (replay_of(kept), (), [])


def test_a_step_without_a_prompt_stays_as_it_is(kept: str):
    """Whether a model told it or nobody did: what it is told by now was never asked for."""
    recorded = replay_of(kept)
    first, second, third = recorded.steps
    steps = (replace(first, prompt=None), replace(second, prompt=None, narrate=None), third)
    narrator = Scripted([ANEW] * 3, fill=True)

    came = asyncio.run(recorded_again(replace(recorded, steps=steps), lamp(prompt=OTHER), narrator))

    assert [each.step for each in came.retold] == [3]
    assert came.replay.steps[:2] == steps[:2]
    assert len(narrator.seen) == 1


@pytest.mark.parametrize(
    ("machine", "answers", "field"),
    [
        (lamp(prompt=LATER), [NarratorUnavailable("the provider is out", "Wait.")], "narrate"),
        (lamp(MACHINE.replace("key: rub", "key: scrub")), [ANEW] * 3, "error"),
    ],
    ids=["no answer", "no way"],
)
def test_what_can_not_be_told_to_its_end_stays_as_it_was(kept: str, machine: Machine, answers: list[Any], field: str):
    came, _ = again(kept, machine, answers)

    assert came.replay == replay_of(kept)
    assert came.stopped is not None
    assert came.stopped.difference is not None
    assert (came.stopped.difference.step, came.stopped.difference.field) == (3, field)


# The command.


class Desk:
    """A project with a recording, a fake provider, and the command."""

    def __init__(self, folder: Path, text: str, url: str) -> None:
        self.folder, self._url = folder, url
        self.file = folder / "replays" / "lamp" / "s1.replay.yaml"
        self.file.parent.mkdir(parents=True)
        self.file.write_text(text, encoding="utf-8")

    def run(self, *words: str, narrator: str = "openai") -> Result:
        told = {"EDGEWISE_NARRATOR": narrator, "EDGEWISE_OPENAI_BASE_URL": self._url, "EDGEWISE_OPENAI_MODEL": "teller"}
        key = {"EDGEWISE_OPENAI_API_KEY": "sk-1234567890"}
        return CliRunner(env={**told, **key}).invoke(whole, [*words, "--project", str(self.folder)])


@pytest.fixture
def llm() -> Iterator[FakeLLM]:
    with FakeLLM() as llm:
        yield llm


@pytest.fixture
def desk(tmp_path: Path, kept: str, llm: FakeLLM) -> Desk:
    return Desk(project(tmp_path), kept, llm.url)


@pytest.mark.slow
def test_a_recording_is_brought_up_to_date_by_one_command(desk: Desk, llm: FakeLLM):
    project(desk.folder, prompt=LATER)
    assert desk.run("replay", str(desk.file), "--mode", "strict").exit_code == 1
    llm.will(says(ANEW))

    done = desk.run("record", "--again", str(desk.file))

    assert done.exit_code == 0, done.output
    assert f"{desk.file}: 1 turns told anew, 2 kept as they were recorded" in done.stdout
    assert "step 3  fake-1  json_object  " in done.stdout
    text = desk.file.read_text(encoding="utf-8")
    assert "灯火一跳。" in text
    assert "sk-1234567890" not in text
    assert replay_of(text).steps[2].expect.context["mood"] == "calm"
    assert desk.run("replay", str(desk.file), "--mode", "strict").exit_code == 0


def test_a_recording_that_is_up_to_date_is_left_alone(desk: Desk):
    before = desk.file.read_bytes()
    done = desk.run("record", "--again", str(desk.file), "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)["retold"]) == (0, [])
    assert desk.file.read_bytes() == before


def test_a_comment_is_lost_only_where_that_is_meant(desk: Desk, llm: FakeLLM):
    project(desk.folder, prompt=LATER)
    text = desk.file.read_text(encoding="utf-8").replace("steps:\n", "steps:   # 灯暗之前\n")
    desk.file.write_text(text, encoding="utf-8")

    refused = desk.run("record", "--again", str(desk.file))

    assert (refused.exit_code, desk.file.read_text(encoding="utf-8")) == (2, text)
    assert "# 灯暗之前" in refused.stderr
    llm.will(says(ANEW))
    assert desk.run("record", "--again", str(desk.file), "--force").exit_code == 0
    assert "灯火一跳。" in desk.file.read_text(encoding="utf-8")


def test_an_outage_leaves_the_recording_as_it_was(desk: Desk, llm: FakeLLM):
    project(desk.folder, prompt=LATER)
    llm.will(*[refuses(401)] * 9)
    before = desk.file.read_bytes()

    done = desk.run("record", "--again", str(desk.file))

    assert (done.exit_code, desk.file.read_bytes()) == (1, before)
    assert "step 3 (choose rub): narrate" in done.stdout
    assert "sk-1234567890" not in done.output


@pytest.mark.parametrize(
    ("words", "narrator", "why"),
    [
        (["record"], "openai", "name a session, or a file with --again"),
        (["record", "s1", "--again", "FILE"], "openai", "name a session, or a file with --again"),
        (["record", "--again", "FILE"], "offline", "there is no model to ask again"),
        (["replay", "FILE", "--mode", "rerun"], "offline", "there is no model to ask again"),
    ],
)
def test_what_needs_a_model_or_a_name_says_so(desk: Desk, words: list[str], narrator: str, why: str):
    before = desk.file.read_bytes()
    done = desk.run(*[str(desk.file) if word == "FILE" else word for word in words], narrator=narrator)
    assert (done.exit_code, desk.file.read_bytes()) == (2, before)
    assert why in " ".join(done.stderr.replace("│", "").split())


def test_a_file_of_several_tests_is_no_recording(desk: Desk):
    text = desk.file.read_text(encoding="utf-8").replace("steps:\n", "each: {seed: [a, b]}\nsteps:\n")
    desk.file.write_text(text, encoding="utf-8")
    done = desk.run("record", "--again", str(desk.file))
    assert (done.exit_code, desk.file.read_text(encoding="utf-8")) == (2, text)


def test_a_model_is_held_to_the_contract_by_one_command(desk: Desk, llm: FakeLLM):
    llm.will(*[says(ANEW)] * 3)

    done = desk.run("replay", str(desk.file), "--mode", "rerun")

    assert done.exit_code == 0, done.output
    assert "passed" in done.stdout
    assert re.search(r"step 3 HALL.rub: fake-1, json_object, [1-9]\d* tokens", done.stdout)
