"""What comes after a grant: leases while an attempt runs, and the job's end with its bill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from p2p.errors import ATTEMPT_STALE, CALL_LOST, FORBIDDEN, WORKER_LOST, TetherError
from p2p.identity import PeerId
from p2p.messages import Ack, LeaseRenewal, Receipt, Settlement, SignedReceipt
from p2p.wire import decode, encode
from tetherd.dead_letters.office import Office
from tetherd.orchestrator.bill import bill, check_receipt, proven
from tetherd.orchestrator.breaker import FAULTS
from tetherd.orchestrator.ports import OrchestratorMetrics, SwarmView
from tetherd.orchestrator.requests import check_settlement
from tetherd.orchestrator.workforce import Workforce
from tetherd.store.jobs import LEASE_S
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord, Store

_log: Final = structlog.get_logger()

Proof = tuple[SignedReceipt, Receipt]


class Settlements:
    """me: this node, the owner of what it adopts; now: unix seconds, the ledger's time."""

    def __init__(
        self,
        me: PeerId,
        swarm: SwarmView,
        store: Store,
        workforce: Workforce,
        office: Office,
        *,
        now: Callable[[], float],
        metrics: OrchestratorMetrics,
    ) -> None:
        self._me = me
        self._swarm = swarm
        self._store = store
        self._workforce = workforce
        self._office = office
        self._now = now
        self._metrics = metrics

    async def renew(self, worker: PeerId, renewal: LeaseRenewal) -> Ack:
        """Extend a lease for the worker of the current attempt. Raises TetherError(FORBIDDEN | ATTEMPT_STALE)."""
        stored = await self._store.get(renewal.job)
        if stored is None or worker not in {one.worker for one in stored.attempts}:
            raise TetherError(FORBIDDEN, "This lease is another worker's, or another ledger's.")
        until = self._now() + LEASE_S
        if stored.attempts[-1].worker != worker or not await self._store.renew(
            renewal.job, renewal.attempt, renewal.grant_id, lease_until=until
        ):
            raise TetherError(ATTEMPT_STALE, "This attempt is over.")
        return Ack()

    async def settle(self, gateway: PeerId, settlement: Settlement) -> Ack:
        """End a job; saying it again is no harm. Raises TetherError(FORBIDDEN | OUT_OF_RANGE)."""
        check_settlement(settlement)
        stored = await self._store.get(settlement.job)
        if stored is not None and stored.gateway != gateway:
            raise TetherError(FORBIDDEN, "This job is another gateway's.")
        receipts = self._worthy(settlement, gateway, stored)
        if stored is None:
            await self._adopt(gateway, settlement, receipts)
        else:
            await self._end(stored, settlement, proven([signed for signed, _ in receipts], stored))
        if settlement.end == "dead_lettered":
            await self._bury(settlement)
        return Ack()

    async def _bury(self, settlement: Settlement) -> None:
        """Before the gateway is told that its settlement is taken, so that it says it again if this node dies."""
        row = await self._store.get(settlement.job)
        if row is not None and row.state == "dead_lettered":
            await self._office.bury(row, settlement.input)

    async def report(self, worker: PeerId, signed: SignedReceipt) -> Ack:
        """A worker tells what an attempt came to whose gateway did not stay for the end.

        It counts within the grant, and nothing ends by it; but an attempt under way that its own worker calls over
        gives up its lease. Raises TetherError(FORBIDDEN | OUT_OF_RANGE).
        """
        job = decode(signed.receipt, Receipt).job
        stored = await self._store.get(job)
        if stored is None:
            raise TetherError(FORBIDDEN, "This ledger has no such job.")
        alone = SignedReceipt(signed.receipt, signed.worker_signature)
        receipt = check_receipt(alone, job, None, stored)
        if receipt.worker != worker:
            raise TetherError(FORBIDDEN, "A worker reports its own attempts.")
        total, now = proven([alone], stored), self._now()
        await self._store.settle(job, 0, "failed", total, first_token=None, cause="", now=now)
        await self._store.withdraw(job, receipt.attempt, CALL_LOST.name, now=now)
        _log.info("job.reported", job=job.hex(), attempt=receipt.attempt, position=receipt.position)
        return Ack()

    def _worthy(self, settlement: Settlement, gateway: PeerId, stored: JobRecord | None) -> list[Proof]:
        """The receipts that count. One that does not is left out, so that it cannot keep a job from its end."""
        worthy = []
        for signed in settlement.receipts:
            try:
                receipt = check_receipt(signed, settlement.job, gateway, stored)
                if not self._workforce.is_certified(receipt.worker) and not _worked(receipt.worker, stored):
                    raise TetherError(FORBIDDEN, "The receipt is of a node that is no worker.")
            except TetherError as error:
                job = settlement.job.hex()
                _log.warning("receipt.refused", job=job, gateway=gateway, detail=error.detail)
            else:
                worthy.append((signed, receipt))
        return worthy

    async def _end(self, stored: JobRecord, settlement: Settlement, total: Bill) -> None:
        first = settlement.first_token_s
        ended = await self._store.settle(
            stored.job,
            settlement.attempt,
            settlement.end,
            total,
            first_token=None if first is None else stored.created + first,
            cause=settlement.cause,
            now=self._now(),
        )
        if not ended:
            return
        last = next((one for one in stored.attempts if one.attempt == settlement.attempt), None)
        if last is not None and settlement.end == "done":
            self._workforce.succeeded(last.worker, stored.model)
        elif last is not None and settlement.cause in FAULTS | {WORKER_LOST.name}:
            self._workforce.failed(last.worker, stored.model, settlement.cause)
        self._ended(settlement, total, stored.trace_id)

    async def _adopt(self, gateway: PeerId, settlement: Settlement, proofs: list[Proof]) -> None:
        """The leader that placed this job is gone, and its ledger with it: keep what the receipts prove."""
        receipts = [receipt for _, receipt in proofs]
        now, total = self._now(), bill(receipts, ())
        attempts = [
            AttemptRecord(
                attempt=receipt.attempt,
                grant_id=receipt.grant_id,
                worker=receipt.worker,
                region=self._swarm.region,
                start=now,
                tokens=total.by_attempt[receipt.attempt],
                end=now,
            )
            for receipt in sorted(receipts, key=lambda receipt: receipt.attempt)
        ]
        row = JobRecord(
            job=settlement.job,
            tenant="",
            retry_token="",
            model="",
            digest="",
            gateway=gateway,
            request_mac=b"",
            max_prompt_tokens=total.prompt_tokens,
            max_tokens=total.tokens,
            state=settlement.end,
            attempt=settlement.attempt,
            owner=self._me,
            created=now,
            lease_until=now,
            deadline=now,
            ended=now,
            prompt_tokens=total.prompt_tokens,
            tokens=total.tokens,
            cause=settlement.cause,
            receipts=tuple(sorted(encode(signed) for signed, _ in proofs)),
            attempts=tuple(attempts),
        )
        if await self._store.adopt(row):
            self._ended(settlement, total, "")

    def _ended(self, settlement: Settlement, total: Bill, trace_id: str) -> None:
        self._metrics.settled(settlement.end, total.prompt_tokens, total.tokens)
        _log.info(
            "job.settled",
            job=settlement.job.hex(),
            end=settlement.end,
            cause=settlement.cause,
            tokens=total.tokens,
            trace_id=trace_id,
        )


def _worked(worker: PeerId, stored: JobRecord | None) -> bool:
    return stored is not None and any(one.worker == worker for one in stored.attempts)
