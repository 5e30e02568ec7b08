"""The pytest plugin: every `*.replay.yaml` is a file of tests, one for each combination that it names.

It is loaded in every run of pytest where Edgewise is installed, so nothing of the engine is imported
before a replay is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runtime.bench.replay import Replay

SUFFIX = ".replay.yaml"
FAILED = ".edgewise"
"""The folder of runs that failed: what stands below it is no test."""
UPDATE = "--replay-update"
MODE = "--replay-mode"
_UPDATED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what can be asked of replays."""
    group = parser.getgroup("edgewise", "replays of machines")
    group.addoption(UPDATE, action="store_true", help="Write what came into the `expect` of replays that fail.")
    group.addoption(
        MODE, choices=("structure", "strict"), default="structure",
        help="structure: what the rules settle; strict: the prompts too, byte for byte.",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to change tests where nobody would see it. Raises UsageError."""
    if not config.getoption(UPDATE):
        return
    if os.environ.get("CI"):
        raise pytest.UsageError(f"{UPDATE} is not for CI: run it where you read what it changes, and commit that")
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError(f"{UPDATE} writes files, so it runs in one process: add -n0")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The replays of a file, unless it stands below .edgewise/."""
    if not file_path.name.endswith(SUFFIX) or FAILED in _below(file_path, parent.config.rootpath).parts:
        return None
    return ReplayFile.from_parent(parent, path=file_path)


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


class ReplayFile(pytest.File):
    """A file of replays."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each of its replays. Raises CollectError with every fault of the file."""
        from server.bench.collecting import replays_of  # noqa: PLC0415 - see the module

        replays, faults = replays_of(self.path, self.config.rootpath)
        if faults:
            raise self.CollectError("\n".join(faults))
        for replay in replays:
            yield ReplayItem.from_parent(self, name=replay.id.removeprefix(f"{replay.file}::"), replay=replay)


class ReplayFailed(Exception):
    """A replay went otherwise than its file says: where, how and why."""


class ReplayFaulty(Exception):
    """A replay that can't be played, or updated, as its file stands: never what is known to fail."""


class ReplayItem(pytest.Item):
    """A replay as a test."""

    def __init__(self, *, replay: Replay, **more: Any) -> None:
        super().__init__(**more)
        self.replay = replay
        if replay.xfail is not None:
            self.add_marker(pytest.mark.xfail(reason=replay.xfail, raises=ReplayFailed, strict=True))

    def runtest(self) -> None:
        """Play it. Raises ReplayFailed, ReplayFaulty, EdgewiseError."""
        from server.bench.collecting import played_in_project, told  # noqa: PLC0415 - see the module

        mode = self.config.getoption(MODE)
        is_updated = self.config.getoption(UPDATE) and self.replay.xfail is None
        result = played_in_project(self.replay, self.path, mode, is_updated=is_updated)
        if result.verdict == "skipped":
            pytest.skip(result.reason)
        if result.verdict == "failed" and self.config.getoption(UPDATE):
            self._update()
        elif why := told(result, self.path, mode):
            is_known = result.verdict == "xfailed" or self.replay.xfail is None
            raise (ReplayFailed if is_known else ReplayFaulty)(why)

    def _update(self) -> None:
        """Write what came into the file. Raises ReplayFaulty where that can't be."""
        from server.bench.collecting import NotUpdated, update  # noqa: PLC0415 - see the module

        try:
            if update(self.path, self.config.rootpath, self.config.getoption(MODE)):
                self.config.stash.setdefault(_UPDATED, []).append(self.path.name)
        except NotUpdated as why:
            raise ReplayFaulty(f"{self.path.name} is not updated: {why}") from None

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The first difference and why the machine went so, without a traceback; a fault of ours with one."""
        from runtime.errors import EdgewiseError  # noqa: PLC0415 - see the module

        if isinstance(excinfo.value, ReplayFailed | ReplayFaulty | EdgewiseError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        return self.path, None, f"{self.path.name}::{self.name}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files that were rewritten."""
    for name in terminalreporter.config.stash.get(_UPDATED, []):
        terminalreporter.write_line(f"{name} expects what came now: read the change before you keep it")
