"""No key in a file: what is written for others to read holds no value that this project keeps to itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.document import read
from server.play.table import Refused
from server.settings import PROJECT_FILE, variables_of
from server.tend.changing import whole_file

if TYPE_CHECKING:
    from server.settings import Settings

SHORTEST = 8
"""Characters: what is shorter stands in any text, and is no key."""
_NAMED_SECRET = re.compile(r"(KEY|TOKENS?|SECRET|PASSWORD)$", re.IGNORECASE)


def write(file: Path, text: str) -> None:
    """Write a recording, whole or not at all. Raises OSError, FileError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as out:
        out.write(text.encode())


def refuse_keys(text: str, settings: Settings) -> None:
    """Pass a text that holds no key, token or password of this project. Raises Refused, and names the variable."""
    for variable, value in _secrets(settings):
        if len(value) >= SHORTEST and value in text:
            raise Refused(
                "wrong_use",
                f"the session's texts hold the value of {variable}: nothing was written",
                "Somebody sent it as a text: make a new key, and delete the session",
            )


def _secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each variable that holds a secret, and its values."""
    variables = variables_of(settings.project_path)
    for name in {*filter(_NAMED_SECRET.search, variables), *_key_variables(settings.project_path)}:
        for value in re.split(r"[,\s]+", variables.get(name, "")):
            yield name, value


def _key_variables(project: Path) -> list[str]:
    """The variables that the project's file names as its providers' keys, whatever else is wrong with it."""
    try:
        text = (project / PROJECT_FILE).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    value = read(PROJECT_FILE, text).value
    providers = value.get("providers") if isinstance(value, Mapping) else None
    lines = [line for line in providers if isinstance(line, Mapping)] if isinstance(providers, list) else []
    return [line["key_variable"] for line in lines if isinstance(line.get("key_variable"), str)]
