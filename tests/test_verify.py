"""The journal checks itself: whatever is altered, lost, moved or invented is found and named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from conftest import Client, tiny
from msgspec.structs import replace
from served import runtime_of, shipped
from test_formats import old_journal

from runtime import history, loader, verify
from runtime.claims import Idempotency
from runtime.errors import RewindRefused
from runtime.formats import read_entry
from runtime.migrate import migrate
from runtime.progress import Done, Found, Progress
from runtime.session import Change, Choice, Entry, Judged, KeyChoice, Offer, Rolled, Routing, body_of, sealed
from runtime.stores import Damage
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime

WELL = """
initial: {event: INIT, target: YARD, dice: {omen: 1d1000}, assign: {luck: dice.omen}}
context:
  luck: {type: int, default: 0, min: 0, max: 1000, show: true}
  gold: {type: int, default: 0, min: 0, max: 9, show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
  hidden: {type: int, default: 7, secret: true}
ai_state: {tone: output.tone}
states:
  YARD:
    learn: {mood: {from: "output.tone == 'grim' ? tense : calm"}}
    options:
      - {key: draw, text: 打水, target: YARD, dice: {pull: 1d1000}, assign: {luck: dice.pull}}
      - {key: coin, text: 捡铜钱 🪙, target: YARD, once: true, assign: {gold: gold + 1}}
      - {key: rich, text: Pay, guard: gold > 5, target: YARD}
      - {key: late, text: Ask, guard: time.elapsed_seconds < 60, target: YARD}
      - {key: down, text: Climb down, target: CAVE}
  CAVE:
    options:
      - {key: up, text: Climb up, target: YARD}
      - {key: sleep, text: Sleep, target: END_SLEEP}
  END_SLEEP: {type: final}
"""
Alter = Callable[[Entry], Entry]


class Rows(MemoryStore):
    """A store whose rows can be got at, as a disk's can."""

    found: tuple[Damage, ...] = ()

    def rows(self, session_id: str = "s1") -> list[tuple[bytes, str]]:
        """A session's rows: change them as you like."""
        return self._entries[session_id]

    def forget_definitions(self) -> None:
        self._kept.clear()

    def swap_definition(self, digest: str, files: dict[str, str]) -> None:
        self._kept[digest] = files

    async def audit(self) -> Any:
        for damage in self.found:
            yield damage


async def house(*choices: str, answers: Any = None) -> tuple[Client, Rows]:
    """A session of some turns, the first INIT, and its store."""
    store = Rows()
    runtime = runtime_of(tiny(WELL, "well"), store=store, narrator=answers)
    await runtime.open()
    client = Client(runtime)
    await client.send("INIT", run_seed="一", elapsed_active_seconds=0)
    for choice in choices:
        await client.choose(choice)
    return client, store


async def report(runtime: Runtime) -> tuple[list[Found], Done]:
    """What was found, and the end."""
    steps = [step async for step in verify.verify(runtime)]
    assert isinstance(steps[-1], Done)
    return [step for step in steps if isinstance(step, Found)], steps[-1]


async def found(client: Client) -> list[str]:
    """What was found wrong, having checked that its session is named and the end says so."""
    seen, done = await report(client.runtime)
    assert all(each.sessions for each in seen)
    assert done.is_good is (not seen)
    assert done.facts["damaged"] == len({name for each in seen for name in each.sessions})
    return [each.what for each in seen]


def forged(store: Rows, seq: int, alter: Alter, session_id: str = "s1") -> None:
    """Alter an entry and make every hash from there on right again: only the rules can tell."""
    rows = store.rows(session_id)
    entries = [read_entry(*row) for row in rows]
    entries[seq - 1] = alter(entries[seq - 1])
    for index in range(seq - 1, len(entries)):
        link = entries[index - 1].hash if index else ""
        entries[index] = sealed(replace(entries[index], prev_hash=link))
        rows[index] = (body_of(entries[index]), entries[index].hash)


# What is whole.


async def test_a_journal_of_every_kind_of_entry_adds_up():
    client, _ = await house("draw", "coin", "down")
    runtime = client.runtime
    await history.rewind(runtime, "s1", 2)
    await client.choose("late", elapsed_active_seconds=30)
    await client.choose("draw", constraints={"language": "en", "max_chars_scene": 400})
    await history.regenerate(runtime, "s1", once=Idempotency(key="k", request_hash="h"))
    await history.rewind(runtime, "s1", 4)
    await client.choose("sleep")
    child = (await history.fork(runtime, "s1", 7)).entry.child
    await history.regenerate(runtime, child)
    await history.rewind(runtime, child, 1)
    await Client(runtime, child).choose("down", elapsed_active_seconds=99)
    await history.fork(runtime, child, None, same_dice=True)
    await client.send("INIT", on_exists="restart", run_seed="二", player_id="兰", difficulty="HARD")
    await client.choose("draw")

    seen, done = await report(runtime)

    assert seen == []
    assert done == Done(is_good=True, facts={"entries": 13 + 8 + 4, "sessions": 3, "damaged": 0})


async def test_a_journal_in_a_file_adds_up_too(tmp_path):
    store = DuckDBStore(tmp_path / "journal.duckdb")
    runtime = runtime_of(tiny(WELL, "well"), store=store)
    await runtime.open()
    for name in ("s1", "二".encode().hex()):
        client = Client(runtime, name)
        await client.send("INIT", run_seed=name)
        await client.choose("draw")
        await history.rewind(runtime, name, 1)
        await client.choose("coin")
        await history.regenerate(runtime, name)
        await history.fork(runtime, name, None)
    seen, done = await report(runtime)
    await runtime.close()
    assert (seen, done.facts) == ([], {"entries": 2 * (6 + 3), "sessions": 4, "damaged": 0})


SHELTER = (
    WELL.replace("initial:", "version: 2\nmigrations: [{from: 1, states: {CAVE: DEN}}]\ninitial:")
    .replace("CAVE", "DEN")
    .replace("{DEN: DEN}", "{CAVE: DEN}")
)


async def moved() -> tuple[Client, Rows]:
    """A session that was moved to another version in the cave, played on, told anew and forked."""
    client, store = await house("coin", "down")
    later = runtime_of(tiny(SHELTER, "well"), store=store)
    await later.open()
    assert [step async for step in migrate(later)][-1].facts["moved"] == 1
    client = Client(later)
    await client.choose("up")
    await history.regenerate(later, "s1")
    await history.fork(later, "s1", None, child_id="child")
    return client, store


async def test_a_session_that_came_over_to_another_version_adds_up_and_so_does_its_fork():
    client, store = await moved()
    assert await found(client) == []
    copies = [read_entry(*row) for row in store.rows("child")]
    assert [each.kind for each in copies] == ["turn", "turn", "turn", "migration", "regenerate", "fork"]
    with pytest.raises(RewindRefused):
        await history.rewind(client.runtime, "child", 3)
    await history.rewind(client.runtime, "s1", 4)
    assert await found(client) == []


@pytest.mark.parametrize("session_id", ["s1", "child"])
async def test_a_migration_to_what_its_version_does_not_have_is_found(session_id):
    client, store = await moved()
    forged(store, 4, lambda entry: _after(state="CAVE")(_outcome(target="CAVE")(entry)), session_id)
    assert (await found(client))[0].startswith(
        f"session '{session_id}': entry 4 (turn 3, migration): its state 'CAVE' or its variables are not those"
    )
    forged(
        store,
        4,
        lambda entry: _after(state="DEN", routing=Routing("FLY", False, ("FLY",)))(_outcome(target="DEN")(entry)),
        session_id,
    )
    assert "its routing is" in (await found(client))[0]
    forged(store, 4, _outcome(source="YARD"), session_id)
    assert "it leads from 'YARD'" in (await found(client))[0]


@pytest.mark.parametrize("session_id", ["s1", "child"])
async def test_a_migration_that_its_versions_rules_do_not_make_is_found(session_id):
    client, store = await moved()
    stood = read_entry(*store.rows(session_id)[3]).after
    alter = _after(context={**stood.context, "gold": 99})
    forged(store, 4, alter, session_id)
    assert (await found(client))[0] == (
        f"session '{session_id}': entry 4 (turn 3, migration): its context.gold is 99, and the rules give 1"
    )
    forged(store, 4, _after(context=stood.context, visits={}), session_id)
    assert ": its visits.DEN is null, and the rules give 1" in (await found(client))[0]


async def test_a_fork_of_what_was_rewound_and_then_moved_adds_up():
    """Time had closed an option when the session moved, and the child has no copy of the rewind."""
    client, store = await house("coin", "draw")
    await history.rewind(client.runtime, "s1", 2)
    await client.choose("down", elapsed_active_seconds=300)
    await history.rewind(client.runtime, "s1", 2)
    later = runtime_of(tiny(SHELTER, "well"), store=store)
    await later.open()
    assert [step async for step in migrate(later)][-1].facts["moved"] == 1
    child = (await history.fork(later, "s1", None)).entry.child
    await Client(later, child).choose("down")
    await history.fork(later, child, None)
    assert await found(Client(later)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["haunted_house", "mine_adventure", "ticket_triage"])
async def test_the_machines_that_ship_add_up_whatever_is_played(name):
    machine = shipped()[name]
    store = Rows()
    runtime = runtime_of(machine, store=store)
    await runtime.open()
    for number in range(4):
        client = Client(runtime, f"s{number}")
        answer = await client.send(machine.definition.first.event, run_seed=f"verify-{number}", role="operator")
        for turn in range(25):
            if answer["session"]["ended"]:
                break
            answer = await _any(client, answer, number + turn)
        if machine.definition.history.rewind != "off":
            await history.regenerate(runtime, f"s{number}")
            await history.fork(runtime, f"s{number}", None)
    assert await found(Client(runtime)) == []


async def _any(client: Client, answer: Any, number: int) -> Any:
    options, inputs = answer["payload"]["options"], answer["payload"]["inputs"]
    if not options:
        return await client.send(inputs[0]["event_type"], payload={"text": "我被重复扣款了，请退款。"}, role="operator")
    return await client.send(option=options[number % len(options)]["id"], role="operator")


async def test_an_empty_store_is_whole():
    runtime = runtime_of(tiny(WELL, "well"))
    seen, done = await report(runtime)
    assert (seen, done) == ([], Done(is_good=True, facts={"entries": 0, "sessions": 0, "damaged": 0}))


async def test_progress_is_told_on_the_way():
    client, _ = await house("draw", "draw", "draw", "draw")
    steps = [step async for step in verify.verify(client.runtime, every=2)]
    assert steps[:-1] == [Progress(2, 5), Progress(4, 5)]


async def test_a_session_that_is_deleted_while_it_is_checked_is_no_damage():
    client, store = await house("draw")
    await Client(client.runtime, "s2").send("INIT")
    store.rows("s2").insert(0, store.rows("s2")[0])
    walk = store.walk

    async def walking(after: str = "") -> Any:
        async for row in walk(after):
            if row.session_id == "s2":
                await store.delete("s2")
            yield row

    store.walk = walking
    assert await found(client) == []


async def test_a_session_that_is_deleted_when_its_earlier_entries_are_to_be_read_again_is_no_damage():
    """Of two sessions that lie among each other one is at hand; the other is gone when it is asked for."""
    client, store = await house("draw")
    walk, entries = store.walk, store.entries
    first, second = [row async for row in walk()]
    await Client(client.runtime, "s2").send("INIT")
    other = [row async for row in walk() if row.session_id == "s2"]

    async def walking(*_: str) -> Any:
        for row in (first, *other, second):
            yield row

    async def deleted(session_id: str, **page: Any) -> list[Entry]:
        await store.delete(session_id)
        return await entries(session_id, **page)

    store.walk, store.entries = walking, deleted
    steps = [step async for step in verify.verify(client.runtime, kept=1)]
    assert steps == [Done(is_good=True, facts={"entries": 3, "sessions": 2, "damaged": 0})]


async def test_a_session_that_is_deleted_while_its_migration_is_read_again_is_no_damage():
    """The tree still had it."""
    client, store = await moved()
    entries, asked = store.entries, set[str]()

    async def deleted(session_id: str, **page: Any) -> list[Entry]:
        asked.add(session_id)
        await store.delete(session_id)
        return await entries(session_id, **page)

    store.entries = deleted
    assert await found(client) == []
    assert asked == {"s1", "child"}


# What the chain tells.


async def test_an_altered_body_is_found():
    client, store = await house("draw", "coin")
    body, hash_ = store.rows()[1]
    store.rows()[1] = (body.replace("打水".encode(), "打鱼".encode()), hash_)
    assert await found(client) == ["session 's1': entry 2 is not what was written: its hash is another"]


async def test_an_altered_body_with_its_hash_made_anew_breaks_the_next_entrys_link():
    client, store = await house("draw", "coin")
    entry = sealed(replace(read_entry(*store.rows()[1]), narrator="nobody"))
    store.rows()[1] = (body_of(entry), entry.hash)
    assert await found(client) == ["session 's1': entry 3 doesn't follow the entry before it: its link is another hash"]


async def test_what_cannot_be_read_is_found_and_the_rest_is_looked_at():
    client, store = await house("draw", "coin")
    other = Client(client.runtime, "s2")
    await other.send("INIT")
    body = b'{"format":2}'
    store.rows()[1] = (body, sealed(read_entry(*store.rows()[1])).hash)
    store.rows("s2")[0] = (b"\xff", store.rows("s2")[0][1])
    assert [each.partition(":")[0] for each in await found(client)] == ["session 's1'", "session 's2'"]


async def test_a_missing_entry_is_found_in_the_middle_and_at_the_beginning():
    client, store = await house("draw", "coin", "down")
    del store.rows()[1]
    assert (await found(client))[0].startswith("session 's1': entry 2 is entry 3")

    client, store = await house("draw", "coin", "down")

    async def holed(after: str = "") -> Any:
        async for row in MemoryStore.walk(store, after):
            if row.seq not in (1, 2):
                yield row

    store.walk = holed
    assert await found(client) == ["session 's1': entry 1 to 2 is missing"]


async def test_swapped_entries_are_found():
    client, store = await house("draw", "coin", "down")
    rows = store.rows()
    rows[1], rows[2] = rows[2], rows[1]
    seen = await found(client)
    assert "session 's1': entry 2 is entry 3 of session 's1', and out of place" in seen
    assert "session 's1': entry 3 is entry 2 of session 's1', and out of place" in seen


async def test_another_sessions_entry_is_out_of_place():
    client, store = await house("draw")
    other = Client(client.runtime, "s2")
    await other.send("INIT", run_seed="一")
    await other.choose("draw")
    store.rows()[1] = store.rows("s2")[1]
    seen = await found(client)
    assert seen[0] == "session 's1': entry 2 is entry 2 of session 's2', and out of place"
    assert all("'s1'" in each for each in seen)


async def test_an_entry_that_is_there_twice_is_found():
    client, store = await house("draw")
    walk = store.walk

    async def doubled(after: str = "") -> Any:
        async for row in walk(after):
            yield row
            if row.seq == 1:
                yield row

    store.walk = doubled
    assert "session 's1': entry 1 stands after entry 1" in await found(client)


async def test_a_turn_number_used_again_is_found():
    client, store = await house("draw", "coin")
    forged(store, 3, lambda entry: replace(entry, turn=2, last_turn=2))
    assert "session 's1': entry 3 uses turn number 2 again" in await found(client)


async def test_a_count_of_turns_that_is_not_right_is_found():
    client, store = await house("draw", "coin")
    await history.rewind(client.runtime, "s1", 1)
    forged(store, 4, lambda entry: replace(entry, last_turn=7))
    assert await found(client) == ["session 's1': entry 4 counts 7 turns, and there were 3"]


async def test_a_head_at_a_turn_that_was_never_told_is_found():
    client, store = await house("draw")
    await history.rewind(client.runtime, "s1", 1)
    forged(store, 3, lambda entry: replace(entry, turn=9, last_turn=9))
    assert "session 's1': entry 3 stands at turn 9, which was never told" in await found(client)


async def test_a_key_that_made_two_entries_is_found_and_one_used_again_days_later_is_none():
    client, store = await house("draw", "draw", "draw")
    other = Client(client.runtime, "s2")
    await other.send("INIT")
    for seq in (2, 4):
        forged(store, seq, lambda entry: replace(entry, key="钥".encode().hex(), request_hash="h"))
    forged(store, 1, lambda entry: replace(entry, key="钥".encode().hex()), "s2")
    assert await found(client) == ["session 's1': entry 4 has the Idempotency-Key of entry 2"]

    later = 3 * 24 * 3600 * 1000
    forged(store, 4, lambda entry: replace(entry, at_ms=entry.at_ms + later))
    assert not any("Idempotency-Key" in each for each in await found(client))


async def test_what_the_store_itself_finds_is_passed_on():
    client, store = await house("draw")
    store.found = (Damage("the last group is not in the file", ("s1",)), Damage("an index misses rows"))
    seen, done = await report(client.runtime)
    assert [(each.what, each.sessions) for each in seen] == [
        ("the last group is not in the file", ("s1",)), ("an index misses rows", ())
    ]  # fmt: skip
    assert done == Done(is_good=False, facts={"entries": 2, "sessions": 1, "damaged": 1})


# What the definitions tell.


async def test_a_definition_that_is_gone_altered_or_unreadable_is_found():
    client, store = await house("draw")
    digest = (await client.session()).digest
    files = await store.kept(digest)

    store.swap_definition(digest, {**files, "machines/well.yaml": files["machines/well.yaml"] + "# more\n"})
    altered = await found(client)
    store.forget_definitions()
    gone = await found(client)

    first = "session 's1': entry 1 (turn 1, turn): "
    assert altered[0] == f"{first}the definition that the store keeps as {digest} was altered"
    assert gone[0] == f"{first}its definition {digest} is not in the store"
    broken = {"machines/well.yaml": "machine: ["}
    store.swap_definition(loader.digest_of(broken), broken)
    for seq in (1, 2):
        forged(
            store, seq, lambda entry: replace(
                entry, digest=loader.digest_of(broken), after=replace(entry.after, digest=loader.digest_of(broken))
            ),
        )  # fmt: skip
    assert "can't be read" in (await found(client))[0]


# What the rules tell: the hashes are right, and it can't have happened.


def _after(**changes: Any) -> Alter:
    return lambda entry: replace(entry, after=replace(entry.after, **changes))


def _outcome(**changes: Any) -> Alter:
    return lambda entry: replace(entry, outcome=replace(entry.outcome, **changes))


def _answered(path: str, value: Any) -> Alter:
    def alter(entry: Entry) -> Entry:
        told = msgspec.json.decode(entry.answer)
        part = told
        *parents, leaf = path.split(".")
        for name in parents:
            part = part[name]
        part[leaf] = value
        return replace(entry, answer=msgspec.Raw(msgspec.json.encode(told)))

    return alter


LUCK = Change("luck", 1, 1000)
FORGERIES: dict[str, tuple[int, Alter, str]] = {
    "a die": (2, _outcome(dice=(Rolled("pull", "1d1000", 1000),)), "its dice are"),
    "no die": (2, _outcome(dice=()), "its dice are"),
    "an edge": (2, _outcome(edge="YARD.coin"), "it took edge YARD.coin, and the guards choose YARD.draw"),
    "a shut edge": (
        2, _outcome(edge="YARD.rich", choice=Choice("rich", "", "Pay"), dice=()),
        "it took edge YARD.rich, and the guards choose none",
    ),
    "a state left": (2, _outcome(source="CAVE"), "it leaves state 'CAVE', and the session stood in 'YARD'"),
    "a change": (2, _outcome(changes=(LUCK,)), "its changes are"),
    "a variable": (3, _after(context={"luck": 0, "gold": 9, "mood": "calm", "hidden": 7}), "its context."),
    "a learned value": (
        2, lambda entry: _after(context={**entry.after.context, "mood": "tense"})(entry),
        'its context.mood is "tense", and the rules give "calm"',
    ),
    "a secret": (
        2, lambda entry: _after(context={**entry.after.context, "hidden": 8})(entry),
        "its context.hidden is 8, and the rules give 7",
    ),
    "what once used": (3, _after(used=()), "its used is [], and the rules give"),
    "the visits": (3, _after(visits={"YARD": 9}), "its visits.YARD is 9, and the rules give 3"),
    "the step": (3, _after(step=9), "its step is 9, and the rules give 3"),
    "the state": (4, _after(state="YARD"), 'its state is "YARD", and the rules give "CAVE"'),
    "an end": (4, _after(ended=True), "its ended is true, and the rules give false"),
    "the routing": (
        4, lambda entry: _after(routing=replace(entry.after.routing, allowed_event_types=("END_SLEEP",)))(entry),
        "its routing is",
    ),
    "an offer": (2, lambda entry: _after(offer=entry.after.offer[1:])(entry), "its offer is"),
    "an offered key": (
        4, lambda entry: _after(offer=(*entry.after.offer[:1], Offer(2, "Fly", "CAVE", "fly")))(entry), "its offer is"
    ),
    "the time": (3, _after(elapsed_ms=999), "its elapsed_ms is 999, and the rules give"),
    "the seed": (1, _after(run_seed="二"), 'its run_seed is "二", and the rules give "一"'),
    "a later seed": (2, _after(run_seed="二"), 'its run_seed is "二", and the rules give "一"'),
    "the salt": (2, _after(salt="s"), 'its salt is "s", and the rules give ""'),
    "the player": (2, _after(player_id="兰"), 'its player_id is "兰", and the rules give null'),
    "a key choice": (2, _after(key_choices=(KeyChoice(2, "Fly", 9),)), "its key_choices is"),
    "the parent": (3, lambda entry: replace(entry, parent=1), "its parent is turn 1, and the session stood at turn 2"),
    "no parent": (3, lambda entry: replace(entry, parent=None), ""),
    "another event": (2, _outcome(event="FLY"), ""),
    "no state of the machine": (2, _after(state="NOWHERE"), 'its state is "NOWHERE"'),
    "a request": (
        2, lambda entry: replace(entry, request={**entry.request, "elapsed_active_seconds": 50}),
        "its elapsed_ms is",
    ),
    "an unreadable request": (
        2, lambda entry: replace(entry, request={"elapsed_active_seconds": "soon"}), "the rules can't play it again",
    ),
    "a narration": (2, lambda entry: replace(entry, narration={}), "the rules can't play it again"),
    "an answered state": (2, _answered("session.state", "CAVE"), 'it was answered with state "CAVE"'),
    "an answered id": (2, _answered("session.session_id", "s2"), 'it was answered with session_id "s2"'),
    "answered routing": (
        2, _answered("payload.routing.allowed_event_types", ["FLY"]), "the routing that was answered is not"
    ),
    "an answered edge": (2, _answered("payload.outcome.edge", "YARD.fly"), "the edge that was answered is not"),
    "a judging time": (
        2, lambda entry: replace(entry, judged=Judged(1, "")),
        "the time that it was judged with is not the session's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_what_the_rules_would_not_have_made_is_found_and_named(forgery):
    client, store = await house("draw", "coin", "down")
    seq, alter, told = FORGERIES[forgery]
    forged(store, seq, alter)

    seen = await found(client)

    assert len(seen) == 1
    assert seen[0].startswith(f"session 's1': entry {seq} (turn {seq}, turn): ")
    assert told in seen[0]


async def branched() -> tuple[Client, Rows, str]:
    """A session with each kind, and its fork: seqs 1–3 turns, 4 a rewind to 2, 5 a turn, 6 a regenerate, 7 a fork."""
    client, store = await house("draw", "down")
    await history.rewind(client.runtime, "s1", 2)
    await client.choose("coin")
    await history.regenerate(client.runtime, "s1")
    child = (await history.fork(client.runtime, "s1", None, child_id="child")).entry.child
    assert await found(client) == []
    return client, store, child


BRANCH_FORGERIES: dict[str, tuple[str, int, Alter, str]] = {
    "a rewind's context": (
        "s1", 4, lambda entry: _after(context={**entry.after.context, "gold": 9})(entry), "its context.gold is 9"
    ),
    "time given back": ("s1", 4, _after(elapsed_ms=-1), "its elapsed_ms is -1"),
    "a rewind from elsewhere": (
        "s1", 4, lambda entry: replace(entry, parent=1), "it left turn 1, and the session stood at turn 3"
    ),
    "a rewind to elsewhere": ("s1", 4, lambda entry: replace(entry, turn=1), "its "),
    "a sibling's outcome": (
        "s1", 6, _outcome(changes=(LUCK,)), "its outcome is not that of turn 4, which it tells anew"
    ),
    "a sibling's parent": ("s1", 6, lambda entry: replace(entry, parent=3), "its parent is not that of turn 4"),
    "a sibling's salt": ("s1", 6, _after(salt="x"), 'its salt is "x"'),
    "a sibling's judging": (
        "s1", 6, lambda entry: replace(entry, judged=None), "the time and the salt that it was judged with"
    ),
    "a source's fork": ("s1", 7, _after(state="CAVE"), 'its state is "CAVE"'),
    "a source's fork elsewhere": (
        "s1", 7, lambda entry: replace(entry, turn=2), "it stands at turn 2, and the session stood at turn 5"
    ),
    "a copy's die": ("child", 2, _outcome(dice=(Rolled("pull", "1d1000", 1000),)), "its dice are"),
    "a copy's context": (
        "child", 3, lambda entry: _after(context={**entry.after.context, "gold": 5})(entry), "its context.gold is 5"
    ),
    "a copy's time": ("child", 3, _after(elapsed_ms=-5), "its time runs backwards"),
    "a copy's parent": ("child", 3, lambda entry: replace(entry, parent=1), "its "),
    "a copy's lost parent": ("child", 3, lambda entry: replace(entry, parent=4), "what it stands on can't be read"),
    "a child's beginning": (
        "child", 4, lambda entry: _after(context={**entry.after.context, "gold": 5})(entry), "its context.gold is 5"
    ),
}  # fmt: skip


@pytest.mark.parametrize("forgery", BRANCH_FORGERIES)
async def test_what_no_rewind_fork_or_sibling_can_be_is_found(forgery):
    client, store, _ = await branched()
    session_id, seq, alter, told = BRANCH_FORGERIES[forgery]
    forged(store, seq, alter, session_id)

    seen = await found(client)

    assert len(seen) == 1
    assert seen[0].startswith(f"session '{session_id}': entry {seq} (")
    assert told in seen[0]


async def test_of_each_damaged_session_the_first_difference_is_told_and_the_others_are_looked_at():
    client, store = await house("draw", "coin", "down")
    for name in ("s2", "s3"):
        other = Client(client.runtime, name)
        await other.send("INIT")
        await other.choose("draw")
    for seq in (2, 3, 4):
        forged(store, seq, _after(step=99))
    forged(store, 2, _after(step=98), "s3")
    seen = await found(client)
    assert [each.partition(" (")[0] for each in seen] == ["session 's1': entry 2", "session 's3': entry 2"]


# Every store, old formats, and many sessions.


async def test_sessions_that_lie_among_each_other_are_checked_alike():
    """As a file has them that keeps its rows in the order of arrival."""
    client, store = await house("draw", "coin", "down")
    others = [Client(client.runtime, f"s{number}") for number in (2, 3)]
    for other in others:
        await other.send("INIT")
        await other.choose("draw")
        await other.choose("down")
    walk = store.walk

    async def by_arrival(_: str = "") -> Any:
        rows = [row async for row in walk()]
        for row in sorted(rows, key=lambda row: (row.seq, row.session_id)):
            yield row

    store.walk = by_arrival
    assert await found(client) == []
    forged(store, 2, _after(step=99), "s2")
    assert len(await found(client)) == 1


async def test_what_an_older_format_wrote_is_checked_and_so_is_what_grows_from_it():
    files, rows = old_journal()
    store = Rows()
    await store.adopt(rows)
    await store.keep(read_entry(rows[0].body, rows[0].hash).digest, files)
    runtime = runtime_of(tiny(WELL, "well"), store=store)
    await runtime.open()
    client = Client(runtime, "old")
    assert await found(client) == []

    await history.rewind(runtime, "old", 2)
    await history.regenerate(runtime, "old")
    await history.fork(runtime, "old", None, child_id="young")
    assert await found(client) == []

    body, hash_ = store.rows("old")[2]
    store.rows("old")[2] = (body.replace(b'"step":3', b'"step":4'), hash_)
    assert await found(client) == ["session 'old': entry 3 is not what was written: its hash is another"]


async def test_entries_that_are_no_longer_at_hand_are_read_again():
    client, store, _ = await branched()
    forged(store, 6, _after(step=99))
    steps = [step async for step in verify.verify(client.runtime, kept=1)]
    assert [step.sessions for step in steps if isinstance(step, Found)] == [("s1",)]


async def test_memory_does_not_grow_with_the_entries():
    client, store = await house(*["draw"] * 20)
    short = await _peak(client.runtime)
    for _ in range(60):
        await client.choose("draw")
    added = sum(len(body) for body, _ in store.rows()[21:])
    assert await _peak(client.runtime) - short < added / 2


async def _peak(runtime: Runtime) -> int:
    """The most memory that checking takes, in bytes."""
    tracemalloc.start()
    try:
        steps = [step async for step in verify.verify(runtime, kept=4)]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert [type(step) for step in steps] == [Done]
