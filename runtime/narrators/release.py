"""What a listener hears of a turn before it is whole: the texts of its outputs, as they are released.

A narrator feeds a release with the model's answer as it comes. A text is released sentence by
sentence, each once everything up to its end has passed: terms, rating, language, facts, length so
far. A sentence whose end may yet become a forbidden term waits; behind the first breach nothing
more of that text is released. A sentence of the instructions holds its text back too: with what
follows it may be a leak. What was not released by then follows when the narration is known,
and what was released and does not stand is replaced: that is left for faults which only the whole
shows. Options and `ai_state` are not released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from runtime.constraints import text_breaches
from runtime.cutting import sentences
from runtime.leaks import repeats
from runtime.narrators.answer import CONTROLS
from runtime.narrators.reading import Grown, Reader
from runtime.outputs import TEXTS
from runtime.quoting import has_mark
from runtime.terms import may_begin_term

if TYPE_CHECKING:
    from runtime.narrators import Task

Hear = Callable[[str, Mapping[str, Any]], None]
"""Hears an event of a turn under way: its name (`turn.accepted`, `field.delta`, `field.replaced`) and its data."""
ENOUGH_LETTERS = 6
"""So many letters of a text are there before its language is judged."""
LOOK_AHEAD_CHARS = 64
"""How far behind the longest text a sentence may go on before it is given up, in code points."""


def unheard(event: str, data: Mapping[str, Any]) -> None:
    """Hear nothing."""


class Release:
    """Releases one telling's texts to who hears."""

    def __init__(self, task: Task, hear: Hear = unheard) -> None:
        """Take the task and who hears of it; `unheard` costs nothing."""
        self._task = task
        self._hear = hear
        self._reader = Reader()
        self._is_fed = self._is_held = False
        self._texts: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._tried: dict[str, int] = {}
        self._shut: set[str] = set()

    def feed(self, chunk: str) -> None:
        """Take more of a model's JSON text, cut anywhere, and release what may be."""
        if self._hear is unheard or self._is_held or not chunk:
            return
        self._is_fed = True
        grown: dict[str, bool] = {}
        for piece in self._reader.feed(chunk):
            path = ".".join(map(str, piece.path))
            if self._task.prompt.fields.get(path) in TEXTS and path not in self._shut:
                self._take(path, piece)
                grown[path] = piece.is_closed
        for path, is_closed in grown.items():
            if path not in self._shut:
                self._release(path, is_closed=is_closed)

    def hold(self) -> None:
        """That answer ended or broke off: release nothing more until the narration is known."""
        self._is_held = self._is_fed

    def _take(self, path: str, piece: Grown) -> None:
        if piece.is_new and path in self._texts:
            # The later text counts, and some of the earlier one has been heard.
            self._shut.add(path)
        self._texts[path] = self._texts.get(path, "") + piece.text

    def _release(self, path: str, *, is_closed: bool) -> None:
        text = self._texts[path]
        for end in _ends(text, self._tried.get(path, 0), is_closed=is_closed):
            start, self._tried[path] = self._tried.get(path, 0), end
            judged = self._judged(path, text[:end], is_whole=is_closed and end == len(text))
            if judged == "breaks" or repeats(text[start:end], self._task.bounds.instructions):
                self._shut.add(path)
                return
            if judged == "passes":
                self._tell(path, text[:end])
        unjudged = len(text) - self._tried.get(path, 0)
        if is_closed or unjudged > self._task.bounds.max_chars_text + LOOK_AHEAD_CHARS:
            self._shut.add(path)

    def _judged(self, path: str, text: str, *, is_whole: bool) -> Literal["passes", "waits", "breaks"]:
        """Whether a text may be heard so far; `waits` where what comes next may yet let it pass."""
        bounds = self._task.bounds
        try:
            rules = {breach.rule for breach in text_breaches(path, text, self._task.prompt, bounds)}
        except Exception:  # noqa: BLE001 - the ladder judges it again, and notes why it fails
            return "breaks"
        if rules - {"language"} or CONTROLS.search(text) or has_mark(text):
            return "breaks"
        if is_whole:
            return "breaks" if rules else "passes"
        is_early = sum(map(str.isalpha, text)) < ENOUGH_LETTERS
        return "waits" if rules or is_early or may_begin_term(text, bounds.forbidden_terms) else "passes"

    def _tell(self, path: str, text: str) -> None:
        before = self._told.get(path, "")
        self._told[path] = text
        if len(text) > len(before):
            self._hear("field.delta", {"path": path, "text": text[len(before) :]})

    def settle(self, output: Mapping[str, Any]) -> None:
        """Release what is left of a narration's outputs, and replace what was released otherwise."""
        self._is_held = True
        if self._hear is unheard:
            return
        told = dict(_texts(output, self._task.prompt.fields))
        for path, text in told.items():
            if text.startswith(self._told.get(path, "")):
                self._tell(path, text)
            else:
                self._hear("field.replaced", {"path": path, "text": text})
        for path in self._told:
            if path not in told:
                self._hear("field.replaced", {"path": path, "text": ""})


def _ends(text: str, start: int, *, is_closed: bool) -> Iterator[int]:
    """Where sentences end behind a sentence's end; the last one's end is known once something follows it."""
    end = start
    for sentence in sentences(text[start:]):
        end += len(sentence)
        if end < len(text) or is_closed:
            yield end


def _texts(output: Mapping[str, Any], fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, kind in fields.items():
        value: Any = output
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if kind in TEXTS and isinstance(value, str):
            yield path, value
