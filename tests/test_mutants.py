"""Small faults put into a machine: each is at its place, is what it says, and is built or refused."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import tiny
from pages import Page

from runtime import loader
from runtime.bench.mutants import KINDS, Mutant, mutants, mutated
from runtime.bench.mutate import FATES
from runtime.bench.trial import Trial
from runtime.errors import Finding
from runtime.machine import Machine
from runtime.session import Invoke

ROOT = Path(__file__).parents[1]

HOUSE = """
machine: house
title: {zh: 灯下凶宅, en: House}
language: zh
initial: {event: INIT, target: HALL, dice: {way: {pick: [left, right]}}, assign: {hp: 3}}
context:
  hp: {type: int, default: 0, min: 0, max: 3}
  way: {type: enum, of: [left, right, none], default: none}
  mood: {type: enum, of: [calm, tense], default: calm}
events: {OUT: {}}
on:
  OUT: [{guard: hp <= 0, target: DEAD, must: true}]
states:
  HALL:
    entry: {way: left}
    learn: {mood: {from: output.mood, otherwise: calm}}
    prompt: hall
    options:
      - {key: lamp, text: {zh: 提灯🏮}, guard: hp > 1 && way == left, once: true, target: HALL, assign: {hp: hp - 1}}
      - key: strike
        text: {zh: 挥灯猛砸, en: Strike}
        event: OUT
        dice: {hit: 1d20, luck: 30%}
        edges:
          - {name: hit, guard: dice.hit >= 10, target: HALL}
          - {name: miss, target: SAFE, assign: {way: right, hp: hp - 1}}
    on:
      OUT: [{target: SAFE, once: true}]
  SAFE: {type: final}
  DEAD: {type: final}
"""
FREE = """
initial: A
context: {told: {type: bool}}
states:
  A:
    options: {free: 1..2, event: GO, kinds: {bold: Bold, careful: Careful, sly: Sly}}
    on: {GO: [{guard: 'option.kind == "bold"', target: B, name: boldly, assign: {told: true}}, {target: B}]}
  B: {type: final}
events: {GO: {}}
"""
PROMPT = '---\noutputs: {scene: scene, mood: "text?"}\n---\nuser:\nTell it.\n'


def files_of(text: str, name: str = "house") -> dict[str, str]:
    body = textwrap.dedent(text).lstrip()
    return {f"machines/{name}.yaml": body, f"prompts/{name}/hall.prompty": PROMPT}


@pytest.fixture(scope="module")
def house() -> list[Mutant]:
    return list(mutants(loader.drafted(files_of(HOUSE))))


def changes(found: list[Mutant], what: str) -> list[str]:
    return [each.diff for each in found if each.what == what]


def test_a_guard_is_negated_loosened_and_each_part_of_it_changed(house: list[Mutant]) -> None:
    assert [each for each in changes(house, "HALL.lamp") if each.startswith("guard")] == [
        "guard: hp > 1 && way == left → !(hp > 1 && way == left)",
        "guard: hp > 1 && way == left → true",
        "guard: hp > 1 && way == left → hp >= 1 && way == left",
        "guard: hp > 1 && way == left → hp > 2 && way == left",
        "guard: hp > 1 && way == left → hp > 1 || way == left",
        "guard: hp > 1 && way == left → hp > 1 && way != left",
        "guard: hp > 1 && way == left → hp > 1 && way == right",
    ]


def test_a_number_beside_a_comparison_has_the_neighbour_that_the_comparison_has_not(house: list[Mutant]) -> None:
    told = changes(house, "HALL.hit")

    assert "guard: dice.hit >= 10 → dice.hit > 10" in told
    assert "guard: dice.hit >= 10 → dice.hit >= 9" in told
    assert "guard: dice.hit >= 10 → dice.hit >= 11" not in told


def test_an_assign_loses_a_line_and_has_another_number_or_member(house: list[Mutant]) -> None:
    told = changes(house, "HALL.miss")

    assert told[-5:] == [
        "way: right → (gone)",
        "way: right → none",
        "hp: hp - 1 → (gone)",
        "hp: hp - 1 → hp - 2",
        "hp: hp - 1 → hp - 0",
    ]


def test_a_number_beyond_its_variables_range_is_no_change(house: list[Mutant]) -> None:
    told = changes(house, "initial")

    assert "hp: 3 → 2" in told
    assert "hp: 3 → 4" not in told


def test_a_die_is_changed_in_every_way_that_it_has(house: list[Mutant]) -> None:
    assert [each for each in changes(house, "HALL.strike") if "dice" in each] == [
        "dice.hit: 1d20 → 1d19", "dice.hit: 1d20 → 1d20+1", "dice.luck: 30% → 0%", "dice.luck: 30% → 100%",
    ]  # fmt: skip
    assert [each for each in changes(house, "initial") if "dice" in each] == [
        "dice.way: left → (gone)", "dice.way: right → (gone)",
    ]  # fmt: skip


def test_what_forces_and_what_counts_is_taken_away(house: list[Mutant]) -> None:
    found = {(each.kind, each.what) for each in house}

    assert ("must dropped", "*.OUT>DEAD") in found
    assert {("once dropped", "HALL.lamp"), ("once dropped", "HALL.OUT>SAFE")} <= found


def test_neighbours_of_one_event_change_places_and_targets(house: list[Mutant]) -> None:
    found = {(each.kind, each.what) for each in house}

    assert ("edges reordered", "HALL.hit, miss") in found
    assert ("targets swapped", "HALL.hit, miss") in found
    assert not [each for each in house if each.kind == "edges reordered" and "lamp" in each.what]


def test_entries_and_what_is_learned_are_lost(house: list[Mutant]) -> None:
    assert changes(house, "HALL") == [
        "way: left → (gone)", "way: left → right", "mood: from output.mood → (gone)", "mood.otherwise: calm → tense",
    ]  # fmt: skip


def test_a_kind_of_free_options_is_taken_away() -> None:
    machine = tiny(FREE)
    draft = loader.drafted(machine.files)
    dropped = [each for each in mutants(draft) if each.kind == "kind dropped"]

    assert [each.what for each in dropped] == ["A kind bold", "A kind careful", "A kind sly"]
    judged = [mutated(draft, machine.files, each) for each in dropped]
    assert isinstance(judged[0], Finding)
    assert "E305" in str(judged[0])
    assert all(isinstance(each, Machine) for each in judged[1:])


def test_every_place_is_where_the_change_is_written(house: list[Mutant]) -> None:
    lines = HOUSE.lstrip().splitlines()

    for mutant in house:
        key = mutant.key.rpartition(".")[2]
        there = lines[mutant.line - 1][mutant.col - 1 :]
        if key and key != "target":
            assert there.startswith(f"{key}:"), mutant
    assert {each.file for each in house} == {"machines/house.yaml"}


def test_each_kind_is_made_and_told(house: list[Mutant]) -> None:
    free = mutants(loader.drafted(tiny(FREE).files))

    assert {each.kind for each in (*house, *free)} == set(KINDS)


def shipped(name: str) -> tuple[Any, dict[str, str], tuple[Mutant, ...]]:
    files = loader.read_project(ROOT)[name]
    draft = loader.drafted(files)
    return draft, files, mutants(draft)


def test_the_page_tells_every_kind_and_every_fate() -> None:
    page, heading = Page(ROOT / "tests" / "README.md"), "Do the tests test anything?"

    assert {kind: said.replace("\\|", "|") for kind, said in page.table(heading)} == KINDS
    assert [row[0] for row in page.table(heading, 1)] == list(FATES)


@pytest.mark.slow
def test_a_mutant_is_built_or_refused_and_the_machine_stays_as_it_was() -> None:
    draft, files, found = shipped("ticket_triage")
    before = copy.deepcopy(draft.document.value)

    judged = [mutated(draft, files, each) for each in found]

    assert draft.document.value == before
    machine = loader.load(files)
    built = [each for each in judged if isinstance(each, Machine)]
    assert len(built) > len(found) * 0.8
    assert all(each.definition != machine.definition for each in built)
    assert len({msgspec.json.encode(each.definition) for each in built}) == len(built)


def test_an_options_event_stays_when_its_first_edge_leads_elsewhere() -> None:
    machine = tiny("""
    initial: A
    events: {}
    states:
      A:
        options:
          - {key: go, text: Go, edges: [{name: far, guard: step > 3, target: C}, {name: near, target: B}]}
          - {key: stay, text: Stay, target: A}
      B: {type: final}
      C: {type: final}
    """)
    draft = loader.drafted(machine.files)
    moved = [each for each in mutants(draft) if each.what.startswith("A.far") and each.kind != "number"]

    for mutant in moved:
        built = mutated(draft, machine.files, mutant)
        if isinstance(built, Machine):
            begun = Trial(built).begin(Invoke(event="A"))
            assert {each.key: each.event_type for each in begun.after.offer}["go"] == "C", mutant
    assert {"edge dropped", "retargeted", "targets swapped", "edges reordered"} <= {each.kind for each in moved}


def test_the_check_sees_a_loosened_guard_before_others() -> None:
    machine = tiny("""
    initial: A
    context: {hp: {type: int, default: 3}}
    events: {GO: {}}
    states:
      A: {on: {GO: [{name: yes_, guard: hp > 2, target: B}, {name: no_, target: A}]}}
      B: {type: final}
    """)
    draft = loader.drafted(machine.files)

    judged = {each.diff: mutated(draft, machine.files, each) for each in mutants(draft)}

    refused = judged["guard: hp > 2 → true"]
    assert isinstance(refused, Finding)
    assert refused.code == "E204"
    assert isinstance(judged["guard: hp > 2 → hp > 3"], Machine)


def test_an_offline_text_that_names_a_lost_edge_is_no_reason_to_let_it_go_untested() -> None:
    files = files_of(HOUSE)
    files["prompts/house/offline.zh.yaml"] = "scene:\n  - {at: HALL.hit, say: [中了。]}\n  - {say: [黑。]}\n"
    draft = loader.drafted(files)
    (dropped,) = [each for each in mutants(draft) if each.kind == "edge dropped" and each.what == "HALL.hit"]

    assert isinstance(mutated(draft, files, dropped), Machine)


def test_a_play_can_tell_only_where_it_stands_or_what_it_takes(house: list[Mutant]) -> None:
    touched = {(each.what, each.diff): each.touch for each in house}

    assert touched["HALL.miss", "way: right → none"].states == frozenset()
    assert touched["HALL.miss", "way: right → none"].edges == {"HALL.miss"}
    assert touched["HALL.hit", "guard: dice.hit >= 10 → true"].states == {"HALL"}
    assert touched["*.OUT>DEAD", "must: true → (gone)"].states == {"HALL"}
