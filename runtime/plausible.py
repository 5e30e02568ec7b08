"""What no version of Edgewise writes into an entry, though its chain and its types are right.

The rules of a machine are `recompute`'s. This is the rest: what a client may send at all, how large
a value gets, and what the stored answers must hold so that whoever reads them later can rely on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.exported import SessionTold, read_answer, read_standing
from runtime.model import INT_MAX, INT_MIN, LANGUAGE_PATTERN, TEXT_MAX_CHARS, Definition, Variable
from runtime.session import RECENT_TURNS, Change, Constraints, Entry, Offer, Session

if TYPE_CHECKING:
    from runtime.machine import Machine

LAST_MOMENT_MS = 253_402_300_799_999
"""The end of the year 9999: no later time can be shown."""
LAST_TURN = 2**31 - 1
PLAYER_ID_CHARS = 128
KEY_CHARS = 255
HASH_CHARS = 64
TEXT_CHARS = 100_000
"""The longest of all texts, in code points: five times the longest that a machine may allow."""
MAX_DEPTH = 200
"""How deep a body may be nested; a request's own limit is 64."""
MAX_LIMIT_MS = 10**12
MIN_SCENE_CHARS, MIN_OPTION_CHARS = 20, 2
MAX_TERMS, MAX_TERM_CHARS = 200, 32
MAX_SLOTS, MAX_SLOT_NAME_CHARS, MAX_SLOT_CHARS = 32, 64, 200

ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
HASH = re.compile(r"[0-9a-f]{64}")
_DIFFICULTIES = ("EASY", "NORMAL", "HARD")
_JSON_TYPES: Mapping[str, Any] = {"int": int, "float": int | float, "bool": bool, "str": str, "text": str}


def strange(machine: Machine, entry: Entry) -> Iterator[str]:
    """Whatever in an entry no version of Edgewise could have written, a sentence each."""
    yield from _strange_session(machine, entry.after)
    if entry.is_telling:
        yield from _strange_telling(machine, entry)
    if not all(0 <= each <= LAST_MOMENT_MS for each in (entry.at_ms, entry.after.answered_at_ms, *_elapsed(entry))):
        yield "a time lies outside the years 1970 to 9999"
    if len(entry.after.player_id or "") > PLAYER_ID_CHARS or len(entry.key or "") > KEY_CHARS:
        yield "player_id or key is too long"
    yield from _strange_names(entry)


def strange_body(body: bytes) -> Iterator[str]:
    """Whatever in a body not every reader of JSON reads alike. Raises msgspec.DecodeError."""
    pending = [(msgspec.json.decode(body), 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            yield "nested too deeply"
            return
        if isinstance(value, dict):
            pending += [(each, depth + 1) for each in (*value, *value.values())]
        elif isinstance(value, list):
            pending += [(each, depth + 1) for each in value]
        elif isinstance(value, str) and len(value) > TEXT_CHARS:
            yield f"a text of {len(value)} characters, and {TEXT_CHARS} are the most"
        elif isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            yield f"the number {str(value)[:30]} is outside what 64 bits hold"


def strange_answer(entry: Entry) -> Iterator[str]:
    """Whatever in the stored answers is not what the entry says. Raises msgspec.DecodeError where parts are missing."""
    told = [read_answer(entry.answer) if entry.is_telling else read_standing(entry.answer)]
    if entry.shown:
        told.append(read_standing(entry.shown))
    # The source's side of a fork was answered with where the child stands.
    if entry.child:
        return
    for each in told:
        yield from _misquoted(each.session, entry.after)


def _misquoted(told: SessionTold, after: Session) -> Iterator[str]:
    for name in ("session_id", "state", "turn", "step", "ended"):
        if getattr(told, name) != getattr(after, name):
            yield f"it was answered with another {name} than the session has"


def _elapsed(entry: Entry) -> tuple[int, ...]:
    known = () if entry.judged is None else (entry.judged.elapsed_ms,)
    return (entry.after.elapsed_ms, *known)


def _strange_names(entry: Entry) -> Iterator[str]:
    """What is no name, where a name must be."""
    salts = (entry.after.salt, entry.judged.salt if entry.judged else "")
    if not ID.fullmatch(entry.after.run_seed) or not all(salt == "" or ID.fullmatch(salt) for salt in salts):
        yield "run_seed or salt is not 1 to 128 of A-Z, a-z, 0-9 and _ . : -"
    if entry.child and not ID.fullmatch(entry.child):
        yield "child is no session's id"
    origin = entry.origin
    if origin and not (ID.fullmatch(origin.session_id) and HASH.fullmatch(origin.hash) and _is_turn(origin.turn)):
        yield "origin names no entry"
    if len(entry.request_hash) > HASH_CHARS or len(entry.prompt_hash) > HASH_CHARS:
        yield "request_hash or prompt_hash is too long"
    if min(entry.usage.prompt_tokens, entry.usage.completion_tokens, entry.usage.cached_tokens) < 0:
        yield "fewer than no tokens were used"
    counted = (*msgspec.structs.astuple(entry.total), *msgspec.structs.astuple(entry.spent)[1:])
    if min(counted) < 0 or len(entry.spent.provider) > MAX_SLOT_NAME_CHARS:
        yield "fewer than nothing was spent, or its provider's name is too long"


def _is_turn(number: int) -> bool:
    return 0 < number <= LAST_TURN


def _strange_session(machine: Machine, session: Session) -> Iterator[str]:
    if (session.machine, session.version) != (machine.name, machine.definition.version):
        yield f"the session names machine '{session.machine}', and its definition is '{machine.name}'"
    if session.state not in machine.definition.states:
        yield f"machine '{machine.name}' has no state '{session.state}'"
    elif session.ended != machine.definition.states[session.state].is_final:
        yield f"state '{session.state}' and whether the session has ended don't go together"
    yield from _strange_values(machine.definition.context, session.context)
    yield from _strange_constraints(machine, session.constraints)
    yield from _strange_slots(machine.definition, session.slots)
    yield from _strange_offer(machine, session)
    yield from _strange_counts(session)


def _strange_counts(session: Session) -> Iterator[str]:
    """What was counted, and can't have come to this."""
    choices = session.key_choices
    counts = (session.step, *session.visits.values(), *session.said.values(), *(each.weight for each in choices))
    if not all(0 <= each <= LAST_TURN for each in counts) or not all(_is_turn(each.turn) for each in choices):
        yield "a count of steps, visits or choices is one that no session comes to"
    if session.limit_ms is not None and not 0 <= session.limit_ms <= MAX_LIMIT_MS:
        yield f"its time limit is {session.limit_ms} ms"
    if session.player_count < 1 or session.difficulty not in _DIFFICULTIES:
        yield "player_count or difficulty is none that a client may send"
    if len(session.recent) > RECENT_TURNS:
        yield f"it remembers {len(session.recent)} turns, and {RECENT_TURNS} are the most"


def _strange_constraints(machine: Machine, constraints: Constraints) -> Iterator[str]:
    """Constraints that no client could have set."""
    offered = {language.partition("-")[0] for language in machine.definition.languages}
    language = constraints.language
    if not re.fullmatch(LANGUAGE_PATTERN, language) or language.partition("-")[0] not in offered:
        yield f"its language is none of {', '.join(machine.definition.languages)}"
    lengths = ((constraints.max_chars_scene, MIN_SCENE_CHARS), (constraints.max_chars_option, MIN_OPTION_CHARS))
    for chars, least in lengths:
        if chars is not None and chars < least:
            yield f"a text may have {chars} characters, and {least} are the least"
    terms = constraints.forbidden_terms
    if len(terms) > MAX_TERMS or not all(0 < len(term) <= MAX_TERM_CHARS for term in terms):
        yield f"forbidden_terms are not up to {MAX_TERMS} texts of 1 to {MAX_TERM_CHARS} characters"


def _strange_slots(definition: Definition, slots: Mapping[str, str | None]) -> Iterator[str]:
    sent = {name: value for name, value in slots.items() if definition.slots.get(name, "") != value}
    is_long = any(len(name) > MAX_SLOT_NAME_CHARS or len(value or "") > MAX_SLOT_CHARS for name, value in sent.items())
    if is_long or len(sent) > MAX_SLOTS:
        yield "slots hold more than a client may send"


def _strange_offer(machine: Machine, session: Session) -> Iterator[str]:
    events = set(machine.definition.event_types)
    routing = session.routing
    named = [*(each.event_type for each in session.offer), *routing.allowed_event_types]
    named += [] if routing.next_event_type is None else [routing.next_event_type]
    for event in named:
        if event not in events:
            yield f"machine '{machine.name}' has no event '{event[:64]}'"
    if not _are_numbered(session.offer):
        yield "the options' ids are not numbers from 1, each once"


def _are_numbered(offer: tuple[Offer, ...]) -> bool:
    ids = [each.id for each in offer]
    return len(set(ids)) == len(ids) and all(_is_turn(each) for each in ids)


def _strange_telling(machine: Machine, entry: Entry) -> Iterator[str]:
    if entry.digest != entry.after.digest:
        yield "the turn was told by one definition, and its session stands on another"
    if entry.outcome.edge not in {edge.full_name for edge in machine.edges}:
        yield f"machine '{machine.name}' has no edge '{entry.outcome.edge}'"
    if entry.outcome.target != entry.after.state:
        yield f"the turn led to '{entry.outcome.target}', and the session stands in '{entry.after.state}'"
    yield from _strange_narration(entry.narration)
    if entry.request.get("played") != entry.outcome.event or not isinstance(entry.request.get("payload"), Mapping):
        yield f"the request is not one that event '{entry.outcome.event}' could have come with"
    else:
        yield from _strange_payload(machine, entry)
    yield from _strange_changes(machine.definition.context, entry.outcome.changes)


def _strange_narration(narration: Mapping[str, Any]) -> Iterator[str]:
    parts = [narration.get(name) for name in ("output", "ai_state", "options", "learned")]
    if not all(isinstance(part, Mapping) for part in parts):
        yield "nothing was told"
        return
    words = [*narration["ai_state"].values(), *narration["options"].values()]
    if not all(isinstance(each, str) for each in words):
        yield "a word of the narration is no text"


def _strange_payload(machine: Machine, entry: Entry) -> Iterator[str]:
    declared = machine.definition.event(entry.outcome.event).payload
    for name, value in entry.request["payload"].items():
        kind = declared.get(name, "").rstrip("?")
        if not kind or (value is not None and not _is_of(kind, value)):
            yield f"event '{entry.outcome.event}' takes no payload.{name[:64]} like this"


def _is_of(kind: str, value: Any) -> bool:
    if isinstance(value, bool) != (kind == "bool") or not isinstance(value, _JSON_TYPES[kind]):
        return False
    return not isinstance(value, str) or len(value) <= TEXT_MAX_CHARS


def _strange_changes(context: Mapping[str, Variable], changes: tuple[Change, ...]) -> Iterator[str]:
    for change in changes:
        if change.name not in context:
            yield f"the machine has no variable '{change.name}'"


def _strange_values(context: Mapping[str, Variable], values: Mapping[str, Any]) -> Iterator[str]:
    if set(values) != set(context):
        yield "the session's variables are not the machine's"
        return
    for name, variable in context.items():
        if not _is_value(variable, values[name]):
            yield f"'{name}' has a value that its type, {variable.type}, has not"
        elif not _is_within(variable, values[name]):
            yield f"'{name}' has a value outside its range"


def _is_value(variable: Variable, value: Any) -> bool:
    if variable.type == "set":
        return isinstance(value, list) and set(value) <= set(variable.of or ()) and len(set(value)) == len(value)
    if variable.type == "enum":
        return isinstance(value, str) and value in (variable.of or ())
    if isinstance(value, bool) or variable.type == "bool":
        return isinstance(value, bool) and variable.type == "bool"
    return isinstance(value, _JSON_TYPES[variable.type])


def _is_within(variable: Variable, value: Any) -> bool:
    if isinstance(value, str):
        return variable.type != "str" or len(value) <= TEXT_CHARS
    if isinstance(value, bool | list):
        return True
    low, high = variable.min, variable.max
    return (low is None or value >= low) and (high is None or value <= high)
