"""Coming into a swarm: what a start decides from its certificate, its ticket and its roles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2p.errors import (
    CERTIFICATE_EXPIRED,
    ROLE_FORBIDDEN,
    TICKET_USED,
    USAGE,
    WRONG_SWARM,
    Code,
    TetherError,
)
from p2p.identity import NodeKey, PeerId
from p2p.membership import Invite, SwarmId, Ticket, check_credential
from p2p.messages import Role
from tetherd.data_dir import DataDir, SpentInvites, Standing
from tetherd.issuer import granted_roles, spend
from tetherd.joining import Plan, addresses_in, check_roles, found, plan, restored

NOW = 1_000_000.0
OURS, THEIRS = SwarmId("aa" * 32), SwarmId("bb" * 32)


def ticket(
    swarm_id: SwarmId = OURS, addresses: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/1/p2p/12D3a",)
) -> Ticket:
    return Ticket(swarm_id, addresses, b"", b"s" * 32)


def invite(roles: tuple[Role, ...] = ("gateway", "worker"), uses: int = 1) -> Invite:
    return Invite(OURS, b"k" * 32, roles, (), 0.0, 1.0, uses)


def test_without_ticket_and_certificate_a_node_founds_a_swarm() -> None:
    assert plan(None, None, "eu", (), now=NOW) == Plan(None, None)


def test_a_node_without_the_orchestrator_role_cannot_found_one_and_is_told_of_invite() -> None:
    with pytest.raises(TetherError, match="tetherctl invite") as caught:
        plan(None, None, "eu", ("worker",), now=NOW)
    assert caught.value.code is USAGE


def standing_of(folder: Path, region: str = "eu") -> Standing:
    return found(DataDir(folder), NodeKey(b"k" * 32), region, now=NOW)


def test_a_certificate_that_holds_is_used_rather_than_a_ticket_of_the_same_swarm(tmp_path: Path) -> None:
    standing = standing_of(tmp_path)
    assert plan(standing, ticket(standing.swarm_id), "eu", (), now=NOW) == Plan(standing, None)


@pytest.mark.parametrize(
    ("region", "days", "code"), [("eu", 31, CERTIFICATE_EXPIRED), ("us", 1, ROLE_FORBIDDEN)]
)
def test_a_ticket_comes_before_a_certificate_that_ran_out_or_is_for_elsewhere(
    tmp_path: Path, region: str, days: int, code: Code
) -> None:
    standing, later = standing_of(tmp_path), NOW + days * 86_400
    fresh = ticket(standing.swarm_id)
    assert plan(standing, fresh, region, (), now=later) == Plan(None, fresh)
    with pytest.raises(TetherError) as caught:
        plan(standing, None, region, (), now=later)
    assert caught.value.code is code


def test_a_ticket_of_another_swarm_is_refused() -> None:
    with pytest.raises(TetherError) as caught:
        plan(Standing(OURS, b"credential"), ticket(THEIRS), "eu", (), now=NOW)
    assert caught.value.code is WRONG_SWARM


def test_a_founder_who_was_away_too_long_certifies_itself_anew_in_the_same_swarm(tmp_path: Path) -> None:
    before, later = standing_of(tmp_path), NOW + 40 * 86_400
    key, data = NodeKey(b"k" * 32), DataDir(tmp_path)
    assert restored(data, key, "eu", now=NOW) == before
    after = restored(data, key, "eu", now=later)
    assert after is not None and after.swarm_id == before.swarm_id
    assert check_credential(after.credential, after.swarm_id, later).peer == key.node_id


def test_who_is_no_founder_cannot_certify_itself(tmp_path: Path) -> None:
    data, standing = DataDir(tmp_path / "guest"), standing_of(tmp_path)
    data.root.mkdir()
    data.save_standing(standing)
    assert restored(data, NodeKey(b"k" * 32), "eu", now=NOW + 40 * 86_400) == standing


def test_founding_makes_a_member_with_all_roles_that_may_issue(tmp_path: Path) -> None:
    data, key = DataDir(tmp_path), NodeKey.generate()
    standing = found(data, key, "eu", now=1_000.0)
    member = check_credential(standing.credential, standing.swarm_id, 1_000.0)
    assert set(member.certificate.roles) == {"gateway", "orchestrator", "worker"}
    assert (member.peer, data.standing()) == (key.node_id, standing)
    assert standing.issuer


def test_a_role_or_region_that_the_certificate_lacks_is_named(tmp_path: Path) -> None:
    key = NodeKey(os.urandom(32))
    standing = found(DataDir(tmp_path), key, "eu", now=0.0)
    member = check_credential(standing.credential, standing.swarm_id, 0.0)
    check_roles(member, "eu", ("worker",))
    with pytest.raises(TetherError, match="region eu, not for us"):
        check_roles(member, "us", ())


def test_a_tickets_addresses_are_grouped_by_peer_in_order() -> None:
    found_peers = addresses_in(ticket(addresses=("/a/p2p/one", "/b/p2p/two", "/c/p2p/one")))
    assert [(peer.peer, peer.addresses) for peer in found_peers] == [("one", ("/a", "/c")), ("two", ("/b",))]


@pytest.mark.parametrize(
    ("wanted", "roles", "orchestrators", "granted"),
    [
        (
            ("gateway", "orchestrator", "worker"),
            ("gateway", "worker"),
            1,
            ("gateway", "orchestrator", "worker"),
        ),
        (("gateway", "orchestrator", "worker"), ("gateway", "worker"), 7, ("gateway", "worker")),
        (("worker",), ("gateway", "worker"), 1, ("worker",)),
        (("gateway", "orchestrator", "worker"), ("worker",), 1, ("worker",)),
        (("gateway", "orchestrator"), ("orchestrator",), 9, ("orchestrator",)),
    ],
)
def test_a_plain_ticket_grants_orchestrator_too_until_there_are_seven(
    wanted: tuple[Role, ...], roles: tuple[Role, ...], orchestrators: int, granted: tuple[Role, ...]
) -> None:
    assert granted_roles(wanted, invite(roles), orchestrators) == granted


def test_a_guest_who_wants_only_what_the_ticket_lacks_is_refused() -> None:
    with pytest.raises(TetherError) as caught:
        granted_roles(("gateway",), invite(("worker",)), 1)
    assert caught.value.code is ROLE_FORBIDDEN


def test_a_ticket_is_spent_by_its_uses_and_a_node_that_comes_again_counts_once() -> None:
    one, two, three = PeerId("one"), PeerId("two"), PeerId("three")
    spent = SpentInvites()
    for node in (one, two, one):
        spent = spend(spent, invite(uses=2), node)
    assert spent.nodes == {(b"k" * 32).hex(): (one, two)}
    with pytest.raises(TetherError, match="2 times") as caught:
        spend(spent, invite(uses=2), three)
    assert caught.value.code is TICKET_USED
