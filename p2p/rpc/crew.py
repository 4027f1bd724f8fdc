"""Tasks that take turns: one reads a stream and runs what it brings, there and then, for as long as nothing waits.

    idle ──a stream to read──> leading ──its handler waits──> serving ──the handler ends──> idle
                                  │                └─ the stream goes to an idle task, or a new one
                                  └─ the stream ends ──> idle

(The leader/followers pattern of Schmidt et al.) Most handlers look something up and answer: a task for each would cost
more than the answer. Those that wait keep their task, and with it everything that trio knows of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

import trio

from p2p.rpc.bell import Bell

_Result = TypeVar("_Result")


class Reading(Protocol):
    """A stream that needs somebody to read it."""

    async def lead(self, member: Member) -> None:
        """Read, and run what comes, until the stream ends or another member leads."""
        ...


class Member:
    """A task."""

    def __init__(self, crew: Crew, reading: Reading) -> None:
        self._crew = crew
        self._reading: Reading | None = reading
        self._scope = trio.CancelScope()
        self._given = Bell()

    def cancel(self) -> None:
        """End what it does now, and nothing else of this task."""
        self._scope.cancel()

    def give(self, reading: Reading) -> None:
        self._reading = reading
        self._given.ring()

    async def run(self) -> None:
        """Work until there is nothing to do and idle members enough."""
        staying = True
        while staying:
            with trio.CancelScope() as self._scope:
                while staying and not self._scope.cancel_called:
                    while self._reading is None:
                        await self._given.wait()
                    reading, self._reading = self._reading, None
                    await reading.lead(self)
                    staying = self._crew.rest(self)
            if self._scope.cancelled_caught:
                staying = self._crew.rest(self)


class Crew:
    """spawn: starts a task that outlives streams; idle: how many stay when there is nothing to do."""

    def __init__(self, spawn: Callable[[Callable[[], Awaitable[None]]], None], idle: int) -> None:
        self._spawn = spawn
        self._limit = idle
        self._idle: list[Member] = []

    def lead(self, reading: Reading) -> None:
        """Have somebody read this."""
        if self._idle:
            self._idle.pop().give(reading)
        else:
            self._spawn(Member(self, reading).run)

    def rest(self, member: Member) -> bool:
        """A member has nothing to do. False: it is not needed."""
        if len(self._idle) < self._limit:
            self._idle.append(member)
            return True
        return False


class Watched(Generic[_Result]):
    """Awaits a coroutine in this task, and says once when it waits for the first time."""

    __slots__ = ("_coroutine", "_waits")

    def __init__(self, coroutine: Coroutine[Any, Any, _Result], waits: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, _Result]:
        send = self._coroutine.send
        try:
            trap = send(None)
            self._waits()
            while True:
                trap = send((yield trap))
        except StopIteration as end:
            result: _Result = end.value
            return result
