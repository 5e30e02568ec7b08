"""The rules about what templates read of the inputs that hold several things: `option.text`, `dice.luck`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct

from runtime.draft import Draft, FragmentFile, PromptFile
from runtime.errors import Finding
from runtime.model import ROOT, Die, Edge, LongDie, Path
from runtime.prompt import Say
from runtime.shape import did_you_mean
from runtime.source import Read

INPUT_KEYS: Mapping[str, tuple[str, ...]] = {
    "option": ("key", "kind", "text"),
    "time": ("elapsed_seconds", "remaining_seconds"),
    "session": ("player_count", "difficulty", "language"),
    "limits": ("scene_chars", "option_chars", "turns", "seconds"),
    "constraints": ("forbidden_terms", "content_rating"),
    "ending": ("id", "title", "good"),
}
"""What the inputs of every turn hold (`view.inputs_of`); `slots`, `dice` and `changes` are the machine's own."""

Fault = Literal["missing", "secret", "unsure"]


class Misread(Struct, frozen=True):
    """What is wrong with one read, and the sentence."""

    fault: Fault
    message: str


def prompt_reads(draft: Draft) -> Iterator[Finding]:
    """Every key that a prompt or an include of it reads and that isn't there; each place once."""
    yield from dict.fromkeys(finding for file in draft.prompts for finding in _of_prompt(draft, file))


def _of_prompt(draft: Draft, file: PromptFile) -> Iterator[Finding]:
    told = [edge for edge in draft.edges if file.prompt in draft.prompts_of(edge)] if file.prompt else []
    for _, part in file.prompt.parts if file.prompt else ():
        for read in part.reads:
            misread = misread_of(draft, read) or (_unsure(draft, read, told) if read.is_sure else None)
            if misread is not None:
                source = f"prompts/{read.include}" if read.include else part.source.file
                line = read.line if read.include else read.line + part.source.line - 1
                code = "E404" if misread.fault == "secret" else "E419"
                yield Finding(source, line, read.col, code, misread.message)


def said_reads(draft: Draft, file: FragmentFile, path: Path, say: Say) -> Iterator[Finding]:
    """Every key that a fragment's text reads and that isn't there."""
    place = file.document.places.value(path)
    for read in say.template.reads if say.template else ():
        misread = misread_of(draft, read)
        if misread is not None:
            code = "E514" if misread.fault == "secret" else "E513"
            yield Finding(file.document.file, *place, code, misread.message)


def misread_of(draft: Draft, read: Read) -> Misread | None:
    """Why a key can never be read, None where it can."""
    known, secret = _keys(draft, read.name)
    if known is None or read.key in known or read.key in draft.lost:
        return None
    if read.key in secret:
        return Misread("secret", f"'{read.name}.{read.key}' is secret, and a text would tell it. Delete it")
    has = f"It has {', '.join(known)}" if known else _NOTHING[read.name]
    return Misread("missing", f"'{read.name}' has no '{read.key}'{did_you_mean(read.key, known, has)}")


_NOTHING = {
    "slots": "The machine declares no slots",
    "dice": "The machine has no open dice",
    "changes": "The machine has no open variables",
}


def _keys(draft: Draft, name: str) -> tuple[list[str] | None, list[str]]:
    """What an input holds, None where that can't be told, and what it hides."""
    if name in INPUT_KEYS:
        return list(INPUT_KEYS[name]), []
    definition = draft.definition
    if name == "slots" and name not in draft.lost:
        return list(definition.slots), []
    if name == "changes" and "context" not in draft.lost:
        context = definition.context
        hidden = [each for each, variable in context.items() if variable.secret]
        return [each for each in context if each not in hidden], hidden
    if name == "dice" and draft.is_whole:
        dice = [(each, die) for edge in draft.edges for each, die in edge.dice.items()]
        known = list(dict.fromkeys(each for each, die in dice if not _is_secret(die)))
        return known, [each for each, die in dice if _is_secret(die) and each not in known]
    return None, []


def _is_secret(die: Die) -> bool:
    return isinstance(die, LongDie) and die.secret


def _unsure(draft: Draft, read: Read, told: list[Edge]) -> Misread | None:
    """A die or a change that some turn of the prompt hasn't, and that is read without asking."""
    if not draft.is_whole or read.name not in {"dice", "changes"}:
        return None
    has = _may_roll if read.name == "dice" else _may_change
    edge = next((edge for edge in told if not has(draft, edge, read.key)), None)
    if edge is None:
        return None
    where = f"'{read.name}.{read.key}'"
    ask = f"{{% if '{read.key}' in {read.name} %}}…{{% endif %}}"
    return Misread("unsure", f"{where} isn't there on '{edge.full_name}', which this prompt tells. Ask first: {ask}")


def _may_roll(draft: Draft, edge: Edge, name: str) -> bool:
    around = [other for other in draft.edges if other.event == edge.event and other.source in {edge.source, ROOT}]
    return any(name in other.dice for other in around)


def _may_change(draft: Draft, edge: Edge, name: str) -> bool:
    state = draft.definition.states.get(edge.target)
    learned = edge.learn if edge.learn is not None else (state.learn if state else {})
    return name in edge.assign or (state is not None and name in state.entry) or name in learned
