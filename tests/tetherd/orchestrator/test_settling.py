"""Leases, settlements and the sweep over real calls in one process."""

from __future__ import annotations

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import ATTEMPT_STALE, FORBIDDEN, FRAME_INVALID, OUT_OF_RANGE, RESULT_GONE, Code, TetherError
from p2p.job_id import job_id
from p2p.messages import SETTLE, Grant, Receipt, Settlement, SignedReceipt
from p2p.wire import decode, encode
from tests.tetherd.orchestrator.region import Gateway, Region, region
from tests.topics.world import NOW, person
from tetherd.orchestrator.orchestrator import SWEEP_S
from tetherd.orchestrator.settling import LEASE_S
from tetherd.store.protocol import JobRecord


async def row_of(here: Region, grant: Grant) -> JobRecord:
    row = await here.store.get(grant.job)
    assert row is not None
    return row


# ── Bills ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_is_billed_by_what_its_receipt_proves_and_only_once() -> None:
    async with region() as here:
        grant = await here.gateway.granted()
        receipt = here.worker(grant.worker).receipt(here.gateway.node.person, grant, position=9)
        for _ in range(2):
            await here.gateway.settle(grant, "done", receipt)
        row = await row_of(here, grant)
        assert (row.state, row.prompt_tokens, row.tokens) == ("done", 5, 9)
        assert row.attempts[0].first_token == pytest.approx(NOW + 0.5, abs=1.0)
        assert (here.counts.ends, here.counts.tokens) == ({"done": 1}, 9)


async def test_the_answer_of_two_attempts_is_billed_to_its_end_and_each_has_its_part() -> None:
    async with region() as here:
        me = here.gateway.node.person
        first = await here.gateway.granted()
        second = await here.gateway.granted(last_attempt=1, exclude=(first.worker,), cause="CALL_LOST")
        receipt = here.worker(second.worker).receipt(me, second, first=4, position=9)
        await here.gateway.settle(second, "done", receipt)
        row = await row_of(here, first)
        assert (row.prompt_tokens, row.tokens) == (5, 9)
        assert [one.tokens for one in row.attempts] == [4, 5]


async def test_without_a_receipt_nothing_is_billed() -> None:
    async with region() as here:
        grant = await here.gateway.granted()
        await here.gateway.settle(grant, "cancelled")
        row = await row_of(here, grant)
        assert (row.state, row.prompt_tokens, row.tokens) == ("cancelled", 0, 0)


def altered(signed: SignedReceipt, **changes: object) -> SignedReceipt:
    body = encode(replace(decode(signed.receipt, Receipt), **changes))
    return replace(signed, receipt=body)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda signed: altered(signed, position=10),
        lambda signed: replace(signed, worker_signature=b"s" * 64),
        lambda signed: replace(signed, gateway_signature=b""),
        lambda signed: replace(signed, receipt=b"\xc1"),
    ],
)
async def test_a_receipt_that_does_not_hold_is_left_out_and_the_job_ends_without_it(spoil) -> None:  # type: ignore[no-untyped-def]
    async with region() as here:
        grant = await here.gateway.granted()
        receipt = here.worker(grant.worker).receipt(here.gateway.node.person, grant, position=9)
        await here.gateway.settle(grant, "done", spoil(receipt))
        row = await row_of(here, grant)
        assert (row.state, row.tokens) == ("done", 0)


async def test_a_receipt_beyond_the_grant_or_of_another_grant_is_left_out() -> None:
    async with region() as here:
        me = here.gateway.node.person
        grant = await here.gateway.granted()
        worker, other = here.worker(grant.worker), next(w for w in here.workers if w.peer != grant.worker)
        receipts = [
            worker.receipt(me, grant, position=grant.max_tokens + 1),
            worker.receipt(me, replace(grant, grant_id=b"x" * 16), position=5),
            worker.receipt(me, replace(grant, attempt=2), position=5),
            worker.receipt(me, replace(grant, job=b"j" * 32), position=5),
            worker.receipt(me, grant, first=6, position=5),
            other.receipt(me, grant, position=5),
        ]
        await here.gateway.settle(grant, "done", *receipts)
        assert (await row_of(here, grant)).tokens == 0


async def refusal(gateway: Gateway, settlement: Settlement) -> Code:
    with pytest.raises(TetherError) as caught:
        await gateway.node.rpc.ask(gateway.leader, SETTLE, settlement, timeout_s=5.0)
    return caught.value.code


async def test_only_the_jobs_own_gateway_may_end_it() -> None:
    async with region(gateways=2) as here:
        grant = await here.gateway.granted()
        settlement = Settlement(grant.job, 1, "cancelled")
        assert await refusal(here.gateways[1], settlement) is FORBIDDEN
        worker = here.workers[0].node
        await worker.network.connect(here.leader.address)
        assert await refusal(Gateway(worker, here.leader.peer), settlement) is FORBIDDEN
        assert (await row_of(here, grant)).state == "running"


@pytest.mark.parametrize(
    "settlement",
    [
        Settlement(b"short", 1, "done"),
        Settlement(b"j" * 32, 0, "done"),
        Settlement(b"j" * 32, 1 << 62, "done"),
        Settlement(b"j" * 32, 1, "done", first_token_s=float("inf")),
        Settlement(b"j" * 32, 1, "done", cause="c" * 300),
        Settlement(b"j" * 32, 1, "done", (SignedReceipt(b"", b""),) * 17),
    ],
)
async def test_a_settlement_out_of_bounds_is_refused(settlement: Settlement) -> None:
    async with region() as here:
        assert await refusal(here.gateway, settlement) is OUT_OF_RANGE
        assert await refusal(here.gateway, replace(settlement, end="odd")) is FRAME_INVALID
        assert await here.store.recent() == []


async def test_a_lower_attempt_does_not_end_what_a_higher_one_goes_on_with() -> None:
    async with region() as here:
        first = await here.gateway.granted()
        await here.gateway.granted(last_attempt=1, exclude=(first.worker,))
        await here.gateway.settle(first, "failed")
        assert (await row_of(here, first)).state == "running"


# ── Jobs whose leader died ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_end_of_a_job_that_a_dead_leader_placed_is_kept_with_what_its_receipts_prove() -> None:
    async with region() as here:
        me, worker = here.gateway.node.person, here.workers[0]
        grant = Grant(
            job=job_id("local", "elsewhere"), attempt=2, grant_id=b"g" * 16, tenant="local", gateway=me.peer,
            worker=worker.peer, worker_incarnation=7, manifest_digest="d" * 64, request_mac=b"m" * 32,
            max_prompt_tokens=64, max_tokens=32, not_after=NOW,
        )  # fmt: skip
        receipt = worker.receipt(me, grant, first=3, position=9)
        for _ in range(2):
            await here.gateway.settle(grant, "done", receipt)
        row = await row_of(here, grant)
        assert (row.state, row.attempt, row.prompt_tokens, row.tokens) == ("done", 2, 5, 9)
        assert [(one.attempt, one.worker, one.tokens) for one in row.attempts] == [(2, worker.peer, 6)]
        assert here.counts.ends == {"done": 1}
        with pytest.raises(TetherError) as caught:
            await here.gateway.place("elsewhere", last_attempt=2)
        assert caught.value.code is RESULT_GONE


async def test_who_is_no_worker_of_the_swarm_proves_nothing() -> None:
    async with region(workers=1) as here:
        me, stranger = here.gateway.node.person, person("stranger", roles=("gateway",))
        worker = here.workers[0]
        grant = await here.gateway.granted()
        worker.node.person = stranger
        receipt = worker.receipt(me, replace(grant, job=job_id("local", "other")), position=9)
        await here.gateway.settle(replace(grant, job=job_id("local", "other")), "done", receipt)
        row = await here.store.get(job_id("local", "other"))
        assert row is not None
        assert (row.state, row.tokens) == ("done", 0)


# ── Leases ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_worker_of_the_current_attempt_renews_its_lease(autojump_clock: MockClock) -> None:
    async with region() as here:
        grant = await here.gateway.granted()
        before = (await row_of(here, grant)).lease_until
        await trio.sleep(10.0)
        await lender(here, grant).renew(grant)
        assert (await row_of(here, grant)).lease_until == pytest.approx(before + 10.0, abs=0.1)


async def test_nobody_else_renews_it() -> None:
    async with region() as here:
        first = await here.gateway.granted()
        second = await here.gateway.granted(last_attempt=1, exclude=(first.worker,))
        for asker, renewal, code in (
            (here.gateway, second, FORBIDDEN),
            (lender(here, first), first, ATTEMPT_STALE),
            (lender(here, second), first, ATTEMPT_STALE),
            (lender(here, second), replace(second, job=b"j" * 32), FORBIDDEN),
        ):
            with pytest.raises(TetherError) as caught:
                await asker.renew(renewal)
            assert caught.value.code is code


def lender(here: Region, grant: Grant) -> Gateway:
    """The grant's worker, as somebody who calls the leader."""
    return Gateway(here.worker(grant.worker).node, here.leader.peer)


# ── The sweep ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_that_nobody_ends_is_a_dead_letter_by_its_deadline_and_two_leases(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        grant = await here.gateway.granted(deadline_s=20.0)
        await trio.sleep(20.0 - 2 * SWEEP_S)
        assert (await row_of(here, grant)).state == "running"
        await trio.sleep(2 * SWEEP_S + 2 * LEASE_S)
        assert (await row_of(here, grant)).state == "dead_lettered"
        assert here.counts.dead == 1


# ── What tools see ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_jobs_and_why_have_the_shape_that_tools_rely_on() -> None:
    async with region() as here:
        first = await here.gateway.granted()
        second = await here.gateway.granted(last_attempt=1, exclude=(first.worker,), cause="CALL_LOST")
        receipt = here.worker(second.worker).receipt(here.gateway.node.person, second, first=4, position=9)
        await here.gateway.settle(second, "done", receipt)
        [told] = await here.orchestrator.jobs(10)
        assert told == await here.orchestrator.why(first.job.hex())
        assert told.keys() >= {"job", "tenant", "model", "state", "attempts", "cause", "advice"}
        assert [attempt.keys() for attempt in told["attempts"]] == [
            {"worker", "region", "start", "firstToken", "tokens", "end", "cause"}
        ] * 2
        assert (told["job"], told["tenant"], told["model"], told["state"]) == (
            first.job.hex(),
            "local",
            "tiny",
            "done",
        )
        assert "CALL_LOST" in told["advice"]


async def test_a_success_closes_the_breaker_of_its_worker() -> None:
    async with region(workers=1) as here:
        worker, breakers = here.workers[0], here.orchestrator._placements._workforce._breakers
        breakers.failed(worker.peer, "tiny", 0.0)
        grant = await here.gateway.granted()
        await here.gateway.settle(grant)
        assert breakers._breakers == {}
