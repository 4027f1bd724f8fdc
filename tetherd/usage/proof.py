"""Receipts that leave the ledger, and how anybody checks them without it. Pure.

A proof is one job's row with its receipts; with it go the credentials of whoever signed. Nothing but the swarm's id has
to be trusted: it is the authority's key, and every credential leads to it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from p2p.errors import FIELD_INVALID, TetherError
from p2p.identity import PeerId, public_key_of, verify
from p2p.membership import SwarmId, check_credential
from p2p.messages import Receipt, Role, SignedReceipt
from p2p.wire import decode
from tetherd.store.protocol import UsageRow


class Proof(msgspec.Struct, frozen=True, rename="camel"):
    """job: hex; ended: unix seconds; receipts: encoded `SignedReceipt`s in base64."""

    job: str
    ended: float
    tenant: str
    model: str
    gateway: str
    prompt_tokens: int
    tokens: int
    disputed: bool
    receipts: tuple[str, ...]


class Proofs(msgspec.Struct, frozen=True, rename="camel"):
    """What `tetherctl usage receipts` writes. credentials: by node id, in base64."""

    swarm: str
    credentials: dict[str, str]
    jobs: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one job's proof."""

    job: str
    why: str


def proof_of(row: UsageRow) -> Proof:
    receipts = tuple(b64encode(one).decode() for one in row.receipts)
    return Proof(
        row.job.hex(),
        row.ended,
        row.tenant,
        row.model,
        row.gateway,
        row.prompt_tokens,
        row.tokens,
        row.disputed,
        receipts,
    )


def signers(rows: Iterable[UsageRow]) -> set[PeerId]:
    """Whose credentials have to go with the rows."""
    found: set[PeerId] = set()
    for row in rows:
        found.add(row.gateway)
        for one in row.receipts:
            found.add(decode(decode(one, SignedReceipt).receipt, Receipt).worker)
    return found


def read_proofs(data: bytes) -> Proofs:
    """Raises TetherError(FIELD_INVALID)."""
    try:
        return msgspec.json.decode(data, type=Proofs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TetherError(FIELD_INVALID, f"The file holds no receipts: {error}.", field="file") from error


def check_proofs(proofs: Proofs, swarm_id: SwarmId) -> list[Finding]:
    """All that is wrong, job by job; nothing if each bill stands on signatures of the swarm's own nodes."""
    return [
        Finding(job.job, why)
        for job in proofs.jobs
        if (why := _wrong(job, proofs.credentials, swarm_id)) is not None
    ]


def _wrong(job: Proof, credentials: Mapping[str, str], swarm_id: SwarmId) -> str | None:
    try:
        receipts = [_checked(text, job, credentials, swarm_id) for text in job.receipts]
    except TetherError as error:
        return error.detail
    prompt = max((receipt.prompt_tokens for receipt in receipts), default=0)
    tokens = max((receipt.position for receipt in receipts), default=0)
    if (job.prompt_tokens, job.tokens) != (prompt, tokens):
        return f"It is billed {job.prompt_tokens} and {job.tokens} tokens; its receipts prove {prompt} and {tokens}."
    return None


def _checked(text: str, job: Proof, credentials: Mapping[str, str], swarm_id: SwarmId) -> Receipt:
    try:
        signed = decode(b64decode(text, validate=True), SignedReceipt)
    except (Base64Error, ValueError) as error:
        raise TetherError(FIELD_INVALID, "A receipt is not base64.") from error
    receipt = decode(signed.receipt, Receipt)
    if receipt.job.hex() != job.job:
        raise TetherError(FIELD_INVALID, "A receipt is of another job.")
    _check_signature(receipt.worker, "worker", signed.worker_signature, signed, job, credentials, swarm_id)
    if signed.gateway_signature:
        gateway = PeerId(job.gateway)
        _check_signature(gateway, "gateway", signed.gateway_signature, signed, job, credentials, swarm_id)
    elif not job.disputed:
        raise TetherError(
            FIELD_INVALID, "A receipt is not countersigned, and the job is not shown as disputed."
        )
    return receipt


def _check_signature(
    peer: PeerId,
    role: Role,
    signature: bytes,
    signed: SignedReceipt,
    job: Proof,
    credentials: Mapping[str, str],
    swarm_id: SwarmId,
) -> None:
    if not verify(public_key_of(peer), "receipt", signed.receipt, signature):
        raise TetherError(FIELD_INVALID, f"A receipt is not signed by its {role}.")
    try:
        credential = b64decode(credentials[peer], validate=True)
    except (KeyError, ValueError) as error:
        raise TetherError(FIELD_INVALID, f"The credential of the {role} {peer} is missing.") from error
    member = check_credential(credential, swarm_id, job.ended)  # certificates end, what they signed stays
    if member.peer != peer or role not in member.certificate.roles:
        raise TetherError(FIELD_INVALID, f"{peer} is not certified as a {role}.")
