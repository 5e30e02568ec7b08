"""Where the parts are joined: settings → store, narrator and machines → a runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.ledger import MICROS, Budgets
from runtime.loader import load_project
from runtime.narrators.offline import Offline
from runtime.narrators.profile import Profile, configured, kind_of
from runtime.stores.memory import MemoryStore
from runtime.turn import Played, Runtime
from server import project_file
from server.settings import ALIASES, PROJECT_FILE, Settings, SettingsError, variable_of, variables_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runtime.narrators import Narrator
    from runtime.stores import Store

_LOG = logging.getLogger(__name__)


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
        budgets=budgets_of(settings),
        producer=settings.label_producer,
    )


def budgets_of(settings: Settings) -> Budgets:
    """How much may be spent on telling."""
    return Budgets(
        session_tokens=settings.budget_session_tokens,
        session_cost_micros=round(settings.budget_session_cost * MICROS),
        day_tokens=settings.budget_day_tokens,
        day_cost_micros=round(settings.budget_day_cost * MICROS),
        on_budget=settings.on_budget,
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
    """Who tells the turns. Raises SettingsError, DesignError."""
    profiles = profiles_of(settings)
    if not profiles:
        return Offline()
    from runtime.narrators.openai import OpenAI  # noqa: PLC0415 - takes longer to import than a play to begin
    from runtime.narrators.probing import Known  # noqa: PLC0415 - the same

    return OpenAI(*profiles, known=Known(known_path(settings)))


def known_path(settings: Settings) -> Path:
    """Where the project keeps what its providers can do."""
    return settings.project_path / "data" / "providers.json"


def profiles_of(settings: Settings) -> tuple[Profile, ...]:
    """How the models are reached, in the order in which they are asked; () where none is.

    The settings describe one provider, where they do; else the project's file lists them; else it is
    DeepSeek. Raises SettingsError, DesignError.
    """
    if settings.narrator == "offline":
        return ()
    is_described = bool(settings.openai_base_url or settings.openai_model or settings.openai_profile)
    listed = project_file.profiles_of(settings.project_path, variables_of(settings.project_path))
    if listed and not is_described:
        return listed
    if listed:
        _LOG.warning(
            "%s and the like describe the one provider that is asked; those that %s lists are not",
            variable_of("openai_base_url"),
            PROJECT_FILE,
        )
    try:
        return (_described(settings),)
    except ValueError as error:
        raise SettingsError([f"{variable_of('narrator')} = openai: {error}"]) from error


def profile_of(settings: Settings) -> Profile | None:
    """How the first model is reached, None where none is asked. Raises SettingsError, DesignError."""
    return next(iter(profiles_of(settings)), None)


def _described(settings: Settings) -> Profile:
    """The one provider that the settings describe. Raises ValueError."""
    url = settings.openai_base_url
    return configured(
        settings.openai_profile or _kind(settings),
        base_url=url or None,
        model=settings.openai_model or None,
        key=settings.openai_api_key,
        # What stands in for a provider at another address may want no key.
        needs_key=False if url and kind_of(url) == "other" else None,
    )


def _kind(settings: Settings) -> str:
    """The profile that nobody named: DeepSeek's under DeepSeek's own variable, else by the address."""
    is_deepseeks = settings.sources.get("openai_base_url", "").startswith(ALIASES["openai_base_url"])
    return "deepseek" if is_deepseeks or not settings.openai_base_url else kind_of(settings.openai_base_url)


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
