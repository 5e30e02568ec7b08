"""A machine's `properties` over the turns of a trial: what each turn breaks, in a sentence with its place."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from runtime import properties
from runtime.bench.trial import Step
from runtime.machine import Machine
from runtime.properties import Judged, Watch
from runtime.session import Session

MAX_SHOWN = 60
"""The longest value that a sentence shows, in characters."""


class Broken(Struct, frozen=True):
    """A property that a turn has broken: its rule as it is written, what came of it, and where it stands."""

    name: str
    rule: str
    what: str
    place: str


def begun(machine: Machine, given: Session | None = None) -> Watch:
    """What is asked of a play before its first turn; `given` is where it stands then, if anywhere."""
    return properties.begun(machine) if given is None else properties.placed(machine, given)


def followed(machine: Machine, watch: Watch, step: Step) -> tuple[Watch, tuple[Broken, ...]]:
    """What is asked after a turn, and what the turn broke. Call it for every turn, the first too.

    A `never` or `always` is broken by each turn after which it doesn't stand; an `eventually` once.
    """
    watch, judged = properties.followed(machine, watch, step.after)
    return watch, tuple(_broken(each) for each in judged if each.verdict == "broken")


def _broken(judged: Judged) -> Broken:
    asked = judged.asked
    values = ", ".join(f"{name} {_shown(value)}" for name, value in judged.values.items())
    what = f"{judged.reason} ({values})" if values else judged.reason
    return Broken(asked.name, f"{asked.rule}: {asked.what.source}", what, asked.place)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
