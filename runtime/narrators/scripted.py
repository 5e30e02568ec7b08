"""A narrator that answers from a list: what a model is for tests and demos, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.errors import NarrationInvalid, NarratorUnavailable
from runtime.narrators import answer, ladder

if TYPE_CHECKING:
    from runtime.narrators import Narration, Task
    from runtime.narrators.release import Release

Item = Mapping[str, Any] | Exception | Callable[["Task"], Mapping[str, Any]]
"""A model's JSON answer, an exception to raise, or what makes an answer of the task."""


class Scripted:
    """Gives one item of `answers` a turn, in order, judged as a model's answer would be.

    With `fill`, an answer may leave parts out: the offline narrator tells them, and they are listed
    in `fallback` and can't be learned from; what breaks the rules is the machine's `on_failure`'s
    business, as it is for a model. Without, an answer that isn't whole and right is refused.
    `seen` has every task, in order.
    """

    name = "scripted"

    def __init__(self, answers: Iterable[Item] = (), *, fill: bool = False) -> None:
        """Take the answers of the turns to come; nothing is judged until its turn."""
        self._answers = iter(tuple(answers))
        self._fill = fill
        self.seen: list[Task] = []

    async def open(self) -> None:
        """Nothing needs to be made ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Tell the next item.

        Raises the item where it is an exception, NarratorUnavailable past the end of the list, and
        NarrationInvalid for an answer that breaches the task's schema or constraints.
        """
        self.seen.append(task)
        written = msgspec.json.encode(self._next(task)).decode()
        release.feed(written)
        release.hold()
        draft = ladder.received(task, written, "stop")
        more = {"narrator": self.name, "model": self.name, "rungs": (self.name,)}
        if self._fill and all(each.path in draft.missing and each.path not in draft.raw for each in draft.wrong):
            return ladder.filled(task, draft, **more)
        if draft.wrong and not (self._fill and task.machine.definition.on_failure == "offline"):
            raise _invalid(len(self.seen), draft)
        return ladder.concluded(task, draft, **more)

    def _next(self, task: Task) -> Mapping[str, Any]:
        item = next(self._answers, None)
        if item is None:
            message = f"the scripted narrator has no answer for turn {len(self.seen)}"
            raise NarratorUnavailable(message, "Add an answer to its list.", rungs=(self.name,), attempts=1)
        if isinstance(item, Exception):
            raise item
        return item(task) if callable(item) else item

    async def close(self) -> None:
        """Nothing is held open."""


def _invalid(turn: int, draft: ladder.Draft) -> NarrationInvalid:
    return NarrationInvalid(
        f"the scripted narrator's answer {turn} breaks the rules: {answer.rules_of(draft.wrong)}",
        "Mend the answer, or the machine's limits.",
        rungs=(Scripted.name,),
        attempts=1,
    )
