"""Which tokens go through the model in the next step. Pure: it knows counts and positions, no token and no clock.

    submit ──> waiting ──a slot is free──> prefill ──all but the last token are in──> decode ──leave──> gone
                  └────────────────────────────── leave (cancel) ──────────────────────┘

- Slots are given first come, first served; which one, the memory says.
- A step takes one token of every decoding request and one chunk of the oldest prefilling one, so that a long prompt
  delays the others by one chunk at a time and nobody waits for ever.
- A chunk ends where its request's position is a multiple of the chunk size, whatever else is going on: the model
  then sees the same shapes alone and in company, which is half of what makes answers reproducible. The size is the
  request's own: an exact one goes in by smaller chunks.
- A prompt begins after what its `Memory` has of it already, which is asked when its first chunk is due, not earlier:
  of many that begin alike and come together, the first computes what the others then find.
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
    """decode: one token of each of several slots, in the order of the slots; prefill: a chunk of one slot."""

    decode: tuple[Work, ...]
    prefill: Work | None

    @property
    def samples(self) -> int:
        return len(self.decode) + (self.prefill is not None and self.prefill.samples)


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

    def begin(self, request: int, slot: int) -> int:
        """Prepare the slot. Returns how many of the request's tokens, not all, are in it already."""
        ...


class NoMemory:
    """The lowest free slot, empty."""

    def choose(self, request: int, free: Sequence[int]) -> int:
        return free[0]

    def begin(self, request: int, slot: int) -> int:
        return 0


class Scheduler:
    """Requests by id. slots: how many at a time; chunk: prefill chunk size in tokens, where a request has no own."""

    def __init__(self, slots: int, chunk: int, memory: Memory = NoMemory()) -> None:  # noqa: B008 it keeps nothing
        self._chunk = chunk
        self._memory = memory
        self._free = list(range(slots))
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._running: dict[int, _Running] = {}
        self._turns: deque[_Running] = deque()

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
        prefill: Work | None = None
        for running in list(self._turns):
            if not running.begun:
                if prefill is not None and running.known > 1:
                    continue
                running.done, running.begun = self._memory.begin(running.request, running.slot), True
            end = min(running.known, (running.done // running.chunk + 1) * running.chunk)
            samples = end == running.known
            if samples and not allowance:
                continue
            work = Work(running.request, running.slot, running.done, end - running.done, samples)
            if work.samples and work.count == 1:
                decode.append(work)
            elif prefill is None:
                prefill = work
            else:
                continue
            running.done = end
            if samples:
                allowance -= 1
                running.known += 1
                self._turns.remove(running)
                self._turns.append(running)
        decode.sort(key=lambda work: work.slot)
        return Step(tuple(decode), prefill)

    def _admit(self) -> None:
        while self._waiting and self._free:
            request, tokens, chunk = self._waiting.popleft()
            slot = self._memory.choose(request, tuple(self._free))
            self._free.remove(slot)
            running = _Running(request, slot, tokens, chunk)
            self._running[request] = running
            self._turns.append(running)
