"""Tending the journal over HTTP: POST /store/{task}, a long work that tells its steps line by line.

The work begins before the answer does, so that a refusal is a plain one; what fails later is the
last line. A client that goes away ends the work at its next step: each step leaves the journal whole.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import jsonschema_rs
import msgspec
from litestar import Request, post
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from runtime.bench.journal import counted
from runtime.copying import copy
from runtime.errors import Overloaded, Refusal, StoreUnavailable
from runtime.export import import_lines
from runtime.migrate import migrate
from runtime.progress import Done, Step
from runtime.retention import prune
from runtime.verify import verify
from server.body import read_body, read_json, refuse_other_types
from server.faults import Fault, evil, faults_of, nearest, of_conversion, refuse, shown
from server.house import House, enter
from server.logs import log
from server.query import NoQuery, read_query
from server.refusals import BadRequest, BodyTooLarge, InternalError, NotFound, UnsupportedMediaType
from server.wire import Id, Sent

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

    from server.call import Call
    from server.settings import Settings

Asked = Request[Any, Any, Any]
Steps = AsyncIterator[Step]
_Sent = TypeVar("_Sent", bound=Sent)

NDJSON: Final = "application/x-ndjson"
LINES_TYPES: Final = (NDJSON, "application/jsonl")
"""Media types of an import's body: none that a foreign web page may send without being asked."""
MAX_IMPORT_BYTES: Final = 256 << 20
"""The most that one import may send; its session is held in memory until it is whole."""
MAX_LINE_BYTES: Final = 8 << 20
DAY_MS: Final = 86_400_000
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_JOURNAL_SUFFIX = ".duckdb"


class NothingSent(Sent, frozen=True):
    """A task without a choice."""


class BackupSent(Sent, frozen=True):
    """Where to write the copy."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None


class PruneSent(Sent, frozen=True):
    """Which sessions to remove: those last played longer ago than this."""

    older_than_days: Annotated[float, Meta(ge=0, le=100_000)]
    ended_only: bool = True
    dry_run: bool = False


class MigrateSent(Sent, frozen=True):
    """Which machine's sessions to move to the version that is served; all by default."""

    machine: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    dry_run: bool = False


class CoverageSent(Sent, frozen=True):
    """Which machine's turns to count; all by default."""

    machine: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class ImportQuery(Sent, frozen=True):
    """Under which id to keep the session; its own by default."""

    session_id: Annotated[Id, Meta(description="The session's new id; its own by default.")] | None = None


class Tending:
    """What a server is at: one long work at a time, and none once it is to stop."""

    def __init__(self, settings: Settings) -> None:
        path = settings.store_path
        self.folder = path.parent if path else settings.project_path / "data"
        self.journal = path.name if path else ""
        self.busy = ""
        self.is_stopping = False

    @contextmanager
    def at(self, task: str) -> Iterator[None]:
        """Be at a task. Raises Overloaded where another one is under way."""
        if self.busy:
            raise Overloaded(
                f"the journal is being tended: {self.busy} is under way",
                "Send the same again when it has ended.",
                task=self.busy,
                retry_after_seconds=5,
            )
        self.busy = task
        try:
            yield
        finally:
            self.busy = ""

    def stop(self) -> None:
        """End the work under way at its next step: the server is to end."""
        self.is_stopping = True


@post("/store/{task:str}", status_code=200)
async def tend_store(request: Asked, task: FromPath[str]) -> ASGIApp:
    """Tend the journal; the answer's lines are the steps of the work."""
    house, call = enter(request, "operator")
    if task == "import":
        query = read_query(ImportQuery, request.scope["query_string"])
        _refuse_other_lines(call.headers)
        return _Work(house, task, lambda lines: import_lines(house.runtime, lines, session_id=query.session_id))
    if task not in _TASKS:
        raise _unknown(task)
    read_query(NoQuery, request.scope["query_string"])
    kind, begun = _TASKS[task]
    raw = await read_body(request.receive, call.headers.get(b"content-length"))
    if not _is_nothing(raw, call.headers):
        refuse_other_types(call.headers.get(b"content-type"), call.headers.get(b"content-encoding"))
    steps = begun(house, call, read_sent(kind, raw))
    return _Work(house, task, lambda _: steps)


def _is_nothing(raw: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether no body was sent, nor a type for one. A web page, whose browser says its Origin, must name the type."""
    return not raw and b"content-type" not in headers and b"origin" not in headers


def _unknown(task: str) -> NotFound:
    tasks = [*_TASKS, "import"]
    meant = nearest(task, tasks)
    return NotFound(
        f"the store has no task '{shown(task)}'" + (f". Did you mean '{meant}'?" if meant else ""),
        f"POST /store/ has {', '.join(tasks)}.",
        path=f"/store/{shown(task)}",
        tasks=tasks,
    )


def _refuse_other_lines(headers: Mapping[bytes, bytes]) -> None:
    """Pass JSON lines. Raises UnsupportedMediaType, BodyTooLarge."""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind not in LINES_TYPES or headers.get(b"content-encoding", b"identity") != b"identity":
        raise UnsupportedMediaType(
            f"the body's Content-Type is '{shown(kind)}': an import is JSON lines in UTF-8, not compressed",
            f"Send the header Content-Type: {NDJSON}.",
            accepted_types=list(LINES_TYPES),
        )
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > MAX_IMPORT_BYTES:
        raise _too_large("the body", MAX_IMPORT_BYTES)


def _too_large(what: str, limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"{what} is over {limit} bytes", "Send a smaller one.", limit_bytes=limit)


def read_sent(kind: type[_Sent], raw: bytes) -> _Sent:
    """A small body as a Struct; an empty one is `{}`. Raises MalformedJson, ValidationError with all faults."""
    value = read_json(raw) if raw.strip() else {}
    faults = list(evil(value, ("body",)))
    validator = jsonschema_rs.validator_for(msgspec.json.schema(kind))
    faults += faults_of(validator, value, {(): kind.__struct_fields__}, "body")
    if faults:
        raise refuse(faults)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise refuse([of_conversion(error, "body")]) from None


# The tasks.


def _backup(house: House, call: Call, sent: BackupSent) -> Steps:
    """Copy the journal into a DuckDB file of its own; a store that can't itself is copied entry by entry."""
    path = _backup_path(house.tending, call, sent.path)
    own: Callable[[Path], Steps] | None = getattr(house.runtime.store, "backup", None)
    return own(path) if own else _copied_into(house, path)


def _backup_path(tending: Tending, call: Call, asked: str | None) -> Path:
    """The file to write: in the data folder, or anywhere for who holds the journal's own token.

    Raises ValidationError. An operator's token alone must not be a way to write over this machine's files.
    """
    name = asked or f"backup-{datetime.now(UTC):%Y%m%d-%H%M%S}{_JOURNAL_SUFFIX}"
    path = Path(name)
    if not _FILE_NAME.fullmatch(name):
        if not (path.is_absolute() and call.is_owner):
            what = "must be a file's name, of letters, digits and _ . -: it is written to the server's data folder"
            raise refuse([Fault(["body", "path"], what, "pattern")])
    else:
        path = tending.folder / name
    _refuse_names_of_parts(path.name, tending.journal)
    if path.exists():
        raise refuse([Fault(["body", "path"], "exists already, and a backup replaces nothing", "exists")])
    return path


def _refuse_names_of_parts(name: str, journal: str) -> None:
    """Pass a journal's name. Raises ValidationError for what a journal may write beside itself: its log, its lock."""
    if name.endswith(_JOURNAL_SUFFIX) and not (journal and name.startswith(f"{journal}.")):
        return
    rule = f"must end in {_JOURNAL_SUFFIX}" + (f" and not begin with '{shown(journal)}.'" if journal else "")
    what = f"{rule}: other names are for what a journal keeps beside itself. Send one like monday{_JOURNAL_SUFFIX}"
    raise refuse([Fault(["body", "path"], what, "pattern")])


async def _copied_into(house: House, path: Path) -> Steps:
    from runtime.stores.duckdb import DuckDBStore  # noqa: PLC0415 - takes longer to import than a server to begin

    target = DuckDBStore(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    await target.open()
    try:
        async for step in copy(house.runtime.store, target):
            yield Done(step.is_good, {**step.facts, "path": str(path)}) if isinstance(step, Done) else step
    finally:
        await target.close()


def _verify(house: House, _: Call, __: NothingSent) -> Steps:
    return verify(house.runtime)


async def _compact(house: House, _: Call, __: NothingSent) -> Steps:
    """Give unused space back, where the store is one that needs to be told."""
    store: Any = house.runtime.store
    if not hasattr(store, "compact"):
        yield Done(is_good=True, facts={"note": "there is nothing to do: this store gives space back by itself"})
        return
    async for step in store.compact():
        yield step


def _prune(house: House, _: Call, sent: PruneSent) -> Steps:
    older_than_ms = round(sent.older_than_days * DAY_MS)
    return prune(house.runtime, older_than_ms=older_than_ms, ended_only=sent.ended_only, dry_run=sent.dry_run)


def _migrate(house: House, _: Call, sent: MigrateSent) -> Steps:
    return migrate(house.runtime, sent.machine, dry_run=sent.dry_run)


def _coverage(house: House, _: Call, sent: CoverageSent) -> Steps:
    return counted(house.runtime, sent.machine)


_TASKS: Mapping[str, tuple[type[Any], Callable[[House, Call, Any], Steps]]] = {
    "backup": (BackupSent, _backup),
    "verify": (NothingSent, _verify),
    "compact": (NothingSent, _compact),
    "prune": (PruneSent, _prune),
    "migrate": (MigrateSent, _migrate),
    "coverage": (CoverageSent, _coverage),
}


# The answer.


class Failed(Struct, frozen=True, tag="failed"):
    """The last line of work that failed after its first: a refusal's code, sentence and mend."""

    error: str
    message: str
    hint: str = ""


_STOPPED = Failed(StoreUnavailable.code, "the server is to stop, and the work with it", "Send the same again.")


class _Work:
    """The answer of a task: its steps, a line each, as they come."""

    def __init__(self, house: House, task: str, begun: Callable[[AsyncIterator[bytes]], Steps]) -> None:
        self._house = house
        self._task = task
        self._begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Do it, and tell it. Raises what the first step raises: then nothing is sent yet."""
        upload = _Upload(receive)
        with self._house.tending.at(self._task):
            steps = self._begun(upload.lines())
            try:
                if self._task != "import":
                    upload.watch()
                first = await anext(steps)
                headers = [(b"content-type", NDJSON.encode()), (b"x-accel-buffering", b"no")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for line in self._lines(first, steps, upload):
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            finally:
                await _closed(steps)
                await upload.close()
        # Only now: who has seen the end may ask for the next task at once.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self, first: Step, steps: Steps, upload: _Upload) -> AsyncIterator[bytes]:
        """The steps as lines, until the work has ended, the client has gone, or the server is to stop."""
        step: Step | None = first
        try:
            while step is not None and not upload.is_gone:
                yield line_of(step)
                if self._house.tending.is_stopping and not isinstance(step, Done):
                    yield line_of(_STOPPED)
                    return
                step = await anext(steps, None)
        except Refusal as refusal:
            yield line_of(Failed(refusal.code, refusal.message, refusal.hint))
        except Exception:  # noqa: BLE001 - the answer has begun: what nobody foresaw is its last line
            log.exception("crash", task=self._task)
            why = f"{self._task} failed, and not through this request's fault"
            yield line_of(Failed(InternalError.code, why, "The server's log has why; tell the operator."))


def line_of(step: Step | Failed) -> bytes:
    """One line of the answer: JSON in ASCII, since readers of lines disagree on what ends one."""
    return json.dumps(msgspec.to_builtins(step), separators=(",", ":")).encode() + b"\n"


async def _closed(steps: Steps) -> None:
    """End a work that was not done to its end."""
    if isinstance(steps, AsyncGenerator):
        await steps.aclose()


class _Upload:
    """What the client still sends, and whether it is still there. Watches for it once its body is read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self.is_gone = False

    def watch(self) -> None:
        """Notice when the client goes away, now that its body is read."""
        self._watch = asyncio.create_task(self._watched())

    async def lines(self) -> AsyncIterator[bytes]:
        """The body's lines without their ends. Raises BodyTooLarge, BadRequest."""
        rest: list[bytes] = []
        size, is_more = 0, True
        while is_more:
            message: Any = await self._receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client went away before its body was read", "Send the whole body.")
            is_more = message.get("more_body", False)
            first, *others = message.get("body", b"").split(b"\n")
            rest.append(first)
            size += len(first) + sum(len(each) + 1 for each in others)
            _refuse_large(size, sum(map(len, rest)))
            for line in others:
                yield b"".join(rest)
                rest = [line]
        if any(rest):
            yield b"".join(rest)
        self.watch()

    async def _watched(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True

    async def close(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)


def _refuse_large(size: int, line: int) -> None:
    if size > MAX_IMPORT_BYTES:
        raise _too_large("the body", MAX_IMPORT_BYTES)
    if line > MAX_LINE_BYTES:
        raise _too_large("a line", MAX_LINE_BYTES)


HANDLERS = (tend_store,)
