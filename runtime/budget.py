"""What one rendering of a template may spend: work and code points, counted as it goes."""

from __future__ import annotations

from runtime.errors import EdgewiseError

MAX_CHARS = 65_536
"""The longest rendered prompt, and the longest template, in code points."""
MAX_WORK = 1_000_000
"""What one rendering may spend: a code point or item made costs 1, a round of a loop `ROUND` and more."""


class PromptError(EdgewiseError):
    """A prompt or fragment can't be rendered with these inputs; `file` and `line` say where, '' and 0 where unknown."""

    code = "prompt_error"

    def __init__(self, message: str, *, file: str = "", line: int = 0) -> None:
        super().__init__(f"{file}:{line} {message}" if file else message)
        self.message, self.file, self.line = message, file, line


class Budget:
    """What one rendering may still spend."""

    def __init__(self, work: int = MAX_WORK, chars: int = MAX_CHARS) -> None:
        self.work, self.chars = work, chars

    def spend(self, work: int) -> None:
        """Pay for work. Raises PromptError when the budget is used up."""
        self.work -= work
        if self.work < 0:
            message = f"the template does too much: more than {MAX_WORK:,} items and code points. Loop over less."
            raise PromptError(message)

    def emit(self, chars: int) -> None:
        """Pay for output. Raises PromptError when it grows too long."""
        self.chars -= chars
        if self.chars < 0:
            message = f"the text grows longer than {MAX_CHARS:,} code points. Truncate or loop over less."
            raise PromptError(message)
