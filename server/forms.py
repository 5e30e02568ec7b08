"""How a turn is answered: plain JSON, or as a stream of events in one of two forms; Accept decides.

An event is `{id, event, data}`, its data JSON in ASCII: readers of lines disagree on what ends one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
_JSON: Final = "application/json"

_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


class Event(Struct, frozen=True):
    """One event of a stream. `data` is JSON in ASCII, on one line."""

    id: str
    event: str
    data: str


class Form(Struct, frozen=True):
    """How events are written: the media type, one event as bytes, and a sign of life after the event of some id."""

    media_type: str
    written: Callable[[Event], bytes]
    heartbeat: Callable[[str], bytes]


def _as_sse(event: Event) -> bytes:
    # Source: the HTML standard, 9.2.5 "Parsing an event stream".
    return f"id: {event.id}\nevent: {event.event}\ndata: {event.data}\n\n".encode("ascii")


def _as_line(event: Event) -> bytes:
    return f'{{"id":"{event.id}","event":"{event.event}","data":{event.data}}}\n'.encode("ascii")


def _line_of_life(last_id: str) -> bytes:
    """A heartbeat as a line: of the last event's id, so that who keeps the newest id loses no place."""
    return _as_line(Event(last_id, "heartbeat", "{}"))


FORMS: Final[Mapping[str, Form]] = {
    SSE: Form(SSE, _as_sse, lambda _: b": heartbeat\n\n"),
    NDJSON: Form(NDJSON, _as_line, _line_of_life),
}
"""The streams by their media type, the one first that is taken where both are wanted alike."""


def form_of(accept: bytes) -> Form | None:
    """The stream that an Accept header asks for, None for plain JSON.

    A stream is for who names its very type: where that weighs more than JSON, or as much as a JSON
    that only a wildcard covers. Source: RFC 9110, section 12.5.1.
    """
    weights = _weights(accept.decode("latin-1"))
    named = max(FORMS, key=lambda media_type: weights.get(media_type, 0.0))
    wildcard = weights.get("application/*", weights.get("*/*", 0.0))
    json_weight = weights.get(_JSON, wildcard)
    stream_weight = weights.get(named, 0.0)
    is_wanted = stream_weight > json_weight or (stream_weight == json_weight and _JSON not in weights)
    return FORMS[named] if stream_weight and is_wanted else None


def _weights(accept: str) -> dict[str, float]:
    """Each media range with its weight, 0 to 1; a weight that can't be read counts as 1."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        media_range, _, parameters = part.partition(";")
        weight = _WEIGHT.search(f";{parameters}")
        found[media_range.strip().lower()] = min(1.0, float(weight[1])) if weight else 1.0
    return found


def in_ascii(encoded: bytes) -> str:
    """JSON with all that is not ASCII escaped, and otherwise as it is: only strings hold such characters."""
    return _NOT_ASCII.sub(_escaped, encoded.decode())


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
