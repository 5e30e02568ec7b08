"""Every fault that a designer can make, each in a file of its own, with the exact message."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.check import CODES
from runtime.loader import findings_of, load

BROKEN = Path(__file__).parent / "broken"
CASES = sorted(BROKEN.iterdir())
EXPECT = "# expect: "


def files_of(case: Path) -> dict[str, str]:
    """A case's files by their path in a project: one machine's file, or a small project."""
    if case.is_file():
        return {"machines/x.yaml": case.read_text(encoding="utf-8")}
    found = sorted(path for path in case.rglob("*") if path.is_file())
    return {path.relative_to(case).as_posix(): path.read_text(encoding="utf-8") for path in found}


def expected_of(files: dict[str, str]) -> list[str]:
    """The messages that a case's machine asks for in its first comments."""
    lines = files["machines/x.yaml"].splitlines()
    return [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_a_mistake_is_told_with_its_place_and_its_mend(case: Path) -> None:
    files = files_of(case)

    findings = findings_of(files)

    assert [str(finding) for finding in findings] == expected_of(files)
    assert findings[0].code == case.name.partition("_")[0]


def test_every_code_has_a_broken_file_and_every_file_a_code() -> None:
    assert {case.name.partition("_")[0] for case in CASES} == set(CODES)


MANY = """\
machine: x
title: {en: The test, zh: 试}
langage: en
language: en
initial: A
context:
  hp: {type: int, default: 13, max: 12}
  mood: {type: enum, of: [calm, tense]}
states:
  A:
    on:
      B:
        - {name: one, guard: hpp > 1, target: B}
        - {name: two, guard: mood == "clam", target: BB}
        - {name: three, guard: !done, target: B}
        - {name: four, guard: hp, target: B, assign: {hp: 1.5, mud: calm}}
  B: {type: final, label: The end}
"""


def test_all_faults_of_a_file_are_told_at_once() -> None:
    """YAML, shape, names, expressions and texts: no kind of fault hides another."""
    findings = findings_of({"machines/x.yaml": MANY})

    assert [f"{finding.line} {finding.code}" for finding in findings] == [
        "3 E101",
        "7 E121",
        "13 E302",
        "14 E305",
        "14 E103",
        "15 E010",
        "15 E302",
        "16 E304",
        "16 E303",
        "16 E306",
        "17 E531",
    ]


def test_a_part_with_a_fault_of_shape_hides_only_itself() -> None:
    """What reads a variable whose declaration is faulty is not called unknown."""
    text = MANY.replace("hp: {type: int, default: 13, max: 12}", "hp: {type: itn}").replace("hpp", "hp")

    told = [(finding.line, finding.code) for finding in findings_of({"machines/x.yaml": text})]

    assert (7, "E106") in told
    assert (13, "E302") not in told
    assert (14, "E103") in told


GOOD = """\
machine: x
title: The test
language: en
initial: A
limits: {turns: 9}
context:
  hp: {type: int, default: 3, min: 0}
  mood: {type: enum, of: [calm, tense]}
  truth: {type: enum, of: [calm, tense], secret: true}
  bag: {type: set, of: [key]}
on:
  B: [{name: late, guard: turns_left <= 0, target: B, must: true}]
states:
  A:
    options:
      - key: go
        text: Go
        dice: {luck: 50%}
        guard: '!(key in bag)'
        target: A
        assign: {bag: 'add(bag, "key")', hp: "dice.luck ? hp - 1 : hp"}
      - key: stay
        text: Stay
        edges:
          - {name: hint, guard: truth == calm, once: true, target: A, assign: {mood: calm}}
          - {name: end, target: B}
  B: {type: final, ending: {title: Over, good: true}}
"""


def test_a_good_machine_has_no_findings() -> None:
    """A secret may be read by a guard, and each option may be open without closing the other."""
    assert findings_of({"machines/x.yaml": GOOD}) == []


def test_a_machine_plays_without_any_prompt_or_fragment() -> None:
    machine = load({"machines/x.yaml": GOOD})

    assert [edge.full_name for edge in machine.edges] == ["initial", "*.late", "A.go", "A.hint", "A.end"]
    assert machine.warnings == ()


def test_edges_of_a_state_stand_in_file_order() -> None:
    """`on` before `options` in the file is `on` before `options` in the table."""
    on_first = GOOD.replace("  A:\n", "  A:\n    on: {A: [{name: rest, guard: hp > 1, target: A}]}\n")

    machine = load({"machines/x.yaml": on_first})

    own = [compiled.edge.full_name for compiled in machine.table["A"]]
    assert own == ["*.late", "A.rest", "A.go", "A.hint", "A.end"]


def test_groups_for_every_member_of_an_enum_are_a_last_resort() -> None:
    """Nothing is missing where `when` has a text for each value."""
    prompt = "---\ninputs: [state]\noutputs: {scene: scene}\n---\nsystem:\nTell.\nuser:\n{{ state }}\n"
    groups = 'scene:\n  - {when: mood == calm, say: [It is calm.]}\n  - {when: mood == "tense", say: [It is not.]}\n'
    machine = GOOD.replace("  A:\n", "  A:\n    prompt: turn\n").replace("{type: final", "{type: final, prompt: turn")
    files = {
        "machines/x.yaml": machine,
        "prompts/x/turn.prompty": prompt,
        "prompts/x/offline.en.yaml": groups,
    }

    assert findings_of(files) == []
    assert [
        finding.code for finding in findings_of({**files, "prompts/x/offline.en.yaml": groups.replace("tense", "calm")})
    ] == ["W501"]
