"""Circuit relay v2: nodes that strangers can dial pass on what two members say to each other, sealed end to end.

    source ── hop: CONNECT ──> relay ── stop: CONNECT ──> target, which holds a reservation there
       └──────── Noise and yamux, as over any pipe ────────┘

https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from p2p.host.relay.relaying import Relaying

__all__ = ["Relaying"]
