"""Who misbehaved lately, pure: marks that fade, and a bounded table of them.

A member that broke a protocol is refused until its marks have faded; a stranger whose handshake was none, or never
ended, counts for its network (an IPv4 /24, an IPv6 /48), which then gets few handshakes at a time, since honest peers
may live there too.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Final

HALF_LIFE_S: Final = 60.0
MEMBER_LIMIT: Final = 1.0
"""Marks above which a member is refused. One breach weighs 2: it is out for a minute, a second one for longer."""
BREACH: Final = 2.0
NETWORK_LIMIT: Final = 16.0
"""Failed handshakes of one network, faded, above which it is held short: a swarm's restart stays below."""
HELD_SHORT: Final = 8
"""Handshakes at a time of a network above its limit."""
HELD_APART_S: Final = 0.25
"""Between two of them: a member that was dropped can still shake hands, which costs a core a millisecond and a half."""
TABLE: Final = 4_096
"""Entries; the one that was marked longest ago goes first. An attacker with more networks has them forgotten."""


@dataclass(slots=True)
class _Mark:
    weight: float
    at: float


class Scores:
    """Marks by key. now: seconds, of any clock that only goes forward."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._marks: OrderedDict[str, _Mark] = OrderedDict()

    def mark(self, key: str, weight: float, now: float) -> None:
        self._marks[key] = _Mark(self.weight(key, now) + weight, now)
        self._marks.move_to_end(key)
        if len(self._marks) > TABLE:
            self._marks.popitem(last=False)

    def weight(self, key: str, now: float) -> float:
        mark = self._marks.get(key)
        return mark.weight * 0.5 ** ((now - mark.at) / HALF_LIFE_S) if mark else 0.0

    def refused(self, key: str, now: float) -> bool:
        return self.weight(key, now) > self._limit

    def __len__(self) -> int:
        return len(self._marks)


@lru_cache(TABLE)
def network_of(host: str) -> str:
    """The network that an address is counted under; what is no address (a pipe, a relay) is one of its own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


class Door:
    """Handshakes of strangers under way, by network, and what became of earlier ones.

    room: for so many at a time.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._scores = Scores(NETWORK_LIMIT)
        self._inside: Counter[str] = Counter()
        self._let_in: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return self._inside.total()

    def lets_in(self, network: str, now: float) -> bool:
        """Whether a handshake may begin. Of a network that is held short it counts as begun."""
        if len(self) >= self._room:
            return False
        if not self._scores.refused(network, now):
            return True
        if self._inside[network] >= HELD_SHORT or now < self._let_in.get(network, -inf) + HELD_APART_S:
            return False
        self._let_in[network] = now
        self._let_in.move_to_end(network)
        if len(self._let_in) > TABLE:
            self._let_in.popitem(last=False)
        return True

    @contextmanager
    def inside(self, network: str) -> Iterator[None]:
        self._inside[network] += 1
        try:
            yield
        finally:
            self._inside[network] -= 1
            if not self._inside[network]:
                del self._inside[network]

    def failed(self, network: str, now: float) -> None:
        self._scores.mark(network, 1.0, now)
