"""Replays, played: by the served turn itself, or by the rules alone, many times faster. Start at `played`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import request
from runtime.advance import Settled, arrived, route
from runtime.bench.course import SEED, SESSION, Course, Result, Sent, Verdict, given_session
from runtime.bench.expecting import Came, Difference
from runtime.bench.modes import Mode, prompt_text
from runtime.bench.replay import Parts, Replay
from runtime.bench.trial import NOTHING_LEARNED, Learned, Step, Trial, head_of, step_of
from runtime.errors import IdempotencyMismatch, Refusal
from runtime.machine import Machine
from runtime.narrators import Narrator, cassette
from runtime.narrators.cassette import Cassette
from runtime.request import Asked, Opened
from runtime.session import Entry, Invoke, Session, sealed
from runtime.stores import Row
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, brief, is_written, play

__all__ = [
    "Came",
    "Difference",
    "Result",
    "Taken",
    "Verdict",
    "played",
    "played_by_rules",
    "played_over",
    "taken_by_rules",
]

CRASH = "crash"
"""The `error` of a turn that fell over: no refusal, but a fault of ours."""
UNSEEN = "by the rules alone: texts, meta and prompts are not looked at"
_MOST_ROWS = 1_000_000


async def played(
    replay: Replay, machine: Machine, narrator: Narrator | None = None, mode: Mode = "structure"
) -> Result:
    """Play a replay as a server would, in memory, up to its first difference.

    Its steps are told as they were recorded; by `narrator`, which is open, where one is given. Nothing
    is raised for what a turn does: a crash is a difference as well.
    """
    course = Course(replay, machine, mode)
    server = _Served(machine, narrator)
    await server.open()
    try:
        course.begin(await server.placed(replay) if replay.given.state else None)
        for step in replay.steps:
            if not course.goes_on(await server.taken(course.sent(step))):
                break
    except Refusal as refusal:
        course.refuse_given(refusal)
    finally:
        await server.close()
    return course.result()


def played_by_rules(replay: Replay, machine: Machine) -> Result:
    """Play a replay by the rules alone: the same edges and states, and no word told.

    What it expects of texts, meta and prompts is not looked at; where it chooses by a text that only a
    telling has, it is skipped.
    """
    return taken_by_rules(replay, machine).result


class Taken(Struct, frozen=True):
    """A replay as it went by the rules: its result, where it was given to stand, and what each step sent."""

    result: Result
    given: Session | None
    sent: tuple[Sent, ...]


def taken_by_rules(replay: Replay, machine: Machine, given: Session | None = None) -> Taken:
    """Play a replay by the rules alone, and keep what was sent; `given` is where it stands, if that is known."""
    course, ruled = Course(replay, machine), _Ruled(machine)
    try:
        if given is not None or replay.given.state:
            given = ruled.stands(given) if given is not None else ruled.placed(replay)
        course.begin(given)
    except Refusal as refusal:
        course.refuse_given(refusal)
        return Taken(course.result(UNSEEN), None, ())
    return _gone_on(replay, course, ruled, given, ())


def _gone_on(replay: Replay, course: Course, ruled: _Ruled, given: Session | None, before: tuple[Sent, ...]) -> Taken:
    """Take the steps that are left of a replay."""
    taken = [*before]
    for step in replay.steps[len(before) :]:
        sent = course.sent(step)
        if ruled.can_not_read(sent):
            reason = "chooses by a text that only a telling has"
            return Taken(Result(replay=replay, verdict="skipped", reason=reason), given, tuple(taken))
        taken.append(sent)
        if not course.goes_on(ruled.taken(sent)):
            break
    return Taken(course.result(UNSEEN), given, tuple(taken))


def played_over(before: Taken, machine: Machine, may_differ: Callable[[Session | None, Came], bool]) -> Result:
    """Play a replay that has passed on a machine which differs a little: the same as `played_by_rules`, but faster.

    As long as all comes as it came before, only the turns that `may_differ` are taken: it is asked with
    the session that a step found and with what came of it.
    """
    replay, came = before.result.replay, before.result.came
    if any(step.key is not None for step in replay.steps) or not _stands_as(before, machine):
        return played_by_rules(replay, machine)
    session = before.given
    for index, (sent, each) in enumerate(zip(before.sent, came, strict=True)):
        if may_differ(session, each):
            ruled = _Ruled(machine)
            ruled.stands(session)
            if not _is_same(ruled.taken(sent), each):
                return _parted(before, machine, index, session)
        session = each.session
    return before.result


def _stands_as(before: Taken, machine: Machine) -> bool:
    """Whether the replay is given to stand where it stood."""
    if not before.result.replay.given.state:
        return True
    try:
        return given_session(before.result.replay, machine) == before.given
    except Refusal:
        return False


def _is_same(one: Came, other: Came) -> bool:
    """Whether all that a replay can see of two comings is the same, and what comes after them too."""
    outcomes = [None if each.turn is None else each.turn.outcome for each in (one, other)]
    return (
        outcomes[0] == outcomes[1]
        and (one.error, one.refusal) == (other.error, other.refusal)
        and one.session == other.session
    )


def _parted(before: Taken, machine: Machine, index: int, session: Session | None) -> Result:
    """The replay, played from the step on that comes otherwise."""
    replay = before.result.replay
    course, ruled = Course(replay, machine), _Ruled(machine)
    course.begin(before.given)
    ruled.stands(session)
    for sent, came in zip(before.sent[:index], before.result.came[:index], strict=True):
        course.sent(sent.step)
        course.goes_on(came)
    return _gone_on(replay, course, ruled, before.given, before.sent[:index]).result


def _refused(sent: Sent, refusal: Refusal, session: Session | None) -> Came:
    told = {"error": refusal.code, "message": refusal.message, "hint": refusal.hint, **refusal.facts}
    return Came(number=sent.number, step=sent.step, error=refusal.code, session=session, refusal=told)


def _crashed(sent: Sent, error: Exception, session: Session | None) -> Came:
    told = {"error": CRASH, "message": f"{type(error).__name__}: {error}", "hint": "This is a fault of Edgewise."}
    return Came(number=sent.number, step=sent.step, error=CRASH, session=session, refusal=told)


class _Served:
    """A runtime of its own for one replay: in memory, its clock standing still."""

    def __init__(self, machine: Machine, narrator: Narrator | None) -> None:
        self._machine = machine
        self._cassette = Cassette(narrator)
        self._store = MemoryStore()
        self._runtime = Runtime(
            self._store, self._cassette, {machine.name: machine}, machine.name, clock_ms=lambda: 0, new_id=lambda: SEED
        )
        self._session: Session | None = None
        self._rows: list[Row] = []

    async def open(self) -> None:
        await self._runtime.open()

    async def close(self) -> None:
        await self._runtime.close()

    async def placed(self, replay: Replay) -> Session:
        """Stand where the replay is given to. Raises Refusal where it can't."""
        self._session = given_session(replay, self._machine)
        await self._store.append(sealed(head_of(self._session)))
        self._rows = await self._store.rows(SESSION)
        return self._session

    async def taken(self, sent: Sent) -> Came:
        """Take a step, as often as it says."""
        came, told = await self._once(sent)
        for _ in range(sent.step.times - 1):
            if (await self._once(sent))[1] != told:
                return replace(came, broken=("times", "the same request was answered otherwise when it was sent again"))
        if came.error is None:
            self._rows += await self._store.rows(SESSION, after=len(self._rows))
        elif await self._store.rows(SESSION, limit=_MOST_ROWS) != self._rows:
            return replace(came, broken=("unchanged", "the refusal left an entry in the journal"))
        return came

    async def _once(self, sent: Sent) -> tuple[Came, bytes]:
        """What came of a request, and the bytes that it was answered with."""
        before = self._session
        self._cassette.put(sent.step.narrate)
        try:
            answered = await play(self._runtime, sent.invoke, "operator", sent.once)
        except Refusal as refusal:
            came = _refused(sent, refusal, before)
            return came, msgspec.json.encode(came.refusal)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is what a tester looks for
            came = _crashed(sent, error, before)
            return came, msgspec.json.encode(came.refusal)
        entry = answered.entry
        if not answered.is_replayed:
            self._session = entry.after
        came = Came(
            number=sent.number,
            step=sent.step,
            answer=msgspec.json.decode(answered.data),
            session=entry.after,
            turn=None if answered.is_replayed else self._step(before, entry, sent.invoke),
            entry=entry,
            is_replayed=answered.is_replayed,
            prompt=None if self._cassette.task is None else prompt_text(self._cassette.task.messages),
        )
        return came, bytes(answered.data)

    def _step(self, before: Session | None, entry: Entry, invoke: Invoke) -> Step:
        found = before or request.begin(self._machine, invoke, SESSION, lambda: SEED, 0).session
        return step_of(self._machine, found, entry)


class _Ruled:
    """The rules alone: what a journal would keep of a session, without one."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._trial = Trial(machine)
        self._session: Session | None = None
        self._keyed: dict[str, tuple[str, Came]] = {}

    def placed(self, replay: Replay) -> Session:
        """Stand where the replay is given to. Raises Refusal where it can't."""
        self._session = given_session(replay, self._machine)
        return self._session

    def stands(self, session: Session | None) -> Session | None:
        """Stand where a session is known to; None = nothing has begun."""
        self._session = session
        return session

    def can_not_read(self, sent: Sent) -> bool:
        """Whether an option is chosen by a text which is not the machine's own."""
        chosen, session = sent.step.choose, self._session
        if chosen is None or chosen.text is None or session is None:
            return False
        return sent.invoke.selected_option_id not in {each.id for each in session.offer}

    def taken(self, sent: Sent) -> Came:
        """Take a step; sent again it would be answered the same."""
        try:
            came = self._answered(sent) or self._played(sent)
        except Refusal as refusal:
            return _refused(sent, refusal, self._session)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is what a tester looks for
            return _crashed(sent, error, self._session)
        if sent.once is not None:
            self._keyed.setdefault(sent.once.key, (sent.once.request_hash, came))
        return came

    def _answered(self, sent: Sent) -> Came | None:
        """What the key was answered with before. Raises IdempotencyMismatch."""
        if sent.once is None or sent.once.key not in self._keyed:
            return None
        request_hash, came = self._keyed[sent.once.key]
        if request_hash != sent.once.request_hash:
            raise IdempotencyMismatch("this key was sent before with another request", "Use a new key.")
        return replace(came, number=sent.number, step=sent.step, is_replayed=True)

    def _played(self, sent: Sent) -> Came:
        turn = self._turn(sent.invoke, _taught(sent.step.narrate))
        self._session = turn.after
        return Came(number=sent.number, step=sent.step, session=turn.after, turn=turn)

    def _turn(self, invoke: Invoke, learned: Learned) -> Step:
        session, machine = self._session, self._machine
        if session is None:
            return self._trial.begin(invoke, learned)
        if request.is_first_event(machine, session, invoke):
            request.begin_again({machine.name: machine}, machine, invoke, head_of(session), lambda: SEED, 0)
        return self._trial.take(session, invoke, learned)


def _taught(answer: Parts | None) -> Learned:
    """What a model's answer teaches, judged as a turn judges it where anything hangs on it."""
    if answer is None:
        return NOTHING_LEARNED

    def taught(opened: Opened, settled: Settled, asked: Asked) -> Mapping[str, Any]:
        is_refusing = opened.machine.definition.on_failure == "refuse"
        if not settled.compiled.learn and not is_refusing:
            return NOTHING_LEARNED
        preview = route(opened.machine, arrived(settled.session), opened.dice)
        task = brief(opened, settled, asked, preview.offer)
        return NOTHING_LEARNED if is_written(task) else cassette.tell(task, answer).learned

    return taught
