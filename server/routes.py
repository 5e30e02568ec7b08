"""Playing a turn, and what keeps a server running: health, readiness, metrics, the OpenAPI page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar import Request, get, post
from litestar.types import ASGIApp

from runtime import turn
from runtime.errors import NarratorUnavailable, StoreUnavailable
from server import openapi
from server.body import read_body, read_json, refuse_other_types
from server.forms import form_of
from server.house import enter
from server.meter import CONTENT_TYPE
from server.once import idempotency_of
from server.query import NoQuery, read_query
from server.reply import Reply, data, json_data
from server.streaming import Stream
from server.wire import read_invoke

Asked = Request[Any, Any, Any]

PING_S = 2.0
"""Seconds within which the store must answer for the server to be ready."""
TROUBLE_MS = 15_000
"""How long a failed turn counts against being ready, while no other turn is answered."""


@post("/invoke", status_code=200)
async def invoke(request: Asked) -> ASGIApp:
    """Play one event."""
    house, call = enter(request, "player")
    house.pace.take(call.caller)
    raw = await read_body(request.receive, call.headers.get(b"content-length"))
    refuse_other_types(call.headers.get(b"content-type"), call.headers.get(b"content-encoding"))
    value = read_json(raw)
    call.hear(value)
    asked = read_invoke(raw, value)
    once = idempotency_of(call, "invoke", value)
    form = form_of(call.headers.get(b"accept", b""))
    if form is not None:
        return Stream(house, request, asked, once, form)
    played = await turn.play(house.runtime, asked, call.role or "player", once)
    return json_data(played.data, is_replayed=played.is_replayed)


@get("/health")
async def health(request: Asked) -> ASGIApp:  # noqa: ARG001 - touches nothing
    """Say that the process answers."""
    return json_data(b'{"status":"ok"}')


@get("/ready")
async def ready(request: Asked) -> ASGIApp:
    """Say whether a turn could be taken now."""
    house, _ = enter(request, None)
    runtime = house.runtime
    trouble = _trouble(runtime)
    checks: dict[str, dict[str, Any]] = {
        "store": {"ok": await _is_store_ready(runtime) and trouble != StoreUnavailable.code},
        "machines": {"ok": runtime.default_machine in runtime.machines, "names": list(runtime.machines)},
        "narrator": {
            "ok": trouble in (None, StoreUnavailable.code),
            "name": runtime.narrator.name,
            **_providers(runtime.narrator),
        },
    }
    if all(check["ok"] for check in checks.values()):
        return data({"status": "ready", "checks": checks})
    at_fault = [name for name, check in checks.items() if not check["ok"]]
    kind = NarratorUnavailable if at_fault == ["narrator"] else StoreUnavailable
    raise kind(f"no turn could be taken now: not ok: {', '.join(at_fault)}", "Ask again later.", checks=checks)


def _providers(narrator: Any) -> dict[str, Any]:
    """How the providers of models stand; none of them makes a server unready, since turns are told without."""
    standing: Iterable[Any] = getattr(narrator, "standing", tuple)()
    lines = [{"name": each.name, "breaker": each.breaker, "rest_s": round(each.rest_s)} for each in standing]
    return {"providers": lines} if lines else {}


def _trouble(runtime: turn.Runtime) -> str | None:
    """What the last turn failed of, while that is news: no turn would come to show that it is over."""
    if runtime.trouble is None or runtime.clock_ms() - runtime.trouble[1] > TROUBLE_MS:
        return None
    return runtime.trouble[0]


async def _is_store_ready(runtime: turn.Runtime) -> bool:
    try:
        async with asyncio.timeout(PING_S):
            await runtime.store.ping()
    except (StoreUnavailable, TimeoutError):
        return False
    return True


@get("/metrics")
async def metrics(request: Asked) -> ASGIApp:
    """Give the figures to Prometheus."""
    house, _ = enter(request, "operator")
    return Reply(house.meter.exposition(), CONTENT_TYPE.encode())


@get("/schema")
async def schema(request: Asked) -> ASGIApp:
    """Give the OpenAPI document: as a page to a browser, else as JSON."""
    read_query(NoQuery, request.scope["query_string"])
    _, call = enter(request, None)
    if b"text/html" in call.headers.get(b"accept", b""):
        return Reply(openapi.page(), b"text/html; charset=utf-8")
    return Reply(openapi.document_json())


@get("/schema/openapi.json")
async def schema_json(request: Asked) -> ASGIApp:
    """Give the OpenAPI document as JSON, whatever the caller accepts."""
    enter(request, None)
    return Reply(openapi.document_json())


HANDLERS = (invoke, health, ready, metrics, schema, schema_json)
