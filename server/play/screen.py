"""Where a play is shown and asked: a terminal with colours and keys, or plain lines."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from msgspec.structs import replace

from server.play.moves import takes_text
from server.play.passages import Passage
from server.play.table import Answer
from server.play.terminal import drop_typed, unechoed
from server.play.words import labelled, say
from server.play.wrapping import plain, wrap

Ask = Callable[[Answer, str], str | None]
"""Asks for the next line, given the answer and its language; None = the player leaves."""

WIDEST = 78
"""Columns of the widest line: longer ones are hard to read."""
MARGIN = "  "
_ERASED = "\r\x1b[K"
_ANSI: Mapping[str, str] = {
    "body": "",
    "speech": "36",
    "aside": "2",
    "title": "1;33",
    "choice": "1;32",
    "status": "2",
    "note": "2",
    "fault": "31",
}


class Screen:
    """Shows passages and asks for lines.

    `columns` is the width to wrap to, None for lines as long as they are. Faults go to `err`.
    """

    def __init__(self, out: TextIO, err: TextIO, ask: Ask, columns: int | None, *, is_coloured: bool) -> None:
        self._out = out
        self._err = err
        self._ask = ask
        self._columns = columns
        self._is_coloured = is_coloured
        self._asked: Answer | None = None

    @property
    def is_live(self) -> bool:
        """Whether a person looks at it: it may be drawn over."""
        return self._columns is not None

    @property
    def can_redraw(self) -> bool:
        """Whether a line that was printed can be printed anew."""
        return self.is_live and os.environ.get("TERM", "dumb") != "dumb"

    def show(self, passages: Iterable[Passage], language: str) -> None:
        """Print passages, a blank line before each that isn't close to the one above."""
        for passage in passages:
            gap = [] if passage.is_close else [""]
            self._print(self._out, [*gap, *self._lines(passage, language)])

    def complain(self, text: str, language: str) -> None:
        """Say what went wrong; the play goes on."""
        where = self._out if self.is_live else self._err
        self._print(where, self._lines(Passage(text, "fault"), language))

    def note(self, text: str, language: str, command: str = "") -> None:
        """Say something beside the story: to a person on the screen, else on the error stream.

        A command stands on a line of its own, in one piece, so that it can be copied.
        """
        gap = [""] if self.is_live else []
        where = self._out if self.is_live else self._err
        lines = [*gap, *self._lines(Passage(text, "note"), language)]
        self._print(where, [*lines, f"{MARGIN}{plain(command)}"] if command else lines)

    def ask(self, answer: Answer, language: str) -> str | None:
        """The next line, None where the player leaves or the input has ended.

        What a person typed before an answer's options were seen chooses none of them.
        """
        self._out.flush()
        if self.is_live and answer is not self._asked:
            self._asked = answer
            drop_typed()
        return self._ask(answer, language)

    @contextmanager
    def waiting(self, language: str) -> Iterator[Callable[[], None]]:
        """Say that a turn is being told, and take the word back when it is, or when what is given is called."""
        if not self.is_live:
            yield lambda: None
            return
        self._out.write(f"{MARGIN}{self._painted(say('telling', language), 'aside')}")
        self._out.flush()
        is_said = [True]

        def take_back() -> None:
            if is_said:
                is_said.clear()
                self._out.write(_ERASED if self.can_redraw else "\n")

        try:
            with unechoed():
                yield take_back
        finally:
            take_back()

    def grow(self, passage: Passage, before: str | None, language: str) -> None:
        """Print a passage that is still being told, or what has come to it since its text was `before`.

        Its last line stays open: more may come, and a mark that belongs to its last word.
        """
        lines = self._lines(passage, language)
        if before is None:
            gap, printed = ("" if passage.is_close else "\n"), 0
        else:
            gap, printed = _ERASED, len(self._lines(replace(passage, text=before), language)) - 1
        self._out.write(gap + "\n".join(lines[printed:]))
        self._out.flush()

    def end_line(self) -> None:
        """End a line that was left open."""
        self._out.write("\n")
        self._out.flush()

    def _lines(self, passage: Passage, language: str) -> list[str]:
        text = plain(passage.text)
        whole = labelled(passage.label, text, language) if passage.label else text
        if self._columns is None:
            return whole.split("\n")
        indent = "     " if passage.style == "aside" and passage.is_close else ""
        lines = wrap(whole, self._columns - len(MARGIN), indent)
        first, rest = lines[0], lines[1:]
        head, tail = self._split(first, passage.label)
        painted = [head + self._painted(tail, passage.style), *(self._painted(line, passage.style) for line in rest)]
        return [f"{MARGIN}{line}".rstrip() for line in painted]

    def _split(self, line: str, label: str) -> tuple[str, str]:
        """A line's label, painted, and the rest of it."""
        if not label or not line.startswith(label):
            return "", line
        end = len(label) + 1
        return (f"\x1b[1m{line[:end]}\x1b[0m" if self._is_coloured else line[:end]), line[end:]

    def _painted(self, line: str, style: str) -> str:
        code = _ANSI[style]
        return f"\x1b[{code}m{line}\x1b[0m" if code and line and self._is_coloured else line

    def _print(self, where: TextIO, lines: Iterable[str]) -> None:
        where.write("".join(f"{line}\n" for line in lines))
        where.flush()


def lines_asked(source: TextIO, out: TextIO, *, is_live: bool) -> Ask:
    """Ask for plain lines: the options are listed once, then lines are read."""
    listed: list[Answer] = []

    def ask(answer: Answer, language: str) -> str | None:
        if listed[-1:] != [answer]:
            listed[:] = [answer]
            out.write("".join(f"{line}\n" for line in ("", *_offered(answer, language))))
        if is_live:
            out.write("> ")
        out.flush()
        return source.readline() or None

    return ask


def _offered(answer: Answer, language: str) -> list[str]:
    """The options, a line each, and that words are taken, where they are."""
    options = answer["payload"]["options"]
    rows = [f"{option['id']}. {plain(option['text'])}" for option in options]
    return [*rows, f"- {say('or_say' if options else 'say_something', language)}"] if takes_text(answer) else rows


def screen_of_process() -> Screen:
    """The screen that this process has: keys and colours on a terminal, else plain lines."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    is_live = sys.stdin.isatty() and sys.stdout.isatty()
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    if not is_live:
        return Screen(
            sys.stdout, sys.stderr, lines_asked(sys.stdin, sys.stdout, is_live=False), None, is_coloured=False
        )
    columns = min(shutil.get_terminal_size().columns, WIDEST + len(MARGIN))
    is_coloured = not is_dumb and not os.environ.get("NO_COLOR")
    ask = lines_asked(sys.stdin, sys.stdout, is_live=True) if is_dumb else _keys(is_coloured=is_coloured)
    return Screen(sys.stdout, sys.stderr, ask, columns, is_coloured=is_coloured)


def _keys(*, is_coloured: bool) -> Ask:
    from server.play.keys import keys_asked  # noqa: PLC0415 - prompt_toolkit is slow to import, and not for pipes

    return keys_asked(is_coloured=is_coloured)
