"""Offers of the torch engine: a folder of safetensors, or a GGUF whose owner wants torch to compute it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio
from msgspec.structs import replace

from inference.device import Device
from inference.engine import Engine
from inference.manifest import Manifest, ManifestFile, Vouched, hash_file, manifest_of, mark_of
from inference.offer import Offer, Told
from inference.quarantine import Quarantine
from inference.sizing import LlamaSettings, least_bytes, plan_engine
from inference.torch.engine import open_torch, read_model
from tetherd.registry.contents import read_contents
from tetherd.registry.local import LocalModel, ModelFolder


def least_for_torch(path: Path) -> int:
    """Bytes without which there is no serving it. Raises TetherError(MODEL_INVALID)."""
    return least_bytes(read_model(path))


async def torch_offer(
    model: LocalModel | ModelFolder, settings: LlamaSettings, device: Device, told: Told
) -> Offer:
    """settings: what the owner chose. Raises TetherError(MODEL_INVALID)."""
    header = await trio.to_thread.run_sync(read_model, model.path)
    manifest, vouched = await _hashed(model, told)
    settings = dataclasses.replace(settings, model_sha256=content_digest(manifest.files))
    sizes, planned = plan_engine(header, settings, device)
    deaths = Quarantine()

    async def check() -> None:
        for file in vouched:
            await file.check()

    def start(told: Told) -> AbstractAsyncContextManager[Engine]:
        return open_torch(model.path, planned, told=told, quarantine=deaths, verify=check)

    context, slots = sizes.context_tokens, sizes.slots
    return Offer(manifest, sizes.need_bytes, slots, context, start, sizes.threads, sizes.gpu_layers)


async def _hashed(model: LocalModel | ModelFolder, told: Told) -> tuple[Manifest, Sequence[Vouched]]:
    """The manifest, made if it was not published, and what to check before each load."""
    if isinstance(model, LocalModel):
        mark = mark_of(model.path)
        manifest = model.manifest or await manifest_of(model.path, model.name, model.version, model.header)
        sha256 = manifest.files[0].sha256
        manifest = manifest if manifest.version else replace(manifest, version=sha256[:12])
        return manifest, [Vouched(model.path, sha256, mark)]
    contents = await trio.to_thread.run_sync(read_contents, model.path, model.name)
    known = {one.path: one.sha256 for one in model.manifest.files} if model.manifest else {}
    files, vouched = list[ManifestFile](), list[Vouched]()
    for number, (name, path) in enumerate(contents.files.items()):
        mark = mark_of(path)
        sha256, size = (known[name], 0) if name in known else await hash_file(path)
        files.append(ManifestFile(name, size, sha256))
        vouched.append(Vouched(path, sha256, mark))
        told((number + 1) / len(contents.files))
    if model.manifest is not None:
        return model.manifest, vouched
    version = model.version or content_digest(files)[:12]
    context, template = contents.context_tokens, contents.chat_template
    return Manifest(model.name, version, contents.engine, tuple(files), context, template), vouched


def content_digest(files: Sequence[ManifestFile]) -> str:
    """Of one file its own, of several that of theirs; hex."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
