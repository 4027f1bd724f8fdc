"""Nodes with shelves, over real connections on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob
from inference.artifacts.rate import Rate
from inference.artifacts.shelf import Shelf
from p2p.host.host import Host
from p2p.rpc import Rpc
from tests.p2p.hosts import address, open_nodes
from tests.swarms import MadeSwarm, make_swarm


@dataclass(frozen=True, slots=True)
class Node:
    host: Host
    rpc: Rpc
    shelf: Shelf

    def hold(self, data: bytes, blob: Blob) -> None:
        """As if it had been fetched."""
        source = self.shelf.blobs._partial / "made"
        source.write_bytes(data)
        self.shelf.blobs.adopt(source, blob)
        source.unlink()
        self.shelf.know(blob)


@asynccontextmanager
async def open_shelves(
    root: Path, count: int, *, up: float | None = None, swarm: MadeSwarm | None = None
) -> AsyncIterator[list[Node]]:
    """Nodes that all know each other. up: bytes a second that each lends."""
    made = swarm or make_swarm(count)
    async with open_nodes(made, count) as hosts, trio.open_nursery() as nursery:
        nodes = []
        for number, host in enumerate(hosts):
            rpc = Rpc(host)
            await nursery.start(rpc.run)
            blobs = Blobs(root / str(number))
            shelf = Shelf(blobs, rpc, host, made.swarm_id, down=Rate(None), up=Rate(up))
            await nursery.start(shelf.run)
            nodes.append(Node(host, rpc, shelf))
        for one in nodes:
            for other in nodes:
                if one is not other:
                    await one.host.connect(address(other.host))
        yield nodes
        nursery.cancel_scope.cancel()
