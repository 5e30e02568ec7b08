"""Whatever constraints are taken, every turn can be told: else they are refused when they are set, and why."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import SCALE, tiny
from hypothesis import event, given, settings
from hypothesis import strategies as st
from offline_turns import Turn, play
from served import ROOT

from runtime import loader
from runtime.constraints import bounds_of, breaches, find_term, validator_for
from runtime.machine import Machine
from runtime.narrators.satisfiable import why_not
from runtime.narrators.voices import EN
from runtime.narrators.wording import labels
from runtime.rating import RATINGS
from runtime.session import Constraints
from runtime.terms import MARKS

DESK = """
initial: {event: INIT, target: DESK}
title: {zh: 台, en: The desk}
language: en
context:
  mood: {type: enum, of: [calm, tense], default: tense, show: true, label: {zh: 心情, en: Mood}}
  hp: {type: int, default: 5, min: 0, max: 9, show: true, label: {zh: 生命, en: Health}}
ai_state: {title: output.title, memory_summary: output.memory_summary}
states:
  DESK:
    label: {zh: 台前, en: At the desk}
    prompt: desk
    options:
      - key: stay
        text: {zh: 留下, en: Stay}
        target: DESK
        assign: {hp: hp - 2}
        tell: {zh: 血腥的一夜。, en: A gory night.}
      - {key: stay2, text: {zh: 再留一会, en: Stay a while}, target: DESK, assign: {hp: hp - 1}}
      - {key: away, text: {zh: 离开这里, en: Walk away from here}, short: {zh: 走, en: Go}, target: AWAY}
  AWAY: {type: final, prompt: desk, ending: {title: {zh: 血腥, en: Gore}}}
"""
PROMPT = """---
inputs: [state]
outputs:
  type: object
  required: [scene, level, tags, note]
  properties:
    scene: {type: string, minLength: 1}
    level: {type: string, enum: [calm, tense]}
    tags: {type: array, minItems: 1, items: {type: string, enum: [red, blue]}}
    note: {type: string, minLength: 30, maxLength: 60}
---
user:
{{ state }}
"""


@cache
def machines() -> tuple[Machine, ...]:
    """Those that ship, a project of fragments, and one whose outputs leave little choice."""
    desk = loader.load({"machines/desk.yaml": f"machine: desk{DESK}", "prompts/desk/desk.prompty": PROMPT})
    lantern = loader.load_project(Path(__file__).parent / "projects" / "lantern")
    return (desk, *loader.load_project(ROOT).values(), *lantern.values())


@cache
def pieces(machine: Machine) -> tuple[str, ...]:
    """Pieces of the machine's own texts: the terms that hurt most."""
    words = " ".join(machine.files.values()).split()
    spans = [(start, start + size) for start in (0, 1, 3) for size in (1, 2, 4)]
    return tuple(sorted({word[start:end] for word in words for start, end in spans if word[start:end]}))


WORDS = [
    "calm",
    "tense",
    "red",
    "blue",
    "血腥",
    "gore",
    *string.digits,
    *string.ascii_letters,
    *MARKS,
    *"一二三四五的了你是",
]


@st.composite
def constrained(draw: Any) -> tuple[Machine, Constraints]:
    """A machine, and constraints that a client may send."""
    machine = draw(st.sampled_from(machines()))
    words = st.sampled_from(WORDS) | st.sampled_from(pieces(machine)) | st.text(min_size=1, max_size=4)
    many = draw(st.sampled_from([0, 2, 12, 60]))
    terms = draw(st.lists(words, min_size=many // 2, max_size=many, unique=True))
    return machine, Constraints(
        language=draw(st.sampled_from(machine.definition.languages)),
        content_rating=draw(st.sampled_from([None, *RATINGS])),
        max_chars_scene=draw(st.none() | st.integers(20, 300)),
        max_chars_option=draw(st.none() | st.integers(2, 30)),
        forbidden_terms=tuple(terms),
    )


def breaches_of(turn: Turn) -> list[Any]:
    """What is wrong in a turn, told in the shape of a model's answer."""
    task, told = turn.task, turn.narration
    options = [{"key": key, "text": text} for key, text in told.options.items()]
    more = {"ai_state": dict(told.ai_state), "options": options}
    answer = {**told.output, **{name: part for name, part in more.items() if part}}
    return breaches(answer, validator_for(task.schema), task.prompt, task.offer, task.bounds)


@pytest.mark.slow
@settings(max_examples=40 * SCALE)
@given(constrained(), st.text("abc123", min_size=1, max_size=4))
def test_constraints_are_refused_or_every_turn_keeps_them(given, seed):
    machine, constraints = given
    bounds = bounds_of(machine, constraints)
    if why := why_not(machine, bounds):
        event("refused")
        assert why.strip()
        return
    event("told")
    limits = {name: getattr(constraints, name) for name in constraints.__struct_fields__}

    turns = play(machine, turns=9, seed=seed, **limits)

    assert [breach for turn in turns for breach in breaches_of(turn)] == []


def bounds(machine: Machine, *terms: str, language: str = "en", **more: Any) -> Any:
    return bounds_of(machine, Constraints(language, forbidden_terms=terms, **more))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (MARKS, "every mark"),
        (("calm", "tense"), "'level' can only be said with 'calm'"),
        (("red", "blue"), "'tags' can only be said with 'red'"),
        (("calm",), None),
        (("red", "tense"), None),
        ((), None),
    ],
)
def test_what_no_turn_could_keep_is_named(terms, why):
    machine = machines()[0]

    told = why_not(machine, bounds(machine, *terms))

    assert told is None if why is None else why in str(told)


def test_so_few_signs_that_options_read_alike_are_refused():
    machine = machines()[0]
    numbers = map(str, range(1, 100))
    terms = (*numbers, "xx", *string.ascii_uppercase, *"一二三四五六七八九", *(mark for mark in MARKS if mark != "□"))
    narrow = bounds(machine, *terms, max_chars_option=2)

    assert list(labels(1, narrow)) == ["□", "□□"]
    assert "tell 3 options apart" in str(why_not(machine, narrow))
    assert why_not(machine, bounds(machine, *terms, max_chars_option=4)) is None


def test_an_output_longer_than_its_limit_is_refused():
    head = "machine: tiny\ntitle: T\nlanguage: en\ninitial: A\nstates:\n"
    files = {"machines/tiny.yaml": head + "  A: {on: {B: B}}\n  B: {type: final, prompt: p}\n"}
    prompt = PROMPT.replace("maxLength: 60", "maxLength: 20").replace("desk", "p")
    machine = loader.load({**files, "prompts/tiny/p.prompty": prompt})

    assert "'note' has at least 30 characters, and 20" in str(why_not(machine, bounds(machine)))


def test_the_machines_that_ship_play_at_every_rating():
    for machine in machines()[1:4]:
        for language in machine.definition.languages:
            for rating in RATINGS:
                assert why_not(machine, bounds(machine, language=language, content_rating=rating)) is None


def test_where_nothing_at_all_may_be_said_a_mark_stands():
    """Each letter of the voice's own sentences forbidden: what is left is neutral."""
    machine = tiny("initial: {event: INIT, target: A}\nlanguage: en\nstates: {A: {on: {B: B}}, B: {type: final}}")
    told = play(machine, turns=1, language="en", forbidden_terms=(*_voice_words(), "1", "a"))[0]

    assert told.narration.output["scene"] == "＊"
    assert [find_term(text, told.task.bounds.forbidden_terms) for text in told.texts.values()] == [None] * 2


def _voice_words() -> tuple[str, ...]:
    words = " ".join((*(each for pool in EN.pools.values() for each in pool), *EN.phrases.values(), "tiny"))
    return tuple(dict.fromkeys("".join(each if each.isalpha() else " " for each in words.casefold()).split()))
