"""Who waits for a slot, fair between tenants by their weights and by the tokens that they ask for. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996): each tenant has a clock that a served request moves on by its tokens
over the tenant's weight, and whoever's clock is furthest behind is due. A tenant that comes back from a pause starts at
the time of the one that was served last, so that nobody saves up turns. When all places are taken, a tenant that has
fewer than another, weight for weight, takes the place of that one's newest.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Waiter = TypeVar("Waiter")


@dataclass(slots=True)
class _Tenant(Generic[Waiter]):
    """clock: tokens over weight that it was served; waiting: with the tokens of each."""

    clock: float
    weight: int = 1
    waiting: OrderedDict[Waiter, int] = field(default_factory=OrderedDict)

    @property
    def length(self) -> float:
        return len(self.waiting) / self.weight


class FairQueue(Generic[Waiter]):
    """limit: places in all. A waiter is in at most once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._now = 0.0
        self._tenants: dict[str, _Tenant[Waiter]] = {}

    def __len__(self) -> int:
        return sum(len(tenant.waiting) for tenant in self._tenants.values())

    def join(self, tenant: str, waiter: Waiter, *, tokens: int = 1, weight: int = 1) -> Waiter | None:
        """Take a place. Returns who has to leave for it: another tenant's newest, the waiter itself, or nobody."""
        loser = None
        if len(self) >= self._limit:
            longest = max(self._tenants, key=lambda other: self._tenants[other].length)
            own = self._tenants.get(tenant)
            if self._tenants[longest].length <= (len(own.waiting) + 1 if own else 1) / weight:
                return waiter
            loser = next(reversed(self._tenants[longest].waiting))
            self.leave(longest, loser)
        joined = self._tenants.setdefault(tenant, _Tenant(self._now))
        if not joined.waiting:
            joined.clock = max(joined.clock, self._now)
        joined.weight = weight
        joined.waiting[waiter] = max(1, tokens)
        return loser

    def leave(self, tenant: str, waiter: Waiter) -> None:
        """Give the place up; no harm if it is gone."""
        there = self._tenants.get(tenant)
        if there is not None:
            there.waiting.pop(waiter, None)
            self._forget()

    def served(self, tenant: str, waiter: Waiter) -> None:
        """Give the place up for a slot: the tenant's clock moves on."""
        there = self._tenants.get(tenant)
        if there is None or waiter not in there.waiting:
            return
        self._now = max(self._now, there.clock)
        there.clock += there.waiting.pop(waiter) / there.weight
        self._forget()

    def in_order(self) -> Iterator[Waiter]:
        """Those who wait now, in the order in which they are due."""
        lines = [list(tenant.waiting.items()) for tenant in self._tenants.values()]
        weights = [tenant.weight for tenant in self._tenants.values()]
        due = [
            (tenant.clock, number, 0)
            for number, tenant in enumerate(self._tenants.values())
            if tenant.waiting
        ]
        heapq.heapify(due)
        while due:
            clock, number, index = heapq.heappop(due)
            waiter, tokens = lines[number][index]
            yield waiter
            if index + 1 < len(lines[number]):
                heapq.heappush(due, (clock + tokens / weights[number], number, index + 1))

    def _forget(self) -> None:
        """A tenant without waiters whose clock others have passed is as one that was never here."""
        gone = [name for name, one in self._tenants.items() if not one.waiting and one.clock <= self._now]
        for name in gone:
            del self._tenants[name]
        if not any(one.waiting for one in self._tenants.values()):
            self._tenants.clear()
            self._now = 0.0
