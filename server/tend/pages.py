"""Sessions and their histories as text: tables, a tree, and turns to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import wcwidth

from server.play import passages
from server.play.wrapping import plain, width, wrap

Turn = Mapping[str, Any]
"""One item of a session's history, as GET /sessions/{id}/turns has it."""

TELLINGS = ("turn", "regenerate")
READ_COLUMNS = 100
"""The widest that prose is set: longer lines are hard to read."""


def clean(text: Any) -> str:
    """A value on one line, without what a terminal would obey."""
    return plain(str(text)).replace("\n", " ")


def clipped(text: str, columns: int | None) -> str:
    """The text, cut with … where it is wider than that; None = as wide as it is."""
    if columns is None or width(text) <= columns:
        return text
    kept = ""
    for grapheme in wcwidth.iter_graphemes(text):
        if width(kept + grapheme) > columns - 1:
            break
        kept += grapheme
    return kept.rstrip() + "…"


def padded(text: str, columns: int) -> str:
    """The text with spaces up to a width; Chinese characters take two columns."""
    return text + " " * max(0, columns - width(text))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose cells begin in the same columns."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(padded, row, widths)).rstrip() for row in rows]


def session_table(items: Sequence[Mapping[str, Any]], columns: int | None = None) -> list[str]:
    """Sessions, a line each, under a heading."""
    rows = [("SESSION", "MACHINE", "STATE", "TURN", "STATUS", "PLAYER", "LAST PLAYED")]
    for item in items:
        session = item["session"]
        rows.append(
            (
                clean(session["session_id"]),
                clean(session["machine"]),
                clean(session["state"]),
                str(session["turn"]),
                "ended" if session["ended"] else "live",
                clean(item["player_id"] or "-"),
                moment(item["at"]),
            )
        )
    return [clipped(line, columns) for line in aligned(rows)]


def moment(at: str) -> str:
    """A time as this machine's clock has it: 2026-01-31 14:05."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M")


def standing(shown: Mapping[str, Any]) -> list[str]:
    """Where a session stands, from what GET /sessions/{id} tells."""
    session = shown["session"]
    left = session["time"]["remaining_seconds"]
    rows = [
        ("session", clean(session["session_id"])),
        ("machine", clean(f"{session['machine']} version {session['version']}")),
        ("state", clean(f"{session['state']}{', ended' if session['ended'] else ''}")),
        ("turn", f"{session['turn']}, step {session['step']}"),
        ("seed", clean(session["run_seed"])),
        ("language", clean(session["language"])),
        (
            "played",
            f"{session['time']['elapsed_active_seconds']} s" + ("" if left == 2**31 - 1 else f", {left} s left"),
        ),
        ("open", ", ".join(map(clean, shown["allowed_event_types"])) or "nothing"),
        ("rewinds to", ", ".join(map(str, shown["can_rewind_to"])) or "nothing"),
    ]
    spent = shown.get("spent", {"tokens": 0, "calls": 0})
    if spent["tokens"] or spent["calls"]:
        rows.append(("spent", f"{spent['tokens']:,} tokens, {spent['calls']:,} calls, {spent['cost']:,.4f}"))
    return aligned(rows)


def tree(turns: Sequence[Turn], head: int, columns: int | None = None) -> Iterator[str]:
    """The turns as they grew from each other, a line each; siblings stand under ├─ and └─."""
    tellings = {turn["turn"]: turn for turn in turns if turn["kind"] in TELLINGS}
    children: dict[int | None, list[Turn]] = {}
    for turn in tellings.values():
        parent = turn["parent"] if turn["parent"] in tellings else None
        children.setdefault(parent, []).append(turn)
    waiting = [*reversed(_branches(children.get(None, []), ""))]
    while waiting:
        turn, first, rest = waiting.pop()
        yield clipped(f"{first}{told_in_a_line(turn, is_head=turn['turn'] == head)}", columns)
        waiting += reversed(_branches(children.get(turn["turn"], []), rest))


def _branches(turns: list[Turn], before: str) -> list[tuple[Turn, str, str]]:
    """Siblings, each with what stands before its line, and before those of its children."""
    if not turns[1:]:
        return [(turn, before, before) for turn in turns]
    *others, last = turns
    upper = [(turn, f"{before}├─ ", f"{before}│  ") for turn in others]
    return [*upper, (last, f"{before}└─ ", f"{before}   ")]


def told_in_a_line(turn: Turn, *, is_head: bool = False) -> str:
    """`4 DECISION.strike → COMBAT “挥灯” ◀`; a turn that was told anew says so."""
    outcome = turn["outcome"]
    choice = f" “{clean(turn['choice'])}”" if turn["choice"] else ""
    anew = " (told anew)" if turn["kind"] == "regenerate" else ""
    return f"{turn['turn']} {clean(outcome['edge'])} → {clean(outcome['to'])}{choice}{anew}{' ◀' if is_head else ''}"


def marks(turns: Sequence[Turn]) -> list[str]:
    """The entries that told nothing, a line each, in their order: rewinds, forks, migrations."""
    rows = [(moment(turn["at"]), _mark(turn)) for turn in turns if turn["kind"] not in TELLINGS]
    return aligned(rows) if rows else []


def _mark(turn: Turn) -> str:
    if turn["kind"] == "rewind":
        return f"rewind from turn {turn['parent']} to turn {turn['turn']}"
    if turn.get("child"):
        return f"fork at turn {turn['turn']} into {clean(turn['child'])}"
    if turn["kind"] == "fork" and turn.get("origin"):
        return f"fork of {clean(turn['origin']['session_id'])} at turn {turn['turn']}"
    if turn["kind"] == "migration":
        return clean(f"migration at turn {turn['turn']} to version {turn['session']['version']}")
    return f"{turn['kind']} at turn {turn['turn']}"


def readable(turn: Turn, columns: int) -> list[str]:
    """A turn to read: where it stands in the history, what was chosen, what was told."""
    if turn["kind"] not in TELLINGS:
        return ["", f"── {moment(turn['at'])}  {_mark(turn)}"]
    language = turn["session"]["language"]
    parent = f" after {turn['parent']}" if turn["parent"] is not None else ""
    anew = ", told anew" if turn["kind"] == "regenerate" else ""
    outcome = turn["outcome"]
    lines = [
        "",
        f"── {moment(turn['at'])}  turn {turn['turn']}{parent}{anew}: {clean(outcome['edge'])} → {outcome['to']}",
    ]
    if turn["choice"]:
        lines.append(f"❯ {clean(turn['choice'])}")
    for passage in passages.told({"payload": turn["narration"]}, language, turn["choice"]):
        label = f"{passage.label}: " if passage.label else ""
        lines += wrap(plain(f"{label}{passage.text}"), min(columns, READ_COLUMNS))
    return lines
