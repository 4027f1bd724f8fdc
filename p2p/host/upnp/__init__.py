"""A port of this node opened on the home router, by UPnP: the address that the internet sees, announced to peers.

mapping (keeps one alive) ──> ssdp (who is a gateway here?) ──> gateway (SOAP) ──> http, xml (bounded readers)

Whatever answers in the LAN may be hostile: every answer is bounded in size, depth and time before it is read, and
nothing is asked of another machine than the one that answered.
"""

from p2p.host.upnp.mapping import PortMapping

__all__ = ["PortMapping"]
