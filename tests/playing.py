"""Plays the machines that ship, in memory and told offline: whole sessions, and a search for the way to each ending.

`python tests/playing.py` looks for a seed and the choices to every ending of every machine, and writes
them to `tests/stories/`: run it when a machine has changed so that its stories no longer end as they say.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from runtime import loader
from runtime.errors import Refusal
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.session import Invoke
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play

ROOT = Path(__file__).resolve().parent.parent
STORIES = Path(__file__).parent / "stories"
MOST_TURNS = 60
"""No machine that ships allows more."""
LEAST_TURNS = 3
"""A story that is frozen has at least so many."""
WORDS = {"ticket_triage": ["我被重复扣款了，请退款。"], "haunted_house": ["宁", "月", "兰", "没有"]}
"""What the search says where a machine takes free text."""


class Story(Struct, frozen=True):
    """One way through a machine: its seed, and a step for each turn after the first.

    A step is the key or kind of an option, or {choose, send, text, elapsed}: an event to send with
    a text, and the seconds that the player's clock shows.
    """

    machine: str
    ending: str
    seed: str
    steps: list[str | dict[str, Any]]


class Play:
    """One session of a machine, played turn by turn; an operator's, so that every event may be sent."""

    def __init__(self, machine: Machine, seed: str, language: str = "zh", **constraints: Any) -> None:
        self.machine = machine
        self.runtime = Runtime(MemoryStore(), Offline(), {machine.name: machine}, machine.name)
        self.answers: list[Any] = []
        self._first = Invoke(
            event=machine.definition.first.event,
            session_id="s",
            run_seed=seed,
            constraints={"language": language, **constraints},
            elapsed_active_seconds=0,
        )

    @property
    def options(self) -> list[Any]:
        """What is offered now."""
        return list(self.answers[-1]["payload"]["options"])

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return bool(self.answers[-1]["session"]["ended"])

    async def begin(self) -> None:
        """Send the initial event."""
        await self._take(self._first)

    async def step(self, step: str | Mapping[str, Any]) -> None:
        """Take a story's step."""
        told = {"choose": step} if isinstance(step, str) else dict(step)
        chosen = self._id_of(told["choose"]) if "choose" in told else None
        elapsed = self.answers[-1]["session"]["time"]["elapsed_active_seconds"]
        await self._take(
            Invoke(
                event=told.get("send"),
                session_id="s",
                selected_option_id=chosen,
                payload={"text": told["text"]} if "text" in told else {},
                elapsed_active_seconds=told.get("elapsed", elapsed),
            )
        )

    def _id_of(self, named: str) -> int:
        keys = {str(each.get("key") or each.get("kind")): int(each["id"]) for each in self.options}
        assert named in keys, f"'{named}' is not among {', '.join(keys)}: has the machine changed? See {__file__}"
        return keys[named]

    async def _take(self, invoke: Invoke) -> None:
        played = await play(self.runtime, invoke, "operator")
        self.answers.append(msgspec.json.decode(played.data))


def played(machine: Machine, story: Story, language: str, **constraints: Any) -> list[Any]:
    """Every answer of a story, told in a language."""

    async def work() -> list[Any]:
        session = Play(machine, story.seed, language, **constraints)
        await session.begin()
        for step in story.steps:
            await session.step(step)
        return session.answers

    return asyncio.run(work())


def wandered(machine: Machine, seed: str, language: str = "zh", policy: str = "any") -> list[Any]:
    """Every answer of a session whose options are chosen by a policy: first, last, or any (by the seed)."""
    chance = random.Random(seed)  # noqa: S311 - a play is no secret

    async def work() -> list[Any]:
        session = Play(machine, seed, language)
        await session.begin()
        while not session.is_over and len(session.answers) < MOST_TURNS:
            options = session.options or [{"text": WORDS.get(machine.name, [""])[0]}]
            chosen = {"first": options[0], "last": options[-1], "any": chance.choice(options)}[policy]
            await session.step(_step_of(session, chosen))
        return session.answers

    return asyncio.run(work())


def _step_of(session: Play, option: Mapping[str, Any]) -> str | dict[str, Any]:
    if "id" in option:
        return str(option.get("key") or option.get("kind"))
    asked = session.answers[-1]["payload"]["inputs"][0]
    return {"send": asked["event_type"], "text": option["text"]}


def stories(machine: str) -> list[Story]:
    """The frozen stories of a machine."""
    return msgspec.json.decode((STORIES / f"{machine}.json").read_bytes(), type=list[Story])


def endings(machine: Machine) -> set[str]:
    """Every final state."""
    return {name for name, state in machine.definition.states.items() if state.is_final}


def search(machine: Machine, most_plays: int = 4000) -> Iterator[Story]:
    """A story for each ending that random plays come to, the first of a decent length."""
    missing = endings(machine)
    for number in range(most_plays):
        story = asyncio.run(_stray(machine, f"{machine.name}-{number}"))
        if story.ending in missing and len(story.steps) >= LEAST_TURNS:
            missing.discard(story.ending)
            yield story
        if not missing:
            return
    sys.stderr.write(f"{machine.name}: no way found to {', '.join(sorted(missing))}\n")


async def _stray(machine: Machine, seed: str) -> Story:
    """Play at random, with a clock that may jump and words that may be said."""
    chance = random.Random(seed)  # noqa: S311 - a play is no secret
    session = Play(machine, seed)
    steps: list[str | dict[str, Any]] = []
    await session.begin()
    # A play has one temper: some hurry, some talk, most do neither.
    hurry, talk = chance.choice([0, 0, 0.05]), chance.choice([0, 0, 0.3])
    while not session.is_over and len(steps) < MOST_TURNS:
        step = _strayed(machine, session, chance, hurry, talk)
        try:
            await session.step(step)
        except Refusal:
            continue
        steps.append(step)
    return Story(machine.name, session.answers[-1]["session"]["state"], seed, steps)


def _strayed(machine: Machine, session: Play, chance: random.Random, hurry: float, talk: float) -> str | dict[str, Any]:
    inputs = session.answers[-1]["payload"]["inputs"]
    if inputs and (not session.options or chance.random() < talk):
        asked = chance.choice(inputs)
        return {"send": asked["event_type"], "text": chance.choice(WORDS[machine.name])}
    chosen = chance.choice(session.options)
    step = str(chosen.get("key") or chosen.get("kind"))
    limit = machine.definition.limits.seconds
    return {"choose": step, "elapsed": limit} if limit and chance.random() < hurry else step


def main() -> None:
    """Look for every ending, and freeze the ways."""
    for machine in loader.load_project(ROOT).values():
        found = sorted(search(machine), key=lambda story: story.ending)
        file = STORIES / f"{machine.name}.json"
        file.write_text(
            "[\n" + ",\n".join(json.dumps(msgspec.to_builtins(story), ensure_ascii=False) for story in found) + "\n]\n",
            encoding="utf-8",
        )
        sys.stdout.write(f"{machine.name}: {', '.join(story.ending for story in found)}\n")


if __name__ == "__main__":
    main()
