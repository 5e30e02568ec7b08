"""The command as its users run it: a process of its own, with defaults and nothing from this environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from served import PATIENCE_S, ROOT

ESCAPE = "\x1b"


def environment(**variables: str) -> dict[str, str]:
    """What a process of ours may see: no setting or key of this environment, and the offline narrator."""
    ours = ("EDGEWISE_", "DEEPSEEK_", "UV_RUN_", "NO_COLOR")
    mine = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**mine, "PYTHONPATH": str(ROOT), "EDGEWISE_NARRATOR": "offline", **variables}


def command(*words: str) -> list[str]:
    """`edgewise …` of this checkout."""
    return [sys.executable, "-m", "server", *words]


def edgewise(*words: str, typed: str = "", cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its input; what it said is in `stdout` and `stderr`."""
    return subprocess.run(
        command(*words), input=typed, cwd=cwd, env=environment(**variables),
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=PATIENCE_S,
    )  # fmt: skip
