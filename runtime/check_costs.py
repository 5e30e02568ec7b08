"""The rules about what a prompt costs: what a provider's cache can't serve (W412), and a memory too small (W413)."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.draft import Draft, PromptFile
from runtime.errors import Finding
from runtime.layout import Piece
from runtime.prompt import TURN_INPUTS
from runtime.tokens import roughly

SAME_ALL_SESSION = frozenset({"slots", "language", "limits", "constraints", "title", "session"})
"""Inputs of every turn that read the same in a whole session, but for a client that sends new constraints."""
HISTORY = "recent"
"""What only grows at its end: a step's own instructions may stand behind it."""
CACHED_TOKENS = 64
"""The least that a cache serves. Source: api-docs.deepseek.com/guides/kv_cache."""
QUOTED_CHARS = 24
WIDE = frozenset({"zh", "ja", "ko"})
"""Languages whose letters take twice the tokens of Latin ones."""


def costs(draft: Draft) -> Iterator[Finding]:
    """What makes prompts dearer than they need be, or forget at once."""
    yield from _memory(draft)
    if draft.is_whole:
        moving = _moving(draft)
        found = (finding for file in draft.prompts for finding in _order(file, moving))
        yield from dict.fromkeys(found)


def _memory(draft: Draft) -> Iterator[Finding]:
    """A budget that one scene may outgrow, be it the machine's own or the one that stands without."""
    definition = draft.definition
    budget = definition.memory_tokens
    for language in definition.languages:
        letter = "字" if language.partition("-")[0] in WIDE else "a"
        scene = roughly(letter * definition.max_chars("scene", language))
        if budget < scene:
            is_own = definition.limits.memory_tokens is not None
            key, whose = ("memory_tokens", "") if is_own else ("scene_chars", " where none is set")
            message = (
                f"memory_tokens is {budget}{whose}, and one scene in {language} may take about {scene}: "
                f"prompts would remember a part of the last turn. Write {scene} or more"
            )
            yield draft.at_value(("limits", key), "W413", message)
            return


def _moving(draft: Draft) -> frozenset[str]:
    """The inputs that change from turn to turn: those of the turn, and variables that some turn sets."""
    set_later: set[str] = set()
    for edge in draft.edges:
        if edge.source:
            set_later |= {*edge.assign}
        set_later |= {*(edge.learn or {})}
    for state in draft.definition.states.values():
        set_later |= {*state.entry, *state.learn}
    return TURN_INPUTS - SAME_ALL_SESSION - {HISTORY} | set_later


def _order(file: PromptFile, moving: frozenset[str]) -> Iterator[Finding]:
    """The first input that changes, where a cache could have served what stands behind it."""
    first: Piece | None = None
    still: list[str] = []
    for piece in file.prompt.layout if file.prompt else ():
        if piece.reads & moving:
            first, still = first or piece, []
        elif first and not piece.under & moving:
            still.append(piece.text)
        if first and sum(map(roughly, still)) >= CACHED_TOKENS:
            yield _out_of_order(first, moving, max(still, key=len))
            return


def _out_of_order(first: Piece, moving: frozenset[str], still: str) -> Finding:
    name = min(first.reads & moving)
    quoted = " ".join(still.split())[:QUOTED_CHARS].strip()
    message = (
        f"'{name}' changes from turn to turn, and text that never does stands below it, from '{quoted}…' on: "
        "no provider's cache serves that. Move the text up, or the input down"
    )
    return Finding(first.file, first.line, first.col, "W412", message)
