"""Where a machine's states stand on a page: cards in columns, and the edges between them as curves. Pure.

A state is a card that lists its ways on, one in a row, so that a label never lies over another, however
many ways there are; a curve goes from its row to the card that it leads to. The columns are layers, by
the fewest turns from the start; inside a column cards stand near those that they are tied to.

Libraries that lay out layers know boxes and lines, and no rows that lines begin at; that is why this
small one stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from runtime.machine import Machine
from runtime.model import ROOT, Edge, said_in
from server.bench.marks import Marks
from server.graph import ANYWHERE, guard_of
from server.play.wrapping import width
from server.tend.pages import clipped

CELL = 7.3
"""Pixels that one column of a terminal takes on the page, at a font of 12 px; Chinese characters take two."""
ROW, HEAD, PAD = 20, 26, 10
"""Pixels of a row, a card's first line, and the space inside a card."""
ACROSS, DOWN, EDGE = 110, 28, 24
"""Pixels between columns, between cards, and around the whole."""
WIDEST = 52
"""Columns of the longest row; the whole of it is shown on pointing at it."""
SWEEPS = 6
"""How often the columns are put in order by their neighbours; more changes little."""
START = "start"


class Row(Struct, frozen=True):
    """One way on: `text` may be cut, `whole` is not. `mark` stands at its end; `level` is its heat."""

    edge: str
    target: str
    text: str
    whole: str
    mark: str = ""
    level: int | None = None
    is_on_path: bool = False


class Card(Struct, frozen=True):
    """A state, the start or anywhere, with its ways on; in pixels, from the upper left."""

    name: str
    title: str
    label: str
    rows: tuple[Row, ...]
    is_final: bool = False
    mark: str = ""
    level: int | None = None
    is_on_path: bool = False
    column: int = 0
    x: float = 0
    y: float = 0
    width: float = 0

    @property
    def height(self) -> float:
        """Its height."""
        return HEAD + (HEAD if self.label else 0) + ROW * len(self.rows) + PAD

    def row_y(self, index: int) -> float:
        """The middle of a row, counted from 0."""
        return self.y + HEAD + (HEAD if self.label else 0) + ROW * index + ROW / 2

    @property
    def head_y(self) -> float:
        """The middle of its first line."""
        return self.y + HEAD / 2


class Sheet(Struct, frozen=True):
    """All cards, and the size of the page."""

    cards: tuple[Card, ...]
    width: float
    height: float


def sheet_of(machine: Machine, marks: Marks, language: str = "") -> Sheet:
    """A machine, laid out."""
    cards = _in_columns(cards_of(machine, marks, language))
    columns = _ordered(cards)
    return _placed(columns)


def cards_of(machine: Machine, marks: Marks, language: str = "") -> list[Card]:
    """The start, anywhere (where root edges stand), and every state; not placed yet."""
    definition = machine.definition
    told_in = language or definition.language
    rows: dict[str, list[Row]] = {}
    for edge in machine.edges:
        rows.setdefault(edge.source, []).append(_row(machine, edge, marks, told_in))
    cards = [Card("", START, "", tuple(rows.get("", ())))]
    if ROOT in rows:
        cards.append(Card(ROOT, ANYWHERE, "", tuple(rows[ROOT])))
    for name, state in definition.states.items():
        label = said_in(state.label, told_in)
        marked = (marks.state(name), marks.heat_of_state(name), marks.is_on_path(name))
        cards.append(Card(name, name, label, tuple(rows.get(name, ())), state.is_final, *marked))
    return [replace(card, width=_width(card)) for card in cards]


def _row(machine: Machine, edge: Edge, marks: Marks, language: str) -> Row:
    name = edge.full_name
    whole = described(machine, edge, language)
    text = clipped(whole, WIDEST)
    return Row(name, edge.target, text, whole, marks.edge(name), marks.heat(name), marks.is_on_path(name))


def described(machine: Machine, edge: Edge, language: str) -> str:
    """`name (EVENT) “the option's text” [guard] must once`, what there is of it."""
    is_named = edge.name != f"{edge.event}>{edge.target}"
    name = edge.name if is_named else edge.event
    event = f"({edge.event})" if is_named and edge.event not in (edge.name, edge.target) else ""
    text = option_text(machine, edge, language)
    guard = guard_of(edge)
    parts = (
        name, event, text and f"“{text}”", guard and f"[{guard}]",
        "must" if edge.must else "", "once" if edge.once else "",
    )  # fmt: skip
    return " ".join(part for part in parts if part)


def option_text(machine: Machine, edge: Edge, language: str) -> str:
    """The text of the option that an edge belongs to, the short one where it has one; '' without an option."""
    if not edge.option:
        return ""
    authored = machine.definition.states[edge.source].authored
    option = next(each for each in authored if each.key == edge.option)
    return said_in(option.short or option.text, language)


def _width(card: Card) -> float:
    rows = [width(row.text) + (width(row.mark) + 2 if row.mark else 0) + 2 for row in card.rows]
    head = width(card.title) + (width(card.mark) + 2 if card.mark else 0)
    return max([head, width(card.label), *rows, 12]) * CELL + 2 * PAD


def _in_columns(cards: Sequence[Card]) -> list[Card]:
    """Each card in the column of the fewest turns from the start; what root edges alone lead to comes after all.

    Any state may lead there, so anywhere stands beside the last ones. What no edge leads to comes at the end.
    """
    ways = {card.name: [row.target for row in card.rows] for card in cards}
    found = _spread({"": 0}, ways)
    if ROOT in ways:
        found = {**_spread({ROOT: max(found.values())}, ways), **found}
    strays = max(found.values()) + 1
    return [replace(card, column=found.get(card.name, strays)) for card in cards]


def _spread(start: Mapping[str, int], ways: Mapping[str, Iterable[str]]) -> dict[str, int]:
    found, waiting = dict(start), list(start)
    while waiting:
        here = waiting.pop(0)
        for target in ways.get(here, ()):
            if target not in found:
                found[target] = found[here] + 1
                waiting.append(target)
    return found


def _ordered(cards: Sequence[Card]) -> list[list[Card]]:
    """The columns, each in the order of the middles of its neighbours."""
    columns: list[list[Card]] = [[] for _ in range(max(card.column for card in cards) + 1)]
    for card in cards:
        columns[card.column].append(card)
    columns = [column for column in columns if column]
    tied = _ties(cards)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            at = {card.name: place for each in columns for place, card in enumerate(each)}
            column.sort(key=lambda card: _middle(card.name, tied, at))
    return columns


def _ties(cards: Iterable[Card]) -> dict[str, set[str]]:
    tied: dict[str, set[str]] = {}
    for card in cards:
        for row in card.rows:
            if row.target != card.name:
                tied.setdefault(card.name, set()).add(row.target)
                tied.setdefault(row.target, set()).add(card.name)
    return tied


def _middle(name: str, tied: Mapping[str, set[str]], at: Mapping[str, int]) -> float:
    neighbours = tied.get(name, set())
    return sum(at[each] for each in neighbours) / len(neighbours) if neighbours else at[name]


def _placed(columns: Sequence[Sequence[Card]]) -> Sheet:
    heights = [sum(card.height + DOWN for card in column) - DOWN for column in columns]
    tallest = max(heights)
    x: float = EDGE
    placed: list[Card] = []
    for column, height in zip(columns, heights, strict=True):
        broadest = max(card.width for card in column)
        # Never far below the top: a reader begins there.
        y = EDGE + min((tallest - height) / 2, 12 * ROW)
        for card in column:
            placed.append(replace(card, x=x, y=y, width=broadest))
            y += card.height + DOWN
        x += broadest + ACROSS
    return Sheet(tuple(placed), x - ACROSS + EDGE + ACROSS / 2, tallest + 2 * EDGE)
