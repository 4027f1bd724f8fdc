"""The swarm as one node lives in it: joins the topics, is found, finds others, and knows who leads.

meeting    DHT records, lookups, dials, introductions        every node
reports    health and state, straight to the leaders         every node
rosters    what candidates know, asked for and answered      every node
mesh       heartbeats and presences by gossip                candidates: certified orchestrators in the role
directory  view and election, fed by all of the above        every node (the election: candidates)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2p.errors import ROLE_FORBIDDEN, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import Papers
from p2p.messages import HEALTH, PRESENCE, ROSTER, Ack, Announcement, HealthReport, Role, ServedModel
from p2p.rpc import Rpc
from p2p.transport import Network, PeerAddress
from topics import names
from topics.directory import Directory
from topics.meeting import Meeting
from topics.mesh import Mesh
from topics.names import Topic
from topics.reports import Reports
from topics.rosters import Rosters
from topics.settings import (
    HEALTH_TEMPO,
    MAX_MODEL_LOOKUPS,
    PRESENCE_TEMPO,
    SwarmMetrics,
    SwarmSettings,
)
from topics.tempo import Tempo
from topics.view import View
from topics.voice import Voice, Willingness


@dataclass(frozen=True, slots=True)
class SwarmStatus:
    """For people. orchestrator: the first leader of the own region; topics: what this node is to be found under."""

    region: str
    orchestrator: PeerId | None
    peers: int
    members: int
    topics: tuple[str, ...]


class Swarm:
    """One node's membership of its region. incarnation: greater than in any earlier life; now: unix seconds."""

    def __init__(
        self,
        network: Network,
        rpc: Rpc,
        key: NodeKey,
        papers: Papers,
        *,
        region: str,
        roles: tuple[Role, ...],
        incarnation: int,
        settings: SwarmSettings,
        health: Callable[[], HealthReport | None],
        metrics: SwarmMetrics,
        now: Callable[[], float] = time.time,
        version: str = "",
    ) -> None:
        """Raises TetherError(FIELD_INVALID | ROLE_FORBIDDEN)."""
        names.check_region(region)
        member = papers.member
        certificate = member.certificate
        if not roles or not set(roles) <= set(certificate.roles) or region not in certificate.regions:
            raise TetherError(ROLE_FORBIDDEN, "The certificate does not allow these roles in this region.")
        self.me = member.peer
        self.region = region
        self.roles = roles
        self._network = network
        self._rpc = rpc
        self._settings = settings
        self._candidate = "orchestrator" in roles
        self._directory = Directory(member, region, settings, metrics, candidate=self._candidate, now=now)
        self._voice = Voice(
            key, papers, network, self._directory, settings,
            roles=roles, incarnation=incarnation, version=version, health=health, now=now,
        )  # fmt: skip
        parts = self._directory, self._voice
        swarm_id = certificate.swarm_id
        self._meeting = Meeting(network, rpc, *parts, swarm_id, settings, metrics, topics=self._topics)
        self._reports = Reports(network, rpc, self._meeting, *parts, settings)
        self._rosters = Rosters(rpc, self._meeting, *parts, settings, candidate=self._candidate)
        self._mesh = Mesh(network, *parts, swarm_id, settings)
        self._presences = Tempo(*PRESENCE_TEMPO)
        self._healths = Tempo(*HEALTH_TEMPO)
        self._nursery: trio.Nursery | None = None

    # ── What the other parts ask ─────────────────────────────────────────────────────────────────────────────────

    @property
    def view(self) -> View:
        return self._directory.view

    def leaders(self, region: str | None = None) -> list[PeerId]:
        """Ranked candidates that live, best first, at most five; this node may be among them."""
        return self._directory.leaders(region or self.region)

    def is_candidate(self) -> bool:
        return self._candidate

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """What a peer said of where it may be dialled: multiaddrs without the /p2p/ part."""
        known = self.view.get(peer)
        return known.presence.addresses if known is not None else ()

    def status(self) -> SwarmStatus:
        leaders = self.leaders()
        return SwarmStatus(
            self.region,
            leaders[0] if leaders else None,
            len(self._network.peers()),
            len(self.view.members()),
            tuple(topic.name for topic in self._topics()),
        )

    async def wait_joined(self) -> None:
        """Return once a leader of the region is known, or this node is one."""
        await self._directory.joined.wait()

    async def find_workers(self, model: str, version: str, region: str | None = None) -> list[PeerAddress]:
        """Look up on the DHT who serves a model, connect, and take them into the view. Those reached are returned."""
        return await self._meeting.look_up(names.models(model, version, region or self.region))

    def report_unreachable(self, peer: PeerId) -> None:
        """A call to this peer was refused: passed over from now on, until it is heard again."""
        self._directory.doubt(peer)
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(self._meeting.mend, peer)

    # ── What the daemon says ─────────────────────────────────────────────────────────────────────────────────────

    async def set_state(self, state: Willingness) -> None:
        """Announce at once that this node is ready, drains or leaves. Waits a few seconds at most."""
        self._voice.state = state
        self._directory.stand(state == "ready")
        if self._candidate:
            await self._mesh.announce_now()
        await self._reports.tell_leaders()
        if state == "leaving":
            await self._reports.say_goodbye()

    async def announce_models(self) -> None:
        """The served models changed: be found under them, and tell the leaders."""
        await trio.lowlevel.checkpoint()
        self._meeting.models_changed()
        self._mesh.changed()
        self._reports.changed()

    def moved(self) -> None:
        """This node is to be dialled elsewhere: say so where it is found, and to those who lead."""
        self._meeting.models_changed()
        self._mesh.changed()
        self._reports.changed()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live in the swarm until cancelled; started as soon as others may find this node."""
        self._rpc.serve(PRESENCE, self._answer_presence)
        self._rpc.serve(HEALTH, self._answer_health)
        self._rpc.serve(ROSTER, self._rosters.answer)
        self._voice.presence()
        self._network.watch(self._meeting.watch)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self._candidate:
                for topic in self._mesh.topics:
                    await nursery.start(self._mesh.listen, topic)
                nursery.start_soon(self._mesh.announce)
            nursery.start_soon(self._meeting.provide)
            nursery.start_soon(self._meeting.greet_arrivals)
            nursery.start_soon(self._meeting.mend_departures)
            nursery.start_soon(self._meeting.mend_candidates)
            nursery.start_soon(self._pulse)
            task_status.started()
            await self._enter()
            nursery.start_soon(self._meeting.look_around)
            nursery.start_soon(self._reports.report)
            nursery.start_soon(self._rosters.follow)
            nursery.start_soon(self._rosters.follow_foreign)
            await self.wait_joined()
            await self._find_models()

    # ── How ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _enter(self) -> None:
        """Get to know who is there before offering to lead: a newcomer that asks first splits no region."""
        with trio.move_on_after(self._settings.enter_s):
            await self._meeting.greet_all()
            await self._rosters.refresh()
            if self._network.peers():  # a founder has nobody to ask: it leads at once
                await self._meeting.look_up(names.presence(self.region))
        self._directory.stand(self._voice.state == "ready")

    async def _pulse(self) -> None:
        while True:
            ranked = self._directory.tick()
            if ranked is not None:
                await self._mesh.beat(ranked)
            await trio.sleep(self._settings.pulse.interval_s / 2)

    async def _find_models(self) -> None:
        """A newcomer looks up each model that it hears of: the DHT may know workers that no roster named yet."""
        looked_up: set[tuple[str, str]] = set()
        with trio.move_on_after(self._settings.acquaint_s):
            while len(looked_up) < MAX_MODEL_LOOKUPS:
                for name, version in sorted(self._models_seen() - looked_up):
                    looked_up.add((name, version))
                    await self.find_workers(name, version)
                await trio.sleep(self._settings.react_s)

    def _models_seen(self) -> set[tuple[str, str]]:
        reports = [known.presence.health for known in self.view.workers(self.region) if known.peer != self.me]
        return {(model.name, model.version) for report in reports for model in _served(report)}

    def _topics(self) -> list[Topic]:
        own = {(model.name, model.version) for model in _served(self._voice.health())}
        models = [names.models(name, version, self.region) for name, version in sorted(own)]
        return [names.presence(self.region), *models]

    async def _answer_presence(self, peer: PeerId, announcement: Announcement) -> Announcement:
        await trio.lowlevel.checkpoint()
        self._presences.take(peer, trio.current_time())
        self._directory.take(announcement, peer)
        return self._voice.presence()

    async def _answer_health(self, peer: PeerId, announcement: Announcement) -> Ack:
        await trio.lowlevel.checkpoint()
        self._healths.take(peer, trio.current_time())
        self._directory.take(announcement, peer)
        return Ack()


def _served(health: HealthReport | None) -> tuple[ServedModel, ...]:
    return health.model_cache if health is not None else ()
