"""The gate: a chain from the authority down, checked offline; and tickets, which admit and do not certify."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import (
    CERTIFICATE_EXPIRED,
    CERTIFICATE_INVALID,
    FIELD_INVALID,
    TICKET_EXPIRED,
    TICKET_INVALID,
    WRONG_SWARM,
    Code,
    TetherError,
)
from p2p.identity import NodeKey
from p2p.membership import (
    CERTIFICATE_LIFETIME_S,
    CLOCK_SKEW_S,
    ISSUER_LIFETIME_S,
    Guest,
    Issuer,
    IssuerCertificate,
    Member,
    Passport,
    SignedIssuer,
    SwarmId,
    Ticket,
    admit,
    appoint,
    check_credential,
    check_invite,
    check_issuer,
    guest_passport,
    member_passport,
    read_ticket,
    swarm_id_of,
    write_ticket,
)
from p2p.wire import encode

NOW = 1_800_000_000.0
AUTHORITY, ISSUER, NODE, OTHER, INVITED = (NodeKey(bytes([n]) * 32) for n in range(1, 6))
SWARM = swarm_id_of(AUTHORITY)
SERIAL = b"s" * 16


def issuer() -> Issuer:
    return Issuer(ISSUER, SWARM, appoint(AUTHORITY, ISSUER.node_id, serial=SERIAL, now=NOW))


def credential(by: Issuer | None = None, *, node: NodeKey = NODE, serial: bytes = SERIAL) -> bytes:
    return (by or issuer()).certify(
        node.node_id, node.sealing_public, ("worker",), ("eu",), serial=serial, now=NOW
    )


def ticket(*, ttl_s: float = 3600.0) -> Ticket:
    invite = issuer().invite(
        ("gateway", "worker"), ("eu",), secret=INVITED.seed, ttl_s=ttl_s, uses=1, now=NOW
    )
    return Ticket(SWARM, ("/ip4/127.0.0.1/tcp/1/p2p/x",), invite, INVITED.seed)


def refusal(passport: bytes, node: NodeKey = NODE, *, swarm_id: SwarmId = SWARM, now: float = NOW) -> Code:
    with pytest.raises(TetherError) as caught:
        admit(passport, node.node_id, swarm_id, now)
    return caught.value.code


def test_a_certified_node_is_a_member() -> None:
    member = admit(member_passport(credential()), NODE.node_id, SWARM, NOW)
    assert isinstance(member, Member)
    certificate = member.certificate
    assert (member.peer, member.issuer) == (NODE.node_id, ISSUER.node_id)
    assert (certificate.roles, certificate.regions) == (("worker",), ("eu",))
    assert certificate.enc_key == NODE.sealing_public


def test_a_certificate_is_of_use_to_nobody_else() -> None:
    assert refusal(member_passport(credential()), OTHER) is CERTIFICATE_INVALID


def test_a_certificate_of_another_swarm_is_refused() -> None:
    assert refusal(member_passport(credential()), swarm_id=swarm_id_of(OTHER)) is WRONG_SWARM


def test_an_issuer_that_the_authority_did_not_appoint_certifies_nobody() -> None:
    body = encode(IssuerCertificate(SWARM, ISSUER.node_id, SERIAL, NOW, NOW + 3600))
    forged = Issuer(ISSUER, SWARM, encode(SignedIssuer(body, OTHER.sign("issuer", body))))
    assert refusal(member_passport(credential(forged))) is CERTIFICATE_INVALID
    elsewhere = Issuer(ISSUER, SWARM, appoint(OTHER, ISSUER.node_id, serial=SERIAL, now=NOW))
    assert refusal(member_passport(credential(elsewhere))) is WRONG_SWARM


def test_a_node_with_a_certificate_is_no_issuer() -> None:
    thief = replace(issuer(), key=OTHER)
    assert refusal(member_passport(credential(thief))) is CERTIFICATE_INVALID


def test_certificates_begin_and_end_with_some_patience_for_clocks() -> None:
    shown = member_passport(credential())
    end = NOW + CERTIFICATE_LIFETIME_S
    assert isinstance(admit(shown, NODE.node_id, SWARM, end + CLOCK_SKEW_S - 1), Member)
    assert refusal(shown, now=end + CLOCK_SKEW_S + 1) is CERTIFICATE_EXPIRED
    assert isinstance(admit(shown, NODE.node_id, SWARM, NOW - CLOCK_SKEW_S + 1), Member)
    assert refusal(shown, now=NOW - CLOCK_SKEW_S - 1) is CERTIFICATE_INVALID


def test_an_expired_issuer_takes_its_certificates_with_it() -> None:
    late = NOW + ISSUER_LIFETIME_S + CLOCK_SKEW_S + 1
    fresh = issuer().certify(
        NODE.node_id, NODE.sealing_public, ("worker",), ("eu",), serial=SERIAL, now=late - 10
    )
    assert refusal(member_passport(fresh), now=late) is CERTIFICATE_EXPIRED


@pytest.mark.parametrize("serial", [b"", b"s" * 15, b"s" * 17])
def test_a_serial_that_would_rank_oddly_is_refused(serial: bytes) -> None:
    assert refusal(member_passport(credential(serial=serial))) is CERTIFICATE_INVALID


def test_the_holder_of_an_invite_is_a_guest() -> None:
    guest = admit(guest_passport(ticket(), NODE.node_id), NODE.node_id, SWARM, NOW)
    assert isinstance(guest, Guest)
    assert (guest.peer, guest.issuer, guest.invite.roles) == (
        NODE.node_id,
        ISSUER.node_id,
        ("gateway", "worker"),
    )


def test_an_invite_without_its_key_admits_nobody() -> None:
    seen = guest_passport(ticket(), NODE.node_id)
    assert refusal(seen, OTHER) is CERTIFICATE_INVALID
    assert refusal(encode(Passport(invite=ticket().invite))) is CERTIFICATE_INVALID


def test_an_invite_that_is_over_says_so() -> None:
    assert refusal(guest_passport(ticket(ttl_s=60), NODE.node_id), now=NOW + 61) is TICKET_EXPIRED


def test_a_certificate_and_an_invite_cannot_stand_for_each_other() -> None:
    with pytest.raises(TetherError):
        check_credential(ticket().invite, SWARM, NOW)
    with pytest.raises(TetherError):
        check_invite(credential(), SWARM, NOW)
    with pytest.raises(TetherError):
        check_issuer(credential(), SWARM, NOW)


@given(st.data())
def test_no_altered_passport_is_admitted_as_anything_else(data: st.DataObject) -> None:
    whole = data.draw(
        st.sampled_from((member_passport(credential()), guest_passport(ticket(), NODE.node_id)))
    )
    place = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[place] ^= data.draw(st.integers(1, 255))
    try:
        admission = admit(bytes(altered), NODE.node_id, SWARM, NOW)
    except TetherError as error:
        assert error.code in (
            CERTIFICATE_INVALID,
            CERTIFICATE_EXPIRED,
            WRONG_SWARM,
            TICKET_EXPIRED,
            FIELD_INVALID,
        )
    else:  # a bit that nothing is read from, like the key of an unknown field
        assert admission in (
            admit(member_passport(credential()), NODE.node_id, SWARM, NOW),
            admit(guest_passport(ticket(), NODE.node_id), NODE.node_id, SWARM, NOW),
        )


@given(st.binary(max_size=300))
def test_any_bytes_are_no_passport_and_harm_nobody(passport: bytes) -> None:
    assert refusal(passport) is CERTIFICATE_INVALID


def test_a_ticket_is_one_line_that_comes_back_whole() -> None:
    line = write_ticket(ticket())
    assert line.startswith("tether1") and line.isascii() and "\n" not in line
    assert read_ticket(f"  {line}\n") == ticket()


@given(st.integers(1, 500))
def test_a_cut_ticket_is_noticed(kept: int) -> None:
    line = write_ticket(ticket())
    with pytest.raises(TetherError) as caught:
        read_ticket(line[: min(kept, len(line) - 1)])
    assert caught.value.code is TICKET_INVALID


@given(st.integers(7, 400), st.sampled_from("AZaz09-_!é "))
def test_a_mistyped_ticket_is_noticed_and_not_repeated_in_the_error(place: int, letter: str) -> None:
    line = write_ticket(ticket())
    place %= len(line)
    wrong = line[:place] + letter + line[place + 1 :]
    if wrong.strip() == line:
        return
    try:
        assert read_ticket(wrong) == ticket()  # the last letter has bits that mean nothing
    except TetherError as error:
        assert error.code is TICKET_INVALID
        assert line[20:60] not in error.message


@given(st.text(max_size=200).map(lambda text: "tether1" + text) | st.text(max_size=50))
def test_any_text_is_no_ticket(text: str) -> None:
    with pytest.raises(TetherError) as caught:
        read_ticket(text)
    assert caught.value.code is TICKET_INVALID
