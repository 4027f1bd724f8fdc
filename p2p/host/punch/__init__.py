"""Hole punching (DCUtR) over TCP: two nodes behind routers that are connected over a relay dial each other at once.

    target (was dialled over the relay)              source (dialled)
      ── CONNECT: how routers show me ──────────────>
      <─ CONNECT: how they show me ──────────────────
      ── SYNC ──────────────────────────────────────>  dials at once, and is the client of what comes of it
      dials half a round trip later, and is its server

https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

from p2p.host.punch.punching import Punching

__all__ = ["Punching"]
