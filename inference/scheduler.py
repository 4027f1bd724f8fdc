"""Which tokens go through the model in the next step. Pure: it knows counts and positions, no token and no clock.

    submit ──> waiting ──a slot is free──> prefill ──all but the last token are in──> decode ──leave──> gone
                  └────────────────────────────── leave (cancel) ──────────────────────┘

- Slots are given first come, first served; the lowest free one first, because llama.cpp runs neighbours in one go.
- A step takes one token of every decoding request and one chunk of the oldest prefilling one, so that a long prompt
  delays the others by one chunk at a time and nobody waits for ever.
- A chunk ends where its request's position is a multiple of the chunk size, whatever else is going on: the model
  then sees the same shapes alone and in company, which is half of what makes answers reproducible.
- A step samples no more tokens than its allowance; the requests take turns at it.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass


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
    done: int = 0


class Scheduler:
    """Requests by id. slots: how many at a time; chunk: prefill chunk size in tokens."""

    def __init__(self, slots: int, chunk: int) -> None:
        self._chunk = chunk
        self._free = list(range(slots))
        self._waiting: deque[tuple[int, int]] = deque()
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

    def submit(self, request: int, tokens: int) -> None:
        """Queue a request whose first tokens (at least one) are known: its prompt, and what it resumes after."""
        self._waiting.append((request, tokens))

    def leave(self, request: int) -> int | None:
        """Forget a request: finished, cancelled or evicted. Returns the slot it had, whose memory is to be cleared."""
        running = self._running.pop(request, None)
        if running is None:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != request)
            return None
        self._turns.remove(running)
        heapq.heappush(self._free, running.slot)
        return running.slot

    def plan(self, allowance: int) -> Step:
        """Decide the next step and count it as done. allowance: how many tokens may be sampled in it."""
        self._admit()
        decode: list[Work] = []
        prefill: Work | None = None
        for running in list(self._turns):
            end = min(running.known, (running.done // self._chunk + 1) * self._chunk)
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
            request, tokens = self._waiting.popleft()
            # A prefix cache would let a request start at the first position that is not in its slot yet.
            running = _Running(request, heapq.heappop(self._free), tokens)
            self._running[request] = running
            self._turns.append(running)
