"""A session as a file of lines: the first says what it is, each other one is an entry as it was kept.

A line of an entry has the entry's body byte for byte, and its hash, so that whoever reads it can
tell that nothing was changed, in whatever format the entry was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

EXPORT_VERSION = 1
"""The version of the file's own form; the entries have formats of their own."""


class Header(Struct, frozen=True, kw_only=True):
    """The first line. `machine`, `version` and `language` are those of the head.

    `exported_at` is ISO 8601 in UTC. `ai_generated` says whether a model told any of it; then
    `models` are their names. `definitions` is digest → path → text, and empty where whoever asked
    may not read them: then the file can be read only where they are kept.
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


class Line(Struct, frozen=True):
    """Every other line."""

    hash: str
    body: msgspec.Raw


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

    routing: dict[str, Any]
    meta: MetaTold
    ending: EndingTold | None = None
    key_choices: tuple[KeyChoiceTold, ...] = ()


class AnswerTold(Struct, frozen=True):
    """What readers of a journal rely on in the stored answer of a telling."""

    session: dict[str, Any]
    payload: PayloadTold


class StandingTold(Struct, frozen=True):
    """What they rely on in the stored answer of any other entry; the source's side of a fork may have none."""

    session: dict[str, Any]


read_answer = msgspec.json.Decoder(AnswerTold).decode
read_standing = msgspec.json.Decoder(StandingTold).decode


def header_line(header: Header) -> bytes:
    """The first line, with its end."""
    return msgspec.json.encode(header) + b"\n"


def entry_line(body: bytes, hash_: str) -> bytes:
    """An entry's line, with its end."""
    return b'{"hash":"%b","body":%b}\n' % (hash_.encode(), body)
