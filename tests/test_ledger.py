"""What telling costs: on each turn, in a session's sum, in a day's; and what becomes of a turn over a budget."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import edgewise
from conftest import Client, tiny
from every_store import EVERY_STORE, Home, homed
from paid import ONE, SPENT, USAGE, Paid
from served import Web, runtime_of, serving

from runtime import history
from runtime.errors import BudgetExhausted, NarratorUnavailable, StoreUnavailable
from runtime.ledger import MICROS, Budgets, Ledger, day_of, day_told
from runtime.migrate import move
from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.provider import Standing
from runtime.narrators.release import Release
from runtime.session import DAY_MS, NO_TOTAL, Expense, Invoke, Total, sealed, summed
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play
from runtime.verify import verify
from server.meter import Meter
from server.settings import Settings

HALL = """
    language: zh
    title: {zh: 大厅, en: Hall}
    initial: {event: INIT, target: HALL}
    context:
      hp: {type: int, default: 3, min: 0, max: 9, show: true}
    states:
      HALL:
        options:
          - {key: look, text: {zh: 四下看看, en: Look}, target: HALL}
          - {key: book, text: {zh: 读墙上的字, en: Read}, target: WALL}
          - {key: leave, text: {zh: 离开, en: Leave}, target: END}
      WALL: {narrate: written, options: [{key: back, text: {zh: 回去, en: Back}, target: HALL}]}
      END: {type: final}
"""
DAY = 1_750_000_000_000 // DAY_MS
"""The day of the tests' clock."""


def times(count: int) -> Total:
    """What so many tellings cost."""
    return Total(*(count * each for each in msgspec.structs.astuple(ONE)))


async def begun(
    clock: list[int], machine: str = HALL, *, store: Any = None, paid: Any = None, **budgets: Any
) -> Client:
    """A session that has begun, told at a price."""
    made = tiny(machine)
    runtime = Runtime(
        store or MemoryStore(), paid or Paid(), {made.name: made}, made.name, clock_ms=lambda: clock[0],
        budgets=Budgets(**budgets),
    )  # fmt: skip
    await runtime.open()
    client = Client(runtime)
    await client.send("INIT")
    return client


async def totals(client: Client, session_id: str = "s1") -> list[Total]:
    """A session's sum at each of its entries."""
    return [entry.total for entry in await client.runtime.store.entries(session_id)]


async def today(client: Client) -> Expense:
    """The day's sum over all providers and models."""
    found = await client.runtime.store.expenses(0)
    return summed([Expense(day=DAY), *(msgspec.structs.replace(each, provider="", model="") for each in found)])[0]


# A turn, and its session.


async def test_each_telling_says_what_it_took_and_the_session_counts_on(clock):
    client = await begun(clock)
    await client.choose("look")

    first, second = await client.runtime.store.entries("s1")

    assert (first.usage, first.spent, first.total) == (USAGE, SPENT, ONE)
    assert (second.usage, second.spent, second.total) == (USAGE, SPENT, times(2))


async def test_what_was_told_without_a_model_costs_nothing(clock, start):
    offline = await start(tiny(HALL))
    await offline.send("INIT")
    paid = await begun(clock)
    await paid.choose("book")

    (told,) = await offline.runtime.store.entries("s1")
    assert told.total is NO_TOTAL
    assert await totals(paid) == [ONE, ONE]
    assert await offline.runtime.store.expenses(0) == []


async def test_a_rewind_gives_nothing_back_and_a_regenerate_costs_again(clock):
    client = await begun(clock)
    await client.choose("look")

    await history.rewind(client.runtime, "s1", 1)
    await client.choose("look")
    await history.regenerate(client.runtime, "s1")
    await client.send("INIT", on_exists="restart")

    assert await totals(client) == [times(each) for each in (1, 2, 2, 3, 4, 5)]
    assert (await today(client)).turns == 5


async def test_a_fork_has_spent_nothing_yet_and_its_source_as_much_as_before(clock):
    client = await begun(clock)
    await client.choose("look")

    await history.fork(client.runtime, "s1", 1, child_id="child")
    await Client(client.runtime, "child").choose("look")

    assert await totals(client) == [ONE, times(2), times(2)]
    assert await totals(client, "child") == [NO_TOTAL, NO_TOTAL, ONE]
    assert (await today(client)).turns == 3


async def test_a_session_that_moves_to_another_version_keeps_its_sum(clock):
    client = await begun(clock, f"version: 1\n{_flush(HALL)}")
    newer = tiny(f"version: 2\nmigrations: [{{from: 1}}]\n{_flush(HALL)}")
    client.runtime.machines = {newer.name: newer}
    await client.runtime.store.keep(newer.digest, newer.files)

    await move(client.runtime, newer, "s1")

    assert await totals(client) == [ONE, ONE]
    assert [step async for step in verify(client.runtime)][-1].is_good


def _flush(text: str) -> str:
    return textwrap.dedent(text).strip()


async def test_verify_finds_a_session_whose_sum_was_doctored(clock):
    """Sealed anew, so that every hash is right."""
    client = await begun(clock)
    await client.choose("look")
    first, second = await client.runtime.store.entries("s1")
    cheap = sealed(msgspec.structs.replace(second, total=ONE))
    doctored = MemoryStore()
    await doctored.append(first)
    await doctored.append(cheap)
    runtime = Runtime(doctored, Paid(), client.runtime.machines, "tiny")
    await runtime.open()

    found, _ = [step async for step in verify(runtime)]

    assert "its total.prompt_tokens is 100, and the rules give 200" in found.what


# What came to nothing.


async def test_a_telling_that_failed_counts_in_its_day_and_in_no_session(clock):
    client = await begun(clock, f"on_failure: refuse\n{_flush(HALL)}", paid=Paid())
    client.runtime.narrator = Paid(NarratorUnavailable("down"))
    before = await client.journal()

    with pytest.raises(NarratorUnavailable):
        await client.choose("look")

    assert await client.journal() == before
    day = await today(client)
    assert (day.turns, day.failed, day.calls, day.cost_micros) == (1, 1, 4, 3000)


async def test_a_telling_that_was_told_offline_in_the_end_is_on_record_with_what_it_cost(clock):
    client = await begun(clock)
    client.runtime.narrator = Paid(NarratorUnavailable("down"))

    answer = await client.choose("look")

    assert answer["payload"]["meta"]["fallback"] == ["*"]
    assert answer["payload"]["meta"]["usage"]["prompt_tokens"] == 100
    assert await totals(client) == [ONE, times(2)]
    assert (await today(client)).failed == 0


async def test_whatever_is_raised_after_a_telling_it_was_paid_for(clock):
    client = await begun(clock)

    async def failing() -> None:
        async with client.runtime.ledger.billing("s1") as bill:
            bill.charge(USAGE, SPENT, "deepseek-flash")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()

    assert await totals(client) == [ONE]
    assert ((await today(client)).turns, (await today(client)).failed) == (1, 1)


class Full(MemoryStore):
    """A journal whose disk is full, once told so."""

    is_full = False

    async def append(self, *args: Any) -> None:
        """Append, while there is room."""
        if self.is_full:
            raise StoreUnavailable("the disk is full")
        await super().append(*args)


async def test_a_telling_that_could_not_be_kept_counts_as_failed(clock):
    store = Full()
    client = await begun(clock, store=store)
    store.is_full = True

    with pytest.raises(StoreUnavailable):
        await client.choose("look")

    day = await today(client)
    assert (day.turns, day.failed, day.cost_micros) == (1, 1, 3000)


# Budgets.


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"session_tokens": 240}, "session_tokens"),
        ({"session_cost_micros": 3000}, "session_cost"),
        ({"day_tokens": 240}, "day_tokens"),
        ({"day_cost_micros": 3000}, "day_cost"),
    ],
)
async def test_over_its_budget_a_turn_is_told_offline_and_says_so(clock, budget, name):
    client = await begun(clock, **budget)

    second = await client.choose("look")
    third = await client.choose("look")

    assert second["payload"]["meta"]["warnings"] == []
    meta = third["payload"]["meta"]
    assert meta["warnings"] == [f"budget {name} is used up: told offline"]
    assert (meta["rungs"], meta["fallback"], meta["ai_generated"]) == (["offline"], ["*"], False)
    assert meta["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0}
    assert await totals(client) == [ONE, times(2), times(2)]
    assert client.runtime.narrator.tellings == 2


@pytest.mark.parametrize("budget", ["session_tokens", "session_cost_micros", "day_tokens", "day_cost_micros"])
async def test_or_it_is_refused_before_anything_happens(clock, budget):
    client = await begun(clock, on_budget="refuse", **{budget: 1})
    before = await client.journal()
    heard: list[str] = []

    with pytest.raises(BudgetExhausted) as refused:
        await play(
            client.runtime, Invoke(session_id="s1", selected_option_id=1), hear=lambda event, _: heard.append(event)
        )

    assert await client.journal() == before
    assert heard == []
    assert client.runtime.narrator.tellings == 1
    assert client.runtime.trouble is None
    facts = refused.value.facts
    assert facts["budget"] == budget.removesuffix("_micros")
    left = {"retry_after_seconds": (DAY_MS - clock[0] % DAY_MS) // 1000} if budget.startswith("day") else {}
    assert facts == {"budget": facts["budget"], **left}


async def test_a_refused_turn_can_be_played_the_next_day(clock):
    client = await begun(clock, on_budget="refuse", day_tokens=120)
    with pytest.raises(BudgetExhausted) as refused:
        await client.choose("look")

    clock[0] += refused.value.facts["retry_after_seconds"] * 1000

    assert (await client.choose("look"))["session"]["turn"] == 2
    assert await totals(client) == [ONE, times(2)]


async def test_what_costs_nothing_is_never_refused(clock):
    """Rules' own states, and a server that asks no model."""
    client = await begun(clock, on_budget="refuse", day_tokens=1)
    offline = await begun(clock, paid=Offline(), on_budget="refuse", day_tokens=1, session_tokens=1)

    assert (await client.choose("book"))["payload"]["meta"]["warnings"] == []
    assert (await offline.choose("look"))["payload"]["meta"]["warnings"] == []
    assert client.runtime.narrator.tellings == 1


async def test_a_regenerate_is_held_to_the_budget_too(clock):
    client = await begun(clock, on_budget="refuse", session_tokens=120)
    before = await client.journal()

    with pytest.raises(BudgetExhausted):
        await history.regenerate(client.runtime, "s1")

    assert await client.journal() == before


async def test_a_new_session_has_a_budget_of_its_own_and_shares_the_days(clock):
    own = await begun(clock, session_tokens=120)
    shared = await begun(clock, day_tokens=120)

    fresh = await Client(own.runtime, "s2").send("INIT")
    short = await Client(shared.runtime, "s2").send("INIT")

    assert fresh["payload"]["meta"]["warnings"] == []
    assert short["payload"]["meta"]["warnings"] == ["budget day_tokens is used up: told offline"]


class Together(Paid):
    """Tells nobody before five have asked."""

    def __init__(self) -> None:
        super().__init__()
        self._five = asyncio.Barrier(5)

    async def narrate(self, task: Task, release: Release) -> Narration:
        """Wait for the others, then tell."""
        await self._five.wait()
        return await super().narrate(task, release)


async def test_turns_at_the_same_time_overshoot_by_what_is_under_way(clock):
    """They all see the sum before any of them; the next one is over."""
    client = await begun(clock, day_tokens=240)
    client.runtime.narrator = Together()

    many = await asyncio.gather(*(Client(client.runtime, f"at-once-{each}").send("INIT") for each in range(5)))
    after = await client.choose("look")

    assert {each["payload"]["meta"]["ai_generated"] for each in many} == {True}
    assert after["payload"]["meta"]["ai_generated"] is False
    assert (await today(client)).turns == 6


async def test_failed_calls_use_the_days_budget_up(clock):
    client = await begun(clock, f"on_failure: refuse\n{_flush(HALL)}", day_tokens=240, on_budget="refuse")
    client.runtime.narrator = Paid(NarratorUnavailable("down"))
    with pytest.raises(NarratorUnavailable):
        await client.choose("look")

    with pytest.raises(BudgetExhausted):
        await client.choose("look")


class Blind(MemoryStore):
    """A journal whose ledger can't be read."""

    async def expenses(self, since: int) -> list[Expense]:  # noqa: ARG002 - the seam's own
        """Fail."""
        raise StoreUnavailable("no ledger")


async def test_a_ledger_that_cannot_be_read_stops_no_turn(clock):
    """What this process has spent itself still counts."""
    client = await begun(clock, store=Blind(), day_tokens=240)

    told = [(await client.choose("look"))["payload"]["meta"]["ai_generated"] for _ in range(2)]

    assert told == [True, False]


# Over every store.


@pytest.fixture(params=EVERY_STORE)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """Where a journal is kept, empty."""
    with homed(request.param, tmp_path) as made:
        yield made


async def test_the_ledger_is_the_same_in_every_store(home: Home, clock: list[int]) -> None:
    client = await begun(clock, store=home.store(), paid=Paid())
    client.runtime.narrator = Paid(NarratorUnavailable("down", rungs=["text"]))
    await client.choose("look")
    await client.choose("look")
    await history.rewind(client.runtime, "s1", 1)
    await history.fork(client.runtime, "s1", 1, child_id="child")
    clock[0] += DAY_MS
    await Client(client.runtime, "child").choose("look")
    assert await history.delete(client.runtime, "s1")

    found = await client.runtime.store.expenses(0)

    sums = [(each.day - DAY, each.model, each.turns, each.calls, each.cost_micros) for each in found]
    assert sums == [(0, "", 1, 2, 1500), (0, "deepseek-flash", 2, 4, 3000), (1, "deepseek-flash", 1, 2, 1500)]
    assert [step async for step in verify(client.runtime)][-1].is_good
    await client.runtime.close()


async def test_a_process_that_starts_later_knows_what_the_day_has_cost(home: Home, clock: list[int]) -> None:
    """Whether it starts after the other, or beside it."""
    first = await begun(clock, store=home.store(), day_tokens=200)
    if not home.is_shared:
        await first.runtime.close()
    second = Client((await begun_again(home, clock, day_tokens=200)).runtime)
    assert (await second.choose("look"))["payload"]["meta"]["ai_generated"] is True

    late = await second.choose("look")

    assert late["payload"]["meta"]["warnings"] == ["budget day_tokens is used up: told offline"]
    if home.is_shared:
        clock[0] += 5_000
        elsewhere = await Client(first.runtime, "other").send("INIT")
        assert elsewhere["payload"]["meta"]["warnings"] == ["budget day_tokens is used up: told offline"]
        await first.runtime.close()
    await second.runtime.close()


async def begun_again(home: Home, clock: list[int], **budgets: Any) -> Client:
    """Another process on the same journal."""
    made = tiny(HALL)
    runtime = Runtime(
        home.store(), Paid(), {made.name: made}, made.name, clock_ms=lambda: clock[0], budgets=Budgets(**budgets)
    )
    await runtime.open()
    return Client(runtime)


# As it is told.


def test_a_day_is_told_with_its_parts():
    parts = [
        Expense(day=20_000, provider="deepseek", model="a", prompt_tokens=10, cached_tokens=4, calls=1, cost_micros=1),
        Expense(day=20_000, provider="ollama", model="b", completion_tokens=5, calls=2, turns=1, failed=1),
    ]

    told = day_told(20_000, parts)

    assert {name: told[name] for name in ("day", "tokens", "miss_tokens", "calls", "cost", "turns", "failed")} == {
        "day": "2024-10-04", "tokens": 15, "miss_tokens": 6, "calls": 3, "cost": 1 / MICROS, "turns": 1, "failed": 1,
    }  # fmt: skip
    assert [(each["provider"], each["model"], each["tokens"]) for each in told["by"]] == [
        ("deepseek", "a", 10),
        ("ollama", "b", 5),
    ]
    assert day_told(20_000, [])["by"] == []
    assert day_of("2024-10-04") == 20_000
    assert day_of("2024-02-30") is None


async def test_the_shares_of_a_days_budgets_are_shown(clock):
    client = await begun(clock, day_tokens=480, day_cost_micros=1500, on_budget="offline")
    assert isinstance(client.runtime.ledger, Ledger)
    assert client.runtime.ledger.shares == {"day_tokens": 0.25, "day_cost": 1.0}
    assert json.dumps(client.runtime.ledger.shares)


# Over HTTP, and on the command line.

OPERATE = Settings(play_tokens=("player",), operator_tokens=("operator",))


@contextmanager
def served(**budgets: Any) -> Iterator[tuple[Web, Web]]:
    """A server at a price, for a player and an operator; one session has two turns."""
    runtime = runtime_of(tiny(HALL), narrator=Paid(), budgets=Budgets(**budgets), clock_ms=lambda: 1_750_000_000_000)
    with (
        serving(runtime, OPERATE) as server,
        Web(server.url, Authorization="Bearer player") as player,
        Web(server.url, Authorization="Bearer operator") as operator,
    ):
        player.invoke("s1", "INIT")
        player.invoke("s1", option=1)
        yield player, operator


COSTS = {"prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": 60, "miss_tokens": 40, "calls": 2}


def test_an_operator_reads_what_each_turn_and_the_session_have_cost_and_a_player_does_not():
    with served() as (player, operator):
        turns, session = operator.turns("s1"), operator.session("s1")

        assert [turn["spent"] for turn in turns] == [
            {**COSTS, "tokens": 120, "cost": 0.0015, "provider": "deepseek", "queue_ms": 3, "first_token_ms": 40,
             "total_ms": 200, "attempts": 1},
        ] * 2  # fmt: skip
        assert session["spent"] == {
            "tokens": 240, **{name: 2 * count for name, count in COSTS.items()}, "cost": 0.003,
        }  # fmt: skip
        assert not any("spent" in turn for turn in player.turns("s1"))
        assert "spent" not in player.session("s1")
        assert session["answer"]["payload"]["meta"]["usage"]["cached_tokens"] == 60


def test_the_ledger_has_its_days_newest_first_for_operators_only():
    with served(day_cost_micros=5 * MICROS) as (player, operator):
        page = operator.ask("GET", "/ledger?days=3")
        before = operator.ask("GET", "/ledger?day=2025-06-14&days=1")
        faults = operator.ask("GET", "/ledger?day=2025-02-30", 422)["details"]
        refused = player.ask("GET", "/ledger", 403)
        for early in ("0001-01-03", "1969-12-31"):
            assert operator.ask("GET", f"/ledger?day={early}", 422)["details"][0]["loc"] == ["query", "day"]
        assert [day["day"] for day in operator.ask("GET", "/ledger?day=1970-01-02")["items"]] == [
            "1970-01-02", "1970-01-01",
        ]  # fmt: skip

    assert [day["day"] for day in page["items"]] == ["2025-06-15", "2025-06-14", "2025-06-13"]
    first, second, _ = page["items"]
    assert (first["turns"], first["failed"], first["calls"], first["cost"]) == (2, 0, 4, 0.003)
    assert [(each["provider"], each["model"], each["tokens"]) for each in first["by"]] == [
        ("deepseek", "deepseek-flash", 240)
    ]
    assert (second["tokens"], second["by"]) == (0, [])
    assert page["budgets"] == {
        "session_tokens": 0, "session_cost": 0, "day_tokens": 0, "day_cost": 5, "on_budget": "offline",
    }  # fmt: skip
    assert [day["turns"] for day in before["items"]] == [0]
    assert [fault["loc"] for fault in faults] == [["query", "day"]]
    assert refused["role_needed"] == "operator"


def test_over_http_a_turn_over_the_days_budget_says_when_to_come_back():
    with served(day_tokens=240, on_budget="refuse") as (player, _):
        before = player.session("s1")

        answer = player.http.post(
            "/invoke", json={"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}
        )

        failure = answer.json()["data"]
        assert (answer.status_code, failure["error"], failure["retry"]) == (429, "budget_exhausted", "same")
        left_s = (DAY_MS - 1_750_000_000_000 % DAY_MS) // 1000
        assert (failure["retry_after_seconds"], answer.headers["retry-after"]) == (left_s, str(left_s))
        assert failure["player_message"] == "今天的故事先讲到这里，请稍后再来。"
        assert player.session("s1") == before


def test_the_figures_count_tokens_costs_and_rungs():
    with served(session_tokens=240, day_tokens=480) as (player, operator):
        player.invoke("s1", option=1)

        figures = operator.http.get("/metrics").text

    assert {
        'edgewise_tokens_total{kind="prompt"} 200.0',
        'edgewise_tokens_total{kind="completion"} 40.0',
        'edgewise_tokens_total{kind="cached"} 120.0',
        "edgewise_cost_total 0.003",
        "edgewise_failed_tellings_total 0.0",
        'edgewise_rungs_total{rung="offline"} 1.0',
        "edgewise_fallback_fields_total 1.0",
        'edgewise_budget_used{budget="day_tokens"} 0.5',
    } <= set(figures.splitlines())


def test_a_providers_calls_are_counted_by_how_they_ended():
    meter = Meter()
    calls = {"ok": 2}
    meter.standing = lambda: [Standing("deepseek", "h", "m", "text", "closed", 0.0, 0, 0, calls)]

    meter.spent(Expense(day=DAY))
    calls |= {"ok": 3, "failed": 1}
    meter.spent(Expense(day=DAY))

    figures = meter.exposition().decode()
    assert 'edgewise_calls_total{outcome="ok",provider="deepseek"} 3.0' in figures
    assert 'edgewise_calls_total{outcome="failed",provider="deepseek"} 1.0' in figures


@pytest.mark.slow
def test_the_command_shows_the_ledger_of_the_process_that_holds_it():
    with served(day_tokens=1000) as (_, operator):
        url = ["--url", str(operator.http.base_url), "--token", "operator"]
        shown = edgewise("ledger", "--days", "2", *url)
        told = edgewise("ledger", "--format", "json", *url)
        session = edgewise("sessions", "show", "s1", *url)

    assert shown.returncode == 0, shown.stderr
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["DAY", "TURNS", "FAILED", "CALLS", "TOKENS", "CACHED", "COST", "BY"],
        ["2025-06-15", "2", "0", "4", "240", "120", "0.0030", "deepseek", "deepseek-flash"],
        ["2025-06-14", "0", "0", "0", "0", "0", "0.0000"],
        ["budget", "day_tokens:", "1,000", "(offline)"],
    ]
    assert len(json.loads(told.stdout)["items"]) == 7
    assert "spent       240 tokens, 4 calls, 0.0030" in session.stdout


@pytest.mark.slow
def test_the_command_reads_a_journal_that_nobody_holds(tmp_path: Path):
    store = f"duckdb://{tmp_path / 'journal.duckdb'}"
    edgewise("play", "mine_adventure", "--store", store, typed="1\n")

    ran = edgewise("ledger", "--days", "1", "--store", store)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[1].split()[1:] == ["0", "0", "0", "0", "0", "0.0000"]
