"""A circuit: a stream to the relay that is the pipe beneath a connection to somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from p2p.errors import TetherError
from p2p.host.raw import Carried, Raw
from p2p.host.streams import MuxedStream
from p2p.identity import PeerId
from p2p.transport import CHUNKS


class Circuit(Carried):
    """Implements `Raw`, too. ahead: what came behind the relay's consent; source: who opened it, as the relay says."""

    def __init__(self, stream: MuxedStream, ahead: bytes, source: PeerId) -> None:
        stream.priority = CHUNKS
        self._stream = stream
        self._ahead = ahead
        self._source = source

    @property
    def relay(self) -> PeerId:
        return self._stream.peer

    @property
    def origin(self) -> str:
        return f"{self._source} over {self._stream.peer}"

    @property
    def raw(self) -> Raw:
        return self

    def send_now(self, data: memoryview) -> int:
        """A copy goes: the carrying connection seals it in the very buffer in which it lies."""
        return len(data) if self._stream.write_now(bytes(data)) else 0

    async def send(self, data: bytes) -> None:
        with _as_a_pipe_breaks():
            await self._stream.write(data)

    async def receive(self, room: memoryview) -> int:
        data = self._ahead[: len(room)]
        self._ahead = self._ahead[len(data) :]
        with _as_a_pipe_breaks():
            data = data or await self._stream.read(len(room))
        room[: len(data)] = data
        return len(data)

    async def send_eof(self) -> None:
        with _as_a_pipe_breaks():
            await self._stream.close()

    async def close(self) -> None:
        await self._stream.reset()

    async def aclose(self) -> None:
        await self.close()


@contextmanager
def _as_a_pipe_breaks() -> Iterator[None]:
    try:
        yield
    except TetherError as error:
        raise trio.BrokenResourceError(error.detail) from error
