"""Rooms number their migrations apart from each other, so that numbers have gaps and gaps are filled later."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tetherd.store import migrate as module
from tetherd.store.sqlite import SqliteDatabase

FIRST = {"0001_a.sql": "CREATE TABLE a (x INTEGER);\n", "0020_c.sql": "ALTER TABLE a ADD COLUMN y INTEGER;\n"}


async def names(path: Path) -> list[str]:
    await SqliteDatabase(path).close()
    with sqlite3.connect(path) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM migrations ORDER BY rowid")]


async def test_numbers_may_have_gaps_and_one_that_comes_later_is_applied_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    monkeypatch.setattr(module, "_scripts", lambda: FIRST)
    assert await names(path) == ["0001_a.sql", "0020_c.sql"]
    later = {
        "0010_b.sql": "CREATE TABLE b (x INTEGER);\n",
        "0030_d.sql": "ALTER TABLE b ADD COLUMN y INTEGER;\n",
    }
    monkeypatch.setattr(module, "_scripts", lambda: {**FIRST, **later})
    assert await names(path) == ["0001_a.sql", "0020_c.sql", "0010_b.sql", "0030_d.sql"]


def test_no_two_migrations_have_one_number() -> None:
    numbers = [name[:4] for name in module._scripts()]
    assert len(set(numbers)) == len(numbers)
