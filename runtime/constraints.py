"""What a text must keep to: lengths, forbidden terms, the language, and the options as offered.

Lengths are in code points throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

if TYPE_CHECKING:
    import jsonschema_rs

    from runtime.model import Definition
    from runtime.prompt import Prompt
    from runtime.session import Constraints, Offer


class Bounds(Struct, frozen=True, kw_only=True):
    """What the texts of one session must keep to; lengths in code points."""

    language: str
    max_chars_scene: int
    max_chars_option: int
    forbidden_terms: tuple[str, ...] = ()
    content_rating: str | None = None
    max_chars_text: int = 600


class Breach(Struct, frozen=True):
    """One thing wrong in a narrator's answer; `path` as in `text_paths`, '' for the whole."""

    path: str
    rule: Literal["schema", "length", "term", "language", "options"]
    message: str


def bounds_of(definition: Definition, constraints: Constraints) -> Bounds:
    """The machine's limits for the session's language, each replaced by the session's own where it has one."""
    raise NotImplementedError


def find_term(text: str, terms: tuple[str, ...]) -> str | None:
    """The first of `terms` that stands in the text, as the terms spell it, or None."""
    raise NotImplementedError


def cut(text: str, max_chars: int) -> str:
    """The text, or as much of it as fits, ending where a sentence or a word does."""
    raise NotImplementedError


def mask(text: str, terms: tuple[str, ...]) -> str:
    """The text with every forbidden term replaced by marks of the same length."""
    raise NotImplementedError


def fit(text: str, max_chars: int, terms: tuple[str, ...]) -> tuple[str, bool]:
    """The text cut and masked, and whether it had to change."""
    raise NotImplementedError


def speaks(text: str, language: str) -> bool:
    """Whether a text is written in the language's script."""
    raise NotImplementedError


def text_paths(answer: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of an answer with its dotted path; list items by index from 0 (`options.0.text`)."""
    raise NotImplementedError


def answer_schema(prompt: Prompt, ai_state: tuple[str, ...], offer: tuple[Offer, ...], bounds: Bounds) -> dict[str, Any]:
    """The JSON Schema of a model's whole answer: {…outputs, ai_state: {name: str}, options: [{key, text}]}."""
    raise NotImplementedError


def validator_for(schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """The compiled schema, cached by its bytes."""
    raise NotImplementedError


def breaches(
    answer: Any, validator: jsonschema_rs.Validator, prompt: Prompt, offer: tuple[Offer, ...], bounds: Bounds
) -> list[Breach]:
    """Everything wrong in a model's answer, all at once; [] where it may be told."""
    raise NotImplementedError


def satisfiable(bounds: Bounds) -> str | None:
    """Why no text can be told under these bounds, or None."""
    raise NotImplementedError
