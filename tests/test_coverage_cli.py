"""`edgewise coverage`: what replays hit, what players hit, what nobody does; thresholds; a page to read."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import SCALE, tiny
from msgspec.structs import replace
from served import SHIPPED, shipped
from test_sessions_cli import Said, _quiet, whole  # noqa: F401 - a fixture
from test_tending import HALL, TOKENS, served

from runtime import history
from runtime.bench import journal
from runtime.bench.coverage import Coverage, covered, goals, read_plain
from runtime.bench.trial import Trial
from runtime.machine import Machine
from runtime.model import edges_of
from runtime.narrators.offline import Offline
from runtime.progress import Done, Progress
from runtime.session import Invoke
from runtime.stores import Row
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play
from server.bench.coverage_html import lines_of
from server.bench.coverage_report import OfReplays, Share, report_of, rounded
from server.bench.covering import thresholds
from server.bench.played import Journal, played_in_journal
from server.build import build_runtime
from server.owner import Owner
from server.settings import load

LAMP = """\
machine: lamp
title: {zh: 灯, en: The lamp}
language: zh
initial: {event: INIT, target: HALL}
context: {oil: {type: int, default: 1, min: 0, max: 3}}
events: {WIND: {}}
states:
  HALL:
    label: {zh: 前厅, en: The hall}
    options:
      - {key: light, text: {zh: 点灯, en: Light it}, guard: oil > 0, event: HALL, target: HALL, assign: {oil: oil - 1}}
      - {key: leave, text: {zh: 出门, en: Leave}, event: OUT, target: OUT}
    on:
      WIND:
        dice: {gust: 1d6}
        edges:
          - {name: gust, guard: "dice.gust >= 5", target: DARK}
          - {name: breeze, target: HALL}
  DARK: {type: final, label: {zh: 灯灭了, en: Dark}}
  OUT: {type: final, label: {zh: 门外, en: Outside}}
"""
LIGHT = """\
replay: 点灯再出门
given: {machine: lamp, language: zh, seed: a}
steps:
  - {send: INIT, expect: {state: HALL}}
  - {choose: light, expect: {edge: HALL.light, context: {oil: 0}}}
  - {choose: leave, expect: {ended: true}}
"""
WIND = """\
replay: 风
given: {machine: lamp, language: zh}
each: {seed: [a, b]}
steps:
  - {send: INIT}
  - {send: WIND, dice: {gust: 2}, expect: {edge: HALL.breeze}}
"""


class Bench:
    """A project with one machine, its replays, and the command on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.duckdb"
        self.write("machines/lamp.yaml", LAMP)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *words: str) -> Said:
        done = CliRunner().invoke(whole, ["coverage", "--project", str(self.folder), "-j", "1", *words])
        return Said(done.exit_code, done.stdout, done.stderr)

    def told(self, *words: str) -> dict[str, Any]:
        """The one machine's report as JSON."""
        (report,) = self.run("--format", "json", *words).json["machines"]
        return report

    def play(self, session_id: str, *sent: dict[str, Any]) -> None:
        asyncio.run(self._play(session_id, sent))

    async def _play(self, session_id: str, sent: tuple[dict[str, Any], ...]) -> None:
        runtime = build_runtime(load({"store": f"duckdb://{self.journal}", "project": str(self.folder)}, environ={}))
        await runtime.open()
        await play(runtime, Invoke(session_id=session_id, event="INIT", run_seed="a"))
        for each in sent:
            await play(runtime, Invoke(session_id=session_id, **each))
        await runtime.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def line_of(text: str) -> int:
    """The line of the machine's file that has a text."""
    (number,) = [number for number, line in enumerate(LAMP.splitlines(), 1) if text in line]
    return number


# Replays.


def test_what_replays_miss_is_named_by_file_and_line(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)

    said = bench.run()

    assert said.code == 0
    assert re.search(r"edges +3/5 60%\n", said.out)
    assert re.search(r"guards +2/4 50%\n", said.out)
    assert "1 replay, 3 turns" in said.out
    gust, breeze, dark = line_of("name: gust"), line_of("name: breeze"), line_of("DARK: {type")
    _, _, missed = said.out.partition("missed:\n")
    assert [line.strip() for line in missed.splitlines()] == [
        f"machines/lamp.yaml:{gust} edge HALL.gust",
        f"machines/lamp.yaml:{gust} guard HALL.gust is true",
        f"machines/lamp.yaml:{gust} guard HALL.gust is false",
        f"machines/lamp.yaml:{breeze} edge HALL.breeze",
        f"machines/lamp.yaml:{dark} state DARK",
        f"machines/lamp.yaml:{dark} ending DARK",
    ]


@pytest.mark.slow
def test_replays_are_added_up_with_all_their_combinations_on_any_number_of_processes(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)
    bench.write("replays/lamp/wind.replay.yaml", WIND)

    one, two = bench.told(), bench.told("-j", "2")

    assert one == two
    assert one["replays"] == {"played": 3, "failed": [], "turns": 7}
    hits = read_plain(one["hits"]["replays"])
    assert hits.edges == {"initial": 3, "HALL.light": 1, "HALL.leave": 1, "HALL.breeze": 2}
    assert hits.guards["HALL.gust", False] == 2
    assert hits.pairs["initial", "HALL.breeze"] == 2


def test_a_failing_replay_counts_up_to_where_it_fails_and_is_named(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT.replace("oil: 0}", "oil: 3}"))

    said, told = bench.run(), bench.told()

    assert said.code == 0
    assert "1 failed, and counted up to there: replays/lamp/light.replay.yaml::点灯再出门" in said.out
    assert "HALL.leave" not in told["hits"]["replays"]["edges"]
    assert told["hits"]["replays"]["edges"]["HALL.light"] == 1


def test_a_replay_that_can_t_be_read_is_told_with_its_place_and_nothing_is_measured(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT.replace("choose: light", "choose: lihgt"))

    said = bench.run()

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("replays/lamp/light.replay.yaml:5:")
    assert "light" in said.err


def test_without_replays_all_is_missed(bench: Bench):
    told = bench.told()

    assert told["replays"] == {"played": 0, "failed": [], "turns": 0}
    assert {share["hit"] for share in told["shares"]["replays"].values()} == {0}
    assert len(told["missed"]) == len(goals(machine()))


def test_only_the_machines_asked_for_are_measured(bench: Bench):
    bench.write("machines/cave.yaml", LAMP.replace("machine: lamp", "machine: cave"))
    bench.write("replays/lamp/light.replay.yaml", LIGHT)

    both, one = bench.run("--format", "json").json, bench.run("cave", "--format", "json").json
    none = bench.run("lmap")

    assert [each["machine"] for each in both["machines"]] == ["cave", "lamp"]
    assert [(each["machine"], each["replays"]["played"]) for each in one["machines"]] == [("cave", 0)]
    assert none.code == 2
    assert "there is no machine 'lmap'. Did you mean 'lamp'?" in none.err


def test_a_replay_of_a_machine_that_isn_t_there_is_told_and_one_that_isn_t_asked_for_is_none(bench: Bench):
    bench.write("machines/cave.yaml", LAMP.replace("machine: lamp", "machine: cave"))
    bench.write("replays/lamp/light.replay.yaml", LIGHT)

    fine = bench.run("cave")
    bench.write("replays/lamp/wind.replay.yaml", WIND.replace("machine: lamp", "machine: lmap"))
    stray = bench.run("cave")

    assert fine.code == 0
    assert (stray.code, stray.out) == (1, "")
    assert stray.err.startswith("replays/lamp/wind.replay.yaml:2:9 E901 no machine 'lmap'. Did you mean 'lamp'?")


def test_replays_may_stand_outside_the_project_and_reproduce_each_other(bench: Bench, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "light.replay.yaml").write_text(LIGHT.replace("  - {choose: leave, expect: {ended: true}}\n", ""))
    again = "replay: again\nreproduce: light.replay.yaml\nsteps: [{choose: leave}]\n"
    (elsewhere / "again.replay.yaml").write_text(again, encoding="utf-8")

    told = bench.told("--replays", str(elsewhere))

    assert told["replays"] == {"played": 2, "failed": [], "turns": 5}
    assert told["hits"]["replays"]["endings"] == {"OUT": 1}


# Exploration.


def test_an_exploration_counts_as_a_test_and_says_why_it_missed_something(bench: Bench):
    """The lamp holds one measure of oil, so that nobody ever has two."""
    bench.write("machines/lamp.yaml", LAMP.replace("guard: oil > 0,", "guard: oil > 1,"))
    bench.write("replays/lamp/wind.replay.yaml", WIND)

    said = bench.run("--explore", "--fail-under", "endings=100")
    told = bench.told("--explore")

    assert said.code == 0
    assert re.search(r" +replays +explored +together\n", said.out)
    assert re.search(r"endings +0/2 0% +2/2 100% +2/2 100%\n", said.out)
    assert [each["name"] for each in told["missed"] if each["kind"] in {"edges", "guards"}] == [
        "HALL.light", "HALL.light is true",
    ]  # fmt: skip
    assert all(each["why"] for each in told["missed"] if each["kind"] == "guards")
    assert told["explored"]["turns"] > 0
    assert told["explored"]["bounded"]


# Thresholds.


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("50", 0), ("51", 1), ("edges=60", 0), ("edges=60.1", 1), ("guards=50,options=100", 0),
        ("90,edges=60,guards=50,endings=50", 0), ("pairs=50", 1), ("0", 0),
    ],
)  # fmt: skip
def test_a_threshold_is_met_by_each_kind_or_the_exit_code_is_1(bench: Bench, wanted: str, code: int):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)

    said = bench.run("--fail-under", wanted)

    assert said.code == code, said.out
    assert ("is under" in said.out) == bool(code)


def test_a_number_alone_is_for_edges_guards_and_endings(bench: Bench):
    assert thresholds("90,guards=95") == {"edges": 90, "guards": 95, "endings": 90}
    assert thresholds("guards=95,90") == thresholds("90,guards=95")
    assert thresholds(None) == {}
    told = bench.told("--fail-under", "10")
    assert [(each["kind"], each["percent"], each["wanted"]) for each in told["under"]] == [
        ("edges", 0, 10), ("guards", 0, 10), ("endings", 0, 10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("edgse=5", "knows no 'edgse': did you mean 'edges'?"),
        ("101", "wants percent from 0 to 100"),
        ("-1", "wants percent from 0 to 100"),
        ("guards=", "wants percent from 0 to 100"),
        ("nan", "wants percent from 0 to 100"),
        ("", "wants percent from 0 to 100"),
    ],
)
def test_a_threshold_that_is_none_is_wrong_use(bench: Bench, wanted: str, told: str):
    said = bench.run("--fail-under", wanted)

    assert said.code == 2
    assert told in " ".join(said.err.split())


def test_a_share_is_never_rounded_up_to_all():
    assert rounded(Share(9999, 10000)) == "99.9%"
    assert rounded(Share(10000, 10000)) == rounded(Share(0, 0)) == "100%"


# The journal.


@pytest.mark.slow
def test_edges_that_players_use_and_tests_don_t_stand_apart_and_meet_no_threshold(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)
    bench.play("一", {"event": "WIND", "dice": {"gust": 6}})
    bench.play("two", {"event": "WIND", "dice": {"gust": 5}})
    store = f"duckdb://{bench.journal}"

    said = bench.run("--store", store, "--fail-under", "edges=61")
    told = bench.told("--store", store)

    assert said.code == 1
    assert (
        f"players use and tests don't:\n    machines/lamp.yaml:{line_of('name: gust')} edge HALL.gust, 2×" in said.out
    )
    assert "players: 4 turns of 2 sessions" in said.out
    assert re.search(r"edges +3/5 60% +2/5 40% +4/5 80%\n", said.out)
    assert told["only_players"] == [
        {"edge": "HALL.gust", "turns": 2, "file": "machines/lamp.yaml", "line": line_of("name: gust")}
    ]
    assert told["journal"] == {"sessions": 2, "turns": 4, "other_versions": 0}


@pytest.mark.slow
def test_turns_of_another_version_count_what_still_exists_by_its_name(bench: Bench):
    bench.write("machines/lamp.yaml", LAMP.replace("name: breeze", "name: lull"))
    bench.play("old", {"event": "WIND", "dice": {"gust": 1}}, {"event": "WIND", "dice": {"gust": 6}})
    bench.write("machines/lamp.yaml", LAMP)
    bench.play("new", {"selected_option_id": 2})

    told = bench.told("--store", f"duckdb://{bench.journal}")

    assert told["journal"] == {"sessions": 2, "turns": 5, "other_versions": 3}
    players = read_plain(told["hits"]["players"])
    assert players.edges == {"initial": 2, "HALL.gust": 1, "HALL.leave": 1}
    assert players.pairs == {("initial", "HALL.leave"): 1}


def test_without_a_journal_the_command_says_so(bench: Bench):
    said = bench.run("--journal", "--store", f"duckdb://{bench.folder / 'none.duckdb'}")

    assert (said.code, said.out) == (2, "")
    assert "there is no journal at" in said.err


async def test_the_route_counts_turns_and_not_what_was_told_again_or_copied(tmp_path: Path):
    async with served(tmp_path) as web:
        await web.play("s1", to_end=True)
        await history.rewind(web.runtime, "s1", 1)
        await history.fork(web.runtime, "s1", None, child_id="s2")
        *progress, last = await web.steps("coverage", {"machine": "tiny"})
        other = (await web.steps("coverage", {"machine": "nobody"}))[-1]

    assert [step["type"] for step in progress] == []
    facts = last["facts"]
    (version,) = facts["versions"]
    assert (facts["sessions"], facts["turns"], facts["unjudged"]) == (1, 2, 0)
    assert (version["machine"], version["digest"]) == ("tiny", tiny(HALL).digest)
    assert read_plain(version["coverage"]).edges == {"initial": 1, "HALL.leave": 1}
    assert read_plain(version["coverage"]).pairs == {("initial", "HALL.leave"): 1}
    assert other["facts"] == {"sessions": 0, "turns": 0, "unjudged": 0, "versions": []}


async def test_the_route_is_for_operators(tmp_path: Path):
    async with served(tmp_path, settings=TOKENS) as web:
        refused = await web.refused("coverage", 401)
        player = await web.refused("coverage", 403, headers={"Authorization": "Bearer player-token"})
    assert (refused["error"], player["error"]) == ("unauthenticated", "forbidden")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
async def test_a_journal_counts_what_a_trial_counts_of_the_same_turns(name: str, start: Any):
    """Edges, guards, pairs: whoever plays, the same turns hit the same."""
    machine = shipped()[name]
    client, rng = await start(machine), random.Random(name)  # noqa: S311 - no secret
    trial, first = Trial(machine, tells=True), {"event": machine.definition.first.event, "run_seed": name}
    await play(client.runtime, Invoke(session_id="s", **first))
    steps = [trial.begin(Invoke(**first))]
    while steps[-1].after.offer and len(steps) < 30 * SCALE and not steps[-1].after.ended:
        chosen = {"selected_option_id": rng.choice(steps[-1].after.offer).id, "payload": {}}
        await play(client.runtime, Invoke(session_id="s", elapsed_active_seconds=0, **chosen))
        steps.append(trial.take(steps[-1].after, Invoke(**chosen)))

    last = [step async for step in journal.counted(client.runtime, name)][-1]

    (version,) = last.facts["versions"]
    assert read_plain(version["coverage"]) == covered(machine, steps)


class Damaged(MemoryStore):
    """A store whose first entry was altered."""

    async def walk(self, after: str = "") -> AsyncIterator[Row]:
        is_first = True
        async for row in super().walk(after):
            yield replace(row, body=b"{}") if is_first else row
            is_first = False


async def test_what_can_t_be_read_is_left_out_and_the_rest_is_counted_on_its_way(tmp_path: Path):
    async with served(tmp_path, Damaged()) as web:
        await web.play("s1", to_end=True)
        *progress, last = [step async for step in journal.counted(web.runtime, every=1)]

    assert progress == [Progress(1, 2), Progress(2, 2)]
    assert isinstance(last, Done)
    assert read_plain(last.facts["versions"][0]["coverage"]).edges == {"HALL.leave": 1}


class Forgetful(MemoryStore):
    """A store that has lost its definitions."""

    async def kept(self, digest: str) -> dict[str, str] | None:  # noqa: ARG002 - none is there
        return None


async def test_a_turn_whose_definition_is_lost_counts_by_its_outcome(tmp_path: Path):
    async with served(tmp_path, store := Forgetful()) as web:
        await web.play("s1", to_end=True)
        last = [step async for step in journal.counted(Runtime(store, Offline(), {}, ""))][-1]

    assert isinstance(last, Done)
    coverage = read_plain(last.facts["versions"][0]["coverage"])
    assert last.facts["unjudged"] == 2
    assert coverage.edges == {"initial": 1, "HALL.leave": 1}
    assert coverage.pairs == {("initial", "HALL.leave"): 1}
    assert coverage.guards == {}


# The page.


class Page(HTMLParser):
    """A page's elements as they stand, and whether each is closed."""

    VOID = ("meta", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def machine() -> Machine:
    return tiny(LAMP, "lamp")


def test_the_page_stands_alone_and_colours_the_lines_with_a_sign_beside(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)
    file = bench.folder / "coverage.html"

    said = bench.run("--format", "html", "-o", str(file))
    written = file.read_text(encoding="utf-8")
    page = Page(written)

    assert (said.code, said.out) == (0, "")
    assert page.open == []
    assert "<script" not in written
    assert not [attrs for _, attrs in page.seen if "src" in attrs]
    assert {attrs["href"][0] for tag, attrs in page.seen if tag == "a"} == {"#"}
    ids = {attrs["id"] for _, attrs in page.seen if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.seen if tag == "a"} <= ids
    rows = {attrs["id"]: attrs.get("class") for tag, attrs in page.seen if tag == "tr" and "id" in attrs}
    assert len(rows) == len(LAMP.splitlines())
    assert rows[f"m-lamp-{line_of('key: light')}"] == "hit"
    assert rows[f"m-lamp-{line_of('name: gust')}"] == "missed"
    assert rows["m-lamp-1"] is None
    assert f'>✗</td><td class="n">{line_of("name: gust")}</td>' in written
    assert "前厅" in page.text
    assert ("svg", "img") in {(tag, attrs.get("role")) for tag, attrs in page.seen}


def test_a_line_is_hit_when_all_on_it_is_and_partly_when_some_is():
    lamp = machine()
    some = Coverage(states={"HALL": 1}, edges={"HALL.gust": 2}, guards={("HALL.gust", True): 2})
    players = Journal(Coverage(edges={"HALL.breeze": 4}))

    lines = lines_of(report_of(lamp, OfReplays(some), journal=players))

    gust, breeze = lines[line_of("name: gust")], lines[line_of("name: breeze")]
    assert (gust.status, gust.turns, gust.why) == ("partial", 2, ("guard HALL.gust is false",))
    assert (breeze.status, breeze.why) == ("missed", ("edge HALL.breeze, used by players",))
    assert lines[line_of("  HALL:")].status == "hit"
    placed = {goal.place.line for goal in goals(lamp) if goal.kind != "pairs"}
    assert set(lines) == placed


def test_the_graph_is_a_picture_of_all_turns(bench: Bench):
    bench.write("replays/lamp/light.replay.yaml", LIGHT)

    said = bench.run("--format", "graph")

    assert said.code == 0
    assert said.out.startswith("<svg ")
    assert "2 of 5 were never taken" in said.out
    assert len(edges_of(machine().definition)) == 5


def test_a_graph_is_of_one_machine(bench: Bench):
    bench.write("machines/cave.yaml", LAMP.replace("machine: lamp", "machine: cave"))

    said = bench.run("--format", "graph")

    assert said.code == 2
    assert "name one of cave, lamp" in said.err


async def test_the_owner_of_a_journal_is_asked_once_for_all_machines(tmp_path: Path):
    async with served(tmp_path) as web:
        await web.play("s1")
        owner = Owner(web.client, "the test's server")
        found = await played_in_journal(owner, [tiny(HALL), machine()])

    assert found["tiny"].coverage.edges == {"initial": 1}
    assert found["lamp"] == Journal(Coverage())
    assert json.dumps(found["tiny"].said) == '"1 turn of 1 session"'
