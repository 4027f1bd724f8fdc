"""What makes two requests the same job: their tenant and their retry token."""

from __future__ import annotations

import hashlib
from typing import Final

JOB_BYTES: Final = 32


def job_id(tenant: str, retry_token: str) -> bytes:
    """BLAKE2b, 32 bytes, over both, apart from each other."""
    return hashlib.blake2b(f"{tenant}\x00{retry_token}".encode(), digest_size=JOB_BYTES).digest()
