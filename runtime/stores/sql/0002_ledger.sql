-- What was spent on telling, by session and day (days since 1970-01-01, UTC): a turn writes the row of its
-- own session only, in its own transaction, and a day's sum is read now and then. A deleted session's rows
-- stay, as numbers beside its id: the money was spent.
CREATE TABLE edgewise_ledger (
    session_id text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    provider text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    calls bigint NOT NULL,
    cost_micros bigint NOT NULL,
    turns bigint NOT NULL,
    failed bigint NOT NULL,
    PRIMARY KEY (session_id, day, provider, model)
) WITH (fillfactor = 70);

CREATE INDEX edgewise_ledger_days ON edgewise_ledger (day);
