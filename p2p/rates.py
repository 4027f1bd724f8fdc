"""What is left of a caller's minute: told with each placement and each refusal, so that clients pace themselves."""

from __future__ import annotations

import msgspec


class Rates(msgspec.Struct, frozen=True, rename="camel"):
    """limit None: no such limit. reset: seconds until the whole of it is there again."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0
