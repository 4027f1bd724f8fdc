"""Multiaddrs of TCP, and of relays that are reached over it: reading, writing, and which of its own to tell others."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Final

from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.errors import FIELD_INVALID, TetherError
from p2p.identity import PeerId, public_key_of

MAX_ADDRESSES: Final = 16
"""Of one peer. A machine has few interfaces; more is an attempt to have us dial elsewhere."""
MAX_HEARSAY: Final = 8
MAX_PEERS: Final = 8_192
"""In the book, least recently told first out."""
MAX_CHARACTERS: Final = 512
"""Of one address: the longest name of a machine and a relay's id take less."""
READ_LATELY: Final = 8_192
"""Addresses whose reading is kept: an answer of the DHT names twenty, and mostly those of the one before."""
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
CIRCUIT: Final = "/p2p-circuit"
_IP: Final = ("ip4", "ip6")
_NAMES: Final = ("dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """family: ip4, ip6, dns, dns4 or dns6; port 0 asks the system for one."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.family}/{self.host}/tcp/{self.port}"

    @property
    def ip(self) -> IpAddress | None:
        return ipaddress.ip_address(self.host) if self.family in _IP else None


@dataclass(frozen=True, slots=True)
class CircuitAddress:
    """Whoever holds a reservation with relay is reached through it. at: where the relay listens."""

    at: TcpAddress
    relay: PeerId

    def __str__(self) -> str:
        return f"{self.at}/p2p/{self.relay}{CIRCUIT}"


def parse_circuit(text: str) -> CircuitAddress:
    """Read /ip4/…/tcp/…/p2p/…/p2p-circuit, with or without /p2p/… behind. Raises TetherError(FIELD_INVALID)."""
    way, _, rest = text.partition(CIRCUIT)
    at, _, relay = way.rpartition("/p2p/")
    if rest and not rest.startswith("/p2p/"):
        raise TetherError(FIELD_INVALID, f"{text[:200]!r} is not an address behind a relay.")
    public_key_of(PeerId(relay))
    return CircuitAddress(parse(at), PeerId(relay))


def is_circuit(text: str) -> bool:
    return CIRCUIT in text


def parse(text: str) -> TcpAddress:
    """Read /ip4/…/tcp/…, with or without /p2p/… behind. Raises TetherError(FIELD_INVALID)."""
    parts = text.split("/")
    try:
        if (
            parts[0]
            or parts[3] != "tcp"
            or len(parts) not in (5, 7)
            or (len(parts) == 7 and parts[5] != "p2p")
        ):
            raise ValueError(text)
        family, host, port = parts[1], parts[2], int(parts[4])
        if family in _IP:
            host = _host(family, host)
        elif family not in _NAMES or not host:
            raise ValueError(text)
        if not (parts[4].isascii() and parts[4].isdigit() and port < 65_536):
            raise ValueError(text)
    except (ValueError, IndexError) as error:
        raise TetherError(
            FIELD_INVALID, f"{text[:100]!r} is not an address like /ip4/192.0.2.1/tcp/4001.", field="listen"
        ) from error
    return TcpAddress(family, host, port)


def _host(family: str, text: str) -> str:
    """An IP address as it is written everywhere. Raises ValueError, TetherError for one that others cannot use."""
    ip = ipaddress.ip_address(text)
    if family != f"ip{ip.version}":
        raise ValueError(text)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_link_local:
            detail = f"{text[:100]} is a link-local address, which means nothing to others: use another or /ip6/::."
            raise TetherError(FIELD_INVALID, detail, field="listen")
        if ip.scope_id or ip.ipv4_mapped:
            raise ValueError(text)
    return str(ip)


def interleaved(texts: Iterable[str]) -> list[str]:
    """Addresses in their order, but with families taking turns, so that a broken one holds up no dial (RFC 8305, 4).

    Relays stay last.
    """
    queues: dict[str, list[str]] = {}
    for text in texts:
        queues.setdefault(CIRCUIT if is_circuit(text) else text.split("/")[1], []).append(text)
    relayed = queues.pop(CIRCUIT, [])
    turns = zip_longest(*queues.values())
    return [text for turn in turns for text in turn if text is not None] + relayed


def dialable(texts: Iterable[str]) -> list[str]:
    """Those that can be dialled, over TCP or a relay, without the peer's own /p2p/, each once, at most 16."""
    read = (_dialable(text) for text in texts if len(text) <= MAX_CHARACTERS)
    found = dict.fromkeys(text for text in read if text)
    return list(found)[:MAX_ADDRESSES]


@lru_cache(maxsize=READ_LATELY)
def _dialable(text: str) -> str:
    """As it is written everywhere; empty if nobody can dial it."""
    try:
        address = parse_circuit(text) if is_circuit(text) else parse(text)
    except TetherError:
        return ""
    end = address.at if isinstance(address, CircuitAddress) else address
    return str(address) if end.port and not (end.ip and end.ip.is_unspecified) else ""


def to_wire(texts: Iterable[str]) -> list[bytes]:
    """As the protobufs of libp2p carry them."""
    return [_raw(text) for text in texts]


def from_wire(raw: Sequence[bytes]) -> list[str]:
    """The dialable ones; the rest is somebody else's transport or garbage, and skipped."""
    return dialable(_text(data) for data in raw[:MAX_ADDRESSES] if len(data) <= MAX_CHARACTERS)


@lru_cache(maxsize=READ_LATELY)
def _raw(text: str) -> bytes:
    raw: bytes = Multiaddr(text).to_bytes()
    return raw


@lru_cache(maxsize=READ_LATELY)
def _text(raw: bytes) -> str:
    """Empty if it is none."""
    try:
        return str(Multiaddr(raw))
    except ValueError:
        return ""


def seen_from_wire(raw: bytes) -> TcpAddress | None:
    """One TCP address, such as identify's observedAddr; None for anything else."""
    found = [text for text in from_wire([raw]) if not is_circuit(text)]
    return parse(found[0]) if found else None


def expanded(bound: Iterable[TcpAddress], ips: Sequence[IpAddress]) -> list[TcpAddress]:
    """With the addresses of interfaces in place of 0.0.0.0 and ::."""
    found: dict[TcpAddress, None] = {}
    for address in bound:
        if address.ip is not None and address.ip.is_unspecified:
            for ip in ips:
                if ip.version == address.ip.version:
                    found[TcpAddress(address.family, str(ip), address.port)] = None
        else:
            found[address] = None
    return list(found)


def announced(
    bound: Iterable[TcpAddress], ips: Sequence[IpAddress], *, refuted: Container[TcpAddress] = ()
) -> tuple[str, ...]:
    """What others may dial: loopback only if there is no other, and none of refuted. ips: of the interfaces."""
    found = expanded(bound, ips)
    outward = [address for address in found if not (address.ip and address.ip.is_loopback)]
    chosen = [address for address in outward if address not in refuted] if outward else found
    return tuple(str(address) for address in chosen[:MAX_ADDRESSES])


@dataclass(slots=True)
class _Whereabouts:
    """worked: over which this node reached the peer; said: by the peer itself; heard: from anybody, newest last.

    spoken: the protocols that it has agreed to.
    """

    worked: str = ""
    said: tuple[str, ...] = ()
    heard: dict[str, None] = field(default_factory=dict)
    spoken: set[str] = field(default_factory=set)

    def all(self) -> tuple[str, ...]:
        known = dict.fromkeys((self.worked, *self.said, *reversed(self.heard)))
        known.pop("", None)
        return tuple(sorted(known, key=is_circuit)[:MAX_ADDRESSES])


class AddressBook:
    """Where peers are, in the order in which to try: what worked, what they say, what others say; relays last."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PeerId, _Whereabouts] = OrderedDict()

    def learn(self, peer: PeerId, addresses: Iterable[str]) -> None:
        """Hearsay: beyond 8 the oldest of it goes, so nobody's word displaces what is known better."""
        heard = self._entry(peer).heard
        for address in dialable(addresses):
            heard.pop(address, None)
            heard[address] = None
        while len(heard) > MAX_HEARSAY:
            del heard[next(iter(heard))]

    def said(self, peer: PeerId, addresses: Iterable[str]) -> None:
        self._entry(peer).said = tuple(dialable(addresses))

    def worked(self, peer: PeerId, address: str) -> None:
        self._entry(peer).worked = address

    def spoken(self, peer: PeerId) -> set[str]:
        """The protocols that the peer has agreed to, for its connections to add to: at most those that we open."""
        return self._entry(peer).spoken

    def of(self, peer: PeerId) -> tuple[str, ...]:
        entry = self._peers.get(peer)
        return entry.all() if entry else ()

    def _entry(self, peer: PeerId) -> _Whereabouts:
        entry = self._peers.setdefault(peer, _Whereabouts())
        self._peers.move_to_end(peer)
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return entry
