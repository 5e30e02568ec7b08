"""Asking with keys: arrows, numbers, and a line to speak in. The only door to prompt_toolkit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import BufferControl, ConditionalContainer, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from server.play.moves import takes_text
from server.play.table import Answer
from server.play.words import say
from server.play.wrapping import plain

if TYPE_CHECKING:
    from prompt_toolkit.output import Output

    from server.play.screen import Ask

STYLE = Style.from_dict({"chosen": "bold ansigreen", "option": "", "hint": "ansibrightblack", "said": "ansicyan"})
IMMEDIATE = "qw?？"
"""Commands that need no Enter where no text is taken."""
DIGITS = "123456789"


def keys_asked(*, is_coloured: bool) -> Ask:
    """Ask with arrows, numbers and text; the choice is erased when it has been made."""

    def ask(answer: Answer, language: str) -> str | None:
        return _Menu(answer, language).application(_output(), is_coloured=is_coloured).run(handle_sigint=False)

    return ask


def _output() -> Output:
    """The terminal; it is not asked where its cursor is, which some never answer."""
    output = Vt100_Output.from_pty(sys.stdout)
    output.enable_cpr = False
    return output


class _Menu:
    """One question: the options with one of them marked, and what has been typed."""

    def __init__(self, answer: Answer, language: str) -> None:
        self._options = [(option["id"], plain(option["text"])) for option in answer["payload"]["options"]]
        self._takes_text = takes_text(answer)
        self._language = language
        self._at = 0
        self._typed = Buffer(multiline=False)

    def application(self, output: Output, *, is_coloured: bool) -> Application[str | None]:
        """The question as an application that ends with the line, None where the player leaves."""
        line = Window(
            BufferControl(self._typed, input_processors=[BeforeInput(self._before_typed)]), height=Dimension(min=1)
        )
        speaks = Condition(lambda: self._takes_text or bool(self._typed.text))
        body = HSplit([self._fixed(self._choices), ConditionalContainer(line, speaks), self._fixed(self._hint)])
        return Application(
            layout=Layout(body, focused_element=line if self._takes_text else None),
            key_bindings=self._bindings(line),
            style=STYLE,
            color_depth=None if is_coloured else ColorDepth.DEPTH_1_BIT,
            output=output,
            erase_when_done=True,
        )

    def _fixed(self, text: Callable[[], StyleAndTextTuples]) -> Window:
        return Window(FormattedTextControl(text, show_cursor=False), dont_extend_height=True, wrap_lines=True)

    def _choices(self) -> StyleAndTextTuples:
        rows: StyleAndTextTuples = [("", "\n")]
        for at, (number, text) in enumerate(self._options):
            is_marked = at == self._at and not self._typed.text
            rows.append(
                ("class:chosen" if is_marked else "class:option", f"{'❯' if is_marked else ' '} {number}. {text}")
            )
            rows.append(("", "\n"))
        return rows[:-1]

    def _before_typed(self) -> StyleAndTextTuples:
        """What stands before the typed line: a mark, and until something is typed an invitation after it."""
        if self._typed.text:
            return [("class:chosen", "❯ ")]
        invitation = say("or_say" if self._options else "say_something", self._language)
        return [("class:hint", f"✎ {invitation} ")]

    def _hint(self) -> StyleAndTextTuples:
        return [("class:hint", "  " + say("keys_text" if self._takes_text else "keys", self._language))]

    def _bindings(self, line: Window) -> KeyBindings:
        keys = KeyBindings()
        untyped = Condition(lambda: not self._typed.text)
        silent = Condition(lambda: not self._takes_text and not self._typed.text)

        @keys.add("up")
        @keys.add("c-p")
        @keys.add("s-tab")
        def _up(_: KeyPressEvent) -> None:
            self._move(-1)

        @keys.add("down")
        @keys.add("c-n")
        @keys.add("tab")
        def _down(_: KeyPressEvent) -> None:
            self._move(1)

        @keys.add("enter")
        def _take(event: KeyPressEvent) -> None:
            if taken := self._typed.text.strip() or self._marked():
                event.app.exit(result=taken)

        @keys.add("c-c")
        def _leave(event: KeyPressEvent) -> None:
            event.app.exit(result=None)

        keys.add("c-d", filter=untyped)(_leave)

        @keys.add("escape", eager=True)
        def _clear(_: KeyPressEvent) -> None:
            self._typed.reset()

        @keys.add(Keys.Any, filter=silent)
        @keys.add(Keys.BracketedPaste, filter=silent)
        def _pressed(event: KeyPressEvent) -> None:
            self._press(event, line)

        for digit in filter(self._takes_at_once, DIGITS):
            keys.add(digit, filter=silent)(self._take_number)
        return keys

    def _move(self, by: int) -> None:
        if self._options:
            self._at = (self._at + by) % len(self._options)

    def _marked(self) -> str:
        return str(self._options[self._at][0]) if self._options else ""

    def _is_short(self) -> bool:
        """Whether one digit names any option."""
        return 0 < len(self._options) < 10  # noqa: PLR2004 - ten has two digits

    def _takes_at_once(self, digit: str) -> bool:
        return self._is_short() and digit in {str(number) for number, _ in self._options}

    def _take_number(self, event: KeyPressEvent) -> None:
        """A number takes its option at once; where words are taken it may begin some, and waits for Enter."""
        event.app.exit(result=event.data)

    def _press(self, event: KeyPressEvent, line: Window) -> None:
        """A key where no text is taken: a command at once, or the beginning of a typed line.

        The number of no option begins a line too, which Enter takes for what it is, and not for the marked option.
        """
        if event.data in IMMEDIATE:
            event.app.exit(result=event.data)
        elif event.data == "/" or event.data.isdigit():
            self._typed.insert_text(event.data)
            event.app.layout.focus(line)
