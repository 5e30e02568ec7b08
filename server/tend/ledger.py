"""What `edgewise ledger` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from server.tend.pages import aligned, clean
from server.tend.working import GOOD, tend, told_as_json

if TYPE_CHECKING:
    from server.owner import Owner

Day = Mapping[str, Any]
"""One item of GET /ledger."""

_HEADING = ("DAY", "TURNS", "FAILED", "CALLS", "TOKENS", "CACHED", "COST", "BY")


def show(options: dict[str, Any]) -> NoReturn:
    """Show the ledger's days."""
    form, day, days = options.pop("form"), options.pop("day"), options.pop("days")

    async def work(owner: Owner) -> int:
        page = await owner.ask("GET", "/ledger", day=day, days=days)
        if form == "json":
            told_as_json(page)
        else:
            click.echo("\n".join([*table(page["items"]), *budgets(page["budgets"])]))
        return GOOD

    tend(options, work)


def table(days: Sequence[Day]) -> list[str]:
    """The days, a line each, and below a day what each provider and model has of it, where there are several."""
    rows = [_HEADING]
    for day in days:
        by = day["by"]
        rows.append((day["day"], *_figures(day), _teller(by[0]) if len(by) == 1 else ""))
        rows += [("", *_figures(each), _teller(each)) for each in by if len(by) > 1]
    return aligned(rows)


def _figures(each: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    counts = (each[name] for name in ("turns", "failed", "calls", "tokens", "cached_tokens"))
    turns, failed, calls, tokens, cached = (f"{count:,}" for count in counts)
    return turns, failed, calls, tokens, cached, f"{each['cost']:,.4f}"


def _teller(each: Mapping[str, Any]) -> str:
    return clean(" ".join(part for part in (each["provider"], each["model"]) if part) or "-")


def budgets(told: Mapping[str, Any]) -> Iterator[str]:
    """The budgets that are set, a line each."""
    for name in ("session_tokens", "session_cost", "day_tokens", "day_cost"):
        if told[name]:
            yield f"budget {name}: {told[name]:,} ({told['on_budget']})"
