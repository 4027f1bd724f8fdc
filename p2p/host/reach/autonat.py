"""The shell: asks in rounds, keeps a verdict for each address, and says whether this node is reachable."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from p2p.host.addresses import TcpAddress
from p2p.host.paths import Reach, Reachability
from p2p.host.reach.answering import PEER_DIALS, Answering
from p2p.host.reach.asking import Asking
from p2p.host.reach.plan import WITNESSES, Witness, choose, pause_s
from p2p.host.reach.verdict import Verdict, Vote, overall
from p2p.host.switch import Switch
from p2p.identity import PeerId

SETTLE_S: Final = 1.0
"""After news: peers come in crowds, and each of them tells what it sees a moment later."""
GAP_S: Final = 5.0
"""After a round, whatever happens."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Finding:
    """What this node knows of its reachability; why is a sentence for people."""

    state: Reachability
    why: str


class AutoNat:
    """candidates: the addresses to ask about now. concluded: called after each round."""

    def __init__(
        self,
        switch: Switch,
        reach: Reach,
        candidates: Callable[[], Sequence[TcpAddress]],
        rng: random.Random,
        *,
        concluded: Callable[[], None] = lambda: None,
    ) -> None:
        self._switch = switch
        self._reach = reach
        self._candidates = candidates
        self._rng = rng
        self._concluded = concluded
        self._concluded_last = Reachability.UNKNOWN
        self._asking = Asking(switch)
        Answering(switch, rng)
        self._verdicts: dict[TcpAddress, Verdict] = {}
        self._news = trio.Event()
        switch.listeners.append(self)

    # ── What others ask ──────────────────────────────────────────────────────────────────────────────────────────

    def confirmed(self) -> Iterable[TcpAddress]:
        """Addresses at which several peers' dials arrived."""
        return self._in(Reachability.PUBLIC)

    def refuted(self) -> Container[TcpAddress]:
        """Addresses at which dials do not arrive."""
        return self._in(Reachability.PRIVATE)

    def finding(self) -> Finding:
        state = self._reach.verdict
        for address, verdict in self._verdicts.items():
            if verdict.state is state is not Reachability.UNKNOWN:
                arrived = f"dials from {verdict.reached} of {verdict.of} networks arrive at {address}"
                return Finding(state, arrived)
        if self._verdicts:
            return Finding(state, "no peer outside this network has answered yet")
        return Finding(state, "no address of the internet is known here: nothing to ask others about")

    # ── News ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def up(self, peer: PeerId) -> None:
        """Another witness is worth a round while there are fewer than a round asks."""
        if any(verdict.of < WITNESSES for verdict in self._verdicts.values()) or not self._verdicts:
            self._news.set()

    def down(self, peer: PeerId) -> None:
        """What it said counts until the next round."""

    def look_again(self) -> None:
        """Peers see another address than before, or a router gave one."""
        self._news.set()

    def moved(self) -> None:
        """What was found was found elsewhere, unless connections still stand."""
        if not self._switch.peers():
            self._verdicts.clear()
        self._news.set()

    async def run(self) -> None:
        while True:
            await self._round()
            if self._verdicts:
                await trio.sleep(GAP_S)
            with trio.move_on_after(pause_s(self._verdicts, self._rng)):
                await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(SETTLE_S)

    # ── A round ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _round(self) -> None:
        """Ask several peers about each address, as many at a time as one of them answers."""
        wanted = list(self._candidates())
        self._verdicts = {address: self._verdicts.get(address, Verdict()) for address in wanted}
        limiter = trio.CapacityLimiter(PEER_DIALS)
        async with trio.open_nursery() as nursery:
            for address in wanted:
                nursery.start_soon(self._ask_about, address, limiter)
        self._conclude()
        if wanted:
            self._concluded()

    async def _ask_about(self, address: TcpAddress, limiter: trio.CapacityLimiter) -> None:
        votes: list[Vote] = []

        async def ask(witness: Witness) -> None:
            reached = await self._asking.ask(witness.peer, address)
            if reached is not None:
                votes.append(Vote(witness.network, reached))

        async with limiter, trio.open_nursery() as nursery:
            for witness in choose(self._witnesses(), address, self._rng):
                nursery.start_soon(ask, witness)
        if address in self._verdicts:  # else this machine has moved meanwhile
            self._verdicts[address] = self._verdicts[address].after(votes)

    def _conclude(self) -> None:
        found = overall(self._verdicts.values())
        if found is not self._concluded_last:
            self._concluded_last = found
            self._reach.found(found)
            finding = self.finding()
            _log.info("reachability", state=finding.state.value, why=finding.why)

    def _witnesses(self) -> list[Witness]:
        paths = ((peer, self._switch.path(peer)) for peer in sorted(self._switch.peers()))
        return [Witness(peer, path.remote) for peer, path in paths if path is not None and path.remote]

    def _in(self, state: Reachability) -> list[TcpAddress]:
        return [address for address, verdict in self._verdicts.items() if verdict.state is state]
