"""What coverage says of one machine: shares, what tests miss, what only players use; as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from runtime.bench.coverage import KINDS, Coverage, Goal, Goals, Kind, Share, goals, merged, missed, plain, shares
from runtime.machine import Machine
from server.bench.gathering import HOW_TO_MAKE_ONE
from server.bench.played import Journal, counted
from server.tend.pages import aligned, clean

SINGLE: Mapping[Kind, str] = {
    "states": "state", "edges": "edge", "guards": "guard", "options": "option", "pairs": "pair",
    "prompts": "prompt", "endings": "ending",
}  # fmt: skip
GATED: tuple[Kind, ...] = ("edges", "guards", "endings")
"""What a threshold without a kind is about."""

NAMED = 3
"""How many failed replays are named."""


class OfReplays(Struct, frozen=True):
    """What replays hit, how many were played, and which failed (their ids): these count up to where they failed."""

    coverage: Coverage
    played: int = 0
    failed: tuple[str, ...] = ()


class Explored(Struct, frozen=True):
    """What an exploration hit, and why it didn't hit the rest, by kind and key; what it left out, in sentences."""

    coverage: Coverage
    why: Mapping[tuple[str, Any], str] = {}
    bounded: tuple[str, ...] = ()


class Under(Struct, frozen=True):
    """A kind whose share is under what was asked for, in percent."""

    kind: Kind
    share: Share
    wanted: float

    def __str__(self) -> str:
        return f"{self.kind} {rounded(self.share)} is under {self.wanted:g}%"


class Report(Struct, frozen=True):
    """One machine's coverage by where it came from; None where that wasn't asked. Made by `report_of`.

    `tests` are replays and explorations; what players did is no test, and meets no threshold. `together`
    is all of it, `missed` what tests don't hit.
    """

    machine: Machine
    goals: Goals
    replays: OfReplays
    explored: Explored | None
    journal: Journal | None
    tests: Coverage
    together: Coverage
    missed: Goals

    @property
    def columns(self) -> dict[str, Coverage]:
        """What was measured, by its name."""
        asked = {"explored": self.explored, "players": self.journal}
        found = {"replays": self.replays.coverage, **{name: each.coverage for name, each in asked.items() if each}}
        return {**found, "together": self.together} if len(found) > 1 else found

    def only_players(self) -> list[tuple[Goal, int]]:
        """Edges that players use and tests don't, with their turns; the most used first."""
        hits = self.journal.coverage.edges if self.journal else {}
        edges = [(goal, hits[str(goal.key)]) for goal in self.missed if goal.kind == "edges" and goal.key in hits]
        return sorted(edges, key=lambda pair: -pair[1])

    def under(self, wanted: Mapping[Kind, float]) -> list[Under]:
        """Which kinds are under what is wanted of them, in percent of what tests hit."""
        found = shares(self.tests, self.goals)
        asked = {kind: found.get(kind, Share(0, 0)) for kind in wanted}
        return [Under(kind, share, wanted[kind]) for kind, share in asked.items() if share.percent < wanted[kind]]


def report_of(
    machine: Machine, replays: OfReplays, explored: Explored | None = None, journal: Journal | None = None
) -> Report:
    """The report of a machine."""
    wanted = goals(machine)
    tests = merged(replays.coverage, explored.coverage if explored else Coverage())
    together = merged(tests, journal.coverage if journal else Coverage())
    return Report(machine, wanted, replays, explored, journal, tests, together, missed(tests, wanted))


def rounded(share: Share) -> str:
    """A share in percent with one digit; never 100% while something is missed."""
    return f"{int(share.percent * 10) / 10:g}%"


# As text.


def text(report: Report, under: Sequence[Under] = ()) -> Iterator[str]:
    """The report's lines, without what is missed of pairs: these are counted."""
    yield report.machine.name
    yield from _indented(aligned(_table(report)))
    yield from _indented(sources(report))
    listed = [goal for goal in report.missed if goal.kind != "pairs"]
    if listed:
        yield "  missed:"
        yield from _indented(f"  {_with_why(report, goal)}" for goal in sorted(listed, key=lambda each: each.place))
    if players := report.only_players():
        yield "  players use and tests don't:"
        yield from _indented(f"  {told(goal)}, {count:,}×" for goal, count in players)
    yield from (f"  under the threshold: {each}" for each in under)


def _indented(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def told(goal: Goal) -> str:
    """`machines/x.yaml:12 guard COMBAT.hit is false`; a prompt is named by its place."""
    name = "" if goal.kind == "prompts" else f" {goal.name}"
    return f"{goal.place} {SINGLE[goal.kind]}{name}"


def _why(report: Report, goal: Goal) -> str:
    """What an exploration says of a goal that it didn't hit, '' for nothing."""
    return report.explored.why.get((goal.kind, goal.key), "") if report.explored else ""


def _with_why(report: Report, goal: Goal) -> str:
    why = _why(report, goal)
    return f"{told(goal)} ({clean(why)})" if why else told(goal)


def _table(report: Report) -> list[list[str]]:
    columns = {name: shares(coverage, report.goals) for name, coverage in report.columns.items()}
    kinds = [kind for kind in KINDS if kind in next(iter(columns.values()))]
    return [["", *columns], *([kind, *(_cell(found[kind]) for found in columns.values())] for kind in kinds)]


def _cell(share: Share) -> str:
    return f"{share.hit:,}/{share.total:,} {rounded(share)}"


def sources(report: Report) -> Iterator[str]:
    """Where the figures come from, what was left out, and which rungs told; in lines."""
    replays = report.replays
    yield f"{counted(replays.played, 'replay')}, {counted(replays.coverage.turns, 'turn')}{_failed(replays.failed)}"
    if not replays.played:
        yield HOW_TO_MAKE_ONE
    if report.explored is not None:
        yield f"explored: {counted(report.explored.coverage.turns, 'turn')}"
        yield from (f"  {each}" for each in report.explored.bounded)
    if report.journal is not None:
        yield f"players: {report.journal.said}"
    if rungs := report.together.rungs:
        yield "rungs: " + ", ".join(f"{clean(name)} {count:,}×" for name, count in sorted(rungs.items()))


def _failed(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"; {len(ids):,} failed, and counted up to there: {', '.join(map(clean, ids[:NAMED]))}{more}"


# As JSON.


def as_json(report: Report, under: Sequence[Under] = ()) -> dict[str, Any]:
    """One machine's report.

    `machine`, `version`, `digest`; `replays` {played, failed, turns}, `explored` {turns, bounded} or null,
    `journal` {sessions, turns, other_versions} or null; `shares` by source and kind {hit, total, percent};
    `missed` [{kind, name, file, line, col, why}] of what tests don't hit, pairs too (`why` is what the
    exploration says, or ''); `only_players` [{edge, turns, file, line}]; `hits` by source, as
    `coverage.plain` has them; `under` [{kind, percent, wanted}].
    """
    journal = report.journal
    return {
        "machine": report.machine.name,
        "version": report.machine.definition.version,
        "digest": report.machine.digest,
        "replays": {
            "played": report.replays.played,
            "failed": list(report.replays.failed),
            "turns": report.replays.coverage.turns,
        },
        "explored": None if report.explored is None else _explored(report.explored),
        "journal": None if journal is None else _journal(journal),
        "shares": {name: _shares(coverage, report.goals) for name, coverage in report.columns.items()},
        "missed": [_goal(goal) | {"why": _why(report, goal)} for goal in report.missed],
        "only_players": [
            {"edge": goal.key, "turns": count, "file": goal.place.file, "line": goal.place.line}
            for goal, count in report.only_players()
        ],
        "hits": {name: plain(coverage) for name, coverage in report.columns.items()},
        "under": [{"kind": each.kind, "percent": each.share.percent, "wanted": each.wanted} for each in under],
    }


def _explored(explored: Explored) -> dict[str, Any]:
    return {"turns": explored.coverage.turns, "bounded": list(explored.bounded)}


def _journal(journal: Journal) -> dict[str, int]:
    return {"sessions": journal.sessions, "turns": journal.turns, "other_versions": journal.others}


def _shares(coverage: Coverage, goals: Goals) -> dict[str, dict[str, float]]:
    return {
        kind: {"hit": share.hit, "total": share.total, "percent": round(share.percent, 2)}
        for kind, share in shares(coverage, goals).items()
    }


def _goal(goal: Goal) -> dict[str, Any]:
    place = goal.place
    return {"kind": goal.kind, "name": goal.name, "file": place.file, "line": place.line, "col": place.col}
