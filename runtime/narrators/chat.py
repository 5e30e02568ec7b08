"""The words of an OpenAI-compatible chat API: what is asked, and what comes back. Pure: no I/O."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from runtime import quoting
from runtime.narrators import answer
from runtime.narrators.profile import DEEPSEEK
from runtime.session import Usage

if TYPE_CHECKING:
    from runtime.narrators import Task
    from runtime.narrators.profile import Profile

SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")
"""What a prompt's `model.options` may pass on, beside `max_tokens`."""

_PLAIN_CODE = re.compile(r"[a-z_]{1,40}")
_MODEL_NAME = re.compile(r"[\w./:@+-]{1,128}", re.ASCII)


def request_body(profile: Profile, task: Task, refused: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON body of one call. `refused` says what was wrong with the answer before."""
    messages = list(_messages(task, answer.closing(task, refused)))
    options = task.prompt.options
    body = {
        "model": profile.model,
        "messages": messages,
        "max_tokens": options.get("max_tokens", profile.max_tokens),
        "stream": False,
        **{name: options[name] for name in SAMPLING if name in options},
    }
    return {**body, **_format(profile, task), **_thinking(profile)}


def _messages(task: Task, closing: str) -> Iterator[dict[str, str]]:
    """The prompt with this call's marks around what the player wrote; then what the marks mean, and the closing.

    What stands before the player's last words is the same from call to call.
    """
    fresh = quoting.new_mark(secrets.token_bytes)
    marks = quoting.Marks(fresh, task.mark or fresh)
    for message in task.messages:
        yield {"role": message.role, "content": quoting.marked(message.content, marks)}
    said = quoting.notice([message.content for message in task.messages], marks, task.bounds.language)
    yield {"role": "system", "content": f"{said}\n{closing}" if said else closing}


def _format(profile: Profile, task: Task) -> dict[str, Any]:
    if profile.response_format == "text":
        return {}
    if profile.response_format == "json_object":
        return {"response_format": {"type": "json_object"}}
    # Not strict: that mode refuses optional keys and length limits, and we check the answer anyway.
    named = {"name": "turn", "schema": task.schema, "strict": False}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _thinking(profile: Profile) -> dict[str, Any]:
    ours = profile.thinking and urlsplit(profile.base_url).hostname == urlsplit(DEEPSEEK).hostname
    return {"thinking": {"type": profile.thinking}} if ours else {}


class Reply(Struct, frozen=True):
    """A chat completion, as far as it is read. `finish` is the provider's finish_reason."""

    content: str
    model: str
    finish: str
    usage: Usage


class NoReplyError(ValueError):
    """The response is no chat completion; the message says what it is instead, and quotes nothing of it."""


def reply_of(raw: bytes, profile: Profile) -> Reply:
    """Read the body of a chat completion. Raises NoReplyError."""
    try:
        completion = msgspec.json.decode(raw)
        choice = completion["choices"][0]
        content = choice["message"]["content"] or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        reason = "something that is no chat completion"
        raise NoReplyError(reason) from None
    if not isinstance(content, str):
        reason = "a message that is no text"
        raise NoReplyError(reason)
    model = str(completion.get("model", ""))
    return Reply(
        content=content,
        model=model if _MODEL_NAME.fullmatch(model) else profile.model,
        finish=str(choice.get("finish_reason", "")),
        usage=usage_of(completion.get("usage")),
    )


def usage_of(usage: Any) -> Usage:
    """The tokens of one call; 0 for what the provider doesn't say or says in no sane way.

    Cached tokens are OpenAI's `prompt_tokens_details.cached_tokens` or DeepSeek's
    `prompt_cache_hit_tokens`.
    """
    details = _mapping(_mapping(usage).get("prompt_tokens_details"))
    cached = _count(details, "cached_tokens") or _count(_mapping(usage), "prompt_cache_hit_tokens")
    return Usage(_count(_mapping(usage), "prompt_tokens"), _count(_mapping(usage), "completion_tokens"), cached)


def error_code(raw: bytes) -> str:
    """The provider's own short word for the error, '' for anything longer: it may quote a key or a prompt."""
    try:
        error = _mapping(_mapping(msgspec.json.decode(raw)).get("error"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    words = (error.get("code"), error.get("type"))
    return next((word for word in words if isinstance(word, str) and _PLAIN_CODE.fullmatch(word)), "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
