"""Elections of a whole region on virtual time: the second shell of `Election`, with a bad network under it.

Heartbeats take lognormal time and get lost; nodes crash without a word; one seed, one run.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from p2p.identity import PeerId
from topics.election import Beat, Effect, Election, Lead, Pulse, SendBeat, Stand, Standing, Tick, rank

REGION = "eu"


@dataclass(frozen=True)
class Weather:
    """median_s and sigma of a heartbeat's lognormal way; loss: the share that never arrives."""

    median_s: float
    loss: float
    sigma: float = 0.5


@dataclass(order=True)
class _Due:
    at: float
    order: int
    node: PeerId = field(compare=False)
    event: Beat | Tick = field(compare=False)


class Region:
    """nodes candidates that know each other. history: every change of anybody's leaders, as (time, who, leaders)."""

    def __init__(self, seed: int, nodes: int, pulse: Pulse, weather: Weather) -> None:
        self._draw = random.Random(seed)
        self._pulse = pulse
        self._weather = weather
        serials = {PeerId(f"n{index}"): self._draw.randbytes(16) for index in range(nodes)}
        self.ranked = rank(REGION, serials.items())
        self.machines = {peer: Election(REGION, peer, serial, pulse) for peer, serial in serials.items()}
        self.history: list[tuple[float, PeerId, tuple[PeerId, ...]]] = []
        self.beats_sent = 0
        self.clock = 0.0
        self._down: set[PeerId] = set()
        self._side: dict[PeerId, int] = {}
        self._queue: list[_Due] = []
        self._order = itertools.count()
        for peer, machine in self.machines.items():
            for other, serial in serials.items():
                machine.step(Standing(other, serial), 0.0)
            machine.step(Stand(True), 0.0)
            self._plan(self._draw.uniform(0, pulse.interval_s / 2), peer, Tick())

    def run(self, until: float) -> None:
        while self._queue[0].at <= until:
            due = heapq.heappop(self._queue)
            self.clock = due.at
            if due.node in self._down:
                continue
            self._perform(due.node, self.machines[due.node].step(due.event, due.at))
            if isinstance(due.event, Tick):
                self._plan(self._pulse.interval_s / 2 * self._draw.uniform(0.95, 1.05), due.node, Tick())
        self.clock = until

    def crash(self, peer: PeerId) -> None:
        self._down.add(peer)

    def divide(self, share: float) -> None:
        """Cut the region in two: heartbeats stay on their side."""
        self._side = {peer: int(self._draw.random() < share) for peer in self.ranked}

    def heal(self) -> None:
        self._side = {}

    def living(self) -> Iterator[Election]:
        return (machine for peer, machine in self.machines.items() if peer not in self._down)

    def first_leaders(self) -> set[PeerId | None]:
        return {machine.leaders[0] if machine.leaders else None for machine in self.living()}

    def _perform(self, node: PeerId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Lead(leaders):
                    self.history.append((self.clock, node, leaders))
                case SendBeat():
                    self.beats_sent += 1
                    self._broadcast(node)
                case _:
                    pass

    def _broadcast(self, node: PeerId) -> None:
        weather = self._weather
        for other in self.machines:
            apart = self._side.get(other) != self._side.get(node)
            if other != node and not apart and self._draw.random() >= weather.loss:
                delay = self._draw.lognormvariate(math.log(weather.median_s), weather.sigma)
                self._plan(delay, other, Beat(node))

    def _plan(self, delay: float, node: PeerId, event: Beat | Tick) -> None:
        heapq.heappush(self._queue, _Due(self.clock + delay, next(self._order), node, event))
