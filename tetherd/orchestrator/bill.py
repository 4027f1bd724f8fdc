"""What a job costs, by the receipts of its attempts. Pure.

The prompt counts once; the answer counts up to the highest position that any receipt proves. A receipt is worth
something if its worker signed it, its gateway countersigned it, and it stays within the job's bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2p.errors import FORBIDDEN, TetherError
from p2p.identity import PeerId, public_key_of, verify
from p2p.messages import Receipt, SignedReceipt
from p2p.wire import decode


@dataclass(frozen=True, slots=True)
class Bill:
    prompt_tokens: int = 0
    tokens: int = 0


def check_receipt(signed: SignedReceipt, job: bytes, gateway: PeerId) -> Receipt:
    """Check both signatures. Raises TetherError(FORBIDDEN | FRAME_INVALID)."""
    receipt = decode(signed.receipt, Receipt)
    if receipt.job != job:
        raise TetherError(FORBIDDEN, "The receipt is of another job.")
    if not verify(public_key_of(receipt.worker), "receipt", signed.receipt, signed.worker_signature):
        raise TetherError(FORBIDDEN, "The receipt is not signed by its worker.")
    if not verify(public_key_of(gateway), "receipt", signed.receipt, signed.gateway_signature):
        raise TetherError(FORBIDDEN, "The receipt is not countersigned by the job's gateway.")
    return receipt


def bill(receipts: Sequence[Receipt], granted: Callable[[Receipt], bool]) -> Bill:
    """Sum up. granted: whether the receipt belongs to a grant of this job."""
    proven = [receipt for receipt in receipts if granted(receipt)]
    return Bill(
        max((receipt.prompt_tokens for receipt in proven), default=0),
        max((receipt.position for receipt in proven), default=0),
    )
