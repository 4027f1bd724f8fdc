"""One usage row as a signed event, in the manner of Standard Webhooks (standardwebhooks.com, 1.0.0). Pure.

The receiver checks `webhook-signature`, refuses a `webhook-timestamp` that is more than some minutes off, and takes an
event with a `webhook-id` that it knows as taken already.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Final

from p2p.errors import CONFIG_INVALID, TetherError
from tetherd.store.protocol import UsageRow
from tetherd.usage.rows import date_of, event_id, row_shape

KIND: Final = "usage.recorded"
MARK: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)
"""By the specification."""
FIRST_PAUSE_S: Final = 5.0
MAX_PAUSE_S: Final = 3_600.0
GROWTH: Final = 3.0
"""5 s, 15 s, 45 s … an hour: a deployment is over in the first ones, a weekend costs some dozens."""


@dataclass(frozen=True, slots=True)
class Secret:
    key: bytes = field(repr=False)


def read_secret(text: str) -> Secret:
    """Raises TetherError(CONFIG_INVALID), without what was given."""
    try:
        key = b64decode(text.strip().removeprefix(MARK), validate=True)
    except ValueError:
        key = b""
    if not text.strip().startswith(MARK) or len(key) not in SECRET_BYTES:
        detail = 'The secret of the usage webhook has to be 24 to 64 random bytes: "whsec_$(openssl rand -base64 32)".'
        raise TetherError(CONFIG_INVALID, detail, field="usage.webhook_secret")
    return Secret(key)


def body_of(row: UsageRow) -> bytes:
    """The same bytes at each try: a usage row never changes."""
    event = {"type": KIND, "timestamp": date_of(row.ended), "data": row_shape(row)}
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def headers_of(row: UsageRow, body: bytes, secret: Secret, now: float) -> dict[str, str]:
    """now: unix seconds."""
    name, at = event_id(row.job), str(int(now))
    return {
        "content-type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": at,
        "webhook-signature": sign(secret, name, at, body),
    }


def sign(secret: Secret, name: str, at: str, body: bytes) -> str:
    digest = hmac.digest(secret.key, f"{name}.{at}.".encode() + body, "sha256")
    return f"v1,{b64encode(digest).decode()}"


def pause_s(tries: int, drawn: float) -> float:
    """Until the next try, after so many. drawn: 0 to 1; half of the pause is left to chance."""
    longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * GROWTH ** min(tries - 1, 20))
    return longest * (0.5 + drawn / 2)
