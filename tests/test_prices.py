"""What a call costs, from its tokens and the price table."""

from __future__ import annotations

import pytest

from runtime.prices import FREE, Prices, cost_micros
from runtime.session import Usage

PRICES = Prices(input=0.30, cached=0.006, output=1.20)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(), 0),
        (Usage(prompt_tokens=1_000_000), 300_000),
        (Usage(prompt_tokens=1_000_000, cached_tokens=1_000_000), 6_000),
        (Usage(completion_tokens=1_000_000), 1_200_000),
        (Usage(prompt_tokens=2_000, completion_tokens=300, cached_tokens=1_800), round(60 + 10.8 + 360)),
    ],
)
def test_tokens_cost_what_the_table_says(usage: Usage, expected: int) -> None:
    assert cost_micros(PRICES, usage) == expected


def test_more_cached_than_asked_costs_no_less_than_nothing() -> None:
    """A provider's wrong usage makes nothing cheaper than its cached price."""
    assert cost_micros(PRICES, Usage(prompt_tokens=100, cached_tokens=5_000)) == round(100 * 0.006)


def test_without_a_price_nothing_costs() -> None:
    assert cost_micros(FREE, Usage(9, 9, 9)) == 0
