"""Random operations on each store, against a simple model of what must hold.

Sessions are begun, played, raced for, retried, rewound, forked, told anew, moved to another version
of their machine, deleted; the process restarts and crashes between. After each step a session
stands where the model says, offers what its branch allows, and answers old keys with their bytes;
in the end the store finds nothing wrong with itself, and every rule is played again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from conftest import SCALE, tiny
from every_store import Home, homed, in_file
from history_check import Log, check
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct, field

from runtime import errors, history
from runtime.claims import Idempotency
from runtime.migrate import migrate
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.progress import Done, Found
from runtime.session import Entry, Invoke
from runtime.turn import Played, Runtime, play
from runtime.verify import verify

MAZE = """
machine: maze
version: {version}
title: {{zh: 迷宫, en: The Maze}}
language: zh
initial: {{event: INIT, target: HALL, dice: {{omen: 1d1000}}, assign: {{luck: dice.omen}}}}
context:
  luck: {{type: int, default: 0, min: 0, max: 1000, show: true}}
  gold: {{type: int, default: 0, min: 0, max: 99, show: true}}
  mood: {{type: enum, of: [calm, tense], default: calm, show: true}}
{more}
states:
  HALL:
    options:
      - {{key: draw, text: {{zh: 打水, en: Draw}}, target: HALL, dice: {{pull: 1d1000}}, assign: {{luck: dice.pull}}}}
      - {{key: coin, text: {{zh: 捡铜钱, en: Coin}}, target: HALL, once: true, assign: {{gold: gold + 1}}}}
      - {{key: down, text: {{zh: 下去, en: Down}}, target: {cellar}}}
  {cellar}:
    options:
      - {{key: up, text: {{zh: 上来, en: Up}}, target: HALL}}
      - {{key: deeper, text: {{zh: 往里走, en: Deeper}}, target: {cellar}}}
      - {{key: sleep, text: {{zh: 睡下, en: Sleep}}, target: END_SLEEP}}
      - {{key: sun, text: {{zh: 往光里走, en: To the light}}, target: END_SUN}}
  END_SLEEP: {{type: final, ending: {{title: {{zh: 睡去, en: Asleep}}, good: false}}}}
  END_SUN: {{type: final, ending: {{title: {{zh: 天亮, en: Sun}}, good: true}}}}
"""
OLD = tiny(MAZE.format(version=1, cellar="CAVE", more="  torch: {type: int, default: 3}"), "maze")
NEW = tiny(
    MAZE.format(
        version=2, cellar="VAULT", more="migrations: [{from: 1, states: {CAVE: VAULT}, context: {mood: tense}}]"
    ),
    "maze",
)
OPEN = {
    "HALL": ["draw", "coin", "down"],
    "CAVE": ["up", "deeper", "sleep", "sun"],
    "VAULT": ["up", "deeper", "sleep", "sun"],
    "END_SLEEP": [],
    "END_SUN": [],
}
LEADS = {"draw": "HALL", "coin": "HALL", "up": "HALL", "sleep": "END_SLEEP", "sun": "END_SUN"}
NAMES = ("a", "b", "灯".encode().hex())


class Turn(Struct, frozen=True):
    """A turn as the model knows it: what it grew from, where it led, and what was answered."""

    parent: int | None
    state: str
    has_coin: bool
    version: int
    answer: bytes


class Model(Struct):
    """A session as it must be. `migrated` has the turns that no rewind may go back to any more."""

    turns: dict[int, Turn] = field(default_factory=dict)
    head: int = 0
    last: int = 0
    entries: int = 0
    state: str = ""
    version: int = 1
    migrated: set[int] = field(default_factory=set)
    keys: dict[str, tuple[Any, bytes]] = field(default_factory=dict)

    @property
    def offered(self) -> list[str]:
        """The options' keys that are open now."""
        has_coin = self.turns[self.head].has_coin
        return [key for key in OPEN[self.state] if not (key == "coin" and has_coin)]

    @property
    def is_ended(self) -> bool:
        """Whether nothing can be played."""
        return self.state.startswith("END_")

    def path(self, turn: int | None) -> list[int]:
        """The turns from the root to one, ascending."""
        found: list[int] = []
        while turn is not None:
            found.append(turn)
            turn = self.turns[turn].parent
        return found[::-1]


class Teacher(Offline):
    """Tells offline, and teaches nothing: what it says is a function of the task."""

    async def narrate(self, task: Task, release: Any) -> Narration:
        """Tell the task after letting others go first."""
        await asyncio.sleep(0)
        return await super().narrate(task, release)


class Life(RuleBasedStateMachine):
    """One journal, through whatever comes."""

    store: ClassVar[str] = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.closing = ExitStack()
        self.folder = Path(self.closing.enter_context(tempfile.TemporaryDirectory()))
        self.home: Home = self.closing.enter_context(homed(self.store, self.folder))
        self.runner = self.closing.enter_context(asyncio.Runner())
        self.now_ms = 1_750_000_000_000
        self.served = OLD
        self.sessions: dict[str, Model] = {}
        self.log = Log()
        self.count = 0
        self.runtimes: list[Runtime] = []
        self.begin()

    def begin(self) -> None:
        """As many processes as the store takes."""
        self.runtimes = [
            Runtime(self.home.store(), Teacher(), {"maze": self.served}, "maze", clock_ms=self.clock)
            for _ in range(2 if self.home.is_shared else 1)
        ]
        for runtime in self.runtimes:
            self.runner.run(runtime.open())

    def end(self) -> None:
        """All processes end well."""
        for runtime in self.runtimes:
            self.runner.run(runtime.close())

    def clock(self) -> int:
        """A clock that goes on a second whenever it is read."""
        self.now_ms += 1000
        return self.now_ms

    def teardown(self) -> None:
        """What the journal says of itself, and what the clients' log says of it."""
        try:
            self.runner.run(self.judge())
        finally:
            self.end()
            self.closing.close()

    async def judge(self) -> None:
        """Nothing is wrong: by the store's own verification, and by the checker."""
        steps = [step async for step in verify(self.runtimes[0])]
        assert [step for step in steps if isinstance(step, Found)] == []
        assert isinstance(steps[-1], Done)
        assert steps[-1].is_good
        rows = [row async for row in self.runtimes[0].store.walk()]
        assert len(rows) == sum(model.entries for model in self.sessions.values())
        assert check(self.log, rows) == []

    # What is done.

    def once(self) -> Idempotency:
        """A new key."""
        self.count += 1
        return Idempotency(key=f"a key of many characters {self.count}", request_hash=f"{self.count:064}")

    def any_runtime(self) -> Runtime:
        """One of the processes, in turn."""
        return self.runtimes[self.count % len(self.runtimes)]

    def do(self, work: Awaitable[Any]) -> Any:
        """Run something to its end."""

        async def done() -> Any:
            return await work

        return self.runner.run(done())

    def pick(self, data: Any, *, live: bool = False) -> str:
        """One of the sessions that are there, by when they began: a fork's id is nothing that could be replayed."""
        names = [name for name, model in self.sessions.items() if not (live and model.is_ended)]
        return data.draw(st.sampled_from(names), label="session")

    def noted(self, name: str, kind: str, once: Idempotency | None, played: Played) -> bytes:
        """Write into the log what a client heard."""
        sent = self.log.sent(
            mark=f"m{self.count}", client="c", session_id=name, kind=kind, key=None if once is None else once.key
        )
        self.log.heard(sent, 200, played.data, is_replayed=played.is_replayed)
        return played.data

    def invoke(self, name: str, **how: Any) -> Invoke:
        """A turn's request, with its mark."""
        return Invoke(session_id=name, client_context={"mark": f"m{self.count}"}, **how)

    def played(self, name: str, invoke: Invoke, once: Idempotency | None) -> Entry:
        """Play a turn, and let the model know."""
        played: Played = self.do(play(self.any_runtime(), invoke, once=once))
        self.noted(name, "turn", once, played)
        assert not played.is_replayed
        self.learn(name, played.entry)
        if once is not None:
            self.sessions[name].keys[once.key] = ((invoke, once), played.data)
        return played.entry

    def learn(self, name: str, entry: Entry) -> None:
        """Hold a new telling against the model, then put it in."""
        model = self.sessions[name]
        is_root = entry.parent is None
        choice = entry.outcome.choice.key
        before = model.state if not is_root else ""
        assert entry.turn == model.last + 1
        assert entry.outcome.source == before
        led = "HALL" if is_root else LEADS.get(choice, "VAULT" if model.version == 2 else "CAVE")
        assert entry.after.state == led
        has_coin = choice == "coin" or (not is_root and model.turns[model.head].has_coin)
        model.turns[entry.turn] = Turn(entry.parent, led, has_coin, model.version, bytes(entry.answer))
        model.head = model.last = entry.turn
        model.entries += 1
        model.state = led

    @rule(name=st.sampled_from(NAMES), restart=st.booleans(), keyed=st.booleans())
    def begin_a_session(self, name: str, restart: bool, keyed: bool) -> None:
        """A new session, a new root of an old one, or a refusal that changes nothing."""
        once = self.once()
        invoke = self.invoke(name, event="INIT", on_exists="restart" if restart else "refuse", run_seed=f"一.{name}")
        known = self.sessions.get(name)
        if known is not None and not restart:
            with pytest.raises(errors.SessionExists):
                self.do(play(self.any_runtime(), invoke))
            return
        model = self.sessions.setdefault(name, Model())
        model.version = int(self.served.definition.version)
        assert self.played(name, invoke, once if keyed else None).parent is None

    @precondition(lambda self: any(not model.is_ended for model in self.sessions.values()))
    @rule(data=st.data(), keyed=st.booleans(), seen=st.booleans())
    def take_a_turn(self, data: Any, keyed: bool, seen: bool) -> None:
        """One of the open options."""
        name = self.pick(data, live=True)
        model = self.sessions[name]
        head, option = model.head, data.draw(st.integers(1, len(model.offered)), label="option")
        once = self.once()
        invoke = self.invoke(name, selected_option_id=option, expected_turn=head if seen else None)
        entry = self.played(name, invoke, once if keyed else None)
        assert entry.parent == head

    @precondition(lambda self: any(not model.is_ended for model in self.sessions.values()))
    @rule(data=st.data(), rivals=st.integers(2, 4))
    def race_for_a_turn(self, data: Any, rivals: int) -> None:
        """Several at once from one head: exactly one is played."""
        name = self.pick(data, live=True)
        model = self.sessions[name]
        self.count += 1
        invoke = self.invoke(name, selected_option_id=1, expected_turn=model.head)

        async def race() -> list[Any]:
            racing = [play(self.runtimes[at % len(self.runtimes)], invoke) for at in range(rivals)]
            return await asyncio.gather(*racing, return_exceptions=True)

        outcomes = self.runner.run(race())
        (won,) = [each for each in outcomes if isinstance(each, Played)]
        assert all(isinstance(each, errors.StaleTurn | errors.TurnInProgress) for each in outcomes if each is not won)
        self.noted(name, "turn", None, won)
        self.learn(name, won.entry)

    @precondition(lambda self: any(model.keys for model in self.sessions.values()))
    @rule(data=st.data(), is_other=st.booleans())
    def send_a_key_again(self, data: Any, is_other: bool) -> None:
        """The same bytes, as often as one likes; with another body a refusal. Nothing changes."""
        name = data.draw(st.sampled_from([name for name, model in self.sessions.items() if model.keys]))
        key = data.draw(st.sampled_from(sorted(self.sessions[name].keys)))
        (request, once), heard = self.sessions[name].keys[key]
        if is_other:
            with pytest.raises(errors.IdempotencyMismatch):
                self.do(self.sent(name, request, msgspec.structs.replace(once, request_hash="f" * 64)))
            return
        again: Played = self.do(self.sent(name, request, once))
        assert again.is_replayed
        assert again.data == heard

    async def sent(self, name: str, request: Any, once: Idempotency) -> Played:
        """A request that was sent before, again."""
        runtime = self.any_runtime()
        if isinstance(request, Invoke):
            return await play(runtime, request, once=once)
        kind, at = request
        if kind == "rewind":
            return await history.rewind(runtime, name, at, once=once)
        if kind == "fork":
            return await history.fork(runtime, name, at, once=once)
        return await history.regenerate(runtime, name, once=once)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), back=st.booleans())
    def rewind(self, data: Any, back: bool) -> None:
        """Back, forward, or to another branch; where a migration stands between, a refusal."""
        name = self.pick(data)
        model = self.sessions[name]
        target = data.draw(st.sampled_from(sorted(model.turns)), label="turn")
        parent = model.turns[model.head].parent
        asked: Any = "previous" if back else target
        target = parent if back else target
        once = self.once()
        if target is None or target == model.head or target in model.migrated:
            with pytest.raises(errors.RewindRefused):
                self.do(history.rewind(self.any_runtime(), name, asked, once=once))
            return
        played: Played = self.do(history.rewind(self.any_runtime(), name, asked, once=once))
        model.keys[once.key] = ((("rewind", asked), once), self.noted(name, "rewind", once, played))
        model.head = target
        model.entries += 1
        model.state, model.version = model.turns[target].state, model.turns[target].version

    @precondition(lambda self: self.sessions and len(self.sessions) < 8)
    @rule(data=st.data(), same_dice=st.booleans())
    def fork(self, data: Any, same_dice: bool) -> None:
        """Another session that has the way to a turn; the first one stays as it is."""
        name = self.pick(data)
        model = self.sessions[name]
        at = data.draw(st.sampled_from(sorted(model.turns)), label="turn")
        once = self.once()
        played: Played = self.do(history.fork(self.any_runtime(), name, at, same_dice=same_dice, once=once))
        model.keys[once.key] = ((("fork", at), once), self.noted(name, "fork", once, played))
        model.entries += 1
        child = played.entry.child
        path = model.path(at)
        copies: list[Entry] = self.do(self.runtimes[-1].store.entries(child))
        told = [entry for entry in copies if entry.is_telling]
        assert [entry.turn for entry in told] == path
        assert copies[-1].kind == "fork"
        stands = (model.state, model.version) if at == model.head else (model.turns[at].state, model.turns[at].version)
        migrations = [entry for entry in copies if entry.kind == "migration"]
        self.sessions[child] = Model(
            turns={
                entry.turn: msgspec.structs.replace(model.turns[entry.turn], answer=bytes(entry.answer))
                for entry in told
            },
            head=at,
            last=copies[-1].next_turn - 1,
            entries=len(copies),
            state=stands[0],
            version=stands[1],
            migrated={turn for turn in path if any(turn <= migration.turn for migration in migrations)},
        )
        assert len(copies) == len(path) + len(migrations) + 1

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def tell_anew(self, data: Any) -> None:
        """The head turn as a sibling: the same outcome, another number."""
        name = self.pick(data)
        model = self.sessions[name]
        once = self.once()
        if model.head in model.migrated:
            with pytest.raises(errors.RewindRefused):
                self.do(history.regenerate(self.any_runtime(), name, once=once))
            return
        old: Entry | None = self.do(self.runtimes[-1].store.entry(name, model.head))
        played: Played = self.do(history.regenerate(self.any_runtime(), name, once=once))
        entry = played.entry
        assert old is not None
        assert (entry.kind, entry.turn, entry.parent, entry.outcome) == (
            "regenerate",
            model.last + 1,
            old.parent,
            old.outcome,
        )
        model.keys[once.key] = ((("regenerate", None), once), self.noted(name, "regenerate", once, played))
        model.turns[entry.turn] = msgspec.structs.replace(model.turns[model.head], answer=bytes(entry.answer))
        model.head = model.last = entry.turn
        model.entries += 1

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        """Gone, with its keys."""
        name = self.pick(data)
        assert self.do(history.delete(self.any_runtime(), name)) is True
        del self.sessions[name]
        self.log.requests[:] = [each for each in self.log.requests if each.session_id != name]
        assert self.do(history.delete(self.any_runtime(), name)) is False

    @rule()
    def migrate(self) -> None:
        """Serve the new version, and move all that live over to it."""
        self.end()
        self.served = NEW
        self.begin()

        async def moved() -> list[Any]:
            return [step async for step in migrate(self.any_runtime())]

        steps = self.runner.run(moved())
        moving = [model for model in self.sessions.values() if model.version == 1 and not model.is_ended]
        assert steps[-1].facts["moved"] == len(moving)
        for model in moving:
            model.version = 2
            model.entries += 1
            model.state = {"CAVE": "VAULT"}.get(model.state, model.state)
            model.migrated |= set(model.turns)

    @rule()
    def restart(self) -> None:
        """Every process ends, and others begin."""
        self.end()
        self.begin()

    @precondition(lambda self: self.store != "memory")
    @rule()
    def crash(self) -> None:
        """Processes begin on what a kill would have left: nothing was closed."""
        if self.home.is_shared:
            left, self.runtimes = self.runtimes, []
            self.begin()
        else:
            self.count += 1
            left_there = self.folder / f"left {self.count}"
            left_there.mkdir()
            for file in self.folder.glob("journal.duckdb*"):
                shutil.copy(file, left_there)
            left, self.runtimes = self.runtimes, []
            self.folder, self.home = left_there, in_file(left_there / "journal.duckdb")
            self.begin()
        for runtime in left:
            self.runner.run(runtime.close())

    # What holds all the while.

    @invariant()
    def each_session_stands_where_it_should(self) -> None:
        """Head, numbers, offer, and whether it has ended; each answer as it was given."""
        for name, model in self.sessions.items():
            head: Entry | None = self.do(self.runtimes[-1].store.head(name))
            assert head is not None
            assert (head.seq, head.turn, head.next_turn - 1) == (model.entries, model.head, model.last)
            assert (head.after.state, head.after.ended) == (model.state, model.is_ended)
            assert [option.key for option in head.after.offer] == model.offered
            assert int(head.after.version) == model.version

    @invariant()
    def answers_are_kept(self) -> None:
        """The newest turn of each session, byte for byte."""
        for name, model in self.sessions.items():
            telling: Entry | None = self.do(self.runtimes[0].store.entry(name, model.last)) if model.turns else None
            if telling is not None:
                assert bytes(telling.answer) == model.turns[model.last].answer


@pytest.mark.slow
def test_random_operations_on_memory_keep_the_promises():
    run(Life, examples=20, steps=40)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["duckdb", "duckdb with room for 3 heads", "postgres", "postgres, cluster-safe"])
def test_random_operations_keep_the_promises(name: str):
    """Through restarts and crashes; on PostgreSQL with two processes in turn."""
    run(type("Life", (Life,), {"store": name}), examples=3, steps=30)


class Keyless:
    """A store that looks no key up; all else is the store's own."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, session_id: str, **_: Any) -> Any:
        """Claim as if every key were new."""
        return await self._store.claim(session_id)


class Forgetful(Life):
    """The same life, with a fault in it."""

    def begin(self) -> None:
        """Begin on a store that forgets keys."""
        super().begin()
        for runtime in self.runtimes:
            runtime.store = Keyless(runtime.store)


def test_a_store_that_forgets_keys_does_not_live_through_it():
    """The model is no mere onlooker."""
    with pytest.raises((AssertionError, errors.Refusal)):
        run(Forgetful, examples=20, steps=40, phases=[Phase.generate], report_multiple_bugs=False, database=None)


def run(machine: type[Life], examples: int, steps: int, **more: Any) -> None:
    """Try the machine so many times."""
    few = settings(max_examples=examples * SCALE, stateful_step_count=steps, deadline=None, **more)
    run_state_machine_as_test(machine, settings=few)
