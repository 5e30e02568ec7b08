"""Budgets that outlive what would make them forget: a restart, a lost write, turns that come to nothing, a new day."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from fake_llm import FakeLLM, misbehaves
from paid import Paid
from served import ROOT, Process, Web, runtime_of, serving
from test_ledger import HALL, begun

from runtime import ledger
from runtime.errors import BudgetExhausted, NarrationInvalid, StoreUnavailable
from runtime.ledger import Budgets
from runtime.session import DAY_MS, Expense
from runtime.stores.memory import MemoryStore
from server.meter import Meter

REFUSING = "on_failure: refuse" + HALL.replace("\n    ", "\n")
OVER = 'edgewise_budget_used{budget="day_tokens"}'


@pytest.mark.slow
def test_a_server_that_starts_again_knows_what_the_day_has_cost(tmp_path: Path):
    """Its store is made again when its port is known: the ledger must read that one."""
    told: list[list[str]] = []
    with FakeLLM() as llm:
        llm.will(*[misbehaves() for _ in range(9)])
        variables = {
            "EDGEWISE_NARRATOR": "openai", "EDGEWISE_OPENAI_PROFILE": "fake", "EDGEWISE_OPENAI_BASE_URL": llm.url,
            "EDGEWISE_BUDGET_DAY_TOKENS": "1", "EDGEWISE_ON_BUDGET": "refuse",
        }  # fmt: skip
        for _ in range(2):
            with Process(ROOT, tmp_path / "journal.duckdb", **variables) as process, Web(process.url) as web:
                answers = [web.http.post("/invoke", json={"event": {"type": "INIT"}}).json() for _ in range(2)]
                told.append([each["data"].get("error", "told") for each in answers])
                used = [line for line in web.http.get("/metrics").text.splitlines() if line.startswith(OVER)]
                assert float(used[0].split()[1]) > 1
                process.child.send_signal(signal.SIGTERM)
                assert process.exit_code() == 0

    assert told == [["told", "budget_exhausted"], ["budget_exhausted"] * 2]


async def test_failed_turns_use_the_sessions_budget_up_though_no_entry_says_so(clock):
    client = await begun(clock, REFUSING, session_tokens=360, on_budget="refuse")
    client.runtime.narrator = Paid(*(NarrationInvalid("no") for _ in range(9)))
    for _ in range(2):
        with pytest.raises(NarrationInvalid):
            await client.choose("look")

    with pytest.raises(BudgetExhausted) as refused:
        await client.choose("look")

    assert (refused.value.facts, refused.value.retry) == ({"budget": "session_tokens"}, "never")
    assert client.runtime.narrator.tellings == 2


async def test_and_their_price_counts_too(clock):
    client = await begun(clock, REFUSING, session_cost_micros=3000)
    client.runtime.narrator = Paid(NarrationInvalid("no"))
    with pytest.raises(NarrationInvalid):
        await client.choose("look")

    answer = await client.choose("look")

    assert answer["payload"]["meta"]["warnings"] == ["budget session_cost is used up: told offline"]


async def test_only_so_many_sessions_losses_are_remembered(clock, monkeypatch):
    monkeypatch.setattr(ledger, "LOST_SESSIONS", 1)
    client = await begun(clock, REFUSING, session_tokens=240)
    client.runtime.narrator = Paid(NarrationInvalid("no"), NarrationInvalid("no"))
    with pytest.raises(NarrationInvalid):
        await client.choose("look")
    with pytest.raises(NarrationInvalid):
        await type(client)(client.runtime, "other").send("INIT")

    assert (await client.choose("look"))["payload"]["meta"]["fallback"] == []


class Full(MemoryStore):
    """A journal that takes no more of what came to nothing."""

    async def spend(self, session_id: str, expense: Expense) -> None:
        """Fail for that."""
        if expense.failed:
            raise StoreUnavailable("the disk is full")
        await super().spend(session_id, expense)


async def test_what_could_not_be_written_down_is_counted_for_the_whole_day(clock):
    client = await begun(clock, REFUSING, store=Full(), day_tokens=240)
    client.runtime.narrator = Paid(NarrationInvalid("no"))
    with pytest.raises(NarrationInvalid):
        await client.choose("look")

    for _ in range(2):
        clock[0] += 6_000
        told = await client.choose("look")
        assert told["payload"]["meta"]["warnings"] == ["budget day_tokens is used up: told offline"]
    assert client.runtime.ledger.shares == {"day_tokens": 1.0}

    clock[0] += DAY_MS
    assert client.runtime.ledger.shares == {"day_tokens": 0.0}
    assert (await client.choose("look"))["payload"]["meta"]["warnings"] == []


async def test_what_was_written_down_is_counted_once(clock):
    client = await begun(clock, REFUSING, day_tokens=480)
    client.runtime.narrator = Paid(NarrationInvalid("no"))
    with pytest.raises(NarrationInvalid):
        await client.choose("look")
    assert client.runtime.ledger.shares == {"day_tokens": 0.5}

    clock[0] += 6_000
    await client.choose("look")

    assert client.runtime.ledger.shares == {"day_tokens": 0.75}


async def test_a_turn_over_its_budget_made_no_attempt(clock):
    client = await begun(clock, session_tokens=1)

    meta = (await client.choose("look"))["payload"]["meta"]

    assert (meta["attempts"], meta["rungs"]) == (0, ["offline"])


def test_a_scrape_shows_the_budgets_as_they_stand_now():
    meter = Meter()
    meter.shares = lambda: {"day_tokens": 0.5}
    assert f"{OVER} 0.5" in meter.exposition().decode()

    meter.shares = lambda: {"day_tokens": 0.0}
    assert f"{OVER} 0.0" in meter.exposition().decode()


@pytest.mark.slow
def test_the_log_says_why_a_turn_was_told_offline():
    lines: list[dict[str, Any]] = []

    class Heard:
        """Keeps what it is told."""

        def bind(self) -> Heard:
            return self

        def info(self, name: str, **fields: Any) -> None:
            lines.append({"name": name, **fields})

    runtime = runtime_of(tiny(HALL), narrator=Paid(), budgets=Budgets(session_tokens=1))
    with serving(runtime) as server, Web(server.url) as web:
        meter = Meter()
        meter._log = Heard()
        runtime.observe = meter.turned
        web.invoke("s1", "INIT")
        web.invoke("s1", option=1)

    told = [line["warning"] for line in lines if line["name"] == "turn"]
    assert told == [None, "budget session_tokens is used up: told offline"]


def test_over_http_a_session_over_its_budget_is_told_that_waiting_never_helps():
    runtime = runtime_of(tiny(HALL), narrator=Paid(), budgets=Budgets(session_tokens=1, on_budget="refuse"))
    with serving(runtime) as server, Web(server.url) as web:
        web.invoke("s1", "INIT")
        body = {"session": {"session_id": "s1"}, "payload": {"selected_option_id": 1}}
        answer = web.http.post("/invoke", json=body)

    failure = json.loads(answer.content)["data"]
    assert (answer.status_code, failure["error"], failure["retry"]) == (429, "budget_exhausted", "never")
    assert "retry-after" not in answer.headers
    assert failure["player_message"] == "这段故事就讲到这里了，换一段新的吧。"
