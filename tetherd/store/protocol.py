"""What the orchestrator keeps: one row a job. Two drivers, memory and SQLite; one contract suite over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from p2p.identity import PeerId
from p2p.messages import JobEnd

JobState = Literal["running", "done", "failed", "cancelled", "dead_lettered"]


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try at a job. start, first_token, end: unix seconds; tokens: proven by its receipt; cause: why it ended."""

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
    """One job. job: 32 bytes; lease_until: ledger seconds (unix); prompt_tokens, tokens: as billed."""

    job: bytes
    tenant: str
    retry_token: str
    model: str
    gateway: PeerId
    request_mac: bytes
    state: JobState
    attempt: int
    owner: PeerId
    created: float
    lease_until: float
    deadline: float
    prompt_tokens: int = 0
    tokens: int = 0
    cause: str = ""
    trace_id: str = ""
    attempts: tuple[AttemptRecord, ...] = ()


class Store(Protocol):
    """All methods commit before they return. now: ledger time, unix seconds, passed in."""

    async def claim(self, wanted: JobRecord, attempt: AttemptRecord, *, now: float) -> JobRecord:
        """Begin an attempt of a job: the row's attempt becomes one more than the stored and wanted.attempt.

        wanted.attempt is the last one that the gateway knows of, 0 for none: this ledger may be younger than the job.
        Returns the row as committed; attempt.attempt is ignored on the way in.
        Raises TetherError(RETRY_TOKEN_CONFLICT) if the request MAC differs, RESULT_GONE if the job has ended,
        IN_FLIGHT if another gateway holds an unexpired lease.
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
        *,
        prompt_tokens: int,
        tokens: int,
        first_token: float | None,
        cause: str,
        now: float,
    ) -> bool:
        """End a job by compare-and-set on attempt; the billed tokens only ever grow. False: it had ended already."""
        ...

    async def sweep(self, *, now: float) -> Sequence[JobRecord]:
        """End, as dead_lettered, every running job whose lease and deadline have passed. Returns them."""
        ...

    async def get(self, job: bytes) -> JobRecord | None: ...

    async def find(self, prefix: str) -> Sequence[JobRecord]:
        """Jobs whose hex id starts with prefix (at most 10)."""
        ...

    async def recent(self, limit: int = 50) -> Sequence[JobRecord]:
        """Newest first."""
        ...

    async def close(self) -> None: ...
