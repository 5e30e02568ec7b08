"""Coverage as one page: shares, the heat of the graph, and the machine's lines as coverage tools colour them. Pure.

No script and no other file. What a colour says, a sign in its own column says too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from msgspec import Struct

from runtime.bench.coverage import KINDS, Coverage, Goal, is_hit, shares
from runtime.bench.places import file_of
from runtime.model import said_in
from server.bench.coverage_report import SINGLE, Report, Under, rounded, sources
from server.bench.graph_svg import svg
from server.bench.marks import Marks

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--soft:#59636e;--paper:#fff;--rule:#d1d9e0;
--hit:#dafbe1;--partial:#fff8c5;--missed:#ffebe9;--bad:#cf222e}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--paper:#0d1117;--rule:#3d444d;
--hit:#12361f;--partial:#3b2f0b;--missed:#4a1d1d;--bad:#ff7b72}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:76rem;
padding:0 1rem}
table{border-collapse:collapse}th,td{padding:.15rem .7rem;text-align:left;vertical-align:top}
.shares td,.shares th{border-bottom:1px solid var(--rule)}.shares td{font-variant-numeric:tabular-nums}
.under{color:var(--bad);font-weight:bold}
.picture{overflow:auto;border:1px solid var(--rule);max-height:85vh}
.source{font:13px/1.45 ui-monospace,Menlo,Consolas,"Noto Sans Mono CJK SC",monospace;width:100%}
.source td{padding:0 .5rem}.source .n,.source .c{color:var(--soft);text-align:right;user-select:none}
.source code{white-space:pre-wrap;font:inherit}.source .why{color:var(--soft);font-size:12px}
.hit{background:var(--hit)}.partial{background:var(--partial)}.missed{background:var(--missed)}
a{color:inherit}
"""
SIGNS = {"hit": ("✓", "hit"), "partial": ("◐", "partly hit"), "missed": ("✗", "missed")}


class Line(Struct, frozen=True):
    """What stands on a line of the source: its goals, and how often its edges were taken by tests."""

    status: str
    turns: int
    why: tuple[str, ...]


def page(reports: Sequence[Report], under: Mapping[str, Sequence[Under]]) -> str:
    """The page of all machines that were measured."""
    parts = [line for report in reports for line in _machine(report, under.get(report.machine.name, ()))]
    contents = [
        f'<li><a href="#{_id(report)}">{escape(report.machine.name)}</a></li>' for report in reports if len(reports) > 1
    ]
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Coverage of {escape(', '.join(report.machine.name for report in reports))}</title>",
        f"<style>{STYLE}</style></head><body>",
        "<h1>Coverage</h1>",
        *(["<nav><ul>", *contents, "</ul></nav>"] if contents else []),
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _id(report: Report) -> str:
    return f"m-{report.machine.name}"


def _machine(report: Report, under: Sequence[Under]) -> Iterator[str]:
    machine = report.machine
    title = said_in(machine.definition.title, machine.definition.language)
    yield f'<section id="{_id(report)}"><h2>{escape(machine.name)} <small>{escape(title)}</small></h2>'
    yield from (f'<p class="under">Under the threshold: {escape(str(each))}</p>' for each in under)
    yield from _shares(report)
    yield from _only_players(report)
    yield from _missed(report)
    tests = report.tests
    marks = Marks(counts=tests.edges, visits=tests.states, said="Turns of tests.")
    yield f'<h3>Heat</h3><div class="picture">{svg(machine, marks, prefix="c-")}</div>'
    yield from _source(report)
    yield "</section>"


def _shares(report: Report) -> Iterator[str]:
    columns = {name: shares(coverage, report.goals) for name, coverage in report.columns.items()}
    yield '<table class="shares"><thead><tr><th></th>'
    yield "".join(f'<th scope="col">{name}</th>' for name in columns) + "</tr></thead><tbody>"
    for kind in KINDS:
        found = [column[kind] for column in columns.values() if kind in column]
        if found:
            cells = "".join(f"<td>{each.hit:,}/{each.total:,} {rounded(each)}</td>" for each in found)
            yield f'<tr><th scope="row">{kind}</th>{cells}</tr>'
    yield "</tbody></table><ul>"
    yield from (f"<li>{escape(line.strip())}</li>" for line in sources(report))
    yield "</ul>"


def _only_players(report: Report) -> Iterator[str]:
    if edges := report.only_players():
        yield "<h3>Edges that players use and tests don't</h3><ul>"
        for goal, count in edges:
            yield f"<li>{_linked(report, goal)} {count:,}×</li>"
        yield "</ul>"


def _missed(report: Report) -> Iterator[str]:
    """What tests miss; pairs are counted, since there are many."""
    listed = [goal for goal in report.missed if goal.kind != "pairs"]
    pairs = len(report.missed) - len(listed)
    if listed or pairs:
        yield "<h3>Missed by tests</h3><ul>"
        yield from (f"<li>{_linked(report, goal)}</li>" for goal in sorted(listed, key=lambda goal: goal.place))
        yield (f"<li>{pairs:,} pairs of edges; --format json names them</li>" if pairs else "") + "</ul>"


def _linked(report: Report, goal: Goal) -> str:
    place = escape(str(goal.place))
    if goal.place.file == file_of(report.machine):
        place = f'<a href="#{_id(report)}-{goal.place.line}">{place}</a>'
    name = "" if goal.kind == "prompts" else f" {escape(goal.name)}"
    return f"{place} {SINGLE[goal.kind]}{name}"


def lines_of(report: Report) -> dict[int, Line]:
    """What is known of each line of the machine's file that has a goal; pairs stand on no line of their own."""
    file = file_of(report.machine)
    found: dict[int, list[Goal]] = {}
    for goal in report.goals:
        if goal.kind != "pairs" and goal.place.file == file:
            found.setdefault(goal.place.line, []).append(goal)
    players = report.journal.coverage if report.journal else Coverage()
    return {number: _line(report.tests, players, here) for number, here in found.items()}


def _line(tests: Coverage, players: Coverage, here: Sequence[Goal]) -> Line:
    hit = [goal for goal in here if is_hit(tests, goal)]
    status = "hit" if len(hit) == len(here) else "partial" if hit else "missed"
    turns = sum(tests.edges.get(str(goal.key), 0) for goal in here if goal.kind == "edges")
    why = tuple(
        f"{SINGLE[goal.kind]} {goal.name}" + (", used by players" if is_hit(players, goal) else "")
        for goal in here
        if goal not in hit
    )
    return Line(status, turns, why)


def _source(report: Report) -> Iterator[str]:
    file, lines = file_of(report.machine), lines_of(report)
    yield f'<h3>{escape(file)}</h3><table class="source"><tbody>'
    for number, text in enumerate(report.machine.files[file].splitlines(), 1):
        yield _source_line(f"{_id(report)}-{number}", number, text, lines.get(number))
    yield "</tbody></table>"


def _source_line(anchor: str, number: int, text: str, line: Line | None) -> str:
    head = f'id="{anchor}"'
    code = f"<td><code>{escape(text)}</code>"
    if line is None:
        return f'<tr {head}><td></td><td class="n">{number}</td><td class="c"></td>{code}</td></tr>'
    sign, said = SIGNS[line.status]
    why = f'<div class="why">missed: {escape("; ".join(line.why))}</div>' if line.why else ""
    turns = f"{line.turns:,}×" if line.turns else ""
    return (
        f'<tr {head} class="{line.status}"><td title="{said}">{sign}</td><td class="n">{number}</td>'
        f'<td class="c">{turns}</td>{code}{why}</td></tr>'
    )
