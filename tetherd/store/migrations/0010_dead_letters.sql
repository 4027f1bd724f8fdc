CREATE TABLE dead_letters (
    job    BLOB PRIMARY KEY,
    ended  REAL NOT NULL,
    letter BLOB NOT NULL  -- an encoded Letter: it is read as a whole or not at all
) WITHOUT ROWID;
CREATE INDEX dead_letters_by_end ON dead_letters (ended);
