"""The wire: a request's JSON becomes an `Invoke`, an answer's bytes get their envelope.

The shapes below are the schema: faults are found by it, all at once, and the OpenAPI document
shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar

import jsonschema_rs
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.errors import Refusal
from runtime.model import LANGUAGE_PATTERN
from runtime.request import CONTROL_FAULT, broken_slots
from runtime.session import Invoke
from server.body import INT64
from server.faults import Fault, Loc, cleaned, evil, faults_of, of_conversion, refuse
from server.refusals import TABLE, player_message

MAX_NOTES_BYTES: Final = 8 * 1024
"""The most that `context` and `client_context` may hold, each, as JSON."""
MAX_SECONDS: Final = 1_000_000_000
ID_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,128}$"

_EVIL_ESCAPES = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
OptionId = Annotated[int, Meta(ge=INT64.start, le=INT64.stop - 1)] | Annotated[str, Meta(pattern=r"^[0-9]{1,9}$")]
Seconds = Annotated[float, Meta(ge=-MAX_SECONDS, le=MAX_SECONDS)]


class Sent(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a request: unknown keys are faults."""


class EventSent(Sent, frozen=True):
    """What happens."""

    type: (
        Annotated[
            str, Meta(min_length=1, max_length=64, description="Whatever its case. May be left out with an option.")
        ]
        | UnsetType
    ) = UNSET


class SessionSent(Sent, frozen=True):
    """Whose turn it is; all but `session_id` and `expected_turn` are read at the first event only."""

    session_id: Annotated[Id, Meta(description="Made by the server where left out.")] | UnsetType = UNSET
    machine: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    on_exists: Literal["refuse", "restart", "resume"] = "refuse"
    player_id: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType = UNSET
    player_count: Annotated[int, Meta(ge=1)] = 1
    difficulty: Literal["EASY", "NORMAL", "HARD"] = "NORMAL"
    expected_turn: Annotated[int, Meta(ge=0, description="The head turn that the client has seen.")] | UnsetType = UNSET


class TimeSent(Sent, frozen=True):
    """The player's clock, in seconds; `remaining_seconds` is ignored."""

    hard_limit_seconds: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | UnsetType = UNSET
    elapsed_active_seconds: Seconds | UnsetType = UNSET
    remaining_seconds: Seconds | UnsetType = UNSET


class SeedSent(Sent, frozen=True):
    """What all chance comes from: the same machine, seed and choices have the same outcomes."""

    run_seed: Id | UnsetType = UNSET


class ConstraintsSent(Sent, frozen=True):
    """What every text must keep to; lengths in code points."""

    language: Annotated[str, Meta(pattern=LANGUAGE_PATTERN, examples=["zh", "en"])] | UnsetType = UNSET
    content_rating: Literal["G", "PG", "PG13", "R"] | UnsetType | None = UNSET
    max_chars_scene: Annotated[int, Meta(ge=20)] | UnsetType = UNSET
    max_chars_option: Annotated[int, Meta(ge=2)] | UnsetType = UNSET
    forbidden_terms: (
        Annotated[list[Annotated[str, Meta(min_length=1, max_length=32)]], Meta(max_length=200)] | UnsetType
    ) = UNSET


class PayloadSent(Struct, frozen=True):
    """The chosen option, and what the event declares."""

    selected_option_id: (
        Annotated[OptionId, Meta(description='The id of an offered option; "2" is taken as 2.')] | UnsetType
    ) = UNSET


class InvokeSent(Sent, frozen=True):
    """One event. `{"event": {"type": "INIT"}, "context": {}}` alone is a valid first request."""

    event: EventSent = EventSent()
    session: SessionSent = SessionSent()
    time: TimeSent = TimeSent()
    seed: SeedSent = SeedSent()
    constraints: ConstraintsSent = ConstraintsSent()
    slots: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=200)] | None], Meta(max_length=32)
    ] = {}
    client_context: dict[str, Any] = {}
    payload: PayloadSent = PayloadSent()
    context: dict[str, Any] = {}


ExpectedTurn = Annotated[int, Meta(ge=0, description="The head turn that the client has seen.")]


class RewindSent(Sent, frozen=True):
    """Where to go back to."""

    to_turn: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["previous"],
        Meta(description="A turn of the session, on any branch; or the one before."),
    ]
    expected_turn: ExpectedTurn | None = None


class ForkSent(Sent, frozen=True):
    """Where to branch off; a body may be left out."""

    at_turn: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Default: the head turn.")] = None
    session_id: Annotated[Id | None, Meta(description="The new session's; made by the server where left out.")] = None
    same_dice: Annotated[bool, Meta(description="Roll what the source would roll.")] = False


class RegenerateSent(Sent, frozen=True):
    """Which turn to tell anew: the head; a body may be left out."""

    expected_turn: ExpectedTurn | None = None


def invoke_schema() -> dict[str, Any]:
    """The JSON Schema of a request to /invoke."""
    return msgspec.json.schema(InvokeSent)


_validator = jsonschema_rs.validator_for(invoke_schema())
_KEYS: Mapping[Loc, tuple[str, ...]] = {
    (): InvokeSent.__struct_fields__,
    ("event",): EventSent.__struct_fields__,
    ("session",): SessionSent.__struct_fields__,
    ("time",): TimeSent.__struct_fields__,
    ("seed",): SeedSent.__struct_fields__,
    ("constraints",): ConstraintsSent.__struct_fields__,
}


_Body = TypeVar("_Body", bound=Sent)


def read_sent(kind: type[_Body], raw: bytes, value: Any) -> _Body:
    """The small request that a JSON value is; `raw` are its bytes. Raises ValidationError with all faults."""
    faults = list(evil(value, ("body",))) if _EVIL_ESCAPES.search(raw) else []
    value = cleaned(value) if faults else value
    validator = _validator_of(kind)
    if not validator.is_valid(value):
        faults += faults_of(validator, value, {(): kind.__struct_fields__}, "body")
    if faults:
        raise refuse(faults)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise refuse([of_conversion(error, "body")]) from None


@cache
def _validator_of(kind: type[Sent]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(msgspec.json.schema(kind))


def read_invoke(raw: bytes, value: Any) -> Invoke:
    """The request that a JSON value is; `raw` are its bytes. Raises ValidationError with all faults."""
    faults = list(evil(value, ("body",))) if _EVIL_ESCAPES.search(raw) else []
    value = cleaned(value) if faults else value
    if not _validator.is_valid(value):
        faults += faults_of(_validator, value, _KEYS, "body")
    faults += _meaning_faults(value, len(raw))
    if faults:
        raise refuse(faults)
    try:
        return _invoke(msgspec.convert(value, InvokeSent), value)
    except msgspec.ValidationError as error:
        raise refuse([of_conversion(error, "body")]) from None


def _invoke(sent: InvokeSent, value: Mapping[str, Any]) -> Invoke:
    session, time = sent.session, sent.time
    payload = dict(value.get("payload", ()))
    option = payload.pop("selected_option_id", None)
    return Invoke(
        event=sent.event.type or None,
        session_id=session.session_id or None,
        machine=session.machine or None,
        on_exists=session.on_exists,
        player_id=session.player_id or None,
        player_count=session.player_count,
        difficulty=session.difficulty,
        expected_turn=_or_none(session.expected_turn),
        hard_limit_seconds=_or_none(time.hard_limit_seconds),
        elapsed_active_seconds=_or_none(time.elapsed_active_seconds),
        run_seed=sent.seed.run_seed or None,
        constraints=value.get("constraints", {}),
        slots=sent.slots,
        selected_option_id=None if option is None else int(option),
        payload=payload,
        client_context=sent.client_context,
        context=sent.context,
    )


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _meaning_faults(value: Any, raw_bytes: int) -> Iterator[Fault]:
    """What the schema can't say: an event or an option, slots that can be shown, notes that are not too long."""
    sent = value if isinstance(value, dict) else {"event": None}
    event, payload = sent.get("event", {}), sent.get("payload", {})
    is_silent = isinstance(event, dict) and "type" not in event
    if is_silent and not (isinstance(payload, dict) and "selected_option_id" in payload):
        msg = "send an event, or choose an option by payload.selected_option_id"
        yield Fault(["body", "event", "type"], msg, "required")
    slots = sent.get("slots", {})
    texts = {name: value for name, value in slots.items() if isinstance(value, str)} if isinstance(slots, dict) else {}
    for name in broken_slots(texts):
        yield Fault(["body", "slots", name], CONTROL_FAULT, "str")
    for name in ("context", "client_context") if raw_bytes > MAX_NOTES_BYTES else ():
        size = len(msgspec.json.encode(sent.get(name)))
        if size > MAX_NOTES_BYTES:
            yield Fault(["body", name], f"may hold {MAX_NOTES_BYTES} bytes and holds {size}", "max_bytes")


_SUCCESS = b'{"code":0,"message":"success","data":'


def success(data: bytes) -> bytes:
    """The envelope around `data`, which is JSON already."""
    return b"%b%b}" % (_SUCCESS, data)


def success_of(data: Any) -> bytes:
    """The envelope around any value."""
    return success(msgspec.json.encode(data))


def failure(refusal: Refusal, language: str, request_id: str) -> tuple[int, bytes]:
    """The HTTP status of a refusal and its body."""
    status = TABLE[refusal.code].status
    data = {
        "error": refusal.code,
        "hint": refusal.hint,
        "retry": refusal.retry,
        "player_message": player_message(refusal, language),
        "request_id": request_id,
        **refusal.facts,
    }
    return status, msgspec.json.encode({"code": status, "message": refusal.message, "data": data})
