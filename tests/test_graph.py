"""A machine's picture: in a terminal, as an SVG, in Mermaid and dot; a session's path or a journal's heat on it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import pytest
from command import ESCAPE
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st
from served import SHIPPED, Process, shipped
from test_sessions_cli import Desk, _quiet  # noqa: F401 - a fixture

from runtime.machine import Machine
from server import graph
from server.bench.graph_layout import CELL, PAD, sheet_of
from server.bench.graph_svg import svg
from server.bench.graph_terminal import COLOURS, terminal
from server.bench.marks import BLANK, HOTTEST, Marks, path_of
from server.play.wrapping import width

SVG = "{http://www.w3.org/2000/svg}"
MARSH = """
machine: tiny
title: {zh: "沼泽 <灯>", en: Marsh & lamp}
language: zh
initial: {event: INIT, target: BANK}
context: {oil: {type: int, default: 1, min: 0, max: 3}}
events: {WAIT: {}, LOST: {}}
on:
  LOST: [{name: sink, guard: "oil <= 0 && turns_left < 3", target: UNDER, must: true}]
limits: {turns: 9}
states:
  BANK:
    label: {zh: "岸边“芦苇”🏮", en: The "bank"}
    options:
      - {key: wade, text: {zh: 下水, en: Wade in}, target: MARSH, assign: {oil: oil - 1}}
    on: {WAIT: BANK}
  MARSH:
    label: {zh: 沼泽, en: The marsh}
    on:
      BANK: [{name: back, guard: 'oil > 0 && session.difficulty != "HARD"', target: BANK}]
      OUT: OUT
  OUT: {type: final, label: {zh: 上岸, en: Ashore}}
  UNDER: {type: final}
"""


@pytest.fixture(scope="module")
def marsh() -> Machine:
    return tiny(MARSH)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A journal that is only read: one session has ended, one went back a turn, one has just begun."""
    made = Desk(tmp_path_factory.mktemp("desk"))
    made.play("one", 1, 2)
    made.play("two", 1, 1)
    made.good("sessions", "rewind", "two", "2")
    made.play("two", 2)
    made.play("three")
    return made


def texts(picture: str) -> list[str]:
    return ["".join(each.itertext()) for each in ET.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314 - our own


# What every form has.


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("form", ["mermaid", "dot", "svg", "terminal"])
@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_state_is_there_with_its_name_in_the_language_asked(name, form, language):
    machine = shipped()[name]
    draw = {"mermaid": graph.mermaid, "dot": graph.dot, "svg": svg, "terminal": terminal}[form]

    picture = draw(machine, BLANK, language)

    for state, written in machine.definition.states.items():
        assert state in picture
        assert written.label[language] in picture


@pytest.mark.parametrize("name", SHIPPED)
def test_a_terminal_shows_every_edge_and_no_line_is_wider_than_it(name):
    machine = shipped()[name]
    for language in ("zh", "en"):
        lines = click.unstyle(terminal(machine, BLANK, language)).splitlines()

        assert max(map(width, lines)) <= 80
        ways = [line for line in lines if line.startswith(("├─ ", "└─ "))]
        assert len(ways) == len(machine.edges)


def test_a_terminal_shows_the_way_of_each_edge(marsh):
    assert click.unstyle(terminal(marsh)).splitlines() == [
        "tiny “沼泽 <灯>”, version 1",
        "",
        "start",
        "└─ initial (INIT) → BANK",
        "",
        "BANK (岸边“芦苇”🏮)",
        "├─ wade “下水” → MARSH",
        "└─ WAIT → BANK",
        "",
        "MARSH (沼泽)",
        '├─ back [oil > 0 && session.difficulty != "HARD"] → BANK',
        "└─ OUT → OUT",
        "",
        "OUT (上岸) ■",
        "",
        "any state",
        "└─ sink (LOST) [oil <= 0 && turns_left < 3] must → UNDER",
        "",
        "UNDER ■",
    ]


# The SVG.


@pytest.mark.parametrize("name", SHIPPED)
def test_an_svg_stands_alone_and_says_what_it_shows(name):
    picture = svg(shipped()[name], Marks(counts={}), "zh")
    root = ET.fromstring(picture)  # noqa: S314 - our own

    title, told = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {told.get('id')}"
    assert shipped()[name].definition.title["zh"] in title.text
    assert f"{len(shipped()[name].edges)} of {len(shipped()[name].edges)} were never taken" in told.text
    assert "prefers-color-scheme:dark" in picture
    assert not re.search(r"<script|href|url\(|@import|<image|https?://(?!www\.w3\.org/2000/svg)", picture)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_card_lies_on_another_and_no_text_leaves_its_card(name):
    marks = Marks(counts={edge.full_name: 1_234_567 for edge in shipped()[name].edges})
    sheet = sheet_of(shipped()[name], marks, "zh")

    assert {card.name for card in sheet.cards} == {"", "*", *shipped()[name].definition.states}
    for card in sheet.cards:
        assert card.x + card.width <= sheet.width
        assert card.y + card.height <= sheet.height
        for row in card.rows:
            assert (width(row.text) + width(row.mark)) * CELL <= card.width - 2 * PAD
        for other in sheet.cards:
            apart = card.x + card.width < other.x or other.x + other.width < card.x
            assert card is other or apart or card.y + card.height < other.y or other.y + other.height < card.y


def test_a_later_state_stands_to_the_right_and_a_row_for_each_edge(marsh):
    cards = {card.name: card for card in sheet_of(marsh, BLANK).cards}

    assert cards[""].x < cards["BANK"].x < cards["MARSH"].x < cards["OUT"].x
    assert [row.edge for row in cards["MARSH"].rows] == ["MARSH.back", "MARSH.OUT>OUT"]


def test_what_a_designer_wrote_is_text_in_an_svg_and_never_markup(marsh):
    shown = texts(svg(marsh))

    assert "岸边“芦苇”🏮" in shown
    assert 'back [oil > 0 && session.difficulty != "HARD"]' in shown
    assert 'The "bank"' in texts(svg(marsh, language="en"))


def test_pictures_on_one_page_have_ids_of_their_own(marsh):
    ids = [re.findall(r'id="([^"]+)"', svg(marsh, prefix=prefix)) for prefix in ("a-", "b-")]

    assert ids == [["a-tiny-title", "a-tiny-desc"], ["b-tiny-title", "b-tiny-desc"]]


# Marks.


def test_heat_is_a_number_beside_its_colour_in_every_form(marsh):
    marks = Marks(counts={"initial": 3, "BANK.wade": 1200}, visits={"BANK": 3, "MARSH": 1200})

    shown = terminal(marsh, marks)
    assert click.style("  1,200×", fg=COLOURS[HOTTEST], bold=True) in shown
    assert click.style("  0×", fg=COLOURS[0], bold=True) in shown
    assert "wade “下水” → MARSH  1,200×" in click.unstyle(shown)
    assert {"3×", "1,200×", "0×"} <= set(texts(svg(marsh, marks)))
    assert "BANK --> MARSH: MARSH / wade 1,200×" in graph.mermaid(marsh, marks)
    assert 'label="MARSH / wade 1,200×", color="#d43d2a"' in graph.dot(marsh, marks)
    assert 'label="OUT 0×", color="#8a8a8a", penwidth=1.0, style="dashed"' in graph.dot(marsh, marks)


def test_a_path_is_told_by_its_turns(marsh):
    marks = path_of([(1, "initial", "BANK"), (2, "BANK.WAIT>BANK", "BANK"), (5, "BANK.wade", "MARSH")])

    lines = click.unstyle(terminal(marsh, marks)).splitlines()
    assert "BANK (岸边“芦苇”🏮)  turn 1, 2" in lines
    assert "├─ wade “下水” → MARSH  turn 5" in lines
    assert "└─ OUT → OUT" in lines
    assert "turn 5" in texts(svg(marsh, marks))
    many = path_of((number, "BANK.WAIT>BANK", "BANK") for number in range(1, 10))
    assert many.edge("BANK.WAIT>BANK") == "turn 1, 2, 3, 4, 5, 6 and 3 more"


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_turns_are_never_colder_and_only_none_is_never(one: int, other: int):
    marks = Marks(counts={"a": one, "b": other})

    assert (marks.heat("a") == 0) == (one == 0)
    assert 0 <= marks.heat("a") <= HOTTEST
    assert (one <= other) <= (marks.heat("a") <= marks.heat("b"))
    assert BLANK.heat("a") is None


def test_the_edges_of_one_option_are_told_apart():
    machine = tiny(
        """
        initial: HALL
        states:
          HALL:
            options:
              - key: search
                text: 翻找🔦
                dice: {find: 1d6}
                edges: [{name: sutra, guard: dice.find > 3, target: HALL}, {name: dust, target: HALL}]
              - {key: out, text: Out, target: OUT}
          OUT: {type: final}
        """
    )

    drawn = graph.mermaid(machine)

    assert "    HALL --> HALL: HALL / search.dust\n" in drawn
    assert "    HALL --> HALL: HALL / search.sutra [dice.find #62; 3]\n" in drawn
    assert "    HALL --> OUT: OUT / out\n" in drawn


def test_without_marks_a_picture_is_as_servers_have_drawn_it(marsh):
    assert "    BANK --> BANK: WAIT\n" in graph.mermaid(marsh)
    assert "classDef" not in graph.mermaid(marsh)
    assert '  "BANK" -> "BANK" [label="WAIT"];\n' in graph.dot(marsh)
    assert graph.of(marsh)["edges"][0] == {
        "name": "initial", "event": "INIT", "from": None, "to": "BANK", "option": None, "guard": None,
        "must": False, "once": False,
    }  # fmt: skip


# The command.


@pytest.mark.slow
def test_the_path_is_the_branch_that_the_session_stands_on(desk: Desk):
    shown = desk.good("graph", "hall", "--session", "two").out

    assert "The path of session two: 3 turns." in shown
    assert "hit “捶墙👻” → HALL  turn 2\n" in shown
    assert "“离开” → END_OUT  turn 4" in shown
    assert "turn 3" not in shown
    assert ESCAPE not in shown


@pytest.mark.slow
def test_the_heat_is_counted_over_all_sessions_and_branches(desk: Desk):
    shown = desk.good("graph", "hall", "--heat").out

    assert "The journal has 8 turns of 3 sessions." in shown
    assert "└─ initial (INIT) → HALL  3×" in shown
    assert "hit “捶墙👻” → HALL  3×" in shown
    assert "“离开” → END_OUT  2×" in shown


@pytest.mark.slow
def test_a_picture_is_written_to_a_file_without_colour(desk: Desk, tmp_path: Path):
    for form in ("svg", "terminal", "dot", "mermaid"):
        file = tmp_path / f"hall.{form}"
        said = desk.good("graph", "hall", "--format", form, "--language", "en", "--heat", "-o", str(file))
        written = file.read_text(encoding="utf-8")
        assert said.out == ""
        assert "Hall" in written
        assert ESCAPE not in written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hal"], "there is no machine 'hal'. Did you mean 'hall'?"),
        (["hall", "--language", "fr"], "hall offers zh, en, and no fr"),
        (["hall", "--session", "one", "--heat"], "two pictures"),
        (["hall", "--session", "nobody"], "there is no session 'nobody'"),
    ],
)
def test_what_can_t_be_drawn_is_refused_in_a_sentence(desk: Desk, words: list[str], told: str):
    before = desk.rows()

    said = desk.run("graph", *words)

    assert (said.code, said.out) == (2, "")
    assert told in " ".join(said.err.split())
    assert desk.rows() == before


@pytest.mark.slow
def test_a_session_is_not_drawn_on_another_machine(desk: Desk):
    other = (
        (desk.project / "machines" / "hall.yaml").read_text(encoding="utf-8").replace("machine: hall", "machine: cave")
    )
    (desk.project / "machines" / "cave.yaml").write_text(other, encoding="utf-8")

    said = desk.run("graph", "cave", "--session", "one")

    assert said.code == 2
    assert "session 'one' plays hall, and not cave" in said.err


@pytest.mark.slow
def test_a_path_says_which_edges_this_version_does_not_have(tmp_path: Path):
    desk = Desk(tmp_path)
    desk.play("s", 1, 2)
    file = desk.project / "machines" / "hall.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("key: leave", "key: go"), encoding="utf-8")

    shown = desk.good("graph", "hall", "--session", "s").out

    assert "The path of session s: 3 turns; this version has no edge HALL.leave." in shown
    assert "hit “捶墙👻” → HALL  turn 2" in shown


@pytest.mark.slow
def test_while_a_server_holds_the_journal_it_is_asked(tmp_path: Path):
    """With the lock file's token, and by its URL; sessions are not exported one by one."""
    held = Desk(tmp_path)
    held.play("一", 1, 2)
    with Process(held.project, held.journal, EDGEWISE_OPERATOR_TOKENS="operator") as process:
        near = held.good("graph", "hall", "--heat").out
        far = held.good("coverage", "hall", "--url", process.url, "--token", "operator").out
        logged = process.log.read_text(encoding="utf-8")

    assert "The journal has 3 turns of 1 session." in near
    assert "players: 3 turns of 1 session" in far
    assert logged.count("/store/coverage") == 2
    assert "/export" not in logged
