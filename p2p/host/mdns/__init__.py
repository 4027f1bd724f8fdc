"""Members of the same swarm in this LAN, found by multicast DNS, with nothing configured.

lan (sockets, one an interface) ──> service (what is said and heard; pure) ──> dns (the bytes; pure)

The records are those of libp2p's mDNS, https://github.com/libp2p/specs/blob/master/discovery/mdns.md, under a service
name of the swarm's own: two swarms in a LAN never meet, and who does not know a swarm's id does not learn it.
"""

from p2p.host.mdns.lan import Lan

__all__ = ["Lan"]
