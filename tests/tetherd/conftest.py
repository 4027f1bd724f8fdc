"""A PostgreSQL server for all tests of what is kept in one, started when the first one asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server("fsync=off", "shared_buffers=16MB") as server:
        yield server
