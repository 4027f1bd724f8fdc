"""The host's errands wait for a connection's first moments to pass; the program does not."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from p2p.host.audience import SETTLE_S, Audience
from p2p.identity import PeerId

ALICE = PeerId("alice")


class Errand:
    def __init__(self) -> None:
        self.told: list[tuple[str, PeerId]] = []

    def up(self, peer: PeerId) -> None:
        self.told.append(("up", peer))

    def down(self, peer: PeerId) -> None:
        self.told.append(("down", peer))


async def test_watchers_are_told_at_once_and_errands_a_moment_later(autojump_clock: MockClock) -> None:
    audience, errand, seen = Audience(), Errand(), list[bool]()
    audience.errands.append(errand)
    audience.watchers.append(lambda _peer, up: seen.append(up))
    async with trio.open_nursery() as tasks:
        audience.up(ALICE, tasks)
        assert (seen, errand.told) == ([True], [])
        await trio.sleep(2 * SETTLE_S)
        assert errand.told == [("up", ALICE)]
        audience.down(ALICE)
        assert (seen, errand.told) == ([True, False], [("up", ALICE), ("down", ALICE)])


async def test_errands_never_hear_of_a_connection_that_did_not_last(autojump_clock: MockClock) -> None:
    audience, errand = Audience(), Errand()
    audience.errands.append(errand)
    async with trio.open_nursery() as tasks:
        audience.up(ALICE, tasks)
        audience.down(ALICE)
        await trio.sleep(2 * SETTLE_S)
        assert errand.told == []
        audience.up(ALICE, tasks)
        await trio.sleep(SETTLE_S / 2)
        audience.down(ALICE)
        audience.up(ALICE, tasks)
        await trio.sleep(2 * SETTLE_S)
        assert errand.told == [("up", ALICE)]
