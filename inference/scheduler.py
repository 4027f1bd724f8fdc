"""Which tokens go through the model in the next step. Pure: it knows counts and positions, no token and no clock.

    submit ──> waiting ──a slot is free──> prefill ──all but the last token are in──> decode ──leave──> gone
                  └────────────────────────────── leave (cancel) ──────────────────────┘

- Slots are given first come, first served; which one, the memory says.
- A step takes one token of every decoding request, and chunks of prefilling ones, the oldest first, as long as their
  rows together are no more than one chunk of the usual size: a long prompt delays the others by one chunk at a time,
  many short ones go in together, and nobody waits for ever. Where nobody decodes, there may be more of them.
- A chunk ends where its request's position is a multiple of the chunk size, whatever else is going on: the model
  then sees the same shapes alone and in company, which is half of what makes answers reproducible. The size is the
  request's own: an exact one goes in by smaller chunks.
- A prompt begins after what its `Memory` has of it already, which is asked when its first chunk is due, not earlier,
  and not while another request computes more of it: of many that begin alike and come together, the first computes
  what the others then find.
- A step samples no more tokens than its allowance; the requests take turns at it.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Work:
    """Put tokens [start, start + count) of a request into its slot; samples: then draw the token after them."""

    request: int
    slot: int
    start: int
    count: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Step:
    """decode: one token of each of several slots; prefill: a chunk of each of several others; in the order of slots."""

    decode: tuple[Work, ...]
    prefill: tuple[Work, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.decode) + sum(work.samples for work in self.prefill)


@dataclass(slots=True)
class _Running:
    """known: tokens that exist (prompt and sampled); done: how many of them are in the slot."""

    request: int
    slot: int
    known: int
    chunk: int
    done: int = 0
    begun: bool = False


class Memory(Protocol):
    """What slots hold from before."""

    def choose(self, request: int, free: Sequence[int]) -> int:
        """Pick one of the free slots, of which there is at least one."""
        ...

    def waits(self, request: int, slot: int) -> bool:
        """Whether another request is computing more of its beginning than there is yet."""
        ...

    def begin(self, request: int, slot: int) -> int:
        """Prepare the slot. Returns how many of the request's tokens, not all, are in it already."""
        ...


class NoMemory:
    """The lowest free slot, empty."""

    def choose(self, request: int, free: Sequence[int]) -> int:
        return free[0]

    def waits(self, request: int, slot: int) -> bool:
        return False

    def begin(self, request: int, slot: int) -> int:
        return 0


class Scheduler:
    """Requests by id. slots: how many at a time; chunk: prefill rows of a step, and of a request that names no size.

    together: prefill rows of a step in which nobody decodes.
    """

    def __init__(
        self,
        slots: int,
        chunk: int,
        memory: Memory = NoMemory(),  # noqa: B008 it keeps nothing
        *,
        together: int = 0,
    ) -> None:
        self._chunk = chunk
        self._together = max(chunk, together)
        self._memory = memory
        self._free = list(range(slots))
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._running: dict[int, _Running] = {}
        self._turns: list[_Running] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def submit(self, request: int, tokens: int, chunk: int | None = None) -> None:
        """Queue a request whose first tokens (at least one) are known: its prompt, and what it resumes after."""
        self._waiting.append((request, tokens, chunk or self._chunk))

    def leave(self, request: int) -> int | None:
        """Forget a request: finished, cancelled or evicted. Returns the slot that it had."""
        running = self._running.pop(request, None)
        if running is None:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != request)
            return None
        self._turns.remove(running)
        bisect.insort(self._free, running.slot)
        return running.slot

    def plan(self, allowance: int) -> Step:
        """Decide the next step and count it as done. allowance: how many tokens may be sampled in it."""
        self._admit()
        decode: list[Work] = []
        prefill: list[Work] = []
        left: list[_Running] = []
        sampled: list[_Running] = []
        room = self._chunk if any(map(_decodes, self._turns)) else self._together
        for running in self._turns:
            work = self._next(running, room if prefill else max(room, running.chunk))
            if work is None or (work.samples and not allowance):
                left.append(running)
                continue
            running.done += work.count
            if work.samples:
                allowance -= 1
                running.known += 1
                sampled.append(running)
            else:
                left.append(running)
            if work.samples and work.count == 1:
                decode.append(work)
            else:
                prefill.append(work)
                room -= work.count
        if sampled:
            self._turns = [*left, *sampled]
        decode.sort(key=_slot)
        prefill.sort(key=_slot)
        return Step(tuple(decode), tuple(prefill))

    def undo(self, works: Sequence[Work]) -> None:
        """These were planned, and not done: they are due again."""
        for work in works:
            running = self._running[work.request]
            running.done = work.start
            running.known -= work.samples

    def _next(self, running: _Running, room: int) -> Work | None:
        """What is due of a request, if it can be in this step. room: rows that a prompt may have in it."""
        if not running.begun:
            if min(running.known, running.chunk) > max(1, room) or self._memory.waits(
                running.request, running.slot
            ):
                return None
            running.done, running.begun = self._memory.begin(running.request, running.slot), True
        end = min(running.known, (running.done // running.chunk + 1) * running.chunk)
        count, samples = end - running.done, end == running.known
        if count > room and not (samples and count == 1):
            return None
        return Work(running.request, running.slot, running.done, count, samples)

    def _admit(self) -> None:
        while self._waiting and self._free:
            request, tokens, chunk = self._waiting.popleft()
            slot = self._memory.choose(request, tuple(self._free))
            self._free.remove(slot)
            running = _Running(request, slot, tokens, chunk)
            self._running[request] = running
            self._turns.append(running)


def _slot(work: Work) -> int:
    return work.slot


def _decodes(running: _Running) -> bool:
    return running.begun and running.known - running.done == 1
