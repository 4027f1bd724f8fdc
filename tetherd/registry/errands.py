"""Work that takes long goes on in the daemon, whoever looks at it: a command that is stopped stops nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from inference.artifacts.fetching import Progress
from p2p.errors import NOT_FOUND, TetherError
from tetherd.admin import Json, answered

MAX_ERRANDS: Final = 64
"""Remembered, those under way always."""
PACE_S: Final = 0.1
"""Between two events of one errand, at least."""
HEARTBEAT_S: Final = 2.0
"""Between two events, at most: who follows can tell slow work from a daemon that is gone."""

Told = Callable[[Progress], None]
Work = Callable[[Told], Awaitable[dict[str, Any]]]


@dataclass(slots=True)
class Errand:
    """Work under way, or how it ended. news: set when it has come further, then replaced."""

    progress: Progress = Progress(0, 0, 0.0, 0)  # noqa: RUF009 it is frozen
    result: dict[str, Any] | None = None
    failure: TetherError | None = None
    news: trio.Event = field(default_factory=trio.Event)
    done: bool = False

    def told(self, progress: Progress) -> None:
        """Never backwards: hashing and fetching are one bar each, and a bar that is full stays so."""
        if progress.size != self.progress.size or progress.done >= self.progress.done:
            self.progress = progress
            self._tell()

    def end(self) -> None:
        self.done = True
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = trio.Event()

    def shown(self) -> dict[str, Any]:
        failure = self.failure
        return {
            "state": "failed" if failure else "done" if self.result is not None else "running",
            "doneBytes": self.progress.done,
            "sizeBytes": self.progress.size,
            "bytesPerSecond": round(self.progress.rate),
            "sources": self.progress.sources,
            "result": self.result,
            "error": {"code": failure.code.name, "message": failure.message, "field": failure.field}
            if failure
            else None,
        }


class Errands:
    """run: where they go on; they are cancelled with the node, and what has come then stays on the disk."""

    def __init__(self) -> None:
        self._errands: OrderedDict[str, Errand] = OrderedDict()
        self._serials = count(1)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def begin(self, work: Work) -> dict[str, Any]:
        """Begin it; the answer names it for those who ask how far it is."""
        assert self._nursery is not None
        errand, name = Errand(), f"{next(self._serials)}"
        self._errands[name] = errand
        ended = [one for one, kept in self._errands.items() if kept.done]
        for one in ended[: max(0, len(self._errands) - MAX_ERRANDS)]:
            del self._errands[one]
        self._nursery.start_soon(self._carry, errand, work)
        return {"work": name}

    def get(self, name: str) -> Errand:
        """Raises TetherError(NOT_FOUND)."""
        errand = self._errands.get(name)
        if errand is None:
            raise TetherError(NOT_FOUND, f"There is no work {name!r} here.")
        return errand

    async def _carry(self, errand: Errand, work: Work) -> None:
        try:
            errand.result = await work(errand.told)
        except TetherError as error:
            errand.failure = error
        finally:
            errand.end()


async def follow(errand: Errand) -> AsyncIterator[bytes]:
    """How far it is, as a line of JSON whenever that changes; the last line says how it ended."""
    while True:
        news, last = errand.news, errand.done
        yield msgspec.json.encode(errand.shown()) + b"\n"
        if last:
            return
        await trio.sleep(PACE_S)
        with trio.move_on_after(HEARTBEAT_S):
            await news.wait()


def errand_routes(errands: Errands) -> list[Route]:
    async def shown(request: Request) -> Json:
        return errands.get(str(request.path_params["name"])).shown()

    async def events(request: Request) -> Json | StreamingResponse:
        errand = errands.get(str(request.path_params["name"]))
        return StreamingResponse(follow(errand), media_type="application/x-ndjson")

    return [Route("/work/{name}", answered(shown)), Route("/work/{name}/events", answered(events))]
