"""Whatever tenants ask for and however it ends, the books are the sum of the jobs, and no quota is ever exceeded."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.messages import JobEnd
from tests.servers.postgres import PostgresServer
from tests.tetherd.store.rows import HERE, ONE, THERE, attempt, job
from tetherd.quotas.account import Account
from tetherd.quotas.hold import Hold
from tetherd.quotas.limits import Limits
from tetherd.store import MemoryStore, SqliteDatabase, SqlStore, Store, open_postgres
from tetherd.store.jobs import standing_of
from tetherd.store.protocol import Bill, JobRecord, Terms

_Result = TypeVar("_Result")
TENANT: Final = "tenant:acme"
KEYS: Final = ("key:one", "key:two")
WORST: Final = 40
LIMITS: Final = {
    TENANT: Limits(tokens_per_month=150, budget=130, concurrency=3, requests_per_minute=6),
    KEYS[0]: Limits(tokens_per_month=90, concurrency=1),
    KEYS[1]: Limits(budget=100, tokens_per_minute=120),
}
JOBS = st.integers(1, 6)
ATTEMPTS = st.integers(0, 3)


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryStore()
        self.database = self.open()
        self.now = 100.0
        self.keys: dict[int, str] = {}

    def open(self) -> SqlStore:
        return SqlStore(SqliteDatabase(Path(self.folder.name) / "ledger.db"))

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

    @rule(seconds=st.sampled_from([0.5, 10.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=JOBS, known=ATTEMPTS, key=st.sampled_from(KEYS), gateway=st.sampled_from([HERE, THERE]))
    def claim(self, number: int, known: int, key: str, gateway: PeerId) -> None:
        key, now = self.keys.setdefault(number, key), self.now
        subjects = (TENANT, key)
        wanted = job(
            number,
            attempt=known,
            gateway=gateway,
            created=now,
            lease_until=now + 15.0,
            deadline=now + 60.0,
            hold=Hold(subjects, WORST, WORST, 1_000_000, 1_000_000),
        )
        terms = [Terms(subject, LIMITS[subject]) for subject in subjects]
        self.both(lambda store: store.claim(wanted, attempt(ONE, b"g", now), now=now, terms=terms))

    @rule(number=JOBS, which=ATTEMPTS)
    def withdraw(self, number: int, which: int) -> None:
        self.both(lambda store: store.withdraw(job(number).job, which, "CAPACITY", now=self.now))

    @rule(
        number=JOBS,
        which=ATTEMPTS,
        prompt=st.integers(0, 10),
        tokens=st.integers(0, 50),
        end=st.sampled_from(["done", "failed", "cancelled", "dead_lettered"]),
        whole=st.booleans(),
    )
    def settle(self, number: int, which: int, prompt: int, tokens: int, end: JobEnd, whole: bool) -> None:
        """A receipt may claim more than was granted: no more is billed than was reserved."""
        bill = Bill(prompt, tokens, {which: tokens}, whole=whole)
        self.both(
            lambda store: store.settle(
                job(number).job, which, end, bill, first_token=None, cause="", now=self.now
            )
        )

    @rule()
    def sweep(self) -> None:
        async def swept(store: Store) -> list[JobRecord]:
            return sorted(await store.sweep(now=self.now), key=lambda row: row.job)

        self.both(swept)

    @invariant()
    def the_books_are_the_sum_of_the_jobs_and_within_every_limit(self) -> None:
        rows, books = self.both(lambda store: store.recent(10)), self.both(_books)
        assert not isinstance(rows, str) and not isinstance(books, str)
        for account in books:
            jobs = [standing_of(row) for row in rows if row.hold and account.subject in row.hold.subjects]
            assert account.reserved_tokens == sum(one.reserved_tokens for one in jobs)
            assert account.reserved_micros == sum(one.reserved_micros for one in jobs)
            assert account.settled_micros == sum(one.settled_micros for one in jobs)
            assert account.running == sum(one.running for one in jobs)
            limits = LIMITS[account.subject]
            assert limits.budget is None or account.settled_micros + account.reserved_micros <= limits.budget
            spent = account.settled_tokens + account.reserved_tokens
            assert limits.tokens_per_month is None or spent <= limits.tokens_per_month
            assert limits.concurrency is None or account.running <= limits.concurrency
        seen = self.database.seen([account.subject for account in books])
        assert list(seen) == books, "what clients are told is what was committed"


async def _books(store: Store) -> list[Account]:
    return sorted(await store.accounts([TENANT, *KEYS]), key=lambda account: account.subject)


def test_the_books_balance_in_memory_and_in_sqlite() -> None:
    short = settings(max_examples=25, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Books, settings=short)


def test_the_books_balance_in_postgresql(postgres: PostgresServer) -> None:
    class OnServer(Books):
        def open(self) -> SqlStore:
            return trio.run(_opened, postgres.new_database())

    short = settings(max_examples=8, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(OnServer, settings=short)


async def _opened(url: str) -> SqlStore:
    return SqlStore(await open_postgres(url, size=1))
