"""libp2p's ping: every 32 bytes come back. Foreign peers ask it of a connection that they mean to keep.

https://github.com/libp2p/specs/blob/master/ping
"""

from __future__ import annotations

from typing import Final

import trio

from p2p.host.switch import Switch
from p2p.transport import Stream

PROTOCOL: Final = "/ipfs/ping/1.0.0"
PAYLOAD_BYTES: Final = 32
IDLE_S: Final = 60.0
"""A stream may be kept for the next ping as long; js-libp2p opens a new one for each."""


def answer_pings(switch: Switch) -> None:
    """Serve the protocol to members."""
    switch.handle(PROTOCOL, _answer, guests=False)


async def _answer(stream: Stream) -> None:
    held = b""
    while True:
        data = b""
        with trio.move_on_after(IDLE_S):
            data = await stream.read(PAYLOAD_BYTES - len(held))
        if not data:
            return
        held += data
        if len(held) == PAYLOAD_BYTES:
            await stream.write(held)
            held = b""
