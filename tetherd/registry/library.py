"""The models of one node: what it knows of (the catalogue), what it has (the cache), how it publishes and fetches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from msgspec import structs

from inference.artifacts.blobs import Blobs
from inference.artifacts.chunks import Blob, Digester
from inference.artifacts.fetching import Progress
from inference.artifacts.metrics import NoMetrics, ShelfMetrics
from inference.artifacts.origins import (
    HttpOrigin,
    Place,
    download,
    place_in_bucket,
    place_of_url,
    place_on_hub,
)
from inference.artifacts.rate import Most, Rate, beside_tokens
from inference.artifacts.release import (
    Alias,
    Published,
    Release,
    ReleaseFile,
    check_contents,
    revoke,
    sign_alias,
    sign_release,
    trust,
)
from inference.artifacts.shelf import Shelf
from inference.gguf import read_header
from p2p.errors import (
    DIGEST_MISMATCH,
    MODEL_INVALID,
    MODEL_NOT_FOUND,
    NOT_ISSUER,
    SIGNER_UNTRUSTED,
    TetherError,
)
from p2p.identity import NodeKey, PeerId, public_key_of
from p2p.membership import SwarmId
from p2p.rpc import Rpc
from p2p.transport import Network
from tetherd.config import ModelsConfig
from tetherd.registry.catalogue import Catalogue, word_name
from tetherd.registry.contents import Contents, check_files, main_file, read_contents
from tetherd.registry.local import LocalModel, ModelFolder, linked, model_name
from tetherd.registry.news import News
from tetherd.registry.references import (
    BuiltIn,
    CatalogueEntry,
    HubFile,
    LocalFile,
    ServerModel,
    Url,
    parse,
)

Told = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """cache_bytes: all models together; up, down: bytes a second. None: no limit. now: one that comes and goes."""

    cache_bytes: int | None = None
    up_bytes_per_s: float | None = None
    down_bytes_per_s: float | None = None
    now: Most = lambda: None


def cache_limits(config: ModelsConfig, generating: Callable[[], bool]) -> CacheLimits:
    """generating: whether this node makes tokens, which go before files."""
    return CacheLimits(
        None if config.cache_gb is None else int(config.cache_gb * 1e9),
        None if config.lend_mb_s is None else config.lend_mb_s * 1e6,
        None if config.fetch_mb_s is None else config.fetch_mb_s * 1e6,
        beside_tokens(generating),
    )


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish. source: as --model takes it, but for a catalogue's name; name, version "": from the file."""

    source: str
    name: str = ""
    version: str = ""
    licence: str = ""


class Library:
    """`run` shares and compares; authority: the swarm's key, on the node that has it. now: unix seconds."""

    def __init__(
        self,
        folder: Path,
        key: NodeKey,
        authority: NodeKey | None,
        swarm_id: SwarmId,
        rpc: Rpc,
        network: Network,
        limits: CacheLimits,
        *,
        now: Callable[[], float],
        environ: Mapping[str, str],
        metrics: ShelfMetrics = NoMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self._key = key
        self._authority = authority
        self._swarm_id = swarm_id
        self._now = now
        self._environ = environ
        self._downloads = folder / "downloads"
        self._views = folder / "views"
        for one in (self._downloads, self._views):
            one.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.blobs = Blobs(folder, budget_bytes=limits.cache_bytes)
        up, down = Rate(limits.up_bytes_per_s, limits.now), Rate(limits.down_bytes_per_s, limits.now)
        self.shelf = Shelf(self.blobs, rpc, network, swarm_id, down=down, up=up, metrics=metrics)
        self.catalogue = Catalogue(folder / "catalogue", swarm_id, rpc, network, heard=self._heard)
        self.news = News(self.catalogue, network, swarm_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lend, be found, and hear of releases, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.shelf.run)
            await nursery.start(self.catalogue.run)
            await nursery.start(self.news.run)
            task_status.started()

    def kept_bytes(self) -> int:
        """Of whole files in the cache."""
        return sum(one.size for one in self.blobs.kept())

    def holds(self, published: Published) -> bool:
        """Whether all files of a release are here, whole."""
        return all(self.blobs.path(one.blob.sha256) for one in published.release.files)

    async def get(
        self, name: str, version: str = "", told: Told = lambda _: None
    ) -> LocalModel | ModelFolder:
        """A published model, fetched unless it is here. Raises TetherError(MODEL_NOT_FOUND | NO_SOURCE | …)."""
        published = await self.catalogue.resolve(name, version)
        release = published.release
        if release.retired:
            raise TetherError(MODEL_NOT_FOUND, f"{published.reference} was retired.", field="model")
        files: dict[str, Path] = {}
        before = 0
        for one in release.files:
            files[one.path] = await self._get_file(one, partial(_part, told, before, release.size))
            before += one.blob.size
        await trio.to_thread.run_sync(check_files, files)
        await self.catalogue.on_dht.put(published)
        if (model := main_file(files)) is not None:
            header = await trio.to_thread.run_sync(read_header, model)
            return LocalModel(model, release.name, release.version, header, release.manifest)
        folder = linked(self._views / release.manifest.digest[:32], files)
        return ModelFolder(folder, release.name, release.version, release.manifest)

    async def publish(self, order: Order, told: Told = lambda _: None) -> Published:
        """Hash, sign, and offer to the swarm. Raises TetherError(SIGNER_UNTRUSTED | MODEL_INVALID | …)."""
        trusted = await self._own_trust()
        path, name, origins = await self._source(order.source, told)
        name = order.name or name
        contents = await trio.to_thread.run_sync(read_contents, path, name)
        files = await trio.to_thread.run_sync(_digests, contents.files, origins, told)
        release = self._release(order, name, contents, files)
        check_contents(release)
        for file in files:
            await trio.to_thread.run_sync(self.blobs.adopt, contents.files[file.path], file.blob)
        published = self.catalogue.add_release(sign_release(self._key, release, trusted))
        if published.publisher != self._key.node_id:
            detail = f"{published.reference} is {published.publisher}'s: choose another name or version."
            raise TetherError(MODEL_INVALID, detail, field="name")
        await self.news.tell(f"{published.reference}.release")
        await self.catalogue.announce(release.name)
        await self.catalogue.on_dht.put(published)
        return published

    async def retire(self, name: str, version: str) -> Published:
        """Let nobody load a version any more. Raises TetherError(MODEL_NOT_FOUND | SIGNER_UNTRUSTED)."""
        trusted = await self._own_trust()
        published = await self.catalogue.resolve(name, version)
        if published.publisher != self._key.node_id:
            detail = f"{published.reference} is {published.publisher}'s, and only that node can retire it."
            raise TetherError(SIGNER_UNTRUSTED, detail)
        created = max(self._now(), published.release.created + 1)
        retired = structs.replace(published.release, retired=True, created=created)
        known = self.catalogue.add_release(sign_release(self._key, retired, trusted))
        await self.news.tell(f"{known.reference}.release")
        await self.catalogue.on_dht.put(known)
        return known

    async def alias(self, name: str, model: str) -> Alias:
        """Let a name mean a published name@version. Raises TetherError(MODEL_NOT_FOUND | SIGNER_UNTRUSTED | …)."""
        trusted = await self._own_trust()
        wanted, _, version = model.partition("@")
        published = await self.catalogue.resolve(wanted, version)
        said = Alias(self._swarm_id, name, published.reference, self._now())
        alias = self.catalogue.add_alias(sign_alias(self._key, said, trusted))
        if alias != said:
            detail = f"{name} is another publisher's alias: choose another name."
            raise TetherError(MODEL_INVALID, detail, field="name")
        await self.news.tell(f"{alias.name}.alias")
        return alias

    async def trust(self, publisher: PeerId, *, revoked: bool = False) -> None:
        """Let a node publish, or take that back. Raises TetherError(NOT_ISSUER) without the authority's key."""
        public_key_of(publisher)
        if self._authority is None:
            raise TetherError(NOT_ISSUER, "Only the node that founded the swarm trusts publishers.")
        word = (revoke if revoked else trust)(self._authority, publisher, self._now())
        self.catalogue.add_word(word)
        await self.news.tell(word_name(word))

    # ── How ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def fetch_reference(self, text: str, told: Told = lambda _: None) -> LocalModel | ModelFolder:
        """What --model names beyond this machine, to be served: a catalogue's entry, a hub's file or a URL."""
        match parse(text):
            case CatalogueEntry(name, version):
                model = await self.get(name, version, told)
                assert model.manifest is not None
                for one in model.manifest.files:
                    self.blobs.serve(one.sha256)
                return model
            case HubFile() | Url():
                path, name, _ = await self._source(text, told)
                header = await trio.to_thread.run_sync(read_header, path)
                return LocalModel(path, name, "", header)
            case _:
                raise AssertionError(f"{text} is on this machine")

    async def _get_file(self, file: ReleaseFile, told: Told) -> Path:
        origins = [HttpOrigin(self._place(parse(origin))) for origin in file.origins]
        return await self.shelf.want(file.blob, origins=origins, told=told)

    async def _own_trust(self) -> bytes:
        own = self._key.node_id
        if self._authority is not None and own not in self.catalogue.revoked:
            if self.catalogue.trust_in(own) is None:
                await self.trust(own)
        elif self.catalogue.trust_in(own) is None:
            await self.catalogue.compare_with_all()
        trusted = self.catalogue.trust_in(own)
        if trusted is None:
            raise TetherError(SIGNER_UNTRUSTED, f"This node ({own}) may not publish.")
        return trusted

    async def _source(self, text: str, told: Told) -> tuple[Path, str, tuple[str, ...]]:
        """Where a file is on this machine, what it is called, and where else it is."""
        match reference := parse(text):
            case LocalFile(path):
                return path, model_name(path), ()
            case HubFile() | Url():
                place = self._place(reference)
                name = Path(reference.file if isinstance(reference, HubFile) else place.name).name
                return await self._download(place, told), model_name(Path(name)), (text,)
            case BuiltIn() | CatalogueEntry() | ServerModel():
                raise TetherError(MODEL_INVALID, f"{text} is no file.", field="source")

    def _place(self, reference: object) -> Place:
        match reference:
            case HubFile(repo, file):
                return place_on_hub(repo, file, self._environ)
            case Url(url) if url.startswith("s3://"):
                return place_in_bucket(url, self._environ)
            case Url(url):
                return place_of_url(url)
            case _:
                raise TetherError(
                    MODEL_INVALID, "Only hf:, https:// and s3:// are fetched from.", field="source"
                )

    async def _download(self, place: Place, told: Told) -> Path:
        into = self._downloads / hashlib.sha256(place.url.encode()).hexdigest()[:32]

        def came(done: int, size: int) -> None:
            told(Progress(done, size, 0.0, 1))

        got = await download(place, into, told=came)
        if got.sha256:
            blob = await trio.to_thread.run_sync(partial(_digest, into, lambda _: None))
            if blob.sha256 != got.sha256:
                await trio.to_thread.run_sync(into.unlink)
                raise TetherError(DIGEST_MISMATCH, f"{place.name} is not the file that the hub says it is.")
        return into

    def _release(
        self, order: Order, name: str, contents: Contents, files: tuple[ReleaseFile, ...]
    ) -> Release:
        older = self.catalogue.find(name)
        release = Release(
            swarm_id=self._swarm_id,
            name=name,
            version=order.version,
            engine=contents.engine,
            files=files,
            context_tokens=contents.context_tokens,
            created=self._now(),
            chat_template=contents.chat_template,
            licence=order.licence,
        )
        whole = files[0].blob.sha256 if len(files) == 1 else release.manifest.digest
        version = order.version or whole[:12]
        supersedes = older.release.version if older and older.release.version != version else ""
        return structs.replace(release, version=version, supersedes=supersedes)

    def _heard(self, published: Published) -> None:
        """Of files that are here already, this node is another holder."""
        for one in published.release.files:
            if self.blobs.path(one.blob.sha256) is not None:
                self.shelf.know(one.blob)


def _part(told: Told, before: int, size: int, progress: Progress) -> None:
    """One file's progress as the whole model's. before: bytes of the files before it."""
    told(Progress(before + progress.done, size, progress.rate, progress.sources))


def _digests(files: Mapping[str, Path], origins: tuple[str, ...], told: Told) -> tuple[ReleaseFile, ...]:
    """In a thread. Raises TetherError(MODEL_INVALID)."""
    size, before = sum(path.stat().st_size for path in files.values()), 0
    made: list[ReleaseFile] = []
    for name, path in files.items():
        blob = _digest(path, partial(_part, told, before, size))
        made.append(ReleaseFile(name, blob, origins))
        before += blob.size
    return tuple(made)


def _digest(path: Path, told: Told) -> Blob:
    """In a thread. Raises TetherError(MODEL_INVALID)."""
    try:
        size = path.stat().st_size
        digester, done = Digester(size), 0
        with path.open("rb") as file:
            for length in digester.spans():
                trio.from_thread.check_cancelled()
                digester.add(file.read(length))
                done += length
                trio.from_thread.run_sync(told, Progress(done, size, 0.0, 0))
    except OSError as error:
        raise TetherError(
            MODEL_INVALID, f"{path} cannot be read: {error.strerror}.", field="source"
        ) from error
    return digester.blob()
