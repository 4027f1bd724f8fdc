"""The ledger: jobs, in memory, in SQLite or in PostgreSQL."""

from pathlib import Path

from tetherd.config import is_postgres_url
from tetherd.store.ledger import SqlStore
from tetherd.store.memory import MemoryStore
from tetherd.store.postgres import open_postgres
from tetherd.store.protocol import Store
from tetherd.store.sqlite import SqliteDatabase

__all__ = ["MemoryStore", "SqlStore", "SqliteDatabase", "Store", "open_postgres", "open_store"]


async def open_store(kind: str, path: Path, replica: str = "") -> Store:
    """Open the ledger that --store names: memory, sqlite at path, or the URL of a PostgreSQL database.

    replica: the URL of a streaming replica of that one, for reports; or empty.

    Raises TetherError(DATA_DIR_INVALID | LEDGER_UNAVAILABLE | LEDGER_VERSION | CONFIG_INVALID).
    """
    if kind == "memory":
        return MemoryStore()
    if is_postgres_url(kind):
        return SqlStore(await open_postgres(kind), max_jobs=None, replica=replica)
    return SqlStore(SqliteDatabase(path))
