"""A table in this process: the engine itself, its session in memory or in a journal file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runtime import history, turn
from runtime.errors import Refusal, StoreUnavailable
from runtime.narrators.release import Hear, unheard
from runtime.request import nearest
from server.build import build_runtime, store_of
from server.play.table import Answer, Card, Refused, standing_of
from server.settings import Settings
from server.typed import typed
from server.wire import failure, read_invoke

if TYPE_CHECKING:
    from runtime.machine import Machine

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Local:
    """The engine that some settings name, played with an operator's rights: it is the user's own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runtime = build_runtime(settings)
        self._runtime.store = store_of(settings, is_served=False)

    async def open(self) -> None:
        """Open the journal. Raises StoreUnavailable, with the way to a server that holds the file."""
        try:
            await self._runtime.open()
        except StoreUnavailable as error:
            if url := error.facts.get("owner_url"):
                error.hint = f"Play against that server: {typed('play', '--url', url)}"
            raise

    async def card(self, machine: str | None) -> Card:
        """A machine of the project. Raises Refused."""
        name = machine or self._runtime.default_machine
        found = self._runtime.machines.get(name)
        if found is None:
            raise unknown_machine(name, list(self._runtime.machines))
        return _card(found)

    async def head(self, session_id: str) -> Answer | None:
        """Where a session in the journal stands: its head turn's answer."""
        entry = await self._runtime.store.head(session_id)
        if entry is None:
            return None
        return standing_of(_decode(msgspec.json.encode(await history.standing(self._runtime, entry))))

    async def invoke(self, request: Mapping[str, Any], hear: Hear = unheard) -> Answer:
        """Play one event. Raises Refused."""
        try:
            asked = read_invoke(msgspec.json.encode(request), request)
            played = await turn.play(self._runtime, asked, hear=hear)
        except Refusal as refusal:
            _, body = failure(refusal, refusal.language or self._language(request), "")
            raise Refused.of(_decode(body)) from None
        return _decode(played.data)

    async def replay(self, session_id: str) -> str:
        """A session as a replay's text. Raises Refused."""
        from runtime.bench.recording import recorded_since_move  # noqa: PLC0415 - most plays are not recorded
        from runtime.export import survey  # noqa: PLC0415 - the same

        try:
            about = await survey(self._runtime, session_id)
            return "".join(await recorded_since_move(self._runtime.store, about, "asked"))
        except Refusal as refusal:
            raise Refused(refusal.code, refusal.message, refusal.hint) from None

    @property
    def keeps_sessions(self) -> bool:
        """Whether a journal keeps them; memory does not."""
        return self._settings.store != "memory:"

    @property
    def options(self) -> list[str]:
        """The project, where it is not the current folder, and the journal, where it is a file."""
        project = [] if self._settings.project == "." else ["--project", self._settings.project]
        return [*project, *(["--store", self._settings.store] if self._settings.store_path else [])]

    async def close(self) -> None:
        """Close the narrator and the journal."""
        await self._runtime.close()

    def _language(self, request: Mapping[str, Any]) -> str:
        """The language of a refusal that knows no session."""
        machine = self._runtime.machines[self._runtime.default_machine]
        return str(request.get("constraints", {}).get("language") or machine.definition.language)


def _card(machine: Machine) -> Card:
    definition = machine.definition
    title = definition.title if isinstance(definition.title, dict) else {}
    titles = {language: title.get(language, str(definition.title)) for language in definition.languages}
    return Card(machine.name, definition.version, titles, definition.languages, definition.first.event)


def unknown_machine(name: str, known: list[str]) -> Refused:
    """The refusal of a machine that isn't there, with the one that was probably meant."""
    meant = nearest(name, known)
    mend = f"Did you mean '{meant}'?" if meant else f"There are: {', '.join(known)}."
    return Refused("machine_not_found", f"there is no machine '{name}'", mend)
