"""`edgewise init DIR`: a project that plays and passes `check` at once, to be changed from there.

Its files stand in server/project/, as they will be written; those whose names begin with a dot
stand there without it, so that no tool obeys them before. The schema is the loader's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from runtime import loader
from server.typed import typed

GOOD, WRONG_USE = 0, 2
DOTTED = {"gitignore": ".gitignore", "env.example": ".env.example"}
SHOWN = 5
"""How many of the things in the way are named."""


def init(folder: Path) -> int:
    """Make a project in a folder that is new or empty, and say what to do next; the exit code.

    Anything in the way is named, and nothing is written then.
    """
    if in_the_way := sorted(each.name for each in folder.iterdir()) if folder.exists() else []:
        more = f" and {len(in_the_way) - SHOWN} more" if len(in_the_way) > SHOWN else ""
        click.echo(
            f"{folder} is not empty: it holds {', '.join(in_the_way[:SHOWN])}{more}. Name a new folder.", err=True
        )
        return WRONG_USE
    try:
        _write(folder, project_files())
    except OSError as error:
        click.echo(f"{folder} can't be written: {error}", err=True)
        return WRONG_USE
    click.echo("\n".join(_next_steps(folder)))
    return GOOD


def project_files() -> dict[str, str]:
    """The new project: path in it → text."""
    schema = json.dumps(loader.schema(), ensure_ascii=False, indent=2) + "\n"
    template = files("server") / "project"
    return {**dict(_texts(template, "")), "machines/machine.schema.json": schema}


def _texts(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _texts(each, f"{prefix}{each.name}/")
        else:
            yield prefix + DOTTED.get(each.name, each.name), each.read_text(encoding="utf-8")


def _write(folder: Path, project: Mapping[str, str]) -> None:
    for name, text in project.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _next_steps(folder: Path) -> list[str]:
    at = ("--project", str(folder))
    steps = [
        (typed("play", *at), "play it; --language en for English"),
        (typed("check", *at), "every fault at once, with its line and its mend"),
        (typed("test", *at), "its replays, and all that an exploration finds wrong"),
        (typed("serve", *at, "--dev"), "serve it, and start again whenever a file changes"),
    ]
    widest = max(len(command) for command, _ in steps)
    return [
        f"Made a project in {folder}. Read machines/first_story.yaml first: every line says what it does.",
        "",
        *(f"  {command:<{widest}}  # {what}" for command, what in steps),
        "",
        "Run these from here: uv looks for edgewise in the folder that you are in.",
    ]
