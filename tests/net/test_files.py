"""Files over lines of limited speed: one seed, eight who fetch at once, a copy that has rotted, and one that stalls."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from inference.artifacts.chunks import MIN_CHUNK_BYTES
from tests.inference.artifacts.made import made
from tests.net.internet import Internet
from tests.net.namespaces import needs_namespaces
from tests.net.nodes import Node, open_node

pytestmark = needs_namespaces

LEECHERS = 8
COUNT = 3 + LEECHERS
RATE = "16mbit"


async def test_a_file_over_capped_lines_comes_mostly_from_other_leechers_and_only_a_rotten_copy_is_named(
    tmp_path: Path,
) -> None:
    data, blob = made(4 * MIN_CHUNK_BYTES - 9)
    described = {
        "sha256": blob.sha256,
        "size": blob.size,
        "chunk": blob.chunk_bytes,
        "chunks": blob.chunks.hex(),
    }
    (tmp_path / "made").write_bytes(data)
    (tmp_path / "rotten").write_bytes(bytes(len(data)))
    with Internet() as net:
        async with AsyncExitStack() as stack:
            nodes: list[Node] = []
            for number in range(COUNT):
                host = net.public()
                host.namespace.run(
                    *f"tc qdisc add dev eth0 root tbf rate {RATE} burst 64kb latency 200ms".split()
                )
                files = str(tmp_path / f"node{number}")
                nodes.append(
                    await stack.enter_async_context(open_node(host, number, count=COUNT, files=files))
                )
                for other in nodes[:-1]:
                    await nodes[-1].connect(other)
            seed, rotten, stalled, *leechers = nodes
            await seed.ask("hold", path=str(tmp_path / "made"), blob=described)
            await rotten.ask("hold", path=str(tmp_path / "rotten"), blob=described)
            await stalled.ask("hold", path=str(tmp_path / "made"), blob=described)
            answers: list[dict[str, Any]] = []

            async def want(node: Node) -> None:
                answers.append(await node.ask("want", blob=described))

            stalled.process.send_signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                for leecher in leechers:
                    nursery.start_soon(want, leecher)
            sent = (await seed.ask("lent"))["bytes"]
    assert all(_read(answer["path"]) == data for answer in answers)
    assert {liar for answer in answers for liar in answer["liars"]} == {rotten.peer}
    assert sent < LEECHERS * blob.size


def _read(path: str) -> bytes:
    return Path(path).read_bytes()
