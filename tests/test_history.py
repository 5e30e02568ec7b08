"""Going back, branching off, telling anew: where a session stands afterwards, and that nothing is ever taken away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from conftest import Client, tiny
from served import PATIENCE_S, Server, Web, facts, runtime_of, serving, shipped

from runtime import errors, history, loader
from runtime.claims import Idempotency
from runtime.explain import explain
from runtime.narrators import Narration
from runtime.narrators.offline import Offline
from runtime.progress import Done
from runtime.session import Entry
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime
from runtime.verify import verify
from server import answers
from server.settings import Settings

WELL = """
title: 枯井 The Well
language: en
initial: {event: INIT, target: YARD, dice: {omen: 1d1000}, assign: {luck: dice.omen}}
context:
  luck: {type: int, default: 0, min: 0, max: 1000, show: true}
  gold: {type: int, default: 0, min: 0, max: 99, show: true}
  mood: {type: enum, of: [calm, tense], default: calm}
  hidden: {type: int, default: 7, secret: true}
  told_at: {type: int, default: 0, min: 0}
states:
  YARD:
    label: Yard
    options:
      - {key: draw, text: Draw water, target: YARD, dice: {pull: 1d1000}, assign: {luck: dice.pull, told_at: time.elapsed_seconds}}
      - {key: coin, text: Pick up the coin, target: YARD, once: true, assign: {gold: gold + 1}, tell: A coin.}
      - {key: late, text: Ask the watchman, guard: time.elapsed_seconds < 60, target: YARD}
      - {key: down, text: Climb down, target: CAVE}
  CAVE:
    label: Cave
    options:
      - {key: up, text: Climb up, target: YARD}
      - {key: deeper, text: Go deeper, target: CAVE}
      - {key: sleep, text: Sleep, target: END_SLEEP}
  END_SLEEP: {type: final, ending: {title: Asleep, good: false}}
"""  # noqa: E501 - one option a line
POLICIES = {"free": "", "off": "history: {rewind: off}\n", "checkpoint": "history: {rewind: checkpoint}\n"}


def well(policy: str = "free") -> Any:
    text = WELL.lstrip() + POLICIES[policy]
    if policy == "checkpoint":
        text = text.replace("label: Cave", "label: Cave\n    checkpoint: true")
    return tiny(text, "well")


async def played(start: Any, *choices: str, machine: Any = None, **more: Any) -> Client:
    client: Client = await start(machine or well(), **more)
    await client.send("INIT", run_seed="一枚铜钱", elapsed_active_seconds=0)
    for choice in choices:
        await client.choose(choice)
    return client


async def head_of(client: Client) -> Entry:
    head = await client.runtime.store.head(client.session_id)
    assert head is not None
    return head


async def rewound(client: Client, to_turn: Any, **more: Any) -> Any:
    return msgspec.json.decode((await history.rewind(client.runtime, client.session_id, to_turn, **more)).data)


async def forked(client: Client, at_turn: int | None = None, **more: Any) -> tuple[Client, Any]:
    """The child's client, and the answer."""
    answered = await history.fork(client.runtime, client.session_id, at_turn, **more)
    return Client(client.runtime, answered.entry.child), msgspec.json.decode(answered.data)


async def retold(client: Client, **more: Any) -> Any:
    return msgspec.json.decode((await history.regenerate(client.runtime, client.session_id, **more)).data)


async def shown(client: Client) -> Any:
    return msgspec.json.decode(msgspec.json.encode(await history.standing(client.runtime, await head_of(client))))


async def refused(client: Client, kind: type[errors.Refusal], work: Any) -> errors.Refusal:
    """The refusal, having checked that nothing changed."""
    before = await client.journal()
    with pytest.raises(kind) as caught:
        await work
    assert await client.journal() == before
    return caught.value


async def is_good(runtime: Runtime) -> bool:
    """Whether the whole journal adds up."""
    steps = [step async for step in verify(runtime)]
    assert isinstance(steps[-1], Done)
    return steps == steps[-1:] and steps[-1].is_good


# Going back, and forward again.


async def test_a_rewind_makes_an_older_turn_the_head_and_takes_nothing_away(start):
    client = await played(start, "draw", "coin", "down")
    before = await client.journal()
    then = (await client.runtime.store.entry("s1", 2)).after

    answer = await rewound(client, 2)

    now = await client.session()
    assert (now.state, now.context, now.visits, now.step, now.turn) == ("YARD", then.context, then.visits, then.step, 2)
    assert (answer["session"]["turn"], answer["session"]["state"]) == (2, "YARD")
    assert (await client.journal())[:-1] == before
    entry = await head_of(client)
    assert (entry.kind, entry.turn, entry.parent, entry.last_turn) == ("rewind", 2, 4, 4)
    assert await is_good(client.runtime)


async def test_the_turn_after_a_rewind_has_a_number_of_its_own_and_the_older_turn_as_parent(start):
    client = await played(start, "draw", "coin", "down")
    await rewound(client, 2)
    answer = await client.choose("down")
    entry = await head_of(client)
    assert (entry.turn, entry.parent) == (5, 2)
    assert (answer["session"]["turn"], answer["session"]["step"]) == (5, 3)
    assert await is_good(client.runtime)


async def test_forward_again_and_over_to_another_branch(start):
    client = await played(start, "draw", "coin", "down")
    there = await client.session()
    await rewound(client, 1)
    await client.choose("draw")

    await rewound(client, 4)

    now = await client.session()
    assert (now.turn, now.state, now.context, now.used) == (4, "CAVE", there.context, there.used)
    assert (await rewound(client, 5))["session"]["turn"] == 5
    assert await is_good(client.runtime)


async def test_previous_is_the_head_turns_parent_up_to_the_root(start):
    client = await played(start, "draw", "coin")
    await rewound(client, 1)
    await client.choose("down")
    assert (await rewound(client, "previous"))["session"]["turn"] == 1
    refusal = await refused(client, errors.RewindRefused, rewound(client, "previous"))
    assert refusal.facts == {"reasons": ["at_the_root"]}
    await rewound(client, 3)
    assert (await rewound(client, "previous"))["session"]["turn"] == 2


async def test_an_ended_session_can_be_gone_back_in_and_played_on(start):
    client = await played(start, "down", "sleep")
    assert (await client.session()).ended

    answer = await rewound(client, "previous")

    assert answer["session"]["ended"] is False
    assert [each["key"] for each in answer["options"]] == ["up", "deeper", "sleep"]
    assert (await client.choose("up"))["session"]["turn"] == 4
    assert (await rewound(client, 3))["session"]["ended"] is True


async def test_what_once_used_up_is_given_back(start):
    client = await played(start, "coin")
    assert "coin" not in [each.key for each in (await client.session()).offer]

    answer = await rewound(client, 1)

    assert "coin" in [each["key"] for each in answer["options"]]
    assert (await client.choose("coin"))["payload"]["status"]["gold"]["value"] == 1


async def test_no_time_is_given_back_and_what_time_has_closed_stays_closed(start):
    client = await played(start)
    assert "late" in [each.key for each in (await client.session()).offer]
    await client.choose("draw", elapsed_active_seconds=90)

    answer = await rewound(client, 1)

    assert answer["session"]["time"]["elapsed_active_seconds"] == 90
    assert [each["key"] for each in answer["options"]] == ["draw", "coin", "down"]
    assert [each["id"] for each in answer["options"]] == [1, 2, 4]
    again = await client.choose("draw")
    assert again["session"]["time"]["elapsed_active_seconds"] == 90
    assert (await client.session()).context["told_at"] == 90
    assert await is_good(client.runtime)


async def test_an_option_that_was_shown_is_never_another_one_after_a_rewind(start):
    """`late` had id 3 and is closed now; `down` had 4, and is no 3."""
    client = await played(start)
    told = (await client.session()).offer
    await client.choose("draw", elapsed_active_seconds=90)
    answer = await rewound(client, 1)

    ids = {each.key: each.id for each in told}
    assert {each["key"]: each["id"] for each in answer["options"]} == {
        key: ids[key] for key in ("draw", "coin", "down")
    }
    shown_ids = [each["id"] for each in answer["answer"]["payload"]["options"]]
    assert shown_ids == [1, 2, 3, 4]
    refusal = await refused(client, errors.OptionNotOffered, client.send(option=ids["late"]))
    assert [each["id"] for each in refusal.facts["offered"]] == [1, 2, 4]
    assert (await client.send(option=ids["down"]))["session"]["state"] == "CAVE"
    assert await is_good(client.runtime)


async def test_what_opened_since_is_offered_after_what_was_told(start):
    """In the file it stands first; the ids of what was told stay."""
    dawn = "      - {key: dawn, text: Dawn, guard: time.elapsed_seconds >= 60, target: YARD}\n"
    text = (
        WELL.lstrip()
        .replace("guard: time.elapsed_seconds < 60, ", "")
        .replace("      - {key: draw", f"{dawn}      - {{key: draw", 1)
    )
    client = await played(start, machine=tiny(text, "well"))
    assert [each.key for each in (await client.session()).offer] == ["draw", "coin", "late", "down"]
    await client.choose("draw", elapsed_active_seconds=90)

    answer = await rewound(client, 1)

    offered = [(each["id"], each["key"]) for each in answer["options"]]
    assert offered == [(1, "draw"), (2, "coin"), (3, "late"), (4, "down"), (5, "dawn")]
    assert (await client.send(option=5))["session"]["turn"] == 3
    assert await is_good(client.runtime)


async def test_a_session_is_resumed_as_it_stands_after_a_rewind(start):
    client = await played(start)
    sent = msgspec.json.decode((await client.runtime.store.entry("s1", 1)).answer)
    await client.choose("draw", elapsed_active_seconds=90)
    answer = await rewound(client, 1)
    before = await client.journal()

    resumed = await client.send("INIT", on_exists="resume")

    assert resumed["payload"]["options"] == answer["options"]
    assert resumed["payload"]["routing"] == answer["routing"]
    assert resumed["session"] == answer["session"]
    assert resumed["payload"]["scene"] == sent["payload"]["scene"]
    assert answer["answer"] == (await shown(client))["answer"] == sent
    assert await client.journal() == before


async def test_a_turn_told_anew_is_resumed_with_its_own_data(start):
    client = await played(start, "draw")
    told = (await retold(client))["answer"]
    assert await client.send("INIT", on_exists="resume") == told
    await client.choose("down", elapsed_active_seconds=90)
    await rewound(client, 3)
    resumed = await client.send("INIT", on_exists="resume")
    assert (resumed["event"], resumed["payload"]["outcome"]) == (told["event"], told["payload"]["outcome"])
    assert resumed["session"]["time"]["elapsed_active_seconds"] == 90


async def test_the_time_since_the_last_answer_counts_on_over_a_rewind(start, clock):
    client = await played(start, "draw")
    clock[0] += 20_000
    await rewound(client, 1)
    clock[0] += 10_000
    assert (await client.choose("down"))["session"]["time"]["elapsed_active_seconds"] == 30
    assert await is_good(client.runtime)


async def test_an_option_keeps_the_words_that_it_was_told_in(start):
    worded = {"options": [{"key": key, "text": f"The {key}"} for key in ("draw", "coin", "late", "down")]}
    client = await played(start, "draw", answers=[worded, {}])
    answer = await rewound(client, 1)
    assert [each["text"] for each in answer["options"]] == ["The draw", "The coin", "The late", "The down"]


async def test_the_same_choice_after_a_rewind_rolls_the_same_dice(start):
    client = await played(start, "draw", "down")
    first = (await client.runtime.store.entry("s1", 2)).outcome.dice
    await rewound(client, 1)
    again = await client.choose("draw")
    assert again["payload"]["outcome"]["dice"] == [{"name": "pull", "spec": "1d1000", "value": first[0].value}]


async def test_a_session_shows_where_it_stands_with_the_head_turns_answer_as_it_was_sent(start):
    client = await played(start)
    sent = await client.choose("draw")
    await client.choose("down", elapsed_active_seconds=70)

    answer = await rewound(client, 2)

    assert answer == await shown(client)
    assert answer["answer"] == sent
    assert "late" in [each["key"] for each in sent["payload"]["options"]]
    assert "late" not in [each["key"] for each in answer["options"]]
    assert answer["routing"]["allowed_event_types"] == answer["allowed_event_types"] == ["YARD", "CAVE"]
    assert answer["can_rewind_to"] == [1, 3]
    assert answer["in_progress"] is False


async def test_a_session_that_was_rewound_is_resumed_with_the_turn_it_stands_at(start):
    client = await played(start)
    sent = await client.choose("draw")
    await client.choose("down")
    await rewound(client, 2)
    assert await client.send("INIT", on_exists="resume") == sent


async def test_a_rewind_goes_to_a_branch_from_before_a_restart(start):
    client = await played(start, "coin")
    await client.send("INIT", on_exists="restart", run_seed="another")
    answer = await rewound(client, 2)
    assert (answer["session"]["run_seed"], answer["session"]["step"]) == ("一枚铜钱", 2)
    assert (await client.choose("draw"))["session"]["turn"] == 4
    assert await is_good(client.runtime)


async def test_a_restart_and_a_rewind_give_no_time_back(start):
    client = await played(start)
    await client.choose("draw", elapsed_active_seconds=90)
    for _ in range(2):
        anew = await client.send("INIT", on_exists="restart", run_seed="another", elapsed_active_seconds=0)
        assert anew["session"]["time"]["elapsed_active_seconds"] == 0
        await retold(client)

    for turn in (1, 2):
        answer = await rewound(client, turn)
        assert answer["session"]["time"]["elapsed_active_seconds"] == 90
        assert "late" not in [each["key"] for each in answer["options"]]
    assert await is_good(client.runtime)


async def test_a_root_told_anew_is_the_same_game(start):
    client = await played(start)
    await retold(client)
    await client.choose("draw", elapsed_active_seconds=90)
    await client.send("INIT", on_exists="restart", elapsed_active_seconds=0)
    for turn in (1, 2, 3):
        assert (await rewound(client, turn))["session"]["time"]["elapsed_active_seconds"] == 90
    assert await is_good(client.runtime)


# What the machine lets be taken back.


async def test_a_machine_that_says_off_lets_nothing_be_taken_back(start):
    client = await played(start, "draw", machine=well("off"))
    assert (await shown(client))["can_rewind_to"] == []
    for work in (rewound(client, 1), rewound(client, "previous"), forked(client), retold(client)):
        assert (await refused(client, errors.RewindRefused, work)).facts == {"reasons": ["off"]}


async def test_where_checkpoints_count_only_turns_that_entered_one_can_be_gone_back_to(start):
    client = await played(start, "down", "deeper", "up", "draw", machine=well("checkpoint"))
    assert (await shown(client))["can_rewind_to"] == [2]

    for turn in (1, 3, 4):
        refusal = await refused(client, errors.RewindRefused, rewound(client, turn))
        assert refusal.facts == {"reasons": ["not_a_checkpoint"]}
    assert (await rewound(client, "previous"))["session"]["turn"] == 2
    refusal = await refused(client, errors.RewindRefused, rewound(client, "previous"))
    assert refusal.facts == {"reasons": ["not_a_checkpoint"]}
    assert (await retold(client))["session"]["turn"] == 6


async def test_where_checkpoints_count_a_fork_leads_to_one_or_to_the_head(start):
    client = await played(start, "down", "up", machine=well("checkpoint"))
    refusal = await refused(client, errors.RewindRefused, forked(client, 1))
    assert refusal.facts == {"reasons": ["not_a_checkpoint"]}
    assert (await forked(client, 2))[1]["session"]["turn"] == 2
    assert (await forked(client))[1]["session"]["turn"] == 3


FREED = "version: 2\n"
"""A later version of the well."""


async def served_anew(client: Client, policy: str) -> Client:
    """The same session on a server that has another version of its machine, and begun anew there."""
    later = runtime_of(tiny(FREED + WELL.lstrip() + POLICIES[policy], "well"), store=client.runtime.store)
    await later.open()
    client = Client(later)
    await client.send("INIT", on_exists="restart", run_seed="另一枚")
    return client


@pytest.mark.parametrize(("told", "now"), [("off", "free"), ("off", "checkpoint"), ("free", "off")])
async def test_a_restart_does_not_free_what_was_told_where_nothing_may_be_taken_back(start, told, now):
    client = await served_anew(await played(start, "draw", "down", machine=well(told)), now)
    await client.choose("draw")
    assert (await shown(client))["can_rewind_to"] == ([4] if now == "free" else [])
    for work in (rewound(client, 1), rewound(client, 3), forked(client, 3)):
        assert (await refused(client, errors.RewindRefused, work)).facts == {"reasons": ["off"]}


@pytest.mark.parametrize(("told", "now"), [("checkpoint", "free"), ("free", "checkpoint")])
async def test_a_turn_is_judged_by_its_own_definition_and_by_the_heads_the_stricter_counts(start, told, now):
    client = await served_anew(await played(start, "draw", "down", machine=well(told)), now)
    await client.choose("draw")
    listed = {"free": [3, 4], "checkpoint": []}[now]
    assert (await shown(client))["can_rewind_to"] == listed
    for work in (rewound(client, 1), rewound(client, 2), forked(client, 2)):
        assert (await refused(client, errors.RewindRefused, work)).facts == {"reasons": ["not_a_checkpoint"]}
    if told == "checkpoint":
        answer = await rewound(client, 3)
        assert (answer["session"]["state"], answer["can_rewind_to"]) == ("CAVE", [])
        assert answer == await shown(client)


async def test_turns_of_a_definition_that_is_lost_are_not_gone_back_to(start):
    store = (await served_anew(await played(start, "draw"), "free")).runtime.store
    client = Client(runtime_of(tiny(FREED + WELL.lstrip(), "well"), store=store))
    store.kept = _nothing
    await client.choose("draw")
    assert (await shown(client))["can_rewind_to"] == [3]
    for work in (rewound(client, 1), forked(client, 1)):
        assert (await refused(client, errors.RewindRefused, work)).facts == {"reasons": ["definition_missing"]}
    assert (await forked(client))[1]["session"]["turn"] == 4


async def test_a_restart_keeps_the_sessions_machine(start):
    """The server's default is another one."""
    client = await played(start, "draw", machine=well("off"))
    both = runtime_of(well_named("tap", "free"), well("free"), store=client.runtime.store)
    await both.open()
    other = Client(both)
    refusal = await refused(client, errors.SessionExists, other.send("INIT", on_exists="restart", machine="tap"))
    assert refusal.facts == {"state": "YARD", "turn": 2}
    assert "another session.session_id" in refusal.hint
    await refused(client, errors.MachineNotFound, other.send("INIT", on_exists="restart", machine="tapp"))

    assert (await other.send("INIT", on_exists="restart", machine="well"))["session"]["machine"] == "well"
    assert (await other.send("INIT", on_exists="restart"))["session"]["machine"] == "well"

    alone = runtime_of(well_named("tap", "free"), store=client.runtime.store)
    await alone.open()
    refusal = await refused(client, errors.MachineNotFound, Client(alone).send("INIT", on_exists="restart"))
    assert refusal.facts == {"machine": "well", "machines": ["tap"], "did_you_mean": None}
    resumed = await Client(alone).send("INIT", on_exists="resume", machine="well")
    assert resumed["session"]["machine"] == "well"


async def test_what_can_be_gone_back_to_is_what_is_listed(start):
    client = await played(start, "draw", "down", "deeper")
    await rewound(client, 2)
    await client.choose("down")
    listed = (await shown(client))["can_rewind_to"]
    assert listed == [1, 2, 3, 4]
    for turn in listed:
        assert (await rewound(client, turn))["session"]["turn"] == turn
        assert turn not in (await shown(client))["can_rewind_to"]


@pytest.mark.slow
async def test_of_very_many_turns_the_newest_are_listed_and_an_older_one_may_be_named(start):
    client = await played(start, *["draw"] * (history.REACHABLE + 4))
    head = history.REACHABLE + 5
    assert (await shown(client))["can_rewind_to"] == list(range(head - history.REACHABLE, head))

    answer = await rewound(client, 1)

    assert answer["session"]["turn"] == 1
    assert answer["can_rewind_to"] == list(range(head - history.REACHABLE + 1, head + 1))


async def test_every_refusal_of_a_rewind_changes_nothing(start):
    client = await played(start, "draw")
    there = await refused(client, errors.RewindRefused, rewound(client, 2))
    unknown = await refused(client, errors.TurnNotFound, rewound(client, 9))
    stale = await refused(client, errors.StaleTurn, rewound(client, 1, expected_turn=1))
    nobody = await refused(client, errors.SessionNotFound, history.rewind(client.runtime, "nobody", 1))
    late = await refused(client, errors.StaleTurn, retold(client, expected_turn=1))

    assert there.facts == {"reasons": ["at_the_turn"]}
    assert unknown.facts == {"session_id": "s1", "turn": 9}
    assert stale.facts == {"expected_turn": 1, "turn": 2, "allowed_event_types": ["YARD", "CAVE"]}
    assert nobody.facts == {"session_id": "nobody"}
    assert late.facts["turn"] == 2
    assert (await rewound(client, 1, expected_turn=2))["session"]["turn"] == 1


async def test_a_definition_that_is_gone_is_a_machine_changed(start):
    client = await played(start, "draw")
    store = client.runtime.store
    other = Runtime(store, Offline(), {}, "well")
    store.kept = _nothing  # a store that has lost its definitions
    for work in (
        history.rewind(other, "s1", 1), history.fork(other, "s1", 1), history.regenerate(other, "s1")
    ):  # fmt: skip
        assert (await refused(client, errors.MachineChanged, work)).facts["reasons"] == ["definition_missing"]


async def _nothing(_: str) -> None:
    return None


# Branching off.


async def test_a_fork_is_a_whole_session_of_its_own(start):
    client = await played(start, "draw", "coin", "down")
    source = await client.journal()
    child, answer = await forked(client, 3, child_id="儿".encode().hex())

    copies = await client.runtime.store.entries(child.session_id)
    assert [(each.kind, each.turn, each.parent) for each in copies] == [
        ("turn", 1, None), ("turn", 2, 1), ("turn", 3, 2), ("fork", 3, 3)
    ]  # fmt: skip
    assert all(each.session_id == each.after.session_id == child.session_id for each in copies)
    assert [each.origin.turn for each in copies] == [1, 2, 3, 3]
    assert (answer["session"]["session_id"], answer["session"]["turn"]) == (child.session_id, 3)
    assert answer["answer"]["session"]["session_id"] == child.session_id
    assert answer == await shown(child)
    assert (await child.choose("down"))["session"]["turn"] == 4
    assert (await client.journal())[:-1] == source
    assert await is_good(client.runtime)


async def test_a_fork_leaves_the_source_where_it_was(start):
    client = await played(start, "draw", "coin")
    before = await client.session()
    child, _ = await forked(client, 1)
    entry = await head_of(client)
    assert (entry.kind, entry.turn, entry.parent, entry.child) == ("fork", 3, 1, child.session_id)
    assert await client.session() == before
    assert (await client.choose("down"))["session"]["turn"] == 4


async def test_a_fork_outlives_its_source(start):
    client = await played(start, "draw", "coin")
    child, _ = await forked(client, 2)
    assert await history.delete(client.runtime, "s1")
    assert (await child.choose("coin"))["session"]["turn"] == 3
    assert await is_good(client.runtime)


async def test_a_fork_rolls_dice_of_its_own_unless_it_asks_for_the_same(start):
    client = await played(start, "draw")
    alike, _ = await forked(client, 1, same_dice=True)
    other, _ = await forked(client, 1)

    def pulled(answer: Any) -> Any:
        return answer["payload"]["outcome"]["dice"][0]["value"]

    first = (await client.runtime.store.entry("s1", 2)).outcome.dice[0].value
    assert pulled(await alike.choose("draw")) == first
    own = pulled(await other.choose("draw"))
    assert own != first
    await rewound(other, 1)
    assert pulled(await other.choose("draw")) == own
    assert await is_good(client.runtime)


async def drawn(client: Client) -> Any:
    """Which number the well's die shows."""
    return (await client.choose("draw"))["payload"]["outcome"]["dice"][0]["value"]


async def test_a_childs_own_dice_are_not_lost_by_a_restart(start):
    client = await played(start)
    theirs = await drawn(client)
    child, _ = await forked(client, 1)
    own = await drawn(child)
    await child.send("INIT", on_exists="restart", run_seed="一枚铜钱")
    assert await drawn(child) == theirs, "a restart rolls what its seed says"

    await rewound(child, 1)
    assert await drawn(child) == own
    await rewound(child, 3)
    assert await drawn(child) == theirs
    assert await is_good(client.runtime)


async def test_a_fork_with_the_same_dice_rolls_what_its_source_would_a_fork_or_restarted_too(start):
    client = await played(start)
    child, _ = await forked(client, 1)
    own = await drawn(child)
    grandchild, _ = await forked(child, 1, same_dice=True)
    assert await drawn(grandchild) == own

    await child.send("INIT", on_exists="restart", run_seed="一枚铜钱")
    other, _ = await forked(child, 1, same_dice=True)
    assert await drawn(other) == own
    restarted, _ = await forked(child, None, same_dice=True)
    assert await drawn(restarted) == await drawn(child) == await drawn(client) != own
    assert await is_good(client.runtime)


async def test_a_fork_offers_what_its_turn_offered(start):
    """Free options are drawn by a die: the child's dice begin with its next turn."""
    client = await start(shipped()["haunted_house"])
    await client.send("INIT", run_seed="门")
    for _ in range(4):
        child, answer = await forked(client)
        sent = await client.send(option=1)
        told = (await client.runtime.store.entry("s1", sent["session"]["turn"] - 1)).after.offer
        assert [each["text"] for each in answer["options"]] == [each.text for each in told]
        await child.send(option=1)


async def test_a_fork_of_an_ended_session_has_ended_and_of_an_earlier_turn_has_not(start):
    client = await played(start, "down", "sleep")
    ended, answer = await forked(client)
    assert (await ended.session()).ended
    assert answer["session"]["ended"] is True
    earlier, _ = await forked(client, 2)
    assert (await earlier.choose("up"))["session"]["state"] == "YARD"


async def test_a_fork_of_the_head_stands_where_a_rewind_has_put_it(start):
    client = await played(start)
    await client.choose("draw", elapsed_active_seconds=90)
    await rewound(client, 1)
    _, answer = await forked(client)
    assert answer["session"]["time"]["elapsed_active_seconds"] == 90
    assert "late" not in [each["key"] for each in answer["options"]]
    assert await is_good(client.runtime)


async def test_a_fork_of_a_fork_and_of_a_branch(start):
    client = await played(start, "draw", "coin")
    await rewound(client, 1)
    await client.choose("down")
    await retold(client)
    child, _ = await forked(client)
    await child.choose("deeper")
    grandchild, answer = await forked(child)
    copies = await client.runtime.store.entries(grandchild.session_id)
    assert [(each.kind, each.turn, each.parent) for each in copies] == [
        ("turn", 1, None), ("regenerate", 5, 1), ("turn", 6, 5), ("fork", 6, 6)
    ]  # fmt: skip
    assert {each.origin.session_id for each in copies} == {child.session_id}
    assert answer["can_rewind_to"] == [1, 5]
    assert (await rewound(grandchild, 1))["session"]["state"] == "YARD"
    assert await is_good(client.runtime)


async def test_a_childs_id_that_is_taken_is_refused(start):
    client = await played(start, "draw")
    other = Client(client.runtime, "taken")
    await other.send("INIT")
    for taken in ("taken", "s1"):
        refusal = await refused(client, errors.SessionExists, forked(client, child_id=taken))
        assert refusal.facts["state"] == "YARD"
    key = Idempotency(key="k", request_hash="h")
    await refused(client, errors.SessionExists, forked(client, child_id="taken", once=key))


class Cut(MemoryStore):
    """A store that is lost once, after a child was written and before its source knows."""

    lose_next = False

    async def append(self, entry: Any, claim: Any = None, expense: Any = None) -> None:
        if self.lose_next and entry.kind == "fork":
            self.lose_next = False
            raise errors.StoreUnavailable("the power went")
        await super().append(entry, claim, expense)


@pytest.mark.parametrize("child_id", [None, "named"])
async def test_a_fork_cut_off_between_its_two_writes_is_finished_by_the_same_key(child_id):
    store = Cut()
    client = Client(runtime_of(well(), store=store))
    await client.runtime.open()
    await client.send("INIT")
    await client.choose("draw")
    key = Idempotency(key="fork-me", request_hash="h1")
    store.lose_next = True
    with pytest.raises(errors.StoreUnavailable):
        await forked(client, child_id=child_id, once=key)
    (orphan,) = {row.session_id async for row in store.walk()} - {"s1"}
    written = await Client(client.runtime, orphan).journal()

    child, answer = await forked(client, child_id=child_id, once=key)
    again = await history.fork(client.runtime, "s1", None, child_id=child_id, once=key)

    assert child.session_id == orphan
    assert await child.journal() == written
    assert again.is_replayed
    assert msgspec.json.decode(again.data) == answer
    assert {row.session_id async for row in store.walk()} == {"s1", orphan}
    assert await is_good(client.runtime)


async def test_another_key_does_not_take_over_a_child_that_was_cut_off():
    store = Cut()
    client = Client(runtime_of(well(), store=store))
    await client.runtime.open()
    await client.send("INIT")
    store.lose_next = True
    with pytest.raises(errors.StoreUnavailable):
        await forked(client, child_id="named", once=Idempotency(key="one", request_hash="h"))
    for other in (None, Idempotency(key="two", request_hash="h"), Idempotency(key="one", request_hash="other")):
        await refused(client, errors.SessionExists, forked(client, child_id="named", once=other))


# Telling anew.


@pytest.mark.slow
async def test_a_turn_told_anew_is_a_sibling_with_the_same_outcome_in_other_words(start):
    client = await start(shipped()["haunted_house"])
    await client.send("INIT", run_seed="钟")
    first = await client.send(option=1)

    answer = await retold(client)

    told = answer["answer"]
    assert told["payload"]["outcome"] == first["payload"]["outcome"]
    assert told["payload"]["scene"] != first["payload"]["scene"]
    assert told["event"] == first["event"]
    entry = await head_of(client)
    old = await client.runtime.store.entry("s1", 2)
    assert (entry.kind, entry.turn, entry.parent) == ("regenerate", 3, old.parent)
    assert entry.outcome == old.outcome
    assert answer == await shown(client)
    assert answer["can_rewind_to"] == [1, 2]
    assert await is_good(client.runtime)


async def test_the_beginning_and_the_end_can_be_told_anew(start):
    client = await start(shipped()["mine_adventure"])
    opening = await client.send("INIT", run_seed="矿")
    again = (await retold(client))["answer"]
    assert again["payload"]["outcome"] == opening["payload"]["outcome"]
    assert again["session"]["step"] == opening["session"]["step"] == 1
    assert (await head_of(client)).parent is None

    ended = await played(start, "down", "sleep")
    answer = await retold(ended)
    assert answer["session"]["ended"] is True
    assert answer["answer"]["payload"]["ending"]["id"] == "END_SLEEP"
    assert await is_good(ended.runtime)
    assert await is_good(client.runtime)


async def test_telling_anew_counts_the_choice_once(start):
    client = await played(start, "coin", "down")
    await retold(client)
    await retold(client)
    ended = await client.choose("sleep")
    assert [each["text"] for each in ended["payload"]["key_choices"]] == ["Pick up the coin", "Climb down", "Sleep"]
    assert len((await client.session()).recent) == 4
    assert (await client.session()).visits == {"YARD": 2, "CAVE": 1, "END_SLEEP": 1}


async def test_told_anew_again_and_again_every_text_comes_before_one_comes_twice(start):
    fragments = {"scene": ["one", "two", "three", "four"]}
    client = await played(start, machine=_with_fragments(fragments))
    told = [(await shown(client))["answer"]["payload"]["scene"]]
    told += [(await retold(client))["answer"]["payload"]["scene"] for _ in range(7)]
    assert len(set(told[:4])) == 4
    assert told[4:] == told[:4]


def _with_fragments(fragments: dict[str, list[str]]) -> Any:
    prompt = (
        "---\ndescription: A turn\ninputs: [state]\noutputs: {scene: scene}\n---\n"
        "system:\nTell it.\nuser:\nNow in {{ state }}.\n"
    )
    machine = "machine: bell\ntitle: The Bell\nlanguage: en\ninitial: {event: INIT, target: ROOM, prompt: turn}\n"
    ring = "options: [{key: ring, text: Ring, target: END}]"
    states = f"states:\n  ROOM:\n    prompt: turn\n    {ring}\n  END: {{type: final}}\n"
    said = "".join(
        f"{field}:\n  - say: {[f'Words number {text} are told.' for text in texts]}\n"
        for field, texts in fragments.items()
    )
    return loader.load(
        {
            "machines/bell.yaml": machine + states,
            "prompts/bell/turn.prompty": prompt,
            "prompts/bell/offline.en.yaml": said,
        }
    )


LISTENER = """
initial: {event: INIT, target: ROOM}
context: {mood: {type: enum, of: [calm, tense], default: calm, show: true}}
ai_state: {tone: output.tone}
states:
  ROOM:
    learn: {mood: {from: "output.tone == 'grim' ? tense : calm"}}
    options:
      - {key: wait, text: Wait, target: ROOM}
      - {key: run, text: Run, guard: mood == tense, target: END_RUN}
  END_RUN: {type: final}
"""


async def test_what_the_text_teaches_and_the_routing_after_it_follow_the_new_text(start):
    grim, mild = {"ai_state": {"tone": "grim"}}, {"ai_state": {"tone": "mild"}}
    client = await start(tiny(LISTENER), answers=[{}, grim, mild, grim])
    await client.send("INIT")
    first = await client.choose("wait")
    assert [each["key"] for each in first["payload"]["options"]] == ["wait", "run"]

    answer = await retold(client)

    assert [each["key"] for each in answer["options"]] == ["wait"]
    assert (await client.session()).context == {"mood": "calm"}
    assert answer["answer"]["payload"]["ai_state"] == {"tone": "mild"}
    await rewound(client, 2)
    assert (await client.session()).context == {"mood": "tense"}
    assert [each["key"] for each in (await retold(client))["options"]] == ["wait", "run"]
    assert await is_good(client.runtime)


async def test_a_turn_is_told_anew_as_it_was_judged_whatever_time_has_passed(start):
    client = await played(start)
    await client.choose("draw", elapsed_active_seconds=50)
    await client.choose("late", elapsed_active_seconds=80)
    await rewound(client, 2)
    await client.choose("draw", elapsed_active_seconds=100)
    assert (await client.session()).context["told_at"] == 80

    answer = await retold(client)

    assert (await client.session()).context["told_at"] == 80
    assert answer["session"]["time"]["elapsed_active_seconds"] == 100
    await rewound(client, 3)
    assert (await retold(client))["answer"]["payload"]["outcome"]["edge"] == "YARD.late"
    assert await is_good(client.runtime)


async def test_telling_anew_does_not_stop_the_clock(start, clock):
    client = await played(start, "draw")
    clock[0] += 20_000
    assert (await retold(client))["session"]["time"]["elapsed_active_seconds"] == 0
    clock[0] += 20_000
    assert (await client.choose("down"))["session"]["time"]["elapsed_active_seconds"] == 40
    assert await is_good(client.runtime)


async def test_a_childs_turn_is_told_anew_with_the_dice_that_fell(start):
    client = await played(start, "draw")
    child, _ = await forked(client)
    answer = await retold(child)
    first = (await client.runtime.store.entry("s1", 2)).outcome
    assert (await head_of(child)).outcome == first
    assert answer["answer"]["payload"]["outcome"]["dice"][0]["value"] == first.dice[0].value
    grandchild, _ = await forked(child)
    await retold(grandchild)
    assert (await head_of(grandchild)).outcome == first
    root, _ = await forked(client, 1)
    await retold(root)
    assert await is_good(client.runtime)


FAILURES = [errors.NarratorUnavailable("no answer"), {"scene": 7}]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_telling_that_fails_leaves_everything_as_it_was(start, failure):
    refusing = tiny(f"on_failure: refuse{WELL}", name="well")
    client = await played(start, "draw", machine=refusing, answers=[{}, {}, failure, {}])
    await refused(client, errors.WorldError, retold(client, once=Idempotency(key="k", request_hash="h")))
    assert client.runtime.trouble is not None
    assert not await client.runtime.store.in_progress("s1")

    again = await history.regenerate(client.runtime, "s1", once=Idempotency(key="k", request_hash="h"))

    assert (again.entry.turn, again.is_replayed) == (3, False)
    assert client.runtime.trouble is None


@pytest.mark.parametrize("failure", FAILURES)
async def test_where_telling_anew_fails_the_offline_narrator_tells_it(start, failure):
    client = await played(start, "draw", answers=[{}, {}, failure])

    again = await history.regenerate(client.runtime, "s1")

    assert (again.entry.turn, again.entry.narrator) == (3, "offline")
    assert again.entry.narration["output"]["scene"]


async def test_telling_anew_is_counted_as_a_turn_and_its_replay_is_not(start):
    seen: list[Any] = []
    client = await played(start, "draw", observe=seen.append)
    key = Idempotency(key="k", request_hash="h")
    first = await history.regenerate(client.runtime, "s1", once=key)
    again = await history.regenerate(client.runtime, "s1", once=key)
    assert first.data == again.data
    assert [each.entry.turn for each in seen] == [1, 2, 3]


# Two at once, and clients that go away.


class Gated(Offline):
    """Tells nothing until it may; `asked` counts, `waiting` is set while it is asked."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.waiting = asyncio.Event()
        self.asked = 0

    async def narrate(self, task: Any, _release: Any) -> Narration:
        self.asked += 1
        self.waiting.set()
        await self.may.wait()
        return self.tell(task)


async def gated() -> tuple[Client, Gated]:
    """A session of two turns whose next telling waits."""
    narrator = Gated()
    client = Client(runtime_of(well(), narrator=narrator))
    await client.runtime.open()
    await client.send("INIT")
    await client.choose("draw")
    narrator.waiting.clear()
    narrator.may.clear()
    return client, narrator


async def test_while_a_turn_runs_nothing_else_changes_the_history():
    client, narrator = await gated()
    playing = asyncio.create_task(client.choose("down"))
    await narrator.waiting.wait()

    for work in (
        rewound(client, 1), forked(client), retold(client), history.delete(client.runtime, "s1"),
        rewound(client, 1, once=Idempotency(key="k", request_hash="h")),
    ):  # fmt: skip
        refusal = await refused(client, errors.TurnInProgress, work)
        assert refusal.facts["same_key"] is False
    assert (await shown(client))["in_progress"] is True

    narrator.may.set()
    assert (await playing)["session"]["turn"] == 3
    assert (await rewound(client, 1))["session"]["turn"] == 1


async def test_a_client_that_goes_away_does_not_stop_a_telling():
    client, narrator = await gated()
    asking = asyncio.create_task(history.regenerate(client.runtime, "s1"))
    await narrator.waiting.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    narrator.may.set()
    await client.runtime.drain()

    assert ((await head_of(client)).kind, (await client.session()).turn) == ("regenerate", 3)


async def test_two_that_change_the_history_at_once_are_one_after_the_other(start):
    client = await played(start, "draw", "down")
    works = [rewound(client, 1), rewound(client, 2), forked(client, 1), retold(client)]
    done = await asyncio.gather(*works, return_exceptions=True)
    assert all(isinstance(each, dict | tuple | errors.TurnInProgress | errors.RewindRefused) for each in done)
    assert any(not isinstance(each, Exception) for each in done)
    assert await is_good(client.runtime)


async def test_deleting_says_whether_there_was_anything(start):
    client = await played(start, "draw")
    assert await history.delete(client.runtime, "s1") is True
    assert await history.delete(client.runtime, "s1") is False
    assert not await client.runtime.store.in_progress("s1")
    await client.send("INIT")


# Why it went so.


async def test_siblings_copies_and_turns_after_a_rewind_are_explained(start):
    client = await played(start)
    await client.choose("draw", elapsed_active_seconds=90)
    await rewound(client, 1)
    await client.choose("draw")
    await retold(client)
    child, _ = await forked(client)
    for session_id, turn in (("s1", 3), ("s1", 4), (child.session_id, 4)):
        told = await explain(client.runtime, session_id, turn)
        assert (told["edge"], told["parent"]) == ("YARD.draw", 1)
        verdicts = {each["edge"]: each["verdict"] for each in told["considered"]}
        assert verdicts["YARD.draw"] == "open"
    with pytest.raises(errors.TurnNotFound):
        await explain(client.runtime, child.session_id, 3)


# Over HTTP.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(runtime_of(well(), well_named("strict", "off"))) as served:
        yield served


def well_named(name: str, policy: str) -> Any:
    return tiny(WELL.lstrip() + POLICIES[policy], name)


@pytest.fixture
def web(server: Server) -> Iterator[Web]:
    with Web(server.url) as client:
        yield client


def begun(web: Web, name: str, *options: int, machine: str = "well") -> None:
    web.invoke(name, "INIT", session={"machine": machine}, seed={"run_seed": "web"})
    for option in options:
        web.invoke(name, option=option)


@pytest.mark.slow
def test_the_three_answer_like_the_session_itself(web):
    begun(web, "like", 1, 2)
    for path, body in (("rewind", {"to_turn": 1}), ("regenerate", {}), ("rewind", {"to_turn": "previous"})):
        if path == "rewind" and body["to_turn"] == "previous":
            web.ask("POST", "/sessions/like/rewind", json={"to_turn": 3})
        answered = web.ask("POST", f"/sessions/like/{path}", json=body)
        msgspec.convert(answered, answers.SessionShown)
        here = web.session("like")
        assert here.pop("context")
        assert here.pop("spent")["tokens"] == 0
        assert answered == here
    answered = web.ask("POST", "/sessions/like/fork", json={"at_turn": 2, "session_id": "like-child"})
    here = web.session("like-child")
    assert "hidden" not in here.pop("context")
    assert here.pop("spent")["calls"] == 0
    assert answered == here


def test_a_body_may_be_left_out_where_every_default_serves(web):
    begun(web, "bare", 1)
    assert web.ask("POST", "/sessions/bare/regenerate")["session"]["turn"] == 3
    assert web.ask("POST", "/sessions/bare/fork")["session"]["turn"] == 3
    refused = web.ask("POST", "/sessions/bare/rewind", 422)
    assert facts(refused) == {"details": [{"loc": ["body", "to_turn"], "msg": "is missing", "type": "missing"}]}


def test_every_fault_of_a_body_is_told_at_once(web, server):
    begun(web, "faults", 1)
    before = server.journal("faults")
    wrong: dict[str, list[tuple[Any, set[str]]]] = {
        "rewind": [
            ({"to_tur": 1}, {"body.to_tur", "body.to_turn"}),
            ({"to_turn": "first", "expected_turn": -1}, {"body.to_turn", "body.expected_turn"}),
            ({"to_turn": 0}, {"body.to_turn"}),
            ({"to_turn": 2.0}, {"body.to_turn"}),
            ([], {"body"}),
        ],
        "fork": [
            ({"at": 1, "session_id": "a b", "same_dice": "yes"}, {"body.at", "body.session_id", "body.same_dice"}),
            ({"at_turn": "1"}, {"body.at_turn"}),
        ],
        "regenerate": [({"expected_turn": "2", "mood": "\x00"}, {"body.expected_turn", "body.mood"})],
    }
    for path, bodies in wrong.items():
        for body, locs in bodies:
            refused = web.ask("POST", f"/sessions/faults/{path}", 422, json=body)
            assert {".".join(map(str, each["loc"])) for each in refused["details"]} == locs, refused
    meant = web.ask("POST", "/sessions/faults/rewind", 422, json={"to_tur": 1})
    assert any("Did you mean 'to_turn'?" in each["msg"] for each in meant["details"])
    assert server.journal("faults") == before


def test_the_edges_of_a_body_are_those_of_invoke(web):
    begun(web, "edges", 1)
    path = "/sessions/edges/rewind"
    kinds = {
        "unsupported_media_type": (415, b"to_turn=1", "application/x-www-form-urlencoded"),
        "malformed_json": (400, b'{"to_turn": 1, "to_turn": 2}', "application/json"),
        "body_too_large": (413, b'"' + b"x" * 300_000 + b'"', "application/json"),
    }
    for error, (status, body, kind) in kinds.items():
        assert web.ask("POST", path, status, content=body, headers={"Content-Type": kind})["error"] == error
    assert web.ask("GET", path, 405)["allowed_methods"] == ["POST"]
    for strange in ("nobody", "a%20b", "%00"):
        assert web.ask("POST", f"/sessions/{strange}/fork", 404, json={})["error"] == "session_not_found"


def test_what_is_refused_is_refused_in_the_contracts_words(web, server):
    begun(web, "words", 1)
    begun(web, "words-off", 1, machine="strict")
    table = [
        ("words", "rewind", {"to_turn": 9}, 404, "turn_not_found", {"session_id", "turn"}),
        ("words", "rewind", {"to_turn": 2}, 409, "rewind_refused", {"reasons"}),
        ("words", "rewind", {"to_turn": 1, "expected_turn": 1}, 409, "stale_turn",
         {"expected_turn", "turn", "allowed_event_types"}),
        ("words", "fork", {"session_id": "words"}, 409, "session_exists", {"state", "turn"}),
        ("words", "fork", {"at_turn": 9}, 404, "turn_not_found", {"session_id", "turn"}),
        ("words", "regenerate", {"expected_turn": 9}, 409, "stale_turn",
         {"expected_turn", "turn", "allowed_event_types"}),
        ("words-off", "regenerate", {}, 409, "rewind_refused", {"reasons"}),
    ]  # fmt: skip
    for name, path, body, status, error, told in table:
        before = server.journal(name)
        refused = web.ask("POST", f"/sessions/{name}/{path}", status, json=body)
        assert (refused["error"], set(facts(refused))) == (error, told)
        assert refused["hint"]
        assert server.journal(name) == before


def test_history_lists_every_kind_with_its_lineage(web):
    begun(web, "lines", 1, 2)
    web.ask("POST", "/sessions/lines/rewind", json={"to_turn": 1})
    web.ask("POST", "/sessions/lines/regenerate")
    web.ask("POST", "/sessions/lines/fork", json={"at_turn": 2, "session_id": "lines-child"})

    lines = web.turns("lines")
    msgspec.convert(lines, list[answers.TurnLine])
    assert [(each["turn"], each["parent"], each["kind"]) for each in lines] == [
        (1, None, "turn"), (2, 1, "turn"), (3, 2, "turn"), (1, 3, "rewind"), (4, None, "regenerate"), (4, 2, "fork")
    ]  # fmt: skip
    assert (lines[3]["from_turn"], lines[3]["to_turn"]) == (3, 1)
    assert "narration" not in lines[3]
    assert lines[4]["narration"]["scene"]
    assert lines[5]["child"] == "lines-child"
    copies = web.turns("lines-child")
    msgspec.convert(copies, list[answers.TurnLine])
    assert [each["origin"] for each in copies] == [{"session_id": "lines", "turn": turn} for turn in (1, 2, 2)]


def test_a_list_of_sessions_shows_where_they_stand_now(web):
    begun(web, "listed", 1, 4)
    web.ask("POST", "/sessions/listed/rewind", json={"to_turn": 1})
    (line,) = web.ask("GET", "/sessions?limit=1")["items"]
    assert (line["session"]["session_id"], line["session"]["turn"], line["session"]["state"]) == ("listed", 1, "YARD")
    assert line["routing"] == web.session("listed")["routing"]
    web.ask("POST", "/sessions/listed/fork", json={"session_id": "listed-child"})
    lines = web.ask("GET", "/sessions?limit=2")["items"]
    assert {each["session"]["session_id"] for each in lines} == {"listed", "listed-child"}


def test_players_may_and_strangers_may_not():
    tokens = Settings(play_tokens=("player-token",), operator_tokens=("operator-token",))
    with serving(runtime_of(well()), tokens) as gated_server:
        with Web(gated_server.url) as nobody:
            for path in ("rewind", "fork", "regenerate"):
                assert nobody.ask("POST", f"/sessions/s/{path}", 401, json={})["error"] == "unauthenticated"
        with Web(gated_server.url, Authorization="Bearer player-token") as player:
            begun(player, "mine", 1)
            key = {"Idempotency-Key": "back"}
            told = player.ask("POST", "/sessions/mine/rewind", json={"to_turn": 1}, headers=key)
            assert "context" not in told
        with Web(gated_server.url, Authorization="Bearer operator-token") as operator:
            again = operator.ask("POST", "/sessions/mine/rewind", json={"to_turn": 1}, headers=key)
            assert again == told
            assert operator.session("mine")["context"]["luck"]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), [("regenerate", {}), ("rewind", {"to_turn": 1}), ("fork", {"at_turn": 1})])
def test_each_change_takes_from_the_pace_of_its_token(path, body):
    with serving(runtime_of(well()), Settings(turns_per_minute=3)) as served, Web(served.url) as web:
        begun(web, "paced", 1)
        web.ask("POST", f"/sessions/paced/{path}", json=body)
        before = served.journal("paced")
        for other, asked in (("regenerate", {}), ("rewind", {"to_turn": 2}), ("fork", {})):
            assert web.ask("POST", f"/sessions/paced/{other}", 429, json=asked)["error"] == "rate_limited"
        assert served.journal("paced") == before


async def test_while_a_fork_copies_its_way_others_go_on(start):
    client = await played(start, *["draw"] * 12)
    seen: list[int] = []

    async def tick() -> None:
        while True:
            seen.append(len(seen))
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await forked(client)
    ticking.cancel()
    assert len(seen) > 12


@pytest.mark.slow
def test_deleting_waits_for_no_turn_and_refuses_while_one_runs():
    narrator = Gated()
    with serving(runtime_of(well(), narrator=narrator)) as served, Web(served.url) as web:
        begun(web, "held")
        narrator.may.clear()
        narrator.waiting.clear()
        playing = threading.Thread(target=web.invoke, args=("held",), kwargs={"option": 1})
        playing.start()
        served.run(narrator.waiting.wait())
        with Web(served.url) as other:
            assert facts(other.ask("DELETE", "/sessions/held", 409)) == {"same_key": False, "retry_after_seconds": 1}
        served.run(_let(narrator))
        playing.join(PATIENCE_S)
        assert web.ask("DELETE", "/sessions/held")["deleted"] is True


async def _let(narrator: Gated) -> None:
    narrator.may.set()
