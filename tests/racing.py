"""Clients that race for one turn, against one application or several on one journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from clients import ROUNDS, Ask, Client, over
from conftest import tiny
from every_store import Home
from history_check import Sent
from served import living, runtime_of

from server.app import create_app
from server.settings import Settings

MACHINE = tiny(ROUNDS, "rounds")


@asynccontextmanager
async def servers_on(home: Home, count: int) -> AsyncIterator[list[Ask]]:
    """So many applications on one journal, each with a store of its own, as processes have."""
    async with AsyncExitStack() as stack:
        asks = []
        for _ in range(count):
            app: Any = create_app(Settings(), runtime_of(MACHINE, store=home.store()))
            await stack.enter_async_context(living(app))
            transport = httpx.ASGITransport(app)
            asks.append(
                over(await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://x")))
            )
        yield asks


async def race(clients: list[Client], turn: int) -> list[Sent]:
    """All of them send at once what they chose at one turn; what each heard."""
    body = {"payload": {"selected_option_id": 1}}
    marks = [next(client.marks) for client in clients]
    keys = [f"key-{mark}" if at % 2 else None for at, mark in enumerate(marks)]
    return await asyncio.gather(
        *(client.send("s0", mark, body, key, turn) for client, mark, key in zip(clients, marks, keys, strict=True))
    )
