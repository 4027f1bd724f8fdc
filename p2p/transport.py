"""The seam between Tether and a network: streams, meeting places, gossip.

`p2p/host/` is the libp2p one, `p2p/memory.py` its twin for tests. A peer that a `Transport` reports is a member:
its certificate was checked before any stream could open (guests, who hold only an invite, reach `enrol` alone).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from p2p.errors import UNREACHABLE, TetherError
from p2p.identity import PeerId
from p2p.membership import Admission
from p2p.values import ValueCheck


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer may be reached. addresses: multiaddrs without the /p2p/ part; may be empty."""

    peer: PeerId
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gossip:
    """One gossip message. source: the peer that passed it on, which need not be its author."""

    topic: str
    data: bytes
    source: PeerId


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What one peer may bring on a topic, and what waits for who is slow; beyond it, messages are dropped.

    message_bytes: of one message's data. per_s, burst: messages that one peer passes on, its own among them. backlog:
    messages that wait for a subscriber, or for a slow peer, the oldest going first. A peer that was away brings its
    whole backlog at once, so burst is above it.
    """

    message_bytes: int = 64 * 1024
    per_s: float = 100.0
    burst: int = 400
    backlog: int = 256


DEFAULT_LIMITS: Final = TopicLimits()

CONTROL, CHUNKS, ARTIFACTS = range(3)
"""Priorities of a connection's streams: what is queued on one goes before all that is queued on a later one."""


class Stream(Protocol):
    """A reliable, ordered, encrypted pipe of bytes. Raises TetherError(UNREACHABLE) once it is broken.

    One task may read and one may write at a time. priority: CONTROL at first; may be changed between two writes.
    """

    priority: int

    @property
    def peer(self) -> PeerId: ...

    async def read(self, max_bytes: int) -> bytes:
        """Return 1 to max_bytes bytes, or b"" once the peer has closed."""
        ...

    async def feed(self, sink: Callable[[bytes], None]) -> None:
        """Hand sink what comes until the peer closes, in whichever task has it first: instead of reading.

        Raises as `read` does, and the TetherError that sink raised; then it is called no more.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Returns once all of data is on its way, however long the reader takes.

        Cancelled, it may have sent a part, and then the stream is good for nothing but reset.
        """
        ...

    def write_now(self, data: bytes) -> bool:
        """Hand over all of data, if nothing has to be waited for. False: nothing was taken; `write` knows why."""
        ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


StreamHandler = Callable[[Stream], Awaitable[None]]
PeerWatcher = Callable[[PeerId, bool], None]
LastUse = Callable[[PeerId], float]
"""When a connection was last of use to somebody: monotonic, inf while it is, -inf if never."""
GossipCheck = Callable[[Gossip], bool]
"""Says whether a message is worth passing on; False also counts against its source. Pure and quick."""


class Transport(Protocol):
    """Streams to peers by id."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]:
        """The multiaddrs that others may dial, without the /p2p/ part."""
        ...

    def handle(self, protocol: str, handler: StreamHandler, *, guests: bool = False) -> None:
        """Serve a protocol id to members; guests=True lets holders of an invite open it too."""
        ...

    async def connect(self, address: PeerAddress) -> None:
        """Dial unless connected. Raises TetherError(UNREACHABLE | WRONG_SWARM | CERTIFICATE_*).

        When every address was refused, the detail says "refused": the machine is up and nobody listens there.
        """
        ...

    async def open_stream(self, peer: PeerId, protocol: str, *, priority: int = CONTROL) -> Stream:
        """Open a stream to a peer whose addresses are known. Raises TetherError(UNREACHABLE).

        Where the peer has spoken the protocol before, its agreement is not waited for; should it
        have changed its mind, the first read raises.
        """
        ...

    async def disconnect(self, peer: PeerId) -> None: ...

    def peers(self) -> frozenset[PeerId]:
        """The peers with an open connection, guests not among them."""
        ...

    def admission(self, peer: PeerId) -> Admission | None:
        """What the peer proved when it connected; None for a peer without a connection."""
        ...

    def keep(self, last_use: LastUse) -> None:
        """Ask last_use before letting an idle connection go."""
        ...

    def watch(self, watcher: PeerWatcher) -> None:
        """Call watcher(peer, up) whenever a member's last connection comes or goes."""
        ...


def refused(error: TetherError) -> bool:
    """Whether a failed dial found the machine but no process, which is another matter than silence."""
    return error.code is UNREACHABLE and "refused" in error.detail


class Discovery(Protocol):
    """The DHT: a key is a meeting place."""

    async def provide(self, key: bytes) -> None:
        """Say that this node is to be found under key (32 bytes). Raises TetherError(UNREACHABLE) if nobody heard."""
        ...

    async def find_providers(self, key: bytes, limit: int = 20) -> Sequence[PeerAddress]:
        """Ask the network who is to be found under key. This node itself is never among them."""
        ...

    async def find_peer(self, peer: PeerId) -> PeerAddress | None: ...

    def accept_values(self, namespace: str, check: ValueCheck) -> None:
        """Keep values under /namespace/… for others; without it, this node can neither put nor get them."""
        ...

    async def put_value(self, key: str, value: bytes) -> None:
        """Keep a value (at most 256 KiB) on the DHT under /namespace/name, and repeat it while this node is up.

        Raises TetherError: FIELD_INVALID for what its check refuses, UNREACHABLE if nobody heard (it is repeated).
        """
        ...

    async def get_value(self, key: str) -> bytes | None:
        """The newest valid value that the network has, read from several of its keepers. Raises FIELD_INVALID."""
        ...

    def forget_value(self, key: str) -> None:
        """Repeat it no more; others keep it for up to a day."""
        ...


class Pubsub(Protocol):
    """Gossip meshes, one a topic."""

    async def publish(self, topic: str, data: bytes) -> None: ...

    def subscribe(
        self, topic: str, check: GossipCheck, limits: TopicLimits = DEFAULT_LIMITS
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Gossip]]:
        """Join the topic's mesh; leaving the context leaves it. A full channel drops the oldest news."""
        ...


class Network(Transport, Discovery, Pubsub, Protocol):
    """All three, as one node has them."""
