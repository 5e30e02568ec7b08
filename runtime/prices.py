"""What calls to a model cost, by a price table. Pure."""

from __future__ import annotations

from msgspec import Struct

from runtime.session import Usage


class Prices(Struct, frozen=True):
    """What a million tokens cost: of input that was not cached, of cached input, and of output.

    All in one currency, which is yours to know: costs of several providers are added up.
    """

    input: float
    cached: float
    output: float


FREE = Prices(0.0, 0.0, 0.0)
"""A server of your own, or a price that nobody has told."""


def cost_micros(prices: Prices, usage: Usage) -> int:
    """The cost in millionths of the table's currency; cached tokens are part of the prompt's."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    fresh = usage.prompt_tokens - cached
    return round(fresh * prices.input + cached * prices.cached + usage.completion_tokens * prices.output)
