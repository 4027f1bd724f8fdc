"""Keys, proofs and registers: who is let in, and that copies agree however they meet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from p2p.errors import FORBIDDEN, TENANT_FORBIDDEN, UNAUTHENTICATED, Code, TetherError
from p2p.identity import PeerId
from p2p.messages import PlacementRequest
from tetherd.tenants.keys import hash_of, make_key, read_key
from tetherd.tenants.register import ApiKey, Register, Tenant

NOW = 1_000.0
GATEWAY, OTHER = PeerId("12D3gateway"), PeerId("12D3other")
KEY, KEY_ID = make_key("acme", bytes(range(38)))
ACME = Tenant("acme", "Acme", NOW, NOW)
ACME_KEY = ApiKey(KEY_ID, "acme", hash_of(KEY), NOW, NOW)
PLAIN = PlacementRequest(b"j" * 32, "acme", "tiny", "1", 64, 32, b"m" * 32, "token", 60.0)
SIGNED = read_key(KEY).sign(PLAIN, GATEWAY)


def register(*, disabled: bool = False, **changes: Any) -> Register:
    return Register().joined([replace(ACME, disabled=disabled)], [replace(ACME_KEY, **changes)])


def refusal(there: Register, request: PlacementRequest, gateway: PeerId = GATEWAY) -> Code:
    with pytest.raises(TetherError) as caught:
        there.check(request, gateway, NOW)
    return caught.value.code


def test_a_key_names_its_tenant_and_never_shows_itself() -> None:
    proof = read_key(KEY)
    assert (proof.tenant, proof.key_id, proof.key_hash) == ("acme", KEY_ID, hash_of(KEY))
    assert KEY[-43:] not in repr(proof)
    assert proof.secret != proof.key_hash


@pytest.mark.parametrize("text", ["tether_", KEY[:-1], KEY + "x", KEY.replace("acme", "Acme"), KEY + "\n"])
def test_what_is_no_whole_key_is_refused(text: str) -> None:
    with pytest.raises(TetherError) as caught:
        read_key(text)
    assert caught.value.code is UNAUTHENTICATED


def test_the_proof_of_a_key_lets_its_tenant_in() -> None:
    assert register().check(SIGNED, GATEWAY, NOW) == ACME_KEY


@pytest.mark.parametrize(
    "forged",
    [
        PLAIN,
        replace(PLAIN, tenant_id="local"),
        replace(SIGNED, proof=b"p" * 32),
        replace(SIGNED, key_id="0" * 12),
        replace(SIGNED, tenant_id="other"),
        replace(SIGNED, model_id="larger"),
        replace(SIGNED, max_tokens=33),
    ],
)
def test_a_request_without_its_own_proof_is_refused(forged: PlacementRequest) -> None:
    assert refusal(register(), forged) is UNAUTHENTICATED


def test_a_proof_is_worth_nothing_to_another_gateway() -> None:
    assert refusal(register(), SIGNED, OTHER) is UNAUTHENTICATED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"revoked": NOW}, UNAUTHENTICATED),
        ({"expires": NOW}, UNAUTHENTICATED),
        ({"scopes": ("model:larger",)}, TENANT_FORBIDDEN),
        ({"disabled": True}, TENANT_FORBIDDEN),
    ],
)
def test_a_key_that_is_over_or_not_for_this_is_refused(changes: dict[str, Any], code: Code) -> None:
    assert refusal(register(**changes), SIGNED) is code


@pytest.mark.parametrize(
    "changes", [{"expires": NOW + 1}, {"scopes": ("infer",)}, {"scopes": ("model:tiny",)}]
)
def test_a_key_within_its_scopes_and_dates_is_good(changes: dict[str, Any]) -> None:
    assert register(**changes).check(SIGNED, GATEWAY, NOW) is not None


def test_without_tenants_the_local_one_needs_no_key_and_nobody_else_gets_in() -> None:
    assert Register().check(replace(PLAIN, tenant_id="local"), GATEWAY, NOW) is None
    assert refusal(Register(), PLAIN) is UNAUTHENTICATED
    assert refusal(Register(), SIGNED) is UNAUTHENTICATED


@pytest.mark.parametrize("name", ["local", "Acme", "", "a_b", "a" * 33])
def test_another_candidate_cannot_bring_in_a_tenant_that_cannot_be(name: str) -> None:
    with pytest.raises(TetherError) as caught:
        Register().joined([replace(ACME, tenant=name)])
    assert caught.value.code is FORBIDDEN


def test_a_keys_id_cannot_be_taken_over() -> None:
    with pytest.raises(TetherError) as caught:
        register().joined(keys=[replace(ACME_KEY, hash=b"h" * 32, changed=NOW + 1)])
    assert caught.value.code is FORBIDDEN


times = st.floats(0, 100)
tenants = st.builds(replace, st.just(ACME), changed=times, disabled=st.booleans())
keys = st.builds(
    replace,
    st.just(ACME_KEY),
    changed=times,
    expires=st.none() | times,
    revoked=st.none() | times,
    last_used=st.none() | times,
)


@given(st.lists(tenants, min_size=1, max_size=4), st.lists(keys, min_size=1, max_size=6), st.randoms())
def test_registers_agree_whatever_the_order_and_what_is_revoked_stays_so(
    some_tenants: list[Tenant], some_keys: list[ApiKey], random: Any
) -> None:
    one = Register().joined(some_tenants, some_keys)
    other = Register()
    shuffled = [*some_keys, *some_keys]
    random.shuffle(shuffled)
    for key in shuffled:
        other = other.joined(reversed(some_tenants), [key])
    assert one == other
    assert one.digest() == other.digest()
    assert Register.of(one.records()) == one
    if any(key.revoked is not None for key in some_keys):
        assert one.keys[KEY_ID].revoked is not None
