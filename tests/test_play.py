"""`edgewise play` as its users meet it: over pipes, on a terminal, here and at a server."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from command import ESCAPE, command, edgewise, environment
from served import PATIENCE_S, ROOT, Process, Server, runtime_of, serving
from test_streaming import SENTENCES, Dictating, House, house_of

from runtime import loader
from runtime.errors import NarratorUnavailable
from server.play import moves
from server.scaffold import project_files
from server.settings import Settings

pytestmark = pytest.mark.slow
ENDS = {"zh": "结局：", "en": "The end: "}
FIRST = "first_story"
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project, as `init` makes it."""
    folder = tmp_path_factory.mktemp("play") / "story"
    for name, text in project_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    """The small machine behind HTTP."""
    files = {name: text for name, text in project_files().items() if name.startswith(("machines/first", "prompts/"))}
    with serving(runtime_of(loader.load(files))) as served:
        yield served


def played(project: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """A play of the small project in English, with a seed, over pipes."""
    return edgewise("play", "--project", str(project), "--language", "en", "--seed", "demo", *words, typed=typed)


@contextmanager
def piped(*words: str) -> Iterator[Any]:
    """The command over pipes while it runs; it is killed where it keeps a test waiting."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command(*words), env=environment(), text=True, encoding="utf-8", **pipes) as child:
        watch = threading.Timer(PATIENCE_S, child.kill)
        watch.start()
        try:
            yield child
        finally:
            watch.cancel()
            child.kill()


# Over pipes


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("machine", ["haunted_house", "mine_adventure", "ticket_triage"])
def test_every_machine_that_ships_plays_to_an_end_in_each_language(machine: str, language: str):
    first = "My invoice was charged twice.\n" if machine == "ticket_triage" else ""

    ran = edgewise("play", machine, "--seed", "s1", "--language", language, typed=first + "1\n" * 60)

    assert ran.returncode == 0, ran.stderr
    assert ENDS[language] in ran.stdout
    assert ESCAPE not in ran.stdout + ran.stderr


def test_the_same_seed_and_choices_tell_the_same_story(project: Path):
    first, second = (played(project, typed="1\n2\n1\n1\n1\n1\n") for _ in range(2))

    assert first.stdout == second.stdout
    assert "Seed: demo" in first.stdout


def test_the_default_machine_is_played_where_none_is_named():
    assert "机器：haunted_house" in edgewise("play").stdout


def test_the_end_of_the_input_is_no_error_and_says_how_to_begin_again(project: Path):
    ran = played(project, typed="3\n")

    assert ran.returncode == 0
    assert "The input ended; the story stands at turn 2." in ran.stderr
    assert f"edgewise play {FIRST} --project {project} --seed demo --language en" in ran.stderr


@pytest.mark.parametrize(
    ("ids", "said"), [([], ""), ([1], "1"), ([2], "2"), ([1, 2, 3], "1-3"), ([1, 2, 4], "1, 2, 4"), ([3, 5], "3, 5")]
)
def test_the_numbers_that_are_told_are_those_that_are_offered(ids: list[int], said: str):
    assert moves.numbers_of({"payload": {"options": [{"id": number} for number in ids]}}) == said


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("9", "There is no option 9, only 1-3."),
        ("aboard", "Type the number of an option, 1-3; ? is help."),
        ("", "Type the number of an option, 1-3; ? is help."),
        ("3 please", "Option 3 takes no words: type its number alone."),
        ("/SWIM", "There is no event SWIM here; open are: LANDING, RIVER."),
    ],
)
def test_a_wrong_line_is_told_on_stderr_and_asked_again(project: Path, typed: str, told: str):
    ran = played(project, typed=f"{typed}\n3\n2\n")

    assert ran.returncode == 0
    assert ran.stderr.splitlines()[0] == told
    assert "❯ Step aboard" in ran.stdout
    assert "The end: Some other night (a good end)" in ran.stdout


def test_an_ending_shows_its_title_its_epilogue_and_the_choices_that_led_there(project: Path):
    ending = played(project, typed="1\n2\n3\n").stdout.partition("The end: ")[2]

    assert ending.startswith("Some other night (a good end)\n\nThe planks take your weight again.")
    assert re.findall(r"^ *(\d)  (.*)$", ending, re.MULTILINE) == [
        ("2", "Feel along the planks"),
        ("3", "Step aboard"),
        ("4", "Ask him to turn back"),
    ]


def test_the_status_shows_what_a_turn_changed(project: Path):
    said = played(project, typed="1\n").stdout

    assert "Lamp oil 3/3 · Way across 0/3 · Pockets none\n" in said
    assert "Lamp oil 3/3 · Way across 0/3 · Pockets +coin\n" in said


def test_the_time_left_is_shown_where_it_is_limited(project: Path):
    assert "剩余 5:00" in edgewise("play", "haunted_house").stdout
    assert " left" not in played(project).stdout.partition("·")[2]


def test_every_play_says_who_tells_it(project: Path):
    assert "Told by: written fragments, not AI-generated" in played(project).stdout


def test_why_tells_what_the_machine_settled(project: Path):
    said = played(project, typed="3\n1\nw\n").stdout

    assert re.search(r"Edge: RIVER\.(ahead|adrift): RIVER → RIVER\nRolled: pull \(1d20\) = \d+\nChanged: ", said)


def test_help_is_told_beside_the_story(project: Path):
    assert "choose an option" in played(project, typed="?\n").stderr


def test_free_text_is_taken_where_a_state_takes_it():
    typed = "My invoice was charged twice.\n1\nlooks fine\n1 looks fine\n"

    ran = edgewise("play", "ticket_triage", "--language", "en", typed=typed)

    assert "❯ “My invoice was charged twice.”" in ran.stdout
    assert "event 'APPROVE' in state 'APPROVAL' needs a chosen option" in ran.stderr
    assert "❯ Approve “looks fine”" in ran.stdout
    assert "Decided by operator (← model)" in ran.stdout


def test_an_event_can_be_sent_by_its_name_with_words():
    ran = edgewise("play", "ticket_triage", "--language", "en", typed="/ticket =3 pages are blank\n/why\n")

    assert "Edge: INIT.received: INIT → ACTION" in ran.stdout


# What is refused


def test_an_unknown_machine_is_told_with_the_one_that_was_meant(project: Path):
    ran = played(project, "first_storey")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "there is no machine 'first_storey'. Did you mean 'first_story'?\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--language", "fr"], "machine 'first_story' has no language 'fr'. Use --language zh or --language en.\n"),
        (["--seed", "a b"], "--seed 'a b' can't be used. Use letters, digits and _ . : - only, at most 128 of them.\n"),
        (
            ["--session", "/"],
            "--session '/' can't be used. Use letters, digits and _ . : - only, at most 128 of them.\n",
        ),
    ],
)
def test_an_option_that_cannot_be_is_told_with_the_mend(project: Path, words: list[str], told: str):
    ran = played(project, *words)

    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", told)


def test_a_faulty_project_is_refused_in_the_words_of_check(tmp_path: Path):
    machines = tmp_path / "machines"
    machines.mkdir()
    (machines / "broken.yaml").write_text("machine: broken\nlanguage: en\n", encoding="utf-8")

    checked = edgewise("check", "--project", str(tmp_path))
    ran = edgewise("play", "--project", str(tmp_path))

    faults = [line for line in checked.stdout.splitlines() if line.startswith("machines/broken.yaml:")]
    assert faults
    assert (ran.returncode, ran.stdout, ran.stderr.splitlines()) == (1, "", faults)


# The transcript


def test_a_transcript_tells_the_whole_play(project: Path, tmp_path: Path):
    path = tmp_path / "play.md"

    played(project, "--transcript", str(path), typed="1\n2\n3\n")

    text = path.read_text(encoding="utf-8")
    assert text.startswith("# The Last Ferry\n\n- Machine: first_story (version 1)\n- Seed: demo\n- Language: en\n")
    assert "- Told by: written fragments, not AI-generated\n" in text
    assert re.findall("^## .*$", text, re.MULTILINE) == [
        "## 1",
        "## 2 · Feel along the planks",
        "## 3 · Step aboard",
        "## 4 · Ask him to turn back",
    ]
    assert "\n*Pockets +coin*\n" in text
    assert "\n1. Untie the rope and keep it\n2. Step aboard\n" in text
    assert "\n> (the ferryman) Sit in the middle." in text
    assert "\n### The end: Some other night (a good end)\n" in text
    assert "\n#### The way you came\n\n- 2  Feel along the planks\n" in text


def test_the_same_play_writes_the_same_transcript_over_the_old_one(project: Path, tmp_path: Path):
    path = tmp_path / "play.md"
    path.write_text("something older and much longer\n" * 1000, encoding="utf-8")

    played(project, "--transcript", str(path), typed="3\n2\n")
    first = path.read_bytes()
    played(project, "--transcript", str(path), typed="3\n2\n")

    assert path.read_bytes() == first
    assert b"something older" not in first


def test_a_play_that_never_begins_leaves_an_old_transcript_alone(project: Path, tmp_path: Path):
    path = tmp_path / "play.md"
    path.write_text("older", encoding="utf-8")

    played(project, "first_storey", "--transcript", str(path))

    assert path.read_text(encoding="utf-8") == "older"


def test_a_transcript_is_written_as_the_play_goes(project: Path, tmp_path: Path):
    path = tmp_path / "play.md"
    words = ["play", "--project", str(project), "--language", "en", "--transcript", str(path)]

    with piped(*words) as child:
        child.stdin.write("3\n")
        child.stdin.flush()
        next(line for line in child.stdout if line.startswith("2. Ask him to turn back"))
        child.kill()

    assert "## 2 · Step aboard" in path.read_text(encoding="utf-8")


def test_a_transcript_that_cannot_be_written_is_told_in_a_sentence(project: Path, tmp_path: Path):
    ran = played(project, "--transcript", str(tmp_path / "none" / "play.md"))

    assert ran.returncode == 2
    assert "--transcript can't be written" in ran.stderr
    assert "Traceback" not in ran.stderr


# A session that is kept


def test_a_session_in_a_journal_is_gone_on_with_by_the_command_that_leaving_prints(project: Path, tmp_path: Path):
    store = f"duckdb://{tmp_path / 'journal.duckdb'}"

    left = played(project, "--store", store, typed="3\nq\n")
    again = next(line for line in left.stderr.splitlines() if "--session" in line)
    ran = edgewise(*shlex.split(again)[1:], typed="2\n")

    assert "Until next time." in left.stderr
    assert "Going on at turn 2." in ran.stderr
    assert "Seed: demo" in ran.stdout
    assert "The end: Some other night" in ran.stdout


@pytest.mark.slow
def test_a_journal_that_a_server_holds_names_the_way_to_play(project: Path, tmp_path: Path):
    with Process(project, tmp_path / "journal.duckdb") as process:
        ran = played(project, "--store", f"duckdb://{process.store}")

    assert ran.returncode == 2
    assert f"edgewise play --url {process.url}" in ran.stderr


# At a server


def test_a_server_is_played_as_the_engine_is(server: Server, project: Path):
    here = played(project, typed="1\n2\n3\n")
    there = edgewise("play", "--url", server.url, "--language", "en", "--seed", "demo", typed="1\n2\n3\n")

    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_a_session_at_a_server_is_gone_on_with(server: Server):
    at = ["play", "--url", server.url, "--session", "mine", "--language", "en"]

    left = edgewise(*at, typed="3\n")
    ran = edgewise(*at, typed="2\n")

    assert f"edgewise play --url {server.url} --session mine" in left.stderr
    assert "Going on at turn 2." in ran.stderr
    assert "The end: Some other night" in ran.stdout


def test_a_turn_that_was_played_elsewhere_meanwhile_is_shown(server: Server):
    words = ["play", "--url", server.url, "--session", "mine", "--language", "en"]

    with piped(*words) as child:
        next(line for line in child.stdout if line.startswith("3. Step aboard"))
        edgewise(*words, typed="3\n")
        said, complained = child.communicate("1\n2\n", timeout=PATIENCE_S)

    assert "the session stands at turn 2, and the request expects turn 1" in complained
    assert "1. Pull at the oar" in said
    assert "The end: Some other night" in said


def test_a_token_is_sent_where_one_is_needed(server: Server):
    settings = Settings(play_tokens=("secret-one",))

    with serving(server.runtime, settings) as guarded:
        at = ["play", "--url", guarded.url, "--language", "en"]
        refused = edgewise(*at)
        begun = edgewise(*at, EDGEWISE_TOKEN="secret-one")  # noqa: S106 - of this test only

    assert refused.returncode == 2
    assert "token" in refused.stderr
    assert "3. Step aboard" in begun.stdout
    assert "warning" not in begun.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9"])
def test_a_server_that_is_not_there_is_told_in_a_sentence(url: str):
    ran = edgewise("play", "--url", url)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("no answer from http://127.0.0.1:9")
    assert "edgewise serve" in ran.stderr


def test_an_unknown_machine_of_a_server_is_told_with_the_one_that_was_meant(server: Server):
    ran = edgewise("play", "first_storey", "--url", server.url)

    assert (ran.returncode, ran.stderr) == (2, "there is no machine 'first_storey'. Did you mean 'first_story'?\n")


# On a terminal


class Terminal:
    """The command on a terminal of its own; `shown` is all that was drawn so far."""

    def __init__(self, *words: str, columns: int = 80, **variables: str) -> None:
        env = environment(**{"TERM": "xterm-256color", **variables})
        first, *rest = command(*words)
        self.child = pexpect.spawn(
            first, rest, env=env, cwd=str(ROOT), dimensions=(50, columns), encoding="utf-8", timeout=PATIENCE_S
        )
        self.shown = ""

    def wait_for(self, words: str) -> None:
        """Wait until these words are drawn."""
        self.child.expect_exact(words)
        self.shown += self.child.before + self.child.after

    def press(self, keys: str) -> None:
        """Press keys."""
        self.child.send(keys)

    def end(self) -> str:
        """Everything drawn up to the end of the process, which must be a good one."""
        self.child.expect(pexpect.EOF)
        self.shown += self.child.before
        self.child.close()
        assert self.child.exitstatus == 0
        return self.shown


DOWN, ENTER, CTRL_C, CTRL_D = "\x1b[B", "\r", "\x03", "\x04"


def on_terminal(project: Path, *words: str, **more: Any) -> Terminal:
    """The small project on a terminal, in English."""
    return Terminal("play", "--project", str(project), "--language", "en", "--seed", "demo", *words, **more)


def test_arrows_and_enter_choose(project: Path):
    terminal = on_terminal(project)
    terminal.wait_for("q leaves")

    terminal.press(DOWN + DOWN + ENTER)
    terminal.wait_for("❯ Step aboard")
    terminal.wait_for("q leaves")
    terminal.press("q")

    assert "RIVER" not in terminal.end()


def test_a_number_chooses_at_once_and_the_play_ends_in_colour(project: Path):
    terminal = on_terminal(project)
    terminal.wait_for("q leaves")

    terminal.press("3")
    terminal.wait_for("2. Ask him to turn back")
    terminal.press("2")
    terminal.wait_for("The end: Some other night")

    assert "\x1b[1;33m" in terminal.end()


@pytest.mark.parametrize("number", ["9", "0"])
def test_the_number_of_no_option_chooses_none(project: Path, number: str):
    terminal = on_terminal(project)
    terminal.wait_for("q leaves")

    terminal.press(number + ENTER)
    terminal.wait_for(f"There is no option {number}, only 1-3.")
    terminal.wait_for("q leaves")
    terminal.press("q")

    assert "❯ Read" not in terminal.end()


def test_why_and_help_are_a_key_away(project: Path):
    terminal = on_terminal(project)
    terminal.wait_for("q leaves")

    terminal.press("w")
    terminal.wait_for("Edge:")
    terminal.wait_for("q leaves")
    terminal.press("?")
    terminal.wait_for("choose an option")
    terminal.wait_for("q leaves")
    terminal.press("q")

    terminal.end()


@pytest.mark.parametrize("keys", ["q", CTRL_C, CTRL_D])
def test_leaving_is_polite(project: Path, keys: str):
    terminal = on_terminal(project)
    terminal.wait_for("q leaves")

    terminal.press(keys)

    assert "Until next time." in terminal.end()


def test_no_colour_is_drawn_where_none_is_wanted(project: Path):
    terminal = on_terminal(project, NO_COLOR="1")
    terminal.wait_for("q leaves")
    terminal.press("3")
    terminal.wait_for("2. Ask him to turn back")
    terminal.press(CTRL_C)

    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38)[;m]", terminal.end())


def test_words_are_typed_where_a_state_takes_them():
    terminal = Terminal("play", "ticket_triage", "--language", "en")
    terminal.wait_for("Ctrl-D leaves")

    terminal.press("3 pages q are blank")
    terminal.press(ENTER)
    terminal.wait_for("❯ “3 pages q are blank”")
    terminal.wait_for("Ctrl-D leaves")
    terminal.press("1" + ENTER)
    terminal.wait_for("❯ Ask for human approval")
    terminal.wait_for("Ctrl-D leaves")
    terminal.press(CTRL_D)

    terminal.end()


def test_a_terminal_that_can_do_little_is_asked_line_by_line(project: Path):
    terminal = on_terminal(project, TERM="dumb")
    terminal.wait_for("> ")

    terminal.press("3\r")
    terminal.wait_for("2. Ask him to turn back")
    terminal.wait_for("> ")
    terminal.press(CTRL_C)

    assert ESCAPE not in terminal.end()


def test_chinese_is_wrapped_to_the_width_by_its_own_rules(project: Path):
    """On a terminal without moves, where every line stands as it was drawn."""
    terminal = Terminal("play", "--project", str(project), "--seed", "demo", columns=40, TERM="dumb", COLUMNS="40")
    terminal.wait_for("> ")
    terminal.press("q\r")

    told = ANSI.sub("", terminal.shown.replace("\r", "\n")).splitlines()
    story = [line for line in told if "，" in line or "。" in line]
    assert len(story) > 2
    assert [line for line in story if line.strip()[0] in "，。、；：？！”）"] == []
    assert [line for line in story if sum(2 if letter >= "\u2e80" else 1 for letter in line) > 40] == []
    terminal.end()


# While a turn is told


@pytest.fixture
def dictated() -> Iterator[House]:
    """A server whose narrator writes a sentence when it is let."""
    with house_of(Dictating(*SENTENCES)) as house:
        yield house


def climbing(house: House) -> Terminal:
    """A terminal on which a turn is being told, up to its first sentence."""
    terminal = Terminal("play", "--url", house.server.url, "--language", "en", "--session", "s1")
    terminal.wait_for("q leaves")
    terminal.press("1")
    terminal.wait_for("❯ Go up")
    house.let(2)
    terminal.wait_for("The lamp goes out.")
    return terminal


def test_a_sentence_is_shown_before_the_next_is_told(dictated: House):
    terminal = climbing(dictated)
    assert len(dictated.server.journal("s1")) == 1

    dictated.let(len(SENTENCES) - 1)
    terminal.wait_for("It is you.")
    terminal.wait_for("q leaves")
    terminal.press("q")

    assert "goes differently" not in terminal.end()
    assert len(dictated.server.journal("s1")) == 2


def test_what_is_typed_while_a_turn_is_told_is_not_shown_and_chooses_nothing(dictated: House):
    terminal = climbing(dictated)
    while terminal.child.getecho():
        pass

    terminal.press("2 marmalade" + ENTER + "1")
    dictated.let(len(SENTENCES) - 1)
    terminal.wait_for("It is you.")
    terminal.wait_for("q leaves")
    terminal.press("w")
    terminal.wait_for("Edge:")
    terminal.wait_for("q leaves")
    terminal.press("q")

    assert "marmalade" not in terminal.end()
    assert len(dictated.server.journal("s1")) == 2


def test_what_was_told_of_a_turn_that_failed_is_said_not_to_count(dictated: House):
    dictated.narrator.failure = NarratorUnavailable("the storyteller is away")
    terminal = climbing(dictated)

    dictated.let_all()
    terminal.wait_for("What was just told does not count")
    terminal.wait_for("The storyteller has stepped away.")
    terminal.wait_for("q leaves")
    terminal.press("q")

    terminal.end()
    assert len(dictated.server.journal("s1")) == 1


def test_leaving_while_a_turn_is_told_stops_no_turn(dictated: House):
    terminal = climbing(dictated)

    terminal.press(CTRL_C)
    assert terminal.end().endswith("\n")
    dictated.let_all()

    ran = edgewise("play", "--url", dictated.server.url, "--session", "s1", "--language", "en")
    while "Going on at turn 2." not in ran.stdout + ran.stderr:
        ran = edgewise("play", "--url", dictated.server.url, "--session", "s1", "--language", "en")
    assert "It is you." in ran.stdout
