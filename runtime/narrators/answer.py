"""A model's JSON answer: described to the model, taken apart, and each part held against the rules.

Whatever speaks for a model (openai, scripted) goes through here, so that all are judged alike.
Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from runtime import constraints
from runtime.constraints import Breach
from runtime.leaks import leaked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runtime.narrators import Task
    from runtime.narrators.reading import Path

NAMED_BREACHES = 8
"""How many breaches a model is told of when it is asked again."""
NAMED_CHARS = 200
"""How much of each, in code points."""
CUT_OFF = "is cut off. Write less."
AI_STATE, OPTIONS = "ai_state", "options"
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef]")
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Words(Struct, frozen=True):
    """How the shape of an answer is told in one language."""

    closing: str
    again: str
    rest: str
    mend: str
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
    rest="Part of your last answer could not be used; the rest of it stands. Answer again with these keys alone:",
    mend="Mend this:",
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
    rest="上一次的回答有一部分不能用，其余的保留不变。这次只回答下面这些键：",
    mend="请改正：",
    text="文字",
    at_most="{}，至多 {} 字",
    optional="可省略：{}",
    one_of="其一：{}",
    numbers={"integer": "整数", "number": "数", "boolean": "true 或 false"},
    anything="任意 JSON 值",
)
_WORDS = {"zh": _CHINESE, "en": _ENGLISH}
_LANGUAGES = {"zh": "中文", "en": "English"}


class Judged(Struct, frozen=True):
    """An answer held against the rules, part by part.

    A part is an output (`opening.scene`), a name of `ai_state` (`ai_state.tone`) or an option
    (`options.flee`). `parts` are those that passed, `wrong` those that did not, each by its path;
    `missing` are those that are needed and did not pass. Keys that nobody asked for are in neither:
    a model's wish (`routing`, …) moves nothing. `ignored` names them.
    """

    parts: Mapping[str, Any]
    wrong: Mapping[str, Any] = {}
    breaches: tuple[Breach, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def closing(task: Task, refused: Sequence[str] = (), schema: Mapping[str, Any] | None = None) -> str:
    """The instruction that ends a prompt: the JSON shape of the answer, key by key, with its limits.

    `refused` says what was wrong with the answer before, and `schema` what is asked for again where
    the rest of it stands. Both come last, and what stands before them is the same for every attempt,
    so that a provider's prefix cache serves the next one.
    """
    base = task.bounds.language.partition("-")[0]
    words = _WORDS.get(base, _ENGLISH)
    told = words.closing.format(language=_LANGUAGES.get(base, f"the language '{task.bounds.language}'"))
    lines = [told, _shape_of_answer(task, task.schema, words)]
    is_rest = schema is not None and schema != task.schema
    if schema is not None and is_rest:
        lines += [words.rest, _shape_of_answer(task, schema, words)]
    if refused:
        again = words.mend if is_rest else words.again
        lines += [again, *(f"- {why[:NAMED_CHARS]}" for why in refused[:NAMED_BREACHES])]
    return "\n".join(lines)


def _shape_of_answer(task: Task, schema: Mapping[str, Any], words: Words) -> str:
    properties = schema.get("properties", {})
    shapes = {name: _member(name, schema, words) for name in properties if name != OPTIONS}
    if OPTIONS in properties:
        shapes[OPTIONS] = _shape_of_options(task, properties[OPTIONS], words)
    return "{" + ",\n ".join(f'"{name}": {shape}' for name, shape in shapes.items()) + "}"


def _shape_of_options(task: Task, schema: Mapping[str, Any], words: Words) -> str:
    text = f'"<{words.at_most.format(words.text, task.bounds.max_chars_option)}>"'
    items = (f'{{"key": "{key}", "text": {text}}}' for key in schema["items"]["properties"]["key"]["enum"])
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


def judge(task: Task, answer: Mapping[str, Any], cut_off: Sequence[Path] = ()) -> Judged:
    """Hold an answer against the task's schema and constraints; at the paths in `cut_off` it broke off.

    Nulls are dropped where only their absence fits.
    """
    return joined(task, {}, answer, cut_off)


def joined(task: Task, kept: Mapping[str, Any], answer: Mapping[str, Any], cut_off: Sequence[Path] = ()) -> Judged:
    """As `judge`, for an answer beside the parts that stand already: it moves none of them."""
    ignored: list[str] = []
    known = dict(_known_parts("", answer, task.schema, ignored))
    known |= _option_parts(task, answer, ignored)
    fresh = {path: value for path, value in known.items() if not any(_hits(each, path) for each in kept)}
    faults = [*_misshapen(task, answer), *_cut_off(answer, fresh, cut_off)]
    return held(task, {**kept, **fresh}, faults, tuple(ignored))


def held(task: Task, parts: Mapping[str, Any], faults: Sequence[Breach] = (), ignored: tuple[str, ...] = ()) -> Judged:
    """Parts held against the task's schema and constraints; `faults` were found before."""
    found = [*faults, *_breaches(task, parts)]
    passed = {path: value for path, value in parts.items() if not any(_hits(each.path, path) for each in found)}
    while half := next(_halves(task, task.schema, passed), None):
        found.append(half)
        passed = {path: value for path, value in passed.items() if not _hits(half.path, path)}
    missing = tuple(path for path in required(task) if path not in passed)
    found += [_missing(path) for path in missing if not any(_hits(each.path, path) for each in found)]
    wrong = {path: value for path, value in parts.items() if path not in passed}
    return Judged(passed, wrong, tuple(dict.fromkeys(found)), ignored, missing)


def required(task: Task) -> Iterator[str]:
    """The paths of the parts that a telling needs: what its prompt requires, and every option."""
    yield from (path for path in task.prompt.fields if path in task.prompt.required)
    yield from (f"{OPTIONS}.{constraints.key_of(offer)}" for offer in task.offer)


def _missing(path: str) -> Breach:
    return Breach(path, "options" if path.startswith(f"{OPTIONS}.") else "schema", "is missing.")


def _hits(breach: str, part: str) -> bool:
    """Whether what is wrong at a path is wrong with a part: it is the part, within it, or the part is within it."""
    if breach in {"", OPTIONS}:
        return not breach and part.partition(".")[0] not in {AI_STATE, OPTIONS}
    return breach == part or breach.startswith(f"{part}.") or part.startswith(f"{breach}.")


# From an answer to its parts, and back.


def _is_branch(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "object" and bool(schema.get("properties"))


def _known_parts(path: str, value: Any, schema: Mapping[str, Any], ignored: list[str]) -> Iterator[tuple[str, Any]]:
    """Each part of an answer's outputs and `ai_state` by its path."""
    properties = schema.get("properties", {})
    for name, member in value.items():
        here = f"{path}.{name}" if path else str(name)
        if name not in properties and (not path or schema.get("additionalProperties") is False):
            ignored += [name] if name not in ignored else []
        elif name in properties and _is_branch(properties[name]) and isinstance(member, Mapping):
            yield from _known_parts(here, member, properties[name], ignored)
        elif here != OPTIONS:
            kept = _fitted(member, properties.get(name), ignored)
            if kept is not None or (member is None and _takes(properties.get(name), None)):
                yield here, kept


def _fitted(value: Any, schema: Any, ignored: list[str]) -> Any:
    """A leaf's value without the keys and nulls that its schema has no place for."""
    if value is None or not isinstance(value, dict | list):
        return value
    known = _known(value, schema, ignored)
    return known if _takes(schema, known) else _without_nulls(known)


def _takes(schema: Any, value: Any) -> bool:
    return not isinstance(schema, Mapping) or constraints.validator_for(schema).is_valid(value)


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


def _option_parts(task: Task, answer: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    """The texts of the options offered; another one, and a second of the same key, is passed over."""
    told = answer.get(OPTIONS) if task.offer else None
    keys = {constraints.key_of(offer) for offer in task.offer}
    parts: dict[str, Any] = {}
    for item in told if isinstance(told, list) else ():
        key = item.get("key") if isinstance(item, Mapping) else None
        path = f"{OPTIONS}.{key}"
        if not isinstance(key, str) or key not in keys or path in parts:
            ignored += [path] if isinstance(key, str) and path not in ignored else []
        elif item.get("text") is not None:
            parts[path] = item["text"]
        ignored += [name for name in (item if parts.get(path) else ()) if name not in {"key", "text", *ignored}]
    return parts


def _misshapen(task: Task, answer: Mapping[str, Any]) -> Iterator[Breach]:
    if task.offer and not isinstance(answer.get(OPTIONS, []), list):
        yield Breach(OPTIONS, "options", "must be a list of {key, text}.")


def _cut_off(answer: Mapping[str, Any], parts: Mapping[str, Any], paths: Sequence[Path]) -> Iterator[Breach]:
    for path in paths:
        at = ".".join(map(str, path))
        if path[:1] == (OPTIONS,):
            index = path[1] if len(path) > 1 else None
            item = answer[OPTIONS][index] if isinstance(index, int) and index < len(answer[OPTIONS]) else None
            at = f"{OPTIONS}.{item.get('key')}" if isinstance(item, Mapping) else ""
        yield from (Breach(part, "length", CUT_OFF) for part in parts if at == part or at.startswith(f"{part}."))


def nested(parts: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parts as an answer nests them, with `options` as {key: text}; objects that the schema needs are there."""
    whole = _skeleton(schema or {})
    for path, value in parts.items():
        # A key or kind of an option is a name, and holds no dot.
        *parents, leaf = path.split(".")
        inner = whole
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[leaf] = value
    return whole


def _skeleton(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    needed = (name for name in schema.get("required", ()) if _is_branch(properties.get(name)))
    return {name: _skeleton(properties[name]) for name in needed}


# What is wrong.


def _breaches(task: Task, parts: Mapping[str, Any]) -> Iterator[Breach]:
    """What is wrong in the parts that are there, options by their keys; of words told twice, the later ones."""
    answer = nested(parts, task.schema)
    words = answer.pop(OPTIONS, None)
    keys = list(words or ())
    if words is not None:
        answer[OPTIONS] = [{"key": key, "text": text} for key, text in words.items()]
    offer = tuple(each for each in task.offer if constraints.key_of(each) in keys)
    validator = constraints.validator_for(_without_required(task.schema))
    for breach in constraints.breaches(answer, validator, task.prompt, offer, task.bounds):
        yield _by_key(breach, keys)
    for path, text in constraints.text_paths(answer):
        # A NUL breaks stores, an escape sequence takes over a player's terminal.
        if CONTROLS.search(text):
            yield _by_key(Breach(path, "schema", "holds a control character."), keys)


def _by_key(breach: Breach, keys: list[str]) -> Breach:
    part, _, rest = breach.path.partition(".")
    index = rest.partition(".")[0]
    return replace(breach, path=f"{OPTIONS}.{keys[int(index)]}") if part == OPTIONS and index.isdigit() else breach


def _without_required(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that takes any part of an answer: what is missing is found part by part."""
    properties = {
        name: _without_required(part) if _is_branch(part) else part
        for name, part in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties, "required": []}


def _halves(task: Task, schema: Mapping[str, Any], parts: Mapping[str, Any], path: str = "") -> Iterator[Breach]:
    """Objects that nobody needs and that lack something which they can't be without."""
    for name, part in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if not _is_branch(part) or not _holds(parts, here):
            continue
        yield from _halves(task, part, parts, here)
        needed = (inner for inner in part.get("required", ()) if _skeleton_lacks(part["properties"].get(inner)))
        lacking = [f"{here}.{inner}" for inner in needed if not _holds(parts, f"{here}.{inner}")]
        if lacking and not any(_hits(need, lacking[0]) for need in task.prompt.required):
            yield Breach(here, "schema", f"'{lacking[0]}' is missing.")


def _holds(parts: Mapping[str, Any], path: str) -> bool:
    return path in parts or any(each.startswith(f"{path}.") for each in parts)


def _skeleton_lacks(schema: Any) -> bool:
    """Whether an empty object doesn't do."""
    return not _is_branch(schema) or any(
        _skeleton_lacks(schema["properties"].get(name)) for name in schema.get("required", ())
    )


def warnings_of(task: Task, ignored: Sequence[str]) -> tuple[str, ...]:
    """One line that names the keys which were dropped, as far as they are names and hold no forbidden term."""
    # Prompts may speak of these two on every turn, also where this turn has no place for them.
    ignored = [key for key in ignored if key not in (AI_STATE, OPTIONS)]
    if not ignored:
        return ()
    terms = task.bounds.forbidden_terms
    told = task.bounds.instructions
    open_keys = [key for key in ignored if _is_path(key) and leaked(key, told) is None]
    named = [key for key in open_keys if not constraints.find_term(key, terms)]
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
