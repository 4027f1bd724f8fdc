"""Who is told of members' connections: the program at once, the host's own errands a moment later.

Asking where the peer listens, joining meshes and looking oneself up cost more than the handshake. The first stream of
whoever dialled goes before them.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from p2p.identity import PeerId
from p2p.transport import PeerWatcher

SETTLE_S: Final = 0.05
"""A first answer on a LAN is there by then; on a longer way the processor has nothing else to do meanwhile."""


class Listener(Protocol):
    """An errand of the host. It is told of connections in the order in which they come and go."""

    def up(self, peer: PeerId) -> None: ...

    def down(self, peer: PeerId) -> None: ...


class Audience:
    """A connection that is gone again before errands were told of it is none of theirs."""

    def __init__(self) -> None:
        self.errands: list[Listener] = []
        self.watchers: list[PeerWatcher] = []
        self._settling: dict[PeerId, trio.CancelScope] = {}

    def up(self, peer: PeerId, tasks: trio.Nursery) -> None:
        self._settling[peer] = scope = trio.CancelScope()
        tasks.start_soon(self._later, peer, scope)
        for watcher in self.watchers:
            watcher(peer, True)

    def down(self, peer: PeerId) -> None:
        settling = self._settling.pop(peer, None)
        if settling is not None:
            settling.cancel()
        else:
            for errand in self.errands:
                errand.down(peer)
        for watcher in self.watchers:
            watcher(peer, False)

    async def _later(self, peer: PeerId, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(SETTLE_S)
        if self._settling.get(peer) is scope:
            del self._settling[peer]
            for errand in self.errands:
                errand.up(peer)
