-- One row a job, written once its bill cannot change any more, and never changed.
CREATE TABLE usage (
    job           BLOB PRIMARY KEY,
    ended         REAL NOT NULL,
    created       REAL NOT NULL,
    tenant        TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    model         TEXT NOT NULL,
    region        TEXT NOT NULL,
    gateway       TEXT NOT NULL,
    state         TEXT NOT NULL,
    attempts      INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    tokens        INTEGER NOT NULL,
    micros        INTEGER NOT NULL,
    disputed      INTEGER NOT NULL,
    receipts      TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX usage_by_end ON usage (ended, job);
