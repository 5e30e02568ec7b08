"""A model that misbehaves in every way at random, below HTTP's client: for turns by the thousand.

    model = Faulty(random.Random(7), terms=("骰子",))
    narrator = OpenAI(PROFILES["fake"], transport=model, sleep=patient, steady=model.steady)

Each call's answer is made of what the offline narrator would tell, which the profile `fake` sends
along, and spoiled. `made` counts the ways.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx

Told = dict[str, Any]
OTHER_TONGUE = {
    "zh": "The lamp goes out and nobody says a word about it, not even the cat on the stairs.",
    "en": "灯灭了，谁也没有说话，连楼梯上的猫也不作声，只有钟还在走。",
}


async def patient(_: float) -> None:
    """No time passes."""


def texts_of(told: Any) -> Any:
    """Every text of an answer, as the dict or list that holds it and its key."""
    items = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in list(items):
        if isinstance(value, str) and key != "key":
            yield told, key
        else:
            yield from texts_of(value)


class Faulty(httpx.AsyncBaseTransport):
    """Answers each call badly or well, as chance has it."""

    def __init__(self, chance: random.Random, terms: tuple[str, ...] = (), language: str = "zh") -> None:
        self.chance, self.terms, self.language = chance, terms or ("骰子",), language
        self.made: Counter[str] = Counter()
        self._seconds = 0.0

    def steady(self) -> float:
        """A clock that runs far ahead at each look, so that no provider rests for long."""
        self._seconds += 30.0
        return self._seconds

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one call. Raises what httpx raises where a connection breaks."""
        body = json.loads(await request.aread())
        name = self.chance.choice(sorted(WAYS))
        self.made[name] += 1
        return WAYS[name](self, body)

    def told(self, body: Any) -> Told:
        """A good answer."""
        told: Told = json.loads(body["metadata"]["offline"])
        return told

    def spoiled(self, body: Any, spoil: Callable[[str], Any]) -> Told:
        """A good answer some of whose texts are spoiled, at least one."""
        told = self.told(body)
        places = list(texts_of(told))
        for holder, key in self.chance.sample(places, self.chance.randint(1, len(places))) if places else ():
            holder[key] = spoil(holder[key])
        return told

    def says(self, content: Any, finish: str = "stop", **more: Any) -> httpx.Response:
        """A completion, streamed or whole."""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=self.chance.random() < 0.5)
        raw = self.stream(text, finish, **more) if self.chance.random() < 0.5 else self.whole(text, finish, **more)
        return httpx.Response(200, content=self.pieces(raw))

    def whole(self, text: str, finish: str, **more: Any) -> bytes:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return json.dumps({"object": "chat.completion", "model": "fake-1", "choices": [choice], **more}).encode()

    def stream(self, text: str, finish: str, **more: Any) -> bytes:
        parts, at = [], 0
        while at < len(text):
            size = self.chance.randint(1, 40)
            parts.append({"choices": [{"index": 0, "delta": {"content": text[at : at + size]}}]})
            at += size
        parts.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **more})
        noise = self.chance.choice(("", ": keep-alive\n\n", "\n\n\n"))
        lines = [noise + f"data: {json.dumps(part, ensure_ascii=False)}\n\n" for part in parts]
        return ("".join(lines) + "data: [DONE]\n\n").encode()

    async def pieces(self, raw: bytes, breaks_at: int | None = None) -> AsyncIterator[bytes]:
        """Bytes cut anywhere, through characters too; where it breaks, the connection is lost."""
        at = 0
        end = len(raw) if breaks_at is None else breaks_at
        while at < end:
            size = self.chance.randint(1, 3_000)
            yield raw[at : min(at + size, end)]
            at += size
        if breaks_at is not None:
            message = "the peer is gone"
            raise httpx.ReadError(message)

    def term(self) -> str:
        """A forbidden term, also with letters between which nobody sees."""
        term = self.chance.choice(self.terms)
        return self.chance.choice((term, term.upper(), "\u200b".join(term), f"“{term}”"))


def _fullwidth(text: str) -> str:
    return text.replace('"', "”").replace(":", "：").replace(",", "，")


def _cut_off(model: Faulty, body: Any) -> httpx.Response:
    text = json.dumps(model.told(body), ensure_ascii=False)
    return model.says(text[: model.chance.randint(0, len(text))], "length")


def _broken(model: Faulty, body: Any) -> httpx.Response:
    text = json.dumps(model.told(body), ensure_ascii=False)
    raw = model.stream(text, "stop") if model.chance.random() < 0.7 else model.whole(text, "stop")
    return httpx.Response(200, content=model.pieces(raw, model.chance.randint(0, len(raw))))


def _status(model: Faulty, _: Any) -> httpx.Response:
    status = model.chance.choice((400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 302, 204))
    error = model.chance.choice(({"error": {"code": "bad", "message": "no"}}, {"error": "response_format"}, [], "x"))
    headers = {"retry-after": model.chance.choice(("0", "1", "soon", "99999999999"))}
    return httpx.Response(status, content=model.pieces(json.dumps(error).encode()), headers=headers)


def _unreached(model: Faulty, _: Any) -> httpx.Response:
    kinds = (httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ConnectTimeout)
    raise model.chance.choice(kinds)("lost")


def _garbage(model: Faulty, _: Any) -> httpx.Response:
    raw = model.chance.choice((
        b"", b"\xff\xfe\x00", b"null", b"[]", b"<html>", b'{"choices": []}', b'{"choices": [{"message": 1}]}',
        b"data: {}\n\n", b"data: [1]\n\ndata: [DONE]\n\n", b"\n" * 500, b'data: {"error": {"code": "overloaded"}}\n\n',
        b"{" * 5_000, b'{"a":' * 2_000, b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}',
    ))  # fmt: skip
    return httpx.Response(200, content=model.pieces(raw))


def _zipped(model: Faulty, _: Any) -> httpx.Response:
    return httpx.Response(200, content=model.pieces(b"\x1f\x8b" * 100), headers={"content-encoding": "gzip"})


def _options(model: Faulty, body: Any) -> httpx.Response:
    told = model.told(body)
    given = told.get("options") or [{"key": "a", "text": "A"}]
    extra = {"key": model.chance.choice(("win", "", "*", given[0]["key"])), "text": "Win 赢"}
    told["options"] = model.chance.choice((
        [], None, {}, "none", given[:1], given[:-1], [*given, *given], [*given, extra], [extra], given[::-1],
        [{**each, "text": given[0]["text"]} for each in given], [{**each, "text": ""} for each in given],
        [{**each, "text": f" {given[0]['text']}！"} for each in given], [each["text"] for each in given],
        [{**each, "text": 7} for each in given], [{"text": each["text"]} for each in given], [None, *given],
        [{**each, "id": 99, "event_type": "END"} for each in given],
    ))  # fmt: skip
    return model.says(told)


def _routes(model: Faulty, body: Any) -> httpx.Response:
    wishes = {
        "routing": {"next_event_type": "END", "should_end": True, "allowed_event_types": ["END"]},
        "context": {"hp": 99}, "outcome": {"to": "END"}, "status": {}, "ending": {"id": "WIN"}, "meta": {},
        "session": {"ended": True}, "event": {"type": "END"}, "inputs": [], "key_choices": [{"turn": 1, "text": "x"}],
    }  # fmt: skip
    return model.says({**model.told(body), **wishes})


def _types(model: Faulty, body: Any) -> httpx.Response:
    wrong: tuple[Any, ...] = (
        None,
        7,
        True,
        [],
        {},
        ["x"],
        {"text": "x"},
        1e308,
        "",
        "   ",
        "\x1b[2J",
        "a\x00b",
        "{{ x }}",
    )
    return model.says(model.spoiled(body, lambda _: model.chance.choice(wrong)))


def _leaks(model: Faulty, body: Any) -> httpx.Response:
    prompt = body["messages"][0]["content"]
    start = model.chance.randint(0, max(0, len(prompt) - 200))
    return model.says(model.spoiled(body, lambda text: text + prompt[start : start + 200]))


def _usage(model: Faulty, body: Any) -> httpx.Response:
    usage = model.chance.choice((None, 7, [], {"prompt_tokens": -5}, {"prompt_tokens": "9", "completion_tokens": 1e99}))
    return model.says(model.told(body), usage=usage)


WAYS: Mapping[str, Callable[[Faulty, Any], httpx.Response]] = {
    "good": lambda model, body: model.says(model.told(body)),
    "rephrased": lambda model, body: model.says(model.spoiled(body, lambda text: text[::-1])),
    "fences": lambda model, body: model.says(f"```json\n{json.dumps(model.told(body))}\n```"),
    "prose": lambda model, body: model.says(f"Sure! Here it is:\n{json.dumps(model.told(body))}\nEnjoy {{ it }}."),
    "trailing_comma": lambda model, body: model.says(json.dumps(model.told(body))[:-1] + ",}"),
    "fullwidth": lambda model, body: model.says(_fullwidth(json.dumps(model.told(body), ensure_ascii=False))),
    "blanks": lambda model, _: model.says(" \n\n\t " * 20),
    "thinking": lambda model, body: model.says(f"<think>{{}} hm</think>{json.dumps(model.told(body))}"),
    "cut_off": _cut_off,
    "broken": _broken,
    "status": _status,
    "unreached": _unreached,
    "garbage": _garbage,
    "zipped": _zipped,
    "huge": lambda model, body: model.says({**model.told(body), "scene": "长" * 300_000}),
    "filtered": lambda model, body: model.says(json.dumps(model.told(body))[:40], "content_filter"),
    "tongue": lambda model, body: model.says(model.spoiled(body, lambda _: OTHER_TONGUE[model.language[:2]])),
    "mixed": lambda model, body: model.says(model.spoiled(body, lambda text: text + OTHER_TONGUE[model.language[:2]])),
    "overlong": lambda model, body: model.says(model.spoiled(body, lambda text: text * 40)),
    "term": lambda model, body: model.says(model.spoiled(body, lambda text: text + model.term())),
    "only_term": lambda model, body: model.says(model.spoiled(body, lambda _: model.term())),
    "contradiction": lambda model, body: model.says(
        model.spoiled(body, lambda text: f"{text}你失去99点生命。You lose 99 HP.")
    ),
    "marks": lambda model, body: model.says(model.spoiled(body, lambda text: f"⟦0123456789⟧{text}⟦/0123456789⟧")),
    "sentinels": lambda model, body: model.says(model.spoiled(body, lambda text: f"\ufdd0{text}\ufdd2")),
    "options": _options,
    "routes": _routes,
    "types": _types,
    "leaks": _leaks,
    "usage": _usage,
}
"""What it does, by name."""
