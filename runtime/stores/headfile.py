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
    from collections.abc import Iterable, Mapping, Sequence
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


NAMED = 8
"""So many sessions are named in a sentence; a check of the file names them all."""
_OLD = b'{"group"'
_lines = msgspec.json.Encoder().encode_lines
_link = msgspec.json.Decoder(Link).decode


def group_hash(hashes: Iterable[str]) -> str:
    """The SHA-256 over the hashes of a group of format 1, in their order, in hex."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def lost_after(links: Sequence[Link], last: int) -> str:
    """What a journal that ends at `last` lost of what was recorded, as a sentence; '' where nothing."""
    if not links or links[-1].pos <= last:
        return ""
    count = links[-1].pos - last
    what = "1 entry is missing" if count == 1 else f"{count} entries are missing"
    ends = f"{what}: it goes to entry {links[-1].pos}, and the journal ends at entry {last}"
    return f"{ends}; missing are {_whose(links, last)}"


def sessions_after(links: Sequence[Link], last: int) -> tuple[str, ...]:
    """The sessions that have recorded entries after `last`, as far as the record names them."""
    return tuple(dict.fromkeys(link.session_id for link in links if link.pos > last and link.session_id))


def altered(links: Sequence[Link], last: int, there: Mapping[int, str]) -> list[Link]:
    """What was recorded of positions up to `last` that hold something else now, or nothing."""
    return [link for link in links if 0 < link.pos <= last and there.get(link.pos) != link.chain]


def _whose(links: Sequence[Link], last: int) -> str:
    seqs: dict[str, list[int]] = {}
    for link in links:
        if link.pos > last and link.session_id:
            seqs.setdefault(link.session_id, []).append(link.seq)
    named = [f"seq {_span(each)} of session '{name}'" for name, each in seqs.items()]
    count = sum(map(len, seqs.values()))
    rest = [f"those of {len(named) - NAMED} sessions more"] if len(named) > NAMED else []
    unnamed = links[-1].pos - last - count
    more = [f"{unnamed} that the record doesn't name (deletions, or older than its last checkpoint)"] if unnamed else []
    return ", ".join([*named[:NAMED], *rest, *more])


def _span(seqs: Sequence[int]) -> str:
    return str(seqs[0]) if len(seqs) == 1 else f"{min(seqs)} to {max(seqs)}"


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

    def check_mark(self, end: Mark) -> None:
        """Pass where a journal of format 1 ends at or after its mark. Raises StoreUnavailable."""
        content = self._content()
        try:
            mark = msgspec.json.decode(content, type=Mark) if content else Mark()
        except msgspec.DecodeError as error:
            raise self.refusal(f"can't be read ({error})") from error
        if end.group < mark.group:
            lost = f"says that the journal goes to group {mark.group}, and it ends at group {end.group}"
            raise self.refusal(f"{lost}: entries are missing")
        if end.group == mark.group and end.hash != mark.hash:
            raise self.refusal(f"and the journal differ in group {end.group}: entries were altered or removed")

    def begin(self, links: Sequence[Link], *, is_kept_open: bool = True) -> None:
        """Put a new record in place of the old one, all at once. Raises OSError."""
        self.close()
        fresh = self.path.with_name(self.path.name + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._size = _written(fd, _lines(links))
            os.fsync(fd)
            fresh.replace(self.path)
        except BaseException:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        self._fd = fd
        if not is_kept_open:
            self.close()

    def add(self, links: Sequence[Link]) -> None:
        """Add the links of a commit. Raises OSError; then none of them is there, or the next ones begin a new record.

        Half a line that can't be taken back may stay at the end until then: a reader drops it.
        """
        if self._fd < 0:
            self.begin(links)
            return
        try:
            self._size += _written(self._fd, _lines(links))
        except OSError:
            self._take_back()
            raise

    def close(self) -> None:
        """Let the file go; again is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self.close()  # nothing is added behind half a line

    def check(self, links: Sequence[Link], last: int, there: Mapping[int, str]) -> None:
        """Pass where a journal that ends at `last` is what was recorded, or goes on after it.

        `there` has the chain at each position. Raises StoreUnavailable.
        """
        if lost := lost_after(links, last):
            raise self.refusal(f"says that {lost}")
        if wrong := altered(links, last, there):
            raise self.refusal(f"and the journal differ in entry {wrong[0].pos}: entries were altered or removed")

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
