CREATE TABLE jobs (
    job               BLOB PRIMARY KEY,
    tenant            TEXT NOT NULL,
    retry_token       TEXT NOT NULL,
    model             TEXT NOT NULL,
    digest            TEXT NOT NULL,
    gateway           TEXT NOT NULL,
    request_mac       BLOB NOT NULL,
    max_prompt_tokens INTEGER NOT NULL,
    max_tokens        INTEGER NOT NULL,
    state             TEXT NOT NULL,
    attempt           INTEGER NOT NULL,
    owner             TEXT NOT NULL,
    created           REAL NOT NULL,
    lease_until       REAL NOT NULL,
    deadline          REAL NOT NULL,
    ended             REAL,
    prompt_tokens     INTEGER NOT NULL,
    tokens            INTEGER NOT NULL,
    cause             TEXT NOT NULL,
    trace_id          TEXT NOT NULL,
    attempts          TEXT NOT NULL  -- JSON: a job has a few, and they are read with it
) WITHOUT ROWID;
CREATE INDEX jobs_by_age ON jobs (created);
CREATE INDEX jobs_by_end ON jobs (ended) WHERE ended IS NOT NULL;
CREATE INDEX jobs_running ON jobs (deadline) WHERE state = 'running';
