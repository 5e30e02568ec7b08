"""How closely a replay holds a machine to what was recorded: to the letter of its prompts, or to its rules.

`strict` compares every prompt with the recorded one, byte for byte; `structure` compares what the
rules settle, and leaves the prose free; `rerun` asks the configured narrator for each telling anew,
and holds it to the contract.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Literal, get_args

from runtime.prompt import Message
from runtime.quoting import Marks, marked

Mode = Literal["strict", "structure", "rerun"]
MODES: tuple[Mode, ...] = get_args(Mode)

MARKS = Marks(fresh="text", lasting="session")
"""What stands for the marks that each call to a model makes around a player's words."""
CONTEXT_LINES = 2
"""Lines of a prompt that are shown around a difference."""
_ROLE_LINE = re.compile(r"^(\\*)(?=(?:system|user|assistant):$)", re.MULTILINE)


def prompt_text(messages: Iterable[Message]) -> str:
    """A prompt as it stands in a replay: each message under the name of its role. Other messages, another text."""
    return "".join(f"{each.role}:\n{_ROLE_LINE.sub(_escaped, marked(each.content, MARKS))}\n" for each in messages)


def _escaped(found: re.Match[str]) -> str:
    return found[1] + "\\"


def drift(recorded: str, now: str) -> str:
    """What was changed from a recorded prompt to the one of now, line by line; '' where they are the same."""
    if recorded == now:
        return ""
    lines = difflib.unified_diff(recorded.split("\n"), now.split("\n"), "recorded", "now", lineterm="", n=CONTEXT_LINES)
    return "\n".join(lines)
