"""What is said in a LAN, and what is heard there. The sockets are proved in tests/net, inside namespaces."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.addresses import TcpAddress
from p2p.host.interfaces import lans
from p2p.host.mdns import dns
from p2p.host.mdns.dns import PTR, TXT, DnsFault, DnsMessage, Question, Record
from p2p.host.mdns.service import Heard, Service, service_name
from p2p.membership import SwarmId
from p2p.transport import PeerAddress
from tests.swarms import make_swarm

SWARM = make_swarm(2)
OTHER = SwarmId("ab" * 32)
ALICE, BOB = (key.node_id for key in SWARM.keys)
HOST = "10.0.0.2"
HEADER = b"\0\0\0\0\0\x01\0\0\0\0\0\0"


def service(swarm_id: SwarmId = SWARM.swarm_id, number: int = 0) -> Service:
    return Service(swarm_id, SWARM.keys[number].node_id, f"{number}" * 32)


def test_who_announces_itself_is_heard_by_a_member() -> None:
    said = service(number=1).announcement(HOST, 7576)
    assert service().hear(said, HOST) == Heard(peers=(PeerAddress(BOB, (f"/ip4/{HOST}/tcp/7576",)),))


def test_a_question_is_one_to_members_alone() -> None:
    asked = service(number=1).question()
    assert service().hear(asked, HOST) == Heard(asked=True)
    assert service(OTHER).hear(asked, HOST) == Heard()


def test_two_swarms_never_meet_and_neither_shows_its_id() -> None:
    said = service(OTHER).announcement(HOST, 7576)
    assert service(number=1).hear(said, HOST) == Heard()
    assert service_name(OTHER) != service_name(SWARM.swarm_id)
    assert OTHER.encode() not in said and bytes.fromhex(OTHER) not in said


def test_nobody_has_us_dial_a_third_machine_or_ourselves() -> None:
    said = service(number=1).announcement("10.0.0.3", 7576)
    assert service().hear(said, HOST) == Heard()
    assert service().hear(service().announcement(HOST, 7576), HOST) == Heard()


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/{HOST}/tcp/7576/p2p/{BOB}",
        f"dnsaddr=/ip4/{HOST}/tcp/0/p2p/{BOB}",
        f"dnsaddr=/ip4/{HOST}/udp/7576/p2p/{BOB}",
        f"dnsaddr=/ip4/{HOST}/tcp/7576/p2p/nobody",
        f"dnsaddr=/ip4/{HOST}/tcp/7576",
        "dnsaddr=",
    ],
)
def test_what_is_no_members_address_is_not_heard(text: str) -> None:
    name = f"x.{service_name(SWARM.swarm_id)}"
    message = DnsMessage(True, records=(Record(name, TXT, dns.texts_bytes((text,))),))
    assert service().hear(dns.encode(message), HOST) == Heard()


@given(st.binary(max_size=600))
def test_any_datagram_is_heard_or_ignored(data: bytes) -> None:
    service().hear(data, HOST)
    with suppress(DnsFault):
        dns.decode(data)


@given(st.binary(max_size=100), st.integers(0, 200))
def test_an_announcement_that_was_damaged_is_heard_or_ignored(noise: bytes, at: int) -> None:
    said = service(number=1).announcement(HOST, 7576)
    service().hear(said[:at] + noise + said[at:], HOST)


LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
NUMBER = st.integers(0, 65_535)
RECORD = st.builds(Record, NAME, NUMBER, st.binary(max_size=50), st.integers(0, 2**32 - 1), st.booleans())


@given(
    st.lists(st.builds(Question, NAME, NUMBER), max_size=3).map(tuple),
    st.lists(RECORD, max_size=3).map(tuple),
    st.booleans(),
)
def test_what_is_encoded_is_read_back(
    questions: tuple[Question, ...], records: tuple[Record, ...], response: bool
) -> None:
    message = DnsMessage(response, questions, records)
    assert dns.decode(dns.encode(message)) == message


def test_a_compressed_name_is_followed_backwards() -> None:
    said = dns.encode(DnsMessage(False, (Question("_p2p._udp.local", PTR),)))
    pointed = said[:4] + b"\0\x02" + said[6:] + b"\xc0\x0c" + b"\0\x0c\0\x01"
    assert [question.name for question in dns.decode(pointed).questions] == ["_p2p._udp.local"] * 2


@pytest.mark.parametrize("name", [b"\xc0\x0c", b"\xc0\xff", b"\xc0", b"\x40" + b"a" * 64 + b"\0", b"\x3fa"])
def test_a_name_that_loops_or_leads_nowhere_is_a_fault(name: bytes) -> None:
    with pytest.raises(DnsFault):
        dns.decode(HEADER + name + b"\0\x0c\0\x01")


def test_a_name_of_more_than_255_bytes_is_a_fault() -> None:
    label = b"\x3f" + b"a" * 63
    with pytest.raises(DnsFault, match="too long"):
        dns.decode(HEADER + label * 5 + b"\0\0\x0c\0\x01")


def test_loopback_is_no_lan() -> None:
    assert lans([TcpAddress("ip4", "127.0.0.1", 7576), TcpAddress("ip6", "::", 7576)]) == frozenset()
