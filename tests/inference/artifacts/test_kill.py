"""A node that is killed in the middle of a fetch, again and again: the right file, and little fetched twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import trio

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import MIN_CHUNK_BYTES
from inference.artifacts.rate import Rate
from inference.artifacts.shelf import Shelf
from p2p.rpc import Rpc
from tests.inference.artifacts.leecher import SEED
from tests.inference.artifacts.made import made
from tests.p2p.hosts import open_node
from tests.swarms import make_swarm

KILLS = 5
CHUNKS = 14
UP_BYTES_PER_S = 6e6


async def test_kill_9_in_the_middle_of_a_fetch_loses_at_most_what_was_under_way(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    data, blob = made(CHUNKS * MIN_CHUNK_BYTES - 3)
    swarm = make_swarm(2)
    async with open_node(swarm, SEED) as host, trio.open_nursery() as nursery:
        rpc = Rpc(host)
        await nursery.start(rpc.run)
        shelf = Shelf(
            Blobs(tmp_path / "seed"), rpc, host, swarm.swarm_id, down=Rate(None), up=Rate(UP_BYTES_PER_S)
        )
        await nursery.start(shelf.run)
        (tmp_path / "made").write_bytes(data)
        shelf.blobs.adopt(tmp_path / "made", blob)
        shelf.know(blob)
        command = [
            sys.executable,
            "-m",
            "tests.inference.artifacts.leecher",
            str(tmp_path / "leecher"),
            json.dumps({"peer": host.peer_id, "addresses": host.addresses()}),
            json.dumps(
                {
                    "sha256": blob.sha256,
                    "size": blob.size,
                    "chunk": blob.chunk_bytes,
                    "chunks": blob.chunks.hex(),
                }
            ),
        ]
        reached = 0
        for _ in range(KILLS):
            reached = await run(
                command, until=min(blob.size - 1, reached + rng.randrange(3) * MIN_CHUNK_BYTES)
            )
        await run(command, until=None)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "leecher" / "blobs" / blob.sha256).read_bytes() == data, f"seed {seed}"
    twice = shelf.lender.lent_bytes - blob.size
    under_way = (
        2 * MIN_CHUNK_BYTES
    )  # the chunk that was arriving, and the one that the lender had begun to send
    assert twice <= KILLS * under_way, f"seed {seed}"


async def run(command: list[str], *, until: int | None) -> int:
    """Fetch until so many bytes have come, then SIGKILL; None: to the end. Returns how many had come."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    done, lines = 0, bytearray()
    async with process.stdout:
        async for part in process.stdout:
            lines += part
            *whole, rest = bytes(lines).split(b"\n")
            lines[:] = rest
            done = max([done, *(int(line[5:]) for line in whole if line.startswith(b"done "))])
            if until is not None and (done > until or (b"connected" in whole and until == 0)):
                process.kill()
                break
    status = await process.wait()
    assert status == (0 if until is None else -9)
    return done
