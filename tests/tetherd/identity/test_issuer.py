"""An issuer's keys: fetched once, again when they rotate, kept while it is away, and never fetched too often."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from p2p.errors import ISSUER_UNAVAILABLE, UNAUTHENTICATED, TetherError
from tests.tetherd.identity.signer import NOW, TRUST, Signer, serving
from tetherd.identity.issuer import FETCH_S, FRESH_S, PAUSE_S, STALE_S, Issuer
from tetherd.identity.tokens import Trust


def pair(kid: str = "one") -> tuple[Signer, Issuer]:
    signer = Signer()
    signer.rotate(kid)
    return signer, Issuer(TRUST, now=lambda: NOW, fetch=signer.fetch)


async def code_of(issuer: Issuer, token: str) -> str:
    with pytest.raises(TetherError) as caught:
        await issuer.check(token)
    return caught.value.code.name


async def test_keys_are_fetched_once_for_many_who_ask_at_once(autojump_clock: MockClock) -> None:
    signer, issuer = pair()
    token = signer.token()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(issuer.check, token)
    assert len(signer.asked) == 2


async def test_a_new_key_is_known_at_once_and_the_old_one_no_longer(autojump_clock: MockClock) -> None:
    signer, issuer = pair()
    old = signer.token()
    await issuer.check(old)
    await trio.sleep(PAUSE_S)
    signer.rotate("two")
    assert (await issuer.check(signer.token())).tenant == "acme"
    assert await code_of(issuer, old) == UNAUTHENTICATED.name


async def test_made_up_key_ids_do_not_make_a_node_pester_the_issuer(autojump_clock: MockClock) -> None:
    signer, issuer = pair()
    await issuer.check(signer.token())
    stranger = Signer()
    for number in range(50):
        stranger.rotate(f"made up {number}")
        assert await code_of(issuer, stranger.token()) == UNAUTHENTICATED.name
    assert len(signer.asked) == 2


async def test_an_issuer_that_hangs_is_given_up_and_its_last_keys_serve_for_an_hour(
    autojump_clock: MockClock,
) -> None:
    signer = Signer()
    signer.rotate("one")
    hangs = False

    async def fetch(url: str) -> bytes:
        if hangs:
            await trio.sleep_forever()
        return await signer.fetch(url)

    issuer = Issuer(TRUST, now=lambda: NOW, fetch=fetch)
    await issuer.check(signer.token())
    hangs = True
    await trio.sleep(FRESH_S)
    began = trio.current_time()
    await issuer.check(signer.token())
    assert trio.current_time() - began == pytest.approx(FETCH_S)
    await issuer.check(signer.token())
    assert trio.current_time() - began == pytest.approx(FETCH_S)
    await trio.sleep(STALE_S)
    assert await code_of(issuer, signer.token()) == ISSUER_UNAVAILABLE.name


async def test_a_client_that_leaves_while_keys_are_fetched_does_not_cost_the_others(
    autojump_clock: MockClock,
) -> None:
    signer, issuer = pair()
    with trio.CancelScope() as leaving:
        leaving.cancel()
        await issuer.check(signer.token())
    assert (await issuer.check(signer.token())).tenant == "acme"


async def test_over_http_a_token_of_a_real_issuer_is_good() -> None:
    async with serving(Signer()) as signer:
        signer.rotate("one", "RS256")
        issuer = Issuer(Trust(signer.issuer, "tether"), now=lambda: NOW)
        assert (await issuer.check(signer.token())).scopes is None
        assert signer.asked == ["/.well-known/openid-configuration", "/keys"]


@pytest.mark.parametrize("change", [{"status": 500}, {"padding": 300_000}, {"redirects": True}])
async def test_over_http_an_issuer_that_fails_is_said_to_be_away(change: dict[str, int]) -> None:
    async with serving(Signer()) as signer:
        signer.rotate("one")
        for name, value in change.items():
            setattr(signer, name, value)
        issuer = Issuer(Trust(signer.issuer, "tether"), now=lambda: NOW)
        assert await code_of(issuer, signer.token()) == ISSUER_UNAVAILABLE.name
        assert len(signer.asked) <= 2


async def test_an_issuer_that_calls_itself_otherwise_or_shows_keys_in_clear_is_not_believed() -> None:
    for named in ("https://other.example", "http://login.example.com"):
        signer = Signer(issuer=named)
        signer.rotate("one")
        trust = TRUST if named.startswith("https") else Trust(named, "tether")
        assert await code_of(Issuer(trust, now=lambda: NOW, fetch=signer.fetch), signer.token()) == (
            ISSUER_UNAVAILABLE.name
        )
