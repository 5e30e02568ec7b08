"""Taking in a session that was given away as lines: all of it or nothing, and nothing on trust.

The file may be anybody's. Each line is held against its hash, the chain against itself, each
entry against the machine that made it, and each definition against its digest, before a byte is
kept. What a store holds afterwards is what an honest server could have written.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from runtime import loader
from runtime.errors import DesignError, MachineChanged, ValidationError
from runtime.exported import EXPORT_VERSION, Header, Line, read_answer, read_standing
from runtime.formats import is_intact, read_entry
from runtime.machine import Machine
from runtime.model import Variable
from runtime.origins import copied
from runtime.progress import Done, Progress, Step
from runtime.session import JOURNAL_FORMAT, Change, Entry, Session
from runtime.stores import Row
from runtime.stores.heads import refuse_existing, row_of

if TYPE_CHECKING:
    from runtime.turn import Runtime

MAX_LINE_BYTES = 8 << 20
"""The longest line, in bytes; the first holds whole definitions."""
PROGRESS_EVERY = 100
"""Entries from one Progress to the next."""
LAST_MOMENT_MS = 253_402_300_799_999
"""The end of the year 9999: no later time can be shown."""
LAST_TURN = 2**31 - 1
PLAYER_ID_CHARS = 128
KEY_CHARS = 255

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_HASH = re.compile(r"[0-9a-f]{64}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_read_header = msgspec.json.Decoder(Header).decode
_read_line = msgspec.json.Decoder(Line).decode
_WHOLE = "Export the session again: a part of a session can't be taken in."
_UNTOUCHED = "The file was changed after its export, or cut: export the session again."
_STRANGE = "No version of Edgewise writes this: export the session from the server that has it."


async def import_lines(
    runtime: Runtime, lines: AsyncIterator[bytes], *, session_id: str | None = None
) -> AsyncIterator[Step]:
    """Keep an exported session, under its own id or another; under another its entries are sealed anew.

    `lines` come without their ends, or with. Facts of Done: session_id, machine, turn, entries,
    definitions (how many were new to this store). Raises ValidationError with the line and the
    mend, SessionExists, StoreUnavailable; nothing is kept then.
    """
    numbered = _numbered(lines)
    header = _header(await anext(numbered, None))
    kept_as = session_id or header.session_id
    if not _ID.fullmatch(kept_as):
        raise ValidationError(
            "the session's new id is none", "Send 1 to 128 of A-Z, a-z, 0-9 and _ . : -",
            details=[{"loc": ["session_id"], "msg": "not an id", "type": "pattern"}],
        )  # fmt: skip
    refuse_existing(await runtime.store.head(kept_as))
    chain = _Chain(runtime, header)
    rows: list[Row] = []
    copy: Entry | None = None
    async for number, line in numbered:
        entry, row = await chain.taken(number, line)
        if kept_as != header.session_id:
            copy = copied(entry, kept_as, copy)
            row = row_of(copy)
        rows.append(row)
        if len(rows) % PROGRESS_EVERY == 0:
            yield Progress(len(rows), header.entries)
    head = chain.whole()
    for digest, files in chain.definitions.items():
        await runtime.store.keep(digest, files)
    await runtime.finish(runtime.store.adopt(rows))
    facts = {"session_id": kept_as, "machine": head.after.machine, "turn": head.turn, "entries": len(rows)}
    yield Done(is_good=True, facts={**facts, "definitions": len(chain.definitions)})


async def _numbered(lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Lines with their numbers; blank ones are passed over."""
    number = 0
    async for line in lines:
        number += 1
        if len(line) > MAX_LINE_BYTES:
            _refuse(number, f"longer than {MAX_LINE_BYTES} bytes", "No export has a line like this.")
        if line.strip():
            yield number, line


def _refuse(number: int, what: str, mend: str) -> NoReturn:
    """Raise the refusal of a line: what is wrong, and what to do."""
    detail = {"loc": ["line", number], "msg": what, "type": "export"}
    raise ValidationError(f"line {number}: {what}", mend, details=[detail])


def _decoded(number: int, read: Any, data: bytes | msgspec.Raw, what: str) -> Any:
    """What a decoder makes of a line. Raises ValidationError."""
    try:
        return read(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(number, f"{what}: {_short(error)}", _STRANGE)
    except RecursionError:
        _refuse(number, f"{what}: nested too deeply", _STRANGE)


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _header(first: tuple[int, bytes] | None) -> Header:
    if first is None:
        _refuse(1, "the file is empty", "Send what GET /sessions/{id}/export?format=jsonl gave.")
    number, line = first
    header: Header = _decoded(number, _read_header, line, "not the first line of an export")
    if header.edgewise_export != EXPORT_VERSION:
        what = f"an export of version {header.edgewise_export}, and this Edgewise reads version {EXPORT_VERSION}"
        _refuse(number, what, "Take it in with a newer Edgewise.")
    if not _ID.fullmatch(header.session_id):
        _refuse(number, "session_id is no session's id", _STRANGE)
    return header


class _Chain:
    """The entries that were read so far. `definitions` are those that the store didn't have."""

    def __init__(self, runtime: Runtime, header: Header) -> None:
        self.definitions: dict[str, dict[str, str]] = {}
        self._runtime = runtime
        self._header = header
        self._machines: dict[str, Machine] = {}
        self._turns: set[int] = set()
        self._last_turn = 0
        self._last_number = 1
        self._head: Entry | None = None

    async def taken(self, number: int, line: bytes) -> tuple[Entry, Row]:
        """The next entry, and its row as it was kept. Raises ValidationError."""
        found: Line = _decoded(number, _read_line, line, "not the line of an entry")
        body = bytes(found.body)
        if _NUL.search(body):
            _refuse(number, "a text holds the character U+0000, which no store keeps", _STRANGE)
        if not _HASH.fullmatch(found.hash) or not _decoded(number, _intact(found.hash), body, "not an entry"):
            _refuse(number, "the entry is not what its hash was made over", _UNTOUCHED)
        entry: Entry = _decoded(number, lambda data: read_entry(data, found.hash), body, "not an entry")
        for what, mend in self._faults(entry):
            _refuse(number, what, mend)
        machine = await self._machine(number, entry.after)
        for what in _strange(machine, entry):
            _refuse(number, what, _STRANGE)
        _decoded(number, read_answer if entry.is_telling else read_standing, entry.answer, "the entry's answer")
        if entry.shown:
            _decoded(number, read_standing, entry.shown, "what the entry shows beside its answer")
        self._follow(number, entry)
        return entry, Row(entry.session_id, entry.seq, body, found.hash)

    def whole(self) -> Entry:
        """The head, now that the file has ended. Raises ValidationError where a part is missing."""
        there = self._head.seq if self._head else 0
        if self._head is None or there != self._header.entries:
            what = f"the file ends after {there} entries, and its first line says {self._header.entries}"
            _refuse(self._last_number, what, _WHOLE)
        return self._head

    def _follow(self, number: int, entry: Entry) -> None:
        self._head = entry
        self._last_number = number
        self._last_turn = max(self._last_turn, entry.turn, entry.last_turn)
        if entry.is_telling:
            self._turns.add(entry.turn)

    def _faults(self, entry: Entry) -> Iterator[tuple[str, str]]:
        """What is wrong with an entry in its place, and the mend."""
        seq, hash_ = (self._head.seq, self._head.hash) if self._head else (0, "")
        if entry.format > JOURNAL_FORMAT:
            yield f"the entry has format {entry.format}", "Take it in with a newer Edgewise."
        if entry.session_id != self._header.session_id or entry.after.session_id != entry.session_id:
            yield "the entry is another session's", _UNTOUCHED
        if entry.seq != seq + 1 or entry.prev_hash != hash_:
            yield f"the entry does not follow entry {seq}: one is lost, or out of place", _UNTOUCHED
        if entry.seq > self._header.entries:
            yield f"the first line says that there are {self._header.entries} entries", _UNTOUCHED
        if entry.after.turn != entry.turn:
            yield f"the session stands at turn {entry.after.turn}, and the entry at turn {entry.turn}", _STRANGE
        yield from self._misplaced(entry)

    def _misplaced(self, entry: Entry) -> Iterator[tuple[str, str]]:
        """What is wrong with an entry's place in the tree."""
        if entry.is_telling and not self._last_turn < entry.turn <= LAST_TURN:
            yield f"turn {entry.turn} comes after turn {self._last_turn}: a turn's number is never used again", _STRANGE
        if not entry.is_telling and entry.turn not in self._turns:
            yield f"turn {entry.turn} was never told", _STRANGE
        if entry.parent is not None and entry.parent not in self._turns:
            yield f"its parent, turn {entry.parent}, was never told before it", _STRANGE
        if not 0 <= entry.last_turn <= LAST_TURN or (entry.format > 1 and entry.last_turn < self._last_turn):
            yield f"its last turn, {entry.last_turn}, goes back behind {self._last_turn}", _STRANGE

    async def _machine(self, number: int, session: Session) -> Machine:
        """The machine that an entry was made by. Raises ValidationError."""
        if session.digest not in self._machines:
            self._machines[session.digest] = await self._found(number, session)
        return self._machines[session.digest]

    async def _found(self, number: int, session: Session) -> Machine:
        sent = self._header.definitions.get(session.digest)
        try:
            if sent is None or await self._runtime.store.kept(session.digest) is not None:
                return await self._runtime.machine_of(session)
        except (MachineChanged, DesignError):
            if sent is None:
                _refuse(
                    number,
                    f"the definition of machine '{session.machine}' is neither in the file nor in this store",
                    "Export it with an operator's token: then its definitions are in the file.",
                )
        files = dict(sent or {})
        machine = await _compiled(session.digest, files)
        self.definitions[session.digest] = files
        return machine


def _intact(hash_: str) -> Any:
    return lambda body: is_intact(body, hash_)


async def _compiled(digest: str, files: Mapping[str, str]) -> Machine:
    """A definition of the first line, which is none of ours. Raises ValidationError."""
    if any("\0" in text for pair in files.items() for text in pair):
        _refuse(1, f"definition {digest} holds the character U+0000, which no store keeps", _STRANGE)
    if loader.digest_of(files) != digest:
        _refuse(1, f"definition {digest} is not what its digest was made over", _UNTOUCHED)
    try:
        return await asyncio.to_thread(loader.load_kept, files)
    except DesignError as error:
        _refuse(1, f"definition {digest} is faulty: {error.findings[0]}", _STRANGE)
    except Exception as error:  # noqa: BLE001 - nobody checked it: it may break the compiler anywhere
        _refuse(1, f"definition {digest} is faulty: {type(error).__name__}: {_short(error)}", _STRANGE)


def _strange(machine: Machine, entry: Entry) -> Iterator[str]:
    """Whatever in an entry no rule of its machine could have made."""
    session = entry.after
    if (session.machine, session.version) != (machine.name, machine.definition.version):
        yield f"the session names machine '{session.machine}', and its definition is '{machine.name}'"
    if session.state not in machine.definition.states:
        yield f"machine '{machine.name}' has no state '{session.state}'"
    elif session.ended != machine.definition.states[session.state].is_final:
        yield f"state '{session.state}' and whether the session has ended don't go together"
    yield from _strange_values(machine.definition.context, session.context)
    if entry.is_telling:
        yield from _strange_telling(machine, entry)
    if not all(0 <= moment <= LAST_MOMENT_MS for moment in (entry.at_ms, session.answered_at_ms, session.elapsed_ms)):
        yield "a time lies outside the years 1970 to 9999"
    if len(session.player_id or "") > PLAYER_ID_CHARS or len(entry.key or "") > KEY_CHARS:
        yield "player_id or key is too long"


def _strange_telling(machine: Machine, entry: Entry) -> Iterator[str]:
    if entry.digest != entry.after.digest:
        yield "the turn was told by one definition, and its session stands on another"
    if entry.outcome.edge not in {edge.full_name for edge in machine.edges}:
        yield f"machine '{machine.name}' has no edge '{entry.outcome.edge}'"
    if entry.outcome.target != entry.after.state:
        yield f"the turn led to '{entry.outcome.target}', and the session stands in '{entry.after.state}'"
    if not isinstance(entry.narration.get("output"), Mapping):
        yield "nothing was told"
    if entry.request.get("played") != entry.outcome.event or not isinstance(entry.request.get("payload"), Mapping):
        yield f"the request is not one that event '{entry.outcome.event}' could have come with"
    yield from _strange_changes(machine.definition.context, entry.outcome.changes)


def _strange_changes(context: Mapping[str, Variable], changes: tuple[Change, ...]) -> Iterator[str]:
    for change in changes:
        if change.name not in context:
            yield f"the machine has no variable '{change.name}'"


def _strange_values(context: Mapping[str, Variable], values: Mapping[str, Any]) -> Iterator[str]:
    if set(values) != set(context):
        yield "the session's variables are not the machine's"
        return
    for name, variable in context.items():
        if not _is_value(variable, values[name]):
            yield f"'{name}' has a value that its type, {variable.type}, has not"


def _is_value(variable: Variable, value: Any) -> bool:
    if variable.type == "set":
        return isinstance(value, list) and set(value) <= set(variable.of or ())
    if variable.type == "enum":
        return isinstance(value, str) and value in (variable.of or ())
    if isinstance(value, bool) or variable.type == "bool":
        return isinstance(value, bool) and variable.type == "bool"
    return isinstance(value, {"int": int, "float": int | float, "str": str}[variable.type])
