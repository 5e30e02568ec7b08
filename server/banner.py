"""What `edgewise serve` prints once it listens: where, with what, and how to try it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from server.build import profiles_of, url_of
from server.settings import is_loopback

if TYPE_CHECKING:
    from runtime.turn import Runtime
    from server.settings import Settings


def banner(settings: Settings, runtime: Runtime) -> list[str]:
    """The lines, for settings whose port is the one really taken."""
    url = url_of(settings)
    reach = "" if is_loopback(settings.host) else f" (on every address of {settings.host})"
    return [
        f"Edgewise listens on {url}{reach}",
        f"  machine   {_machines(runtime)}",
        f"  narrator  {narrator_line(settings)}",
        f"  store     {_store_line(settings)}",
        f"  OpenAPI   {url}/schema",
        "Begin a session, as often as you like:",
        f"  {curl(settings, runtime)}",
        "Ctrl-C ends the server; turns under way are finished first.",
    ]


def _machines(runtime: Runtime) -> str:
    others = [name for name in runtime.machines if name != runtime.default_machine]
    return runtime.default_machine + (f" (the default; also {', '.join(others)})" if others else "")


def _store_line(settings: Settings) -> str:
    return "memory: it is gone when the server ends" if settings.store == "memory:" else settings.store_shown


def narrator_line(settings: Settings) -> str:
    """Who tells the turns, and, where it is a model, the host that will be called."""
    profiles = profiles_of(settings)
    if not profiles:
        return "offline: told from written fragments; no model, no network"
    calls = [f"{profile.host} for the model {profile.model}" for profile in profiles]
    return f"openai: calls {', then '.join(calls)}"


def curl(settings: Settings, runtime: Runtime) -> str:
    """A command that begins a session: without an id, the server makes a new one each time."""
    event = runtime.machines[runtime.default_machine].definition.first.event
    body = shlex.quote(json.dumps({"event": {"type": event}}))
    token = '-H "Authorization: Bearer $EDGEWISE_TOKEN" ' if settings.has_tokens else ""
    return f"curl -sS {url_of(settings)}/invoke {token}-H 'Content-Type: application/json' -d {body}"
