"""How a replay goes, step by step: what it sends, whether what came is what it expects, and how it came out.

It plays nothing itself: the turn that is served, the rules alone and a server elsewhere are all led by it.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime.bench import properties
from runtime.bench.expecting import Came, Difference, difference, in_language
from runtime.bench.modes import Mode, drift
from runtime.bench.replay import Chosen, Expect, Given, Replay, ReplayStep
from runtime.bench.trial import placed
from runtime.claims import Idempotency
from runtime.errors import Refusal, ValidationError
from runtime.machine import Machine
from runtime.session import Invoke, Offer, Session, sha256_of

Verdict = Literal["passed", "failed", "xfailed", "xpassed", "skipped"]
SESSION = "replay"
"""The id of the session that a replay plays."""
SEED = "replay"
"""The run seed where a replay gives none: the same dice every time."""


class Result(Struct, frozen=True, kw_only=True):
    """What came of a replay: the steps up to the first difference.

    `reason` says why it is known to fail, was skipped, or what was not looked at. `xpassed` is a failure.
    """

    replay: Replay
    verdict: Verdict
    difference: Difference | None = None
    came: tuple[Came, ...] = ()
    reason: str = ""
    mode: Mode = "structure"

    @property
    def is_good(self) -> bool:
        """Whether it came as its file says."""
        return self.verdict in ("passed", "xfailed", "skipped")

    def __repr__(self) -> str:
        """In a line: asyncio spells out what a task came to, which with all its sessions takes longer than the play."""
        return f"<{self.verdict}: {self.replay.id}>"


class Sent(Struct, frozen=True, kw_only=True):
    """One step as it is sent: its number from 1, the request, and the key that comes with it."""

    number: int
    step: ReplayStep
    invoke: Invoke
    once: Idempotency | None


class Course:
    """What a replay sends step by step, and how it comes along; it ends at the first difference."""

    def __init__(self, replay: Replay, machine: Machine, mode: Mode = "structure") -> None:
        """Take a replay up; nothing is sent yet."""
        self._replay, self._machine, self._mode = replay, machine, mode
        self._session: Session | None = None
        self._elapsed_ms = 0
        self._keyed: dict[str, tuple[ReplayStep, Invoke]] = {}
        self._came: list[Came] = []
        self._difference: Difference | None = None
        self._taught: dict[str, Any] = {}
        self._apart = 0
        self._ambiguous = ""
        self._watch = properties.begun(machine)

    def begin(self, given: Session | None) -> None:
        """Begin where the replay is given to stand; None = anew."""
        self._session = given
        self._watch = properties.begun(self._machine, given)

    def sent(self, step: ReplayStep) -> Sent:
        """The next step's request. The same step under the same key is the same request, as a retry is."""
        self._elapsed_ms += step.after_ms
        self._ambiguous = _ambiguous(step.choose, self._session)
        invoke = self._invoke(step)
        if step.key is None:
            return Sent(number=len(self._came) + 1, step=step, invoke=invoke, once=None)
        before, sent = self._keyed.setdefault(step.key, (step, invoke))
        if sent is not invoke and _asks_as(before, step):
            # It is sent as it was: what its words would mean by now is nothing to it.
            invoke, self._ambiguous = sent, ""
        once = Idempotency(key=step.key, request_hash=sha256_of(replace(invoke, dice={})), wait_s=0)
        return Sent(number=len(self._came) + 1, step=step, invoke=invoke, once=once)

    def _invoke(self, step: ReplayStep) -> Invoke:
        session = self._session
        first = _first(self._replay.given, self._machine) if session is None else Invoke()
        chosen = step.choose
        event = self._machine.definition.first.event if session is None and chosen is None else None
        return replace(
            first,
            session_id=SESSION,
            event=step.send if step.send is not None else event,
            selected_option_id=None if chosen is None else _option(chosen, session),
            payload=step.with_,
            constraints={**first.constraints, **step.constraints},
            elapsed_active_seconds=_seconds(self._elapsed_ms),
            dice=step.dice,
        )

    def goes_on(self, came: Came) -> bool:
        """Take note of what came; False once something is otherwise than expected."""
        if self._ambiguous:
            came = replace(came, broken=("choose", self._ambiguous))
        self._came.append(came)
        if not came.is_replayed:
            self._session = came.session
        self._difference = self._judged(came)
        return self._difference is None

    def _judged(self, came: Came) -> Difference | None:
        language = came.session.constraints.language if came.session else self._machine.definition.language
        expect = came.step.expect
        if self._mode == "rerun":
            expect = Expect() if self._apart else self._without_prose(came, expect)
            # What is kept of the run expects what was looked at, and no more.
            self._came[-1] = replace(came, step=replace(came.step, expect=expect))
            if expect == Expect():
                return self._unkept(came)
        found = difference(came, expect, self._machine, language) or self._broken(came)
        return found or self._drifted(came) or self._unkept(came)

    def _broken(self, came: Came) -> Difference | None:
        if came.turn is None or came.is_replayed:
            return None
        self._watch, broken = properties.followed(self._machine, self._watch, came.turn)
        for each in broken:
            return Difference(
                came.number, f"properties.{each.name}", each.rule, each.what, f"it stands at {each.place}"
            )
        return None

    def _without_prose(self, came: Came, expect: Expect) -> Expect:
        """What is left of an expectation where a model tells anew: neither its words nor what it teaches.

        Where it taught otherwise what a rule reads, other ways may be open from there than the recorded one.
        """
        edges = [self._machine.initial, *(each for row in self._machine.table.values() for each in row)]
        taught = {rule.name for each in edges for rule in each.learn}
        context = {name: value for name, value in expect.context.items() if name not in taught}
        self._taught |= {name: value for name, value in expect.context.items() if name in taught}
        known = came.session.context if came.session is not None else {}
        otherwise = {name for name, value in self._taught.items() if known.get(name, value) != value}
        if otherwise & _read_by_rules(self._machine):
            self._apart = came.number
            expect = replace(expect, next=None, allowed=None, should_end=None, options=None)
        return replace(expect, texts={}, meta={}, context=context)

    def _unkept(self, came: Came) -> Difference | None:
        """A telling anew that broke the contract: the offline narrator had to step in."""
        if self._mode != "rerun" or came.answer is None or came.prompt is None:
            return None
        meta = came.answer["payload"]["meta"]
        rungs = ", ".join(meta["rungs"])
        why = f"the model's answer broke the rules there, or none came, and it was told offline: {rungs}"
        return Difference(came.number, "meta.fallback", [], meta["fallback"], why) if meta["fallback"] else None

    def _drifted(self, came: Came) -> Difference | None:
        recorded = came.step.prompt
        if self._mode != "strict" or recorded is None or came.turn is None:
            return None
        changed = drift(recorded, came.prompt or "")
        return Difference(came.number, "prompt", recorded, came.prompt, changed) if changed else None

    def refuse_given(self, refusal: Refusal) -> None:
        """End where what is given can't be."""
        why = "\n".join([f"{refusal.message}. {refusal.hint}".strip(), *(_messages(refusal))])
        self._difference = Difference(0, "given", None, refusal.code, why)

    def result(self, reason: str = "") -> Result:
        """How it came out."""
        replay, found = self._replay, self._difference
        if self._mode == "strict" and all(step.prompt is None for step in replay.steps):
            reason = "no prompt is recorded: only the structure was looked at"
        if self._apart:
            reason = f"taught otherwise in step {self._apart}: from there only the contract was looked at"
        if replay.xfail is not None and not _is_of_file(found):
            verdict: Verdict = "xpassed" if found is None else "xfailed"
            reason = replay.xfail
        else:
            verdict = "passed" if found is None else "failed"
        return Result(
            replay=replay, verdict=verdict, difference=found, came=tuple(self._came), reason=reason, mode=self._mode
        )


def _is_of_file(found: Difference | None) -> bool:
    """Whether the file can't be played as it stands, which is never what is known to fail."""
    return found is not None and (found.step == 0 or found.field.startswith("dice."))


def _read_by_rules(machine: Machine) -> set[str]:
    """The variables that a guard, an assign or an entry reads."""
    edges = [machine.initial, *(each for row in machine.table.values() for each in row)]
    lines = [
        *(line for each in edges for line in each.assigns),
        *(line for each in machine.entries.values() for line in each),
    ]
    return {
        *(name for each in edges for guard in each.guards for name in guard.names),
        *(name for line in lines for name in line.value.names),
    }


def _messages(refusal: Refusal) -> list[str]:
    return [f"  {detail['msg']}" for detail in refusal.facts.get("details", ())]


def _asks_as(one: ReplayStep, other: ReplayStep) -> bool:
    """Whether two steps ask for the same."""
    names = ("choose", "send", "with_", "constraints")
    return all(getattr(one, name) == getattr(other, name) for name in names) and not other.after_ms


def _first(given: Given, machine: Machine) -> Invoke:
    """What begins the session that is given."""
    return Invoke(
        event=machine.definition.first.event,
        session_id=SESSION,
        run_seed=given.seed if given.seed is not None else SEED,
        slots=given.slots,
        player_count=given.player_count,
        difficulty=given.difficulty,
        hard_limit_seconds=given.hard_limit_seconds,
        constraints={**({} if given.language is None else {"language": given.language}), **given.constraints},
    )


def _seconds(ms: int) -> float:
    """The seconds that a server reads as so many ms: it cuts off what is less than one."""
    seconds = ms / 1000
    return seconds if int(seconds * 1000) == ms else math.nextafter(seconds, math.inf)


def _option(chosen: Chosen, session: Session | None) -> int:
    """The id of an option; one that was never offered where no option is meant, or more than one."""
    if chosen.id is not None:
        return chosen.id
    found = _meant(chosen, session)
    if len(found) == 1:
        return found[0].id
    return max((each.id for each in session.offer), default=0) + 1 if session is not None else 1


def _ambiguous(chosen: Chosen | None, session: Session | None) -> str:
    """What is said where an option is named so that several are meant; '' elsewhere."""
    found = _meant(chosen, session) if chosen is not None and chosen.id is None else []
    if len(found) <= 1:
        return ""
    return f"matches {' and '.join(each.text for each in found)}"


def _meant(chosen: Chosen, session: Session | None) -> list[Offer]:
    """The options that a name may mean; of a text, the one that is all of it before those that have it."""
    offer = session.offer if session is not None else ()
    language = session.constraints.language if session is not None else ""
    exact = [each for each in offer if chosen.text is not None and each.text == _words(chosen, language)]
    return exact if len(exact) == 1 else [each for each in offer if _is_meant(chosen, each, language)]


def _is_meant(chosen: Chosen, offer: Offer, language: str) -> bool:
    if chosen.key is not None:
        return offer.key == chosen.key
    if chosen.kind is not None:
        return offer.kind == chosen.kind
    words = _words(chosen, language)
    return bool(words) and words in offer.text


def _words(chosen: Chosen, language: str) -> str:
    return in_language(chosen.text, language) or "" if chosen.text is not None else ""


def given_session(replay: Replay, machine: Machine) -> Session:
    """Where the replay is given to stand. Raises Refusal where it can't."""
    given = replay.given
    if given.state not in machine.definition.states:
        raise _not_given("state", f"the machine has no state '{given.state}'")
    context = {name: _fitted(machine, name, value) for name, value in given.context.items()}
    session = placed(machine, _first(given, machine), given.state, context)
    return replace(session, session_id=SESSION)


def _fitted(machine: Machine, name: str, value: Any) -> Any:
    """A value as its variable holds it."""
    variable = machine.definition.context.get(name)
    if variable is None:
        raise _not_given(f"context.{name}", f"the machine has no variable '{name}'")
    if variable.type == "set" and isinstance(value, list):
        return [member for member in variable.of or () if member in value]
    return float(value) if variable.type == "float" and type(value) is int else value


def _not_given(path: str, message: str) -> ValidationError:
    detail = {"loc": ["given", *path.split(".")], "msg": message, "type": "given"}
    return ValidationError(message, "Mend what is given.", details=[detail])
