"""A private node's reservations: two relays, renewed in time, and found again when they, or the cable, were gone.

candidates (connected peers, providers of the swarm's relay key) ── choose ──> ask ─┬─ granted: held, renewed
              └──────────────── backoff, per relay <────────────────────────────────┴─ refused or gone
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.host.addresses import CircuitAddress, is_circuit, parse
from p2p.host.idle import IN_USE, UNUSED
from p2p.host.paths import Reach, Reachability
from p2p.host.relay.asking import ask
from p2p.host.relay.choice import Candidate, choose
from p2p.host.relay.client import hop_stream
from p2p.host.relay.wire import RESERVE, STATUS, Hop, Status, read_hop, write_hop
from p2p.host.streams import unreachable
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.transport import PeerAddress

WANTED: Final = 2
"""Relays: when one is gone, the other still carries; more would cost members' connections and slots."""
MAX_CANDIDATES: Final = 64
SHORTEST_S: Final = 60.0
LONGEST_S: Final = 7200.0
"""Within which a reservation's time is believed: clocks differ, and it is renewed when half of it is over."""
SEARCH_S: Final = (1.0, 60.0)
"""Between two questions to the DHT while relays are missing: at first, and in the end."""
ADDRESSES_A_RELAY: Final = 3
SPARE_S: Final = 0.1
"""Between two rounds."""

_log = structlog.get_logger()

Find = Callable[[], Awaitable[Sequence[PeerAddress]]]
"""Ask the network for willing relays. Raises TetherError."""


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation. renew_s, until_s: monotonic."""

    addresses: tuple[CircuitAddress, ...]
    renew_s: float
    until_s: float


class Keeper:
    """`run` keeps what `addresses` announces."""

    def __init__(self, switch: Switch, reach: Reach, find: Find, announce: Callable[[], None]) -> None:
        """announce: called when `addresses` are others than before."""
        self._announce = announce
        self._announced: list[CircuitAddress] = []
        self.held: dict[PeerId, Held] = {}
        self._switch = switch
        self._reach = reach
        self._find = find
        self._known: dict[PeerId, Candidate] = {}
        self._stir = trio.Event()
        switch.uses.append(lambda peer: IN_USE if peer in self.held else UNUSED)
        switch.watch(self._changed)

    def addresses(self) -> list[CircuitAddress]:
        return [address for held in self.held.values() for address in held.addresses]

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_verdicts)
            nursery.start_soon(self._search)
            while True:
                self._stir = trio.Event()
                again_s = await self._round()
                if self.addresses() != self._announced:
                    self._announced = self.addresses()
                    self._announce()
                with trio.move_on_at(again_s):
                    await self._stir.wait()

    def _changed(self, peer: PeerId, up: bool) -> None:
        if not up and peer in self.held:
            del self.held[peer]
            _log.info("relay.lost", relay=peer)
            self._candidate(peer, ()).retry_s = 0.0
            self._stir.set()
        path = self._switch.path(peer) if up else None
        if path is not None and path.relay is None and len(self.held) < WANTED:
            self._candidate(peer, ()).retry_s = 0.0
            self._stir.set()

    async def _heed_verdicts(self) -> None:
        while True:
            await self._reach.changed()
            self._stir.set()

    async def _search(self) -> None:
        pause_s, longest_s = SEARCH_S
        while True:
            if self._missing():
                try:
                    for found in await self._find():
                        self._candidate(found.peer, found.addresses)
                    self._stir.set()
                except TetherError as error:
                    _log.debug("relay.search_failed", cause=error.code.name)
                pause_s = min(2 * pause_s, longest_s)
            else:
                pause_s = SEARCH_S[0]
            with trio.move_on_after(pause_s * random.uniform(0.5, 1.0)):
                await self._reach.changed()

    def _candidate(self, peer: PeerId, addresses: tuple[str, ...]) -> Candidate:
        if peer not in self._known and len(self._known) >= MAX_CANDIDATES:
            worst = max(self._known, key=lambda one: (one not in self.held, self._known[one].failures))
            del self._known[worst]
        candidate = self._known.setdefault(peer, Candidate())
        candidate.addresses = tuple(text for text in addresses if not is_circuit(text)) or candidate.addresses
        return candidate

    async def _round(self) -> float:
        """Ask whom there is to ask now. When to look again, monotonic."""
        now = trio.current_time()
        if self._reach.verdict is Reachability.PUBLIC:
            self.held.clear()
            return inf
        self.held = {peer: held for peer, held in self.held.items() if held.until_s > now}
        due = [peer for peer in self.held if self._due_s(peer) <= now]
        if due or self._missing():
            sure = self._reach.verdict is Reachability.PRIVATE
            wanted = choose(self._known.items(), self.held, WANTED, now) if sure else []
            async with trio.open_nursery() as nursery:
                for peer in {*due, *(peer for peer in wanted if peer not in self.held)}:
                    nursery.start_soon(self._reserve, peer)
            self._let_go(wanted)
        times = [self._due_s(peer) for peer in self.held]
        if self._missing():
            times += [one.retry_s for peer, one in self._known.items() if peer not in self.held]
        return max(min(times, default=inf), trio.current_time() + SPARE_S)

    def _due_s(self, relay: PeerId) -> float:
        """When to renew; not before a relay that failed may be asked again."""
        return max(self.held[relay].renew_s, self._candidate(relay, ()).retry_s)

    def _missing(self) -> bool:
        """Whether to look for more; while a verdict is doubted, what is held is kept, and no more."""
        return self._reach.verdict is Reachability.PRIVATE and len(self.held) < WANTED

    def _let_go(self, wanted: Sequence[PeerId]) -> None:
        """Of more than enough, those that others were preferred to; the relay forgets them in time."""
        for peer in [peer for peer in self.held if peer not in wanted][: max(0, len(self.held) - WANTED)]:
            del self.held[peer]

    async def _reserve(self, relay: PeerId) -> None:
        candidate = self._candidate(relay, ())
        try:
            stream = await hop_stream(self._switch, relay, candidate.addresses)
            began = trio.current_time()
            answer, _ = await ask(stream, write_hop(Hop(RESERVE)), read_hop)
            rtt_s = trio.current_time() - began
            await stream.reset()
            if answer.kind != STATUS or answer.status is not Status.OK:
                raise unreachable(f"It refuses: {answer.status.name}.")
            held = self._granted(relay, answer)
            if held is None:
                raise unreachable("It went away.")
        except TetherError as error:
            candidate.failed(trio.current_time(), random.random())
            _log.debug("relay.not_reserved", relay=relay, cause=error.detail)
            return
        candidate.answered(rtt_s, answer.load)
        if relay not in self.held:
            _log.info("relay.reserved_at", relay=relay, rtt_s=round(rtt_s, 4))
        self.held[relay] = held

    def _granted(self, relay: PeerId, answer: Hop) -> Held | None:
        """None: the connection is gone again, and the reservation with it."""
        path = self._switch.path(relay)
        if path is None:
            return None
        left_s = min(LONGEST_S, max(SHORTEST_S, answer.expires - time.time()))
        now = trio.current_time()
        said = [parse(text) for text in answer.addresses if not is_circuit(text)]
        useful = [end for end in said if end.ip is None or end.ip.is_global or end == path.remote]
        ways = tuple(CircuitAddress(end, relay) for end in (useful or said)[:ADDRESSES_A_RELAY])
        return Held(ways, now + left_s / 2, now + left_s)
