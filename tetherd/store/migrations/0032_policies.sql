-- What holds of a model, for every tenant ('') or for one; said: the policy as JSON.
CREATE TABLE policies (
    model    TEXT NOT NULL,
    tenant   TEXT NOT NULL,
    changed  REAL NOT NULL,
    said     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (model, tenant)
) WITHOUT ROWID;
CREATE INDEX policies_by_revision ON policies (revision);
