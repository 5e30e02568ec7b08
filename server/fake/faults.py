"""All that may go wrong with an answer, by name: what `--fault` takes, scripts name, and chaos draws from.

A fault changes the answer before it is written (its keys and texts), the text that it is written as, or
the reply that carries it. Several of different kinds go together: `fences,forbidden_term,keepalive`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from server.fake.http import Asked
from server.fake.reply import Reply
from server.fake.speaking import Speaker, texts_of

STALL_S = 60.0
"""Seconds that a stalled answer waits, unless told otherwise: longer than a client should."""
FLOOD_BYTES = 64 * 1024 * 1024
LEAKED_CHARS = 160
OVERLONG_CHARS = 5_000
NOISE_LINES = 20
RETRY_AFTER_S = 1
FIVE = 5
TERMS = {"zh": "血", "en": "blood"}
"""The forbidden term where none is named."""
_NO_TEXT = frozenset({"key", "kind", "id", "event_type"})
_STRING = re.compile(r'"(?:\\.|[^"\\])*"')
_STRUCTURE = re.compile(r'("(?:\\.|[^"\\])*")|([:,])')
_CLOSING = re.compile(r'"(?:\\.|[^"\\])*"|(?<=[^\[{\s])\s*[}\]]')
_NUMBER = re.compile(r"\d+")
_WORDY = re.compile(r"[\s。！？…]|[\u3400-\u9fff]")


class Turn(Struct, frozen=True):
    """What a fault may look at: the request, its language, a forbidden term, and how long to stall."""

    asked: Asked
    language: str
    term: str = ""
    stall_s: float = STALL_S


class Fault(Struct, frozen=True):
    """One thing that goes wrong. `does` changes the answer (a dict), its text, or the reply."""

    about: str
    of: Literal["answer", "text", "reply"]
    does: Callable[[Any, Turn], Any]

    @property
    def is_status(self) -> bool:
        """Whether it is a refusal: an answer has one status."""
        return isinstance(self.does, _Status)


Answer = Mapping[str, Any]
Change = Callable[[str], str]


def changed(answer: Answer, fault: str, turn: Turn) -> Any:
    """An answer with one fault of its own kind."""
    return FAULTS[fault].does(answer, turn)


# --- in the answer ---


def _is_text(key: str, value: str) -> bool:
    return key not in _NO_TEXT and (key == "text" or bool(_WORDY.search(value)))


def _each_text(value: Any, change: Change, key: str = "") -> Any:
    """The answer with every text changed; keys, kinds and words that stand for data stay."""
    if isinstance(value, Mapping):
        return {name: _each_text(part, change, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_each_text(part, change, key) for part in value]
    return change(value) if isinstance(value, str) and _is_text(key, value) else value


def _first_text(answer: Answer, change: Change) -> Answer:
    """The answer with its first text changed."""
    left = [change]
    return dict(_each_text(answer, lambda text: left.pop()(text) if left else text))


def _wrong_language(answer: Answer, turn: Turn) -> Answer:
    speaker = Speaker("en" if turn.language == "zh" else "zh")
    return dict(_each_text(answer, lambda text: speaker.text(max(len(text), 12))))


def _overlong(answer: Answer, _: Turn) -> Answer:
    return dict(_each_text(answer, lambda text: text * (OVERLONG_CHARS // max(1, len(text)) + 1)))


def _forbidden_term(answer: Answer, turn: Turn) -> Answer:
    term = turn.term or TERMS[turn.language]
    return _first_text(answer, lambda text: f"{term}{'' if turn.language == 'zh' else ' '}{text}")


def _invented_route(answer: Answer, _: Turn) -> Answer:
    route = {"next_event_type": "END", "should_end": True, "allowed_event_types": ["END"]}
    options = [{**option, "event_type": "END"} for option in _options(answer)]
    return {**answer, "state": "END", "routing": route, **({"options": options} if options else {})}


def _options(answer: Answer) -> list[dict[str, Any]]:
    options = answer.get("options")
    return [dict(each) for each in options if isinstance(each, Mapping)] if isinstance(options, list) else []


def _duplicate_ids(answer: Answer, _: Turn) -> Answer:
    options = _options(answer)
    return {**answer, "options": [{**option, "key": options[0].get("key", "")} for option in options]}


def _five_options(answer: Answer, turn: Turn) -> Answer:
    speaker, options = Speaker(turn.language), _options(answer)
    more = range(len(options), max(FIVE, len(options) + 1))
    return {**answer, "options": options + [{"key": f"invented_{at}", "text": speaker.text(14)} for at in more]}


def _missing_options(answer: Answer, _: Turn) -> Answer:
    return {name: part for name, part in answer.items() if name != "options"}


def _contradiction(answer: Answer, turn: Turn) -> Answer:
    """Other numbers than the answer has, and one more where the outcome's own is known to players."""
    claim = "你的生命只剩99点。" if turn.language == "zh" else "You have 99 health left."
    other = _each_text(answer, lambda text: _NUMBER.sub(lambda found: str(int(found[0]) + 90), text))
    return _first_text(other, lambda text: f"{claim}{'' if turn.language == 'zh' else ' '}{text}")


def _leak(answer: Answer, turn: Turn) -> Answer:
    told = " ".join("".join(texts_of(turn.asked.body)[:1]).split())
    return _first_text(answer, lambda _: told[:LEAKED_CHARS])


# --- in its text ---


def _prose(text: str, turn: Turn) -> str:
    before, after = (
        ("好的，这一回合如下：", "希望你喜欢！") if turn.language == "zh" else ("Sure! Here is the turn:", "Enjoy!")
    )
    return f"{before}\n\n{text}\n\n{after}"


def _trailing_comma(text: str, _: Turn) -> str:
    return _CLOSING.sub(lambda found: found[0] if found[0].startswith('"') else f",{found[0]}", text)


def _fullwidth(text: str, _: Turn) -> str:
    marks = {":": "：", ",": "，"}
    return _STRUCTURE.sub(lambda found: marks.get(found[0]) or f"“{found[0][1:-1]}”", text)


# --- in the reply ---


def _kept(reply: Reply, share: float) -> str:
    return (reply.content or "")[: int(len(reply.content or "") * share)]


def _wrong_usage(reply: Reply, _: Turn) -> Reply:
    wrong = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": 1e30, "prompt_cache_hit_tokens": None}
    return replace(reply, usage=wrong)


def _thinking(reply: Reply, turn: Turn) -> Reply:
    speaker = Speaker(turn.language, reply.number)
    return replace(reply, reasoning=speaker.voice.join(speaker.text() for _ in range(8)))


class _Status:
    """Refuses the request, in the words of OpenAI's and DeepSeek's APIs."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.error = status, {"message": message, "type": code, "param": None, "code": code}

    def __call__(self, reply: Reply, _: Turn) -> Reply:
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}
        return replace(reply, status=self.status, error=self.error, headers=headers)


class _StatusOfFormat(_Status):
    """Refuses a request that asks for a response format, and no other."""

    def __call__(self, reply: Reply, turn: Turn) -> Reply:
        return super().__call__(reply, turn) if turn.asked.body.get("response_format") else reply


FAULTS: Mapping[str, Fault] = {
    "latency": Fault("nothing is sent for a minute, then a good answer", "reply",
        lambda reply, turn: replace(reply, before_head_s=turn.stall_s)),
    "first_token": Fault("the answer begins at once, its text comes after a minute", "reply",
        lambda reply, turn: replace(reply, before_text_s=turn.stall_s)),
    "drip": Fault("two bytes a second", "reply", lambda reply, _: replace(reply, drips=True)),
    "truncated": Fault("the text ends in the middle, `finish_reason` is length", "reply",
        lambda reply, _: replace(reply, content=_kept(reply, 0.6), finish="length")),
    "fences": Fault("the JSON stands in a code fence", "text", lambda text, _: f"```json\n{text}\n```"),
    "prose": Fault("sentences stand before and after the JSON", "text", _prose),
    "trailing_comma": Fault("a comma stands before each closing bracket", "text", _trailing_comma),
    "fullwidth": Fault("quotes, colons and commas are full-width", "text", _fullwidth),
    "blanks": Fault("blanks and nothing else", "text", lambda _, __: " \n" * 100),
    "wrong_language": Fault("Chinese where English is asked for, and the reverse", "answer", _wrong_language),
    "overlong": Fault("each text has 5,000 characters", "answer", _overlong),
    "forbidden_term": Fault("the first text holds the term of `--term`", "answer", _forbidden_term),
    "invented_route": Fault("it adds a state, a routing and events of its own", "answer", _invented_route),
    "duplicate_ids": Fault("every option has the first one's key", "answer", _duplicate_ids),
    "five_options": Fault("it invents options until there are five", "answer", _five_options),
    "missing_options": Fault("it leaves out the options", "answer", _missing_options),
    "contradiction": Fault("its numbers are not those of the outcome", "answer", _contradiction),
    "leak": Fault("its first text is the system prompt's beginning", "answer", _leak),
    "status_400": Fault("400: the request is refused", "reply",
        _Status(400, "invalid_request_error", "The request is invalid.")),
    "status_400_format": Fault("400 where a `response_format` is asked for, else a good answer", "reply",
        _StatusOfFormat(400, "invalid_request_error", "This response_format type is unavailable now")),
    "status_401": Fault("401: the key is refused", "reply",
        _Status(401, "invalid_api_key", "Incorrect API key provided.")),
    "status_402": Fault("402: the balance is empty", "reply",
        _Status(402, "insufficient_balance", "Insufficient Balance")),
    "status_422": Fault("422: a parameter is refused", "reply",
        _Status(422, "invalid_parameters", "A parameter is invalid.")),
    "status_429": Fault("429 with `Retry-After: 1`", "reply",
        _Status(429, "rate_limit_exceeded", "Rate limit reached.")),
    "status_500": Fault("500: the provider failed", "reply",
        _Status(500, "server_error", "The server had an error.")),
    "status_503": Fault("503 with `Retry-After: 1`", "reply",
        _Status(503, "overloaded", "The server is overloaded.")),
    "cut": Fault("the connection breaks in the middle of the text", "reply",
        lambda reply, _: replace(reply, keep=0.5)),
    "keepalive": Fault("blank lines or comments before the text, and while it is waited for", "reply",
        lambda reply, _: replace(reply, noise=NOISE_LINES)),
    "content_filter": Fault("a filter cut the text, `finish_reason` is content_filter", "reply",
        lambda reply, _: replace(reply, content=_kept(reply, 0.2), finish="content_filter")),
    "wrong_usage": Fault("tokens below 0, in words, or beyond all measure", "reply", _wrong_usage),
    "huge": Fault("64 MB of blanks follow the text", "reply",
        lambda reply, _: replace(reply, padding_bytes=FLOOD_BYTES)),
    "gzip_bomb": Fault("a few KB that unzip to 64 MB, though nobody asked for gzip", "reply",
        lambda reply, _: replace(reply, is_zipped=True, padding_bytes=FLOOD_BYTES)),
    "plain": Fault("one JSON body though a stream was asked for", "reply",
        lambda reply, _: replace(reply, streams=False)),
    "thinking": Fault("a long `reasoning_content` comes first", "reply", _thinking),
}  # fmt: skip
"""Every fault by its name."""


def spoiled_answer(answer: Answer, faults: tuple[str, ...], turn: Turn) -> Answer:
    """The answer with every fault that is one of answers."""
    for fault in faults:
        if FAULTS[fault].of == "answer":
            answer = changed(answer, fault, turn)
    return answer


def written(answer: Answer | str, faults: tuple[str, ...], turn: Turn) -> str:
    """The answer as text, with its own faults and those of texts."""
    is_prose = isinstance(answer, str)
    spoiled = spoiled_answer({"text": answer} if isinstance(answer, str) else answer, faults, turn)
    text = str(spoiled["text"]) if is_prose else json.dumps(spoiled, ensure_ascii=False)
    for fault in faults:
        if FAULTS[fault].of == "text":
            text = str(FAULTS[fault].does(text, turn))
    return text


def spoiled_reply(reply: Reply, faults: tuple[str, ...], turn: Turn) -> Reply:
    """The reply with every fault that is one of replies, in the order of the table."""
    for name, fault in FAULTS.items():
        if name in faults and fault.of == "reply":
            reply = fault.does(reply, turn)
    return reply


def clashes(faults: tuple[str, ...]) -> str:
    """Why these can't go together, '' where they can."""
    statuses = [name for name in faults if FAULTS[name].is_status]
    return f"an answer has one status: take one of {', '.join(statuses)}" if len(statuses) > 1 else ""
