"""The small file beside a journal that says where the journal ends.

It is written after each commit. A journal that ends before it has lost entries.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from runtime.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


RECORD_BYTES = 128
"""A mark's size on disk, padded: each overwrites the one before in place.

One small write is all or nothing to a process that is killed. Putting a new file in the old one's
place costs a journalled rename each time, about as much as the commit itself.
"""


class Mark(Struct, frozen=True):
    """The last committed group: its number, counting from 1, and its hash; 0 and '' for none."""

    group: int = 0
    hash: str = ""


def group_hash(hashes: Iterable[str]) -> str:
    """The SHA-256 over the entries' hashes in their order, in hex."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


class HeadFile:
    """Where the mark is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mark:
        """The mark as written; none where there is no file, or an empty one.

        A power cut may leave an empty file, since the journal is what is synced to disk, not this.
        Raises StoreUnavailable where the file holds anything else.
        """
        try:
            content = self._path.read_bytes()
            return msgspec.json.decode(content, type=Mark) if content else Mark()
        except FileNotFoundError:
            return Mark()
        except msgspec.DecodeError as error:
            raise self._refusal(f"can't be read ({error})") from error

    def write(self, mark: Mark) -> None:
        """Put a new mark in place of the old one. Raises OSError."""
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, msgspec.json.encode(mark).ljust(RECORD_BYTES), 0)
        finally:
            os.close(fd)

    def check(self, end: Mark) -> None:
        """Pass where the journal's end is at or after the mark.

        After it is right too: a crash between a commit and its mark. Raises StoreUnavailable
        where entries were cut off the end, or where the last group is not the one committed.
        """
        mark = self.read()
        if end.group < mark.group:
            lost = f"says that the journal goes to group {mark.group}, and it ends at group {end.group}"
            raise self._refusal(f"{lost}: entries are missing")
        if end.group == mark.group and end.hash != mark.hash:
            raise self._refusal(f"and the journal differ in group {end.group}: entries were altered or removed")

    def _refusal(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._path} {what}. Nothing was repaired.",
            hint=f"Restore the journal from a backup; or, to go on with what is there, remove {self._path.name}.",
        )
