"""The catalogue in a database: SQLite and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference.artifacts.release import Alias, revoke, sign_alias, trust
from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from tests.servers.postgres import PostgresServer
from tests.tetherd.registry.test_catalogue import PUBLISHER, SWARM, open_catalogues, release, signed
from tetherd.registry.catalogue import Catalogue
from tetherd.registry.ledger_copy import LedgerCopy
from tetherd.store import SqliteDatabase, SqlStore, open_postgres
from tetherd.store.database import Database, Script, Statement


@pytest.fixture(params=("sqlite", "postgresql"))
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "sqlite":
        store = SqlStore(SqliteDatabase(tmp_path / "ledger.db"))
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        store = SqlStore(await open_postgres(server.new_database(), size=2))
    yield store.database
    await store.close()


async def agree(catalogue: Catalogue, database: Database) -> None:
    await LedgerCopy(catalogue, database, database).agree()


async def run(database: Database, sql: str, *values: object) -> None:
    def script() -> Script[None]:
        yield Statement(sql, values)

    await database.each(script)


async def test_a_new_orchestrator_knows_what_is_in_its_database(database: Database, tmp_path: Path) -> None:
    async with open_catalogues(tmp_path / "first", count=1) as ((one, _, _),):
        one.add_release(signed(release("1")))
        alias = Alias(SWARM.swarm_id, "best", "demo@1", 1_000.0)
        one.add_alias(sign_alias(PUBLISHER, alias, trust(SWARM.authority, PUBLISHER.node_id, 0.0)))
        await agree(one, database)
    async with open_catalogues(tmp_path / "second", count=1) as ((other, _, _),):
        await agree(other, database)
        assert [known.reference for known in other.all()] == ["demo@1"]
        assert other.meaning("best") == "demo@1"


async def test_of_two_releases_of_one_version_the_newer_one_wins_on_both_sides(
    database: Database, tmp_path: Path
) -> None:
    async with open_catalogues(tmp_path) as ((one, _, _), (other, _, _)):
        one.add_release(signed(release("1", created=1_000.0, size=5)))
        other.add_release(signed(release("1", created=2_000.0, size=6)))
        for catalogue in (one, other, one):
            await agree(catalogue, database)
        sizes = {found.release.size for found in (one.find("demo", "1"), other.find("demo", "1")) if found}
        assert sizes == {6}


async def test_what_was_revoked_does_not_come_back_from_the_database(
    database: Database, tmp_path: Path
) -> None:
    async with open_catalogues(tmp_path, count=3) as ((one, _, _), (other, _, _), (third, _, _)):
        one.add_release(signed(release("1")))
        await agree(one, database)
        other.add_word(revoke(SWARM.authority, PUBLISHER.node_id, 5.0))
        await agree(other, database)
        await agree(third, database)
        await agree(one, database)
        assert one.all() == other.all() == third.all() == []


async def test_a_document_that_nobody_signed_is_not_believed_and_harms_nothing(
    database: Database, tmp_path: Path
) -> None:
    async with open_catalogues(tmp_path) as ((one, _, _), (other, _, _)):
        one.add_release(signed(release("1")))
        await agree(one, database)
        await run(database, "INSERT INTO catalogue VALUES (?, ?, ?)", "evil@1.release", "00", b"\x93junk")
        await run(database, "INSERT INTO catalogue VALUES (?, ?, ?)", "../../escape", "00", b"")
        await run(database, "UPDATE catalogue SET body = ? WHERE name = ?", b"torn", "demo@1.release")
        await agree(other, database)
        assert other.all() == []
        await agree(one, database)
        assert [known.reference for known in one.all()] == ["demo@1"]


async def test_while_the_database_is_away_the_catalogue_does_without(tmp_path: Path) -> None:
    class Away:
        async def each(self, make: object) -> object:
            raise TetherError(LEDGER_UNAVAILABLE, "It is away.")

    async with open_catalogues(tmp_path, count=1) as ((one, _, _),):
        copy = LedgerCopy(one, Away(), Away())  # type: ignore[arg-type]
        with pytest.raises(TetherError):
            await copy.agree()
        one.add_release(signed(release("1")))
        assert [known.reference for known in one.all()] == ["demo@1"]
