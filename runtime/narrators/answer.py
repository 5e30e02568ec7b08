"""A model's JSON answer: described to the model, taken apart, and each part held against the rules.

Whatever speaks for a model (openai, scripted) goes through here, so that all are judged alike.
Pure: no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from runtime import constraints
from runtime.constraints import Breach
from runtime.leaks import leaked
from runtime.narrators.reading import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from runtime.narrators import Task
    from runtime.narrators.reading import Path

NAMED_BREACHES = 8
"""How many breaches a model is told of when it is asked again."""
MAX_NAMED = 64
"""Of how many keys that were dropped one is looked for that may be named."""
NAMED_CHARS = 200
"""How much of each, in code points."""
CUT_OFF = "is cut off. Write less."
AI_STATE, OPTIONS = "ai_state", "options"
MAX_NUMBER = 2**53 - 1
"""The largest number of an answer, and its least below 0: beyond it JSON's readers don't agree on one."""
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
    ignored: dict[str, None] = {}
    known = dict(_known_parts("", answer, task.schema, ignored))
    known |= _option_parts(task, answer, ignored, cut_off)
    is_kept = _hitting(kept)
    fresh = {path: value for path, value in known.items() if not is_kept(path)}
    faults = [*_misshapen(task, answer), *_cut_off(answer, fresh, cut_off)]
    return held(task, {**kept, **fresh}, faults, tuple(ignored))


def held(task: Task, parts: Mapping[str, Any], faults: Sequence[Breach] = (), ignored: tuple[str, ...] = ()) -> Judged:
    """Parts held against the task's schema and constraints; `faults` were found before."""
    found = [*faults, *_breaches(task, parts)]
    is_wrong = _hitting(each.path for each in found)
    passed = {path: value for path, value in parts.items() if not is_wrong(path)}
    while half := next(_halves(task, task.schema, passed), None):
        found.append(half)
        is_wrong = _hitting([half.path])
        passed = {path: value for path, value in passed.items() if not is_wrong(path)}
    missing = tuple(path for path in required(task) if path not in passed)
    is_wrong = _hitting(each.path for each in found)
    found += [_missing(path) for path in missing if not is_wrong(path)]
    wrong = {path: value for path, value in parts.items() if path not in passed}
    return Judged(passed, wrong, tuple(dict.fromkeys(found)), ignored, missing)


def required(task: Task) -> Iterator[str]:
    """The paths of the parts that a telling needs: what its prompt requires, and every option."""
    yield from (path for path in task.prompt.fields if path in task.prompt.required)
    yield from (f"{OPTIONS}.{constraints.key_of(offer)}" for offer in task.offer)


def _missing(path: str) -> Breach:
    return Breach(path, "options" if path.startswith(f"{OPTIONS}.") else "schema", "is missing.")


def _hitting(paths: Iterable[str]) -> Callable[[str], bool]:
    """Whether what is wrong at any of the paths is wrong with a part: it is the part, within it, or around it.

    '' is around all outputs; `options`, the list itself, is wrong with none of its parts.
    """
    places = set(paths) - {OPTIONS}
    is_around_all = "" in places
    around = {each for path in places for each in _from_the_top(path)}

    def hits(part: str) -> bool:
        if is_around_all and part.partition(".")[0] not in {AI_STATE, OPTIONS}:
            return True
        return part in around or not places.isdisjoint(_from_the_top(part))

    return hits


def _from_the_top(path: str) -> Iterator[str]:
    """A path and those around it: `a.b` → `a`, `a.b`; no part lies deeper than MAX_DEPTH."""
    yield from accumulate(path.split(".", MAX_DEPTH), "{}.{}".format)
    yield path


def _hits(breach: str, part: str) -> bool:
    return _hitting([breach])(part)


# From an answer to its parts, and back.


def _is_branch(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "object" and bool(schema.get("properties"))


_OPENING = frozenset(
    "additionalProperties patternProperties unevaluatedProperties allOf anyOf oneOf if dependentSchemas".split()  # noqa: SIM905 - read as a row
)
"""By which keywords a schema may have a place for names that its `properties` don't hold."""


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Whether a designer's schema says outright that a model may add names."""
    return schema.get("additionalProperties") is not False and not _OPENING.isdisjoint(schema)


def _known_parts(
    path: str, value: Any, schema: Mapping[str, Any], ignored: dict[str, None]
) -> Iterator[tuple[str, Any]]:
    """Each part of an answer's outputs and `ai_state` by its path."""
    properties = schema.get("properties", {})
    for name, member in value.items():
        here = f"{path}.{name}" if path else str(name)
        # A name with a dot would be another part's path.
        if name not in properties and (not path or "." in name or not _is_open(schema)):
            ignored[name] = None
        elif name in properties and _is_branch(properties[name]) and isinstance(member, Mapping):
            yield from _known_parts(here, member, properties[name], ignored)
        elif here != OPTIONS:
            kept = _fitted(member, properties.get(name), ignored)
            if kept is not None or (member is None and _takes(properties.get(name), None)):
                yield here, kept


def _fitted(value: Any, schema: Any, ignored: dict[str, None]) -> Any:
    """A leaf's value without the keys and nulls that its schema has no place for."""
    if value is None or not isinstance(value, dict | list):
        return value
    known = _known(value, schema, ignored)
    return known if _takes(schema, known) else _without_nulls(known)


def _takes(schema: Any, value: Any) -> bool:
    return not isinstance(schema, Mapping) or constraints.validator_for(schema).is_valid(value)


def _known(value: Any, schema: Any, ignored: dict[str, None]) -> Any:
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_known(item, schema.get("items"), ignored) for item in value]
    if not isinstance(value, dict) or "properties" not in schema or _is_open(schema):
        return value
    properties = schema["properties"]
    ignored |= dict.fromkeys(key for key in value if key not in properties)
    return {key: _known(item, properties[key], ignored) for key, item in value.items() if key in properties}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _option_parts(
    task: Task, answer: Mapping[str, Any], ignored: dict[str, None], cut_off: Sequence[Path]
) -> dict[str, Any]:
    """The texts of the options offered; another one, and a second of the same key, is passed over."""
    told = answer.get(OPTIONS) if task.offer else None
    keys = {constraints.key_of(offer) for offer in task.offer}
    parts: dict[str, Any] = {}
    for index, item in enumerate(told if isinstance(told, list) else ()):
        is_named = isinstance(item, Mapping) and (OPTIONS, index, "key") not in cut_off
        key = item.get("key") if is_named else None
        path = f"{OPTIONS}.{key}"
        if not isinstance(key, str) or key not in keys or path in parts:
            ignored |= {path: None} if isinstance(key, str) else {}
        elif item.get("text") is not None:
            parts[path] = item["text"]
        ignored |= dict.fromkeys(name for name in (item if parts.get(path) else ()) if name not in ("key", "text"))
    return parts


def _misshapen(task: Task, answer: Mapping[str, Any]) -> Iterator[Breach]:
    if task.offer and not isinstance(answer.get(OPTIONS, []), list):
        yield Breach(OPTIONS, "options", "must be a list of {key, text}.")


def _cut_off(answer: Mapping[str, Any], parts: Mapping[str, Any], paths: Sequence[Path]) -> Iterator[Breach]:
    for path in paths:
        at = ".".join(map(str, path))
        if path[:1] == (OPTIONS,):
            index, told = path[1] if len(path) > 1 else None, answer.get(OPTIONS)
            item = told[index] if isinstance(told, list) and isinstance(index, int) and index < len(told) else None
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
    for path, name in constraints.own_names(answer, task.prompt.outputs):
        if CONTROLS.search(name):
            yield Breach(path, "schema", "a key holds a control character.")
    yield from (Breach(path, "schema", "is too large a number.") for path in _beyond(answer))


def _beyond(value: Any, path: str = "") -> Iterator[str]:
    """Where numbers stand that are too large."""
    if isinstance(value, int | float):
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            yield path
    elif isinstance(value, Mapping | list):
        for name, member in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _beyond(member, f"{path}.{name}" if path else str(name))


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
    open_keys = [key for key in ignored[:MAX_NAMED] if _is_path(key) and leaked(key, told) is None]
    named = [key for key in open_keys if not constraints.find_term(key, terms)]
    unnamed = len(ignored) - len(named[:NAMED_BREACHES])
    return ("ignored: " + ", ".join(named[:NAMED_BREACHES] + ([f"{unnamed} more"] if unnamed else [])),)


def told_of(breaches: Sequence[Breach]) -> tuple[str, ...]:
    """The breaches as the model is told of them."""
    named = ((_plain_path(breach.path), breach.message) for breach in breaches)
    return tuple(f"{path}: {message}" if path else message for path, message in named)


def _plain_path(path: str) -> str:
    """A path as far as it is made of names: what a model made up is not told back to it."""
    return ".".join(takewhile(_is_path, path.split("."))) if path else ""


def rules_of(breaches: Sequence[Breach]) -> str:
    """Which rules were breached and where, for an operator: no word of the text itself."""
    said = (f"{breach.path} ({breach.rule})" if _is_path(breach.path) else breach.rule for breach in breaches)
    return ", ".join(list(dict.fromkeys(said))[:NAMED_BREACHES])


def _is_path(path: str) -> bool:
    return bool(path) and all(part.isdigit() or _PLAIN_NAME.fullmatch(part) for part in path.split("."))
