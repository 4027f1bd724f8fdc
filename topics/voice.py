"""What this node says of itself, signed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Literal

from p2p.identity import NodeKey, PeerId
from p2p.membership import Papers
from p2p.messages import Announcement, HealthReport, Heartbeat, Presence, Role
from p2p.transport import Transport
from topics import names
from topics.announce import MAX_ADDRESS_CHARS, MAX_ADDRESSES, MAX_TTL_S, Author
from topics.directory import Directory
from topics.settings import SwarmSettings

Willingness = Literal["ready", "draining", "leaving"]

_LOAD_STEPS: Final = 8
"""A load is told again when it has moved by an eighth of the capacity, or to or from nothing."""


class Voice:
    """Writes presences and heartbeats. state: set by the swarm, said by the next presence. now: unix seconds."""

    def __init__(
        self,
        key: NodeKey,
        papers: Papers,
        transport: Transport,
        directory: Directory,
        settings: SwarmSettings,
        *,
        roles: tuple[Role, ...],
        incarnation: int,
        version: str,
        health: Callable[[], HealthReport | None],
        now: Callable[[], float],
    ) -> None:
        self.state: Willingness = "ready"
        self._author = Author(key, papers, incarnation)
        self._transport = transport
        self._directory = directory
        self._settings = settings
        self._roles = roles
        self._version = version
        self._health = health
        self._now = now

    @property
    def interval_s(self) -> float:
        """How often this node reports: more seldom in a region so large that its leaders would drown."""
        members = len(self._directory.view.members(self._directory.region))
        return max(self._settings.report_s, members / self._settings.reports_per_second)

    def presence(self) -> Announcement:
        """A presence that is good for three reports; also taken into this node's own view."""
        region = self._directory.region
        addresses = tuple(text for text in self._transport.addresses() if len(text) <= MAX_ADDRESS_CHARS)
        message = Presence(
            region, self._roles, addresses[:MAX_ADDRESSES], self.state, self._version, self.health()
        )
        ttl_s = min(3 * self.interval_s, MAX_TTL_S)
        announcement = self._author.announce(names.presence(region), message, ttl_s=ttl_s, now=self._now())
        self._directory.take_own(announcement)
        return announcement

    def heartbeat(self, ranked: tuple[PeerId, ...]) -> Announcement:
        region = self._directory.region
        ttl_s = self._settings.hearsay_s  # rosters pass it on for as long as a candidate's word counts
        return self._author.announce(
            names.control(region), Heartbeat(region, ranked), ttl_s=ttl_s, now=self._now()
        )

    def health(self) -> HealthReport | None:
        return self._health() if "worker" in self._roles else None

    def vital(self) -> Hashable:
        """What others have to know at once when it changes."""
        health, where = self.health(), self._transport.addresses()
        if health is None:
            return self.state, where
        served = frozenset((model.digest, model.loaded) for model in health.model_cache)
        step = health.load * _LOAD_STEPS // max(health.capacity, 1)
        return self.state, where, served, health.capacity, step, health.load > 0, health.queue > 0
