"""What libp2p puts into a handshake: an identity key, its signature over the Noise key, and extensions.

https://github.com/libp2p/specs/blob/master/noise#libp2p-data-in-handshake-messages
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.security.noise.pb import noise_pb2
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from p2p.host.errors import PeerFault
from p2p.identity import NodeKey, PeerId, node_id_of

SIGNED_PREFIX: Final = b"noise-libp2p-static-key:"
ED25519_PREFIX: Final = bytes.fromhex("08011220")
"""PublicKey{type: Ed25519, data: 32 bytes} (libp2p peer-ids spec)."""
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Claim:
    """What the other side proved. early_data: the passport, empty where there is none."""

    peer: PeerId
    early_data: bytes


def sign(key: NodeKey, static: bytes) -> bytes:
    """The identity key's signature over a Noise key: 64 bytes, good for every handshake with that key."""
    return SigningKey(key.seed).sign(SIGNED_PREFIX + static).signature


def write(public: bytes, signature: bytes, early_data: bytes) -> bytes:
    """This side's payload. public: its identity key; signature: that of its Noise key."""
    payload = noise_pb2.NoiseHandshakePayload(
        identity_key=ED25519_PREFIX + public,
        identity_sig=signature,
        extensions=noise_pb2.NoiseExtensions(early_data=early_data),
    )
    return payload.SerializeToString()


def check(data: bytes, static: bytes) -> Claim:
    """Whose Noise key static is, by the signature over it. Raises PeerFault."""
    try:
        payload = noise_pb2.NoiseHandshakePayload.FromString(data)
    except DecodeError as error:
        raise PeerFault("The handshake's payload is not libp2p's.") from error
    identity = payload.identity_key
    if len(identity) != len(ED25519_PREFIX) + 32 or not identity.startswith(ED25519_PREFIX):
        raise PeerFault("The peer's key is not an Ed25519 key.")
    public = identity[len(ED25519_PREFIX) :]
    if len(payload.identity_sig) != SIGNATURE_BYTES:
        raise PeerFault("The handshake is not signed.")
    try:
        VerifyKey(public).verify(SIGNED_PREFIX + static, payload.identity_sig)
    except BadSignatureError as error:
        raise PeerFault("The handshake is not signed by the key that it shows.") from error
    return Claim(node_id_of(public), payload.extensions.early_data)
