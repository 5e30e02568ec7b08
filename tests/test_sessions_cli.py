"""`edgewise sessions`, `db` and `migrate`: what they print, what they refuse, and whom they ask.

Most of it runs the command inside this process, on a journal that nobody holds; the last part runs
real processes, with a server that holds the journal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import duckdb
import httpx
import pytest
import structlog
from click.testing import CliRunner
from command import command, edgewise, environment
from postgres import database
from served import PATIENCE_S, Process, Web
from test_copying import opened, rows_of
from test_tending import served

from runtime.session import Invoke
from runtime.turn import play
from server.build import build_runtime
from server.cli import cli, guarded
from server.owner import Owner
from server.play.wrapping import width
from server.settings import load
from server.tend import pages
from server.tend.changing import days_of

HALL = """
machine: hall
title: {zh: 门厅, en: The Hall}
language: zh
history: {rewind: free}
initial: {event: INIT, target: HALL}
states:
  HALL:
    label: {zh: 门厅, en: Hall}
    options:
      - {key: hit, text: {zh: 捶墙👻, en: Hit the wall}, target: HALL}
      - {key: leave, text: {zh: 离开, en: Leave}, target: END_OUT}
  END_OUT: {type: final, ending: {title: {zh: 出来了, en: Out}, good: true}}
"""
PLAYERS = {"one": "安娜", "two": "bob", "three": None}
EXAMPLE = "edgewise "


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def whole(words: tuple[str, ...]) -> None:
    """The whole command, with what its last door makes of errors."""
    guarded(lambda: cli.main([*words], standalone_mode=False))


class Desk:
    """A project in a folder, its journal, and the command on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        (self.project / "machines").mkdir(parents=True)
        (self.project / "machines" / "hall.yaml").write_text(HALL, encoding="utf-8")
        self.journal = folder / "journal.duckdb"

    @property
    def options(self) -> list[str]:
        return ["--project", str(self.project), "--store", f"duckdb://{self.journal}"]

    def run(self, *words: str, typed: str | bytes = "") -> Said:
        """A command on this journal."""
        done = CliRunner().invoke(whole, [*words, *self.options], input=typed)
        return Said(done.exit_code, done.stdout, done.stderr)

    def good(self, *words: str, typed: str | bytes = "") -> Said:
        """A command that succeeds."""
        said = self.run(*words, typed=typed)
        assert said.code == 0, said
        return said

    def play(self, session_id: str, *options: int, player_id: str | None = None) -> None:
        """Begin a session where there is none, and choose."""
        asyncio.run(self._play(session_id, options, player_id))

    async def _play(self, session_id: str, options: tuple[int, ...], player_id: str | None) -> None:
        settings = load({"store": f"duckdb://{self.journal}", "project": str(self.project)}, environ={})
        runtime = build_runtime(settings)
        await runtime.open()
        if await runtime.store.head(session_id) is None:
            await play(runtime, Invoke(session_id=session_id, event="INIT", run_seed="seed", player_id=player_id))
        for option in options:
            await play(runtime, Invoke(session_id=session_id, selected_option_id=option))
        await runtime.close()

    def rows(self) -> list[Any]:
        """Everything that the journal keeps of its sessions."""
        return asyncio.run(self._rows())

    async def _rows(self) -> list[Any]:
        async with opened(self.journal) as store:
            return await rows_of(store)

    def ids(self) -> set[str]:
        return {row[0] for row in self.rows()}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of this environment is read; logs are as they were afterwards."""
    for name in ("EDGEWISE_TOKEN", "EDGEWISE_STORE", "EDGEWISE_PROJECT", "DEEPSEEK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with three sessions: one has ended, one was played twice, one has just begun."""
    desk = Desk(tmp_path_factory.mktemp("kept"))
    desk.play("one", 1, 2, player_id=PLAYERS["one"])
    desk.play("two", 1, 1, player_id=PLAYERS["two"])
    desk.play("three", player_id=PLAYERS["three"])
    return desk.journal


@pytest.fixture
def desk(tmp_path: Path, kept: Path) -> Desk:
    """A desk with a copy of that journal."""
    made = Desk(tmp_path)
    for file in kept.parent.glob(f"{kept.name}*"):
        if not file.name.endswith(".lock"):
            shutil.copy(file, tmp_path)
    return made


# Reading.


def test_the_list_is_a_table_whose_columns_stand_where_they_are(desk: Desk):
    """Chinese characters take two columns of a terminal: what follows them begins where the heading does."""
    heading, *lines = desk.good("sessions", "list").out.splitlines()

    starts = [width(heading[: heading.index(word)]) for word in ("MACHINE", "STATE", "PLAYER", "LAST PLAYED")]
    cells = [[_at(line, start) for start in starts] for line in lines]
    assert [row[:3] for row in cells] == [["hall", "HALL", "-"], ["hall", "HALL", "bob"], ["hall", "END_OUT", "安娜"]]
    assert all(row[3].startswith("20") for row in cells)
    assert [line.split()[0] for line in lines] == ["three", "two", "one"]


def _at(line: str, column: int) -> str:
    """The word that begins at a column of a terminal; '' where none does."""
    for index in range(len(line)):
        if width(line[:index]) == column and (index == 0 or line[index - 1] == " "):
            return line[index:].split("  ", maxsplit=1)[0]
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--player", "安娜"], ["one"]),
        (["--player", "nobody"], []),
        (["--ended"], ["one"]),
        (["--live"], ["three", "two"]),
        (["--machine", "hall", "--limit", "2"], ["three", "two"]),
        (["--machine", "attic"], []),
        (["--limit", "1"], ["three"]),
        (["--limit", "1", "--all"], ["three", "two", "one"]),
    ],
)
def test_the_list_is_narrowed(desk: Desk, options: list[str], expected: list[str]):
    listed = desk.good("sessions", "list", *options, "--format", "json").json
    assert [item["session"]["session_id"] for item in listed] == expected


def test_an_empty_list_says_so(desk: Desk):
    assert desk.good("sessions", "list", "--player", "nobody").out == "no sessions\n"


@pytest.mark.slow
def test_show_draws_the_history_as_a_tree(desk: Desk):
    desk.good("sessions", "rewind", "two", "1")
    desk.play("two", 1)
    desk.good("sessions", "regenerate", "two")
    desk.good("sessions", "fork", "two", "--at", "2", "--id", "what-if")

    standing, tree, marks = desk.good("sessions", "show", "two").out.split("\n\n")

    assert "turn        5, step 2" in standing
    assert tree.splitlines() == [
        "1 initial → HALL",
        "├─ 2 HALL.hit → HALL “捶墙👻”",
        "│  3 HALL.hit → HALL “捶墙👻”",
        "├─ 4 HALL.hit → HALL “捶墙👻”",
        "└─ 5 HALL.hit → HALL “捶墙👻” (told anew) ◀",
    ]
    assert [line.split("  ")[1] for line in marks.splitlines()] == [
        "rewind from turn 3 to turn 1",
        "fork at turn 5 into what-if",
    ]
    assert "fork of two at turn 2" in desk.good("sessions", "show", "what-if").out


def test_show_as_json_has_the_session_and_its_turns(desk: Desk):
    shown = desk.good("sessions", "show", "one", "--format", "json").json
    assert shown["session"]["ended"]
    assert [turn["turn"] for turn in shown["turns"]] == [1, 2, 3]


def test_a_long_line_of_the_tree_is_cut_where_the_terminal_ends():
    turn = {
        "turn": 7, "parent": None, "kind": "turn", "choice": "循声上楼" * 20,
        "outcome": {"edge": "HALL.hit", "to": "HALL"},
    }  # fmt: skip
    (line,) = pages.tree([turn], 7, columns=40)
    assert width(line) <= 40
    assert line.endswith("…")


def test_what_a_player_is_called_cant_move_the_cursor():
    at = "2026-01-31T14:05:00+00:00"
    session = {"session_id": "s", "machine": "hall", "state": "HALL", "turn": 1, "ended": False}
    table = pages.session_table([{"session": session, "player_id": "\x1b[2J\u202eevil\nline", "at": at}])
    assert len(table) == 2
    assert "\x1b" not in table[1]
    assert "\u202e" not in table[1]


@pytest.mark.slow
def test_tail_reads_the_last_turns(desk: Desk):
    lines = desk.good("sessions", "tail", "one", "-n", "2").out.splitlines()
    headings = [line for line in lines if line.startswith("──")]
    assert [heading.partition("turn ")[2] for heading in headings] == [
        "2 after 1: HALL.hit → HALL",
        "3 after 2: HALL.leave → END_OUT",
    ]
    assert "❯ 捶墙👻" in lines
    told = desk.good("sessions", "tail", "one", "-n", "1", "--format", "json").out.splitlines()
    assert [json.loads(line)["turn"] for line in told] == [3]
    assert desk.good("sessions", "tail", "one", "-n", "0").out == ""


def test_nobody_can_be_followed_while_this_command_holds_the_journal(desk: Desk):
    said = desk.run("sessions", "tail", "two", "-f")
    assert (said.code, said.out) == (2, "")
    assert "nobody can play" in said.err


@pytest.mark.slow
def test_reading_changes_nothing(desk: Desk):
    before = desk.rows()
    for words in (["list"], ["show", "one"], ["tail", "one"], ["prune", "--older-than", "0h", "--dry-run"]):
        desk.good("sessions", *words)
    desk.good("db", "verify")
    assert desk.rows() == before


@pytest.mark.slow
@pytest.mark.parametrize("words", [["show"], ["tail"], ["regenerate"], ["delete", "--yes"], ["rewind"], ["fork"]])
def test_a_session_that_is_not_there_is_wrong_use(desk: Desk, words: list[str]):
    first, *more = words
    said = desk.run("sessions", first, "nobody", *more, *(["1"] if first == "rewind" else []))
    assert (said.code, said.out) == (2, "")
    assert "no session 'nobody'" in said.err


# Changing.


@pytest.mark.slow
def test_rewind_moves_the_head_and_deletes_nothing(desk: Desk):
    told = desk.good("sessions", "rewind", "two", "previous").out
    assert "turn        2, step 2" in told
    moved = desk.good("sessions", "rewind", "two", "1", "--format", "json").json
    assert moved["session"]["turn"] == 1
    assert desk.good("sessions", "rewind", "two", "3", "--format", "json").json["session"]["step"] == 3
    assert len([row for row in desk.rows() if row[0] == "two"]) == 6


@pytest.mark.parametrize("turn", ["99", "first", "-1", "1.5"])
def test_a_turn_that_cant_be_gone_to_changes_nothing(desk: Desk, turn: str):
    before = desk.rows()
    said = (
        desk.run("sessions", "rewind", "two", "--", turn)
        if turn == "-1"
        else desk.run("sessions", "rewind", "two", turn)
    )
    assert (said.code, said.out) == (2, "")
    assert said.err
    assert desk.rows() == before


@pytest.mark.slow
def test_fork_makes_a_session_of_its_own(desk: Desk):
    forked = desk.good(
        "sessions", "fork", "one", "--at", "2", "--id", "what-if", "--same-dice", "--format", "json"
    ).json
    assert (forked["session"]["session_id"], forked["session"]["turn"]) == ("what-if", 2)
    made = desk.good("sessions", "fork", "two", "--format", "json").json["session"]["session_id"]
    assert desk.ids() == {"one", "two", "three", "what-if", made}

    taken = desk.run("sessions", "fork", "two", "--id", "what-if")

    assert taken.code == 2
    assert "what-if" in taken.err


def test_each_change_is_asked_under_a_key_of_its_own(desk: Desk):
    """Two of the same are two; one that is asked twice would be one."""
    for _ in range(2):
        desk.good("sessions", "regenerate", "two")
    asked = [json.loads(row[2]).get("key") for row in desk.rows() if row[0] == "two"]
    assert asked[:3] == [None] * 3
    assert len(set(asked[3:])) == 2
    assert all(len(key) == 36 for key in asked[3:])


# Out and in.


def test_an_export_follows_a_link_keeps_a_files_mode_and_leaves_a_device_as_it_is(desk: Desk, tmp_path: Path):
    desk.play("one")
    link, real, device = tmp_path / "link.md", tmp_path / "real.md", tmp_path / "null"
    real.touch(mode=0o600)
    link.symlink_to(real)
    device.symlink_to(os.devnull)

    desk.good("sessions", "export", "one", "--format", "md", "-o", str(link))
    desk.good("sessions", "export", "one", "--format", "md", "-o", str(device))

    assert link.is_symlink()
    assert "# " in real.read_text(encoding="utf-8")
    assert real.stat().st_mode & 0o777 == 0o600
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.slow
def test_what_is_exported_can_be_imported_elsewhere_and_under_another_name(desk: Desk, tmp_path: Path):
    """From a file and from standard input; into a project that has no journal yet, and no such machine."""
    file = tmp_path / "one.jsonl"
    assert desk.good("sessions", "export", "one", "-o", str(file)).out == ""
    printed = desk.good("sessions", "export", "one").out.splitlines()
    assert printed[1:] == file.read_text(encoding="utf-8").splitlines()[1:]  # the first says when it was made
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Desk(tmp_path / "elsewhere")

    elsewhere.good("sessions", "import", str(file))
    told = elsewhere.good("sessions", "import", "-", "--id", "again", "--format", "json", typed=file.read_bytes()).out

    assert json.loads(told.splitlines()[-1])["facts"]["session_id"] == "again"
    assert elsewhere.ids() == {"one", "again"}
    assert [row for row in elsewhere.rows() if row[0] == "one"] == [row for row in desk.rows() if row[0] == "one"]
    elsewhere.good("db", "verify")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "md", "html", "replay"])
def test_every_form_is_written_to_its_file_at_once_or_not_at_all(desk: Desk, tmp_path: Path, form: str):
    file = tmp_path / "out"
    file.write_text("before", encoding="utf-8")
    assert desk.run("sessions", "export", "nobody", "--format", form, "-o", str(file)).code == 2
    assert file.read_text(encoding="utf-8") == "before"
    desk.good("sessions", "export", "one", "--format", form, "-o", str(file))
    assert ("HALL.hit" if form == "replay" else "捶墙👻") in file.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.slow
def test_a_record_that_cant_be_taken_in_leaves_nothing(desk: Desk, tmp_path: Path):
    lines = desk.good("sessions", "export", "one").out.encode().splitlines(keepends=True)
    before = desk.rows()
    assert "exists already" in desk.run("sessions", "import", "-", typed=b"".join(lines)).err
    for typed, why in (
        (b"".join([*lines[:2], b"{\n", *lines[3:]]), "line 3"),
        (b"".join(lines).replace("捶墙".encode(), "捶门".encode()), "line 2"),
        (b"", "line 1"),
    ):
        said = desk.run("sessions", "import", "-", "--id", "new", typed=typed)
        assert (said.code, said.out) == (2, "")
        assert why in said.err
    assert desk.run("sessions", "import", str(tmp_path / "nowhere")).code == 2
    assert desk.rows() == before


# Deleting.


@pytest.mark.slow
def test_delete_asks_and_without_a_terminal_wants_to_be_sure(desk: Desk):
    said = desk.run("sessions", "delete", "one", typed="y\n")
    assert (said.code, desk.ids()) == (2, {"one", "two", "three"})
    assert "--yes" in said.err

    mistyped = desk.run("sessions", "delete", "one", "tow", "--yes")
    assert (mistyped.code, desk.ids()) == (2, {"one", "two", "three"})

    assert desk.good("sessions", "delete", "one", "two", "--yes").out == "deleted one\ndeleted two\n"
    assert desk.ids() == {"three"}
    assert "捶墙" not in desk.journal.read_bytes().decode("utf-8", "ignore") or desk.good("db", "compact")
    assert desk.good("db", "verify").code == 0


@pytest.mark.slow
def test_prune_wants_an_age_and_to_be_sure(desk: Desk):
    for age in ("30", "d", "-1d", "1y", "30 d", "1e9d"):
        wrong = desk.run("sessions", "prune", "--older-than", age, "--dry-run")
        assert wrong.code == 2
        assert "12h, 30d or 8w" in wrong.err
    assert desk.run("sessions", "prune", "--older-than", "0h").code == 2
    assert desk.ids() == {"one", "two", "three"}

    dry = desk.good("sessions", "prune", "--older-than", "0h", "--dry-run").out
    assert dry.startswith("session 'one' of hall, ended in END_OUT at turn 3")
    assert desk.ids() == {"one", "two", "three"}

    lines = desk.good("sessions", "prune", "--older-than", "0h", "--yes", "--format", "json").out.splitlines()
    assert json.loads(lines[-1])["facts"]["sessions"] == 1
    assert desk.ids() == {"two", "three"}
    desk.good("sessions", "prune", "--older-than", "0h", "--all", "--yes")
    assert desk.ids() == set()


@pytest.mark.parametrize(("age", "days"), [("12h", 0.5), ("30d", 30), ("1.5d", 1.5), ("2w", 14), ("0d", 0)])
def test_an_age_is_hours_days_or_weeks(age: str, days: float):
    assert days_of(age) == days


# The journal as a whole.


@pytest.mark.slow
def test_a_backup_is_a_journal_that_verifies_and_replaces_nothing(desk: Desk, tmp_path: Path):
    file = tmp_path / "monday.duckdb"
    assert str(file) in desk.good("db", "backup", str(file)).out
    again = desk.run("db", "backup", str(file))
    assert again.code == 2
    assert "replaces nothing" in again.err

    checked = desk.good("db", "verify", str(file), "--format", "json")

    assert json.loads(checked.out.splitlines()[-1])["is_good"]
    before = desk.rows()
    desk.journal = file
    assert desk.rows() == before


def test_verify_names_the_session_that_was_altered(desk: Desk):
    with duckdb.connect(str(desk.journal)) as db:
        db.execute(
            "UPDATE entries SET body = replace(body, 'HALL.hit', 'HALL.hid') WHERE session_id = 'two' AND seq = 2"
        )

    said = desk.run("db", "verify")

    assert said.code == 1
    assert "'two'" in said.out
    assert "'one'" not in said.out
    lines = [json.loads(line) for line in desk.run("db", "verify", "--format", "json").out.splitlines()]
    assert {name for line in lines if line["type"] == "found" for name in line["sessions"]} == {"two"}
    assert lines[-1]["type"] == "done"


def test_a_file_that_does_not_open_is_looked_into(desk: Desk, tmp_path: Path):
    """An older copy of the file beside a newer `.head`: what was answered since is gone, and that is found."""
    old = tmp_path / "old"
    shutil.copy(desk.journal, old)
    desk.play("two", 1)
    shutil.copy(old, desk.journal)
    desk.journal.with_name(f"{desk.journal.name}.wal").unlink(missing_ok=True)

    said = desk.run("db", "verify")

    assert said.code == 1
    assert said.out.startswith("the journal does not open: ")
    assert desk.run("sessions", "list").code == 2


@pytest.mark.parametrize("kept_part", [0.0, 0.1, 0.3, 0.6, 0.9])
def test_a_file_that_was_cut_is_found_wherever_it_ends(desk: Desk, kept_part: float):
    """Findings, never a fault of ours; and nothing is written to what is left."""
    os.truncate(desk.journal, int(desk.journal.stat().st_size * kept_part))
    left = desk.journal.read_bytes()

    said = desk.run("db", "verify")

    assert said.code == 1, said
    assert said.out.startswith("the journal does not open: ")
    assert desk.journal.read_bytes() == left


@pytest.mark.slow
def test_compact_and_verify_after_it(desk: Desk):
    desk.good("sessions", "delete", "one", "--yes")
    desk.good("db", "compact")
    desk.good("db", "verify")
    assert desk.ids() == {"two", "three"}


@pytest.mark.slow
def test_copy_goes_on_where_it_was(desk: Desk, tmp_path: Path):
    there = f"duckdb://{tmp_path / 'there.duckdb'}"
    words = ["db", "copy", f"duckdb://{desk.journal}", there]

    first, again = (CliRunner().invoke(whole, [*words, "--format", "json"]) for _ in range(2))
    desk.play("two", 1)
    since = CliRunner().invoke(whole, [*words, "--format", "json"])

    added = [json.loads(each.stdout.splitlines()[-1])["facts"]["added"] for each in (first, again, since)]
    assert added == [7, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("{journal}", "{journal}", "the same journal"),
        ("duckdb:///nowhere/there.duckdb", "{journal}", "no journal at"),
        ("memory:", "{journal}", "memory:"),
        ("sqlite:///x", "{journal}", "is no store"),
        ("{journal}", "{other}", "another journal"),
    ],
)
def test_what_cant_be_copied_is_said_in_a_sentence(desk: Desk, tmp_path: Path, source: str, target: str, why: str):
    (tmp_path / "other").mkdir()
    other = Desk(tmp_path / "other")
    other.play("x")
    before = desk.rows(), other.rows()
    urls = {"journal": f"duckdb://{desk.journal}", "other": f"duckdb://{other.journal}"}

    done = CliRunner().invoke(whole, ["db", "copy", source.format(**urls), target.format(**urls)])

    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
    assert (desk.rows(), other.rows()) == before


def test_migrate_says_what_would_move(desk: Desk):
    told = desk.good("migrate", "--dry-run", "--format", "json").out.splitlines()
    assert json.loads(told[-1])["is_good"]
    unknown = desk.run("migrate", "hal", "--dry-run")
    assert unknown.code == 2
    assert "hall" in unknown.err


# PostgreSQL.


@pytest.mark.slow
def test_a_journal_in_postgresql_is_copied_to_tended_and_copied_back(desk: Desk, tmp_path: Path):
    """Any number of servers may be at it: the command is one more process."""
    before = desk.rows()
    with database() as url:
        there = ["--store", url, "--project", str(desk.project)]
        for words in (
            ["db", "copy", f"duckdb://{desk.journal}", url, "--project", str(desk.project)],
            ["sessions", "list", *there], ["sessions", "show", "one", *there], ["db", "verify", *there],
            ["db", "compact", *there], ["db", "backup", str(tmp_path / "backup.duckdb"), *there],
            ["db", "copy", url, f"duckdb://{tmp_path / 'back.duckdb'}", "--project", str(desk.project)],
            ["sessions", "rewind", "two", "previous", *there], ["migrate", "--dry-run", *there],
            ["sessions", "prune", "--older-than", "0h", "--yes", *there], ["sessions", "tail", "two", *there],
        ):  # fmt: skip
            done = CliRunner().invoke(whole, words)
            assert done.exit_code == 0, (words, done.stderr)
        gone = CliRunner().invoke(whole, ["sessions", "show", "one", *there])
    assert "no session 'one'" in gone.stderr
    for name in ("backup.duckdb", "back.duckdb"):
        desk.journal = tmp_path / name
        assert desk.rows() == before
        desk.good("db", "verify")
    assert [item["session"]["session_id"] for item in desk.good("sessions", "list", "--format", "json").json] == [
        "three", "two", "one",
    ]  # fmt: skip


# Wrong use.


def test_without_a_journal_none_is_made(tmp_path: Path):
    desk = Desk(tmp_path)
    for words in (["sessions", "list"], ["db", "verify"], ["db", "backup", "x.duckdb"], ["migrate"]):
        said = desk.run(*words)
        assert said.code == 2
        assert "there is no journal at" in said.err
    assert not desk.journal.exists()


def test_a_journal_in_memory_is_asked_for_at_its_server(tmp_path: Path):
    done = CliRunner().invoke(whole, ["sessions", "list", "--store", "memory:", "--project", str(tmp_path)])
    assert done.exit_code == 2
    assert "--url" in done.stderr


@pytest.mark.slow
def test_a_faulty_machine_stands_in_nobodys_way(desk: Desk, tmp_path: Path):
    """What only tends the journal doesn't read the project; migrate does, and says its faults."""
    (desk.project / "machines" / "hall.yaml").write_text(HALL.replace("target: END_OUT", "target: ENDE"), "utf-8")
    desk.good("sessions", "show", "two")
    desk.good("sessions", "regenerate", "two")
    desk.good("db", "verify")
    desk.good("db", "backup", str(tmp_path / "b.duckdb"))
    said = desk.run("migrate")
    assert said.code == 1
    assert "ENDE" in said.err


def commands(group: Any = cli, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that tends, with the words that lead to it."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*names, name))
        elif names or name == "migrate":
            yield (*names, name), each


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_help_teaches_with_commands_to_copy(words: tuple[str, ...]):
    """Each example is on a line of its own, and its options are those of its command."""
    said = CliRunner().invoke(whole, [*words, "--help"], env={"COLUMNS": "160"}).stdout
    examples = [line.strip() for line in said.splitlines() if line.strip().startswith(EXAMPLE)]
    assert examples
    known = {option for each in dict(commands())[words].params for option in (*each.opts, *each.secondary_opts)}
    own = [example for example in examples if example.startswith(EXAMPLE + " ".join(words))]
    assert own
    used = {word for example in own if "|" not in example for word in example.split() if word.startswith("-")}
    assert used <= known | {"-"}


# Asking again.


class Lossy(httpx.AsyncBaseTransport):
    """A network that loses the first answers, after the server has done what was asked."""

    def __init__(self, inner: httpx.AsyncBaseTransport, losses: int) -> None:
        self.inner = inner
        self.losses = losses
        self.sent = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, or its loss."""
        answer = await self.inner.handle_async_request(request)
        self.sent += 1
        if self.sent <= self.losses:
            await answer.aread()
            await answer.aclose()
            raise httpx.ReadError("the connection was lost")
        return answer


@pytest.mark.parametrize("losses", [0, 1, 3])
async def test_a_change_whose_answer_is_lost_is_made_once(tmp_path: Path, losses: int):
    async with served(tmp_path) as web:
        await web.play("s1")
        lossy = Lossy(web.client._transport, losses)
        async with httpx.AsyncClient(transport=lossy, base_url="http://test") as client:
            owner = Owner(client, "the server", pause_s=0)
            shown = await owner.ask("POST", "/sessions/s1/regenerate", {}, key="k" * 36)
        assert lossy.sent == losses + 1
        assert shown["session"]["turn"] == 2
        assert len(await web.runtime.store.entries("s1")) == 2


# Real processes.


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Process]]:
    """A server with tokens that holds a journal."""
    desk = Desk(tmp_path_factory.mktemp("held"))
    desk.play("one", 1, 2, player_id="安娜")
    desk.play("two", 1)
    tokens = {"EDGEWISE_PLAY_TOKENS": "player", "EDGEWISE_OPERATOR_TOKENS": "operator"}
    with Process(desk.project, desk.journal, **tokens) as process:
        yield desk, process


def asked(desk: Desk, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command on the desk's journal, as a process."""
    return edgewise(*words, *desk.options, **variables)


@pytest.mark.slow
def test_while_a_server_holds_the_journal_commands_go_through_it(held: tuple[Desk, Process], tmp_path: Path):
    """With the lock file's token: nobody types one. The server's own log has the requests."""
    desk, process = held
    for words in (
        ["sessions", "fork", "two", "--id", "branch"], ["db", "verify"], ["db", "backup", str(tmp_path / "b.duckdb")],
        ["sessions", "delete", "branch", "--yes"],
    ):  # fmt: skip
        done = asked(desk, *words)
        assert done.returncode == 0, done.stderr
    logged = process.log.read_text(encoding="utf-8")
    for route in ("/store/verify", "/store/backup", "/sessions/two/fork", "/sessions/branch"):
        assert route in logged
    assert "安娜" in asked(desk, "sessions", "list").stdout
    with Web(process.url, Authorization="Bearer player") as web:
        web.invoke("two", option=1)


@pytest.mark.slow
def test_a_second_server_is_refused_and_told_of_postgresql(held: tuple[Desk, Process]):
    desk, process = held
    done = asked(desk, "serve", "--port", "0")
    assert done.returncode == 2
    assert process.url in done.stderr
    assert "PostgreSQL" in done.stderr


@pytest.mark.slow
def test_a_copy_of_a_held_journal_is_what_it_had_then(held: tuple[Desk, Process], tmp_path: Path):
    desk, _ = held
    there = tmp_path / "there.duckdb"
    done = edgewise("db", "copy", f"duckdb://{desk.journal}", f"duckdb://{there}", "--format", "json")
    assert done.returncode == 0, done.stderr
    into = edgewise("db", "copy", f"duckdb://{there}", f"duckdb://{desk.journal}")
    assert into.returncode == 2
    assert "PostgreSQL" in into.stderr
    assert json.loads(done.stdout.splitlines()[-1])["facts"]["entries"] >= 5


@pytest.mark.slow
def test_another_server_is_asked_with_a_token_of_its_own(held: tuple[Desk, Process]):
    _, process = held
    url = ["--url", process.url]
    assert edgewise("sessions", "list", *url, EDGEWISE_TOKEN="operator").returncode == 0  # noqa: S106 - a test's
    player = edgewise("db", "verify", *url, "--token", "player")
    elsewhere = edgewise("db", "backup", "/var/b.duckdb", *url, "--token", "operator")
    nowhere = edgewise("sessions", "list", "--url", "http://127.0.0.1:9")
    told = [("role operator", player), ("data folder", elsewhere), ("no answer from", nowhere)]
    for why, done in told:
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr


@pytest.mark.slow
def test_tail_follows_until_the_session_has_ended(held: tuple[Desk, Process]):
    desk, process = held
    with Web(process.url, Authorization="Bearer player") as web:
        web.invoke("followed", "INIT")
        words = command("sessions", "tail", "followed", "-f", "--format", "json", *desk.options)
        with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True, encoding="utf-8") as tail:
            assert tail.stdout is not None
            turns = [json.loads(tail.stdout.readline())["turn"]]
            for option in (1, 2):
                web.invoke("followed", option=option)
                turns.append(json.loads(tail.stdout.readline())["turn"])
            assert tail.stdout.read() == ""
            assert tail.wait(PATIENCE_S) == 0
    assert turns == [1, 2, 3]


@pytest.mark.slow
def test_after_a_crash_of_the_server_the_journal_is_tended_without_one(tmp_path: Path):
    desk = Desk(tmp_path)
    desk.play("one", 1)
    with Process(desk.project, desk.journal) as process:
        with Web(process.url) as web:
            web.invoke("one", option=1)
        process.kill()
    done = asked(desk, "sessions", "show", "one", "--format", "json")
    assert json.loads(done.stdout)["session"]["turn"] == 3
    assert asked(desk, "db", "verify").returncode == 0


@pytest.mark.slow
def test_nothing_but_text_comes_out_where_there_is_no_terminal(desk: Desk):
    for words in (["db", "verify", *desk.options], ["sessions", "--help"]):
        done = edgewise(*words)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
