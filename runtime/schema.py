"""The JSON Schema of machines: from the Structs of `model`, with a sentence per key for editors.

`machines/machine.schema.json` is this schema, written by `edgewise schema`; a test keeps the two
equal, and another that every key has its sentence here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from runtime.model import Definition

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EXPRESSION = {
    "type": ["boolean", "number", "string"],
    "description": "A CEL expression; numbers and bools are literals.",
}
_MAY_BE_NULL = {("Definition", "slots")}

_EDGE_DOCS = {
    "target": "The state that the edge leads to.",
    "name": "The edge's name, unique in its state. Default: its option's key, else EVENT>TARGET.",
    "guard": "The edge is open while this bool holds.",
    "assign": "New values of variables, line by line, each seeing the ones above.",
    "tell": "What happened, in a sentence: the narrator builds on it.",
    "why": "What a player is told when the edge is closed.",
    "must": "While it is open, no other event is. Its guard reads no payload, dice or option.",
    "suggest": "false: allowed, never proposed as the next event.",
    "once": "true: can be taken once on a branch.",
    "prompt": "The prompt that tells this edge, instead of the target's.",
    "learn": "What is learned from this edge's narration, instead of the target's rules.",
}

DOCS: dict[str, dict[str, str]] = {
    "Definition": {
        "machine": "The machine's name; equals the file's.",
        "version": "For people and for `migrations`; the digest is what pins a session.",
        "title": "The story's title. Its languages are those that the machine offers.",
        "language": "The language of sessions that ask for none.",
        "initial": "The edge that begins a session; `initial: INIT` is short for {event: INIT, target: INIT}.",
        "limits": "How long a session may last, and how long its texts may be.",
        "slots": "What a client may fill in, with the value that stands without it.",
        "context": "The typed variables: the only facts that the machine knows.",
        "ai_state": "What every answer carries as ai_state; `output.x` is a text that the narrator gives.",
        "events": "What a client may send, beside events that have the name of a state.",
        "history": "What a player may take back.",
        "migrations": "How sessions of other versions come over to this one, when `edgewise migrate` is run.",
        "properties": "What must be true of every play: replays and exploration hold the machine to it.",
        "on_failure": "What happens when the model fails: the offline narrator tells, or the turn is refused.",
        "on": "Root edges: open in every state that is not final, before the state's own.",
        "states": "Where a session stands between two turns.",
    },
    "Initial": {
        **{key: _EDGE_DOCS[key] for key in ("target", "assign", "tell", "prompt", "learn")},
        "event": "The first event. Default: INIT.",
        "dice": "Rolled once, when the session begins.",
    },
    "LongDie": {
        "pick": "One of these strings is drawn.",
        "roll": "1d20, 2d6+1 or 30%.",
        "secret": "true: in no answer. Needed where a secret variable takes it.",
    },
    "Learn": {
        "from": "The value, from the narration: output.x.",
        "otherwise": "The value where the narration brings none.",
        "at_least": "The lowest value that is learned.",
        "at_most": "The highest value that is learned.",
    },
    "Limits": {
        "turns": "The most turns of a session. A root must edge that reads turns_left ends it.",
        "seconds": "The longest play, in seconds. A root must edge that reads time.remaining_seconds ends it.",
        "scene_chars": "The longest scene, in code points, for all languages or per language.",
        "option_chars": "The longest option, in code points, for all languages or per language.",
        "memory_tokens": "What the recent turns may take of a prompt, in tokens, roughly. Default: 2000.",
    },
    "Variable": {
        "type": "int, float, bool, str, enum (one of `of`) or set (some of `of`).",
        "default": "The value at the start.",
        "min": "The lowest value; results are clamped.",
        "max": "The highest value; results are clamped.",
        "of": "The members of an enum or a set; expressions read them as names.",
        "label": "How players read the variable's name.",
        "show": "true: its value is in every answer's status.",
        "secret": "true: in no answer, export or prompt.",
    },
    "Event": {
        "payload": "Fields that the client sends: int, float, bool, str or text; `?` = optional.",
        "role": "Who may send it.",
    },
    "History": {"rewind": "free, off, or checkpoint: only to turns that entered a state with checkpoint: true."},
    "Migration": {
        "from": "The `version` that the sessions began with, as it stood in the file of then.",
        "states": "States of that version → states of this one; others keep their name where it is still there.",
        "context": "Values for variables that are new, or whose old value doesn't fit any more. Else: their defaults.",
        "fallback": "Where a session goes whose state is gone; without it such a session stays on its old version.",
    },
    "Property": {
        "never": "May hold after no turn.",
        "always": "Holds after every turn.",
        "eventually": "Holds after some turn, `within` turns from the start, or from where `when` becomes true.",
        "within": "How many turns `eventually` has.",
        "when": "`eventually` is asked for each time that this becomes true.",
    },
    "EdgePart": _EDGE_DOCS,
    "Entry": {"dice": "Rolled before the guards of these edges.", "edges": "The edges, the first open one is taken."},
    "State": {
        "label": "How players read the state's name.",
        "type": "final: a session ends here.",
        "prompt": "The prompt that tells the turns that arrive here.",
        "narrate": "written: always the offline texts, no model.",
        "checkpoint": "true: a rewind may lead here (history: {rewind: checkpoint}).",
        "entry": "Assigned when the state is entered from another one.",
        "learn": "What variables take from the narration of turns that arrive here.",
        "options": "The choices offered here: a list, or {free: 2..4, event, kinds}.",
        "on": "The edges for each event.",
        "ending": "How the story ended; on final states.",
    },
    "Option": {
        **_EDGE_DOCS,
        "key": "The option's name, unique in its state.",
        "text": "What the player reads.",
        "short": "A shorter text (8 characters in zh, 14 elsewhere) for narrow limits.",
        "event": "The event that choosing it sends. Default: the name of its first edge's target.",
        "guard": "The option is offered while this bool holds.",
        "dice": "Rolled before the guards when the option is chosen.",
        "edges": "Its edges where it has several; else write `target` here.",
    },
    "FreeOptions": {
        "free": "How many choices the narrator words: 3, or 2..4.",
        "event": "The event that choosing one sends.",
        "kinds": "The kinds of choices, each with its name for players.",
    },
    "Ending": {"title": "The ending's title.", "good": "Whether it is a good ending; left out where it is neither."},
}


@cache
def _schema() -> dict[str, Any]:
    raw = msgspec.json.schema(Definition)
    parts = {name: _documented(name, part) for name, part in raw["$defs"].items()}
    root = parts.pop("Definition")
    return {"$schema": DIALECT, **root, "title": "An Edgewise machine", "$defs": dict(sorted(parts.items()))}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a machine's file. Nulls are allowed for slots only."""
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(_schema()))
    return copied


def _documented(name: str, part: dict[str, Any]) -> dict[str, Any]:
    properties = {
        key: {**_plain(value, may_be_null=(name, key) in _MAY_BE_NULL), "description": DOCS[name][key]}
        for key, value in part["properties"].items()
    }
    return {**part, "properties": properties}


def _plain(value: Any, *, may_be_null: bool) -> Any:
    """A part of the schema without nulls, and with expressions as one type."""
    if isinstance(value, list):
        return [_plain(each, may_be_null=may_be_null) for each in value]
    if not isinstance(value, dict):
        return value
    branches = value.get("anyOf", [])
    if not may_be_null:
        branches = [branch for branch in branches if branch != {"type": "null"}]
    if [branch.get("type") for branch in branches] == ["boolean", "integer", "number", "string"]:
        return dict(_EXPRESSION)
    rest = {key: _plain(each, may_be_null=may_be_null) for key, each in value.items() if key != "anyOf"}
    if rest.get("default", 0) is None:
        del rest["default"]
    if len(branches) == 1:
        return {**_plain(branches[0], may_be_null=may_be_null), **rest}
    return {**rest, "anyOf": _plain(branches, may_be_null=may_be_null)} if branches else rest
