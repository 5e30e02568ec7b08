"""The rules about migrations: where sessions of another version would go, and with which values.

The other version's file is not at hand, so its names are taken as they are written. A key of
`states` may have the name of a state of this machine: then that name means another place now, and
a session that stands in the old one moves all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from runtime.check_names import all_of, same, unfit
from runtime.draft import Draft
from runtime.errors import Finding
from runtime.model import Migration, Path
from runtime.shape import did_you_mean


def migrations(draft: Draft) -> Iterator[Finding]:
    """Every fault of `migrations`."""
    yield from _versions(draft)
    for index, migration in enumerate(draft.definition.migrations):
        path: Path = ("migrations", index)
        yield from same(draft, [(name, (*path, "states", name)) for name in migration.states])
        for where, target in _targets(path, migration):
            yield from _target(draft, where, target)
        yield from _values(draft, path, migration)


def _versions(draft: Draft) -> Iterator[Finding]:
    """Each version once, and never the file's own: else a session would be moved again and again."""
    own, first = str(draft.definition.version), dict[str, Path]()
    for index, migration in enumerate(draft.definition.migrations):
        path: Path = ("migrations", index, "from")
        version = str(migration.from_)
        where = first.setdefault(version, path)
        if where != path:
            line, _ = draft.document.places.key(where)
            message = f"a second migration from version {version}; the first is in line {line}. Make them one"
            yield draft.at_value(path, "E218", message)
        elif version == own and ("version",) not in draft.document.gone:
            message = f"this file itself is version {version}, so nothing could tell its sessions from the old ones"
            yield draft.at_value(path, "E219", f"{message}. Give the file a new `version`")


def _targets(path: Path, migration: Migration) -> Iterator[tuple[Path, str]]:
    for name, target in migration.states.items():
        yield (*path, "states", name), target
    if migration.fallback is not None:
        yield (*path, "fallback"), migration.fallback


def _target(draft: Draft, path: Path, target: str) -> Iterator[Finding]:
    states = draft.definition.states
    if target in states:
        if states[target].is_final:
            message = f"'{target}' is final: a session would end there, and nobody would tell the ending"
            yield draft.at_value(path, "E220", f"{message}. Lead to a state that has an edge to it")
    elif target not in draft.lost:
        message = f"no state '{target}'{did_you_mean(target, states, all_of('States are', states))}"
        yield draft.at_value(path, "E103", message)


def _values(draft: Draft, path: Path, migration: Migration) -> Iterator[Finding]:
    context = draft.definition.context
    for name, value in migration.context.items():
        where = (*path, "context", name)
        if name not in context:
            if name not in draft.lost:
                mend = did_you_mean(name, context, all_of("Variables are", context))
                yield draft.at_key(where, "E306", f"no variable '{name}'{mend}")
        elif problem := unfit(value, context[name], "value"):
            yield draft.at_value(where, "E124", problem)
