"""Markdown pages as tests see them: their fenced blocks, sections and tables, each with its line."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from command import command as own_command
from command import finished
from msgspec import Struct

ROOT = Path(__file__).parent.parent

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANCHOR = re.compile(r"[^\w\- ]")
_NAMED = re.compile(r"\A(?:---\n)?(?:# |\{# )([\w./-]+/[\w.-]+\.\w+)(?: #\})?$", re.MULTILINE)
_BROKEN = re.compile(r"\A# ([EW]\d{3})$", re.MULTILINE)


class Block(Struct, frozen=True):
    """One fenced block: its language, its text, and the line of the page where the text begins."""

    language: str
    text: str
    line: int
    section: str

    @property
    def file(self) -> str:
        """The path that its first comment names, '' where it names none."""
        found = _NAMED.search(self.text)
        return found[1] if found else ""

    @property
    def code(self) -> str:
        """The finding that its first comment promises, '' where it promises none."""
        found = _BROKEN.search(self.text)
        return found[1] if found else ""


class Page(Struct, frozen=True):
    """A page of the documentation."""

    path: Path

    @property
    def text(self) -> str:
        """The whole page."""
        return self.path.read_text(encoding="utf-8")

    def blocks(self, *languages: str) -> list[Block]:
        """Its fenced blocks, those of some languages where any is named."""
        found = (
            Block(match[1], match[2], self.text.count("\n", 0, match.start()) + 2, self._section_at(match.start()))
            for match in _FENCE.finditer(self.text)
        )
        return [block for block in found if not languages or block.language in languages]

    def block_after(self, block: Block) -> Block:
        """The next block below one."""
        return next(each for each in self.blocks() if each.line > block.line)

    def _section_at(self, position: int) -> str:
        headings = re.findall(r"^#+ (.+)$", self._prose[:position], re.MULTILINE)
        return headings[-1] if headings else ""

    @property
    def _prose(self) -> str:
        """The page with its fenced blocks blanked, so that what is left stands where it stood."""
        return _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), self.text)

    def section(self, heading: str) -> str:
        """What stands below a heading, up to the next one."""
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", self._prose, re.MULTILINE | re.DOTALL)
        assert found is not None, f"{self.path.name} has no heading '{heading}'"
        return found[1]

    def table(self, heading: str, number: int = 0) -> list[list[str]]:
        """The rows of a section's table without its head; cells without blanks around."""
        tables = re.findall(r"(?:^\|.*\|\n)+", self.section(heading) + "\n", re.MULTILINE)
        rows = tables[number].splitlines()[2:]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))] for row in rows]

    def anchors(self) -> set[str]:
        """The anchors of its headings, as a code host makes them."""
        headings = re.findall(r"^#+ (.+)$", self._prose, re.MULTILINE)
        return {_ANCHOR.sub("", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> Iterator[tuple[str, str]]:
        """Its links that stay in the house: (path or '', anchor or '')."""
        for target in re.findall(r"\]\(([^)\s]+)\)", self.text):
            if "://" not in target:
                path, _, anchor = target.partition("#")
                yield path, anchor


def ticked(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


class Shell:
    """Runs a page's commands in a folder: `edgewise` and `pytest` are this checkout's, all else is default."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / ".bin"
        self._bin.mkdir(exist_ok=True)
        ours = ("EDGEWISE_", "DEEPSEEK_")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name != "CI"}
        path = f"{self._bin}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = {**mine, "PATH": path, "PYTHONPATH": str(ROOT)}
        self._known: set[str] = set()
        for name, module in (("edgewise", "server"), ("pytest", "pytest")):
            stub = self._bin / name
            stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n', encoding="utf-8")
            stub.chmod(0o755)

    def run_soon(self, command: str) -> subprocess.CompletedProcess[str]:
        """The same, by the shell where the command is the first of its kind, and forked where one like it was run."""
        before, piped, last = command.rpartition(" | ")
        _, *words = shlex.split(last)
        kind = " ".join(words[:1])
        if kind not in self._known or not last.startswith("edgewise ") or set(last) & set("$<>&;*?~"):
            self._known.add(kind)
            return self.run(command)
        typed = self.run(before).stdout if piped else ""
        return finished(own_command(*words), typed, self.folder, self._environment)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """What the command printed; its input is empty."""
        return subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
