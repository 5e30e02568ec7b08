"""The statements of the PostgreSQL store.

Each names the one session that it is about; only GROUP, and what is read of many sessions, names
more. Functions in them are stable, never volatile, and what an upsert sets comes from its VALUES,
so that a database which distributes the tables by session_id takes them too.
"""

from __future__ import annotations

from typing import Final

from runtime.session import EXPENSE_COUNTS

BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
IMPATIENT: Final = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
"""A process that stops between two statements does not hold its rows for longer."""
LIGHTLY: Final = "SET LOCAL synchronous_commit = off"
"""A lease need not outlive a crash of the database."""

_FREE = "lease_epoch = 0, lease_owner = '', lease_until = '-infinity', lease_key = NULL, lease_request_hash = ''"
_NOW_US = "(extract(epoch FROM statement_timestamp()) * 1000000)::bigint"
_ENTRY = "session_id, seq, turn, parent, kind, source, state, digest, key, at_ms, hash, body"
_TAKE = """
    INSERT INTO edgewise_sessions AS held
        (session_id, lease_epoch, lease_owner, leased_at, lease_until, lease_key, lease_request_hash)
    {values}
    ON CONFLICT (session_id) DO UPDATE SET
        lease_epoch = EXCLUDED.lease_epoch, lease_owner = EXCLUDED.lease_owner, leased_at = EXCLUDED.leased_at,
        lease_until = EXCLUDED.lease_until, lease_key = EXCLUDED.lease_key,
        lease_request_hash = EXCLUDED.lease_request_hash
    WHERE held.lease_until <= EXCLUDED.leased_at
    RETURNING seq"""
_LEASE = """%(session_id)s::text, %(epoch)s::bigint, %(owner)s::text, statement_timestamp(),
        statement_timestamp() + %(lease_s)s::float8 * interval '1 second', %(key)s::text, %(request_hash)s::text"""
_FOUND = """
    SELECT found.seq, found.lease_epoch, found.lease_until > statement_timestamp(),
        found.lease_key, found.lease_request_hash, head.body, head.hash
    FROM edgewise_sessions AS found
    LEFT JOIN edgewise_entries AS head ON head.session_id = found.session_id AND head.seq = found.seq
    WHERE found.session_id = %(session_id)s"""

ANSWERED: Final = """
    SELECT body, hash FROM edgewise_entries
    WHERE session_id = %(session_id)s AND key = %(key)s AND at_ms >= %(since_ms)s
    ORDER BY seq DESC LIMIT 1"""
FOUND: Final = _FOUND
TAKE: Final = _TAKE.format(values=f"VALUES ({_LEASE})")
CLAIM: Final = f"""
    WITH answered AS ({ANSWERED}),
    taken AS ({_TAKE.format(values=f"SELECT {_LEASE} WHERE NOT EXISTS (SELECT FROM answered)")}),
    found AS ({_FOUND})
    SELECT taken.seq, answered.body, answered.hash, found.*, set_config('synchronous_commit', 'off', true)
    FROM (SELECT) AS one LEFT JOIN taken ON true LEFT JOIN answered ON true LEFT JOIN found ON true"""
"""A claim in one statement: `taken` sees rows as they are now, the rest as they were when it began."""
RENEW: Final = """
    UPDATE edgewise_sessions
    SET lease_until = statement_timestamp() + %(lease_s)s::float8 * interval '1 second'
    WHERE session_id = %(session_id)s AND lease_epoch = %(epoch)s"""
RELEASE: Final = f"""
    UPDATE edgewise_sessions SET {_FREE} WHERE session_id = %(session_id)s AND lease_epoch = %(epoch)s"""
UNBEGIN: Final = """
    DELETE FROM edgewise_sessions WHERE session_id = %(session_id)s AND lease_epoch = %(epoch)s AND seq = 0"""
SWEEP: Final = """
    DELETE FROM edgewise_sessions WHERE seq = 0 AND lease_until < statement_timestamp() - interval '1 hour'"""
IS_HELD: Final = """
    SELECT 1 FROM edgewise_sessions
    WHERE session_id = %(session_id)s AND lease_until > statement_timestamp()"""

MAKE_ROOM: Final = """
    INSERT INTO edgewise_sessions (session_id) VALUES (%(session_id)s) ON CONFLICT (session_id) DO NOTHING"""
STANDING: Final = "SELECT seq, hash, lease_epoch FROM edgewise_sessions WHERE session_id = %(session_id)s"
MOVE: Final = f"""
    UPDATE edgewise_sessions
    SET seq = %(seq)s, hash = %(hash)s, turn = %(turn)s, player_id = %(player_id)s, ended = %(ended)s,
        moved_us = {_NOW_US}, {_FREE}
    WHERE session_id = %(session_id)s AND seq = %(seq)s::bigint - 1 AND hash = %(prev_hash)s
        AND lease_epoch = %(epoch)s
    RETURNING session_id"""
WRITE: Final = f"""
    INSERT INTO edgewise_entries ({_ENTRY})
    VALUES (%(session_id)s, %(seq)s, %(turn)s, %(parent)s, %(kind)s, %(source)s, %(state)s, %(digest)s, %(key)s,
        %(at_ms)s, %(hash)s, %(body)s)"""
_GROUP = f"""
    WITH given AS (
        SELECT * FROM unnest(%(session_id)b::text[], %(seq)b::bigint[], %(turn)b::bigint[], %(parent)b::bigint[],
            %(kind)b::text[], %(source)b::text[], %(state)b::text[], %(digest)b::text[], %(key)b::text[],
            %(at_ms)b::bigint[], %(hash)b::text[], %(body)b::text[], %(prev_hash)b::text[], %(epoch)b::bigint[],
            %(player_id)b::text[], %(ended)b::boolean[]{{arrays}})
        AS given ({_ENTRY}, prev_hash, epoch, player_id, ended{{columns}})
    ), moved AS (
        UPDATE edgewise_sessions AS head
        SET seq = given.seq, hash = given.hash, turn = given.turn, player_id = given.player_id, ended = given.ended,
            moved_us = {_NOW_US}, {_FREE}
        FROM given
        WHERE head.session_id = given.session_id AND head.seq = given.seq - 1 AND head.hash = given.prev_hash
            AND head.lease_epoch = given.epoch
        RETURNING given.session_id
    ){{spent}}
    INSERT INTO edgewise_entries ({_ENTRY})
    SELECT {", ".join(f"given.{name}" for name in _ENTRY.split(", "))}
    FROM given JOIN moved ON moved.session_id = given.session_id
    RETURNING session_id"""
GROUP: Final = _GROUP.format(arrays="", columns="", spent="")
"""A group's entries in one statement; those whose session is returned are there, no other is."""

_EXPENSE = ", ".join(("day", "provider", "model", *EXPENSE_COUNTS))
_ADD_UP = f"""ON CONFLICT (session_id, day, provider, model) DO UPDATE SET
            {", ".join(f"{name} = kept.{name} + EXCLUDED.{name}" for name in EXPENSE_COUNTS)}"""
SPEND: Final = f"""
    INSERT INTO edgewise_ledger AS kept (session_id, {_EXPENSE})
    VALUES (%(session_id)s, %(day)s, %(provider)s, %(model)s, {", ".join(f"%({name})s" for name in EXPENSE_COUNTS)})
        {_ADD_UP}"""
GROUP_AT_COST: Final = _GROUP.format(
    arrays=", %(day)b::bigint[], %(provider)b::text[], %(model)b::text[], "
    + ", ".join(f"%({name})b::bigint[]" for name in EXPENSE_COUNTS),
    columns=f", {_EXPENSE}",
    spent=f""", spent AS (
        INSERT INTO edgewise_ledger AS kept (session_id, {_EXPENSE})
        SELECT given.session_id, {", ".join(f"given.{name}" for name in _EXPENSE.split(", "))}
        FROM given JOIN moved ON moved.session_id = given.session_id WHERE given.day IS NOT NULL
        {_ADD_UP}
    )""",
)
"""The same with what they cost; a group that cost nothing does without it."""
EXPENSES: Final = f"""
    SELECT day, provider, model, {", ".join(f"sum({name})::bigint" for name in EXPENSE_COUNTS)}
    FROM edgewise_ledger WHERE day >= %(since)s GROUP BY day, provider, model ORDER BY day, provider, model"""
FENCE: Final = """
    UPDATE edgewise_sessions SET lease_epoch = %(fence)s
    WHERE session_id = %(session_id)s AND lease_epoch = ANY(%(epochs)s::bigint[])
    RETURNING session_id"""
IS_THERE: Final = """
    SELECT 1 FROM edgewise_entries WHERE session_id = %(session_id)s AND seq = %(seq)s AND hash = %(hash)s"""

HEAD: Final = """
    SELECT entry.body, entry.hash FROM edgewise_sessions AS head
    LEFT JOIN edgewise_entries AS entry ON entry.session_id = head.session_id AND entry.seq = head.seq
    WHERE head.session_id = %(session_id)s AND head.seq > 0"""
"""A session is there where its row says so, though its newest entry may be lost."""
TELLING: Final = """
    SELECT body, hash FROM edgewise_entries
    WHERE session_id = %(session_id)s AND turn = %(turn)s AND kind IN ('turn', 'regenerate')
    ORDER BY seq LIMIT 1"""
ENTRIES: Final = """
    SELECT seq, body, hash FROM edgewise_entries
    WHERE session_id = %(session_id)s AND seq > %(after)s ORDER BY seq LIMIT %(limit)s"""
TREE: Final = """
    SELECT seq, turn, parent, kind, source, state, digest, at_ms FROM edgewise_entries
    WHERE session_id = %(session_id)s ORDER BY seq"""

ADOPT: Final = f"""
    INSERT INTO edgewise_sessions AS held (session_id, seq, hash, turn, player_id, ended, moved_us)
    VALUES (%(session_id)s, %(seq)s, %(hash)s, %(turn)s, %(player_id)s, %(ended)s, {_NOW_US})
    ON CONFLICT (session_id) DO UPDATE SET
        seq = EXCLUDED.seq, hash = EXCLUDED.hash, turn = EXCLUDED.turn, player_id = EXCLUDED.player_id,
        ended = EXCLUDED.ended, moved_us = EXCLUDED.moved_us, {_FREE}
    WHERE held.seq = 0
    RETURNING session_id"""
WRITE_ROWS: Final = f"""
    INSERT INTO edgewise_entries ({_ENTRY})
    SELECT %(session_id)s::text, given.* FROM unnest(%(seq)b::bigint[], %(turn)b::bigint[], %(parent)b::bigint[],
        %(kind)b::text[], %(source)b::text[], %(state)b::text[], %(digest)b::text[], %(key)b::text[],
        %(at_ms)b::bigint[], %(hash)b::text[], %(body)b::text[]) AS given"""
DELETE_HEAD: Final = """
    DELETE FROM edgewise_sessions WHERE session_id = %(session_id)s AND seq > 0 RETURNING seq, hash"""
DELETE_HELD: Final = """
    DELETE FROM edgewise_sessions WHERE session_id = %(session_id)s AND lease_epoch = %(epoch)s RETURNING seq, hash"""
DELETE_ENTRIES: Final = "DELETE FROM edgewise_entries WHERE session_id = %(session_id)s"
BURY: Final = """
    INSERT INTO edgewise_tombstones (session_id, hash, entries, deletion, deleted_at)
    VALUES (%(session_id)s, %(hash)s, %(seq)s, %(deletion)s, statement_timestamp())
    ON CONFLICT (session_id, hash) DO UPDATE SET deletion = EXCLUDED.deletion, deleted_at = EXCLUDED.deleted_at"""
IS_BURIED: Final = """
    SELECT 1 FROM edgewise_tombstones WHERE session_id = %(session_id)s AND deletion = %(deletion)s"""

LIST: Final = """
    SELECT head.moved_us, head.session_id, entry.body, entry.hash FROM edgewise_sessions AS head
    JOIN edgewise_entries AS entry ON entry.session_id = head.session_id AND entry.seq = head.seq
    WHERE head.seq > 0 {conditions}
    ORDER BY head.moved_us DESC, head.session_id DESC LIMIT %(limit)s"""
BEFORE: Final = "AND (head.moved_us, head.session_id) < (%(moved_us)s, %(session_id)s)"
OF_PLAYER: Final = "AND head.player_id = %(player_id)s"
OF_ENDED: Final = "AND head.ended = %(ended)s"
COUNT: Final = "SELECT count(*) FROM edgewise_entries"
WALK: Final = """
    SELECT session_id, seq, body, hash FROM edgewise_entries
    WHERE (session_id, seq) > (%(session_id)s, %(seq)s) ORDER BY session_id, seq LIMIT %(limit)s"""
AUDIT: Final = """
    SELECT session_id, seq, last, hash, last_hash FROM (
        SELECT session_id, head.seq, coalesce(tail.seq, 0) AS last, head.hash, coalesce(tail.hash, '') AS last_hash
        FROM (
            SELECT session_id, seq, hash FROM edgewise_sessions
            WHERE session_id > %(after)s ORDER BY session_id LIMIT %(limit)s
        ) AS head
        LEFT JOIN LATERAL (
            SELECT seq, hash FROM edgewise_entries AS entry
            WHERE entry.session_id = head.session_id ORDER BY seq DESC LIMIT 1
        ) AS tail ON true
    ) AS both_ends
    ORDER BY session_id"""
ORPHANS: Final = """
    SELECT DISTINCT session_id FROM edgewise_entries AS entry
    WHERE NOT EXISTS (SELECT FROM edgewise_sessions AS head WHERE head.session_id = entry.session_id)
    ORDER BY session_id"""

KEEP: Final = """
    INSERT INTO edgewise_definitions (digest, files) VALUES (%(digest)s, %(files)s) ON CONFLICT (digest) DO NOTHING"""
KEPT: Final = "SELECT files FROM edgewise_definitions WHERE digest = %(digest)s"
DIGESTS: Final = "SELECT digest FROM edgewise_definitions ORDER BY digest"
NOTE_ONCE: Final = """
    INSERT INTO edgewise_meta (name, value) VALUES (%(name)s, %(value)s) ON CONFLICT (name) DO NOTHING"""
NOTE: Final = """
    INSERT INTO edgewise_meta (name, value) VALUES (%(name)s, %(value)s)
    ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"""
NOTED: Final = "SELECT value FROM edgewise_meta WHERE name = %(name)s"
