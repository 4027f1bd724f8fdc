"""Numbered migrations: plain SQL files, each applied once, each remembered with the checksum of its text.

They are written in SQLite's types; PostgreSQL is given its own names for them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

from p2p.errors import LEDGER_VERSION, TetherError
from tetherd.store.database import Dialect, Script, SqlRow, Statement

ADVISORY_LOCK: Final = 0x7E7E_12ED_6E20
"""Whoever migrates a PostgreSQL holds it until its commit, so that two daemons that start at once take turns."""
_POSTGRESQL: Final = (
    ("BLOB", "BYTEA"),
    ("REAL", "DOUBLE PRECISION"),
    ("INTEGER", "BIGINT"),
    (" WITHOUT ROWID", ""),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """altered: its text is not what was applied; unknown: a newer version of Tether applied it."""

    name: str
    state: Literal["applied", "pending", "altered", "unknown"]


def migrate(dialect: Dialect) -> Script[list[str]]:
    """Bring the schema up to date, all or nothing; returns what was applied now.

    Raises TetherError(LEDGER_VERSION) if a migration was altered since it was applied, or is not known here.
    """
    if dialect == "postgresql":
        yield Statement("SELECT pg_advisory_xact_lock(?)", (ADVISORY_LOCK,))
    yield Statement("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, checksum TEXT NOT NULL)")
    scripts = _scripts()
    found = _compare((yield Statement("SELECT name, checksum FROM migrations")), scripts)
    check(found)
    pending = [one.name for one in found if one.state == "pending"]
    for name in pending:
        for statement in _statements(scripts[name]):
            yield Statement(translated(statement, dialect))
        yield Statement("INSERT INTO migrations VALUES (?, ?)", (name, _checksum(scripts[name])))
    return pending


def inspect(dialect: Dialect) -> Script[list[Migration]]:
    """How the schema stands, changing nothing."""
    there = yield Statement(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"
        if dialect == "sqlite"
        else "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'migrations'"
    )
    rows = (yield Statement("SELECT name, checksum FROM migrations")) if there else ()
    return _compare(rows, _scripts())


def check(found: Sequence[Migration]) -> None:
    """Raises TetherError(LEDGER_VERSION) if this version must not touch such a schema."""
    for one in found:
        if one.state == "unknown":
            detail = f"The ledger was made by a newer version of Tether: this one does not know {one.name}."
            raise TetherError(LEDGER_VERSION, detail)
        if one.state == "altered":
            raise TetherError(
                LEDGER_VERSION, f"The ledger was made by another version of Tether: {one.name} differs."
            )


def translated(statement: str, dialect: Dialect) -> str:
    if dialect == "postgresql":
        for ours, theirs in _POSTGRESQL:
            statement = statement.replace(ours, theirs)
    return statement


def _compare(rows: Sequence[SqlRow], scripts: Mapping[str, str]) -> list[Migration]:
    applied = {str(name): str(checksum) for name, checksum in rows}
    return [
        Migration(name, _state(applied.get(name), scripts.get(name)))
        for name in sorted(applied.keys() | scripts.keys())
    ]


def _state(checksum: str | None, script: str | None) -> Literal["applied", "pending", "altered", "unknown"]:
    if script is None:
        return "unknown"
    if checksum is None:
        return "pending"
    return "applied" if checksum == _checksum(script) else "altered"


def _checksum(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()


def _scripts() -> dict[str, str]:
    folder = resources.files("tetherd.store") / "migrations"
    return {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}


def _statements(script: str) -> list[str]:
    """A script's statements one by one: neither driver takes several at once without committing what goes before."""
    found, statement = [], ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found
