"""Copies in a region: enough, spread, repaired, and never by the order of somebody who does not lead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from inference.demo import MODEL_PATH
from p2p.errors import FORBIDDEN, MODEL_INVALID, TetherError
from p2p.identity import PeerId
from p2p.rpc import Rpc
from tests.p2p.hosts import address, open_nodes, until
from tests.swarms import make_swarm
from tetherd.registry.library import CacheLimits, Library, Order
from tetherd.registry.replicas import REPLICATE, WANTED, Replicas, ReplicateRequest, place

PEERS = [PeerId(f"peer{number}") for number in range(9)]


@given(
    st.dictionaries(st.sampled_from(["a@1", "b@1", "c@2"]), st.frozensets(st.sampled_from(PEERS))),
    st.frozensets(st.sampled_from(PEERS)),
    st.integers(0, 5),
    st.integers(0, 9),
)
def test_what_is_asked_for_is_what_lacks_and_nothing_else(
    holders: dict[str, frozenset[PeerId]], living: frozenset[PeerId], wanted: int, at_most: int
) -> None:
    orders = place(holders, living, wanted, at_most)
    assert orders == place(holders, sorted(living, reverse=True), wanted, at_most)
    assert len(set(orders)) == len(orders) <= at_most
    asked = {reference: {peer for one, peer in orders if one == reference} for reference in holders}
    for reference, peers in asked.items():
        assert peers <= living - holders[reference]
        assert len(peers) <= max(0, wanted - len(holders[reference] & living))
    if at_most == 9 and len(holders) == 1:
        [(reference, has)] = holders.items()
        assert len(asked[reference] | (has & living)) >= min(wanted, len(living))


def test_copies_of_different_models_are_spread() -> None:
    holders = {f"m{number}@1": frozenset[PeerId]() for number in range(60)}
    orders = place(holders, PEERS, 3, 999)
    counts = [sum(peer == one for _, peer in orders) for one in PEERS]
    assert sum(counts) == 180 and min(counts) > 5


@dataclass
class FixedRegion:
    me: PeerId
    first: PeerId
    all: list[PeerId] = field(default_factory=list)

    def leaders(self) -> Sequence[PeerId]:
        return [self.first]

    def living(self) -> Iterable[PeerId]:
        return self.all

    def serving(self, reference: str) -> int:
        return 0


@asynccontextmanager
async def open_region(
    root: Path, count: int
) -> AsyncIterator[list[tuple[Library, Replicas, Rpc, FixedRegion]]]:
    swarm = make_swarm(count)
    async with open_nodes(swarm, count) as hosts, trio.open_nursery() as nursery:
        living = [host.peer_id for host in hosts]
        opened = []
        for number, host in enumerate(hosts):
            rpc = Rpc(host)
            await nursery.start(rpc.run)
            library = Library(
                root / str(number),
                swarm.keys[number],
                swarm.authority if number == 0 else None,
                swarm.swarm_id,
                rpc,
                host,
                CacheLimits(),
                now=lambda: 1_000.0,
                environ={},
            )
            await nursery.start(library.run)
            region = FixedRegion(host.peer_id, living[0], living)
            replicas = Replicas(library, region, rpc)
            await nursery.start(replicas.run)
            opened.append((library, replicas, rpc, region))
            for other in hosts[:number]:
                await host.connect(address(other))
        yield opened
        nursery.cancel_scope.cancel()


async def test_a_published_model_is_soon_held_three_times_and_a_lost_copy_is_replaced(tmp_path: Path) -> None:
    async with open_region(tmp_path, 5) as nodes:
        publisher, leading, _, region = nodes[0]
        published = await publisher.publish(Order(str(MODEL_PATH), "tiny", "1"))

        def kept() -> list[int]:
            return [at for at, (library, *_) in enumerate(nodes) if library.holds(published)]

        assert len(await leading.round()) == WANTED - 1
        await until(lambda: len(kept()) == WANTED)
        assert await leading.round() == []
        lost = kept()[-1]
        region.all.remove(nodes[lost][3].me)
        assert len(await leading.round()) == 1
        await until(lambda: len(kept()) == WANTED + 1)


async def test_only_who_leads_may_ask_and_only_for_a_reference(tmp_path: Path) -> None:
    async with open_region(tmp_path, 3) as nodes:
        (_, _, leader, _), (_, _, other, second), (_, _, _, third) = nodes
        with pytest.raises(TetherError) as refused:
            await other.ask(third.me, REPLICATE, ReplicateRequest("tiny@1"), timeout_s=5)
        assert refused.value.code is FORBIDDEN
        for wrong in ("", "tiny", "@1", "x" * 300 + "@1"):
            with pytest.raises(TetherError) as refused:
                await leader.ask(second.me, REPLICATE, ReplicateRequest(wrong), timeout_s=5)
            assert refused.value.code is MODEL_INVALID
