"""What every side of bulk and dial speaks: eight bytes say how many follow, one byte answers once they are there."""

from __future__ import annotations

from typing import Final, Protocol

HEADER_BYTES: Final = 8
READ_BYTES: Final = 1024 * 1024
DONE: Final = b"\1"


class Pipe(Protocol):
    async def read(self, max_bytes: int, /) -> bytes: ...

    async def write(self, data: bytes, /) -> None: ...


async def answer_all(pipe: Pipe) -> None:
    """Take requests until the other side closes."""
    held = b""
    while True:
        while len(held) < HEADER_BYTES:
            data = await pipe.read(READ_BYTES)
            if not data:
                return
            held += data
        missing = int.from_bytes(held[:HEADER_BYTES], "big") - (len(held) - HEADER_BYTES)
        held = b""
        while missing > 0:
            missing -= len(await pipe.read(READ_BYTES))
        await pipe.write(DONE)


async def request(pipe: Pipe, size: int, chunk: int) -> None:
    """Send a request in writes of chunk bytes, and wait for its answer. The head goes with the first of them."""
    head, block = size.to_bytes(HEADER_BYTES, "big"), bytes(chunk)
    for left in range(size, 0, -chunk):
        await pipe.write(head + (block if left >= chunk else block[:left]))
        head = b""
    assert await pipe.read(len(DONE)) == DONE
