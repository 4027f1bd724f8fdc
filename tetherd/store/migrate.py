"""Numbered migrations: plain SQL files, each applied once, each remembered with the checksum of its text."""

from __future__ import annotations

import hashlib
import sqlite3
from importlib import resources

from p2p.errors import DATA_DIR_INVALID, TetherError


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; all or nothing.

    Raises TetherError(DATA_DIR_INVALID) if a migration was altered since it was applied, or is not known here.
    """
    scripts = _scripts()
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # two daemons never share a ledger, but one may start twice
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, checksum TEXT NOT NULL)"
        )
        applied = dict(connection.execute("SELECT name, checksum FROM migrations"))
        for name in sorted(applied.keys() | scripts.keys()):
            script = scripts.get(name, "")
            checksum = hashlib.sha256(script.encode()).hexdigest()
            if name not in applied:
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, checksum))
            elif applied[name] != checksum:
                raise TetherError(
                    DATA_DIR_INVALID, f"The ledger was made by another version of Tether: {name} differs."
                )


def _scripts() -> dict[str, str]:
    folder = resources.files("tetherd.store") / "migrations"
    return {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}


def _statements(script: str) -> list[str]:
    """A script's statements one by one: `executescript` would commit what goes before it."""
    found, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
