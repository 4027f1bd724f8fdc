"""A thread with an asyncio loop, for the one library that needs it; trio tasks await what runs there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import outcome
import trio

_Result = TypeVar("_Result")


class Portal:
    """Runs coroutines on its loop (uvloop where it is installed), from any task of the trio run that opened it."""

    def __init__(self, name: str) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[..., Coroutine[Any, Any, _Result]], *args: Any) -> _Result:
        """Await call(*args) over there. A cancellation goes there, too; what finished before it came still counts."""
        token, waiting = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
        raise_cancel: Callable[[], Any] | None = None
        running: asyncio.Task[_Result] | None = None

        def start() -> None:
            nonlocal running
            running = self._loop.create_task(call(*args))
            running.add_done_callback(lambda done: token.run_sync_soon(wake, done))

        def wake(done: asyncio.Task[_Result]) -> None:
            if done.cancelled() and raise_cancel is not None:
                trio.lowlevel.reschedule(waiting, outcome.capture(raise_cancel))
            else:
                trio.lowlevel.reschedule(waiting, outcome.capture(done.result))

        def abort(raise_it: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_it
            self._loop.call_soon_threadsafe(lambda: running and running.cancel())
            return trio.lowlevel.Abort.FAILED

        self._loop.call_soon_threadsafe(start)
        result: _Result = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def close(self) -> None:
        """Stop the loop. Nothing may run on it any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)
        self._loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
