"""Where the parts are joined: settings → store, narrator and machines → a runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.loader import load_project
from runtime.narrators.offline import Offline
from runtime.narrators.profile import DEEPSEEK, DEEPSEEK_MODEL, Profile, deepseek
from runtime.stores.memory import MemoryStore
from runtime.turn import Played, Runtime
from server.settings import Settings, SettingsError, variable_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.narrators import Narrator
    from runtime.stores import Store


def build_runtime(settings: Settings, observe: Callable[[Played], None] = lambda _: None) -> Runtime:
    """Everything that turns are taken with; nothing is opened yet.

    Raises DesignError for a faulty project, SettingsError for settings that don't fit it.
    """
    machines = load_project(settings.project_path)
    return Runtime(
        store_of(settings),
        narrator_of(settings),
        machines,
        default_machine(settings, machines),
        turn_deadline_s=settings.turn_deadline_s,
        observe=observe,
    )


def store_of(settings: Settings, *, is_served: bool = True) -> Store:
    """The journal; not open yet. Where it is not served, its lock file names no URL to ask."""
    path = settings.store_path
    if settings.is_shared:
        from runtime.stores.postgres import PostgresStore  # noqa: PLC0415 - its driver is an extra

        return PostgresStore(settings.store, is_cluster_safe=settings.store_cluster_safe)
    if path is None:
        return MemoryStore()
    from runtime.stores.duckdb import DuckDBStore  # noqa: PLC0415 - takes longer to import than a play to begin

    return DuckDBStore(path, url_of(settings) if is_served else "")


def url_of(settings: Settings) -> str:
    """Where the server answers, as this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - not bound here
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{bracketed}:{settings.port}"


def narrator_of(settings: Settings) -> Narrator:
    """Who tells the turns. Raises SettingsError."""
    profile = profile_of(settings)
    if profile is None:
        return Offline()
    from runtime.narrators.openai import OpenAI  # noqa: PLC0415 - takes longer to import than a play to begin

    return OpenAI(profile)


def profile_of(settings: Settings) -> Profile | None:
    """How the model is reached, None where no model is asked. Raises SettingsError."""
    if settings.narrator == "offline":
        return None
    url, model = settings.openai_base_url or DEEPSEEK, settings.openai_model or DEEPSEEK_MODEL
    try:
        if urlsplit(url).hostname == urlsplit(DEEPSEEK).hostname:
            return deepseek(settings.openai_api_key, url, model)
        return Profile(base_url=url, key=settings.openai_api_key, model=model)
    except ValueError as error:
        raise SettingsError([f"{variable_of('narrator')} = openai: {error}"]) from error


def default_machine(settings: Settings, names: Iterable[str]) -> str:
    """The machine of sessions that name none: the setting's, else, where nobody set it, the first.

    Raises SettingsError.
    """
    known = list(names)
    if settings.machine in known:
        return settings.machine
    if "machine" in settings.sources or not known:
        have = f"it has {', '.join(known)}" if known else f"it has none in {settings.project_path / 'machines'}"
        raise SettingsError(
            [f"{variable_of('machine')} = {settings.machine!r}: the project has no such machine; {have}"]
        )
    return known[0]
