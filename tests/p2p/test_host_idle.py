"""The idle budget: who is let go when there are too many connections, and that nobody minds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.host import idle
from p2p.host.idle import IN_USE, UNUSED, YOUNG_S, Held, let_go
from p2p.identity import PeerId
from p2p.rpc import Rpc, ServerCall
from tests.p2p.calls import COUNT, ECHO, Note, echo
from tests.p2p.hosts import QUICK, address, open_node, open_nodes, until
from tests.swarms import make_swarm

NOW = 1_000.0


def held(name: str, *, born_s: float = 0.0, used_s: float = UNUSED) -> Held:
    return Held(PeerId(name), born_s, used_s)


def test_the_least_recently_used_go_first_and_only_as_many_as_are_too_many() -> None:
    three = [held("a", used_s=5), held("b", used_s=3), held("c", used_s=4)]
    assert let_go(three, 3, NOW) == []
    assert let_go(three, 2, NOW) == ["b"]
    assert let_go(three, 1, NOW) == ["b", "c"]


def test_what_is_in_use_or_was_just_made_stays_beyond_the_budget() -> None:
    busy, young = held("a", used_s=IN_USE), held("b", born_s=NOW - YOUNG_S / 2)
    assert let_go([busy, young], 0, NOW) == []
    assert let_go([busy, young], 0, NOW + YOUNG_S) == ["b"]


HELD = st.lists(
    st.builds(
        Held,
        st.integers(0, 10**6).map(lambda n: PeerId(str(n))),
        st.floats(0, NOW),
        st.sampled_from((UNUSED, IN_USE)) | st.floats(0, NOW),
    ),
    unique_by=lambda one: one.peer,
    max_size=40,
)


@given(HELD, st.integers(0, 40))
def test_whoever_stays_was_used_later_or_must_stay(connections: list[Held], budget: int) -> None:
    gone = set(let_go(connections, budget, NOW))
    assert len(gone) <= max(0, len(connections) - budget)

    def last(one: Held) -> float:
        return max(one.born_s, one.used_s)

    free = [one for one in connections if one.used_s != IN_USE and NOW - one.born_s >= YOUNG_S]
    assert gone <= {one.peer for one in free}
    stay = [last(one) for one in free if one.peer not in gone]
    assert max((last(one) for one in free if one.peer in gone), default=0.0) <= min(stay, default=NOW)
    assert len(connections) - len(gone) <= max(budget, len(connections) - len(free))


async def test_a_host_parts_from_idle_peers_and_a_call_brings_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle, "YOUNG_S", 0.0)
    swarm = make_swarm(4)

    async def endless(call: ServerCall[Note, Note]) -> None:
        while True:
            await call.send(Note())
            await trio.sleep(0.01)

    few = replace(QUICK, idle_connections=1, idle_check_s=0.05)
    async with (
        open_nodes(swarm, 3) as others,
        open_node(swarm, 3, settings=few) as host,
        trio.open_nursery() as nursery,
    ):
        ours = Rpc(host)
        await nursery.start(ours.run)
        for other in others:
            theirs = Rpc(other)
            theirs.serve(ECHO, echo)
            theirs.serve_stream(COUNT, endless)
            await nursery.start(theirs.run)
            await host.connect(address(other))
        busy, idle_one, _ = (other.peer_id for other in others)
        async with ours.stream(busy, COUNT, Note()) as answers:
            await anext(answers)
            await until(lambda: host.peers() == {busy})
            assert (await ours.ask(idle_one, ECHO, Note("hi"), timeout_s=5)).text.endswith("said hi")
            await until(lambda: host.peers() == {busy})
            await anext(answers)
        nursery.cancel_scope.cancel()
