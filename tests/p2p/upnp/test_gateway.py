"""What a gateway may say, and what it may not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.upnp import xml
from p2p.host.upnp.fault import GatewayFault
from p2p.host.upnp.gateway import describe
from p2p.host.upnp.http import Url, parse, request
from p2p.host.upnp.ssdp import DEVICES, location
from tests.p2p.upnp.router import DESCRIPTION, open_router, serving

BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>'


@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        FILE,
        "<!DOCTYPE x><x/>",
        "<a>" * 50 + "</a>" * 50,
        "<r>" + "<a/>" * 2_000 + "</r>",
        f"<r>{'x' * 5_000}</r>",
        f"<r>{'x ' * 40_000}</r>",
        "<r>",
        "",
        "\0",
        '<?xml version="1.0" encoding="nobody-knows"?><r/>',
    ],
    ids=range(11),
)
def test_hostile_documents_are_faults(document: str) -> None:
    with pytest.raises(GatewayFault):
        xml.read(document.encode())


@given(st.binary(max_size=300) | st.text(alphabet="<>/ab &;!?=\"'", max_size=300).map(str.encode))
def test_any_bytes_are_a_document_or_a_fault(data: bytes) -> None:
    with suppress(GatewayFault):
        xml.read(data)


def test_names_lose_their_namespaces_and_text_stands_under_its_element() -> None:
    root = xml.read(b'<r xmlns:u="urn:x"><u:a> 1 </u:a><b><c>2</c></b></r>')
    assert root.value("a") == "1"
    assert [found.value("c") for found in root.all("b")] == ["2"]


@given(st.binary(max_size=600))
def test_any_datagram_is_a_location_or_nothing(data: bytes) -> None:
    assert location(data, "10.0.0.1") is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://10.0.0.1:5000/desc.xml", Url("10.0.0.1", 5000, "/desc.xml")),
        ("http://10.0.0.1", Url("10.0.0.1", 80, "/")),
        ("http://10.0.0.2:5000/desc.xml", None),
        ("https://10.0.0.1/desc.xml", None),
        ("http://user@10.0.0.1/desc.xml", None),
        ("http://10.0.0.1:99999/", None),
        ("http://[::1/", None),
        ("file:///etc/passwd", None),
    ],
)
def test_a_gateway_describes_itself_at_its_own_address_or_not_at_all(url: str, expected: Url | None) -> None:
    answer = f"HTTP/1.1 200 OK\r\nST: {DEVICES[0]}\r\nLOCATION: {url}\r\n\r\n"
    assert location(answer.encode(), "10.0.0.1") == expected


def test_an_answer_about_something_else_is_no_gateway() -> None:
    answer = "HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: http://10.0.0.1/\r\n\r\n"
    assert location(answer.encode(), "10.0.0.1") is None


async def test_a_gateway_that_points_to_another_machine_is_not_followed() -> None:
    async with open_router() as router:
        router.description = DESCRIPTION.replace("/ctl", "http://192.0.2.1/ctl")
        with pytest.raises(GatewayFault, match="another machine"):
            await describe(router.url)


async def test_a_gateway_without_the_service_maps_nothing() -> None:
    async with open_router() as router:
        router.description = "<root/>"
        with pytest.raises(GatewayFault, match="maps no ports"):
            await describe(router.url)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["silence", "noise", "short", "bad chunk", "long head", "long body", "longer body"],
)
async def test_an_answer_that_is_no_answer_is_a_fault(said: bytes) -> None:
    async with serving(lambda _: said, raw=True) as url:
        with pytest.raises(GatewayFault):
            await request(url)


def test_only_plain_urls_are_taken() -> None:
    for text in ("", "http://", "ftp://10.0.0.1/", "http://10.0.0.1/a b", "http://[v1.x]/"):
        with pytest.raises(GatewayFault):
            parse(text)
