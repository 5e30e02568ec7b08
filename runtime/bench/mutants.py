"""A machine with one small fault in it, for each fault that a hand could make: what replays should notice.

A mutant is made of the machine's own value, as its file was read, so that each change has the
place where it was written. Prose is never changed: replays of the rules don't read it. What a
change alters is only what the rules do there, so a play that never comes there can't tell the two
apart: `Touch` says which plays can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Struct

from runtime import loader
from runtime.bench import shifting
from runtime.check_expressions import misfits
from runtime.check_graph import graph
from runtime.draft import LEARN_KEYS, Draft, Slot, expressions
from runtime.errors import Finding
from runtime.expression import ExpressionError
from runtime.machine import Machine
from runtime.model import INITIAL, ROOT, Edge, Expr, FreeOptions, Learn, Path

KINDS: Mapping[str, str] = {
    "edge dropped": "The edge isn't there.",
    "option dropped": "The option isn't there, nor any of its edges.",
    "kind dropped": "A kind of free option isn't there.",
    "guard negated": "The guard holds where it didn't, and the reverse.",
    "guard loosened": "The guard always holds.",
    "comparison": "`>=` and `>`, `<=` and `<`, `==` and `!=` stand for each other.",
    "join": "`&&` and `||` stand for each other.",
    "number": "A number is one more, or one less.",
    "member": "A member of an enum or set gives way to the next one.",
    "value flipped": "true and false stand for each other.",
    "targets swapped": "Two neighbouring edges of an event lead where the other led.",
    "retargeted": "The edge leads to the next state of the file.",
    "edges reordered": "Two neighbouring edges of an event are tried in the other order.",
    "assign dropped": "A line of an assign isn't there.",
    "entry dropped": "A line of an entry isn't there.",
    "learn dropped": "A line of a learn isn't there.",
    "die": "A die has a side less, or one more on top; a chance is 0% or 100%; a pick lacks one of its own.",
    "must dropped": "The edge forces no event.",
    "once dropped": "The edge or option can be taken again.",
}
"""Every kind of change, with one sentence each."""
_TAKING: Mapping[str, tuple[str, ...]] = {
    "die": ("dice.",), "option dropped": ("option.", "dice."), "kind dropped": ("option.",)
}  # fmt: skip
"""Kinds after which an expression may meet a member, a die or a key that isn't there, and by which names."""
GONE = msgspec.UNSET
"""The value of an edit that takes a part out."""


class Edit(Struct, frozen=True):
    """One part of the file's value that becomes another, or is GONE."""

    path: Path
    value: Any = GONE


class Touch(Struct, frozen=True):
    """Which plays can tell: those that stand in one of `states`, or take one of `edges`."""

    states: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()


class Mutant(Struct, frozen=True, kw_only=True):
    """One change. `what` is the part's name: an edge's or an option's in full, or a state.

    `key` is the key that was changed, with `before` and `after` as they would be written there;
    '' where the whole part is gone, or stands elsewhere.
    """

    kind: str
    file: str
    line: int
    col: int
    what: str
    key: str = ""
    before: str = ""
    after: str = ""
    edits: tuple[Edit, ...]
    touch: Touch

    @property
    def place(self) -> str:
        """`file:line:col`, as `check` prints places."""
        return f"{self.file}:{self.line}:{self.col}"

    @property
    def diff(self) -> str:
        """The change on one line: `guard: hp > 0 → hp >= 0`."""
        if not self.key:
            return self.kind
        gone = "(gone)" if not self.after else self.after
        return f"{self.key}: {self.before} → {gone}"


def mutants(draft: Draft) -> tuple[Mutant, ...]:
    """Every mutant of a machine, in file order; each differs from the machine and from the others."""
    made = _Maker(draft)
    found: dict[str, Mutant] = {}
    for mutant in (*made.of_edges(), *made.of_lists(), *made.of_options(), *made.of_states()):
        found.setdefault(repr(mutant.edits), mutant)
    return tuple(sorted(found.values(), key=lambda each: (each.line, each.col)))


def mutated(
    draft: Draft, files: Mapping[str, str], mutant: Mutant, machine: Machine | None = None
) -> Machine | Finding:
    """The machine with a mutant's fault; the finding, where the check sees it.

    What the fault leaves as it was is taken over from the `machine` itself, where it is given. Only what
    rules are is judged again: an offline text that names an edge which is gone is no
    reason to let the edge go untested.
    """
    value = draft.document.value
    for edit in sorted(mutant.edits, key=lambda edit: edit.value is GONE):
        value = _edited(value, edit.path, edit.value)
    try:
        changed = loader.rewritten(draft, value)
        fault = next((each for each in _judged(changed, mutant) if each.is_fault), None)
        return loader.built(changed, files, machine) if fault is None else fault
    except (ExpressionError, msgspec.ValidationError) as error:
        return Finding(mutant.file, mutant.line, mutant.col, "E105", str(error))


def _judged(changed: Draft, mutant: Mutant) -> Iterator[Finding]:
    yield from graph(changed)
    # The other expressions have the types and members that they had; judging them is what takes long.
    yield from misfits(changed, (slot for slot in expressions(changed) if _may_misfit(slot, mutant)))


def _may_misfit(slot: Slot, mutant: Mutant) -> bool:
    """Whether an expression may read what a change took away, or be no expression any more itself."""
    if mutant.kind in _TAKING:
        return isinstance(slot.source, str) and any(prefix in slot.source for prefix in _TAKING[mutant.kind])
    is_own = any(slot.path[: len(edit.path)] == edit.path for edit in mutant.edits)
    return is_own and (mutant.kind == "member" or "/" in mutant.after or "%" in mutant.after)


def _edited(value: Any, path: Path, new: Any) -> Any:
    """A copy of a nested value with one part replaced; what isn't on the way there is shared."""
    at, *rest = path
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    if rest:
        copy[at] = _edited(value[at], tuple(rest), new)
    elif new is GONE:
        del copy[at]
    else:
        copy[at] = new
    return copy


def valued(value: Any, path: Path) -> Any:
    """What stands at a path. Raises LookupError where nothing does."""
    for step in path:
        value = value[step]
    return value


class _Maker:
    """Makes mutants of one draft."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._value = draft.document.value
        self._edges = draft.edges
        definition = draft.definition
        self._states = list(definition.states)
        self._members = {name: variable.of for name, variable in definition.context.items() if variable.of}
        self._live = frozenset(name for name, state in definition.states.items() if not state.is_final)

    def of_edges(self) -> Iterator[Mutant]:
        """The edge gone, its guard, its target, its assigns and its flags changed."""
        for edge in self._edges:
            if edge.name != INITIAL or edge.source:
                yield from self._dropped(edge)
                yield from self._retargeted(edge)
            yield from self._guarded(edge)
            yield from self._flagged(edge)
            path = self._own(edge, "assign")
            yield from self._lines("assign", edge.full_name, path, edge.assign, Touch(edges=self._takers(path)))

    def of_lists(self) -> Iterator[Mutant]:
        """Neighbouring edges of one event, in the other order and with each other's targets."""
        for first, second in pairwise(self._edges):
            if first.path[:-1] != second.path[:-1] or not isinstance(first.path[-1], int):
                continue
            if first.option != second.option or "options" in first.path[-2:-1]:
                continue
            parts = [valued(self._value, edge.path) for edge in (first, second)]
            names = f"{first.full_name}, {second.name}"
            keep = self._keep_event(first)
            if parts[0] != parts[1]:
                edits = (Edit(first.path, parts[1]), Edit(second.path, parts[0]), *keep)
                yield self._mutant("edges reordered", first.path, names, edits, self._around(first))
            if first.target != second.target:
                paths = [(*edge.path, "target") for edge in (first, second)]
                edits = (Edit(paths[0], second.target), Edit(paths[1], first.target), *keep)
                yield self._mutant(
                    "targets swapped", paths[0], names, edits, self._around(first),
                    ("target", first.target, second.target),
                )  # fmt: skip

    def of_options(self) -> Iterator[Mutant]:
        """Options gone, their dice and those of `on` changed, and what they count."""
        for state, written in self._draft.definition.states.items():
            touch = Touch(frozenset({state}))
            if isinstance(written.options, FreeOptions):
                for kind in written.options.kinds:
                    path: Path = ("states", state, "options", "kinds", kind)
                    yield self._mutant("kind dropped", path, f"{state} kind {kind}", (Edit(path),), touch)
            for index, option in enumerate(written.authored):
                path = ("states", state, "options", index)
                name = f"{state}.{option.key}"
                yield self._mutant("option dropped", path, name, (self._without_option(path),), touch)
                if option.once:
                    yield self._flag("once", path, name, touch)
                if option.edges and option.guard is not None:
                    yield from self._guard((*path, "guard"), name, option.guard, touch, ())
        yield from self._dice()

    def of_states(self) -> Iterator[Mutant]:
        """Lines of `entry` and `learn`."""
        for state, written in self._draft.definition.states.items():
            into = frozenset(edge.full_name for edge in self._edges if edge.target == state)
            path: Path = ("states", state, "entry")
            touch = Touch(frozenset({state}), into)
            yield from self._lines("entry", state, path, written.entry, touch)
            yield from self._learned(state, (*path[:-1], "learn"), written.learn, touch)
        for edge in self._edges:
            path = self._own(edge, "learn")
            yield from self._learned(edge.full_name, path, edge.learn or {}, Touch(edges=self._takers(path)))

    # One edge.

    def _dropped(self, edge: Edge) -> Iterator[Mutant]:
        if edge.option and len(self._siblings(edge)) == 1:
            return  # that is the option's drop
        path = edge.path
        if isinstance(path[-1], int) and len(self._siblings(edge)) == 1:
            path = path[: path.index("on") + 2]
        edits = (Edit(path), *self._keep_event(edge))
        yield self._mutant("edge dropped", edge.path, edge.full_name, edits, self._around(edge))

    def _siblings(self, edge: Edge) -> list[Edge]:
        """The edges that stand in one list with an edge, itself too."""
        if edge.path[-2] == "options":
            return [edge]
        return [other for other in self._edges if other.path[:-1] == edge.path[:-1] and other.event == edge.event]

    def _retargeted(self, edge: Edge) -> Iterator[Mutant]:
        if len(self._states) == 1:
            return
        other = self._states[(self._states.index(edge.target) + 1) % len(self._states)]
        is_short = isinstance(valued(self._value, edge.path), str)
        path = edge.path if is_short else (*edge.path, "target")
        edits = (Edit(path, other), *self._keep_event(edge))
        touch = self._around(edge)
        yield self._mutant("retargeted", path, edge.full_name, edits, touch, ("target", edge.target, other))

    def _keep_event(self, edge: Edge) -> tuple[Edit, ...]:
        """An option's event is the name of its first target: it stays what it was."""
        if not edge.option or "event" in valued(self._value, _option(edge)):
            return ()
        return (Edit((*_option(edge), "event"), edge.event),)

    def _guarded(self, edge: Edge) -> Iterator[Mutant]:
        guard, path = edge.guard, (*edge.path, "guard")
        if guard is None and edge.option and not self._has_edges(edge):
            guard, path = edge.option_guard, (*_option(edge), "guard")
        if guard is not None:
            yield from self._guard(path, edge.full_name, guard, self._around(edge), ())

    def _has_edges(self, edge: Edge) -> bool:
        return "edges" in edge.path

    def _guard(self, path: Path, what: str, guard: Expr, touch: Touch, keep: tuple[Edit, ...]) -> Iterator[Mutant]:
        for kind, after in shifting.of_guard(guard, self._members):
            yield self._mutant(kind, path, what, (Edit(path, after), *keep), touch, ("guard", guard, after))

    def _flagged(self, edge: Edge) -> Iterator[Mutant]:
        touch = self._around(edge)
        written = valued(self._value, edge.path) if edge.source else {}
        if edge.must:
            yield self._flag("must", edge.path, edge.full_name, touch)
        if isinstance(written, dict) and written.get("once") is True and "key" not in written:
            yield self._flag("once", edge.path, edge.full_name, touch)

    def _flag(self, key: str, path: Path, what: str, touch: Touch) -> Mutant:
        here = (*path, key)
        return self._mutant(f"{key} dropped", here, what, (Edit(here),), touch, (key, True, ""))

    # Lines.

    def _lines(self, key: str, what: str, path: Path, lines: Mapping[str, Expr], touch: Touch) -> Iterator[Mutant]:
        for name, source in lines.items():
            here = (*path, name)
            yield self._mutant(f"{key} dropped", here, what, (Edit(here),), touch, (name, source, ""))
            for kind, after in shifting.of_expression(source, self._members, name):
                if not self._is_clamped(name, source, after):
                    yield self._mutant(kind, here, what, (Edit(here, after),), touch, (name, source, after))

    def _is_clamped(self, name: str, before: Expr, after: Expr) -> bool:
        """Whether a number is held to what it was by its variable's range: nothing would be changed."""
        variable = self._draft.definition.context[name]
        if isinstance(after, bool | str) or isinstance(before, bool | str):
            return False
        if after > before:
            return variable.max is not None and before >= variable.max
        return variable.min is not None and before <= variable.min

    def _learned(self, what: str, path: Path, rules: Mapping[str, Learn], touch: Touch) -> Iterator[Mutant]:
        for name, rule in rules.items():
            here = (*path, name)
            yield self._mutant("learn dropped", here, what, (Edit(here),), touch, (name, f"from {rule.from_}", ""))
            for key in ("otherwise", "at_least", "at_most"):
                source = getattr(rule, LEARN_KEYS[key])
                if isinstance(source, bool | int | float | str):
                    for kind, after in shifting.of_expression(source, self._members, name):
                        line = (*here, key)
                        edits = (Edit(line, after),)
                        yield self._mutant(kind, line, what, edits, touch, (f"{name}.{key}", source, after))

    def _dice(self) -> Iterator[Mutant]:
        """Each die once, wherever it stands."""
        seen: set[Path] = set()
        for edge in self._edges:
            path = self._dice_path(edge)
            if not edge.dice or path in seen:
                continue
            seen.add(path)
            touch = self._around(edge) if edge.source else Touch(edges=frozenset({INITIAL}))
            what = edge.full_name if not edge.option else f"{edge.source}.{edge.option}"
            for name, die in edge.dice.items():
                for told, after in shifting.of_die(die):
                    written: Any = msgspec.to_builtins(after)
                    key = ("dice", name, f"without {told}") if isinstance(written, dict) and "pick" in written else None
                    shown = (f"dice.{name}", _told_die(die), told) if key is None else (f"dice.{name}", told, "")
                    here = (*path, name)
                    yield self._mutant("die", here, what, (Edit(here, written),), touch, shown)

    def _dice_path(self, edge: Edge) -> Path:
        if not edge.source:
            return ("initial", "dice")
        if edge.option:
            return (*_option(edge), "dice")
        return (*edge.path[: edge.path.index("on") + 2], "dice")

    # What is touched.

    def _around(self, edge: Edge) -> Touch:
        """Plays that stand where an edge is tried: routing judges it there as well."""
        return Touch(self._live if edge.source == ROOT else frozenset({edge.source}), frozenset({edge.full_name}))

    def _takers(self, path: Path) -> frozenset[str]:
        """The edges whose part stands at a path: an option's own assign may be that of each of its edges."""
        return frozenset(edge.full_name for edge in self._edges if self._own(edge, str(path[-1])) == path)

    def _own(self, edge: Edge, key: str) -> Path:
        """Where a key of an edge stands: on the edge, else on its option."""
        is_short = isinstance(valued(self._value, edge.path), str)
        if is_short or not edge.option or key in valued(self._value, edge.path):
            return (*edge.path, key)
        return (*_option(edge), key)

    def _without_option(self, path: Path) -> Edit:
        siblings: Sequence[Any] = valued(self._value, path[:-1])
        return Edit(path if len(siblings) > 1 else path[:-1])

    def _mutant(
        self, kind: str, path: Path, what: str, edits: Iterable[Edit], touch: Touch,
        change: tuple[str, Any, Any] | None = None,
    ) -> Mutant:  # fmt: skip
        line, col = self._draft.document.places.key(path)
        key, before, after = change or ("", "", "")
        return Mutant(
            kind=kind,
            file=self._draft.document.file,
            line=line,
            col=col,
            what=what,
            key=key,
            before=written(before),
            after=written(after),
            edits=tuple(edits),
            touch=touch,
        )


def _option(edge: Edge) -> Path:
    """Where the option of an edge stands."""
    return edge.path[: edge.path.index("options") + 2]


def written(value: Any) -> str:
    """A value on one line as YAML has it, but for quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(str(value).split())


def _told_die(die: Any) -> str:
    return die if isinstance(die, str) else str(die.roll)
