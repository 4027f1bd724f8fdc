"""Kademlia as libp2p speaks it, for provider records and peers' addresses.

py-libp2p's own answers `find_providers` from its store without asking, believes 10 s in each dead peer, resets the
eleventh announcement in ten seconds and ignores the protocol prefix; what it would leave of itself is its protobuf.
"""

from p2p.host.kad.dht import Dht

__all__ = ["Dht"]
