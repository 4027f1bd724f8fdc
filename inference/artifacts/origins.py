"""Places outside the swarm that have a file: HTTP servers, Hugging Face's hub, S3 buckets by presigned URLs.

Two uses: `HttpOrigin` is one source among others for a file whose chunks are signed already, and `download` fetches a
file of which nothing is known but where it is. Both ask for ranges and go on where they broke off.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import structlog
import trio

from inference.artifacts.chunks import MAX_FILE_BYTES
from p2p.errors import (
    DIGEST_MISMATCH,
    FORBIDDEN,
    MODEL_INVALID,
    NO_SOURCE,
    NOT_FOUND,
    UNREACHABLE,
    USAGE,
    TetherError,
)

HUB: Final = "https://huggingface.co"
TRIES: Final = 6
"""In a row without a byte; then the origin is given up."""
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
MAX_REDIRECTS: Final = 5
READ_BYTES: Final = 1 << 20
SIGNED_FOR: Final = timedelta(minutes=15)
"""Each request of a bucket has a signature of its own; the answer may take longer."""
TIMEOUTS: Final = httpx2.Timeout(10.0, read=30.0)

_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SHA256: Final = re.compile(r'"?([0-9a-f]{64})"?')
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """A URL and what has to be said to read it. name: for people, without secrets.

    sign: makes a URL that is good for a while, for each request anew; it may wait, so it is called in a thread.
    """

    url: str
    name: str
    headers: Mapping[str, str]
    sign: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Downloaded:
    """sha256: what the place says that the file is, hex; "" if it says nothing."""

    size: int
    sha256: str


def place_of_url(url: str) -> Place:
    parts = urlsplit(url)
    return Place(url, f"{parts.scheme}://{parts.hostname}{parts.path}", {})


def place_on_hub(repo: str, file: str, environ: Mapping[str, str] = os.environ) -> Place:
    """A file of a repository on Hugging Face's hub, or on the one that HF_ENDPOINT names; HF_TOKEN opens gated ones."""
    endpoint = environ.get("HF_ENDPOINT", HUB).rstrip("/")
    token = environ.get("HF_TOKEN")
    url = f"{endpoint}/{quote(repo)}/resolve/main/{quote(file)}"
    return Place(url, f"hf:{repo}/{file}", {"authorization": f"Bearer {token}"} if token else {})


def place_in_bucket(url: str, environ: Mapping[str, str] = os.environ) -> Place:
    """s3://bucket/key, with what AWS's own variables say of endpoint, region and keys. Raises TetherError."""
    store, key = open_bucket(url, environ)
    import obstore

    return Place(url, url, {}, partial(_signed, obstore.sign, store, key))


def open_bucket(url: str, environ: Mapping[str, str]) -> tuple[Any, str]:
    """An S3Store of obstore's, and the key in it. Raises TetherError(USAGE | MODEL_INVALID)."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise TetherError(USAGE, "s3:// needs an extra: pip install 'tether[s3]'.", field="source") from error
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise TetherError(MODEL_INVALID, f"{url!r} has to be s3://bucket/key.", field="source")
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    said = {
        "endpoint": endpoint,
        "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "access_key_id": environ.get("AWS_ACCESS_KEY_ID"),
        "secret_access_key": environ.get("AWS_SECRET_ACCESS_KEY"),
        "token": environ.get("AWS_SESSION_TOKEN"),
    }
    config: Any = {name: value for name, value in said.items() if value}
    config["skip_signature"] = "access_key_id" not in config
    config["client_options"] = {"allow_http": bool(endpoint and endpoint.startswith("http:"))}
    return S3Store(bucket, **config), key


def _signed(sign: Callable[..., str], store: object, key: str) -> str:
    return sign(store, "GET", key, SIGNED_FOR)


class HttpOrigin:
    """Implements `fetching.Origin` over ranges."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def name(self) -> str:
        return self._place.name

    async def read(self, offset: int, length: int) -> bytes:
        """Raises TetherError: FORBIDDEN and NOT_FOUND are for good, UNREACHABLE may pass."""
        buffer = bytearray()
        async with _open(self._place, offset, offset + length - 1) as answer:
            if answer.status_code != 206:
                raise TetherError(NOT_FOUND, f"{self.name} serves no ranges.")
            async for data in answer.aiter_raw(READ_BYTES):
                buffer += data
                if len(buffer) > length:
                    raise TetherError(DIGEST_MISMATCH, f"{self.name} sends more than was asked for.")
        if len(buffer) != length:
            raise TetherError(UNREACHABLE, f"{self.name} broke off.")
        return bytes(buffer)


async def download(
    place: Place, into: Path, *, told: Callable[[int, int], None] = lambda _done, _size: None
) -> Downloaded:
    """Fetch a whole file, going on with what is there of it. told: bytes that are there, and in all.

    Raises TetherError(FORBIDDEN | NOT_FOUND | NO_SOURCE); what has come stays.
    """
    pause_s, failures = FIRST_PAUSE_S, 0
    while True:
        before = _size(into)
        try:
            return await _go_on(place, into, told)
        except TetherError as error:
            if error.code is not UNREACHABLE:
                raise
            failures = 0 if _size(into) > before else failures + 1
            if failures >= TRIES:
                raise TetherError(NO_SOURCE, f"{place.name} failed {TRIES} times: {error.detail}") from error
            pause_s = FIRST_PAUSE_S if failures == 0 else min(2 * pause_s, LAST_PAUSE_S)
            wait_s = min(error.retry_after_s or pause_s, LAST_PAUSE_S)
            _log.info("download_pauses", origin=place.name, cause=error.detail[:200], wait_s=wait_s)
        await trio.sleep(wait_s)


async def _go_on(place: Place, into: Path, told: Callable[[int, int], None]) -> Downloaded:
    done = _size(into)
    async with _open(place, done, None) as answer:
        sha256 = _linked_sha256(answer)
        if answer.status_code == 416 and (whole := _told_size(answer)) == done:
            return Downloaded(whole, sha256)
        if answer.status_code == 416:
            await trio.to_thread.run_sync(_cut, into, 0)
            raise TetherError(UNREACHABLE, f"{place.name} is another file than before.")
        if answer.status_code == 200:
            done = 0
        size = (
            _told_size(answer) if answer.status_code == 206 else int(answer.headers.get("content-length", -1))
        )
        if not 0 < size <= MAX_FILE_BYTES:
            raise TetherError(
                NOT_FOUND, f"{place.name} does not say how long the file is, or it is too long."
            )
        await trio.to_thread.run_sync(_cut, into, done)
        with into.open("ab") as file:
            async for data in answer.aiter_raw(READ_BYTES):
                done += len(data)
                if done > size:
                    raise TetherError(DIGEST_MISMATCH, f"{place.name} sends more than it said.")
                await trio.to_thread.run_sync(file.write, data)
                told(done, size)
    if done < size:
        raise TetherError(UNREACHABLE, f"{place.name} broke off after {done} of {size} bytes.")
    return Downloaded(size, sha256)


@asynccontextmanager
async def _open(place: Place, first: int, last: int | None) -> AsyncIterator[httpx2.Response]:
    """Ask for a range, following redirects (never from https to http). Raises TetherError."""
    wanted = {"range": f"bytes={first}-{'' if last is None else last}", "accept-encoding": "identity"}
    try:
        async with httpx2.AsyncClient(
            follow_redirects=True, max_redirects=MAX_REDIRECTS, timeout=TIMEOUTS, trust_env=False
        ) as client:
            headers = {**place.headers, **wanted}
            url = await trio.to_thread.run_sync(place.sign) if place.sign else place.url
            async with client.stream("GET", url, headers=headers) as answer:
                _check(place, answer)
                yield answer
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise TetherError(UNREACHABLE, f"{place.name}: {type(error).__name__}.") from error


def _check(place: Place, answer: httpx2.Response) -> None:
    if place.url.startswith("https:") and answer.url.scheme != "https":
        raise TetherError(FORBIDDEN, f"{place.name} leads to a place that is not encrypted.")
    match answer.status_code:
        case 200 | 206 | 416:
            return
        case 401 | 403:
            hint = " Set HF_TOKEN, and accept the model's licence on the hub." if "hf:" in place.name else ""
            raise TetherError(FORBIDDEN, f"{place.name} refuses ({answer.status_code}).{hint}")
        case 404 | 410:
            raise TetherError(NOT_FOUND, f"There is no {place.name}.")
        case status:
            raise TetherError(
                UNREACHABLE, f"{place.name} answers {status}.", retry_after_s=_retry_after(answer)
            )


def _retry_after(answer: httpx2.Response) -> float | None:
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdecimal() and len(said) < 6 else None


def _told_size(answer: httpx2.Response) -> int:
    """Of the whole file, from a range's answer; -1 if it is not said."""
    said = answer.headers.get("content-range", "")
    if match := _RANGE.fullmatch(said):
        return int(match[3])
    star = re.fullmatch(r"bytes \*/(\d+)", said)
    return int(star[1]) if star else -1


def _linked_sha256(answer: httpx2.Response) -> str:
    """The hub's word for a large file: its SHA-256, said before it redirects to where the bytes are."""
    for one in (*answer.history, answer):
        if match := _SHA256.fullmatch(one.headers.get("x-linked-etag", "")):
            return match[1]
    return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)
