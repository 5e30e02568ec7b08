"""The rules about names, and about what a part may hold: E103, E111 to E113, E12x and E2xx of one part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from msgspec import UnsetType

from runtime.draft import Draft, option_path
from runtime.errors import Finding
from runtime.expression import CEL_WORDS, SCOPE_WORDS
from runtime.model import CONTINUE, INITIAL, INT_MAX, INT_MIN, ROOT, Edge, FreeOptions, LongDie, Option, Path, Variable
from runtime.prompt import TURN_INPUTS
from runtime.shape import did_you_mean

CEL_KEYWORDS = frozenset(
    {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import"}
    | {"let", "loop", "package", "namespace", "return", "var", "void", "while"}
)
"""Words that no name may be, not even behind a dot. Source: github.com/google/cel-spec, langdef.md."""
CHOSEN = "selected_option_id"
"""The field of a request's payload that names the option chosen."""
WITH_EDGES = ("target", "name", "assign", "must")
"""What an option with `edges` says on its edges instead."""


def names(draft: Draft) -> Iterator[Finding]:
    """Every fault of names and of what single parts hold."""
    yield from _file_name(draft)
    yield from _variables(draft)
    yield from _members(draft)
    yield from _unique(draft)
    yield from _keywords(draft)
    yield from _reserved(draft)
    yield from _targets(draft)
    yield from _events(draft)
    yield from _edge_names(draft)
    yield from _options(draft)
    yield from _dice(draft)


def _file_name(draft: Draft) -> Iterator[Finding]:
    stem = PurePosixPath(draft.document.file).stem
    name = draft.definition.machine
    if name != stem and ("machine",) not in draft.document.gone:
        yield draft.at_value(
            ("machine",), "E115", f"the machine is called '{name}' and its file '{stem}'. Make them equal"
        )


def _variables(draft: Draft) -> Iterator[Finding]:
    for name, variable in draft.definition.context.items():
        path: Path = ("context", name)
        owner = _owner(name)
        if owner:
            yield draft.at_key(path, "E111", f"'{name}' is {owner}, so no variable may have it. Choose another name")
        if variable.secret and variable.show:
            message = f"'{name}' is secret, so no answer may show it. Delete `show`, or `secret`"
            yield draft.at_key((*path, "show"), "E123", message)
        yield from _range(draft, path, variable)
        yield from _of(draft, path, variable)
        if not isinstance(variable.default, UnsetType):
            yield from _default(draft, path, variable)


def _owner(name: str) -> str | None:
    """Whose word a name is, whatever its case."""
    folded = name.casefold()
    if folded in {word.casefold() for word in SCOPE_WORDS}:
        return "a name of the scope"
    if folded in {word.casefold() for word in CEL_WORDS}:
        return "a word of CEL"
    return "a prompt's input" if folded in TURN_INPUTS else None


def _range(draft: Draft, path: Path, variable: Variable) -> Iterator[Finding]:
    for key, value in (("min", variable.min), ("max", variable.max)):
        if value is None:
            continue
        if variable.type not in {"int", "float"}:
            yield draft.at_key(
                (*path, key), "E122", f"'{key}' is for int and float, and this is a {variable.type}. Delete it"
            )
        elif mend := _unlike(value, variable.type):
            yield draft.at_value(
                (*path, key), "E122", f"'{key}' is {value}, and the variable is {_a(variable.type)}. {mend}"
            )
    if variable.min is not None and variable.max is not None and variable.min > variable.max:
        yield draft.at_value((*path, "min"), "E122", f"min {variable.min} is above max {variable.max}. Swap them")


def _unlike(value: object, kind: str) -> str | None:
    """The mend where a number is not of an int's or float's own kind."""
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return f"Write {value}.0"
    if kind == "int" and isinstance(value, float):
        return f"Write {int(value)}, or make it a float"
    if kind == "int" and isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        return "Write a number of at most 64 bits"
    return None


def _a(kind: str) -> str:
    return f"an {kind}" if kind in {"int", "enum"} else f"a {kind}"


def _of(draft: Draft, path: Path, variable: Variable) -> Iterator[Finding]:
    if variable.type not in {"enum", "set"}:
        if variable.of is not None:
            message = f"'of' is for enum and set, and this is {_a(variable.type)}. Delete it, or change the type"
            yield draft.at_key((*path, "of"), "E120", message)
        return
    if any(gone[:3] == (*path, "of") for gone in draft.document.gone):
        return
    if not variable.of:
        yield draft.at_key(path, "E120", f"{_a(variable.type)} needs its members: of: [a, b]")
        return
    for index, member in enumerate(variable.of):
        if member in variable.of[:index]:
            yield draft.at_key((*path, "of", index), "E112", f"'{member}' stands twice in 'of'. Delete one")


def _default(draft: Draft, path: Path, variable: Variable) -> Iterator[Finding]:
    problem = unfit(variable.default, variable, "default")
    if problem:
        yield draft.at_value((*path, "default"), "E121", problem)


def unfit(value: object, variable: Variable, what: str) -> str | None:
    """Why a value that a designer wrote doesn't fit its variable, None where it does; `what` is the value's name."""
    kind, members = variable.type, variable.of or []
    if kind == "enum" and members and value not in members:
        return f"the {what} '{value}' is none of its members{did_you_mean(str(value), members)}"
    if kind == "set":
        return _set_problem(value, members, what)
    if kind in {"int", "float"}:
        return _number_problem(value, variable, what)
    wanted = {"bool": bool, "str": str}.get(kind, object)
    return None if isinstance(value, wanted) else f"the {what} is {value!r}, and the variable is {_a(kind)}"


def _set_problem(value: object, members: list[str], what: str) -> str | None:
    if not isinstance(value, list):
        return f"a set's {what} is a list: [] or [a, b]"
    wrong = next((item for item in value if members and item not in members), None)
    if wrong is not None:
        return f"the {what}'s '{wrong}' is none of its members{did_you_mean(str(wrong), members)}"
    return f"the {what} has a member twice. Delete one" if len(set(value)) < len(value) else None


def _number_problem(value: object, variable: Variable, what: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"the {what} is {value!r}, and the variable is {_a(variable.type)}. Write a number"
    if mend := _unlike(value, variable.type):
        return f"the {what} is {value}, and the variable is {_a(variable.type)}. {mend}"
    if variable.min is not None and value < variable.min:
        return f"the {what} {value} is below min {variable.min}"
    if variable.max is not None and value > variable.max:
        return f"the {what} {value} is above max {variable.max}"
    return None


def _members(draft: Draft) -> Iterator[Finding]:
    variables = {name.casefold(): name for name in draft.definition.context}
    spelled: dict[str, str] = {}
    for name, variable in draft.definition.context.items():
        for index, member in enumerate(variable.of or ()):
            path = ("context", name, "of", index)
            folded = member.casefold()
            first = spelled.setdefault(folded, member)
            if folded in variables:
                message = (
                    f"the member '{member}' has the name of the variable '{variables[folded]}'. Rename one of them"
                )
                yield draft.at_key(path, "E113", message)
            elif first != member:
                message = f"'{member}' and '{first}' differ in case only. Write one of them in both places"
                yield draft.at_key(path, "E112", message)
            elif (owner := _owner(member)) and owner != "a prompt's input":
                yield draft.at_key(
                    path, "E111", f"'{member}' is {owner}, so no member may have it. Choose another name"
                )


def _unique(draft: Draft) -> Iterator[Finding]:
    """Names that differ in case only."""
    definition = draft.definition
    groups: list[tuple[Path, Iterable[str]]] = [
        (("context",), definition.context),
        (("states",), definition.states),
        (("slots",), definition.slots),
        (("ai_state",), definition.ai_state),
        (("properties",), definition.properties),
    ]
    groups += [(("events", name, "payload"), event.payload) for name, event in definition.events.items()]
    for path, written in groups:
        yield from same(draft, [(name, (*path, name)) for name in written])
    yield from _same_events(draft)
    for name, state in definition.states.items():
        base: Path = ("states", name, "options")
        keys = [(option.key, (*base, index, "key")) for index, option in enumerate(state.authored)]
        yield from same(draft, keys)
        yield from same(draft, [(kind, (*base, "kinds", kind)) for kind in state.kinds])


def same(draft: Draft, named: Iterable[tuple[str, Path]]) -> Iterator[Finding]:
    """Names of one place that differ in case only, each with its path."""
    first: dict[str, tuple[str, Path]] = {}
    for name, path in named:
        other, where = first.setdefault(name.casefold(), (name, path))
        if where == path:
            continue
        if path[-1] == "key":
            line, _ = draft.document.places.key(where)
            yield draft.at_value(
                path, "E211", f"a second option '{name}' in one state; the first is in line {line}. Rename one"
            )
        else:
            yield draft.at_key(path, "E112", f"'{name}' and '{other}' differ in case only. Rename one")


def _same_events(draft: Draft) -> Iterator[Finding]:
    """Events are compared without regard to case, with each other and with the states."""
    spelled = {name.casefold(): name for name in draft.definition.states}
    declared = [(name, ("events", name)) for name in draft.definition.events]
    is_short = isinstance(draft.definition.initial, str)
    standing = [(edge.event, _event_path(edge)) for edge in draft.edges if edge.source or not is_short]
    seen: set[str] = set()
    for name, path in (*declared, *standing):
        other = spelled.setdefault(name.casefold(), name)
        if other != name and name not in seen:
            seen.add(name)
            message = (
                f"the event '{name}' and '{other}' differ in case only, and clients may send either. Write '{other}'"
            )
            yield draft.at_key(path, "E112", message)


def _keywords(draft: Draft) -> Iterator[Finding]:
    """Names behind a dot (`visits.X`, `payload.x`) that CEL's grammar can't read."""
    definition = draft.definition
    written: list[tuple[str, Path]] = [(name, ("states", name)) for name in definition.states]
    written += [(name, ("slots", name)) for name in definition.slots]
    for name, event in definition.events.items():
        written += [(field, ("events", name, "payload", field)) for field in event.payload]
    written += [(die, (*_dice_path(edge), die)) for edge in draft.edges for die in edge.dice]
    for name, path in dict.fromkeys(written):
        if path == ("states", INITIAL):
            yield draft.at_key(
                path, "E111", f"'{name}' is the first edge's name, so no state may have it. Choose another"
            )
        elif name in CEL_KEYWORDS:
            yield draft.at_key(
                path, "E111", f"'{name}' is a word of CEL, so expressions can't read it. Choose another name"
            )


def _reserved(draft: Draft) -> Iterator[Finding]:
    """Names that the runtime itself puts beside those of a machine."""
    taken = "is the key of the one option where there is nothing to choose. Choose another, like 'go_on'"
    for name, state in draft.definition.states.items():
        base: Path = ("states", name, "options")
        for index, option in enumerate(state.authored):
            if option.key.casefold() == CONTINUE:
                yield draft.at_value((*base, index, "key"), "E111", f"'{option.key}' {taken}")
        for kind in state.kinds:
            if kind.casefold() == CONTINUE:
                yield draft.at_key((*base, "kinds", kind), "E111", f"'{kind}' {taken}")
    for name, event in draft.definition.events.items():
        for field in event.payload:
            if field.casefold() == CHOSEN:
                message = f"'{field}' is how a client names the option chosen. Choose another name for the field"
                yield draft.at_key(("events", name, "payload", field), "E111", message)


def _targets(draft: Draft) -> Iterator[Finding]:
    states = draft.definition.states
    for edge in draft.edges:
        if edge.target in states or edge.target in draft.lost:
            continue
        long = (*edge.path, "target")
        path = long if long in draft.document.places.keys else edge.path
        message = f"no state '{edge.target}'{did_you_mean(edge.target, states, all_of('States are', states))}"
        yield draft.at_value(path, "E103", message)


def all_of(words: str, names_: Iterable[str], most: int = 12) -> str:
    """The words with the names that there are behind them; '' where there are none."""
    listed = list(names_)
    return f"{words} {', '.join(listed[:most])}{', …' if len(listed) > most else ''}" if listed else ""


def _event_path(edge: Edge) -> Path:
    """Where an edge's event is written: its key under `on`, or on its option."""
    if edge.option:
        return (*option_path(edge), "event")
    return edge.path[: 2 if edge.source == ROOT else 4] if edge.source else ("initial", "event")


def _events(draft: Draft) -> Iterator[Finding]:
    definition = draft.definition
    known = {*definition.events, *definition.states, definition.first.event}
    folded = {name.casefold() for name in known}
    places = {_event_path(edge): edge.event for edge in draft.edges if edge.source}
    for name, state in definition.states.items():
        if isinstance(state.options, FreeOptions):
            places["states", name, "options", "event"] = state.options.event
    for path, event in places.items():
        if event.casefold() in folded or event in draft.lost or path not in draft.document.places.keys:
            continue
        mend = f"Declare it: events: {{{event}: {{}}}}"
        message = (
            f"no event '{event}': it is neither declared nor the name of a state{did_you_mean(event, known, mend)}"
        )
        yield draft.at_value(path, "E209", message) if path[-1] == "event" else draft.at_key(path, "E209", message)


def _edge_names(draft: Draft) -> Iterator[Finding]:
    first: dict[str, Edge] = {}
    for edge in draft.edges:
        other = first.setdefault(edge.full_name.casefold(), edge)
        if other is not edge:
            line, _ = draft.document.places.key(other.path)
            yield draft.at_key(edge.path, "E208", f"{_twice(edge)}; the first is in line {line}. Give one a `name`")


def _twice(edge: Edge) -> str:
    if edge.name == f"{edge.event}>{edge.target}":
        return f"two edges of '{edge.event}' lead to '{edge.target}' in one state"
    return f"a second edge '{edge.name}' in one state"


def _options(draft: Draft) -> Iterator[Finding]:
    for name, state in draft.definition.states.items():
        base: Path = ("states", name, "options")
        if isinstance(state.options, FreeOptions):
            yield from _free(draft, base, state.options)
        for index, option in enumerate(state.authored):
            yield from _option(draft, (*base, index), option)
        for event, entry in state.on.items():
            if entry == [] or getattr(entry, "edges", None) == []:
                yield draft.at_key(
                    ("states", name, "on", event), "E217", f"'{event}' has no edges. Write one, or delete it"
                )
    for event, entry in draft.definition.on.items():
        if entry == [] or getattr(entry, "edges", None) == []:
            yield draft.at_key(("on", event), "E217", f"'{event}' has no edges. Write one, or delete it")


def _option(draft: Draft, path: Path, option: Option) -> Iterator[Finding]:
    if option.must:
        message = (
            f"'must' stands on the option '{option.key}': must edges wait for no choice. Put it on an edge under `on`"
        )
        yield draft.at_key((*path, "must"), "E207", message)
    if not option.edges and option.target is None:
        if "target" not in draft.lost:
            yield draft.at_key(path, "E210", f"the option '{option.key}' leads nowhere. Give it a `target`, or `edges`")
        return
    if not option.edges and (*path, "edges") in draft.document.places.keys:
        message = f"the option '{option.key}' has a `target`, so its empty `edges` say nothing. Delete them"
        yield draft.at_key((*path, "edges"), "E210", message)
    for key in WITH_EDGES:
        if option.edges and (*path, key) in draft.document.places.keys:
            code = "E210" if key == "target" else "E216"
            message = f"the option '{option.key}' has `edges`, so '{key}' stands on each of them. Move it there"
            yield draft.at_key((*path, key), code, message)
    for index, part in enumerate(option.edges):
        if part.must:
            where = f"an edge of the option '{option.key}'"
            message = f"'must' stands on {where}: must edges wait for no choice. Put it on an edge under `on`"
            yield draft.at_key((*path, "edges", index, "must"), "E207", message)


def _free(draft: Draft, path: Path, free: FreeOptions) -> Iterator[Finding]:
    low, high = free.bounds
    if low > high:
        yield draft.at_value((*path, "free"), "E114", f"'{free.free}' ends below its start. Write {high}..{low}")
    elif len(free.kinds) < low:
        message = f"{low} choices need {low} kinds, and there are {len(free.kinds)}. Add kinds, or offer fewer"
        yield draft.at_key((*path, "kinds"), "E114", message)


def _dice_path(edge: Edge) -> Path:
    if edge.option:
        return (*option_path(edge), "dice")
    return (*(edge.path[:-2] if edge.source else edge.path), "dice")


def _dice(draft: Draft) -> Iterator[Finding]:
    yield from _long_dice(draft)
    reported: set[Path] = set()
    for state in draft.definition.states:
        first: dict[tuple[str, str], Path] = {}
        for path, event, die in _rolled(draft, state):
            other = first.setdefault((event, die.casefold()), path)
            if other != path and path not in reported:
                reported.add(path)
                line, _ = draft.document.places.key(other)
                message = f"a second die '{die}' for '{event}' in '{state}'; the first is in line {line}. Rename one"
                yield draft.at_key(path, "E213", message)


def _rolled(draft: Draft, state: str) -> Iterator[tuple[Path, str, str]]:
    """Every die of a state, with its place and its event."""
    for edge in draft.edges:
        if edge.source in {state, ROOT}:
            for die in edge.dice:
                yield (*_dice_path(edge), die), edge.event, die


def _long_dice(draft: Draft) -> Iterator[Finding]:
    seen: set[Path] = set()
    for edge in draft.edges:
        for name, die in edge.dice.items():
            path = (*_dice_path(edge), name)
            if not isinstance(die, LongDie) or path in seen:
                continue
            seen.add(path)
            if (die.pick is None) == (die.roll is None):
                yield draft.at_key(path, "E107", f"the die '{name}' needs one of pick and roll. Write {{pick: [a, b]}}")
            elif die.pick and len(set(die.pick)) < len(die.pick):
                yield draft.at_value(
                    (*path, "pick"), "E107", f"the die '{name}' has a pick twice. Each is as likely as the next"
                )
