"""The models that this node lends: found, hashed, loaded, each engine in a task of its own."""

from __future__ import annotations

from typing import Final

import trio
from msgspec.structs import replace

from inference.llama import LlamaSettings, open_llama
from inference.manifest import Manifest, manifest_of
from inference.worker import LoadedModel
from p2p.errors import MODEL_INVALID, TetherError
from tetherd.config import WorkerConfig
from tetherd.phases import Phases
from tetherd.registry.local import LocalModel, find_local

HASHED_SHARE: Final = 0.5
"""Of a model's progress, what hashing counts; loading is the rest."""


class ModelHouse:
    """Loads what --model names. `loaded` fills as engines come up; `wait` returns when all have."""

    def __init__(self, config: WorkerConfig, phases: Phases) -> None:
        self._config = config
        self._phases = phases
        self._pending = trio.Event()
        self.loaded: dict[str, LoadedModel] = {}

    async def run(self) -> None:
        """Load all models and keep their engines until cancelled. Raises TetherError(MODEL_INVALID)."""
        found = find_local(self._config.models)
        async with trio.open_nursery() as nursery:
            for model in found:
                await nursery.start(self._keep, model)
            self._pending.set()

    async def wait(self) -> list[LoadedModel]:
        await self._pending.wait()
        return list(self.loaded.values())

    async def _keep(self, model: LocalModel, *, task_status: trio.TaskStatus[None]) -> None:
        manifest = await self._manifest(model)
        if manifest.digest in self.loaded:
            raise TetherError(MODEL_INVALID, f"{model.path} is named twice.", field="model")
        settings = LlamaSettings(
            slots=self._config.slots,
            threads=self._config.threads,
            max_tokens_per_second=self._config.max_tokens_per_second,
            model_sha256=manifest.files[0].sha256,
        )
        async with open_llama(model.path, settings) as engine:
            self.loaded[manifest.digest] = LoadedModel(manifest, engine)
            self._phases.reached("model", f"{manifest.name}@{manifest.version}, {engine.info.slots} slots")
            task_status.started()
            await trio.sleep_forever()

    async def _manifest(self, model: LocalModel) -> Manifest:
        def progress(done: int, size: int) -> None:
            self._phases.progress("model", done / max(1, size) * HASHED_SHARE, model.name)

        manifest = await manifest_of(model.path, model.name, model.version, model.header, progress=progress)
        return manifest if manifest.version else replace(manifest, version=manifest.files[0].sha256[:12])
