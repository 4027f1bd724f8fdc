"""One heap for the deadlines of all calls: a cancel scope for each would cost more than the rest of a call."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Final

import trio

SLACK: Final = 1000
"""Entries of calls that ended in time are swept out once they outnumber the others by so many."""

Expire = Callable[[], None]


class Deadlines:
    """`run` calls what was added when its time has come, unless it was removed before."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._expire: dict[int, Expire] = {}
        self._tickets = count(1)
        self._sleeping_until = -inf
        self._sleep = trio.CancelScope()

    def add(self, deadline: float, expire: Expire) -> int:
        """Returns the ticket with which to remove it; 0, which need not be removed, for a deadline that is none."""
        if deadline == inf:
            return 0
        ticket = next(self._tickets)
        self._expire[ticket] = expire
        heappush(self._heap, (deadline, ticket))
        if deadline < self._sleeping_until:
            self._sleep.deadline = self._sleeping_until = deadline
        return ticket

    def remove(self, ticket: int) -> None:
        if self._expire.pop(ticket, None) and len(self._heap) > 2 * len(self._expire) + SLACK:
            self._heap = [entry for entry in self._heap if entry[1] in self._expire]
            heapify(self._heap)

    async def run(self) -> None:
        while True:
            self._expire_due(trio.current_time())
            self._sleeping_until = self._heap[0][0] if self._heap else inf
            with trio.CancelScope(deadline=self._sleeping_until) as self._sleep:
                await trio.sleep_forever()
            self._sleeping_until = -inf

    def _expire_due(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            _, ticket = heappop(self._heap)
            if expire := self._expire.pop(ticket, None):
                expire()
