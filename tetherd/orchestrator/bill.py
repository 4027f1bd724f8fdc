"""What a job costs, by the receipts of its attempts. Pure.

The prompt counts once; the answer counts up to the highest position that any receipt proves. A receipt is worth
something if its worker signed it, its gateway countersigned it, and it stays within the job's bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2p.errors import FORBIDDEN, OUT_OF_RANGE, TetherError
from p2p.identity import PeerId, public_key_of, verify
from p2p.messages import Receipt, SignedReceipt
from p2p.wire import decode, encode
from tetherd.orchestrator.requests import MAX_ATTEMPT, MAX_TOKENS
from tetherd.store.protocol import AttemptRecord, Bill, JobRecord


def check_receipt(
    signed: SignedReceipt, job: bytes, gateway: PeerId | None, stored: JobRecord | None
) -> Receipt:
    """Check signatures, bounds and grant. stored None: a job of another ledger, whose grants are not known here.

    gateway None: a worker's word alone, which counts, and is disputed.

    Raises TetherError(FORBIDDEN | OUT_OF_RANGE | FRAME_INVALID | FIELD_INVALID).
    """
    receipt = decode(signed.receipt, Receipt)
    if receipt.job != job:
        raise TetherError(FORBIDDEN, "The receipt is of another job.")
    if not verify(public_key_of(receipt.worker), "receipt", signed.receipt, signed.worker_signature):
        raise TetherError(FORBIDDEN, "The receipt is not signed by its worker.")
    if gateway is not None and not _countersigned(signed, gateway):
        raise TetherError(FORBIDDEN, "The receipt is not countersigned by the job's gateway.")
    if not _within_bounds(receipt, stored):
        raise TetherError(OUT_OF_RANGE, "The receipt is beyond what was granted.")
    if stored is not None and not _granted(receipt, stored):
        raise TetherError(FORBIDDEN, "The receipt is of a grant that was not given here.")
    return receipt


def bill(receipts: Iterable[Receipt], attempts: Sequence[AttemptRecord]) -> Bill:
    """Sum up. An attempt without a receipt has what its successor went on after."""
    best: dict[int, Receipt] = {}
    prompt = 0
    for receipt in receipts:
        prompt = max(prompt, receipt.prompt_tokens)
        other = best.get(receipt.attempt)
        if other is None or receipt.position > other.position:
            best[receipt.attempt] = receipt
    by_attempt: dict[int, int] = {}
    reached, silent = 0, None
    for number in sorted(best.keys() | {one.attempt for one in attempts}):
        found = best.get(number)
        if found is None:
            silent = number
            continue
        if silent is not None and found.first_position > reached:
            by_attempt[silent] = found.first_position - reached
        reached = max(reached, found.first_position)
        by_attempt[number] = max(0, found.position - reached)
        reached, silent = max(reached, found.position), None
    return Bill(prompt, reached, by_attempt)


def proven(receipts: Iterable[SignedReceipt], stored: JobRecord) -> Bill:
    """The bill by these receipts, which were checked, and by those that the row has."""
    signed = {*(encode(one) for one in receipts), *stored.receipts}
    said = {one.receipt for one in (decode(text, SignedReceipt) for text in signed)}
    total = bill((decode(text, Receipt) for text in sorted(said)), stored.attempts)
    known = {decode(text, Receipt).attempt for text in said}
    whole = all(one.attempt in known for one in stored.attempts)
    return Bill(total.prompt_tokens, total.tokens, total.by_attempt, tuple(sorted(signed)), whole)


def _countersigned(signed: SignedReceipt, gateway: PeerId) -> bool:
    return verify(public_key_of(gateway), "receipt", signed.receipt, signed.gateway_signature)


def _within_bounds(receipt: Receipt, stored: JobRecord | None) -> bool:
    tokens, prompt = (stored.max_tokens, stored.max_prompt_tokens) if stored else (MAX_TOKENS, MAX_TOKENS)
    return (
        0 < receipt.attempt <= MAX_ATTEMPT
        and 0 <= receipt.first_position <= receipt.position <= tokens
        and 0 <= receipt.prompt_tokens <= prompt
    )


def _granted(receipt: Receipt, stored: JobRecord) -> bool:
    """Whether the receipt is of a grant in the row, or of one before all of them: another leader's, then."""
    grants = {one.attempt: (one.grant_id, one.worker) for one in stored.attempts}
    if receipt.attempt in grants:
        return grants[receipt.attempt] == (receipt.grant_id, receipt.worker)
    return receipt.attempt < min(grants, default=MAX_ATTEMPT)
