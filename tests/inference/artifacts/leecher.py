"""A node that fetches one file and prints its path: python -m tests.inference.artifacts.leecher FOLDER PEER BLOB."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob
from inference.artifacts.rate import Rate
from inference.artifacts.shelf import Shelf
from p2p.identity import PeerId
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tests.p2p.hosts import open_node
from tests.swarms import make_swarm

SEED, LEECHER = range(2)


async def fetch(folder: str, peer: str, described: str) -> None:
    swarm = make_swarm(2)
    asked = json.loads(described)
    blob = Blob(asked["sha256"], asked["size"], asked["chunk"], bytes.fromhex(asked["chunks"]))
    async with open_node(swarm, LEECHER) as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        shelf = Shelf(Blobs(Path(folder)), rpc, host, swarm.swarm_id, down=Rate(None), up=Rate(None))
        await nursery.start(shelf.run)
        known = json.loads(peer)
        await host.connect(PeerAddress(PeerId(known["peer"]), tuple(known["addresses"])))
        print("connected", flush=True)
        path = await shelf.want(blob, told=lambda progress: print(f"done {progress.done}", flush=True))
        print(f"path {path}", flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(fetch, *sys.argv[1:])
