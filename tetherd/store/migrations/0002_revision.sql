-- What compare-and-set compares: each change of a row makes it one more.
ALTER TABLE jobs ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
