"""The small file beside a journal that says where the journal ends, and what was committed lately.

Its first line is the journal's end at the last checkpoint; each commit adds a line for each entry.
So a journal that lost what stood in its write-ahead log is found, and whose entries they were.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from runtime.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Link(Struct, frozen=True, omit_defaults=True):
    """An entry's place in the journal: its position, its link in the chain, and whose it is.

    Without a session it is a deletion, or the end of a journal at a checkpoint; 0 and '' is none.
    """

    pos: int = 0
    chain: str = ""
    session_id: str = ""
    seq: int = 0


class Mark(Struct, frozen=True):
    """What a file of format 1 had for an end: the number of its last group, and its hash."""

    group: int = 0
    hash: str = ""


_OLD = b'{"group"'
_lines = msgspec.json.Encoder().encode_lines
_link = msgspec.json.Decoder(Link).decode


def group_hash(hashes: Iterable[str]) -> str:
    """The SHA-256 over the hashes of a group of format 1, in their order, in hex."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


class HeadFile:
    """Where the record is kept. It is not synced to disk: the journal is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        self._size = 0

    def read(self) -> list[Link]:
        """The journal's end at the last checkpoint, and every link since; none where there is no file.

        A power cut may leave the file empty, or its last line in part. Raises StoreUnavailable
        where the file holds anything else that is no record.
        """
        content = self._content()
        if content.startswith(_OLD):  # the journal was upgraded, and the process died before its record was
            return []
        *lines, torn = content.split(b"\n")
        if not lines and torn:
            raise self.refusal("can't be read (it has no whole line)")
        try:
            return [_link(line) for line in lines]
        except msgspec.DecodeError as error:
            raise self.refusal(f"can't be read ({error})") from error

    def read_mark(self) -> Mark:
        """The record as format 1 wrote it. Raises StoreUnavailable where it is none."""
        content = self._content()
        try:
            return msgspec.json.decode(content, type=Mark) if content else Mark()
        except msgspec.DecodeError as error:
            raise self.refusal(f"can't be read ({error})") from error

    def begin(self, links: Sequence[Link]) -> None:
        """Put a new record in place of the old one, all at once. Raises OSError."""
        self.close()
        fresh = self.path.with_name(self.path.name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._size = _written(fd, _lines(links))
            os.fsync(fd)
            fresh.replace(self.path)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, links: Sequence[Link]) -> None:
        """Add the links of a commit. Raises OSError; then none of them is there."""
        if self._fd < 0:
            self.begin(links)
            return
        try:
            self._size += _written(self._fd, _lines(links))
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise

    def close(self) -> None:
        """Let the file go; again is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def refusal(self, what: str) -> StoreUnavailable:
        """What the record says against the journal beside it, and how to go on all the same."""
        return StoreUnavailable(
            f"{self.path} {what}. Nothing was repaired.",
            hint=f"Restore the journal from a backup; or, to go on with what is there, remove {self.path.name}.",
        )

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes().rstrip(b"\0")
        except FileNotFoundError:
            return b""


def _written(fd: int, content: bytes) -> int:
    done = os.write(fd, content)
    if done != len(content):
        raise OSError(f"{done} of {len(content)} bytes were written")
    return done
