"""The answer that every way leads to: the same tokens at the same times, whoever asks through what."""

from __future__ import annotations

from typing import Final

MODEL: Final = "tether-demo"
TOKENS: Final = 20
TEXT: Final = " tick"
FIRST_S: Final = 0.005
STEP_S: Final = 0.006
"""Above the 5 ms within which a worker sends tokens together, so that 20 tokens are 20 chunks everywhere."""


def due_s(token: int) -> float:
    """When a token comes, after the request."""
    return FIRST_S + token * STEP_S
