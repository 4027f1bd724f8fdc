"""A node as a process of its own, for namespaces: `python -m tests.net.node OPTIONS`, led by JSON lines.

OPTIONS is an `Options` as JSON. An order is {"id", "op", …}, its answer {"id", …} or {"id", "error", "detail"};
what happens by itself is {"event", …}. Orders run beside each other. The node ends with its stdin.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob
from inference.artifacts.rate import Rate
from inference.artifacts.shelf import Shelf
from p2p.errors import TetherError
from p2p.host import HostSettings, open_host
from p2p.host.addresses import is_circuit
from p2p.host.host import Host
from p2p.host.paths import Reachability
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import Message, Method
from p2p.rpc import Rpc, RpcLimits, ServerCall
from p2p.transport import PeerAddress
from tests.net.internet import PORT
from tests.swarms import make_swarm

MADE_AT: Final = 1_700_000_000.0
"""All processes of a test make the same swarm, and admit as if it were that moment."""
LINE_BYTES: Final = 65_536
RESUME_S: Final = 60.0
"""Four times what daemons wait: a dozen processes of a test may share two cores with others."""


class Options(msgspec.Struct, frozen=True):
    """number: of the node in a swarm of count; settings: fields of HostSettings; files: where it keeps some."""

    number: int
    count: int = 8
    swarm: str = "net"
    listen: tuple[str, ...] = (f"/ip4/0.0.0.0/tcp/{PORT}",)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    mdns: bool = False
    files: str = ""


class Count(Message, frozen=True):
    """How many numbers to send, at which interval, each with so many bytes beside it."""

    numbers: int
    interval_s: float
    padding_bytes: int = 0


class Number(Message, frozen=True):
    number: int
    padding: bytes = b""


COUNT: Final = Method("count", Count, Number, priority=1)
Order = dict[str, Any]


class Node:
    """The orders are its methods: `op_` and their name."""

    def __init__(self, host: Host, rpc: Rpc) -> None:
        self.host = host
        self.rpc = rpc
        self.counted: dict[str, int] = {}
        self.shelf: Shelf | None = None
        self._news = trio.lowlevel.ParkingLot()
        host.watch(lambda peer, up: say(event="peer", peer=peer, up=up))
        rpc.serve_stream(COUNT, self._count)

    async def _count(self, call: ServerCall[Count, Number]) -> None:
        asked = call.request
        for number in range(asked.numbers):
            await call.send(Number(number, bytes(asked.padding_bytes)))
            await trio.sleep(asked.interval_s)

    async def op_addresses(self) -> Order:
        return {"peer": self.host.peer_id, "addresses": self.host.addresses()}

    async def tell_addresses(self) -> None:
        """Say each new list of own addresses; mapped: more than listened on at the start."""
        told = start = self.host.addresses()
        while True:
            now = self.host.addresses()
            if now != told:
                say(
                    event="addresses",
                    first=now[0] if now else "",
                    addresses=now,
                    mapped=len(now) > len(start),
                )
                told = now
            await trio.sleep(0.05)

    async def tell_reach(self) -> None:
        """Say each new verdict on whether this node is reachable."""
        while True:
            say(event="reach", state=self.host.reach.verdict.value, why=self.host.finding().why)
            await self.host.reach.changed()

    async def op_connect(self, peer: str, addresses: list[str]) -> Order:
        began = trio.current_time()
        await self.host.connect(PeerAddress(PeerId(peer), tuple(addresses)))
        return {"took_s": trio.current_time() - began}

    async def op_disconnect(self, peer: str) -> Order:
        await self.host.disconnect(PeerId(peer))
        return {}

    async def op_peers(self) -> Order:
        return {"peers": sorted(self.host.peers())}

    async def op_reachability(self, verdict: str) -> Order:
        """What this node shall take itself for from now on, whatever AutoNAT finds."""
        self.host.reach.found(Reachability(verdict))
        self.host.reach.found = lambda verdict: None  # type: ignore[method-assign]
        return {}

    async def op_reserved(self, relays: int = 1) -> Order:
        """Wait until this node is announced behind so many relays."""
        while len(found := [one for one in self.host.addresses() if is_circuit(one)]) < relays:  # noqa: ASYNC110
            await trio.sleep(0.01)
        return {"addresses": found}

    async def op_find(self, peer: str) -> Order:
        """Ask the network until it knows a relay behind which the peer is."""
        found = None
        while found is None or not any(map(is_circuit, found.addresses)):
            await trio.sleep(0.1)
            found = await self.host.find_peer(PeerId(peer))
        return {"addresses": found.addresses}

    async def op_punch(self, peer: str, addresses: list[str], patience_s: float) -> Order:
        """Dial over a relay, and wait for a direct connection; took_s: from the first to the second, None: stayed."""
        began = trio.current_time()
        await self.host.connect(PeerAddress(PeerId(peer), tuple(addresses)))
        relayed = trio.current_time()
        await self.op_direct(peer, patience_s)
        direct = self._relay_of(peer) is None
        return {
            "relayed_s": relayed - began,
            "took_s": trio.current_time() - relayed if direct else None,
        }

    async def op_direct(self, peer: str, patience_s: float) -> Order:
        """Wait until the peer is connected directly; relay: over whom it is otherwise."""
        with trio.move_on_after(patience_s):
            while self._relay_of(peer) is not None:  # noqa: ASYNC110
                await trio.sleep(0.005)
        return {"relay": self._relay_of(peer)}

    def _relay_of(self, peer: str) -> str | None:
        """Empty: not connected."""
        path = self.host.paths().get(PeerId(peer))
        return path.relay if path else ""

    async def op_count(self, peer: str, numbers: int, interval_s: float, padding_bytes: int = 0) -> Order:
        """Have the peer count; what came, whether each number came once and in order, and the longest silence."""
        last, longest_s, ordered = trio.current_time(), 0.0, True
        self.counted[peer] = 0
        async with self.rpc.stream(PeerId(peer), COUNT, Count(numbers, interval_s, padding_bytes)) as answers:
            async for answer in answers:
                ordered &= answer.number == self.counted[peer] and len(answer.padding) == padding_bytes
                self.counted[peer] += 1
                self._news.unpark_all()
                longest_s = max(longest_s, trio.current_time() - last)
                last = trio.current_time()
        return {"numbers": self.counted[peer], "ordered": ordered, "longest_s": longest_s}

    async def op_counted(self, peer: str, numbers: int) -> Order:
        """Wait until the count of `op_count` is so far."""
        while self.counted.get(peer, 0) < numbers:
            await self._news.park()
        return {}

    async def open_shelf(self, folder: str, swarm_id: SwarmId, nursery: trio.Nursery) -> None:
        blobs = Blobs(Path(folder))
        self.shelf = Shelf(blobs, self.rpc, self.host, swarm_id, down=Rate(None), up=Rate(None))
        await nursery.start(self.shelf.run)

    async def op_hold(self, path: str, blob: dict[str, Any]) -> Order:
        """Have a file as if it had been fetched."""
        assert self.shelf is not None
        self.shelf.blobs.adopt(Path(path), described(blob))
        self.shelf.know(described(blob))
        return {}

    async def op_want(self, blob: dict[str, Any]) -> Order:
        """Fetch a file; liars: who sent what was not signed."""
        assert self.shelf is not None
        liars: set[str] = set()
        began, shelf = trio.current_time(), self.shelf

        def told(_progress: object) -> None:
            liars.update(*(fetch.tally.liars for fetch in shelf.under_way()))

        path = await shelf.want(described(blob), told=told)
        return {"path": str(path), "took_s": trio.current_time() - began, "liars": sorted(liars)}

    async def op_lent(self) -> Order:
        assert self.shelf is not None
        return {"bytes": self.shelf.lender.lent_bytes}


def described(blob: dict[str, Any]) -> Blob:
    return Blob(blob["sha256"], blob["size"], blob["chunk"], bytes.fromhex(blob["chunks"]))


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def obey(node: Node, order: Order) -> None:
    number, name = order.pop("id"), order.pop("op")
    do: Callable[..., Awaitable[Order]] = getattr(node, f"op_{name}")
    try:
        say(id=number, **await do(**order))
    except TetherError as error:
        say(id=number, error=error.code.name, detail=error.detail)


async def take_orders(node: Node, nursery: trio.Nursery) -> None:
    stdin = trio.lowlevel.FdStream(0)
    rest = b""
    while read := await stdin.receive_some(LINE_BYTES):
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            nursery.start_soon(obey, node, json.loads(line))


async def main(options: Options) -> None:
    swarm = make_swarm(options.count, name=options.swarm, now=MADE_AT)
    async with (
        open_host(
            swarm.keys[options.number],
            listen=options.listen,
            swarm_id=swarm.swarm_id,
            passport=lambda: swarm.passport(options.number),
            admit=swarm.admit,
            settings=msgspec.convert(options.settings, HostSettings),
        ) as host,
        trio.open_nursery() as nursery,
    ):
        if options.mdns:
            nursery.start_soon(host.meet_neighbours)
        rpc = Rpc(host, limits=RpcLimits(resume_s=RESUME_S))
        await nursery.start(rpc.run)
        node = Node(host, rpc)
        if options.files:
            await node.open_shelf(options.files, swarm.swarm_id, nursery)
        say(event="ready", **await node.op_addresses())
        nursery.start_soon(node.tell_addresses)
        nursery.start_soon(node.tell_reach)
        await take_orders(node, nursery)
        nursery.cancel_scope.cancel()
    say(event="left")


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, msgspec.json.decode(sys.argv[1], type=Options))
