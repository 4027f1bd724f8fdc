"""The numbers of a node's life in its swarm, each with its reason, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from p2p.errors import CALL_LOST, DEADLINE, UNREACHABLE
from topics.election import LAN, WAN, Pulse
from topics.view import PATIENCE, Patience


@dataclass(frozen=True, slots=True)
class SwarmSettings:
    """Intervals and limits, in seconds where not said otherwise."""

    pulse: Pulse = LAN
    patience: Patience = PATIENCE
    report_s: float = 10.0
    """Presence on the mesh and health reports; an announcement is good for three of them."""
    reports_per_second: float = 50.0
    """What each leader takes: beyond 500 members the interval grows to members / 50 s."""
    react_s: float = 0.25
    """A changed load or model set is told at once, but no more than four times a second."""
    roster_s: float = 5.0
    """How often a node that is no candidate asks one; candidates ask each other half as often."""
    foreign_s: float = 10.0
    """Other regions change nothing that is urgent here."""
    hurry_s: float = 0.1
    """The first pause between two lookups of the meeting place; it doubles until it is lookup_s."""
    lookup_s: float = 60.0
    provide_s: float = 300.0
    """Far inside the half hour that a provider record lives: who is new among its keepers learns it soon."""
    settle_s: float = 1.0
    """Provide again this long after a new connection: its peer may be a closer keeper of our records."""
    mend_s: float = 5.0
    """How often lost candidates are dialled again."""
    call_s: float = 3.0
    dial_s: float = 3.0
    enter_s: float = 5.0
    """How long the first round of lookups and introductions may take before this node stands for election."""
    acquaint_s: float = 30.0
    """How long a newcomer looks up the workers of models that it hears of."""
    farewell_s: float = 2.0
    hearsay_s: float = 30.0
    """How long a candidate's word on who leads its region counts."""


PRESENCE_TEMPO: Final = (1.0, 16)
"""Calls of one member a second in the long run, and at once: it introduces itself on each new connection."""
HEALTH_TEMPO: Final = (8.0, 32)
"""A member whose load changes all the time reports 1 / react_s a second."""
ROSTER_TEMPO: Final = (16.0, 512)
"""A newcomer asks for all pages of all regions; after that a few a minute."""

LAN_SETTINGS: Final = SwarmSettings()
WAN_SETTINGS: Final = SwarmSettings(pulse=WAN, patience=Patience(closed_s=4.0), call_s=6.0, dial_s=6.0)

DHT_KEEPERS: Final = 20
"""Kademlia's k: beyond as many connections, a new one is unlikely to be a closer keeper."""
MAX_GREETINGS: Final = 16
"""Introductions and dials at a time: a founder that restarts meets all its members at once."""
SILENCE: Final = (UNREACHABLE, CALL_LOST, DEADLINE)
"""Errors of a call that speak against the peer's being there; any other is an answer."""
MAX_REGIONS: Final = 64
"""Foreign regions that are followed."""
MAX_MODEL_LOOKUPS: Final = 16
"""Models whose workers a newcomer looks up; whoever needs another one asks for it."""
MAX_FAREWELLS: Final = 64
"""Peers that are told goodbye one by one; the others learn it from their candidates."""


class SwarmMetrics(Protocol):
    """What the swarm counts; tetherd/telemetry implements it."""

    def announcement_dropped(self, reason: str) -> None:
        """One announcement was refused; reason: one of topics.announce.Reason."""
        ...

    def dht_lookup(self, kind: str, found: int, seconds: float) -> None:
        """One provider lookup ended. kind: of the topic; found: nodes other than this one."""
        ...

    def leader_changed(self, region: str) -> None:
        """The first leader of this node's own region is another one than before, or none."""
        ...
