"""How options read under a session's constraints: none is dropped, and no two read alike.

An authored text that is too long or holds a forbidden term gives way to its `short`, then to itself
masked or cut, then to a label: its number, a letter, a row of marks. What a designer wrote in
another language than the session's stands: it says more than a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from msgspec.structs import replace

from runtime.constraints import Bounds, find_term, fit, key_of, mask, same_words, speaks
from runtime.machine import Machine
from runtime.model import CONTINUE, Definition, State, said_in
from runtime.narrators.voices import voice_for
from runtime.session import Offer
from runtime.terms import MARKS, free_mark

HAN_NUMBERS = "一二三四五六七八九"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_LABELS = 999
"""How many options may be told apart by a number."""
MOST_MARKS = 9


def worded(
    definition: Definition, state: State, offer: Iterable[Offer], bounds: Bounds, told: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Every option's words by its key or kind, in the offer's order; and a warning for each that had to change.

    `state` is where they are offered. `told` has words that stand already: a narrator's.
    """
    offer = tuple(offer)
    taken = {same_words(told[key_of(each)]) for each in offer if told.get(key_of(each))}
    words: dict[str, str] = {}
    warnings: list[str] = []
    for each in offer:
        text = told.get(key_of(each)) or _text(definition, state, each, bounds, taken, warnings)
        taken.add(same_words(text))
        words[key_of(each)] = text
    return words, warnings


def offered(
    machine: Machine, state: str, offer: Iterable[Offer], bounds: Bounds, told: Mapping[str, str]
) -> tuple[tuple[Offer, ...], list[str]]:
    """The offer of a state in its words, as `worded` finds them, and what had to change."""
    offer = tuple(offer)
    words, warnings = worded(machine.definition, machine.definition.states[state], offer, bounds, told)
    return tuple(replace(each, text=words[key_of(each)]) for each in offer), warnings


def _text(
    definition: Definition, state: State, offer: Offer, bounds: Bounds, taken: set[str], warnings: list[str]
) -> str:
    texts = list(_authored(definition, state, offer, bounds.language))
    found = next((text for text in texts if passes(text, bounds) and same_words(text) not in taken), "")
    if found and found == texts[0]:
        return found
    made = found or _made(offer.id, texts, bounds, taken)
    if not found or find_term(texts[0], bounds.forbidden_terms):
        warnings.append(f"option {offer.id}: its text breaks the session's constraints; '{made}' stands for it")
    return made


def _authored(definition: Definition, state: State, offer: Offer, language: str) -> Iterator[str]:
    """An option's own texts: as offered, and the short one; *Continue* in the language."""
    if offer.key == CONTINUE:
        yield voice_for(language).phrase("continue")
    yield offer.text
    for option in state.authored:
        if option.key == offer.key and option.short is not None:
            yield said_in(option.short, language, definition.language)


def passes(text: str, bounds: Bounds) -> bool:
    """Whether a text may be an option's as it stands."""
    is_short = bool(text.strip()) and len(text) <= bounds.max_chars_option
    return is_short and find_term(text, bounds.forbidden_terms) is None


def _made(number: int, texts: list[str], bounds: Bounds, taken: set[str]) -> str:
    """A text made to fit: masked, else cut and masked, else a label; a mask that left no word is none."""
    limit, terms = bounds.max_chars_option, bounds.forbidden_terms
    masked = (mask(text, terms) for text in texts)
    cut = (fit(text, limit, terms)[0] for text in texts)
    legible = (text for text in (*masked, *cut) if any(map(str.isalnum, text)))
    fitting = (text for text in chain(legible, labels(number, bounds)) if passes(text, bounds))
    return next((text for text in fitting if same_words(text) not in taken), free_mark(terms) or MARKS[-2])


def labels(number: int, bounds: Bounds) -> Iterator[str]:
    """What an option may be called by, its own number first; all that the constraints let pass, no two alike."""
    made = chain(_numbered(number), _numbers(), _marked(bounds.max_chars_option))
    seen: set[str] = set()
    for label in made:
        if passes(label, bounds) and speaks(label, bounds.language) and same_words(label) not in seen:
            seen.add(same_words(label))
            yield label


def _numbered(number: int) -> Iterator[str]:
    yield str(number)
    yield HAN_NUMBERS[number - 1 : number]
    yield LETTERS[number - 1 : number]


def _numbers() -> Iterator[str]:
    yield from HAN_NUMBERS
    yield from LETTERS
    yield from map(str, range(1, MOST_LABELS + 1))


def _marked(limit: int) -> Iterator[str]:
    for mark in MARKS:
        for count in range(1, min(limit, MOST_MARKS) + 1):
            yield mark * count


def can_tell_apart(count: int, bounds: Bounds) -> bool:
    """Whether so many options can be told apart, whatever their texts."""
    return len(list(islice(labels(1, bounds), count))) == count
