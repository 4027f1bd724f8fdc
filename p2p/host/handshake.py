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
from p2p.host.negotiate import Holding, answer, exchange
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
    """Both sides of the handshake; a dialler's last message waits for what it says first.

    passport: asked for each time, so that a fresh certificate is shown at once.
    """

    def __init__(self, key: NodeKey, passport: Callable[[], bytes], admit: Admit) -> None:
        self._public = key.public
        self._static = X25519PrivateKey.generate()
        self._signature = payload.sign(key, self._static.public_key().public_bytes_raw())
        self._ephemeral: X25519PrivateKey | None = X25519PrivateKey.generate()
        self._passport = passport
        self._admit = admit

    async def dial(self, stream: Pipe, peer: PeerId) -> Secured:
        """Raises what admit raises, and HOSTILE_BYTES for anything else that goes wrong."""
        pipe = _Pipe(raw_of(stream))
        noise = self._begin(initiator=True)
        agreement = exchange(NOISE)
        pipe.hold(agreement + _framed(noise.write(b"")))
        await pipe.let_go()
        self._draw()
        if await pipe.exactly(len(agreement)) != agreement:
            raise PeerFault("The other side does not speak Noise.")
        theirs = payload.check(noise.read(await pipe.message()), noise.remote_static)
        if theirs.peer != peer:
            raise ConnectionLost("Another node lives at this address now.")
        admission = self._admit(theirs.early_data, peer)
        pipe.hold(_framed(noise.write(self._payload())))
        return Secured(pipe.secured(noise), peer, admission)

    async def accept(self, stream: Pipe) -> Secured:
        """Raises like dial."""
        pipe = _Pipe(raw_of(stream))
        await answer(pipe, (NOISE,))
        noise = self._begin(initiator=False)
        noise.read(await pipe.message())
        pipe.hold(_framed(noise.write(self._payload())))
        await pipe.let_go()
        self._draw()
        theirs = payload.check(noise.read(await pipe.message()), noise.remote_static)
        admission = self._admit(theirs.early_data, theirs.peer)
        return Secured(pipe.secured(noise), theirs.peer, admission)

    def _begin(self, *, initiator: bool) -> Handshake:
        ephemeral, self._ephemeral = self._ephemeral or X25519PrivateKey.generate(), None
        return Handshake(self._static, initiator=initiator, ephemeral=ephemeral)

    def _draw(self) -> None:
        """Draw the next handshake's ephemeral key, while the other side of this one computes."""
        self._ephemeral = self._ephemeral or X25519PrivateKey.generate()

    def _payload(self) -> bytes:
        return payload.write(self._public, self._signature, self._passport())


class _Pipe(Holding):
    """A raw pipe as far as the handshake reads it; what comes too early is kept for the link."""

    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self._raw = raw
        self._room = memoryview(bytearray(READ_BYTES))

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

    def secured(self, noise: Handshake) -> Link:
        """What is held goes out with the first that is said over the link."""
        return Link(self._raw, *noise.split(), ahead=bytes(self.ahead), unsent=self.held)

    async def _send(self, data: bytes) -> None:
        await self._raw.send(data)

    async def _receive(self) -> memoryview:
        return self._room[: await self._raw.receive(self._room)]


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message
