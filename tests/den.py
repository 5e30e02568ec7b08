"""A small machine with something of everything that a replay may speak of, and replays of it."""

from __future__ import annotations

import asyncio
import textwrap
from functools import cache
from typing import Any

from runtime import loader
from runtime.bench.modes import Mode
from runtime.bench.player import Result, played, played_by_rules
from runtime.bench.replay import Replay
from runtime.bench.replay_file import read_replays
from runtime.errors import Finding
from runtime.machine import Machine

DEN = """
machine: den
title: {zh: 兽穴🐾, en: The den}
language: zh
initial: {event: INIT, target: MOUTH}
limits: {turns: 30, seconds: 100}
slots: {beast: 熊}
context:
  hp: {type: int, default: 5, min: 0, max: 9, label: {zh: 生命, en: Health}, show: true}
  warmth: {type: float, default: 0.5}
  bag: {type: set, of: [key, lamp, rope], show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
  loud: {type: bool, default: false}
events: {SAY: {payload: {text: text, times: "int?"}}, GO: {}, LATE: {}, RULE: {role: operator}}
on:
  LATE: [{guard: "time.remaining_seconds <= 0 || turns_left <= 0", target: END_LATE, must: true}]
states:
  MOUTH:
    label: {zh: 洞口, en: The mouth}
    prompt: told
    learn: {mood: {from: output.mood}}
    options:
      - key: strike
        text: {zh: 挥石头, en: Swing a stone}
        dice: {attack: 1d20, wound: 1d4}
        edges:
          - {name: hit, guard: dice.attack > 10, target: MOUTH, assign: {warmth: warmth + 0.25}, tell: {zh: 石头砸中了。, en: The stone lands.}}
          - {name: miss, target: MOUTH, assign: {hp: hp - dice.wound}, tell: {zh: 石头落空了。, en: The stone misses.}}
      - {key: take, text: {zh: 拾起提灯, en: Take the lamp}, once: true, target: MOUTH, assign: {bag: 'add(bag, "lamp")'}}
      - {key: deeper, text: {zh: 往里走, en: Go deeper}, guard: '"lamp" in bag || mood == tense', why: {zh: 里面太黑。, en: It is too dark.}, target: FORK}
    on:
      SAY:
        - {name: heard, guard: "norm(payload.text) == '芝麻开门' && payload.times < 3", target: FORK, assign: {loud: "true"}}
        - {name: unheard, target: MOUTH}
      RULE: [{guard: hp < 0, target: FORK}]
      FORK: [{guard: hp > 8, why: {zh: 你太虚弱了。, en: You are too weak.}, target: FORK}]
  FORK:
    label: {zh: 岔路, en: The fork}
    entry: {hp: hp + 1}
    options: {free: 1..2, event: GO, kinds: {bold: {zh: 大胆, en: bold}, shy: {zh: 胆小, en: shy}, odd: {zh: 古怪, en: odd}}}
    on:
      GO:
        - {name: bold, guard: "option.kind == 'bold'", target: END_OUT}
        - {name: divided, guard: "loud && option.kind == 'odd' && 1 / (hp - hp) > 0", target: END_OUT}
        - {name: other, target: MOUTH, assign: {hp: hp - 1}}
  END_OUT: {type: final, prompt: told, ending: {title: {zh: 天亮, en: Dawn}, good: true}}
  END_LATE: {type: final, prompt: told, ending: {title: {zh: 太迟了, en: Too late}, good: false}}
"""  # noqa: E501 - a machine, a line each
PROMPT = """---
description: What happens at the den
inputs: [text, hp]
outputs: {result: {text: text}, scene: scene, mood: "str?"}
---
system:
Tell it.
user:
{{ text }} {{ hp }}
"""


@cache
def den(change: tuple[str, str] = ("", ""), prompt: str = PROMPT) -> Machine:
    """The machine; `change` is a part of its text and what stands there instead."""
    return loader.load({"machines/den.yaml": DEN.replace(*change), "prompts/den/told.prompty": prompt})


def at(state: str = "MOUTH", **given: Any) -> str:
    """The head of a replay that stands somewhere."""
    return f"replay: t\ngiven: {given_of({'state': state, **given})}\n"


ANEW = "replay: t\ngiven: {machine: den}\n"
"""The head of a replay that begins anew."""


def given_of(given: dict[str, Any]) -> str:
    """What is given, as a flow of YAML."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in {"machine": "den", **given}.items()) + "}"


def read(text: str, file: str = "x.replay.yaml") -> tuple[tuple[Replay, ...], list[Finding]]:
    """A file's replays and faults."""
    return read_replays(file, textwrap.dedent(text))


def replays(text: str) -> tuple[Replay, ...]:
    """A file's replays, where it has no fault."""
    found, faults = read(text)
    assert [str(each) for each in faults] == []
    return found


def played_once(text: str, machine: Machine | None = None, mode: Mode = "structure", narrator: Any = None) -> Result:
    """The file's one replay, played as a server would."""
    (replay,) = replays(text)
    return asyncio.run(played(replay, machine or den(), narrator, mode))


def ruled_once(text: str, machine: Machine | None = None) -> Result:
    """The same by the rules alone."""
    (replay,) = replays(text)
    return played_by_rules(replay, machine or den())


def both(text: str, machine: Machine | None = None) -> Result:
    """Played both ways, which must come to the same; what was served."""
    served, ruled = played_once(text, machine), ruled_once(text, machine)
    assert (served.verdict, served.difference) == (ruled.verdict, ruled.difference)
    return served


def differs(result: Result) -> tuple[int, str, Any, Any]:
    """The first difference: step, field, expected, got."""
    assert result.difference is not None, result.verdict
    found = result.difference
    return found.step, found.field, found.expected, found.got
