"""A node with a shelf, as a process: python -m benchmarks.artifacts.side FOLDER [UP_BYTES_PER_S [ADDRESS]]."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from benchmarks.transport.nodes import AUTHORITY, described, open_member, reached
from benchmarks.transport.processes import Answer, obey
from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob, Digester
from inference.artifacts.rate import Rate
from inference.artifacts.shelf import Shelf
from p2p.membership import swarm_id_of
from p2p.rpc import Rpc


def blob_of(path: Path) -> Blob:
    digester = Digester(path.stat().st_size)
    with path.open("rb") as file:
        for length in digester.spans():
            digester.add(file.read(length))
    return digester.blob()


async def side(folder: str, up: str = "", address: str = "127.0.0.1") -> None:
    root = Path(folder)
    rate = Rate(float(up) if up else None)
    async with open_member(listen=[f"/ip4/{address}/tcp/0"]) as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        shelf = Shelf(Blobs(root), rpc, host, swarm_id_of(AUTHORITY), down=Rate(None), up=rate)
        await nursery.start(shelf.run)

        async def meet(peers: Sequence[Mapping[str, list[str] | str]]) -> Answer:
            for peer in peers:
                await host.connect(reached(str(peer["peer"]), list(peer["addresses"])))
            return {}

        async def hold(path: str) -> Answer:
            blob = blob_of(Path(path))
            shelf.blobs.adopt(Path(path), blob)
            shelf.know(blob)
            return {
                "sha256": blob.sha256,
                "size": blob.size,
                "chunk": blob.chunk_bytes,
                "chunks": blob.chunks.hex(),
            }

        async def want(sha256: str, size: int, chunk: int, chunks: str) -> Answer:
            began = time.perf_counter()
            await shelf.want(Blob(sha256, size, chunk, bytes.fromhex(chunks)))
            return {"seconds": time.perf_counter() - began}

        async def lent() -> Answer:
            return {"bytes": shelf.lender.lent_bytes}

        async def peak() -> Answer:
            return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}

        async def forget() -> Answer:
            """Nothing is here any more, nor on its way: the next run begins anew."""
            shelf.blobs.evict(1 << 62, busy=())
            shelf.lender.lent_bytes = 0
            return {}

        await obey(
            described(host),
            {"meet": meet, "hold": hold, "want": want, "lent": lent, "forget": forget, "peak": peak},
        )
        nursery.cancel_scope.cancel()
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    trio.run(side, *sys.argv[1:])
