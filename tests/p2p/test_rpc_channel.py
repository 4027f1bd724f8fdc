"""The channel under the calls: what goes out first, what is kept, and what is sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import UNREACHABLE, TetherError
from p2p.frames import FrameReader
from p2p.pipe import PipeStream, pipe
from p2p.rpc import RpcLimits
from p2p.rpc.channel import Channel
from p2p.rpc.frames import Ack, AnyFrame, Cancel, Data, Numbered, pack, unpack
from tests.p2p.nodes import A, B

LIMITS = RpcLimits(ack_frames=4)


class End:
    """The other end of a channel's stream, read by hand."""

    def __init__(self, stream: PipeStream) -> None:
        self.stream = stream
        self._reader = FrameReader(stream, LIMITS.frame_bytes)

    async def read(self) -> list[AnyFrame]:
        """The frames of one write or more."""
        await wait_all_tasks_blocked()
        return [unpack(body) for body in await self._reader.some()]


@asynccontextmanager
async def carried(channel: Channel, *, peer_received: int = 0) -> AsyncIterator[End]:
    """Carry the channel over a stream that breaks at the end."""
    ours, theirs = pipe(A, B)
    verdicts: list[TetherError] = []

    async def carry() -> None:
        reader = FrameReader(ours, LIMITS.frame_bytes)
        verdicts.append(await channel.carry(ours, reader, greeting=b"", peer_received=peer_received))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry)
        yield End(theirs)
        theirs.break_("The connection was cut.")
    assert verdicts[0].code is UNREACHABLE


def ignore(frame: Numbered) -> None:
    pass


async def test_control_goes_out_before_chunks_and_chunks_before_artifacts() -> None:
    channel = Channel(LIMITS, ignore)
    for number, priority in ((1, 2), (2, 1), (3, 0), (4, 1), (5, 0)):
        channel.send(Cancel(number), priority)
    async with carried(channel) as end:
        assert await end.read() == [Cancel(3), Cancel(5), Cancel(2), Cancel(4), Cancel(1)]


async def test_control_overtakes_what_waits_behind_a_batch() -> None:
    channel = Channel(LIMITS, ignore)
    for number in range(1, 10):
        channel.send(Data(number, bytes(LIMITS.batch_bytes)), 2)
    async with carried(channel) as end:
        order: list[AnyFrame] = [*await end.read()]
        channel.send(Cancel(1), 0)
        while len(order) < 10:
            order += await end.read()
        assert order.index(Cancel(1)) < 9


async def test_what_was_not_acknowledged_is_sent_again_first_and_in_its_order() -> None:
    channel = Channel(LIMITS, ignore)
    for number in range(1, 6):
        channel.send(Cancel(number), 0)
    async with carried(channel) as end:
        assert len(await end.read()) == 5
        await end.stream.write(pack(Ack(2)))
        await wait_all_tasks_blocked()
    channel.send(Cancel(6), 0)
    async with carried(channel, peer_received=3) as end:
        assert await end.read() == [Cancel(4), Cancel(5), Cancel(6)]
        await end.stream.write(pack(Ack(6)))
        await wait_all_tasks_blocked()
    assert channel.backlog_bytes == 0


async def test_frames_are_acknowledged_with_the_next_write_or_after_a_few() -> None:
    channel = Channel(LIMITS, ignore)
    async with carried(channel) as end:
        await end.stream.write(pack(Cancel(1)))
        await wait_all_tasks_blocked()
        channel.send(Cancel(7), 0)
        assert await end.read() == [Ack(1), Cancel(7)]
        await end.stream.write(pack(Cancel(2)) * 4)
        assert await end.read() == [Ack(5)]


async def test_a_frame_may_be_withdrawn_until_it_is_taken() -> None:
    channel = Channel(LIMITS, ignore)
    first, second = channel.send(Cancel(1), 0), channel.send(Cancel(2), 0)
    assert channel.withdraw(first)
    async with carried(channel) as end:
        assert await end.read() == [Cancel(2)]
        assert not channel.withdraw(second)


@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_an_interrupted_channel_goes_on_where_it_was(broken: int, autojump_clock: MockClock) -> None:
    delivered: list[Numbered] = []
    channel = Channel(LIMITS, delivered.append)
    ours, theirs = pipe(A, B)
    async with trio.open_nursery() as nursery:
        reader = FrameReader(ours, LIMITS.frame_bytes)
        nursery.start_soon(lambda: channel.carry(ours, reader, greeting=b"hi", peer_received=0))
        for number in range(broken):
            await theirs.write(pack(Cancel(number + 1)))
        await wait_all_tasks_blocked()
        channel.interrupt()
    assert channel.received == broken == len(delivered)
    assert not channel.carried
