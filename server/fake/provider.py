"""What the provider answers to each request: who may ask, which step of the script it is, and which faults it has.

No clock and no chance but the seed's: the same requests in the same order get the same answers.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.tokens import roughly, shared_chars
from server.fake.faults import FAULTS, STALL_S, Turn, spoiled_reply, written
from server.fake.http import Asked
from server.fake.reply import MODEL, Reply, pieces
from server.fake.script import Script, Step
from server.fake.speaking import Speaker, answer_to, language_of, texts_of, unfit

BLOCK_TOKENS = 64
"""Source: api-docs.deepseek.com/guides/kv_cache: prefixes are kept in units of 64 tokens."""
REMEMBERED, REMEMBERED_CHARS = 64, 64 * 1024
"""How many earlier prompts count for the prefix cache, and how much of each, in code points."""
CHAT = ("/v1/chat/completions", "/chat/completions")
MODELS = ("/v1/models", "/models")


class Manner(Struct, frozen=True, kw_only=True):
    """How the provider behaves: waits in seconds, `chaos` from 0 to 1.

    With chaos, each request has with that chance one of `faults` (of all, where there are none);
    without it, each request has all of `faults`. `model`: the only one that it has, '' for any.
    """

    faults: tuple[str, ...] = ()
    script: Script = Script()
    chaos: float = 0.0
    seed: str = ""
    tokens_per_second: float = 0.0
    latency_s: float = 0.0
    stall_s: float = STALL_S
    model: str = ""
    key: str = ""
    term: str = ""


class Answered(Struct, frozen=True):
    """A reply, and the faults that it has."""

    reply: Reply
    faults: tuple[str, ...] = ()


class Provider:
    """Answers one request after another; remembers their number and their prompts."""

    def __init__(self, manner: Manner, sentences: Mapping[str, Sequence[str]] | None = None) -> None:
        """Behave in this manner; `sentences` by language stand in for the offline narrator's own."""
        self.manner = manner
        self._sentences = sentences or {}
        self._prompts: deque[str] = deque(maxlen=REMEMBERED)
        self._completions = 0
        self._refusals = 0

    def answer(self, asked: Asked) -> Answered:
        """What to answer; a request that no provider would take counts as no step of the script."""
        refused = self._refused(asked)
        if refused is not None:
            return Answered(refused)
        if asked.path in MODELS:
            return Answered(Reply(status=200, content=None, listing=(self.manner.model or MODEL,)))
        self._completions += 1
        step = self.manner.script.step(self._completions)
        faults = step.fault or self._faults()
        turn = Turn(asked, _language(asked), self.manner.term, self.manner.stall_s)
        return Answered(self._reply(asked, step, faults, turn), faults)

    def _refused(self, asked: Asked) -> Reply | None:
        if asked.path not in CHAT + MODELS:
            return _error(404, "not_found", f"There is no {asked.path[:200]} here: POST {CHAT[0]} or GET {MODELS[0]}.")
        method = "GET" if asked.path in MODELS else "POST"
        if asked.method != method:
            return _error(405, "method_not_allowed", f"{asked.path} takes {method}.")
        if self.manner.key and asked.headers.get("authorization") != f"Bearer {self.manner.key}":
            return _error(401, "invalid_api_key", "Incorrect API key provided.")
        return None if method == "GET" else self._unfit(asked)

    def _unfit(self, asked: Asked) -> Reply | None:
        """Why a body asks for no completion, as the real ones say it."""
        body, model = asked.body, asked.body.get("model")
        if asked.fault:
            return _error(400, "invalid_request_error", f"{asked.fault[0].upper()}{asked.fault[1:]}.")
        if not isinstance(model, str) or not isinstance(body.get("messages"), list) or not body["messages"]:
            return _error(400, "invalid_request_error", "A request has a `model` and `messages`.")
        if self.manner.model not in ("", model):
            return _error(404, "model_not_found", "The model does not exist.")
        if fault := unfit(body):
            return _error(400, "invalid_request_error", f"Invalid schema for response_format: {fault}.")
        if _format(body) == "json_object" and "json" not in "".join(texts_of(body)).casefold():
            return _error(400, "invalid_request_error", "The prompt must contain the word 'json' to use json_object.")
        return None

    def _faults(self) -> tuple[str, ...]:
        if not self.manner.chaos:
            return self.manner.faults
        drawn = hashlib.sha256(f"{self.manner.seed}:{self._completions}".encode()).digest()
        if int.from_bytes(drawn[:8]) >= self.manner.chaos * 2**64:
            return ()
        among = self.manner.faults or tuple(FAULTS)
        return (among[int.from_bytes(drawn[8:16]) % len(among)],)

    def _reply(self, asked: Asked, step: Step, faults: tuple[str, ...], turn: Turn) -> Reply:
        content = written(self._content(asked, step, turn), faults, turn)
        content, is_whole = _within(content, asked.body)
        reply = Reply(
            content=content,
            finish=step.finish or ("stop" if is_whole else "length"),
            model=str(asked.body["model"]),
            streams=asked.streams,
            with_usage=asked.wants_usage,
            number=self._completions,
            before_text_s=step.delay or self.manner.latency_s,
            tokens_per_second=step.tokens_per_second or self.manner.tokens_per_second,
        )
        if step.status:
            headers = {"Retry-After": str(step.retry_after)} if step.retry_after is not None else {}
            return replace(reply, status=step.status, error=step.told_error, headers=headers)
        reply = replace(reply, usage=self._usage(asked, content))
        reply = spoiled_reply(reply, faults, turn)
        if step.retry_after is not None and reply.status != 200:  # noqa: PLR2004 - the one status of an answer
            return replace(reply, headers={"Retry-After": str(step.retry_after)})
        return reply

    def _content(self, asked: Asked, step: Step, turn: Turn) -> Mapping[str, Any] | str:
        if step.content is not None:
            return step.content
        hint = _object(asked.body.get("metadata")).get("offline")
        if isinstance(hint, str):
            try:
                hint = json.loads(hint)
            except ValueError:
                return str(hint)
        if isinstance(hint, Mapping):
            return hint
        speaker = Speaker(turn.language, self._completions - 1, self._sentences.get(turn.language, ()))
        return answer_to(asked.body, speaker)

    def _usage(self, asked: Asked, content: str) -> dict[str, int]:
        """The tokens in DeepSeek's words; hits are the longest prefix shared with an earlier prompt, in blocks."""
        prompt = "\n".join(texts_of(asked.body))
        shared = max((shared_chars(prompt, earlier) for earlier in self._prompts), default=0)
        self._prompts.append(prompt[:REMEMBERED_CHARS])
        tokens, written_tokens = roughly(prompt), roughly(content)
        hits = min(tokens, roughly(prompt[:shared]) // BLOCK_TOKENS * BLOCK_TOKENS)
        return {
            "prompt_tokens": tokens,
            "completion_tokens": written_tokens,
            "total_tokens": tokens + written_tokens,
            "prompt_cache_hit_tokens": hits,
            "prompt_cache_miss_tokens": tokens - hits,
        }


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status=status, error={"message": message, "type": code, "param": None, "code": code})


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _format(body: Mapping[str, Any]) -> Any:
    return _object(body.get("response_format")).get("type")


def _language(asked: Asked) -> str:
    return language_of("".join(texts_of(asked.body)[-1:]))


def _within(content: str, body: Mapping[str, Any]) -> tuple[str, bool]:
    """The content within the tokens that the request allows, and whether it is whole."""
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if not isinstance(limit, int) or roughly(content) <= limit:
        return content, True
    kept, tokens = [], 0
    for piece in pieces(content):
        tokens += roughly(piece)
        if tokens > limit:
            break
        kept.append(piece)
    return "".join(kept), False
