"""What many answers become, whom to ask, and when again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.addresses import TcpAddress, parse
from p2p.host.paths import Reachability
from p2p.host.reach.plan import (
    DOUBT_S,
    MAX_CANDIDATES,
    STEADY_S,
    UNANSWERED_S,
    WITNESSES,
    Witness,
    candidates,
    choose,
    pause_s,
)
from p2p.host.reach.verdict import Verdict, Vote, overall
from p2p.identity import PeerId

UNKNOWN, PUBLIC, PRIVATE = Reachability.UNKNOWN, Reachability.PUBLIC, Reachability.PRIVATE
HERE = TcpAddress("ip4", "11.0.0.1", 7576)


def votes(text: str) -> list[Vote]:
    """One network a letter: + reached, - not."""
    return [Vote(f"net{number}", letter == "+") for number, letter in enumerate(text)]


def after(*rounds: str) -> Verdict:
    verdict = Verdict()
    for one in rounds:
        verdict = verdict.after(votes(one))
    return verdict


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([], UNKNOWN),
        (["+"], PUBLIC),
        (["---"], PRIVATE),
        (["+-"], UNKNOWN),
        (["++-"], PUBLIC),
        (["+++", "---"], PUBLIC),
        (["+++", "---", "--+"], PRIVATE),
        (["+++", "---", "+++", "---"], PUBLIC),
        (["---", "+++", "", "+++"], PUBLIC),
        (["+++", "", "", ""], PUBLIC),
    ],
)
def test_a_verdict_takes_a_majority_and_flips_only_when_the_next_round_agrees(
    rounds: list[str], expected: Reachability
) -> None:
    assert after(*rounds).state is expected


def test_many_peers_of_one_network_have_one_vote() -> None:
    crowd = [Vote("theirs", True)] * 50
    assert Verdict().after([*crowd, Vote("a", False), Vote("b", False)]).state is PRIVATE
    assert Verdict().after([Vote("a", True), Vote("a", False)]).state is UNKNOWN


@given(st.lists(st.lists(st.builds(Vote, st.sampled_from("abcde"), st.booleans()), max_size=6), max_size=30))
def test_no_single_round_turns_a_verdict_round(rounds: list[list[Vote]]) -> None:
    verdict = Verdict()
    for one in rounds:
        before, verdict = verdict, verdict.after(one)
        if {before.state, verdict.state} == {PUBLIC, PRIVATE}:
            assert before.doubtful and not verdict.doubtful
        assert verdict.state is not UNKNOWN or before.state is UNKNOWN
        assert 0 <= verdict.reached <= verdict.of


def test_a_node_is_public_where_one_address_is_and_private_where_all_are() -> None:
    assert overall([]) is UNKNOWN
    assert overall([after("+"), after("-")]) is PUBLIC
    assert overall([after("-"), after("-")]) is PRIVATE
    assert overall([after("-"), Verdict()]) is UNKNOWN


def witness(number: int, host: str) -> Witness:
    return Witness(PeerId(f"peer{number}"), TcpAddress("ip4", host, 4001))


def test_witnesses_are_of_distinct_networks_where_there_are_as_many() -> None:
    crowd = [witness(number, f"11.0.9.{number}") for number in range(1, 50)]
    others = [witness(60, "11.0.1.1"), witness(61, "11.0.2.1")]
    for seed in range(20):
        chosen = choose([*crowd, *others], HERE, random.Random(seed))
        assert {one.network for one in chosen} == {"11.0.9.0/24", "11.0.1.0/24", "11.0.2.0/24"}
    assert len(choose(crowd, HERE, random.Random(1))) == WITNESSES


def test_who_is_behind_the_same_router_or_in_the_lan_is_no_witness_of_the_internet() -> None:
    near = [witness(1, HERE.host), witness(2, "10.0.0.2"), witness(3, "127.0.0.1")]
    assert choose(near, HERE, random.Random(1)) == []


def test_own_addresses_are_asked_about_and_those_that_peers_see_with_both_ports() -> None:
    bound = [parse("/ip4/0.0.0.0/tcp/7576"), parse("/ip6/::/tcp/7577")]
    own = [parse("/ip4/10.0.0.2/tcp/7576"), parse("/ip6/2a00::5/tcp/7577"), parse("/ip4/127.0.0.1/tcp/7576")]
    seen = [parse("/ip4/11.0.0.1/tcp/20000")]
    assert list(map(str, candidates(own, seen, bound))) == [
        "/ip6/2a00::5/tcp/7577",
        "/ip4/11.0.0.1/tcp/20000",
        "/ip4/11.0.0.1/tcp/7576",
    ]
    crowd = [TcpAddress("ip4", f"11.0.0.{number}", 1) for number in range(1, 30)]
    assert len(candidates(crowd, seen, bound)) == MAX_CANDIDATES
    assert candidates([], seen, [parse("/ip4/127.0.0.1/tcp/1")]) == []


def test_doubts_are_looked_into_soon_and_certainties_seldom() -> None:
    rng = random.Random(1)
    for verdict, expected in [
        (after("+++"), STEADY_S),
        (after("+++", "---"), DOUBT_S),
        (Verdict(), UNANSWERED_S),
    ]:
        assert 0.8 * expected <= pause_s({HERE: verdict}, rng) <= 1.2 * expected
    assert pause_s({}, rng) <= 1.2 * UNANSWERED_S
