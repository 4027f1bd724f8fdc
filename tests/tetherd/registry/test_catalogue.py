"""What nodes tell each other of published models, and what they do not believe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from inference.artifacts.chunks import MIN_CHUNK_BYTES, Blob
from inference.artifacts.release import (
    Alias,
    Release,
    ReleaseFile,
    SignedRelease,
    revoke,
    sign_alias,
    sign_release,
    trust,
)
from p2p.errors import MODEL_NOT_FOUND, SIGNER_UNTRUSTED, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.memory import MemoryNetwork
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tests.swarms import MadeSwarm, make_swarm
from tetherd.registry import catalogue as catalogue_module
from tetherd.registry.catalogue import CATALOGUE, Catalogue, CatalogueAnswer, CatalogueRequest

SWARM = make_swarm(3)
PUBLISHER, OTHER = NodeKey(b"p" * 32), NodeKey(b"o" * 32)


def release(version: str = "1", *, created: float = 1_000.0, size: int = 5, name: str = "demo") -> Release:
    blob = Blob("ab" * 32, size, MIN_CHUNK_BYTES, bytes(32))
    files = (ReleaseFile(f"{name}.gguf", blob),)
    return Release(SWARM.swarm_id, name, version, "llama.cpp", files, 512, created)


def signed(what: Release, by: NodeKey = PUBLISHER) -> SignedRelease:
    return sign_release(by, what, trust(SWARM.authority, by.node_id, 0.0))


@asynccontextmanager
async def open_catalogues(
    root: Path, swarm: MadeSwarm = SWARM, count: int = 2
) -> AsyncIterator[list[tuple[Catalogue, Rpc, PeerId]]]:
    world = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        opened: list[tuple[Catalogue, Rpc, PeerId]] = []
        addresses: list[PeerAddress] = []
        for number in range(count):
            key = swarm.keys[number]
            node = world.node(key.node_id, passport=lambda n=number: swarm.passport(n), admit=swarm.admit)
            rpc = Rpc(node)
            await nursery.start(rpc.run)
            opened.append((Catalogue(root / str(number), swarm.swarm_id, rpc, node), rpc, key.node_id))
            for other in addresses:
                await node.connect(other)
            addresses.append(PeerAddress(key.node_id, node.addresses()))
        yield opened
        nursery.cancel_scope.cancel()


async def test_what_one_has_heard_the_other_hears(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path) as ((one, _, first), (other, _, _)):
        for version in ("1", "2", "3"):
            one.add_release(signed(release(version, created=float(version))))
        await other.compare(first)
        assert [known.reference for known in other.all()] == ["demo@1", "demo@2", "demo@3"]
        newest = other.find("demo")
        assert newest is not None and newest.reference == "demo@3"


async def test_answers_that_do_not_fit_are_asked_for_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_module, "ANSWER_BYTES", 900)
    async with open_catalogues(tmp_path) as ((one, _, first), (other, _, _)):
        for version in range(9):
            one.add_release(signed(release(str(version))))
        await other.compare(first)
        assert len(other.all()) == 9


async def test_a_name_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path) as ((one, _, _), (other, _, _)):
        one.add_release(signed(release()))
        assert (await other.resolve("demo")).reference == "demo@1"
        assert (await other.resolve("demo", "1")).publisher == PUBLISHER.node_id
        with pytest.raises(TetherError) as refused:
            await other.resolve("demo", "2")
        assert refused.value.code is MODEL_NOT_FOUND
        assert "demo@1" in refused.value.detail


async def test_it_survives_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path, count=1) as ((one, _, _),):
        one.add_release(signed(release("1")))
        one.add_release(signed(release("2")))
    (tmp_path / "0" / "demo@2.release").write_bytes(b"torn")
    async with open_catalogues(tmp_path, count=1) as ((again, _, _),):
        assert [known.reference for known in again.all()] == ["demo@1"]
    assert not (tmp_path / "0" / "demo@2.release").exists()


async def test_an_older_word_for_the_same_version_is_no_rollback(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path, count=1) as ((one, _, _),):
        one.add_release(signed(release(created=2_000.0, size=7)))
        assert one.add_release(signed(release(created=1_000.0, size=5))).release.size == 7
        assert one.add_release(signed(release(created=3_000.0, size=9))).release.size == 9


async def test_nobody_else_puts_a_model_under_a_publishers_name(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path, count=1) as ((one, _, _),):
        one.add_release(signed(release()))
        kept = one.add_release(signed(release(created=9_000.0), by=OTHER))
        assert kept.publisher == PUBLISHER.node_id


async def test_what_was_revoked_is_gone_and_does_not_come_back(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path) as ((one, _, first), (other, _, second)):
        one.add_release(signed(release()))
        await other.compare(first)
        other.add_word(revoke(SWARM.authority, PUBLISHER.node_id, 2_000.0))
        assert other.all() == []
        await other.compare(first)
        assert other.all() == []
        await one.compare(second)
        assert one.all() == [] and one.trust_in(PUBLISHER.node_id) is None
        with pytest.raises(TetherError) as refused:
            one.add_release(signed(release("2")))
        assert refused.value.code is SIGNER_UNTRUSTED
    async with open_catalogues(tmp_path) as ((again, _, _), _):
        assert PUBLISHER.node_id in again.revoked


async def test_a_peer_that_tells_lies_is_not_believed_and_harms_nothing(tmp_path: Path) -> None:
    async with open_catalogues(tmp_path) as ((_, rpc, first), (other, _, _)):
        forged = replace(signed(release()), body=b"nonsense")

        async def lie(_peer: PeerId, _request: CatalogueRequest) -> CatalogueAnswer:
            return CatalogueAnswer((forged, signed(release("2"))), (b"no word", b""), more=True)

        rpc.serve(CATALOGUE, lie)
        await other.compare(first)
        assert [known.reference for known in other.all()] == ["demo@2"]


async def test_the_catalogue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "MAX_RELEASES", 2)
    async with open_catalogues(tmp_path, count=1) as ((one, _, _),):
        one.add_release(signed(release("1")))
        one.add_release(signed(release("2")))
        with pytest.raises(TetherError, match="full"):
            one.add_release(signed(release("3")))
        assert one.add_release(signed(release("2", created=9_000.0))).release.created == 9_000.0


async def test_an_alias_is_told_like_a_release_and_leads_there_and_back(tmp_path: Path) -> None:
    def alias(model: str, created: float, by: NodeKey = PUBLISHER) -> SignedRelease:
        said = Alias(SWARM.swarm_id, "chat", model, created)
        return sign_alias(by, said, trust(SWARM.authority, by.node_id, 0.0))

    async with open_catalogues(tmp_path) as ((one, _, first), (other, _, _)):
        for version in ("1", "2"):
            one.add_release(signed(release(version)))
        for model, created in (("demo@2", 1.0), ("demo@1", 2.0)):
            one.add_alias(alias(model, created))
            await other.compare(first)
            assert other.meaning("chat") == model
            assert (await other.resolve("chat")).reference == model
        one.add_alias(alias("demo@2", 1.5))
        one.add_alias(alias("demo@2", 9.0, by=OTHER))
        assert one.meaning("chat") == "demo@1" and one.meaning("demo") == "demo"
    async with open_catalogues(tmp_path, count=1) as ((again, _, _),):
        assert again.meaning("chat") == "demo@1"
        again.add_word(revoke(SWARM.authority, PUBLISHER.node_id, 9.0))
        assert again.meaning("chat") == "chat"
