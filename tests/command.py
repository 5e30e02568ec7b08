"""The command as its users run it: a process of its own, with defaults and nothing from this environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import forking
from served import PATIENCE_S, ROOT

ESCAPE = "\x1b"
PIPE_HOLDS = 1 << 15
"""Bytes that a pipe surely takes before anyone reads."""


def environment(**variables: str) -> dict[str, str]:
    """What a process of ours may see: no setting or key, nor that this is CI; and the offline narrator."""
    ours = ("EDGEWISE_", "DEEPSEEK_", "UV_RUN_", "NO_COLOR")
    mine = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name != "CI"}
    return {**mine, "PYTHONPATH": str(ROOT), "EDGEWISE_NARRATOR": "offline", **variables}


def command(*words: str) -> list[str]:
    """`edgewise …` of this checkout."""
    return [sys.executable, "-m", "server", *words]


def edgewise(*words: str, typed: str = "", cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its input; what it said is in `stdout` and `stderr`."""
    return finished(command(*words), typed, cwd, environment(**variables))


def finished(whole: list[str], typed: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` to its end in a folder and an environment."""
    if len(typed.encode()) <= PIPE_HOLDS and forking.is_forkable(whole, env):
        return _forked(whole, typed, cwd, env)
    return subprocess.run(
        whole, input=typed, cwd=cwd, env=env,
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def _forked(whole: list[str], typed: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The same, without waiting for Python's imports; its input is a pipe that holds all of it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        read, write = os.pipe()
        os.write(write, typed.encode())
        os.close(write)
        try:
            child = forking.started(whole, env=env, cwd=cwd, stdin=read, stdout=out, stderr=err)
        finally:
            os.close(read)
        try:
            child.wait(PATIENCE_S)
        finally:
            child.kill()
        said = [_text(each) for each in (out, err)]
    return subprocess.CompletedProcess(whole, child.wait(), *said)


def _text(file: IO[bytes]) -> str:
    """What a process wrote into a file, with lines as text has them."""
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
