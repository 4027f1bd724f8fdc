"""Which addresses to ask about, whom to ask, and when to ask again. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from p2p.host.addresses import TcpAddress
from p2p.host.paths import Reachability
from p2p.host.reach.verdict import Verdict
from p2p.host.scores import network_of
from p2p.identity import PeerId

WITNESSES: Final = 3
"""Asked in a round: one liar among them is outvoted."""
MAX_CANDIDATES: Final = 6
"""Addresses asked about: a machine's few global ones, and what peers see of it in two families."""
DOUBT_S: Final = 10.0
"""Before an answer that contradicts the verdict is looked into."""
UNANSWERED_S: Final = 60.0
"""Before those are asked again who did not answer, or of whom there were none."""
STEADY_S: Final = 900.0
"""A mapping that is gone without an address that changed is noticed this late."""
JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class Witness:
    """A peer that could be asked. host: where its connection comes from or goes to."""

    peer: PeerId
    host: TcpAddress

    @property
    def network(self) -> str:
        return network_of(self.host.host)


def candidates(
    own: Iterable[TcpAddress], seen: Sequence[TcpAddress], bound: Iterable[TcpAddress]
) -> list[TcpAddress]:
    """Global addresses to ask about: the machine's own and those that a router maps, then what peers see of it.

    Peers see the port that a router gave an outgoing connection; a port that was opened by hand is more often the one
    that is listened on.
    """
    ports = {one.family: one.port for one in bound if not (one.ip and one.ip.is_loopback)}
    found = dict.fromkeys(one for one in own if is_global(one))
    for one in seen:
        if one.family in ports:
            found[one] = None
            found[TcpAddress(one.family, one.host, ports[one.family])] = None
    return list(found)[:MAX_CANDIDATES]


def choose(witnesses: Iterable[Witness], address: TcpAddress, rng: random.Random) -> list[Witness]:
    """Up to three of those that see address from outside, as many networks as there are.

    A peer on this machine, in its LAN or behind the same router would reach what others do not.
    """
    able = [one for one in witnesses if one.host.host != address.host and _scope(one.host) == _scope(address)]
    rng.shuffle(able)
    chosen: list[Witness] = []
    while able and len(chosen) < WITNESSES:
        taken = [one.network for one in chosen]
        able.sort(key=lambda one: taken.count(one.network))
        chosen.append(able.pop(0))
    return chosen


def pause_s(verdicts: Mapping[TcpAddress, Verdict], rng: random.Random) -> float:
    """Until the next round, unless something changes before."""
    known = verdicts.values()
    if any(verdict.doubtful for verdict in known):
        pause = DOUBT_S
    elif not known or any(verdict.state is Reachability.UNKNOWN for verdict in known):
        pause = UNANSWERED_S
    else:
        pause = STEADY_S
    return pause * rng.uniform(1 - JITTER, 1 + JITTER)


def is_global(address: TcpAddress) -> bool:
    return address.ip is not None and address.ip.is_global and address.port > 0


def _scope(address: TcpAddress) -> str:
    """The internet, one LAN, or this machine: who is in one says nothing of another."""
    if address.ip is None:
        return "name"
    if address.ip.is_loopback:
        return "machine"
    return "internet" if address.ip.is_global else "lan"
