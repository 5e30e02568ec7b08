"""Prompts made again: for a state of a machine, or for a turn that a session's record holds.

Either is settled by the real rules and rendered as a turn renders it; nothing is told, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runtime import loader, quoting, request
from runtime.advance import ZEROES, arrived, roll_dice, route, settle, turn_scope
from runtime.check_names import unfit
from runtime.exported import Header, Line
from runtime.formats import read_entry
from runtime.machine import CompiledEdge, Machine, consider, known_values
from runtime.model import FreeOptions, State, Variable, said_in
from runtime.narrators import Task, answer
from runtime.prompt import Message
from runtime.recompute import asked_again, before, settled_again
from runtime.request import Asked, Opened, nearest
from runtime.session import Choice, Entry, Invoke, Node, Session
from runtime.stores.heads import node_of
from runtime.tokens import roughly, shared_chars
from runtime.turn import brief, choose_edge, prompt_hash, settled_by, timed
from server.play.table import Refused

SHOWN_MARKS = quoting.Marks(fresh="text", lasting="session")
"""What stands for the marks that each call to a model makes around a player's words."""
WRONG = "wrong_use"


class Rendered(Struct, frozen=True, kw_only=True):
    """One turn's prompt, as a model gets it: the last message is the runtime's own, and says the answer's shape.

    `turn` and `parent` are 0 where no record has it. `is_as_sent` says whether its prompt is the one
    that was sent then, None where that isn't known. `is_open` whether the edge's guard holds.
    """

    machine: str
    edge: str
    source: str
    target: str
    choice: str
    language: str
    file: str
    messages: tuple[Message, ...]
    turn: int = 0
    parent: int = 0
    is_as_sent: bool | None = None
    is_open: bool = True

    @property
    def tokens(self) -> int:
        """About how many tokens it takes."""
        return sum(roughly(message.content) for message in self.messages)


class Shared(Struct, frozen=True, kw_only=True):
    """How far a prompt is the one before it: what a provider's cache may serve.

    The first difference is in message `message`, line `line`, both from 1: `was` there before, `now`
    is there. `message` is 0 where nothing differs.
    """

    chars: int = 0
    tokens: int = 0
    of_tokens: int = 0
    message: int = 0
    role: str = ""
    line: int = 0
    was: str = ""
    now: str = ""

    @property
    def share(self) -> float:
        """The shared part of the later prompt, from 0 to 1."""
        return self.tokens / self.of_tokens if self.of_tokens else 0.0


def shared(earlier: Rendered, later: Rendered) -> Shared:
    """What two prompts have in common from their beginning."""
    chars = tokens = 0
    for number, (was, now) in enumerate(zip_longest(earlier.messages, later.messages), 1):
        if was == now:
            chars, tokens = chars + len(now.content), tokens + roughly(now.content)
            continue
        old, new = ("" if each is None else each.content for each in (was, now))
        same = shared_chars(old, new) if was and now and was.role == now.role else 0
        # Where lines were added to a message, the first of them is what differs, not the last before it.
        at = same + 1 if new[same : same + 1] == "\n" and same == len(old) else same
        return Shared(
            chars=chars + same,
            tokens=tokens + roughly(new[:same]),
            of_tokens=later.tokens,
            message=number,
            role=now.role if now else was.role,
            line=new.count("\n", 0, at) + 1,
            was=_line_at(old, at),
            now=_line_at(new, at),
        )
    return Shared(chars=chars, tokens=tokens, of_tokens=later.tokens)


def _line_at(text: str, at: int) -> str:
    """The line that holds a place of a text; '' behind its end."""
    return text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0] if at <= len(text) else ""


def _rendered(task: Task, **more: Any) -> Rendered:
    messages = [Message(each.role, quoting.marked(each.content, SHOWN_MARKS)) for each in task.messages]
    notice = quoting.notice([each.content for each in task.messages], SHOWN_MARKS, task.bounds.language)
    closing = answer.closing(task)
    messages.append(Message("system", f"{notice}\n{closing}" if notice else closing))
    return Rendered(
        machine=task.machine.name,
        edge=task.outcome.edge,
        source=task.outcome.source,
        target=task.outcome.target,
        choice=task.outcome.choice.text,
        language=task.session.constraints.language,
        file=task.prompt.file,
        messages=tuple(messages),
        **more,
    )


# For a state.


class Wanted(Struct, frozen=True, kw_only=True):
    """Which turn is rendered: one that arrives in `state` ('' for the first turn), by an option or edge where named.

    `context` are variables and their values as they were typed.
    """

    state: str = ""
    choose: str = ""
    edge: str = ""
    text: str = ""
    language: str | None = None
    seed: str = "prompts"
    context: Mapping[str, str] = {}


def of_state(machine: Machine, wanted: Wanted) -> Rendered:
    """The prompt of a turn that arrives in a state, in a session that has just begun.

    Dice and all that the first turn draws follow the seed; the values given stand over them. The edge
    is taken whether or not its guard holds. Raises Refused for a name that isn't there, and what the rules raise.
    """
    first, begun = _begun(machine, wanted)
    if not wanted.state and not wanted.choose and not wanted.edge:
        return _rendered(first)
    compiled = _edge_into(machine, wanted)
    if compiled.edge.source == "":
        return _rendered(first)
    source = machine.definition.first.target if compiled.edge.source == "*" else compiled.edge.source
    visits = {**begun.visits, source: begun.visits.get(source, 0) + (source not in begun.visits)}
    session = replace(begun, state=source, visits=visits)
    return _taken(machine, session, compiled, wanted)


def _begun(machine: Machine, wanted: Wanted) -> tuple[Task, Session]:
    """The first turn, and the session after it."""
    event = machine.definition.first.event
    constraints = {} if wanted.language is None else {"language": wanted.language}
    invoke = Invoke(event=event, run_seed=wanted.seed, constraints=constraints)
    opened = request.begin(machine, invoke, "prompts", lambda: "prompts", 0)
    asked = Asked(event=event, choice=Choice(), payload={}, text=wanted.text, sent_as=event, request={})
    settled = settled_by(choose_edge(opened, asked, "operator"), opened, asked)
    context = {**settled.session.context, **_values(machine, wanted.context)}
    settled = replace(settled, session=replace(settled.session, context=context))
    after = arrived(settled.session)
    return brief(opened, settled, asked, route(machine, after).offer), replace(after, turn=1)


def _taken(machine: Machine, session: Session, compiled: CompiledEdge, wanted: Wanted) -> Rendered:
    """The turn that takes an edge, by the first choice that opens it, else by the first."""
    event, text = compiled.edge.event, wanted.text
    texts = {name: text for name, kind in machine.definition.event(event).payload.items() if "text" in kind}
    rolled = roll_dice(machine, session, event, compiled.edge.option or "")
    scopes = [
        (choice, turn_scope(machine, session, event, choice, texts, rolled))
        for choice in _choices(machine, session, compiled, wanted.choose)
    ]
    opening = [
        (choice, scope)
        for choice, scope in scopes
        if consider(compiled, known_values(scope, session.used, choice.key)).verdict == "open"
    ]
    choice, scope = (opening or scopes)[0]
    asked = Asked(event=event, choice=choice, payload={}, text=text, sent_as=event, request={})
    settled = settle(machine, session, compiled, event, choice, scope, rolled)
    opened = Opened(
        machine=machine,
        session=session,
        head=None,
        constraints=session.constraints,
        elapsed_ms=session.elapsed_ms,
        now_ms=0,
        next_turn=session.turn + 1,
    )
    task = brief(opened, timed(settled, opened), asked, route(machine, arrived(settled.session)).offer)
    return _rendered(task, is_open=bool(opening))


def _choices(machine: Machine, session: Session, compiled: CompiledEdge, wanted: str) -> list[Choice]:
    """The option that an edge belongs to, or the kinds that its state may offer, in the session's language."""
    definition = machine.definition
    state = definition.states[session.state]

    def said(text: Any) -> str:
        return said_in(text, session.constraints.language, definition.language)

    own = [Choice(key=each.key, text=said(each.text)) for each in state.authored if each.key == compiled.edge.option]
    if own or compiled.edge.event != _event_of_kinds(state):
        return own or [Choice()]
    return [Choice(kind=kind, text=said(text)) for kind, text in state.kinds.items() if wanted in ("", kind)]


def _event_of_kinds(state: State) -> str:
    """The event that free options send; '' where a state has none."""
    return state.options.event if isinstance(state.options, FreeOptions) else ""


def _is_by(machine: Machine, compiled: CompiledEdge, choice: str) -> bool:
    """Whether an option, or a kind of free ones, leads to an edge."""
    if compiled.edge.option == choice:
        return True
    state = machine.definition.states.get(compiled.edge.source)
    return state is not None and choice in state.kinds and compiled.edge.event == _event_of_kinds(state)


def _edge_into(machine: Machine, wanted: Wanted) -> CompiledEdge:
    """The first edge that fits what is wanted. Raises Refused where none does, with those that there are."""
    edges = _edges(machine)
    states = machine.definition.states
    if wanted.state and wanted.state not in states:
        raise _unknown("state", wanted.state, states)
    named = {each.full_name: each for each in edges}
    if wanted.edge and wanted.edge not in named:
        raise _unknown("edge", wanted.edge, named)
    options = dict.fromkeys(each.edge.option for each in edges if each.edge.option)
    kinds = {kind: None for state in states.values() for kind in state.kinds}
    if wanted.choose and wanted.choose not in options | kinds:
        raise _unknown("option", wanted.choose, options | kinds)
    fitting = [
        each
        for each in edges
        if wanted.state in ("", each.edge.target)
        and wanted.edge in ("", each.full_name)
        and (not wanted.choose or _is_by(machine, each, wanted.choose))
    ]
    if not fitting:
        raise _no_such_way(machine, wanted, edges)
    return fitting[0]


def _edges(machine: Machine) -> list[CompiledEdge]:
    """Every edge once: the first turn's, the states' own in file order, then those of the root."""
    found = {each.full_name: each for compiled in machine.table.values() for each in compiled}
    own = [each for each in found.values() if each.edge.source != "*"]
    return [machine.initial, *own, *(each for each in found.values() if each.edge.source == "*")]


def _no_such_way(machine: Machine, wanted: Wanted, edges: Iterable[CompiledEdge]) -> Refused:
    """No edge goes there so: what leads where."""
    meant = [each for each in edges if wanted.edge == each.full_name]
    meant = meant or [each for each in edges if wanted.choose and _is_by(machine, each, wanted.choose)]
    targets = ", ".join(dict.fromkeys(each.edge.target for each in meant))
    what = f"edge '{wanted.edge}'" if wanted.edge else f"option '{wanted.choose}'"
    if not targets:
        return Refused(WRONG, f"no edge leads to state '{wanted.state}'", "Name another state")
    return Refused(WRONG, f"no {what} leads to state '{wanted.state}'", f"It leads to: {targets}")


def _values(machine: Machine, typed: Mapping[str, str]) -> dict[str, Any]:
    """Variables' values, of their own types. Raises Refused for a name or a value that can't be."""
    variables = machine.definition.context
    values: dict[str, Any] = {}
    for name, text in typed.items():
        if name not in variables:
            raise _unknown("variable", name, variables)
        values[name] = _value(variables[name], text)
        if problem := unfit(values[name], variables[name], "value"):
            what, _, mend = problem.partition(". ")
            raise Refused(WRONG, f"{name}={text}: {what}", mend or "Give a value that the variable may have")
    return values


def _value(variable: Variable, text: str) -> Any:
    if variable.type == "set":
        given = [each.strip() for each in text.split(",") if each.strip()]
        known = [each for each in variable.of or [] if each in given]
        return [*known, *(each for each in given if each not in known)]
    if variable.type in ("str", "enum"):
        return text
    try:
        return msgspec.convert(text, type(ZEROES[variable.type]), strict=False)
    except msgspec.ValidationError:
        return text


def _unknown(what: str, name: str, known: Iterable[str]) -> Refused:
    known = list(known)
    meant = nearest(name, known)
    mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(known)}"
    return Refused(WRONG, f"there is no {what} '{name}'", mend)


# For a record.


class Record:
    """A session's exported record: its entries, as the rules look them up, and the definitions that it was played on.

    Raises Refused where the lines are none, or bring no definitions.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        header, *rest = lines
        self.header = msgspec.json.decode(header, type=Header)
        read = (msgspec.json.decode(line, type=Line) for line in rest if line)
        self._entries = [read_entry(bytes(line.body), line.hash) for line in read]
        self._tellings = {entry.turn: entry for entry in self._entries if entry.is_telling}
        self._machines: dict[str, Machine] = {}
        if not self.header.definitions:
            where = f"the record of session '{self.header.session_id}' comes without its machine"
            raise Refused("forbidden", where, "Ask with an operator's token: --token")

    async def entry(self, session_id: str, turn: int) -> Entry | None:  # noqa: ARG002 - there is only one session
        """The telling of a turn."""
        return self._tellings.get(turn)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:  # noqa: ARG002 - the same
        """Entries with `seq > after`, oldest first, at most `limit`."""
        return self._entries[after : after + limit]

    async def tree(self, session_id: str) -> list[Node]:  # noqa: ARG002 - the same
        """Every entry without its texts, oldest first."""
        return [node_of(entry) for entry in self._entries]

    @property
    def branch(self) -> list[int]:
        """The turns on the way to the head, oldest first."""
        way: list[int] = []
        turn: int | None = self._entries[-1].turn
        while turn is not None and turn in self._tellings:
            way.append(turn)
            turn = self._tellings[turn].parent
        return way[::-1]

    def telling(self, turn: int) -> Entry:
        """A turn's telling. Raises Refused."""
        if turn not in self._tellings:
            told = ", ".join(map(str, self._tellings))
            raise Refused("turn_not_found", f"there is no turn {turn}", f"Told were: {told}")
        return self._tellings[turn]

    def machine_of(self, entry: Entry) -> Machine:
        """The very definition that a turn was told by. Raises Refused where the record hasn't got it."""
        digest = entry.after.digest
        if digest not in self._machines:
            files = self.header.definitions.get(digest)
            if files is None:
                raise Refused(
                    "machine_changed", f"the record has no definition for turn {entry.turn}", "Look at another turn"
                )
            self._machines[digest] = loader.load_kept(dict(files))
        return self._machines[digest]


async def of_turn(record: Record, turn: int) -> Rendered:
    """The prompt that a recorded turn was told with. Raises Refused, and what the rules raise."""
    entry = record.telling(turn)
    machine = record.machine_of(entry)
    opened = Opened(
        machine=machine,
        session=await before(record, machine, entry),
        head=None,
        constraints=entry.after.constraints,
        elapsed_ms=entry.after.elapsed_ms,
        now_ms=entry.at_ms,
        next_turn=entry.turn,
    )
    asked = asked_again(machine, entry)
    settled = settled_again(opened, asked, entry)
    settled = replace(settled, session=replace(settled.session, salt=entry.after.salt))
    task = brief(opened, settled, asked, route(machine, arrived(settled.session)).offer)
    is_as_sent = prompt_hash(task.messages) == entry.prompt_hash
    return _rendered(task, turn=entry.turn, parent=entry.parent or 0, is_as_sent=is_as_sent)


async def of_branch(record: Record) -> list[Rendered]:
    """The prompts of every turn on the way to the head, oldest first."""
    return [await of_turn(record, turn) for turn in record.branch]


def pairs(prompts: Iterable[Rendered]) -> Iterator[tuple[Rendered, Shared]]:
    """Each prompt but the first, with what it shares with the one before."""
    earlier: Rendered | None = None
    for each in prompts:
        if earlier is not None:
            yield each, shared(earlier, each)
        earlier = each
