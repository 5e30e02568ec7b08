"""Logs: one JSON object a line off a terminal, readable lines on one; the only door to structlog.

What libraries log through `logging` comes out in the same form. At the default level no line holds
a player's text, a prompt, a token or a key: libraries that log URLs or bodies are held to warnings.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec
import structlog

from runtime.errors import EdgewiseError

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from server.settings import Settings

QUIET = ("httpx", "httpcore", "aiohttp", "transitions", "asyncio", "uvicorn.access")
"""Loggers held to warnings: what they say at INFO is said better by our own lines, or not at all."""
_ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

log: structlog.stdlib.BoundLogger = structlog.get_logger("edgewise")
"""The server's own log."""


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every log line to a stream (default: standard error), in the form that suits it."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    is_text = settings.log_format == "text" or (settings.log_format == "auto" and stream.isatty())
    rendered: list[Processor] = _text(stream) if is_text else [_json]
    shared = [*([_with_pid] if settings.workers > 1 else []), *_shared()]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _route_libraries(level, stream, shared, rendered)


def _shared() -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message", replace_by="_event"),
    ]


def _with_pid(_: Any, __: str, event_dict: EventDict) -> EventDict:
    """Say which of several processes speaks."""
    event_dict["pid"] = os.getpid()
    return event_dict


def _text(stream: TextIO) -> list[Processor]:
    colors = stream.isatty()
    # Plain tracebacks: the rich ones print local variables, and these hold players' words.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, event_key="message", exception_formatter=plain)]


def _json(_: Any, __: str, event_dict: EventDict) -> str:
    first = {name: event_dict.pop(name) for name in ("timestamp", "level", "message") if name in event_dict}
    return msgspec.json.encode({**first, **event_dict}, enc_hook=repr).decode()


def _route_libraries(level: int, stream: TextIO, shared: list[Processor], rendered: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    handler.addFilter(_in_a_sentence)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for name in _ROUTED:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _in_a_sentence(record: logging.LogRecord) -> bool:
    """Say why the server can't start in its own words: uvicorn logs a traceback of it."""
    error = _of_ours(sys.exc_info()[1])
    if error is not None and record.name == "uvicorn.error" and "Traceback" in record.getMessage():
        record.msg, record.args = str(error), ()
    return True


def _of_ours(error: BaseException | None) -> EdgewiseError | None:
    """The engine's own error, out of the groups in which the framework raises it."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _of_ours(inner))), None)
    return error if isinstance(error, EdgewiseError) else None
