-- What the swarm's publishers and its authority have signed; whoever reads it checks it.
CREATE TABLE catalogue (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    body   BLOB NOT NULL
) WITHOUT ROWID;
