"""The rules about the values that meet in an expression: members of enums, sets and picks, and secrets.

Members are strings to CEL, so that its types can't tell a member from a misspelled one: each literal
that meets an enum or a set is compared with its `of` here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, structs

from runtime.draft import Draft, Slot
from runtime.errors import Finding
from runtime.expression import Expression, Token, tokens
from runtime.machine import members_of
from runtime.model import CONTINUE, ROOT, Definition, Die, Edge, LongDie
from runtime.shape import did_you_mean


class Vocabulary(Struct, frozen=True):
    """What literals are compared with: the members of each enum and set, and the faces of each pick."""

    enums: Mapping[str, Sequence[str]]
    sets: Mapping[str, Sequence[str]]
    members: frozenset[str]


def literals(draft: Draft, slot: Slot, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Literals and member names that meet an enum, a set or a pick that hasn't them."""
    for col, message in met(draft, slot, vocabulary):
        yield draft.inside(slot.path, col, "E305", message)


def met(
    draft: Draft, slot: Slot, vocabulary: Vocabulary, unknown: frozenset[str] = frozenset()
) -> Iterator[tuple[int, str]]:
    """Where, as a character from 1, something is none of the members that it meets, and the sentence.

    `unknown` are names that aren't declared: each may be a member that was misspelled.
    """
    if not isinstance(slot.source, str):
        return
    read = structs.replace(vocabulary, members=vocabulary.members | unknown) if unknown else vocabulary
    found = list(tokens(slot.source))
    meetings = [*_compared(found, read), *_collected(found, read)]
    if slot.variable is not None:
        meetings += _assigned(found, draft.definition, slot.variable, read)
    for token, name, members in dict.fromkeys(meetings):
        if token.text not in members:
            there = ", ".join(filter(None, members)) or "none"
            mend = did_you_mean(token.text, members, f"There are {there}")
            yield token.col, f"'{token.text}' is none of the members of '{name}'{mend}"


_Met = tuple[Token, str, tuple[str, ...]]


def vocabulary_of(draft: Draft, edge: Edge | None) -> Vocabulary:
    """What the literals of an edge's expressions are compared with; without an edge, of the machine's own."""
    context = draft.definition.context
    enums: dict[str, Sequence[str]] = {name: each.of or () for name, each in context.items() if each.type == "enum"}
    if edge is not None:
        group = [other for other in draft.edges if other.source in {edge.source, ROOT} and other.event == edge.event]
        for other in group:
            for name, die in other.dice.items():
                if isinstance(die, LongDie) and die.pick:
                    enums[f"dice.{name}"] = die.pick
        enums |= _choices(draft, edge)
    sets = {name: each.of or () for name, each in context.items() if each.type == "set"}
    return Vocabulary(enums, sets, frozenset(members_of(draft.definition)))


def with_states(draft: Draft, vocabulary: Vocabulary) -> Vocabulary:
    """What the literals of `properties` are compared with: also the names of states."""
    # A state that was cut out is none that isn't there.
    lost = [str(gone[1]) for gone in draft.document.gone if gone[:1] == ("states",) and len(gone) > 1]
    states = [*draft.definition.states, *lost]
    return structs.replace(vocabulary, enums={**vocabulary.enums, "state": states})


def _choices(draft: Draft, edge: Edge) -> dict[str, Sequence[str]]:
    """What option.key and option.kind may be where an edge stands; nothing where options were cut out."""
    names = [name for name in draft.definition.states if edge.source in {name, ROOT}]
    if any(gone[:3] == ("states", name, "options") for name in names for gone in draft.document.gone):
        return {}
    states = [draft.definition.states[name] for name in names]
    keys = [option.key for state in states for option in state.authored]
    kinds = [kind for state in states for kind in state.kinds]
    return {"option.key": [*keys, *kinds, CONTINUE, ""], "option.kind": [*kinds, ""]}


def is_literal(token: Token, vocabulary: Vocabulary) -> bool:
    """Whether a token is a text in quotes, or a member's name."""
    return token.kind == "string" or (token.kind == "name" and token.text in vocabulary.members)


def _compared(found: list[Token], vocabulary: Vocabulary) -> Iterator[_Met]:
    """`enum == x`, `x != enum`, `x in set`, `enum in [x, y]`."""
    for left, operator, right in zip(found, found[1:], found[2:], strict=False):
        if operator.text in {"==", "!="}:
            for name, literal in ((left, right), (right, left)):
                if name.kind == "name" and name.text in vocabulary.enums and is_literal(literal, vocabulary):
                    yield literal, name.text, tuple(vocabulary.enums[name.text])
        elif operator.text == "in" and right.text in vocabulary.sets and is_literal(left, vocabulary):
            yield left, right.text, tuple(vocabulary.sets[right.text])
    for index, token in enumerate(found):
        opening = [each.text for each in found[index + 1 : index + 3]]
        if token.text in vocabulary.enums and opening == ["in", "["]:
            known = vocabulary.enums[token.text]
        elif token.text in vocabulary.sets and opening in (["==", "["], ["!=", "["]):
            known = vocabulary.sets[token.text]
        else:
            continue
        for literal in _listed(found[index + 3 :], vocabulary):
            yield literal, token.text, tuple(known)


def _listed(found: Iterable[Token], vocabulary: Vocabulary) -> Iterator[Token]:
    for token in found:
        if token.text == "]" and token.kind == "operator":
            return
        if is_literal(token, vocabulary):
            yield token


def _collected(found: list[Token], vocabulary: Vocabulary) -> Iterator[_Met]:
    """`add(set, x)` and `remove(set, x)`."""
    for index, token in enumerate(found):
        if token.text not in {"add", "remove"} or token.kind != "name" or len(found) < index + 6:
            continue
        opening, name, comma, literal, closing = found[index + 1 : index + 6]
        is_plain = (opening.text, comma.text, closing.text) == ("(", ",", ")")
        if is_plain and name.text in vocabulary.sets and is_literal(literal, vocabulary):
            yield literal, name.text, tuple(vocabulary.sets[name.text])


def _assigned(found: list[Token], definition: Definition, variable: str, vocabulary: Vocabulary) -> list[_Met]:
    """The literals that a variable may become: the whole, or a branch of `? :`, or a list's items."""
    declared = definition.context[variable]
    members = tuple(declared.of or ())
    if declared.type == "set" and found and found[0].text == "[":
        return [(token, variable, members) for token in _listed(found[1:], vocabulary)]
    if declared.type != "enum":
        return []
    met = [(token, variable, members) for token in _results(found) if is_literal(token, vocabulary)]
    picked = [(token, face) for token in _results(found) for face in vocabulary.enums.get(token.text, ())]
    faces = [
        (Token("string", face, token.col), variable, members) for token, face in picked if token.text not in members
    ]
    return [*met, *(face for face in faces if face[0].text not in members)]


def _results(found: list[Token]) -> Iterator[Token]:
    """Single words that are the whole value, or a whole branch of `? :`."""
    ends = {"?", ":", ")", ""}
    for index, token in enumerate(found):
        before = found[index - 1].text if index else ""
        after = found[index + 1].text if index + 1 < len(found) else ""
        if before in {"?", ":", ""} and after in ends and (before or not after):
            yield token


def secrets(draft: Draft, slot: Slot, expression: Expression) -> Iterator[Finding]:
    """Secrets that would be told, and open dice that a secret takes. A guard or property may read any secret."""
    if slot.role in {"guard", "property"}:
        return
    context = draft.definition.context
    dice = _dice_around(draft, slot.edge)
    hidden = {f"dice.{name}" for name, die in dice.items() if isinstance(die, LongDie) and die.secret}
    if slot.variable is not None and context[slot.variable].secret:
        known = {f"dice.{name}" for name in dice} - hidden
        yield from _open_dice(draft, slot, [name for name in expression.names if name in known])
    else:
        hidden |= {name for name, variable in context.items() if variable.secret}
        yield from _told(draft, slot, [name for name in expression.names if name in hidden])


def _open_dice(draft: Draft, slot: Slot, names: Iterable[str]) -> Iterator[Finding]:
    for name in names:
        message = (
            f"the secret '{slot.variable}' takes {name}, which every answer shows. Write the die with secret: true"
        )
        yield draft.at_value(slot.path, "E308", message)


def _told(draft: Draft, slot: Slot, names: Iterable[str]) -> Iterator[Finding]:
    target = slot.variable
    where = f"'{target}'" if target else "ai_state"
    mend = f"Make '{target}' secret too, or let a guard choose the value" if target else "Read something else"
    for name in names:
        yield draft.at_value(slot.path, "E307", f"the secret {name} would be told through {where}. {mend}")


def _dice_around(draft: Draft, edge: Edge | None) -> Mapping[str, Die]:
    if edge is None:
        return {}
    group = [other for other in draft.edges if other.event == edge.event and other.source in {edge.source, ROOT}]
    return {name: die for other in group for name, die in other.dice.items()}
