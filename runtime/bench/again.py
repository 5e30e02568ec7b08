"""A recording, recorded again: only turns whose prompt is not the recorded one are asked of a model anew."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench.expecting import Came, Difference
from runtime.bench.modes import prompt_text
from runtime.bench.player import Result, played
from runtime.bench.recording import answered
from runtime.bench.replay import Expect, Parts, Replay, ReplayStep
from runtime.errors import WorldError
from runtime.narrators import cassette
from runtime.narrators.cassette import Cassette
from runtime.session import Usage

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.narrators import Narration, Narrator, Task
    from runtime.narrators.release import Release


class Retold(Struct, frozen=True, kw_only=True):
    """A turn that was told anew; `step` counts from 1. `fallback` has the parts that no model could tell."""

    step: int
    model: str
    rungs: tuple[str, ...]
    fallback: tuple[str, ...]
    usage: Usage


class RecordedAgain(Struct, frozen=True):
    """The replay with today's prompts and answers; its expectations are as they were.

    `stopped` says which step can't be taken any more, or was told by no model: then the replay is the old one.
    """

    replay: Replay
    retold: tuple[Retold, ...] = ()
    stopped: Result | None = None


async def recorded_again(replay: Replay, machine: Machine, narrator: Narrator) -> RecordedAgain:
    """Tell a replay with the answers that it has, and ask `narrator`, which is open, for the others."""
    teller = _Again(replay, narrator)
    steps = tuple(map(_asking, replay.steps))
    result = await played(replace(replay, steps=steps, xfail=None), machine, teller)
    if teller.failure is not None:
        prompt, why = teller.failure
        number = next((came.number for came in result.came if came.prompt == prompt), len(result.came))
        result = replace(result, difference=Difference(number, "narrate", "a model's answer", None, why))
    if result.difference is not None:
        return RecordedAgain(replay, stopped=result)
    turns = [
        (each, teller.asked.get(each.prompt or ""))
        for each in result.came
        if each.turn is not None and replay.steps[each.number - 1].prompt is not None
    ]
    told = {came.number: _told(replay.steps[came.number - 1], came, narration) for came, narration in turns}
    steps = tuple(told.get(number, step) for number, step in enumerate(replay.steps, start=1))
    retold = tuple(_retold(came.number, narration) for came, narration in turns if narration is not None)
    return RecordedAgain(replace(replay, steps=steps), retold)


class _Prompted(dict[str, Any]):
    """What a step was answered whose prompt is recorded. Any other step stays as it is: nobody was asked for it."""


def _asking(step: ReplayStep) -> ReplayStep:
    """A step that is told anew, whatever comes of it."""
    narrate = step.narrate if step.prompt is None else _Prompted(step.narrate or {})
    return replace(step, expect=Expect(error=step.expect.error), narrate=narrate)


def _told(step: ReplayStep, came: Came, narration: Narration | None) -> ReplayStep:
    """The step with the prompt of today, and where that was answered anew, with what it changed."""
    step = replace(step, prompt=came.prompt)
    if narration is None or came.turn is None:
        return step
    before, after = came.turn.before.context, came.turn.after.context
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    context = {**{name: after.get(name, value) for name, value in step.expect.context.items()}, **changed}
    # What was written by hand expects what its writer wanted to know, and no more.
    expect = replace(step.expect, context=context) if step.expect.edge is not None else step.expect
    return replace(step, narrate=_answer(narration), expect=expect)


def _answer(narration: Narration) -> Parts | None:
    texts = {"output": narration.output, "ai_state": narration.ai_state, "options": narration.options}
    answer = answered({**texts, "learned": narration.learned}, narration.fallback)
    return answer if narration.ai_generated and answer else None


def _retold(step: int, narration: Narration) -> Retold:
    return Retold(
        step=step,
        model=narration.model or narration.narrator,
        rungs=narration.rungs,
        fallback=narration.fallback,
        usage=narration.usage,
    )


class _Again(Cassette):
    """Answers a prompt that was recorded as it was answered then; any other is asked of the narrator."""

    name = "again"

    def __init__(self, replay: Replay, narrator: Narrator) -> None:
        super().__init__()
        self._narrator = narrator
        self._known: dict[str, deque[Parts | None]] = {}
        for step in replay.steps:
            if step.prompt is not None:
                self._known.setdefault(step.prompt, deque()).append(step.narrate)
        self.asked: dict[str, Narration] = {}
        self.failure: tuple[str, str] | None = None

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Tell the task. Raises NarratorUnavailable, NarrationInvalid."""
        if not isinstance(self._answer, _Prompted):
            return cassette.tell(task, self._answer)
        prompt = prompt_text(task.messages)
        if known := self._known.get(prompt):
            # The same prompt twice was answered twice; a third time as the last.
            return cassette.tell(task, known.popleft() if len(known) > 1 else known[0])
        if prompt in self.asked:
            return self.asked[prompt]
        try:
            narration = await self._narrator.narrate(task, release)
        except WorldError as error:
            self.failure = (prompt, str(error))
            raise
        if not narration.ai_generated:
            self.failure = (prompt, f"no model told it: {', '.join(narration.rungs) or narration.narrator}")
        self.asked[prompt] = narration
        return narration
