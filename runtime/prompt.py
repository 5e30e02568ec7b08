"""Prompts: Prompty-shaped files whose roles are split before anything is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from runtime.errors import EdgewiseError

Role = Literal["system", "user", "assistant"]

TURN_INPUTS = frozenset(
    "slots time step session language limits constraints title state from_state tell option text changes "
    "dice offer recent memory ending".split()
)
"""The inputs that every turn has; any other name is a context variable."""


class PromptError(EdgewiseError):
    """A prompt or fragment can't be rendered with these inputs."""


class SayError(EdgewiseError):
    """A fragment's text is faulty; `col` counts from 1 in its line, `line` from 1 in the text."""

    def __init__(self, col: int, message: str, *, line: int = 1, code: str = "") -> None:
        super().__init__(message)
        self.col, self.line, self.message, self.code = col, line, message, code


class Fault(Struct, frozen=True):
    """A fault or warning (codes E4…, W4…) of a prompt file.

    `file` is the project path of the file it stands in (the prompt or an include). Where `path` is
    not empty, it stands in the front matter at that path, and `line` and `col` are to be looked up.
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
    """A compiled fragment text; `names` are the inputs it reads."""

    source: str
    names: frozenset[str]
    template: Any


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt file, compiled.

    `outputs` is a JSON Schema without length limits; `fields` maps each dotted leaf path to scene,
    option, text, str, int, float, bool or json; `required` are the leaf paths that must be there.
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
    parts: tuple[tuple[Role, Any], ...]
    names: frozenset[str]
    hash: str


def parse_prompt(
    name: str,
    language: str | None,
    file: str,
    front_matter: Mapping[str, Any],
    body: str,
    body_line: int,
    includes: Mapping[str, str],
) -> tuple[Prompt | None, list[Fault]]:
    """Compile a prompt; None where a fault (E…) is among the findings.

    `body_line` is the line of the body's first line in the file, from 1. `includes` maps paths
    below the project's prompts folder (`lantern_house/_style.zh.md`) to texts.
    """
    raise NotImplementedError


def render(prompt: Prompt, inputs: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of one turn; only the declared inputs are seen. Raises PromptError."""
    raise NotImplementedError


def compile_say(source: str) -> Say:
    """Compile a fragment's text. Raises SayError."""
    raise NotImplementedError


def say(template: Say, inputs: Mapping[str, Any]) -> str:
    """The fragment's text. Raises PromptError."""
    raise NotImplementedError


def names_read(template: Say | Prompt) -> frozenset[str]:
    """The names that a template reads, includes too."""
    return template.names
