"""What the tester's tools find wrong with a machine: one form for every kind."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from runtime.bench.replay import Replay

Kind = Literal["crash", "fault", "trap", "loop", "unreached", "property", "constraint", "repeats"]


class Bug(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, with a short play that shows it.

    crash: an error that is no refusal; fault: the machine itself errs in a turn; trap: a state of a
    session that nothing leads out of; loop: a session that goes round and can reach no ending;
    unreached: an ending that no play came to; property: one that the machine declares is broken;
    constraint: a told text breaks its bounds; repeats: a sentence is told again in one play.
    `where` is file:line. `replay` is None where no play shows it; `seed` says which random play found
    it, '' where it was searched for.
    """

    kind: Kind
    machine: str
    what: str
    where: str
    replay: Replay | None = None
    seed: str = ""

    def __hash__(self) -> int:
        """By what it says: a replay's maps have no hash."""
        return hash((self.kind, self.machine, self.what, self.where, self.seed))
