"""From a ticket to a certificate: a guest, an issuer and real rpc over a network in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from outcome import acapture

from p2p.errors import NOT_ISSUER, ROLE_FORBIDDEN, TICKET_EXPIRED, TICKET_USED, UNREACHABLE, TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import Member, SwarmId, Ticket, admit, check_credential, read_ticket
from p2p.memory import MemoryNetwork, MemoryNode
from p2p.messages import Role
from p2p.rpc import Rpc
from tetherd.data_dir import DataDir, Standing
from tetherd.issuer import IssuerDesk
from tetherd.joining import Passport, Plan, enrol, found

NOW = 1_000_000.0


@dataclass
class Town:
    """A world with one issuer, and a clock that its tests may turn."""

    folder: Path
    world: MemoryNetwork
    now: float = NOW
    orchestrators: int = 1

    def clock(self) -> float:
        return self.now

    def admitting(self, swarm_id: SwarmId) -> Callable[[bytes, PeerId], Member]:
        return lambda shown, peer: admit(shown, peer, swarm_id, self.now)  # type: ignore[return-value]

    @asynccontextmanager
    async def issuer(
        self, standing: Standing | None = None, key: NodeKey | None = None
    ) -> AsyncIterator[IssuerDesk]:
        """A founder, or a node with a key and a standing of its own, behind its desk."""
        key = key or NodeKey.generate()
        data = DataDir(self.folder / key.node_id)
        data.root.mkdir()
        own = standing or found(data, key, "eu", now=self.now)
        node = self.world.node(key.node_id, Passport(key, Plan(own, None)), self.admitting(own.swarm_id))
        async with trio.open_nursery() as nursery:
            rpc = Rpc(node)
            await nursery.start(rpc.run)
            desk = IssuerDesk(
                data,
                key,
                node,
                rpc,
                now=self.clock,
                orchestrators=lambda region: self.orchestrators,
                others=tuple,
            )
            desk.open(own)
            yield desk
            nursery.cancel_scope.cancel()

    async def join(
        self, ticket: str, *, region: str = "eu", roles: tuple[Role, ...] = (), key: NodeKey | None = None
    ) -> tuple[Standing, Member]:
        """Enrol a new machine (or one with a key) and check what it got."""
        mine, read = key or NodeKey.generate(), read_ticket(ticket)
        node = self._guest(mine, read)
        async with trio.open_nursery() as nursery:
            rpc = Rpc(node)
            await nursery.start(rpc.run)
            outcome = await acapture(
                enrol, node, rpc, mine, read, region, roles, now=self.clock, adopt=lambda credential: None
            )
            nursery.cancel_scope.cancel()
        self.world.kill(mine.node_id)
        standing = outcome.unwrap()
        return standing, check_credential(standing.credential, standing.swarm_id, self.now)

    def _guest(self, key: NodeKey, ticket: Ticket) -> MemoryNode:
        return self.world.node(
            key.node_id, Passport(key, Plan(None, ticket)), self.admitting(ticket.swarm_id)
        )


@pytest.fixture
def town(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> Town:
    return Town(tmp_path, MemoryNetwork())


def plain(
    desk: IssuerDesk, *, roles: tuple[Role, ...] = (), regions: tuple[str, ...] = (), uses: int = 1
) -> str:
    return desk.invite(roles, regions, ttl_s=3_600.0, uses=uses).ticket


async def test_a_guest_leaves_with_a_certificate_and_may_issue_while_the_authority_is_up(town: Town) -> None:
    async with town.issuer() as desk:
        standing, member = await town.join(plain(desk))
    assert set(member.certificate.roles) == {"gateway", "worker", "orchestrator"}
    assert member.certificate.regions == ("eu",)
    assert standing.issuer


async def test_who_was_admitted_as_orchestrator_admits_others_after_the_founder_is_gone(town: Town) -> None:
    second = NodeKey.generate()
    async with town.issuer() as desk:
        standing, _ = await town.join(plain(desk), key=second)
    async with town.issuer(standing, second) as desk:
        third, member = await town.join(plain(desk))
    assert member.issuer == second.node_id
    assert not third.issuer, "only the authority makes issuers"


async def test_a_ticket_is_good_once_but_its_own_node_may_ask_again(town: Town) -> None:
    key = NodeKey.generate()
    async with town.issuer() as desk:
        ticket = plain(desk)
        await town.join(ticket, key=key)
        await town.join(ticket, key=key)
        with pytest.raises(TetherError) as caught:
            await town.join(ticket)
    assert caught.value.code is TICKET_USED


async def test_an_expired_ticket_is_refused_before_anybody_is_dialled(town: Town) -> None:
    async with town.issuer() as desk:
        ticket = plain(desk)
        town.now += 3_601.0
        with pytest.raises(TetherError) as caught:
            await town.join(ticket)
    assert caught.value.code is TICKET_EXPIRED


async def test_a_region_or_role_that_the_ticket_does_not_grant_is_refused(town: Town) -> None:
    async with town.issuer() as desk:
        with pytest.raises(TetherError, match="region us") as region:
            await town.join(plain(desk, regions=("us",)), region="eu")
        with pytest.raises(TetherError) as role:
            await town.join(plain(desk, roles=("worker",)), roles=("gateway",))
    assert (region.value.code, role.value.code) == (ROLE_FORBIDDEN, ROLE_FORBIDDEN)


async def test_a_region_with_seven_orchestrators_gets_no_more_of_them_by_plain_tickets(town: Town) -> None:
    town.orchestrators = 7
    async with town.issuer() as desk:
        standing, member = await town.join(plain(desk))
    assert member.certificate.roles == ("gateway", "worker")
    assert not standing.issuer


async def test_when_nobody_in_the_ticket_answers_every_address_is_named(town: Town) -> None:
    async with town.issuer() as desk:
        ticket = plain(desk)
    town.world.kill(PeerId(read_ticket(ticket).addresses[0].rpartition("/p2p/")[2]))
    with pytest.raises(TetherError, match="/memory/0") as caught:
        await town.join(ticket)
    assert caught.value.code is UNREACHABLE


async def test_a_node_without_an_issuer_certificate_makes_no_tickets(town: Town) -> None:
    key = NodeKey.generate()
    async with town.issuer() as desk:
        standing, _ = await town.join(plain(desk), key=key)
    async with town.issuer(Standing(standing.swarm_id, standing.credential), key) as desk:
        with pytest.raises(TetherError) as caught:
            plain(desk)
    assert caught.value.code is NOT_ISSUER
