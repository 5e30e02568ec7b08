"""What telling costs: whether a budget leaves anything for another turn, and the sum of a day.

What a session has spent stands in its head entry, so that its budget needs no look at the store; what
its failed turns have cost stands in no entry, and only the process that played them counts it. A
day's sum is every process's: it is read from the store every few seconds, and what this process
spends meanwhile is added to it. Turns that are told at the same time see the same sum: they may
overshoot a budget by what they are about to spend.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from runtime.errors import BudgetExhausted, SessionBudgetExhausted, StoreUnavailable
from runtime.session import (
    DAY_MS,
    NO_COST,
    NO_TOTAL,
    NO_USAGE,
    Entry,
    Expense,
    Spent,
    Total,
    Usage,
    expense,
    expense_of,
    is_spent,
    meta_of,
    summed,
    total_after,
)

if TYPE_CHECKING:
    from runtime.stores import Store

POLL_MS = 5_000
"""How old the sum of a day may be, in ms: by so much the budgets of several processes lag."""
LOST_SESSIONS = 10_000
"""For how many sessions a process remembers what their failed turns have cost; the oldest are forgotten first."""
MICROS = 1_000_000
"""A unit of the price tables' currency, in the millionths that costs are counted in."""

_EPOCH = date(1970, 1, 1).toordinal()
_log = logging.getLogger(__name__)
Budget = Literal["session_tokens", "session_cost", "day_tokens", "day_cost"]


class Budgets(Struct, frozen=True, kw_only=True):
    """How much may be spent on telling; 0 = as much as it takes.

    Costs are in millionths of the price tables' currency. `on_budget` is what becomes of a turn for
    which nothing is left: it is told offline, or refused.
    """

    session_tokens: int = 0
    session_cost_micros: int = 0
    day_tokens: int = 0
    day_cost_micros: int = 0
    on_budget: Literal["offline", "refuse"] = "offline"

    @property
    def has_days(self) -> bool:
        """Whether a day's sum counts."""
        return bool(self.day_tokens or self.day_cost_micros)


NO_BUDGETS = Budgets()


class Bill:
    """What a turn under way has cost so far."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.usage = NO_USAGE
        self.spent = NO_COST

    def charge(self, usage: Usage, spent: Spent, model: str | None = None) -> None:
        """Put down what a telling took."""
        self.usage, self.spent, self.model = usage, spent, model


class _Sum(Struct):
    tokens: int = 0
    cost_micros: int = 0

    def add(self, each: Expense, times: int = 1) -> None:
        self.tokens += each.tokens * times
        self.cost_micros += each.cost_micros * times


class Ledger:
    """Counts what is spent, and knows when it is enough. `observe` is told of every expense.

    `store` gives the store of the moment: a server may take another one before it opens it.
    """

    def __init__(self, store: Callable[[], Store], budgets: Budgets, clock_ms: Callable[[], int]) -> None:
        self.budgets = budgets
        self.observe: Callable[[Expense], object] = lambda _: None
        self._store = store
        self._clock_ms = clock_ms
        self._day = -1
        self._read_ms = 0
        self._stored = _Sum()
        self._own = _Sum()
        self._unwritten = _Sum()
        self._lost: OrderedDict[str, _Sum] = OrderedDict()
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Learn what the day has cost so far, where that counts; the store is open."""
        if self.budgets.has_days:
            await self._read()

    async def short_of(self, head: Entry | None) -> Budget | None:
        """The budget that leaves nothing for another turn of a session, None where each does.

        Raises BudgetExhausted instead where such a turn is to be refused.
        """
        short = self._of_session(head) or await self._of_day()
        if short is None or self.budgets.on_budget == "offline":
            return short
        if not short.startswith("day"):
            raise SessionBudgetExhausted(
                f"the session's budget for telling is used up ({short})",
                "Begin another session, or ask the operator for a larger budget.",
                budget=short,
            )
        raise BudgetExhausted(
            f"the day's budget for telling is used up ({short})",
            "Send the same tomorrow (UTC), or ask the operator.",
            budget=short,
            retry_after_seconds=self._seconds_left(),
        )

    @asynccontextmanager
    async def billing(self, session_id: str) -> AsyncIterator[Bill]:
        """Count what was spent on a turn that comes to nothing: where something is raised inside.

        That is what was charged, or what the error itself says that it cost.
        """
        bill = Bill()
        try:
            yield bill
        except Exception as error:
            if not is_spent(bill.usage, bill.spent):
                bill.charge(*cost_of(error))
            if is_spent(bill.usage, bill.spent):
                lost = expense(self._clock_ms(), bill.model, bill.usage, bill.spent, is_kept=False)
                await self._lose(session_id, lost)
            raise

    async def kept(self, entry: Entry, appending: Awaitable[Entry]) -> Entry:
        """The entry that an append has led to, its expense counted; as lost where that is another one, or none."""
        found = None
        try:
            found = await appending
        finally:
            is_kept = found is entry
            if (each := expense_of(entry, is_kept=is_kept)) and is_kept:
                self._count(each, self._own)
            elif each:
                await self._lose(entry.session_id, each)
        return found

    @property
    def shares(self) -> dict[Budget, float]:
        """How much of each day's budget is used, as far as this process knows; 1 is all of it."""
        whole = self._whole if self._clock_ms() // DAY_MS == self._day else _Sum()
        used: dict[Budget, tuple[int, int]] = {
            "day_tokens": (whole.tokens, self.budgets.day_tokens),
            "day_cost": (whole.cost_micros, self.budgets.day_cost_micros),
        }
        return {name: spent / limit for name, (spent, limit) in used.items() if limit}

    @property
    def _whole(self) -> _Sum:
        """All that is known of the day."""
        parts = (self._stored, self._own, self._unwritten)
        return _Sum(sum(each.tokens for each in parts), sum(each.cost_micros for each in parts))

    def _count(self, each: Expense, among: _Sum) -> None:
        if each.day == self._day:
            among.add(each)
        self.observe(each)

    async def _lose(self, session_id: str, each: Expense) -> None:
        """Count what bought nothing. The journal may be why: then only this process knows of it."""
        self._remember(session_id, each)
        unwritten = self._unwritten
        self._count(each, unwritten)
        try:
            await self._store().spend(session_id, each)
        except StoreUnavailable as error:
            _log.warning("what a failed turn cost can't be written down: %s", error)
            return
        # The next look at the store finds it there. Where the day has turned meanwhile, it is no part of this one.
        if each.day == self._day and unwritten is self._unwritten:
            unwritten.add(each, -1)
            self._own.add(each)

    def _remember(self, session_id: str, each: Expense) -> None:
        """Keep what a session's failed turn has cost: its entries never say it."""
        self._lost.setdefault(session_id, _Sum()).add(each)
        self._lost.move_to_end(session_id)
        if len(self._lost) > LOST_SESSIONS:
            self._lost.popitem(last=False)

    def _of_session(self, head: Entry | None) -> Budget | None:
        if head is None:
            return None
        lost = self._lost.get(head.session_id, _Sum())
        if 0 < self.budgets.session_tokens <= head.total.tokens + lost.tokens:
            return "session_tokens"
        cost_micros = head.total.cost_micros + lost.cost_micros
        return "session_cost" if 0 < self.budgets.session_cost_micros <= cost_micros else None

    async def _of_day(self) -> Budget | None:
        if not self.budgets.has_days:
            return None
        now_ms = self._clock_ms()
        if now_ms // DAY_MS != self._day or abs(now_ms - self._read_ms) >= POLL_MS:
            await self._read()
        whole = self._whole
        if 0 < self.budgets.day_tokens <= whole.tokens:
            return "day_tokens"
        return "day_cost" if 0 < self.budgets.day_cost_micros <= whole.cost_micros else None

    async def _read(self) -> None:
        """Read the day's sum; those who want it at the same time share one look."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_now())
        await asyncio.shield(self._reading)

    async def _read_now(self) -> None:
        now_ms = self._clock_ms()
        day = now_ms // DAY_MS
        if day != self._day:
            self._day, self._stored, self._own, self._unwritten = day, _Sum(), _Sum(), _Sum()
        # What is spent while the store is asked may be in its answer too, and then counts twice until the next look.
        since, self._own = self._own, _Sum()
        try:
            expenses = await self._store().expenses(day)
        except StoreUnavailable as error:
            _log.warning("the day's ledger can't be read: %s", error)
            self._own.tokens += since.tokens
            self._own.cost_micros += since.cost_micros
            return
        self._read_ms, self._stored = now_ms, _Sum()
        for each in expenses:
            if each.day == day:
                self._stored.add(each)

    def _seconds_left(self) -> int:
        """Until the next day begins, by UTC."""
        return (DAY_MS - self._clock_ms() % DAY_MS + 999) // 1000


# As it is told to operators: costs in units, with six decimals.


def total_told(total: Total | Expense) -> dict[str, Any]:
    """A sum of tokens, calls and costs."""
    return {
        "tokens": total.tokens,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "cached_tokens": total.cached_tokens,
        "miss_tokens": max(0, total.prompt_tokens - total.cached_tokens),
        "calls": total.calls,
        "cost": total.cost_micros / MICROS,
    }


def cost_told(entry: Entry) -> dict[str, Any]:
    """What a telling took; {} for what told nothing, or was told without a model."""
    if not is_spent(entry.usage, entry.spent):
        return {}
    attempts = meta_of(entry.answer).attempts
    times = {name: getattr(entry.spent, name) for name in ("provider", "queue_ms", "first_token_ms", "total_ms")}
    return {"spent": {**total_told(total_after(NO_TOTAL, entry.usage, entry.spent)), **times, "attempts": attempts}}


def day_told(day: int, expenses: list[Expense]) -> dict[str, Any]:
    """A day's sum, and what each provider and model has of it."""
    (whole,) = summed([Expense(day=day), *(replace(each, provider="", model="") for each in expenses)])
    by = [{"provider": each.provider, "model": each.model, **_counted(each)} for each in expenses]
    return {"day": date.fromordinal(_EPOCH + day).isoformat(), **_counted(whole), "by": by}


def _counted(each: Expense) -> dict[str, Any]:
    return {**total_told(each), "turns": each.turns, "failed": each.failed}


def day_of(written: str) -> int | None:
    """The number of a day that is written as 2026-01-31, None where there is no such day."""
    try:
        return date.fromisoformat(written).toordinal() - _EPOCH
    except ValueError:
        return None


def budgets_told(budgets: Budgets) -> dict[str, Any]:
    """What may be spent; 0 = no limit."""
    return {
        "session_tokens": budgets.session_tokens,
        "session_cost": budgets.session_cost_micros / MICROS,
        "day_tokens": budgets.day_tokens,
        "day_cost": budgets.day_cost_micros / MICROS,
        "on_budget": budgets.on_budget,
    }


def cost_of(error: Exception) -> tuple[Usage, Spent]:
    """What a narrator had spent when it failed, as far as its error says."""
    return getattr(error, "usage", NO_USAGE), getattr(error, "spent", NO_COST)
