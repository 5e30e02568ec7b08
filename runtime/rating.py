"""Content ratings: packs of terms that a text may not hold at a rating, and who may replace them.

A pack is a file that maps a rating to terms; a term is out at that rating and at every stricter
one. We ship one per language (`runtime/ratings/`); a machine's own `rating.<lang>.yaml` takes its
place, and the machine's digest covers it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from msgspec import Struct

from runtime.model import Path
from runtime.shape import did_you_mean
from runtime.terms import bare

Rating = Literal["G", "PG", "PG13", "R"]
RATINGS: tuple[Rating, ...] = get_args(Rating)
"""The ratings, the strictest first."""
TERM_MAX_CHARS = 32
"""The longest term of a pack, in code points: as long as a session's own may be."""
PACK_MAX_TERMS = 500
"""How many terms a pack may have in all."""

COMMON = frozenset(
    "的一是不了在人有我他她它这那们来到时大地为子中你说上下就和要也得着过好看出去里没个小很都把又还想对回手头门aiAI"
)
"""Letters that stand in most texts: as a term, one of them lets no telling stand."""
_SEPARATOR = re.compile("[，、；“”「」『』]")
_MARKS = ("P", "Z")
"""Unicode's categories of punctuation and blanks."""

PackFault = tuple[Path, str, str]
"""Where in the file, the code, and a sentence with the mend."""


class Pack(Struct, frozen=True):
    """A language's terms by rating: all that are out there, those of the looser ratings too."""

    excluded: Mapping[str, tuple[str, ...]]

    def terms_at(self, rating: str | None) -> tuple[str, ...]:
        """What a text may not hold at a rating; nothing without one."""
        return self.excluded.get(rating, ()) if rating else ()


NOTHING = Pack({})
"""The pack of a language that has none."""


def parse_pack(values: Any) -> tuple[Pack, list[PackFault]]:
    """Read a pack's values: every term without a fault, and the faults."""
    if not isinstance(values, Mapping):
        return NOTHING, [((), "E521", "a rating pack is a map of ratings to lists: `PG: [血腥]`")]
    faults: list[PackFault] = []
    found: dict[str, tuple[str, ...]] = {}
    first: dict[str, Path] = {}
    for rating, listed in values.items():
        terms = tuple(_terms(rating, listed, first, faults))
        if rating in RATINGS:
            found[rating] = terms
    if len(first) > PACK_MAX_TERMS:
        faults.append(((), "E521", f"{len(first)} terms are more than {PACK_MAX_TERMS}. Keep those that matter"))
    return Pack(dict(_by_rating(found))), faults


def _terms(rating: Any, listed: Any, first: dict[str, Path], faults: list[PackFault]) -> Iterator[str]:
    if rating not in RATINGS:
        mend = did_you_mean(str(rating), RATINGS, f"There are {', '.join(RATINGS)}")
        faults.append(((rating,), "E522", f"no rating '{rating}'{mend}"))
    if not isinstance(listed, list):
        faults.append(((rating,), "E521", f"`{rating}` wants a list of terms: `{rating}: [one, another]`"))
        return
    for index, term in enumerate(listed):
        path: Path = (rating, index)
        if fault := _wrong(term):
            faults.append((path, "E523", fault))
        elif (before := first.setdefault(bare(term).strip(), path)) != path:
            faults.append((path, "E524", f"'{term}' stands under {before[0]} already, spelled alike. Keep one"))
        else:
            if term in COMMON:
                message = f"'{term}' stands in most texts, and none that holds it is let through. Write a longer term"
                faults.append((path, "W522", message))
            yield term


def _wrong(term: Any) -> str:
    if not isinstance(term, str):
        return f"a term is a text: put {term!r} in quotes"
    if len(term) > TERM_MAX_CHARS:
        return f"the term has {len(term)} characters, and {TERM_MAX_CHARS} are the most. Shorten it"
    if not bare(term).strip():
        return "the term holds nothing that could be seen. Write one, or delete it"
    if all(unicodedata.category(letter)[0] in _MARKS for letter in term):
        return f"'{term}' holds no letter, and is found in no text. Write a term, or delete it"
    if found := _SEPARATOR.search(term):
        mend = "Part terms with ',': `[one, another]`" if found[0] in "，、；" else "Delete the quote marks"
        return f"'{found[0]}' belongs to the term here, which no text holds. {mend}"
    return ""


def _by_rating(found: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for place, rating in enumerate(RATINGS):
        yield rating, tuple(term for looser in RATINGS[place:] for term in found.get(looser, ()))


def language_of(file: str) -> str:
    """`prompts/x/rating.zh.yaml` → `zh`."""
    return PurePosixPath(file).suffixes[-2].lstrip(".")


@lru_cache(maxsize=512)
def united(own: tuple[str, ...], rated: tuple[str, ...]) -> tuple[str, ...]:
    """A session's own terms, then those that only its rating excludes."""
    return tuple(dict.fromkeys((*own, *rated)))
