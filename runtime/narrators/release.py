"""What a listener hears of a turn before it is whole: the texts of its outputs, as they are released.

A narrator feeds a release with the model's answer as it comes; whatever was not released by then
follows when the narration is known, and what was released and does not stand is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runtime.outputs import TEXTS

if TYPE_CHECKING:
    from runtime.narrators import Task

Hear = Callable[[str, Mapping[str, Any]], None]
"""Hears an event of a turn under way: its name (`turn.accepted`, `field.delta`, `field.replaced`) and its data."""


def unheard(event: str, data: Mapping[str, Any]) -> None:
    """Hear nothing."""


class Release:
    """Releases one telling's texts to who hears."""

    def __init__(self, task: Task, hear: Hear = unheard) -> None:
        """Take the task and who hears of it; `unheard` costs nothing."""
        self._task = task
        self._hear = hear
        self._told: dict[str, str] = {}

    def feed(self, chunk: str) -> None:
        """Take more of a model's answer."""

    def hold(self) -> None:
        """The answer ended or broke off: release nothing more of it."""

    def settle(self, output: Mapping[str, Any]) -> None:
        """Release what is left of a narration's outputs, and replace what was released otherwise."""
        if self._hear is unheard:
            return
        told = dict(_texts(output, self._task.prompt.fields))
        for path, text in told.items():
            before = self._told.get(path, "")
            if text.startswith(before):
                if len(text) > len(before):
                    self._hear("field.delta", {"path": path, "text": text[len(before) :]})
            else:
                self._hear("field.replaced", {"path": path, "text": text})
        for path in self._told:
            if path not in told:
                self._hear("field.replaced", {"path": path, "text": ""})


def _texts(output: Mapping[str, Any], fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, kind in fields.items():
        value: Any = output
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if kind in TEXTS and isinstance(value, str):
            yield path, value
