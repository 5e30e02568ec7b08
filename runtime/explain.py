"""Why a turn went as it did: every edge that was looked at, recomputed from the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from runtime.advance import route, turn_scope
from runtime.errors import SessionNotFound, TurnNotFound
from runtime.machine import Considered, Machine, consider, known_values
from runtime.properties import begun, followed, placed
from runtime.recompute import before

if TYPE_CHECKING:
    from runtime.properties import Judged
    from runtime.session import Entry, Session
    from runtime.stores import Store
    from runtime.turn import Runtime


async def explain(runtime: Runtime, session_id: str, turn: int) -> dict[str, Any]:
    """The edges of a turn, and of the routing after it: guard, values read, verdict and reason; and the properties.

    For operators: secrets are in it. Raises SessionNotFound, TurnNotFound, MachineChanged, StoreUnavailable.
    """
    entry = await entry_of(runtime, session_id, turn)
    machine = await runtime.machine_of(entry.after)
    is_root = entry.parent is None
    looked_at = [] if is_root else _considered(machine, entry, await before(runtime.store, machine, entry))
    return {
        "turn": entry.turn,
        "parent": entry.parent,
        "event": entry.outcome.event,
        "choice": msgspec.to_builtins(entry.outcome.choice),
        "edge": entry.outcome.edge,
        "from": entry.outcome.source or None,
        "to": entry.outcome.target,
        "dice": msgspec.to_builtins(entry.outcome.dice),
        "changes": msgspec.to_builtins(entry.outcome.changes),
        "considered": [_told(each, entry.outcome.edge) for each in looked_at],
        "routing": {
            **msgspec.to_builtins(entry.after.routing),
            "considered": [each.told() for each in route(machine, entry.after).considered],
        },
        "properties": [each.told() for each in await _judged(runtime.store, machine, entry)],
        "prompt_hash": entry.prompt_hash,
        "warnings": msgspec.json.decode(entry.answer)["payload"]["meta"]["warnings"],
    }


async def entry_of(runtime: Runtime, session_id: str, turn: int) -> Entry:
    """The journal's entry of a turn. Raises SessionNotFound, TurnNotFound."""
    entry = await runtime.store.entry(session_id, turn)
    if entry is not None:
        return entry
    head = await head_of(runtime, session_id)
    raise TurnNotFound(
        f"session '{session_id}' has no turn {turn}; its newest is turn {head.next_turn - 1}",
        "GET /sessions/{id}/turns lists them.",
        session_id=session_id,
        turn=turn,
    )


async def head_of(runtime: Runtime, session_id: str) -> Entry:
    """The session's head entry. Raises SessionNotFound."""
    head = await runtime.store.head(session_id)
    if head is None:
        message = f"there is no session '{session_id}'"
        raise SessionNotFound(message, "Begin one with the initial event.", session_id=session_id)
    return head


def _considered(machine: Machine, entry: Entry, found: Session) -> list[Considered]:
    """Every edge of the event, judged as it was: on the session before, with the dice that fell."""
    outcome = entry.outcome
    sent = entry.request.get("payload", {})
    scope = turn_scope(machine, found, outcome.event, outcome.choice, sent, outcome.dice)
    known = known_values(scope, found.used, outcome.choice.key)
    edges = (compiled for compiled in machine.table[outcome.source] if compiled.edge.event == outcome.event)
    return [consider(compiled, known) for compiled in edges]


async def _judged(store: Store, machine: Machine, entry: Entry) -> tuple[Judged, ...]:
    """Each property after a turn. What an `eventually` still waits for, the turns on the way there tell."""
    way = [entry]
    if any(each.rule == "eventually" for each in machine.properties):
        while (parent := await _parent(store, way[-1])) is not None and parent.digest == entry.digest:
            way.append(parent)
    first = way[-1]
    # A session that moved here stands somewhere when this machine's play begins.
    is_root = first.parent is None
    watch = begun(machine) if is_root else placed(machine, await before(store, machine, first))
    judged: tuple[Judged, ...] = ()
    for each in reversed(way):
        watch, judged = followed(machine, watch, each.after)
    return judged


async def _parent(store: Store, entry: Entry) -> Entry | None:
    return None if entry.parent is None else await store.entry(entry.session_id, entry.parent)


def _told(considered: Considered, taken: str) -> dict[str, Any]:
    return {**considered.told(), "taken": considered.compiled.full_name == taken}
