"""What `edgewise db` and `edgewise migrate` do."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec.structs import replace

from runtime.errors import StoreUnavailable
from server.options import settings_of
from server.owner import Owner, holder_of
from server.settings import SettingsError
from server.tend.working import FINDINGS, ended, report, tend

if TYPE_CHECKING:
    from runtime.progress import Step
    from runtime.stores import Store
    from server.settings import Settings


def backup(options: dict[str, Any]) -> NoReturn:
    """Copy the journal into a file."""
    form, file = options.pop("form"), options.pop("file")

    async def work(owner: Owner) -> int:
        path = str(file.absolute() if owner.is_near else file)
        return await report(owner.steps("backup", {"path": path}), form, "backing up")

    tend(options, work)


def verify(options: dict[str, Any]) -> NoReturn:
    """Check the journal, or one in a file."""
    form, file = options.pop("form"), options.pop("file")
    if file is not None:
        options["store"], options["url"] = f"duckdb://{file.absolute()}", None
    path = None if options["url"] else settings_of(_of_settings(options)).store_path

    async def work(owner: Owner) -> int:
        return await report(owner.steps("verify"), form, "verifying")

    try:
        tend(options, work)
    except StoreUnavailable as error:
        if path is None or "owner_pid" in error.facts:
            raise
        raise SystemExit(ended(_inspected(path, error, form))) from None


def _of_settings(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("project", "store")}


async def _inspected(path: Path, why: StoreUnavailable, form: str) -> int:
    """Look into a file that won't open: what of it is as it was written, and which sessions are not."""
    from runtime.stores.inspecting import inspect  # noqa: PLC0415 - takes longer to import than to ask a server

    async def steps() -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"type": "found", "what": f"the journal does not open: {why.message}", "sessions": []}
        async for step in inspect(path):
            yield msgspec.to_builtins(step)

    return max(FINDINGS, await report(steps(), form, "inspecting"))


def compact(options: dict[str, Any]) -> NoReturn:
    """Give unused space back."""
    form = options.pop("form")

    async def work(owner: Owner) -> int:
        return await report(owner.steps("compact"), form, "compacting")

    tend(options, work)


def migrate(options: dict[str, Any]) -> NoReturn:
    """Move live sessions to the machine that is served."""
    form, machine, is_dry = options.pop("form"), options.pop("machine"), options.pop("dry_run")
    body = {"dry_run": is_dry, **({"machine": machine} if machine else {})}

    async def work(owner: Owner) -> int:
        return await report(owner.steps("migrate", body), form, "looking" if is_dry else "moving")

    tend(options, work, needs_project=True)


def copy(options: dict[str, Any]) -> NoReturn:
    """Copy one journal into another."""
    form, source, target = options.pop("form"), options.pop("source"), options.pop("target")
    from_, to = (settings_of({**options, "store": url}) for url in (source, target))
    if from_.store == to.store:
        raise SettingsError(["FROM and TO are the same journal"])
    for settings in (from_, to):
        if settings.store == "memory:":
            raise SettingsError(["memory: is gone with its process: name a file or a database"])
    raise SystemExit(ended(_copied(from_, to, form)))


async def _copied(from_: Settings, to: Settings, form: str) -> int:
    from runtime.copying import OtherJournal, Unreadable  # noqa: PLC0415 - see `_inspected`
    from runtime.copying import copy as copied  # noqa: PLC0415 - the same

    async with AsyncExitStack() as opened:
        try:
            source = await opened.enter_async_context(_Open(await _at_rest(from_, opened)))
            target = await opened.enter_async_context(_Open(to))
            return await report(_told(copied(source, target)), form, "copying")
        except (OtherJournal, Unreadable) as error:
            raise SettingsError([str(error)]) from error


async def _told(steps: AsyncIterator[Step]) -> AsyncGenerator[Mapping[str, Any], None]:
    async for step in steps:
        yield msgspec.to_builtins(step)


async def _at_rest(settings: Settings, opened: AsyncExitStack) -> Settings:
    """The settings of a journal that nobody writes to: the source, or a backup where somebody holds that.

    Raises SettingsError where there is no such journal.
    """
    if settings.store_path is None:
        return settings
    async with holder_of(settings) as owner:
        if owner is None:
            if not settings.store_path.exists():
                raise SettingsError([f"there is no journal at {settings.store_path}"])
            return settings
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="edgewise-"))
        path = Path(folder) / "journal.duckdb"
        async for _ in owner.steps("backup", {"path": str(path)}):
            pass
    return replace(settings, store=f"duckdb://{path}")


class _Open:
    """A store for a while."""

    def __init__(self, settings: Settings) -> None:
        from server.build import store_of  # noqa: PLC0415 - see `_inspected`

        self._store: Store = store_of(settings, is_served=False)

    async def __aenter__(self) -> Store:
        await self._store.open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
