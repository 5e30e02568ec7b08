"""Where a play sits: what the terminal needs of an engine, be it in this process or behind HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from runtime.narrators.release import Hear, unheard

Answer = Mapping[str, Any]
"""An answer's `data`, as the contract has it."""


def standing_of(shown: Mapping[str, Any]) -> Answer:
    """The head turn's answer, as the session stands now: a rewind may have changed what is open."""
    answer = shown["answer"]
    payload = {**answer["payload"], **{name: shown[name] for name in ("options", "inputs", "routing") if name in shown}}
    return {**answer, "session": shown["session"], "payload": payload}


class Card(Struct, frozen=True):
    """What is known of a machine before it is played; `event` begins a session."""

    name: str
    version: int | str
    title: Mapping[str, str]
    languages: tuple[str, ...]
    event: str

    def title_in(self, language: str) -> str:
        """The title in a language, else in the machine's own."""
        return self.title.get(language) or self.title.get(language.partition("-")[0]) or self.title[self.languages[0]]


class Refused(Exception):
    """A request was refused, or never answered; the session is as it was.

    `error`, `message`, `hint` and `player_message` are the envelope's; `retry` is `same`, `refresh`
    or `never`.
    """

    def __init__(
        self, error: str, message: str, hint: str = "", player_message: str = "", retry: str = "never"
    ) -> None:
        super().__init__(message)
        self.error = error
        self.message = message
        self.hint = hint
        self.player_message = player_message
        self.retry = retry

    @classmethod
    def of(cls, envelope: Mapping[str, Any]) -> Refused:
        """What an error's envelope says."""
        data = envelope["data"]
        details = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in data.get("details", [])]
        why = data.get("why") or ""
        message = "; ".join(details) or envelope["message"]
        return cls(data["error"], message, data["hint"], why or data["player_message"], data["retry"])

    def __str__(self) -> str:
        """What a person at a terminal reads: the player's sentence, then the developer's."""
        return "\n".join(part for part in (self.player_message, f"{self.message}. {self.hint}".strip()) if part)


class Table(Protocol):
    """An engine to play at."""

    async def open(self) -> None:
        """Make ready. Raises what says why it can't be."""

    async def card(self, machine: str | None) -> Card:
        """A machine, the default one where none is named. Raises Refused (machine_not_found)."""

    async def head(self, session_id: str) -> Answer | None:
        """The last answer of a session, None where there is no such session."""

    async def invoke(self, request: Mapping[str, Any], hear: Hear = unheard) -> Answer:
        """Play one event of the contract's shape; `hear` is told of it meanwhile. Raises Refused."""

    async def replay(self, session_id: str) -> str:
        """A session as a replay's text, as far as it was played. Raises Refused."""

    @property
    def keeps_sessions(self) -> bool:
        """Whether a session can be gone on with after this play."""

    @property
    def options(self) -> list[str]:
        """The options of `edgewise play` that lead to this table."""

    async def close(self) -> None:
        """Let go of everything."""
