"""Clients that play sessions at once, retry as the contract says, and log what they sent and heard.

    log = Log()
    await play(log, ask, chance)

`ask` sends one request: `await ask(method, path, json, headers)` gives an httpx.Response, or raises
httpx.TransportError where nothing was heard; then the client sends the same again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import msgspec
from history_check import OK, Log, Sent
from msgspec import Struct

Ask = Callable[[str, str, Any, Mapping[str, str]], Awaitable[httpx.Response]]

TRIES = 4_000
ROUNDS = """
machine: rounds
title: {zh: 巡夜, en: The Rounds}
language: zh
initial: {event: INIT, target: GATE}
context: {steps: {type: int, default: 0, min: 0, max: 1000000, show: true}, luck: {type: int, default: 0, show: true}}
states:
  GATE:
    options:
      - key: up
        text: {zh: 上城楼, en: Climb the tower}
        dice: {luck: 1d20}
        edges:
          - {name: well, guard: dice.luck >= 8, target: TOWER, assign: {steps: steps + 1, luck: dice.luck}}
          - {name: ill, target: GATE, assign: {luck: dice.luck}}
      - {key: yard, text: {zh: 去院子, en: Cross the yard}, target: YARD, assign: {steps: steps + 1}}
  TOWER:
    options:
      - {key: down, text: {zh: 下来, en: Come down}, target: GATE, assign: {steps: steps + 1}}
      - {key: look, text: {zh: 看看, en: Look out}, target: TOWER}
  YARD:
    options:
      - {key: back, text: {zh: 回门口, en: Go back}, target: GATE, assign: {steps: steps + 1}}
      - {key: on, text: {zh: 往前走, en: Walk on}, target: TOWER, assign: {steps: steps + 1}}
      - {key: out, text: {zh: 出去, en: Leave}, guard: steps < 0, target: OUT}
  OUT: {type: final}
"""
"""A machine that goes on for as long as anyone plays: three states, and a die that decides an edge."""


class Plan(Struct, frozen=True, kw_only=True):
    """How much is played, and how. Shares are of all that a client wants, from 0 to 1.

    `doubled`: sent twice at once with one key. `again`: sent once more after its answer was heard.
    `bare`: sent without a key, and retried all the same where the server says that it failed; only
    right where a failure means that nothing was changed. `seen`: with the head turn last heard.
    `pause_s`: the seconds that a client waits before it tries again.
    """

    sessions: int = 3
    clients: int = 6
    turns: int = 10
    reads: float = 0.2
    doubled: float = 0.15
    again: float = 0.15
    bare: float = 0.1
    seen: float = 0.3
    run_seed: str = "rounds"
    pause_s: float = 0.005


class Shown(Struct):
    """How a session is shown, with its head turn's answer in its bytes."""

    answer: msgspec.Raw


class _Data(Struct):
    data: msgspec.Raw


class _ShownData(Struct):
    data: Shown


async def play(
    log: Log,
    ask: Ask,
    plan: Plan,
    chance: random.Random,
    name: str = "c",
    is_enough: Callable[[], bool] = lambda: False,
) -> None:
    """All the plan's clients at once, until each has done what it wanted, or it is enough."""
    clients = [
        Client(f"{name}{number}", log, ask, plan, chance.randrange(2**32), is_enough) for number in range(plan.clients)
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.play())


class Client:
    """One client: it does one thing after the other, and each until it is settled."""

    def __init__(
        self, name: str, log: Log, ask: Ask, plan: Plan, seed: int, is_enough: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self.log = log
        self.plan = plan
        self._ask = ask
        self._is_enough = is_enough
        self._chance = random.Random(seed)  # noqa: S311 - a play is no secret
        self.marks = iter(f"{name}.{number}" for number in range(1, 1_000_000))
        self._turns: dict[str, int] = {}

    async def play(self) -> None:
        """Play on sessions as they come; whoever comes first begins one."""
        for _ in range(self.plan.turns):
            if self._is_enough():
                return
            session_id = f"s{self._chance.randrange(self.plan.sessions)}"
            if session_id not in self._turns:
                await self.begin(session_id)
            elif self._is_meant(self.plan.reads):
                await self.read(session_id)
            else:
                await self.turn(session_id)

    async def begin(self, session_id: str) -> Sent:
        """Send the first event; that another client was first is as good."""
        mark = next(self.marks)
        seed = {"run_seed": f"{self.plan.run_seed}.{session_id}"}
        sent = await self.settle(session_id, mark, {"event": {"type": "INIT"}, "seed": seed}, key=f"key-{mark}")
        if not sent.is_answered and b'"session_exists"' in sent.data:
            self._turns[session_id] = 1
        return sent

    async def turn(self, session_id: str) -> None:
        """Choose an option, in one of the ways that the plan knows."""
        mark = next(self.marks)
        body: dict[str, Any] = {"payload": {"selected_option_id": self._chance.choice([1, 1, 2])}}
        expected = self._turns[session_id] if self._is_meant(self.plan.seen) else None
        key = None if self._is_meant(self.plan.bare) else f"key-{mark}"
        wanted = [self.settle(session_id, mark, body, key=key, expected_turn=expected)]
        if key is not None and self._is_meant(self.plan.doubled):
            wanted.append(self.settle(session_id, mark, body, key=key, expected_turn=expected))
        heard = await asyncio.gather(*wanted)
        if key is not None and heard[0].is_answered and self._is_meant(self.plan.again):
            await self.settle(session_id, mark, body, key=key, expected_turn=expected)

    async def settle(self, session_id: str, mark: str, body: Any, **how: Any) -> Sent:
        """Send one request until it is answered or refused for good; what was heard last.

        A request without a key whose answer was lost is left: nobody can say what became of it.
        """
        for _ in range(TRIES):
            sent = await self.send(session_id, mark, body, **how)
            if sent.is_answered:
                self._turns[session_id] = msgspec.json.decode(sent.data)["session"]["turn"]
                return sent
            if sent.status == 0 and sent.key is None:
                return sent
            if sent.status and msgspec.json.decode(sent.data)["retry"] != "same":
                return sent
            await asyncio.sleep(self.plan.pause_s)
        message = f"{mark} was never settled: {sent}"
        raise AssertionError(message)

    async def send(
        self, session_id: str, mark: str, body: Any, key: str | None = None, expected_turn: int | None = None
    ) -> Sent:
        """Send one request once, and log it."""
        session = {"session_id": session_id, **({} if expected_turn is None else {"expected_turn": expected_turn})}
        sent = self.log.sent(
            mark=mark, client=self.name, session_id=session_id, kind="turn", key=key, expected_turn=expected_turn
        )
        headers = {} if key is None else {"Idempotency-Key": key}
        await self._hear(
            sent, "POST", "/invoke", {**body, "session": session, "client_context": {"mark": mark}}, headers
        )
        return sent

    async def change(self, session_id: str, kind: str, body: Any, key: str) -> Sent:
        """Send a rewind, a fork or a regenerate until it is heard of."""
        for _ in range(TRIES):
            sent = self.log.sent(mark=key, client=self.name, session_id=session_id, kind=kind, key=key)
            await self._hear(sent, "POST", f"/sessions/{session_id}/{kind}", body, {"Idempotency-Key": key})
            if sent.status:
                return sent
            await asyncio.sleep(self.plan.pause_s)
        message = f"{kind} {key} was never heard of"
        raise AssertionError(message)

    async def read(self, session_id: str) -> None:
        """Look where a session stands."""
        sent = self.log.sent(mark=next(self.marks), client=self.name, session_id=session_id, kind="read")
        await self._hear(sent, "GET", f"/sessions/{session_id}", None, {})

    async def _hear(self, sent: Sent, method: str, path: str, body: Any, headers: Mapping[str, str]) -> None:
        try:
            answer = await self._ask(method, path, body, headers)
        except httpx.TransportError:
            return
        data: bytes = bytes(msgspec.json.decode(answer.content, type=_Data).data)
        if sent.kind == "read" and answer.status_code == OK:
            data = bytes(msgspec.json.decode(answer.content, type=_ShownData).data.answer)
        is_replayed = answer.headers.get("Idempotency-Replayed") == "true"
        self.log.heard(sent, answer.status_code, data, is_replayed=is_replayed)

    def _is_meant(self, share: float) -> bool:
        return self._chance.random() < share


def over(http: httpx.AsyncClient) -> Ask:
    """Ask by this HTTP client."""

    async def ask(method: str, path: str, body: Any, headers: Mapping[str, str]) -> httpx.Response:
        return await http.request(method, path, json=body, headers=headers)

    return ask
