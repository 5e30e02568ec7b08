"""Offline fragments: what a designer wrote to be told without a model, and which text is drawn.

A file `offline.<lang>.yaml` maps an output's field to groups of texts:

    scene:
      - {at: COMBAT.hit, when: "ghost_hp <= 2", say: ["…"], once: true}
      - {at: COMBAT, say: ["…", "…"]}
      - {say: ["…"]}
    words: {npc_bias: {恶鬼: 那东西}}

Groups are tried from the most specific one on: the edge taken, then the state entered, then
neither; inside a level those whose `when` holds, then those without one; then file order. Inside
a group the texts that the branch has not heard come first, in an order that the seed decides,
then the one heard longest ago.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from msgspec import Struct

from runtime.expression import Activation, EvaluationError, Expression, ExpressionError, Names, evaluate
from runtime.model import Path
from runtime.prompt import Say, SayError, compile_say

FRESH_TURNS = 10
"""A text heard fewer turns ago than this is stale."""
GROUP_KEYS = ("at", "when", "say", "once")
WORDS = "words"
"""The one top-level key that is no field."""

FragmentFault = tuple[Path, str, str]
"""Where in the file, the code, and a sentence with the mend."""

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_FIELD = re.compile(rf"{_NAME}(\.{_NAME})*")
_EDGE = r"[A-Za-z][A-Za-z0-9_>]*"
_AT = re.compile(rf"{_NAME}|({_NAME}|\*)\.{_EDGE}")
_ID_CHARS = 12


class Group(Struct, frozen=True, kw_only=True):
    """Texts for one field that may be told at one place.

    `at` is '' (anywhere), a state's name, an edge's full name or `initial`. `ids` names each text
    of `say` stably: a hash of the field and the text as written. `index` is its place in the file.
    """

    field: str
    at: str
    when: Expression | None
    say: tuple[Say, ...]
    once: bool
    index: int
    ids: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it stands in its file."""
        return (self.field, self.index)


class Fragments(Struct, frozen=True, kw_only=True):
    """All fragments of one file. `places` has the groups by field and `at`, in the order to try."""

    language: str
    groups: Mapping[str, tuple[Group, ...]]
    words: Mapping[str, Mapping[str, str]]
    places: Mapping[str, Mapping[str, tuple[Group, ...]]]


class Place(Struct, frozen=True):
    """Where a turn stands when its texts are drawn.

    `said` maps a text's id to the step at which the branch last heard it; `step` is this turn's.
    """

    edge: str
    state: str
    known: Activation
    said: Mapping[str, int]
    step: int
    seed: str

    def is_fresh(self, identity: str) -> bool:
        """Whether the branch has not heard a text within the last ten turns."""
        heard = self.said.get(identity)
        return heard is None or self.step - heard >= FRESH_TURNS


class Draw(Struct, frozen=True):
    """One text to try: its template and its id; `is_general` where its group fits anywhere."""

    say: Say
    id: str
    is_general: bool


def draws(fragments: Fragments, field: str, place: Place, *, fresh_first: bool) -> Iterator[Draw]:
    """Every text that may be told for a field, best first.

    With `fresh_first` a text heard within ten turns gives way to any that was not, however
    general; without it a more specific group always goes before a more general one.
    """
    stale: list[Draw] = []
    for group in _fitting(fragments.places.get(field, {}), place):
        for draw in _ordered(group, place):
            if fresh_first and not place.is_fresh(draw.id):
                stale.append(draw)
            else:
                yield draw
    yield from stale


def draw(fragments: Fragments, field: str, place: Place, *, fresh_first: bool = True) -> Draw | None:
    """The first text of `draws`, None where no group fits."""
    return next(draws(fragments, field, place, fresh_first=fresh_first), None)


def _fitting(places: Mapping[str, tuple[Group, ...]], place: Place) -> Iterator[Group]:
    for at in dict.fromkeys((place.edge, place.state, "")):
        for group in places.get(at, ()):
            if _holds(group.when, place.known):
                yield group


def _holds(when: Expression | None, known: Activation) -> bool:
    """Whether a group fits; what errs or reads what is not known does not."""
    if when is None:
        return True
    try:
        return bool(evaluate(when, known))
    except EvaluationError:
        return False


def _ordered(group: Group, place: Place) -> list[Draw]:
    heard = place.said
    is_general = not group.at and group.when is None
    if len(group.ids) == 1 and not group.once:
        return [Draw(group.say[0], group.ids[0], is_general)]
    pairs = [Draw(say, each, is_general) for say, each in zip(group.say, group.ids, strict=True)]
    if group.once:
        pairs = [pair for pair in pairs if pair.id not in heard]
    return sorted(pairs, key=lambda pair: (heard.get(pair.id, -1), by_seed(place.seed, pair.id)))


@lru_cache(maxsize=8192)
def by_seed(seed: str, identity: str) -> bytes:
    """Where a text stands among those never heard: SHA-256, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{identity}".encode()).digest()


def identity_of(field: str, text: str) -> str:
    """A text's stable id: 12 hex digits of a SHA-256 over its field and itself."""
    return hashlib.sha256(f"{field}\0{text}".encode()).hexdigest()[:_ID_CHARS]


def parse_fragments(values: Any, names: Names, file: str) -> tuple[Fragments | None, list[FragmentFault]]:
    """Compile the values of an `offline.<lang>.yaml`: every group without a fault; None where it is no map.

    `names` are what `when` may read (`machine.story_names`). The language is the file's.
    """
    if not isinstance(values, Mapping):
        return None, [((), "E501", 'fragments are a map of output fields to lists: `scene: [{say: ["…"]}]`')]
    faults: list[FragmentFault] = []
    groups: dict[str, tuple[Group, ...]] = {}
    for field, listed in values.items():
        if field != WORDS:
            groups[field] = tuple(_groups(field, listed, names, faults))
    words = _words(values.get(WORDS, {}), faults)
    places = {field: _by_place(listed) for field, listed in groups.items()}
    return Fragments(language=language_of(file), groups=groups, words=words, places=places), faults


def language_of(file: str) -> str:
    """`prompts/x/offline.zh.yaml` → `zh`; '' where the name carries none."""
    suffixes = PurePosixPath(file).suffixes
    return suffixes[-2].lstrip(".") if len(suffixes) > 1 else ""


def _by_place(groups: Sequence[Group]) -> dict[str, tuple[Group, ...]]:
    """Groups by `at`, those with a `when` before those without."""
    places: dict[str, tuple[Group, ...]] = {}
    for group in sorted(groups, key=lambda group: (group.when is None, group.index)):
        places[group.at] = (*places.get(group.at, ()), group)
    return places


def _groups(field: Any, listed: Any, names: Names, faults: list[FragmentFault]) -> Iterator[Group]:
    if not isinstance(field, str) or not _FIELD.fullmatch(field):
        mend = "write names joined by dots, like opening.scene"
        faults.append(((field,), "E502", f"{field!r} is no output's path: {mend}"))
    elif not isinstance(listed, list):
        faults.append(((field,), "E501", f'{field} wants a list of groups: `{field}: [{{say: ["…"]}}]`'))
    else:
        for index, group in enumerate(listed):
            parsed = _group(field, index, group, names, faults)
            if parsed is not None:
                yield parsed


def _group(field: str, index: int, written: Any, names: Names, faults: list[FragmentFault]) -> Group | None:
    path: Path = (field, index)
    if not isinstance(written, Mapping):
        faults.append((path, "E501", "a group is a map with `say`, and perhaps `at`, `when`, `once`"))
        return None
    before = len(faults)
    faults += [_unknown_key(path, key) for key in written if key not in GROUP_KEYS]
    texts = _texts((*path, "say"), path, written.get("say"), faults)
    say = tuple(_compiled((*path, "say", place), text, faults) for place, text in enumerate(texts))
    at = _at((*path, "at"), written.get("at", ""), faults)
    when = _when((*path, "when"), written["when"], names, faults) if "when" in written else None
    once = _once((*path, "once"), written.get("once", False), faults)
    if len(faults) > before:
        return None
    kept = tuple(each for each in say if each is not None)
    ids = tuple(identity_of(field, text) for text in texts)
    return Group(field=field, at=at, when=when, say=kept, once=once, index=index, ids=ids)


def _unknown_key(path: Path, key: Any) -> FragmentFault:
    close = difflib.get_close_matches(str(key), GROUP_KEYS, n=1)
    mend = f"Did you mean '{close[0]}'?" if close else f"A group has {', '.join(GROUP_KEYS)}."
    return (*path, key), "E503", f"a group has no key '{key}'. {mend}"


def _texts(path: Path, group: Path, written: Any, faults: list[FragmentFault]) -> list[str]:
    if not isinstance(written, list) or not written:
        where = group if written is None else path
        faults.append((where, "E506", '`say` wants a list of at least one text: `say: ["…"]`'))
        return []
    empty = [place for place, text in enumerate(written) if not isinstance(text, str) or not text.strip()]
    faults += [((*path, place), "E506", "a text of `say` is a text in quotes, and not empty") for place in empty]
    twice = [place for place, text in enumerate(written) if place not in empty and text in written[:place]]
    mend = "write another or drop it"
    faults += [((*path, place), "E510", f"this text stands twice in its group: {mend}") for place in twice]
    return [] if empty or twice else written


def _compiled(path: Path, text: str, faults: list[FragmentFault]) -> Say | None:
    try:
        return compile_say(text)
    except SayError as error:
        faults.append((path, "E507", f"this text can't be rendered (at character {error.col}): {error.message}"))
        return None


def _at(path: Path, written: Any, faults: list[FragmentFault]) -> str:
    if written == "" or (isinstance(written, str) and _AT.fullmatch(written)):
        return str(written)
    mend = 'write STATE, STATE.edge, "*.edge" or initial, or leave it out'
    faults.append((path, "E504", f"{written!r} is no place: {mend}"))
    return ""


def _when(path: Path, written: Any, names: Names, faults: list[FragmentFault]) -> Expression | None:
    if not isinstance(written, bool | int | float | str):
        faults.append((path, "E505", "`when` wants an expression; quote it if it holds a comma, a colon or brackets"))
        return None
    try:
        expression = names.compile(written)
    except ExpressionError as error:
        faults.append((path, "E505", f"`when` can't be read (at character {error.col}): {error.message}"))
        return None
    if expression.type != "bool":
        given = f"this gives {expression.type}"
        faults.append((path, "E505", f"`when` wants a bool, and {given}: compare it with something"))
    return expression


def _once(path: Path, written: Any, faults: list[FragmentFault]) -> bool:
    if not isinstance(written, bool):
        faults.append((path, "E508", f"`once` is true or false, not {written!r}"))
    return written is True


def _words(written: Any, faults: list[FragmentFault]) -> dict[str, dict[str, str]]:
    if not isinstance(written, Mapping):
        faults.append(((WORDS,), "E509", "`words` wants a map: `words: {npc_bias: {恶鬼: 那东西}}`"))
        return {}
    return {str(name): _spoken(str(name), values, faults) for name, values in written.items()}


def _spoken(name: str, written: Any, faults: list[FragmentFault]) -> dict[str, str]:
    if not isinstance(written, Mapping):
        mend = f"`{name}: {{value: spoken}}`"
        faults.append(((WORDS, name), "E509", f"`{name}` wants a map of its values to words: {mend}"))
        return {}
    bad = [value for value, spoken in written.items() if not isinstance(spoken, str)]
    faults += [((WORDS, name, value), "E509", f"the word for {value!r} is a text in quotes") for value in bad]
    return {_key(value): spoken for value, spoken in written.items() if value not in bad}


def _key(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
