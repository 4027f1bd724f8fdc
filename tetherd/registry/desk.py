"""What tetherctl asks about models: work that takes long goes on in the daemon, and is looked at while it does."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec
import trio
from starlette.requests import Request
from starlette.routing import Route

from inference.artifacts.fetching import Progress
from inference.artifacts.release import Published
from p2p.identity import PeerId
from tetherd.admin import Json, answered, read
from tetherd.registry.errands import Errands, Told, errand_routes
from tetherd.registry.library import Library, Order
from tetherd.registry.references import CatalogueEntry, parse
from tetherd.registry.replicas import WANTED, Replicas

MAX_COUNTED: Final = 64
"""Models whose copies are counted for one answer."""


class _Body(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class PublishBody(_Body, frozen=True):
    source: str
    name: str = ""
    version: str = ""
    licence: str = ""


class PullBody(_Body, frozen=True):
    """model: name or name@version."""

    model: str


class AliasBody(_Body, frozen=True):
    """model: name@version, or a name for its newest."""

    name: str
    model: str


class TrustBody(_Body, frozen=True):
    publisher: str
    revoked: bool = False


class PinBody(_Body, frozen=True):
    pinned: bool = True


class GcBody(_Body, frozen=True):
    """free_bytes: how much to free; none: all that is not pinned."""

    free_bytes: int | None = None


class LibraryDesk:
    """errands: where what takes long goes on."""

    def __init__(self, library: Library, replicas: Replicas, errands: Errands) -> None:
        self._library = library
        self._replicas = replicas
        self.errands = errands

    def catalogue(self) -> list[dict[str, Any]]:
        return [self._shown(one) for one in self._library.catalogue.all()]

    async def release(self, model: str) -> dict[str, Any]:
        """One of them, with who has it. Raises TetherError(MODEL_NOT_FOUND)."""
        name, _, version = model.partition("@")
        published = await self._library.catalogue.resolve(name, version)
        holders = await self._replicas.holders(published)
        return {**self._shown(published), "holders": sorted(holders), "wanted": WANTED}

    async def copies(self) -> list[dict[str, Any]]:
        """How many members hold each published model that is not retired, and how many should."""
        counted: list[dict[str, Any]] = []

        async def count(published: Published) -> None:
            held = len(await self._replicas.holders(published))
            counted.append({"model": published.reference, "held": held, "wanted": WANTED})

        async with trio.open_nursery() as nursery:
            for one in self._library.catalogue.all():
                if not one.release.retired and len(nursery.child_tasks) < MAX_COUNTED:
                    nursery.start_soon(count, one)
        return sorted(counted, key=lambda one: str(one["model"]))

    def publish(self, body: PublishBody) -> dict[str, Any]:
        order = Order(body.source, body.name, body.version, body.licence)

        async def work(told: Told) -> dict[str, Any]:
            return self._shown(await self._library.publish(order, told))

        return self.errands.begin(work)

    def pull(self, body: PullBody) -> dict[str, Any]:
        reference = parse(body.model) if "@" in body.model else CatalogueEntry(body.model, "")

        async def work(told: Told) -> dict[str, Any]:
            if not isinstance(reference, CatalogueEntry):
                model = await self._library.fetch_reference(body.model, told)
            else:
                model = await self._library.get(reference.name, reference.version, told)
            return {"model": f"{model.name}@{model.version}", "path": str(model.path)}

        return self.errands.begin(work)

    async def retire(self, model: str) -> dict[str, Any]:
        """Raises TetherError(MODEL_NOT_FOUND | SIGNER_UNTRUSTED)."""
        name, _, version = model.partition("@")
        return self._shown(await self._library.retire(name, version))

    async def alias(self, body: AliasBody) -> dict[str, Any]:
        alias = await self._library.alias(body.name, body.model)
        return {"name": alias.name, "model": alias.model, "workers": self._replicas.serving(alias.model)}

    async def trust(self, body: TrustBody) -> dict[str, Any]:
        await self._library.trust(PeerId(body.publisher), revoked=body.revoked)
        return {"publisher": body.publisher, "state": "revoked" if body.revoked else "trusted"}

    def cache(self) -> list[dict[str, Any]]:
        names = self._names()
        whole = [
            {
                "sha256": one.sha256,
                "models": names.get(one.sha256, []),
                "sizeBytes": one.size,
                "usedAt": one.used,
                "pinned": one.pinned,
                "state": "whole",
            }
            for one in self._library.blobs.kept()
        ]
        coming = [
            {
                "sha256": sha256,
                "models": names.get(sha256, []),
                "sizeBytes": progress.size,
                "usedAt": None,
                "pinned": False,
                "state": f"{100 * progress.done // max(1, progress.size)} %",
            }
            for sha256, progress in self._library.shelf.fetches().items()
        ]
        return whole + coming

    async def pin(self, model: str, body: PinBody) -> dict[str, Any]:
        name, _, version = model.partition("@")
        published = await self._library.catalogue.resolve(name, version)
        for one in published.release.files:
            await trio.to_thread.run_sync(
                partial(self._library.blobs.pin, one.blob.sha256, pinned=body.pinned)
            )
        return {"model": published.reference, "pinned": body.pinned}

    async def gc(self, body: GcBody) -> list[dict[str, Any]]:
        wanted = body.free_bytes if body.free_bytes is not None else 1 << 62
        busy = set(self._library.shelf.fetches())
        names = self._names()
        gone = await trio.to_thread.run_sync(self._library.blobs.evict, wanted, busy)
        return [
            {"sha256": one.sha256, "models": names.get(one.sha256, []), "sizeBytes": one.size} for one in gone
        ]

    def verify(self) -> dict[str, Any]:
        """Read everything again; what has rotted is removed."""

        async def work(told: Told) -> dict[str, Any]:
            kept, names, checked, done = self._library.blobs.kept(), self._names(), [], 0
            for one in kept:
                told(Progress(done, sum(other.size for other in kept), 0.0, 0))
                sound = await trio.to_thread.run_sync(self._library.blobs.verify, one.sha256)
                done += one.size
                state = "whole" if sound else "removed: it was damaged"
                checked.append({"sha256": one.sha256, "models": names.get(one.sha256, []), "state": state})
            return {"files": checked}

        return self.errands.begin(work)

    def _names(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for published in self._library.catalogue.all():
            for one in published.release.files:
                names.setdefault(one.blob.sha256, []).append(published.reference)
        return names

    def _shown(self, published: Published) -> dict[str, Any]:
        release = published.release
        return {
            "model": published.reference,
            "name": release.name,
            "version": release.version,
            "sizeBytes": release.size,
            "contextTokens": release.context_tokens,
            "capabilities": list(release.capabilities),
            "engine": release.engine,
            "publisher": published.publisher,
            "licence": release.licence,
            "createdAt": release.created,
            "supersedes": release.supersedes,
            "digest": release.manifest.digest,
            "state": "retired" if release.retired else "published",
            "here": self._library.holds(published),
            "aliases": [
                one.name for one in self._library.catalogue.aliases() if one.model == published.reference
            ],
        }


def library_routes(desk: LibraryDesk) -> list[Route]:
    """The desk on the admin socket."""

    async def catalogue(_request: Request) -> Json:
        return desk.catalogue()

    async def copies(_request: Request) -> Json:
        return await desk.copies()

    async def release(request: Request) -> Json:
        return await desk.release(str(request.path_params["model"]))

    async def retire(request: Request) -> Json:
        return await desk.retire(str(request.path_params["model"]))

    async def publish(request: Request) -> Json:
        return desk.publish(await read(request, PublishBody))

    async def pull(request: Request) -> Json:
        return desk.pull(await read(request, PullBody))

    async def alias(request: Request) -> Json:
        return await desk.alias(await read(request, AliasBody))

    async def trust(request: Request) -> Json:
        return await desk.trust(await read(request, TrustBody))

    async def cache(_request: Request) -> Json:
        return desk.cache()

    async def pin(request: Request) -> Json:
        return await desk.pin(str(request.path_params["model"]), await read(request, PinBody))

    async def gc(request: Request) -> Json:
        return await desk.gc(await read(request, GcBody))

    async def verify(_request: Request) -> Json:
        return desk.verify()

    return [
        Route("/catalogue", answered(catalogue)),
        Route("/copies", answered(copies)),
        Route("/catalogue/{model}", answered(release)),
        Route("/catalogue/{model}/retire", answered(retire), methods=["POST"]),
        Route("/publish", answered(publish), methods=["POST"]),
        Route("/pull", answered(pull), methods=["POST"]),
        Route("/alias", answered(alias), methods=["POST"]),
        Route("/trust", answered(trust), methods=["POST"]),
        Route("/cache", answered(cache)),
        Route("/cache/pin/{model}", answered(pin), methods=["POST"]),
        Route("/cache/gc", answered(gc), methods=["POST"]),
        Route("/cache/verify", answered(verify), methods=["POST"]),
        *errand_routes(desk.errands),
    ]
