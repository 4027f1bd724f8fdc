"""Whatever comes in whatever order, all drivers agree, attempts only rise, and an end is an end."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.messages import JobEnd
from tests.servers.postgres import PostgresServer
from tests.tetherd.store.rows import HERE, ONE, THERE, TWO, attempt, job
from tetherd.store import MemoryStore, SqliteDatabase, SqlStore, Store, open_postgres
from tetherd.store.database import Script, Statement
from tetherd.store.protocol import Bill, JobRecord

_Result = TypeVar("_Result")

JOBS = st.integers(1, 3)
ATTEMPTS = st.integers(0, 4)
TOKENS = st.integers(0, 20)
CAUSES = st.sampled_from(["", "CAPACITY", "CANCELLED", "CALL_LOST"])


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryStore(max_jobs=2)
        self.database = self.open()
        self.now = 100.0
        self.seen: dict[bytes, JobRecord] = {}

    def open(self) -> Store:
        return SqlStore(SqliteDatabase(Path(self.folder.name) / "ledger.db"), max_jobs=2)

    def teardown(self) -> None:
        trio.run(self.database.close)
        self.folder.cleanup()

    def both(self, act: Callable[[Store], Awaitable[_Result]]) -> _Result | str:
        """Do it to both drivers, and see that they answer alike."""

        async def run(store: Store) -> _Result | str:
            try:
                return await act(store)
            except TetherError as refusal:
                return refusal.code.name

        one, other = trio.run(run, self.memory), trio.run(run, self.database)
        assert one == other
        return one

    @rule(seconds=st.sampled_from([0.5, 10.0, 70.0, 86_400.0 * 4]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        number=JOBS,
        known=ATTEMPTS,
        gateway=st.sampled_from([HERE, THERE]),
        worker=st.sampled_from([ONE, TWO]),
        mac=st.sampled_from([b"m" * 32, b"m" * 32, b"x" * 32]),
        cause=CAUSES,
    )
    def claim(self, number: int, known: int, gateway: PeerId, worker: PeerId, mac: bytes, cause: str) -> None:
        now = self.now
        wanted = job(
            number,
            attempt=known,
            gateway=gateway,
            request_mac=mac,
            cause=cause,
            created=now,
            lease_until=now + 15.0,
            deadline=now + 60.0,
        )
        before = self.seen.get(wanted.job)
        row = self.both(lambda store: store.claim(wanted, attempt(worker, b"g%d" % known, now), now=now))
        if isinstance(row, JobRecord):
            assert row.attempt > known
            assert before is None or before.ended is not None or row.attempt > before.attempt

    @rule(number=JOBS, which=ATTEMPTS, cause=CAUSES)
    def withdraw(self, number: int, which: int, cause: str) -> None:
        self.both(lambda store: store.withdraw(job(number).job, which, cause, now=self.now))

    @rule(number=JOBS, which=ATTEMPTS, grant=ATTEMPTS)
    def renew(self, number: int, which: int, grant: int) -> None:
        until = self.now + 15.0
        self.both(lambda store: store.renew(job(number).job, which, b"g%d" % grant, lease_until=until))

    @rule(
        number=JOBS,
        which=ATTEMPTS,
        tokens=TOKENS,
        end=st.sampled_from(["done", "failed", "cancelled", "dead_lettered"]),
    )
    def settle(self, number: int, which: int, tokens: int, end: JobEnd) -> None:
        bill = Bill(tokens, tokens, {which: tokens})
        first = self.now - 5.0
        self.both(
            lambda store: store.settle(
                job(number).job, which, end, bill, first_token=first, cause="", now=self.now
            )
        )

    @rule(number=JOBS)
    def adopt(self, number: int) -> None:
        row = job(number, request_mac=b"", state="done", ended=self.now)
        self.both(lambda store: store.adopt(row))

    @rule()
    def sweep(self) -> None:
        over = self.both(lambda store: _sorted(store.sweep(now=self.now)))
        assert not isinstance(over, str)
        assert all(row.ended == self.now for row in over)
        self.seen |= {row.job: row for row in over}

    @invariant()
    def an_end_is_an_end_and_nothing_goes_back(self) -> None:
        rows = self.both(lambda store: store.recent(10))
        assert not isinstance(rows, str)
        now_here = {row.job: row for row in rows}
        for key, before in self.seen.items():
            after = now_here.get(key)
            if after is None:
                assert before.ended is not None, "only ended jobs are forgotten"
            elif before.ended is not None and before.created == after.created:
                assert (after.state, after.ended) == (before.state, before.ended)
            if after is not None and after.created == before.created:
                assert after.attempt >= before.attempt
                assert (after.tokens, after.prompt_tokens) >= (before.tokens, before.prompt_tokens)
        self.seen = now_here


async def _emptied(url: str) -> SqlStore:
    store = SqlStore(await open_postgres(url, size=1), max_jobs=2)
    await store.database.transact(_delete)
    return store


def _delete() -> Script[None]:
    yield Statement("DELETE FROM jobs")


async def _sorted(sweep: Awaitable[object]) -> list[JobRecord]:
    rows = await sweep
    assert isinstance(rows, list)
    return sorted(rows, key=lambda row: row.job)


def test_the_ledger_keeps_its_rules_in_memory_and_in_sqlite() -> None:
    short = settings(max_examples=25, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Ledger, settings=short)


def test_the_ledger_keeps_its_rules_in_postgresql(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    class OnServer(Ledger):
        def open(self) -> Store:
            return trio.run(_emptied, url)

    short = settings(max_examples=15, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(OnServer, settings=short)
