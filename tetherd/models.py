"""The models that this node lends: found or fetched, verified, and given a room where their engines run in turns."""

from __future__ import annotations

from typing import Any, Final

import trio

from inference.artifacts.fetching import Progress
from inference.device import Device
from inference.engine_room import EngineRoom, RoomMetrics
from inference.offer import Offer
from inference.sizing import budget_for, share
from inference.survey import survey
from p2p.errors import CONFIG_INVALID, MODEL_INVALID, TetherError
from tetherd.config import WorkerConfig
from tetherd.engines import EngineTerms, Located, least_memory, offer_of
from tetherd.lending import lending
from tetherd.phases import Phases
from tetherd.registry.library import Library
from tetherd.registry.local import find_local, sort_references

GB: Final = 1_000_000_000
PREPARED_SHARE: Final = 0.5
"""Of a model's progress, what fetching and hashing count; loading is the rest."""


class ModelHouse:
    """Makes offers of what --model names and opens their room. `wait` returns it once the first engines run.

    Files of this machine are hashed and loaded while the node joins; if others are to be fetched, all wait for them,
    for how memory is shared depends on all: their library is given to `open_library` once the node is a member.
    """

    def __init__(self, config: WorkerConfig, phases: Phases, metrics: RoomMetrics) -> None:
        self._config = config
        self._phases = phases
        self._metrics = metrics
        self._opened = trio.Event()
        self._library: Library | None = None
        self._member = trio.Event()
        self._room: EngineRoom | None = None
        self.device: Device | None = None

    def open_library(self, library: Library) -> None:
        self._library = library
        self._member.set()

    async def run(self) -> None:
        """Prepare all models and keep their engines until cancelled. Raises TetherError, MODEL_INVALID among them."""
        here, elsewhere = sort_references(self._config.models)
        located: list[Located] = [*find_local(here)]
        for text in elsewhere:
            located.append(await self._fetch(text))
        self.device = await trio.to_thread.run_sync(survey)
        offers, budget = await self._offers(located, self.device)
        room = self._room = EngineRoom(offers, budget, told=self._loading, metrics=self._metrics)
        async with trio.open_nursery() as nursery:
            await nursery.start(room.run)
            await room.begun()
            for offer, served in zip(offers, room.served(), strict=True):
                name = f"{served.name}@{served.version}"
                mode = (
                    ("exact" if served.exact else "not exact")
                    if served.loaded
                    else "loaded when it is asked for"
                )
                self._phases.reached("model", f"{name}, {offer.slots} slots, {mode}")
            self._opened.set()

    async def wait(self) -> EngineRoom:
        await self._opened.wait()
        assert self._room is not None
        return self._room

    def lending(self) -> dict[str, Any] | None:
        """What is lent, once it is known."""
        return lending(self.device, self._room) if self.device and self._room else None

    async def _fetch(self, text: str) -> Located:
        await self._member.wait()
        assert self._library is not None

        def told(progress: Progress) -> None:
            self._phases.progress("model", progress.done / max(1, progress.size) * PREPARED_SHARE, text)

        return await self._library.fetch_reference(text, told)

    async def _offers(self, located: list[Located], device: Device) -> tuple[list[Offer], int]:
        """In order, with the bytes that they may take together."""
        lent = int(self._config.memory_gb * GB) if self._config.memory_gb else None
        least = [least_memory(model, self._config.engine) for model in located]
        budget = budget_for(least, lent, device.free_bytes)
        alone = lent is None and len(located) == 1
        offers: list[Offer] = []
        for model, bytes_each in zip(located, share(least, budget), strict=True):
            terms = EngineTerms(self._config, device, None if alone else bytes_each)
            offers.append(await self._offer(model, terms))
        if len({offer.manifest.digest for offer in offers}) < len(offers):
            raise TetherError(MODEL_INVALID, "One model is named twice.", field="model")
        for offer in offers:
            if lent is not None and offer.need_bytes > lent:
                needs, name = f"{offer.need_bytes / GB:.2f} GB", offer.manifest.name
                detail = f"{name} needs at least {needs}, and --memory lends {lent / GB:g}."
                raise TetherError(CONFIG_INVALID, detail, field="worker.memory_gb")
        return offers, max([budget, *(offer.need_bytes for offer in offers)])

    async def _offer(self, model: Located, terms: EngineTerms) -> Offer:
        def hashed(fraction: float) -> None:
            self._phases.progress("model", fraction * PREPARED_SHARE, model.name)

        return await offer_of(model, terms, hashed)

    def _loading(self, offer: Offer, fraction: float) -> None:
        """At the start only: later loads are told to whoever waits, and counted."""
        if not self._opened.is_set():
            done = PREPARED_SHARE + fraction * (1 - PREPARED_SHARE)
            self._phases.progress("model", done, offer.manifest.name)
