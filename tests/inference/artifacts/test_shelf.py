"""Files that travel between nodes: from all who have them, verified, resumed, and never from a liar twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from inference.artifacts import fetching, lending
from inference.artifacts.chunks import MIN_CHUNK_BYTES, Blob
from inference.artifacts.fetching import Progress
from inference.artifacts.wire import BLOB_PROTOCOL, HEAD, HOLDING, WANT, Holding, HoldingRequest, blob_key
from p2p.errors import DISK_FULL, NO_SOURCE, TetherError
from p2p.rpc import ServerCall
from p2p.transport import Stream
from tests.inference.artifacts.made import made
from tests.inference.artifacts.shelves import Node, open_shelves
from tests.p2p.hosts import until

SIZE = 6 * MIN_CHUNK_BYTES + 7


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks for sources again at once; what waits for a stall waits less."""
    monkeypatch.setattr(fetching, "LOOK_S", 0.1)
    monkeypatch.setattr(fetching, "STALL_S", 0.5)
    monkeypatch.setattr(fetching, "LATE_S", 0.1)
    monkeypatch.setattr(lending, "GATHER_S", 0.01)


async def test_a_file_comes_from_all_who_have_it_and_is_lent_on(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 4) as (first, second, third, wanting):
        for node in (first, second):
            node.hold(data, blob)
        told: list[Progress] = []
        path = await wanting.shelf.want(blob, told=told.append)
        assert path.read_bytes() == data
        assert [one.done for one in told] == sorted(one.done for one in told)
        assert (told[-1].done, told[-1].size) == (SIZE, SIZE)
        assert first.shelf.lender.lent_bytes + second.shelf.lender.lent_bytes >= SIZE
        for node in (first, second):
            await node.host.disconnect(third.host.peer_id)
            node.shelf.blobs.evict(SIZE, busy=())
        assert (await third.shelf.want(blob)).read_bytes() == data


async def test_those_who_fetch_lend_what_they_have_already(tmp_path: Path) -> None:
    """Three leechers of one seed: together they take less from it than three times the file."""
    data, blob = made(24 * MIN_CHUNK_BYTES)
    async with open_shelves(tmp_path, 4, up=30e6) as (seed, *leechers):
        seed.hold(data, blob)
        async with trio.open_nursery() as nursery:
            for node in leechers:
                nursery.start_soon(node.shelf.want, blob)
        assert all(node.shelf.blobs.verify(blob.sha256) for node in leechers)
        assert seed.shelf.lender.lent_bytes < 2 * len(data)
        assert sum(node.shelf.lender.lent_bytes for node in leechers) > 0


async def test_several_who_want_one_file_share_one_fetch(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 2) as (seed, wanting):
        seed.hold(data, blob)
        paths: list[Path] = []

        async def want() -> None:
            paths.append(await wanting.shelf.want(blob))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(want)
        assert len(set(paths)) == 1 and len(paths) == 5
        assert seed.shelf.lender.lent_bytes == SIZE


def lie(node: Node, blob: Blob, answer: bytes | None, *, index_off: int = 0, size_off: int = 0) -> None:
    """Make a node claim the whole file and send answer for each chunk; None: nothing at all, ever."""

    async def holding(call: ServerCall[HoldingRequest, Holding]) -> None:
        await call.send(Holding(whole=True))

    async def lend(stream: Stream) -> None:
        await stream.read(4096)
        while wanted := await stream.read(WANT.size):
            (index,) = WANT.unpack(wanted[: WANT.size])
            if answer is None:
                await trio.sleep_forever()
            else:
                body = (answer * blob.length(index))[: blob.length(index) + size_off]
                await stream.write(HEAD.pack(index + index_off, len(body)) + body)

    node.rpc.serve_stream(HOLDING, holding)
    node.host.handle(BLOB_PROTOCOL, lend)


async def announce(node: Node, blob: Blob) -> None:
    await node.host.provide(blob_key(node.shelf._swarm_id, blob.sha256))


@pytest.mark.parametrize("how", [{}, {"index_off": 1}, {"size_off": -1}, {"size_off": 9}])
async def test_a_liar_is_named_and_the_file_comes_from_elsewhere(tmp_path: Path, how: dict[str, int]) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 3, up=20e6) as (seed, liar, wanting):
        lie(liar, blob, b"x", **how)
        await announce(liar, blob)
        path: list[Path] = []
        async with trio.open_nursery() as nursery:

            async def want() -> None:
                path.append(await wanting.shelf.want(blob))

            nursery.start_soon(want)
            await until(lambda: any(one.tally.liars for one in wanting.shelf._fetches.values()))
            fetch = wanting.shelf._fetches[blob.sha256]
            seed.hold(data, blob)
        assert path[0].read_bytes() == data
        assert fetch.tally.liars == [liar.host.peer_id]
        assert set(fetch.tally.received) == {seed.host.peer_id}


async def test_one_that_promises_and_sends_nothing_only_costs_its_own_time(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 3) as (seed, silent, wanting):
        lie(silent, blob, None)
        await announce(silent, blob)
        seed.hold(data, blob)
        assert (await wanting.shelf.want(blob)).read_bytes() == data


async def test_a_fetch_that_broke_off_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 2, up=10e6) as (seed, wanting):
        seed.hold(data, blob)
        with trio.CancelScope() as scope:

            def told(progress: Progress) -> None:
                if progress.done > 2 * MIN_CHUNK_BYTES:
                    scope.cancel()

            await wanting.shelf.want(blob, told=told)
        assert scope.cancelled_caught
        before = seed.shelf.lender.lent_bytes
        firsts: list[int] = []
        await wanting.shelf.want(blob, told=lambda progress: firsts.append(progress.done))
        assert firsts[0] > 3 * MIN_CHUNK_BYTES
        assert seed.shelf.lender.lent_bytes - before <= SIZE - 2 * MIN_CHUNK_BYTES


async def test_without_any_source_a_fetch_says_so_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.3)
    _, blob = made(SIZE)
    async with open_shelves(tmp_path, 2) as (_, wanting):
        with pytest.raises(TetherError) as refused:
            await wanting.shelf.want(blob)
        assert refused.value.code is NO_SOURCE
        assert "7 of 7 chunks" in refused.value.detail
        assert wanting.shelf.fetches() == {}


async def test_a_disk_that_fills_up_under_way_ends_the_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 2) as (seed, wanting):
        seed.hold(data, blob)

        def full(self: object, index: int, data: bytes) -> None:
            raise TetherError(DISK_FULL, "No space left on device.")

        monkeypatch.setattr("inference.artifacts.blobs.Partial.write", full)
        with pytest.raises(TetherError) as refused:
            await wanting.shelf.want(blob)
        assert refused.value.code is DISK_FULL


async def test_a_borrower_that_asks_for_what_there_is_not_gets_nothing(tmp_path: Path) -> None:
    data, blob = made(SIZE)
    async with open_shelves(tmp_path, 2) as (seed, wanting):
        seed.hold(data, blob)
        for asked, wanted in ((bytes(32), 0), (bytes.fromhex(blob.sha256), 999)):
            stream = await wanting.host.open_stream(seed.host.peer_id, BLOB_PROTOCOL)
            await stream.write(asked + WANT.pack(wanted))
            assert HEAD.unpack(await stream.read(100))[1] == 0
            await stream.reset()
