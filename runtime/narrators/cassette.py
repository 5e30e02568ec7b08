"""The narrator of replays: it tells what a model answered when the replay was recorded, judged as a model's answer is.

What an answer leaves out is told offline, and can't be learned from; what breaks the rules is mended,
told offline, or refused, as the machine says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.narrators import ladder, offline

if TYPE_CHECKING:
    from runtime.narrators import Narration, Narrator, Task
    from runtime.narrators.release import Release


class Cassette:
    """Gives the answer that was put in. Without one, the turn is told offline.

    `task` is what it was asked last, None where the last turn was told without it. With `again`, that
    narrator is asked instead: it is open already, and stays so.
    """

    name = "cassette"

    def __init__(self, again: Narrator | None = None) -> None:
        """Take nothing in yet."""
        self._again = again
        self._answer: Mapping[str, Any] | None = None
        self.task: Task | None = None

    def put(self, answer: Mapping[str, Any] | None) -> None:
        """Take in what the next turn is answered with; {} is a model that says nothing, None no model."""
        self._answer = answer
        self.task = None
        if isinstance(self._again, Cassette):
            self._again.put(answer)

    async def open(self) -> None:
        """Nothing needs to be made ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Tell what was put in. Raises NarrationInvalid where it breaks the rules and the machine refuses."""
        self.task = task
        return tell(task, self._answer) if self._again is None else await self._again.narrate(task, release)

    async def close(self) -> None:
        """Nothing is held open."""


def tell(task: Task, answer: Mapping[str, Any] | None) -> Narration:
    """The task told by an answer; offline where it is None. Raises NarrationInvalid."""
    if answer is None:
        return offline.tell(task)
    draft = ladder.received(task, msgspec.json.encode(answer).decode(), "stop")
    more = {"narrator": Cassette.name, "model": Cassette.name, "rungs": (Cassette.name,)}
    is_only_short = all(each.path in draft.missing and each.path not in draft.raw for each in draft.wrong)
    return ladder.filled(task, draft, **more) if is_only_short else ladder.concluded(task, draft, **more)
