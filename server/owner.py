"""Who tends a journal: the server that a command was told of, else the process that holds the file, else this one.

Whoever it is answers the same routes, so that a command is written once, as an HTTP client. In this
process the application itself answers, without a socket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec.structs import replace

from runtime.stores import lockfile
from server.play.table import Refused
from server.settings import SettingsError, is_loopback, variable_of
from server.typed import typed

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from litestar import Litestar

    from server.settings import Settings

CONNECT_S = 5.0
SILENCE_S = 600.0
"""Seconds for which a long work may say nothing: compacting a large file has no steps."""
TRIES = 4
"""How often a request with a key is sent where no answer comes, or one that says to send it again."""
PAUSE_S = 0.5
"""Seconds between two tries."""
NDJSON = {"Content-Type": "application/x-ndjson"}

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Owner:
    """A journal's owner, as a client.

    `is_near` where it may write to this user's own files; `is_alone` where nobody can play while
    the command runs.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        where: str,
        *,
        is_near: bool = False,
        is_alone: bool = False,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._client = client
        self.where = where
        self.is_near = is_near
        self.is_alone = is_alone
        self._pause_s = pause_s

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None, **query: Any) -> Any:
        """The `data` of an answer. With a key the same request is sent again where that helps. Raises Refused."""
        headers = {"Idempotency-Key": key} if key else {}
        params = {name: value for name, value in query.items() if value is not None}
        for left in reversed(range(TRIES if key else 1)):
            try:
                answer = await self._client.request(method, path, json=body, headers=headers, params=params)
                return self._data(await answer.aread())
            except httpx.TransportError as error:
                if not left:
                    raise self._silent(error) from error
            except Refused as refused:
                if refused.retry != "same" or not left:
                    raise
            await asyncio.sleep(self._pause_s)
        raise AssertionError("the last try answers or raises")

    async def exchange(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> bytes:
        """An answer's envelope as it came, be it a refusal's. Raises Refused where there is none."""
        try:
            headers = {"Idempotency-Key": key} if key else {}
            answer = await self._client.request(method, path, json=body, headers=headers)
            told = await answer.aread()
        except httpx.TransportError as error:
            raise self._silent(error) from error
        try:
            envelope = _decode(told)
            if isinstance(envelope["code"], int) and isinstance(envelope["data"], dict):
                return told
        except (msgspec.DecodeError, KeyError, TypeError):
            pass
        raise self._stranger()

    async def steps(
        self, task: str, body: Any = None, *, lines: AsyncIterator[bytes] | None = None, **query: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The steps of a task as they come; the last has the type `done`. Raises Refused, also for `failed`.

        Whoever stops reading closes it, so that the work ends before the client does.
        """
        sent: dict[str, Any] = {"json": body or {}} if lines is None else {"content": lines, "headers": NDJSON}
        params = {name: value for name, value in query.items() if value is not None}
        step: dict[str, Any] = {}
        async with (
            self._streamed("POST", f"/store/{task}", params=params, **sent) as answer,
            aclosing(self._lines(answer)) as lines_told,
        ):
            async for line in lines_told:
                step = _decode(line)
                if step["type"] == "failed":
                    raise Refused(step["error"], step["message"], step.get("hint", ""))
                yield step
        if step.get("type") != "done":
            raise Refused("broken_off", f"{self.where} broke off before {task} was done", "Run it again.")

    async def download(self, path: str, **query: Any) -> AsyncGenerator[bytes, None]:
        """The body of an answer that is no envelope, in pieces. Raises Refused.

        Whoever stops reading closes it, as with `steps`.
        """
        async with self._streamed("GET", path, params=query) as answer, aclosing(self._pieces(answer)) as pieces:
            async for piece in pieces:
                yield piece

    @asynccontextmanager
    async def _streamed(self, method: str, path: str, **more: Any) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request(method, path, **more)
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        try:
            if answer.headers.get("content-type", "").startswith("application/json") and answer.is_error:
                self._data(await answer.aread())
            if answer.is_error:
                raise self._stranger()
            yield answer
        finally:
            await answer.aclose()

    async def _lines(self, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        rest = b""
        async with aclosing(self._pieces(answer)) as pieces:
            async for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield line

    async def _pieces(self, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        """An answer's body as it comes. Raises Refused where it breaks off."""
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        except httpx.TransportError as error:
            why = f" ({error})" if str(error) else ""
            raise Refused("broken_off", f"{self.where} broke off{why}", "Run it again.") from error

    def _data(self, body: bytes) -> Any:
        try:
            envelope = _decode(body)
            if envelope["code"]:
                raise _refused(envelope)
            return envelope["data"]
        except (msgspec.DecodeError, KeyError, TypeError):
            raise self._stranger() from None

    def _silent(self, error: Exception) -> Refused:
        why = f" ({error})" if str(error) else ""
        return Refused("unreachable", f"no answer from {self.where}{why}", "Is it running?", retry="same")

    def _stranger(self) -> Refused:
        hint = f"Give the address that {typed('serve')} printed."
        return Refused("no_edgewise", f"what answers at {self.where} is no Edgewise server", hint)


def _refused(envelope: Mapping[str, Any]) -> Refused:
    """What an error's envelope says to an operator: its sentence, or every fault where there are several."""
    data = envelope["data"]
    details = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in data.get("details", [])]
    message = "; ".join(details) if len(details) > 1 else envelope["message"]
    return Refused(data["error"], message, data["hint"], retry=data["retry"])


class Told(NamedTuple):
    """Where a command was told to go: a server's URL and a token for it."""

    url: str | None = None
    token: str | None = None


@asynccontextmanager
async def owner_of(
    settings: Settings, told: Told | None = None, *, needs_project: bool = False, makes_journal: bool = False
) -> AsyncIterator[Owner]:
    """The owner of the journal that the settings name, or the server that was told.

    Where nobody holds the journal it is this process, which with `needs_project` loads the project's
    machines first, and with `makes_journal` begins one where there is none. Raises SettingsError where
    there is no journal, StoreUnavailable where its holder can't be asked, DesignError.
    """
    async with AsyncExitStack() as stack:
        if told and told.url:
            url = (told.url if "://" in told.url else f"http://{told.url}").rstrip("/")
            yield Owner(await stack.enter_async_context(_connected(url, told.token)), url)
        elif holder := await stack.enter_async_context(holder_of(settings)):
            yield holder
        else:
            path = settings.store_path
            if path and not makes_journal and not path.exists():
                raise SettingsError(
                    [f"there is no journal at {path}: {typed('serve')} begins one, or name it: --store"]
                )
            yield await stack.enter_async_context(_in_process(settings, needs_project=needs_project))


@asynccontextmanager
async def holder_of(settings: Settings) -> AsyncIterator[Owner | None]:
    """The server that holds the journal's file now; None where nobody does, or nobody that answers.

    Raises SettingsError where only a server can reach the journal, or its holder is another user's.
    """
    holder = _holder(settings)
    if holder is None or not holder.url:
        yield None
        return
    async with _connected(holder.url, holder.token) as client:
        yield Owner(client, f"{holder.url}, which holds the journal,", is_near=True)


def _holder(settings: Settings) -> lockfile.Owner | None:
    if settings.store == "memory:":
        name = variable_of("store")
        raise SettingsError([f"{name} = memory: is a journal that only its own server can reach: give --url"])
    path = settings.store_path
    try:
        return None if path is None else lockfile.owner_of(path)
    except OSError as error:
        raise SettingsError([f"the journal {path} can't be asked for: {error}"]) from error


@asynccontextmanager
async def _connected(url: str, token: str | None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # No proxy stands between this machine and itself, whatever the environment says.
    is_near = is_loopback(urlsplit(url).hostname or "")
    timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout, trust_env=not is_near) as client:
        yield client


@asynccontextmanager
async def _in_process(settings: Settings, *, needs_project: bool) -> AsyncIterator[Owner]:
    """This process as the owner: the same application, asked without a socket."""
    from server import logs  # noqa: PLC0415 - a command that asks a server needs nothing of it
    from server.app import create_app  # noqa: PLC0415 - the same

    logs.configure(replace(settings, log_level="error"))
    token = secrets.token_urlsafe()
    runtime = _runtime(settings, needs_project=needs_project)
    app = create_app(settings, runtime, own_token=token, on_lost=lambda: None)  # the answer itself says what failed
    headers = {"Authorization": f"Bearer {token}"}
    client = httpx.AsyncClient(transport=Inside(app), base_url="http://edgewise", headers=headers)
    with _told_plainly():
        async with app.lifespan(), client:
            yield Owner(client, "this process", is_near=True, is_alone=settings.store_path is not None)


def _runtime(settings: Settings, *, needs_project: bool) -> Any:
    """The runtime of the settings; without machines where only the journal is tended.

    Then no faulty project stands in the way, and no definition is kept that nobody plays by.
    """
    from runtime.turn import Runtime  # noqa: PLC0415 - see `_in_process`
    from server.build import build_runtime, narrator_of, store_of  # noqa: PLC0415 - the same

    store = store_of(settings, is_served=False)
    if needs_project:
        runtime = build_runtime(settings)
        runtime.store = store
        return runtime
    return Runtime(store, narrator_of(settings), {}, "", turn_deadline_s=settings.turn_deadline_s)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Raise what really happened, out of the groups that the framework's lifespan puts it into."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


class Inside(httpx.AsyncBaseTransport):
    """Requests to an application in this process, from `peer`; answers come as they are sent."""

    def __init__(self, app: Litestar, peer: str = "127.0.0.1") -> None:
        self._app: Any = app
        self._peer = peer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The application's answer, as soon as it begins. Raises what the application raises before."""
        exchange = _Exchange(request, self._peer)
        exchange.task = asyncio.create_task(exchange.run(self._app))
        started = await exchange.sent.get()
        if started is None:
            await exchange.task  # raises why nothing was answered
            raise httpx.RemoteProtocolError("the application gave no answer")
        return httpx.Response(started["status"], headers=started["headers"], stream=_Pieces(exchange))


class _Exchange:
    """One request and its answer, between a client and an application that run in one loop."""

    task: asyncio.Task[None]

    def __init__(self, request: httpx.Request, peer: str) -> None:
        self._request = request
        self._peer = peer
        self._body: AsyncIterator[bytes] = request.stream.__aiter__()  # type: ignore[union-attr]
        self._gone = asyncio.Event()
        self._is_sent = False
        self.sent: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue(maxsize=8)

    async def run(self, app: Any) -> None:
        """Let the application answer; None is the end of what it sends, and cancelled it says no more."""
        url = self._request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self._request.method,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port),
            "client": (self._peer, 0),
            "root_path": "",
            "state": {},
        }
        try:
            await app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._gone.set()  # nobody reads, and to wait for a reader would never end
            raise
        finally:
            if not self._gone.is_set():
                await self.sent.put(None)

    async def _receive(self) -> Mapping[str, Any]:
        if self._is_sent:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        piece = await anext(self._body, None)
        self._is_sent = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if not self._gone.is_set():
            await self.sent.put(message)

    async def leave(self) -> None:
        """Go away, and wait until the application has noticed and ended."""
        self._gone.set()
        while not self.sent.empty():
            self.sent.get_nowait()
        await asyncio.gather(self.task, return_exceptions=True)


class _Pieces(httpx.AsyncByteStream):
    """An answer's body as it is sent."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Each piece. Raises what the application raises on its way."""
        while (message := await self._exchange.sent.get()) is not None:
            if message["type"] == "http.response.body":
                yield message.get("body", b"")
                if not message.get("more_body", False):
                    return
        await self._exchange.task

    async def aclose(self) -> None:
        """Read no further."""
        await self._exchange.leave()
