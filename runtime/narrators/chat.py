"""The words of an OpenAI-compatible chat API: what is asked, and what comes back. Pure: no I/O."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from runtime import quoting
from runtime.narrators import answer
from runtime.narrators.offline import Offline
from runtime.narrators.profile import DEEPSEEK
from runtime.session import Usage
from runtime.tokens import roughly

if TYPE_CHECKING:
    from runtime.narrators import Task
    from runtime.narrators.profile import Profile

SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")
"""What a prompt's `model.options` may pass on, beside `max_tokens`."""

FORMAT_CHARS = 300
"""How much of an error's words is read for what it is about: what comes later may quote a prompt."""

_FORMAT_WORDS = ("response_format", "response format", "json_schema", "json_object", "structured", "guided", "grammar")
_PLAIN_CODE = re.compile(r"[a-z_]{1,40}")
_MODEL_NAME = re.compile(r"[\w./:@+-]{1,128}", re.ASCII)


def request_body(
    profile: Profile, task: Task, schema: Mapping[str, Any], refused: Sequence[str] = (), form: str = "text"
) -> dict[str, Any]:
    """The JSON body of one call: an answer of the schema is asked for, in the response format `form`.

    `refused` says what was wrong with the answer before.
    """
    options = task.prompt.options
    body = {
        "model": profile.model,
        "messages": list(_messages(task, answer.closing(task, refused, schema))),
        profile.max_tokens_field: options.get("max_tokens", profile.max_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: options[name] for name in SAMPLING if name in options},
    }
    return {**body, **format_of(form, schema), **thinking_of(profile), **_hint(profile, task, schema)}


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


def format_of(form: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a request that asks for a response format."""
    if form == "text":
        return {}
    if form == "json_object":
        return {"response_format": {"type": "json_object"}}
    # Not strict: that mode refuses optional keys and length limits, and we check the answer anyway.
    named = {"name": "turn", "schema": schema, "strict": False}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _hint(profile: Profile, task: Task, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The offline narrator's answer, in a model's form, for a server that has no model to make one with."""
    if not profile.sends_hint:
        return {}
    told = Offline().tell(task)
    options = [{"key": key, "text": text} for key, text in told.options.items()]
    whole = {**told.output, "ai_state": told.ai_state, "options": options}
    return hint_of({name: value for name, value in whole.items() if name in schema.get("properties", {})})


def hint_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a request that says what a server without a model may answer."""
    return {"metadata": {"offline": msgspec.json.encode(told).decode()}}


def thinking_of(profile: Profile) -> dict[str, Any]:
    """The switch for thinking, to the one host that knows it."""
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
    return Reply(
        content=content,
        model=model_of(completion.get("model"), profile.model),
        finish=str(choice.get("finish_reason", "")),
        usage=usage_of(completion.get("usage"), profile),
    )


def model_of(name: object, otherwise: str) -> str:
    """The model's name as the provider says it, where that is a name."""
    return name if isinstance(name, str) and _MODEL_NAME.fullmatch(name) else otherwise


def usage_of(usage: Any, profile: Profile) -> Usage:
    """The tokens of one call; 0 for what the provider doesn't say or says in no sane way.

    Cached tokens stand where the profile says; there are never more of them than of the prompt's.
    """
    known = _mapping(usage)
    asked = _count(known, "prompt_tokens")
    cached = next((count for path in profile.cached_fields if (count := _at(known, path))), 0)
    return Usage(asked, _count(known, "completion_tokens"), min(cached, asked))


def billed(told: Usage, body: Mapping[str, Any], written: str) -> Usage:
    """The tokens of a call that reached its provider: as it told them, else an estimate.

    Usage comes last, and never where an answer is cut: that call is paid for all the same. A count of
    0 is none, for what was asked and for what was `written` by the model, at most what it was allowed.
    """
    asked = told.prompt_tokens or sum(roughly(message["content"]) for message in body.get("messages", ()))
    answered = roughly(written)
    most = most_tokens(body) or answered
    return Usage(asked, told.completion_tokens or min(answered, most), told.cached_tokens)


def most_tokens(body: Mapping[str, Any]) -> int:
    """How many tokens a request allows its answer; 0 where it says nothing."""
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)


def _at(usage: Mapping[str, Any], path: str) -> int:
    *around, name = path.split(".")
    for step in around:
        usage = _mapping(usage.get(step))
    return _count(usage, name)


def error_code(raw: bytes) -> str:
    """The provider's own short word for the error, '' for anything longer: it may quote a key or a prompt."""
    return code_of(_decoded(raw))


def code_of(body: Mapping[str, Any]) -> str:
    """The same, of a body that is read already."""
    error = _mapping(body.get("error"))
    words = (error.get("code"), error.get("type"))
    return next((word for word in words if isinstance(word, str) and _PLAIN_CODE.fullmatch(word)), "")


def speaks_of_format(raw: bytes) -> bool:
    """Whether an error's own words are about the response format: the provider can't answer in it."""
    body = _decoded(raw)
    said = body.get("error", body)
    error = _mapping(said) or body
    words = [said, *(error.get(name) for name in ("message", "detail", "param", "code"))]
    told = " ".join(word[:FORMAT_CHARS] for word in words if isinstance(word, str)).casefold()
    return any(word in told for word in _FORMAT_WORDS)


def models_of(raw: bytes) -> tuple[str, ...] | None:
    """The models that a provider lists, None where the answer is no list of models."""
    listed = _decoded(raw).get("data")
    if not isinstance(listed, list):
        return None
    return tuple(model_of(_mapping(each).get("id"), "") for each in listed)


def _decoded(raw: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    # A bool is an int to Python, and no count.
    return value if type(value) is int and 0 <= value < 2**31 else 0
