"""Sessions recorded as replays: what was sent, what was told and by which prompt, written so that it can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from served import Process, Web, runtime_of, serving
from test_sessions_cli import whole

from runtime import history, loader
from runtime.bench import recording
from runtime.bench.modes import drift, prompt_text
from runtime.bench.player import played
from runtime.bench.replay import Given, Replay
from runtime.bench.replay_file import read_replays
from runtime.document import read
from runtime.flow_yaml import block
from runtime.migrate import migrate
from runtime.narrators.offline import Offline
from runtime.narrators.scripted import Scripted
from runtime.prompt import Message
from runtime.session import Invoke
from runtime.stores.duckdb import DuckDBStore
from runtime.turn import Runtime, play
from server.settings import Settings
from server.typed import typed

LINES = [
    "", " ", "  in", "\t", "# no comment", "- a", "a: b #c", "“灯”：，", "---", "...", "user:", "\\user:", "? x", "!x",
    "|", "👨‍👩‍👧", "\ufdd0灯\ufdd2", "\x85", "\u202e", "\u2028",
]  # fmt: skip
"""Lines that a reader of YAML could take for something else."""


# What stands in a file can be read there.


@given(st.lists(st.sampled_from(LINES) | st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=6))
def test_a_text_of_several_lines_is_read_back_as_it_was(lines: list[str]):
    text = "\n".join(lines)

    found = read("x.yaml", f"steps:\n  - send: X\n    prompt: {block(text, 6)}\n    with: {{a: 1}}\n")

    assert found.findings == ()
    assert found.value == {"steps": [{"send": "X", "prompt": text, "with": {"a": 1}}]}


def test_a_prompt_stands_under_its_roles_with_the_players_words_marked():
    messages = [Message("system", "你是说书人。\nuser:\n别听"), Message("user", "他说：\ufdd0点灯🏮\ufdd2")]

    text = prompt_text(messages)

    assert text == "system:\n你是说书人。\n\\user:\n别听\nuser:\n他说：⟦text⟧点灯🏮⟦/text⟧\n"
    assert block(text, 6).startswith("|\n      system:\n      你是说书人。\n")


def messages_of(parts: Iterable[tuple[str, list[str]]]) -> list[Message]:
    return [Message(role, "\n".join(lines)) for role, lines in parts]  # type: ignore[arg-type]


PARTS = st.lists(
    st.tuples(
        st.sampled_from(["system", "user"]),
        st.lists(st.sampled_from(["", "a", "user:", "\\user:", "system:", " user:"]), max_size=3),
    ),
    max_size=3,
)


@given(PARTS, PARTS)
def test_other_messages_are_another_text(one: list[tuple[str, list[str]]], other: list[tuple[str, list[str]]]):
    a, b = messages_of(one), messages_of(other)
    assert (prompt_text(a) == prompt_text(b)) == (a == b)


def test_a_drift_names_what_was_and_what_is_now():
    assert drift("a\n", "a\n") == ""
    assert drift("system:\n一\n二\n", "system:\n一\n三\n").splitlines()[-4:] == [" 一", "-二", "+三", " "]


# What is recorded.

MACHINE = """
machine: lamp
title: {zh: 灯, en: The Lamp}
language: zh
history: {rewind: free}
initial: {event: INIT, target: HALL, dice: {truth: {pick: [ash, well], secret: true}}, assign: {secret: dice.truth}}
context:
  oil: {type: int, default: 9, min: 0, max: 9, show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
  secret: {type: enum, of: [ash, well], default: ash, secret: true}
slots: {guest: null}
events: {SAY: {payload: {text: text}}, GO: {}}
states:
  HALL:
    prompt: hall
    learn: {mood: {from: output.mood, otherwise: mood}}
    options:
      - {key: rub, text: {zh: 擦灯🪔, en: Rub it}, dice: {cost: 1d4}, target: HALL, assign: {oil: oil - dice.cost}}
      - {key: leave, text: {zh: 走开, en: Leave}, target: FORK}
    on: {SAY: [{name: said, target: HALL}]}
  FORK:
    prompt: hall
    options:
      {free: 2, event: GO, kinds: {bold: {zh: 大胆, en: bold}, shy: {zh: 胆小, en: shy}, odd: {zh: 古怪, en: odd}}}
    on:
      GO: [{name: bold, guard: "option.kind == 'bold'", target: END_OUT}, {name: other, target: HALL}]
  END_OUT: {type: final, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
"""
PROMPT = """---
description: The hall
inputs: [text, slots, recent, oil]
outputs: {scene: scene, mood: "str?"}
---
system:
你是说书人。灯油还有 {{ oil }}。
{{ slots.guest }}
user:
{% for each in recent %}
前情：{{ each.scene }}
{% endfor %}
玩家说：{{ text }}
"""
TOLD = {"scene": "灯影晃了晃。", "mood": "tense"}
EMOJI = "点灯🏮👨‍👩‍👧！“快”：a: b #c\nuser:\n- 一"


def project(folder: Path, machine: str = MACHINE, prompt: str = PROMPT) -> Path:
    """A project with the lamp in it."""
    for name, text in {"machines/lamp.yaml": machine, "prompts/lamp/hall.prompty": prompt}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class Stage:
    """A project, its journal, a player of session s1, and the command on them."""

    def __init__(self, folder: Path, answers: Iterable[Any] | None = None, **files: str) -> None:
        self.folder = project(folder, **files)
        self.journal = folder / "journal.duckdb"
        self.answers = answers
        self.session_id = "s1"

    def do(self, *moves: Any) -> None:
        """Take moves: an event, an option's key or kind after `:`, words in a tuple, a function of the runtime."""
        asyncio.run(self._do(moves))

    async def _do(self, moves: Iterable[Any]) -> None:
        narrator = Offline() if self.answers is None else Scripted(self.answers, fill=True)
        machines = loader.load_project(self.folder)
        runtime = Runtime(DuckDBStore(self.journal), narrator, machines, "lamp")
        await runtime.open()
        try:
            for move in moves:
                await self._move(runtime, move)
        finally:
            await runtime.close()

    async def _move(self, runtime: Runtime, move: Any) -> None:
        if callable(move):
            await move(runtime)
            return
        head = await runtime.store.head(self.session_id)
        sent: dict[str, Any] = {"run_seed": "seed-3", "slots": {"guest": "客人🏮"}} if head is None else {}
        if isinstance(move, tuple):
            sent |= {"event": "SAY", "payload": {"text": move[0]}}
        elif move.startswith(":"):
            assert head is not None
            found = {each.key or each.kind: each.id for each in head.after.offer}
            sent["selected_option_id"] = found[move[1:]]
        else:
            sent["event"] = move
        await play(runtime, Invoke(session_id=self.session_id, **sent))

    def run(self, *words: str, **variables: str) -> Result:
        """A command on this journal."""
        options = ["--project", str(self.folder), "--store", f"duckdb://{self.journal}"]
        return CliRunner(env=variables).invoke(whole, [*words, *options])

    def recorded(self, *words: str) -> Replay:
        """What `edgewise record s1` wrote, read again."""
        done = self.run("record", self.session_id, *words)
        assert done.exit_code == 0, done.output
        return self.read()

    @property
    def file(self) -> Path:
        return self.folder / "replays" / "lamp" / "s1.replay.yaml"

    def read(self) -> Replay:
        found, faults = read_replays(str(self.file), self.file.read_text(encoding="utf-8"))
        assert faults == []
        (replay,) = found
        return replay


@pytest.mark.slow
def test_a_players_bug_is_a_test_by_one_command(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT", ":rub", (EMOJI,), ":leave")

    done = stage.run("record", "s1")

    assert done.exit_code == 0
    assert f"{stage.file}: 4 turns of lamp, told offline" in done.output
    assert f"Play it: {typed('replay', str(stage.file), '--project', str(tmp_path))}" in done.output
    replay = stage.read()
    assert replay.given == Given(machine="lamp", language="zh", seed="seed-3", slots={"guest": "客人🏮"})
    assert [(step.send, step.choose and step.choose.key) for step in replay.steps] == [
        ("INIT", None), (None, "rub"), ("SAY", None), (None, "leave"),
    ]  # fmt: skip
    assert replay.steps[2].with_ == {"text": EMOJI}
    assert [{*step.dice} for step in replay.steps] == [{"truth"}, {"cost"}, set(), {"kinds"}]
    assert all(step.narrate is None and step.prompt is None for step in replay.steps)


@pytest.mark.slow
def test_a_file_that_exists_is_written_over_only_where_it_is_meant(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT")
    stage.file.parent.mkdir(parents=True)
    stage.file.write_text("mine", encoding="utf-8")

    refused = stage.run("record", "s1")

    assert (refused.exit_code, stage.file.read_text(encoding="utf-8")) == (2, "mine")
    assert "--force" in refused.stderr
    stage.recorded("--force")
    elsewhere = tmp_path / "灯" / "the end.replay.yaml"
    assert stage.run("record", "s1", "--output", str(elsewhere)).exit_code == 0
    assert elsewhere.read_bytes() == stage.file.read_bytes()


@pytest.mark.slow
def test_what_is_not_there_is_refused_and_nothing_is_written(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT")
    done = stage.run("record", "nobody")
    assert (done.exit_code, (tmp_path / "replays").exists()) == (2, False)
    assert "there is no session 'nobody'" in done.stderr


@pytest.mark.slow
def test_a_model_is_recorded_with_the_prompts_that_it_got(tmp_path: Path):
    """The player's words are quoted by marks that stay the same; nothing of it is what only a call has."""
    stage = Stage(tmp_path, [TOLD] * 9)
    stage.do("INIT", ":rub", (EMOJI,))

    replay = stage.recorded()

    assert [step.narrate for step in replay.steps] == [TOLD] * 3
    last = replay.steps[-1].prompt
    assert last is not None
    assert last.startswith("system:\n你是说书人。灯油还有 ")
    assert "\n⟦session⟧客人🏮⟦/session⟧\nuser:\n前情：灯影晃了晃。\n" in last
    assert f"⟦text⟧{EMOJI.replace(chr(10) + 'user:', chr(10) + chr(92) + 'user:')}⟦/text⟧" in last
    text = stage.file.read_text(encoding="utf-8")
    assert "    prompt: |\n      system:\n      你是说书人。" in text
    assert "AIGC" in text


@pytest.mark.slow
def test_every_prompt_is_kept_where_that_is_asked_for(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT", ":leave")
    assert [bool(step.prompt) for step in stage.recorded("--prompts").steps] == [True, True]
    assert not any(step.prompt for step in stage.recorded("--force").steps)


@pytest.mark.slow
def test_a_prompt_that_holds_a_mended_text_is_left_out_and_that_is_said(tmp_path: Path):
    """A journal has only the text as it was cut: the replay tells it offline, and later prompts hold that."""
    machine = MACHINE.replace("context:", "limits: {scene_chars: {zh: 20, en: 60}}\ncontext:")
    stage = Stage(tmp_path, [{**TOLD, "scene": "灯影晃了晃。" * 5}, *[TOLD] * 8], machine=machine)
    stage.do("INIT", ":rub")

    done = stage.run("record", "s1")

    assert done.exit_code == 0, done.output
    assert "Steps 2 have no prompt" in done.stdout
    assert [bool(step.prompt) for step in stage.read().steps] == [True, False]
    assert "  # The prompt that was sent is not here: a text before it was mended" in stage.file.read_text(
        encoding="utf-8"
    )
    assert asyncio.run(played(stage.read(), loader.load_project(tmp_path)["lamp"], mode="strict")).verdict == "passed"


@pytest.mark.slow
def test_a_session_that_is_too_long_for_a_file_with_prompts_is_written_without(tmp_path: Path):
    stage = Stage(tmp_path, [TOLD] * 9, prompt=PROMPT.replace("你是说书人。", "你是说书人。" + "灯火通明。" * 12_000))
    stage.do("INIT", *[":rub"] * 6)

    done = stage.run("record", "s1")

    assert done.exit_code == 0, done.output
    assert "It is long: the prompts are left out" in done.stdout
    assert [(step.prompt, step.narrate) for step in stage.read().steps] == [(None, TOLD)] * 7


@pytest.mark.slow
def test_only_the_branch_that_a_session_stands_on_is_recorded(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT", ":rub", ("这句不要",), lambda runtime: history.rewind(runtime, "s1", 2), ":rub")

    replay = stage.recorded()

    assert [step.choose and step.choose.key for step in replay.steps] == [None, "rub", "rub"]
    assert "这句不要" not in stage.file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_fork_is_recorded_from_its_root_with_its_own_dice(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT", ":rub", lambda runtime: history.fork(runtime, "s1", 2, child_id="s2"))
    stage.session_id = "s2"
    stage.do(":rub", ":leave")

    done = stage.run("record", "s2")

    assert done.exit_code == 0, done.output
    text = stage.file.with_name("s2.replay.yaml").read_text(encoding="utf-8")
    assert text.count("choose: rub") == 2
    assert 'replay: "session s2"' in text


@pytest.mark.slow
def test_free_options_are_chosen_by_their_kind_and_drawn_again(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.do("INIT", ":leave")
    drawn = stage.recorded().steps[-1].dice["kinds"]
    stage.do(f":{drawn[0]}")

    replay = stage.recorded("--force")

    assert len(drawn) == 2
    assert replay.steps[-1].choose is not None
    assert replay.steps[-1].choose.kind == drawn[0]


NEWER = MACHINE.replace("machine: lamp", "machine: lamp\nversion: 2\nmigrations: [{from: 1, context: {oil: 5}}]")


@pytest.mark.slow
def test_a_session_that_moved_is_recorded_from_the_move_on(tmp_path: Path):
    """Its beginning was played by rules that are no more."""
    stage = Stage(tmp_path)
    stage.do("INIT", ":rub", ("以前",))
    project(tmp_path, NEWER)

    async def move(runtime: Runtime) -> None:
        assert [step async for step in migrate(runtime)][-1].is_good  # type: ignore[union-attr]

    stage.do(move, ":rub", ("以后",))

    done = stage.run("record", "s1")

    replay = stage.read()
    assert (replay.given.state, replay.given.context["oil"]) == ("HALL", 5)
    assert [step.with_ for step in replay.steps] == [{}, {"text": "以后"}]
    assert replay.steps[0].expect.context == {"oil": 5 - replay.steps[0].dice["cost"]}
    assert "the replay begins behind the move" in done.output
    assert "It begins at turn 4" in stage.file.read_text(encoding="utf-8")


# What never reaches a file.


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["DEEPSEEK_API_KEY", "MY_LLM"])
def test_a_key_that_a_player_typed_is_not_written_down(tmp_path: Path, variable: str):
    """Neither one that goes by its name nor one that the project's file names."""
    (tmp_path / "edgewise.yaml").write_text("providers: [{profile: openai, key_variable: MY_LLM}]", encoding="utf-8")
    stage = Stage(tmp_path)
    stage.do("INIT", ("我的钥匙是 sk-1234567890。",))

    done = stage.run("record", "s1", **{variable: "sk-1234567890", "EDGEWISE_NARRATOR": "offline"})

    assert (done.exit_code, stage.file.exists()) == (2, False)
    assert f"the session's texts hold the value of {variable}" in done.stderr
    assert "sk-1234567890" not in done.output
    stage.recorded()


@pytest.mark.slow
def test_no_key_of_the_project_is_in_a_recording(tmp_path: Path):
    stage = Stage(tmp_path, [TOLD] * 9)
    (tmp_path / ".env").write_text("DEEPSEEK_API_KEY=sk-1234567890\nEDGEWISE_OPERATOR_TOKENS=operator-token\n")
    stage.do("INIT", ":rub")

    stage.recorded("--prompts")

    text = stage.file.read_text(encoding="utf-8")
    assert "sk-1234567890" not in text
    assert "operator-token" not in text


@pytest.mark.slow
def test_a_player_gets_a_replay_without_the_prompts_and_an_operator_with_them():
    machine = loader.load({"machines/lamp.yaml": MACHINE.replace("secret: true", "secret: false"),
                           "prompts/lamp/hall.prompty": PROMPT})  # fmt: skip
    settings = Settings(play_tokens=("player",), operator_tokens=("operator",))
    runtime = runtime_of(machine, narrator=Scripted([TOLD] * 9, fill=True))
    with serving(runtime, settings) as server:
        with Web(server.url, Authorization="Bearer player") as web:
            web.invoke("s1", "INIT")
            theirs = web.http.get("/sessions/s1/export?format=replay").text
        with Web(server.url, Authorization="Bearer operator") as web:
            ours = web.http.get("/sessions/s1/export?format=replay").text

    assert ("narrate:" in theirs, "prompt:" in theirs, "说书人" in theirs) == (True, False, False)
    assert "    prompt: |\n      system:\n      你是说书人" in ours


def test_what_is_exported_can_be_read(monkeypatch: pytest.MonkeyPatch):
    """Without its prompts where it would be too long with them; where it is too long even so, it is refused."""
    machine = loader.load({"machines/lamp.yaml": MACHINE.replace("secret: true", "secret: false"),
                           "prompts/lamp/hall.prompty": PROMPT.replace("你是说书人。", "灯" * 3_000)})  # fmt: skip
    path = "/sessions/s1/export?format=replay"
    with serving(runtime_of(machine, narrator=Scripted([TOLD] * 9, fill=True))) as server, Web(server.url) as web:
        web.invoke("s1", "INIT")
        whole_text = web.http.get(path).text
        monkeypatch.setattr(recording, "MAX_BYTES", 6_000)
        short = web.http.get(path).text
        monkeypatch.setattr(recording, "MAX_BYTES", 100)
        refused = web.http.get(path)

    assert ("prompt:" in whole_text, "prompt:" in short) == (True, False)
    assert f"# {recording.LONG}" in short
    (replay,), faults = read_replays("x.replay.yaml", short)
    assert (faults, replay.steps[0].narrate) == ([], TOLD)
    assert (refused.status_code, refused.json()["data"]["error"]) == (422, "validation_error")
    assert "too long" in refused.json()["message"]


# A play in the terminal.


def test_a_play_is_recorded_as_far_as_it_went(tmp_path: Path):
    folder = project(tmp_path)
    file = tmp_path / "replays" / "lamp" / "灯: first.replay.yaml"
    words = ["play", "lamp", "--project", str(folder), "--seed", "a", "--language", "zh", "--record", str(file)]

    done = CliRunner(env={"EDGEWISE_NARRATOR": "offline"}).invoke(
        whole, words, input=f"1\n{EMOJI.splitlines()[0]}\n2\n"
    )

    assert done.exit_code == 0, done.output
    assert f"{file} is written. Play it: {typed('replay', str(file))}" in done.stderr
    (replay,), faults = read_replays(str(file), file.read_text(encoding="utf-8"))
    assert (faults, replay.name) == ([], "灯: first")
    assert [step.choose.key if step.choose else step.send for step in replay.steps] == ["INIT", "rub", "SAY", "leave"]
    machine = loader.load_project(folder)["lamp"]
    assert asyncio.run(played(replay, machine)).verdict == "passed"


@pytest.mark.parametrize("name", ["mine.yaml", "there.replay.yaml"])
def test_a_play_begins_only_where_its_record_can_be_written(tmp_path: Path, name: str):
    folder = project(tmp_path)
    (tmp_path / "there.replay.yaml").write_text("mine", encoding="utf-8")
    words = ["play", "lamp", "--project", str(folder), "--record", str(tmp_path / name)]

    done = CliRunner(env={"EDGEWISE_NARRATOR": "offline"}).invoke(whole, words, input="1\n")

    assert (done.exit_code, done.stdout) == (2, "")
    assert (tmp_path / "there.replay.yaml").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.slow
def test_a_play_against_a_server_is_recorded_too_and_a_session_while_it_holds_the_journal(tmp_path: Path):
    folder = project(tmp_path)
    file = tmp_path / "mine.replay.yaml"
    with Process(folder, tmp_path / "journal.duckdb") as server:
        words = ["play", "lamp", "--url", server.url, "--session", "s1", "--record", str(file)]
        assert CliRunner().invoke(whole, words, input="1\n2\n").exit_code == 0
        options = ["--store", f"duckdb://{tmp_path / 'journal.duckdb'}", "--project", str(folder)]
        held = CliRunner().invoke(whole, ["record", "s1", *options])

    assert held.exit_code == 0, held.output
    kept = folder / "replays" / "lamp" / "s1.replay.yaml"
    assert kept.read_text(encoding="utf-8").replace('replay: "session s1"', "replay: mine") == file.read_text("utf-8")
