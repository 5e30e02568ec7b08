"""A narrator that answers from a list: what a model is for tests and demos, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from runtime.errors import NarrationInvalid, NarratorUnavailable
from runtime.narrators import answer
from runtime.narrators.offline import Offline

if TYPE_CHECKING:
    from runtime.narrators import Narration, Task
    from runtime.narrators.release import Release

Item = Mapping[str, Any] | Exception | Callable[["Task"], Mapping[str, Any]]
"""A model's JSON answer, an exception to raise, or what makes an answer of the task."""


class Scripted:
    """Gives one item of `answers` a turn, in order, judged as a model's answer would be.

    With `fill`, an answer may leave parts out: the offline narrator tells them, and they are
    listed in `fallback` and can't be learned from. `seen` has every task, in order.
    """

    name = "scripted"

    def __init__(self, answers: Iterable[Item] = (), *, fill: bool = False) -> None:
        """Take the answers of the turns to come; nothing is judged until its turn."""
        self._answers = iter(tuple(answers))
        self._offline = Offline() if fill else None
        self.seen: list[Task] = []

    async def open(self) -> None:
        """Nothing needs to be made ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:  # noqa: ARG002 - it is told at once
        """Tell the next item.

        Raises the item where it is an exception, NarratorUnavailable past the end of the list, and
        NarrationInvalid for an answer that breaches the task's schema or constraints.
        """
        self.seen.append(task)
        written = _plain(self._next(task))
        told = self._offline.tell(task) if self._offline else None
        judged = answer.judge(task, _filled(written, told, task) if told else written)
        if judged.breaches:
            raise _invalid(len(self.seen), judged)
        narration = answer.narration_of(task, judged, narrator=self.name, model=self.name, rungs=(self.name,))
        return _marked(narration, written, told) if told else narration

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


def _plain(written: Mapping[str, Any]) -> dict[str, Any]:
    # Through JSON, as from a model: a copy of its own, and nothing that JSON can't say.
    return answer.read(msgspec.json.encode(written).decode())


def _invalid(turn: int, judged: answer.Judged) -> NarrationInvalid:
    return NarrationInvalid(
        f"the scripted narrator's answer {turn} breaks the rules: {answer.rules_of(judged.breaches)}",
        "Mend the answer, or the machine's limits.",
        rungs=(Scripted.name,),
        attempts=1,
    )


def _filled(written: Mapping[str, Any], told: Narration, task: Task) -> dict[str, Any]:
    """What offline told, with what was written laid over it; options as a whole."""
    options = [{"key": key, "text": text} for key, text in told.options.items()]
    asked = {"options": options} if "options" in task.schema.get("properties", {}) else {}
    return {**asked, **_over(told.output, written)}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: _over(below[key], value) for key, value in above.items() if _both_nest(below.get(key), value)}
    return {**below, **above, **nested}


def _both_nest(below: object, above: object) -> bool:
    return isinstance(below, dict) and isinstance(above, dict)


def _marked(narration: Narration, written: Mapping[str, Any], told: Narration) -> Narration:
    """The narration with what offline told marked, and nothing of that learned."""
    learned = _common(narration.learned, {**written.get("ai_state", {}), **written})
    by_model = set(_leaves(learned))
    filled = [path for path in _leaves(narration.output) if path not in by_model]
    return structs.replace(
        narration,
        learned=learned,
        ai_state={**told.ai_state, **narration.ai_state},
        ai_generated=bool(written),
        model=narration.model if written else None,
        fallback=(*filled, *(["options"] if told.options and "options" not in written else [])),
        said=told.said,
    )


def _common(value: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Those members of `value`, nested ones too, that `written` has as well."""
    shared = {key: item for key, item in value.items() if key in written}
    nested = {key: _common(item, written[key]) for key, item in shared.items() if _both_nest(item, written[key])}
    return {**shared, **nested}


def _leaves(value: Mapping[str, Any], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, item in value.items():
        paths += _leaves(item, f"{prefix}{key}.") if isinstance(item, dict) else [f"{prefix}{key}"]
    return paths
