"""What leaves the engine: what a prompt sees, what a player is answered, what may be read back.

Secrets stop here: no variable marked `secret` and no secret die passes any function below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.advance import Route, Settled, remaining_seconds
from runtime.constraints import mask, terms_of
from runtime.model import UNLIMITED, said_in
from runtime.quoting import Quoted, Spoken
from runtime.session import DAY_MS, KEY_CHOICES, Change, Entry, Offer, Outcome, Session

if TYPE_CHECKING:
    from runtime.constraints import Bounds
    from runtime.machine import Machine
    from runtime.model import Definition
    from runtime.narrators import Narration
    from runtime.request import Asked, Opened

ANSWER_KEYS = frozenset(
    ["ai_state", "ending", "key_choices", "status", "outcome", "options", "inputs", "routing", "meta"]
)
"""What the engine puts under `payload`: no output of a prompt may be called so."""


def open_changes(machine: Machine, changes: Iterable[Change], *, shown_only: bool = False) -> list[Change]:
    """The changes without those of secret variables, or only those of shown ones."""
    context = machine.definition.context
    return [
        change
        for change in changes
        if not context[change.name].secret and (context[change.name].show or not shown_only)
    ]


def open_context(machine: Machine, session: Session) -> dict[str, Any]:
    """The context without secrets."""
    context = machine.definition.context
    return {name: session.context[name] for name, variable in context.items() if not variable.secret}


def inputs_of(
    machine: Machine, settled: Settled, text: str, offer: tuple[Offer, ...], bounds: Bounds
) -> dict[str, Any]:
    """Everything that a prompt may declare as an input, as plain values; what a client wrote is quoted."""
    session, edge, outcome = settled.session, settled.compiled.edge, settled.outcome
    definition = machine.definition
    return {
        **{name: _quoted(machine, name, value) for name, value in open_context(machine, session).items()},
        "slots": {Quoted(name): _slot(definition, name, value or "") for name, value in session.slots.items()},
        "time": {
            "elapsed_seconds": session.elapsed_ms // 1000,
            "remaining_seconds": remaining_seconds(session.limit_ms, session.elapsed_ms),
        },
        "step": session.step,
        "session": {
            "player_count": session.player_count,
            "difficulty": session.difficulty,
            "language": session.constraints.language,
        },
        "language": session.constraints.language,
        "limits": {
            "scene_chars": bounds.max_chars_scene,
            "option_chars": bounds.max_chars_option,
            "turns": definition.limits.turns or UNLIMITED,
            "seconds": definition.limits.seconds or UNLIMITED,
        },
        "constraints": {
            "forbidden_terms": list(map(Quoted, session.constraints.forbidden_terms)),
            "content_rating": bounds.content_rating or "",
        },
        "title": said_in(definition.title, session.constraints.language, definition.language),
        "state": outcome.target,
        "from_state": outcome.source,
        "tell": said_in(edge.tell, session.constraints.language, definition.language),
        "option": {"key": outcome.choice.key, "kind": outcome.choice.kind, "text": outcome.choice.text},
        "text": Spoken(text),
        "changes": {
            change.name: [_quoted(machine, change.name, value) for value in (change.before, change.after)]
            for change in open_changes(machine, outcome.changes)
        },
        "dice": {die.name: die.value for die in outcome.dice if not die.secret},
        "offer": [_offered_input(each) for each in offer],
        "recent": [{"choice": told.choice, "scene": told.scene} for told in session.recent],
        "memory": str(session.ai_state.get("memory_summary", "")),
        "ending": ending_of(machine, session) or {"id": "", "title": "", "good": None},
    }  # fmt: skip


def _slot(definition: Definition, name: str, value: str) -> str:
    return value if definition.slots.get(name) == value else Quoted(value)


def _quoted(machine: Machine, name: str, value: Any) -> Any:
    """A text that play wrote into a variable is a player's or a model's; members and defaults are the designer's."""
    variable = machine.definition.context[name]
    return Quoted(value) if variable.type == "str" and value != variable.default else value


def _offered_input(offer: Offer) -> dict[str, str]:
    named = {"kind": offer.kind} if offer.kind else {"key": offer.key}
    return {**named, "text": offer.text}


def allowed(machine: Machine, session: Session, value: Any) -> Any:
    """A designer's text with what the session forbids, or its rating, masked; a list's texts too."""
    terms = terms_of(machine, session.constraints)
    if not terms:
        return value
    if isinstance(value, list):
        return [allowed(machine, session, each) for each in value]
    return mask(value, terms) if isinstance(value, str) else value


def masked(machine: Machine, session: Session) -> Iterator[str]:
    """A warning for each text of the designer's that an answer shows masked."""
    for path, text in _shown_texts(machine, session) if terms_of(machine, session.constraints) else ():
        if (fitting := allowed(machine, session, text)) != text:
            yield f"{path}: its text breaks the session's constraints; '{fitting}' stands for it"


def _shown_texts(machine: Machine, session: Session) -> Iterator[tuple[str, str]]:
    """Labels, and at an end its title."""
    definition, language = machine.definition, session.constraints.language
    for name, variable in definition.context.items():
        if variable.show and not variable.secret:
            yield f"status.{name}.label", said_in(variable.label, language, definition.language)
    ending = definition.states[session.state].ending
    if ending is not None:
        yield "ending.title", said_in(ending.title, language, definition.language)


def ending_of(machine: Machine, session: Session) -> dict[str, Any] | None:
    """{id, title, good} in a final state, None elsewhere."""
    state = machine.definition.states.get(session.state)
    if state is None or not state.is_final:
        return None
    title = state.ending.title if state.ending else state.label or session.state
    return {
        "id": session.state,
        "title": allowed(machine, session, said_in(title, session.constraints.language, machine.definition.language)),
        "good": state.ending.good if state.ending else None,
    }


def status_of(machine: Machine, session: Session) -> dict[str, Any]:
    """The shown variables: {hp: {value, min, max, label, text}}; `text` is the value as it is spoken."""
    language = session.constraints.language
    return {
        name: {
            "value": session.context[name],
            "min": variable.min,
            "max": variable.max,
            "label": allowed(machine, session, said_in(variable.label, language, machine.definition.language) or name),
            "text": spoken(machine, session, name, session.context[name]),
        }
        for name, variable in machine.definition.context.items()
        if variable.show and not variable.secret
    }


def spoken(machine: Machine, session: Session, name: str, value: Any) -> Any:
    """A variable's value in the `words` of the machine's fragments; a set's members one by one."""
    if isinstance(value, list):
        return [spoken(machine, session, name, member) for member in value]
    fragments = machine.fragments_for(session.constraints.language)
    words = fragments.words.get(name, {}) if fragments else {}
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return allowed(machine, session, words.get(written, written.replace("_", " ")))


def session_of(session: Session) -> dict[str, Any]:
    """The `session` part of every answer."""
    return {
        "session_id": session.session_id,
        "machine": session.machine,
        "version": session.version,
        "state": session.state,
        "turn": session.turn,
        "step": session.step,
        "ended": session.ended,
        "language": session.constraints.language,
        "run_seed": session.run_seed,
        "time": {
            "elapsed_active_seconds": session.elapsed_ms // 1000,
            "remaining_seconds": remaining_seconds(session.limit_ms, session.elapsed_ms),
        },
    }


def outcome_of(machine: Machine, outcome: Outcome) -> dict[str, Any]:
    """The machine's own word on a turn: shown variables and open dice only."""
    return {
        "edge": outcome.edge,
        "from": outcome.source or None,
        "to": outcome.target,
        "dice": [{"name": die.name, "spec": die.spec, "value": die.value} for die in outcome.dice if not die.secret],
        "changes": msgspec.to_builtins(open_changes(machine, outcome.changes, shown_only=True)),
    }


def options_of(offer: Iterable[Offer]) -> list[dict[str, Any]]:
    """The options as a client sees them; ids 1…n in the order offered, with gaps where a rewind found some closed."""
    return [msgspec.to_builtins(each) for each in offer]


def key_choices_of(machine: Machine, session: Session) -> list[dict[str, Any]]:
    """The choices that weighed most, in the order played."""
    heaviest = sorted(session.key_choices, key=lambda choice: (-choice.weight, choice.turn))[:KEY_CHOICES]
    ordered = sorted(heaviest, key=lambda choice: choice.turn)
    return [{"turn": choice.turn, "text": allowed(machine, session, choice.text)} for choice in ordered]


def answer_of(
    machine: Machine, session: Session, outcome: Outcome, narration: Narration, routed: Route, event: str,
    warnings: Iterable[str],
) -> dict[str, Any]:  # fmt: skip
    """The answer's `data`, as CONTRACT has it. `event` is spelled as the client sent it."""
    ended = {"ending": ending_of(machine, session), "key_choices": key_choices_of(machine, session)}
    payload = {
        "ai_state": {name: allowed(machine, session, value) for name, value in session.ai_state.items()},
        **narration.output,
        **(ended if session.ended else {}),
        "status": status_of(machine, session),
        "outcome": outcome_of(machine, outcome),
        "options": options_of(session.offer),
        "inputs": msgspec.to_builtins(routed.inputs),
        "routing": msgspec.to_builtins(session.routing),
        "meta": {
            "trace_id": trace_id(session, event),
            "narrator": narration.narrator,
            "model": narration.model,
            "ai_generated": narration.ai_generated,
            "attempts": narration.attempts,
            "rungs": list(narration.rungs),
            "fallback": list(narration.fallback),
            "usage": msgspec.to_builtins(narration.usage),
            "warnings": [*warnings, *masked(machine, session)],
        },
    }
    return {"event": {"type": event}, "session": session_of(session), "payload": payload}


def accepted_of(opened: Opened, settled: Settled, asked: Asked) -> dict[str, Any]:
    """What a listener hears first: which turn is being told, before any of it stands."""
    return {
        "session_id": settled.session.session_id,
        "turn": opened.next_turn,
        "event": {"type": asked.sent_as},
    }


def restated(machine: Machine, answer: bytes | msgspec.Raw, session: Session, routed: Route) -> msgspec.Raw:
    """An answer with where the session stands now, after a rewind or a migration; what was told is as it was."""
    told = msgspec.json.decode(answer)
    payload = {
        **told["payload"],
        "ai_state": {name: allowed(machine, session, value) for name, value in session.ai_state.items()},
        "status": status_of(machine, session),
        "options": options_of(session.offer),
        "inputs": msgspec.to_builtins(routed.inputs),
        "routing": msgspec.to_builtins(session.routing),
    }
    return msgspec.Raw(msgspec.json.encode({**told, "session": session_of(session), "payload": payload}))


def trace_id(session: Session, event: str) -> str:
    """`{event}_{run_seed}_{yyyymmdd}_{turn:03d}`: a label for old clients, not an identity."""
    day = _written_day(session.answered_at_ms // DAY_MS)
    return f"{event.lower()}_{session.run_seed}_{day}_{session.turn:03d}"


@lru_cache(maxsize=8)
def _written_day(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).strftime("%Y%m%d")


def first_words(machine: Machine, session: Session, told: Mapping[str, str]) -> dict[str, str]:
    """What the seed's five names of `ai_state` read before any narration brought them."""
    definition = machine.definition
    return {
        "title": said_in(definition.title, session.constraints.language, definition.language),
        "tone": session.slots.get("tone_bias") or "",
        "world_seed": f"{session.run_seed}_{machine.name}",
        "memory_summary": told.get("memory_summary", ""),
    }


def scene_of(narration: Narration, fields: Mapping[str, str]) -> str:
    """The turn's scene, for later prompts: the first output of kind scene, else its first text."""
    paths = [path for path, kind in fields.items() if kind == "scene"] or list(fields)
    texts = (_at(narration.output, path) for path in paths)
    return next((text for text in texts if isinstance(text, str)), "")


def _at(output: Mapping[str, Any], path: str) -> Any:
    value: Any = output
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def history_of(machine: Machine, entry: Entry) -> dict[str, Any]:
    """One entry of a session's history, with its lineage; what was told, where it told something."""
    lineage: dict[str, Any] = {"turn": entry.turn, "parent": entry.parent, "kind": entry.kind}
    if entry.kind == "rewind":
        lineage |= {"from_turn": entry.parent, "to_turn": entry.turn}
    if entry.origin is not None:
        lineage["origin"] = {"session_id": entry.origin.session_id, "turn": entry.origin.turn}
    if entry.child:
        lineage["child"] = entry.child
    return {
        **lineage,
        "at": datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "session": session_of(entry.after),
        "options": options_of(entry.after.offer),
        "routing": msgspec.to_builtins(entry.after.routing),
        **(_told_in(machine, entry) if entry.is_telling else {}),
    }


def _told_in(machine: Machine, entry: Entry) -> dict[str, Any]:
    return {
        "event": {"type": entry.outcome.event},
        "choice": entry.outcome.choice.text,
        "outcome": outcome_of(machine, entry.outcome),
        "narration": entry.narration["output"],
        "narrator": entry.narrator,
        "model": entry.model,
    }
