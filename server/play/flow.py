"""The play itself, from the first event to the ending. Start reading at `play`."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec.structs import replace

from server.build import profile_of
from server.play import passages
from server.play.local import Local
from server.play.moves import Misread, Move, read
from server.play.passages import Passage
from server.play.screen import Screen, screen_of_process
from server.play.table import Answer, Card, Refused, Table
from server.play.telling import Telling
from server.play.transcript import Transcript
from server.play.words import bracketed, labelled, say
from server.settings import SettingsError
from server.typed import typed
from server.wire import ID_PATTERN

if TYPE_CHECKING:
    from runtime.narrators.profile import Profile
    from server.settings import Settings

GOOD, FINDINGS, WRONG_USE = 0, 1, 2
_Value = TypeVar("_Value")


def play(
    settings: Settings,
    *,
    url: str | None,
    token: str | None,
    session_id: str | None,
    seed: str | None,
    language: str | None,
    transcript: Path | None,
    record: Path | None,
) -> int:
    """Play a session to its end, or as far as the player wants; the exit code.

    A session of the id given is gone on with where it exists. An existing transcript is replaced, an
    existing record is not: it may be somebody's test.
    Raises DesignError for a faulty project, SettingsError, StoreUnavailable.
    """
    if record is not None:
        _refuse_file(record)
    table, machine = _table(settings, url, token)
    with asyncio.Runner() as runner:
        seat = _Seat(runner, table)
        game: _Game | None = None
        try:
            seat.wait(table.open())
            kept = Transcript(transcript, settings.label_producer) if transcript else None
            game = _Game(seat, screen_of_process(), kept, language)
            return game.play(machine, session_id, seed, None if url else profile_of(settings))
        except KeyboardInterrupt:
            return GOOD
        finally:
            if record is not None and game is not None and game.session_id:
                _record(seat, settings, game.session_id, record)
            runner.run(table.close())


def _refuse_file(record: Path) -> None:
    """Refuse a file that can't become a recording, before anything is played. Raises UsageError."""
    from server.bench.record import refuse_file  # noqa: PLC0415 - most plays are not recorded

    refuse_file(record, "--record")


def _record(seat: _Seat, settings: Settings, session_id: str, file: Path) -> None:
    """Write the play down as a replay, as far as it went; where that can't be, say why."""
    from server.bench.record import keep  # noqa: PLC0415 - the same

    try:
        click.echo(keep(file, seat.wait(seat.table.replay(session_id)), settings), err=True)
    except (Refused, OSError) as error:
        hint = f". {error.hint}" if isinstance(error, Refused) else ""
        click.echo(f"--record: {getattr(error, 'message', error)}{hint}", err=True)


def _table(settings: Settings, url: str | None, token: str | None) -> tuple[Table, str | None]:
    """Where to play, and the machine asked for; None = the table's default."""
    source = settings.sources.get("machine", "")
    if url:
        from server.play.remote import Remote  # noqa: PLC0415 - takes longer to import than a play to begin

        return Remote(url, token), settings.machine if source == "the command line" else None
    sources = {name: where for name, where in settings.sources.items() if name != "machine"}
    return Local(replace(settings, sources=sources)), settings.machine if source else None


class _Seat:
    """A table and the loop that it runs on: the play itself waits for each answer."""

    def __init__(self, runner: asyncio.Runner, table: Table) -> None:
        self._runner = runner
        self.table = table

    def wait(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """What the work gives, or raises."""
        return self._runner.run(work)


class _Game:
    """One play: who sits where, on which screen, and the machine that was chosen."""

    def __init__(self, seat: _Seat, screen: Screen, transcript: Transcript | None, language: str | None) -> None:
        self._seat = seat
        self._screen = screen
        self._transcript = transcript
        self._asked_language = language
        self._language = language or "en"
        self._teller = ""
        self._telling = Telling(screen, self._language)
        self.session_id = ""

    def play(self, machine: str | None, session_id: str | None, seed: str | None, model: Profile | None) -> int:
        """Begin or go on, then turn by turn to the end; the exit code."""
        try:
            card, answer = self._sit_down(machine, session_id, seed, model)
        except Refused as refused:
            click.echo(f"{refused.message}. {refused.hint}".strip(), err=True)
            return FINDINGS if refused.error == "machine_fault" else WRONG_USE
        self.session_id = answer["session"]["session_id"]
        self._open_page(card, answer, model)
        while not answer["session"]["ended"]:
            line = self._screen.ask(answer, self._language)
            following = None if line is None else self._heard(line, answer)
            if following is None:
                self._part(card, answer, is_input_over=line is None)
                return GOOD
            answer = following
        self._farewell(card, answer)
        return GOOD

    def _sit_down(
        self, machine: str | None, session_id: str | None, seed: str | None, model: Profile | None
    ) -> tuple[Card, Answer]:
        """The machine and the first answer: a session's last one where it exists, else its first."""
        table = self._seat.table
        _refuse_strange({"--seed": seed, "--session": session_id})
        found = self._seat.wait(table.head(session_id)) if session_id else None
        card = self._seat.wait(table.card(found["session"]["machine"] if found else machine))
        if self._asked_language:
            _refuse_foreign(self._asked_language, card)
        if found:
            self._language = self._asked_language or str(found["session"]["language"])
            return card, found
        self._language = self._asked_language or card.languages[0]
        session = {"machine": card.name, **({"session_id": session_id} if session_id else {})}
        run_seed = seed or secrets.token_hex(4)
        request = {"event": {"type": card.event}, "session": session, "seed": {"run_seed": run_seed}}
        teller = _asked(model, self._language)
        return card, self._invoke(request, lambda: self._head(card, card.version, run_seed, teller))

    def _invoke(self, request: dict[str, Any], begin: Callable[[], None] = lambda: None, choice: str = "") -> Answer:
        """Play an event; on a screen that can, its texts are shown as they come, after what `begin` shows."""
        asked = {"constraints": {"language": self._asked_language}} if self._asked_language else {}
        self._telling = Telling(self._screen, self._language, choice)
        with self._screen.waiting(self._language) as take_back:
            if not self._screen.can_redraw:
                return self._seat.wait(self._seat.table.invoke({**request, **asked}))

            def begun() -> None:
                take_back()
                begin()

            work = self._seat.table.invoke({**request, **asked}, self._telling.hear)
            return self._seat.wait(self._telling.beside(work, begun))

    def _open_page(self, card: Card, answer: Answer, model: Profile | None) -> None:
        """The title, what is played and who tells it, and the first turn."""
        language, session = self._language, answer["session"]
        teller, asked = passages.told_by(answer, language), _asked(model, language)
        is_asked = bool(asked) and answer["payload"]["meta"]["ai_generated"]
        if not self._telling.is_begun:
            self._head(card, session["version"], session["run_seed"], asked if is_asked else teller)
        if is_asked or not self._telling.is_begun:
            self._teller = teller
        if session["turn"] > 1:
            self._screen.note(say("resumed", language, turn=session["turn"]), language)
        self._record_beginning(card, answer)
        self._tell(answer, "", self._telling)

    def _head(self, card: Card, version: int | str, seed: str, teller: str) -> None:
        """The title, what is played, and who tells it where that is known."""
        language = self._language
        base = language.partition("-")[0]
        others = [f"--language {each}" for each in card.languages if each.partition("-")[0] != base]
        also = bracketed(say("also_in", language, options=", ".join(others)), language) if others else ""
        rows = [
            ("machine", card.name + bracketed(f"{say('version', language)} {version}", language)),
            ("seed", seed),
            ("language", language + also),
            *([("told_by", teller)] if teller else []),
        ]
        heading = [Passage(card.title_in(language), "title")]
        notes = [Passage(labelled(say(what, language), text, language), "note", is_close=True) for what, text in rows]
        self._screen.show([*heading, *notes], language)

    def _tell(self, answer: Answer, choice: str, telling: Telling | None = None) -> None:
        """Show a turn, and write it to the transcript."""
        language = self._language
        self._label(passages.told_by(answer, language))
        rest = telling.left(answer) if telling else passages.told(answer, language, choice)
        told = [*passages.ending(answer, language), *rest]
        status = passages.status_line(answer, language)
        told += [Passage(status, "status")] if status else []
        self._screen.show([*told, *passages.key_choices(answer, language)], language)
        self._write(lambda transcript: transcript.turn(answer, choice, language))

    def _label(self, teller: str) -> None:
        """Say who tells this turn, where it is another than before: what a model made bears its label."""
        if teller != self._teller:
            self._teller = teller
            note = labelled(say("told_by", self._language), teller, self._language)
            self._screen.show([Passage(note, "note")], self._language)

    def _heard(self, line: str, answer: Answer) -> Answer | None:
        """The answer after what was typed: a new one, the same where nothing was played, None to leave."""
        try:
            move = read(line, answer, self._language)
        except Misread as misread:
            self._screen.complain(str(misread), self._language)
            return answer
        if isinstance(move, Move):
            return self._played(move, answer)
        if move == "help":
            self._screen.note(say("help", self._language), self._language)
        if move == "why":
            self._screen.show(passages.why(answer, self._language), self._language)
        return None if move == "quit" else answer

    def _played(self, move: Move, answer: Answer) -> Answer:
        """The next answer; the same where the move was refused, or where the session really stands."""
        session = {"session_id": answer["session"]["session_id"], "expected_turn": answer["session"]["turn"]}
        self._screen.show([Passage(f"❯ {move.told}", "choice")], self._language)
        try:
            following = self._invoke({**move.request, "session": session}, choice=move.told)
        except Refused as refused:
            if self._telling.is_begun:
                self._screen.note(say("untold", self._language), self._language)
            self._screen.complain(str(refused), self._language)
            return self._refreshed(answer) if refused.retry == "refresh" else answer
        self._tell(following, move.told, self._telling)
        return following

    def _refreshed(self, answer: Answer) -> Answer:
        """Where the session stands now, told where it is another turn than the player has seen."""
        try:
            head = self._seat.wait(self._seat.table.head(answer["session"]["session_id"]))
        except Refused as refused:
            self._screen.complain(str(refused), self._language)
            return answer
        if head is None or head["session"]["turn"] == answer["session"]["turn"]:
            return answer
        self._tell(head, "")
        return head

    def _part(self, card: Card, answer: Answer, *, is_input_over: bool) -> None:
        """Leave before the end: where the session stands, and how to go on with it."""
        over = is_input_over and not self._screen.is_live
        parting = say("input_ended" if over else "left", self._language, turn=answer["session"]["turn"])
        table = self._seat.table
        back = typed("play", *table.options, "--session", answer["session"]["session_id"])
        way = say("go_on_with" if table.keeps_sessions else "was_in_memory", self._language)
        self._screen.note(
            f"{parting}\n{way}", self._language, back if table.keeps_sessions else self._again(card, answer)
        )

    def _farewell(self, card: Card, answer: Answer) -> None:
        """After the ending: who told it, and how to have the same dice again."""
        teller = labelled(say("told_by", self._language), passages.told_by(answer, self._language), self._language)
        again = labelled(say("again", self._language), "", self._language).rstrip()
        self._screen.note(f"{teller}\n{again}", self._language, self._again(card, answer))

    def _again(self, card: Card, answer: Answer) -> str:
        again = {"--seed": answer["session"]["run_seed"], "--language": self._language}
        return typed("play", card.name, *self._seat.table.options, *(word for pair in again.items() for word in pair))

    def _record_beginning(self, card: Card, answer: Answer) -> None:
        if self._transcript:
            try:
                self._transcript.begin(card, answer, answer["session"]["run_seed"], self._language)
            except OSError as error:
                raise SettingsError([f"--transcript can't be written: {error}"]) from error

    def _write(self, work: Callable[[Transcript], None]) -> None:
        """Add to the transcript; where that fails the play goes on without it."""
        if self._transcript is None:
            return
        try:
            work(self._transcript)
        except OSError as error:
            self._transcript = None
            self._screen.complain(f"--transcript: {error}", self._language)


def _refuse_strange(ids: dict[str, str | None]) -> None:
    """Refuse a seed or a session that no request could carry. Raises Refused."""
    for option, value in ids.items():
        if value is not None and not re.fullmatch(ID_PATTERN, value):
            hint = "Use letters, digits and _ . : - only, at most 128 of them."
            raise Refused("wrong_use", f"{option} {value!r} can't be used", hint)


def _refuse_foreign(language: str, card: Card) -> None:
    """Refuse a language that the machine does not offer. Raises Refused."""
    bases = {each.partition("-")[0] for each in card.languages}
    if language.partition("-")[0] not in bases:
        offered = " or ".join(f"--language {each}" for each in card.languages)
        raise Refused("wrong_use", f"machine '{card.name}' has no language {language!r}", f"Use {offered}.")


def _asked(model: Profile | None, language: str) -> str:
    """Which model will be asked, and where; '' where none is, or where a server asks."""
    return say("asked", language, host=model.host, model=model.model) if model else ""
