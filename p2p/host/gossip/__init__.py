"""Gossip: libp2p's GossipSub 1.1 keeps the meshes; what is read, believed and passed on is decided here.

    frame ── parsed ── of a topic we follow? ── within its limits? ── new? ── signed by its author? ── check()
                                                      │                                │                  │
                                                      └─ no: dropped, and counted against who passed it on┘
                                                         yes: subscribers, and the outboxes of the mesh

pubsub (who follows what, reading) ── judge (rates, marks) ── router (meshes, passing on) ── outbox (one a peer)

Mended on the way: the stock reader verifies a signed address record with every message (the gate has proven more),
validates in a task of its own for each, and remembers without bound; the stock sender copies each message for each
peer, drops the newest when a peer is slow, and writes to a stream from two tasks; protocols above 1.1 send IDONTWANT
to the whole mesh for every message.
"""

from p2p.host.gossip.meshes import Meshes

__all__ = ["Meshes"]
