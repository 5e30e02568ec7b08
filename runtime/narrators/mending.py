"""Mending a model's text without inventing anything: what can't stay is taken out.

Control characters go, then the sentences with a forbidden term where enough stays, and a text that
is too long ends with a sentence. Data is no prose and is not mended; neither is an option, which a
designer's own words say better. Whether a mended text may be told is judged again. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.constraints import AI_STATE_CHARS, FAR, cut, find_term, max_chars_of, schema_at
from runtime.cutting import is_balanced, sentences
from runtime.narrators.answer import AI_STATE, CONTROLS
from runtime.outputs import TEXTS

if TYPE_CHECKING:
    from runtime.narrators import Task

ENOUGH = 0.5
"""How much of a text has to stay where sentences of it are left out."""


def mended(task: Task, path: str, text: Any) -> str | None:
    """The text without what can be taken out of it; None where nothing stays, or it is no prose."""
    longest = _longest(task, path)
    if not isinstance(text, str) or longest is None:
        return None
    clean = CONTROLS.sub("", text[: FAR * longest])
    kept = _without_terms(clean, task.bounds.forbidden_terms)
    return cut(kept, longest) or None


def _longest(task: Task, path: str) -> int | None:
    """How long prose at a path may be, in code points; None where no prose stands there."""
    if path.startswith(f"{AI_STATE}."):
        return AI_STATE_CHARS
    kind, schema = task.prompt.fields.get(path, ""), schema_at(task.prompt.outputs, path)
    return max_chars_of(schema, kind, task.bounds) if kind in TEXTS and "enum" not in schema else None


def _without_terms(text: str, terms: tuple[str, ...]) -> str:
    """The sentences without a forbidden term; '' where too few stay, or a quotation is torn."""
    if find_term(text, terms) is None:
        return text
    kept = "".join(each for each in sentences(text) if find_term(each, terms) is None).strip()
    return kept if len(kept) >= ENOUGH * len(text) and is_balanced(kept) else ""
