"""Replays played against a server elsewhere, by the requests that any client sends: `edgewise replay --url`.

A server rolls its own dice, tells in its own words and begins every session anew. What needs more
than that is skipped and says why; everything else is held to what its file expects, and what of it
can't be seen from outside is named.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from runtime.bench.course import Course, Result, Sent
from runtime.bench.expecting import Came
from runtime.bench.player import played_by_rules
from runtime.bench.replay import Expect, Replay, ReplayStep, fixed_dice
from runtime.machine import Machine
from runtime.session import Constraints, Invoke, Offer, Routing, Session
from server.owner import Owner
from server.tend.reading import path_of

LONGEST_WAIT_S = 60
"""Seconds that a server may ask a client to wait, before that counts as its answer."""
_TRIES = 5
_OF_THE_MACHINE = frozenset({"ending", "status", "outcome", "routing"})
"""The parts of an answer that no model tells."""


class Shown(Result, frozen=True, kw_only=True):
    """What came of a replay as far as a server shows it; `not_looked_at` is what it doesn't show."""

    not_looked_at: tuple[str, ...] = ()


async def played_at(owner: Owner, replay: Replay, machine: Machine) -> Result:
    """Play a replay on a server, up to its first difference; `machine` is the project's own.

    The session is deleted afterwards where the token may, unless it went otherwise than expected: then
    its id is the result's reason. Raises Refused where no server answers.
    """
    if why := why_not(replay, machine):
        return Result(replay=replay, verdict="skipped", reason=why)
    course = Course(replay, machine)
    server = _Elsewhere(owner, machine, f"replay-{secrets.token_hex(8)}")
    course.begin(None)
    for step in replay.steps:
        if not course.goes_on(await server.taken(course.sent(step))):
            break
    result = course.result()
    if result.verdict != "failed":
        await server.forget()
    return _shown(result, owner, server)


def _shown(result: Result, owner: Owner, server: _Elsewhere) -> Shown:
    """The result with where it is to be seen, and what wasn't."""
    unseen = (*server.unseen, *(["properties"] if server.has_properties else []))
    where = f"session {server.session_id} at {owner.where}" if result.verdict == "failed" else result.reason
    reasons = [where, f"not looked at: {', '.join(unseen)}" if unseen else ""]
    parts = {name: getattr(result, name) for name in Result.__struct_fields__}
    return Shown(**{**parts, "reason": "; ".join(filter(None, reasons))}, not_looked_at=unseen)


def why_not(replay: Replay, machine: Machine) -> str:
    """Why a server can't be asked to play this; '' where it can."""
    if replay.given.state is not None:
        return "it begins in a given state"
    if any(step.narrate is not None for step in replay.steps):
        return "it brings what a model answers"
    if any(step.dice for step in replay.steps) and not _rolls_so(replay, machine):
        return "it fixes dice that its seed doesn't roll"
    return ""


def _rolls_so(replay: Replay, machine: Machine) -> bool:
    """Whether the seed alone rolls what the replay fixes, as in a recording."""
    free = tuple(replace(step, dice={}, expect=Expect(error=step.expect.error)) for step in replay.steps)
    came = played_by_rules(replace(replay, steps=free, xfail=None), machine).came
    return len(came) == len(free) and all(
        _is_rolled(step, _rolled(each)) for each, step in zip(came, replay.steps, strict=True)
    )


def _is_rolled(step: ReplayStep, rolled: Mapping[str, Any]) -> bool:
    """Whether the dice that a step fixes showed that; what it leaves open may fall as it will."""
    return all(name in rolled and rolled[name] == value for name, value in step.dice.items())


def _rolled(came: Came) -> dict[str, Any]:
    """What the dice of a turn showed, as a recording has it."""
    return {} if came.turn is None else fixed_dice(came.turn.outcome.dice, came.turn.after.offer)


class _Elsewhere:
    """One session on a server, as a replay plays it."""

    def __init__(self, owner: Owner, machine: Machine, session_id: str) -> None:
        self._owner = owner
        self._machine = machine
        self.session_id = session_id
        self._session: Session | None = None
        self._is_whole = False
        self._unseen: dict[str, None] = {}
        self.has_properties = bool(machine.definition.properties)

    @property
    def unseen(self) -> tuple[str, ...]:
        """What was expected, and can't be judged by what the server shows."""
        return tuple(self._unseen)

    async def taken(self, sent: Sent) -> Came:
        """Take a step, as often as it says."""
        before = await self._shown()
        body = self._body(sent.invoke)
        told = await self._sent(body, sent)
        for _ in range(sent.step.times - 1):
            again = await self._sent(body, sent)
            if _without_id(again) != _without_id(told):
                why = "the same request was answered otherwise when it was sent again"
                return replace(await self._came(sent, told), broken=("times", why))
        came = await self._came(sent, told)
        if came.error is not None and await self._shown() != before:
            return replace(came, broken=("unchanged", "the session stands otherwise after the refusal"))
        return came

    async def _sent(self, body: Mapping[str, Any], sent: Sent) -> bytes:
        """The envelope that answers a request; sent again where the server asks to wait a little."""
        key = sent.once.key if sent.once else None
        told = b""
        for _ in range(_TRIES):
            told = await self._owner.exchange("POST", "/invoke", body, key=key)
            wait_s = _decode(told)["data"].get("retry_after_seconds") or 0
            if not 0 < wait_s <= LONGEST_WAIT_S or sent.step.expect.error is not None:
                break
            await asyncio.sleep(wait_s)
        return told

    async def _came(self, sent: Sent, told: bytes) -> Came:
        envelope = _decode(told)
        if envelope["code"]:
            refusal = {"message": envelope["message"], **envelope["data"]}
            error = refusal["error"]
            step = self._seen(sent.step, self._session)
            return Came(number=sent.number, step=step, error=error, session=self._session, refusal=refusal)
        answer = envelope["data"]
        self._session = await self._standing(answer)
        step = self._seen(sent.step, self._session)
        if answer["payload"]["meta"]["ai_generated"]:
            step = self._without_prose(step)
        return Came(number=sent.number, step=step, answer=answer, session=self._session)

    def _seen(self, step: ReplayStep, session: Session | None) -> ReplayStep:
        """The step without what it expects of variables that the server keeps to itself, which is noted."""
        known, told = {} if session is None else session.context, self._told()
        return self._less(step, context={name for name in step.expect.context if name not in {*known, *told}})

    def _told(self) -> set[str]:
        """The variables that the server tells of this session if it has them at all."""
        variables = self._machine.definition.context.items()
        return {name for name, each in variables if each.show or (self._is_whole and not each.secret)}

    def _without_prose(self, step: ReplayStep) -> ReplayStep:
        """The step without what it expects of a model's words: the server's own told it, which no file knows."""
        texts = {path for path in step.expect.texts if path.partition(".")[0] not in _OF_THE_MACHINE}
        return self._less(step, texts=texts, meta=set(step.expect.meta))

    def _less(self, step: ReplayStep, **unseen: Collection[str]) -> ReplayStep:
        """The step without some of its expectations, which are noted."""
        kept: dict[str, Any] = {}
        for part, names in unseen.items():
            expected = getattr(step.expect, part)
            self._unseen |= {name if part == "texts" else f"{part}.{name}": None for name in expected if name in names}
            kept[part] = {name: value for name, value in expected.items() if name not in names}
        return replace(step, expect=replace(step.expect, **kept))

    async def _standing(self, answer: Mapping[str, Any]) -> Session:
        """The session as the server tells it: variables that it doesn't tell are not there."""
        told, payload = answer["session"], answer["payload"]
        context = (await self._shown() or {}).get("context")
        self._is_whole = context is not None
        if context is None:
            context = {name: shown["value"] for name, shown in payload["status"].items()}
        return Session(
            session_id=self.session_id,
            machine=told["machine"],
            version=told["version"],
            digest="",
            run_seed=told["run_seed"],
            constraints=Constraints(told["language"]),
            state=told["state"],
            turn=told["turn"],
            step=told["step"],
            ended=told["ended"],
            context=context,
            offer=tuple(msgspec.convert(each, Offer) for each in payload["options"]),
            routing=msgspec.convert(payload["routing"], Routing),
        )

    async def _shown(self) -> Mapping[str, Any] | None:
        """Where the session stands by the server's word; None where there is none yet."""
        envelope = _decode(await self._owner.exchange("GET", path_of(self.session_id)))
        return None if envelope["code"] else envelope["data"]

    def _body(self, invoke: Invoke) -> dict[str, Any]:
        """A request of the contract's shape."""
        begins = {} if self._session else {"machine": self._machine.name}
        first = {"player_count": invoke.player_count, "difficulty": invoke.difficulty}
        chosen = invoke.selected_option_id
        return {
            "session": {"session_id": self.session_id, **begins, **first},
            "time": _told({name: getattr(invoke, name) for name in ("hard_limit_seconds", "elapsed_active_seconds")}),
            "constraints": dict(invoke.constraints),
            "slots": dict(invoke.slots),
            "payload": {**invoke.payload, **({} if chosen is None else {"selected_option_id": chosen})},
            **({} if invoke.event is None else {"event": {"type": invoke.event}}),
            **({} if invoke.run_seed is None else {"seed": {"run_seed": invoke.run_seed}}),
        }

    async def forget(self) -> None:
        """Delete the session, where the token may."""
        await self._owner.exchange("DELETE", path_of(self.session_id))


def _told(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value is not None}


def _decode(told: bytes) -> Any:
    return msgspec.json.decode(told)


def _without_id(told: bytes) -> bytes:
    """An answer without what names the request, which no two have in common."""
    envelope = _decode(told)
    if not envelope["code"]:
        return told
    return msgspec.json.encode({**envelope, "data": {**envelope["data"], "request_id": ""}})
