"""Query parameters: read into a Struct, every fault at once, in the same words as a body's."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from server.faults import Fault, evil, refuse, shown, unknown_key
from server.wire import Sent

_Query = TypeVar("_Query", bound=Sent)

Limit = Annotated[int, Meta(ge=1, le=200, description="How many at most.")]


class NoQuery(Sent, frozen=True):
    """A route without parameters."""


class SessionsQuery(Sent, frozen=True):
    """Which sessions to list."""

    player_id: Annotated[str, Meta(min_length=1, max_length=128, description="Whose sessions.")] | None = None
    ended: Annotated[bool, Meta(description="Only those that have, or have not, ended.")] | None = None
    limit: Limit = 50
    after: Annotated[str, Meta(max_length=256, description="The last answer's next_after.")] | None = None


class TurnsQuery(Sent, frozen=True):
    """Which turns to list."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1, description="The last answer's next_after.")] = 0
    limit: Limit = 100


class LedgerQuery(Sent, frozen=True):
    """Which days of the ledger to show."""

    day: (
        Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$", description="The newest day, UTC; today by default.")]
        | None
    ) = None
    days: Annotated[int, Meta(ge=1, le=366, description="How many days, back from that one.")] = 7


class GraphQuery(Sent, frozen=True):
    """How to draw."""

    format: Literal["mermaid", "dot", "json"] = "mermaid"


class ExportQuery(Sent, frozen=True):
    """What to give away: the record (jsonl, replay) or the story to read (md, html)."""

    format: Literal["jsonl", "md", "html", "replay"] = "jsonl"


def read_query(kind: type[_Query], written_query: bytes) -> _Query:
    """The parameters of a query string as a Struct. Raises ValidationError with all faults."""
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, written in parse_qsl(written_query.decode("latin-1"), keep_blank_values=True):
        loc: list[str | int] = ["query", shown(name)]
        if name not in _hints(kind):
            faults.append(unknown_key(loc, name, _hints(kind)))
        elif name in values:
            faults.append(Fault(loc, "stands twice", "repeated"))
        else:
            faults += evil(written, tuple(loc))
            values[name] = _converted(written, _hints(kind)[name], loc, faults)
    if faults:
        raise refuse(faults)
    return kind(**values)


def _converted(written: str, hint: Any, loc: list[str | int], faults: list[Fault]) -> Any:
    try:
        return msgspec.convert(written, hint, strict=False)
    except msgspec.ValidationError as error:
        faults.append(Fault(loc, _plain(str(error)), "type"))
        return None


def _plain(message: str) -> str:
    told = message.partition(", got")[0].replace("`", "").replace("Expected", "must be")
    for word, words in {"int": "a whole number", "bool": "true or false", " | null": ""}.items():
        told = told.replace(word, words)
    return told


@cache
def _hints(kind: type[Sent]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)
