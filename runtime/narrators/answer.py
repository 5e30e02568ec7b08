"""A model's JSON answer: described to the model, read from its text, and held against the rules.

Whatever speaks for a model (openai, scripted) goes through here, so that all are judged alike.
Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from runtime import constraints
from runtime.constraints import Breach
from runtime.narrators import Narration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runtime.narrators import Task

NAMED_BREACHES = 8
"""How many breaches a model is told of when it is asked again."""
NAMED_CHARS = 200
"""How much of each, in code points."""
MAX_DEPTH = 16
"""How deeply an answer may nest."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Words(Struct, frozen=True):
    """How the shape of an answer is told in one language."""

    closing: str
    again: str
    text: str
    at_most: str
    optional: str
    one_of: str
    numbers: Mapping[str, str]
    anything: str


_ENGLISH = Words(
    closing=(
        "Answer with one JSON object (json) and nothing else, its texts in {language}. Use exactly these keys, add "
        "none; angle brackets say what to write in their place, and what is optional is left out rather than null:"
    ),
    again="Your last answer could not be used. Answer again in full, and mend this:",
    text="text",
    at_most="{} of at most {} characters",
    optional="optional {}",
    one_of="one of {}",
    numbers={"integer": "whole number", "number": "number", "boolean": "true or false"},
    anything="any JSON value",
)
_CHINESE = Words(
    closing=(
        "只回答一个 JSON 对象（json），前后不写别的，其中文字一律用{language}。"
        "键与下面完全一致，不要增加；尖括号说明该处写什么，可省略的若不用就不写，不要写 null："
    ),
    again="上一次的回答不能用。请完整地重新回答，并改正：",
    text="文字",
    at_most="{}，至多 {} 字",
    optional="可省略：{}",
    one_of="其一：{}",
    numbers={"integer": "整数", "number": "数", "boolean": "true 或 false"},
    anything="任意 JSON 值",
)
_WORDS = {"zh": _CHINESE, "en": _ENGLISH}
_LANGUAGES = {"zh": "中文", "en": "English"}


class AnswerError(ValueError):
    """The text holds no JSON object; the message says why, and quotes nothing of it."""


class Judged(Struct, frozen=True):
    """An answer held against the rules.

    `answer` is without the keys that nobody asked for: a model's wish (`routing`, …) moves
    nothing. `ignored` names those keys. It may be told where `breaches` is empty.
    """

    answer: Mapping[str, Any]
    breaches: tuple[Breach, ...]
    ignored: tuple[str, ...]


def closing(task: Task, refused: Sequence[str] = ()) -> str:
    """The instruction that ends a prompt: the JSON shape of the answer, key by key, with its limits.

    `refused` says what was wrong with the answer before. It comes last, and what stands before it
    is the same for every attempt, so that a provider's prefix cache serves the next one.
    """
    base = task.bounds.language.partition("-")[0]
    words = _WORDS.get(base, _ENGLISH)
    told = words.closing.format(language=_LANGUAGES.get(base, f"the language '{task.bounds.language}'"))
    lines = [told, _shape_of_answer(task, words)]
    if refused:
        lines += [words.again, *(f"- {why[:NAMED_CHARS]}" for why in refused[:NAMED_BREACHES])]
    return "\n".join(lines)


def _shape_of_answer(task: Task, words: Words) -> str:
    properties = task.schema.get("properties", {})
    shapes = {name: _member(name, task.schema, words) for name in properties if name != "options"}
    if "options" in properties:
        shapes["options"] = _shape_of_options(task, words)
    return "{" + ",\n ".join(f'"{name}": {shape}' for name, shape in shapes.items()) + "}"


def _shape_of_options(task: Task, words: Words) -> str:
    text = f'"<{words.at_most.format(words.text, task.bounds.max_chars_option)}>"'
    items = (f'{{"key": "{constraints.key_of(offer)}", "text": {text}}}' for offer in task.offer)
    return "[" + ", ".join(items) + "]"


def _member(name: str, schema: Mapping[str, Any], words: Words) -> str:
    return _shape(schema["properties"][name], words, optional=name not in schema.get("required", ()))


def _shape(schema: Any, words: Words, *, optional: bool) -> str:
    # A designer's own JSON Schema may say `true` for any value.
    if not isinstance(schema, dict):
        schema = {}
    if "properties" in schema:
        return "{" + ", ".join(f'"{name}": {_member(name, schema, words)}' for name in schema["properties"]) + "}"
    if schema.get("type") == "array":
        return f"[{_shape(schema.get('items', {}), words, optional=optional)}, …]"
    said = _leaf(schema, words)
    said = f"<{words.optional.format(said) if optional else said}>"
    return f'"{said}"' if schema.get("type") == "string" else said


def _leaf(schema: Mapping[str, Any], words: Words) -> str:
    if "enum" in schema:
        return words.one_of.format(", ".join(map(str, schema["enum"])))
    if schema.get("type") == "string":
        return words.at_most.format(words.text, schema["maxLength"]) if "maxLength" in schema else words.text
    return words.numbers.get(str(schema.get("type")), words.anything)


def read(text: str) -> dict[str, Any]:
    """The JSON object in a model's text; fences and prose around it are passed over.

    Raises AnswerError where there is none, where it is cut off or nested too deeply.
    """
    first, last = text.find("{"), text.rfind("}")
    why = "it holds no JSON object" if text.strip() else "it is blank"
    if last < first or first < 0:
        raise AnswerError(why)
    try:
        found = msgspec.json.decode(text[first : last + 1], type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError):
        why = "it is not one valid JSON object"
    except RecursionError:
        why = "its JSON is nested too deeply"
    else:
        if _depth_within(found, MAX_DEPTH):
            return found
        why = "its JSON is nested too deeply"
    raise AnswerError(why)


def _depth_within(value: object, max_depth: int) -> bool:
    layer = [value]
    for _ in range(max_depth):
        layer = [child for parent in layer for child in _children(parent)]
    return not layer


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def judge(task: Task, answer: Mapping[str, Any]) -> Judged:
    """Hold an answer against the task's schema and constraints.

    Keys that the schema doesn't know are dropped, and so are nulls where only their absence fits.
    """
    validator = constraints.validator_for(task.schema)
    ignored: list[str] = []
    known = _known(answer, {**task.schema, "additionalProperties": False}, ignored)
    kept = known if validator.is_valid(known) else _without_nulls(known)
    found = constraints.breaches(kept, validator, task.prompt, task.offer, task.bounds)
    return Judged(kept, (*found, *_controls(kept)), tuple(ignored))


def _known(value: Any, schema: Any, ignored: list[str]) -> Any:
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_known(item, schema.get("items"), ignored) for item in value]
    if not isinstance(value, dict) or "properties" not in schema or schema.get("additionalProperties") is not False:
        return value
    properties = schema["properties"]
    ignored += [key for key in value if key not in properties and key not in ignored]
    return {key: _known(item, properties[key], ignored) for key, item in value.items() if key in properties}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _controls(answer: Mapping[str, Any]) -> Iterator[Breach]:
    # A NUL breaks stores, an escape sequence takes over a player's terminal.
    for path, text in constraints.text_paths(answer):
        if _CONTROLS.search(text):
            yield Breach(path, "schema", "holds a control character.")


def parts(judged: Judged) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """A valid answer's outputs, its `ai_state`, and its options as {key or kind: text}."""
    output = {key: value for key, value in judged.answer.items() if key not in ("ai_state", "options")}
    options = {item["key"]: item["text"] for item in judged.answer.get("options", ())}
    return output, dict(judged.answer.get("ai_state", {})), options


def narration_of(task: Task, judged: Judged, **more: Any) -> Narration:
    """The narration of a valid answer, all of it written by a model and unmended.

    In `learned` an output goes before an `ai_state` of the same name: it has the declared type.
    """
    output, ai_state, options = parts(judged)
    return Narration(
        output=output,
        ai_state=ai_state,
        options=options,
        learned={**ai_state, **output},
        ai_generated=True,
        warnings=warnings_of(task, judged),
        **more,
    )


def warnings_of(task: Task, judged: Judged) -> tuple[str, ...]:
    """One line that names the keys which were dropped, as far as they are names and hold no forbidden term."""
    # Prompts may speak of these two on every turn, also where this turn has no place for them.
    ignored = [key for key in judged.ignored if key not in ("ai_state", "options")]
    if not ignored:
        return ()
    terms = task.bounds.forbidden_terms
    named = [key for key in ignored if _PLAIN_NAME.fullmatch(key) and not constraints.find_term(key, terms)]
    unnamed = len(ignored) - len(named[:NAMED_BREACHES])
    return ("ignored: " + ", ".join(named[:NAMED_BREACHES] + ([f"{unnamed} more"] if unnamed else [])),)


def told_of(breaches: Sequence[Breach]) -> tuple[str, ...]:
    """The breaches as the model is told of them."""
    return tuple(f"{breach.path}: {breach.message}" if breach.path else breach.message for breach in breaches)


def rules_of(breaches: Sequence[Breach]) -> str:
    """Which rules were breached and where, for an operator: no word of the text itself."""
    said = (f"{breach.path} ({breach.rule})" if _is_path(breach.path) else breach.rule for breach in breaches)
    return ", ".join(list(dict.fromkeys(said))[:NAMED_BREACHES])


def _is_path(path: str) -> bool:
    return bool(path) and all(part.isdigit() or _PLAIN_NAME.fullmatch(part) for part in path.split("."))
