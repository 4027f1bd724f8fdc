"""Whatever reads bytes from outside takes them or says that their sender is at fault: nothing else, in bounded memory.

Each parser has a folder of samples in tests/corpus, good and bad ones. Every run replays them, cuts and turns them; a
drawn input that ever broke one belongs there. `make fuzz` draws 20,000 for each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.pubsub.pb import rpc_pb2

from inference.artifacts.release import Release, SignedRelease
from inference.engine_wire import read_command, read_report
from p2p import messages
from p2p.errors import TetherError
from p2p.host.addresses import from_wire, seen_from_wire
from p2p.host.errors import PeerFault
from p2p.host.kad import messages as kad
from p2p.host.mdns import dns
from p2p.host.punch import wire as punch
from p2p.host.reach import messages as reach
from p2p.host.relay import wire as relay
from p2p.host.upnp import http as upnp
from p2p.host.upnp.fault import GatewayFault
from p2p.membership import admit, read_ticket
from p2p.rpc.frames import unpack
from p2p.wire import decode
from tests.topics.world import NOW, SWARM, person
from tetherd.gateway.journal import read_records
from tetherd.http.embeddings import parse_embedding
from tetherd.http.requests import parse_chat, parse_completion
from tetherd.registry.references import parse as parse_reference
from tetherd.usage.proof import read_proofs

CORPUS: Final = Path(__file__).parent / "corpus"
MAX_DRAWN_BYTES: Final = 2_000


@dataclass(frozen=True)
class Parser:
    """faults: what it may raise."""

    name: str
    parse: Callable[[bytes], object]
    faults: tuple[type[Exception], ...] = (TetherError,)

    def takes(self, data: bytes) -> None:
        with suppress(*self.faults):
            self.parse(data)

    @property
    def samples(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


def text_of(parse: Callable[[str], Any]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "replace"))


def identify(data: bytes) -> None:
    message = Identify.FromString(data)
    from_wire(message.listen_addrs)
    seen_from_wire(message.observed_addr)


def every_message(data: bytes) -> None:
    """By every type that a call may carry: bytes are no other type's for having been refused by one."""
    for method in METHODS:
        for kind in (method.request, method.answer):
            with suppress(TetherError):
                decode(data, kind)


METHODS: Final = [one for one in vars(messages).values() if isinstance(one, messages.Method)]
PEER: Final = person("p").peer
PARSERS: Final = (
    Parser("calls", every_message),
    Parser("completion", lambda data: parse_completion(data, {})),
    Parser("chat", lambda data: parse_chat(data, {})),
    Parser("dht", kad.read),
    Parser("embeddings", lambda data: parse_embedding(data, {})),
    Parser("engine-command", read_command),
    Parser("engine-report", read_report),
    Parser("gossip", rpc_pb2.RPC.FromString, (DecodeError,)),
    Parser("identify", identify, (DecodeError,)),
    Parser("journal", read_records, ()),
    Parser("mdns", dns.decode, (dns.DnsFault,)),
    Parser("passport", lambda data: admit(data, PEER, SWARM, NOW)),
    Parser("proofs", read_proofs),
    Parser("punch", punch.read, (TetherError, PeerFault)),
    Parser("reachability", reach.read, (TetherError, PeerFault)),
    Parser("reference", text_of(parse_reference)),
    Parser("relay-hop", relay.read_hop, (TetherError, PeerFault)),
    Parser("relay-stop", relay.read_stop, (TetherError, PeerFault)),
    Parser("release", lambda data: decode(decode(data, SignedRelease).body, Release)),
    Parser("rpc", unpack),
    Parser("ticket", text_of(read_ticket)),
    Parser("upnp", text_of(upnp.parse), (GatewayFault,)),
)
named: Final = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@named
def test_every_sample_is_taken_or_refused_also_cut_and_turned(parser: Parser) -> None:
    for sample in parser.samples:
        parser.takes(sample)
        for at in range(min(len(sample), 300)):
            parser.takes(sample[:at])
            parser.takes(sample[:at] + bytes([sample[at] ^ 0x81]) + sample[at + 1 :])


@named
def test_there_is_a_sample_that_is_taken(parser: Parser) -> None:
    taken = 0
    for sample in parser.samples:
        with suppress(*parser.faults):
            parser.parse(sample)
            taken += 1
    assert taken, "a corpus of nothing but faults tries only the first check"


@named
@given(data=st.data())
def test_whatever_is_drawn_is_taken_or_refused(parser: Parser, data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from([b"", *parser.samples]))
    start = data.draw(st.integers(0, len(sample)))
    end = data.draw(st.integers(start, len(sample)))
    drawn = data.draw(st.binary(max_size=MAX_DRAWN_BYTES))
    parser.takes(sample[:start] + drawn + sample[end:])


def test_the_corpus_belongs_to_the_parsers() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {parser.name for parser in PARSERS}
