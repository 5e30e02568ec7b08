"""The rules about expressions: names, types, members and secrets. E3xx, and what dice and learning leave unused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, structs

from runtime.check_graph import edges_in, guards, words
from runtime.check_members import Vocabulary, literals, met, secrets, vocabulary_of, with_states
from runtime.check_syntax import CALLS, Place, a, as_text, explained
from runtime.check_values import values
from runtime.draft import Draft, Slot, expressions
from runtime.errors import Finding
from runtime.expression import CelType, Expression, ExpressionError, Names, Token, tokens
from runtime.machine import (
    VARIABLE_TYPES,
    ai_state_names,
    base_names,
    edge_names,
    learn_names,
    property_names,
    story_names,
)
from runtime.model import Edge, Expr, LongDie, Path
from runtime.shape import closest, did_you_mean

_KNOWN_CALLS = frozenset(CALLS) | {"int", "double", "string", "bool", "has", "type", "dyn", "matches"}
_OTHER_LANGUAGES = frozenset({"and", "or", "not"})


class Scope(Struct, frozen=True):
    """What the expressions of one place may read, and what their literals are compared with."""

    names: Names
    vocabulary: Vocabulary


Scopes = dict[tuple[str, int], Scope]
"""Scopes that were made already, by role and edge."""


def expressed(draft: Draft) -> Iterator[Finding]:
    """Every fault of every expression."""
    slots = list(expressions(draft))
    yield from misfits(draft, slots)
    if draft.is_whole:
        yield from _unread_dice(draft, {word for slot in slots for word in words(slot.source)})
        yield from _stuck(draft)


def misfits(draft: Draft, slots: Iterable[Slot]) -> Iterator[Finding]:
    """Every fault of some of a draft's expressions: each is judged by itself."""
    seen: set[tuple[Path, str]] = set()
    scopes: Scopes = {}
    for slot in slots:
        for finding in _slot(draft, slot, scopes):
            if (slot.path, finding.message) not in seen:
                seen.add((slot.path, finding.message))
                yield finding


def _slot(draft: Draft, slot: Slot, scopes: Scopes) -> Iterator[Finding]:
    variable = slot.variable
    if variable is not None and variable not in draft.definition.context:
        if variable not in draft.lost:
            known = draft.definition.context
            message = f"no variable '{variable}'{did_you_mean(variable, known, 'Declare it in `context`')}"
            yield draft.at_key(slot.path[:-1] if slot.role == "learn" else slot.path, "E306", message)
        return
    yield from _judged(draft, slot, _scope(draft, slot, scopes))


def told_when(draft: Draft) -> Iterator[Finding]:
    """Every fault of the fragments' `when`."""
    scope = Scope(story_names(draft.definition, draft.edges), vocabulary_of(draft, None))
    for file in draft.fragments:
        inside = structs.replace(draft, document=file.document)
        for path, source in _whens(file.document.value):
            yield from _judged(inside, Slot(path, source, "guard"), scope)


def _whens(value: object) -> Iterator[tuple[Path, Expr]]:
    for field, groups in value.items() if isinstance(value, Mapping) else ():
        for index, group in enumerate(groups if isinstance(groups, list) else ()):
            source = group.get("when") if isinstance(group, Mapping) else None
            if isinstance(source, bool | int | float | str):
                yield (field, index, "when"), source


def _judged(draft: Draft, slot: Slot, scope: Scope) -> Iterator[Finding]:
    try:
        expression = scope.names.compile(slot.source)
    except ExpressionError as error:
        yield from _uncompiled(draft, slot, scope, error)
        return
    yield from _type(draft, slot, expression)
    yield from literals(draft, slot, scope.vocabulary)
    yield from values(draft, slot, scope.vocabulary)
    yield from secrets(draft, slot, expression)


def _scope(draft: Draft, slot: Slot, scopes: Scopes) -> Scope:
    key = (slot.role if slot.role in {"learn", "ai_state", "property"} else "", id(slot.edge))
    if key not in scopes:
        vocabulary = vocabulary_of(draft, slot.edge)
        scopes[key] = Scope(_names(draft, slot), with_states(draft, vocabulary) if _is_judged(slot) else vocabulary)
    return scopes[key]


def _is_judged(slot: Slot) -> bool:
    """Whether an expression is a property's: judged after a turn, on what the session holds then."""
    return slot.role == "property"


def _names(draft: Draft, slot: Slot) -> Names:
    definition = draft.definition
    if _is_judged(slot):
        return Names(property_names(definition))
    if slot.role == "ai_state":
        everything = [file.prompt for file in draft.prompts if file.prompt]
        return ai_state_names(definition, everything)
    if slot.edge is None:
        return Names(base_names(definition))
    if slot.role == "learn":
        return learn_names(definition, slot.edge, draft.edges, draft.prompts_of(slot.edge))
    return edge_names(definition, slot.edge, draft.edges)


def _uncompiled(draft: Draft, slot: Slot, scope: Scope, error: ExpressionError) -> Iterator[Finding]:
    source, place = str(slot.source), _place(draft, slot, scope.names)
    unknown = list(_unknown(source, scope.names)) if "undeclared" in error.message else []
    if not unknown or any(token.text.lower() in _OTHER_LANGUAGES for token, _ in unknown):
        said = explained(error.message, source, place)
        yield draft.inside(slot.path, said.col or error.col, said.code, said.message)
        return
    plain = {token.col: token.text for token, is_call in unknown if not is_call and "." not in token.text}
    members = dict(met(draft, slot, scope.vocabulary, frozenset(plain.values())))
    quoted = as_text(source, plain, place)
    for token, is_call in unknown:
        if token.text.rpartition(".")[2] in draft.lost:
            continue
        if is_call:
            yield draft.inside(slot.path, token.col, "E302", _no_function(token.text))
        elif token.col in members and not _is_other(token.text, scope):
            yield draft.inside(slot.path, token.col, "E305", members[token.col])
        else:
            message = _no_state(draft, slot, token.text, quoted) or _no_name(slot, token.text, scope.names, quoted)
            yield draft.inside(slot.path, token.col, "E302", message)


def _place(draft: Draft, slot: Slot, names: Names) -> Place:
    wanted: CelType | None = "bool" if slot.role in {"guard", "property"} else None
    if slot.variable is not None and slot.key not in {"at_least", "at_most"}:
        wanted = VARIABLE_TYPES[draft.definition.context[slot.variable].type]

    def type_of(source: str) -> CelType | None:
        try:
            return names.compile(source).type
        except ExpressionError:
            return None

    return Place(slot.variable or "", wanted, type_of)


def _unknown(source: str, names: Names) -> Iterator[tuple[Token, bool]]:
    """The names of an expression that are not declared, and whether each is a call."""
    found = list(tokens(source))
    for index, token in enumerate(found):
        before = found[index - 1].text if index else ""
        if token.kind != "name" or before == ".":
            continue
        is_call = index + 1 < len(found) and found[index + 1].text == "("
        chain = token.text.rpartition(".")[0] if is_call and "." in token.text else token.text
        if is_call and "." not in token.text:
            if token.text not in _KNOWN_CALLS:
                yield token, True
        elif not _resolves(chain, names):
            yield token, False


def _is_other(name: str, scope: Scope) -> bool:
    """Whether a name of the scope is likely meant, rather than a member."""
    known = _bare(scope.names)
    close = closest(name, known)
    return any(each.endswith(f".{name}") for each in known) or (bool(close) and close not in scope.vocabulary.members)


def _resolves(chain: str, names: Names) -> bool:
    parts = chain.split(".")
    return chain in {"true", "false", "null", "in"} or any(
        ".".join(parts[:count]) in names.types for count in range(1, len(parts) + 1)
    )


def _no_function(name: str) -> str:
    calls = ", ".join(CALLS)
    return f"no function '{name}'{did_you_mean(name, CALLS, f'Functions are {calls}')}"


def _no_state(draft: Draft, slot: Slot, name: str, quoted: str) -> str:
    """What to say of a state's name without quotes in a property; '' for any other name."""
    if not _is_judged(slot) or name not in draft.definition.states:
        return ""
    mend = quoted or f"""'state == "{name}"'"""
    return f"no name '{name}' here. A state stands in quotes of its own, inside YAML's: {mend}"


def _no_name(slot: Slot, name: str, names: Names, quoted: str) -> str:
    root, _, rest = name.partition(".")
    beside = [known for known in names.types if known.startswith(f"{root}.")]
    if rest and beside:
        listed = ", ".join(sorted(beside)[:8])
        return f"no name '{name}' here{did_you_mean(name, beside, f'There are {listed}')}"
    behind = next((known for known in _bare(names) if known.endswith(f".{name}")), "")
    if behind:
        return f"no name '{name}' here. Did you mean '{behind}'?"
    text = f"; a text in quotes of its own, inside YAML's: {quoted}" if quoted else ""
    fallback = _elsewhere(slot, root) or f"A variable stands in `context`{text}"
    return f"no name '{name}' here{did_you_mean(name, _bare(names), fallback)}"


def _bare(names: Names) -> list[str]:
    return [name for name in names.types if not name.startswith("given.")]


def _elsewhere(slot: Slot, root: str) -> str:
    """Why a scope's name is not here."""
    if _is_judged(slot) and root in {"dice", "payload", "output", "option"}:
        return f"A property is judged after the turn, when {root} is gone: keep it in a variable, and read that"
    if root == "dice":
        return "No dice are rolled here: add `dice` to the option, or to the event as {dice: {…}, edges: […]}"
    if root == "payload":
        event = slot.edge.event if slot.edge else "the event"
        return f"'{event}' declares no payload. Declare it: events: {{{event}: {{payload: {{text: text}}}}}}"
    if root == "output":
        return "output is known in `learn` and `ai_state` only, and holds what the prompt declares"
    return "" if root != "option" else "option is known on edges only: option.key and option.kind"


def _type(draft: Draft, slot: Slot, expression: Expression) -> Iterator[Finding]:
    if _is_judged(slot):
        if expression.type != "bool":
            message = f"'{slot.key}' is a bool, and this gives {a(expression.type)}. Compare it with something"
            yield draft.at_value(slot.path, "E304", message)
        return
    if slot.role == "guard":
        if expression.type != "bool":
            message = f"a guard is a bool, and this gives {a(expression.type)}. Compare it with something"
            yield draft.at_value(slot.path, "E304", message)
        return
    if slot.variable is None:
        return
    wanted = VARIABLE_TYPES[draft.definition.context[slot.variable].type]
    if slot.key in {"at_least", "at_most"} and wanted not in {"int", "float"}:
        yield draft.at_key(
            slot.path, "E303", f"'{slot.key}' bounds numbers, and '{slot.variable}' is {a(wanted)}. Delete it"
        )
    elif wanted != expression.type:
        message = (
            f"'{slot.variable}' is {a(wanted)}, and this gives {a(expression.type)}{_type_mend(wanted, expression)}"
        )
        yield draft.at_value(slot.path, "E303", message)


def _type_mend(wanted: CelType, expression: Expression) -> str:
    if (wanted, expression.type) == ("float", "int"):
        return (
            f". Write {expression.source}.0"
            if expression.source.isdigit()
            else ". Write double( ) around it, or 1.0 for 1"
        )
    if (wanted, expression.type) == ("int", "float"):
        return ". Write int( ) around it"
    if wanted == "str" and expression.program is None:
        return f""". A text stands in quotes of its own, inside YAML's: '"{expression.source}"'"""
    if (wanted, expression.type) == ("set", "str"):
        return ". Write add(set, member) or [member]"
    return ". Let them agree"


def _unread_dice(draft: Draft, read: set[str]) -> Iterator[Finding]:
    told = any("dice" in file.prompt.inputs for file in draft.prompts if file.prompt)
    if told or any("dice." in text for file in draft.fragments for text in _say(file.document.value)):
        return
    seen: set[Path] = set()
    for edge in draft.edges:
        for name in edge.dice:
            path = _die_path(draft, edge, name)
            if _is_broken(edge.dice[name]):
                continue
            if f"dice.{name}" not in read and path not in seen:
                seen.add(path)
                yield draft.at_key(
                    path, "W201", f"the die '{name}' is rolled and nothing reads dice.{name}. Read it, or delete it"
                )


def _is_broken(die: str | LongDie) -> bool:
    return isinstance(die, LongDie) and (die.pick is None) == (die.roll is None)


def _say(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _say(each)
    elif isinstance(value, list):
        for each in value:
            yield from _say(each)


def _die_path(draft: Draft, edge: Edge, name: str) -> Path:
    for length in range(len(edge.path), -1, -1):
        path = (*edge.path[:length], "dice", name)
        if path in draft.document.places.keys:
            return path
    return edge.path


def _stuck(draft: Draft) -> Iterator[Finding]:
    """States that can be left only by guards on what is learned, where nothing else gives it a value."""
    for name, state in draft.definition.states.items():
        loose = [learned for learned, rule in state.learn.items() if _has_no_otherwise(rule)]
        own = [edge for edge in edges_in(draft, name) if edge.target != name and not edge.must]
        for learned in loose:
            if own and all(any(learned in words(guard) for guard in guards(edge)) for edge in own):
                message = (
                    f"every way out of '{name}' reads '{learned}', which a narration may not bring. Add `otherwise`"
                )
                yield draft.at_key(("states", name, "learn", learned), "W204", message)


def _has_no_otherwise(rule: object) -> bool:
    return not isinstance(getattr(rule, "otherwise", None), bool | int | float | str)
