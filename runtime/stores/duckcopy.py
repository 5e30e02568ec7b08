"""A journal written anew beside itself: for a backup, to give deleted bytes back, and from an older format.

The copy is a file of its own until it is whole; whoever asked for it then puts it in its place.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import StoreUnavailable, ValidationError
from runtime.formats import read_entry
from runtime.progress import Progress, Step
from runtime.stores import tables
from runtime.stores.headfile import HeadFile, Link, Mark, group_hash
from runtime.stores.tables import COPY_SPAN, Connection, Values, rows_of

ALONE = ".alone"
"""The folder in which a file has another name, while it is looked at without its log."""
_COPIED = ("tombstones", "definitions", "ledger", "meta")
_COPIED_LINKS = tables.LINKS.replace("FROM entries", "FROM copy.entries").replace("FROM tomb", "FROM copy.tomb")
_LAST_GROUP = """
    SELECT greatest(0, (SELECT max(grp) FROM entries), (SELECT max(grp) FROM tombstones))
"""


def beside(path: Path, suffix: str) -> Path:
    """A file that stands beside the journal."""
    return path.with_name(path.name + suffix)


def size_of(path: Path) -> int:
    """A file's bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def make_private(path: Path) -> None:
    """Let nobody but its owner read a file, which is made where there is none; another's file is left as it is."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        with suppress(PermissionError):
            path.chmod(0o600)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder has, where its file system knows how. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


@contextmanager
def _attached_copy(db: Connection, copy: Path) -> Iterator[None]:
    """An empty copy with the tables of this format, in one transaction until it is whole; let go of in the end."""
    discard(copy)
    quoted = str(copy.absolute()).replace("'", "''")
    make_private(beside(copy, ".wal"))
    db.execute(f"ATTACH '{quoted}' AS copy (ROW_GROUP_SIZE 2048)")
    try:
        make_private(copy)
        for name, columns in tables.TABLES.items():
            db.execute(f"CREATE TABLE copy.{name} ({columns})")
        db.execute("BEGIN")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("CHECKPOINT copy")
    finally:
        db.execute("DETACH copy")


def discard(copy: Path) -> None:
    """Remove a copy that was not finished; none is no error."""
    for path in (copy, beside(copy, ".wal")):
        path.unlink(missing_ok=True)


def discard_left(file: Path) -> None:
    """Remove what a process that died had beside the journal: what a query spilled, and the file's other name."""
    for suffix in (".tmp", ALONE):
        shutil.rmtree(beside(file, suffix), ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Pass where there is no file yet, nor one that would belong to it. Raises ValidationError."""
    for path in (target, *(beside(target, suffix) for suffix in (".wal", ".head"))):
        if path.exists():
            what = f"{path} exists already, and nothing is written over"
            detail = {"loc": ["body", "path"], "msg": what, "type": "exists"}
            raise ValidationError(what, "Name a new file.", details=[detail])


def refuse_full(file: Path) -> None:
    """Pass where the disk has room for another such file beside it. Raises StoreUnavailable."""
    needed, free = size_of(file) + size_of(beside(file, ".wal")), shutil.disk_usage(file.parent).free
    if free < needed:
        raise StoreUnavailable(
            f"the copy of {file} takes up to {needed} bytes, and the disk has {free}", hint="Make room, then try again."
        )


def put_away(copy: Path, target: Path, end: Link) -> None:
    """Move a whole copy to where it is wanted, on another disk too, with a record of its end.

    Nothing bears the target's name before it is whole, and nothing is left where that fails; what
    an earlier try that died left half-written is removed. Raises StoreUnavailable.
    """
    part = beside(target, ".part")
    try:
        part.unlink(missing_ok=True)
        _bring(copy, part)
        _name(part, target)
        _record_end(target, end)
    except OSError as error:
        raise StoreUnavailable(
            f"{target} can't be written: {error}", hint="Name another file, or make room."
        ) from error
    finally:
        discard(copy)
        with suppress(OSError):  # a folder that isn't there, or a disk that fails
            part.unlink(missing_ok=True)


def _bring(copy: Path, part: Path) -> None:
    try:
        os.link(copy, part)
    except OSError:  # another disk
        with open(part, "xb", opener=_opened_private) as sink, copy.open("rb") as source:
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())


def _opened_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name(part: Path, target: Path) -> None:
    """Give a whole file its name, never over somebody's, though that came only now."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.touch(0o600, exist_ok=False)
        part.replace(target)


def _record_end(target: Path, end: Link) -> None:
    record = HeadFile(beside(target, ".head"))
    try:
        record.begin([end], is_kept_open=False)
        sync_folder(target.parent)
    except BaseException:
        for path in (target, record.path):
            path.unlink(missing_ok=True)
        raise


def copied(db: Connection, copy: Path) -> Generator[Step, None, Link]:
    """Copy the journal as it is now, all of it in one transaction, check what was written, and return its end.

    The connection's own transaction sees one moment of the journal, whatever is written meanwhile.
    """
    with _attached_copy(db, copy):
        last = last_of(db)
        for start in range(0, last, COPY_SPAN):
            end = min(start + COPY_SPAN, last)
            db.execute("INSERT INTO copy.entries FROM journal.entries WHERE pos > $1 AND pos <= $2", [start, end])
            yield Progress(end, 2 * last)
        for name in _COPIED:
            db.execute(f"INSERT INTO copy.{name} FROM journal.{name}")
        return (yield from _checked(db, last))


def _checked(db: Connection, last: int) -> Generator[Step, None, Link]:
    chain = ""
    for start in range(0, last, COPY_SPAN):
        end = min(start + COPY_SPAN, last)
        rows = rows_of(db, _COPIED_LINKS, start, end)
        if wrong := next(tables.breaks(rows, start, end, chain), None):
            raise StoreUnavailable(
                f"the journal is not whole, and is not copied: {wrong.what}", hint="Run `edgewise db verify`."
            )
        chain = rows[-1][2]
        yield Progress(last + end, 2 * last)
    return Link(last, chain)


def upgraded(db: Connection, copy: Path, record: HeadFile) -> Iterator[Step]:
    """Copy a journal of format 1, with a chain over its entries and what its deletions left.

    Raises StoreUnavailable where it doesn't end at its mark.
    """
    record.check_mark(mark_of_v1(db))
    total = rows_of(db, tables.COUNT)[0][0]
    link = Link()
    with _attached_copy(db, copy):
        for group in _in_groups(_rows_of_v1(db)):
            link = _write_group(db, group, link)
            yield Progress(min(link.pos, total), total)
        db.execute("INSERT INTO copy.definitions FROM journal.definitions")


def last_of(db: Connection, first: int = 0) -> int:
    """The last position of the journal; looked for from `first` on, which makes it cheap, where that is there."""
    last = int(rows_of(db, tables.LAST, first)[0][0])
    return last if last >= first else last_of(db)


def mark_of_v1(db: Connection) -> Mark:
    """The last group of format 1; a deletion was a group of its own, so the last one is always whole."""
    number = int(rows_of(db, _LAST_GROUP)[0][0])
    rows = rows_of(db, "SELECT hash FROM tombstones WHERE grp = $1", number)
    if rows or number == 0:
        return Mark(number, rows[0][0] if rows else "")
    hashes = rows_of(db, "SELECT hash FROM entries WHERE grp = $1 ORDER BY pos", number)
    return Mark(number, group_hash(hash_ for (hash_,) in hashes))


def _rows_of_v1(db: Connection) -> Iterator[Values]:
    """Entries as (group, hash, body) and deletions as (group, hash, time), in the order of their groups."""
    deletions = rows_of(db, "SELECT grp, hash, at_ms FROM tombstones ORDER BY grp DESC")
    last = rows_of(db, "SELECT coalesce(max(pos), 0) FROM entries")[0][0]
    sql = "SELECT grp, hash, body FROM entries WHERE pos > $1 AND pos <= $2 ORDER BY pos"
    for start in range(0, last, tables.BODY_SPAN):
        for row in rows_of(db, sql, start, start + tables.BODY_SPAN):
            while deletions and deletions[-1][0] < row[0]:
                yield deletions.pop()
            yield row
    yield from reversed(deletions)


def _in_groups(rows: Iterable[Values]) -> Iterator[list[Values]]:
    group: list[Values] = []
    for row in rows:
        group.append(row)
        if len(group) == tables.BODY_SPAN:
            yield group
            group = []
    yield group


def _write_group(db: Connection, group: list[Values], link: Link) -> Link:
    entries: list[Values] = []
    for _, hash_, body in group:
        link = Link(link.pos + 1, tables.chained(link.chain, hash_))
        if isinstance(body, str):
            entries.append((*tables.values_of(read_entry(body, hash_), body), link.pos, link.chain))
        else:
            db.execute("INSERT INTO copy.tombstones VALUES ($1, $2, $3, $4)", [link.pos, hash_, link.chain, body])
    if entries:
        db.execute(
            tables.INSERT.replace("INTO entries", "INTO copy.entries"), [[*each] for each in zip(*entries, strict=True)]
        )
    return link
