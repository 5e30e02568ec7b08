"""Replays played against a server: the same files, held to the same, and what a server can't do is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from served import Server, Web, runtime_of, serving
from test_sessions_cli import whole

from runtime import loader
from runtime.machine import Machine
from runtime.narrators.scripted import Scripted
from server.settings import Settings

MACHINE = """
machine: lamp
title: {zh: 灯, en: The Lamp}
language: zh
limits: {seconds: 60}
initial: {event: INIT, target: HALL}
context:
  oil: {type: int, default: 9, min: 0, max: 9, show: true}
  wicks: {type: int, default: 0, min: 0, max: 9}
  truth: {type: int, default: 3, min: 0, max: 9, secret: true}
events: {SAY: {payload: {text: text}}, LATE: {}}
on:
  LATE: [{guard: "time.remaining_seconds <= 0", target: END_OUT, must: true}]
states:
  HALL:
    options:
      - {key: burn, text: {zh: 点灯🪔, en: Burn}, dice: {cost: 1d4}, target: HALL, assign: {oil: oil - dice.cost, wicks: wicks + 1}}
      - {key: leave, text: {zh: 走开, en: Leave}, guard: wicks > 0, target: END_OUT}
    on: {SAY: [{name: said, target: HALL}]}
  END_OUT: {type: final, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
"""  # noqa: E501 - a machine, a line each
OPEN = """
replay: 灯
given: {machine: lamp, seed: a}
each: {language: [zh, en]}
steps:
  - {send: INIT, expect: {state: HALL, options: [burn], context: {oil: 9, wicks: 0, truth: 3}}}
  - {send: NOTHING, expect: {error: unknown_event_type}}
  - {choose: leave, expect: {error: option_not_offered}}
  - {send: SAY, with: {text: "点灯🏮"}, key: key-of-the-second, times: 3, expect: {edge: HALL.said}}
  - {choose: burn, after: 20s, expect: {edge: HALL.burn, context: {wicks: 1}, options: [burn, leave]}}
  - {choose: burn, after: 45s, expect: {allowed: [LATE], next: LATE, should_end: true}}
  - {send: LATE, expect: {ended: true, ending: END_OUT, ending.title: {contains: {zh: 天亮, en: Dawn}}}}
"""
HEAD = "given: {machine: lamp, seed: a}\nsteps:\n  - {send: INIT}\n"


def lamp(text: str = MACHINE) -> Machine:
    return loader.load({"machines/lamp.yaml": text})


class Bench:
    """A project's replays, and the command that plays them on a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("machines/lamp.yaml", MACHINE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    def replay(self, name: str, text: str) -> None:
        self.write(f"replays/{name}.replay.yaml", f"replay: {name}\n{text}")

    def run(self, server: Server, *words: str) -> Result:
        options = ["--project", str(self.folder), "--url", server.url]
        return CliRunner().invoke(whole, ["replay", str(self.folder / "replays"), *options, *words])

    def told(self, server: Server, *words: str) -> dict[str, Any]:
        done = self.run(server, "--format", "json", *words)
        assert done.exit_code in (0, 1), done.output
        said = json.loads(done.stdout)
        return {"counts": said["counts"], "notes": said["notes"], **{
            each["id"].rpartition("::")[2]: each for each in said["replays"]}}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def sessions(server: Server) -> list[str]:
    with Web(server.url) as web:
        return [each["session"]["session_id"] for each in web.ask("GET", "/sessions?limit=100")["items"]]


def test_the_same_file_is_held_to_the_same_on_a_server(bench: Bench):
    """Refusals change nothing, a key's answers are the same bytes, the clock is the player's; no session stays."""
    bench.write("replays/灯.replay.yaml", OPEN)
    with serving(runtime_of(lamp())) as server:
        told = bench.told(server)
        left = sessions(server)

    assert (told["counts"], told["notes"], left) == ({"passed": 2, "not wholly looked at": 2}, [], [])
    assert told["灯[zh]"]["reason"] == "not looked at: context.truth"


def test_a_recording_is_played_where_its_seed_rolls_its_dice(bench: Bench):
    with serving(runtime_of(lamp())) as server:
        with Web(server.url) as web:
            web.invoke("s1", "INIT", seed={"run_seed": "a"})
            for _ in range(3):
                web.invoke("s1", option=1)
            bench.write("replays/recorded.replay.yaml", web.http.get("/sessions/s1/export?format=replay").text)
        told = bench.told(server)

    assert "cost" in (bench.folder / "replays/recorded.replay.yaml").read_text(encoding="utf-8")
    assert (told["counts"].get("passed"), "skipped" in told["counts"]) == (1, False)


KINDS = """machine: lamp
language: en
title: {en: The Lamp}
initial: {event: INIT, target: HALL}
states:
  HALL: {options: [{key: roll, text: {en: Roll}, dice: {d: 1d6}, target: ROOM}]}
  ROOM:
    options: {free: 2, event: HALL, kinds: {bold: {en: bold}, careful: {en: careful}, odd: {en: odd}}}
    on: {HALL: [{target: OUT}]}
  OUT: {type: final, ending: {title: {en: Out}, good: true}}
"""


def test_a_die_that_is_fixed_asks_nothing_of_what_else_is_drawn(bench: Bench):
    bench.write("machines/lamp.yaml", KINDS)
    for value in range(1, 7):
        bench.replay(f"d{value}", HEAD + f"  - {{choose: roll, dice: {{d: {value}}}}}\n")
    with serving(runtime_of(lamp(KINDS))) as server:
        assert bench.told(server)["counts"] == {"passed": 1, "skipped": 5}


def test_what_a_server_can_not_be_asked_is_skipped_and_counted(bench: Bench):
    bench.replay("dice", HEAD + "  - {choose: burn, dice: {cost: 1}}\n  - {choose: burn, dice: {cost: 1}}\n")
    bench.replay("narrated", HEAD + "  - {choose: burn, narrate: {scene: 灯亮了。}}\n")
    bench.replay("placed", "given: {machine: lamp, state: HALL}\nsteps: [{choose: burn}]\n")

    with serving(runtime_of(lamp())) as server:
        told = bench.told(server)
        assert sessions(server) == []

    assert told["counts"] == {"skipped": 3}
    assert {name: told[name]["reason"] for name in ("dice", "narrated", "placed")} == {
        "dice": "it fixes dice that its seed doesn't roll",
        "narrated": "it brings what a model answers",
        "placed": "it begins in a given state",
    }


def test_a_difference_is_told_with_the_session_that_shows_it(bench: Bench):
    """The server has another version, and that is said as well."""
    bench.replay("wicks", HEAD + "  - {choose: burn, expect: {context: {wicks: 1}}}\n")
    with serving(runtime_of(lamp(MACHINE.replace("wicks + 1", "wicks + 2")))) as server:
        done = bench.run(server)
        (left,) = sessions(server)

    assert done.exit_code == 1
    assert "step 2 (choose burn): context.wicks" in done.stdout
    assert f"session {left} at {server.url}" in done.stdout
    assert "machine 'lamp' of the server is another version than this project's" in done.stdout


def test_a_player_sees_less_and_what_is_not_seen_is_not_judged_but_named(bench: Bench):
    bench.replay("seen", HEAD + "  - {choose: burn, expect: {context: {wicks: 1, truth: 3}}}\n")
    bench.replay("shown", HEAD + "  - {choose: burn, expect: {context: {oil: 0}}}\n")
    settings = Settings(play_tokens=("player-token",), operator_tokens=("operator-token",))
    with serving(runtime_of(lamp()), settings) as server:
        told = bench.told(server, "--token", "player-token")
        refused = bench.run(server, "--token", "nobodys-token")

    assert told["counts"] == {"passed": 1, "failed": 1, "not wholly looked at": 1}
    assert told["seen"]["not_looked_at"] == ["context.wicks", "context.truth"]
    assert told["seen"]["reason"] == "not looked at: context.wicks, context.truth"
    assert told["shown"]["difference"]["field"] == "context.oil"
    assert refused.exit_code == 2
    assert "nobodys-token" not in refused.output


def test_words_of_a_model_are_its_own(bench: Bench):
    """Texts and meta are what a server's model makes of them; what the rules settle is not."""
    step = "  - {choose: burn, expect: {edge: %s, scene: {contains: 没有这句}, meta: {narrator: offline}}}\n"
    bench.replay("told", HEAD + step % "HALL.burn")
    bench.replay("ruled", HEAD + step % "HALL.said")
    narrator = Scripted([{"scene": "灯影晃了晃。"}] * 9, fill=True)

    with serving(runtime_of(lamp(), narrator=narrator)) as server:
        told = bench.told(server)

    assert (told["told"]["verdict"], told["ruled"]["difference"]["field"]) == ("passed", "edge")
    assert told["told"]["not_looked_at"] == ["scene", "meta.narrator"]


def test_what_no_model_tells_is_judged_where_a_model_tells(bench: Bench):
    step = "  - {choose: burn, expect: {scene: {contains: 没有}, routing.next_event_type: {contains: %s}}}\n"
    bench.replay("good", HEAD + step % "HALL")
    bench.replay("wrong", HEAD + step % "END")
    narrator = Scripted([{"scene": "灯影晃了晃。"}] * 9, fill=True)

    with serving(runtime_of(lamp(), narrator=narrator)) as server:
        told = bench.told(server)

    assert told["counts"] == {"passed": 1, "failed": 1, "not wholly looked at": 2}
    assert told["wrong"]["difference"]["field"] == "routing.next_event_type"


def test_that_properties_are_not_looked_at_is_said(bench: Bench):
    """A property reads secrets, and what no answer tells."""
    bench.write("machines/lamp.yaml", MACHINE + 'properties: {never_burnt: {never: "wicks > 0"}}\n')
    bench.replay("burnt", HEAD + "  - {choose: burn}\n")
    with serving(runtime_of(lamp())) as server:
        done = bench.run(server)

    assert (done.exit_code, "(not looked at: properties)" in done.stdout) == (0, True)
    assert "1 replay: 1 not wholly looked at, 1 passed" in done.stdout


def test_what_is_known_to_fail_must_fail_there_too(bench: Bench):
    bench.replay("known", "xfail: not yet\n" + HEAD + "  - {choose: burn, expect: {state: END_OUT}}\n")
    bench.replay("mended", "xfail: not yet\n" + HEAD + "  - {choose: burn}\n")
    with serving(runtime_of(lamp())) as server:
        assert bench.told(server)["counts"] == {"xfailed": 1, "xpassed": 1}


@pytest.mark.parametrize("words", [("--mode", "strict"), ("--update",)])
def test_what_only_a_bench_can_do_is_not_asked_of_a_server(bench: Bench, words: tuple[str, ...]):
    bench.write("replays/灯.replay.yaml", OPEN.replace("HALL.said", "HALL.burn"))
    before = (bench.folder / "replays/灯.replay.yaml").read_bytes()
    with serving(runtime_of(lamp())) as server:
        done = bench.run(server, *words)

    assert (done.exit_code, (bench.folder / "replays/灯.replay.yaml").read_bytes()) == (2, before)


def test_where_no_server_answers_is_wrong_use_in_a_sentence(bench: Bench):
    bench.write("replays/灯.replay.yaml", OPEN)
    words = ["replay", str(bench.folder / "replays"), "--project", str(bench.folder), "--url", "http://127.0.0.1:1"]
    done = CliRunner().invoke(whole, words)
    assert (done.exit_code, "Is it running?" in done.stderr) == (2, True)
