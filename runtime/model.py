"""The machine as a designer wrote it: one frozen Struct per part of the language.

`machines/machine.schema.json` is generated from `Definition`; the loader checks a file against
it and converts. Short forms (`DECISION: DECISION`) are kept as written here: `edges_of` spells
them out as `Edge`s, the one form that the rules know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*$"
LANGUAGE_PATTERN = r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})?$"
DICE_PATTERN = r"^([1-9][0-9]?d[1-9][0-9]{0,3}([+-][0-9]{1,4})?|(100|[1-9]?[0-9])%)$"
PAYLOAD_PATTERN = r"^(int|float|bool|str|text)\??$"

Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=64)]
Language = Annotated[str, Meta(pattern=LANGUAGE_PATTERN)]
Text = str | dict[Language, str]
"""One text for every language, or one per language."""
Expr = bool | int | float | str
"""A CEL expression; YAML numbers and bools are literals."""
Chars = Annotated[int, Meta(ge=2, le=20_000)]

UNLIMITED = 2_147_483_647
"""What `turns_left` and `remaining_seconds` read where there is no limit."""
ROOT = "*"
"""The source of root edges in their full names."""
INITIAL = "initial"
"""The full name of the initial edge."""
CONTINUE = "continue"
"""The key of the one option where there is nothing to choose."""
DEFAULT_CHARS = {"scene": {"zh": 220}, "option": {"zh": 14}}
DEFAULT_CHARS_ELSEWHERE = {"scene": 600, "option": 40}
"""Limits in code points where a machine sets none, by language."""
MEMORY_TOKENS = 2_000
"""What the recent turns may take of a prompt where a machine doesn't say: eleven scenes, or fourteen in Chinese."""
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""The range of an int, as CEL has it."""
TEXT_MAX_CHARS = 500
"""The longest `text` or `str` of a payload, in code points."""


class Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the written language: unknown keys are faults."""


class LongDie(Part, frozen=True, kw_only=True):
    """A die in its long form: one of `pick` (a few strings) or `roll` (`1d20`), perhaps secret."""

    pick: Annotated[list[str], Meta(min_length=1, max_length=200)] | None = None
    roll: Annotated[str, Meta(pattern=DICE_PATTERN)] | None = None
    secret: bool = False


Die = Annotated[str, Meta(pattern=DICE_PATTERN)] | LongDie
Dice = dict[Name, Die]


class Learn(Part, frozen=True, kw_only=True):
    """How one variable takes a value from the narration, within bounds."""

    from_: Expr = field(name="from")
    otherwise: Expr | UnsetType = UNSET
    at_least: Expr | UnsetType = UNSET
    at_most: Expr | UnsetType = UNSET


class Limits(Part, frozen=True, kw_only=True):
    """How long a session may last, how long its texts may be (code points, per language), what prompts remember."""

    turns: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    seconds: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    scene_chars: Chars | dict[Language, Chars] | None = None
    option_chars: Chars | dict[Language, Chars] | None = None
    memory_tokens: Annotated[int, Meta(ge=50, le=100_000)] | None = None


class Variable(Part, frozen=True, kw_only=True):
    """A typed variable of the context, the only facts that a machine knows."""

    type: Literal["int", "float", "bool", "str", "enum", "set"]
    default: bool | int | float | str | list[str] | UnsetType = UNSET
    min: int | float | None = None
    max: int | float | None = None
    of: list[Name] | None = None
    label: Text | None = None
    show: bool = False
    secret: bool = False


class Event(Part, frozen=True, kw_only=True):
    """What a client may send: its payload's fields and the role that may send it."""

    payload: dict[Name, Annotated[str, Meta(pattern=PAYLOAD_PATTERN)]] = {}
    role: Literal["player", "operator"] = "player"


_UNDECLARED = Event()


class EdgePart(Part, frozen=True, kw_only=True):
    """One edge as written under `on` or in an option's `edges`."""

    target: Name
    name: Name | None = None
    guard: Expr | None = None
    assign: dict[Name, Expr] = {}
    tell: Text | None = None
    why: Text | None = None
    must: bool = False
    suggest: bool = True
    once: bool = False
    prompt: Name | None = None
    learn: dict[Name, Learn] | None = None


class Entry(Part, frozen=True, kw_only=True):
    """The form of an `on` entry that rolls dice before its guards."""

    dice: Dice = {}
    edges: list[EdgePart]


OnEntry = Name | list[EdgePart] | Entry


class Option(Part, frozen=True, kw_only=True):
    """An authored choice with its consequences: short for edges guarded by `option.key`."""

    key: Name
    text: Text
    short: Text | None = None
    event: Name | None = None
    guard: Expr | None = None
    why: Text | None = None
    once: bool = False
    suggest: bool = True
    must: bool = False
    dice: Dice = {}
    name: Name | None = None
    target: Name | None = None
    assign: dict[Name, Expr] = {}
    tell: Text | None = None
    prompt: Name | None = None
    learn: dict[Name, Learn] | None = None
    edges: list[EdgePart] = []


class FreeOptions(Part, frozen=True, kw_only=True):
    """Choices that the narrator words: the machine draws how many and of which kinds."""

    free: Annotated[str, Meta(pattern=r"^[1-9](\.\.[1-9])?$")] | Annotated[int, Meta(ge=1, le=9)]
    event: Name
    kinds: dict[Name, Text]

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most choices."""
        low, _, high = str(self.free).partition("..")
        return int(low), int(high or low)


class Ending(Part, frozen=True, kw_only=True):
    """How a story ended."""

    title: Text
    good: bool | None = None


class State(Part, frozen=True, kw_only=True):
    """Where a session stands between two turns."""

    label: Text | None = None
    type: Literal["final"] | None = None
    prompt: Name | None = None
    narrate: Literal["written"] | None = None
    checkpoint: bool = False
    entry: dict[Name, Expr] = {}
    learn: dict[Name, Learn] = {}
    options: list[Option] | FreeOptions = []
    on: dict[Name, OnEntry] = {}
    ending: Ending | None = None

    @property
    def is_final(self) -> bool:
        """Whether a session ends here."""
        return self.type == "final"

    @property
    def kinds(self) -> Mapping[str, Text]:
        """The kinds of the free options; empty where options are authored."""
        return self.options.kinds if isinstance(self.options, FreeOptions) else {}

    @property
    def authored(self) -> tuple[Option, ...]:
        """The authored options; empty where they are free."""
        return () if isinstance(self.options, FreeOptions) else tuple(self.options)


class Initial(Part, frozen=True, kw_only=True):
    """The edge that begins a session."""

    event: Name = "INIT"
    target: Name
    dice: Dice = {}
    assign: dict[Name, Expr] = {}
    tell: Text | None = None
    prompt: Name | None = None
    learn: dict[Name, Learn] | None = None


class History(Part, frozen=True, kw_only=True):
    """What a player may take back."""

    rewind: Literal["free", "off", "checkpoint"] = "free"


class Migration(Part, frozen=True, kw_only=True):
    """How sessions that were begun with another version of the machine come over to this one.

    `states` maps that version's names to this one's; `context` has values of this one's variables.
    """

    from_: int | Annotated[str, Meta(min_length=1)] = field(name="from")
    states: dict[Name, Name] = {}
    context: dict[Name, bool | int | float | str | list[str]] = {}
    fallback: Name | None = None


Rule = Literal["never", "always", "eventually"]


class Property(Part, frozen=True, kw_only=True):
    """What must be true of every play: exactly one of `never`, `always` and `eventually`.

    It is judged after each turn. `within` is a number of turns, and counts from the start of the play, or
    from each time `when` becomes true.
    """

    never: Expr | None = None
    always: Expr | None = None
    eventually: Expr | None = None
    within: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    when: Expr | None = None

    @property
    def rules(self) -> dict[Rule, Expr]:
        """What of `never`, `always` and `eventually` is written: one of them where the check found no fault."""
        written: dict[Rule, Expr | None] = {"never": self.never, "always": self.always, "eventually": self.eventually}
        return {rule: source for rule, source in written.items() if source is not None}

    @property
    def expressions(self) -> dict[str, Expr]:
        """Every expression that is written, by its key."""
        return {**{str(rule): source for rule, source in self.rules.items()}, **self._condition}

    @property
    def _condition(self) -> dict[str, Expr]:
        return {} if self.when is None else {"when": self.when}


class Definition(Part, frozen=True, kw_only=True):
    """A whole machine."""

    machine: Name
    version: int | str = 1
    title: Text
    language: Language
    initial: Name | Initial
    limits: Limits = Limits()
    slots: dict[Name, str | None] = {}
    context: dict[Name, Variable] = {}
    ai_state: dict[Name, Expr] = {}
    events: dict[Name, Event] = {}
    history: History = History()
    migrations: list[Migration] = []
    properties: dict[Name, Property] = {}
    on_failure: Literal["offline", "refuse"] = "offline"
    on: dict[Name, OnEntry] = {}
    states: Annotated[dict[Name, State], Meta(min_length=1)]

    @property
    def first(self) -> Initial:
        """The initial edge, its short form spelled out."""
        return self.initial if isinstance(self.initial, Initial) else Initial(event=self.initial, target=self.initial)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the machine offers: its own first, then those of its title."""
        offered = self.title if isinstance(self.title, dict) else {}
        return tuple(dict.fromkeys((self.language, *offered)))

    @property
    def event_types(self) -> tuple[str, ...]:
        """Every event's name: the initial one, those declared, and those that edges stand on."""
        on_states = (edge.event for edge in edges_of(self))
        return tuple(dict.fromkeys((self.first.event, *self.events, *on_states)))

    def migration_from(self, version: int | str) -> Migration | None:
        """The rule for sessions of another version; `1` and `"1"` are one version."""
        return next((each for each in self.migrations if str(each.from_) == str(version)), None)

    def event(self, name: str) -> Event:
        """What an event declares; one that is not declared takes nothing, and any player may send it."""
        return self.events.get(name, _UNDECLARED)

    @property
    def memory_tokens(self) -> int:
        """What the recent turns may take of a prompt, in tokens as `tokens.roughly` counts them."""
        return self.limits.memory_tokens or MEMORY_TOKENS

    def max_chars(self, kind: Literal["scene", "option"], language: str) -> int:
        """The machine's limit for scenes or options in a language, in code points."""
        set_by_machine = self.limits.scene_chars if kind == "scene" else self.limits.option_chars
        if isinstance(set_by_machine, int):
            return set_by_machine
        base = language.partition("-")[0]
        fallback = DEFAULT_CHARS[kind].get(base, DEFAULT_CHARS_ELSEWHERE[kind])
        return (set_by_machine or {}).get(language, (set_by_machine or {}).get(base, fallback))


Path = tuple[str | int, ...]
"""Where a part stands in the YAML file: keys and indexes from the root."""


class Edge(Struct, frozen=True, kw_only=True):
    """One edge, spelled out: source + event → target, whatever form it was written in.

    `source` is a state's name, `*` for a root edge, `` for the initial one. `option` is the key of
    the option that it belongs to, or ``. `once` is the name under which its use is counted,
    or ``. `option_guard` is the guard of its option, which must hold as well.
    """

    source: str
    name: str
    event: str
    target: str
    path: Path
    guard: Expr | None = None
    option: str = ""
    option_guard: Expr | None = None
    assign: Mapping[str, Expr] = {}
    tell: Text | None = None
    why: Text | None = None
    must: bool = False
    suggest: bool = True
    once: str = ""
    prompt: str | None = None
    learn: Mapping[str, Learn] | None = None
    dice: Mapping[str, Die] = {}

    @property
    def full_name(self) -> str:
        """`COMBAT.hit`, `*.END>END_DEAD` or `initial`: unique in the machine."""
        return f"{self.source}.{self.name}" if self.source else self.name


def edges_of(definition: Definition) -> tuple[Edge, ...]:
    """Every edge in the order of the file's sections: initial, root, then state by state.

    Inside a state the entries of `options` come before those of `on`; the loader sorts them by
    their place in the file.
    """
    first = definition.first
    initial = Edge(
        source="",
        name=INITIAL,
        event=first.event,
        target=first.target,
        path=("initial",),
        assign=first.assign,
        tell=first.tell,
        prompt=first.prompt,
        learn=first.learn,
        dice=first.dice,
    )
    edges = [initial, *_entries(ROOT, definition.on, ("on",))]
    for name, state in definition.states.items():
        for index, option in enumerate(state.authored):
            edges += _option_edges(name, option, ("states", name, "options", index))
        edges += _entries(name, state.on, ("states", name, "on"))
    return tuple(edges)


def _entries(source: str, on: Mapping[str, OnEntry], path: Path) -> Iterator[Edge]:
    for event, entry in on.items():
        here = (*path, event)
        if isinstance(entry, str):
            yield _spelled(source, event, EdgePart(target=entry), here)
        elif isinstance(entry, Entry):
            for index, part in enumerate(entry.edges):
                yield _spelled(source, event, part, (*here, "edges", index), dice=entry.dice)
        else:
            for index, part in enumerate(entry):
                yield _spelled(source, event, part, (*here, index))


def _spelled(source: str, event: str, part: EdgePart, path: Path, **more: Any) -> Edge:
    name = part.name or f"{event}>{part.target}"
    return Edge(
        source=source,
        name=name,
        event=event,
        target=part.target,
        path=path,
        guard=part.guard,
        assign=part.assign,
        tell=part.tell,
        why=part.why,
        must=part.must,
        suggest=part.suggest,
        once=f"{source}.{name}" if part.once else "",
        prompt=part.prompt,
        learn=part.learn,
        **more,
    )


def option_parts(option: Option) -> tuple[EdgePart, ...]:
    """An option's edges as written, its short form spelled out; () where it has no target."""
    if option.edges or option.target is None:
        return tuple(option.edges)
    short = EdgePart(
        target=option.target,
        name=option.name,
        assign=option.assign,
        tell=option.tell,
        must=option.must,
        prompt=option.prompt,
        learn=option.learn,
    )
    return (short,)


def option_event(option: Option) -> str:
    """The event that choosing the option sends: its own, else its first edge's target."""
    parts = option_parts(option)
    return option.event or (parts[0].target if parts else "")


def _option_edges(source: str, option: Option, path: Path) -> Iterator[Edge]:
    counted = f"{source}.{option.key}" if option.once else ""
    for index, part in enumerate(option_parts(option)):
        here = (*path, "edges", index) if option.edges else path
        name = part.name or option.key
        yield Edge(
            source=source,
            name=name,
            event=option_event(option),
            target=part.target,
            path=here,
            guard=part.guard,
            option=option.key,
            option_guard=option.guard,
            assign=part.assign,
            tell=part.tell or option.tell,
            why=part.why or option.why,
            must=part.must,
            suggest=part.suggest and option.suggest,
            once=counted or (f"{source}.{name}" if part.once else ""),
            prompt=part.prompt or option.prompt,
            learn=part.learn if part.learn is not None else option.learn,
            dice=option.dice,
        )


_DICE = re.compile(r"(?:(\d+)d(\d+)([+-]\d+)?|(\d+)%)")


def dice_parts(spec: str) -> tuple[int, int, int] | int:
    """`2d6+1` → (2, 6, 1); `30%` → 30.

    Raises ValueError for any other text.
    """
    match = _DICE.fullmatch(spec)
    if match is None:
        raise ValueError(spec)
    count, sides, plus, percent = match.groups()
    return int(percent) if percent else (int(count), int(sides), int(plus or 0))


def said_in(text: Text | None, language: str, fallback: str = "") -> str:
    """A text in a language, else in its base language, else in any that is there, else ''."""
    if text is None or isinstance(text, str):
        return text or ""
    if found := text.get(language):
        return found
    base = language.partition("-")[0]
    return text.get(base) or text.get(fallback) or next(iter(text.values()), "")
