"""From receipts to usage: what is billed, what is disputed, and what anybody can check."""

from __future__ import annotations

import dataclasses
from base64 import b64encode

import httpx2
import msgspec
import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import FIELD_INVALID, FORBIDDEN, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import RECEIPT, Grant, SignedReceipt
from tests.tetherd.orchestrator.region import Gateway, Region, region
from tests.tetherd.test_admin import FakeOperator
from tests.topics.world import NOW, SWARM
from tetherd.admin import build_admin
from tetherd.store.protocol import UsageRow
from tetherd.usage.proof import Proof, Proofs, check_proofs, proof_of, read_proofs, signers
from tetherd.usage.report import Report
from tetherd.usage.routes import usage_routes

FINAL_S = 25.0


async def usage_of(there: Region) -> list[UsageRow]:
    """What is billed once nothing can change it."""
    await trio.sleep(FINAL_S)
    return [row async for row in there.orchestrator.usage(0.0, 1e11)]


async def report(there: Region, grant: Grant, *, first: int = 0, position: int) -> None:
    """The worker tells what its attempt came to."""
    worker = there.worker(grant.worker)
    signed = worker.receipt(there.gateway.node.person, grant, first=first, position=position)
    alone = SignedReceipt(signed.receipt, signed.worker_signature)
    await worker.node.rpc.ask(there.leader.peer, RECEIPT, alone, timeout_s=3.0)


async def finish(there: Region, gateway: Gateway, token: str, *, position: int) -> Grant:
    grant = await gateway.granted(token)
    signed = there.worker(grant.worker).receipt(gateway.node.person, grant, position=position)
    await gateway.settle(grant, "done", signed)
    return grant


async def test_a_finished_job_is_one_row(autojump_clock: MockClock) -> None:
    async with region() as there:
        await there.lend_key(there.gateway, "acme")
        grant = await finish(there, there.gateway, "token", position=9)
        (row,) = await usage_of(there)
        assert (row.job, row.tenant, row.state) == (grant.job, "acme", "done")
        assert (row.prompt_tokens, row.tokens, row.disputed) == (5, 9, False)


async def test_a_gateway_that_claims_a_stall_gets_nothing_for_free(autojump_clock: MockClock) -> None:
    async with region() as there:
        first = await there.gateway.granted()
        again = await there.gateway.granted(last_attempt=1, exclude=(first.worker,), cause="WORKER_LOST")
        await report(there, first, position=30)
        signed = there.worker(again.worker).receipt(there.gateway.node.person, again, first=2, position=4)
        await there.gateway.settle(again, "done", signed)
        (row,) = await usage_of(there)
        assert (row.tokens, row.disputed, row.attempts) == (30, True, 2)


async def test_a_late_word_of_a_lower_attempt_counts_within_a_lease(autojump_clock: MockClock) -> None:
    async with region() as there:
        first = await there.gateway.granted()
        again = await there.gateway.granted(last_attempt=1, exclude=(first.worker,), cause="WORKER_LOST")
        signed = there.worker(again.worker).receipt(there.gateway.node.person, again, first=2, position=4)
        await there.gateway.settle(again, "done", signed)
        await trio.sleep(10.0)
        await report(there, first, position=20)
        await trio.sleep(10.0)
        await report(there, first, position=32)
        (row,) = await usage_of(there)
        assert row.tokens == 20


async def test_a_client_that_leaves_pays_for_what_its_worker_made(autojump_clock: MockClock) -> None:
    async with region() as there:
        grant = await there.gateway.granted()
        await there.gateway.settle(grant, "cancelled")
        await report(there, grant, position=12)
        (row,) = await usage_of(there)
        assert (row.state, row.tokens, row.disputed) == ("cancelled", 12, True)


async def test_a_gateway_that_died_leaves_a_bill_and_no_reservation(autojump_clock: MockClock) -> None:
    async with region() as there:
        await there.lend_key(there.gateway, "acme")
        await there.desk.limit_tenant("acme", {"concurrency": 1, "tokens_per_minute": 10_000})
        grant = await there.gateway.granted()
        await report(there, grant, position=12)
        await trio.sleep(FINAL_S)
        (account,) = await there.store.accounts(["tenant:acme"])
        assert (account.running, account.reserved_tokens, account.settled_tokens) == (0, 0, 17)


async def test_a_worker_reports_its_own_attempts_within_their_grants(autojump_clock: MockClock) -> None:
    async with region() as there:
        grant = await there.gateway.granted()
        with pytest.raises(TetherError):
            await report(there, grant, position=grant.max_tokens + 1)
        other = next(worker for worker in there.workers if worker.peer != grant.worker)
        forged = other.receipt(there.gateway.node.person, grant, position=3)
        await other.node.network.connect(there.leader.address)
        with pytest.raises(TetherError) as refused:
            await other.node.rpc.ask(
                there.leader.peer,
                RECEIPT,
                SignedReceipt(forged.receipt, forged.worker_signature),
                timeout_s=3.0,
            )
        assert refused.value.code is FORBIDDEN


async def test_usage_is_grouped_and_proven_over_the_admin_socket(autojump_clock: MockClock) -> None:
    async with region(gateways=2) as there:
        for number in range(3):
            await finish(there, there.gateways[number % 2], f"token-{number}", position=4)
        await usage_of(there)
        admin = build_admin(FakeOperator(), [usage_routes(there.orchestrator, SWARM)])
        transport = httpx2.ASGITransport(app=admin)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            grouped = (await client.get("/usage/", params={"by": "tenant,model"})).json()
            assert [(one["tenant"], one["requests"], one["tokens"]) for one in grouped] == [("local", 3, 12)]
            assert (await client.get("/usage/", params={"since": str(NOW + 1e6)})).json() == []
            refused = await client.get("/usage/", params={"by": "shoe"})
            assert refused.json()["error"]["code"] == "FIELD_INVALID"
            proofs = read_proofs((await client.get("/usage/receipts")).content)
        assert len(proofs.jobs) == 3
        assert check_proofs(proofs, SWARM) == []


async def proofs_of(there: Region) -> Proofs:
    await finish(there, there.gateway, "token", position=4)
    rows = await usage_of(there)
    known = {
        str(peer): b64encode(credential).decode()
        for peer, credential in there.orchestrator.credentials(signers(rows)).items()
    }
    return Proofs(SWARM, known, tuple(map(proof_of, rows)))


def why(proofs: Proofs, **changes: object) -> str:
    (job,) = proofs.jobs
    (finding,) = check_proofs(replace(proofs, jobs=(replace(job, **changes),)), SWARM)
    return finding.why


async def test_a_changed_bill_a_foreign_signer_and_another_swarm_are_found_out(
    autojump_clock: MockClock,
) -> None:
    async with region() as there:
        proofs = await proofs_of(there)
    assert check_proofs(proofs, SWARM) == []
    assert "prove 5 and 4" in why(proofs, tokens=3)
    assert "another job" in why(proofs, job="00" * 32)
    assert "not signed by its gateway" in why(proofs, gateway=there.workers[0].peer)
    assert "prove 0 and 0" in why(proofs, receipts=())
    assert check_proofs(replace(proofs, credentials={}), SWARM)[0].why.startswith("The credential of")
    assert len(check_proofs(proofs, SwarmId("another"))) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"swarm": 1}', b"\xff"])
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(TetherError) as refused:
        read_proofs(data)
    assert refused.value.code is FIELD_INVALID


def test_a_report_is_in_order_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherd.usage.report.MAX_GROUPS", 2)
    row = UsageRow(
        b"j" * 32, 86_400.0, 0.0, "a", "", "m", "eu", PeerId("12D3gateway"), "done", 1, 2, 3, 1_500_000, True
    )
    found = Report(["tenant", "day"])
    for tenant in ("b", "a", "a"):
        found.add(dataclasses.replace(row, tenant=tenant))
    day = {"day": "1970-01-02"}
    assert found.shape() == [
        {"tenant": "a", **day, "requests": 2, "promptTokens": 4, "tokens": 6, "cost": "3.00", "disputed": 2},
        {"tenant": "b", **day, "requests": 1, "promptTokens": 2, "tokens": 3, "cost": "1.50", "disputed": 1},
    ]  # fmt: skip
    with pytest.raises(TetherError):
        found.add(dataclasses.replace(row, tenant="c"))


def test_a_proof_names_what_a_bill_stands_on() -> None:
    assert {"job", "receipts", "promptTokens"} <= set(
        msgspec.to_builtins(Proof("", 0, "", "", "", 0, 0, False, ()))
    )
