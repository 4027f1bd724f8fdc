"""Admitting others: invites, and certificates for the guests who bring one.

A plain ticket grants gateway and worker; the issuer adds orchestrator until the region has seven, so that a small
swarm survives the loss of its founder without anybody having planned it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from p2p.errors import NOT_ISSUER, OUT_OF_RANGE, ROLE_FORBIDDEN, TICKET_USED, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import (
    Guest,
    Invite,
    Issuer,
    Member,
    Ticket,
    appoint,
    check_credential,
    check_issuer,
    write_ticket,
)
from p2p.messages import ENROL, RENEW, EnrolAnswer, EnrolRequest, RenewRequest, Role
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from tetherd.data_dir import DataDir, SpentInvites, Standing
from topics.view import View

PLAIN_ROLES: Final[tuple[Role, ...]] = ("gateway", "worker")
ORCHESTRATORS_WANTED: Final = 7
"""The top five heartbeat; two more stand by (design: a region's candidates)."""
MAX_TICKET_ADDRESSES: Final = 8
MAX_INVITE_TTL_S: Final = 30 * 86_400.0
MAX_INVITE_USES: Final = 1_000

_log = structlog.get_logger()


def orchestrators_in(view: View, region: str) -> int:
    """How many of a region's members may lead it, as far as this node knows."""
    members = view.members(region)
    return sum("orchestrator" in known.member.certificate.roles for known in members if known.state != "dead")


def other_issuers(view: View, own: PeerId) -> Iterator[PeerAddress]:
    """Orchestrators that live: most of them may issue, and a ticket that names them outlives this node."""
    for known in view.members():
        if known.state == "alive" and "orchestrator" in known.presence.roles and known.peer != own:
            yield PeerAddress(known.peer, known.presence.addresses)


@dataclass(frozen=True, slots=True)
class NewTicket:
    """A ticket to hand out. expires_at: unix seconds."""

    ticket: str
    expires_at: float


def granted_roles(wanted: Iterable[Role], invite: Invite, orchestrators: int) -> tuple[Role, ...]:
    """What a guest gets. orchestrators: how many the region has. Raises TetherError(ROLE_FORBIDDEN) for nothing."""
    allowed = set(invite.roles)
    if allowed == set(PLAIN_ROLES) and orchestrators < ORCHESTRATORS_WANTED:
        allowed.add("orchestrator")
    granted = tuple(
        role for role in ("gateway", "orchestrator", "worker") if role in allowed and role in set(wanted)
    )
    if not granted:
        raise TetherError(
            ROLE_FORBIDDEN, f"The ticket grants only: {', '.join(sorted(allowed))}.", field="roles"
        )
    return granted


def spend(spent: SpentInvites, invite: Invite, node: PeerId) -> SpentInvites:
    """Count a use; a node that comes twice counts once. Raises TetherError(TICKET_USED)."""
    nodes = spent.nodes.get(invite.key.hex(), ())
    if node in nodes:
        return spent
    if len(nodes) >= invite.uses:
        times = "once" if invite.uses == 1 else f"{invite.uses} times"
        raise TetherError(
            TICKET_USED, f"The ticket was good for use {times}, and that is over.", field="ticket"
        )
    return SpentInvites({**spent.nodes, invite.key.hex(): (*nodes, node)})


class IssuerDesk:
    """Serves `enrol` to guests and `renew` to members, and makes tickets; NOT_ISSUER without leave to do so."""

    def __init__(
        self,
        data: DataDir,
        key: NodeKey,
        transport: Transport,
        rpc: Rpc,
        *,
        now: Callable[[], float],
        orchestrators: Callable[[str], int],
        others: Callable[[], Iterable[PeerAddress]],
    ) -> None:
        self._data = data
        self._key = key
        self._transport = transport
        self._now = now
        self._orchestrators = orchestrators
        self._others = others
        self._issuer: Issuer | None = None
        self._standing: Standing | None = None
        rpc.serve(ENROL, self._enrol, guests=True)
        rpc.serve(RENEW, self._renew)

    def open(self, standing: Standing) -> None:
        """Begin to issue, if this node's standing lets it; again whenever the standing was renewed."""
        self._standing = standing
        self._issuer = None
        if not standing.issuer:
            return
        try:
            check_issuer(standing.issuer, standing.swarm_id, self._now())
        except TetherError as error:
            _log.warning("issuer.closed", code=error.code.name, detail=error.detail)
        else:
            self._issuer = Issuer(self._key, standing.swarm_id, standing.issuer)

    def invite(
        self, roles: tuple[Role, ...], regions: tuple[str, ...], *, ttl_s: float, uses: int
    ) -> NewTicket:
        """Make a ticket with this node's addresses and those of a few others that can let its holder in.

        Raises TetherError(NOT_ISSUER | OUT_OF_RANGE).
        """
        issuer = self._working_issuer()
        if not 1 <= ttl_s <= MAX_INVITE_TTL_S:
            raise TetherError(OUT_OF_RANGE, "ttl has to be between 1 second and 30 days.", field="ttl")
        if not 1 <= uses <= MAX_INVITE_USES:
            raise TetherError(OUT_OF_RANGE, f"uses has to be between 1 and {MAX_INVITE_USES}.", field="uses")
        secret = os.urandom(32)
        invite = issuer.invite(
            roles or PLAIN_ROLES, regions, secret=secret, ttl_s=ttl_s, uses=uses, now=self._now()
        )
        ticket = Ticket(issuer.swarm_id, self._addresses(), invite, secret)
        return NewTicket(write_ticket(ticket), self._now() + ttl_s)

    async def _enrol(self, peer: PeerId, request: EnrolRequest) -> EnrolAnswer:
        issuer = self._working_issuer()
        guest = self._transport.admission(peer)
        if not isinstance(guest, Guest):
            raise TetherError(ROLE_FORBIDDEN, "Only a guest with a ticket is enrolled.")
        if len(request.enc_key) != 32:
            raise TetherError(OUT_OF_RANGE, "The encryption key has to have 32 bytes.", field="encKey")
        if guest.invite.regions and request.region not in guest.invite.regions:
            detail = f"The ticket is for region {', '.join(guest.invite.regions)}."
            raise TetherError(ROLE_FORBIDDEN, detail, field="region")
        roles = granted_roles(request.roles, guest.invite, self._orchestrators(request.region))
        self._data.save_spent_invites(spend(self._data.spent_invites(), guest.invite, peer))
        regions = (request.region,)
        credential = issuer.certify(
            peer,
            request.enc_key,
            roles,
            regions,
            serial=os.urandom(16),
            now=self._now(),
            invite=guest.invite.key,
        )
        _log.info("member.enrolled", peer=peer, region=request.region, roles=roles)
        return EnrolAnswer(credential, self._appoint(peer) if "orchestrator" in roles else b"")

    async def _renew(self, peer: PeerId, request: RenewRequest) -> EnrolAnswer:
        """The same certificate with new dates. The serial stays, and with it the node's rank in its region."""
        issuer = self._working_issuer()
        old = self._member(peer).certificate
        credential = issuer.certify(
            peer,
            old.enc_key,
            old.roles,
            old.regions,
            serial=old.serial,
            now=self._now(),
            invite=old.invite,
        )
        _log.info("member.renewed", peer=peer, regions=old.regions, roles=old.roles)
        return EnrolAnswer(credential, self._appoint(peer) if "orchestrator" in old.roles else b"")

    def _member(self, peer: PeerId) -> Member:
        """What the caller proved when it connected, if that still holds. Raises TetherError(ROLE_FORBIDDEN | ...)."""
        assert self._standing is not None
        shown = self._transport.admission(peer)
        if peer == self._key.node_id:
            credential = self._standing.credential
        elif isinstance(shown, Member):
            credential = shown.credential
        else:
            raise TetherError(ROLE_FORBIDDEN, "Only a member's certificate is renewed.")
        return check_credential(credential, self._standing.swarm_id, self._now())

    def _appoint(self, peer: PeerId) -> bytes:
        authority = self._data.authority()
        return appoint(authority, peer, serial=os.urandom(16), now=self._now()) if authority else b""

    def _working_issuer(self) -> Issuer:
        if self._issuer is None:
            raise TetherError(NOT_ISSUER, "This node may not admit others.")
        return self._issuer

    def _addresses(self) -> tuple[str, ...]:
        here = PeerAddress(self._transport.peer_id, self._transport.addresses())
        everywhere = [
            f"{address}/p2p/{peer.peer}" for peer in (here, *self._others()) for address in peer.addresses[:2]
        ]
        return tuple(dict.fromkeys(everywhere))[:MAX_TICKET_ADDRESSES]
