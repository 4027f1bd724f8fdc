"""Releases on the DHT: found when their publisher is gone, believed only when they are signed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from inference.artifacts.release import check_release, revoke
from p2p.errors import MODEL_NOT_FOUND, TetherError
from p2p.host.host import Host
from p2p.rpc import Rpc
from p2p.wire import encode
from tests.p2p.hosts import address, open_node, open_nodes
from tests.tetherd.registry.test_catalogue import OTHER, PUBLISHER, SWARM, release, signed
from tetherd.registry.catalogue import Catalogue
from tetherd.registry.on_dht import ReleaseCheck, key_name


@asynccontextmanager
async def open_catalogue(host: Host, folder: Path) -> AsyncIterator[Catalogue]:
    async with trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        yield Catalogue(folder, SWARM.swarm_id, rpc, host)
        nursery.cancel_scope.cancel()


async def test_a_release_is_found_when_all_who_had_it_in_their_catalogues_are_gone(tmp_path: Path) -> None:
    async with (
        open_nodes(SWARM, 2) as (keeper, late),
        open_catalogue(keeper, tmp_path / "keeper") as unaware,
        open_catalogue(late, tmp_path / "late") as catalogue,
    ):
        async with open_node(SWARM, 2) as publisher, open_catalogue(publisher, tmp_path / "first") as first:
            await publisher.connect(address(keeper))
            for version in ("1", "2"):
                made = first.add_release(signed(release(version, created=float(version))))
                await first.on_dht.put(made)
        await late.connect(address(keeper))
        assert unaware.all() == []
        assert (await catalogue.resolve("demo", "1")).reference == "demo@1"
        assert (await catalogue.resolve("demo")).publisher == PUBLISHER.node_id
        newest = await catalogue.on_dht.get("demo")
        assert newest is not None and check_release(newest, SWARM.swarm_id).reference == "demo@2"


def test_only_a_release_of_that_name_by_a_publisher_who_is_trusted_has_a_rank() -> None:
    check = ReleaseCheck(SWARM.swarm_id)
    name, version = (key_name(SWARM.swarm_id, one) for one in ("demo", "demo@1"))
    older, newer = (encode(signed(release("1", created=created))) for created in (1.0, 2.0))
    assert check.rank(name, older) == check.rank(version, older) == 1_000
    assert check.rank(version, newer) == 2_000
    assert check.rank(key_name(SWARM.swarm_id, "other"), older) is None
    assert check.rank(key_name(SWARM.swarm_id, "demo@2"), older) is None
    for bad in (b"", b"junk", older[:-1], encode(signed(release("1"), by=OTHER))[:40]):
        assert check.rank(name, bad) is None


async def test_what_a_revoked_publisher_put_is_found_and_not_believed(tmp_path: Path) -> None:
    async with (
        open_nodes(SWARM, 2) as (keeper, late),
        open_catalogue(keeper, tmp_path / "keeper") as honest,
        open_catalogue(late, tmp_path / "late") as catalogue,
    ):
        await late.connect(address(keeper))
        await honest.on_dht.put(honest.add_release(signed(release("1"))))
        catalogue.add_word(revoke(SWARM.authority, PUBLISHER.node_id, 5.0))
        with pytest.raises(TetherError) as refused:
            await catalogue.resolve("demo", "1")
        assert refused.value.code is MODEL_NOT_FOUND
        assert keeper.peer_id in late.peers(), "who has not heard of it is honest"
