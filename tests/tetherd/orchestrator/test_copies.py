"""Embedded ledgers that keep each other's rows: three candidates over a network in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from p2p.errors import FORBIDDEN, FRAME_INVALID, INTERNAL, OUT_OF_RANGE, RESULT_GONE, TetherError
from p2p.identity import PeerId
from p2p.membership import admit, member_passport
from p2p.memory import MemoryNetwork
from p2p.messages import CATCH_UP, COPY_ROWS, LedgerRows, LedgerSince, Role
from p2p.rpc import Rpc
from tests.tetherd.orchestrator.region import Counts, FakeSwarm, Node, tell
from tests.tetherd.store.rows import attempt, job, kept, settle
from tests.topics.world import NOW, SWARM, Person, person
from tetherd.orchestrator.copies import ACK_S, Copying
from tetherd.orchestrator.follower import BATCH
from tetherd.store import MemoryStore, Store
from tetherd.store.merge import pack
from tetherd.store.protocol import JobRecord
from tetherd.store.replicated import ReplicatedStore
from topics.view import View


class FullDisk(MemoryStore):
    """Takes no copies."""

    async def take(self, rows: object) -> None:
        await trio.lowlevel.checkpoint()
        raise TetherError(INTERNAL, "The disk is full.")


@dataclass
class Candidate:
    """store: what this node leads with; own: the ledger under it."""

    node: Node
    own: MemoryStore
    store: Store
    copying: Copying
    swarm: FakeSwarm
    counts: Counts


class Region:
    """Candidates that come and go. All clocks are ledger time: NOW and trio's seconds."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.world = MemoryNetwork()
        self.candidates: list[Candidate] = []
        self.scopes: dict[PeerId, trio.CancelScope] = {}
        self._nursery = nursery

    async def connect(self, who: Person) -> Node:
        passport = member_passport(who.member.credential)
        network = self.world.node(
            who.peer, lambda: passport, lambda shown, peer: admit(shown, peer, SWARM, NOW)
        )
        return Node(who, network, Rpc(network))

    async def start(self, name: str, own: MemoryStore | None = None, *roles: Role) -> Candidate:
        """A candidate that ranks behind those there are; the same name is the same node."""
        node = await self.connect(person(name, roles=roles or ("orchestrator",)))
        swarm, counts, ledger = FakeSwarm("eu", [], View(node.peer)), Counts(), own or MemoryStore()
        copying = Copying(
            node.peer,
            swarm,
            node.network,
            node.rpc,
            ledger,
            now=lambda: NOW + trio.current_time(),
            metrics=counts,
        )
        candidate = Candidate(node, ledger, ReplicatedStore(ledger, copying), copying, swarm, counts)
        self.scopes[node.peer] = await self._nursery.start(self._live, candidate)
        self.candidates.append(candidate)
        self._meet()
        return candidate

    async def kill(self, candidate: Candidate) -> None:
        self.candidates.remove(candidate)
        self.world.kill(candidate.node.peer)
        self.scopes[candidate.node.peer].cancel()
        await trio.lowlevel.checkpoint()
        self._meet()

    async def _live(
        self,
        candidate: Candidate,
        *,
        task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(candidate.node.rpc.run)
                await nursery.start(candidate.copying.run)
                task_status.started(scope)

    def _meet(self) -> None:
        for one in self.candidates:
            one.swarm.ranked[:] = [other.node.peer for other in self.candidates]
            for other in self.candidates:
                tell(one.swarm.view, other.node, None)


@asynccontextmanager
async def region() -> AsyncIterator[Region]:
    async with trio.open_nursery() as nursery:
        yield Region(nursery)
        nursery.cancel_scope.cancel()


async def begin(candidate: Candidate, number: int = 1) -> JobRecord:
    wanted = job(number, created=NOW, lease_until=NOW + 15.0)
    return await candidate.store.claim(wanted, attempt(), now=NOW)


async def test_an_accepted_job_is_at_the_next_two_candidates_and_not_at_the_third(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        leader, *others = [await here.start(name) for name in ("a", "b", "c", "d")]
        await trio.sleep(1)
        row = await begin(leader)
        await trio.sleep(1)
        assert [await one.own.get(row.job) for one in others] == [row, row, None]
        assert not leader.copying.degraded and leader.copying.followers == 2


async def test_a_leader_alone_accepts_and_says_that_it_is_degraded(autojump_clock: MockClock) -> None:
    async with region() as here:
        leader = await here.start("a")
        began = trio.current_time()
        await begin(leader)
        assert trio.current_time() == began
        assert leader.copying.degraded and leader.counts.copies == {False: 1}
        await here.start("b")
        await begin(leader, 2)
        assert not leader.copying.degraded and leader.counts.copies == {False: 1, True: 1}


async def test_a_candidate_that_keeps_silent_costs_a_fifth_of_a_second_once_and_is_told_later(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        leader, other = await here.start("a"), await here.start("b")
        await trio.sleep(1)
        here.world.cut(leader.node.peer, other.node.peer)
        began = trio.current_time()
        row = await begin(leader)
        assert trio.current_time() - began == pytest.approx(ACK_S)
        assert leader.copying.degraded
        here.world.heal(leader.node.peer, other.node.peer)
        await trio.sleep(20)
        assert await other.own.get(row.job) == row


async def test_a_copy_that_could_not_be_kept_is_no_acknowledgement(autojump_clock: MockClock) -> None:
    async with region() as here:
        leader = await here.start("a")
        await here.start("b", FullDisk())
        await begin(leader)
        assert leader.copying.degraded
        await here.start("c")
        await begin(leader, 2)
        assert not leader.copying.degraded


async def test_the_successor_of_a_dead_leader_knows_the_token_the_bill_and_the_end(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        leader, successor = await here.start("a"), await here.start("b")
        row = await begin(leader)
        await settle(leader.store, row, now=NOW + 1)
        running = await begin(leader, 2)
        await here.kill(leader)
        with pytest.raises(TetherError) as caught:
            await begin(successor)
        assert caught.value.code is RESULT_GONE
        ended = await kept(successor.own, row)
        assert (ended.state, ended.tokens, ended.tenant, ended.model) == ("done", 7, "local", "demo")
        again = job(2, attempt=1, cause="CALL_LOST")
        resumed = await successor.store.claim(again, attempt(), now=NOW + 2)
        assert (resumed.attempt, resumed.attempts[0].cause) == (running.attempt + 1, "CALL_LOST")


async def test_a_leader_that_comes_back_knows_what_was_accepted_without_it(autojump_clock: MockClock) -> None:
    async with region() as here:
        second = await here.start("b")
        rows = [await begin(second, number) for number in range(1, BATCH + 9)]
        first = await here.start("a")
        here.candidates.reverse()
        for row in rows[:2]:
            with pytest.raises(TetherError):
                await first.store.claim(job(row.job[0], gateway=PeerId("12D3other")), attempt(), now=NOW)
        assert [await first.own.get(row.job) for row in rows] == rows


async def test_what_changes_while_it_is_sent_ends_as_the_leader_has_it(autojump_clock: MockClock) -> None:
    async with region() as here:
        leader, other = await here.start("a"), await here.start("b")
        async with trio.open_nursery() as nursery:
            for number in range(1, 200):
                nursery.start_soon(_live_through, leader, number)
        await trio.sleep(2)
        mine = await leader.own.recent(1_000)
        assert len(mine) == 199
        assert await other.own.recent(1_000) == mine


async def _live_through(candidate: Candidate, number: int) -> None:
    row = await begin(candidate, number)
    await candidate.store.renew(row.job, 1, b"g1", lease_until=NOW + 30)
    await settle(candidate.store, row, "cancelled" if number % 2 else "done", tokens=number, now=NOW + 1)


async def test_only_candidates_of_the_region_bring_and_get_rows_and_only_as_many_as_allowed(
    autojump_clock: MockClock,
) -> None:
    async with region() as here:
        leader = await here.start("a")
        row = await begin(leader)
        outsiders = [
            await here.connect(person("worker", roles=("worker",))),
            await here.connect(person("foreigner", roles=("orchestrator",), regions=("us",))),
        ]
        insider = await here.connect(person("insider", roles=("orchestrator",)))
        async with trio.open_nursery() as nursery:
            for node in (*outsiders, insider):
                await nursery.start(node.rpc.run)
                await node.network.connect(leader.node.address)
            for node in outsiders:
                for call in (
                    node.rpc.ask(leader.node.peer, COPY_ROWS, LedgerRows((pack(row),)), timeout_s=5),
                    node.rpc.ask(leader.node.peer, CATCH_UP, LedgerSince(0.0), timeout_s=5),
                ):
                    with pytest.raises(TetherError) as caught:
                        await call  # type: ignore[misc]
                    assert caught.value.code is FORBIDDEN
            for rows, code in (((b"junk",), FRAME_INVALID), ((pack(row),) * (BATCH + 1), OUT_OF_RANGE)):
                with pytest.raises(TetherError) as caught:
                    await insider.rpc.ask(leader.node.peer, COPY_ROWS, LedgerRows(rows), timeout_s=5)
                assert caught.value.code is code
            with pytest.raises(TetherError):
                await insider.rpc.ask(leader.node.peer, CATCH_UP, LedgerSince(0.0, b"x" * 33), timeout_s=5)
            changed = replace(row, attempt=9)
            await insider.rpc.ask(leader.node.peer, COPY_ROWS, LedgerRows((pack(changed),)), timeout_s=5)
            nursery.cancel_scope.cancel()
        assert await leader.own.get(row.job) == changed
