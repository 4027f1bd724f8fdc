"""Who waits for a slot, fair between tenants. Pure.

Tenants take turns: everybody's first before anybody's second, and whoever was served goes behind the others. When all
places are taken, a tenant that has fewer than another takes the place of that one's newest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

Waiter = TypeVar("Waiter")


class FairQueue(Generic[Waiter]):
    """limit: places in all. A waiter is in at most once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tenants: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    def join(self, tenant: str, waiter: Waiter) -> Waiter | None:
        """Take a place. Returns who has to leave for it: another tenant's newest, the waiter itself, or nobody."""
        loser = None
        if len(self) >= self._limit:
            longest = max(self._tenants, key=lambda other: len(self._tenants[other]))
            if len(self._tenants[longest]) <= len(self._tenants.get(tenant, ())) + 1:
                return waiter
            loser = next(reversed(self._tenants[longest]))
            self.leave(longest, loser)
        self._tenants.setdefault(tenant, OrderedDict())[waiter] = None
        return loser

    def leave(self, tenant: str, waiter: Waiter) -> None:
        """Give the place up; no harm if it is gone."""
        waiting = self._tenants.get(tenant, OrderedDict())
        waiting.pop(waiter, None)
        if not waiting:
            self._tenants.pop(tenant, None)

    def served(self, tenant: str, waiter: Waiter) -> None:
        """Give the place up for a slot: the tenant's turn is over."""
        self.leave(tenant, waiter)
        if tenant in self._tenants:
            self._tenants.move_to_end(tenant)

    def in_order(self) -> Iterator[Waiter]:
        """Those who wait now, in the order in which they are due."""
        rounds = zip_longest(*map(list, self._tenants.values()))
        return (waiter for round_ in rounds for waiter in round_ if waiter is not None)
