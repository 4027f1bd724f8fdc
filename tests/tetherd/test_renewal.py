"""Certificates renewed before they end, over real rpc in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p.errors import TetherError
from p2p.identity import NodeKey, PeerId
from p2p.membership import Issuer, Member, Papers, admit, appoint, check_credential
from p2p.memory import MemoryNetwork
from p2p.messages import RENEW, RenewRequest, Role
from p2p.rpc import Rpc
from p2p.transport import PeerAddress
from tetherd.data_dir import DataDir, Standing
from tetherd.issuer import IssuerDesk
from tetherd.joining import Passport, Plan, found
from tetherd.renewal import Renewal, is_old, lacks_leave

NOW, DAY_S = 1_000_000.0, 86_400.0


class Country:
    """A founder behind its desk, members that it certified, and a clock that the tests turn."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.world = MemoryNetwork()
        self.data, self.founder = DataDir(folder), NodeKey.generate()
        self.standing = found(self.data, self.founder, "eu", now=NOW)
        self.swarm_id = self.standing.swarm_id

    @asynccontextmanager
    async def node(self, key: NodeKey, standing: Standing) -> AsyncIterator[Rpc]:
        """A member of it, connected to the founder unless it is the founder."""
        network = self.world.node(
            key.node_id,
            Passport(key, Plan(standing, None)),
            lambda shown, peer: admit(shown, peer, self.swarm_id, self.now),
        )
        async with trio.open_nursery() as nursery:
            rpc = Rpc(network)
            await nursery.start(rpc.run)
            if key is self.founder:
                desk = IssuerDesk(
                    self.data, key, network, rpc, now=lambda: self.now,
                    orchestrators=lambda region: 1, others=tuple,
                )  # fmt: skip
                desk.open(standing)
            else:
                await network.connect(PeerAddress(self.founder.node_id, ("/memory/0",)))
            yield rpc
            nursery.cancel_scope.cancel()

    def certified(self, key: NodeKey, *roles: Role) -> Standing:
        authority = self.data.authority()
        assert authority is not None
        leave = appoint(authority, self.founder.node_id, serial=b"i" * 16, now=self.now)
        credential = Issuer(self.founder, self.swarm_id, leave).certify(
            key.node_id, key.sealing_public, roles, ("eu",), serial=b"s" * 16, now=self.now
        )
        return Standing(self.swarm_id, credential)

    def member(self, standing: Standing) -> Member:
        return check_credential(standing.credential, self.swarm_id, self.now)

    def renewal(
        self, rpc: Rpc, standing: Standing, issuers: tuple[PeerId, ...], adopted: list[Standing]
    ) -> Renewal:
        return Renewal(
            rpc, Papers(self.member(standing)), standing,
            issuers=lambda: issuers, adopt=adopted.append, now=lambda: self.now,
        )  # fmt: skip


@pytest.fixture
def country(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> Country:
    return Country(tmp_path)


@pytest.mark.parametrize(("age", "old"), [(0, False), (19.9, False), (20, True), (31, True)])
def test_a_certificate_is_old_when_two_thirds_of_its_life_are_over(age: float, old: bool) -> None:
    assert is_old(NOW, NOW + 30 * DAY_S, NOW + age * DAY_S) is old


async def test_an_old_certificate_is_renewed_with_the_same_rank_and_a_young_one_is_left_alone(
    country: Country,
) -> None:
    key, adopted = NodeKey.generate(), list[Standing]()
    standing = country.certified(key, "worker")
    async with country.node(country.founder, country.standing), country.node(key, standing) as rpc:
        renewal = country.renewal(rpc, standing, (country.founder.node_id,), adopted)
        await renewal.look()
        assert not adopted
        before = country.member(standing).certificate
        country.now += 21 * DAY_S
        await renewal.look()
        await renewal.look()
    (renewed,) = adopted
    after = country.member(renewed).certificate
    assert after.not_after == before.not_after + 21 * DAY_S
    assert (after.serial, after.roles, after.regions) == (before.serial, before.roles, before.regions)
    assert not renewed.issuer


async def test_an_orchestrator_without_leave_to_admit_others_gets_it_from_the_authority(
    country: Country,
) -> None:
    key, adopted = NodeKey.generate(), list[Standing]()
    standing = country.certified(key, "gateway", "orchestrator")
    assert lacks_leave(standing, country.member(standing), country.now)
    async with country.node(country.founder, country.standing), country.node(key, standing) as rpc:
        await country.renewal(rpc, standing, (country.founder.node_id,), adopted).look()
    (renewed,) = adopted
    assert not lacks_leave(renewed, country.member(renewed), country.now)


async def test_an_issuer_that_is_away_costs_nothing_and_the_next_one_is_asked(country: Country) -> None:
    key, adopted = NodeKey.generate(), list[Standing]()
    standing = country.certified(key, "worker")
    nobody = NodeKey.generate().node_id
    async with country.node(country.founder, country.standing), country.node(key, standing) as rpc:
        renewal = country.renewal(rpc, standing, (nobody, country.founder.node_id), adopted)
        country.now += 25 * DAY_S
        await renewal.look()
    assert len(adopted) == 1


async def test_the_founder_renews_its_own(country: Country) -> None:
    adopted = list[Standing]()
    async with country.node(country.founder, country.standing) as rpc:
        renewal = country.renewal(rpc, country.standing, (country.founder.node_id,), adopted)
        country.now += 25 * DAY_S
        await renewal.look()
    assert country.member(adopted[0]).certificate.not_before == country.now


async def test_a_certificate_that_has_run_out_is_not_renewed(country: Country) -> None:
    key = NodeKey.generate()
    standing = country.certified(key, "worker")
    async with country.node(country.founder, country.standing), country.node(key, standing) as rpc:
        country.now += 31 * DAY_S
        with pytest.raises(TetherError, match="expired"):
            await rpc.ask(country.founder.node_id, RENEW, RenewRequest(), timeout_s=5)
