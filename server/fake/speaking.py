"""An answer where nobody gave one: made to fit the JSON Schema that was asked for, or the shape that the prompt tells.

Its sentences are the offline narrator's, or a project's own; each request begins with another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.narrators.sample import smallest
from runtime.narrators.voices import voice_for

MAX_DEPTH = 16
MAX_VALUES = 500
"""How many values an answer is made of: behind them come the smallest, so that a schema that refers to itself ends."""
SENTENCES = 3
"""How many sentences a long text has."""
SHORT_CHARS = 48
"""A text of at most so many code points is one sentence without its stop: an option, a title."""
LONG_CHARS = 600
"""The longest text where nothing bounds it."""
_POOLS = ("onward", "quiet", "went_on", "chance")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_HAN_SHARE = 0.2
_BARE = re.compile(r'(?<!")<([^<>"]*)>(?!")')
_MORE = re.compile(r",\s*…")
_LIMIT = re.compile(r"(?:at most|至多)\s*(\d+)")
_ONE_OF = re.compile(r"(?:one of|其一：)\s*([^,>]+)")
_DATA: tuple[tuple[str, Any], ...] = (
    ("whole number", 1), ("整数", 1), ("true or false", False), ("true 或 false", False),
    ("any JSON value", "…"), ("任意 JSON 值", "…"), ("number", 1.0), ("数>", 1.0),
)  # fmt: skip


def language_of(text: str) -> str:
    """`zh` where a fair share of a text is Chinese, else `en`."""
    return "zh" if len(_HAN.findall(text)) > _HAN_SHARE * len(text) else "en"


class Speaker:
    """Speaks one language, a sentence after another; two texts of one answer are never alike while there are enough."""

    def __init__(self, language: str, number: int = 0, sentences: Sequence[str] = ()) -> None:
        """Begin at sentence `number`; `sentences` stand in for the offline narrator's own."""
        self.voice = voice_for(language)
        own = [sentence for pool in _POOLS for sentence in self.voice.pools[pool]]
        self._sentences = list(sentences) or own
        self._at = number

    def text(self, max_chars: int = LONG_CHARS, min_chars: int = 0) -> str:
        """A text of at most `max_chars` and, where that can be, at least `min_chars` code points."""
        if max_chars <= SHORT_CHARS:
            return self._short(max_chars)
        text = ""
        for count in range(max_chars):
            longer = self.voice.join((text, self._next()))
            if len(longer) > max_chars or (count >= SENTENCES and len(text) >= min_chars):
                break
            text = longer
        return text or self._short(max_chars)

    def _short(self, max_chars: int) -> str:
        for _ in self._sentences:
            sentence = self._next().rstrip(self.voice.ends)
            if len(sentence) <= max_chars:
                return sentence
        return self._next()[:max_chars]

    def _next(self) -> str:
        self._at += 1
        return self._sentences[(self._at - 1) % len(self._sentences)]


def answer_to(body: Mapping[str, Any], speaker: Speaker) -> Mapping[str, Any] | str:
    """What to answer a request for a chat completion: an object where JSON is asked for, else prose."""
    asked = body.get("response_format")
    wanted = asked if isinstance(asked, Mapping) else {}
    if schema := _schema_in(wanted):
        made = Filler(schema, speaker).made()
        return made if isinstance(made, Mapping) else {"text": speaker.text()}
    for text in reversed(texts_of(body)):
        if (shape := shape_in(text)) is not None:
            return {name: _told(part, speaker) for name, part in shape.items()}
    return {"text": speaker.text()} if wanted.get("type") == "json_object" else speaker.text()


def unfit(body: Mapping[str, Any]) -> str:
    """Why no answer can be made for the schema that a request asks for; '' where one can, or where it has none."""
    asked = body.get("response_format")
    try:
        Filler(_schema_in(asked if isinstance(asked, Mapping) else {}), Speaker("en")).made()
    except UnfitSchema as error:
        return str(error)
    return ""


def _schema_in(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a response format; an empty one without."""
    asked = wanted.get("json_schema")
    schema = asked.get("schema") if isinstance(asked, Mapping) else None
    return schema if isinstance(schema, Mapping) else {}


def texts_of(body: Mapping[str, Any]) -> list[str]:
    """The text of each message, in order; parts that are no text are left out."""
    messages = body.get("messages")
    found = messages if isinstance(messages, list) else []
    return ["".join(_parts(each.get("content"))) for each in found if isinstance(each, Mapping)]


def _parts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def shape_in(text: str) -> dict[str, Any] | None:
    """The JSON object that a text shows with angle brackets for what to write: `{"scene": "<text>"}`; None without."""
    start = text.find('{"')
    if start < 0 or "<" not in text[start:]:
        return None
    shown = _MORE.sub("", _BARE.sub(r'"<\1>"', text[start:]))
    try:
        found, _ = json.JSONDecoder().raw_decode(shown)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _told(shape: Any, speaker: Speaker) -> Any:
    if isinstance(shape, dict):
        return {name: _told(part, speaker) for name, part in shape.items()}
    if isinstance(shape, list):
        return [_told(part, speaker) for part in shape]
    if not isinstance(shape, str) or not shape.startswith("<"):
        return shape
    if found := _ONE_OF.search(shape):
        return found[1].strip()
    limit = _LIMIT.search(shape)
    if limit is None:
        for words, value in _DATA:
            if words in shape:
                return value
    return speaker.text(int(limit[1]) if limit else LONG_CHARS)


class UnfitSchema(ValueError):
    """A schema that no answer can be made for, with the reason."""


_FORMS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required"), (list,)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (int, float)),
    "properties": (dict,),
    "type": (str, list),
}
"""What must stand at a word of a schema that is read."""
_SIZES = ("maxLength", "minLength", "maxItems", "minItems")
MAX_SIZE = 10_000
"""The most items or code points that a schema may want at least."""


def _check(root: Mapping[str, Any]) -> None:
    """See that a schema can be read, every part of it. Raises UnfitSchema."""
    parts: list[Any] = [root]
    while parts:
        part = parts.pop()
        if not isinstance(part, Mapping):
            continue
        for word in part.keys() & {*_FORMS, *_SIZES}:
            if not _is_fit(word, part[word]):
                raise UnfitSchema(f"'{word}' of the schema can't be {json.dumps(part[word])[:40]}")
        for word in ("properties", "$defs", "definitions"):
            parts += part[word].values() if isinstance(part.get(word), Mapping) else ()
        for word in ("anyOf", "oneOf", "allOf", "prefixItems"):
            parts += part.get(word, ())
        parts.append(part.get("items"))


def _is_fit(word: str, value: Any) -> bool:
    if word in _FORMS:
        return isinstance(value, _FORMS[word])
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and (0 <= value <= MAX_SIZE or (word.startswith("max") and value > 0))


class Filler:
    """Fills a JSON Schema: every property, texts with sentences, all else with the smallest value."""

    def __init__(self, schema: Mapping[str, Any], speaker: Speaker) -> None:
        self._root, self._speaker = schema, speaker
        self._left = MAX_VALUES

    def made(self) -> Any:
        """A value for the whole schema. Raises UnfitSchema."""
        try:
            _check(self._root)
            return self._value(self._root, MAX_DEPTH)
        except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UnfitSchema("the schema can't be read") from error

    def _value(self, schema: Any, depth: int, nth: int = 0) -> Any:
        """A value; the `nth` item of a list takes the `nth` member of an enum, so that keys are not repeated."""
        schema = self._resolved(schema)
        self._left -= 1
        if schema.get("enum"):
            return schema["enum"][nth % len(schema["enum"])]
        if not depth or self._left < 0 or any(word in schema for word in ("const", "default", "pattern", "format")):
            return smallest(schema)
        for word in ("anyOf", "oneOf"):
            schema = self._resolved(schema[word][0]) if schema.get(word) else schema
        if schema.get("properties"):
            return {name: self._value(part, depth - 1, nth) for name, part in schema["properties"].items()}
        if schema.get("type") == "array":
            return self._array(schema, depth)
        if schema.get("type") == "string":
            return self._speaker.text(schema.get("maxLength", LONG_CHARS), schema.get("minLength", 0))
        return smallest(schema)

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        fixed = schema.get("prefixItems", [])
        count = max(len(fixed), min(schema.get("minItems", 1), schema.get("maxItems", MAX_SIZE)))
        parts = [fixed[index] if index < len(fixed) else schema.get("items", {}) for index in range(count)]
        return [self._value(part, depth - 1, nth) for nth, part in enumerate(parts)]

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        if not isinstance(schema, Mapping):
            return {}
        path = schema.get("$ref")
        if isinstance(path, str) and path.startswith("#"):
            found: Any = self._root
            for name in path[1:].split("/")[1:]:
                found = found.get(name) if isinstance(found, Mapping) else None
            return found if isinstance(found, Mapping) else {}
        return schema
