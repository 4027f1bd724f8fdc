"""The connections of a node: listening, dialling, and who may open what. p2p/host/registry.py keeps those that stand.

    handshake ── admitted? ──> muxer ── registered ──> streams
        └ no: the socket closes, nothing was spoken

Two nodes that dial each other at once would end with two connections, or none if each closed the other's. So of two
such dials the one of the smaller id stands: its dialler refuses the other's. Any other second connection replaces the
first, because who dials has lost the old one, or shows a new certificate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.host.addresses import (
    MAX_ADDRESSES,
    AddressBook,
    CircuitAddress,
    TcpAddress,
    announced,
    interleaved,
    is_circuit,
)
from p2p.host.apart import Apart
from p2p.host.connection import Connection, agree
from p2p.host.entrance import Entrance, origin_of
from p2p.host.errors import HOSTILE_BYTES, NotAuthentic, PeerFault
from p2p.host.handshake import Gate
from p2p.host.interfaces import own_ips
from p2p.host.paths import Path, path_of
from p2p.host.raw import Pipe
from p2p.host.registry import Registry
from p2p.host.scores import BREACH, MEMBER_LIMIT, Door, Scores
from p2p.host.settings import HostSettings
from p2p.host.sockets import Dial, Listening, listen
from p2p.host.streams import MuxedStream, unreachable
from p2p.host.ways import Ways
from p2p.host.yamux.budget import HOST_GROWTH_BYTES, Budget
from p2p.identity import PeerId
from p2p.membership import Admission
from p2p.transport import CONTROL, PeerAddress, PeerWatcher, StreamHandler

SIMULTANEOUS_S: Final = 5.0
"""As long as a dial may take: an older connection was not made in a race with the one that arrives."""
RIVAL_S: Final = 1.0
"""How long the loser of such a race waits for the winner's connection to be registered."""
ACCEPT_S: Final = 0.05
"""For the winner's socket to get from the kernel's backlog into its handshake."""
LINGER_S: Final = 30.0
"""How long the peer may leave a stream open on its side after our handler has finished with it."""

_log = structlog.get_logger()

RawHandler = Callable[[MuxedStream, str], Awaitable[None]]


class _Superfluous(OSError):
    """Both sides dialled at once, and the connection that this side dialled stands."""


class _Dialling:
    """One dial, however many wait for it, and add what they know."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self.done = trio.Event()
        self.failure: TetherError | None = None


class Switch:
    """`run` owns every socket and task of it."""

    def __init__(
        self, own: PeerId, gate: Gate, settings: HostSettings, idle_connections: Callable[[], int]
    ) -> None:
        self.own = own
        self.book = AddressBook()
        self._standing = Registry(settings, idle_connections)
        self.listeners = self._standing.audience.errands
        self.uses = self._standing.uses
        self.broke = self._standing.broke
        self.disconnect = self._standing.part
        self.peers = self._standing.peers
        self.connected = self._standing.connected
        self.news = self._standing.news
        self.abandon = self._standing.abandon
        self.ips = own_ips
        self.refuted: Callable[[], Container[TcpAddress]] = tuple
        self.apart = Apart(gate)
        self.elsewhere: list[Callable[[], Iterable[TcpAddress]]] = []
        self.behind: Callable[[], Iterable[CircuitAddress]] = tuple
        self._gate = gate
        self._settings = settings
        self._handlers: dict[str, RawHandler] = {}
        self._guest_handlers: dict[str, RawHandler] = {}
        self._dialling: dict[PeerId, _Dialling] = {}
        self._shaking: dict[PeerId, Path] = {}
        self._bound: list[Listening] = []
        self.ways = Ways(self.bound, lambda: self.ips())
        self._budget = Budget(HOST_GROWTH_BYTES)
        self._door = Door(settings.max_strangers)
        self._breaches = Scores(MEMBER_LIMIT)
        self._tasks: trio.Nursery | None = None
        self._closing = False

    # ── Living ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def bind(self, addresses: Sequence[str]) -> None:
        """Raises TetherError(ADDRESS_IN_USE | FIELD_INVALID)."""
        self._bound = await listen(addresses)

    def unbind(self) -> None:
        for one in self._bound:
            one.listener.socket.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._standing.run)
                entrance = Entrance(self._lets_in, self._welcome)
                for one in self._bound:
                    self._tasks.start_soon(entrance.serve, one.listener)
                task_status.started()
        finally:
            self._tasks = None

    async def close(self) -> None:
        """Take leave of every peer, so that what was just written still arrives."""
        self._closing = True
        await self._standing.part_from_all()

    # ── What the node asks ───────────────────────────────────────────────────────────────────────────────────────

    def addresses(self) -> tuple[str, ...]:
        """Those that a router has for this node come first: who shares its LAN finds out at once, the others never."""
        elsewhere = (address for source in self.elsewhere for address in source())
        behind = tuple(str(address) for address in self.behind())
        direct = announced([*elsewhere, *self.bound()], self.ips(), refuted=self.refuted())
        return direct[: MAX_ADDRESSES - len(behind)] + behind

    def bound(self) -> list[TcpAddress]:
        """Where it listens; 0.0.0.0 and :: stand for all interfaces."""
        return [one.address for one in self._bound]

    def handle(self, protocol: str, handler: StreamHandler, *, guests: bool) -> None:
        async def answer(stream: MuxedStream, protocol: str) -> None:
            try:
                await handler(stream)
                await stream.close()
                with trio.move_on_after(LINGER_S):
                    while await stream.read(65_536):
                        pass
            except TetherError as error:
                _log.debug("stream ended", peer=stream.peer, protocol=protocol, cause=error.code.name)

        self.handle_raw(protocol, answer, guests=guests)

    def handle_raw(self, protocol: str, handler: RawHandler, *, guests: bool = False) -> None:
        self._handlers[protocol] = handler
        if guests:
            self._guest_handlers[protocol] = handler

    def protocols(self) -> tuple[str, ...]:
        """What members may open here."""
        return tuple(self._handlers)

    def withdraw(self, protocol: str) -> None:
        """Offer it no more."""
        self._handlers.pop(protocol, None)

    def watch(self, watcher: PeerWatcher) -> None:
        self._standing.audience.watchers.append(watcher)

    def admission(self, peer: PeerId) -> Admission | None:
        connection = self._standing.of(peer)
        return connection.admission if connection else None

    def path(self, peer: PeerId) -> Path | None:
        """Over what the peer is connected; None: it is not."""
        connection = self._standing.of(peer)
        return connection.path if connection is not None and connection.open else None

    async def connect(self, address: PeerAddress, *, circuits: bool = True) -> None:
        """Dial unless connected; whoever asks meanwhile waits for the same dial. circuits: over relays, too."""
        peer = address.peer
        self.book.learn(peer, address.addresses)
        if self._is_reached(peer, circuits):
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        known = [one for one in interleaved(self.book.of(peer)) if circuits or not is_circuit(one)]
        dialling = joined = self._dialling.get(peer)
        if joined is not None:
            joined.dial.also(known)
        if dialling is None:
            if self._tasks is None or self._closing:
                raise unreachable("This node is shutting down.")
            if peer == self.own:
                raise unreachable("A node does not dial itself.")
            self._check_standing(peer)
            dial = Dial(peer, known, lambda address: self.ways.pipe(peer, address))
            dialling = self._dialling[peer] = _Dialling(dial)
            self._tasks.start_soon(self._dial, peer, dialling, circuits)
        await dialling.done.wait()
        if dialling.failure is not None:
            if joined is not None and not joined.dial.has_tried(known):
                await self.connect(address, circuits=circuits)
                return
            failure = dialling.failure
            raise TetherError(failure.code, failure.detail, field=failure.field) from failure

    async def open(
        self, peer: PeerId, protocols: Sequence[str], priority: int = CONTROL
    ) -> tuple[MuxedStream, str]:
        """Open a stream, dialling first if need be. Raises TetherError(UNREACHABLE), NotOffered among them."""
        await self.connect(PeerAddress(peer))
        connection = self._standing.of(peer)
        if connection is None:
            raise unreachable(f"The connection to {peer} broke.")
        with trio.move_on_after(self._settings.stream_s):
            return await connection.open_stream(protocols, priority)
        raise unreachable(f"{peer} does not answer.")

    # ── Dialling ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _dial(self, peer: PeerId, dialling: _Dialling, circuits: bool) -> None:
        try:
            await self._reach(peer, dialling, circuits)
        except TetherError as error:
            dialling.failure = error
        finally:
            del self._dialling[peer]
            dialling.done.set()

    async def _reach(self, peer: PeerId, dialling: _Dialling, circuits: bool) -> None:
        dial = dialling.dial
        failure: TetherError | None = None
        with trio.move_on_after(self._settings.dial_s):
            async with dial.arrivals() as arrivals:
                async for address, raw in arrivals:
                    if self._is_reached(peer, circuits):
                        await trio.aclose_forcefully(raw)
                        return
                    try:
                        with trio.move_on_after(self._settings.dial_s / min(len(dial.addresses), 2)):
                            await self.introduce(peer, address, raw)
                            dialling.done.set()  # before the other addresses' tries are called off, which takes a while
                            return
                    except TetherError as error:
                        failure = error
                    if await self._rival_won(peer):
                        return
        if not self._is_reached(peer, circuits):
            raise dial.verdict(failure)

    def _is_reached(self, peer: PeerId, circuits: bool) -> bool:
        path = self.path(peer)
        return path is not None and (circuits or path.relay is None)

    async def introduce(self, peer: PeerId, address: str, raw: Pipe) -> None:
        """Shake hands over a pipe that connected. Raises TetherError, that of our own gate where it refused.

        address: worth dialling again; empty: not.
        """
        path = self._shaking[peer] = path_of(raw, outbound=True)
        try:
            secured = await self._gate.dial(raw, peer)
            connection = await agree(secured, outbound=True, budget=self._budget, path=path)
        except HOSTILE_BYTES as error:
            await trio.aclose_forcefully(raw)
            raise unreachable(
                f"{peer} refused or went away during the handshake at {address} ({type(error).__name__})."
            ) from error
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        finally:
            self._shaking.pop(peer, None)
        if address:
            self.book.worked(peer, address)
        self._enter(connection)
        assert self._tasks is not None
        self._tasks.start_soon(self._carry, connection)

    async def _rival_won(self, peer: PeerId) -> bool:
        """Whether the peer refused this dial in favour of its own, whose handshake is under way here or done."""
        with trio.move_on_after(RIVAL_S if self.own > peer else 0):
            await trio.sleep(ACCEPT_S)
            while not self.connected(peer) and len(self._door):
                await self._standing.news.park()
        return self.connected(peer)

    # ── Being dialled ────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, raw: Pipe) -> None:
        """Carry a connection that came through none of the listening sockets, if it is let in, to its end."""
        if self._lets_in(raw):
            await self._welcome(raw)
        else:
            await trio.aclose_forcefully(raw)

    async def _welcome(self, raw: Pipe) -> None:
        """Carry the connection of whoever dialled, if it is admitted, to its end."""
        try:
            connection = await self._admit(raw)
        except TetherError as error:
            _log.info("peer refused", code=error.code.name, detail=error.detail)
            await trio.aclose_forcefully(raw)
        except HOSTILE_BYTES:
            await trio.aclose_forcefully(raw)
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        else:
            if self.apart.awaits(connection.peer, connection.path) and self.connected(connection.peer):
                await self.apart.carry(connection, self.protocols())
            else:
                self._enter(connection)
                await self._carry(connection)
        finally:
            self._standing.news.unpark_all()

    def _lets_in(self, raw: Pipe) -> bool:
        """Whether there is room, and the handshakes that came from there did not fail too often."""
        full = len(self._standing) >= self._settings.max_connections
        if self._closing or full:
            return False
        return self._door.lets_in(origin_of(raw), trio.current_time())

    async def _admit(self, raw: Pipe) -> Connection:
        origin = origin_of(raw)
        try:
            with self._door.inside(origin):
                return await self._shake(raw)
        except _Superfluous:
            raise
        except (TetherError, *HOSTILE_BYTES):
            self._door.failed(origin, trio.current_time())
            raise

    async def _shake(self, raw: Pipe) -> Connection:
        with trio.move_on_after(self._settings.handshake_s):
            secured = await self._gate.accept(raw)
            self._check_standing(secured.peer)
            path = path_of(raw)
            if self._mine_stands(secured.peer, path):
                raise _Superfluous
            return await agree(secured, outbound=False, budget=self._budget, path=path)
        raise unreachable("The handshake took too long.")

    def _check_standing(self, peer: PeerId) -> None:
        if self._breaches.refused(peer, trio.current_time()):
            raise unreachable(f"{peer} broke a protocol a moment ago.")

    def _mine_stands(self, peer: PeerId, arriving: Path) -> bool:
        """Whoever dialled it, a direct connection is better than a relayed one of the same moment."""
        if self.apart.awaits(peer, arriving):
            return False
        standing = self._standing.of(peer)
        if standing is not None and trio.current_time() - standing.born >= SIMULTANEOUS_S:
            standing = None
        mine = self._shaking.get(peer) or (standing.path if standing else None)
        if mine is not None and (mine.relay is None) != (arriving.relay is None):
            return arriving.relay is not None
        return self.own < peer and (peer in self._shaking or (standing is not None and standing.outbound))

    # ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, connection: Connection) -> None:
        assert self._tasks is not None
        self._standing.enter(connection, self._tasks)
        connection.spoken = self.book.spoken(connection.peer)

    async def _carry(self, connection: Connection) -> None:
        assert self._tasks is not None
        handlers = self._guest_handlers if connection.guest else self._handlers

        async def serve(protocol: str, stream: MuxedStream) -> None:
            try:
                await handlers[protocol](stream, protocol)
            finally:
                await stream.reset()

        try:
            await connection.run(handlers, serve, self._tasks)
        except PeerFault as fault:
            relay = connection.path.relay
            if relay is None or not isinstance(
                fault, NotAuthentic
            ):  # a relay could have two members shut out
                self._breaches.mark(connection.peer, BREACH, trio.current_time())
            _log.warning("peer dropped", peer=connection.peer, relay=relay, detail=str(fault))
        finally:
            self._standing.forget(connection)
