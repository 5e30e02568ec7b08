"""Prompts: Prompty-shaped files, one per kind of turn, and the texts of fragments.

A prompt is YAML front matter and a body in which a line that is exactly `system:`, `user:` or
`assistant:` begins a message. The body is split there *before* anything is rendered: what a player
wrote, an input or an include can never begin a message. Each message is a template of its own
(`template` says what may stand in one), so a block closes before the next role line.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from runtime import template as templates
from runtime.budget import Budget, PromptError
from runtime.errors import EdgewiseError
from runtime.layout import Piece, laid_out
from runtime.outputs import Outputs, parse_outputs
from runtime.quoting import bare
from runtime.source import CODES as TEMPLATE_CODES
from runtime.source import ROLE_LINE, Flaw, Places, Source
from runtime.template import Template

__all__ = [
    "CODES",
    "TURN_INPUTS",
    "Fault",
    "Message",
    "Prompt",
    "PromptError",
    "Say",
    "SayError",
    "compile_say",
    "names_read",
    "parse_prompt",
    "render",
    "say",
]

Role = Literal["system", "user", "assistant"]

TURN_INPUTS = frozenset(
    [
        "slots",
        "time",
        "step",
        "session",
        "language",
        "limits",
        "constraints",
        "title",
        "state",
        "from_state",
        "tell",
        "option",
        "text",
        "changes",
        "dice",
        "offer",
        "recent",
        "memory",
        "ending",
    ]
)
"""The inputs that every turn has; any other name is a context variable."""

CODES: Mapping[str, str] = {
    "E410": "A prompt's front matter has an unknown key.",
    "E411": "A value of a prompt's front matter has the wrong type or is out of its range.",
    "E412": "`inputs` names something twice, or what can't be a name.",
    "E413": "`outputs` has an unknown kind, a wrong shape, or a broken JSON Schema.",
    "E414": "`outputs` declares what the runtime itself puts into every answer.",
    "E415": "A prompt has text before its first role line.",
    "E416": "A prompt has no `user:` message, or a message without text.",
    "E417": "A line looks like a role line and isn't one.",
    "E418": "A template reads an input that the prompt doesn't declare.",
    **{code: text for code, text in TEMPLATE_CODES.items() if code.startswith("E")},
    "W410": "A declared input is never read.",
    "W411": "A player's free text is read in a system message.",
    **{code: text for code, text in TEMPLATE_CODES.items() if code.startswith("W")},
}
"""The codes of faults and warnings in prompt files, one sentence each."""

_KEYS = ("description", "inputs", "outputs", "model")
_OPTIONS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "max_tokens": (1, 32_768),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_WHOLE = "max_tokens"
_INPUT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_ALMOST_ROLE = re.compile(r"^[ \t]*(?:system|user|assistant)s?[ \t]*[:\uff1a][ \t]*$", re.MULTILINE | re.IGNORECASE)


class SayError(EdgewiseError):
    """A fragment's text is faulty; `line` counts from 1 in the text, `col` from 1 in that line."""

    def __init__(self, col: int, message: str, *, line: int = 1, code: str = "E420") -> None:
        super().__init__(message)
        self.col, self.line, self.message, self.code = col, line, message, code


class Fault(Struct, frozen=True):
    """A fault or warning (codes E41…, E42…, W4…) of a prompt file.

    `file` is the project path of the file it stands in (the prompt, or an include of it). Where
    `path` is not empty, it stands in the front matter at that path: the position is to be looked
    up, `line` and `col` are 1.
    """

    line: int
    col: int
    code: str
    message: str
    file: str
    path: tuple[str | int, ...] = ()


class Message(Struct, frozen=True):
    """One message to a model."""

    role: Role
    content: str


class Say(Struct, frozen=True):
    """A compiled fragment text; `names` are the inputs it reads, `template` is None where it has no holes."""

    source: str
    names: frozenset[str]
    template: Template | None


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt file, compiled.

    `outputs` is a JSON Schema without length limits; `fields` maps each dotted leaf path to scene,
    option, text, str, int, float, bool or json; `required` are the leaf paths that must be there.
    `names` are the inputs that the templates read, `hash` is the SHA-256 of the source and of the
    includes that it uses, in hex. `layout` are its pieces in their order.
    """

    name: str
    language: str | None
    file: str
    description: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, Any]
    fields: Mapping[str, str]
    required: frozenset[str]
    options: Mapping[str, Any]
    parts: tuple[tuple[Role, Template], ...]
    names: frozenset[str]
    hash: str
    layout: tuple[Piece, ...] = ()


def parse_prompt(
    name: str,
    language: str | None,
    file: str,
    front_matter: Mapping[str, Any],
    body: str,
    body_line: int,
    includes: Mapping[str, str],
) -> tuple[Prompt | None, list[Fault]]:
    """Compile a prompt; None where a fault (E…) is among the findings, which are all there are.

    `body_line` is the line of the body's first line in the file, from 1. `includes` maps paths
    below the project's prompts folder (`lantern_house/_style.zh.md`) to texts.
    """
    front, faults = _front(front_matter, file)
    body = body.replace("\r\n", "\n")
    faults += _body_faults(Source(file, body, body_line))
    parts, flaws = _compiled(Source(file, body, body_line), includes)
    faults += map(_fault, flaws)
    faults += map(_fault, _undeclared(parts, front.inputs, includes))
    if not any(flaw.code.startswith("E") for flaw in flaws):
        faults += _advice(parts, front.inputs, file)
    if any(fault.code.startswith("E") for fault in faults):
        return None, _sorted(faults)
    used = {path: includes[path] for _, part in parts for path in part.includes}
    prompt = Prompt(
        name=name,
        language=language,
        file=file,
        description=front.description,
        inputs=front.inputs,
        outputs=front.outputs.schema,
        fields=front.outputs.fields,
        required=front.outputs.required,
        options=front.options,
        parts=tuple(parts),
        names=frozenset(name for _, part in parts for name in part.names),
        hash=_hash(front_matter, body, used),
        layout=tuple(piece for _, part in parts for piece in laid_out(part.source, includes, front.inputs)),
    )
    return prompt, _sorted(faults)


def _sorted(faults: list[Fault]) -> list[Fault]:
    unique = list(dict.fromkeys(faults))
    return sorted(unique, key=lambda fault: (fault.file, not fault.path, fault.line, fault.col, fault.code))


def _fault(flaw: Flaw) -> Fault:
    return Fault(flaw.line, flaw.col, flaw.code, flaw.message, flaw.file)


def _hash(front_matter: Mapping[str, Any], body: str, used: Mapping[str, str]) -> str:
    source = msgspec.json.encode([front_matter, body, used], order="deterministic")
    return hashlib.sha256(source).hexdigest()


# --- the front matter ---


class _Front(Struct, frozen=True):
    description: str
    inputs: tuple[str, ...]
    outputs: Outputs
    options: Mapping[str, Any]


def _front(values: Mapping[str, Any], file: str) -> tuple[_Front, list[Fault]]:
    outputs, output_faults = parse_outputs(values.get("outputs", {}))
    found = [
        *_unknown_keys(values, _KEYS, ()),
        *_description_faults(values),
        *_input_faults(values.get("inputs", [])),
        *((("outputs", *fault.path), fault.code, fault.message) for fault in output_faults),
        *_model_faults(values.get("model", {})),
    ]
    inputs = values.get("inputs", [])
    front = _Front(
        description=str(values.get("description", "")),
        inputs=tuple(item for item in inputs if isinstance(item, str)) if isinstance(inputs, list) else (),
        outputs=outputs,
        options={} if found else dict(values.get("model", {}).get("options", {})),
    )
    return front, [Fault(1, 1, code, message, file, path) for path, code, message in found]


Found = tuple[tuple[str | int, ...], str, str]


def _unknown_keys(values: Mapping[str, Any], known: tuple[str, ...], path: tuple[str | int, ...]) -> Iterator[Found]:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1, 0.6)
            mend = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."
            yield (*path, key), "E410", f"unknown key '{key}'. {mend}"


def _description_faults(values: Mapping[str, Any]) -> Iterator[Found]:
    if not isinstance(values.get("description", ""), str):
        yield ("description",), "E411", "`description` must be a text."


def _input_faults(inputs: object) -> Iterator[Found]:
    if not isinstance(inputs, list):
        yield ("inputs",), "E411", "`inputs` must be a list of names: `inputs: [slots, hp]`."
        return
    for index, name in enumerate(inputs):
        if not isinstance(name, str) or not _INPUT.fullmatch(name):
            yield ("inputs", index), "E412", f"{name!r} can't be an input's name: letters, digits and '_'."
        elif name in inputs[:index]:
            yield ("inputs", index), "E412", f"the input '{name}' is named twice. Drop one."


def _model_faults(model: object) -> Iterator[Found]:
    if not isinstance(model, Mapping):
        yield ("model",), "E411", "`model` must be a map: `model: {options: {temperature: 0.9}}`."
        return
    yield from _unknown_keys(model, ("options",), ("model",))
    options = model.get("options", {})
    if not isinstance(options, Mapping):
        yield ("model", "options"), "E411", "`options` must be a map: `options: {temperature: 0.9}`."
        return
    yield from _unknown_keys(options, tuple(_OPTIONS), ("model", "options"))
    for name, value in options.items():
        yield from _option_faults(name, value)


def _option_faults(name: str, value: object) -> Iterator[Found]:
    if name not in _OPTIONS:
        return
    low, high = _OPTIONS[name]
    kinds = int if name == _WHOLE else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        number = "a whole number" if name == _WHOLE else "a number"
        message = f"`{name}` must be {number} from {low:,} to {high:,}, not {value!r}."
        yield ("model", "options", name), "E411", message


# --- the body ---


def _split(body: Source) -> list[tuple[Role, Source]]:
    """The messages' templates, each without the blank lines around it."""
    marks = list(ROLE_LINE.finditer(body.text))
    ends = [*(mark.start() for mark in marks), len(body.text)]
    parts: list[tuple[Role, Source]] = []
    for mark, (_, end) in zip(marks, pairwise(ends), strict=True):
        text = body.text[mark.end() : end]
        bare = text.lstrip("\n")
        blank = len(text) - len(bare) if bare.strip() else 1
        line = body.line + body.text.count("\n", 0, mark.end()) + blank
        parts.append((_role(mark.group(1)), Source(body.file, bare.rstrip("\n"), line)))
    return parts


def _role(word: str) -> Role:
    return next(role for role in get_args(Role) if role == word)


def _body_faults(body: Source) -> Iterator[Fault]:
    first = ROLE_LINE.search(body.text)
    before = body.text[: first.start()] if first else body.text
    if before.strip():
        line = body.line + len(before) - len(before.lstrip("\n"))
        yield Fault(line, 1, "E415", "text before the first role line. Put `system:` above it.", body.file)
    for match in _ALMOST_ROLE.finditer(body.text):
        if not ROLE_LINE.fullmatch(match.group()):
            word = re.sub(r"[^a-z]", "", match.group().lower())
            mend = f"Write `{next(role for role in get_args(Role) if word.startswith(role))}:` alone on its line."
            line = body.line + body.text.count("\n", 0, match.start())
            yield Fault(line, 1, "E417", f"'{match.group().strip()}' looks like a role line. {mend}", body.file)
    roles = [role for role, _ in _split(body)]
    if "user" not in roles:
        message = "a prompt needs a `user:` line with what changes from turn to turn below it."
        yield Fault(body.line, 1, "E416", message, body.file)
    for role, part in _split(body):
        if not part.text.strip():
            yield Fault(part.line - 1, 1, "E416", f"no text below `{role}:`. Write some or drop the line.", body.file)


def _compiled(body: Source, includes: Mapping[str, str]) -> tuple[list[tuple[Role, Template]], list[Flaw]]:
    parts: list[tuple[Role, Template]] = []
    flaws: list[Flaw] = []
    for role, source in _split(body):
        compiled, found = templates.compile_template(source, includes)
        flaws += found
        parts += [(role, compiled)] if compiled else []
    return parts, flaws


def _undeclared(
    parts: list[tuple[Role, Template]], inputs: tuple[str, ...], includes: Mapping[str, str]
) -> Iterator[Flaw]:
    for _, part in parts:
        places = Places(part.source)
        for name in sorted(part.names.difference(inputs)):
            close = difflib.get_close_matches(name, inputs, 1, 0.6)
            mend = f"Did you mean '{close[0]}'? Else add" if close else "Add"
            include = "" if places.has(name) else _include_that_reads(name, part, includes)
            where = f" in '{include}'" if include else ""
            message = f"'{name}' is read{where} and not declared. {mend} it to `inputs`."
            yield places.first("include" if include else name, "E418", message)


def _include_that_reads(name: str, part: Template, includes: Mapping[str, str]) -> str:
    return next((path for path in sorted(part.includes) if Places(Source(path, includes[path])).has(name)), "")


def _advice(parts: list[tuple[Role, Template]], inputs: tuple[str, ...], file: str) -> Iterator[Fault]:
    read = {name for _, part in parts for name in part.names}
    for index, name in enumerate(inputs):
        if parts and name not in read:
            message = f"the input '{name}' is declared and never read. Drop it, or use it."
            yield Fault(1, 1, "W410", message, file, ("inputs", index))
    for role, part in parts:
        if role == "system" and "text" in part.names:
            message = "the player's own words stand in a system message. Move them below `user:`."
            yield _fault(Places(part.source).first("text", "W411", message))


# --- rendering ---


def render(prompt: Prompt, inputs: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of one turn. Only the declared inputs are seen; give plain dicts, lists and scalars.

    A `quoting.Quoted` input comes out between sentinels. Messages that come out empty are left out.
    Raises PromptError where an input is missing or of a wrong type, where all is empty, or where the
    text grows beyond `template.MAX_CHARS`.
    """
    seen = {name: inputs[name] for name in prompt.inputs if name in inputs}
    budget = Budget()
    messages = []
    for role, part in prompt.parts:
        content = templates.render_template(part, seen, budget).strip("\n")
        if content:
            messages.append(Message(role, content))
    if not messages:
        raise PromptError("every message came out empty.", file=prompt.file, line=1)
    return tuple(messages)


def compile_say(source: str) -> Say:
    """Compile a fragment's text: holes and conditions as in prompts, no includes.

    Raises SayError at the first fault.
    """
    if "{" not in source:
        return Say(source, frozenset(), None)
    compiled, flaws = templates.compile_template(Source("", source), {})
    if compiled is None:
        flaw = flaws[0]
        raise SayError(flaw.col, flaw.message, line=flaw.line, code=flaw.code)
    return Say(source, compiled.names, compiled)


def say(template: Say, inputs: Mapping[str, Any]) -> str:
    """The fragment's text, for players: a quoted input stands in it plainly. Raises PromptError as `render` does."""
    if template.template is None:
        return template.source
    return bare(templates.render_template(template.template, inputs, Budget()))


def names_read(template: Say | Prompt) -> frozenset[str]:
    """The inputs that a template reads, its includes' too."""
    return template.names
