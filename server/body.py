"""A request's body: its size, its media type, and its JSON, in this order.

What JSON leaves open is refused here, so that no two readers of the journal see different values:
repeated keys, numbers beyond 64 bits, NaN, deep nesting.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from server.faults import shown
from server.refusals import BadRequest, BodyTooLarge, MalformedJson, UnsupportedMediaType

MAX_BODY_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64
INT64: Final = range(-(2**63), 2**63)
ACCEPTED_TYPES: Final = ("application/json", "application/*+json")

_INT64_DIGITS = 19
_JSON_TYPE = re.compile(r"application/([a-z0-9.!#$&^_-]+\+)?json")
_TOKENS = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<open>[{\[])|(?P<close>[}\]])|(?P<comma>,)|(?P<other>[^\s:,"{}\[\]]+)'
)


async def read_body(receive: Callable[[], Awaitable[Mapping[str, Any]]], declared: bytes | None) -> bytes:
    """The whole body; `declared` is its Content-Length. Raises BodyTooLarge, BadRequest."""
    if declared is not None and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    chunks, size, is_more = [], 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the client went away before its body was read", "Send the whole body.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        is_more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise _too_large()
    return b"".join(chunks)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes", "Send a smaller body.", limit_bytes=MAX_BODY_BYTES)


def refuse_other_types(content_type: bytes | None, content_encoding: bytes | None) -> None:
    """Pass JSON in UTF-8, not compressed. Raises UnsupportedMediaType."""
    if content_type == b"application/json" and content_encoding is None:
        return
    kind, _, parameters = (content_type or b"").decode("latin-1").lower().partition(";")
    charset = re.search(r'charset\s*=\s*"?([^\s";]+)', parameters)
    if content_encoding not in {None, b"identity"}:
        raise _unsupported(f"the body's Content-Encoding is '{shown(content_encoding)}'")
    if not content_type:
        raise _unsupported("the request has no Content-Type")
    if not _JSON_TYPE.fullmatch(kind.strip()):
        raise _unsupported(f"the body's Content-Type is '{shown(content_type)}'")
    if charset and charset[1] not in {"utf-8", "utf8", "us-ascii"}:
        raise _unsupported(f"the body's charset is '{shown(charset[1])}'")


def _unsupported(what: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"{what}: the server reads JSON in UTF-8, not compressed",
        "Send the header Content-Type: application/json.",
        accepted_types=list(ACCEPTED_TYPES),
    )


class _Odd(ValueError):
    """JSON that Python reads and other readers don't, or not alike."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Odd
    return value


def _int64(text: str) -> int:
    if len(text) <= _INT64_DIGITS + 1 and (value := int(text)) in INT64:
        return value
    raise _Odd


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Odd
    return value


def _refuse_constant(text: str) -> float:
    raise _Odd(text)


_decode = json.JSONDecoder(
    object_pairs_hook=_without_repeats, parse_int=_int64, parse_float=_finite, parse_constant=_refuse_constant
).decode


def read_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises MalformedJson with the position.

    Read with the standard library: it takes hooks that refuse what is ambiguous, and costs about
    12 µs for the seed's request.
    """
    try:
        text = raw.decode()
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
            _refuse_depth(text)
        return _decode(text)
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode()
        raise _malformed("the body is not UTF-8", before, "Send JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        what = f"the body is no JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise _malformed(what, text[: error.pos], "Send one JSON object.") from None
    except _Odd:
        _refuse_oddity(text)
        raise


def _malformed(what: str, before: str, hint: str) -> MalformedJson:
    """`before` is the text up to the fault; lines, columns and bytes count as editors do."""
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    position = {"line": line, "column": column, "offset_bytes": len(before.encode())}
    return MalformedJson(f"{what}, at line {line} column {column}", hint, position=position)


def _refuse_depth(text: str) -> None:
    """Refuse a text that is nested too deep, before a parser recurses into it. Raises MalformedJson."""
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"open": 1, "close": -1}.get(token.lastgroup or "", 0)
        if depth > MAX_DEPTH:
            raise _ambiguous(f"the body is nested over {MAX_DEPTH} deep", text[: token.start()])


def _refuse_oddity(text: str) -> None:
    """Find the first oddity of a text and refuse it with its position. Raises MalformedJson."""
    open_keys: list[set[str] | None] = []  # of each open object the keys so far; None for a list
    is_key = False
    for token in _TOKENS.finditer(text):
        kind, written = token.lastgroup, token[0]
        if kind == "open":
            open_keys.append(set() if written == "{" else None)
        elif kind == "close":
            del open_keys[-1:]
        fault = _fault_of(written, open_keys[-1] if is_key else None)
        if fault:
            raise _ambiguous(fault, text[: token.start()])
        is_key = kind in {"open", "comma"} and bool(open_keys) and open_keys[-1] is not None


def _ambiguous(what: str, before: str) -> MalformedJson:
    return _malformed(what, before, "Send JSON that every reader understands alike.")


def _fault_of(written: str, keys: set[str] | None) -> str | None:
    """What is odd about a token; `keys` are those of its object, where it is a key."""
    if written[0] == '"':
        return _repeat(keys, written) if keys is not None else None
    return None if written in "{}[]," else _out_of_range(written)


def _repeat(keys: set[str], written: str) -> str | None:
    key = json.loads(written, strict=False)
    if key in keys:
        return f"the key '{shown(key)}' stands twice in one object"
    keys.add(key)
    return None


def _out_of_range(written: str) -> str | None:
    try:
        _decode(written)
    except json.JSONDecodeError:
        return None
    except _Odd:
        what = "outside what 64 bits hold" if written[-1].isdigit() else "no number in JSON"
        return f"{shown(written)} is {what}"
    return None
