"""Which engine serves which model: the one place that knows them all.

A new engine is a kind of `Located` (found by `registry/`, which says what `--model` may name) and a case in each of the
two functions here.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from msgspec.structs import replace

from inference.device import Device
from inference.engine import Engine
from inference.llama import open_llama
from inference.manifest import Manifest, Vouched, manifest_of, mark_of
from inference.offer import Offer, Told
from inference.openai_engine import DEFAULT_SLOTS, ServerSettings, open_server
from inference.openai_wire import UNKNOWN_CONTEXT
from inference.quarantine import Quarantine
from inference.sizing import LlamaSettings, least_bytes, plan_engine
from p2p.errors import MODEL_INVALID, TetherError
from tetherd.config import WorkerConfig
from tetherd.registry.local import LocalModel, LocalServer, ModelFolder
from tetherd.torch_models import least_for_torch, torch_offer

Located = LocalModel | LocalServer | ModelFolder
"""What --model named, once it is on this machine."""

EngineChoice = Literal["auto", "llama", "torch"]

SERVER_VERSION: Final = "text"
"""Of what a server has nobody knows more than its name; workers that front one name stand in for each other."""


@dataclass(frozen=True, slots=True)
class EngineTerms:
    """What the owner lends to one engine. memory_bytes: None for what it would take of a machine of its own."""

    config: WorkerConfig
    device: Device
    memory_bytes: int | None = None


def least_memory(model: Located, engine: EngineChoice = "auto") -> int:
    """Bytes without which there is no serving it; 0: it takes none of this machine's."""
    match model:
        case LocalServer():
            return 0
        case LocalModel() | ModelFolder() if _by_torch(model, engine):
            return least_for_torch(model.path)
        case LocalModel():
            return least_bytes(model.header)
        case ModelFolder():
            raise _no_engine(model)


async def offer_of(model: Located, terms: EngineTerms, told: Told) -> Offer:
    """Make sure what the model is (told: how far its hashing has come), and say what serving it takes.

    Raises TetherError(MODEL_INVALID).
    """
    match model:
        case LocalServer():
            return _by_server(model, terms)
        case LocalModel() | ModelFolder() if _by_torch(model, terms.config.engine):
            return await torch_offer(model, _wanted(terms), terms.device, told)
        case LocalModel():
            return await _by_llama(model, terms, told)
        case ModelFolder():
            raise _no_engine(model)


def _no_engine(model: ModelFolder) -> TetherError:
    detail = f"{model.name} consists of safetensors, which llama.cpp cannot serve: leave --engine out."
    return TetherError(MODEL_INVALID, detail, field="model")


def _by_torch(model: LocalModel | ModelFolder, engine: EngineChoice) -> bool:
    return engine == "torch" or (engine == "auto" and isinstance(model, ModelFolder))


def _wanted(terms: EngineTerms, sha256: str = "") -> LlamaSettings:
    config = terms.config
    return LlamaSettings(
        slots=config.slots,
        threads=config.threads,
        max_tokens_per_second=config.max_tokens_per_second,
        model_sha256=sha256,
        exact=config.exact,
        memory_bytes=terms.memory_bytes,
        gpu_layers=config.gpu_layers,
    )


def _by_server(model: LocalServer, terms: EngineTerms) -> Offer:
    key = os.environ.get(terms.config.server_key_env, "") if terms.config.server_key_env else ""
    at, slots = model.at, terms.config.slots or DEFAULT_SLOTS
    settings = ServerSettings(at.url, at.model, key, slots, at.embeds)
    manifest = Manifest(model.name, SERVER_VERSION, "openai", (), UNKNOWN_CONTEXT)
    return Offer(manifest, 0, settings.slots, UNKNOWN_CONTEXT, partial(open_server, settings))


async def _by_llama(model: LocalModel, terms: EngineTerms, told: Told) -> Offer:
    mark = mark_of(model.path)
    manifest = model.manifest or await _manifest(model, told)
    file = Vouched(model.path, manifest.files[0].sha256, mark)
    sizes, settings = plan_engine(model.header, _wanted(terms, file.sha256), terms.device)
    deaths = Quarantine()

    def start(told: Told) -> AbstractAsyncContextManager[Engine]:
        return open_llama(model.path, settings, told=told, quarantine=deaths, verify=file.check)

    return Offer(
        manifest,
        sizes.need_bytes,
        sizes.slots,
        sizes.context_tokens,
        start,
        sizes.threads,
        sizes.gpu_layers,
        model.header.embeds,
    )


async def _manifest(model: LocalModel, told: Told) -> Manifest:
    hashed = partial(manifest_of, model.path, model.name, model.version, model.header)
    manifest = await hashed(progress=lambda done, size: told(done / max(1, size)))
    return manifest if manifest.version else replace(manifest, version=manifest.files[0].sha256[:12])
