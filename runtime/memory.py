"""What a prompt remembers of a session: the recent turns, word for word, within a budget of tokens.

A provider charges little for a prompt that begins as the last one did. So turns are only ever added
at the end; when they outgrow the budget, the older half goes at once, and the prompts that follow
share their beginning again until the next time.
"""

from __future__ import annotations

from runtime.cutting import cut
from runtime.session import RECENT_TURNS, Told
from runtime.tokens import roughly


def tokens_of(told: Told) -> int:
    """About how many tokens a remembered turn takes in a prompt."""
    return roughly(told.choice) + roughly(told.scene)


def remembered(recent: tuple[Told, ...], told: Told, budget_tokens: int) -> tuple[Told, ...]:
    """The turns to remember after one more: at most RECENT_TURNS, of `budget_tokens` together.

    Where they are more, only the newest that fill half of that stay. The newest always stays; its
    scene is cut at the end of a sentence where the turn alone is beyond the budget.
    """
    kept = (*recent, _fitting(told, budget_tokens))
    if len(kept) <= RECENT_TURNS and sum(map(tokens_of, kept)) <= budget_tokens:
        return kept
    return _newest(kept, RECENT_TURNS // 2, budget_tokens // 2)


def _newest(turns: tuple[Told, ...], at_most: int, budget_tokens: int) -> tuple[Told, ...]:
    """As many of the last turns as fit, and always the last."""
    spent = tokens_of(turns[-1])
    first = len(turns) - 1
    while first > 0 and len(turns) - first < at_most:
        spent += tokens_of(turns[first - 1])
        if spent > budget_tokens:
            break
        first -= 1
    return turns[first:]


def _fitting(told: Told, budget_tokens: int) -> Told:
    """The turn, its scene and then its choice cut to the budget where they are longer."""
    if tokens_of(told) <= budget_tokens:
        return told
    choice = _cut_to(told.choice, budget_tokens)
    return Told(choice, _cut_to(told.scene, budget_tokens - roughly(choice)))


def _cut_to(text: str, budget_tokens: int) -> str:
    """As much of a text as fits into the budget, up to the end of a sentence where one is near."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if roughly(text[:middle]) <= budget_tokens else (low, middle - 1)
    # The mark of a cut inside a sentence may be a wider letter than the one that it takes the place of.
    fitting = (cut(text, max_chars) for max_chars in range(low, 0, -1))
    return next((short for short in fitting if roughly(short) <= budget_tokens), "")
