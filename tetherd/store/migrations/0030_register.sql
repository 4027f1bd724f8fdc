-- Who may ask. A row's revision is the register's at its last change, so that leaders read only what is new.
CREATE TABLE tenants (
    tenant   TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    created  REAL NOT NULL,
    changed  REAL NOT NULL,
    disabled INTEGER NOT NULL,
    revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE api_keys (
    key_id    TEXT PRIMARY KEY,
    tenant    TEXT NOT NULL,
    prefix    TEXT NOT NULL,     -- what a person recognises it by
    hash      BLOB NOT NULL,     -- SHA-256 of the whole key, which is kept nowhere
    scopes    TEXT NOT NULL,
    created   REAL NOT NULL,
    changed   REAL NOT NULL,
    expires   REAL,              -- of a rotated key: when the overlap ends
    revoked   REAL,
    last_used REAL,
    revision  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE limits (
    subject             TEXT PRIMARY KEY,  -- tenant:NAME or key:ID, as in accounts
    requests_per_minute INTEGER,
    tokens_per_minute   INTEGER,
    tokens_per_month    INTEGER,
    concurrency         INTEGER,
    budget              INTEGER,
    weight              INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE register (only_row INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
INSERT INTO register VALUES (1, 0);
CREATE INDEX tenants_by_revision ON tenants (revision);
CREATE INDEX api_keys_by_revision ON api_keys (revision);
