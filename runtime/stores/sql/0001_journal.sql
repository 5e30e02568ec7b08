-- The journal. A session's rows all begin with its session_id and refer to no other session's, so
-- that the three tables can be distributed by it; definitions, meta and migrations are small and
-- the same for every session.

-- One row a session. seq and hash are its head's; seq 0 is no session yet, only somebody's lease.
-- A lease is free where lease_until has passed, by the clock of this database.
CREATE TABLE edgewise_sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL DEFAULT 0,
    hash text NOT NULL DEFAULT '',
    turn bigint NOT NULL DEFAULT 0,
    player_id text COLLATE "C",
    ended boolean NOT NULL DEFAULT false,
    moved_us bigint NOT NULL DEFAULT 0,
    lease_epoch bigint NOT NULL DEFAULT 0,
    lease_owner text NOT NULL DEFAULT '',
    leased_at timestamptz NOT NULL DEFAULT '-infinity',
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    lease_key text COLLATE "C",
    lease_request_hash text NOT NULL DEFAULT ''
) WITH (fillfactor = 70);

-- No index holds a lease's columns: a claim then rewrites its row in place.
CREATE INDEX edgewise_sessions_newest ON edgewise_sessions (moved_us DESC, session_id DESC) WHERE seq > 0;
CREATE INDEX edgewise_sessions_players ON edgewise_sessions (player_id, moved_us DESC, session_id DESC)
    WHERE player_id IS NOT NULL;
CREATE INDEX edgewise_sessions_unbegun ON edgewise_sessions (session_id) WHERE seq = 0;

-- An entry: its body as it was hashed, and beside it what is looked for.
CREATE TABLE edgewise_entries (
    session_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    turn bigint NOT NULL,
    parent bigint,
    kind text NOT NULL,
    source text NOT NULL,
    state text NOT NULL,
    digest text NOT NULL,
    key text COLLATE "C",
    at_ms bigint NOT NULL,
    hash text NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (session_id, seq)
);

CREATE INDEX edgewise_entries_keys ON edgewise_entries (session_id, key) WHERE key IS NOT NULL;

-- What stays of a deleted session: how long it was and its head's hash. No text.
CREATE TABLE edgewise_tombstones (
    session_id text COLLATE "C" NOT NULL,
    hash text NOT NULL,
    entries bigint NOT NULL,
    deletion bigint NOT NULL,
    deleted_at timestamptz NOT NULL,
    PRIMARY KEY (session_id, hash)
);

CREATE TABLE edgewise_definitions (
    digest text COLLATE "C" PRIMARY KEY,
    files text NOT NULL
);

CREATE TABLE edgewise_meta (
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);

INSERT INTO edgewise_meta (name, value) VALUES ('ping', '');
