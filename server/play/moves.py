"""What a player typed, read against what was offered: a move to send, or a command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from server.play.table import Answer
from server.play.words import say

Command = Literal["quit", "help", "why"]
_COMMANDS: Final[Mapping[str, Command]] = {"q": "quit", "?": "help", "？": "help", "w": "why"}
_LONG: Final[Mapping[str, Command]] = {"quit": "quit", "exit": "quit", "help": "help", "why": "why"}
_NUMBERED = re.compile(r"(\d{1,9})[.)、．]?(?:\s+(\S.*))?", re.DOTALL)


class Move(Struct, frozen=True):
    """One turn as the player wants it: what is sent beside the session, and how it reads."""

    request: Mapping[str, Any]
    told: str


class Misread(Exception):
    """What was typed is no move here; the sentence says what is."""


def read(line: str, answer: Answer, language: str) -> Move | Command:
    """A typed line as a move or a command. Raises Misread."""
    text = line.strip()
    if text.lower() in _COMMANDS:
        return _COMMANDS[text.lower()]
    if text.startswith("/"):
        return _slashed(text[1:], answer, language)
    if text.startswith("="):
        return _spoken(text[1:].strip(), answer, language)
    numbered = _NUMBERED.fullmatch(text)
    if numbered and (chosen := _numbered(numbered, answer, language)):
        return chosen
    return _spoken(text, answer, language)


def takes_text(answer: Answer) -> bool:
    """Whether free text is taken now."""
    return bool(answer["payload"]["inputs"])


def numbers_of(answer: Answer) -> str:
    """The numbers offered: `1-3`, `1` where there is but one, `1, 3` where a rewind found some closed."""
    ids = [option["id"] for option in answer["payload"]["options"]]
    is_whole = len(ids) > 1 and ids == [*range(ids[0], ids[-1] + 1)]
    return f"{ids[0]}-{ids[-1]}" if is_whole else ", ".join(map(str, ids))


def what_is_wanted(answer: Answer, language: str) -> str:
    """A sentence that says what may be typed."""
    options, text = answer["payload"]["options"], takes_text(answer)
    if not options and not text:
        events = " ".join(f"/{event}" for event in answer["payload"]["routing"]["allowed_event_types"])
        return say("type_event", language, events=events) if events else say("nothing_open", language)
    kind = "type_either" if options and text else "type_text" if text else "type_number"
    return say(kind, language, numbers=numbers_of(answer))


def _slashed(rest: str, answer: Answer, language: str) -> Move | Command:
    """`/why` and its like, or an event by its name: `/TICKET my printer burns`."""
    word, _, text = rest.partition(" ")
    command = {**_COMMANDS, **_LONG}.get(word.lower())
    if command is not None:
        return command
    allowed = answer["payload"]["routing"]["allowed_event_types"]
    event = next((event for event in allowed if event.lower() == word.lower()), None)
    if event is None:
        raise Misread(say("no_event", language, event=word, events=", ".join(allowed) or "-"))
    field = _field_of(event, answer)
    if text.strip() and field is None:
        raise Misread(say("takes_no_text", language))
    payload = {field: text.strip()} if text.strip() else {}
    return Move({"event": {"type": event}, "payload": payload}, f"/{event} {text}".strip())


def _numbered(match: re.Match[str], answer: Answer, language: str) -> Move | None:
    """An option by its number, perhaps with words; None where the line is but words that begin with a number."""
    number, words = int(match[1]), match[2]
    option = next((each for each in answer["payload"]["options"] if each["id"] == number), None)
    field = _field_of(option["event_type"], answer) if option else None
    if words and field is None and takes_text(answer):
        return None
    if option is None:
        raise Misread(_no_option(number, answer, language))
    if words and field is None:
        raise Misread(say("takes_no_words", language, number=number))
    payload = {"selected_option_id": number} | ({field: words} if words else {})
    return Move({"payload": payload}, option["text"] + (f" “{words}”" if words else ""))


def _no_option(number: int, answer: Answer, language: str) -> str:
    if not answer["payload"]["options"]:
        return say("no_options", language) + " " + what_is_wanted(answer, language)
    return say("no_option", language, number=number, numbers=numbers_of(answer))


def _spoken(text: str, answer: Answer, language: str) -> Move:
    """Free text, for the first event that takes some and that no option stands for."""
    inputs = answer["payload"]["inputs"]
    if not text or not inputs:
        raise Misread(what_is_wanted(answer, language))
    following = answer["payload"]["routing"]["next_event_type"]
    optioned = {option["event_type"] for option in answer["payload"]["options"]}
    taken = min(inputs, key=lambda each: (each["event_type"] in optioned, each["event_type"] != following))
    request = {"event": {"type": taken["event_type"]}, "payload": {taken["field"]: text}}
    return Move(request, f"“{text}”")


def _field_of(event: str, answer: Answer) -> str | None:
    """The field in which an event takes free text, None where it takes none."""
    return next((each["field"] for each in answer["payload"]["inputs"] if each["event_type"] == event), None)
