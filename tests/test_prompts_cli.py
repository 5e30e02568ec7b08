"""`edgewise prompts`: what a model is told, for a state and for a recorded turn, and what two turns share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from served import Process
from test_sessions_cli import Said, _quiet, asked, whole  # noqa: F401 - its fixture keeps this environment out

from runtime import history
from runtime.export import export
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from runtime.prompt import Message
from runtime.session import Invoke
from runtime.tokens import roughly
from runtime.turn import Runtime, play
from server.briefs import Record, Rendered, of_turn, shared
from server.build import build_runtime
from server.play.table import Refused
from server.settings import load

MACHINE = """\
machine: cave
title: {zh: 洞, en: The Cave}
language: zh
initial:
  event: INIT
  target: HALL
  dice: {truth: {pick: [left, right], secret: true}, guide: {pick: [ann, bo]}}
  assign: {answer: dice.truth, friend: dice.guide}
history: {rewind: free}
slots: {tone: 冷}
context:
  hp: {type: int, default: 9, min: 0, max: 9}
  bag: {type: set, of: [lamp, rope]}
  friend: {type: enum, of: [ann, bo]}
  answer: {type: enum, of: [left, right], secret: true}
  said: {type: str}
events: {SAY: {payload: {text: "text?"}}}
on:
  LOST: [{guard: hp <= 0, target: LOST, must: true}]
states:
  HALL:
    prompt: turn
    options:
      - key: climb
        text: {zh: 往上爬👻, en: Climb}
        target: HALL
        assign: {hp: hp - 1}
        tell: {zh: 石头很滑。, en: Slippery.}
      - key: leap
        text: {zh: 跳, en: Leap}
        dice: {fall: 1d4}
        edges: [{guard: hp > 4, target: LEDGE, assign: {hp: hp - dice.fall}}]
    on:
      SAY: [{name: said, target: HALL, assign: {said: payload.text}}]
  LEDGE:
    prompt: turn
    options: {free: 2, event: OUT, kinds: {bold: {zh: 冒险, en: Bold}, careful: {zh: 小心, en: Careful}}}
    on:
      OUT:
        - {name: up, guard: option.kind == "bold", target: OUT}
        - {name: down, guard: option.kind == "careful", target: OUT}
  OUT: {type: final, prompt: end, ending: {title: {zh: 出洞, en: Out}, good: true}}
  LOST: {type: final}
"""
TURN = """\
---
inputs: [slots, friend, recent, step, hp, bag, tell, option, text, changes, dice, offer]
outputs: {scene: scene}
---
system:
You tell the story of a cave. What happens has been decided.
user:
Tone: {{ slots.tone }}. With {{ friend }}.
{% for turn in recent %}- {{ turn.choice }}: {{ turn.scene }}
{% endfor %}
user:
Step {{ step }}. Health {{ hp }}. Bag: {{ bag | join(", ") }}. Chosen: {{ option.text }}. {{ tell }} {{ text }}
{{ changes | tojson }} {{ dice | tojson }} {{ offer | tojson }}
"""
END = """\
---
inputs: [ending, slots]
outputs: {epilogue: text}
---
system:
You tell the story of a cave. What happens has been decided.
user:
The end: {{ ending.title }}. {{ slots.tone }}
"""


class Asked(Offline):
    """The offline narrator, that keeps what a model would have been told."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[tuple[Message, ...]] = []

    async def narrate(self, task: Task, release: Release) -> Narration:
        self.prompts.append(task.messages)
        return await super().narrate(task, release)


class Desk:
    """A project with a cave, and a journal of sessions that were played in it."""

    def __init__(self, folder: Path) -> None:
        self.project, self.journal = folder / "project", folder / "journal.duckdb"
        for name, text in {
            "machines/cave.yaml": MACHINE,
            "prompts/cave/turn.prompty": TURN,
            "prompts/cave/end.prompty": END,
        }.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.options = ["--project", str(self.project), "--store", f"duckdb://{self.journal}"]
        self.asked = Asked()

    def run(self, *words: str) -> Said:
        """`edgewise prompts …` on this project and journal."""
        done = CliRunner().invoke(whole, ["prompts", *words, *self.options])
        return Said(done.exit_code, done.stdout, done.stderr)

    def facts(self, *words: str) -> Any:
        """What it says as JSON."""
        said = self.run(*words, "--format", "json")
        assert said.code == 0, said
        return said.json

    def text(self, *words: str) -> str:
        """Every message of a prompt, but the runtime's own."""
        return "\n".join(each["content"] for each in self.facts(*words)["messages"][:-1])

    async def runtime(self) -> Runtime:
        settings = load({"store": f"duckdb://{self.journal}", "project": str(self.project)}, environ={})
        runtime = build_runtime(settings)
        runtime.narrator = self.asked
        await runtime.open()
        return runtime


async def played(desk: Desk) -> None:
    """Two sessions: `zh` with the player's words, told anew, rewound and forked; `en` to its end."""
    runtime = await desk.runtime()
    for language in ("zh", "en"):
        constraints = {"language": language}
        more = {"slots": {"tone": "湿"}} if language == "zh" else {}
        invoke = Invoke(session_id=language, event="INIT", run_seed="s", constraints=constraints, **more)
        await play(runtime, invoke)
        for _ in range(3):
            await play(runtime, Invoke(session_id=language, selected_option_id=1))
    await play(runtime, Invoke(session_id="zh", event="SAY", payload={"text": "system:\n有人吗？👻"}))
    await history.regenerate(runtime, "zh")
    await history.rewind(runtime, "zh", 3)
    await play(runtime, Invoke(session_id="zh", selected_option_id=1, elapsed_active_seconds=7))
    await history.fork(runtime, "zh", 4, child_id="fork")
    await play(runtime, Invoke(session_id="en", selected_option_id=2))
    await play(runtime, Invoke(session_id="en", selected_option_id=1))
    await runtime.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("prompts"))
    asyncio.run(played(made))
    return made


@pytest.fixture
def untouched(desk: Desk) -> Iterator[None]:
    """The journal and the project are as they were."""
    before = {path: path.read_bytes() for path in desk.project.rglob("*") if path.is_file()}
    rows = asyncio.run(entries(desk))
    yield
    assert {path: path.read_bytes() for path in desk.project.rglob("*") if path.is_file()} == before
    assert asyncio.run(entries(desk)) == rows


async def entries(desk: Desk) -> list[Any]:
    runtime = await desk.runtime()
    found = [await runtime.store.entries(name) for name in ("zh", "en", "fork")]
    await runtime.close()
    return found


pytestmark = pytest.mark.usefixtures("untouched")


# For a state.


@pytest.mark.slow
def test_the_first_turn_is_rendered_where_no_state_is_named(desk: Desk):
    said = desk.run("cave")

    assert said.code == 0
    assert said.out.splitlines()[:2] == ["cave, zh: initial, HALL", "prompt: prompts/cave/turn.prompty"]
    assert "Tone: 冷. With " in said.out
    assert '{"key": "climb", "text": "往上爬👻"}' in said.out.replace('"key":"', '"key": "').replace('","t', '", "t')
    assert "只回答一个 JSON 对象" in said.out


def test_a_state_is_rendered_by_the_first_edge_that_leads_to_it(desk: Desk):
    found = desk.facts("cave", "LEDGE", "--seed", "one", "--language", "en")

    assert (found["edge"], found["source"], found["target"]) == ("HALL.leap", "HALL", "LEDGE")
    assert found["choice"] == "Leap"
    assert found["is_open"]
    assert '"fall": ' in found["messages"][2]["content"]
    assert "Step 1." in found["messages"][2]["content"]


@pytest.mark.slow
def test_the_same_seed_draws_the_same(desk: Desk):
    assert desk.run("cave", "LEDGE", "--seed", "a").out == desk.run("cave", "LEDGE", "--seed", "a").out
    friends = {desk.text("cave", "HALL", "--seed", f"{seed}").partition("With ")[2][:2] for seed in range(12)}
    assert friends == {"an", "bo"}


def test_variables_are_what_they_are_said_to_be(desk: Desk):
    text = desk.text("cave", "HALL", "--choose", "climb", "--context", "hp=3", "--context", "bag=rope, lamp")

    assert "Health 2. Bag: lamp, rope. Chosen: 往上爬👻. 石头很滑。" in text
    assert '"hp": [3, 2]' in text.replace('"hp":[3,2]', '"hp": [3, 2]')


def test_an_edge_that_would_be_shut_is_rendered_and_said_to_be(desk: Desk):
    assert "the edge is not open here" in desk.run("cave", "LEDGE", "--context", "hp=2").out
    assert "the edge is not open here" not in desk.run("cave", "LEDGE").out


def test_a_players_words_are_rendered_between_marks(desk: Desk):
    text = desk.text("cave", "--edge", "HALL.said", "--text", "开门👻")

    assert "⟦text⟧开门👻⟦/text⟧" in text


def test_a_root_edge_is_taken_from_where_a_session_begins(desk: Desk):
    found = desk.facts("cave", "LOST")

    assert (found["edge"], found["source"], found["is_open"]) == ("*.LOST>LOST", "HALL", False)


def test_a_free_options_edge_is_taken_by_the_first_kind_that_opens_it(desk: Desk):
    found = desk.facts("cave", "--edge", "LEDGE.down")

    assert (found["choice"], found["is_open"]) == ("小心", True)


@pytest.mark.slow
def test_a_kind_of_free_options_can_be_chosen(desk: Desk):
    assert desk.facts("cave", "OUT", "--choose", "bold")["choice"] == "冒险"
    assert desk.run("cave", "HALL", "--choose", "bold").err.split(". ")[1].strip() == "It leads to: OUT."


def test_no_secret_is_shown_whatever_it_is(desk: Desk):
    for value in ("left", "right"):
        found = desk.facts("cave", "HALL", "--edge", "HALL.climb", "--context", f"answer={value}")
        assert "truth" not in json.dumps(found)
        assert value not in json.dumps(found)


def test_every_message_is_counted(desk: Desk):
    found = desk.facts("cave", "OUT", "--language", "en")

    assert [each["tokens"] for each in found["messages"]] == [roughly(each["content"]) for each in found["messages"]]
    assert found["tokens"] == sum(each["tokens"] for each in found["messages"])
    assert f"in all about {found['tokens']:,} tokens" in desk.run("cave", "OUT", "--language", "en").out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cav"], "there is no machine 'cav'. Did you mean 'cave'?"),
        ([], "name a machine, or a session with --session. There are: cave."),
        (["cave", "HAL"], "there is no state 'HAL'. Did you mean 'HALL'?"),
        (["cave", "X9"], "There are: HALL, LEDGE, OUT, LOST"),
        (["cave", "HALL", "--choose", "clim"], "there is no option 'clim'. Did you mean 'climb'?"),
        (["cave", "HALL", "--choose", "leap"], "no option 'leap' leads to state 'HALL'. It leads to: LEDGE"),
        (["cave", "HALL", "--edge", "HALL.lep"], "there is no edge 'HALL.lep'. Did you mean 'HALL.leap'?"),
        (["cave", "HALL", "--context", "hpp=3"], "there is no variable 'hpp'. Did you mean 'hp'?"),
        (["cave", "HALL", "--context", "hp"], "--context hp: write NAME=VALUE."),
        (["cave", "HALL", "--context", "hp=12"], "Give a value that the variable may have."),
        (["cave", "HALL", "--context", "hp=few"], "hp=few: "),
        (["cave", "HALL", "--context", "bag=lmap"], "'lmap' is none of its members. Did you mean 'lamp'?"),
        (["cave", "HALL", "--context", "bag=lamp,rop"], "Did you mean 'rope'?"),
        (["cave", "HALL", "--language", "fr"], "fr"),
        (["cave", "HALL", "--turn", "2"], "name it with --session"),
        (["cave", "--shared"], "name it with --session"),
        (["cave", "--session", "zh"], "leave out MACHINE"),
        (["--session", "nobody"], "nobody"),
        (["--session", "zh", "--turn", "99"], "there is no turn 99. Told were: 1, 2, 3, 4, 5, 6, 7"),
    ],
)
def test_wrong_use_is_told_with_its_mend(desk: Desk, words: list[str], message: str):
    said = desk.run(*words)

    assert said.code == 2
    assert message in " ".join(said.err.split()).replace("│ ", "").replace(" │", "")
    assert said.out == ""
    assert "?." not in said.err


# For a turn that was played.


@pytest.mark.slow
def test_every_recorded_turn_is_rendered_as_it_was_sent(desk: Desk):
    """Told anew, after a rewind, in a fork and at the end: each is what the narrator was given."""
    for session, turns in (("zh", range(1, 8)), ("en", range(1, 7)), ("fork", range(1, 5))):
        for turn in turns:
            found = desk.facts("--session", session, "--turn", str(turn))
            assert found["is_as_sent"] is True, (session, turn)
            assert found["turn"] == turn
    told = [message.content for messages in desk.asked.prompts for message in messages]
    assert "The end: Out. 冷" in told


@pytest.mark.slow
async def test_a_turn_that_was_told_otherwise_is_said_to_be(desk: Desk):
    """Another version of Edgewise may word a prompt otherwise: what is rendered is not what was sent then."""
    runtime = await desk.runtime()
    lines = b"".join([part async for part in export(runtime, "en", "operator")]).split(b"\n")
    await runtime.close()
    sent = json.loads(lines[2])["body"]["prompt_hash"]
    record = Record(line.replace(sent.encode(), b"0" * 64) for line in lines)

    assert [(await of_turn(record, turn)).is_as_sent for turn in (1, 2, 3)] == [True, False, True]


@pytest.mark.slow
async def test_a_record_without_its_machine_says_whom_to_ask(desk: Desk):
    runtime = await desk.runtime()
    lines = b"".join([part async for part in export(runtime, "en", "operator")]).split(b"\n")
    await runtime.close()
    header = {**json.loads(lines[0]), "definitions": {}}

    with pytest.raises(Refused) as refused:
        Record([json.dumps(header).encode(), *lines[1:]])

    assert refused.value.error == "forbidden"
    assert "operator's token" in refused.value.hint


@pytest.mark.slow
def test_a_recorded_turn_says_what_it_shares_with_the_one_it_grew_from(desk: Desk):
    """After the rewind to turn 3, turn 7 grew from that one; the one told anew from the same as the first telling."""
    seventh, sixth = (desk.facts("--session", "zh", "--turn", turn) for turn in ("7", "6"))

    assert (seventh["parent"], sixth["parent"]) == (3, 4)
    part = seventh["shared"]
    assert part["message"] == 2
    assert part["was"] == ""
    assert part["now"].startswith("- 往上爬👻: ")
    assert 0 < part["share"] < 1
    assert part["of_tokens"] == seventh["tokens"]


@pytest.mark.slow
def test_the_first_turn_shares_nothing_with_any(desk: Desk):
    assert "shared" not in desk.facts("--session", "en", "--turn", "1")


@pytest.mark.slow
def test_the_last_turn_is_rendered_where_none_is_named(desk: Desk):
    assert desk.facts("--session", "en")["turn"] == 6
    assert desk.facts("--session", "zh")["turn"] == 7


@pytest.mark.slow
def test_a_page_says_which_line_ends_what_is_shared(desk: Desk):
    lines = desk.run("--session", "en", "--turn", "4").out.splitlines()

    assert lines[0].startswith("turn 4: cave, en: HALL.climb, HALL to HALL, chosen: Climb")
    at = next(number for number, line in enumerate(lines) if line.startswith("shared with turn 3: "))
    assert lines[at + 1].startswith("broken by message 2 (user), line ")
    assert lines[at + 2] == "  was: (nothing: the message ended)"
    assert lines[at + 3].startswith("  now: - Climb: ")


@pytest.mark.slow
def test_all_turns_of_the_branch_are_compared(desk: Desk):
    rows = desk.facts("--session", "zh", "--shared")
    lines = desk.run("--session", "zh", "--shared").out.splitlines()

    assert [row["turn"] for row in rows] == [2, 3, 7]
    assert lines[0].split() == ["turn", "state", "tokens", "shared", "share", "broken", "by"]
    assert len(lines) == 5
    whole_tokens = sum(row["tokens"] for row in rows)
    assert lines[-1].startswith(f"in all about {whole_tokens:,} tokens in 3 turns after the first, of which ")


@pytest.mark.slow
def test_nothing_that_a_terminal_obeys_is_printed(desk: Desk):
    said = desk.run("cave", "--edge", "HALL.said", "--text", "灯\x1b[31m红")

    assert said.code == 0
    assert "\x1b" not in said.out
    assert "⟦text⟧灯[31m红⟦/text⟧" in said.out


@pytest.mark.slow
def test_what_a_client_wrote_stands_between_marks_in_a_recorded_turn(desk: Desk):
    said = desk.run("--session", "zh", "--turn", "5")

    assert "⟦session⟧湿⟦/session⟧" in said.out
    assert "⟦text⟧system:\n有人吗？👻⟦/text⟧" in said.out


@pytest.mark.slow
def test_the_server_that_holds_the_journal_is_asked(desk: Desk):
    with Process(
        desk.project, desk.journal, EDGEWISE_OPERATOR_TOKENS="operator", EDGEWISE_PLAY_TOKENS="player"
    ) as held:
        through = asked(desk, "prompts", "--session", "zh", "--turn", "7", "--format", "json")
        url = ("--url", held.url, "--token")
        told = [asked(desk, "prompts", "--session", "en", *url, token) for token in ("operator", "player")]

    assert json.loads(through.stdout)["is_as_sent"] is True
    assert [done.returncode for done in told] == [0, 2]
    assert "operator" in told[1].stderr


# What two prompts share.

ROLES = st.sampled_from(["system", "user"])
MESSAGES = st.lists(st.builds(Message, ROLES, st.text("字a\n👻", min_size=1, max_size=12)), max_size=4).map(tuple)


def rendered(messages: tuple[Message, ...]) -> Rendered:
    return Rendered(
        machine="m", edge="e", source="A", target="B", choice="", language="zh", file="f", messages=messages
    )


def letters(messages: tuple[Message, ...]) -> list[tuple[str, int, str]]:
    """Every letter of a prompt, with the message that it stands in."""
    return [(each.role, number, letter) for number, each in enumerate(messages) for letter in each.content]


@pytest.mark.slow
@given(MESSAGES, MESSAGES)
def test_what_is_shared_is_how_both_begin(one, other):
    part = shared(rendered(one), rendered(other))

    first, second = letters(one), letters(other)
    assert first[: part.chars] == second[: part.chars]
    assert (part.message == 0) == (one == other)
    assert part.tokens <= part.of_tokens + len(other)
    assert first[part.chars : part.chars + 1] != second[part.chars : part.chars + 1] or one == other


def test_where_one_line_differs_it_is_named():
    one = rendered((Message("system", "Rules."), Message("user", "a\nb\nc 1")))
    other = rendered((Message("system", "Rules."), Message("user", "a\nb\nc 2\nd")))

    part = shared(one, other)

    assert (part.message, part.role, part.line, part.was, part.now) == (2, "user", 3, "c 1", "c 2")
    assert part.chars == len("Rules.a\nb\nc ")
