"""The models that the swarm's publishers have published, as far as this node has heard.

Every node keeps every release that it hears of, checked, and tells whoever asks: a worker without a database can
resolve a name and verify what it fetches. Now and then a node compares with one of its peers; a name that it does not
know it reads from the DHT, and asks of those who are to be found there under it, and of its peers.

For one name@version the first publisher's newest word counts: nobody else can put another model under the name, and an
older release of the same version that somebody still shows is ignored.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from inference.artifacts.release import (
    Alias,
    Published,
    SignedRelease,
    check_alias,
    check_release,
    check_revocation,
    check_trust,
)
from p2p.errors import CAPACITY, MODEL_INVALID, MODEL_NOT_FOUND, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import Message, Method
from p2p.rpc import Rpc
from p2p.transport import Network
from p2p.wire import decode, encode
from tetherd.registry.documents import Documents
from tetherd.registry.on_dht import ReleasesOnDht, key_name

MAX_RELEASES: Final = 4_096
MAX_WORDS: Final = 4_096
"""Of the authority: trusts and revocations."""
ANSWER_BYTES: Final = 4 << 20
"""Releases in one answer; what is left is asked for again."""
COMPARE_S: Final = 60.0
ANNOUNCE_S: Final = 600.0
ASK_S: Final = 5.0
ASKED: Final = 8
"""Peers that are asked for a name at most."""

_log = structlog.get_logger()


class CatalogueRequest(Message, frozen=True):
    """names: what is wanted, as name or name@version; none: whatever is not among known (digests, 32 bytes each)."""

    names: tuple[str, ...] = ()
    known: bytes = b""


class CatalogueAnswer(Message, frozen=True):
    """words: of the authority, encoded as `release.Signed`. more: not all of it fitted."""

    releases: tuple[SignedRelease, ...] = ()
    words: tuple[bytes, ...] = ()
    aliases: tuple[SignedRelease, ...] = ()
    more: bool = False


CATALOGUE: Final = Method("catalogue", CatalogueRequest, CatalogueAnswer, priority=1)


class Catalogue:
    """folder: where releases are kept. heard: told of each release that is new here."""

    def __init__(
        self,
        folder: Path,
        swarm_id: SwarmId,
        rpc: Rpc,
        network: Network,
        *,
        heard: Callable[[Published], None] = lambda _: None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._documents = Documents(folder)
        self._swarm_id = swarm_id
        self._rpc = rpc
        self._network = network
        self._heard = heard
        self._draw = draw
        self._known: dict[str, Published] = {}
        self._words: dict[bytes, PeerId] = {}
        self._aliases: dict[str, tuple[Alias, SignedRelease]] = {}
        self.revoked: set[PeerId] = set()
        self._trusted: dict[PeerId, bytes] = {}
        self._announced: dict[str, float] = {}
        self.on_dht = ReleasesOnDht(network, swarm_id)
        self._news = trio.Event()
        self._load()
        rpc.serve(CATALOGUE, self._answer)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compare with peers, and be found under the names that are known, until cancelled."""
        task_status.started()
        while True:
            peers = sorted(self._network.peers())
            if peers:
                await self.compare(peers[int(self._draw() * len(peers))])
            await self._announce_due()
            await trio.sleep(COMPARE_S * (0.5 + self._draw()))

    def all(self) -> list[Published]:
        """What is known and not revoked, by name and version."""
        return [self._known[reference] for reference in sorted(self._known)]

    def find(self, name: str, version: str = "") -> Published | None:
        """A release by name and version; by name alone the one that was made last and is not retired."""
        if version:
            return self._known.get(f"{name}@{version}")
        of_name = [
            one for one in self._known.values() if one.release.name == name and not one.release.retired
        ]
        return max(of_name, key=lambda one: (one.release.created, one.reference), default=None)

    def meaning(self, wanted: str) -> str:
        """What a client's model stands for: name@version, if that name is an alias; else itself."""
        known = self._aliases.get(wanted)
        return known[0].model if known else wanted

    def aliases(self) -> list[Alias]:
        return [self._aliases[name][0] for name in sorted(self._aliases)]

    async def resolve(self, name: str, version: str = "") -> Published:
        """As find, but asks others where it is not known. Raises TetherError(MODEL_NOT_FOUND)."""
        if not version:
            name, _, version = self.meaning(name).partition("@")
        wanted = f"{name}@{version}" if version else name
        if (found := self.find(name, version)) is not None:
            return found
        if (signed := await self.on_dht.get(wanted)) is not None:
            self._take(None, [signed], self.add_release)
            if (found := self.find(name, version)) is not None:
                return found
        for peer in await self._who_knows(name):
            await self._hear(peer, CatalogueRequest(names=(wanted,)))
            if (found := self.find(name, version)) is not None:
                return found
        there = ", ".join(one.reference for one in self.all()[:20]) or "none"
        raise TetherError(MODEL_NOT_FOUND, f"Nobody knows {wanted}. Published are: {there}.", field="model")

    def trust_in(self, publisher: PeerId) -> bytes | None:
        """The authority's word for a publisher, if this node has heard it and it still holds."""
        return None if publisher in self.revoked else self._trusted.get(publisher)

    def add_release(self, signed: SignedRelease) -> Published:
        """Check and keep. Raises TetherError(SIGNER_UNTRUSTED | MODEL_INVALID | WRONG_SWARM | CAPACITY)."""
        published = check_release(signed, self._swarm_id, self.revoked)
        older = self._known.get(published.reference)
        if older is None and len(self._known) >= MAX_RELEASES:
            raise TetherError(CAPACITY, f"The catalogue is full: it has {MAX_RELEASES} releases.")
        if older is not None and older.publisher != published.publisher:
            _log.warning("release_of_another_publisher", model=published.reference, by=published.publisher)
            return older
        if older is not None and older.release.created >= published.release.created:
            return older
        self._known[published.reference] = published
        self._write(f"{published.reference}.release", encode(signed))
        self._heard(published)
        return published

    def add_alias(self, signed: SignedRelease) -> Alias:
        """Check and keep. Raises TetherError like add_release. What its first publisher said last counts."""
        alias = check_alias(signed, self._swarm_id, self.revoked)
        older = self._aliases.get(alias.name)
        if older is None and len(self._aliases) >= MAX_RELEASES:
            raise TetherError(CAPACITY, f"The catalogue is full: it has {MAX_RELEASES} aliases.")
        if older and (older[1].publisher != signed.publisher or older[0].created >= alias.created):
            return older[0]
        self._aliases[alias.name] = (alias, signed)
        self._write(f"{alias.name}.alias", encode(signed))
        return alias

    def add_word(self, word: bytes) -> None:
        """A trust or a revocation of the authority's. Raises TetherError(SIGNER_UNTRUSTED | WRONG_SWARM)."""
        if word in self._words or len(self._words) >= MAX_WORDS:
            return
        try:
            publisher = check_revocation(word, self._swarm_id)
        except TetherError:
            publisher = check_trust(word, self._swarm_id)
            self._trusted[publisher] = word
        else:
            self._revoke(publisher)
        self._words[word] = publisher
        self._write(word_name(word), word)

    def _revoke(self, publisher: PeerId) -> None:
        self.revoked.add(publisher)
        for reference in [name for name, one in self._known.items() if one.publisher == publisher]:
            self.on_dht.forget(self._known.pop(reference))
            self._remove(f"{reference}.release")
            _log.warning("release_revoked", model=reference, publisher=publisher)
        for name in [name for name, one in self._aliases.items() if one[1].publisher == publisher]:
            del self._aliases[name]
            self._remove(f"{name}.alias")

    # ── Among nodes ──────────────────────────────────────────────────────────────────────────────────────────────

    async def compare(self, peer: PeerId) -> None:
        """Hear from a peer what is not known here."""
        while True:
            known = b"".join(bytes.fromhex(one.signed.digest) for one in self._known.values())
            before = len(self._known)
            more = await self._hear(peer, CatalogueRequest(known=known))
            if not more or len(self._known) == before:
                return

    async def compare_with_all(self) -> None:
        """Hear from all peers at once: before something is published, or after it was revoked."""
        async with trio.open_nursery() as nursery:
            for peer in self._network.peers():
                nursery.start_soon(self.compare, peer)

    async def _hear(self, peer: PeerId, request: CatalogueRequest) -> bool:
        try:
            answer = await self._rpc.ask(peer, CATALOGUE, request, timeout_s=ASK_S)
        except TetherError as error:
            _log.debug("catalogue_not_heard", peer=peer, cause=str(error)[:200])
            return False
        self._take(peer, answer.words, self.add_word)
        self._take(peer, answer.releases, self.add_release)
        self._take(peer, answer.aliases, self.add_alias)
        return answer.more

    def _take(self, peer: PeerId | None, told: Iterable[object], add: Callable[..., object]) -> None:
        for one in told:
            try:
                add(one)
            except TetherError as error:
                _log.warning("catalogue_refused", peer=peer, cause=str(error)[:200])

    async def _answer(self, _peer: PeerId, request: CatalogueRequest) -> CatalogueAnswer:
        await trio.lowlevel.checkpoint()
        known = {request.known[at : at + 32].hex() for at in range(0, len(request.known), 32)}
        aliases = tuple(signed for _, signed in self._aliases.values())
        wanted: list[SignedRelease] = []
        size = 0
        for published in self.all():
            named = {published.reference, published.release.name} & set(request.names)
            if named if request.names else published.signed.digest not in known:
                size += len(published.signed.body)
                if size > ANSWER_BYTES:
                    return CatalogueAnswer(tuple(wanted), tuple(self._words), aliases, more=True)
                wanted.append(published.signed)
        return CatalogueAnswer(tuple(wanted), tuple(self._words), aliases)

    async def _who_knows(self, name: str) -> Sequence[PeerId]:
        try:
            found = await self._network.find_providers(
                bytes.fromhex(key_name(self._swarm_id, name)), limit=ASKED
            )
        except TetherError:
            found = ()
        for address in found:
            try:
                await self._network.connect(address)
            except TetherError as error:
                _log.debug("provider_not_reached", peer=address.peer, cause=str(error)[:200])
        connected = self._network.peers()
        first = [address.peer for address in found if address.peer in connected]
        return [*first, *sorted(connected - set(first))[:ASKED]]

    async def announce(self, name: str) -> None:
        """Be found under a name."""
        self._announced[name] = trio.current_time()
        try:
            await self._network.provide(bytes.fromhex(key_name(self._swarm_id, name)))
        except TetherError as error:
            _log.debug("not_announced", cause=str(error)[:200])

    async def _announce_due(self) -> None:
        names = {published.release.name for published in self._known.values()}
        due = trio.current_time() - ANNOUNCE_S
        for name in sorted(names):
            if self._announced.get(name, -math.inf) <= due:
                await self.announce(name)

    # ── As documents ─────────────────────────────────────────────────────────────────────────────────────────────

    def document(self, name: str) -> bytes | None:
        """One of them, if it is here."""
        stem, _, kind = name.rpartition(".")
        if kind == "release" and (published := self._known.get(stem)) is not None:
            return encode(published.signed)
        if kind == "alias" and (alias := self._aliases.get(stem)) is not None:
            return encode(alias[1])
        if kind == "word":
            return next((word for word in self._words if word_name(word) == name), None)
        return None

    def documents(self) -> dict[str, bytes]:
        """All that is known, by name, as it was signed: words, releases, aliases, in this order."""
        words = {word_name(word): word for word in self._words}
        releases = {f"{reference}.release": encode(one.signed) for reference, one in self._known.items()}
        aliases = {f"{name}.alias": encode(signed) for name, (_, signed) in self._aliases.items()}
        return {**words, **releases, **aliases}

    def add_document(self, name: str, data: bytes) -> None:
        """Check one and keep it. Raises TetherError as the method for its kind does."""
        match name.rpartition(".")[2]:
            case "word":
                self.add_word(data)
            case "release":
                self.add_release(decode(data, SignedRelease))
            case "alias":
                self.add_alias(decode(data, SignedRelease))
            case _:
                raise TetherError(MODEL_INVALID, f"The catalogue has no documents like {name[:80]!r}.")

    async def changed(self) -> None:
        """Wait for the next document that is new, or gone."""
        await self._news.wait()

    def _load(self) -> None:
        for name, data in self._documents.all():
            try:
                self.add_document(name, data)
            except TetherError as error:
                _log.warning("catalogue_entry_dropped", path=name, cause=str(error)[:200])
                self._documents.remove(name)

    def _write(self, name: str, data: bytes) -> None:
        if self._documents.write(name, data):
            self._tell()

    def _remove(self, name: str) -> None:
        self._documents.remove(name)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def word_name(word: bytes) -> str:
    """What a word of the authority is called among documents."""
    return f"{hashlib.sha256(word).hexdigest()}.word"
