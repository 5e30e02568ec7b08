"""A replay as its file's text: what `replay_file` reads back as it was, and a person reads as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.bench.replay import Chosen, Expect, Given, Parts, Replay, ReplayStep, Text
from runtime.flow_yaml import block, flow, word

_PROMPT_INDENT = 6
_SCALARS = ("edge", "state", "next", "should_end", "ended", "ending", "error")


def written(replay: Replay, comment: str = "") -> str:
    """The file of one replay, with `comment` above it, line by line."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"replay: {word(replay.name)}", f"given: {flow(given_parts(replay.given))}"]
    lines += [f"xfail: {word(replay.xfail)}"] if replay.xfail is not None else []
    return "".join(f"{line}\n" for line in lines) + "steps:\n" + "".join(map(step_text, replay.steps))


def step_text(step: ReplayStep) -> str:
    """One step's lines below `steps:`."""
    lines = [f"{name}: {value}" for name, value in _written_parts(step)] or ["{}"]
    return "".join(f"{'  - ' if at == 0 else '    '}{line}\n" for at, line in enumerate(lines))


def given_parts(given: Given) -> Parts:
    """What a file says of where a replay begins: all that isn't the default."""
    defaults = Given(machine="")
    named = {name: getattr(given, name) for name in Given.__struct_fields__}
    return {name: value for name, value in named.items() if value != getattr(defaults, name)}


def _written_parts(step: ReplayStep) -> Iterator[tuple[str, str]]:
    """Each key that a step needs, with its value as it is written."""
    parts = {
        "choose": None if step.choose is None else flow(_chosen(step.choose)),
        "send": None if step.send is None else word(step.send),
        **{name: flow(value) for name, value in _maps(step) if value},
        "narrate": None if step.narrate is None else flow(step.narrate),
        "after": duration(step.after_ms) if step.after_ms else None,
        "key": None if step.key is None else word(step.key),
        "times": flow(step.times) if step.times != 1 else None,
        "prompt": None if step.prompt is None else block(step.prompt, _PROMPT_INDENT),
    }
    yield from ((name, value) for name, value in parts.items() if value is not None)
    if expected := expected_parts(step.expect):
        yield "expect", flow(expected)


def _maps(step: ReplayStep) -> tuple[tuple[str, Parts], ...]:
    return ("with", step.with_), ("constraints", step.constraints), ("dice", step.dice)


def duration(ms: int) -> str:
    """A time as files have it: 20s, 1.5s."""
    return f"{ms // 1000}s" if ms % 1000 == 0 else f"{ms // 1000}.{ms % 1000:03d}".rstrip("0") + "s"


def _chosen(chosen: Chosen) -> Any:
    if chosen.key is not None:
        return chosen.key
    if chosen.id is not None:
        return chosen.id
    return {"kind": chosen.kind} if chosen.kind is not None else {"text": chosen.text}


def expected_parts(expect: Expect) -> Parts:
    """What a file says under `expect`."""
    parts: dict[str, Any] = {name: getattr(expect, name) for name in _SCALARS}
    parts |= {"allowed": expect.allowed, "options": expect.options}
    parts |= {"context": expect.context or None, "meta": expect.meta or None}
    told = {name: parts[name] for name in Expect.__struct_fields__ if parts.get(name) is not None}
    return told | {path: _text(text) for path, text in expect.texts.items()}


def _text(text: Text) -> Any:
    if text.pattern is None:
        return text.contains
    asked: Mapping[str, Any] = {"contains": text.contains, "pattern": text.pattern}
    return {name: value for name, value in asked.items() if value is not None}
