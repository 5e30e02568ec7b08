"""The rules about the graph: what can be reached, left, taken and ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runtime.draft import Draft, option_path
from runtime.errors import Finding
from runtime.expression import tokens
from runtime.model import ROOT, Edge, Expr, FreeOptions, Path

UNKNOWN_BEFORE = ("payload", "dice", "option")
"""What isn't known before an event comes: a `must` guard can't read it."""
LIMIT_NAMES = {"turns": "turns_left", "seconds": "time.remaining_seconds"}


def graph(draft: Draft) -> Iterator[Finding]:
    """Every fault of the graph; judged on whole drafts only."""
    yield from _finals(draft)
    if all(edge.target in draft.definition.states for edge in draft.edges):
        yield from _reached(draft)
        yield from _ending(draft)
    yield from _never_taken(draft)
    yield from _limits(draft)
    yield from _musts(draft)
    yield from _checkpoints(draft)
    yield from _choices(draft)
    yield from _silent(draft)
    yield from _inferred(draft)
    yield from _used_up(draft)


def words(source: Expr | None) -> frozenset[str]:
    """Every name of an expression, and the first part of each."""
    if not isinstance(source, str):
        return frozenset()
    found = [token.text for token in tokens(source) if token.kind == "name"]
    return frozenset(found) | {name.partition(".")[0] for name in found}


def guards(edge: Edge) -> tuple[Expr, ...]:
    """An edge's own guard and its option's."""
    return tuple(guard for guard in (edge.option_guard, edge.guard) if guard is not None)


def is_false(guard: Expr | None) -> bool:
    """Whether a guard is written as false."""
    return guard is False or (isinstance(guard, str) and guard.strip() == "false")


def is_true(guard: Expr | None) -> bool:
    """Whether a guard holds always: there is none, or it is written as true."""
    return guard is None or guard is True or (isinstance(guard, str) and guard.strip() == "true")


def edges_in(draft: Draft, state: str) -> list[Edge]:
    """The edges of a state as they are tried: root edges, then its own."""
    if draft.definition.states[state].is_final:
        return []
    return [
        *(edge for edge in draft.edges if edge.source == ROOT),
        *(edge for edge in draft.edges if edge.source == state),
    ]


def _finals(draft: Draft) -> Iterator[Finding]:
    states = draft.definition.states
    if not any(state.is_final for state in states.values()):
        yield draft.at_key(("states",), "E201", "no state is final, so no story ends. Give one `type: final`")
    for name, state in states.items():
        path: Path = ("states", name)
        if state.is_final and (state.on or state.options):
            key = "on" if state.on else "options"
            message = f"'{name}' is final, and nothing happens after it. Delete its `{key}`, or its `type: final`"
            yield draft.at_key((*path, key), "E205", message)
        if not state.is_final and state.ending:
            yield draft.at_key((*path, "ending"), "E212", f"'{name}' has an ending and is not final. Add `type: final`")


def _closure(start: Iterable[str], steps: dict[str, set[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        for state in steps.get(waiting.pop(), set()) - found:
            found.add(state)
            waiting.append(state)
    return found


def _steps(draft: Draft) -> dict[str, set[str]]:
    states = draft.definition.states
    return {name: {edge.target for edge in edges_in(draft, name) if edge.target in states} for name in states}


def _reached(draft: Draft) -> Iterator[Finding]:
    states = draft.definition.states
    moved = (target for each in draft.definition.migrations for target in (*each.states.values(), each.fallback))
    starts = [draft.definition.first.target, *(target for target in moved if target in states)]
    reached = _closure(starts, _steps(draft))
    for name in states:
        if name not in reached:
            yield draft.at_key(
                ("states", name), "E202", f"no edge leads to '{name}'. Lead one there, or delete the state"
            )


def _ending(draft: Draft) -> Iterator[Finding]:
    states = draft.definition.states
    finals = [name for name, state in states.items() if state.is_final]
    back: dict[str, set[str]] = {name: set() for name in states}
    for name, targets in _steps(draft).items():
        for target in targets:
            back[target].add(name)
    ended = _closure(finals, back)
    for name in states if finals else ():
        if name in ended:
            continue
        empty = not edges_in(draft, name)
        message = (
            f"'{name}' has no edges, so the story stops there" if empty else f"no path leads from '{name}' to an end"
        )
        yield draft.at_key(("states", name), "E203", f"{message}. Lead an edge on, or make it `type: final`")


def _never_taken(draft: Draft) -> Iterator[Finding]:
    reported: set[Path] = set()
    for state in draft.definition.states:
        for edge, message in _shadowed(draft, edges_in(draft, state)):
            path = option_path(edge) if is_false(edge.option_guard) else edge.path
            if path not in reported and (edge.source == state or is_false(edge.guard)):
                reported.add(path)
                yield draft.at_key(path, "E204", message)


def _shadowed(draft: Draft, edges: list[Edge]) -> Iterator[tuple[Edge, str]]:
    must = next((edge for edge in edges if edge.must and not edge.once and all(map(is_true, guards(edge)))), None)
    first: dict[tuple[str, str], Edge] = {}
    for edge in edges:
        if is_false(edge.guard) or is_false(edge.option_guard):
            yield edge, f"'{edge.full_name}' is never taken: its guard is false. Mend the guard, or delete the edge"
            continue
        if must is not None and edge.event != must.event:
            where = _line(draft, must)
            yield edge, f"'{edge.full_name}' is never taken: the must edge in {where} is always open. Give that a guard"
            continue
        before = first.get((edge.event, "")) or first.get((edge.event, edge.option))
        if before is not None:
            yield (
                edge,
                f"'{edge.full_name}' is never taken: the edge in {_line(draft, before)} is always open. Swap them",
            )
        elif not edge.once and all(map(is_true, guards(edge))):
            first[edge.event, edge.option] = edge


def _line(draft: Draft, edge: Edge) -> str:
    return f"line {draft.document.places.key(edge.path)[0]}"


def _limits(draft: Draft) -> Iterator[Finding]:
    definition = draft.definition
    read = [
        words(edge.guard) for edge in draft.edges if edge.source == ROOT and edge.must and _is_final(draft, edge.target)
    ]
    for key, name in LIMIT_NAMES.items():
        if getattr(definition.limits, key) is not None and not any(name in each for each in read):
            example = f'{{guard: "{name} <= 0", target: …, must: true}}'
            missing = f"no root must edge to a final state reads {name}"
            message = f"limits.{key} ends nothing: {missing}. Add one under `on`: {example}"
            yield draft.at_key(("limits", key), "E206", message)


def _is_final(draft: Draft, name: str) -> bool:
    return name in draft.definition.states and draft.definition.states[name].is_final


def _musts(draft: Draft) -> Iterator[Finding]:
    for edge in draft.edges:
        if not edge.must or edge.option:
            continue
        unknown = [name for name in UNKNOWN_BEFORE if name in words(edge.guard)]
        if unknown:
            message = (
                f"a must guard can't read {unknown[0]}, which isn't known before the event comes. Read the context"
            )
            yield draft.at_value((*edge.path, "guard"), "E207", message)


def _checkpoints(draft: Draft) -> Iterator[Finding]:
    definition = draft.definition
    marked = [name for name, state in definition.states.items() if state.checkpoint]
    if definition.history.rewind == "checkpoint" and not marked:
        message = "rewind leads to checkpoints, and no state is one. Give a state `checkpoint: true`"
        yield draft.at_value(("history", "rewind"), "W202", message)
    if definition.history.rewind != "checkpoint":
        for name in marked:
            message = "a checkpoint counts with `history: {rewind: checkpoint}` only. Add that, or delete it"
            yield draft.at_key(("states", name, "checkpoint"), "W202", message)


def _choices(draft: Draft) -> Iterator[Finding]:
    for name, state in draft.definition.states.items():
        path: Path = ("states", name, "options")
        if isinstance(state.options, FreeOptions):
            yield from _free_choice(draft, name, state.options, path)
        elif len(state.authored) > 1 and not _differ(
            [edge for edge in draft.edges if edge.source == name and edge.option]
        ):
            message = (
                f"the {len(state.authored)} options of '{name}' all do the same. Let them differ in target or assign"
            )
            yield draft.at_key(path, "W203", message)


def _differ(edges: list[Edge]) -> bool:
    first = edges[0] if edges else None
    return any(
        (edge.target, edge.event) != (first.target, first.event) or edge.assign or edge.dice or edge.once or edge.learn
        for edge in edges
        if first
    )


def _silent(draft: Draft) -> Iterator[Finding]:
    for name in draft.definition.states:
        edges = edges_in(draft, name)
        own = [edge for edge in edges if not (edge.source == ROOT and edge.must)]
        if own and not any(edge.suggest for edge in own):
            message = f"every edge of '{name}' says suggest: false, so nothing is proposed there. Let one be proposed"
            yield draft.at_key(("states", name), "W205", message)


def _free_choice(draft: Draft, name: str, free: FreeOptions, path: Path) -> Iterator[Finding]:
    edges = [edge for edge in edges_in(draft, name) if edge.event == free.event]
    if not edges:
        message = f"'{name}' has no edge for '{free.event}', so no choice can be played. Add one under `on`"
        yield draft.at_value((*path, "event"), "E215", message)
    elif not any("option" in words(source) for edge in edges for source in (edge.guard, *edge.assign.values())):
        mend = "Read option.kind in a guard or assign"
        message = f"several options are offered in '{name}' and nothing reads the choice. {mend}"
        yield draft.at_key(path, "W203", message)


def _inferred(draft: Draft) -> Iterator[Finding]:
    """Options whose edges lead on to several states while their event has the name of the first; staying is none."""
    for name, state in draft.definition.states.items():
        for index, option in enumerate(state.authored):
            targets = list(dict.fromkeys(part.target for part in option.edges))
            if len(set(targets) - {name}) > 1 and option.event is None:
                message = (
                    f"the option '{option.key}' leads to {', '.join(targets)}, and sends the event '{targets[0]}', "
                    f"after its first edge. Say which event it sends: `event: {targets[0]}`, or one of your own"
                )
                yield draft.at_key(("states", name, "options", index), "W206", message)


def _used_up(draft: Draft) -> Iterator[Finding]:
    """States that a player who comes back to can't leave: every way on is `once`, and leads back there."""
    steps = _steps(draft)
    for name in draft.definition.states:
        onward = [edge for edge in edges_in(draft, name) if edge.target != name and not edge.must]
        if onward and all(edge.once and name in _closure([edge.target], steps) for edge in onward):
            message = f"every way on from '{name}' is once, and '{name}' can be reached again: then nothing leads on"
            yield draft.at_key(("states", name), "W207", f"{message}. Let one way stay open")
