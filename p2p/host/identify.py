"""Where a member listens, by libp2p's identify: asked on every new connection, told again when it changes.

What is taken from an answer are the addresses, the peer's own and the one from which it sees this node come; the
handshake has proven the rest. What is told is more: a foreign libp2p opens no protocol that identify did not name.
https://github.com/libp2p/specs/blob/master/identify
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify

from p2p.errors import CAPACITY, TetherError
from p2p.host.addresses import from_wire, seen_from_wire, to_wire
from p2p.host.framing import Frames, framed
from p2p.host.kad.distance import raw_id
from p2p.host.observed import Observed
from p2p.host.scores import Scores
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import Stream

PROTOCOL: Final = "/ipfs/id/1.0.0"
PUSH: Final = "/ipfs/id/push/1.0.0"
"""The same message, unasked: its sender's addresses have changed."""
MAX_PUSHES: Final = 8
"""At a time."""
PUSH_LIMIT: Final = 16.0
"""Of one peer, faded by half each minute; no machine moves as often."""
MAX_BYTES: Final = 8_192
PATIENCE_S: Final = 5.0
FAMILY: Final = "ipfs/0.1.0"
"""protocolVersion, the same in every libp2p."""
AGENT: Final = "tether"
PAUSES_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Before each try to hear who a peer is."""

IDENTITY_BYTES: Final = 2
"""The head of an Ed25519 peer's id: identity multihash, length. The public key's protobuf is the rest."""


class Identification:
    """Learns the members' addresses, and by them this node's own."""

    def __init__(self, switch: Switch, tasks: trio.Nursery, observed: Observed) -> None:
        self._switch = switch
        self._observed = observed
        self._tasks = tasks
        self._pushed = Scores(PUSH_LIMIT)
        self._pushes = trio.Semaphore(MAX_PUSHES)
        self.seen_anew: list[Callable[[], None]] = []
        """Called when what peers see of this node has changed."""
        self.heard: list[Callable[[PeerId, frozenset[str]], None]] = []
        """Called with what a peer says that it speaks."""
        switch.handle(PROTOCOL, self._answer, guests=False)
        switch.handle(PUSH, self._heed_push, guests=False)
        switch.listeners.append(self)

    def up(self, peer: PeerId) -> None:
        self._tasks.start_soon(self._ask, peer)

    def down(self, peer: PeerId) -> None:
        """Addresses outlive connections."""

    def tell(self) -> None:
        """What this node announces has changed: members that are connected hear of it now."""
        for peer in self._switch.peers():
            self._tasks.start_soon(self._push, peer)

    async def _answer(self, stream: Stream) -> None:
        await stream.write(self._message(stream.peer))

    async def _push(self, peer: PeerId) -> None:
        async with self._pushes:
            with trio.move_on_after(PATIENCE_S), suppress(TetherError):
                stream, _ = await self._switch.open(peer, [PUSH])
                try:
                    await stream.write(self._message(peer))
                    await stream.close()
                    await stream.read(1)
                finally:
                    await stream.reset()

    async def _heed_push(self, stream: Stream) -> None:
        """Raises TetherError(CAPACITY) beyond the limit."""
        now = trio.current_time()
        if self._pushed.refused(stream.peer, now):
            raise TetherError(CAPACITY, "This peer moves too often.")
        self._pushed.mark(stream.peer, 1.0, now)
        with trio.move_on_after(PATIENCE_S), suppress(DecodeError):
            message = Identify.FromString(await Frames(stream, MAX_BYTES).one())
            self._switch.book.said(stream.peer, from_wire(message.listen_addrs))
            self._pass_on(stream.peer, message)

    def _message(self, peer: PeerId) -> bytes:
        path = self._switch.path(peer)
        message = Identify(
            observed_addr=to_wire([str(path.remote)])[0] if path and path.remote else b"",
            public_key=raw_id(self._switch.own)[IDENTITY_BYTES:],
            listen_addrs=to_wire(self._switch.addresses()),
            protocols=self._switch.protocols(),
            protocol_version=FAMILY,
            agent_version=AGENT,
        )
        return framed(message.SerializeToString())

    async def _ask(self, peer: PeerId) -> None:
        """Again where a connection took the other's place in the middle of it: without it nobody can name the peer."""
        for pause_s in PAUSES_S:
            await trio.sleep(pause_s)
            if not self._switch.connected(peer):
                return
            with trio.move_on_after(PATIENCE_S), suppress(TetherError, DecodeError):
                await self._learn(peer)
                return

    async def _learn(self, peer: PeerId) -> None:
        """Raises TetherError and DecodeError."""
        stream, _ = await self._switch.open(peer, [PROTOCOL])
        try:
            await stream.close()
            message = Identify.FromString(await Frames(stream, MAX_BYTES).one())
            self._switch.book.said(peer, from_wire(message.listen_addrs))
            self._heed(peer, message.observed_addr)
            self._pass_on(peer, message)
        finally:
            await stream.reset()

    def _pass_on(self, peer: PeerId, message: Identify) -> None:
        for tell in self.heard:
            tell(peer, frozenset(message.protocols))

    def _heed(self, witness: PeerId, raw: bytes) -> None:
        """What a peer sees tells of the listening port only if the connection uses that port.

        From another one it tells the host: while nothing better is known, most routers keep the port.
        """
        path, seen = self._switch.path(witness), seen_from_wire(raw)
        if seen is None or path is None or path.local is None:
            return
        if path.local.port not in {one.port for one in self._switch.bound()}:
            listening = self._switch.ways.port(seen.family)
            if listening is None or self._observed.outside():
                return
            seen = replace(seen, port=listening.port)
        if self._observed.saw(witness, seen):
            for tell in self.seen_anew:
                tell()
