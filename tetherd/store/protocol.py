"""What the orchestrator keeps: one row a job. Memory, SQLite, PostgreSQL: one contract suite over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from p2p.identity import PeerId
from p2p.messages import JobEnd
from tetherd.quotas.account import Account
from tetherd.quotas.hold import Hold
from tetherd.quotas.limits import Limits
from tetherd.store.register import RegisterTable

JobState = Literal["running", "done", "failed", "cancelled", "dead_lettered"]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a job. start, first_token, end: unix seconds; tokens: its part of the answer; cause: why it ended."""

    attempt: int
    grant_id: bytes
    worker: PeerId
    region: str
    start: float
    first_token: float | None = None
    tokens: int = 0
    end: float | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job. job: 32 bytes; lease_until: ledger seconds (unix); prompt_tokens, tokens: as billed.

    digest: of the manifest that the attempts are made with; max_prompt_tokens, max_tokens: what the grants allow. A
    row that was adopted from a settlement knows no tenant, no request MAC and no bounds. key_id: by which API key it
    was asked; hold: what it holds of quotas; held_until: when what is left of that goes back at the latest (ledger
    seconds), None once it has; receipts: encoded `SignedReceipt`s that the bill stands on.
    """

    job: bytes
    tenant: str
    retry_token: str
    model: str
    digest: str
    gateway: PeerId
    request_mac: bytes
    max_prompt_tokens: int
    max_tokens: int
    state: JobState
    attempt: int
    owner: PeerId
    created: float
    lease_until: float
    deadline: float
    ended: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    cause: str = ""
    trace_id: str = ""
    key_id: str = ""
    hold: Hold | None = None
    held_until: float | None = None
    receipts: tuple[bytes, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Bill:
    """What the receipts of a job prove. tokens: the highest position; by_attempt: whose they are, by number.

    receipts: encoded `SignedReceipt`s; whole: no attempt is left that might prove more.
    """

    prompt_tokens: int = 0
    tokens: int = 0
    by_attempt: Mapping[int, int] = field(default_factory=dict)
    receipts: tuple[bytes, ...] = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Terms:
    """Within what limits a job of one subject is let in."""

    subject: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one job came to, for good. ended, created: unix seconds; region: of its last attempt; attempts: how many.

    micros: its price; disputed: a receipt of it was not countersigned by its gateway; receipts: as in `JobRecord`.
    """

    job: bytes
    ended: float
    created: float
    tenant: str
    key_id: str
    model: str
    region: str
    gateway: PeerId
    state: JobState
    attempts: int
    prompt_tokens: int
    tokens: int
    micros: int
    disputed: bool
    receipts: tuple[bytes, ...] = ()


class Store(Protocol):
    """All methods commit before they return. now: ledger time, unix seconds, passed in.

    Every method raises TetherError(LEDGER_UNAVAILABLE) when the ledger is away or cannot be written; nothing has
    changed then, unless the connection to it broke in the very commit.
    """

    @property
    def shared(self) -> bool:
        """Whether the region's other candidates use this very ledger, and need no copies of its rows."""
        ...

    @property
    def register(self) -> RegisterTable:
        """Tenants, their keys and limits."""
        ...

    def now(self) -> float:
        """Ledger time: unix seconds by the clock of the database's machine."""
        ...

    async def claim(
        self, wanted: JobRecord, attempt: AttemptRecord, *, now: float, terms: Sequence[Terms] = ()
    ) -> JobRecord:
        """Begin an attempt of a job: the row's attempt becomes one more than the stored and wanted.attempt.

        wanted.attempt is the last one that the gateway knows of, 0 for none: this ledger may be younger than the job.
        wanted.cause is why that one ended. Returns the row as committed; attempt.attempt is ignored on the way in.
        Raises TetherError(RETRY_TOKEN_CONFLICT) if the request MAC differs, RESULT_GONE if the job has ended,
        IN_FLIGHT if another gateway holds an unexpired lease; RATE_LIMITED or QUOTA_EXCEEDED if wanted.hold does not
        fit into the terms of its subjects. What it holds is booked in the same commit, and so is what changes it later.
        """
        ...

    async def withdraw(self, job: bytes, attempt: int, cause: str, *, now: float) -> bool:
        """Close an attempt that came to nothing, and give up its lease; the job may go on with a later one.

        False if a later attempt or the end came first.
        """
        ...

    async def renew(self, job: bytes, attempt: int, grant_id: bytes, *, lease_until: float) -> bool:
        """Extend the lease; False if a later attempt or the end came first."""
        ...

    async def settle(
        self,
        job: bytes,
        attempt: int,
        end: JobEnd,
        bill: Bill,
        *,
        first_token: float | None,
        cause: str,
        now: float,
    ) -> bool:
        """End a job by compare-and-set on attempt. False: it had ended already, goes on, or is not here.

        The billed tokens only ever grow, and no more once a lease has passed since the end.
        """
        ...

    async def adopt(self, row: JobRecord) -> bool:
        """Keep the end of a job that another ledger had begun. False: the job is here already, and stays as it is."""
        ...

    async def take(self, rows: Sequence[JobRecord]) -> None:
        """Keep copies of another ledger's rows, joined with what is here (tetherd.store.merge)."""
        ...

    async def touched(self, since: float, after: bytes, limit: int) -> Sequence[JobRecord]:
        """Jobs with a lease or an end at or after since, by job id from the one after `after` on."""
        ...

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        """End every running job whose lease and deadline have passed, and forget the oldest ended ones.

        Returns those that it ended: dead_lettered if an attempt was under way, else failed or cancelled.
        """
        ...

    async def get(self, job: bytes) -> JobRecord | None: ...

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        """Jobs whose id in lower-case hex starts with prefix, in that order (at most 10)."""
        ...

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        """Newest first."""
        ...

    async def accounts(self, subjects: Sequence[str]) -> Sequence[Account]:
        """The books of those subjects that have any."""
        ...

    def seen(self, subjects: Sequence[str]) -> Sequence[Account]:
        """The same as this process last saw them committed, without a trip: to tell clients, not to decide."""
        ...

    async def usage_rows(
        self, since: float, until: float, *, after: bytes = b"", limit: int = 1_000
    ) -> Sequence[UsageRow]:
        """Jobs that ended in [since, until), by end and job id; after: the job of the row at since that was read last.

        A row appears once its bill is final, within a minute of its end, and is kept for 400 days.
        """
        ...

    async def close(self) -> None:
        """Wait for what is under way. The store must not be used again."""
        ...
