"""One owner per journal file: a lock file beside it, held for life, that names who holds it.

DuckDB's own lock is a POSIX record lock: the owner loses it as soon as it opens and closes the
file a second time, and then a second writer's rows vanish. flock has no such trap.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from runtime.errors import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

POLL_S = 0.05
NAMING_POLLS = 20


class Owner(Struct, frozen=True, omit_defaults=True):
    """Who holds a journal: the process, the URL where it answers ('' where it serves none).

    `token` was made when it started, and is good at that URL for what the journal's owner may ask.
    """

    pid: int
    url: str = ""
    token: str = ""


def owner_of(file: Path) -> Owner | None:
    """Who holds a journal now, None where nobody does; pid 0 where the holder doesn't say.

    The lock is asked and not only what stands in its file. Raises OSError where that can't be read.
    """
    path = file.with_name(file.name + ".lock")
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        for _ in range(NAMING_POLLS):
            if _locked(fd, fcntl.LOCK_SH):
                return None
            if owner := LockFile(path).owner():
                return owner
            time.sleep(POLL_S)  # whoever took it is about to write who it is
    finally:
        os.close(fd)
    return Owner(0)


class LockFile:
    """A lock that lives as long as its process; only the owner can read its content (mode 0600)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def take(self, owner: Owner, wait_s: float) -> None:
        """Take the lock, waiting at most `wait_s` seconds for another owner to let go.

        Raises StoreUnavailable with the facts owner_pid and owner_url where it does not, and
        OSError where the file can't be made or written; then nobody holds it.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait_for(fd, wait_s)
            os.fchmod(fd, 0o600)
            _write(fd, msgspec.json.encode(owner))
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def owner(self) -> Owner | None:
        """Who holds the lock by its own words; None where the file names nobody."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Owner)
        except (OSError, msgspec.DecodeError):
            return None

    def release(self) -> None:
        """Let go. The file stays, empty: removing it would let two processes lock two files."""
        fd, self._fd = self._fd, -1
        try:
            with suppress(OSError):  # whoever asks for the owner tries the lock first
                _write(fd, b"")
        finally:
            os.close(fd)

    def _wait_for(self, fd: int, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while not _locked(fd):
            if time.monotonic() >= until:
                raise _held_by(self.owner(), self._path)
            time.sleep(POLL_S)


def _write(fd: int, content: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, content, 0)


def _locked(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held_by(owner: Owner | None, path: Path) -> StoreUnavailable:
    name = f"process {owner.pid}" if owner else "another process"
    at = f" ({owner.url})" if owner and owner.url else ""
    return StoreUnavailable(
        f"the journal {path.with_suffix('')} is held by {name}{at}: one process owns a DuckDB file",
        hint="Stop that process, or send requests to it. Several processes share a PostgreSQL store (postgresql://…).",
        owner_pid=owner.pid if owner else None,
        owner_url=owner.url if owner else "",
    )
