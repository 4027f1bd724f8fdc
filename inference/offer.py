"""A model that this machine could serve: what it is, what it needs, and how its engine is started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from inference.engine import Engine
from inference.manifest import Manifest

Told = Callable[[float], None]
"""Is told how far a load has come, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Offer:
    """need_bytes: of this machine's memory while the engine runs; 0: it computes elsewhere. slots, context_tokens: what
    the engine will have, known before it runs. open: starts it; it runs until the context ends. threads, gpu_layers:
    only shown. embeds: dimensions of its vectors, 0 for text.

    open raises TetherError(MODEL_INVALID) for a model that will never run here, another code for one that may later.
    """

    manifest: Manifest
    need_bytes: int
    slots: int
    context_tokens: int
    open: Callable[[Told], AbstractAsyncContextManager[Engine]]
    threads: int | None = None
    gpu_layers: int | None = None
    embeds: int = 0
