"""The rules about properties: one thing asked of a play each, in names that nothing hides."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.cuts import in_quotes
from runtime.draft import Draft
from runtime.errors import Finding
from runtime.expression import EvaluationError, Expression, ExpressionError, Names, activation, evaluate
from runtime.machine import members_of, property_names
from runtime.model import Path, Property

JUDGED = ("state", "ended")
"""Names that only properties read: what a session holds beside its variables."""


def properties(draft: Draft) -> Iterator[Finding]:
    """Every fault of `properties`, beside those of their expressions."""
    if draft.definition.properties:
        yield from _hidden(draft)
    names = Names(property_names(draft.definition))
    for name, written in draft.definition.properties.items():
        path: Path = ("properties", name)
        yield from _one_rule(draft, path, written)
        yield from _bounds(draft, path, written)
        yield from _constant(draft, path, written, names)


def _hidden(draft: Draft) -> Iterator[Finding]:
    """Variables and members that have a name of the properties' own; without properties they may."""
    for name, variable in draft.definition.context.items():
        for word, path in ((name, ("context", name)), *_members(name, variable.of or ())):
            if word in JUDGED:
                message = f"'{word}' is what properties read of the session, so nothing else may have it"
                yield draft.at_key(path, "E111", f"{message} beside them. Choose another name")


def _members(name: str, members: list[str] | tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for index, member in enumerate(members):
        yield member, ("context", name, "of", index)


def _one_rule(draft: Draft, path: Path, written: Property) -> Iterator[Finding]:
    said = list(written.rules)
    if not said and not any(gone[:2] == path for gone in draft.document.gone):
        message = f"'{path[-1]}' asks nothing. Write one of never, always and eventually"
        yield draft.at_key(path, "E221", message)
    for other in said[1:]:
        message = f"'{path[-1]}' says {said[0]} already, and a property asks one thing. Make two of it"
        yield draft.at_key((*path, other), "E221", message)


def _bounds(draft: Draft, path: Path, written: Property) -> Iterator[Finding]:
    if written.eventually is not None:
        if written.within is None and (*path, "within") not in draft.document.gone:
            message = f"'{path[-1]}' doesn't say by when. Add how many turns it has: within: 10"
            yield draft.at_key((*path, "eventually"), "E222", message)
        return
    for key in ("within", "when"):
        if getattr(written, key) is not None and written.rules:
            rule = next(iter(written.rules))
            mend = "Delete it" if key == "within" else f"Write {rule}: {_under(written, rule)}"
            message = f"'{key}' goes with eventually, and this says {rule}. {mend}"
            yield draft.at_key((*path, key), "E222", message)


def _under(written: Property, rule: str) -> str:
    """The expression of a `never` or an `always` with its `when` inside."""
    what, when = written.expressions[rule], written.when
    return in_quotes(f"({when}) && ({what})" if rule == "never" else f"!({when}) || ({what})")


def _constant(draft: Draft, path: Path, written: Property, names: Names) -> Iterator[Finding]:
    for key, source in written.expressions.items():
        try:
            expression = names.compile(source)
        except ExpressionError:
            continue  # told with the other expressions
        value = _value(draft, expression)
        if value is not None:
            message = f"'{key}' reads nothing that changes, so it is {str(value).lower()} after every turn"
            yield draft.at_value((*path, key), "W208", f"{message}. Read a variable, or the state")


def _value(draft: Draft, expression: Expression) -> bool | None:
    """What an expression always gives, None where that depends, or where it is no bool or has no value."""
    members = members_of(draft.definition)
    if expression.type != "bool" or not set(expression.names) <= set(members):
        return None
    try:
        return bool(evaluate(expression, activation(members)))
    except EvaluationError:
        return None
