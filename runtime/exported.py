"""A session as a file of lines: the first says what it is, each other one is an entry as it was kept.

A line of an entry has the entry's body byte for byte, and its hash, so that whoever reads it can
tell that nothing was changed, in whatever format the entry was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from runtime.session import Change, Input, Offer, Rolled, Routing, Value

AIGC_NAMES: Mapping[str, str] = {
    "label": "Label",
    "content_producer": "ContentProducer",
    "produce_id": "ProduceID",
    "reserved_code1": "ReservedCode1",
    "content_propagator": "ContentPropagator",
    "propagate_id": "PropagateID",
    "reserved_code2": "ReservedCode2",
}
"""The label's fields by the names that the standard gives them."""
EXPORT_VERSION = 1
"""The version of the file's own form; the entries have formats of their own."""


class Aigc(Struct, frozen=True, rename=AIGC_NAMES):
    """The label that a file with machine-made text carries for machines, under the name AIGC.

    `label` "1" says that it is AI-generated, be it in part. `produce_id` is the producer's own number
    for it: the session. Who spreads the file fills in propagator and its number; nothing is reserved.
    Source: 人工智能生成合成内容标识办法 (in force since 2025-09-01), article 5; GB 45438-2025, annex E.
    """

    content_producer: str
    produce_id: str
    label: str = "1"
    reserved_code1: str = ""
    content_propagator: str = ""
    propagate_id: str = ""
    reserved_code2: str = ""

    @property
    def told(self) -> dict[str, str]:
        """As it stands in a file, in the order of the standard."""
        return {name: getattr(self, field) for field, name in AIGC_NAMES.items()}


class Header(Struct, frozen=True, kw_only=True, rename={"aigc": "AIGC"}):
    """The first line. `machine`, `version` and `language` are those of the head.

    `exported_at` is ISO 8601 in UTC. `ai_generated` says whether a model told any of it; then
    `models` are their names, and `aigc` is its label. `definitions` is digest → path → text, and empty
    where whoever asked may not read them: then the file can be read only where they are kept.
    """

    edgewise_export: int
    session_id: str
    machine: str
    version: int | str
    language: str
    exported_at: str
    ai_generated: bool
    narrators: tuple[str, ...]
    models: tuple[str, ...]
    entries: int
    definitions: Mapping[str, Mapping[str, str]] = {}
    aigc: Mapping[str, str] | None = None


class Line(Struct, frozen=True):
    """Every other line."""

    hash: str
    body: msgspec.Raw


class EventTold(Struct, frozen=True):
    """The event, in the client's spelling."""

    type: str


class TimeTold(Struct, frozen=True):
    """The player's clock."""

    elapsed_active_seconds: int
    remaining_seconds: int


class SessionTold(Struct, frozen=True):
    """Where the session stood."""

    session_id: str
    machine: str
    version: int | str
    state: str
    turn: int
    step: int
    ended: bool
    language: str
    run_seed: str
    time: TimeTold


class StatusTold(Struct, frozen=True):
    """A variable that was shown."""

    value: Value
    label: str
    text: str | list[str]
    min: int | float | None = None
    max: int | float | None = None


class OutcomeTold(Struct, frozen=True):
    """What the machine settled, as far as it was shown."""

    edge: str
    dice: tuple[Rolled, ...]
    changes: tuple[Change, ...]


class MetaTold(Struct, frozen=True):
    """Who told a turn."""

    narrator: str
    model: str | None
    ai_generated: bool
    fallback: tuple[str, ...] = ()


class EndingTold(Struct, frozen=True):
    """How it ended."""

    title: str
    good: bool | None


class KeyChoiceTold(Struct, frozen=True):
    """A choice that weighed."""

    turn: int
    text: str


class PayloadTold(Struct, frozen=True):
    """What readers of a journal rely on in an answer's payload."""

    ai_state: dict[str, Any]
    status: dict[str, StatusTold]
    outcome: OutcomeTold
    options: tuple[Offer, ...]
    inputs: tuple[Input, ...]
    routing: Routing
    meta: MetaTold
    ending: EndingTold | None = None
    key_choices: tuple[KeyChoiceTold, ...] = ()


class AnswerTold(Struct, frozen=True):
    """What readers of a journal rely on in the stored answer of a telling."""

    event: EventTold
    session: SessionTold
    payload: PayloadTold


class StandingTold(Struct, frozen=True):
    """What they rely on in the stored answer of any other entry; `answer` is the head turn's, where it has one."""

    session: SessionTold
    answer: AnswerTold | None = None


read_answer = msgspec.json.Decoder(AnswerTold).decode
read_standing = msgspec.json.Decoder(StandingTold).decode


def header_line(header: Header) -> bytes:
    """The first line, with its end."""
    return msgspec.json.encode(header) + b"\n"


def entry_line(body: bytes, hash_: str) -> bytes:
    """An entry's line, with its end."""
    return b'{"hash":"%b","body":%b}\n' % (hash_.encode(), body)
