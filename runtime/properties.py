"""What must be true of every play: `properties`, judged turn by turn on what a session holds after each.

Play itself never asks them. Replays, exploration and `explain` do.

An `eventually` is asked from the start of the play, or from each turn after which its `when` holds
and before which it didn't. It is met by the first turn after which it holds, that turn included, and
broken where `within` more turns have passed without one, or the play has ended. While it is asked, a
`when` that becomes true again changes nothing: the earlier end is the stricter one.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from runtime.advance import scope_of
from runtime.expression import Activation, EvaluationError, Expression, activation, evaluate
from runtime.machine import Machine, Property
from runtime.session import Session

Verdict = Literal["holds", "broken", "open"]


class Watch(Struct, frozen=True):
    """What is still asked of a play, so far as its past decides. It can be a key of a map.

    `open` has the properties whose `eventually` is asked and not met, each with the turns that it has
    left; `held` those whose `when` held after the last turn.
    """

    open: tuple[tuple[str, int], ...] = ()
    held: tuple[str, ...] = ()


class Judged(Struct, frozen=True, kw_only=True):
    """One property after one turn, and what it was judged by. `reason` is '' where it isn't broken.

    `left` is how many turns an open `eventually` has left, else None.
    """

    asked: Property
    verdict: Verdict
    known: Activation
    reason: str = ""
    left: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The names that it read, with their values."""
        return {name: self.known.values[name] for name in self.asked.reads if name in self.known.values}

    def told(self) -> dict[str, Any]:
        """For `explain`: as it is written, the verdict, why, and the values."""
        asked = self.asked
        return {
            "name": asked.name,
            asked.rule: asked.what.source,
            **({} if asked.within is None else {"within": asked.within}),
            **({} if asked.when is None else {"when": asked.when.source}),
            "verdict": self.verdict,
            "reason": self.reason,
            **({} if self.left is None else {"turns_left": self.left}),
            "values": self.values,
        }


def begun(machine: Machine) -> Watch:
    """What is asked of a play before its first turn."""
    asked = (each for each in machine.properties if each.rule == "eventually" and each.when is None)
    return Watch(tuple((each.name, each.within or 0) for each in asked))


def placed(machine: Machine, session: Session) -> Watch:
    """What is asked of a play that begins where a session stands. How it stands there is nobody's fault."""
    known = activation(values_after(machine, session))
    asked = (each for each in machine.properties if each.rule == "eventually")
    held = {each.name for each in asked if each.when is not None and _holds(each.when, known)}
    waiting = [
        each
        for each in machine.properties
        if each.rule == "eventually" and (each.when is None or each.name in held) and not _holds(each.what, known)
    ]
    return Watch(tuple((each.name, each.within or 0) for each in waiting), _in_order(machine, held))


def followed(machine: Machine, watch: Watch, session: Session) -> tuple[Watch, tuple[Judged, ...]]:
    """What is asked after one more turn, which left the session so; and each property, judged on it."""
    if not machine.properties:
        return watch, ()
    known, waiting = activation(values_after(machine, session)), dict(watch.open)
    judged = tuple(
        _eventually(each, known, waiting.get(each.name), each.name in watch.held)
        if each.rule == "eventually"
        else _invariant(each, known)
        for each in machine.properties
    )
    left = tuple((each.asked.name, each.left) for each in judged if each.left is not None)
    whens = ((each.name, each.when) for each in machine.properties if each.when is not None)
    return Watch(left, tuple(name for name, when in whens if _holds(when, known))), judged


def values_after(machine: Machine, session: Session) -> dict[str, Any]:
    """What properties may read after a turn."""
    return {**scope_of(machine, session), "state": session.state, "ended": session.ended}


def _invariant(asked: Property, known: Activation) -> Judged:
    """`never` or `always`."""
    try:
        is_true = evaluate(asked.what, known)
    except EvaluationError as error:
        return _erred(asked, known, error)
    if is_true == (asked.rule == "always"):
        return Judged(asked=asked, verdict="holds", known=known)
    reason = "it holds" if is_true else "it doesn't hold"
    return Judged(asked=asked, verdict="broken", known=known, reason=reason)


def _eventually(asked: Property, known: Activation, left: int | None, was_held: bool) -> Judged:  # noqa: FBT001 - one of four values
    try:
        is_asked = left is not None or (asked.when is not None and not was_held and evaluate(asked.when, known))
        if not is_asked or evaluate(asked.what, known):
            return Judged(asked=asked, verdict="holds", known=known)
    except EvaluationError as error:
        return _erred(asked, known, error)
    remaining = (asked.within or 0) if left is None else left - 1
    if known.values["ended"]:
        return Judged(asked=asked, verdict="broken", known=known, reason="the play ended before it held")
    if remaining <= 0:
        since = "of the play" if asked.when is None else f"from where `{asked.when.source}` became true"
        reason = f"it held after none of the {asked.within} turns {since}"
        return Judged(asked=asked, verdict="broken", known=known, reason=reason)
    return Judged(asked=asked, verdict="open", known=known, left=remaining)


def _erred(asked: Property, known: Activation, error: EvaluationError) -> Judged:
    """A property that has no value says nothing of a play, and its designer must know."""
    return Judged(asked=asked, verdict="broken", known=known, reason=f"it errs: {error}")


def _holds(expression: Expression, known: Activation) -> bool:
    """Whether an expression is true; one that errs isn't."""
    try:
        return bool(evaluate(expression, known))
    except EvaluationError:
        return False


def _in_order(machine: Machine, names: set[str]) -> tuple[str, ...]:
    return tuple(each.name for each in machine.properties if each.name in names)
