"""Which files of a project changed since a revision, asked of git."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import click

from runtime.bench.replay import Replay
from server.bench.gathering import Bundles
from server.settings import PROJECT_FILE
from server.tend.pages import clean


def changed_since(project: Path, revision: str) -> set[str]:
    """The files that differ from a revision, as seen from the project: committed since, changed, new or gone.

    Raises UsageError where there is no git, no repository, or no such revision, and where git fails.
    """
    if _git(project, "rev-parse", "--is-inside-work-tree").returncode:
        raise click.UsageError(f"{project.resolve()} is in no git repository: --changed-since has nothing to ask.")
    commit = _git(project, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit.returncode:
        hint = "A shallow clone has few: fetch it first."
        raise click.UsageError(f"git knows no revision '{revision}'. {hint}")
    asked = (
        ("diff", "--name-only", "--no-renames", "--relative", "-z", commit.stdout.decode().strip(), "--", "."),
        ("ls-files", "--others", "--exclude-standard", "-z", "--", "."),
    )
    return {name for words in asked for name in _names(project, *words)}


def _names(project: Path, *words: str) -> list[str]:
    """The files that git names. Raises UsageError where it fails: what it didn't tell is not what didn't change."""
    done = _git(project, *words)
    if done.returncode:
        said = clean(" ".join(done.stderr.decode("utf-8", "replace").split()))
        raise click.UsageError(f"--changed-since asks `git {words[0]}`, which fails: {said or 'it says nothing'}")
    return [name for name in done.stdout.decode("utf-8", "replace").split("\0") if name]


def _git(project: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A question to git. Raises UsageError where there is none."""
    try:
        return subprocess.run(["git", "-C", str(project), *words], capture_output=True, check=False)  # noqa: S603, S607 - no shell; git is where the user has it
    except FileNotFoundError:
        raise click.UsageError("there is no git here: --changed-since asks it.") from None


def touched(bundles: Bundles, replays: Iterable[Replay], changed: set[str]) -> list[str]:
    """The machines that changes are about: their own files, their prompts, what these include, their replays.

    All of them where the project's own file changed: what it asks may be another thing now.
    """
    if PROJECT_FILE in changed:
        return list(bundles)
    played: dict[str, set[str]] = {name: set() for name in bundles}
    for replay in replays:
        played.setdefault(replay.given.machine, set()).add(replay.file)
    return [name for name, files in bundles.items() if _is_touched(name, {*files, *played[name]}, changed)]


def _is_touched(name: str, files: set[str], changed: set[str]) -> bool:
    folders = (f"prompts/{name}/", f"replays/{name}/")
    return not files.isdisjoint(changed) or any(each.startswith(folders) for each in changed)
