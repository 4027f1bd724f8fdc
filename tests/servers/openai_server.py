"""A real OpenAI-compatible server that others wrote: llama-cpp-python's own, with the built-in model, on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from inference.demo import MODEL_PATH

NAME = "Org/Demo-1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def llama_cpp_server(port: int | None = None, *, embeds: Path | None = None) -> Iterator[str]:
    """Its URL with /v1; it is there while this lasts. embeds: the file of a model that makes vectors."""
    at = port or free_port()
    where = ["--host", "127.0.0.1", "--port", str(at)]
    model = [
        "--model",
        str(embeds or MODEL_PATH),
        "--embedding",
        str(embeds is not None),
        "--model_alias",
        NAME,
        "--n_ctx",
        "512",
        "--n_threads",
        "1",
    ]
    command = [sys.executable, "-m", "llama_cpp.server", *where, *model, "--interrupt_requests", "false"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(f"http://127.0.0.1:{at}/v1/models"):
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{at}/v1"
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False
