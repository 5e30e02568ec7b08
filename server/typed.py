"""Commands as this user would type them: what the banner, `init` and a play's farewell print."""

from __future__ import annotations

import os
import shlex

_BY_UV = "UV_RUN_RECURSION_DEPTH"
"""`uv run` sets it in what it starts. Source: uv's reference of environment variables."""


def typed(*words: str) -> str:
    """The command line `edgewise …` with its words quoted; through uv where uv started this process."""
    first = "python3 -m uv run edgewise" if _BY_UV in os.environ else "edgewise"
    return f"{first} {shlex.join(words)}"
