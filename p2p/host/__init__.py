"""The libp2p implementation of `p2p.transport.Network`, and the only place that imports libp2p.

host ──> switch (sockets, dials, one connection a peer) ──> handshake (the gate) ─> connection ─> yamux
  ├──> kad (the DHT)
  ├──> gossip (GossipSub's meshes)
  └──> identify (where a member listens)
"""

from p2p.host.host import open_host
from p2p.host.settings import HostSettings

__all__ = ["HostSettings", "open_host"]
