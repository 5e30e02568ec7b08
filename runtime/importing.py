"""Taking in a session that was given away as lines: all of it or nothing, and nothing on trust.

The file may be anybody's. Each line is held against its hash, the chain against itself, each
entry against the machine that made it, whose rules are run again, and each definition against its
digest, before a byte is kept. What a store holds afterwards is what an honest server could have written.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from runtime import loader
from runtime.claims import KEY_KEPT_MS
from runtime.errors import DesignError, MachineChanged, ValidationError
from runtime.exported import EXPORT_VERSION, Header, Line
from runtime.formats import is_intact, read_entry
from runtime.machine import Machine
from runtime.origins import copied
from runtime.plausible import HASH, ID, LAST_TURN, strange, strange_answer, strange_body
from runtime.progress import Done, Progress, Step
from runtime.session import JOURNAL_FORMAT, Entry, Node, Session
from runtime.stores import Row
from runtime.stores.heads import node_of, refuse_existing, row_of
from runtime.verify import Rules

if TYPE_CHECKING:
    from runtime.turn import Runtime

MAX_LINE_BYTES = 8 << 20
"""The longest line, in bytes; the first holds whole definitions."""
PROGRESS_EVERY = 100
"""Entries from one Progress to the next."""

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
    mend, SessionExists, StoreUnavailable; no entry is kept then, and no definition of a file that has faults.
    """
    numbered = _numbered(lines)
    header = _header(await anext(numbered, None))
    kept_as = session_id or header.session_id
    if not ID.fullmatch(kept_as):
        raise ValidationError(
            "the session's new id is none", "Send 1 to 128 of A-Z, a-z, 0-9 and _ . : -",
            details=[{"loc": ["session_id"], "msg": "not an id", "type": "pattern"}],
        )  # fmt: skip
    refuse_existing(await runtime.store.head(kept_as))
    chain = _Chain(runtime, header)
    async for number, line in numbered:
        await chain.take(number, line)
        if len(chain.rows) % PROGRESS_EVERY == 0:
            yield Progress(len(chain.rows), header.entries)
        await asyncio.sleep(0)  # to check an entry waits for nothing: let the turns that are played go on
    head = chain.whole()
    rows = chain.rows if kept_as == header.session_id else await _renamed(chain.rows, kept_as)
    refuse_existing(await runtime.store.head(kept_as))
    for digest, files in chain.definitions.items():
        await runtime.store.keep(digest, files)
    await runtime.finish(runtime.store.adopt(rows))
    facts = {"session_id": kept_as, "machine": head.after.machine, "turn": head.turn, "entries": len(rows)}
    yield Done(is_good=True, facts={**facts, "definitions": len(chain.definitions)})


async def _renamed(rows: list[Row], session_id: str) -> list[Row]:
    """The rows as another session keeps them."""
    copy: Entry | None = None
    made: list[Row] = []
    for row in rows:
        copy = copied(read_entry(row.body, row.hash), session_id, copy)
        made.append(row_of(copy))
        await asyncio.sleep(0)  # as above
    return made


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
    if not ID.fullmatch(header.session_id):
        _refuse(number, "session_id is no session's id", _STRANGE)
    return header


class _Chain:
    """The entries that were read so far, and their rows. `definitions` are those that the store didn't have."""

    def __init__(self, runtime: Runtime, header: Header) -> None:
        self.definitions: dict[str, dict[str, str]] = {}
        self.rows: list[Row] = []
        self._rules = Rules(_Taken(self.rows))
        self._keys: dict[str, int] = {}
        self._runtime = runtime
        self._header = header
        self._machines: dict[str, Machine] = {}
        self._turns: set[int] = set()
        self._last_turn = 0
        self._last_number = 1
        self._head: Entry | None = None

    async def take(self, number: int, line: bytes) -> None:
        """Check the next entry, and add it. Raises ValidationError."""
        found: Line = _decoded(number, _read_line, line, "not the line of an entry")
        body = bytes(found.body)
        if _NUL.search(body):
            _refuse(number, "a text holds the character U+0000, which no store keeps", _STRANGE)
        if not HASH.fullmatch(found.hash) or not _decoded(number, _intact(found.hash), body, "not an entry"):
            _refuse(number, "the entry is not what its hash was made over", _UNTOUCHED)
        for what in _decoded(number, lambda data: [*_text_of(data), *strange_body(data)], body, "not an entry"):
            _refuse(number, f"not an entry: {what}", _STRANGE)
        entry: Entry = _decoded(number, lambda data: read_entry(data, found.hash), body, "not an entry")
        for what, mend in self._faults(entry):
            _refuse(number, what, mend)
        await self._refuse_strange(number, await self._machine(number, entry.after), entry)
        self._follow(number, entry)
        self.rows.append(Row(entry.session_id, entry.seq, body, found.hash))

    async def _refuse_strange(self, number: int, machine: Machine, entry: Entry) -> None:
        """Pass what the entry's machine can have made. Raises ValidationError."""
        for what in strange(machine, entry):
            _refuse(number, what, _STRANGE)
        for what in _decoded(number, lambda _: [*strange_answer(entry)], b"", "the entry's answer"):
            _refuse(number, what, _STRANGE)
        try:
            why = await self._rules.why_not(machine, entry)
        except Exception as error:  # noqa: BLE001 - nobody checked it: the rules may break on it anywhere
            why = f"the rules can't play it again: {type(error).__name__}: {_short(error)}"
        if why:
            _refuse(number, f"it does not follow: {why}", _STRANGE)

    def whole(self) -> Entry:
        """The head, now that the file has ended. Raises ValidationError where a part is missing."""
        there = self._head.seq if self._head else 0
        if self._head is None or there != self._header.entries:
            what = f"the file ends after {there} entries, and its first line says {self._header.entries}"
            _refuse(self._last_number, what, _WHOLE)
        return self._head

    def _follow(self, number: int, entry: Entry) -> None:
        self._rules.keep(entry)
        self._head = entry
        if entry.key is not None:
            self._keys[entry.key] = entry.at_ms
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
        if entry.last_turn > max(entry.turn, self._last_turn):
            yield f"it counts {entry.last_turn} turns, and there were {max(entry.turn, self._last_turn)}", _STRANGE
        if entry.key is not None and entry.at_ms - self._keys.get(entry.key, -KEY_KEPT_MS - 1) <= KEY_KEPT_MS:
            yield "it has the Idempotency-Key of an entry before it", _STRANGE

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


class _Taken:
    """What was read so far, for the rules to look up: entries are read again from their rows."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._nodes: list[Node] = []
        self._tellings: dict[int, int] = {}

    async def entry(self, session_id: str, turn: int) -> Entry | None:  # noqa: ARG002 - there is only one session
        """The telling of a turn."""
        self._index()
        at = self._tellings.get(turn)
        return None if at is None else self._read(at)

    async def entries(self, session_id: str, *, after: int = 0, limit: int = 100) -> list[Entry]:  # noqa: ARG002 - the same
        """Entries with `seq > after`, oldest first, at most `limit`."""
        return [self._read(at) for at in range(after, min(after + limit, len(self._rows)))]

    async def tree(self, session_id: str) -> list[Node]:  # noqa: ARG002 - the same
        """Every entry without its texts, oldest first."""
        self._index()
        return self._nodes

    def _index(self) -> None:
        for at in range(len(self._nodes), len(self._rows)):
            entry = self._read(at)
            self._nodes.append(node_of(entry))
            if entry.is_telling:
                self._tellings[entry.turn] = at

    def _read(self, at: int) -> Entry:
        row = self._rows[at]
        return read_entry(row.body, row.hash)


def _text_of(body: bytes) -> tuple[str, ...]:
    """Nothing, where a body is UTF-8 throughout. Raises UnicodeDecodeError."""
    body.decode()
    return ()


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
