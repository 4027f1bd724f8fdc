"""Noise XX with a passport in each side's payload: nobody gets a muxer, let alone a protocol, who was not admitted.

    dialer                                   listener
      ── /noise? e ─────────────────────────────>
      <─ /noise, e, ee, s, es, payload + passport ────────  the dialer proves the id it dialled, admits, or hangs up
      ── s, se, payload + passport ─────────────>           the listener proves the id, admits, or hangs up

The handshake is libp2p's, the passport rides in its extensions, where others ignore it. A dialer that does not admit
the listener hangs up before it has shown anything of its own. https://github.com/libp2p/specs/blob/master/noise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from p2p.host.errors import ConnectionLost, PeerFault
from p2p.host.link import Link
from p2p.host.negotiate import answer, exchange
from p2p.host.noise import payload
from p2p.host.noise.handshake import Handshake
from p2p.host.raw import Pipe, Raw, raw_of
from p2p.identity import NodeKey, PeerId
from p2p.membership import Admission

NOISE: Final = "/noise"
"""The only security that is ever offered or accepted: no plaintext, no TLS, no secio."""
MAX_MESSAGE_BYTES: Final = 16 * 1024
"""Of a handshake: keys, signatures and a passport, whose credential has at most 4 KiB."""
READ_BYTES: Final = 4096

Admit = Callable[[bytes, PeerId], Admission]


@dataclass(frozen=True, slots=True)
class Secured:
    """A connection whose peer is proven and admitted."""

    link: Link
    peer: PeerId
    admission: Admission


class Gate:
    """Both sides of the handshake. passport: asked for each time, so that a fresh certificate is shown at once."""

    def __init__(self, key: NodeKey, passport: Callable[[], bytes], admit: Admit) -> None:
        self._key = key
        self._static = X25519PrivateKey.generate()
        self._passport = passport
        self._admit = admit

    async def dial(self, stream: Pipe, peer: PeerId) -> Secured:
        """Raises what admit raises, and HOSTILE_BYTES for anything else that goes wrong."""
        pipe = _Pipe(raw_of(stream))
        noise = Handshake(self._static, initiator=True)
        agreement = exchange(NOISE)
        await pipe.write(agreement + _framed(noise.write(b"")))
        if await pipe.exactly(len(agreement)) != agreement:
            raise PeerFault("The other side does not speak Noise.")
        theirs = payload.check(noise.read(await pipe.message()), noise.remote_static)
        if theirs.peer != peer:
            raise ConnectionLost("Another node lives at this address now.")
        admission = self._admit(theirs.early_data, peer)
        await pipe.write(_framed(noise.write(self._payload())))
        return Secured(pipe.secured(noise), peer, admission)

    async def accept(self, stream: Pipe) -> Secured:
        """Raises like dial."""
        pipe = _Pipe(raw_of(stream))
        noise = Handshake(self._static, initiator=False)
        await answer(pipe, (NOISE,))
        noise.read(await pipe.message())
        await pipe.write(_framed(noise.write(self._payload())))
        theirs = payload.check(noise.read(await pipe.message()), noise.remote_static)
        admission = self._admit(theirs.early_data, theirs.peer)
        return Secured(pipe.secured(noise), theirs.peer, admission)

    def _payload(self) -> bytes:
        return payload.write(self._key, self._static.public_key().public_bytes_raw(), self._passport())


class _Pipe:
    """A raw pipe as far as the handshake reads it; what comes too early is kept for the link."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._room = memoryview(bytearray(READ_BYTES))
        self._ahead = bytearray()

    async def read(self, n: int) -> bytes:
        if not self._ahead:
            received = await self._raw.receive(self._room)
            self._ahead += self._room[:received]
        data = bytes(self._ahead[:n])
        del self._ahead[:n]
        return data

    async def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await self.read(count - len(data))
            if not part:
                raise ConnectionLost("The pipe ended.")
            data += part
        return data

    async def message(self) -> bytes:
        size = int.from_bytes(await self.exactly(2), "big")
        if size > MAX_MESSAGE_BYTES:
            raise PeerFault(f"A handshake message of {size} bytes was announced.")
        return await self.exactly(size)

    async def write(self, data: bytes) -> None:
        await self._raw.send(data)

    def secured(self, noise: Handshake) -> Link:
        return Link(self._raw, *noise.split(), bytes(self._ahead))


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
