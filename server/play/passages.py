"""An answer as passages to read, whatever machine it comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from runtime.model import UNLIMITED
from runtime.view import ANSWER_KEYS
from server.play.table import Answer
from server.play.words import KNOWN, Known, bracketed, is_zh, joined, labelled, say

Style = Literal["body", "speech", "aside", "title", "choice", "status", "note", "fault"]


class Passage(Struct, frozen=True):
    """A paragraph: `label` goes before the text, '' for none; `is_close` follows without a blank line."""

    text: str
    style: Style = "body"
    label: str = ""
    is_close: bool = False


class Fact(Struct, frozen=True):
    """One shown variable; `change` says how the turn moved it, '' where the value shows it already."""

    label: str
    value: str
    change: str = ""
    is_moved: bool = False

    def line(self, language: str) -> str:
        """`Health 9/12 (-3)`."""
        return f"{self.label} {self.value}" + (bracketed(self.change, language) if self.change else "")


def told(answer: Answer, language: str, choice: str = "") -> list[Passage]:
    """The outputs in the order that the prompt declares them.

    A choice that is only told back is left out: the player has just seen it.
    """
    return [passage for _, passage in told_by_path(answer, language, choice)]


def told_by_path(answer: Answer, language: str, choice: str = "") -> list[tuple[str, Passage]]:
    """The same, each with its path."""
    outputs = {name: value for name, value in answer["payload"].items() if name not in ANSWER_KEYS}
    found = ((path, passage_of(path, value, language)) for path, value in _leaves(outputs))
    return [
        (path, each)
        for path, each in found
        if each is not None and not (each.style == "aside" and echoes(each.text, choice))
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def passage_of(path: str, value: Any, language: str) -> Passage | None:
    """An output as a passage; None where it is empty."""
    if value in (None, "", []):
        return None
    name = path.rpartition(".")[2]
    humanized = name.replace("_", " ").capitalize()
    known = KNOWN.get(path) or KNOWN.get(name) or Known(humanized, humanized)
    return Passage(_shown(value, language), known.style, known.zh if is_zh(language) else known.en)  # type: ignore[arg-type]


def echoes(text: str, choice: str) -> bool:
    """Whether a text only tells the choice back."""
    return bool(choice) and choice.rstrip("。.") in text


def _shown(value: Any, language: str) -> str:
    if isinstance(value, bool):
        return say("yes" if value else "no", language)
    if isinstance(value, list):
        return joined([_shown(each, language) for each in value], language) or say("nothing", language)
    return str(value)


def facts(answer: Answer, language: str) -> list[Fact]:
    """The shown variables, each with what the turn changed."""
    changes = {change["name"]: change for change in answer["payload"]["outcome"]["changes"]}
    return [_fact(status, changes.get(name), language) for name, status in answer["payload"]["status"].items()]


def _fact(status: Mapping[str, Any], change: Mapping[str, Any] | None, language: str) -> Fact:
    if isinstance(status["value"], list):
        return _fact_of_set(status, change, language)
    spoken = "" if _is_worded(status) else _change(change, language)
    return Fact(status["label"], _measured(status, language), spoken, change is not None)


def _fact_of_set(status: Mapping[str, Any], change: Mapping[str, Any] | None, language: str) -> Fact:
    """A set with its new members marked by a +, and those that are gone beside it."""
    before = status["value"] if change is None else change["from"]
    words = dict(zip(status["value"], status["text"], strict=True))
    members = [spoken if each in before else f"+{spoken}" for each, spoken in words.items()]
    gone = [f"-{each.replace('_', ' ')}" for each in before if each not in words]
    value = joined(members, language) or say("nothing", language)
    return Fact(status["label"], value, joined(gone, language), change is not None)


def _is_worded(status: Mapping[str, Any]) -> bool:
    """Whether the machine has words of its own for the value: what was before it has none here."""
    return status["text"] not in (str(status["value"]), str(status["value"]).lower())


def _measured(status: Mapping[str, Any], language: str) -> str:
    value, most = status["value"], status["max"]
    shown = status["text"] if _is_worded(status) else _shown(value, language)
    return f"{shown}/{_shown(most, language)}" if most is not None and not isinstance(value, bool) else shown


def _change(change: Mapping[str, Any] | None, language: str) -> str:
    if change is None:
        return ""
    before, after = change["from"], change["to"]
    if isinstance(after, int | float) and not isinstance(after, bool):
        return f"{after - before:+g}"
    return f"← {_shown(before, language)}"


def status_line(answer: Answer, language: str) -> str:
    """`Health 9/12 (-3) · Bag lamp, key · 4:32 left`; '' where nothing is shown."""
    parts = [fact.line(language) for fact in facts(answer, language)]
    left = answer["session"]["time"]["remaining_seconds"]
    if left != UNLIMITED and not answer["session"]["ended"]:
        parts.append(say("time_left", language, time=f"{left // 60}:{left % 60:02d}"))
    return " · ".join(parts)


def told_by(answer: Answer, language: str) -> str:
    """Who wrote the words: a label that every play and transcript carries."""
    meta = answer["payload"]["meta"]
    if meta["ai_generated"]:
        return say("generated", language, model=meta["model"] or meta["narrator"])
    return say("written", language)


def ending(answer: Answer, language: str) -> list[Passage]:
    """How it ended, and the choices that led there."""
    end = answer["payload"].get("ending")
    if not end:
        return []
    title = say("ending", language, title=end["title"])
    if end["good"] is not None:
        goodness = say("good" if end["good"] else "bad", language)
        title += bracketed(goodness, language)
    return [Passage(title, "title")]


def key_choices(answer: Answer, language: str) -> list[Passage]:
    """The choices that weighed most, under a heading; nothing where there are none."""
    choices = answer["payload"].get("key_choices", [])
    heading = [Passage(say("looking_back", language), "note")] if choices else []
    return heading + [Passage(f"{each['turn']:>3}  {each['text']}", "aside", is_close=True) for each in choices]


def why(answer: Answer, language: str) -> list[Passage]:
    """What the machine settled in the last turn: its edge, dice, changes, and what is open now."""
    outcome, meta = answer["payload"]["outcome"], answer["payload"]["meta"]
    dice = [f"{die['name']} ({die['spec']}) = {_shown(die['value'], language)}" for die in outcome["dice"]]
    changes = [
        f"{each['name']} {_shown(each['from'], language)} → {_shown(each['to'], language)}"
        for each in outcome["changes"]
    ]
    rows = [
        ("edge", f"{outcome['edge']}: {outcome['from'] or '·'} → {outcome['to']}"),
        ("dice", joined(dice, language) or say("not_changed", language)),
        ("changes", joined(changes, language) or say("not_changed", language)),
        ("next", joined(list(answer["payload"]["routing"]["allowed_event_types"]), language) or "-"),
        ("told_by", f"{meta['narrator']}{labelled('', told_by(answer, language), language)}"),
        *([("fallback", joined(meta["fallback"], language))] if meta["fallback"] else []),
        *(("warning", warning) for warning in meta["warnings"]),
    ]
    return [Passage(text, "note", say(what, language), is_close=at > 0) for at, (what, text) in enumerate(rows)]
