"""The channel under the calls: what goes out first, what is kept, and what is sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.errors import UNREACHABLE, TetherError
from p2p.frames import FrameReader
from p2p.pipe import PipeStream, pipe
from p2p.rpc import RpcLimits
from p2p.rpc.channel import Channel
from p2p.rpc.frames import Block, Cancel, Data, More, Numbered, Open, pack, unpack
from p2p.rpc.latency import Latency
from tests.p2p.nodes import A, B

LIMITS = RpcLimits(ack_frames=4)


class End:
    """The other end of a channel's stream, read by hand."""

    def __init__(self, stream: PipeStream) -> None:
        self.stream = stream
        self._reader = FrameReader(stream, LIMITS.block_bytes)

    async def blocks(self) -> list[Block]:
        """Those of one write or more."""
        await wait_all_tasks_blocked()
        blocks = [unpack(body) for body in await self._reader.some()]
        return [block for block in blocks if isinstance(block, Block)]

    async def read(self) -> list[Numbered]:
        return [frame for block in await self.blocks() for frame in block.frames]

    async def say(self, *frames: Numbered, received: int = 0) -> None:
        await self.stream.write(pack(Block(received, list(frames))))
        await wait_all_tasks_blocked()


def reading(channel: Channel, stream: PipeStream, delivered: list[Numbered]) -> Callable[[], Awaitable[None]]:
    """What a session does with what comes."""
    reader = FrameReader(stream, LIMITS.block_bytes)

    async def read() -> None:
        while bodies := await reader.some():
            for body in bodies:
                for frame in channel.take(body):
                    channel.received += 1
                    delivered.append(frame)
            channel.flush()

    return read


def made() -> Channel:
    return Channel(LIMITS, Latency())


@asynccontextmanager
async def carried(channel: Channel, *, peer_received: int = 0) -> AsyncIterator[End]:
    """Carry the channel over a stream that breaks at the end."""
    ours, theirs = pipe(A, B)
    verdicts: list[TetherError] = []

    async def carry() -> None:
        read = reading(channel, ours, [])
        verdicts.append(await channel.carry(ours, read, greeting=b"", peer_received=peer_received))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry)
        yield End(theirs)
        theirs.break_("The connection was cut.")
    assert verdicts[0].code is UNREACHABLE


class Loaf:
    """A large message that goes out in slices."""

    def __init__(self, call: int, slices: int) -> None:
        self.call = call
        self.slices = slices

    def next_part(self) -> tuple[Numbered, int] | None:
        if not self.slices:
            return None
        self.slices -= 1
        return More(self.call, bytes(LIMITS.part_bytes)), LIMITS.part_bytes


async def test_large_messages_go_out_in_turn_and_small_frames_between_their_parts() -> None:
    channel = made()
    for call in (1, 2, 3):
        channel.outbox.pour(Loaf(call, 4))
    for call in range(4, 12):
        channel.send(Data(call, bytes(20_000)), 20_000)
    async with carried(channel) as end:
        order: list[int] = []
        while len(order) < 20:
            order += [frame.call for frame in await end.read()]
    assert [call for call in order if call < 4] == [1, 2, 3] * 4
    assert [call for call in order if call >= 4] == list(range(4, 12))
    assert order.index(11) < 12


async def test_what_was_not_acknowledged_is_sent_again_first_and_in_its_order() -> None:
    channel = made()
    for number in range(1, 6):
        channel.send(Cancel(number))
    async with carried(channel) as end:
        assert len(await end.read()) == 5
        await end.say(received=2)
    channel.send(Cancel(6))
    async with carried(channel, peer_received=3) as end:
        assert await end.read() + await end.read() == [Cancel(4), Cancel(5), Cancel(6)]
        await end.say(received=6)
    assert channel.outbox.backlog_bytes == 0


async def test_frames_are_acknowledged_with_the_next_write_or_after_a_few() -> None:
    channel = made()
    async with carried(channel) as end:
        await end.say(Cancel(1))
        channel.send(Cancel(7))
        assert [(block.received, block.frames) for block in await end.blocks()] == [(1, [Cancel(7)])]
        await end.say(*[Cancel(2)] * LIMITS.ack_frames)
        assert await end.blocks() == [Block(LIMITS.ack_frames + 1, [])]


async def test_a_block_in_a_hurry_is_acknowledged_at_once_and_measures_the_way(
    autojump_clock: MockClock,
) -> None:
    channel, latency = made(), Latency()
    channel._latency = latency
    async with carried(channel) as end:
        await end.stream.write(pack(Block(0, [Cancel(1)], hurry=True)))
        assert await end.blocks() == [Block(1, [])]
        channel.send(Cancel(1))
        (block,) = await end.blocks()
        assert block.hurry
        await trio.sleep(0.25)
        await end.say(received=1)
        assert latency.smoothed_s == pytest.approx(0.25)
        channel.send(Cancel(2))
        (block,) = await end.blocks()
        assert not block.hurry
        await trio.sleep(LIMITS.probe_s)
        channel.send(Cancel(3))
        (block,) = await end.blocks()
        assert block.hurry
        await end.say(received=3)
        assert latency.smoothed_s == pytest.approx(0.25 * 7 / 8)


async def test_a_call_may_be_withdrawn_until_it_is_written() -> None:
    channel = made()
    for call in (1, 2):
        channel.send(Open(call, "echo", None, 0, 0, b"hi"))
    assert channel.outbox.withdraw(1)
    async with carried(channel) as end:
        assert [frame.call for frame in await end.read()] == [2]
        assert not channel.outbox.withdraw(2)


@pytest.mark.parametrize("broken", [0, 1, 2])
async def test_an_interrupted_channel_goes_on_where_it_was(broken: int, autojump_clock: MockClock) -> None:
    delivered: list[Numbered] = []
    channel = made()
    ours, theirs = pipe(A, B)
    async with trio.open_nursery() as nursery:
        read = reading(channel, ours, delivered)
        nursery.start_soon(lambda: channel.carry(ours, read, greeting=b"hi", peer_received=0))
        for number in range(broken):
            await theirs.write(pack(Block(0, [Cancel(number + 1)])))
        await wait_all_tasks_blocked()
        channel.interrupt()
    assert channel.received == broken == len(delivered)
    assert not channel.carried
