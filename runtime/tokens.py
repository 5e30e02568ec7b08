"""How many tokens a text may take, without a tokenizer: enough to keep a budget and to compare two prompts.

Every model counts its own way, and what a call took is on its bill. An estimate has to be cheap,
the same for every model, and not far off for Chinese and English, mixed in one text.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Source: api-docs.deepseek.com/quick_start/token_usage (one English character is about 0.3 tokens, one Chinese
# about 0.6). OpenAI's rule of four English characters to a token is below that: the larger estimate keeps a budget.
TOKENS_OF_NARROW, TOKENS_OF_WIDE, TOKENS_OF_RARE = 3, 6, 20
"""Tenths of a token for a letter of an alphabet, a letter that is a word or syllable, and an emoji or a rare one."""

_WIDE = re.compile("[\u0900-\uffff]+")
_RARE = re.compile("[\U00010000-\U0010ffff]+")


@lru_cache(maxsize=1024)
def roughly(text: str) -> int:
    """About how many tokens a text takes, rounded up; 0 for the empty text."""
    wide = rare = 0
    if not text.isascii():
        wide, rare = (sum(map(len, runs.findall(text))) for runs in (_WIDE, _RARE))
    narrow = len(text) - wide - rare
    return -(-(narrow * TOKENS_OF_NARROW + wide * TOKENS_OF_WIDE + rare * TOKENS_OF_RARE) // 10)


def shared_chars(one: str, other: str) -> int:
    """How many code points two texts share from their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        # Only what is not yet known to be alike is compared: a long prompt isn't copied at each step.
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
