"""Copies of published models: at least three in a region while there is room, so that none hangs on one machine.

The region's leader counts who is to be found under each file on the DHT and asks members that hold none to fetch it.
Nobody is ordered: a member without room says so in its log, and the next round asks the next one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import structlog
import trio

from inference.artifacts.release import Published
from p2p.errors import FORBIDDEN, MODEL_INVALID, TetherError
from p2p.identity import PeerId
from p2p.messages import Ack, Message, Method
from p2p.rpc import Rpc
from tetherd.registry.library import Library
from topics.swarm import Swarm

WANTED: Final = 3
ROUND_S: Final = 60.0
LOOKED_UP: Final = 32
"""Releases whose holders are counted in one round: a DHT lookup a file. With more, they take turns."""
ASKED: Final = 8
"""Members that are asked in one round: a fetch takes a while, and the next round sees what came of it."""
ASK_S: Final = 5.0

_log = structlog.get_logger()


class ReplicateRequest(Message, frozen=True):
    """model: name@version."""

    model: str


REPLICATE: Final = Method("replicate", ReplicateRequest, Ack)


class Region(Protocol):
    """What has to be known of the swarm."""

    @property
    def me(self) -> PeerId: ...

    def leaders(self) -> Sequence[PeerId]: ...

    def living(self) -> Iterable[PeerId]:
        """The members of this region that live, this node among them."""
        ...

    def serving(self, reference: str) -> int:
        """How many workers of this region serve name@version, as far as this node knows."""
        ...


class InRegion:
    """A `Region` as the swarm's view shows it."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    @property
    def me(self) -> PeerId:
        return self._swarm.me

    def leaders(self) -> Sequence[PeerId]:
        return self._swarm.leaders()

    def living(self) -> Iterable[PeerId]:
        yield self._swarm.me
        for known in self._swarm.view.members(self._swarm.region):
            if known.state == "alive" and known.peer != self._swarm.me:
                yield known.peer

    def serving(self, reference: str) -> int:
        reports = [known.presence.health for known in self._swarm.view.workers(self._swarm.region)]
        served = [{f"{one.name}@{one.version}" for one in report.model_cache} for report in reports if report]
        return sum(reference in models for models in served)


def place(
    holders: Mapping[str, frozenset[PeerId]], living: Iterable[PeerId], wanted: int, at_most: int
) -> list[tuple[str, PeerId]]:
    """Whom to ask to hold which release, those with the fewest copies first. Pure.

    Each release has an order of members of its own (by hash), so that copies are spread and every leader asks the same.
    """
    members = frozenset(living)
    orders: list[tuple[str, PeerId]] = []
    for reference in sorted(holders, key=lambda one: (len(holders[one] & members), one)):
        lacking = wanted - len(holders[reference] & members)
        free = sorted(members - holders[reference], key=lambda peer: _rank(reference, peer))
        orders += [(reference, peer) for peer in free[: max(0, lacking)]]
    return orders[:at_most]


def _rank(reference: str, peer: PeerId) -> bytes:
    return hashlib.blake2b(f"{reference}/{peer}".encode(), digest_size=16).digest()


class Replicas:
    """`run` counts and asks while this node leads, and fetches when it is asked."""

    def __init__(
        self, library: Library, region: Region, rpc: Rpc, *, draw: Callable[[], float] = random.random
    ) -> None:
        self._library = library
        self._region = region
        self._rpc = rpc
        self._draw = draw
        self._turn = 0
        self._wanted, self._wishes = trio.open_memory_channel[str](ASKED)
        rpc.serve(REPLICATE, self._answer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch)
            task_status.started()
            while True:
                await trio.sleep(ROUND_S * (0.5 + self._draw()))
                if list(self._region.leaders())[:1] == [self._region.me]:
                    await self.round()

    async def round(self) -> list[tuple[str, PeerId]]:
        """Count once, and ask. Returns who was asked for what."""
        holders = {one.reference: await self.holders(one) for one in self._turns()}
        orders = place(holders, self._region.living(), WANTED, ASKED)
        for reference, peer in orders:
            try:
                await self._rpc.ask(peer, REPLICATE, ReplicateRequest(reference), timeout_s=ASK_S)
            except TetherError as error:
                _log.info("replica_refused", model=reference, peer=peer, cause=str(error)[:200])
            else:
                _log.info("replica_asked", model=reference, peer=peer, held=len(holders[reference]))
        return orders

    def serving(self, reference: str) -> int:
        """How many workers serve name@version here."""
        return self._region.serving(reference)

    async def holders(self, published: Published) -> frozenset[PeerId]:
        """Who has all files of a release, or is about to: as the DHT says, and this node as it knows."""
        found: frozenset[PeerId] | None = None
        for one in published.release.files:
            has = frozenset(await self._library.shelf.holders(one.blob.sha256))
            found = has if found is None else found & has
        own = {self._region.me} if self._library.holds(published) else set[PeerId]()
        return (found or frozenset()) - {self._region.me} | own

    def _turns(self) -> list[Published]:
        known = [one for one in self._library.catalogue.all() if not one.release.retired]
        if not known:
            return []
        begin = self._turn % len(known)
        self._turn += LOOKED_UP
        return (known[begin:] + known[:begin])[:LOOKED_UP]

    async def _answer(self, peer: PeerId, request: ReplicateRequest) -> Ack:
        await trio.lowlevel.checkpoint()
        if peer not in self._region.leaders():
            raise TetherError(FORBIDDEN, "Only who leads the region may ask for copies.")
        name, at, version = request.model.partition("@")
        if not (name and at and version) or len(request.model) > 256:
            raise TetherError(MODEL_INVALID, "A copy is asked for as name@version.", field="model")
        try:
            self._wanted.send_nowait(request.model)
        except trio.WouldBlock:
            _log.info("replica_not_now", model=request.model)
        return Ack()

    async def _fetch(self) -> None:
        """One after the other: copies are for the long run, whoever needs a model now fetches it himself."""
        async for reference in self._wishes:
            name, _, version = reference.partition("@")
            try:
                await self._library.get(name, version)
            except TetherError as error:
                _log.warning("replica_not_kept", model=reference, cause=str(error)[:300])
            else:
                _log.info("replica_kept", model=reference)
