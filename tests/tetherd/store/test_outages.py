"""PostgreSQL's worst days, with real servers: failing over, a full disk, a replica that is away, a backup."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tests.servers.postgres import PostgresServer, postgres_server, standby_of
from tests.sources import ROOT
from tests.tetherd.store.rows import attempt, job, kept, settle
from tetherd.store import SqlStore, open_postgres
from tetherd.store.protocol import JobRecord

SCRIPTS = ROOT / "deploy" / "postgres"
FAST = ("fsync=off", "shared_buffers=16MB")


def run(script: str, server: PostgresServer, *arguments: str) -> None:
    """As whoever runs PostgreSQL would."""
    environ = {**os.environ, "PATH": f"{server.binaries}:{os.environ['PATH']}"}
    user = {"user": server.user, "group": server.user, "extra_groups": []} if os.geteuid() == 0 else {}
    with (SCRIPTS / script).open() as text:
        subprocess.run(
            ["bash", "-s", *arguments], stdin=text, check=True, capture_output=True, cwd=server.folder,
            env=environ, timeout=60, **user,
        )  # fmt: skip


async def claimed(store: SqlStore, number: int) -> JobRecord:
    """Claim as a gateway does: what is refused with a wait is asked again."""
    while True:
        try:
            return await store.claim(job(number), attempt(), now=100.0)
        except TetherError as away:
            assert away.code is LEDGER_UNAVAILABLE and away.retry_after_s is not None
            await trio.sleep(0.05)


async def followed(replica: PostgresServer, database: str, rows: int) -> None:
    """Wait for rows; before them come the database and its tables."""

    def there() -> bool:
        try:
            return replica.sql("SELECT count(*) FROM jobs", database) == str(rows)
        except subprocess.CalledProcessError:
            return False

    while not there():  # noqa: ASYNC110
        await trio.sleep(0.05)


async def test_a_promoted_replica_takes_over_under_the_same_url_and_fences_what_the_old_leader_says() -> None:
    with postgres_server(*FAST) as primary, standby_of(primary) as replica:
        database = primary.new_database().rpartition("/")[2]
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{replica.port}"
        url = f"postgresql://{primary.user}@{hosts}/{database}?target_session_attrs=read-write"
        stores = [SqlStore(await open_postgres(url, size=2), max_jobs=None) for _ in range(2)]
        first = await claimed(stores[0], 1)
        await followed(replica, database, 1)
        primary.kill(signal.SIGKILL)
        run("promote.sh", replica, str(replica.folder / "data"))
        second = await claimed(stores[1], 1)
        assert (first.attempt, second.attempt) == (1, 2)
        await claimed(stores[0], 2)
        assert not await settle(stores[0], first, tokens=7), "the first attempt is over"
        assert await settle(stores[1], second, tokens=9)
        assert not await settle(stores[0], second, tokens=9), "a job ends once"
        assert ((await kept(stores[0], second)).state, (await kept(stores[0], second)).tokens) == ("done", 9)
        for store in stores:
            await store.close()


async def test_reports_are_read_from_a_replica_and_from_the_primary_while_it_is_away() -> None:
    with postgres_server(*FAST) as primary, standby_of(primary) as replica:
        url = primary.new_database()
        database = url.rpartition("/")[2]
        store = SqlStore(await open_postgres(url, size=1), max_jobs=None, replica=replica.url(database))
        await claimed(store, 1)
        await followed(replica, database, 1)
        assert len(await store.recent()) == 1
        assert replica.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tether'") == "1"
        replica.kill(signal.SIGKILL)
        await claimed(store, 2)
        assert len(await store.recent()) == 2, "the primary knows"
        assert len(await store.find("02")) == 1
        await store.close()


async def test_a_replica_that_was_never_there_costs_a_report_one_try() -> None:
    with postgres_server(*FAST) as primary:
        store = SqlStore(
            await open_postgres(primary.new_database(), size=1), replica="postgresql://x@127.0.0.1:1/none"
        )
        await claimed(store, 1)
        assert len(await store.recent()) == 1
        await store.close()


async def test_a_replica_that_has_not_followed_a_migration_yet_is_left_alone_for_a_while() -> None:
    with postgres_server(*FAST) as primary:
        store = SqlStore(await open_postgres(primary.new_database(), size=1), replica=primary.new_database())
        await claimed(store, 1)
        assert len(await store.recent()) == 1
        await store.close()


async def test_a_backup_of_the_replica_is_the_ledger_on_another_server() -> None:
    with postgres_server(*FAST) as primary, standby_of(primary) as replica, postgres_server(*FAST) as other:
        url = primary.new_database()
        database = url.rpartition("/")[2]
        store = SqlStore(await open_postgres(url, size=1), max_jobs=None)
        rows = [await claimed(store, number) for number in range(1, 4)]
        await settle(store, rows[0], tokens=7)
        await followed(replica, database, 3)
        run("backup.sh", replica, replica.url(database), str(replica.folder / "ledger.dump"))
        dump = shutil.copy(replica.folder / "ledger.dump", other.folder / "ledger.dump")
        elsewhere = other.new_database()
        run("restore.sh", other, str(dump), elsewhere)
        restored = SqlStore(await open_postgres(elsewhere, size=1), max_jobs=None)
        assert list(await restored.recent()) == list(await store.recent())
        assert (await claimed(restored, 2)).attempt == 2, "and it goes on from there"
        await restored.close()
        await store.close()


# ── A full disk ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0755", "tether-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk is a tmpfs, which only root may mount")
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o011)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_new_work_and_has_all_that_was_accepted_when_there_is_room(
    small_disk: Path,
) -> None:
    with postgres_server(
        "shared_buffers=1MB", "min_wal_size=2MB", "max_wal_size=4MB", parent=small_disk
    ) as server:
        store = SqlStore(await open_postgres(server.new_database(), size=1), max_jobs=None)
        accepted = [(await claimed(store, 1)).job]
        ballast = small_disk / "ballast"
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 65_536)
        refused: TetherError | None = None
        for number in range(2, 200):
            try:
                row = await store.claim(
                    job(number, cause="x" * 100, trace_id="x" * 8_000), attempt(), now=100.0
                )
            except TetherError as full:
                refused = full
                break
            accepted.append(row.job)
        assert refused is not None and refused.code is LEDGER_UNAVAILABLE
        assert refused.retry_after_s is not None
        ballast.unlink()
        server.kill(signal.SIGKILL)  # if it has not died of it
        server.start()
        await claimed(store, 250)
        there = {row.job for row in await store.recent(300)}
        assert set(accepted) <= there
        await store.close()
