"""What is new is told at once, and what nobody signed goes no further."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from inference.artifacts.release import revoke
from p2p.identity import PeerId
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from p2p.wire import encode
from tests.tetherd.registry.test_catalogue import PUBLISHER, SWARM, release, signed
from tetherd.registry import news as news_module
from tetherd.registry.catalogue import Catalogue, word_name
from tetherd.registry.news import News, Told
from topics.names import CATALOGUE

REFERENCE = "demo@1.release"


@asynccontextmanager
async def open_line(root: Path) -> AsyncIterator[list[tuple[Catalogue, News, MemoryNode]]]:
    """Three nodes, the first and the last of which know only the one between them."""
    world = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        opened: list[tuple[Catalogue, News, MemoryNode]] = []
        for number in range(3):
            key = SWARM.keys[number]
            node = world.node(key.node_id, passport=lambda n=number: SWARM.passport(n), admit=SWARM.admit)
            catalogue = Catalogue(root / str(number), SWARM.swarm_id, Rpc(node), node)
            news = News(catalogue, node, SWARM.swarm_id)
            await nursery.start(news.run)
            if opened:
                before = opened[-1][2]
                await node.connect(PeerAddress(PeerId(before.peer_id), before.addresses()))
            opened.append((catalogue, news, node))
        yield opened
        nursery.cancel_scope.cancel()


async def test_a_release_and_its_revocation_reach_those_who_know_only_others(tmp_path: Path) -> None:
    async with open_line(tmp_path) as ((one, news, _), _, (last, _, _)):
        one.add_release(signed(release()))
        await news.tell(REFERENCE)
        await trio.testing.wait_all_tasks_blocked()
        assert [known.reference for known in last.all()] == ["demo@1"]
        word = revoke(SWARM.authority, PUBLISHER.node_id, 2_000.0)
        one.add_word(word)
        await news.tell(word_name(word))
        await trio.testing.wait_all_tasks_blocked()
        assert last.all() == []


async def test_lies_and_old_news_go_no_further(tmp_path: Path) -> None:
    async with open_line(tmp_path) as ((_, _, liar), (middle, _, node), (last, _, _)):
        topic = CATALOGUE.gossip_id(SWARM.swarm_id)
        old = encode(signed(release(created=1_000.0, size=5)))
        middle.add_release(signed(release(created=2_000.0, size=7)))
        for name, body in (
            (REFERENCE, old),
            (REFERENCE, b"junk"),
            ("../../etc/passwd", b""),
            ("a.word", b""),
        ):
            await liar.publish(topic, encode(Told(name, body)))
            await trio.testing.wait_all_tasks_blocked()
        await liar.publish(topic, b"\xc1")
        await trio.testing.wait_all_tasks_blocked()
        assert last.all() == []
        kept = middle.find("demo", "1")
        assert kept is not None and kept.release.size == 7
        assert node.rejected[liar.peer_id] == 5


async def test_what_is_too_long_is_left_to_comparisons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "MAX_BODY_BYTES", 10)
    async with open_line(tmp_path) as ((one, news, _), _, (last, _, _)):
        one.add_release(signed(release()))
        await news.tell(REFERENCE)
        await trio.testing.wait_all_tasks_blocked()
        assert last.all() == []
