"""A machine in a terminal: its states in the order in which a story comes to them, each with its ways on. Pure.

No line is wider than it is told, where a word fits; Chinese characters take two columns. What colour
says, a number or a word beside it says too.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from runtime.machine import Machine
from runtime.model import said_in
from server.bench.graph_layout import Card, Row, cards_of
from server.bench.marks import BLANK, Marks
from server.play.wrapping import width, wrap
from server.tend.pages import clean

NARROW = 80
INDENT = "   "
COLOURS = ("bright_black", "blue", "green", "yellow", "red")
PATH_COLOUR = "magenta"


def terminal(machine: Machine, marks: Marks = BLANK, language: str = "", columns: int = NARROW) -> str:
    """The picture, with colours: `click.unstyle` takes them off."""
    definition = machine.definition
    cards = {card.name: card for card in cards_of(machine, marks, language)}
    title = clean(said_in(definition.title, language or definition.language))
    lines = [click.style(f"{machine.name} “{title}”, version {definition.version}", bold=True)]
    lines += [marks.said] if marks.said else []
    for name in _in_order(cards):
        lines += ["", *_block(cards[name], columns)]
    return "\n".join(lines) + "\n"


def _in_order(cards: dict[str, Card]) -> Iterator[str]:
    """The start, then each state as an edge leads there; what stands anywhere, and what nothing leads to, last."""
    waiting, seen = ["", *(name for name in cards if name)], set[str]()
    front = [""]
    while front or waiting:
        name = front.pop(0) if front else waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        yield name
        front += [row.target for row in cards[name].rows]


def _block(card: Card, columns: int) -> Iterator[str]:
    end = " ■" if card.is_final else ""
    label = f" ({clean(card.label)})" if card.label else ""
    head = f"{card.title}{label}{end}"
    yield click.style(head, bold=True) + (f"  {_styled(card.mark, card)}" if card.mark else "")
    for index, row in enumerate(card.rows):
        yield from _way(row, columns, is_last=index == len(card.rows) - 1)


def _way(row: Row, columns: int, *, is_last: bool) -> Iterator[str]:
    """`├─ edge → STATE  12×`; what is too long goes on under it."""
    branch, under = ("└─ ", INDENT) if is_last else ("├─ ", "│  ")
    mark = f"  {row.mark}" if row.mark else ""
    told = f"{clean(row.whole)} → {row.target}"
    if width(branch + told + mark) <= columns:
        yield branch + told + _styled(mark, row)
        return
    first, *rest = wrap(told, columns - 6 - width(branch))
    yield branch + first
    for number, line in enumerate(rest, 1):
        text = f"{under}   {line}"
        fits = width(text + mark) <= columns
        yield text + (_styled(mark, row) if number == len(rest) and fits else "")
        if number == len(rest) and not fits:
            yield f"{under}   {_styled(mark.strip(), row)}"


def _styled(text: str, part: Row | Card) -> str:
    if not text or (part.level is None and not part.is_on_path):
        return text
    return click.style(text, fg=PATH_COLOUR if part.is_on_path else COLOURS[part.level or 0], bold=True)
