"""The numbers of a host, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class RelayTerms:
    """What a node that relays grants."""

    bytes_per_s: float = 4e6
    """All circuits together, both directions: tokens of a few hundred answers, and no more than a home line spares."""
    reservations: int = 128
    """One a peer. Each keeps a connection open that would be let go otherwise."""
    reservation_s: float = 3600.0
    """As everywhere in libp2p; it ends with the peer's connection anyway."""
    circuits: int = 128
    """Each holds at most two first windows and two reads, so all of them 80 MiB, and what the host's windows grow."""
    circuits_a_peer: int = 32
    """As source or as target. A pair needs one."""
    circuit_s: float = 3600.0
    circuit_bytes: int = 1 << 30
    """Both directions. Whoever needs longer or more opens the next circuit, and calls go on there: what is bounded is
    how long a circuit that nobody needs any more is kept."""


DEFAULT_TERMS: Final = RelayTerms()


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Times in seconds. All of them bound something that a peer could otherwise stretch for ever."""

    dial_s: float = 5.0
    """One whole dial, over all addresses: longer than any round trip, shorter than a person's patience."""
    handshake_s: float = 5.0
    """From an accepted socket to an admitted peer; a stranger holds a descriptor no longer than this."""
    stream_s: float = 5.0
    """Opening a stream and agreeing on its protocol."""
    silence_s: float = 15.0
    """A peer that was silent for so long is pinged, and after as long again given up. Half a minute of silence is a
    dead peer, or one behind a cable that was pulled: TCP alone would wait for hours."""
    query_s: float = 2.0
    """One question of the DHT to one peer, its dial included."""
    lookup_s: float = 4.0
    """One whole lookup: two waves of peers that were killed, and an answer after them."""
    provide_s: float = 20.0
    """One whole provide: it dials up to k strangers, which takes seconds on a busy machine; a record that only the few
    peers reached so far keep is gone with them, and nobody waits for the end."""
    refresh_s: float = 300.0
    """How often a node looks itself up, so that a table outlives those who were in it."""
    heartbeat_s: int = 1
    """Gossipsub's own interval."""
    max_connections: int = 2048
    """Descriptors are finite: a region's 2,000 workers and its leaders fit."""
    idle_connections: int = 128
    """Beyond so many, the longest unused are let go. A table of the DHT, a mesh and a day's peers fit."""
    idle_check_s: float = 10.0
    """How often that is looked at: a crowd that came at once costs its descriptors no longer."""
    max_strangers: int = 256
    """Handshakes under way at a time: one takes a few ms of CPU, so all of them are done within `handshake_s`."""
    relay: RelayTerms | None = DEFAULT_TERMS
    """Pass on what members say to each other who cannot be dialled, while this node can be; None: never."""
    upnp: bool = False
    """Ask the home router for a way in, where a listening address is not loopback."""


DEFAULTS: Final = HostSettings()
