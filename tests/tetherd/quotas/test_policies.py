"""What a policy allows: pure rules by table and property, and the orchestrator that keeps to them."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock

from p2p.errors import (
    CONFIG_INVALID,
    FORBIDDEN,
    MODEL_NOT_FOUND,
    NO_WORKER,
    OUT_OF_RANGE,
    TENANT_FORBIDDEN,
    Code,
    TetherError,
)
from p2p.visible import VISIBLE, VisibleRequest
from tests.tetherd.orchestrator.region import region
from tetherd.data_dir import DataDir
from tetherd.gateway.answer import ModelSummary
from tetherd.gateway.catalogue import FRESH_S, Catalogue
from tetherd.orchestrator.quotas import Quotas
from tetherd.quotas.limits import Price
from tetherd.quotas.policies import Policy, changed_policy, check_policy, rule_of
from tetherd.store import MemoryStore, SqliteDatabase, SqlStore
from tetherd.tenants.desk import MemoryKeeper, TenantDesk
from tetherd.tenants.register import Register, Tenant

NAMES = st.lists(st.sampled_from(["acme", "beta", "local"]), max_size=3).map(tuple)
POLICIES = st.builds(
    Policy,
    st.just("tiny"),
    st.just(""),
    allow_tenants=NAMES,
    deny_tenants=NAMES,
    max_tokens=st.none() | st.integers(1, 100),
    prompt_price=st.none() | st.integers(0, 100),
)


def rule(**said: Any) -> Any:
    return rule_of({("tiny", ""): Policy("tiny", **said)}, "tiny", "acme")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({}, None),
        ({"allow_tenants": ("acme",)}, None),
        ({"allow_tenants": ("beta",)}, MODEL_NOT_FOUND),
        ({"deny_tenants": ("beta",)}, None),
        ({"deny_tenants": ("acme",)}, MODEL_NOT_FOUND),
        ({"allow_tenants": ("acme",), "deny_tenants": ("acme",)}, MODEL_NOT_FOUND),
        ({"regions": ("eu", "us")}, None),
        ({"regions": ("us",)}, TENANT_FORBIDDEN),
        ({"max_tokens": 32}, None),
        ({"max_tokens": 31}, OUT_OF_RANGE),
        ({"audit_consent": 1.0}, None),
    ],
)
def test_a_request_of_acme_in_eu_for_32_tokens(said: dict[str, Any], code: Code | None) -> None:
    if code is None:
        rule(**said).check("acme", "eu", 32)
    else:
        with pytest.raises(TetherError) as caught:
            rule(**said).check("acme", "eu", 32)
        assert caught.value.code is code


def test_what_is_said_for_one_tenant_narrows_what_is_said_for_all() -> None:
    policies = {
        ("tiny", ""): Policy("tiny", regions=("eu", "us"), workers=("a", "b"), max_tokens=64, prompt_price=5),
        ("tiny", "acme"): Policy("tiny", "acme", regions=("eu", "ap"), workers=("b",), max_tokens=100),
    }
    acme, beta = (rule_of(policies, "tiny", name) for name in ("acme", "beta"))
    assert (acme.workers, beta.workers) == (frozenset("b"), frozenset("ab"))
    acme.check("acme", "eu", 64)
    for region_, tokens in (("ap", 1), ("us", 1), ("eu", 65)):
        with pytest.raises(TetherError):
            acme.check("acme", region_, tokens)
    assert acme.price(Price(1, 2)) == Price(5, 2)
    assert rule_of(policies, "other", "acme").workers is None


@given(POLICIES, POLICIES)
def test_joins_of_policies_end_the_same_in_any_order(one: Policy, other: Policy) -> None:
    one, other = replace(one, changed=1.0), replace(other, changed=1.0)
    first = Register().joined(policies=[one, other, one])
    assert first == Register().joined(policies=[other]).joined(policies=[one])


@given(POLICIES, st.integers(1, 200))
def test_whoever_is_not_shown_a_model_may_not_use_it(policy: Policy, tokens: int) -> None:
    found = rule_of({("tiny", ""): policy}, "tiny", "acme")
    try:
        found.check("acme", "eu", tokens)
    except TetherError as error:
        assert (error.code is MODEL_NOT_FOUND) == (not found.allows("acme"))
    else:
        assert found.allows("acme")


def test_a_number_below_0_takes_its_word_back() -> None:
    policy = Policy("tiny", "acme", max_tokens=5, audit_consent=9.0)
    assert changed_policy(policy, {"max_tokens": -1, "audit_consent": -1.0}) == Policy("tiny", "acme")


@pytest.mark.parametrize(
    "policy",
    [
        Policy(""),
        Policy("tiny", max_tokens=0),
        Policy("tiny", prompt_price=-1),
        Policy("tiny", "acme", allow_tenants=("acme",)),
        Policy("tiny", audit_consent=1.0),
        Policy("tiny", regions=("",)),
        Policy("tiny", workers=("w",) * 257),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy: Policy) -> None:
    with pytest.raises(TetherError):
        check_policy(policy, shared=True)


def test_prices_ask_for_postgresql() -> None:
    with pytest.raises(TetherError) as caught:
        check_policy(Policy("tiny", prompt_price=1), shared=False)
    assert caught.value.code is CONFIG_INVALID
    check_policy(Policy("tiny", prompt_price=1), shared=True)


# ── Kept, and kept to ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("driver", ["memory", "sqlite", "postgresql"])
async def test_policies_are_kept_with_the_register(
    driver: str, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    from tetherd.store import open_postgres

    store: Any = MemoryStore()
    if driver == "sqlite":
        store = SqlStore(SqliteDatabase(tmp_path / "ledger.db"))
    elif driver == "postgresql":
        store = SqlStore(await open_postgres(request.getfixturevalue("postgres").new_database(), size=2))
    try:
        desk, other = (TenantDesk(MemoryKeeper(), now=lambda: 5.0) for _ in range(2))
        for one in (desk, other):
            one.shared = True
            await one.move_into(store.register)
        await desk.create_tenant("acme", "")
        await desk.set_policy("tiny", "", {"deny_tenants": ("acme",), "prompt_price": 1 << 40})
        await desk.set_policy("tiny", "acme", {"max_tokens": 9})
        await other.refresh()
        assert other.register == desk.register
        assert [one["maxTokens"] for one in other.policies()] == [None, 9]
        await other.set_policy("tiny", "acme", {})
        await desk.refresh()
        assert [one["tenant"] for one in desk.policies()] == [""]
    finally:
        await store.close()


async def test_a_register_of_an_earlier_version_is_read(tmp_path: Any) -> None:
    data = DataDir(tmp_path)
    desk = TenantDesk(data, now=lambda: 5.0)
    await desk.create_tenant("acme", "")
    await desk.set_policy("tiny", "", {"max_tokens": 9})
    again = TenantDesk(data, now=lambda: 5.0)
    assert again.register == desk.register and isinstance(again.register.tenants["acme"], Tenant)


async def test_the_orchestrator_keeps_to_a_policy_before_it_claims_anything() -> None:
    async with region() as there:
        await there.lend_key(there.gateway, "acme")
        await there.gateway.place("before")
        model = there.gateway.wanted().model_id
        for changes, code in (
            ({"deny_tenants": ("acme",)}, MODEL_NOT_FOUND),
            ({"regions": ("us",)}, TENANT_FORBIDDEN),
            ({"max_tokens": 1}, OUT_OF_RANGE),
            ({"workers": ("12D3nobody",)}, NO_WORKER),
        ):
            await there.desk.set_policy(model, "", changes)
            with pytest.raises(TetherError) as caught:
                await there.gateway.place("refused")
            assert caught.value.code is code
            await there.desk.set_policy(model, "", {})
        assert [row.retry_token for row in await there.store.recent()] == ["before"]


async def test_a_gateway_is_told_what_a_tenant_is_not_shown() -> None:
    async with region() as there:
        await there.desk.create_tenant("acme", "")
        await there.desk.set_policy("tiny", "", {"allow_tenants": ("acme",)})
        await there.desk.set_policy("abroad", "", {"regions": ("us",)})
        ask = there.gateway.node.rpc.ask
        hidden = [
            (await ask(there.leader.peer, VISIBLE, VisibleRequest(name, names), timeout_s=3.0)).hidden
            for name in ("acme", "local")
            for names in [("abroad", "other", "tiny")]
        ]
        assert hidden == [("abroad",), ("abroad", "tiny")]
        worker = there.workers[0].node
        await worker.network.connect(there.leader.address)
        with pytest.raises(TetherError) as caught:
            await worker.rpc.ask(there.leader.peer, VISIBLE, VisibleRequest("acme", ()), timeout_s=3.0)
        assert caught.value.code is FORBIDDEN


async def test_a_catalogue_leaves_out_what_is_hidden_and_asks_again_after_a_while(
    autojump_clock: MockClock,
) -> None:
    async with region() as there:
        served = [ModelSummary(name, "1", "ab" * 32, 512, 1) for name in ("other", "tiny")]
        catalogue = Catalogue(there.gateway.node.rpc, cast(Any, there.swarm))

        async def shown() -> list[str]:
            return [model.name for model in await catalogue.of("local", served)]

        assert await shown() == ["other", "tiny"]
        await there.desk.set_policy("tiny", "", {"deny_tenants": ("local",)})
        assert await shown() == ["other", "tiny"]
        await trio.sleep(FRESH_S)
        assert await shown() == ["other"]
        there.swarm.ranked[:] = []
        await trio.sleep(FRESH_S)
        assert await shown() == ["other"]


async def test_a_job_goes_only_to_the_workers_that_its_policy_allows() -> None:
    async with region(workers=3, slots=20) as there:
        allowed = there.workers[1].node.peer
        await there.desk.set_policy(there.gateway.wanted().model_id, "", {"workers": (allowed,)})
        grants = [await there.gateway.granted(f"token-{number}") for number in range(6)]
        assert {grant.worker for grant in grants} == {allowed}


async def test_a_policys_price_is_held_and_wins_over_the_configurations() -> None:
    async with region(quotas=Quotas(prices={"tiny": Price(7, 7)})) as there:
        there.desk.shared = True
        await there.desk.set_policy(
            there.gateway.wanted().model_id, "", {"prompt_price": 3_000_000, "output_price": 0}
        )
        await there.gateway.granted("token")
        [row] = await there.store.recent()
        assert row.hold is not None
        assert (row.hold.prompt_price, row.hold.output_price) == (3_000_000, 0)
        assert row.hold.micros == 3 * row.max_prompt_tokens
