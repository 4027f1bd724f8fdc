-- What a job holds of its tenant's quotas, and the receipts that its bill stands on.
ALTER TABLE jobs ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN hold TEXT NOT NULL DEFAULT 'null';
ALTER TABLE jobs ADD COLUMN held_until REAL;
ALTER TABLE jobs ADD COLUMN receipts TEXT NOT NULL DEFAULT '[]';
CREATE INDEX jobs_held ON jobs (held_until) WHERE held_until IS NOT NULL;
CREATE TABLE accounts (
    subject         TEXT PRIMARY KEY,  -- tenant:NAME or key:ID
    month           INTEGER NOT NULL,
    settled_tokens  INTEGER NOT NULL,
    settled_micros  INTEGER NOT NULL,
    reserved_tokens INTEGER NOT NULL,
    reserved_micros INTEGER NOT NULL,
    running         INTEGER NOT NULL,
    requests        REAL NOT NULL,
    tokens          REAL NOT NULL,
    leaked_at       REAL NOT NULL
) WITHOUT ROWID;
