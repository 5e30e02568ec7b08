"""The OpenAPI document and its page.

Made from what the server itself stands on: the shapes of `wire` and `answers`, the error table,
and `OPERATIONS`, which a test holds against the routes. The page loads nothing from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from runtime.errors import Refusal
from runtime.progress import Done, Found, Progress
from runtime.session import Role
from server import answers, exporting, forms, query, tending
from server.once import MAX_KEY_CHARS
from server.refusals import TABLE, kinds
from server.wire import ID_PATTERN, ForkSent, InvokeSent, RegenerateSent, RewindSent

_PAGE = Path(__file__).with_name("schema.html")
_REF = "#/components/schemas/{name}"

_EVERY = ("bad_request", "internal_error")
_TOKEN = ("unauthenticated", "forbidden")
_STORE = ("store_unavailable", "overloaded")
_SESSION = (*_TOKEN, "session_not_found", *_STORE)
_INVOKE = (
    *_TOKEN, "malformed_json", "session_not_found", "machine_not_found", "session_exists", "event_not_allowed",
    "guard_refused", "session_ended", "turn_in_progress", "stale_turn", "machine_changed", "body_too_large",
    "unsupported_media_type", "validation_error", "unknown_event_type", "option_not_offered",
    "option_event_mismatch", "text_not_allowed", "constraints_unsatisfiable", "idempotency_mismatch", "rate_limited",
    "budget_exhausted", "machine_fault", "narrator_unavailable", "narration_invalid", *_STORE,
)  # fmt: skip
_HISTORY = (
    *_SESSION, "malformed_json", "turn_in_progress", "stale_turn", "rewind_refused", "machine_changed",
    "body_too_large", "unsupported_media_type", "validation_error", "idempotency_mismatch", "machine_fault",
    "rate_limited",
)  # fmt: skip


_TENDING = (
    *_TOKEN, "malformed_json", "not_found", "machine_not_found", "body_too_large", "unsupported_media_type",
    "validation_error", *_STORE,
)  # fmt: skip
TASKS: Final = ("backup", "verify", "compact", "prune", "migrate", "coverage", "import")
"""What POST /store/{task} does; a test holds them against the server's own."""


class Body(Struct, frozen=True):
    """What a route takes as its JSON body: one of some shapes, and examples as name → (summary, value).

    `other` names a media type that is taken beside JSON.
    """

    shapes: tuple[type[Struct], ...]
    examples: Mapping[str, tuple[str, Any]]
    is_required: bool = True
    other: str = ""


class Operation(Struct, frozen=True):
    """One route: who may call it, what it takes, what it gives, and the errors that it may answer.

    `gives` is the shape of `data`; or a media type, or several, of what is no envelope. `is_once`
    where an Idempotency-Key keeps it from being done twice; `is_streamed` where Accept may ask for a stream.
    """

    method: str
    path: str
    summary: str
    role: Role | None = "player"
    query: type[Struct] = query.NoQuery
    gives: type[Struct] | tuple[str, ...] | None = None
    errors: tuple[str, ...] = ()
    body: Body | None = None
    is_once: bool = False
    is_streamed: bool = False


_INVOKED = Body((InvokeSent,), {
    "first": ("Begin a story", {"event": {"type": "INIT"}, "context": {}}),
    "next": (
        "Choose an option",
        {"session": {"session_id": "sess_test_001", "expected_turn": 1}, "payload": {"selected_option_id": 1}},
    ),
    "written": (
        "Send what the player wrote",
        {"session": {"session_id": "sess_test_001"}, "event": {"type": "ANSWER"}, "payload": {"text": "灯塔"}},
    ),
})  # fmt: skip
_REWOUND = Body((RewindSent,), {
    "previous": ("Take the last turn back", {"to_turn": "previous", "expected_turn": 7}),
    "turn": ("Go to a turn, on any branch", {"to_turn": 4}),
})  # fmt: skip
_FORKED = Body((ForkSent,), {
    "head": ("Branch off where the session stands", {}),
    "turn": ("Branch off at a turn, with the same dice", {"at_turn": 4, "same_dice": True}),
}, is_required=False)  # fmt: skip
_REGENERATED = Body((RegenerateSent,), {"head": ("Tell the head turn anew", {"expected_turn": 7})}, is_required=False)

_TENDED = Body((
    tending.BackupSent, tending.PruneSent, tending.MigrateSent, tending.CoverageSent, tending.NothingSent,
), {
    "backup": ("backup: into a file of the server's data folder", {"path": "monday.duckdb"}),
    "verify": ("verify, compact: no choice", {}),
    "prune": ("prune: sessions that ended, last played 90 days ago", {"older_than_days": 90, "dry_run": True}),
    "migrate": ("migrate: what would come of it", {"machine": "haunted_house", "dry_run": True}),
    "coverage": ("coverage: what players hit of a machine", {"machine": "haunted_house"}),
}, is_required=False, other=tending.NDJSON)  # fmt: skip
_STEPS = (
    Progress(done=100, total=4000),
    Found(what="session 's1': entry 7 is not what its hash was made over", sessions=("s1",)),
    Done(is_good=False, facts={"sessions": 4000}),
)
"""What a task may tell, as an example."""

OPERATIONS: Final = (
    Operation(
        "post", "/invoke", "Play one event: one turn", gives=answers.Answer, errors=_INVOKE, body=_INVOKED,
        is_once=True, is_streamed=True,
    ),
    Operation("get", "/health", "Does the process answer?", None, gives=answers.Health),
    Operation(
        "get", "/ready", "Could a turn be taken now?", None, gives=answers.Ready,
        errors=("store_unavailable", "narrator_unavailable"),
    ),
    Operation("get", "/metrics", "Figures for Prometheus", "operator", gives=("text/plain",), errors=_TOKEN),
    Operation(
        "get", "/ledger", "What telling has cost, day by day, newest first", "operator", query.LedgerQuery,
        answers.LedgerList, (*_TOKEN, "validation_error", *_STORE),
    ),
    Operation(
        "get", "/machines", "Machines for new sessions", gives=answers.MachineList, errors=(*_TOKEN, "validation_error")
    ),
    Operation(
        "get", "/machines/{name}", "One machine", gives=answers.MachineTold,
        errors=(*_TOKEN, "machine_not_found", "validation_error"),
    ),
    Operation(
        "get", "/machines/{name}/graph", "A machine's picture: Mermaid, dot or JSON", "operator", query.GraphQuery,
        answers.GraphTold, (*_TOKEN, "machine_not_found", "validation_error"),
    ),
    Operation(
        "get", "/sessions", "Sessions, newest first; without player_id for operators", "player", query.SessionsQuery,
        answers.SessionList, (*_TOKEN, "validation_error", *_STORE),
    ),
    Operation(
        "get", "/sessions/{session_id}", "One session", gives=answers.SessionShown,
        errors=(*_SESSION, "validation_error", "machine_changed"),
    ),
    Operation(
        "delete", "/sessions/{session_id}", "Remove a session for good; again answers the same", "operator",
        gives=answers.Deleted, errors=(*_TOKEN, "turn_in_progress", *_STORE),
    ),
    Operation(
        "get", "/sessions/{session_id}/turns", "A session's turns, oldest first", "player", query.TurnsQuery,
        answers.TurnList, (*_SESSION, "validation_error", "machine_changed"),
    ),
    Operation(
        "get", "/sessions/{session_id}/turns/{number}/explain", "Why a turn went as it did", "operator",
        gives=answers.Explained, errors=(*_SESSION, "turn_not_found", "validation_error", "machine_changed"),
    ),
    Operation(
        "post", "/sessions/{session_id}/rewind", "Go back to a turn, or forward again; nothing is deleted",
        gives=answers.SessionShown, errors=(*_HISTORY, "turn_not_found"), body=_REWOUND, is_once=True,
    ),
    Operation(
        "post", "/sessions/{session_id}/fork", "Begin another session with a copy of the way to a turn",
        gives=answers.SessionShown, errors=(*_HISTORY, "turn_not_found", "session_exists"), body=_FORKED, is_once=True,
    ),
    Operation(
        "post", "/sessions/{session_id}/regenerate",
        "Tell the head turn anew, as a sibling: the same edge, dice and assigns in other words",
        gives=answers.SessionShown, body=_REGENERATED, is_once=True,
        errors=(
            *_HISTORY, "constraints_unsatisfiable", "budget_exhausted", "narrator_unavailable", "narration_invalid",
        ),
    ),
    Operation(
        "get", "/sessions/{session_id}/export",
        "Give a session away: its record (jsonl, replay) or the story to read (md, html); secrets to operators only",
        "player", query.ExportQuery, tuple(kind.media_type.partition(";")[0] for kind in exporting.KINDS.values()),
        (*_SESSION, "validation_error", "machine_changed"),
    ),
    Operation(
        "post", "/store/{task}",
        "Tend the journal, and tell each step on a line; what fails after the first line is the last one", "operator",
        tending.ImportQuery, (tending.NDJSON,), _TENDING, _TENDED,
    ),
    Operation("get", "/schema", "This document: a page for browsers, else JSON", None, gives=("application/json",)),
    Operation("get", "/schema/openapi.json", "This document as JSON", None, gives=("application/json",)),
)  # fmt: skip


@cache
def document_json() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


@cache
def page() -> bytes:
    """The document as a page that needs no network."""
    inlined = document_json().replace(b"<", b"\\u003c")
    return _PAGE.read_bytes().replace(b"/*DOCUMENT*/null", inlined)


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Edgewise", "version": _version(), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": {f"Status{status}": _failure(status, codes) for status, codes in _by_status(TABLE).items()},
            "headers": {
                "X-Request-Id": {"description": _REQUEST_ID, "schema": {"type": "string"}},
                "Idempotency-Replayed": {"description": _REPLAYED, "schema": {"const": "true"}},
            },
            "parameters": {each["name"]: each for each in _header_parameters()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": _TOKENS}},
        },
    }


_ABOUT = (
    "Interactive stories, and other flows that a language model narrates, as persisted state machines. "
    "The machine decides what happens; the model only tells it.\n\n"
    'Every JSON answer is `{"code", "message", "data"}`: `code` is 0 for success, else the HTTP status.'
)
_REQUEST_ID = "The caller's X-Request-Id, if it sent 1 to 128 of `A-Za-z0-9_.:-`; else the server's own."
_KEY = (
    "Makes sending again safe. The same key and the same JSON value get the first answer's very bytes, also after a "
    "restart, for at least 24 h; while the first is under way, they wait for it. Only what was done is kept: after a "
    "failure the same key does it. Without a session_id, a key of 16 characters or more names the new session too."
)
_ACCEPT = (
    "A stream is for who names its type and wants it more than JSON. Where nothing refuses the turn, its texts then "
    "come as they are released; each refusal before that is plain JSON with its status."
)
_LAST_ID = (
    "The id of the last event that was heard. With the same body and Idempotency-Key, a stream goes on after it while "
    "the turn runs in this process; once it is done, and in every other process, `turn.committed` alone is told again. "
    "Where the process fell in the middle of the turn, it is played anew: ids begin anew, with `turn.accepted`."
)
_WAIT = "`wait=N`: seconds to wait for a request with the same key that is under way; 25 where it is not sent."
_REPLAYED = "Sent where the answer is the one that the same Idempotency-Key got before."
_TOKENS = (
    "A token of EDGEWISE_PLAY_TOKENS (role player) or EDGEWISE_OPERATOR_TOKENS (role operator). "
    "Where neither is set, everything is open."
)


def _version() -> str:
    try:
        return version("edgewise")
    except PackageNotFoundError:
        return "0"


def _paths() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": "_".join([operation.method, *re.findall(r"\w+", operation.path)]),
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation.path),
            *_query_parameters(operation.query),
            *({"$ref": f"#/components/parameters/{name}"} for name in _headers_of(operation)),
        ],
        "responses": {**_success(operation), **_failures((*operation.errors, *_EVERY))},
    }
    if operation.role is None:
        told["security"] = []
    else:
        told["description"] = f"Role: {operation.role}."
    if operation.body is not None:
        told["requestBody"] = _body(operation.body)
    return told


def _headers_of(operation: Operation) -> list[str]:
    """The headers that an operation reads, by name."""
    streamed = ("Accept", "Last-Event-ID") if operation.is_streamed else ()
    return [*(("Idempotency-Key", "Prefer") if operation.is_once else ()), *streamed, "X-Request-Id"]


def _header_parameters() -> list[dict[str, Any]]:
    key = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[ -~]+$"}
    return [
        {"name": "Idempotency-Key", "in": "header", "description": _KEY, "schema": key},
        {"name": "Prefer", "in": "header", "description": _WAIT, "schema": {"type": "string"}, "example": "wait=10"},
        {"name": "Accept", "in": "header", "description": _ACCEPT, "schema": {"type": "string"}, "example": forms.SSE},
        {"name": "Last-Event-ID", "in": "header", "description": _LAST_ID, "schema": {"type": "string"}},
        {"name": "X-Request-Id", "in": "header", "schema": {"type": "string", "pattern": ID_PATTERN}},
    ]


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": _path_schema(name)} for name in names]


def _path_schema(name: str) -> dict[str, Any]:
    schemas: dict[str, dict[str, Any]] = {"number": {"type": "integer", "minimum": 1}, "task": {"enum": list(TASKS)}}
    return schemas.get(name, {"type": "string"})


def _query_parameters(kind: type[Struct]) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(kind)
    properties = schema["$defs"][kind.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": _without_null(each)} for name, each in properties.items()]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional parameter's schema: it may be left out, and can't be null."""
    kinds_ = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return kinds_[0] if kinds_ else schema


def _body(body: Body) -> dict[str, Any]:
    examples = {name: {"summary": summary, "value": value} for name, (summary, value) in body.examples.items()}
    content: dict[str, Any] = {"application/json": {"schema": _one_of(body.shapes), "examples": examples}}
    if body.other:
        content[body.other] = {"schema": {"type": "string", "description": "import: what an export as jsonl gave."}}
    return {"required": body.is_required, "content": content}


def _one_of(shapes: tuple[type[Struct], ...]) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(name=shape.__name__)} for shape in shapes]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _success(operation: Operation) -> dict[str, Any]:
    if operation.gives is None:
        return {}
    content: dict[str, Any] = (
        {media_type: {"schema": {}} for media_type in operation.gives}
        if isinstance(operation.gives, tuple)
        else {"application/json": {"schema": _envelope({"const": 0}, operation.gives.__name__)}}
    )
    if operation.path.startswith("/store/"):
        lines = b"".join(tending.line_of(step) for step in _STEPS).decode()
        content = {tending.NDJSON: {"schema": {"description": "Each line.", **_one_of(_LINES)}, "example": lines}}
    if operation.is_streamed:
        content |= _streamed()
    if operation.query is query.GraphQuery:
        content |= {"text/plain": {"schema": {"type": "string"}}, "text/vnd.graphviz": {"schema": {"type": "string"}}}
    headers = _HEADERS | (_REPLAYED_HEADER if operation.is_once else {})
    return {"200": {"description": operation.summary, "headers": headers, "content": content}}


def _streamed() -> dict[str, Any]:
    """The two forms of a stream: what a line of the one is, and how the other writes the same."""
    events = {
        "turn.accepted": {"$ref": _REF.format(name="Accepted")},
        "field.delta": {"$ref": _REF.format(name="FieldTold")},
        "field.replaced": {"$ref": _REF.format(name="FieldTold")},
        "turn.committed": _envelope({"const": 0}, "Answer"),
        "turn.failed": _envelope({"type": "integer"}, "Failure"),
        "heartbeat": {"type": "object"},
    }
    line = {"description": _EVENTS, "oneOf": [_line_of(event, data) for event, data in events.items()]}
    told = {form: b"".join(map(forms.FORMS[form].written, _TOLD)).decode() for form in forms.FORMS}
    return {
        forms.NDJSON: {"schema": line, "example": told[forms.NDJSON]},
        forms.SSE: {"schema": {"type": "string", "description": _EVENTS}, "example": told[forms.SSE]},
    }


def _line_of(event: str, data: dict[str, Any]) -> dict[str, Any]:
    properties = {"id": {"type": "string"}, "event": {"const": event}, "data": data}
    return {"type": "object", "properties": properties, "required": list(properties)}


_EVENTS = (
    "`turn.accepted` first: whenever it comes, drop what was told before it. `field.delta` goes on with the text "
    "at its path; `field.replaced` is the whole text in place of what was told of it, '' for none. "
    "The last is `turn.committed`, once the turn is durable, with the plain "
    "answer's JSON, or `turn.failed` with the plain error's: nothing has changed then. What else there is, such as a "
    "`heartbeat` line (in SSE a comment) after 10 s of silence, is to be passed over; it repeats the last event's id. "
    "All JSON is in ASCII."
)
_TOLD = (
    forms.Event("5f1c-1", "turn.accepted", '{"session_id":"s1","turn":2,"event":{"type":"DECISION"}}'),
    forms.Event("5f1c-2", "field.delta", '{"path":"scene","text":"The lamp goes out. "}'),
)
_STREAMED = (answers.Accepted, answers.FieldTold)
_LINES = (Progress, Found, Done, tending.Failed)
_HEADERS = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
_REPLAYED_HEADER = {"Idempotency-Replayed": {"$ref": "#/components/headers/Idempotency-Replayed"}}


def _envelope(code: dict[str, Any], name: str) -> dict[str, Any]:
    properties = {"code": code, "message": {"type": "string"}, "data": {"$ref": _REF.format(name=name)}}
    return {"type": "object", "properties": properties, "required": ["code", "message", "data"]}


def _failures(codes: Iterable[str]) -> dict[str, Any]:
    """The answers for some errors by status; where an operation has all of a status, by reference."""
    known = _by_status(TABLE)
    return {
        str(status): {"$ref": f"#/components/responses/Status{status}"}
        if sorted(own) == sorted(known[status])
        else _failure(status, own)
        for status, own in sorted(_by_status(codes).items())
    }


def _by_status(codes: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(TABLE[code].status, []).append(code)
    return found


def _failure(status: int, codes: list[str]) -> dict[str, Any]:
    facts = _facts()
    lines = [f"- `{code}`: {TABLE[code].about}.{facts[code]}" for code in codes]
    told = {"type": "object", "properties": {"error": {"enum": codes}}}
    schema = _envelope({"const": status}, "Failure")
    schema["properties"]["data"] = {"allOf": [schema["properties"]["data"], told]}
    content = {"application/json": {"schema": schema}}
    return {"description": "\n".join(lines), "headers": _HEADERS, "content": content}


@cache
def _facts() -> dict[str, str]:
    """For each error, what its class says of retrying and of its facts."""
    return {kind.code: f" Retry: {kind.retry}.{_facts_of(kind)}" for kind in kinds()}


def _facts_of(kind: type[Refusal]) -> str:
    found = re.search(r"Facts: ([^.]+)\.", " ".join((kind.__doc__ or "").split()))
    return f" Facts: {found[1]}." if found and found[1] != "none" else ""


def _schemas() -> dict[str, Any]:
    shapes = [each.gives for each in OPERATIONS if each.gives is not None and not isinstance(each.gives, tuple)]
    sent = [shape for each in OPERATIONS if each.body is not None for shape in each.body.shapes]
    _, schemas = msgspec.json.schema_components(
        [answers.Failure, *_STREAMED, *_LINES, *sent, *shapes], ref_template=_REF
    )
    return dict(schemas)
