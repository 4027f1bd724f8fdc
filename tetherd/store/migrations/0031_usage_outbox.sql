-- Usage rows that a billing system has not taken yet. An event is written with its row, in one transaction.
CREATE TABLE usage_outbox (
    job     BLOB PRIMARY KEY,
    created REAL NOT NULL,
    due     REAL NOT NULL,     -- when it is tried next
    tries   INTEGER NOT NULL,
    dead    INTEGER NOT NULL,  -- 1: given up
    cause   TEXT NOT NULL      -- why the last try failed
) WITHOUT ROWID;
CREATE INDEX usage_outbox_due ON usage_outbox (dead, due);
-- When an orchestrator with a webhook was seen last: events are written, by whichever orchestrator, while there is one.
CREATE TABLE usage_hook (only_row INTEGER PRIMARY KEY, seen REAL NOT NULL);
