"""Both families: how addresses are written, which are told, and in which order they are dialled."""

from __future__ import annotations

import ipaddress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FIELD_INVALID, TetherError
from p2p.host.addresses import IpAddress, TcpAddress, announced, dialable, interleaved, parse
from p2p.host.interfaces import own_ips
from p2p.host.sockets import everywhere, listen
from p2p.transport import PeerAddress
from tests.p2p.hosts import address, open_node
from tests.swarms import make_swarm

SIX = any(ip.version == 6 for ip in own_ips())
needs_ipv6 = pytest.mark.skipif(not SIX, reason="This machine has no IPv6, not even on loopback.")


def ips(*texts: str) -> tuple[IpAddress, ...]:
    return tuple(map(ipaddress.ip_address, texts))


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_every_address_is_written_in_one_way(ip: IpAddress, port: int) -> None:
    text = f"/ip{ip.version}/{ip.exploded}/tcp/{port}"
    try:
        read = parse(text)
    except TetherError:
        assert isinstance(ip, ipaddress.IPv6Address) and (ip.is_link_local or ip.ipv4_mapped)
    else:
        assert str(read) == f"/ip{ip.version}/{ip}/tcp/{port}"


@pytest.mark.parametrize("host", ["fe80::1", "fe80::1%eth0", "::ffff:192.0.2.1", "2a00::1%eth0"])
def test_what_means_nothing_to_others_is_refused_by_name(host: str) -> None:
    with pytest.raises(TetherError) as error:
        parse(f"/ip6/{host}/tcp/1")
    assert error.value.code is FIELD_INVALID and host in error.value.detail
    assert dialable([f"/ip6/{host}/tcp/1"]) == []


def test_a_link_local_address_is_called_that() -> None:
    with pytest.raises(TetherError, match="link-local"):
        parse("/ip6/fe80::1/tcp/1")


def test_wildcards_stand_for_their_family_and_loopback_is_told_only_where_there_is_nothing_else() -> None:
    both = [parse("/ip4/0.0.0.0/tcp/1"), parse("/ip6/::/tcp/2")]
    assert announced(both, ips("127.0.0.1", "::1", "10.0.0.1", "2a00::1")) == (
        "/ip4/10.0.0.1/tcp/1",
        "/ip6/2a00::1/tcp/2",
    )
    assert announced(both, ips("127.0.0.1", "::1", "10.0.0.1")) == ("/ip4/10.0.0.1/tcp/1",)
    assert announced(both, ips("127.0.0.1", "::1")) == ("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2")


def test_what_is_known_to_be_out_of_reach_is_not_told() -> None:
    both = [parse("/ip4/0.0.0.0/tcp/1"), parse("/ip6/::/tcp/2")]
    here = ips("127.0.0.1", "11.0.0.1", "2a00::1")
    refuted = [TcpAddress("ip4", "11.0.0.1", 1)]
    assert announced(both, here, refuted=refuted) == ("/ip6/2a00::1/tcp/2",)
    assert announced(both[:1], here, refuted=refuted) == ()


def test_families_take_turns_in_a_dial_and_relays_come_last() -> None:
    four = [f"/ip4/11.0.0.{number}/tcp/1" for number in range(3)]
    six = [f"/ip6/2a00::{number}/tcp/1" for number in range(1, 3)]
    relayed = "/ip4/11.0.0.9/tcp/1/p2p/x/p2p-circuit"
    assert interleaved([*six, relayed, *four]) == [six[0], four[0], six[1], four[1], four[2], relayed]


@given(
    st.lists(st.sampled_from(["/ip4/a/tcp/1", "/ip4/b/tcp/1", "/ip6/c/tcp/1", "/dns/d/tcp/1"]), unique=True)
)
def test_no_address_is_lost_by_taking_turns_and_each_family_keeps_its_order(texts: list[str]) -> None:
    turned = interleaved(texts)
    assert sorted(turned) == sorted(texts)
    for family in ("/ip4", "/ip6", "/dns"):
        assert [one for one in turned if one.startswith(family)] == [
            one for one in texts if one.startswith(family)
        ]


async def test_both_families_can_have_one_port() -> None:
    [chosen] = await listen(["/ip4/0.0.0.0/tcp/0"])
    port = chosen.address.port
    await chosen.listener.aclose()
    bound = await listen(everywhere(port))
    assert {one.address.port for one in bound} == {port}
    assert len(bound) == len(everywhere(port))
    for one in bound:
        await one.listener.aclose()


@needs_ipv6
async def test_nodes_meet_over_ipv6_and_a_dead_family_does_not_keep_them_apart() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0, listen="/ip6/::1/tcp/0") as alice, open_node(swarm, 1) as bob:
        here = address(alice)
        assert here.addresses[0].startswith("/ip6/::1/tcp/")
        await bob.connect(PeerAddress(here.peer, ("/ip4/127.0.0.1/tcp/9", *here.addresses)))
        remote = bob.paths()[alice.peer_id].remote
        assert remote is not None and str(remote) == here.addresses[0]


async def test_an_address_at_which_somebody_listens_and_says_nothing_does_not_use_up_the_dial() -> None:
    swarm = make_swarm(2)
    async with open_node(swarm, 0) as alice, open_node(swarm, 1) as bob:
        [silent] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = silent.socket.getsockname()[1]
        await bob.connect(PeerAddress(alice.peer_id, (*alice.addresses(), f"/ip4/127.0.0.1/tcp/{port}")))
        await bob.disconnect(alice.peer_id)
        bob._switch.book.worked(alice.peer_id, f"/ip4/127.0.0.1/tcp/{port}")
        await bob.connect(PeerAddress(alice.peer_id))
        assert bob.paths()[alice.peer_id].remote == parse(alice.addresses()[0])
        await silent.aclose()
