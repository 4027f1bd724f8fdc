"""The ledger: jobs, in memory or in SQLite."""
