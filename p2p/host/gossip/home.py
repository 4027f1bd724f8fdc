"""What libp2p's Pubsub asks of its host, served by our switch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import structlog
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.errors import TetherError
from p2p.host.errors import HOSTILE_BYTES
from p2p.host.streams import MuxedStream, NotOffered, PubsubStream
from p2p.host.switch import Switch
from p2p.identity import NodeKey, PeerId

_log = structlog.get_logger()


class Home:
    """It is `IHost` and `INetwork` as far as Pubsub goes."""

    def __init__(self, key: NodeKey, switch: Switch) -> None:
        self._keys = create_new_key_pair(key.seed)
        self._id = ID.from_pubkey(self._keys.public_key)
        self._switch = switch
        self._peerstore = PeerStore()

    def get_id(self) -> ID:
        return self._id

    def get_private_key(self) -> Any:
        return self._keys.private_key

    def get_public_key(self) -> Any:
        return self._keys.public_key

    def get_peerstore(self) -> PeerStore:
        return self._peerstore

    def get_addrs(self) -> list[Multiaddr]:
        return []

    def get_network(self) -> Home:
        return self

    def register_notifee(self, notifee: object) -> None:
        """Nothing comes from there: `Meshes.up` and `down` do it, for members alone."""

    def get_connections(self, peer: ID) -> Sequence[_Standing]:
        return [_Standing()] if PeerId(peer.to_base58()) in self._switch.peers() else []

    def set_stream_handler(self, protocol: TProtocol, handler: StreamHandlerFn) -> None:
        async def answer(stream: MuxedStream, protocol: str) -> None:
            try:
                await handler(cast(INetStream, PubsubStream(stream, protocol)))
            except (*HOSTILE_BYTES, TetherError) as error:
                _log.debug("gossip stream ended", peer=stream.peer, cause=type(error).__name__)

        self._switch.handle_raw(str(protocol), answer)

    async def new_stream(self, peer: ID, protocols: Sequence[TProtocol]) -> INetStream:
        """Raises SwarmException where another try makes sense, and NotOffered, after which Pubsub gives up."""
        try:
            stream, protocol = await self._switch.open(
                PeerId(peer.to_base58()), [str(one) for one in protocols]
            )
        except NotOffered:
            raise
        except TetherError as error:
            raise SwarmException(error.detail) from error
        return cast(INetStream, PubsubStream(stream, protocol))


class _Standing:
    """A connection, as far as Pubsub looks: it is there."""

    muxed_conn: None = None
