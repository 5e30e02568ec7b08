"""Reading what there is: machines, sessions, turns, and why a turn went as it did."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request, delete, get
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Struct

from runtime import history, ledger, view
from runtime.errors import Forbidden, MachineNotFound, SessionNotFound
from runtime.explain import explain
from runtime.machine import Machine
from runtime.model import TEXT_MAX_CHARS
from runtime.session import DAY_MS, Entry, meta_of
from runtime.turn import Runtime
from server import graph
from server.faults import Fault, nearest, refuse, shown
from server.house import enter
from server.query import GraphQuery, LedgerQuery, NoQuery, SessionsQuery, TurnsQuery, read_query
from server.reply import Reply, data, items
from server.wire import ID_PATTERN

Asked = Request[Any, Any, Any]

_PAYLOAD_TYPES: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string", "maxLength": TEXT_MAX_CHARS},
    "text": {"type": "string", "maxLength": TEXT_MAX_CHARS},
}


class _SentPayload(Struct):
    routing: msgspec.Raw


class _SentAnswer(Struct):
    """The parts of an answer that lists repeat, exactly as they were sent."""

    session: msgspec.Raw
    payload: _SentPayload


_sent = msgspec.json.Decoder(_SentAnswer).decode


@get("/machines")
async def list_machines(request: Asked) -> ASGIApp:
    """List the machines that new sessions can get."""
    house, _ = enter(request, "player")
    read_query(NoQuery, request.scope["query_string"])
    runtime = house.runtime
    return items([_machine_line(machine, runtime.default_machine) for machine in runtime.machines.values()])


def _machine_line(machine: Machine, default: str) -> dict[str, Any]:
    definition = machine.definition
    return {
        "name": machine.name,
        "version": definition.version,
        "digest": machine.digest,
        "title": _by_language(definition.title, definition.languages),
        "languages": list(definition.languages),
        "slots": dict(definition.slots),
        "is_default": machine.name == default,
    }


def _by_language(text: Any, languages: tuple[str, ...]) -> dict[str, str]:
    return dict(text) if isinstance(text, dict) else dict.fromkeys(languages, text)


@get("/machines/{name:str}")
async def one_machine(request: Asked, name: FromPath[str]) -> ASGIApp:
    """Show a machine: what begins it and what its events take; all of it to operators."""
    house, call = enter(request, "player")
    read_query(NoQuery, request.scope["query_string"])
    machine = _machine(house.runtime, name)
    definition = machine.definition
    told = _machine_line(machine, house.runtime.default_machine) | {
        "initial_event": definition.first.event,
        "limits": {"turns": definition.limits.turns, "seconds": definition.limits.seconds},
        "events": {event: _event_line(machine, event) for event in definition.event_types},
    }
    if call.role == "operator":
        told["definition"] = definition
    return data(told)


def _event_line(machine: Machine, event: str) -> dict[str, Any]:
    """What an event takes and who may send it; those that `events:` does not name take nothing."""
    declared = machine.definition.event(event)
    fields = declared.payload
    return {
        "role": declared.role,
        "payload": {
            "type": "object",
            "properties": {field: _PAYLOAD_TYPES[kind.rstrip("?")] for field, kind in fields.items()},
            "required": [field for field, kind in fields.items() if not kind.endswith("?")],
        },
    }


@get("/machines/{name:str}/graph")
async def draw_machine(request: Asked, name: FromPath[str]) -> ASGIApp:
    """Draw a machine."""
    house, _ = enter(request, "operator")
    query = read_query(GraphQuery, request.scope["query_string"])
    machine = _machine(house.runtime, name)
    if query.format == "json":
        return data(graph.of(machine))
    drawn = graph.mermaid(machine) if query.format == "mermaid" else graph.dot(machine)
    return Reply(drawn.encode(), graph.MEDIA_TYPES[query.format].encode())


def _machine(runtime: Runtime, name: str) -> Machine:
    if name in runtime.machines:
        return runtime.machines[name]
    meant = nearest(name, runtime.machines)
    raise MachineNotFound(
        f"there is no machine '{shown(name)}'" + (f". Did you mean '{meant}'?" if meant else ""),
        "GET /machines lists them.",
        machine=shown(name),
        machines=list(runtime.machines),
        did_you_mean=meant,
    )


@get("/sessions")
async def list_sessions(request: Asked) -> ASGIApp:
    """List sessions, newest first: a player's own, or all of them to operators."""
    house, call = enter(request, "player")
    query = read_query(SessionsQuery, request.scope["query_string"])
    if query.player_id is None and call.role != "operator":
        raise Forbidden(
            "the sessions of all players are for operators", "Send player_id, or an operator's token.",
            role_needed="operator",
        )  # fmt: skip
    heads, next_after = await house.runtime.store.sessions(
        player_id=query.player_id, ended=query.ended, limit=query.limit, after=query.after
    )
    return items([_session_line(head) for head in heads], next_after)


def _session_line(head: Entry) -> dict[str, Any]:
    return {
        **_stands(head),
        "player_id": head.after.player_id,
        "run_seed": head.after.run_seed,
        "language": head.after.constraints.language,
        "at": _iso(head.at_ms),
    }


def _stands(head: Entry) -> dict[str, Any]:
    """Where a session stands: as its head turn was answered, unless a rewind, say, has moved it since."""
    if not head.is_telling:
        return {"session": view.session_of(head.after), "routing": msgspec.to_builtins(head.after.routing)}
    sent = _sent(head.answer)
    return {"session": sent.session, "routing": sent.payload.routing}


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


@get("/sessions/{session_id:str}")
async def one_session(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Show where a session stands, with the head turn's answer exactly as it was sent."""
    house, call = enter(request, "player")
    read_query(NoQuery, request.scope["query_string"])
    head = await head_of(house.runtime, session_id)
    told = await history.standing(house.runtime, head)
    if call.role == "operator":
        told["spent"] = ledger.total_told(head.total)
        told["context"] = view.open_context(await house.runtime.machine_of(head.after), head.after)
    return data(told)


@get("/ledger")
async def show_ledger(request: Asked) -> ASGIApp:
    """Show what telling has cost, day by day, newest first."""
    house, _ = enter(request, "operator")
    query = read_query(LedgerQuery, request.scope["query_string"])
    runtime = house.runtime
    newest = ledger.day_of(query.day) if query.day else runtime.clock_ms() // DAY_MS
    if newest is None or newest < 0:
        raise refuse([Fault(["query", "day"], "must be a day as 2026-01-31, from 1970-01-01 on", "day")])
    days = range(newest, max(newest - query.days, -1), -1)
    expenses = await runtime.store.expenses(days[-1])
    told = [ledger.day_told(day, [each for each in expenses if each.day == day]) for day in days]
    return data({"items": told, "next_after": None, "budgets": ledger.budgets_told(runtime.ledger.budgets)})


@delete("/sessions/{session_id:str}", status_code=200)
async def delete_session(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """Remove a session for good; again answers the same."""
    house, _ = enter(request, "operator")
    if _is_id(session_id):
        await history.delete(house.runtime, session_id)
    return data({"session_id": shown(session_id), "deleted": True})


@get("/sessions/{session_id:str}/turns")
async def list_turns(request: Asked, session_id: FromPath[str]) -> ASGIApp:
    """List a session's turns, oldest first, with their lineage."""
    house, call = enter(request, "player")
    query = read_query(TurnsQuery, request.scope["query_string"])
    head = await head_of(house.runtime, session_id)
    entries = await house.runtime.store.entries(session_id, after=query.after, limit=query.limit)
    told = [view.history_of(await house.runtime.machine_of(entry.after), entry) for entry in entries]
    told = [line | _labelled(entry) for line, entry in zip(told, entries, strict=True)]
    if call.role == "operator":
        told = [line | ledger.cost_told(entry) for line, entry in zip(told, entries, strict=True)]
    is_end = not entries or entries[-1].seq >= head.seq
    return items(told, None if is_end else entries[-1].seq)


def _labelled(entry: Entry) -> dict[str, Any]:
    """Whether a model told any of a telling."""
    return {"ai_generated": meta_of(entry.answer).ai_generated} if entry.is_telling else {}


@get("/sessions/{session_id:str}/turns/{number:int}/explain")
async def explain_turn(request: Asked, session_id: FromPath[str], number: FromPath[int]) -> ASGIApp:
    """Say why a turn went as it did: each edge considered."""
    house, _ = enter(request, "operator")
    read_query(NoQuery, request.scope["query_string"])
    await head_of(house.runtime, session_id)
    return data(await explain(house.runtime, session_id, number))


async def head_of(runtime: Runtime, session_id: str) -> Entry:
    """The session's newest entry. Raises SessionNotFound."""
    refuse_strange_id(session_id)
    head = await runtime.store.head(session_id)
    if head is None:
        raise _no_session(session_id)
    return head


def refuse_strange_id(session_id: str) -> None:
    """Raise SessionNotFound for what can be no session's id: no store is asked for it."""
    if not _is_id(session_id):
        raise _no_session(session_id)


def _no_session(session_id: str) -> SessionNotFound:
    return SessionNotFound(
        f"there is no session '{shown(session_id)}'", "GET /sessions lists them.", session_id=shown(session_id)
    )


def _is_id(text: str) -> bool:
    return re.fullmatch(ID_PATTERN.strip("^$"), text) is not None


HANDLERS = (
    list_machines, one_machine, draw_machine, list_sessions, one_session, delete_session, list_turns, explain_turn,
    show_ledger,
)  # fmt: skip
