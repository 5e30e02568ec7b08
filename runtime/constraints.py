"""What a text must keep to: lengths, forbidden terms, the language, and the options as offered.

Lengths are in code points throughout. Cutting and covering have modules of their own (`cutting`,
`terms`); this one knows what a session asks for, and judges a model's whole answer by it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import jsonschema_rs
import msgspec
from msgspec import Struct

from runtime.cutting import cut
from runtime.facts import UNKNOWN, Facts, contradictions
from runtime.leaks import leaked
from runtime.outputs import TEXTS
from runtime.quoting import clean
from runtime.rating import united
from runtime.terms import MARKS, find_term, free_mark, mask

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.prompt import Prompt
    from runtime.session import Constraints, Offer

__all__ = [
    "AI_STATE_CHARS",
    "STR_CHARS",
    "Bounds",
    "Breach",
    "answer_schema",
    "bounds_of",
    "breaches",
    "cut",
    "find_term",
    "fit",
    "key_of",
    "mask",
    "max_chars_of",
    "own_names",
    "same_words",
    "satisfiable",
    "schema_at",
    "speaks",
    "terms_of",
    "text_breaches",
    "text_paths",
    "validator_for",
]

AI_STATE_CHARS = 300
"""The longest value of `ai_state`, in code points."""
STR_CHARS = 200
"""The longest `str` of an output, in code points."""
FAR = 4
"""A text so many times as long as it may be is judged by its length alone: what is cut from it is judged again."""
PROSE = frozenset({"scene", "text"})
"""The kinds of outputs that tell what happened: held against the facts."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What the texts of one session must keep to; lengths in code points.

    `forbidden_terms` are the session's own, then those that its rating excludes: `rated_terms`.
    `instructions` are what a model was told and gives none of away, `facts` what prose may not contradict.
    """

    language: str
    max_chars_scene: int
    max_chars_option: int
    forbidden_terms: tuple[str, ...] = ()
    rated_terms: tuple[str, ...] = ()
    content_rating: str | None = None
    max_chars_text: int = 600
    instructions: tuple[str, ...] = ()
    facts: Facts = UNKNOWN

    def max_chars(self, kind: str) -> int:
        """The longest text of a kind of output."""
        by_kind = {"scene": self.max_chars_scene, "option": self.max_chars_option, "str": STR_CHARS}
        return by_kind.get(kind, self.max_chars_text)


Rule = Literal["schema", "length", "term", "rating", "language", "options", "leak", "facts"]


class Breach(Struct, frozen=True):
    """One thing wrong in a narrator's answer; `path` as in `text_paths`, '' for the whole.

    `message` is a sentence that a model can act on; it repeats no text of the answer but a term.
    """

    path: str
    rule: Rule
    message: str


def bounds_of(machine: Machine, constraints: Constraints) -> Bounds:
    """The machine's limits for the session's language, each replaced by the session's own where it has one."""
    language, definition = constraints.language, machine.definition
    terms = terms_of(machine, constraints)
    return Bounds(
        language=language,
        max_chars_scene=constraints.max_chars_scene or definition.max_chars("scene", language),
        max_chars_option=constraints.max_chars_option or definition.max_chars("option", language),
        forbidden_terms=terms,
        rated_terms=terms[len(constraints.forbidden_terms) :],
        content_rating=constraints.content_rating,
    )


def terms_of(machine: Machine, constraints: Constraints) -> tuple[str, ...]:
    """What stands in no text of a session: its own terms, then those that its rating excludes beside them."""
    if constraints.content_rating is None:
        return constraints.forbidden_terms
    rated = machine.pack_for(constraints.language).terms_at(constraints.content_rating)
    return united(constraints.forbidden_terms, rated) if rated else constraints.forbidden_terms


def fit(text: str, max_chars: int, terms: tuple[str, ...]) -> tuple[str, bool]:
    """The text cut to its length and its terms covered, and whether it had to change."""
    fitted = mask(cut(text, max_chars), terms)
    return fitted, fitted != text


def satisfiable(bounds: Bounds) -> str | None:
    """Why no text can be told under these bounds, or None.

    A text can always be told while one of `terms.MARKS` is free to cover what is forbidden.
    """
    if free_mark(bounds.forbidden_terms):
        return None
    return f"the forbidden terms hold every mark that could cover a term ({' '.join(MARKS)}). Leave one out."


# --- the language ---

_HAN = re.compile(r"[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_NEIGHBOURS = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u31f0-\u31ff\uac00-\ud7ff]+")
"""Kana and Hangul: they stand between the Han letters of a language that is not Chinese."""
_LETTERS = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_FOREIGN = re.compile(r"[^\W\d_A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")
"""Letters that no Latin alphabet has: a word with one of them is no Latin word, whatever it looks like."""
_FAR_EAST = "\u2e80"
_COMPATIBLE = re.compile(
    r"[\u00b2\u00b3\u00b9\u2070-\u209c\u2100-\u218b\u2460-\u24ff\u2776-\u2793\u3200-\u33ff\ufb00-\ufb4f"
    r"\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc\U0001d400-\U0001d7ff]"
)
"""Letters and digits in another form: full-width, circled, joined, half-width kana."""

_MIN_HAN_SHARE = 0.5
"""Of Han letters, foreign words and weighed kana together: names in other letters may stand in a Chinese text."""
_NEIGHBOUR_WEIGHT = 2
_FEW_WORDS = 2
"""So few Latin words alone (a name, a cry) are taken for Chinese."""
_STRAY_LETTERS = 1
"""So many foreign letters may stand in a text of a Latin language."""
_MIN_LATIN_SHARE = 0.5


def speaks(text: str, language: str) -> bool:
    """Whether a text is written in the script of `zh…` or `en…`; True for other languages.

    Digits, punctuation and emoji don't count. Chinese is told by its share of Han letters against
    foreign words and kana, English by the absence of Han, kana and Hangul and its share of letters
    in words that are Latin throughout.
    """
    base = language.partition("-")[0].lower()
    if base not in {"zh", "en"}:
        return True
    if text.isascii():
        return base == "en" or _speaks_chinese(text)
    plain = unicodedata.normalize("NFKC", text) if _COMPATIBLE.search(text) else text
    return _speaks_chinese(plain) if base == "zh" else _speaks_english(plain)


def _letters(runs: Iterable[str]) -> int:
    return sum(map(len, runs))


def _speaks_chinese(text: str) -> bool:
    han, neighbours = _letters(_HAN.findall(text)), _letters(_NEIGHBOURS.findall(text))
    words = _LETTERS.findall(_NEIGHBOURS.sub(" ", _HAN.sub(" ", text)))
    if han == 0:
        return neighbours == 0 and len(words) <= _FEW_WORDS and not any(map(_FOREIGN.search, words))
    return han >= _MIN_HAN_SHARE * (han + len(words) + _NEIGHBOUR_WEIGHT * neighbours)


def _speaks_english(text: str) -> bool:
    words = _LETTERS.findall(text)
    letters, foreign = _letters(words), _FOREIGN.findall("".join(words))
    far_east = len([letter for letter in foreign if letter >= _FAR_EAST])
    if letters <= _STRAY_LETTERS:
        return far_east == 0
    latin = _letters(word for word in words if not _FOREIGN.search(word))
    return far_east <= _STRAY_LETTERS and latin >= _MIN_LATIN_SHARE * (letters - far_east)


@lru_cache(maxsize=1024)
def same_words(text: str) -> str:
    """Equal for texts that read alike: case, width, blanks and punctuation make no difference.

    A text of punctuation alone stands for itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(letter for letter in folded if unicodedata.category(letter)[0] not in "PZC")
    return kept or folded.strip()


# --- a model's whole answer ---


def text_paths(answer: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of an answer with its dotted path; items of lists by index from 0 (`options.0.text`).

    The `key` of an option is a name and no text. The answer may have any shape.
    """
    if isinstance(answer, str):
        yield path, answer
    elif isinstance(answer, Mapping):
        for name, value in answer.items():
            if not (name == "key" and _OPTION.fullmatch(path)):
                yield from text_paths(value, f"{path}.{name}" if path else str(name))
    elif isinstance(answer, list | tuple):
        for index, value in enumerate(answer):
            yield from text_paths(value, f"{path}.{index}" if path else str(index))


_OPTION = re.compile(r"options\.\d+")


def names_in(value: Any, declared: frozenset[str], path: str) -> Iterator[tuple[str, str]]:
    """Every name in a value that a model made up, with its path: those of objects, but what is `declared`."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            here = f"{path}.{name}"
            if name not in declared:
                yield here, str(name)
            yield from names_in(member, declared, here)
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            yield from names_in(member, declared, f"{path}.{index}")


def own_names(answer: Any, outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every name that a model made up in the outputs of an answer, with its path."""
    if isinstance(answer, Mapping):
        declared = frozenset(_declared(outputs))
        for name in outputs.get("properties", {}):
            yield from names_in(answer.get(name), declared, name)


def _declared(schema: Any) -> Iterator[str]:
    """The names of properties anywhere in a schema."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, Mapping) else ()
    members = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list | tuple) else ()
    for member in members:
        yield from _declared(member)


def key_of(offer: Offer) -> str:
    """How an answer names an option: an authored one by its key, a free one by its kind."""
    return offer.key or offer.kind


def answer_schema(
    prompt: Prompt, ai_state: tuple[str, ...], offer: tuple[Offer, ...], bounds: Bounds
) -> dict[str, Any]:
    """The JSON Schema of a model's whole answer: {…outputs, ai_state: {name: str}, options: [{key, text}]}.

    `ai_state` are the names that the machine takes from `output.*`, each optional; where there are
    none, or nothing is offered, that part is left out. That each key stands once is for `breaches`.
    """
    outputs = _bounded(prompt.outputs, prompt.fields, bounds, "")
    properties = dict(outputs.get("properties", {}))
    required = list(outputs.get("required", ()))
    if ai_state:
        properties["ai_state"] = _ai_state_schema(ai_state)
    if offer:
        properties["options"] = _options_schema(offer, bounds)
        required.append("options")
    more = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {**outputs, **more}


def _bounded(schema: Mapping[str, Any], fields: Mapping[str, str], bounds: Bounds, path: str) -> dict[str, Any]:
    """A schema with the limits of its kinds written in."""
    properties = {
        name: _bounded_part(part, fields, bounds, f"{path}.{name}" if path else name)
        for name, part in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties}


def _bounded_part(part: Any, fields: Mapping[str, str], bounds: Bounds, path: str) -> Any:
    if path not in fields:
        return _bounded(part, fields, bounds, path)
    if not isinstance(part, Mapping) or part.get("type") != "string" or "enum" in part:
        return part
    return {**part, "maxLength": max_chars_of(part, fields[path], bounds)}


def max_chars_of(schema: Mapping[str, Any], kind: str, bounds: Bounds) -> int:
    """An output's own maxLength, never over a text's; without one its kind's limit."""
    own = schema.get("maxLength")
    return min(own, bounds.max_chars_text) if isinstance(own, int) else bounds.max_chars(kind)


def schema_at(outputs: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The schema of one output by its dotted path; {} where a designer wrote none."""
    schema: Any = outputs
    for name in path.split("."):
        schema = schema.get("properties", {}).get(name, {})
    return schema if isinstance(schema, Mapping) else {}


def _ai_state_schema(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "What the story should remember of itself. Leave out what has not changed.",
        "properties": {name: {"type": "string", "maxLength": AI_STATE_CHARS} for name in names},
        "additionalProperties": False,
    }


def _options_schema(offer: tuple[Offer, ...], bounds: Bounds) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1, "maxLength": bounds.max_chars_option}
    return {
        "type": "array",
        "description": "The choices offered next: each given key once, its text rephrased within its meaning.",
        "minItems": len(offer),
        "maxItems": len(offer),
        "items": {
            "type": "object",
            "properties": {"key": {"type": "string", "enum": [key_of(option) for option in offer]}, "text": text},
            "required": ["key", "text"],
            "additionalProperties": False,
        },
    }


def validator_for(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """The compiled schema, kept for the next caller with an equal one."""
    return _validator(msgspec.json.encode(schema, order="deterministic"))


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(schema.decode(), mask="the value")


def breaches(
    answer: Any, validator: jsonschema_rs.Validator, prompt: Prompt, offer: tuple[Offer, ...], bounds: Bounds
) -> list[Breach]:
    """Everything wrong in a model's answer, all at once, sorted by path; [] where it may be told.

    `validator` is that of `answer_schema`. The answer may have any shape that JSON has.
    """
    found = [
        *_schema_breaches(answer, validator),
        *_option_breaches(answer, offer),
        *(breach for path, text in text_paths(answer) for breach in text_breaches(path, text, prompt, bounds)),
        *(breach for path, name in own_names(answer, prompt.outputs) for breach in _name_breaches(path, name, bounds)),
    ]
    return sorted(dict.fromkeys(found), key=lambda breach: (breach.path, breach.rule))


_SAID_BETTER = frozenset({"enum", "minItems", "maxItems"})


def _schema_breaches(answer: Any, validator: jsonschema_rs.Validator) -> Iterator[Breach]:
    for error in validator.iter_errors(answer):
        path = ".".join(map(str, error.instance_path))
        kind = error.kind.name
        if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.MaxLength):
            yield Breach(path, "length", f"longer than {error.kind.limit} characters. Shorten it.")
        elif not (path.startswith("options") and kind in _SAID_BETTER):
            yield Breach(path, "schema", error.message)


def _option_breaches(answer: Any, offer: tuple[Offer, ...]) -> Iterator[Breach]:
    told = answer.get("options") if isinstance(answer, Mapping) else None
    if not isinstance(told, list):
        return
    told = [option for option in told if isinstance(option, Mapping)]
    offered = sorted(map(key_of, offer))
    if sorted(str(option.get("key")) for option in told) != offered:
        yield Breach("options", "options", f"the keys must be exactly these, each once: {', '.join(offered)}.")
    yield from _twins(told)


def _twins(told: list[Mapping[str, Any]]) -> Iterator[Breach]:
    seen: set[str] = set()
    for index, option in enumerate(told):
        text = same_words(str(option.get("text", "")))
        if text in seen:
            yield Breach(f"options.{index}.text", "options", "the same words as another option. Tell them apart.")
        seen.add(text)


def text_breaches(path: str, text: str, prompt: Prompt, bounds: Bounds) -> Iterator[Breach]:
    """What is wrong in one text of an answer, at its path; the text may be a beginning of the whole."""
    kind = _kind(path, prompt)
    longest = _longest(path, kind, prompt, bounds)
    if longest is not None and len(text) > longest:
        yield Breach(path, "length", f"longer than {longest} characters. Shorten it.")
    if len(text) > FAR * (longest or bounds.max_chars_text):
        return
    yield from _word_breaches(path, text, bounds)
    is_free = kind == "str" and _is_free(path, prompt)
    # The schema says so already of a needed text that is empty.
    is_said = not text and not is_free and path not in prompt.fields.keys() - prompt.required
    if (kind in TEXTS or is_free) and not clean(text).strip() and not is_said:
        yield Breach(path, "schema", "is blank. Write it.")
    if (kind in TEXTS or (is_free and not _is_plain_name(text))) and not speaks(text, bounds.language):
        yield Breach(path, "language", f"must be told in the language '{bounds.language}'.")
    if kind in PROSE:
        yield from (Breach(path, "facts", why) for why in contradictions(text, bounds.facts))


def _is_free(path: str, prompt: Prompt) -> bool:
    """Whether a model words a `str` itself: one of `ai_state`, or an output that no rule of its schema spells."""
    return path.startswith("ai_state.") or _SPELLED.isdisjoint(schema_at(prompt.outputs, path))


_SPELLED = frozenset({"enum", "const", "pattern", "format"})


def _is_plain_name(text: str) -> bool:
    """Whether a text is no words of any language: `north_gate_7`."""
    return text.isascii() and len(text.split()) == 1


def _name_breaches(path: str, name: str, bounds: Bounds) -> Iterator[Breach]:
    """What is wrong in a name that a model made up: a player may read it too."""
    if len(name) > STR_CHARS:
        yield Breach(path, "length", f"a key longer than {STR_CHARS} characters. Shorten it.")
    else:
        yield from _word_breaches(path, name, bounds)


def _word_breaches(path: str, text: str, bounds: Bounds) -> Iterator[Breach]:
    term = find_term(text, bounds.forbidden_terms)
    if term in bounds.rated_terms:
        why = f"holds '{term}', which is not for the rating {bounds.content_rating}. Leave it out."
        yield Breach(path, "rating", why)
    elif term is not None:
        yield Breach(path, "term", f"holds '{term}', which is forbidden. Say it in other words.")
    if given_away := leaked(text, bounds.instructions):
        yield Breach(path, "leak", f"gives away {given_away} of what you were told. Tell the story alone.")


def _longest(path: str, kind: str, prompt: Prompt, bounds: Bounds) -> int | None:
    """The longest text at a path, in code points; None where it is one of a few values."""
    if path.startswith("ai_state."):
        return AI_STATE_CHARS
    if kind in {"option", "json"}:
        return bounds.max_chars_option if path.startswith("options.") else bounds.max_chars_text
    schema = schema_at(prompt.outputs, path)
    return None if "enum" in schema else max_chars_of(schema, kind, bounds)


def _kind(path: str, prompt: Prompt) -> str:
    """The kind of an answer's text: its field's, `option` for options, `json` inside a schema's value."""
    if path.startswith("options."):
        return "option"
    return prompt.fields.get(path, "str" if path.startswith("ai_state.") else "json")
