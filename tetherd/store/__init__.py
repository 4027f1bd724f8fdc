"""The ledger: jobs, in memory or in SQLite."""

from pathlib import Path

from tetherd.store.memory import MemoryStore
from tetherd.store.protocol import Store
from tetherd.store.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store", "open_store"]


def open_store(kind: str, path: Path) -> Store:
    """Open the ledger that --store names: memory, or sqlite at path. Raises TetherError(DATA_DIR_INVALID)."""
    return MemoryStore() if kind == "memory" else SqliteStore(path)
