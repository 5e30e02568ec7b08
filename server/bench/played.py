"""What players hit, out of the journal of whoever holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from runtime.bench.coverage import Coverage, goals, merged, read_plain, within
from runtime.machine import Machine
from server.owner import Owner
from server.tend.working import follow


class Journal(Struct, frozen=True):
    """What a journal says of one machine: the coverage of what this version has.

    `turns` and `sessions` are of every version; `others` counts the turns of other ones, of which what still
    exists by its name was counted.
    """

    coverage: Coverage
    sessions: int = 0
    turns: int = 0
    others: int = 0

    @property
    def said(self) -> str:
        """In words."""
        told = f"{counted(self.turns, 'turn')} of {counted(self.sessions, 'session')}"
        return told + (f", {self.others:,} of them of another version" if self.others else "")


def counted(number: int, thing: str) -> str:
    """`1 turn`, `1,200 turns`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


async def played_in_journal(owner: Owner, machines: Iterable[Machine]) -> dict[str, Journal]:
    """What players hit of machines, by name; counted by the journal's owner, with a bar where there is a terminal."""
    wanted = {machine.name: machine for machine in machines}
    body = {"machine": next(iter(wanted))} if len(wanted) == 1 else {}
    done = await follow(owner.steps("coverage", body), "text", "reading the journal")
    versions = done["facts"]["versions"]
    return {
        name: _of(machine, [each for each in versions if each["machine"] == name]) for name, machine in wanted.items()
    }


def _of(machine: Machine, versions: list[Mapping[str, Any]]) -> Journal:
    found = [(each["digest"], each["sessions"], read_plain(each["coverage"])) for each in versions]
    return Journal(
        within(merged(*(coverage for *_, coverage in found)), goals(machine)),
        sessions=sum(sessions for _, sessions, _ in found),
        turns=sum(coverage.turns for *_, coverage in found),
        others=sum(coverage.turns for digest, _, coverage in found if digest != machine.digest),
    )
