"""Prose against what the rules know: numbers of shown variables, numbers of damage, names of endings.

Only what can be checked without understanding the text: a number that stands beside a variable's
label or name (`体力只剩 3`, `3 点体力`, `Health: 3`), a number of damage (`5 点伤害`, `5 damage`), an
ending's title beside the word ending. Careful on purpose, since a wrong alarm costs a call: a number
is right if it is the value before or after the turn, the variable's least or most, or the size of
the change; a loss may also be what a die showed; what would or could be is passed over, and so is
`体力三成`, `一点一点` and `Health is one thing`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from runtime.model import Variable, said_in

if TYPE_CHECKING:
    from runtime.machine import Machine
    from runtime.session import Outcome, Session, Value


class Quantity(Struct, frozen=True):
    """A shown number: how a text may call it, and every number that may stand beside it."""

    names: tuple[str, ...]
    right: frozenset[float]


class Facts(Struct, frozen=True):
    """What prose about one turn may not contradict.

    `changed` are the sizes of what changed and what the dice showed: the numbers that a loss, a gain
    or damage may have. `is_counted` says whether the machine shows a number at all. `endings` are the
    titles of endings that were not reached.
    """

    quantities: tuple[Quantity, ...] = ()
    changed: frozenset[float] = frozenset()
    is_counted: bool = False
    endings: tuple[str, ...] = ()


UNKNOWN = Facts()
"""Nothing is known: no text contradicts it."""


def facts_of(machine: Machine, session: Session, outcome: Outcome) -> Facts:
    """What is known once a turn is settled; `session` has its outcome in it."""
    definition, context = machine.definition, machine.definition.context
    changes = {change.name: (change.before, change.after) for change in outcome.changes}
    language = session.constraints.language
    quantities = tuple(
        _quantity(name, variable, said_in(variable.label, language, definition.language), session.context, changes)
        for name, variable in context.items()
        if variable.show and not variable.secret and variable.type in ("int", "float")
    )
    sizes = (_size(*pair) for name, pair in changes.items() if not context[name].secret)
    rolled = (
        float(die.value) for die in outcome.dice if isinstance(die.value, int) and not isinstance(die.value, bool)
    )
    return Facts(
        quantities=quantities,
        changed=frozenset((*filter(None, sizes), *rolled)),
        is_counted=bool(quantities),
        endings=tuple(_endings(machine, session)),
    )


def _quantity(
    name: str, variable: Variable, label: str, context: Mapping[str, Value], changes: Mapping[str, tuple[Value, Value]]
) -> Quantity:
    before, after = changes.get(name, (context[name], context[name]))
    known = (before, after, variable.min, variable.max, _size(before, after))
    return Quantity(_names(label, name), frozenset(float(each) for each in known if isinstance(each, int | float)))


@lru_cache(maxsize=1024)
def _names(label: str, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (_plain_label(label), name.replace("_", " ")))))


def _size(before: Value, after: Value) -> float | None:
    """How far a number moved; None for what is no number."""
    numbers = [each for each in (before, after) if isinstance(each, int | float) and not isinstance(each, bool)]
    return abs(float(numbers[1]) - float(numbers[0])) if len(numbers) == len((before, after)) else None


def _endings(machine: Machine, session: Session) -> Iterator[str]:
    """The titles of endings that this turn did not reach, as a text would write them."""
    definition, language = machine.definition, session.constraints.language
    titles = {
        name: _plain_label(said_in(state.ending.title, language, definition.language))
        for name, state in definition.states.items()
        if state.ending
    }
    right = {titles.get(session.state, ""), _plain_label(said_in(definition.title, language, definition.language))}
    yield from dict.fromkeys(title for title in titles.values() if title and title not in right)


def contradictions(text: str, facts: Facts) -> Iterator[str]:
    """What a text says against the facts, as sentences that a model can act on; they repeat nothing of the text."""
    for quantity in facts.quantities:
        if not _is_right(text, quantity, facts.changed):
            known = ", ".join(f"{number:g}" for number in sorted(quantity.right))
            yield f"a number beside '{quantity.names[0]}' is none of those known: {known}. Say one of them, or none."
    if facts.is_counted and any(number not in facts.changed for number in _numbers_of_damage(text)):
        yield "the damage is none that the rules dealt. Leave its number out."
    if any(_ending(title).search(_plain(text)) for title in facts.endings if title in text):
        yield "it names an ending that was not reached. Leave it out."


def _is_right(text: str, quantity: Quantity, changed: frozenset[float]) -> bool:
    named, stated, moved = _patterns(quantity.names)
    moves = quantity.right | changed
    if not named.search(text):
        return True
    sentences = [_plain(sentence) for sentence in _SENTENCES.split(text) if named.search(sentence)]
    return all(
        all(number in quantity.right for number in _numbers(stated, sentence))
        and all(number in moves for number in _numbers(moved, sentence))
        for sentence in sentences
    )


def _numbers_of_damage(text: str) -> Iterator[float]:
    if "伤害" in text or "damage" in text.casefold():
        yield from _numbers(_DAMAGE, _plain(text))


def _plain(text: str) -> str:
    """Full-width digits, letters and colons as narrow ones; blanks, dashes and dotless letters alike."""
    return unicodedata.normalize("NFKC", text).translate(_ALIKE).strip()


_plain_label = lru_cache(maxsize=1024)(_plain)
"""The same for what a designer wrote: the labels and titles of each turn."""
_ALIKE = str.maketrans({"\u2212": "-", "\u2013": "-", "\u0131": "i", "\u0130": "I"})
"""Dashes; and the letters that `re` takes for an `i` in any case, though they are none."""

# --- the patterns; every number stands in a group whose name begins with n ---

_SENTENCES = re.compile(r"[。！？!?；;\n]+|\.(?!\d)")
"""Where a name and its number are parted."""
_HAN = "[〇零一二两三四五六七八九十百]"
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 - read as a row
_WORD = rf"(?:{'|'.join(_WORDS)})"
_DIGITS = r"(?<![\d.])\d{1,9}(?:\.\d+)?(?![\d:%]|\.\d|,\d)"
_UNIT = "点"
_OTHER_UNITS = r"(?!\s*(?:[成分倍次年月日天步个人把支层下秒号楼岁条]|点钟|[A-Za-z]))"
_ENDS = r"(?=[\s,.!?;:。、)」”…]|了|$)"
_WORD_ENDS = r"(?=\s*(?:points?\b|left\b|remaining\b|[.;!?)]|$))"
_MAY_BE = re.compile(
    r"(?:(?:再|会|将|要|能|可能|若|如果|才|不|没有?)\w{0,3}"
    r"|(?:\b(?:would|will|could|may|might|can|if|another|to|not|never)|'ll|'d|n't)\W+(?:\w+\W+){0,2})$",
    re.IGNORECASE,
)
"""What stands before a number that isn't told as a fact."""
_LINK_ZH = (
    r"\s*(?:现在|目前|如今|此刻)?(?:已经|已|就|也|又)?(?:只|仅)?(?:剩下|剩余|剩|还剩|还有|只有|是|为|[:=]|"
    r"(?:从\s*(?P<n_from>\d+)\s*点?\s*)?(?:降|跌|掉|减|落|升|涨|加|回|恢复|变)(?:到|至|成|为|回))了?\s*"
)
_LINK_EN = (
    r"\s*(?:points?\s*)?(?:[:=]|\b(?:is|are|was|stands|remains|sits)(?:\s+(?:now|only|just|still|left|down|back|up))*(?:\s+(?:at|to))?"
    r"|\b(?:drops?|falls?|sinks?|rises?|climbs?|goes|dropped|fell|sank|rose|climbed|went)(?:\s+(?:down|up|back))?"
    r"(?:\s+from\s+(?P<n_from_en>\d+))?\s+to|\b(?:down|back|up)\s+to|\bat|\bnow)\s*"
)
_LOSS_ZH = "(?:失去|损失|丢掉|丢|扣除|扣|减少|减|恢复|回复|增加|增|添|少|多|掉|涨|降|升)了?"
_LOSS_EN = r"(?:los(?:e|es|t|ing)|gain(?:s|ed)?|regain(?:s|ed)?|recover(?:s|ed)?|restor(?:e|es|ed)|costs?)"
_DAMAGE = re.compile(
    rf"(?P<n>{_DIGITS}|(?<!{_HAN}){_HAN}++)\s*点\S{{0,4}}?伤害|(?P<n_en>{_DIGITS})\s+(?:points?\s+of\s+)?damage\b"
    rf"|\b(?P<n_word>{_WORD})\s+points?\s+of\s+damage\b|\bdamage\s*(?::|of)\s*(?P<n_of>{_DIGITS})",
    re.IGNORECASE,
)


@lru_cache(maxsize=256)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Where a text names a variable, where it states its number, and where it tells by how much it moved."""
    own = "|".join(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z])" for name in names)
    name = rf"(?:{own})(?:值|点数)?"
    stated = (
        rf"{name}(?:{_LINK_ZH}|{_LINK_EN}|\s*)(?P<n>{_DIGITS}){_OTHER_UNITS}"
        rf"|{name}{_LINK_ZH.replace('n_from', 'n_old')}(?P<n_han>{_HAN}+){_UNIT}?{_ENDS}"
        rf"|{name}{_LINK_EN.replace('n_from', 'n_once')}(?P<n_word>{_WORD})\b{_WORD_ENDS}"
        rf"|(?:剩下?|只有|还有|仅有)\s*(?P<n_left>{_DIGITS}|{_HAN}+)\s*{_UNIT}\s*{name}"
        rf"|\b(?:have|has|had|with|only|down\s+to)\s+(?P<n_has>{_DIGITS}|{_WORD})\s+(?:points?\s+of\s+)?{name}"
        rf"|(?P<n_rest>{_DIGITS}|\b{_WORD})\s+(?:points?\s+of\s+)?{name}\s+(?:left|remain)"
    )
    moved = (
        rf"{name}\s*{_LOSS_ZH}\s*(?P<n>{_DIGITS}|{_HAN}+(?=点))(?:{_UNIT}(?![点滴钟])|{_ENDS})"
        rf"|{name}\s*[-+]\s*(?P<n_sign>{_DIGITS})|(?<!\w)[-+]\s*(?P<n_before>{_DIGITS})(?:\s*{_UNIT})?\s*{name}"
        rf"|{_LOSS_ZH}\s*(?P<n_han>{_HAN}+)\s*{_UNIT}\s*{name}|(?P<n_point>{_DIGITS})\s*{_UNIT}\s*{name}"
        rf"|\b{_LOSS_EN}\s+(?:you\s+|him\s+|her\s+)?(?P<n_lost>{_DIGITS}|{_WORD})\s+(?:points?\s+of\s+)?{name}"
        rf"|(?P<n_of>{_DIGITS}|\b{_WORD})\s+points?\s+of\s+{name}"
    )
    return tuple(re.compile(each, re.IGNORECASE) for each in (own, stated, moved))


@lru_cache(maxsize=512)
def _ending(title: str) -> re.Pattern[str]:
    """An ending's title told as the ending."""
    said, word = re.escape(title), r"(?:结局|终局|\bending|\bthe\s+end)"
    return re.compile(
        rf"{word}\W{{0,4}}(?:(?:就是|便是|是|为|叫|was|is|called)\W{{0,3}})?{said}(?![A-Za-z])"
        rf"|[“《「\"']{said}[”》」\"']\W{{0,2}}(?:的|这个)?{word}",
        re.IGNORECASE,
    )


def _numbers(pattern: re.Pattern[str], text: str) -> Iterator[float]:
    """Every number that a pattern finds told as a fact."""
    for match in pattern.finditer(text):
        if not _MAY_BE.search(text[max(0, match.start() - 24) : match.start()]):
            yield from (_number(found) for found in match.groupdict().values() if found)


def _number(written: str) -> float:
    """`3`, `2.5`, `三`, `十二`, `二十`, `three`."""
    if written.casefold() in _WORDS:
        return float(_WORDS.index(written.casefold()))
    return float(written) if written[0].isdigit() else float(_han_number(written))


def _han_number(written: str) -> int:
    total = digit = 0
    for letter in written.replace("两", "二").replace("零", "〇"):
        if letter in "十百":
            total += (digit or 1) * (10 if letter == "十" else 100)
            digit = 0
        else:
            digit = "〇一二三四五六七八九".index(letter)
    return total + digit
