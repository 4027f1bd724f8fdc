"""What only a ledger on a disk can get wrong."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from p2p.errors import LEDGER_UNAVAILABLE, LEDGER_VERSION, TetherError
from tests.tetherd.store.rows import attempt, job
from tetherd.store import SqliteDatabase, SqlStore
from tetherd.store.group_commit import GroupCommit

COMMIT_AND_DIE = """
import os, pathlib, signal, sys, trio
from tests.tetherd.store.rows import attempt, job
from tetherd.store import SqliteDatabase, SqlStore

async def main():
    store = SqlStore(SqliteDatabase(pathlib.Path(sys.argv[1])))
    for number in range(1, 6):
        await store.claim(job(number), attempt(), now=100.0)
    os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_what_it_has_answered_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ended = await trio.run_process([sys.executable, "-c", COMMIT_AND_DIE, str(path)], check=False)
    assert ended.returncode == -9
    store = SqlStore(SqliteDatabase(path))
    assert len(await store.recent()) == 5
    await store.close()


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch(mode=0o644)
    store = SqlStore(SqliteDatabase(path))
    await store.claim(job(), attempt(), now=100.0)
    files = [path, *(path.with_name(f"ledger.db-{part}") for part in ("wal", "shm"))]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    await store.close()


async def test_it_is_durable_before_it_answers(tmp_path: Path) -> None:
    store = SqliteDatabase(tmp_path / "ledger.db")
    connection = store._commits._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    await store.close()


@pytest.mark.parametrize(
    "damage",
    ["UPDATE migrations SET checksum = 'x'", "INSERT INTO migrations VALUES ('9999_future.sql', 'x')"],
)
async def test_a_ledger_of_another_version_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.db"
    await SqliteDatabase(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(TetherError, match="version of Tether") as caught:
        SqliteDatabase(path)
    assert caught.value.code is LEDGER_VERSION


async def test_a_file_that_is_no_ledger_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database, by any means at all" * 100)
    with pytest.raises(TetherError, match=r"ledger\.db"):
        SqliteDatabase(tmp_path / "ledger.db")


# ── Group commit ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY)")
    return connection


def insert(connection: sqlite3.Connection, number: int) -> int:
    connection.execute("INSERT INTO seen VALUES (?)", (number,))
    return number


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM seen ORDER BY number")]


async def test_many_who_wait_share_one_transaction(connection: sqlite3.Connection) -> None:
    commits = GroupCommit(connection)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(
                commits.carry_out, lambda connection, number=number: insert(connection, number)
            )
    assert numbers(connection) == list(range(20))
    assert statements.count("COMMIT") <= 2
    await commits.close()


async def test_a_defect_in_one_change_reaches_its_caller_alone(connection: sqlite3.Connection) -> None:
    commits = GroupCommit(connection)
    failed: list[int] = []

    def defective(connection: sqlite3.Connection, number: int) -> int:
        insert(connection, number)
        if number % 3 == 0:
            raise ZeroDivisionError
        return number

    async def carry_out(number: int) -> None:
        try:
            assert await commits.carry_out(lambda connection: defective(connection, number)) == number
        except ZeroDivisionError:
            failed.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(carry_out, number)
    assert sorted(failed) == [0, 3, 6, 9]
    assert numbers(connection) == [1, 2, 4, 5, 7, 8]
    await commits.close()


async def test_when_sqlite_fails_all_who_shared_the_commit_are_told_and_nothing_has_changed(
    connection: sqlite3.Connection,
) -> None:
    commits = GroupCommit(connection)
    await commits.carry_out(lambda connection: insert(connection, 1))
    told: list[TetherError] = []
    waited = threading.Event()

    async def carry_out(number: int) -> None:
        try:
            await commits.carry_out(lambda connection: insert(connection, number))
        except TetherError as error:
            told.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.carry_out, lambda connection: waited.wait() and insert(connection, 9))
        await trio.testing.wait_all_tasks_blocked()  # who comes while it is under way goes with the others
        for number in (7, 1, 8):
            nursery.start_soon(carry_out, number)
        await trio.testing.wait_all_tasks_blocked()
        waited.set()
    assert [error.code for error in told] == [LEDGER_UNAVAILABLE] * 3
    assert numbers(connection) == [1, 9]
    assert await commits.carry_out(lambda connection: insert(connection, 2)) == 2
    await commits.close()


async def test_a_caller_that_is_cancelled_takes_no_others_change_with_it(
    connection: sqlite3.Connection,
) -> None:
    commits = GroupCommit(connection)
    async with trio.open_nursery() as nursery:
        leavers = trio.CancelScope()

        async def leave(number: int) -> None:
            with leavers:
                await commits.carry_out(lambda connection: insert(connection, number))

        nursery.start_soon(leave, 1)
        nursery.start_soon(commits.carry_out, lambda connection: insert(connection, 2))
        await trio.lowlevel.checkpoint()
        leavers.cancel()
    assert 2 in numbers(connection)
    await commits.close()
