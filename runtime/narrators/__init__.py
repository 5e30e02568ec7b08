"""What a narrator is: it is given what the machine settled, and tells it. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from runtime.session import NO_COST, NO_USAGE, Spent, Usage

if TYPE_CHECKING:
    from runtime.constraints import Bounds
    from runtime.machine import Machine
    from runtime.model import Edge
    from runtime.narrators.release import Release
    from runtime.prompt import Message, Prompt
    from runtime.session import Offer, Outcome, Session


class Task(Struct, frozen=True, kw_only=True):
    """One telling: what happened, what the prompt sees, and what the text must keep to.

    `session` is the session with this turn's outcome in it, before its narration is known.
    `inputs` is what prompts and `say` may read; `scope` is what expressions read, secrets too.
    `offer` is what will be offered next, in its authored words. `schema` is the JSON Schema of
    the answer: outputs, `ai_state`, and `options` as [{key, text}] in the offer's order.
    `deadline_s` is how long the narrator may take in all, in seconds. `mark` is the session's own
    (`quoting.session_mark`), '' where none was made.
    """

    machine: Machine
    session: Session
    edge: Edge
    outcome: Outcome
    prompt: Prompt
    inputs: Mapping[str, Any]
    scope: Mapping[str, Any]
    offer: tuple[Offer, ...]
    bounds: Bounds
    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    deadline_s: float = 45.0
    mark: str = ""


class Narration(Struct, frozen=True, kw_only=True):
    """What a narrator told.

    `output` has the prompt's outputs, nested as declared; `options` maps a key or kind of the
    offer to its words. `learned` holds the part of `output` and `ai_state` that a model wrote and
    that passed unmended: only this can reach `learn`. `said` has the fragments drawn.
    """

    narrator: str
    output: Mapping[str, Any]
    ai_state: Mapping[str, str] = {}
    options: Mapping[str, str] = {}
    learned: Mapping[str, Any] = {}
    model: str | None = None
    ai_generated: bool = False
    attempts: int = 1
    rungs: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    usage: Usage = NO_USAGE
    spent: Spent = NO_COST
    said: Mapping[str, int] = {}
    warnings: tuple[str, ...] = ()


class Narrator(Protocol):
    """Tells one turn. Ships as offline, openai, cassette and scripted."""

    name: str

    async def open(self) -> None:
        """Get ready: called once, before the first telling. What fails here fails no start."""
        ...

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Tell the task; what is already known to stand may be fed to `release` as it comes.

        Raises NarratorUnavailable where no answer came, NarrationInvalid where none was valid.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
