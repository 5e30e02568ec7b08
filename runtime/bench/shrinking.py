"""A play that shows a fault, without the moves that it doesn't need. Start at `shrunk`.

What is left is short, not proven to be the shortest: no single move of it can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from runtime.bench import properties
from runtime.bench.moves import Move, tried
from runtime.bench.properties import Broken
from runtime.bench.trial import Step, Trial
from runtime.errors import Refusal
from runtime.session import Session

T = TypeVar("T")
MOST_TURNS = 10_000
"""How many turns the shrinking of one play takes at most."""
_SHORT_RUN = 3
"""Up to how many moves, every length of a run is tried: there and back again takes two."""


def shortened(
    items: Sequence[T], shown_at: Callable[[Sequence[T]], int | None], most_turns: int = MOST_TURNS
) -> list[T]:
    """Items without the runs, and then without the single ones, that what they show doesn't need.

    `shown_at` tells at which item fewer of them show it first, None where they don't; what follows is dropped.
    The first item stays.
    """
    kept, turns, width = list(items), 0, max(1, len(items) // 2)
    while width:
        start, length = len(kept) - 1 - width, len(kept)
        while start > 0:
            fewer = kept[:start] + kept[start + width :]
            turns += len(fewer)
            if turns > most_turns:
                return kept
            at = shown_at(fewer)
            if at is not None:
                kept = fewer[: at + 1]
            start = min(start - 1, len(kept) - 1 - width)
        is_again = width == 1 and len(kept) < length
        width = _SHORT_RUN if is_again else width - 1 if width <= _SHORT_RUN else max(_SHORT_RUN, width // 2)
    return kept


def shrunk(trial: Trial, moves: Sequence[Move], kind: str, what: str) -> tuple[list[Move], str]:
    """The play without the moves that aren't needed for it to go wrong in the same way, and what is wrong then.

    A property may be broken by other values then; whatever else is wrong says the same.
    """
    kept = shortened(moves, lambda fewer: shown_at(trial, fewer, kind, what))
    if kind != "property":
        return kept, what
    *_, said = _wrong(trial, kept)
    return kept, next((each for each in said if _subject(kind, each) == _subject(kind, (kind, what))), (kind, what))[1]


def shown_at(trial: Trial, moves: Sequence[Move], kind: str, what: str) -> int | None:
    """At which move a play goes wrong in the same way first; None where it doesn't, or a move before is refused."""
    subject = _subject(kind, (kind, what))
    found = enumerate(_wrong(trial, moves))
    return next((at for at, said in found if any(_subject(kind, each) == subject for each in said)), None)


Wrong = tuple[str, str]
"""How a move goes wrong, and what is said of it."""


def _subject(kind: str, wrong: Wrong) -> Wrong:
    """What must stay the same: of a property its name."""
    return (wrong[0], wrong[1].partition(":")[0]) if kind == "property" else wrong


def _wrong(trial: Trial, moves: Sequence[Move]) -> Iterator[list[Wrong]]:
    """What goes wrong at each move, up to the first that is refused or falls over."""
    session: Session | None = None
    watch = properties.begun(trial.machine)
    for move in moves:
        try:
            step = tried(trial, session, move)
        except Refusal as refusal:
            yield [("fault", refusal.message)] if refusal.code == "machine_fault" else []
            return
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            yield [("crash", f"{type(error).__name__}: {error}")]
            return
        watch, broken = properties.followed(trial.machine, watch, step)
        yield [*(("property", said_of(each)) for each in broken), *(("fault", said) for said in erred(step).values())]
        session = step.after


def said_of(broken: Broken) -> str:
    """A property that was broken, in a sentence that begins with its name."""
    return f"{broken.name}: {broken.rule}: {broken.what}"


def erred(step: Step) -> dict[str, str]:
    """The guards that erred in a turn: their edges' full names, and what is said of each."""
    return {
        each.compiled.full_name: f"edge {each.compiled.full_name}: guard `{each.guard}` {each.reason}"
        for each in (*step.considered, *step.routed)
        if each.has_erred
    }
