"""The models that this node lends: found or fetched, verified, loaded, each engine in a task of its own."""

from __future__ import annotations

from typing import Final

import trio

from inference.artifacts.fetching import Progress
from inference.worker import LoadedModel
from p2p.errors import MODEL_INVALID, TetherError
from tetherd.config import WorkerConfig
from tetherd.engines import EngineTerms, offer_of
from tetherd.phases import Phases
from tetherd.registry.library import Library
from tetherd.registry.local import LocalModel, find_local, sort_references

HASHED_SHARE: Final = 0.5
"""Of a model's progress, what hashing counts; loading is the rest."""


class ModelHouse:
    """Loads what --model names. `loaded` fills as engines come up; `wait` returns when all have.

    Files of this machine are hashed and loaded while the node joins; others wait for its library, which is given to
    `open_library` once it is a member.
    """

    def __init__(self, config: WorkerConfig, phases: Phases) -> None:
        self._config = config
        self._phases = phases
        self._pending = trio.Event()
        self._library: Library | None = None
        self._member = trio.Event()
        self.loaded: dict[str, LoadedModel] = {}

    def open_library(self, library: Library) -> None:
        self._library = library
        self._member.set()

    async def run(self) -> None:
        """Load all models and keep their engines until cancelled. Raises TetherError, MODEL_INVALID among them."""
        here, elsewhere = sort_references(self._config.models)
        found = find_local(here)
        async with trio.open_nursery() as nursery:
            for model in found:
                await nursery.start(self._keep, model)
            for text in elsewhere:
                await nursery.start(self._keep, await self._fetch(text))
            self._pending.set()

    async def wait(self) -> list[LoadedModel]:
        await self._pending.wait()
        return list(self.loaded.values())

    async def _fetch(self, text: str) -> LocalModel:
        await self._member.wait()
        assert self._library is not None

        def told(progress: Progress) -> None:
            self._phases.progress("model", progress.done / max(1, progress.size) * HASHED_SHARE, text)

        return await self._library.fetch_reference(text, told)

    async def _keep(self, model: LocalModel, *, task_status: trio.TaskStatus[None]) -> None:
        def hashed(fraction: float) -> None:
            self._phases.progress("model", fraction * HASHED_SHARE, model.name)

        offer = await offer_of(model, EngineTerms(self._config), hashed)
        manifest = offer.manifest
        if manifest.digest in self.loaded:
            raise TetherError(MODEL_INVALID, f"{model.path} is named twice.", field="model")
        async with offer.open(lambda _: None) as engine:
            self.loaded[manifest.digest] = LoadedModel(manifest, engine)
            mode = "exact" if engine.info.exact else "not exact"
            told = f"{manifest.name}@{manifest.version}, {engine.info.slots} slots, {mode}"
            self._phases.reached("model", told)
            task_status.started()
            await trio.sleep_forever()
