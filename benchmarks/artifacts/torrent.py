"""What aria2 needs to be a swarm on one machine: a torrent file, and a tracker."""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from benchmarks.artifacts.lines import Place

PIECE_BYTES: Final = 1 << 20
"""As our chunks are."""
PORT: Final = 6_881
_HOOK: Final = '#!/bin/sh\ntouch "$(dirname "$3")/../$(basename "$(dirname "$3")").done"\n'


def torrent(file: Path, tracker: str, into: Path) -> Path:
    """Describe a file (BEP 3)."""
    pieces = b""
    with file.open("rb") as content:
        while data := content.read(PIECE_BYTES):
            pieces += hashlib.sha1(data, usedforsecurity=False).digest()
    info = {"length": file.stat().st_size, "name": file.name, "piece length": PIECE_BYTES, "pieces": pieces}
    into.write_bytes(bencode({"announce": tracker, "info": info}))
    return into


def bencode(value: Any) -> bytes:
    match value:
        case int():
            return b"i%de" % value
        case str():
            return bencode(value.encode())
        case bytes():
            return b"%d:" % len(value) + value
        case list():
            return b"l" + b"".join(map(bencode, value)) + b"e"
        case dict():
            return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"
    raise TypeError(type(value).__name__)


class Tracker:
    """Tells everybody of everybody, at once and again each second."""

    def __init__(self, listener: socket.socket) -> None:
        self._peers: list[tuple[str, int]] = []
        self._news = threading.Condition()
        tracker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query, encoding="latin-1")
                body = tracker.answer((self.client_address[0], int(asked["port"][0])))
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        address, port = listener.getsockname()
        self._server = ThreadingHTTPServer((address, port), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self.url = f"http://{address}:{port}/announce"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, peer: tuple[str, int]) -> bytes:
        with self._news:
            others = [other for other in self._peers if other != peer]
            if peer not in self._peers:
                self._peers.append(peer)
                self._news.notify_all()
        peers = b"".join(socket.inet_aton(host) + struct.pack(">H", port) for host, port in others)
        return bencode({"interval": 1, "min interval": 1, "peers": peers})

    def wait_for(self, count: int) -> None:
        with self._news:
            self._news.wait_for(lambda: len(self._peers) >= count, 30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def aria2(description: Path, folder: Path, place: Place, *, seed: bool) -> Iterator[None]:
    """A client that goes on seeding until the context ends; `FOLDER.done` appears once it has the file."""
    folder.mkdir(exist_ok=True)
    hook = description.with_name("done.sh")
    if not hook.exists():
        hook.write_text(_HOOK)
        hook.chmod(0o755)
    if place.command:
        port, limit = PORT, []
    else:
        with socket.create_server((place.address, 0)) as probe:
            port = probe.getsockname()[1]
        limit = [f"--max-overall-upload-limit={int(place.up_bytes_per_s or 0)}"]
    client = subprocess.Popen(
        [
            *place.command,
            "aria2c",
            f"--dir={folder}",
            f"--listen-port={port}",
            *limit,
            f"--on-bt-download-complete={hook}",
            "--seed-ratio=0.0",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=true",
            f"--interface={place.address}",
            "--bt-tracker-interval=1",
            "--file-allocation=none",
            "--quiet=true",
            *(["--check-integrity=true"] if seed else []),
            description,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        client.kill()
        client.wait()


def wait_done(folders: Sequence[Path], *, timeout_s: float) -> float:
    """Seconds until all of them have the file."""
    began = time.perf_counter()
    while not all(folder.with_name(f"{folder.name}.done").exists() for folder in folders):
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError(f"aria2 took over {timeout_s:.0f} s")
        time.sleep(0.05)
    return time.perf_counter() - began
