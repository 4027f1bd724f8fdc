"""How one task is woken by another: an event for one waiter, without an object for each time."""

from __future__ import annotations

import trio


class Bell:
    """Rung while nobody waits, it lets the next wait pass."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        if self._waiting is None:
            self._rung = True
        else:
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None

    async def wait(self) -> None:
        """No checkpoint if it was rung before. For one task at a time."""
        if not self._rung:
            self._waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._rung = False

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
