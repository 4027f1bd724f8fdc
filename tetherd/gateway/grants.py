"""What a gateway takes from an orchestrator: a placement that is signed, and is what was asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.errors import GRANT_INVALID, TetherError
from p2p.identity import PeerId, public_key_of, verify
from p2p.membership import Member, SwarmId, check_credential
from p2p.messages import Grant, Placement, PlacementRequest, Role, ServedModel, SignedGrant
from p2p.rates import Rates
from p2p.transport import PeerAddress
from p2p.wire import decode


@dataclass(frozen=True, slots=True)
class Granted:
    """A checked placement. leader: who signed it and keeps the job's row; signed: what the worker wants to see."""

    leader: PeerId
    grant: Grant
    signed: SignedGrant
    worker: Member
    address: PeerAddress
    region: str
    model: ServedModel
    rates: Rates | None = None


def check_placement(
    placement: Placement,
    wanted: PlacementRequest,
    *,
    leader: PeerId,
    gateway: PeerId,
    swarm_id: SwarmId,
    now: float,
) -> Granted:
    """Check both credentials, the signature and every field. now: unix seconds.

    The grant's dates are left to the worker, whose clock is the one that they are measured by. Raises
    TetherError(GRANT_INVALID | CERTIFICATE_* | WRONG_SWARM | FRAME_INVALID).
    """
    signed = placement.grant
    signer = _member(signed.credential, "orchestrator", swarm_id, now)
    if signer.peer != leader or not verify(public_key_of(leader), "grant", signed.grant, signed.signature):
        raise _wrong("it is not signed by the orchestrator that was asked")
    grant = decode(signed.grant, Grant)
    worker = _member(placement.worker_credential, "worker", swarm_id, now)
    expected = {
        "job": (grant.job, wanted.job),
        "tenant": (grant.tenant, wanted.tenant_id),
        "gateway": (grant.gateway, gateway),
        "request MAC": (grant.request_mac, wanted.request_mac),
        "prompt bound": (grant.max_prompt_tokens, wanted.max_prompt_tokens),
        "token bound": (grant.max_tokens, wanted.max_tokens),
        "worker": (grant.worker, worker.peer),
        "manifest": (grant.manifest_digest, placement.model.digest),
        "model": (placement.model.name, wanted.model_id),
        "version": (placement.model.version, wanted.version),
    }
    for name, (found, asked) in expected.items():
        if found != asked:
            raise _wrong(f"its {name} is not what was asked for")
    if grant.worker in wanted.exclude:
        raise _wrong("it names a worker that failed this request")
    if placement.region not in worker.certificate.regions:
        raise _wrong("its worker is not certified for its region")
    address = PeerAddress(worker.peer, placement.worker_addresses)
    return Granted(leader, grant, signed, worker, address, placement.region, placement.model, placement.rates)


def _member(credential: bytes, role: Role, swarm_id: SwarmId, now: float) -> Member:
    member = check_credential(credential, swarm_id, now)
    if role not in member.certificate.roles:
        raise _wrong(f"it names a node as {role} that is not certified as one")
    return member


def _wrong(why: str) -> TetherError:
    return TetherError(GRANT_INVALID, f"The grant is not valid: {why}.")
