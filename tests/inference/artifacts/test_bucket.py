"""A bucket as moto's S3 server has it: presigned, in ranges, refused without the right keys."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from inference.artifacts import origins
from inference.artifacts.origins import HttpOrigin, download, place_in_bucket
from p2p.errors import MODEL_INVALID, NOT_FOUND, TetherError
from tests.inference.artifacts.made import made

DATA, BLOB = made(2_500_001)
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """A server with s3://models/tiny.gguf; yields what the environment says of it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        environ = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        _wait_open(port)
        _fill(environ)
        yield environ
    finally:
        server.kill()
        server.wait()


def _wait_open(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _fill(environ: dict[str, str]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 30, "mode": "standard"}, connect_timeout=1),
    )
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="tiny.gguf", Body=DATA)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(origins, "LAST_PAUSE_S", 0.002)


async def test_a_file_of_a_bucket_is_downloaded_and_gone_on_with(
    bucket: dict[str, str], tmp_path: Path
) -> None:
    place = place_in_bucket("s3://models/tiny.gguf", bucket)
    (tmp_path / "f").write_bytes(DATA[:1_000_000])
    await download(place, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA
    assert place.sign is not None and "secret" not in place.sign() and place.name == "s3://models/tiny.gguf"


async def test_it_is_a_source_of_ranges(bucket: dict[str, str]) -> None:
    origin = HttpOrigin(place_in_bucket("s3://models/tiny.gguf", bucket))
    assert await origin.read(1_000, 500) == DATA[1_000:1_500]


async def test_what_is_not_there_is_said(bucket: dict[str, str], tmp_path: Path) -> None:
    for url in ("s3://models/other.gguf", "s3://nowhere/tiny.gguf"):
        with pytest.raises(TetherError) as refused:
            await download(place_in_bucket(url, bucket), tmp_path / "f")
        assert refused.value.code is NOT_FOUND


@pytest.mark.parametrize("url", ["s3://", "s3://models", "s3://models/"])
def test_a_malformed_place_is_refused(url: str) -> None:
    with pytest.raises(TetherError) as refused:
        place_in_bucket(url, os.environ)
    assert refused.value.code is MODEL_INVALID
