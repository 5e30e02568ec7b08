"""The outermost layer: every request gets an id, one log line, and an answer in the envelope.

`Edge` wraps the whole application; `answer_for` turns whatever was raised inside it, the
framework's own exceptions and our crashes included, into one shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.response import Response

from runtime.errors import DesignError, MachineChanged, Refusal, StoreUnavailable
from server.call import Call, accepted_language, current
from server.faults import shown
from server.logs import log
from server.refusals import TABLE, BadRequest, InternalError, MethodNotAllowed, NotFound
from server.wire import failure

if TYPE_CHECKING:
    from litestar import Litestar, Request
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from server.meter import Meter

METHODS = ("GET", "POST", "DELETE")
OPERATORS_ONLY = frozenset({"considered"})
"""Facts of a refusal that only operators are told: guards and the values that they read."""
_OPEN_STORE_FACTS = frozenset({"checks", "retry_after_seconds"})
_CRASHED = 500


class Edge:
    """The application with an id and a line for each request."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through. Raises what comes after an answer has begun."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        call = Call(scope["headers"], _peer_of(scope))
        scope["state"]["call"] = call
        current.set(call)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", call.request_id.encode())]
            await send(message)

        path = scope["path"]
        try:
            await self._app(scope, receive, send_named)
        except Exception:
            if call.status:
                raise
            log.exception("crash", request_id=call.request_id)
            await _last_resort(call, send_named)
        finally:
            self._meter.answered(call, str(scope.get("method")), scope.get("path_template"), path)


def _peer_of(scope: Scope) -> str:
    """The address that a request came from; `localhost` too where it is the one that it came to."""
    client, server = scope.get("client"), scope.get("server")
    if client and server and client[0] == server[0]:
        return "localhost"
    return client[0] if client else ""


async def _last_resort(call: Call, send: Send) -> None:
    """Answer where even the exception handler failed."""
    call.error = InternalError.code
    _, body = failure(_internal(), "en", call.request_id)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": _CRASHED, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def answer_for(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer for anything that was raised while a request was handled."""
    refusal, status, body = failure_of(request, error)
    return Response(body, status_code=status, media_type="application/json", headers=_headers_for(refusal))


def failure_of(request: Request[Any, Any, Any], error: Exception) -> tuple[Refusal, int, bytes]:
    """What a request failed of, its status and its envelope; the log has it, and the request's line will."""
    call: Call = request.scope["state"]["call"]
    refusal = _as_refusal(request, error)
    call.error = refusal.code
    if isinstance(refusal, InternalError):
        log.error("crash", request_id=call.request_id, path=request.scope["path"], exc_info=error)
    elif TABLE[refusal.code].status >= _CRASHED and refusal.code != "not_implemented":
        log.warning("failure", request_id=call.request_id, error=refusal.code, why=refusal.message)
    language = refusal.language or call.language or accepted_language(call.headers) or _house_language(request.app)
    return refusal, *failure(_for_role(refusal, call), language, call.request_id)


def _as_refusal(request: Request[Any, Any, Any], error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NotFoundException):
        path = shown(request.scope["path"])
        return NotFound(f"there is no {path}", "GET /schema has every path.", path=path)
    if isinstance(error, MethodNotAllowedException):
        return _wrong_method(request)
    if isinstance(error, DesignError):
        return MachineChanged(
            "the definition that this session began with can no longer be read",
            "Start a new session.",
            reasons=["definition_unreadable"],
        )
    if isinstance(error, HTTPException) and error.status_code < _CRASHED:
        return BadRequest(f"the request can't be read: {shown(error.detail)}", "Mend it as HTTP wants it.")
    return _internal()


def _internal() -> InternalError:
    return InternalError(
        "the server failed, and not through this request's fault",
        "Send the same again; if it fails again, tell the operator the request_id.",
    )


def _wrong_method(request: Request[Any, Any, Any]) -> MethodNotAllowed:
    path, method = request.scope["path"], shown(request.scope["method"])
    allowed = [each for each in METHODS if _has_route(request.app, path, each)]
    return MethodNotAllowed(f"{shown(path)} has no {method}", f"Use {' or '.join(allowed)}.", allowed_methods=allowed)


def _has_route(app: Litestar, path: str, method: Any) -> bool:
    try:
        app.asgi_router.handle_routing(path=path, method=method)
    except (NotFoundException, MethodNotAllowedException):
        return False
    return True


def _for_role(refusal: Refusal, call: Call) -> Refusal:
    """The refusal as the caller may see it: guards and places on disk are for operators."""
    if call.role == "operator":
        return refusal
    refusal.facts = {name: fact for name, fact in refusal.facts.items() if name not in OPERATORS_ONLY}
    if isinstance(refusal, StoreUnavailable):
        refusal.message, refusal.hint = TABLE[refusal.code].about, "Send the same again later."
        refusal.facts = {name: fact for name, fact in refusal.facts.items() if name in _OPEN_STORE_FACTS}
    return refusal


def _headers_for(refusal: Refusal) -> dict[str, str]:
    headers = {}
    if refusal.code == "unauthenticated":
        headers["WWW-Authenticate"] = 'Bearer realm="edgewise"'
    if "allowed_methods" in refusal.facts:
        headers["Allow"] = ", ".join(refusal.facts["allowed_methods"])
    if "retry_after_seconds" in refusal.facts:
        headers["Retry-After"] = str(refusal.facts["retry_after_seconds"])
    return headers


def _house_language(app: Litestar) -> str:
    runtime = app.state["house"].runtime
    machine = runtime.machines.get(runtime.default_machine)
    return str(machine.definition.language) if machine else "en"
