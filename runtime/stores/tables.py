"""The tables of a DuckDB journal: what stands in a row, and the SQL that reads and writes it.

There is no primary key and no index: what is unique is decided in the owner's memory, and no
lookup can miss a row because an index did. `sid` is a hash of the session's id that makes a scan
cheap; every query that uses it compares the id as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from runtime.errors import StoreUnavailable
from runtime.formats import is_intact
from runtime.session import Entry, Expense, body_of
from runtime.stores import Damage

FILE_FORMAT = 3
"""The version of the tables. An older file is upgraded when it is opened, a newer one is refused."""

BODY_SPAN = 2048
"""How many positions are read at a time with their bodies: a row group, since DuckDB scans it whole."""
COPY_SPAN = 32_768
"""How many positions one statement copies: a statement costs as much as thousands of rows."""
Values = tuple[Any, ...]
"""A row of a table, in the order of its columns."""


class Connection(Protocol):
    """What is asked of an open DuckDB database by those who don't know the library."""

    def execute(self, query: str, parameters: Any = None, /) -> Connection:
        """Run a statement."""
        ...

    def fetchall(self) -> list[Any]:
        """The rows of the statement run last."""
        ...


def rows_of(db: Connection, sql: str, *values: Any) -> list[Values]:
    """All rows of a query."""
    return db.execute(sql, [*values] or None).fetchall()


COLUMNS = {
    "sid": "BIGINT",
    "session_id": "VARCHAR",
    "seq": "BIGINT",
    "turn": "BIGINT",
    "parent": "BIGINT",
    "kind": "VARCHAR",
    "source": "VARCHAR",
    "player_id": "VARCHAR",
    "machine": "VARCHAR",
    "digest": "VARCHAR",
    "state": "VARCHAR",
    "ended": "BOOLEAN",
    "at_ms": "BIGINT",
    "key": "VARCHAR",
    "hash": "VARCHAR",
    "body": "VARCHAR",  # the entry's JSON: as a list parameter, text costs half of what a BLOB does
    "pos": "BIGINT",  # the row's place in the whole journal, from 1 without gaps: zone maps find it
    "chain": "VARCHAR",  # over the chain of the row before and this row's hash
}
SESSION_AT, SEQ_AT, HASH_AT = ([*COLUMNS].index(name) for name in ("session_id", "seq", "hash"))
_TOLD = [*COLUMNS][:HASH_AT]
"""The columns that say again what stands in the body, so that a query need not read it; as CHECKED names them."""

# Uncompressed: compressing is what makes a checkpoint stall.
TABLES = {
    "entries": ", ".join(f"{name} {type_} USING COMPRESSION uncompressed" for name, type_ in COLUMNS.items()),
    # What a deletion leaves of each entry, and one more for the deletion itself: no name and no text.
    "tombstones": "pos BIGINT, hash VARCHAR, chain VARCHAR, at_ms BIGINT",
    "definitions": "digest VARCHAR, files VARCHAR",
    # What was spent, without a session's name: a row for each group of a day, added up when the file is opened.
    "ledger": "day BIGINT, provider VARCHAR, model VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT, "
    "cached_tokens BIGINT, calls BIGINT, cost_micros BIGINT, turns BIGINT, failed BIGINT",
    "meta": "name VARCHAR, value VARCHAR",
}
INSERT = "INSERT INTO entries SELECT " + ", ".join(
    f"unnest(${at}::{type_}[])" for at, type_ in enumerate(COLUMNS.values(), 1)
)
BURY = """
    INSERT INTO tombstones
    SELECT pos, hash, chain, $3::BIGINT FROM entries WHERE sid = $1 AND session_id = $2
"""
BURIAL = "INSERT INTO tombstones VALUES ($1, $2, $3, $4)"
DELETE = "DELETE FROM entries WHERE sid = $1 AND session_id = $2"
KEEP = "INSERT INTO definitions SELECT $1, $2 WHERE NOT EXISTS (FROM definitions WHERE digest = $1)"
KEPT = "SELECT files FROM definitions WHERE digest = $1"
DIGESTS = "SELECT digest FROM definitions ORDER BY digest"
META = "SELECT value FROM meta WHERE name = $1"
NAME = "INSERT INTO meta SELECT $1, $2 WHERE NOT EXISTS (FROM meta WHERE name = $1)"
RENAME = "UPDATE meta SET value = $2 WHERE name = $1"
COUNT = "SELECT count(*) FROM entries"
SPEND = "INSERT INTO ledger VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
EXPENSES = """
    SELECT day, provider, model, sum(prompt_tokens)::BIGINT, sum(completion_tokens)::BIGINT,
        sum(cached_tokens)::BIGINT, sum(calls)::BIGINT, sum(cost_micros)::BIGINT, sum(turns)::BIGINT,
        sum(failed)::BIGINT
    FROM ledger WHERE day >= $1 GROUP BY day, provider, model ORDER BY day, provider, model
"""
SPENT_ROWS = "SELECT count(*) FROM ledger"
FORGET_SPENT = "DELETE FROM ledger"

HEADS = """
    SELECT newest.session_id, body, hash, keys
    FROM entries JOIN (
        SELECT session_id, max(pos) AS pos,
            list({'key': key, 'seq': seq, 'at_ms': at_ms} ORDER BY pos)
                FILTER (WHERE key IS NOT NULL AND at_ms >= $3) AS keys
        FROM entries
        WHERE sid IN (SELECT unnest($1::BIGINT[])) AND session_id IN (SELECT unnest($2::VARCHAR[]))
        GROUP BY session_id) AS newest
    ON entries.pos = newest.pos
"""
TELLING = """
    SELECT body, hash FROM entries
    WHERE sid = $1 AND session_id = $2 AND turn = $3 AND kind IN ('turn', 'regenerate') ORDER BY pos LIMIT 1
"""
ENTRIES = """
    SELECT seq, body, hash FROM entries WHERE sid = $1 AND session_id = $2 AND seq > $3 ORDER BY seq LIMIT $4
"""
TREE = """
    SELECT seq, turn, parent, kind, source, state, digest, at_ms FROM entries
    WHERE sid = $1 AND session_id = $2 ORDER BY seq
"""
LIST = """
    SELECT pos, body, hash FROM entries
    WHERE pos IN (SELECT max(pos) FROM entries WHERE pos > $1 GROUP BY session_id) AND pos < $2
        AND ($3::VARCHAR IS NULL OR player_id = $3) AND ($4::BOOLEAN IS NULL OR ended = $4)
    ORDER BY pos DESC LIMIT $5
"""
WALK = "SELECT session_id, seq, body, hash, pos FROM entries WHERE pos > $1 AND pos <= $2 ORDER BY pos"
LINKS = """
    SELECT * FROM (
        SELECT pos, hash, chain, session_id, seq FROM entries WHERE pos > $1 AND pos <= $2
        UNION ALL SELECT pos, hash, chain, NULL, NULL FROM tombstones WHERE pos > $1 AND pos <= $2)
    ORDER BY pos
"""
"""Every row's place in the chain, deleted or not."""
CHECKED = """
    SELECT pos, hash, chain, session_id, seq, body, sid, session_id, seq, turn, parent, kind, source, player_id,
        machine, digest, state, ended, at_ms, key
    FROM entries WHERE pos > $1 AND pos <= $2
    UNION ALL
    SELECT pos, hash, chain, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL, NULL
    FROM tombstones WHERE pos > $1 AND pos <= $2
    ORDER BY 1
"""
"""The same with all that is checked of an entry."""
GAPS = """
    SELECT session_id, count(*), max(seq) FROM entries
    GROUP BY session_id HAVING count(*) <> max(seq) OR min(seq) <> 1 ORDER BY session_id
"""
LAST = """
    SELECT greatest(0, (SELECT max(pos) FROM entries WHERE pos >= $1), (SELECT max(pos) FROM tombstones))
"""


def sid_of(session_id: str) -> int:
    """A hash that fits a BIGINT, so that a scan for a session compares numbers."""
    return int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=8).digest(), signed=True)


def chained(chain: str, hash_: str) -> str:
    """The chain's next link: the SHA-256 over the link before and a row's hash, in hex."""
    return hashlib.sha256(f"{chain}{hash_}".encode()).hexdigest()


def spent_values(expense: Expense) -> list[Any]:
    """An expense in the order of the ledger's columns."""
    return [getattr(expense, name) for name in Expense.__struct_fields__]


class _After(Struct, frozen=True):
    machine: str
    player_id: str | None = None
    state: str = ""
    ended: bool = False


class _Outcome(Struct, frozen=True):
    source: str = ""


class _Told(Struct, frozen=True):
    """What the columns say of an entry, as its body says it; the rest of it is not read."""

    session_id: str
    seq: int
    turn: int
    parent: int | None
    at_ms: int
    digest: str
    after: _After
    kind: str = "turn"
    outcome: _Outcome = _Outcome()
    key: str | None = None


_told = msgspec.json.Decoder(_Told).decode


def breaks(rows: Iterable[Values], start: int, end: int, chain: str | None) -> Iterator[Damage]:
    """Where the rows at the positions after `start` up to `end` are not what was chained onto `chain`.

    None where the row before is not there: then the first row's link can't be told right from wrong.
    """
    expected = start + 1
    for pos, hash_, link, session_id, seq, *_ in rows:
        if pos > expected:
            yield Damage(_missing(expected, pos - 1))
        elif pos < expected:
            yield Damage(f"entry {pos} stands there twice", _named(session_id), seq)
        elif chain is not None and link != chained(chain, hash_):
            yield Damage(f"entry {pos} was altered, or stands in another's place", _named(session_id), seq)
        expected, chain = pos + 1, link
    if expected <= end:
        yield Damage(_missing(expected, end))


def link_at(rows: Sequence[Values], end: int) -> str | None:
    """The link that the row after `end` was chained onto; None where `rows` do not go up to `end`."""
    return rows[-1][2] if rows and rows[-1][0] == end else None


def misfits(rows: Iterable[Values]) -> Iterator[Damage]:
    """Where a row's body is not what its hash was made over, or its columns don't say what its body says."""
    for pos, hash_, _, session_id, seq, body, *told in rows:
        if body is None and session_id is None:
            continue  # a tombstone
        if body is None or not is_intact(body, hash_):
            yield Damage(f"the body of entry {pos} was altered", _named(session_id), seq)
        elif (right := _columns(_told(body))) != tuple(told):
            wrong = [name for name, one, other in zip(_TOLD, right, told, strict=True) if one != other]
            whose = {str(right[SESSION_AT]), str(session_id)}
            yield Damage(f"the columns {', '.join(wrong)} of entry {pos} were altered", tuple(sorted(whose)), right[2])


def damages(rows: Sequence[Values], start: int, end: int, chain: str | None) -> list[Damage]:
    """All that is wrong with what CHECKED found at the positions after `start` up to `end`."""
    return [*breaks(rows, start, end, chain), *misfits(rows)]


def altered_bodies(rows: Iterable[Values]) -> Iterator[Damage]:
    """Where a walk's body is not what its hash was made over."""
    for session_id, seq, body, hash_, pos in rows:
        if not is_intact(body, hash_):
            yield Damage(f"the body of entry {pos} was altered", _named(session_id), seq)


def gap(session_id: str, there: int, last: int) -> Damage:
    """A session whose entries are not 1 to n."""
    return Damage(f"session '{session_id}' goes to seq {last} and has {there} entries", (session_id,))


def _missing(first: int, last: int) -> str:
    return f"entry {first} is missing" if first == last else f"entries {first} to {last} are missing"


def _named(session_id: str | None) -> tuple[str, ...]:
    return () if session_id is None else (session_id,)


def values_of(entry: Entry, body: str | None = None) -> Values:
    """An entry in the order of the columns, without `pos` and `chain`, which the writer gives it.

    `body` where it is written already, as it was. Raises StoreUnavailable for what can't be written.
    """
    try:
        return (*_columns(entry), entry.hash, body_of(entry).decode() if body is None else body)
    except (TypeError, ValueError) as error:
        raise StoreUnavailable(f"turn {entry.turn} of '{entry.session_id}' can't be written: {error}") from error


def _columns(entry: Entry | _Told) -> Values:
    after = entry.after
    return (
        sid_of(entry.session_id),
        entry.session_id,
        entry.seq,
        entry.turn,
        entry.parent,
        entry.kind,
        entry.outcome.source,
        after.player_id,
        after.machine,
        entry.digest,
        after.state,
        after.ended,
        entry.at_ms,
        entry.key,
    )
