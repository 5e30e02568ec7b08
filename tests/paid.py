"""A narrator at a price: it tells in the offline words, and says what a model would have taken for them."""

from __future__ import annotations

import msgspec

from runtime.narrators import Narration, Task
from runtime.narrators.offline import Offline
from runtime.narrators.release import Release
from runtime.session import Spent, Total, Usage

USAGE = Usage(100, 20, 60)
SPENT = Spent(provider="deepseek", calls=2, cost_micros=1500, queue_ms=3, first_token_ms=40, total_ms=200)
ONE = Total(100, 20, 60, calls=2, cost_micros=1500)
"""What one telling costs."""
MODEL = "deepseek-flash"


class Paid:
    """Tells at a price; fails first once for each error that it is given, at the same price.

    `mixed` are paths that it says were told offline.
    """

    name = "openai"

    def __init__(self, *errors: Exception, mixed: tuple[str, ...] = ()) -> None:
        self.errors = [*errors]
        self.mixed = mixed
        self.tellings = 0
        self._words = Offline()

    async def open(self) -> None:
        """Nothing to get ready."""

    async def narrate(self, task: Task, release: Release) -> Narration:  # noqa: ARG002 - the seam's own
        """Tell it; or raise the next error, which says what it cost."""
        self.tellings += 1
        if self.errors:
            error = self.errors.pop(0)
            vars(error).update(usage=USAGE, spent=SPENT)
            raise error
        told = self._words.tell(task)
        return msgspec.structs.replace(
            told, narrator=self.name, model=MODEL, ai_generated=True, fallback=self.mixed, usage=USAGE, spent=SPENT
        )

    async def close(self) -> None:
        """Nothing to let go of."""
