"""The Litestar application: `create_app` makes one; `uvicorn server.app:app` finds one ready."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State

from runtime.errors import DesignError, EdgewiseError
from server import exporting, history, logs, reading, routes, settings, tending
from server.auth import Gate, Pace
from server.build import build_runtime
from server.edge import Edge, answer_for
from server.house import House
from server.meter import Meter
from server.streaming import HEARTBEAT_S, Streams
from server.tending import Tending

if TYPE_CHECKING:
    from runtime.turn import Runtime
    from server.settings import Settings

EXPOSED_HEADERS = ["X-Request-Id", "Idempotency-Replayed", "Retry-After", "X-AI-Generated", "Content-Disposition"]
_FAULTY, _WRONG_USE = 1, 2


def end_process() -> None:
    """Ask this process to end well, as an operator would: a new one can open the journal again."""
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(
    given: Settings,
    runtime: Runtime | None = None,
    own_token: str = "",
    on_lost: Callable[[], None] = end_process,
    heartbeat_s: float = HEARTBEAT_S,
) -> Litestar:
    """The server for some settings; `runtime` in place of the one that they name.

    `own_token` makes its sender an operator, as the journal's own token does. `on_lost` is called
    once, where the journal has failed and this process can use it no more. `heartbeat_s` is the
    longest silence of a stream, in seconds.

    Raises DesignError, SettingsError. Its lifespan opens the runtime, and at the end lets the turns
    under way finish before it closes.
    """
    meter = Meter()
    runtime = runtime or build_runtime(given)
    runtime.observe = meter.turned
    runtime.ledger.observe = meter.spent
    meter.standing = getattr(runtime.narrator, "standing", tuple)
    meter.shares = lambda: runtime.ledger.shares
    gate = Gate(given, lambda: own_token or getattr(runtime.store, "owner_token", ""))
    house = House(runtime, gate, Pace(given.turns_per_minute), meter, Tending(given), Streams(heartbeat_s))
    app = Litestar(
        [*routes.HANDLERS, *reading.HANDLERS, *history.HANDLERS, *exporting.HANDLERS, *tending.HANDLERS],
        lifespan=[_life],
        exception_handlers={Exception: answer_for},
        cors_config=_cors(given.cors_origins),
        openapi_config=None,
        logging_config=None,
        state=State({"house": house, "on_lost": on_lost}),
    )
    app.asgi_handler = Edge(app.asgi_handler, meter)
    return app


@asynccontextmanager
async def _life(app: Litestar) -> AsyncIterator[None]:
    house: House = app.state["house"]
    runtime: Runtime = house.runtime
    await runtime.open()
    gc.collect()
    gc.freeze()  # machines live as long as the process: a collection need not walk them again and again
    try:
        async with house.meter.watching(lambda: runtime.under_way), _watched(runtime.store, app.state["on_lost"]):
            yield
    finally:
        await runtime.close()
        gc.unfreeze()


@asynccontextmanager
async def _watched(store: Any, on_lost: Callable[[], None]) -> AsyncIterator[None]:
    """Tell once, and loudly, when a store says that it can work no more; not every kind can come to that."""

    async def watch() -> None:
        why = await store.until_failed()
        logs.log.critical("the journal has failed: the server ends", why=why)
        on_lost()

    if not hasattr(store, "until_failed"):
        yield
        return
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(allow_origins=list(origins), expose_headers=EXPOSED_HEADERS)


def _served() -> Litestar:
    """The application for this process's settings; ends the process in a sentence where it can't be made."""
    try:
        given = settings.load()
        logs.configure(given)
        for warning in given.warnings:
            logs.log.warning("settings", warning=warning)
        return create_app(given)
    except EdgewiseError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(_FAULTY if isinstance(error, DesignError) else _WRONG_USE) from None


def __getattr__(name: str) -> Litestar:
    """`app`, made when it is first asked for, so that importing this module builds nothing."""
    if name != "app":
        raise AttributeError(name)
    globals()[name] = app = _served()
    return app
