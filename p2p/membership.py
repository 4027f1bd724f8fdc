"""Who belongs to a swarm: certificates, invites, tickets. Pure: signatures and dates, no clock, no files, no network.

    authority key ── signs ──> issuer certificate ── signs ──> node certificate {node, encryption key, roles, regions}
          │                          └────────────── signs ──> invite {key, roles, regions, expiry, uses}
          └── the swarm's id is its public key, so anybody checks a whole chain offline, from the id alone

A ticket is an invite with its secret key and some addresses. It admits its holder to an issuer as a guest; what the
issuer then signs is the certificate. The authority holds an issuer certificate of its own like any other issuer.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType, TypeVar

import msgspec

from p2p.errors import (
    CERTIFICATE_EXPIRED,
    CERTIFICATE_INVALID,
    TICKET_EXPIRED,
    TICKET_INVALID,
    WRONG_SWARM,
    TetherError,
)
from p2p.identity import NodeKey, PeerId, public_key_of, verify
from p2p.messages import Message, Role
from p2p.wire import decode, encode

SwarmId = NewType("SwarmId", str)
"""The authority's Ed25519 public key in hex (64 characters)."""

CERTIFICATE_LIFETIME_S: Final = 30 * 86_400.0
ISSUER_LIFETIME_S: Final = 365 * 86_400.0
CLOCK_SKEW_S: Final = 300.0
"""How far two machines' clocks may differ before a fresh certificate looks like one from the future."""
TICKET_PREFIX: Final = "tether1"
MAX_TICKET_CHARS: Final = 8_192
KNOWN_LINKS: Final = 4_096
"""Signatures of certificates that are remembered as checked: about 2 MiB."""


class IssuerCertificate(Message, frozen=True):
    """Leave to sign node certificates and invites. not_before, not_after: unix seconds."""

    swarm_id: SwarmId
    issuer: PeerId
    serial: bytes
    not_before: float
    not_after: float


class Certificate(Message, frozen=True):
    """A node's membership. enc_key: X25519, 32 bytes; serial: 16 bytes drawn by the issuer, ranks the candidates."""

    swarm_id: SwarmId
    node_id: PeerId
    enc_key: bytes
    roles: tuple[Role, ...]
    regions: tuple[str, ...]
    serial: bytes
    not_before: float
    not_after: float
    invite: bytes = b""


class Invite(Message, frozen=True):
    """Leave for the holder of key's secret to ask an issuer for a certificate. regions empty: any."""

    swarm_id: SwarmId
    key: bytes
    roles: tuple[Role, ...]
    regions: tuple[str, ...]
    not_before: float
    not_after: float
    uses: int = 1


class Signed(Message, frozen=True):
    """body: an encoded certificate or invite; issuer: the encoded `SignedIssuer` above it."""

    body: bytes
    signature: bytes
    issuer: bytes


class SignedIssuer(Message, frozen=True):
    """body: an encoded `IssuerCertificate`, signed by the authority."""

    body: bytes
    signature: bytes


class Passport(Message, frozen=True):
    """What a node shows in the Noise handshake: a credential, or an invite with proof that it holds the key."""

    credential: bytes = b""
    invite: bytes = b""
    proof: bytes = b""


class Ticket(Message, frozen=True):
    """addresses: full multiaddrs with /p2p/; invite: encoded `Signed`; secret: the invite key's seed."""

    swarm_id: SwarmId
    addresses: tuple[str, ...]
    invite: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """A checked certificate. credential: its encoded form, to show to others; issuer: who signed it."""

    certificate: Certificate
    credential: bytes
    issuer: PeerId

    @property
    def peer(self) -> PeerId:
        return self.certificate.node_id


class Papers:
    """This node's own certificate as it is now: it is renewed under way, and whoever shows it shows the newest."""

    def __init__(self, member: Member) -> None:
        self.member = member

    @property
    def credential(self) -> bytes:
        return self.member.credential


@dataclass(frozen=True, slots=True)
class Guest:
    """The holder of a checked invite; may speak to `enrol` only."""

    peer: PeerId
    invite: Invite
    issuer: PeerId


Admission = Member | Guest


@dataclass(frozen=True, slots=True)
class Issuer:
    """A node that may sign. key: its node key; certificate: its encoded `SignedIssuer`."""

    key: NodeKey
    swarm_id: SwarmId
    certificate: bytes

    def certify(
        self,
        node: PeerId,
        enc_key: bytes,
        roles: tuple[Role, ...],
        regions: tuple[str, ...],
        *,
        serial: bytes,
        now: float,
        invite: bytes = b"",
    ) -> bytes:
        """Sign a 30-day certificate. Returns the encoded credential. now: unix seconds."""
        lifetime = (now, now + CERTIFICATE_LIFETIME_S)
        body = encode(Certificate(self.swarm_id, node, enc_key, roles, regions, serial, *lifetime, invite))
        return encode(Signed(body, self.key.sign("certificate", body), self.certificate))

    def invite(
        self,
        roles: tuple[Role, ...],
        regions: tuple[str, ...],
        *,
        secret: bytes,
        ttl_s: float,
        uses: int,
        now: float,
    ) -> bytes:
        """Sign an invite for the key of that secret (a 32-byte seed). Returns its encoded `Signed`."""
        body = encode(Invite(self.swarm_id, NodeKey(secret).public, roles, regions, now, now + ttl_s, uses))
        return encode(Signed(body, self.key.sign("invite", body), self.certificate))


def swarm_id_of(authority: NodeKey) -> SwarmId:
    return SwarmId(authority.public.hex())


def appoint(authority: NodeKey, issuer: PeerId, *, serial: bytes, now: float) -> bytes:
    """The authority lets a node issue. Returns the encoded `SignedIssuer`."""
    body = encode(IssuerCertificate(swarm_id_of(authority), issuer, serial, now, now + ISSUER_LIFETIME_S))
    return encode(SignedIssuer(body, authority.sign("issuer", body)))


def check_issuer(data: bytes, swarm_id: SwarmId, now: float) -> IssuerCertificate:
    """Raises TetherError(CERTIFICATE_INVALID | CERTIFICATE_EXPIRED | WRONG_SWARM)."""
    signed = _read(data, SignedIssuer)
    certificate = _read(signed.body, IssuerCertificate)
    _same_swarm(certificate.swarm_id, swarm_id)
    if not _holds(bytes.fromhex(swarm_id), "issuer", signed.body, signed.signature):
        raise TetherError(
            CERTIFICATE_INVALID, "The issuer's certificate is not signed by the swarm's authority."
        )
    _in_time(certificate.not_before, certificate.not_after, now, "The issuer's certificate")
    return certificate


def check_credential(data: bytes, swarm_id: SwarmId, now: float) -> Member:
    """Check a node's whole chain offline. now: unix seconds. Raises like check_issuer."""
    signed = _read(data, Signed)
    certificate = _read(signed.body, Certificate)
    _same_swarm(certificate.swarm_id, swarm_id)
    issuer = check_issuer(signed.issuer, swarm_id, now)
    if not _holds(public_key_of(issuer.issuer), "certificate", signed.body, signed.signature):
        raise TetherError(CERTIFICATE_INVALID, "The certificate is not signed by its issuer.")
    if len(certificate.enc_key) != 32 or len(certificate.serial) != 16 or not certificate.regions:
        raise TetherError(CERTIFICATE_INVALID, "The certificate has a field out of bounds.")
    public_key_of(certificate.node_id)
    _in_time(certificate.not_before, certificate.not_after, now, "The certificate")
    return Member(certificate, data, issuer.issuer)


def check_invite(data: bytes, swarm_id: SwarmId, now: float) -> tuple[Invite, PeerId]:
    """Returns the invite and who signed it. Raises like check_issuer, with TICKET_EXPIRED when it is over."""
    signed = _read(data, Signed)
    invite = _read(signed.body, Invite)
    _same_swarm(invite.swarm_id, swarm_id)
    issuer = check_issuer(signed.issuer, swarm_id, now)
    if not verify(public_key_of(issuer.issuer), "invite", signed.body, signed.signature):
        raise TetherError(CERTIFICATE_INVALID, "The invite is not signed by its issuer.")
    if now > invite.not_after:
        raise TetherError(TICKET_EXPIRED, "The ticket has expired.", field="ticket")
    if now < invite.not_before - CLOCK_SKEW_S:
        raise TetherError(TICKET_INVALID, "The ticket is from the future: a clock is wrong.", field="ticket")
    return invite, issuer.issuer


def member_passport(credential: bytes) -> bytes:
    return encode(Passport(credential=credential))


def guest_passport(ticket: Ticket, peer: PeerId) -> bytes:
    """What a joiner without a certificate shows: the invite, and its key's signature over the joiner's id."""
    return encode(Passport(invite=ticket.invite, proof=NodeKey(ticket.secret).sign("guest", peer.encode())))


def admit(passport: bytes, peer: PeerId, swarm_id: SwarmId, now: float) -> Admission:
    """Decide on a peer whose id the handshake has proven. Raises TetherError with what is wrong."""
    shown = _read(passport, Passport)
    if shown.credential:
        member = check_credential(shown.credential, swarm_id, now)
        if member.peer != peer:
            raise TetherError(CERTIFICATE_INVALID, "The certificate belongs to another node.")
        return member
    invite, issuer = check_invite(shown.invite, swarm_id, now)
    if not verify(invite.key, "guest", peer.encode(), shown.proof):
        raise TetherError(CERTIFICATE_INVALID, "The guest does not hold the invite's key.")
    return Guest(peer, invite, issuer)


def write_ticket(ticket: Ticket) -> str:
    """One line to paste: prefix, base64url, and a checksum, so that a cut copy is noticed before any dial."""
    body = encode(ticket)
    return TICKET_PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


def read_ticket(text: str) -> Ticket:
    """Raises TetherError(TICKET_INVALID), never with the ticket's text in it: it is a secret."""
    line = text.strip()
    if not line.startswith(TICKET_PREFIX) or len(line) > MAX_TICKET_CHARS:
        raise TetherError(
            TICKET_INVALID, f"A ticket is one line that starts with {TICKET_PREFIX}.", field="ticket"
        )
    encoded = line[len(TICKET_PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body, checksum = data[:-4], data[-4:]
        if checksum != _checksum(body):
            raise ValueError("checksum")
        ticket = decode(body, Ticket)
    except (ValueError, TetherError) as error:
        raise TetherError(TICKET_INVALID, "The ticket is cut or altered.", field="ticket") from error
    if len(ticket.secret) != 32 or not ticket.addresses:
        raise TetherError(TICKET_INVALID, "The ticket has no key or no address.", field="ticket")
    return ticket


@lru_cache(maxsize=KNOWN_LINKS)
def _holds(public: bytes, domain: str, body: bytes, signature: bytes) -> bool:
    """verify, remembered: a certificate is shown with every request, and its dates are checked each time anyway."""
    return verify(public, domain, body, signature)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=4).digest()


_Body = TypeVar("_Body", bound=msgspec.Struct)


def _read(data: bytes, kind: type[_Body]) -> _Body:
    try:
        return decode(data, kind)
    except TetherError as error:
        raise TetherError(CERTIFICATE_INVALID, error.detail) from error


def _same_swarm(found: SwarmId, wanted: SwarmId) -> None:
    if found != wanted:
        raise TetherError(WRONG_SWARM, f"This belongs to swarm {found[:8]}, not to {wanted[:8]}.")


def _in_time(not_before: float, not_after: float, now: float, what: str) -> None:
    if now > not_after + CLOCK_SKEW_S:
        raise TetherError(CERTIFICATE_EXPIRED, f"{what} has expired.")
    if now < not_before - CLOCK_SKEW_S:
        raise TetherError(CERTIFICATE_INVALID, f"{what} is from the future: a clock is wrong.")
