"""Moving sessions to a new version of their machine: what comes along, what stays behind, and what is left alone.

The sessions are played on `before.yaml`; each other file of tests/machines/migrations is what the inn became.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import SCALE, Client
from pages import ROOT, Page

from runtime import history, loader
from runtime.advance import roll_dice
from runtime.bench.recording import recorded
from runtime.errors import MachineChanged, MachineNotFound, OptionNotOffered, RewindRefused
from runtime.explain import explain
from runtime.export import export, survey
from runtime.machine import Machine
from runtime.migrate import PAGE, SAMPLES, Moved, judged, migrate
from runtime.narrators.offline import Offline
from runtime.progress import Done, Found, Progress
from runtime.session import Entry
from runtime.stores import Claim, Store
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from runtime.verify import verify

FOLDER = Path(__file__).parent / "machines" / "migrations"
Serve = Callable[..., Any]
NONE_LEFT = dict.fromkeys(("stranded", "without_edges", "busy", "no_rule", "not_served", "ended", "current"), 0)


def inn(version: str) -> Machine:
    """One of the inn's versions."""
    return loader.load({"machines/inn.yaml": (FOLDER / f"{version}.yaml").read_text(encoding="utf-8")})


@pytest.fixture
def serve(clock: list[int]) -> Serve:
    """A runtime that serves some machines from a store, as after a restart: it has seen no other definition."""

    async def served(store: Store, *machines: Machine) -> Runtime:
        by_name = {machine.name: machine for machine in machines}
        runtime = Runtime(store, Offline(), by_name, machines[0].name, clock_ms=lambda: clock[0])
        await runtime.open()
        return runtime

    return served


async def played(runtime: Runtime, session_id: str, *choices: str, **first: Any) -> Client:
    """A session that has taken some options."""
    client = Client(runtime, session_id)
    await client.send("INIT", run_seed="one", **first)
    for choice in choices:
        await client.choose(choice)
    return client


async def told(runtime: Runtime, *args: Any, **more: Any) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """What a run said: its figures, and its findings with the sessions that they name."""
    steps = [step async for step in migrate(runtime, *args, **more)]
    assert isinstance(steps[-1], Done)
    assert all(isinstance(step, Progress | Found) for step in steps[:-1])
    found = {step.what: step.sessions for step in steps if isinstance(step, Found)}
    return {"is_good": steps[-1].is_good, **steps[-1].facts}, found


def figures(*, is_good: bool = True, dry_run: bool = False, **counts: int) -> dict[str, Any]:
    """What a run's figures should be; what isn't named is 0."""
    moved = {"would_move" if dry_run else "moved": 0}
    return {**moved, **NONE_LEFT, **counts, "is_good": is_good, "dry_run": dry_run}


async def everything(store: Store) -> list[tuple[str, int, bytes, str]]:
    """The whole journal's bytes."""
    return [(row.session_id, row.seq, row.body, row.hash) async for row in store.walk()]


async def entries(store: Store, session_id: str) -> list[Entry]:
    return await store.entries(session_id, limit=1000)


# --- what comes along ---


async def test_a_session_stands_in_its_states_new_place_and_plays_on(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime)

    assert facts == figures(moved=1)
    client = Client(runtime)
    session = await client.session()
    assert (session.state, session.version, session.digest) == ("VAULT", "第二版", inn("moved").digest)
    assert (session.turn, session.step) == (2, 2)
    assert [(each.key, each.text) for each in session.offer] == [("grab", "伸手去拿金子")]
    assert session.routing.allowed_event_types == ("HALL",)
    answer = await client.choose("grab")
    assert answer["session"]["turn"] == 3
    assert answer["session"]["version"] == "第二版"


async def test_a_move_is_an_entry_of_the_journal_and_tells_nothing(serve: Serve, clock: list[int]) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    clock[0] += 60_000
    runtime = await serve(store, inn("moved"))

    await told(runtime)
    await Client(runtime).choose("grab")

    first, second, moved, after = await entries(store, "s1")
    assert [each.kind for each in (first, second, moved, after)] == ["turn", "turn", "migration", "turn"]
    assert (moved.seq, moved.turn, moved.parent, moved.last_turn, moved.next_turn) == (3, 2, 2, 2, 3)
    assert (moved.at_ms, moved.digest, moved.prev_hash) == (clock[0], inn("moved").digest, second.hash)
    assert (moved.outcome.edge, moved.outcome.source, moved.outcome.target) == ("migration", "CELLAR", "VAULT")
    assert (moved.narration, moved.narrator, moved.key, moved.is_telling) == ({}, "", None, False)
    assert (moved.after.elapsed_ms, moved.after.answered_at_ms) == (
        second.after.elapsed_ms,
        second.after.answered_at_ms,
    )
    assert moved.request == {
        "migration": {
            "from": 1,
            "added": ["courage"],
            "dropped": ["gold"],
            "reset": ["hp", "bag"],
        }
    }
    assert {each.name: (each.before, each.after) for each in moved.outcome.changes} == {
        "hp": (9, 6),
        "bag": (["lamp", "key"], ["key"]),
    }
    assert (after.seq, after.parent, after.prev_hash) == (4, 2, moved.hash)


async def test_what_the_journal_has_of_a_move_follows_from_the_rule(serve: Serve) -> None:
    """So that a journal can be verified: the session before, in the new definition, is the session after."""
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "rage", "down")
    await told(await serve(store, inn("moved")))

    before, moved = (await entries(store, "s1"))[-2:]

    again = judged(inn("moved"), before.after)
    assert isinstance(again, Moved)
    assert again.session == moved.after
    assert again.changes == moved.outcome.changes


async def test_values_that_fit_are_kept_and_others_take_the_migrations_or_the_default(serve: Serve) -> None:
    store = MemoryStore()
    client = await played(await serve(store, inn("before")), "s1", "rage")
    await client.send("NAME", payload={"text": "阿宁 👻"})
    before = (await client.session()).context
    runtime = await serve(store, inn("moved"))

    _, found = await told(runtime)

    assert (await Client(runtime).session()).context == {
        "hp": 6,  # 9 is over the new max: the default, not the nearest that fits
        "courage": 3,  # new: the migration's value
        "luck": 2.0,  # an int is a float, too
        "bag": [],
        "mood": "tense",  # wild is no member any more: the migration's value
        "truth": before["truth"],
        "name": "阿宁 👻",
    }
    assert list(found) == [
        "inn, 1 session: 'gold' is gone, and its value with it",
        "inn, 1 session: what 'hp' held doesn't fit any more",
        "inn, 1 session: what 'mood' held doesn't fit any more",
        "inn, 1 session: 'courage' is new",
    ]


async def test_a_value_that_fits_is_kept_though_the_migration_has_one(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1")
    runtime = await serve(store, inn("moved"))

    await told(runtime)

    assert (await Client(runtime).session()).context["mood"] == "calm"


KINDS = """
version: {version}
initial: {{event: INIT, target: A, assign: {{{assign}}}}}
context: {{x: {variable}}}
{migrations}
states:
  A: {{on: {{B: B}}}}
  B: {{type: final}}
"""


@pytest.mark.parametrize(
    ("before", "assign", "after", "written", "value"),
    [
        ("{type: int}", "x: 3", "{type: int, min: 0, max: 3}", "", 3),
        ("{type: int}", "x: 4", "{type: int, min: 0, max: 3}", "", 0),
        ("{type: int}", "x: 4", "{type: int, min: 1, max: 3, default: 2}", "", 2),
        ("{type: int}", "x: -1", "{type: int, min: 0, max: 3}", "x: 1", 1),
        ("{type: int}", "x: 3", "{type: float, max: 9.5}", "", 3.0),
        ("{type: int}", "x: 30", "{type: float, max: 9.5}", "x: 1.5", 1.5),
        ("{type: float}", "x: 3.0", "{type: int}", "x: 7", 7),
        ("{type: int}", "x: 1", "{type: bool}", "", False),
        ("{type: bool}", "x: true", "{type: int}", "", 0),
        ("{type: bool}", "x: true", "{type: bool}", "x: false", True),
        ("{type: enum, of: [a, b]}", "x: b", "{type: enum, of: [b, c]}", "x: c", "b"),
        ("{type: enum, of: [a, b]}", "x: a", "{type: enum, of: [b, c]}", "", "b"),
        ("{type: enum, of: [a, b]}", "x: a", "{type: enum, of: [b, c]}", "x: c", "c"),
        ("{type: enum, of: [a, b]}", "x: a", "{type: str}", "", "a"),
        ("{type: enum, of: [a, b]}", "x: b", "{type: set, of: [a, b]}", "x: [a]", ["a"]),
        ("{type: str}", "x: '\"a\"'", "{type: enum, of: [a, b], default: b}", "", "a"),
        ("{type: str}", "x: '\"客\"'", "{type: enum, of: [a, b], default: b}", "", "b"),
        ("{type: set, of: [a, b, c]}", "x: '[a, b]'", "{type: set, of: [b, a]}", "", ["b", "a"]),
        ("{type: set, of: [a, b, c]}", "x: '[a, b]'", "{type: set, of: [b, c]}", "", ["b"]),
        ("{type: set, of: [a, b, c]}", "x: '[a, b]'", "{type: set, of: [b, c]}", "x: [c, b]", ["b", "c"]),
        ("{type: set, of: [a, b]}", "x: '[a]'", "{type: enum, of: [a, b]}", "x: b", "b"),
    ],
)
async def test_a_value_of_each_type(
    serve: Serve, before: str, assign: str, after: str, written: str, value: Any
) -> None:
    """Each old value and type against each new one; a set keeps what is left of it unless the migration says more."""
    head = "machine: tiny\ntitle: 小\nlanguage: zh\n"
    old = head + KINDS.format(version=1, assign=assign, variable=before, migrations="")
    rule = f"migrations: [{{from: 1, context: {{{written}}}}}]"
    new = head + KINDS.format(version=2, assign="", variable=after, migrations=rule)
    store = MemoryStore()
    await played(await serve(store, loader.load({"machines/tiny.yaml": old})), "s1")
    runtime = await serve(store, loader.load({"machines/tiny.yaml": new}))

    facts, _ = await told(runtime)

    assert facts == figures(moved=1)
    kept = (await Client(runtime).session()).context["x"]
    assert (kept, type(kept)) == (value, type(value))


async def test_visits_and_what_was_taken_once_go_along(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down", "back", "up", "back")
    runtime = await serve(store, inn("moved"))

    await told(runtime)

    client = Client(runtime)
    session = await client.session()
    assert session.visits == {"HALL": 3, "VAULT": 1}
    assert session.used == ("HALL.down",)
    assert [each.key for each in session.offer] == ["leave", "wait"]


async def test_a_session_has_been_where_it_stands(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "up")
    runtime = await serve(store, inn("asleep"))

    await told(runtime)

    assert (await Client(runtime).session()).visits == {"HALL": 1, "BED": 1}
    assert (await Client(runtime).choose("wake"))["session"]["state"] == "HALL"


async def test_slots_and_ai_state_are_the_new_versions(serve: Serve) -> None:
    store = MemoryStore()
    client = await played(await serve(store, inn("before")), "s1", slots={"tone": "阴森"})
    title = (await client.session()).ai_state["title"]
    runtime = await serve(store, inn("moved"))

    await told(runtime)

    session = await Client(runtime).session()
    assert session.slots == {"tone": "阴森", "hero": "无名氏", "weather": "雨"}
    assert session.ai_state == {"title": title, "courage": 3}


async def test_options_keep_to_the_sessions_own_constraints(serve: Serve) -> None:
    store = MemoryStore()
    before = await serve(store, inn("before"))
    await played(before, "short", "down", constraints={"max_chars_option": 4})
    await played(before, "term", "down", constraints={"forbidden_terms": ["金子"]})
    runtime = await serve(store, inn("moved"))

    await told(runtime)

    texts = {name: (await Client(runtime, name).session()).offer[0].text for name in ("short", "term")}
    assert texts["short"] == "拿金子"
    assert "金子" not in texts["term"]
    assert texts["term"].startswith("伸手去拿")


async def test_the_time_that_is_left_is_never_more_than_it_was(serve: Serve, clock: list[int]) -> None:
    """The turns are those of the new version, counted from the first."""
    store = MemoryStore()
    client = await played(await serve(store, inn("before")), "s1")
    clock[0] += 50_000
    await client.choose("rage")
    runtime = await serve(store, inn("third"))

    await told(runtime)

    session = await Client(runtime).session()
    assert (session.limit_ms, session.elapsed_ms, session.step) == (600_000, 50_000, 2)


async def test_the_dice_after_a_move_are_those_of_the_seed(serve: Serve) -> None:
    """Two sessions of one seed roll the same, and what the new definition rolls for that session."""
    rolls = []
    for store in (MemoryStore(), MemoryStore()):
        await played(await serve(store, inn("before")), "s1", "down")
        runtime = await serve(store, inn("moved"))
        await told(runtime)
        expected = roll_dice(inn("moved"), await Client(runtime).session(), "HALL", "grab")

        answer = await Client(runtime).choose("grab")

        assert [each["value"] for each in answer["payload"]["outcome"]["dice"]] == [each.value for each in expected]
        rolls.append((answer["payload"]["outcome"]["edge"], [each.value for each in expected]))
    assert rolls[0] == rolls[1]


async def test_two_versions_come_over_each_by_its_own_rule_and_a_session_may_move_twice(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "twice", "down")
    second = await serve(store, inn("moved"))
    await told(second)
    await played(await serve(store, inn("before")), "once", "down")
    await played(second, "later", "down")
    runtime = await serve(store, inn("third"))

    facts, _ = await told(runtime)

    assert facts == figures(moved=3)
    sessions = {name: await Client(runtime, name).session() for name in ("twice", "once", "later")}
    assert {name: (each.state, each.version) for name, each in sessions.items()} == dict.fromkeys(
        ("twice", "once", "later"), ("HALL", 3)
    )
    assert {name: each.context["courage"] for name, each in sessions.items()} == {"twice": 3, "once": 2, "later": 1}
    assert [each.kind for each in await entries(store, "twice")] == ["turn", "turn", "migration", "migration"]


async def test_a_name_may_stand_for_another_place_now(serve: Serve) -> None:
    """Two states have changed names: both sessions move, and a second run doesn't move them back."""
    store = MemoryStore()
    before = await serve(store, inn("before"))
    await played(before, "cellar", "down")
    await played(before, "attic", "up")
    runtime = await serve(store, inn("swapped"))

    await told(runtime)
    facts, _ = await told(runtime)

    assert facts == figures(current=2)
    assert (await Client(runtime, "cellar").session()).state == "ATTIC"
    assert (await Client(runtime, "attic").session()).state == "CELLAR"


ENTERED = """
machine: inn
version: {version}
title: 客栈
language: zh
initial: {{event: INIT, target: HALL}}
context:
  warmth: {{type: int, default: 1, max: 9, show: true}}
  seen: {{type: int, default: 0}}
  bag: {{type: set, of: [lamp, key]}}
{migrations}
states:
  HALL:
    entry: {{warmth: 'warmth + {warm}', seen: 10 / (visits.HALL - {visits})}}
    options:
      - {{key: down, text: 下去, target: {down}}}
      - {{key: up, text: 上去, target: {up}}}
      - {{key: leave, text: 出门, target: ROAD}}
  {down}: {{entry: {{warmth: 0}}, options: [{{key: back, text: 回去, target: HALL}}]}}
  ROAD: {{type: final}}
{attic}
"""


def hall(version: int, *, visits: int = 7, rule: str = "") -> Machine:
    """An inn whose hall warms whoever enters it; from the second version on it has no attic."""
    names = {"down": "CELLAR", "up": "ATTIC"} if version == 1 else {"down": "VAULT", "up": "HALL"}
    attic = "  ATTIC: {options: [{key: back, text: 回去, target: HALL}]}" if version == 1 else ""
    warm = 1 if version == 1 else 5
    text = ENTERED.format(version=version, migrations=rule, visits=visits, warm=warm, attic=attic, **names)
    return loader.load({"machines/inn.yaml": text})


FALLS_BACK = "migrations: [{from: 1, states: {CELLAR: VAULT}, fallback: HALL}]"


async def test_a_session_that_falls_back_enters_its_new_state_and_a_renamed_one_is_where_it_was(serve: Serve) -> None:
    store = MemoryStore()
    before = await serve(store, hall(1))
    for name, choices in {"attic": ["up"], "cellar": ["down"], "hall": []}.items():
        await played(before, name, *choices)
    kept = {name: (await Client(before, name).session()).context for name in ("attic", "cellar", "hall")}
    runtime = await serve(store, hall(2, visits=2, rule=FALLS_BACK))
    dry, dry_found = await told(runtime, dry_run=True)

    facts, found = await told(runtime)

    assert (dry["would_move"], facts["moved"], dry_found) == (3, 3, found)
    sessions = {name: await Client(runtime, name).session() for name in kept}
    assert sessions["attic"].context == {**kept["attic"], "warmth": kept["attic"]["warmth"] + 5, "seen": -10}
    assert (sessions["cellar"].context, sessions["hall"].context) == (kept["cellar"], kept["hall"])
    assert sessions["attic"].visits == {"HALL": 1}
    moved = (await entries(store, "attic"))[-1]
    assert {each.name: (each.before, each.after) for each in moved.outcome.changes} == {
        "warmth": (2, 7),
        "seen": (-1, -10),
    }
    assert [step async for step in verify(runtime)][-1].is_good


async def test_a_session_whose_entry_would_err_stays_where_it_is(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, hall(1)), "s1", "up")
    runtime = await serve(store, hall(2, visits=1, rule=FALLS_BACK))
    dry, dry_found = await told(runtime, dry_run=True)

    facts, found = await told(runtime)

    assert facts == figures(is_good=False, stranded=1)
    assert (dry["stranded"], dry_found) == (1, found)
    (what,) = found
    assert what.startswith("inn, 1 session: the `entry` of 'HALL' can't be run: ")
    assert len(await entries(store, "s1")) == 2


# --- a dry run ---


async def test_a_dry_run_says_what_would_be_and_writes_nothing(serve: Serve) -> None:
    store = MemoryStore()
    before = await serve(store, inn("before"))
    await played(before, "s1", "down")
    await played(before, "s2", "up")
    await played(before, "s3", "leave")
    runtime = await serve(store, inn("moved"))
    journal = await everything(store)

    facts, found = await told(runtime, dry_run=True)

    assert facts == figures(dry_run=True, would_move=2)
    assert set(found) == {
        "inn, 1 session: from 'CELLAR' to 'VAULT'",
        "inn, 1 session: from 'ATTIC' to 'HALL'",
        "inn, 2 sessions: 'gold' is gone, and its value with it",
        "inn, 2 sessions: what 'hp' held doesn't fit any more",
        "inn, 1 session: what 'bag' held doesn't fit any more",
        "inn, 2 sessions: 'courage' is new",
    }
    assert found["inn, 1 session: from 'CELLAR' to 'VAULT'"] == ("s1",)
    assert await everything(store) == journal
    assert not await store.in_progress("s1")


@pytest.mark.parametrize("version", ["moved", "stranded", "final", "shut", "english", "same_version"])
async def test_a_dry_run_counts_what_the_run_then_does(serve: Serve, version: str) -> None:
    store = MemoryStore()
    before = await serve(store, inn("before"))
    for name, choices in {"s1": ["down"], "s2": ["up"], "s3": ["rage"], "s4": ["leave"]}.items():
        await played(before, name, *choices)
    runtime = await serve(store, inn(version))

    dry, found_dry = await told(runtime, dry_run=True)
    real, found_real = await told(runtime)

    moved = dry.pop("would_move")
    assert {**dry, "moved": moved, "dry_run": False} == real
    assert found_dry == found_real


async def test_a_finding_names_a_few_sessions_and_counts_all(serve: Serve) -> None:
    store = MemoryStore()
    before = await serve(store, inn("before"))
    for number in range(SAMPLES + 3):
        await played(before, f"s{number}", "up")

    _, found = await told(await serve(store, inn("stranded")), dry_run=True)

    (what, sessions), *_ = found.items()
    assert what.startswith(f"inn, {SAMPLES + 3} sessions: the state 'ATTIC' is gone")
    assert len(sessions) == SAMPLES


# --- what is left alone ---


@pytest.mark.parametrize(
    ("version", "kind", "why"),
    [
        (
            "stranded",
            "stranded",
            "the state 'ATTIC' is gone, and the migration from version 1 has neither its new name nor a fallback",
        ),
        ("final", "stranded", "'ATTIC' is final in this version, and nobody would tell the ending"),
        ("shut", "without_edges", "in 'ATTIC' no event would be open"),
        ("english", "stranded", "the machine no longer offers 'zh', their language"),
        (
            "same_version",
            "no_rule",
            "begun with version 1, as the file still says. Give it a new `version`, and say `from: 1`",
        ),
    ],
)
async def test_a_session_that_can_not_come_stays_and_plays_on_in_its_own_version(
    serve: Serve, version: str, kind: str, why: str
) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "up")
    runtime = await serve(store, inn(version))
    journal = await everything(store)

    facts, found = await told(runtime)

    assert facts == figures(is_good=kind == "no_rule", **{kind: 1})
    assert found == {f"inn, 1 session: {why}": ("s1",)}
    assert await everything(store) == journal
    answer = await Client(runtime).choose("back")
    assert (answer["session"]["version"], answer["session"]["state"]) == (1, "HALL")


async def test_an_ended_session_never_moves(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "leave")
    runtime = await serve(store, inn("moved"))
    journal = await everything(store)

    facts, _ = await told(runtime)

    assert facts == figures()
    assert await everything(store) == journal


async def test_a_session_with_a_turn_under_way_is_left_until_the_next_run(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    runtime = await serve(store, inn("moved"))
    journal = await everything(store)
    claim = await store.claim("s1")

    dry, _ = await told(runtime, dry_run=True)
    real, found = await told(runtime)

    assert dry == figures(dry_run=True, is_good=False, busy=1)
    assert real == figures(is_good=False, busy=1)
    assert found == {"inn, 1 session: a turn is under way. Run it again": ("s1",)}
    assert await everything(store) == journal
    assert await store.in_progress("s1")

    await store.release(claim)
    assert (await told(runtime))[0] == figures(moved=1)


class _Overtaken(MemoryStore):
    """A store in which another process commits just before each migration does."""

    overtake: Any = None

    async def append(self, entry: Entry, claim: Claim | None = None, expense: Any = None) -> None:
        if entry.kind == "migration" and self.overtake is not None:
            overtake, self.overtake = self.overtake, None
            await overtake()
        await super().append(entry, claim, expense)


async def test_a_session_that_moves_on_under_our_hands_is_left_and_the_others_move(serve: Serve) -> None:
    """The compare-and-set keeps the turn that was first; nothing is doubled and nothing lost."""
    store = _Overtaken()
    before = await serve(store, inn("before"))
    await played(before, "s1", "down")
    await played(before, "s2", "down")
    head = await store.head("s2")
    assert head is not None

    async def turn() -> None:
        entry = msgspec.structs.replace(head, seq=head.seq + 1, turn=head.turn + 1, prev_hash=head.hash, hash="x")
        await MemoryStore.append(store, entry)

    store.overtake = turn
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime)

    assert facts == figures(is_good=False, moved=1, busy=1)
    assert [each.kind for each in await entries(store, "s2")] == ["turn", "turn", "turn"]
    assert not await store.in_progress("s2")


class _Lively(MemoryStore):
    """A store whose players go on while its sessions are listed."""

    between: Any = None

    async def sessions(self, **asked: Any) -> Any:  # type: ignore[override]
        page = await super().sessions(**asked)
        if self.between is not None:
            between, self.between = self.between, None
            await between()
        return page


async def test_a_turn_between_the_list_and_the_claim_is_moved_with_the_session(serve: Serve) -> None:
    store = _Lively()
    before = await serve(store, inn("before"))
    client = await played(before, "s1", "down")
    store.between = lambda: client.choose("back")
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime)

    assert facts == figures(moved=1)
    assert [each.outcome.target for each in await entries(store, "s1")] == ["HALL", "CELLAR", "HALL", "HALL"]


async def test_a_session_that_comes_to_the_front_of_the_list_is_not_passed_over(serve: Serve) -> None:
    """A turn puts its session first in the list, behind our back: a second pass meets it."""
    store = _Lively()
    before = await serve(store, inn("before"))
    oldest = await played(before, "oldest")
    for number in range(PAGE + 5):
        await played(before, f"s{number}")
    store.between = lambda: oldest.choose("rage")
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime)

    assert facts == figures(moved=PAGE + 6)
    assert (await Client(runtime, "oldest").session()).version == "第二版"


async def test_a_second_run_moves_nothing_and_writes_nothing(serve: Serve) -> None:
    store = MemoryStore()
    before = await serve(store, inn("before"))
    await played(before, "s1", "down")
    await played(before, "s2")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    journal = await everything(store)

    facts, found = await told(runtime)

    assert (facts, found) == (figures(current=2), {})
    assert await everything(store) == journal


async def test_one_machines_sessions_move_and_another_ones_stay(serve: Serve) -> None:
    store = MemoryStore()
    other = loader.load({"machines/door.yaml": DOOR})
    before = await serve(store, inn("before"), other)
    await played(before, "s1", "down")
    await played(before, "s2", machine="door")
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime, "inn")
    all_facts, found = await told(runtime)

    assert facts == figures(moved=1)
    assert all_facts == figures(current=1, not_served=1)
    assert found == {"door, 1 session: the machine is not served": ("s2",)}


DOOR = """\
machine: door
title: 门
language: zh
initial: {event: INIT, target: HALL}
states:
  HALL: {on: {GARDEN: GARDEN}}
  GARDEN: {type: final}
"""


async def test_an_unknown_machine_is_refused_with_the_one_that_was_meant(serve: Serve) -> None:
    runtime = await serve(MemoryStore(), inn("moved"))

    with pytest.raises(MachineNotFound) as refused:
        await told(runtime, "inne")

    assert refused.value.facts == {"machine": "inne", "machines": ["inn"], "did_you_mean": "inn"}


# --- a definition that is lost ---


class _Forgetful(MemoryStore):
    """A store that has lost one definition."""

    lost = ""

    async def kept(self, digest: str) -> dict[str, str] | None:
        return None if digest == self.lost else await super().kept(digest)


async def test_a_migration_saves_a_session_whose_own_definition_is_lost(serve: Serve) -> None:
    store = _Forgetful()
    await played(await serve(store, inn("before")), "s1", "down")
    store.lost = inn("before").digest
    runtime = await serve(store, inn("moved"))
    with pytest.raises(MachineChanged):
        await Client(runtime).choose("back")

    facts, _ = await told(runtime)

    assert facts == figures(moved=1)
    assert (await Client(runtime).choose("grab"))["session"]["version"] == "第二版"


async def test_a_lost_definition_without_a_migration_is_told(serve: Serve) -> None:
    store = _Forgetful()
    await played(await serve(store, inn("before")), "s1", "down")
    store.lost = inn("before").digest
    runtime = await serve(store, inn("same_version"))

    facts, found = await told(runtime, dry_run=True)

    assert facts == figures(dry_run=True, is_good=False, stranded=1)
    assert found == {
        "inn, 1 session: their own definition is lost, and no migration is from their version: they can't go on": (
            "s1",
        )
    }


# --- with the rest of the house ---


async def test_a_resumed_session_is_answered_as_it_stands_now(serve: Serve) -> None:
    """The text is the turn's; options, routing and status are the new version's."""
    store = MemoryStore()
    client = await played(await serve(store, inn("before")), "s1")
    first = await client.choose("down")
    runtime = await serve(store, inn("moved"))
    await told(runtime)

    answer = await Client(runtime).send("INIT", on_exists="resume")

    assert answer["payload"]["scene"] == first["payload"]["scene"]
    assert (answer["session"]["state"], answer["session"]["version"]) == ("VAULT", "第二版")
    assert [each["key"] for each in answer["payload"]["options"]] == ["grab"]
    assert answer["payload"]["status"]["courage"]["label"] == "胆量"
    assert answer["payload"]["routing"]["allowed_event_types"] == ["HALL"]


async def test_a_journal_with_moves_in_it_adds_up(serve: Serve) -> None:
    """Played, moved, played, forked, told anew, moved again: every entry follows from the one before."""
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "rage", "down")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    await Client(runtime).choose("grab")
    await history.fork(runtime, "s1", 4, child_id="s2")
    await history.regenerate(runtime, "s2")
    runtime = await serve(store, inn("third"))
    await told(runtime)
    await Client(runtime, "s2").choose("wait")

    steps = [step async for step in verify(runtime)]

    assert [step for step in steps if isinstance(step, Found)] == []
    assert isinstance(steps[-1], Done)
    assert steps[-1].is_good


async def test_a_player_can_not_go_back_behind_a_move(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down", "back")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    client = Client(runtime)
    await client.choose("wait")
    await client.choose("wait")
    journal = await client.journal()

    for turn in (1, 2, 3):
        with pytest.raises(RewindRefused) as refused:
            await history.rewind(runtime, "s1", turn)
        assert refused.value.facts == {"reasons": ["before_migration"]}
    assert await client.journal() == journal

    await history.rewind(runtime, "s1", 4)
    assert (await client.session()).turn == 4


async def test_the_turn_before_a_move_is_not_told_anew(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    journal = await everything(store)

    with pytest.raises(RewindRefused) as refused:
        await history.regenerate(runtime, "s1")

    assert refused.value.facts == {"reasons": ["before_migration"]}
    assert await everything(store) == journal


async def test_a_fork_of_a_session_that_moved_has_moved_too(serve: Serve) -> None:
    """One that branches off before the move is in the old version, and comes over by itself."""
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    client = Client(runtime)
    await client.choose("grab")

    await history.fork(runtime, "s1", 2, child_id="分支")
    await history.fork(runtime, "s1", 3, child_id="s3", same_dice=True)

    assert [each.kind for each in await store.tree("s3")] == ["turn", "turn", "migration", "turn", "fork"]
    assert (await Client(runtime, "s3").session()).context == (await client.session()).context
    child = Client(runtime, "分支")
    assert (await child.session()).version == 1
    assert (await told(runtime))[0] == figures(moved=1, current=2)
    assert (await child.session()).version == "第二版"
    assert (await child.choose("grab"))["session"]["turn"] == 3


async def test_the_first_turn_after_a_move_is_explained_by_what_the_move_left(serve: Serve) -> None:
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1", "down")
    runtime = await serve(store, inn("moved"))
    await told(runtime)
    await Client(runtime).choose("grab")

    why = await explain(runtime, "s1", 3)

    assert why["from"] == "VAULT"
    assert [each["edge"] for each in why["considered"] if each["taken"]] == [why["edge"]]
    assert why["edge"] in {"VAULT.got", "VAULT.missed"}


WITHDRAWN = """\
machine: door
version: VERSION
title: 门
language: zh
initial: {event: INIT, target: HALL}
context: {luck: {type: int}}
migrations: [{from: OTHER}]
states:
  HALL:
    options:
      - key: try
        text: 推门
        edges:
          - {name: first, guard: luck == 0, target: HALL, assign: {luck: 1}}
          - {name: again, target: HALL, assign: {luck: 2}}
    on: {GARDEN: GARDEN}
  GARDEN: {type: final}
"""


async def test_a_session_that_came_and_went_back_is_explained_by_what_it_came_back_with(serve: Serve) -> None:
    """A version that was withdrawn: a turn and the next one have one definition, and two moves between them."""
    then, now = WITHDRAWN.replace("VERSION", "1").replace("OTHER", "2"), WITHDRAWN.replace("VERSION", "2")
    first = loader.load({"machines/door.yaml": then})
    second = loader.load({"machines/door.yaml": now.replace("OTHER", "1").replace("luck", "skill")})
    store = MemoryStore()
    client = await played(await serve(store, first), "s1", "try")
    assert (await client.session()).context == {"luck": 1}
    await told(await serve(store, second))
    runtime = await serve(store, first)
    await told(runtime)
    await Client(runtime).choose("try")

    why = await explain(runtime, "s1", 3)

    assert why["edge"] == "HALL.first"
    assert [(each["edge"], each["verdict"], each["values"]) for each in why["considered"]] == [
        ("HALL.first", "open", {"luck": 0}),
        ("HALL.again", "open", {}),
    ]


async def test_a_session_that_came_and_went_back_is_no_replay(serve: Serve) -> None:
    """One definition told every turn, and no step of a replay would do what the moves did to the variables."""
    then, now = WITHDRAWN.replace("VERSION", "1").replace("OTHER", "2"), WITHDRAWN.replace("VERSION", "2")
    first = loader.load({"machines/door.yaml": then})
    second = loader.load({"machines/door.yaml": now.replace("OTHER", "1").replace("luck", "skill")})
    store = MemoryStore()
    await played(await serve(store, first), "s1", "try")
    await told(await serve(store, second))
    runtime = await serve(store, first)
    await told(runtime)

    whole = "".join([part async for part in recorded(store, await survey(runtime, "s1"), "none")])
    assert whole.count("choose: try") == 1, "the moves stand behind the last turn"
    await Client(runtime).choose("try")
    with pytest.raises(MachineChanged) as refused:
        [part async for part in recorded(store, await survey(runtime, "s1"), "none")]
    assert refused.value.facts["reasons"] == ["migrated"]
    assert {each.digest for each in await entries(store, "s1") if each.is_telling} == {first.digest}
    assert [part async for part in export(runtime, "s1", "operator")]


async def test_a_move_outlives_a_restart(serve: Serve, tmp_path: Path) -> None:
    """On a file: played, moved, played on, and read again after each."""
    file = tmp_path / "客栈" / "journal.duckdb"
    runtime = await serve(DuckDBStore(file), inn("before"))
    await played(runtime, "s1", "down")
    await runtime.close()

    runtime = await serve(DuckDBStore(file), inn("moved"))
    dry, _ = await told(runtime, dry_run=True)
    facts, _ = await told(runtime)
    await runtime.close()

    runtime = await serve(DuckDBStore(file), inn("moved"))
    try:
        assert dry == figures(dry_run=True, would_move=1)
        assert facts == figures(moved=1)
        assert (await told(runtime))[0] == figures(current=1)
        answer = await Client(runtime).choose("grab")
        assert answer["session"]["turn"] == 3
        assert [each.kind for each in await runtime.store.tree("s1")] == ["turn", "turn", "migration", "turn"]
        assert [damage async for damage in runtime.store.audit()] == []
    finally:
        await runtime.close()


async def test_wherever_a_session_stands_what_has_moved_is_sound(serve: Serve) -> None:
    """Random plays, moved: the context is the new machine's, the rule gives it again, and each plays on to the end."""
    chance = random.Random(7)  # noqa: S311 - a play is no secret
    store = MemoryStore()
    before = await serve(store, inn("before"))
    names = [f"客{number}" for number in range(20 * SCALE)]
    for name in names:
        client = await played(before, name)
        for _ in range(chance.randrange(6)):
            offer = [each.key for each in (await client.session()).offer if each.key != "leave"]
            await client.choose(chance.choice(offer))
    runtime = await serve(store, inn("moved"))

    facts, _ = await told(runtime)

    assert facts == figures(moved=len(names))
    for name in names:
        *_, last, moved = await entries(store, name)
        again = judged(inn("moved"), last.after)
        assert isinstance(again, Moved)
        assert again.session == moved.after
        assert set(moved.after.context) == set(inn("moved").definition.context)
        await _to_the_end(Client(runtime, name), chance)


async def _to_the_end(client: Client, chance: random.Random) -> None:
    while not (session := await client.session()).ended:
        await client.choose("leave" if session.step > 30 and session.state == "HALL" else _any(session.offer, chance))


def _any(offer: Any, chance: random.Random) -> str:
    return str(chance.choice(offer).key)


# --- the page for designers ---


def page_inns() -> list[Mapping[str, str]]:
    """The inn of machines/README.md as it was, and as it becomes."""
    page = Page(ROOT / "machines" / "README.md")
    return [{block.file: block.text} for block in page.blocks("yaml") if block.file == "machines/inn.yaml"]


async def test_the_pages_example_moves_as_the_page_says(serve: Serve) -> None:
    old, new = page_inns()
    assert loader.findings_of(old) == []
    store = MemoryStore()
    before = await serve(store, loader.load(old))
    await played(before, "cellar", "down")
    await played(before, "attic", "down", "back", "up")
    await played(before, "road", "leave")
    runtime = await serve(store, loader.load(new))

    facts, found = await told(runtime)

    assert facts == figures(moved=2)
    cellar, attic = [await Client(runtime, name).session() for name in ("cellar", "attic")]
    assert (cellar.state, attic.state) == ("VAULT", "HALL")
    assert cellar.context == attic.context == {"hp": 6, "courage": 3, "bag": ["key"]}
    assert [each.key for each in attic.offer] == ["leave"]
    assert "inn, 1 session: from 'ATTIC' to 'HALL'" in found
    assert (await Client(runtime, "cellar").choose("back"))["payload"]["status"]["courage"]["value"] == 4


async def test_a_choice_made_on_the_page_from_before_a_move_is_never_another_choice(serve: Serve) -> None:
    """What was offered keeps its id, what is new has one that was never used, and what is gone is not offered."""
    store = MemoryStore()
    await played(await serve(store, inn("before")), "s1")  # shown: 1 down, 2 up, 3 rage, 4 leave
    runtime = await serve(store, inn("moved"))

    await told(runtime)

    client = Client(runtime)
    assert {each.id: each.key for each in (await client.session()).offer} == {1: "down", 4: "leave", 5: "wait"}
    with pytest.raises(OptionNotOffered):
        await client.send(option=2)
    assert (await client.send(option=4))["session"]["state"] == "ROAD"
