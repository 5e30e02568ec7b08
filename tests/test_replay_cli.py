"""The command `edgewise replay`: what it prints, what it keeps, and what it writes into files where it is asked to."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from command import ESCAPE, edgewise
from den import ANEW, DEN, PROMPT, at, den

from runtime.bench.player import Came, Difference, played
from runtime.bench.player import Result as Played
from runtime.bench.replay import Replay
from runtime.bench.updating import NotUpdated, updated
from server.bench.collecting import rewrite

MISS = "{choose: strike, dice: {attack: 3, wound: 2}"
GOOD = at() + f"steps:\n  - {MISS}, expect: {{edge: MOUTH.miss}}}}\n"
BAD = at() + f"steps:\n  - {MISS}, expect: {{edge: MOUTH.hit, context: {{hp: 3}}}}}}   # 灯\n"


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """A project with the den, and replays of these texts."""

    def made(**texts: str) -> Path:
        for name, text in {"machines/den.yaml": DEN, "prompts/den/told.prompty": PROMPT}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        for name, text in texts.items():
            file = tmp_path / "replays" / "den" / f"{name}.replay.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return tmp_path

    return made


def replay(folder: Path, *words: str, **variables: str) -> CompletedProcess[str]:
    done = edgewise("replay", *words, cwd=folder, **{"CI": "", **variables})
    assert ESCAPE not in done.stdout
    return done


def kept(folder: Path) -> list[Path]:
    return sorted((folder / ".edgewise" / "failed").glob("*"))


@pytest.mark.slow
def test_replays_that_go_as_they_say_are_a_line_each(project: Any):
    folder = project(good=GOOD, known=BAD.replace("steps:", "xfail: '#7'\nsteps:"))

    done = replay(folder)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "passed  replays/den/good.replay.yaml::t",
        "xfailed replays/den/known.replay.yaml::t (#7)",
        "2 replays: 1 passed, 1 xfailed",
    ]
    assert not (folder / ".edgewise").exists()


@pytest.mark.slow
def test_one_that_differs_names_what_and_why_and_is_kept_until_it_passes(project: Any):
    folder = project(good=GOOD, bad=BAD)

    done = replay(folder)

    (run,) = kept(folder)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "failed  replays/den/bad.replay.yaml::t",
        "  replays/den/bad.replay.yaml:4 step 1 (choose strike): edge",
        '    expected: "MOUTH.hit"',
        '    got:      "MOUTH.miss"',
        "    MOUTH by strike at MOUTH (洞口): took MOUTH.miss (machines/den.yaml:28) to MOUTH (洞口)",
        "    dice: attack 1d20 = 3, wound 1d4 = 2",
        "      MOUTH.hit (machines/den.yaml:27) is closed: dice.attack > 10 is false (dice.attack = 3)",
        "      MOUTH.miss is taken: it has no guard",
        f"  play it again: edgewise replay .edgewise/failed/{run.name}",
        "passed  replays/den/good.replay.yaml::t",
        "2 replays: 1 failed, 1 passed",
    ]
    assert (folder / ".edgewise" / ".gitignore").read_text() == "*\n"
    again = replay(folder, f".edgewise/failed/{run.name}")
    assert again.returncode == 1
    assert [line.partition(" ")[2] for line in again.stdout.splitlines()[2:4]] == [
        line.partition(" ")[2] for line in done.stdout.splitlines()[2:4]
    ]
    assert kept(folder) == [run]

    (folder / "replays" / "den" / "bad.replay.yaml").write_text(BAD.replace("hit", "miss"), encoding="utf-8")
    assert replay(folder, "replays/den").returncode == 0
    assert kept(folder) == []


@pytest.mark.slow
def test_a_run_is_played_again_by_the_line_that_is_printed_whatever_its_folder_is_called(project: Any, tmp_path: Path):
    spaced = tmp_path / "a 灯"
    shutil.copytree(project(bad=BAD), spaced, ignore=shutil.ignore_patterns("a 灯"))

    done = replay(tmp_path, "a 灯/replays", "--mode", "strict")

    (line,) = [line for line in done.stdout.splitlines() if "play it again" in line]
    words = shlex.split(line.partition("edgewise ")[2])
    assert words == ["replay", f"a 灯/.edgewise/failed/{kept(spaced)[0].name}", "--mode", "strict"]
    assert replay(tmp_path, *words[1:]).returncode == 1


def test_a_verdict_is_told_where_no_run_can_be_kept(project: Any):
    folder = project(bad=BAD, good=GOOD)
    (folder / ".edgewise").write_text("a file in its place", encoding="utf-8")

    done = replay(folder)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "2 replays: 1 failed, 1 passed")
    assert "  the run is not kept: " in done.stdout


def test_a_fault_of_the_file_is_never_what_is_known_to_fail(project: Any):
    step = "  - {choose: strike, dice: {wound: 5}}\n"
    done = replay(project(known=at() + f"xfail: '#7'\nsteps:\n{step}"))

    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 replay: 1 failed")


def test_a_known_failure_that_passes_is_bad(project: Any):
    done = replay(project(known=GOOD.replace("steps:", "xfail: '#7'\nsteps:")))

    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "xpassed replays/den/known.replay.yaml::t (#7)"


@pytest.mark.slow
def test_faults_of_files_and_names_are_told_all_at_once_and_the_rest_is_played(project: Any):
    names = at("MOUT") + "steps: [{choose: strik}]"
    other = GOOD.replace("machine: den", "machine: dne")
    done = replay(project(a=GOOD.replace("choose", "chose"), b=names, c=GOOD, d=other))

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "faulty  replays/den/a.replay.yaml",
        "  replays/den/a.replay.yaml:4:6 E101 no key 'chose' here. Did you mean 'choose'?",
        "faulty  replays/den/b.replay.yaml::t",
        "  replays/den/b.replay.yaml:2:23 E901 no state 'MOUT' in the machine. Did you mean 'MOUTH'?",
        "  replays/den/b.replay.yaml:3:10 E901 no option 'strik' in the machine. Did you mean 'strike'?",
        "passed  replays/den/c.replay.yaml::t",
        "faulty  replays/den/d.replay.yaml::t",
        "  there is no machine 'dne'. Did you mean 'den'?",
        "4 replays: 3 faulty, 1 passed",
    ]


def test_what_fails_for_one_reason_is_told_once_and_the_others_are_named(project: Any):
    hp = "steps:\n  - {choose: strike, dice: {attack: 3, wound: %d}, expect: {context: {hp: 5}}}\n"
    words = "each: {language: [zh, en]}\nsteps:\n  - {choose: strik}\n"
    seeds = BAD.replace("steps:", f"each: {{seed: [{', '.join(f's{n}' for n in range(15))}]}}\nsteps:")
    folder = project(a=BAD, b=at() + hp % 1, c=BAD, d=at() + hp % 2, e=GOOD, f=at() + words, g=seeds)

    done = replay(folder, "-j", "1")

    told = done.stdout.splitlines()
    assert [line for line in told if not line.startswith("  ")] == [
        "failed  replays/den/a.replay.yaml::t", "failed  replays/den/b.replay.yaml::t",
        "passed  replays/den/e.replay.yaml::t", "faulty  replays/den/f.replay.yaml::t[zh]",
        "22 replays: 19 failed, 2 faulty, 1 passed",
    ]  # fmt: skip
    more = [line for line in told if line.startswith("  and ")]
    assert more[0].startswith("  and 16 more replays: replays/den/c.replay.yaml::t, replays/den/g.replay.yaml::t[s0], ")
    assert more[0].endswith("::t[s10], … and 4 others")
    assert more[1:] == [
        "  and 1 more replay: replays/den/d.replay.yaml::t", "  and 1 more replay: replays/den/f.replay.yaml::t[en]",
    ]  # fmt: skip
    assert len(kept(folder)) == 19


def test_a_machines_own_fault_is_told_once(project: Any):
    folder = project(a=GOOD, b=BAD)
    (folder / "machines" / "den.yaml").write_text(DEN.replace("target: FORK}", "target: FROK}", 1), encoding="utf-8")

    done = replay(folder)
    told = json.loads(replay(folder, "--format", "json").stdout)

    assert done.stdout.count("FROK") == 1
    assert done.stdout.splitlines()[-2:] == ["  and 1 more replay: replays/den/b.replay.yaml::t", "2 replays: 2 faulty"]
    assert [each["lines"] for each in told["replays"]] == [told["replays"][0]["lines"]] * 2
    assert "cause" not in told["replays"][0]


@pytest.mark.slow
def test_as_json_it_is_one_document(project: Any):
    done = replay(project(bad=BAD, good=GOOD), "--format", "json", "-j", "1")

    told = json.loads(done.stdout)
    assert (done.returncode, told["counts"]) == (1, {"failed": 1, "passed": 1})
    assert [(each["id"], each["verdict"]) for each in told["replays"]] == [
        ("replays/den/bad.replay.yaml::t", "failed"), ("replays/den/good.replay.yaml::t", "passed"),
    ]  # fmt: skip
    found = told["replays"][0]["difference"]
    assert (found["step"], found["field"], found["expected"], found["got"]) == (1, "edge", "MOUTH.hit", "MOUTH.miss")
    assert told["replays"][0]["failed_run"] == f".edgewise/failed/{kept(project())[0].name}"


@pytest.mark.slow
def test_many_are_played_in_several_processes_in_their_order(project: Any):
    seeds = ", ".join(f"s{number}" for number in range(90))
    folder = project(many=at() + f"each: {{seed: [{seeds}]}}\nsteps: [{{choose: take}}]", bad=BAD)

    one, two = replay(folder, "-j", "1"), replay(folder, "-j", "2")

    assert one.stdout == two.stdout
    assert (two.returncode, two.stdout.splitlines()[-1]) == (1, "91 replays: 1 failed, 90 passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        ((), {}, "no *.replay.yaml is in replays"),
        (("prompts",), {}, "no *.replay.yaml is in prompts"),
        (("none",), {}, "'none' does not exist"),
        (("--mode", "exact"), {}, "'exact' is not one of"),
        (("--update",), {"CI": "true"}, "--update is not for CI"),
        (("--update", "--mode", "rerun"), {}, "a model tells anew"),
        (("--mode", "rerun"), {}, "the narrator is offline"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_written(project: Any, words: Any, variables: Any, told: str):
    folder = project(**({"bad": BAD} if words[:1] and words[0].startswith("--") else {}))

    done = replay(folder, *words, **variables)

    assert done.returncode == 2
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert kept(folder) == []


# Expecting what came.


@pytest.mark.slow
def test_update_writes_what_came_and_no_other_character(project: Any):
    other = at() + "steps:\n  - choose: deeper   # too dark\n    after: 1s\n\n  # the end\n"
    folder = project(bad="\ufeff" + BAD.replace("\n", "\r\n"), other=other, good=GOOD)

    done = replay(folder, "--update")

    found = folder / "replays" / "den"
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 replays: 3 passed")
    assert [line for line in done.stdout.splitlines() if line.startswith("updated")] == [
        "updated: replays/den/bad.replay.yaml", "updated: replays/den/other.replay.yaml",
    ]  # fmt: skip
    written = (found / "bad.replay.yaml").read_bytes().decode()
    assert written == "\ufeff" + BAD.replace("MOUTH.hit", '"MOUTH.miss"').replace("\n", "\r\n")
    assert (found / "other.replay.yaml").read_text(encoding="utf-8") == other.replace(
        "    after: 1s\n", "    after: 1s\n    expect: {error: option_not_offered}\n"
    )
    assert (found / "good.replay.yaml").read_text(encoding="utf-8") == GOOD


STRANGE = "edge: MOUTH.gone, next: NONE, ending: END_GONE, options: [stirke], allowed: [SYA], context: {mood: clam}"
"""Names that the machine doesn't have, where what came has others to put."""


def test_names_that_are_gone_are_updated_where_they_are_expected_and_faults_where_they_are_sent(project: Any):
    took = at() + f"steps:\n  - {{choose: take, expect: {{{STRANGE}}}}}\n"
    kept = {
        "sent": at() + "steps:\n  - {choose: tkae, expect: {edge: MOUTH.gone}}\n",
        "unknown": at() + "steps:\n  - {choose: take, expect: {edge: MOUTH.gone, context: {ph: 1}}}\n",
        "typo": at() + "steps:\n  - {choose: take, expect: {egde: MOUTH.gone}}\n",
    }
    folder = project(gone=took, **kept)
    assert replay(folder, "replays/den/gone.replay.yaml").stdout.startswith("faulty")

    done = replay(folder, "--update")

    found = folder / "replays" / "den"
    assert done.stdout.splitlines()[0] == "updated: replays/den/gone.replay.yaml"
    assert done.stdout.splitlines()[-1] == "4 replays: 3 faulty, 1 passed"
    assert (found / "gone.replay.yaml").read_text(encoding="utf-8") == at() + (
        'steps:\n  - {choose: take, expect: {edge: "MOUTH.take", context: {mood: calm}, next: MOUTH, '
        "allowed: [MOUTH, FORK, SAY], options: [strike, deeper]}}\n"
    )
    for name, text in kept.items():
        assert (found / f"{name}.replay.yaml").read_text(encoding="utf-8") == text


def update(text: str) -> str:
    def play(replay: Replay) -> Any:
        return asyncio.run(played(replay, den()))

    return updated("x.replay.yaml", text, play)


TOLD = '"石头落空了。"'
REWRITTEN = {
    "{edge: x, state: MOUTH, next: y}": '{edge: "MOUTH.miss", state: MOUTH, next: MOUTH}',
    "{context: {hp: 9, bag: [lamp]}}": "{context: {hp: 3, bag: []}}",
    "{error: guard_refused}": '{edge: "MOUTH.miss", state: MOUTH}',
    "{epilogue: {contains: x}}": '{edge: "MOUTH.miss", state: MOUTH}',
    "{ending: END_OUT, ended: true}": "{ended: false}",
    "{options: [a], allowed: [b]}": "{options: [strike, take], allowed: [MOUTH, SAY]}",
    "{result.text: {contains: 无, pattern: x}}": f"{{result.text: {{contains: {TOLD}}}}}",
    "{result.text: {pattern: ^石}, edge: x}": '{result.text: {pattern: ^石}, edge: "MOUTH.miss"}',
    "{result.text: {zh: 无, en: x}}": f"{{result.text: {{zh: {TOLD}, en: x}}}}",
    "{meta: {narrator: openai, attempts: 1}}": "{meta: {narrator: offline, attempts: 1}}",
}
"""What a miss is expected to be, and what is expected of it once that is updated."""
STEPS = {
    "{choose: deeper, expect: {edge: MOUTH.deeper}}": "{choose: deeper, expect: {error: option_not_offered}}",
    "{send: NOTHING}": "{send: NOTHING, expect: {error: unknown_event_type}}",
    "choose: take\n    expect:   # so\n      edge: x   # here\n      state: MOUTH": (
        'choose: take\n    expect:   # so\n      edge: "MOUTH.take"   # here\n      state: MOUTH'
    ),
    "choose: take\n    expect:\n      edge: x\n      ending: END_OUT": 'choose: take\n    expect: {edge: "MOUTH.take"}',
}
MISSES = {f"{MISS}, expect: {before}}}": f"{MISS}, expect: {after}}}" for before, after in REWRITTEN.items()}


@pytest.mark.parametrize(("before", "after"), [*MISSES.items(), *STEPS.items()])
def test_each_part_of_an_expectation_is_rewritten_where_it_stands(before: str, after: str):
    def around(step: str) -> str:
        return at() + f"# above\nsteps:\n  - {step}\n  # beside\n  - {{choose: strike}}   # below\n"

    assert update(around(before)) == around(after)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (at() + "steps: [{choose: take, dice: {attack: 1}}]", "no expectation of it differs, but dice.attack"),
        (at("NONE") + "steps: [{choose: take}]", "no expectation of it differs, but given"),
        (
            at() + "each: {seed: [a, b, c]}\nsteps: [{choose: strike, dice: {attack: 1}, expect: {context: {hp: 9}}}]",
            "its combinations differ in `context.hp` of step 1: give each a replay of its own",
        ),
        (
            at() + "steps:\n  - choose: take\n    expect:   # why\n      edge: x\n      ending: END_OUT",
            "the comment `# why` would be lost",
        ),
        (
            at() + "steps:\n  - choose: take\n    expect:\n      edge: x   # it's mine\n      ending: END_OUT",
            "the comment `# it's mine` would be lost",
        ),
        (at() + "steps:   # \u2028\n  - {choose: take, expect: {edge: x}}", "a line of it ends with U+0085"),
        (ANEW + "stps: []", "it has faults: x.replay.yaml:3:1 E101"),
    ],
)
def test_what_no_expectation_can_say_is_not_updated(text: str, why: str):
    with pytest.raises(NotUpdated, match=f"^{re.escape(why)}"):
        update(text)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "machine_fault"])
def test_a_fault_is_never_written_down_as_what_is_expected(fault: str):
    def play(replay: Replay) -> Any:
        step = replay.steps[0]
        came = Came(number=1, step=step, error=fault)
        found = Difference(1, "error", None, fault, "")
        return Played(replay=replay, verdict="failed", difference=found, came=(came,))

    with pytest.raises(NotUpdated, match=f"step 1 came to {fault}, which nobody should expect"):
        updated("x.replay.yaml", at() + "steps: [{choose: take}]", play)


def test_each_line_ends_as_it_did(tmp_path: Path):
    file = tmp_path / "x.replay.yaml"
    file.write_bytes("\ufeff灯\r\nb\nc\rd\r\n\n".encode())

    assert rewrite(file, lambda text: text.replace("b\nc", "B\nC"))
    assert file.read_bytes() == "\ufeff灯\r\nB\nC\rd\r\n\n".encode()
    assert rewrite(file, lambda text: text.replace("C\nd", "x\ny\nz"))
    assert file.read_bytes().decode() == "\ufeff灯\r\nB\nx\ry\r\nz\r\n\n"


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_whatever_ends_its_lines_a_file_is_updated(project: Any, end: str):
    folder = project()
    file = folder / "replays" / "bad.replay.yaml"
    file.parent.mkdir()
    file.write_bytes(BAD.replace("\n", end).encode())

    done = replay(folder, "--update")

    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "updated: replays/bad.replay.yaml")
    assert file.read_bytes().decode() == BAD.replace("MOUTH.hit", '"MOUTH.miss"').replace("\n", end)


def test_what_can_not_be_updated_stays_and_fails(project: Any):
    text = at() + "steps: [{choose: take, dice: {attack: 1}}]"
    folder = project(bad=text)

    done = replay(folder, "--update")

    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("not updated: replays/den/bad.replay.yaml: no expectation of it")
    assert (folder / "replays" / "den" / "bad.replay.yaml").read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_a_replay_of_another_project_is_played_on_its_machines(project: Any, tmp_path_factory: Any):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(project(good=GOOD), elsewhere / "p")

    done = replay(elsewhere, "p/replays")

    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "passed  p/replays/den/good.replay.yaml::t")
