"""The composition root: opens every part of a node in one nursery, and takes leave in the opposite order.

    data directory > engines > host > rpc > membership > swarm > roles > shim and admin socket

What the node does for the swarm, role by role, is in tetherd/duties.py. A part that fails ends the daemon with one
clear sentence; SIGTERM drains it, a second signal stops it at once.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import Final

import structlog
import trio

from p2p.host import HostSettings, open_host
from p2p.host.host import Host
from p2p.host.settings import DEFAULTS, RelayTerms
from p2p.host.sockets import everywhere
from p2p.identity import NodeKey, PeerId
from p2p.membership import Papers, admit, check_credential, read_ticket
from p2p.messages import ROLES, Role
from p2p.rpc import Rpc
from p2p.transport import Network, PeerAddress
from tetherd import __version__
from tetherd.admin import build_admin
from tetherd.config import PORT, Config, bound_names, parse_bind
from tetherd.data_dir import DataDir, Standing
from tetherd.duties import Duties, Node
from tetherd.gateway.absent import NoGateway
from tetherd.gateway.answer import ModelSummary
from tetherd.gateway.models import summarize
from tetherd.http.app import HttpSettings, build_app
from tetherd.http.serve import serve, serve_unix, until_set
from tetherd.http.tls import read_tls
from tetherd.issuer import IssuerDesk, orchestrators_in, other_issuers
from tetherd.joining import Passport, Plan, addresses_in, enrol, found, plan, reach_swarm, restored
from tetherd.models import ModelHouse
from tetherd.operator import DaemonOperator
from tetherd.phases import Phases
from tetherd.renewal import Renewal
from tetherd.telemetry.metrics import Metrics
from tetherd.whereabouts import by_path, whereabouts
from topics.settings import SwarmSettings
from topics.swarm import Swarm

ORCHESTRATOR_CONNECTIONS: Final = 2048
JOIN_PATIENCE_S: Final = 10.0
"""How long a start waits for a leader before it says that there is none and goes on looking."""
REMEMBER_S: Final = 60.0
"""How often the addresses of others are written down for the next start."""

_log = structlog.get_logger()


class Daemon:
    """One node. Its parts are opened by `run`, which returns the exit code once they are closed."""

    def __init__(self, config: Config, phases: Phases, data: DataDir, key: NodeKey) -> None:
        self._config = config
        self._phases = phases
        self._data = data
        self._key = key
        self._metrics = Metrics()
        self._models = ModelHouse(config.worker, phases, self._metrics.room)
        self._duties = Duties(config, data, key, self._models, self._metrics)
        self._state = "starting"
        self._roles: tuple[Role, ...] = ()
        self._stop = trio.Event()
        self._hasty = False
        self._swarm: Swarm | None = None

    def _idle_connections(self) -> int:
        """An orchestrator hears the health of a region's 2,000 workers, each at least every 40 s."""
        default = ORCHESTRATOR_CONNECTIONS if "orchestrator" in self._roles else DEFAULTS.idle_connections
        return self._config.idle_connections or default

    async def run(self) -> int:
        """Open everything, serve until told to stop, close everything."""
        chosen = self._plan()
        passport = Passport(self._key, chosen)
        swarm_id = chosen.swarm_id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey_signals, nursery)
            if "worker" in (self._config.roles or ROLES):
                nursery.start_soon(self._models.run)
            async with open_host(
                self._key,
                listen=self._config.listen or everywhere(PORT),
                swarm_id=swarm_id,
                passport=passport,
                admit=lambda shown, peer: admit(shown, peer, swarm_id, time.time()),
                settings=_host_settings(self._config),
                idle_connections=self._idle_connections,
            ) as network:
                self._phases.reached("listening", ", ".join(network.addresses()))
                try:
                    await self._live(network, chosen, passport)
                finally:
                    await self._duties.close()
            nursery.cancel_scope.cancel()
        return 1 if self._hasty else 0

    async def _live(self, network: Host, chosen: Plan, passport: Passport) -> None:
        async with trio.open_nursery() as parts:
            rpc = Rpc(network, metrics=self._metrics.rpc)
            await parts.start(rpc.run)
            desk = self._desk(network, rpc)
            standing = await self._become_member(network, rpc, chosen, passport)
            member = check_credential(standing.credential, standing.swarm_id, time.time())
            papers = Papers(member)
            self._phases.reached("membership", f"swarm {standing.swarm_id[:8]}")
            if self._config.mdns:
                parts.start_soon(network.meet_neighbours)
            await self._reach(network, chosen)
            roles = self._roles = self._config.roles or member.certificate.roles
            swarm = self._swarm = self._enter(network, rpc, papers, roles)
            network.on_new_addresses(swarm.moved)
            await parts.start(swarm.run)
            desk.open(standing)
            parts.start_soon(self._renewal(rpc, desk, standing, papers, passport).run)
            await self._duties.take(parts, Node(network, rpc, papers, swarm), roles)
            url = await self._serve(parts, network, swarm, desk, standing)
            await self._wait_joined(swarm)
            self._state = "ready"
            self._phases.reached("ready", f"at {url}")
            parts.start_soon(self._remember, swarm)
            await self._stop.wait()
            self._write_down(swarm)
            parts.cancel_scope.cancel()

    # ── Coming into the swarm ────────────────────────────────────────────────────────────────────────────────────

    def _plan(self) -> Plan:
        """What this start does; founding happens here, before anything listens."""
        config = self._config
        ticket = read_ticket(config.ticket) if config.ticket else None
        now = time.time()
        standing = restored(self._data, self._key, config.region, now=now)
        chosen = plan(standing, ticket, config.region, config.roles, now=now)
        if chosen.standing is None and chosen.ticket is None:
            standing = found(self._data, self._key, config.region, now=now)
            self._phases.notice(
                f"FOUNDED A NEW SWARM {standing.swarm_id[:8]}. THIS NODE HOLDS ITS AUTHORITY KEY. "
                "Let other machines in with the line that `tetherctl invite` prints."
            )
            return Plan(standing, None)
        return chosen

    async def _become_member(self, network: Network, rpc: Rpc, chosen: Plan, passport: Passport) -> Standing:
        if chosen.ticket is None:
            assert chosen.standing is not None
            return chosen.standing
        config = self._config
        standing = await enrol(
            network,
            rpc,
            self._key,
            chosen.ticket,
            config.region,
            config.roles,
            now=time.time,
            adopt=passport.adopt,
        )
        self._data.save_standing(standing)
        return standing

    async def _reach(self, network: Network, chosen: Plan) -> None:
        """Dial those whose addresses are known from the ticket or from before; the DHT finds the rest."""
        known = addresses_in(chosen.ticket) if chosen.ticket else self._data.known_peers()
        reached = await reach_swarm(
            [peer for peer in known if peer.peer != self._key.node_id], network.connect
        )
        if known and not reached:
            self._phases.notice("None of the known members answers; this node goes on looking.")
        self._phases.reached("peers", f"{reached} reached")

    def _enter(self, network: Host, rpc: Rpc, papers: Papers, roles: tuple[Role, ...]) -> Swarm:
        swarm = Swarm(
            network,
            rpc,
            self._key,
            papers,
            region=self._config.region,
            roles=roles,
            incarnation=self._duties.incarnation,
            settings=SwarmSettings(),
            health=self._duties.health,
            metrics=self._metrics.swarm,
            version=__version__,
        )
        self._metrics.watch_swarm(
            reachability=lambda: network.finding().state.value,
            peers=lambda: by_path(network),
            members=lambda: Counter(known.state for known in swarm.view.members()),
        )
        return swarm

    async def _wait_joined(self, swarm: Swarm) -> None:
        with trio.move_on_after(JOIN_PATIENCE_S) as patience:
            await swarm.wait_joined()
        if patience.cancelled_caught:
            self._phases.notice(
                f"No orchestrator of region {swarm.region} is known yet; this node goes on looking."
            )
        self._phases.reached("region", swarm.region)

    # ── Letting others in ────────────────────────────────────────────────────────────────────────────────────────

    def _desk(self, network: Network, rpc: Rpc) -> IssuerDesk:
        return IssuerDesk(
            self._data,
            self._key,
            network,
            rpc,
            now=time.time,
            orchestrators=lambda region: orchestrators_in(self._swarm.view, region) if self._swarm else 0,
            others=self._other_issuers,
        )

    def _renewal(
        self, rpc: Rpc, desk: IssuerDesk, standing: Standing, papers: Papers, passport: Passport
    ) -> Renewal:
        def issuers() -> list[PeerId]:
            """Others first: a node that certifies itself for ever would never hear that it was revoked."""
            return [*(other.peer for other in self._other_issuers()), self._key.node_id]

        def adopt(renewed: Standing) -> None:
            self._data.save_standing(renewed)
            passport.adopt(renewed.credential)
            desk.open(renewed)

        return Renewal(rpc, papers, standing, issuers=issuers, adopt=adopt, now=time.time)

    def _other_issuers(self) -> list[PeerAddress]:
        return list(other_issuers(self._swarm.view, self._key.node_id)) if self._swarm else []

    # ── Serving, and taking leave ────────────────────────────────────────────────────────────────────────────────

    async def _serve(
        self,
        parts: trio.Nursery,
        network: Host,
        swarm: Swarm,
        desk: IssuerDesk,
        standing: Standing,
    ) -> str:
        http = self._config.http
        host, port = parse_bind(http.bind)
        settings = HttpSettings(
            http.max_body_bytes, bound_names(host, http.allowed_hosts), http.allowed_origins
        )
        app = build_app(self._duties.gateway or NoGateway(), settings, self._metrics.text, self._duties.door)
        tls = read_tls(http.tls_cert, http.tls_key)
        url: str = await parts.start(until_set(serve, app, host, port, tls, self._stop))

        def served() -> list[ModelSummary]:
            return summarize(swarm.view.workers(swarm.region))

        operator = DaemonOperator(
            transport=network,
            swarm=swarm,
            swarm_id=standing.swarm_id,
            desk=desk,
            orchestrator=self._duties.orchestrator,
            http=url,
            began=trio.current_time(),
            served=served,
            state=lambda: self._state,
            start_drain=lambda: self._start_drain(parts),
            where=lambda: whereabouts(network),
            lends=self._models.lending,
            now=trio.current_time,
        )
        admin = build_admin(operator, self._duties.admin_routes())
        if self._duties.orchestrator is not None:
            self._duties.door.open(admin)
        await parts.start(until_set(serve_unix, admin, self._data.control_socket, self._stop))
        self._data.write_http_addr(url)
        return url

    async def _obey_signals(self, nursery: trio.Nursery) -> None:
        """The first signal drains, the second stops at once."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                if self._state in ("draining", "starting"):
                    self._hasty = self._state == "draining"
                    nursery.cancel_scope.cancel()
                    return
                self._start_drain(nursery)

    def _start_drain(self, nursery: trio.Nursery) -> int:
        if self._state == "ready":
            self._state = "draining"
            nursery.start_soon(self._drain)
        return self._duties.running

    async def _drain(self) -> None:
        running = self._duties.running
        _log.info("daemon.draining", limit_s=self._config.drain_s, running=running)
        self._phases.reached("draining", f"{running} answers to finish; a second signal stops at once")
        assert self._swarm is not None
        await self._swarm.set_state("draining")
        with trio.move_on_after(self._config.drain_s):
            await self._duties.drain(self._config.drain_s)
        await self._swarm.set_state("leaving")
        _log.info("daemon.left")
        self._phases.reached("left", "the others know")
        self._stop.set()

    async def _remember(self, swarm: Swarm) -> None:
        while True:
            self._write_down(swarm)
            await trio.sleep(REMEMBER_S)

    def _write_down(self, swarm: Swarm) -> None:
        members = sorted(swarm.view.members(), key=lambda known: known.last_seen, reverse=True)
        known = [PeerAddress(member.peer, member.presence.addresses) for member in members]
        self._data.save_known_peers([peer for peer in known if peer.peer != self._key.node_id])


def _host_settings(config: Config) -> HostSettings:
    terms = RelayTerms(bytes_per_s=config.relay_rate) if config.relay == "auto" else None
    return HostSettings(upnp=config.upnp == "auto", relay=terms)
