"""`edgewise fake-llm`: listen, say where, answer, and log one line for each request.

No line holds a prompt or an answer: they may be a player's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from runtime import loader
from runtime.tokens import roughly
from server import logs
from server.fake.http import Asked, converse
from server.fake.sending import OK, send
from server.serving import GOOD, bind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runtime.fragments import Fragments
    from server.fake.provider import Answered, Manner, Provider
    from server.settings import Settings

BACKLOG = 1024
LANGUAGES = ("zh", "en")


def sentences_of(project: Path | None) -> dict[str, list[str]]:
    """By language, what a project's offline texts say without anything to put in. Raises DesignError."""
    machines = loader.load_project(project).values() if project else ()
    spoken = [machine.fragments_for(language) for machine in machines for language in LANGUAGES]
    return {
        language: [text for found in spoken if found and found.language == language for text in _texts(found)]
        for language in LANGUAGES
    }


def _texts(fragments: Fragments) -> Iterator[str]:
    for groups in fragments.groups.values():
        for group in groups:
            yield from (say.source.strip() for say in group.say if not say.names)


def serve(provider: Provider, settings: Settings) -> int:
    """Serve until a signal comes; the exit code. Raises SettingsError where the port can't be had."""
    logs.configure(settings)
    with contextlib.closing(bind(settings)) as listener:
        listener.listen(BACKLOG)  # before a reader of the line can call
        click.echo(said_at_start(provider.manner, listener))
        asyncio.run(_serve(provider, listener))
    return GOOD


def said_at_start(manner: Manner, listener: socket.socket) -> str:
    """Where it listens, and how it behaves."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    faults = ", ".join(manner.faults) or ("any" if manner.chaos else "none")
    how = f"a share {manner.chaos:g} of the answers has one of the faults: " if manner.chaos else "faults: "
    return f"fake-llm listens on http://{shown}:{port}/v1 ({how}{faults})"


async def _serve(provider: Provider, listener: socket.socket) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await converse(reader, writer, lambda asked, to: answer(provider, asked, to))

    server = await asyncio.start_server(connected, sock=listener)
    await ended.wait()
    server.close()


async def answer(provider: Provider, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and log how it went."""
    began = time.monotonic()
    answered = provider.answer(asked)
    answered = replace(answered, reply=replace(answered.reply, created=int(time.time())))
    is_whole = False
    try:
        await send(answered.reply, writer)
        is_whole = answered.reply.keep == 1.0
    finally:
        _log(asked, answered, is_whole=is_whole, took_s=time.monotonic() - began)


def _log(asked: Asked, answered: Answered, *, is_whole: bool, took_s: float) -> None:
    reply = answered.reply
    more = {"faults": list(answered.faults)} if answered.faults else {}
    logs.log.info(
        f"{asked.method} {asked.path[:200]}",
        status=reply.status,
        stream=reply.streams,
        tokens=roughly(reply.content or "") if reply.status == OK else 0,
        sent="whole" if is_whole else "broken off",
        ms=round(took_s * 1000),
        **more,
    )
