"""The tester's walk of tests/README.md: every block of it in its order, in one project, with what it prints.

`…` stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT, Block, Page, Shell

PAGE = Page(ROOT / "tests" / "README.md")
SECTION = "A tester's walk"


def blocks() -> list[Block]:
    return [block for block in PAGE.blocks() if block.section == SECTION]


def file_of(block: Block) -> str:
    """The file that a YAML block is, which its first line names."""
    return block.text.splitlines()[0].removeprefix("# ")


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what is printed below it."""
    for entry in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = entry.partition("\n")
        yield command, printed.strip("\n")


def pattern(printed: str) -> str:
    return "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", printed))


@pytest.mark.slow
def test_the_walk_goes_as_it_is_written(tmp_path: Path):
    shell = Shell(tmp_path)
    for block in blocks():
        if block.language == "yaml":
            (shell.folder / file_of(block)).write_text(block.text, encoding="utf-8")
            continue
        for command, printed in commands(block):
            if command.startswith("cd "):
                shell = Shell(tmp_path / command.removeprefix("cd "))
                continue
            done = shell.run_soon(command)
            # The commands that it prints go through uv where uv has started it.
            said = (done.stdout + done.stderr).strip("\n").replace("python3 -m uv run edgewise", "edgewise")
            assert re.fullmatch(pattern(printed), said, re.DOTALL), f"$ {command}\n{said}"


def test_the_walk_comes_first_and_every_block_of_it_is_run():
    headings = re.findall(r"^## (.+)$", PAGE.text, re.MULTILINE)

    assert headings[0] == SECTION
    assert {block.language for block in blocks()} == {"console", "yaml"}
    assert all(file_of(block).endswith(".yaml") for block in blocks() if block.language == "yaml")
