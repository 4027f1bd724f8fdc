"""What hole punching does without routers: its message, its patience, and peers that break its rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FRAME_INVALID, TetherError
from p2p.host.addresses import TcpAddress
from p2p.host.framing import Frames, framed
from p2p.host.punch.tries import GIVEN_UP_S, MAX_PEERS, TRIES, Tries
from p2p.host.punch.wire import CONNECT, DCUTR, MAX_BYTES, MAX_TARGETS, SYNC, Punch, read, write
from p2p.identity import PeerId
from tests.p2p.hosts import echo
from tests.p2p.relay.people import behind, open_hidden, open_relay
from tests.swarms import make_swarm

A, B = PeerId("A"), PeerId("B")
PUBLIC = TcpAddress("ip4", "11.0.0.1", 7576)

public = st.builds(
    lambda number, port: TcpAddress("ip4", f"11.0.0.{number}", port),
    st.integers(1, 254),
    st.integers(1, 65_535),
)


@given(st.sampled_from([CONNECT, SYNC]), st.lists(public, max_size=MAX_TARGETS, unique=True).map(tuple))
def test_the_message_is_read_as_it_was_written(kind: int, addresses: tuple[TcpAddress, ...]) -> None:
    assert read(write(Punch(kind, addresses))) == Punch(kind, addresses)


@given(st.binary(max_size=MAX_BYTES))
def test_any_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    try:
        assert len(read(data).addresses) <= MAX_TARGETS
    except TetherError as error:
        assert error.code is FRAME_INVALID


def test_the_message_is_the_specifications_own() -> None:
    """By hand: type 1 (CONNECT 100), ObsAddrs 2, a multiaddr of /ip4 (04) and /tcp (06)."""
    assert write(Punch(SYNC)) == bytes.fromhex("08ac02")
    assert write(Punch(CONNECT, (PUBLIC,))) == bytes.fromhex("08641208 040b000001 061d98")


def test_nobody_is_dialled_in_somebody_elses_lan_and_few_at_all() -> None:
    private = [TcpAddress("ip4", host, 80) for host in ("127.0.0.1", "10.0.0.1", "169.254.1.1", "0.0.0.0")]
    many = [TcpAddress("ip4", f"11.0.1.{number}", 80) for number in range(1, 17)]
    assert read(write(Punch(CONNECT, tuple(private)))).addresses == ()
    assert len(read(write(Punch(CONNECT, tuple(many)))).addresses) == MAX_TARGETS


def test_three_tries_and_then_the_pair_stays_relayed_until_something_moves() -> None:
    tries, now = Tries(), 0.0
    for _ in range(TRIES - 1):
        assert tries.due(A, now)
        pause_s = tries.failed(A, now)
        assert pause_s is not None and not tries.given_up(A)
        now += pause_s
    assert tries.failed(A, now) is None and tries.given_up(A)
    assert not tries.due(A, now + GIVEN_UP_S - 1) and tries.due(B, now)
    assert tries.due(A, now + GIVEN_UP_S)
    tries.moved()
    assert tries.due(A, now) and not tries.given_up(A)


@given(st.lists(st.integers(0, 3000), max_size=50))
def test_what_is_remembered_of_peers_is_bounded(numbers: list[int]) -> None:
    tries = Tries()
    for number in [*range(2 * MAX_PEERS), *numbers]:
        tries.failed(PeerId(str(number)), 0.0)
    assert len(tries) == MAX_PEERS


@pytest.mark.parametrize(
    "said",
    [
        framed(b"\xff\xff"),
        framed(write(Punch(SYNC))),
        b"\xff\xff\xff\xff\x7f",
        framed(write(Punch(CONNECT))) + framed(write(Punch(CONNECT))),
    ],
)
async def test_a_peer_that_breaks_the_exchange_stays_relayed_and_is_heard_all_the_same(said: bytes) -> None:
    swarm = make_swarm(3)
    async with (
        open_relay(swarm) as relay,
        open_hidden(swarm, 1, relay) as alice,
        open_hidden(swarm, 2, relay) as bob,
    ):
        bob.handle("/echo/1", echo)
        await alice.connect(behind(bob))
        stream = await alice.open_stream(bob.peer_id, DCUTR)
        await stream.write(said)
        await stream.close()
        with pytest.raises(TetherError):
            while True:
                read(await Frames(stream, MAX_BYTES).one())
        echoed = await alice.open_stream(bob.peer_id, "/echo/1")
        await echoed.write(b"still here")
        assert await echoed.read(100) == b"STILL HERE"
        assert alice.paths()[bob.peer_id].relay == relay.peer_id
