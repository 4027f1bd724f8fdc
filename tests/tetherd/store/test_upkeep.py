"""tetherctl db, on a file and on a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers.postgres import PostgresServer
from tetherd.store import SqliteDatabase, open_postgres


def db(*words: str, data_dir: Path, store: str | None = None) -> tuple[int, Any, str]:
    """Exit code, what it printed as JSON, what it complained."""
    environ = {**os.environ, **({"TETHER_STORE": store} if store else {})}
    command = [sys.executable, "-m", "cli.tetherctl", "--json", "--data-dir", str(data_dir), "db", *words]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, timeout=60)
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else None, ran.stderr


async def test_a_ledger_on_a_disk_is_seen_and_checked(tmp_path: Path) -> None:
    assert db("status", data_dir=tmp_path)[0] == 1
    await SqliteDatabase(tmp_path / "ledger.db").close()
    code, answer, _ = db("status", data_dir=tmp_path)
    assert (code, {one["state"] for one in answer}) == (0, {"applied"})
    code, answer, _ = db("check", data_dir=tmp_path)
    assert (code, [one["ok"] for one in answer]) == (0, [True] * 3)


async def test_a_server_is_migrated_by_hand_and_checked(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    code, answer, _ = db("status", data_dir=tmp_path, store=url)
    assert (code, {one["state"] for one in answer}) == (0, {"pending"})
    code, answer, _ = db("migrate", data_dir=tmp_path, store=url)
    assert (code, {one["state"] for one in answer}) == (0, {"applied"})
    code, answer, _ = db("check", data_dir=tmp_path, store=url)
    assert code == 1, "the tests' server runs without fsync, and that is no ledger"
    assert [one["check"] for one in answer if not one["ok"]] == ["durable"]


@pytest.mark.parametrize("command", ["migrate", "check"])
async def test_a_newer_schema_is_left_alone(postgres: PostgresServer, tmp_path: Path, command: str) -> None:
    url = postgres.new_database()
    await (await open_postgres(url, size=1)).close()
    postgres.sql("INSERT INTO migrations VALUES ('9999_future.sql', 'x')", url.rpartition("/")[2])
    code, answer, _ = db("status", data_dir=tmp_path, store=url)
    assert (code, answer[-1]) == (0, {"name": "9999_future.sql", "state": "unknown"})
    code, _, complaint = db(command, data_dir=tmp_path, store=url)
    assert code == 1
    assert "newer version of Tether" in complaint
