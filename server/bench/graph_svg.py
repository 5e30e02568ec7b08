"""A machine as an SVG: one file, no script, no other file, to be read by screen readers too. Pure.

Heat and paths are told in words and numbers beside their colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from runtime.machine import Machine
from runtime.model import said_in
from server.bench.graph_layout import HEAD, PAD, ROW, Card, Row, Sheet, sheet_of
from server.bench.marks import BLANK, Marks

STYLE = """
.edgewise{--paper:#fff;--card:#f6f8fa;--ink:#1f2328;--soft:#59636e;--line:#8c959f;
--h0:#818b98;--h1:#0969da;--h2:#1a7f37;--h3:#bc4c00;--h4:#cf222e;--path:#8250df;
font:12px ui-monospace,Menlo,Consolas,"Noto Sans Mono CJK SC","Microsoft YaHei",monospace}
@media (prefers-color-scheme:dark){.edgewise{--paper:#0d1117;--card:#161b22;--ink:#e6edf3;--soft:#9198a1;--line:#656c76;
--h0:#7d8590;--h1:#58a6ff;--h2:#3fb950;--h3:#f0883e;--h4:#ff7b72;--path:#bc8cff}}
.edgewise .paper{fill:var(--paper)}
.edgewise .card{fill:var(--card);stroke:var(--line);stroke-width:1.2}
.edgewise .inner{fill:none;stroke:var(--line)}
.edgewise text{fill:var(--ink)}
.edgewise .soft{fill:var(--soft)}
.edgewise .name{font-weight:bold}
.edgewise .way{fill:none;stroke:var(--line);stroke-width:1.2}
.edgewise .tip{fill:var(--line)}
.edgewise .h0{stroke:var(--h0);stroke-dasharray:4 3}
.edgewise .h1{stroke:var(--h1);stroke-width:1.6}.edgewise .h2{stroke:var(--h2);stroke-width:2}
.edgewise .h3{stroke:var(--h3);stroke-width:2.6}.edgewise .h4{stroke:var(--h4);stroke-width:3.2}
.edgewise .path{stroke:var(--path);stroke-width:2.6}
.edgewise text.h0,.edgewise text.h1,.edgewise text.h2,.edgewise text.h3,.edgewise text.h4,.edgewise text.path
{stroke:none;font-weight:bold}
.edgewise text.h0{fill:var(--h0)}.edgewise text.h1{fill:var(--h1)}.edgewise text.h2{fill:var(--h2)}
.edgewise text.h3{fill:var(--h3)}.edgewise text.h4{fill:var(--h4)}.edgewise text.path{fill:var(--path)}
"""
TIP = 7
"""Pixels of an arrow's tip."""


def svg(machine: Machine, marks: Marks = BLANK, language: str = "", *, prefix: str = "") -> str:
    """The picture. `prefix` keeps the ids of several pictures on one page apart."""
    definition = machine.definition
    sheet = sheet_of(machine, marks, language)
    title = f"{machine.name}: {said_in(definition.title, language or definition.language)}"
    told = f"{prefix}{machine.name}"
    size = f"{sheet.width:.0f}", f"{sheet.height:.0f}"
    lines = [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" class="edgewise" role="img" '
            f'width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" '
            f'aria-labelledby="{told}-title {told}-desc">'
        ),
        f'<title id="{told}-title">{escape(title)}</title>',
        f'<desc id="{told}-desc">{escape(summary(machine, marks))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{size[0]}" height="{size[1]}"/>',
        *_ways(sheet),
        *(line for card in sheet.cards for line in _card(card)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def summary(machine: Machine, marks: Marks) -> str:
    """The picture in a sentence or two, for who can't see it."""
    definition = machine.definition
    finals = ", ".join(name for name, state in definition.states.items() if state.is_final)
    said = f"{len(definition.states)} states and {len(machine.edges)} edges; it ends in {finals}."
    if marks.counts is not None:
        never = sum(1 for edge in machine.edges if not marks.counts.get(edge.full_name))
        said += f" Each edge with the number of its turns; {never} of {len(machine.edges)} were never taken."
    if marks.turns:
        said += " The path is told by its turns' numbers."
    return f"{said} {marks.said}".strip()


def _ways(sheet: Sheet) -> Iterator[str]:
    """The curves, under the cards; the hot ones above the cold."""
    cards = {card.name: card for card in sheet.cards}
    ways = [
        (row.is_on_path, row.level or 0, _way(card, index, row, cards[row.target]))
        for card in sheet.cards
        for index, row in enumerate(card.rows)
        if row.target != card.name
    ]
    for _, _, line in sorted(ways, key=lambda way: way[:2]):
        yield line


def _way(card: Card, index: int, row: Row, target: Card) -> str:
    """A curve from a row to the card that it leads to: on its right side forward, round it in one column, else back."""
    y0, y1 = card.row_y(index), target.head_y
    right, left = card.x + card.width, card.x
    if target.column > card.column:
        x0, x1, bend = right, target.x - TIP, max(40.0, (target.x - right) / 2)
        curve, turn = f"C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}", 1
    elif target.column == card.column:
        x0, x1, bend = right, target.x + target.width + TIP, 50.0
        curve, turn = f"C{x0 + bend:.0f} {y0:.0f} {x1 + bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}", -1
    else:
        x0, x1, bend = left, target.x + target.width + TIP, max(40.0, (left - target.x - target.width) / 2)
        curve, turn = f"C{x0 - bend:.0f} {y0:.0f} {x1 + bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}", -1
    tip = f"M{x1 + turn * TIP:.0f} {y1:.0f}l{-turn * TIP} -4v8z"
    name = escape(f"{row.edge} → {row.target}{f', {row.mark}' if row.mark else ''}")
    return (
        f'<g><title>{name}</title><path class="way{_class(row)}" d="M{x0:.0f} {y0:.0f}{curve}"/>'
        f'<path class="tip" d="{tip}"/></g>'
    )


def _class(part: Row | Card) -> str:
    return " path" if part.is_on_path else "" if part.level is None else f" h{part.level}"


def _card(card: Card) -> Iterator[str]:
    name = f"{card.title} {card.label}".strip() + (f", {card.mark}" if card.mark else "")
    box = f'x="{card.x:.0f}" y="{card.y:.0f}" width="{card.width:.0f}" height="{card.height:.0f}"'
    yield f"<g><title>{escape(name + (', an end' if card.is_final else ''))}</title>"
    yield f'<rect class="card{_class(card)}" {box} rx="7"/>'
    if card.is_final:
        inner = (card.x + 3, card.y + 3, card.width - 6, card.height - 6)
        yield '<rect class="inner" x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" rx="5"/>'.format(*inner)
    yield _text(card.x + PAD, card.head_y, card.title, "name")
    if card.mark:
        yield _text(card.x + card.width - PAD, card.head_y, card.mark, _class(card).strip(), is_right=True)
    if card.label:
        yield _text(card.x + PAD, card.head_y + HEAD - 6, card.label, "")
    yield from (line for index, row in enumerate(card.rows) for line in _row(card, index, row))
    yield "</g>"


def _row(card: Card, index: int, row: Row) -> Iterator[str]:
    y = card.row_y(index)
    yield f"<g><title>{escape(f'{row.whole} → {row.target}')}</title>"
    box = f'x="{card.x:.0f}" y="{y - ROW / 2:.0f}" width="{card.width:.0f}" height="{ROW}"'
    yield f'<rect {box} fill="none" pointer-events="all"/>'
    yield _text(card.x + PAD, y, row.text + (" ↺" if row.target == card.name else ""), "soft")
    if row.mark:
        yield _text(card.x + card.width - PAD, y, row.mark, _class(row).strip(), is_right=True)
    yield "</g>"


def _text(x: float, y: float, text: str, kind: str, *, is_right: bool = False) -> str:
    anchor = ' text-anchor="end"' if is_right else ""
    told = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y + 4:.0f}"{anchor}{told} xml:space="preserve">{escape(text)}</text>'
