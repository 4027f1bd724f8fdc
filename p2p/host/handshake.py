"""Noise XX with a passport in each side's payload: nobody gets a muxer, let alone a protocol, who was not admitted.

    dialer                                   listener
      ── e ─────────────────────────────────────>
      <──────────── e, ee, s, es, payload + passport ──     the dialer proves the id it dialled, admits, or hangs up
      ── s, se, payload + passport ─────────────>           the listener proves the id, admits, or hangs up

The handshake is libp2p's, the passport rides in its extensions, where others ignore it. A dialer that does not admit
the listener hangs up before it has shown anything of its own. https://github.com/libp2p/specs/blob/master/noise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import trio
from libp2p.abc import IRawConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.exceptions import NoiseStateError
from libp2p.security.noise.io import NoiseHandshakeReadWriter, NoiseTransportReadWriter
from libp2p.security.noise.messages import (
    NoiseExtensions,
    NoiseHandshakePayload,
    make_handshake_payload_sig,
    verify_handshake_payload_sig,
)
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.secure_session import SecureSession
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from p2p.errors import TetherError
from p2p.host.negotiate import answer, ask
from p2p.identity import NodeKey, PeerId, public_key_of
from p2p.membership import Admission

NOISE: Final = str(PROTOCOL_ID)
"""The only security that is ever offered or accepted: no plaintext, no TLS, no secio."""
PATTERN: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"

Admit = Callable[[bytes, PeerId], Admission]


@dataclass(frozen=True, slots=True)
class Secured:
    """A connection whose peer is proven and admitted."""

    session: SecureSession
    peer: PeerId
    admission: Admission


class Gate:
    """Both sides of the handshake. passport: asked for each time, so that a fresh certificate is shown at once."""

    def __init__(self, key: NodeKey, passport: Callable[[], bytes], admit: Admit) -> None:
        self._identity = create_new_key_pair(key.seed)
        self._noise = create_new_noise_key()
        self._signature = make_handshake_payload_sig(self._identity.private_key, self._noise.public_key)
        self._passport = passport
        self._admit = admit

    async def dial(self, stream: trio.abc.Stream, peer: PeerId) -> Secured:
        """Raises what admit raises, and HOSTILE_BYTES for anything else that goes wrong."""
        raw = _raw_connection(stream, initiator=True)
        await ask(raw, [NOISE])
        exchange = _Exchange(raw, self._noise.private_key.to_bytes(), initiator=True)
        await exchange.messages.write_msg(b"")
        theirs = exchange.check(await exchange.messages.read_msg())
        if theirs.peer != peer:
            raise NoiseStateError("Another node lives at this address now.")
        admission = self._admit(theirs.passport, peer)
        await exchange.messages.write_msg(self._payload())
        return Secured(self._session(exchange, theirs, initiator=True), peer, admission)

    async def accept(self, stream: trio.abc.Stream) -> Secured:
        """Raises like dial."""
        raw = _raw_connection(stream, initiator=False)
        await answer(raw, (NOISE,))
        exchange = _Exchange(raw, self._noise.private_key.to_bytes(), initiator=False)
        await exchange.messages.read_msg()
        await exchange.messages.write_msg(self._payload())
        theirs = exchange.check(await exchange.messages.read_msg())
        admission = self._admit(theirs.passport, theirs.peer)
        return Secured(self._session(exchange, theirs, initiator=False), theirs.peer, admission)

    def _payload(self) -> bytes:
        extensions = NoiseExtensions(early_data=self._passport())
        return NoiseHandshakePayload(self._identity.public_key, self._signature, extensions).serialize()

    def _session(self, exchange: _Exchange, theirs: _Claim, *, initiator: bool) -> SecureSession:
        if not exchange.state.handshake_finished:
            raise NoiseStateError("The handshake did not finish.")
        return SecureSession(
            local_peer=ID.from_pubkey(self._identity.public_key),
            local_private_key=self._identity.private_key,
            remote_peer=theirs.identity,
            remote_permanent_pubkey=theirs.static,
            is_initiator=initiator,
            conn=NoiseTransportReadWriter(exchange.raw, exchange.state),
        )


def _raw_connection(stream: trio.abc.Stream, *, initiator: bool) -> IRawConnection:
    """libp2p's adapter asks of its stream what any trio stream has: a socket, or a relayed circuit."""
    return RawConnection(TrioTCPStream(cast(trio.SocketStream, stream)), initiator)


class _Exchange:
    """The Noise state of one handshake under way."""

    def __init__(self, raw: IRawConnection, static: bytes, *, initiator: bool) -> None:
        self.raw = raw
        self.state: Any = NoiseConnection.from_name(PATTERN)
        self.state.set_keypair_from_private_bytes(Keypair.STATIC, static)
        (self.state.set_as_initiator if initiator else self.state.set_as_responder)()
        self.state.start_handshake()
        self.messages = NoiseHandshakeReadWriter(raw, self.state)
        self._keys = self.state.noise_protocol.handshake_state

    def check(self, message: bytes) -> _Claim:
        """Whose static key this is, by the signature over it."""
        payload = NoiseHandshakePayload.deserialize(message)
        static = X25519PublicKey.from_bytes(self._keys.rs.public_bytes)
        if not verify_handshake_payload_sig(payload, static):
            raise NoiseStateError("The handshake is not signed by the key that it shows.")
        identity = ID.from_pubkey(payload.id_pubkey)
        peer = PeerId(identity.to_base58())
        try:
            public_key_of(peer)
        except TetherError as error:
            raise NoiseStateError("The peer's key is not an Ed25519 key.") from error
        return _Claim(peer, identity, static, payload.get_early_data() or b"")


@dataclass(frozen=True, slots=True)
class _Claim:
    """What the other side proved, before it is admitted."""

    peer: PeerId
    identity: ID
    static: X25519PublicKey
    passport: bytes
