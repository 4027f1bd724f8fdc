"""How the 16 MiB that one peer's answers may take here are shared among its calls, so that nobody's pause stops others.

    floors    every call owns one from its start to its end, so each goes on, whatever the others leave unread
    widening  a window takes its share of what is spare, and gives back or takes more whenever its reader reads
    aside     a message longer than its window, once its reader waits for it: one after the other, each set aside whole

A reader that pauses keeps what its window lets in, loses nothing, and can take nothing more: its callee waits. Shares
are fractions of what is left, so they never end. Only what has a reader is set aside, and whoever sends such a message
has all of it, so that waiting ends too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from p2p.errors import CAPACITY, FLOW_VIOLATION, TetherError
from p2p.rpc.frames import MESSAGE_WEIGHT
from p2p.rpc.limits import RpcLimits

SHARE: Final = (64, 8, 4)
"""A call takes this part of what is spare, by priority: control, chunks, artifacts."""
RETURNS: Final = 4
"""Credit goes back by quarters of a window: fewer frames than one a message, and never a stall."""


class Pool:
    """Of one peer. calls: under way; spare: what no window has; held: what may be here or on its way."""

    def __init__(self, limits: RpcLimits) -> None:
        self.calls = 0
        self.held = 0
        self.spare = (
            limits.peer_credit_bytes - limits.outbound_calls * limits.floor_bytes - limits.message_bytes
        )
        self._limits = limits
        self._aside = limits.message_bytes
        self._waiting: deque[Window] = deque()

    def open(self, priority: int, credit: Callable[[int], None]) -> Window:
        """A window for a new call. credit: told what more the callee may send. Raises TetherError(CAPACITY)."""
        limits = self._limits
        if self.calls >= limits.outbound_calls:
            detail = f"{self.calls} calls to this peer are under way."
            raise TetherError(CAPACITY, detail, retry_after_s=limits.capacity_retry_s)
        self.calls += 1
        return Window(self, priority, credit, limits)

    def share(self, priority: int) -> int:
        """What a window may have beyond its floor, of what is spare now."""
        return min(
            self._limits.widest_bytes[priority] - self._limits.floor_bytes, self.spare // SHARE[priority]
        )

    def set_aside(self, window: Window) -> None:
        self._waiting.append(window)
        self._serve()

    def put_back(self, window: Window, amount: int) -> None:
        self._aside += amount
        if window in self._waiting:
            self._waiting.remove(window)
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0].lack <= self._aside:
            window = self._waiting.popleft()
            self._aside -= window.lack
            window.lend()


class Window:
    """Of one call. size: the credit that is out while nothing is unread; arrived, granted: in all, by weight."""

    __slots__ = (
        "_aside",
        "_consumed",
        "_credit",
        "_floor",
        "_pool",
        "_priority",
        "arrived",
        "granted",
        "lack",
        "size",
    )

    def __init__(self, pool: Pool, priority: int, credit: Callable[[int], None], limits: RpcLimits) -> None:
        extra = pool.share(priority)
        pool.spare -= extra
        pool.held += limits.floor_bytes + extra
        self.lack = 0
        self.arrived = 0
        self.size = self.granted = limits.floor_bytes + extra
        self._floor = limits.floor_bytes
        self._consumed = 0
        self._aside = 0
        self._pool = pool
        self._priority = priority
        self._credit = credit

    def arrive(self, amount: int) -> None:
        """Raises TetherError(FLOW_VIOLATION) for bytes without credit."""
        self.arrived += amount
        if self.arrived > self.granted:
            raise TetherError(FLOW_VIOLATION, "A call was answered beyond its credit.")

    def want(self, rest: int) -> None:
        """Somebody waits for a message of which rest bytes are missing: have what the window lacks set aside."""
        lack = rest + MESSAGE_WEIGHT - (self.granted - self.arrived)
        if lack > 0 and not self.lack and not self._aside:
            self.lack = lack
            self._pool.set_aside(self)

    def lend(self) -> None:
        """For the pool, whose turn it is."""
        self._aside, self.lack = self.lack, 0
        self._grant(self._aside)

    def consume(self, amount: int) -> None:
        """A message of this weight was taken by its reader."""
        self._consumed += amount
        self._pool.held -= amount
        if self._aside:
            aside, self._aside = self._aside, 0
            self._pool.put_back(self, aside)
        if (self._consumed + self.size - self.granted) * RETURNS >= self.size:
            self._resize()
            owed = self._consumed + self.size - self.granted
            if owed > 0:
                self._grant(owed)

    def close(self) -> None:
        """Whatever still comes is late, and dropped where it arrives."""
        pool = self._pool
        pool.calls -= 1
        pool.held -= self.granted - self._consumed
        pool.spare += self.size - self._floor
        if self._aside or self.lack:
            self.lack = 0
            pool.put_back(self, self._aside)

    def _grant(self, amount: int) -> None:
        self.granted += amount
        self._pool.held += amount
        self._credit(amount)

    def _resize(self) -> None:
        """Take a share of what is spare now, its own included. Never below what is out, which cannot be recalled."""
        pool = self._pool
        pool.spare += self.size - self._floor
        wanted = self._floor + pool.share(self._priority)
        self.size = max(wanted, self.granted - self._consumed)
        pool.spare -= self.size - self._floor
