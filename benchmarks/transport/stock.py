"""Stock py-libp2p, as its documentation has a host opened: noise, yamux, TCP.

Sides: python -m benchmarks.transport.stock serve | client ADDRESS
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from benchmarks.transport.processes import Answer, Side, obey
from benchmarks.transport.sink import answer_all, request

PROTOCOL: Final = TProtocol("/benchmark/sink/1")


@asynccontextmanager
async def open_stock() -> AsyncIterator[IHost]:
    """A host that listens on loopback."""
    logging.getLogger("libp2p").setLevel(logging.ERROR)
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_new_noise_key().private_key)
    host = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]), trio.open_nursery() as nursery:
        nursery.start_soon(host.get_peerstore().start_cleanup_task, 60)
        yield host
        nursery.cancel_scope.cancel()


async def _serve() -> None:
    async def answer(stream: INetStream) -> None:
        await answer_all(stream)

    async with open_stock() as host:
        host.set_stream_handler(PROTOCOL, answer)
        await obey({"address": str(host.get_addrs()[0])}, {})


async def _client(address: str) -> None:
    info = info_from_p2p_addr(Multiaddr(address))
    async with open_stock() as host:
        await host.connect(info)
        stream = await host.new_stream(info.peer_id, [PROTOCOL])

        async def bulk(bytes: int, chunk: int) -> Answer:
            began = time.perf_counter()
            await request(stream, bytes, chunk)
            return {"seconds": time.perf_counter() - began}

        await obey({}, {"bulk": bulk})


if __name__ == "__main__":
    sides: dict[str, Side] = {"serve": _serve, "client": _client}
    trio.run(sides[sys.argv[1]], *sys.argv[2:])
