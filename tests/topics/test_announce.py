from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import ANNOUNCE_INVALID, TetherError
from p2p.identity import NodeKey
from p2p.membership import CERTIFICATE_LIFETIME_S, CLOCK_SKEW_S, Issuer, appoint, swarm_id_of
from p2p.messages import Announcement, Envelope, Heartbeat, Presence
from p2p.wire import decode, encode
from tests.topics.world import NOW, SWARM, TINY, Person, health, here, person
from topics.announce import MAX_PAYLOAD_BYTES, WINDOW, Checker, Refused, ReplayGuard, sign
from topics.names import Topic, control, models, presence

EU = presence("eu")


def alter(announcement: Announcement, **changes: object) -> Announcement:
    envelope = msgspec.structs.replace(announcement.envelope, **changes)
    return msgspec.structs.replace(announcement, envelope=envelope)


def resign(author: Person, announcement: Announcement, **changes: object) -> Announcement:
    """What a certified node says that breaks the rules of its own accord."""
    bare = msgspec.structs.replace(announcement.envelope, signature=b"", **changes)
    signed = msgspec.structs.replace(bare, signature=author.key.sign("announce", encode(bare)))
    return msgspec.structs.replace(announcement, envelope=signed)


def refusal(announcement: Announcement, topic: Topic | None = EU, now: float = NOW) -> str:
    drops: list[str] = []
    with pytest.raises(Refused) as caught:
        Checker(SWARM, drops.append).check(announcement, topic, now)
    assert caught.value.code is ANNOUNCE_INVALID
    assert drops == [caught.value.reason]
    return caught.value.reason


def test_a_member_is_heard() -> None:
    ann = person("ann")
    checked = Checker(SWARM).check(ann.says(here()), EU, NOW)
    assert (checked.peer, checked.number, checked.message) == (ann.peer, (1, 1), here())
    assert checked.member == ann.member


def test_straight_from_its_author_an_announcement_may_be_of_any_region_of_its_certificate() -> None:
    ann = person("ann", regions=("eu", "us"))
    checked = Checker(SWARM).check(ann.says(here("us")), None, NOW)
    assert checked.topic == presence("us")


@pytest.mark.parametrize(
    "field", ["topic", "payload", "node_id", "incarnation", "seq", "issued_at", "ttl", "signature"]
)
def test_no_field_can_be_altered(field: str) -> None:
    ann = person("ann")
    other: dict[str, object] = {
        "topic": presence("eu-1").name,
        "payload": encode(here(version="2")),
        "node_id": person("bob").peer,
        "incarnation": 2,
        "seq": 2,
        "issued_at": NOW + 1,
        "ttl": 31.0,
        "signature": b"\x00" * 64,
    }
    altered = alter(ann.says(here()), **{field: other[field]})
    assert refusal(altered, None) == "forged"


def test_a_signature_for_another_purpose_is_worth_nothing() -> None:
    ann = person("ann")
    said = ann.says(here())
    bare = msgspec.structs.replace(said.envelope, signature=b"")
    assert refusal(alter(said, signature=ann.key.sign("receipt", encode(bare)))) == "forged"


def test_nobody_speaks_with_the_certificate_of_another() -> None:
    ann, eve = person("ann"), person("eve")
    said = msgspec.structs.replace(eve.says(here()), credential=ann.member.credential)
    assert refusal(said) == "forged"


def test_a_node_of_another_swarm_is_not_heard() -> None:
    authority = NodeKey(b"\x02" * 32)
    other = swarm_id_of(authority)
    issuer = Issuer(authority, other, appoint(authority, authority.node_id, serial=b"i", now=NOW))
    assert refusal(person("eve", issuer=issuer).says(here())) == "uncertified"


def test_a_certificate_that_the_node_signed_itself_is_worth_nothing() -> None:
    eve = NodeKey(b"\x03" * 32)
    issuer = Issuer(eve, SWARM, appoint(eve, eve.node_id, serial=b"i", now=NOW))
    credential = issuer.certify(
        eve.node_id, eve.sealing_public, ("gateway",), ("eu",), serial=b"s" * 16, now=NOW
    )
    envelope = sign(eve, EU, encode(here(roles=("gateway",))), incarnation=1, seq=1, ttl_s=30, now=NOW)
    assert refusal(Announcement(envelope, credential)) == "uncertified"


def test_garbage_for_a_credential_is_counted_like_none() -> None:
    assert refusal(msgspec.structs.replace(person("ann").says(here()), credential=b"\xc1")) == "uncertified"


def test_an_expired_certificate_silences_its_node_though_it_was_good_before() -> None:
    ann, checker = person("ann"), Checker(SWARM)
    checker.check(ann.says(here()), EU, NOW)
    late = NOW + CERTIFICATE_LIFETIME_S + CLOCK_SKEW_S + 1
    with pytest.raises(Refused) as caught:
        checker.check(ann.says(here(), now=late), EU, late)
    assert caught.value.reason == "uncertified"


def test_an_announcement_counts_on_its_own_topic_only() -> None:
    ann = person("ann", regions=("eu", "us"))
    assert refusal(ann.says(here("us")), EU) == "topic"
    assert refusal(ann.says(here()), control("eu")) == "topic"


def test_a_region_outside_the_certificate_is_refused() -> None:
    assert refusal(person("ann").says(here("us")), presence("us")) == "region"


def test_the_payload_names_the_region_of_its_topic() -> None:
    ann = person("ann", regions=("eu", "us"))
    assert refusal(ann.says(here("us"), EU), EU) == "region"


def test_a_role_outside_the_certificate_is_refused() -> None:
    assert refusal(person("ann", roles=("worker",)).says(here(roles=("worker", "orchestrator")))) == "roles"
    assert refusal(person("bob").says(here(roles=()))) == "roles"


def test_only_orchestrators_send_heartbeats() -> None:
    beat = Heartbeat("eu")
    assert refusal(person("ann", roles=("worker",)).says(beat, control("eu")), control("eu")) == "roles"
    checked = Checker(SWARM).check(person("bob").says(beat, control("eu")), control("eu"), NOW)
    assert checked.message == beat


def test_health_is_a_worker_s_own() -> None:
    ann = person("ann")
    assert refusal(ann.says(here(roles=("gateway",), health=health(ann.peer)))) == "roles"
    assert refusal(ann.says(here(roles=("worker",), health=health(person("bob").peer)))) == "roles"


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity": -1}, {"capacity": 1_000_001}, {"load": -1}, {"queue": 10**12}, {"free_bytes": -1},
        {"tokens_per_second": float("nan")}, {"tokens_per_second": -1.0}, {"model_cache": (TINY,) * 65},
        {"model_cache": (msgspec.structs.replace(TINY, context_tokens=0),)},
    ],
    ids=str,
)  # fmt: skip
def test_health_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    ann = person("ann")
    assert refusal(ann.says(here(roles=("worker",), health=health(ann.peer, **wrong)))) == "bounds"


def test_a_model_whose_name_could_be_no_topic_is_refused() -> None:
    ann = person("ann")
    odd = health(ann.peer, model_cache=(msgspec.structs.replace(TINY, name="../x y"),))
    assert refusal(ann.says(here(roles=("worker",), health=odd))) == "malformed"


def test_addresses_are_bounded() -> None:
    ann = person("ann")
    assert refusal(ann.says(here(addresses=("/ip4/1.1.1.1/tcp/1",) * 17))) == "bounds"
    assert refusal(ann.says(here(addresses=("a" * 257,)))) == "bounds"


def test_an_oversized_payload_is_refused_before_anything_looks_at_it() -> None:
    ann = person("ann")
    assert refusal(resign(ann, ann.says(here()), payload=b"x" * (MAX_PAYLOAD_BYTES + 1))) == "oversized"
    assert refusal(msgspec.structs.replace(ann.says(here()), credential=b"x" * 5000)) == "oversized"


def test_a_payload_that_is_no_message_is_refused() -> None:
    ann = person("ann")
    assert refusal(resign(ann, ann.says(here()), payload=b"\x00")) == "malformed"


def test_nothing_is_announced_on_a_models_topic() -> None:
    topic = models("tiny", "1", "eu")
    assert refusal(person("ann").says(here(), topic), topic) == "topic"


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, 120.5, float("nan"), float("inf")])
def test_a_ttl_out_of_bounds_is_refused(ttl_s: float) -> None:
    assert refusal(person("ann").says(here(), ttl_s=ttl_s)) == "ttl"


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(30 + CLOCK_SKEW_S + 1, "expired"), (-CLOCK_SKEW_S - 1, "future"), (float("nan"), "future")],
)
def test_an_announcement_of_another_time_is_refused(age_s: float, reason: str) -> None:
    assert refusal(person("ann").says(here(), now=NOW - age_s)) == reason


@pytest.mark.parametrize("age_s", [-CLOCK_SKEW_S, 0.0, 30.0, 30 + CLOCK_SKEW_S])
def test_five_minutes_of_clock_error_change_nothing(age_s: float) -> None:
    Checker(SWARM).check(person("ann").says(here(), now=NOW - age_s), EU, NOW)


@pytest.mark.parametrize("changes", [{"incarnation": -1}, {"seq": 0}, {"seq": 2**63}], ids=str)
def test_numbers_out_of_bounds_are_refused(changes: dict[str, object]) -> None:
    ann = person("ann")
    assert refusal(resign(ann, ann.says(here()), **changes)) == "bounds"


def test_an_announcement_is_good_once() -> None:
    checker, said = Checker(SWARM), person("ann").says(here())
    checked = checker.check(said, EU, NOW)
    with pytest.raises(Refused) as caught:
        checker.check(said, EU, NOW)
    assert caught.value.reason == "replayed"
    assert checker.verify(said, EU, NOW) == checked


def test_an_earlier_life_cannot_speak_again() -> None:
    checker = Checker(SWARM)
    old = [person("ann").says(here()) for _ in range(2)]
    checker.check(old[0], EU, NOW)
    checker.check(person("ann", incarnation=2).says(here()), EU, NOW)
    with pytest.raises(Refused):
        checker.check(old[1], EU, NOW)


def test_each_topic_has_numbers_of_its_own() -> None:
    checker, ann = Checker(SWARM), person("ann")
    said = ann.says(here())
    for _ in range(2 * WINDOW):
        checker.check(ann.says(Heartbeat("eu"), control("eu")), control("eu"), NOW)
    assert checker.check(said, EU, NOW).number == (1, 1)


def test_what_comes_late_but_unseen_is_no_replay() -> None:
    guard, peer = ReplayGuard(10), person("ann").peer
    admitted = [guard.admit(peer, EU, (1, seq)) for seq in (5, 3, 4, 3, 5, 70, 6, 7, 7, 71)]
    assert admitted == [True, True, True, False, False, True, False, True, False, True]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 200)), max_size=200))
def test_the_guard_admits_no_number_twice_and_every_rising_one(numbers: list[tuple[int, int]]) -> None:
    guard, peer = ReplayGuard(10), person("ann").peer
    admitted: list[tuple[int, int]] = []
    for number in numbers:
        rising = number > max(admitted, default=(0, 0))
        if guard.admit(peer, EU, number):
            assert number not in admitted
            admitted.append(number)
        else:
            assert not rising


def test_the_guard_s_memory_is_bounded() -> None:
    guard = ReplayGuard(3)
    for index in range(10):
        guard.admit(person(f"n{index}").peer, EU, (1, 1))
    assert not guard.knows(person("n0").peer, EU, (1, 1))
    assert guard.knows(person("n9").peer, EU, (1, 1))


FORGERS: list[Callable[[Envelope, bytes], Envelope]] = [
    lambda envelope, noise: msgspec.structs.replace(envelope, payload=noise),
    lambda envelope, noise: msgspec.structs.replace(envelope, signature=noise),
    lambda envelope, noise: msgspec.structs.replace(envelope, topic=noise.hex()),
    lambda envelope, noise: msgspec.structs.replace(envelope, node_id=noise.hex()),
]


@given(st.sampled_from(FORGERS), st.binary(max_size=80))
def test_noise_is_refused_and_never_raises_anything_else(
    forge: Callable[[Envelope, bytes], Envelope], noise: bytes
) -> None:
    said = person("ann").says(here())
    with pytest.raises(Refused):
        Checker(SWARM).check(Announcement(forge(said.envelope, noise), said.credential), None, NOW)


@given(st.binary(max_size=200))
def test_any_payload_that_a_member_signs_is_a_message_or_refused(noise: bytes) -> None:
    ann = person("ann")
    try:
        checked = Checker(SWARM).check(resign(ann, ann.says(here()), payload=noise), EU, NOW)
    except Refused as refusal:
        assert refusal.reason in ("malformed", "region", "roles", "bounds")
    else:
        assert isinstance(checked.message, Presence)


def test_an_announcement_survives_the_wire() -> None:
    said = person("ann").says(here())
    try:
        Checker(SWARM).check(decode(encode(said), Announcement), EU, NOW)
    except TetherError as error:
        pytest.fail(str(error))
