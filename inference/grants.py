"""Whether a grant is one: signed by an orchestrator of this swarm, for this caller, for this worker as it lives now."""

from __future__ import annotations

from typing import Final

from inference.slots import HELD_S
from p2p.errors import GRANT_INVALID, TetherError
from p2p.identity import PeerId, public_key_of, verify
from p2p.membership import CLOCK_SKEW_S, SwarmId, check_credential
from p2p.messages import Grant, SignedGrant
from p2p.wire import decode

MAX_GRANT_ID_BYTES: Final = 64


def check_grant(
    signed: SignedGrant,
    *,
    caller: PeerId,
    worker: PeerId,
    incarnation: int,
    swarm_id: SwarmId,
    region: str,
    now: float,
) -> Grant:
    """Check all that does not depend on the worker's slots. now: unix seconds.

    Raises TetherError(GRANT_INVALID), or what is wrong with the orchestrator's credential.
    """
    orchestrator = check_credential(signed.credential, swarm_id, now)
    if "orchestrator" not in orchestrator.certificate.roles or region not in orchestrator.certificate.regions:
        raise TetherError(GRANT_INVALID, f"The grant is not signed by an orchestrator of region {region}.")
    if not verify(public_key_of(orchestrator.peer), "grant", signed.grant, signed.signature):
        raise TetherError(GRANT_INVALID, "The grant's signature is wrong.")
    try:
        grant = decode(signed.grant, Grant)
    except TetherError as error:
        raise TetherError(GRANT_INVALID, "The grant cannot be read.") from error
    if grant.gateway != caller:
        raise TetherError(GRANT_INVALID, "The grant is for another gateway.")
    if (grant.worker, grant.worker_incarnation) != (worker, incarnation):
        raise TetherError(
            GRANT_INVALID, "The grant is for another worker, or for this one before its restart."
        )
    if len(grant.job) != 32 or not 0 < len(grant.grant_id) <= MAX_GRANT_ID_BYTES or grant.attempt < 0:
        raise TetherError(GRANT_INVALID, "The grant has a field out of bounds.")
    if grant.not_after > now + HELD_S + CLOCK_SKEW_S:
        raise TetherError(GRANT_INVALID, "The grant is from the future: a clock is wrong.")
    return grant
