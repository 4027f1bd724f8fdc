"""Servers as they are: ranges, redirects, refusals, cut connections, and the hub's digest of a file."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from inference.artifacts import origins
from inference.artifacts.origins import HttpOrigin, Place, download, place_of_url, place_on_hub
from p2p.errors import DIGEST_MISMATCH, FORBIDDEN, NO_SOURCE, NOT_FOUND, UNREACHABLE, Code, TetherError
from tests.inference.artifacts.made import made
from tetherd.http.serve import serve

DATA, BLOB = made(3_000_001)
FILE = "tiny.gguf"


@dataclass
class Hub:
    """A server that behaves like a hub. wrong: answers instead of the next ones; cut_at: bytes of the next answer."""

    url: str = ""
    wrong: list[Response] = field(default_factory=list)
    cut_at: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    serves_ranges: bool = True
    data: bytes = DATA

    async def resolve(self, request: Request) -> Response:
        self.tokens.append(request.headers.get("authorization"))
        headers = {
            "x-linked-etag": f'"{hashlib.sha256(self.data).hexdigest()}"',
            "x-linked-size": str(len(self.data)),
        }
        return RedirectResponse("/storage/blob?signature=secret", 302, headers)

    async def storage(self, request: Request) -> Response:
        self.ranges.append(request.headers.get("range", ""))
        if self.wrong:
            return self.wrong.pop(0)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        begin, end = int(first), int(last) + 1 if last else len(self.data)
        if not self.serves_ranges:
            return Response(self.data)
        if begin >= len(self.data):
            return Response(b"", 416, {"content-range": f"bytes */{len(self.data)}"})
        body = self.data[begin:end]
        headers = {"content-range": f"bytes {begin}-{begin + len(body) - 1}/{len(self.data)}"}
        if self.cut_at:
            body = body[: self.cut_at.pop(0)]

            async def part() -> AsyncIterator[bytes]:
                yield body

            return StreamingResponse(part(), 206, headers)
        return Response(body, 206, headers)

    @property
    def place(self) -> Place:
        return place_of_url(f"{self.url}/storage/blob")


@asynccontextmanager
async def open_hub() -> AsyncIterator[Hub]:
    hub = Hub()
    app = Starlette(
        routes=[Route("/org/repo/resolve/main/{file}", hub.resolve), Route("/storage/blob", hub.storage)]
    )
    async with trio.open_nursery() as nursery:
        hub.url = await nursery.start(partial(serve, app, "127.0.0.1", 0, stop=trio.sleep_forever))
        yield hub
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(origins, "LAST_PAUSE_S", 0.002)


async def test_a_file_of_the_hub_comes_with_the_hubs_digest_of_it(tmp_path: Path) -> None:
    async with open_hub() as hub:
        place = place_on_hub("org/repo", FILE, {"HF_ENDPOINT": hub.url + "/", "HF_TOKEN": "hf_x"})
        told: list[int] = []
        got = await download(place, tmp_path / "f", told=lambda done, _size: told.append(done))
        assert (tmp_path / "f").read_bytes() == DATA
        assert (got.size, got.sha256) == (len(DATA), BLOB.sha256)
        assert told == sorted(told) and told[-1] == len(DATA)
        assert hub.tokens == ["Bearer hf_x"]
        assert "secret" not in place.name and "hf_x" not in place.name


async def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    async with open_hub() as hub:
        hub.cut_at = [100_000, 1_000_000]
        await download(hub.place, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == DATA
        assert hub.ranges == ["bytes=0-", "bytes=100000-", "bytes=1100000-"]
        await download(hub.place, tmp_path / "f")
        assert hub.ranges[-1] == f"bytes={len(DATA)}-"


async def test_a_server_without_ranges_is_read_from_its_beginning(tmp_path: Path) -> None:
    async with open_hub() as hub:
        hub.serves_ranges = False
        (tmp_path / "f").write_bytes(b"something else")
        await download(hub.place, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == DATA


async def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path: Path) -> None:
    async with open_hub() as hub:
        (tmp_path / "f").write_bytes(DATA + b"more")
        await download(hub.place, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == DATA


async def test_what_passes_is_waited_for(tmp_path: Path) -> None:
    async with open_hub() as hub:
        hub.wrong = [Response(status_code=status, headers={"retry-after": "0"}) for status in (429, 500, 503)]
        await download(hub.place, tmp_path / "f")
        assert len(hub.ranges) == 4


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda: Response(status_code=403), FORBIDDEN),
        (lambda: Response(status_code=401), FORBIDDEN),
        (lambda: Response(status_code=404), NOT_FOUND),
        (lambda: Response(b"x" * 9, 206, {"content-range": "bytes 0-8/5"}), DIGEST_MISMATCH),
        (lambda: Response(b"x", 206, {"content-range": "nonsense"}), NOT_FOUND),
        (lambda: Response(b"x", 206, {"content-range": f"bytes 0-0/{1 << 60}"}), NOT_FOUND),
    ],
)
async def test_what_does_not_pass_is_said_at_once(
    tmp_path: Path, answer: Callable[[], Response], code: Code
) -> None:
    async with open_hub() as hub:
        hub.wrong = [answer()]
        with pytest.raises(TetherError) as refused:
            await download(hub.place, tmp_path / "f")
        assert refused.value.code is code
        assert len(hub.ranges) == 1


async def test_one_that_fails_for_ever_is_given_up(tmp_path: Path) -> None:
    async with open_hub() as hub:
        hub.wrong = [Response(status_code=500) for _ in range(99)]
        with pytest.raises(TetherError) as refused:
            await download(hub.place, tmp_path / "f")
        assert refused.value.code is NO_SOURCE
        assert len(hub.ranges) == origins.TRIES


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(TetherError) as refused:
        await HttpOrigin(place_of_url("http://127.0.0.1:1/x")).read(0, 1)
    assert refused.value.code is UNREACHABLE


async def test_a_range_is_exactly_that_or_an_error() -> None:
    async with open_hub() as hub:
        origin = HttpOrigin(hub.place)
        assert await origin.read(1_000, 500) == DATA[1_000:1_500]
        hub.cut_at = [10]
        with pytest.raises(TetherError) as refused:
            await origin.read(0, 500)
        assert refused.value.code is UNREACHABLE
        hub.wrong = [Response(b"x" * 501, 206, {"content-range": "bytes 0-500/1000"})]
        with pytest.raises(TetherError) as refused:
            await origin.read(0, 500)
        assert refused.value.code is DIGEST_MISMATCH
        hub.serves_ranges = False
        with pytest.raises(TetherError) as refused:
            await origin.read(0, 500)
        assert refused.value.code is NOT_FOUND
