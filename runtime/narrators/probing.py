"""What a provider and its model can do of json_schema → json_object → text: tried once, and kept in a file.

A probe asks for one word, in each format from the best on, until an answer shows that the format
holds. That it doesn't is shown by a refusal that names the format, or by the same failure twice: one
odd answer shows nothing, and nothing is kept of it. A probe is made when a server starts on a provider
that nobody knows, and by `edgewise doctor`, never for a player's turn. Where it can't be made, or shows
nothing, the profile's safest format is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import msgspec
from msgspec import Struct

from runtime.narrators import chat
from runtime.narrators.provider import CallError

if TYPE_CHECKING:
    from runtime.narrators.profile import Profile, ResponseFormat
    from runtime.narrators.provider import Provider

WITHIN_S = 10.0
"""The longest that a start waits for probes, all of them together."""
KEPT_DAYS = 30
"""How long what was found is believed: servers change their models."""
PROBE_TOKENS = 300
"""Enough for one word, also of a model that thinks first."""

_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["blue", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
# The key is not named: only a server that reads the schema can know it.
_ASKED = "Say in one JSON object (json) of one key whether a clear sky is blue or green at noon. Nothing else."
_IS_ASKED = jsonschema_rs.validator_for(_SCHEMA).is_valid
_LOG = logging.getLogger(__name__)


class Found(Struct, frozen=True):
    """What was found of one provider and model, and on which day (UTC)."""

    response_format: str
    on: str


class Tried(Struct, frozen=True):
    """One format that was tried: whether it holds (None: nobody can say), why not, its mend, and the times in ms.

    `is_answered`: there was an answer, whatever it was worth. `is_said`: the provider itself named the format.
    """

    response_format: ResponseFormat
    holds: bool | None
    why: str = ""
    first_token_ms: int = 0
    total_ms: int = 0
    mend: str = ""
    is_answered: bool = False
    is_said: bool = False


class _Kept(Struct, frozen=True):
    """The file."""

    providers: dict[str, Found] = {}


class Known:
    """What is known of providers: a file of the project, or nothing where it can't be read."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Take the file; it need not be there."""
        self._path, self._now = path, now

    def of(self, profile: Profile) -> ResponseFormat | None:
        """The format that holds, None where nobody knows or what is known is old."""
        found = self._read().get(_key(profile))
        if found is None or found.response_format not in profile.formats or self._is_old(found):
            return None
        return next(form for form in profile.formats if form == found.response_format)

    def note(self, provider: Provider) -> None:
        """Keep what a provider is asked for now."""
        self.keep({_key(provider.profile): provider.format})

    def keep(self, formats: Mapping[str, str]) -> None:
        """Keep formats, by base URL and model. A file that can't be written is a warning: it is tried again then."""
        today = self._now().date().isoformat()
        kept = {**self._read(), **{key: Found(form, today) for key, form in formats.items()}}
        try:
            _write(self._path, msgspec.json.format(msgspec.json.encode(_Kept(kept), order="sorted")))
        except OSError as error:
            _LOG.warning("what the providers can do could not be kept in %s: %s", self._path.name, error.strerror)

    def _read(self) -> dict[str, Found]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept).providers
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            _LOG.warning("%s can't be read: what the providers can do is found out anew", self._path.name)
            return {}

    def _is_old(self, found: Found) -> bool:
        try:
            since = self._now().date() - datetime.fromisoformat(found.on).date()
        except ValueError:
            return True
        return not timedelta() <= since <= timedelta(days=KEPT_DAYS)


async def learn(providers: Iterable[Provider], known: Known, within_s: float = WITHIN_S) -> None:
    """Set each provider's format: as known, else as a probe finds it, which is kept. Never fails."""
    unknown = []
    for provider in providers:
        form = provider.profile.response_format or await asyncio.to_thread(known.of, provider.profile)
        if form is None:
            unknown.append(provider)
        else:
            provider.format = form
    tried = await asyncio.gather(*(probe(provider, within_s) for provider in unknown))
    found = {}
    for provider, tries in zip(unknown, tried, strict=True):
        form = held(tries)
        if form is not None:
            provider.format = found[_key(provider.profile)] = form
        else:
            _LOG.warning(
                "what the model at %s can do could not be found out (it %s): asking for %s until the next start",
                provider.profile.host,
                tries[-1].why,
                provider.format,
            )
    if found:
        await asyncio.to_thread(known.keep, found)


async def probe(provider: Provider, within_s: float = WITHIN_S, *, every: bool = False) -> list[Tried]:
    """Try the formats from the best on, until one holds or nobody can say; with `every`, all of them."""
    ends_at = time.monotonic() + within_s
    tries: list[Tried] = []
    for form in provider.profile.formats:
        tries.append(await _shown(provider, form, ends_at))
        nobody_answers = tries[-1].holds is None and not tries[-1].is_answered
        if nobody_answers or (tries[-1].holds is not False and not every):
            break
    return tries


def is_sure(tries: Iterable[Tried]) -> bool:
    """Whether of every better format than the one that holds it was shown that it doesn't."""
    return next((each.holds for each in tries if each.holds is not False), None) is True


def held(tries: Iterable[Tried]) -> ResponseFormat | None:
    """The format that holds, None where none was shown to."""
    return next((each.response_format for each in tries if each.holds), None)


async def _shown(provider: Provider, form: ResponseFormat, ends_at: float) -> Tried:
    """One format, tried again where one failure may be a whim."""
    first = await _tried(provider, form, ends_at - time.monotonic())
    if first.holds is not False or first.is_said:
        return first
    again = await _tried(provider, form, ends_at - time.monotonic())
    return again if again.is_answered or again.holds is False else msgspec.structs.replace(first, holds=None)


async def _tried(provider: Provider, form: ResponseFormat, within_s: float) -> Tried:
    began = time.monotonic()
    try:
        got = await provider.ask(_body(provider.profile, form), lambda _: None, max(0.0, within_s))
    except CallError as failed:
        cannot = False if failed.outcome in ("format", "rejected") else None
        return Tried(form, cannot, failed.why, mend=failed.mend, is_said=failed.outcome == "format")
    holds = got.finish != "cut" and _holds(form, got.text)
    if not holds and got.finish in ("cut", "length", "content_filter"):
        # What was cut might have ended well.
        return Tried(form, None, got.why or f"answered, and was cut ({got.finish})", is_answered=True)
    why = "" if holds else "answered, and not in that format"
    total_ms = round((time.monotonic() - began) * 1000)
    return Tried(form, holds, why, got.first_token_ms, total_ms, is_answered=True)


def _holds(form: ResponseFormat, text: str) -> bool:
    if form == "text":
        return bool(text.strip())
    try:
        found = msgspec.json.decode(text.strip(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return False
    return form == "json_object" or _IS_ASKED(found)


def _body(profile: Profile, form: ResponseFormat) -> dict[str, Any]:
    return {
        "model": profile.model,
        "messages": [{"role": "user", "content": _ASKED}],
        profile.max_tokens_field: PROBE_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
        **chat.format_of(form, _SCHEMA),
        **chat.thinking_of(profile),
        **(chat.hint_of({"colour": "blue"}) if profile.sends_hint else {}),
    }


def _key(profile: Profile) -> str:
    return f"{profile.base_url} {profile.model}"


def _write(path: Path, raw: bytes) -> None:
    """Replace a file whole: a reader sees the old one or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
