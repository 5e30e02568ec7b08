"""A machine that was read and has its shape, and is not judged yet: what the rules of `check` look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct, UnsetType

from runtime.document import Document
from runtime.errors import Finding
from runtime.fragments import Fragments
from runtime.model import Definition, Edge, Expr, Learn, Path, State, Text, Variable
from runtime.prompt import Prompt
from runtime.rating import Pack

Role = Literal["guard", "assign", "learn", "ai_state", "property"]
LEARN_KEYS = {"from": "from_", "otherwise": "otherwise", "at_least": "at_least", "at_most": "at_most"}


class PromptFile(Struct, frozen=True):
    """A prompt's file: `language` is '' where it serves every language, `prompt` None where it has faults.

    `document` is its front matter.
    """

    name: str
    language: str
    document: Document
    prompt: Prompt | None


class FragmentFile(Struct, frozen=True):
    """An offline file: `fragments` has its groups without faults, None where there are none to read.

    `is_whole` is false where a group has faults.
    """

    language: str
    document: Document
    fragments: Fragments | None
    is_whole: bool = True


class PackFile(Struct, frozen=True):
    """A rating pack's file: `pack` has its terms without faults."""

    language: str
    document: Document
    pack: Pack


class Slot(Struct, frozen=True):
    """A place where an expression stands. `variable` is what it is assigned to, if anything.

    `edge` is the edge whose names it reads; None where it reads the machine's own only.
    """

    path: Path
    source: Expr
    role: Role
    edge: Edge | None = None
    variable: str | None = None
    key: str = ""


class Draft(Struct, frozen=True, kw_only=True):
    """A definition with its edges in file order, its prompts and fragments, and everything's places.

    `is_whole` is false where faulty parts were cut out: then what is unused, unreachable or missing
    can't be judged. `lost` are the last keys of the parts that were cut out.
    """

    document: Document
    definition: Definition
    edges: tuple[Edge, ...]
    prompts: tuple[PromptFile, ...] = ()
    fragments: tuple[FragmentFile, ...] = ()
    packs: tuple[PackFile, ...] = ()
    is_whole: bool = True

    @property
    def lost(self) -> frozenset[str]:
        """Names that stand in the file and are not in the definition, since their parts have faults."""
        return frozenset(str(path[-1]) for path in self.document.gone if path)

    def at_key(self, path: Path, code: str, message: str) -> Finding:
        """A finding at an entry's key, or at a list's item."""
        return Finding(self.document.file, *self.document.places.key(path), code, message)

    def at_value(self, path: Path, code: str, message: str) -> Finding:
        """A finding at an entry's value."""
        return Finding(self.document.file, *self.document.places.value(path), code, message)

    def inside(self, path: Path, col: int, code: str, message: str) -> Finding:
        """A finding at the `col`-th character (from 1) of an entry's value."""
        return Finding(self.document.file, *self.document.places.inside(path, col), code, message)

    def prompts_of(self, edge: Edge) -> tuple[Prompt, ...]:
        """Every variant of the prompt that tells an edge."""
        target = self.definition.states.get(edge.target)
        name = edge.prompt or (target.prompt if target else None)
        return tuple(file.prompt for file in self.prompts if file.name == name and file.prompt)

    def variants(self) -> Mapping[str, Mapping[str, Prompt]]:
        """Name → language → prompt, of the files without faults."""
        found: dict[str, dict[str, Prompt]] = {}
        for file in self.prompts:
            if file.prompt:
                found.setdefault(file.name, {})[file.language] = file.prompt
        return found


def option_path(edge: Edge) -> Path:
    """Where the option of an edge stands; for one under `on` its entry."""
    return edge.path[:4]


def own_path(draft: Draft, edge: Edge, key: str) -> Path:
    """Where a key of an edge stands: on the edge, else on its option."""
    own = (*edge.path, key)
    return own if own in draft.document.places.keys or not edge.option else (*option_path(edge), key)


def expressions(draft: Draft) -> Iterator[Slot]:
    """Every expression of a machine, each place once per edge that reads it."""
    seen: set[Path] = set()
    for edge in draft.edges:
        yield from _guards(edge, seen)
        for name, source in edge.assign.items():
            yield Slot((*own_path(draft, edge, "assign"), name), source, "assign", edge, name)
        yield from _learned(draft, edge)
    for state, written in draft.definition.states.items():
        for name, source in written.entry.items():
            yield Slot(("states", state, "entry", name), source, "assign", None, name)
    for name, source in draft.definition.ai_state.items():
        yield Slot(("ai_state", name), source, "ai_state", None, None, name)
    for name, written_property in draft.definition.properties.items():
        for key, source in written_property.expressions.items():
            yield Slot(("properties", name, key), source, "property", None, None, key)


def _guards(edge: Edge, seen: set[Path]) -> Iterator[Slot]:
    if edge.guard is not None:
        yield Slot((*edge.path, "guard"), edge.guard, "guard", edge)
    path = (*option_path(edge), "guard")
    if edge.option_guard is not None and path not in seen:
        seen.add(path)
        yield Slot(path, edge.option_guard, "guard", edge)


def _learned(draft: Draft, edge: Edge) -> Iterator[Slot]:
    rules: Mapping[str, Learn] = edge.learn or {}
    base = own_path(draft, edge, "learn")
    if edge.learn is None:
        state = draft.definition.states.get(edge.target)
        rules, base = (state.learn if state else {}), ("states", edge.target, "learn")
    for name, rule in rules.items():
        for key, attribute in LEARN_KEYS.items():
            source: Expr | UnsetType = getattr(rule, attribute)
            if not isinstance(source, UnsetType):
                yield Slot((*base, name, key), source, "learn", edge, name, key)


def texts(draft: Draft) -> Iterator[tuple[Path, str, Text]]:
    """Every text that a designer wrote for players: its place, its key, and itself."""
    definition = draft.definition
    yield ("title",), "title", definition.title
    named: tuple[tuple[str, Mapping[str, Variable] | Mapping[str, State]], ...] = (
        ("context", definition.context),
        ("states", definition.states),
    )
    for section, parts in named:
        for name, part in parts.items():
            if part.label is not None:
                yield (section, name, "label"), "label", part.label
    for name, state in definition.states.items():
        if state.ending:
            yield ("states", name, "ending", "title"), "title", state.ending.title
        for kind, text in state.kinds.items():
            yield ("states", name, "options", "kinds", kind), "kind", text
        for index, option in enumerate(state.authored):
            yield from _optional(("states", name, "options", index), text=option.text, short=option.short)
    yield from _edge_texts(draft)


def _edge_texts(draft: Draft) -> Iterator[tuple[Path, str, Text]]:
    seen: set[Path] = set()
    for edge in draft.edges:
        for key, text in (("tell", edge.tell), ("why", edge.why)):
            path = own_path(draft, edge, key)
            if text is not None and path not in seen:
                seen.add(path)
                yield path, key, text


def _optional(path: Path, **texts_by_key: Text | None) -> Iterator[tuple[Path, str, Text]]:
    for key, text in texts_by_key.items():
        if text is not None:
            yield (*path, key), key, text
