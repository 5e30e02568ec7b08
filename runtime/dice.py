"""Dice without chance: a pure function of where and when they are rolled.

A retry or a rewind rolls the same; an unrelated edit of the machine moves no die, because each
is keyed by names, never by a position in a stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from runtime.model import Die, LongDie, dice_parts
from runtime.session import Rolled, canonical

Key = tuple[str | int, ...]
"""(run_seed, salt, step, state, event, option, name)."""


def spec_of(die: Die) -> str:
    """The die as a player may read it: `1d20`, `30%` or `pick`."""
    if isinstance(die, LongDie):
        return die.roll or "pick"
    return die


def roll(name: str, die: Die, key: Key) -> Rolled:
    """Roll a die: an int for `NdM`, a bool for `P%`, one of the strings for `pick`."""
    stream = _numbers((*key, name))
    secret = isinstance(die, LongDie) and die.secret
    return Rolled(name, spec_of(die), _value(die, stream), secret)


def fixed(name: str, die: Die, value: bool | int | str) -> Rolled:  # noqa: FBT001 - what a die shows
    """A die that shows what a replay says."""
    return Rolled(name, spec_of(die), value, isinstance(die, LongDie) and die.secret)


def unfit(die: Die, value: object) -> str:
    """Why a die can't show a value; '' where it can."""
    if isinstance(die, LongDie) and die.pick is not None:
        return "" if value in die.pick else f"shows one of {', '.join(die.pick)}"
    parts = dice_parts(spec_of(die))
    if isinstance(parts, int):
        possible = {0: [False], 100: [True]}.get(parts, [False, True])
        shown = " or ".join(str(each).lower() for each in possible)
        return "" if isinstance(value, bool) and value in possible else f"{spec_of(die)} shows {shown}"
    low, high = bounds_of(parts)
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return "" if fits else f"{spec_of(die)} shows {low} to {high}"


def bounds_of(parts: tuple[int, int, int]) -> tuple[int, int]:
    """The least and the most that `NdM+K` shows, from (N, M, K)."""
    count, sides, plus = parts
    return count + plus, count * sides + plus


def _value(die: Die, stream: Iterator[int]) -> bool | int | str:
    if isinstance(die, LongDie) and die.pick is not None:
        return die.pick[_below(len(die.pick), stream)]
    parts = dice_parts(spec_of(die))
    if isinstance(parts, int):
        return _below(100, stream) < parts
    count, sides, plus = parts
    return sum(_below(sides, stream) + 1 for _ in range(count)) + plus


def draw(wanted: int, among: list[str], key: Key) -> list[str]:
    """Draw some of a few names without putting back, in the order that they were given."""
    stream = _numbers(key)
    left = list(among)
    drawn = {left.pop(_below(len(left), stream)) for _ in range(min(wanted, len(among)))}
    return [name for name in among if name in drawn]


def between(low: int, high: int, key: Key) -> int:
    """A whole number from low to high, both included."""
    return low + _below(high - low + 1, _numbers(key))


def _numbers(key: Key) -> Iterator[int]:
    """Numbers below 2**32: SHA-256 over the key and a counter."""
    seed = canonical(key)
    counter = 0
    while True:
        block = hashlib.sha256(seed + counter.to_bytes(8, "big")).digest()
        for start in range(0, 32, 4):
            yield int.from_bytes(block[start : start + 4], "big")
        counter += 1


def _below(bound: int, stream: Iterator[int]) -> int:
    """A number below bound, each as likely: those past the last whole multiple are rejected."""
    limit = 2**32 - 2**32 % bound
    return next(number for number in stream if number < limit) % bound
