"""A turn on a terminal while it is told: each sentence as it comes, and in the end what is still missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from server.play import passages
from server.play.passages import Passage
from server.play.words import bracketed, say

if TYPE_CHECKING:
    from server.play.screen import Screen
    from server.play.table import Answer

_Value = TypeVar("_Value")

HOLD_S: Final = 0.1
"""Seconds that the first text is held back: a turn that is told at once is shown as a whole, its ending first."""


class Telling:
    """What a turn has told so far, and what of it stands on the screen.

    `begin` is called once, before the first text is shown. Texts are kept by their path; one that
    is told otherwise after it was shown is shown again, under a word that says so.
    """

    def __init__(self, screen: Screen, language: str, choice: str = "") -> None:
        self.is_begun = False
        self._screen = screen
        self._language = language
        self._choice = choice
        self._told: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._open = ""
        self._news = asyncio.Event()

    def hear(self, event: str, data: Mapping[str, Any]) -> None:
        """Take an event of the turn; it is shown when there is time."""
        if event in ("field.delta", "field.replaced"):
            before = self._told.get(data["path"], "") if event == "field.delta" else ""
            self._told[data["path"]] = before + data["text"]
            self._news.set()

    async def beside(self, work: Coroutine[Any, Any, _Value], begin: Callable[[], None]) -> _Value:
        """What the work gives, or raises; what it tells meanwhile is shown."""
        showing = asyncio.create_task(self._show(begin))
        try:
            return await work
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            if self.is_begun:
                self._paint()
            self._close()

    def left(self, answer: Answer) -> list[Passage]:
        """What of the answer is not on the screen, now that the turn is whole."""
        found = []
        for path, passage in passages.told_by_path(answer, self._language, self._choice):
            before = self._shown.get(path)
            if before is not None and before != passage.text:
                found.append(self._retold())
            if before != passage.text:
                found.append(passage)
        return found

    async def _show(self, begin: Callable[[], None]) -> None:
        while True:
            await self._news.wait()
            if not self.is_begun:
                await asyncio.sleep(HOLD_S)
                begin()
                self.is_begun = True
            self._news.clear()
            self._paint()

    def _paint(self) -> None:
        """Bring the screen up to what was told."""
        newest = next(reversed(self._told), "")
        for path, text in self._told.items():
            passage = passages.passage_of(path, text, self._language)
            before = self._shown.get(path)
            if text == before or (passage is None and before is None):
                continue
            if (
                passage is not None
                and passage.style == "aside"
                and (path == newest or passages.echoes(text, self._choice))
            ):
                continue  # an aside that only tells the choice back is never shown: it must be whole to see that
            self._put(path, passage, before)
            self._shown[path] = text

    def _put(self, path: str, passage: Passage | None, before: str | None) -> None:
        is_going_on = before is None or (path == self._open and passage is not None and passage.text.startswith(before))
        if not is_going_on:
            self._close()
            self._screen.show([self._retold()], self._language)
        if passage is None:
            return
        if path != self._open:
            self._close()
        self._screen.grow(passage, before if path == self._open else None, self._language)
        self._open = path

    def _retold(self) -> Passage:
        return Passage(bracketed(say("retold", self._language), self._language).strip(), "note")

    def _close(self) -> None:
        """End the line that was left open."""
        if self._open:
            self._screen.end_line()
            self._open = ""
