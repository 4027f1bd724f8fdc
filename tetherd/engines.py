"""Which engine serves which model: the one place that knows them all.

A new engine is a case here: what `--model` named has been found or fetched by then (`registry/references.py` says what
it may name, `registry/local.py` finds what needs no network).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec.structs import replace

from inference.engine import Engine
from inference.llama import open_llama, plan_llama
from inference.manifest import Manifest, manifest_of
from inference.offer import Offer, Told
from inference.sizing import LlamaSettings
from tetherd.config import WorkerConfig
from tetherd.registry.local import LocalModel

GB: Final = 1_000_000_000

Located = LocalModel
"""What --model named, once it is on this machine."""


@dataclass(frozen=True, slots=True)
class EngineTerms:
    """What the owner lends to an engine."""

    config: WorkerConfig


async def offer_of(model: Located, terms: EngineTerms, told: Told) -> Offer:
    """Make sure what the model is (told: how far its hashing has come), and say what serving it takes.

    Raises TetherError(MODEL_INVALID).
    """
    return await _by_llama(model, terms, told)


async def _by_llama(model: LocalModel, terms: EngineTerms, told: Told) -> Offer:
    manifest = model.manifest or await _manifest(model, told)
    config = terms.config
    settings = LlamaSettings(
        slots=config.slots,
        threads=config.threads,
        max_tokens_per_second=config.max_tokens_per_second,
        model_sha256=manifest.files[0].sha256,
        exact=config.exact,
        memory_bytes=int(config.memory_gb * GB) if config.memory_gb else None,
    )
    plan = plan_llama(model.header, settings)

    def start(_told: Told) -> AbstractAsyncContextManager[Engine]:
        return open_llama(model.path, settings)

    return Offer(manifest, plan.need_bytes, plan.slots, plan.context_tokens, start)


async def _manifest(model: LocalModel, told: Told) -> Manifest:
    hashed = partial(manifest_of, model.path, model.name, model.version, model.header)
    manifest = await hashed(progress=lambda done, size: told(done / max(1, size)))
    return manifest if manifest.version else replace(manifest, version=manifest.files[0].sha256[:12])
