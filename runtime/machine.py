"""A compiled machine: the table of edges that a session runs on. The only door to `transitions`.

The rules of the table:
- root edges stand in every state that is not final, before the state's own, in file order;
- of an event's edges the first that is open is taken;
- an edge is open when its option was chosen, its `once` is not used up, and its guards hold;
  it *depends* while a guard reads what is not known yet; a guard that errs is closed;
- while a `must` edge is open, no other event is allowed.
Nothing here changes after `build`, so one machine serves every session of its digest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import transitions
from msgspec import Struct

from runtime.errors import Finding, MachineFault
from runtime.expression import (
    Activation,
    Batch,
    CelType,
    EvaluationError,
    Expression,
    Names,
    NotKnown,
    activation,
    evaluate,
    prepare,
)
from runtime.model import ROOT, Definition, Die, Edge, Learn, LongDie, Rule, dice_parts
from runtime.prompt import Prompt, parse_prompt
from runtime.rating import NOTHING, Pack

if TYPE_CHECKING:
    from runtime.fragments import Fragments

logging.getLogger("transitions").setLevel(logging.WARNING)

WAITS = "waits for the choice"
"""Why an option's edge depends before an option is chosen."""
FALSE = "guard: false"
"""Why most edges are closed."""
Verdict = Literal["open", "closed", "depends"]
PAYLOAD_TYPES: dict[str, CelType] = {"int": "int", "float": "float", "bool": "bool", "str": "str", "text": "str"}
VARIABLE_TYPES: dict[str, CelType] = {**PAYLOAD_TYPES, "enum": "str", "set": "set"}
DEFAULT_PROMPTS = {
    "turn": {"description": "A turn of a machine without prompts.", "outputs": {"scene": "scene"}},
    "final": {"description": "The end of a machine without prompts.", "outputs": {"epilogue": "text"}},
}
DEFAULT_INPUTS = ["title", "state", "tell", "option", "changes", "offer", "recent", "language", "ending"]
DEFAULT_BODY = """system:
You tell what the rules of "{{ title }}" have decided, in the language {{ language }}. Answer one JSON object.
user:
{% for turn in recent %}Before: {{ turn | tojson }}
{% endfor %}
user:
State: {{ state }}. Chosen: {{ option.text }}. What happened: {{ tell }} {{ changes | tojson }} {{ ending | tojson }}
Next choices: {{ offer | tojson }}
"""


class LearnRule(Struct, frozen=True):
    """How one variable learns, compiled; None where nothing was written."""

    name: str
    source: Expression
    otherwise: Expression | None
    at_least: Expression | None
    at_most: Expression | None


class Assign(Struct, frozen=True):
    """One line of an assign or an entry."""

    name: str
    value: Expression


class Property(Struct, frozen=True):
    """What must be true of every play, compiled. `place` is `file:line:col`, '' where it isn't known.

    `when` and `within` are None where they aren't written. `reads` are the names that both read, without members.
    """

    name: str
    rule: Rule
    what: Expression
    when: Expression | None
    within: int | None
    reads: tuple[str, ...]
    place: str


class CompiledEdge(Struct, frozen=True, eq=False):
    """An edge with its expressions compiled; compared by identity.

    `reads_option` says whether a guard asks which option was chosen; `full_name` is the edge's. `needs` is
    a variable and the text that it must hold: with another one the edge is closed by its guard.
    """

    edge: Edge
    guards: tuple[Expression, ...]
    assigns: tuple[Assign, ...]
    learn: tuple[LearnRule, ...]
    reads_option: bool
    full_name: str
    needs: tuple[str, str] | None = None


class Known(Struct, frozen=True):
    """What edges are judged by: the values, the once-names used up, and the option chosen.

    `option` is None while no choice was made yet.
    """

    values: Activation
    used: frozenset[str]
    option: str | None = None


class Considered(Struct, frozen=True):
    """What became of one edge when it was looked at: the verdict, why, and what it was judged by."""

    compiled: CompiledEdge
    verdict: Verdict
    reason: str
    known: Known

    @property
    def edge(self) -> Edge:
        """The edge itself."""
        return self.compiled.edge

    @property
    def has_erred(self) -> bool:
        """Whether the edge is closed because a guard erred."""
        return self.reason.startswith("error: ")

    @property
    def guard(self) -> str | None:
        """The guards as written."""
        return " && ".join(each.source for each in self.compiled.guards) or None

    def told(self) -> dict[str, Any]:
        """For `explain`: with the names that its guards read and their values; one not known is absent."""
        values = self.known.values.values
        return {
            "edge": self.compiled.full_name,
            "event": self.edge.event,
            "target": self.edge.target,
            "guard": self.guard,
            "verdict": self.verdict,
            "reason": self.reason,
            "values": {name: values[name] for guard in self.compiled.guards for name in guard.names if name in values},
        }


class Cursor:
    """The throw-away model that the library moves: where it stands, what it saw, what it took."""

    def __init__(self, state: str, known: Known) -> None:
        self.state = state
        self.known = known
        self.seen: list[Considered] = []
        self.taken: CompiledEdge | None = None


class Machine(Struct, frozen=True, kw_only=True, eq=False):
    """A machine as sessions run it; made by `build`.

    `table` has each state's edges in the order in which they are tried, `musts` those of them that may
    shut the others, `guards` those of their guards that read neither payload, dice nor option, to be
    evaluated in one call; `dice` is by event and option. `visited` is state → `visits.STATE`, and `blank`
    what every expression may read where nothing has happened. `prompts` is name →
    language → prompt, '' for a prompt of every language; `packs` is language → rating pack. `files` are
    what the digest covers.
    """

    name: str
    digest: str
    definition: Definition
    files: Mapping[str, str]
    edges: tuple[Edge, ...]
    initial: CompiledEdge
    table: Mapping[str, tuple[CompiledEdge, ...]]
    musts: Mapping[str, tuple[CompiledEdge, ...]]
    dice: Mapping[str, Mapping[tuple[str, str], dict[str, Die]]]
    guards: Mapping[str, Batch]
    entries: Mapping[str, tuple[Assign, ...]]
    ai_state: Mapping[str, Expression]
    prompts: Mapping[str, Mapping[str, Prompt]]
    fragments: Mapping[str, Fragments]
    packs: Mapping[str, Pack]
    visited: Mapping[str, str]
    blank: Mapping[str, Any]
    events: Mapping[str, str]
    library: transitions.Machine
    properties: tuple[Property, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def prompt_for(self, edge: Edge, language: str) -> Prompt:
        """The prompt that tells an edge: its own, else its target's, else the built-in one."""
        state = self.definition.states[edge.target]
        name = edge.prompt or state.prompt
        if name is None:
            return _built_in("final" if state.is_final else "turn")
        variants = self.prompts[name]
        base = language.partition("-")[0]
        return variants.get(language) or variants.get(base) or variants.get("") or next(iter(variants.values()))

    def fragments_for(self, language: str) -> Fragments | None:
        """The offline fragments in a language, None where it has none."""
        return self.fragments.get(language) or self.fragments.get(language.partition("-")[0])

    def pack_for(self, language: str) -> Pack:
        """What a rating excludes in a language; nothing where there is no pack."""
        return self.packs.get(language) or self.packs.get(language.partition("-")[0]) or NOTHING

    def event_named(self, sent: str) -> str | None:
        """The event's own spelling for what a client sent, whatever its case."""
        return self.events.get(sent.casefold())

    def dice_of(self, state: str, event: str, option: str) -> dict[str, Die]:
        """All dice that are rolled before the guards: the event's entries' and the option's."""
        here = self.dice[state]
        return here.get((event, option)) or here.get((event, "")) or {}

    def open_must(self, state: str, known: Known) -> CompiledEdge | None:
        """The first `must` edge that is open in a state."""
        return next((compiled for compiled in self.musts[state] if consider(compiled, known).verdict == "open"), None)

    def choose(self, state: str, event: str, known: Known) -> tuple[CompiledEdge | None, tuple[Considered, ...]]:
        """Take an event in a state: the edge taken (None = none was open) and all that were looked at.

        Edges of options that were not chosen are not looked at.

        Raises MachineFault where a guard errs before an open edge is found.
        """
        cursor = Cursor(state, known)
        chosen = self.library.events.get(_trigger(event, known.option)) or self.library.events[event]
        chosen.trigger(cursor)
        return cursor.taken, tuple(cursor.seen)


def consider(compiled: CompiledEdge, known: Known) -> Considered:
    """Judge one edge. A guard that errs counts as closed, with the error as the reason."""
    edge = compiled.edge
    if edge.once and edge.once in known.used:
        return Considered(compiled, "closed", "once: used up", known)
    if edge.option and known.option is not None and edge.option != known.option:
        return Considered(compiled, "closed", f"option: {edge.option} was not chosen", known)
    if compiled.needs is not None:
        name, needed = compiled.needs
        held = known.values.values.get(name)
        if type(held) is str and held != needed:
            return Considered(compiled, "closed", FALSE, known)
    verdict: Verdict = "depends" if edge.option and known.option is None else "open"
    reason = WAITS if verdict == "depends" else ""
    for guard in compiled.guards:
        try:
            if not evaluate(guard, known.values):
                return Considered(compiled, "closed", FALSE, known)
        except NotKnown as unknown:
            verdict, reason = "depends", str(unknown)
        except EvaluationError as error:
            return Considered(compiled, "closed", f"error: {error}", known)
    return Considered(compiled, verdict, reason, known)


def _dice_of(edges: Iterable[Edge], event: str, option: str) -> dict[str, Die]:
    here = (edge for edge in edges if edge.event == event and edge.option in ("", option))
    return {name: die for edge in here for name, die in edge.dice.items()}


def _dice_table(edges: list[Edge]) -> dict[tuple[str, str], dict[str, Die]]:
    """What each event of a state rolls, and each event with each of its options."""
    sent = dict.fromkeys((edge.event, option) for edge in edges for option in ("", edge.option))
    return {(event, option): _dice_of(edges, event, option) for event, option in sent}


def _is_must(edge: Edge) -> bool:
    """Whether an edge shuts other events while it is open."""
    return edge.must and not edge.option


def die_type(die: Die) -> CelType:
    """What a die gives: `NdM` an int, `P%` a bool, a pick a str."""
    spec = die.roll if isinstance(die, LongDie) else die
    if spec is None:
        return "str"
    return "bool" if isinstance(dice_parts(spec), int) else "int"


def members_of(definition: Definition) -> dict[str, str]:
    """Every member of an enum or a set, as a name that reads as itself."""
    return {member: member for variable in definition.context.values() for member in variable.of or ()}


def base_names(definition: Definition) -> dict[str, CelType]:
    """The names that every expression of a machine may read, with their types."""
    names: dict[str, CelType] = dict.fromkeys(members_of(definition), "str")
    names |= {name: VARIABLE_TYPES[variable.type] for name, variable in definition.context.items()}
    names |= {f"slots.{name}": "str" for name in definition.slots}
    names |= {f"visits.{name}": "int" for name in definition.states}
    names |= {"time.elapsed_seconds": "int", "time.remaining_seconds": "int", "step": "int", "turns_left": "int"}
    return names | {"session.player_count": "int", "session.difficulty": "str", "session.language": "str"}


def payload_names(definition: Definition, event: str) -> dict[str, CelType]:
    """`payload.x` and `given.payload.x` for what an event declares."""
    declared = definition.event(event).payload
    names: dict[str, CelType] = {}
    for field, kind in declared.items():
        names[f"payload.{field}"] = PAYLOAD_TYPES[kind.rstrip("?")]
        names[f"given.payload.{field}"] = "bool"
    return names


def edge_types(definition: Definition, edge: Edge, edges: Iterable[Edge]) -> dict[str, CelType]:
    """What an edge's own expressions may read: base, its payload, the option, its group's dice."""
    group = [other for other in edges if other.source in (edge.source, ROOT)] if edge.source else [edge]
    dice = _dice_of(group, edge.event, edge.option)
    types = base_names(definition) | payload_names(definition, edge.event)
    types |= {"option.key": "str", "option.kind": "str"}
    return types | {f"dice.{name}": die_type(die) for name, die in dice.items()}


def edge_names(definition: Definition, edge: Edge, edges: Iterable[Edge]) -> Names:
    """`edge_types`, ready to compile with."""
    return Names(edge_types(definition, edge, edges))


def output_types(prompts: Iterable[Prompt], definition: Definition) -> dict[str, CelType]:
    """`output.x` for what prompts declare, and for the names that `ai_state` asks for."""
    kinds = {path: kind for prompt in prompts for path, kind in prompt.fields.items()}
    types: dict[str, CelType] = {f"output.{name}": "str" for name in asked_ai_state(definition)}
    return types | {f"output.{path}": VARIABLE_TYPES.get(kind, "str") for path, kind in kinds.items() if kind != "json"}


def asked_ai_state(definition: Definition) -> tuple[str, ...]:
    """The names of `ai_state` that read `output.NAME`: the runtime adds them to every prompt's outputs."""
    sources = (value for value in definition.ai_state.values() if isinstance(value, str))
    return tuple(source.strip()[7:] for source in sources if source.strip().startswith("output."))


def learn_names(definition: Definition, edge: Edge, edges: Iterable[Edge], prompts: Iterable[Prompt]) -> Names:
    """What `learn` may read: the edge's names and the outputs of the prompt that tells it."""
    return Names(edge_types(definition, edge, edges) | output_types(prompts, definition))


def ai_state_names(definition: Definition, prompts: Iterable[Prompt]) -> Names:
    """What `ai_state` may read: base names, and any output."""
    return Names(base_names(definition) | output_types(prompts, definition))


def story_names(definition: Definition, edges: Iterable[Edge]) -> Names:
    """What a fragment's `when` may read: also every die and payload whose types agree."""
    types = base_names(definition) | dict.fromkeys(("state", "from_state", "text"), "str")
    types |= dict.fromkeys(("option.key", "option.kind", "option.text"), "str")
    dice = [(f"dice.{name}", die_type(die)) for edge in edges for name, die in edge.dice.items()]
    payload = [pair for event in definition.events for pair in payload_names(definition, event).items()]
    found: dict[str, set[CelType]] = {}
    for name, kind in (*dice, *payload):
        found.setdefault(name, set()).add(kind)
    return Names(types | {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1})


def property_names(definition: Definition) -> dict[str, CelType]:
    """What `properties` may read, after a turn: base names, where it led to, and whether the play is over."""
    return base_names(definition) | {"state": "str", "ended": "bool"}


def learn_of(definition: Definition, edge: Edge) -> Mapping[str, Learn]:
    """What is learned after an edge: its own rules, else its target's."""
    return definition.states[edge.target].learn if edge.learn is None else edge.learn


def build(
    definition: Definition,
    edges: tuple[Edge, ...],
    prompts: Mapping[str, Mapping[str, Prompt]],
    fragments: Mapping[str, Fragments],
    packs: Mapping[str, Pack],
    files: Mapping[str, str],
    digest: str,
    warnings: tuple[Finding, ...] = (),
    places: Mapping[str, str] = {},
    like: Machine | None = None,
) -> Machine:
    """Compile a machine that has passed the check. Raises ExpressionError where it has not.

    `places` are the properties' own, as `file:line:col`. What `like` has compiled of the same parts is
    taken over: its edges, and what was made of a state's row of them.
    """
    known = _known_edges(like, definition, edges, prompts) if like is not None else {}
    compiled = [known.get(edge.full_name) or _compiled(definition, edge, edges, prompts) for edge in edges]
    root = [each for each in compiled if each.edge.source == ROOT]
    table = {
        name: () if state.is_final else (*root, *(each for each in compiled if each.edge.source == name))
        for name, state in definition.states.items()
    }
    base = Names(base_names(definition))
    everything = [prompt for variants in prompts.values() for prompt in variants.values()]
    told = ai_state_names(definition, everything)
    visited = {name: f"visits.{name}" for name in definition.states}
    return Machine(
        name=definition.machine,
        digest=digest,
        definition=definition,
        files=files,
        edges=edges,
        initial=compiled[0],
        table=table,
        musts={name: tuple(each for each in edges if _is_must(each.edge)) for name, edges in table.items()},
        dice={name: _dice_table([each.edge for each in edges]) for name, edges in table.items()},
        guards={
            name: like.guards[name]
            if like is not None and known and edges == like.table[name]
            else base.batch(_plain_guards(base, edges))
            for name, edges in table.items()
        },
        entries={name: _assigns(base, state.entry) for name, state in definition.states.items()},
        ai_state={name: told.compile(source) for name, source in definition.ai_state.items()},
        prompts=prompts,
        fragments=fragments,
        packs=packs,
        visited=visited,
        blank={**members_of(definition), **dict.fromkeys(visited.values(), 0)},
        events={event.casefold(): event for event in definition.event_types},
        library=_library(definition, table),
        properties=tuple(_properties(definition, places)),
        warnings=warnings,
    )


def _known_edges(
    like: Machine, definition: Definition, edges: tuple[Edge, ...], prompts: Mapping[str, Mapping[str, Prompt]]
) -> dict[str, CompiledEdge]:
    """What `like` has compiled of edges that are as they were, and that read what they read then: full name → edge."""
    was = like.definition
    before, now = ((each.context, each.slots, each.events, each.ai_state, [*each.states]) for each in (was, definition))
    if before != now or prompts != like.prompts:
        return {}
    rolled, rolls = _rolled(like.edges), _rolled(edges)
    same = {source for source in rolls if rolls[source] == rolled.get(source)}
    if rolled.get(ROOT) != rolls.get(ROOT):
        same &= {"", ROOT}
    compiled = {each.full_name: each for row in like.table.values() for each in row}
    compiled[like.initial.full_name] = like.initial
    return {
        name: found
        for edge in edges
        if edge.source in same
        and (found := compiled.get(name := edge.full_name)) is not None
        and found.edge == edge
        and learn_of(was, edge) == learn_of(definition, edge)
        and was.states[edge.target].prompt == definition.states[edge.target].prompt
    }


def _rolled(edges: Iterable[Edge]) -> dict[str, list[tuple[str, str, Mapping[str, Die]]]]:
    """What is rolled in each state, edge by edge: what the names of its expressions hang on."""
    found: dict[str, list[tuple[str, str, Mapping[str, Die]]]] = {}
    for edge in edges:
        found.setdefault(edge.source, []).append((edge.event, edge.option, edge.dice))
    return found


def _plain_guards(base: Names, edges: Iterable[CompiledEdge]) -> Iterator[Expression]:
    """The guards that read nothing but base names."""
    guards = (guard for compiled in edges for guard in compiled.guards)
    return (guard for guard in guards if all(name in base.types for name in guard.names))


def _compiled(
    definition: Definition, edge: Edge, edges: tuple[Edge, ...], prompts: Mapping[str, Mapping[str, Prompt]]
) -> CompiledEdge:
    names = edge_names(definition, edge, edges)
    told_by = prompts.get(edge.prompt or definition.states[edge.target].prompt or "", {}).values()
    learning = learn_of(definition, edge)
    output = learn_names(definition, edge, edges, told_by) if learning else names
    guards = tuple(names.compile(guard) for guard in (edge.option_guard, edge.guard) if guard is not None)
    rules = tuple(_learn_rule(output, name, rule) for name, rule in learning.items())
    reads_option = any(name.startswith("option.") for guard in guards for name in guard.names)
    assigns = _assigns(names, edge.assign)
    return CompiledEdge(edge, guards, assigns, rules, reads_option, edge.full_name, _needed(definition, guards))


def _needed(definition: Definition, guards: tuple[Expression, ...]) -> tuple[str, str] | None:
    """What the first guard asks first of one variable, so that most edges of a wide state need no second look."""
    asked = guards[0].direct.asked if guards and guards[0].direct else None
    if asked is None:
        return None
    is_text = not asked.is_name or (asked.text in members_of(definition) and asked.text not in definition.context)
    return (asked.name, asked.text) if is_text else None


def _properties(definition: Definition, places: Mapping[str, str]) -> Iterator[Property]:
    names, members = Names(property_names(definition)), members_of(definition)
    for name, written in definition.properties.items():
        rule, source = next(iter(written.rules.items()))
        what = names.compile(source)
        when = None if written.when is None else names.compile(written.when)
        read = dict.fromkeys((*what.names, *(when.names if when else ())))
        reads = tuple(each for each in read if each not in members)
        yield Property(name, rule, what, when, written.within, reads, places.get(name, ""))


def _assigns(names: Names, lines: Mapping[str, Any]) -> tuple[Assign, ...]:
    return tuple(Assign(name, names.compile(source)) for name, source in lines.items())


def _learn_rule(names: Names, name: str, rule: Learn) -> LearnRule:
    written = [rule.otherwise, rule.at_least, rule.at_most]
    optional = [names.compile(each) if isinstance(each, bool | int | float | str) else None for each in written]
    return LearnRule(name, names.compile(rule.from_), *optional)


@lru_cache
def _built_in(kind: str) -> Prompt:
    spec = DEFAULT_PROMPTS[kind]
    prompt, faults = parse_prompt(kind, None, "built-in", {**spec, "inputs": DEFAULT_INPUTS}, DEFAULT_BODY, 1, {})
    if prompt is None:
        raise MachineFault(f"the built-in prompt has faults: {faults}")
    return prompt


def _library(definition: Definition, table: Mapping[str, tuple[CompiledEdge, ...]]) -> transitions.Machine:
    """The table in the library's form: guards as callables that return a real bool, never strings."""
    states = [transitions.State(name, final=state.is_final) for name, state in definition.states.items()]
    library = transitions.Machine(
        model=None, states=states, initial=None, auto_transitions=False, send_event=True, ignore_invalid_triggers=True
    )
    for state, edges in table.items():
        for trigger, compiled in _triggered(edges):
            library.add_transition(
                trigger, state, compiled.edge.target, conditions=_condition(compiled), before=_taking(compiled)
            )
    return library


def _trigger(event: str, option: str | None) -> str:
    """The library's trigger for an event sent with an option: no state need try the others' edges."""
    return f"{event} {option}" if option else event


def _triggered(edges: Iterable[CompiledEdge]) -> Iterator[tuple[str, CompiledEdge]]:
    """Each edge under its event, and under each option of that event whose choice may take it."""
    options = dict.fromkeys((each.edge.event, each.edge.option) for each in edges if each.edge.option)
    for compiled in edges:
        if not compiled.edge.option:
            yield compiled.edge.event, compiled
        for event, option in options:
            if event == compiled.edge.event and compiled.edge.option in ("", option):
                yield _trigger(event, option), compiled


def _condition(compiled: CompiledEdge) -> Callable[[transitions.EventData], bool]:
    def is_open(data: transitions.EventData) -> bool:
        cursor = cast("Cursor", data.model)
        considered = consider(compiled, cursor.known)
        cursor.seen.append(considered)
        if considered.has_erred:
            raise MachineFault(
                f"edge {compiled.full_name}: guard `{considered.guard}` {considered.reason}",
                "Mend the guard in the machine; the session is as it was.",
                edge=compiled.full_name,
            )
        return considered.verdict == "open"

    return is_open


def _taking(compiled: CompiledEdge) -> Callable[[transitions.EventData], None]:
    def take(data: transitions.EventData) -> None:
        cast("Cursor", data.model).taken = compiled

    return take


def known_values(values: Mapping[str, Any], used: Iterable[str], option: str | None = None) -> Known:
    """What edges are judged by, from plain values."""
    return Known(activation(values), frozenset(used), option)


def standing(machine: Machine, state: str, values: Mapping[str, Any], used: Iterable[str]) -> Known:
    """What a state's edges are judged by before an event comes, their plain guards evaluated in one call."""
    known = known_values(values, used)
    prepare(machine.guards[state], known.values)
    return known
