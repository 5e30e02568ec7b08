"""A replay against the machine that it names: what the machine doesn't have is told before anything is played."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from runtime import errors
from runtime.advance import KINDS
from runtime.bench.replay import Expect, Place, Replay, ReplayStep
from runtime.errors import Finding, Refusal
from runtime.machine import Machine
from runtime.model import CONTINUE, INT_MAX, INT_MIN, Variable
from runtime.shape import did_you_mean

UNKNOWN = "E901"
"""The code of a name that the machine doesn't have, or a value that its variable can't hold."""
_PAYLOAD = ("ai_state", "status", "ending", "key_choices", "options", "inputs", "outcome", "routing", "meta")
"""What every answer's payload has beside the prompt's outputs."""
_META = (
    "trace_id", "narrator", "model", "ai_generated", "attempts", "rungs", "fallback", "usage", "warnings",
)  # fmt: skip
_NO_PROMPT = ("scene", "epilogue")
"""What a state without a prompt tells."""
Said = Iterator[tuple[str, str]]
"""Faults of a part: its dotted path, and the sentence."""


def findings_against(machine: Machine, replay: Replay, *, is_updated: bool = False) -> list[Finding]:
    """Every name and value of a replay that the machine doesn't have, at its place, in file order.

    Of one whose expectations are to be written anew, only what no update could write otherwise.
    """
    found = [_at(replay.places, f"given.{path}", message) for path, message in _given(machine, replay)]
    names = _Names(machine)
    if replay.given.state is None and replay.steps[0].choose is not None and replay.steps[0].expect.error is None:
        begin = f"the first step sends the initial event: send: {machine.definition.first.event}, or give a state"
        found.append(_at(replay.steps[0].places, "choose", begin))
    for step in replay.steps:
        asked = replace(step, expect=_left_of(machine, step.expect)) if is_updated else step
        found += [_at(step.places, path, message) for path, message in _step(machine, names, asked)]
    return sorted(set(found))


def _at(places: Any, path: str, message: str) -> Finding:
    place: Place = ("", 1, 1)
    while True:
        if path in places:
            place = places[path]
            break
        if not path:
            break
        path = path.rpartition(".")[0]
    file, line, col = place
    return Finding(file, line, col, UNKNOWN, message)


def _left_of(machine: Machine, expect: Expect) -> Expect:
    """What of an expectation can't be updated: a variable, text or part of meta that is not there has no value."""
    context = {name: value for name, value in expect.context.items() if name not in machine.definition.context}
    return Expect(context=context, texts=expect.texts, meta=expect.meta, error=expect.error)


class _Names:
    """Every name of a machine that a replay may use, by what it names."""

    def __init__(self, machine: Machine) -> None:
        definition = machine.definition
        states = definition.states
        self.states = tuple(states)
        self.finals = tuple(name for name, state in states.items() if state.is_final)
        self.events = definition.event_types
        self.keys = (*dict.fromkeys(option.key for state in states.values() for option in state.authored), CONTINUE)
        self.kinds = tuple(dict.fromkeys(kind for state in states.values() for kind in state.kinds))
        edges = [machine.initial, *(each for row in machine.table.values() for each in row)]
        self.edges = tuple(dict.fromkeys(each.full_name for each in edges))
        self.dice = (*dict.fromkeys(name for each in edges for name in each.edge.dice), KINDS)
        prompts = [prompt for variants in machine.prompts.values() for prompt in variants.values()]
        self.fields = tuple(dict.fromkeys((*(path for each in prompts for path in each.fields), *_NO_PROMPT)))


def _given(machine: Machine, replay: Replay) -> Said:
    given, definition = replay.given, machine.definition
    if given.state is not None:
        yield from _unknown("state", (given.state,), "state", definition.states, "States")
    yield from _values(machine, given.context)
    if given.context and given.state is None:
        yield "context", "what is in the context stands with a state. Add state: NAME, or play there"
    if given.language is not None:
        offered = {each.partition("-")[0] for each in definition.languages}
        if given.language.partition("-")[0] not in offered:
            yield (
                "language",
                f"the machine has no language '{given.language}'. It has {', '.join(definition.languages)}",
            )


def _step(machine: Machine, names: _Names, step: ReplayStep) -> Said:
    yield from _chosen(names, step)
    if step.expect.error is None:
        yield from _sent(names, step)
    for path, message in _expected(machine, names, step.expect):
        yield f"expect.{path}", message


def _chosen(names: _Names, step: ReplayStep) -> Said:
    """The option that a step names: one of the machine's, even where it isn't offered."""
    chosen = step.choose
    if chosen is not None and chosen.key is not None:
        yield from _unknown("choose", (chosen.key,), "option", names.keys, "Options")
    if chosen is not None and chosen.kind is not None:
        yield from _unknown("choose.kind", (chosen.kind,), "kind of option", names.kinds, "Kinds")


def _sent(names: _Names, step: ReplayStep) -> Said:
    """What a step sends; one that is to be refused may send anything."""
    if step.send is not None and step.send.casefold() not in map(str.casefold, names.events):
        yield from _unknown("send", (step.send,), "event", names.events, "Events")
    for name in step.dice:
        yield from _unknown(f"dice.{name}", (name,), "die", names.dice, "Dice")


def _expected(machine: Machine, names: _Names, expect: Expect) -> Said:
    named = (
        ("edge", expect.edge, "edge", names.edges, "Edges"),
        ("state", expect.state, "state", names.states, "States"),
        ("next", expect.next, "event", names.events, "Events"),
        ("ending", expect.ending, "final state", names.finals, "They"),
        ("error", expect.error, "error", error_codes(), "Errors"),
    )
    for path, name, what, known, plural in named:
        yield from _unknown(path, () if name is None else (name,), what, known, plural)
    yield from _unknown("allowed", expect.allowed or (), "event", names.events, "Events")
    yield from _unknown("options", expect.options or (), "option", (*names.keys, *names.kinds), "Options")
    yield from _values(machine, expect.context)
    for name in expect.meta:
        yield from _unknown(f"meta.{name}", (name,), "part of meta", _META, "Parts")
    if expect.error is None:
        for path in expect.texts:
            yield from _path(names, path)


def _path(names: _Names, path: str) -> Said:
    first, _, rest = path.partition(".")
    if (rest and first in _PAYLOAD) or any(path == each or path.startswith(f"{each}.") for each in names.fields):
        return
    known = (*names.fields, *Expect.__struct_fields__[:-2], "meta")
    mend = did_you_mean(path, known, f"Its prompts tell {', '.join(names.fields)}")
    yield path, f"no text '{path}' in any answer of the machine, and no other key of that name{mend}"


def _unknown(path: str, names: Iterable[str], what: str, known: Collection[str], plural: str) -> Said:
    for name in names:
        if name not in known:
            mend = did_you_mean(name, known, f"{plural} are {', '.join(known)}" if known else "It has none")
            yield path, f"no {what} '{name}' in the machine{mend}"


def error_codes() -> tuple[str, ...]:
    """Every code that a refusal may have."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refusal)]
    return tuple(dict.fromkeys(kind.code for kind in kinds if hasattr(kind, "code")))


def _values(machine: Machine, context: Any) -> Said:
    for name, value in context.items():
        variable = machine.definition.context.get(name)
        if variable is None:
            yield from _unknown(f"context.{name}", (name,), "variable", machine.definition.context, "Variables")
        elif wrong := _wrong(variable, value):
            yield f"context.{name}", f"'{name}' {wrong}"


def _wrong(variable: Variable, value: Any) -> str:
    """Why a variable can't hold a value, '' where it can."""
    if variable.type in ("enum", "set"):
        return _no_member(variable, value)
    fits = {
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "bool": type(value) is bool,
    }.get(variable.type, isinstance(value, str))
    if not fits:
        return f"is of type {variable.type}"
    if type(value) is int and not INT_MIN <= value <= INT_MAX:
        return "does not fit in 64 bits"
    if variable.type in ("int", "float") and variable.min is not None and value < variable.min:
        return f"is at least {variable.min}"
    if variable.type in ("int", "float") and variable.max is not None and value > variable.max:
        return f"is at most {variable.max}"
    return ""


def _no_member(variable: Variable, value: Any) -> str:
    members = variable.of or []
    if isinstance(value, list) != (variable.type == "set"):
        return "is a list of members" if variable.type == "set" else f"is one of {', '.join(members)}"
    for each in value if isinstance(value, list) else [value]:
        mend = did_you_mean(str(each), members, f"Members are {', '.join(members)}")
        if each not in members:
            return f"has no member '{each}'{mend}"
    return ""
