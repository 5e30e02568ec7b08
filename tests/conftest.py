"""What tests share: tiny machines from text, a runtime in memory, and a client that plays it."""

from __future__ import annotations

import logging
import os
import textwrap
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from runtime import loader
from runtime.machine import Machine
from runtime.narrators.offline import Offline
from runtime.narrators.scripted import Scripted
from runtime.session import Invoke, Session
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play

SCALE = int(os.environ.get("EDGEWISE_TEST_SCALE", "1"))
"""How many times more random tests than in CI."""

collect_ignore_glob = ["*.replay.yaml"]
"""Replays below tests/ are fixtures: a test plays them."""

settings.register_profile(
    "edgewise", max_examples=25 * SCALE, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("edgewise")


def tiny(text: str, name: str = "tiny") -> Machine:
    """A machine from a few lines of YAML; the head that every machine needs is added where it is missing."""
    body = textwrap.dedent(text).strip() + "\n"
    head = {"machine": name, "title": "Tiny", "language": "en"}
    lines = [f"{key}: {value}\n" for key, value in head.items() if f"\n{key}:" not in f"\n{body}"]
    return loader.load({f"machines/{name}.yaml": "".join(lines) + body})


class Client:
    """Plays one session against a runtime, as a client would."""

    def __init__(self, runtime: Runtime, session_id: str = "s1") -> None:
        self.runtime = runtime
        self.session_id = session_id

    async def send(self, event: str | None = None, option: int | None = None, role: str = "player", **more: Any) -> Any:
        """Send an event or choose an option by its id; the answer's data."""
        invoke = Invoke(session_id=self.session_id, event=event, selected_option_id=option, **more)
        played = await play(self.runtime, invoke, role)  # type: ignore[arg-type]
        return msgspec.json.decode(played.data)

    async def choose(self, key: str, **more: Any) -> Any:
        """Choose an offered option by its key or kind."""
        offer = (await self.session()).offer
        found = {each.key or each.kind: each.id for each in offer}
        assert key in found, f"no option '{key}'; offered: {', '.join(found) or 'none'}"
        return await self.send(option=found[key], **more)

    async def session(self) -> Session:
        """The session as the journal has it."""
        head = await self.runtime.store.head(self.session_id)
        assert head is not None
        return head.after

    async def journal(self) -> list[bytes]:
        """Every entry's bytes, to compare before and after."""
        return [msgspec.json.encode(entry) for entry in await self.runtime.store.entries(self.session_id, limit=10_000)]


@pytest.fixture(autouse=True)
def heard(request: pytest.FixtureRequest) -> None:
    """Warnings reach `caplog`, whatever level a command that ran in this process has left behind."""
    if "caplog" in request.fixturenames:
        request.getfixturevalue("caplog").set_level(logging.WARNING)


@pytest.fixture
def clock() -> list[int]:
    """The time in ms that runtimes read: change `clock[0]`."""
    return [1_750_000_000_000]


@pytest.fixture
def start(clock: list[int]) -> Callable[..., Any]:
    """A runtime in memory to play with; `answers` script its narrator, else it is offline."""

    async def started(*machines: Machine, answers: list[Any] | None = None, **more: Any) -> Client:
        numbers = iter(range(1, 1_000_000))
        runtime = Runtime(
            MemoryStore(),
            Offline() if answers is None else Scripted(answers, fill=True),
            {machine.name: machine for machine in machines},
            machines[0].name,
            clock_ms=lambda: clock[0],
            new_id=lambda: f"made-{next(numbers)}",
            **more,
        )
        await runtime.open()
        return Client(runtime)

    return started
