"""One contract for letters in memory, SQLite, PostgreSQL and Redis; and a shelf that loses and doubles nothing."""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from p2p.errors import LEDGER_UNAVAILABLE, TetherError
from p2p.identity import PeerId
from tests.servers.redis import RedisServer, redis_server
from tetherd.dead_letters.letter import Letter, Try, shape
from tetherd.dead_letters.letters import KEPT_S, Letters, MemoryLetters
from tetherd.dead_letters.redis_streams import open_redis
from tetherd.dead_letters.shelf import Shelf
from tetherd.dead_letters.table import TableLetters
from tetherd.store import SqliteDatabase, open_postgres
from tetherd.store.database import Script, Statement

PLACES: Final = ("memory", "sqlite", "postgres", "redis")
_names: Final = itertools.count()


def letter(number: int, ended: float | None = None) -> Letter:
    return Letter(
        job=bytes([number]) * 32,
        tenant="acme",
        model="demo",
        gateway=PeerId("12D3gateway"),
        cause="WORKER_LOST",
        created=1.0,
        ended=float(number) if ended is None else ended,
        trace_id="00-aa-bb-01",
        tries=(Try(PeerId("12D3one"), 1, "CALL_LOST", 3),),
    )


@asynccontextmanager
async def opened(kind: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[Letters]:
    match kind:
        case "memory":
            yield MemoryLetters()
        case "sqlite":
            database = SqliteDatabase(folder / "ledger.db")
            yield TableLetters(database)
            await database.close()
        case "postgres":
            server = await open_postgres(request.getfixturevalue("postgres").new_database(), size=2)
            yield TableLetters(server)
            await server.close()
        case _:
            async with open_redis(request.getfixturevalue("redis").url, f"test{next(_names)}") as letters:
                yield letters


@pytest.fixture(params=PLACES)
async def letters(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Letters]:
    async with opened(request.param, tmp_path, request) as place:
        yield place


def numbers(found: object) -> list[int]:
    assert isinstance(found, list)
    return [one.job[0] for one in found]


async def test_a_letter_is_kept_as_it_is_and_only_once(letters: Letters) -> None:
    assert await letters.add(letter(1))
    assert not await letters.add(letter(1, ended=9.0))
    assert list(await letters.newest(5)) == [letter(1)]
    assert await letters.count() == 1
    assert await letters.drop(letter(1).job)
    assert not await letters.drop(letter(1).job)
    assert list(await letters.newest(5)) == []


async def test_letters_are_found_by_age_and_by_the_beginning_of_their_job(letters: Letters) -> None:
    for number in (1, 2, 3, 18):
        await letters.add(letter(number))
    assert numbers(list(await letters.newest(3))) == [18, 3, 2]
    assert numbers(list(await letters.oldest(2))) == [1, 2]
    assert numbers(list(await letters.find("12"))) == [18]
    assert numbers(list(await letters.find(""))) == [1, 2, 3, 18]
    assert numbers(list(await letters.find("ff"))) == []


async def test_what_is_too_old_or_too_much_is_forgotten_oldest_first(letters: Letters) -> None:
    for number in range(1, 9):
        await letters.add(letter(number))
    await letters.forget(3.0, 100)
    assert numbers(list(await letters.oldest(10))) == [3, 4, 5, 6, 7, 8]
    await letters.forget(0.0, 2)
    assert numbers(list(await letters.oldest(10))) == [7, 8]
    assert await letters.add(letter(1)), "what was forgotten is forgotten whole"


def test_what_an_operator_sees_holds_why_and_who_but_nothing_of_the_input() -> None:
    seen = shape(letter(1))
    assert (seen["cause"], seen["traceId"], seen["attempts"][0]["worker"]) == (
        "WORKER_LOST",
        "00-aa-bb-01",
        "12D3one",
    )
    assert "input" not in seen


# ── Redis that comes and goes ────────────────────────────────────────────────────────────────────────────────────


async def test_letters_are_neither_lost_nor_doubled_while_redis_is_killed_stuck_and_back(
    tmp_path: Path,
) -> None:
    database = SqliteDatabase(tmp_path / "ledger.db")
    table = TableLetters(database)
    with redis_server() as server:
        async with open_redis(server.url, "eu") as redis:
            assert await redis.is_durable()
            shelf = Shelf(table, redis, now=lambda: 100.0)
            await shelf.add(letter(1))
            server.kill(signal.SIGKILL)
            for number in (1, 2, 3):
                await shelf.add(letter(number))
            assert numbers(await shelf.newest(9)) == [3, 2, 1], "what the table has is shown"
            with pytest.raises(TetherError) as away:
                await shelf.tidy()
            assert away.value.code is LEDGER_UNAVAILABLE
            with pytest.raises(TetherError):
                await shelf.drop(letter(1).job)
            server.start()
            await table.drop(letter(1).job)  # the one that redis has had
            await shelf.add(letter(4))
            await shelf.tidy()
            assert (await table.count(), await redis.count()) == (0, 4)
            server.send(signal.SIGSTOP)
            await shelf.add(letter(5))
            assert await table.count() == 1
            server.send(signal.SIGCONT)
            await shelf.tidy()
            await shelf.tidy()
            assert numbers(await shelf.newest(9)) == [5, 4, 3, 2, 1]
            assert (await table.count(), await redis.count()) == (0, 5)
    await database.close()


async def test_a_crash_between_adding_there_and_dropping_here_doubles_nothing(
    redis: RedisServer, tmp_path: Path
) -> None:
    database = SqliteDatabase(tmp_path / "ledger.db")
    table = TableLetters(database)
    async with open_redis(redis.url, "crash") as there:
        await table.add(letter(1))
        await there.add(letter(1))
        shelf = Shelf(table, there, now=lambda: 100.0)
        assert numbers(await shelf.newest(9)) == [1] == numbers(await shelf.find("01"))
        await shelf.tidy()
        assert (await table.count(), await there.count()) == (0, 1)
    await database.close()


async def test_nothing_that_opens_redis_is_in_a_message() -> None:
    async with open_redis("redis://user:s3cret@127.0.0.1:1/0", "eu") as redis:
        with pytest.raises(TetherError) as away:
            await redis.count()
    assert "s3cret" not in str(away.value)
    assert away.value.code is LEDGER_UNAVAILABLE


async def test_letters_go_after_a_fortnight(tmp_path: Path) -> None:
    now = 1_000.0
    shelf = Shelf(MemoryLetters(), now=lambda: now)
    await shelf.add(letter(1, ended=now))
    await shelf.tidy()
    assert len(await shelf.newest(9)) == 1
    now += KEPT_S + 1
    await shelf.tidy()
    assert await shelf.newest(9) == []


# ── Whatever comes in whatever order ─────────────────────────────────────────────────────────────────────────────

NUMBERS: Final = st.integers(1, 6)


class Flaky:
    """Letters that are away when told so, before or after they did what they were asked."""

    def __init__(self, letters: Letters) -> None:
        self.letters = letters
        self.fails = ""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object) -> object:
            if self.fails == "before":
                raise TetherError(LEDGER_UNAVAILABLE, "It is away.")
            answer = await getattr(self.letters, name)(*args)
            if self.fails == "after":
                raise TetherError(LEDGER_UNAVAILABLE, "Its answer was lost.")
            return answer

        return call


class Shelved(RuleBasedStateMachine):
    """A shelf beside what has to be on it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.redis = self.places()
        self.flaky = Flaky(self.redis)
        self.shelf = Shelf(self.table, self.flaky, now=lambda: 100.0)  # type: ignore[arg-type]
        self.kept: set[int] = set()
        self.unsure: set[int] = set()

    def places(self) -> tuple[Letters, Letters]:
        return MemoryLetters(), MemoryLetters()

    @rule(fails=st.sampled_from(["", "", "before", "after"]))
    def redis_changes(self, fails: str) -> None:
        self.flaky.fails = fails

    @rule(number=NUMBERS)
    def add(self, number: int) -> None:
        trio.run(self.shelf.add, letter(number))
        self.kept.add(number)
        self.unsure.discard(number)

    @rule(number=NUMBERS)
    def drop(self, number: int) -> None:
        try:
            was_there = trio.run(self.shelf.drop, letter(number).job)
        except TetherError:
            if number in self.kept and self.flaky.fails == "after":
                self.unsure.add(number)
            return
        assert was_there == (number in self.kept) or number in self.unsure
        self.kept.discard(number)
        self.unsure.discard(number)

    @rule()
    def tidy(self) -> None:
        try:
            trio.run(self.shelf.tidy)
        except TetherError:
            assert self.flaky.fails
        else:
            assert trio.run(self.table.count) == 0

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        async def look() -> list[int]:
            return [one.job[0] for place in (self.table, self.redis) for one in await place.newest(99)]

        there = trio.run(look)
        assert self.kept - self.unsure <= set(there) <= self.kept
        shown = trio.run(self.shelf.newest, 99)
        assert len({one.job for one in shown}) == len(shown)


SHORT: Final = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_a_shelf_loses_and_doubles_nothing() -> None:
    run_state_machine_as_test(Shelved, settings=SHORT)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_shelf_over_a_table_loses_and_doubles_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres").new_database() if kind == "postgres" else ""

    def empty() -> Script[None]:
        yield Statement("DELETE FROM dead_letters")

    class OverTable(Shelved):
        def places(self) -> tuple[Letters, Letters]:
            return OneRun(tmp_path / "ledger.db", url, empty), MemoryLetters()  # type: ignore[return-value]

    run_state_machine_as_test(OverTable, settings=settings(SHORT, max_examples=8))


def test_a_shelf_over_a_real_redis_loses_and_doubles_nothing(redis: RedisServer) -> None:
    class OverRedis(Shelved):
        def places(self) -> tuple[Letters, Letters]:
            return MemoryLetters(), OneRedis(redis.url, f"model{next(_names)}")  # type: ignore[return-value]

    run_state_machine_as_test(OverRedis, settings=settings(SHORT, max_examples=8))


class OneRedis:
    """A Redis that is connected to for each call: a connection belongs to one run of trio."""

    def __init__(self, url: str, name: str) -> None:
        self._place = url, name

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object) -> object:
            async with open_redis(*self._place) as letters:
                return await getattr(letters, name)(*args)

        return call


class OneRun:
    """A table whose database is opened for each call: a connection belongs to one run of trio."""

    def __init__(self, path: Path, url: str, first: Callable[[], Script[None]]) -> None:
        self._path = path
        self._url = url
        trio.run(self._call, lambda database: database.transact(first))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object) -> object:
            return await self._call(lambda database: getattr(TableLetters(database), name)(*args))

        return call

    async def _call(self, act: Callable[..., Awaitable[object]]) -> object:
        database = await open_postgres(self._url, size=1) if self._url else SqliteDatabase(self._path)
        try:
            return await act(database)
        finally:
            await database.close()
