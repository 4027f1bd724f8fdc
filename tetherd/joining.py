"""How a daemon comes into a swarm: it founds one, is admitted with a ticket, or comes back with its certificate."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from p2p.errors import (
    CERTIFICATE_EXPIRED,
    CERTIFICATE_INVALID,
    ROLE_FORBIDDEN,
    UNREACHABLE,
    USAGE,
    WRONG_SWARM,
    TetherError,
)
from p2p.identity import NodeKey, PeerId
from p2p.membership import (
    Issuer,
    Member,
    SwarmId,
    Ticket,
    appoint,
    check_credential,
    check_invite,
    guest_passport,
    member_passport,
    swarm_id_of,
)
from p2p.messages import ENROL, ROLES, EnrolRequest, Role
from p2p.rpc import Rpc
from p2p.transport import PeerAddress, Transport
from tetherd.data_dir import DataDir, Standing

ENROL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a start will do. Exactly one of standing and ticket is set, or neither: then it founds a swarm."""

    standing: Standing | None
    ticket: Ticket | None

    @property
    def swarm_id(self) -> SwarmId:
        """Of the swarm that is joined. Only of a plan that is not to found one."""
        known = self.standing or self.ticket
        assert known is not None
        return known.swarm_id


def plan(
    standing: Standing | None, ticket: Ticket | None, region: str, roles: Sequence[Role], *, now: float
) -> Plan:
    """Decide: a certificate that holds and covers what is asked comes before a ticket, so a unit file may keep one.

    now: unix seconds. Raises TetherError(WRONG_SWARM) for a ticket of another swarm, USAGE when it cannot found one,
    and without a ticket what is wrong with the certificate (CERTIFICATE_EXPIRED | ROLE_FORBIDDEN).
    """
    if standing is not None:
        if ticket is not None and ticket.swarm_id != standing.swarm_id:
            detail = f"The ticket is for swarm {ticket.swarm_id[:8]}, this directory is of {standing.swarm_id[:8]}."
            raise TetherError(WRONG_SWARM, detail, field="ticket")
        try:
            check_roles(check_credential(standing.credential, standing.swarm_id, now), region, roles)
        except TetherError:
            if ticket is None:
                raise
            return Plan(None, ticket)
        return Plan(standing, None)
    if ticket is None and roles and "orchestrator" not in roles:
        detail = (
            "A new swarm needs an orchestrator: add the role, or bring a ticket that `tetherctl invite` made."
        )
        raise TetherError(USAGE, detail, field="roles")
    return Plan(None, ticket)


def restored(data: DataDir, key: NodeKey, region: str, *, now: float) -> Standing | None:
    """The place that this node has; who holds the authority key certifies itself anew when that ran out."""
    standing = data.standing()
    if standing is None or data.authority() is None:
        return standing
    try:
        check_credential(standing.credential, standing.swarm_id, now)
    except TetherError as error:
        if error.code is not CERTIFICATE_EXPIRED:
            raise
        return found(data, key, region, now=now)
    return standing


def found(data: DataDir, key: NodeKey, region: str, *, now: float) -> Standing:
    """Make a swarm: an authority key in this data directory, and this node as its first issuer and member."""
    authority = data.found_authority()
    swarm_id = swarm_id_of(authority)
    certificate = appoint(authority, key.node_id, serial=os.urandom(16), now=now)
    issuer = Issuer(key, swarm_id, certificate)
    credential = issuer.certify(
        key.node_id, key.sealing_public, ROLES, (region,), serial=os.urandom(16), now=now
    )
    standing = Standing(swarm_id, credential, certificate)
    data.save_standing(standing)
    return standing


class Passport:
    """What the host shows in each handshake: an invite until there is a certificate."""

    def __init__(self, key: NodeKey, chosen: Plan) -> None:
        self._key = key
        self._ticket = chosen.ticket
        self._credential = chosen.standing.credential if chosen.standing else b""

    def adopt(self, credential: bytes) -> None:
        self._credential = credential

    def __call__(self) -> bytes:
        if self._credential:
            return member_passport(self._credential)
        if self._ticket is None:
            raise RuntimeError("a node without ticket and certificate has nothing to show")
        return guest_passport(self._ticket, self._key.node_id)


def addresses_in(ticket: Ticket) -> list[PeerAddress]:
    """The ticket's multiaddrs, a peer at a time, in its order."""
    found: dict[PeerId, list[str]] = {}
    for address in ticket.addresses:
        base, _, peer = address.rpartition("/p2p/")
        found.setdefault(PeerId(peer), []).append(base)
    return [PeerAddress(peer, tuple(addresses)) for peer, addresses in found.items()]


async def enrol(
    transport: Transport,
    rpc: Rpc,
    key: NodeKey,
    ticket: Ticket,
    region: str,
    roles: Sequence[Role],
    *,
    now: Callable[[], float],
    adopt: Callable[[bytes], None],
) -> Standing:
    """Show the ticket to the first issuer in it that answers, and come back with a certificate.

    adopt is told the credential before the guest's connections are closed, so that the next ones show it.
    Raises the issuer's refusal, or TetherError(UNREACHABLE) naming every address that was tried.
    """
    check_invite(ticket.invite, ticket.swarm_id, now())
    request = EnrolRequest(key.sealing_public, region, tuple(roles) or ROLES)
    failures: list[str] = []
    for address in addresses_in(ticket):
        try:
            await transport.connect(address)
            answer = await rpc.ask(address.peer, ENROL, request, timeout_s=ENROL_TIMEOUT_S)
        except TetherError as error:
            if not error.code.retryable and error.code.name not in ("NOT_ISSUER", "UNKNOWN_METHOD"):
                raise
            failures.append(f"{', '.join(address.addresses)}: {error.detail}")
            continue
        member = check_credential(answer.credential, ticket.swarm_id, now())
        _is_mine(member, key, region, roles)
        adopt(answer.credential)
        await transport.disconnect(address.peer)
        return Standing(ticket.swarm_id, answer.credential, answer.issuer)
    raise TetherError(
        UNREACHABLE, f"No issuer in the ticket answers ({'; '.join(failures)}).", field="ticket"
    )


def _is_mine(member: Member, key: NodeKey, region: str, roles: Sequence[Role]) -> None:
    certificate = member.certificate
    if certificate.node_id != key.node_id or certificate.enc_key != key.sealing_public:
        raise TetherError(CERTIFICATE_INVALID, "The issuer certified another node.")
    check_roles(member, region, roles)


def check_roles(member: Member, region: str, roles: Sequence[Role]) -> None:
    """Raises TetherError(ROLE_FORBIDDEN) if the certificate lacks the region or a role that was asked for."""
    certificate = member.certificate
    if region not in certificate.regions:
        detail = f"The certificate is for region {', '.join(certificate.regions)}, not for {region}."
        raise TetherError(ROLE_FORBIDDEN, detail, field="region")
    lacking = [role for role in roles if role not in certificate.roles]
    if lacking:
        raise TetherError(
            ROLE_FORBIDDEN, f"The certificate does not grant: {', '.join(lacking)}.", field="roles"
        )


async def reach_swarm(
    peers: Sequence[PeerAddress], connect: Callable[[PeerAddress], Awaitable[None]], wanted: int = 3
) -> int:
    """Dial known members until some answer. Returns how many do; raises nothing: a first node is alone at first."""
    reached = 0
    for peer in peers:
        if reached >= wanted:
            break
        try:
            await connect(peer)
        except TetherError:
            continue
        reached += 1
    return reached
