"""The journal's formats: every one that was ever written is read, and checked by its own rule.

Format 1 hashed an entry in the order of its fields and kept the hash inside the body. Since
format 2 the hash is the SHA-256 of the body's bytes, so that no later format can outdate it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from runtime.session import Entry, Outcome, Session, Usage, digest_of


class _EntryV1(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry as format 1 wrote it: the order of the fields is part of its hash, and there are no others."""

    session_id: str
    seq: int
    turn: int
    parent: int | None
    at_ms: int
    digest: str
    request: Mapping[str, Any]
    outcome: Outcome
    prompt_hash: str
    narration: Mapping[str, Any]
    narrator: str
    model: str | None
    usage: Usage
    after: Session
    answer: msgspec.Raw
    kind: Literal["turn"] = "turn"
    key: str | None = None
    format: int = 1
    prev_hash: str = ""
    hash: str = ""


class _Formatted(Struct):
    format: int


_decode = msgspec.json.Decoder(Entry).decode
_decode_v1 = msgspec.json.Decoder(_EntryV1).decode
_format = msgspec.json.Decoder(_Formatted).decode
_canonical_v1 = msgspec.json.Encoder(order="deterministic").encode


def read_entry(body: bytes | str, hash_: str) -> Entry:
    """An entry from its body in any format, with its hash. Raises msgspec.DecodeError."""
    entry = _decode(body)
    if entry.format == 1:
        _decode_v1(body)  # its hash says nothing of a field that came later
    return msgspec.structs.replace(entry, hash=hash_)


def is_intact(body: bytes | str, hash_: str) -> bool:
    """Whether a body is what the hash was made over."""
    data = body.encode() if isinstance(body, str) else body
    try:
        if _format(data).format > 1:
            return digest_of(data) == hash_
        written = _decode_v1(data)
        return written.hash == hash_ == digest_of(_canonical_v1(msgspec.structs.replace(written, hash="")))
    except msgspec.DecodeError:
        return False
