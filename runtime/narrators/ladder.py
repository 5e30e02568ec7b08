"""The ladder that always ends: from what a model wrote to a narration that may be told.

`received` reads an answer and keeps what passed, part by part; `still_asked` is what a model is asked
for again; `concluded` makes the narration. Pure: no I/O, and nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runtime.constraints import Breach
from runtime.errors import NarrationInvalid
from runtime.narrators import Narration, answer
from runtime.narrators.answer import AnswerError, Judged

if TYPE_CHECKING:
    from runtime.narrators import Task


class Draft(Struct, frozen=True):
    """What of a telling stands after the answers so far.

    `kept` is nested as an answer is: outputs, `ai_state`, and `options` as {key: text}; all of it
    passed as it was written. `wrong` is what was wrong in the last answer ('' for the whole), `raw`
    what was written there, by dotted path. `missing` are the required parts that don't stand yet.
    """

    kept: Mapping[str, Any] = {}
    wrong: tuple[Breach, ...] = ()
    raw: Mapping[str, Any] = {}
    rungs: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("",)

    @property
    def is_whole(self) -> bool:
        """Whether nothing that is required is missing or wrong."""
        return not self.missing


EMPTY = Draft()
"""Before any answer."""


def received(task: Task, text: str, finish: str, before: Draft = EMPTY) -> Draft:
    """What stands once this answer has been read, beside what stood before it.

    `finish` is how the answer ended: `stop`, `length`, `content_filter`, or `cut` where its stream broke.
    """
    try:
        judged = answer.judge(task, answer.read(text))
    except AnswerError as error:
        why = "it is cut off: write less" if finish == "length" else str(error)
        return Draft(before.kept, (Breach("", "schema", why),), missing=before.missing)
    if judged.breaches:
        return Draft(before.kept, judged.breaches, ignored=judged.ignored, missing=before.missing)
    output, ai_state, options = answer.parts(judged)
    return Draft({**output, "ai_state": ai_state, "options": options}, ignored=judged.ignored, missing=())


def still_asked(task: Task, draft: Draft) -> Mapping[str, Any]:
    """The JSON Schema of what is missing or wrong; the task's own where nothing stands yet."""
    return {**task.schema, "properties": {}} if draft.is_whole else task.schema


def concluded(task: Task, draft: Draft, **more: Any) -> Narration:
    """The narration of what stands; `more` has its narrator, model, attempts, rungs, usage and spent.

    Raises NarrationInvalid where something required is missing and the machine refuses to go on without.
    """
    if not draft.is_whole:
        facts = {"rungs": more.get("rungs", ()), "attempts": more.get("attempts", 1)}
        message = f"the answer breaks the rules: {answer.rules_of(draft.wrong)}"
        raise NarrationInvalid(message, "Send the same event again later.", **facts)
    options = [{"key": key, "text": text} for key, text in draft.kept.get("options", {}).items()]
    return answer.narration_of(task, Judged({**draft.kept, "options": options}, (), draft.ignored), **more)
