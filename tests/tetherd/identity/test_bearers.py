"""A token from the client's request to the orchestrator's decision."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from p2p.errors import OUT_OF_RANGE, TENANT_FORBIDDEN, UNAUTHENTICATED, TetherError
from p2p.identity import PeerId
from p2p.job_id import job_id
from p2p.messages import PlacementRequest
from tests.tetherd.gateway.region import QUESTION
from tests.tetherd.gateway.region import region as gateways
from tests.tetherd.identity.signer import NOW, TRUST, Signer
from tests.tetherd.orchestrator.region import region as orchestrators
from tetherd.http.requests import parse_chat
from tetherd.identity.issuer import Issuer
from tetherd.identity.tokens import OIDC, TokenProof
from tetherd.orchestrator.requests import check_placement_request
from tetherd.tenants.desk import MemoryKeeper, TenantDesk

BODY = b'{"model": "tiny", "messages": [{"role": "user", "content": "Hello?"}]}'


def signer_and_issuer() -> tuple[Signer, Issuer]:
    signer = Signer()
    signer.rotate("one")
    return signer, Issuer(TRUST, now=lambda: NOW, fetch=signer.fetch)


def wanted(request: PlacementRequest, tenant: str, token: str) -> PlacementRequest:
    named = replace(request, tenant_id=tenant, job=job_id(tenant, request.retry_token))
    return TokenProof(token).sign(named, PeerId("any"))


async def test_an_orchestrator_believes_the_token_and_not_the_gateway() -> None:
    signer, issuer = signer_and_issuer()
    async with orchestrators() as here:
        request, gateway = here.gateway.wanted(), here.gateway.node.peer
        desk = TenantDesk(MemoryKeeper(), now=lambda: NOW, tokens=issuer)
        await desk.create_tenant("acme", "")
        await desk.create_tenant("beta", "")
        await desk.admit(wanted(request, "acme", signer.token()), gateway)
        for tenant, token, code in [
            ("beta", signer.token(), UNAUTHENTICATED),
            ("acme", signer.token(exp=NOW - 1_000), UNAUTHENTICATED),
            ("acme", "", UNAUTHENTICATED),
            ("gone", signer.token(tenant="gone"), TENANT_FORBIDDEN),
            ("acme", signer.token(scope="model:other"), TENANT_FORBIDDEN),
        ]:
            with pytest.raises(TetherError) as caught:
                await desk.admit(wanted(request, tenant, token), gateway)
            assert caught.value.code is code
        await desk.set_disabled("acme", True)
        with pytest.raises(TetherError) as caught:
            await desk.admit(wanted(request, "acme", signer.token()), gateway)
        assert caught.value.code is TENANT_FORBIDDEN


async def test_an_orchestrator_without_an_issuer_takes_no_token() -> None:
    signer, _ = signer_and_issuer()
    async with orchestrators() as here:
        with pytest.raises(TetherError) as caught:
            await here.desk.admit(
                wanted(here.gateway.wanted(), "acme", signer.token()), here.gateway.node.peer
            )
        assert caught.value.code is UNAUTHENTICATED


async def test_a_token_beyond_its_size_is_refused_by_the_bounds() -> None:
    async with orchestrators() as here:
        request = here.gateway.wanted()
        check_placement_request(replace(request, key_id=OIDC, proof=b"x" * 8_192))
        for bad in (
            replace(request, key_id=OIDC, proof=b"x" * 8_193),
            replace(request, key_id="0" * 12, proof=b"x" * 900),
        ):
            with pytest.raises(TetherError) as caught:
                check_placement_request(bad)
            assert caught.value.code is OUT_OF_RANGE


def test_a_bearer_that_looks_like_a_token_is_taken_for_one() -> None:
    signer, _ = signer_and_issuer()
    token = signer.token()
    parsed = parse_chat(BODY, {"authorization": f"Bearer {token}"})
    assert parsed.submissions[0].key == TokenProof(token)
    assert token not in repr(parsed)
    assert parse_chat(BODY, {"authorization": "Bearer sk-any"}).submissions[0].key is None


async def test_a_gateway_sends_a_good_token_on_and_refuses_a_bad_one_at_once() -> None:
    signer, issuer = signer_and_issuer()
    async with gateways(tokens=issuer) as here:
        good = dataclasses.replace(QUESTION, key=TokenProof(signer.token()))
        await here.answer(good)
        placed = here.leader.asked[-1]
        assert (placed.tenant_id, placed.key_id) == ("acme", OIDC)
        for bad in (dataclasses.replace(good, key=TokenProof(signer.token(exp=1))), QUESTION):
            with pytest.raises(TetherError) as caught:
                await here.answer(bad)
            assert caught.value.code is UNAUTHENTICATED
        assert here.leader.asked[-1] is placed
