"""One node to another on this machine, uncapped: beside nginx, curl and sha256sum."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.artifacts.made import random_file
from benchmarks.transport.contest import Contest, Figure, Goal, Run
from benchmarks.transport.npm import Missing
from benchmarks.transport.processes import Process, python

SIZE: Final = 512 << 20
FIGURES: Final = (
    Figure("rate", "file to a peer, verified and on disk", "MB/s", Goal(floor=0.3, aim=0.7)),
    Figure("rss", "memory of the node that fetches", "MB"),
)
_NGINX: Final = """
user root; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; sendfile on; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@contextmanager
def contests() -> Iterator[list[Contest]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-bench-")))
        file = random_file(folder / "served" / "file", SIZE)
        seed = stack.enter_context(python("benchmarks.artifacts.side", str(folder / "seed")))
        leecher = stack.enter_context(python("benchmarks.artifacts.side", str(folder / "leecher")))
        leecher.ask("meet", peers=[seed.hello])
        blob = seed.ask("hold", path=str(file))
        url = stack.enter_context(nginx(file.parent))
        yield [Contest(FIGURES, _ours(leecher, blob), {"nginx, curl, sha256sum": _curl(url, folder)})]


def _ours(leecher: Process, blob: Mapping[str, object]) -> Run:
    def run() -> Mapping[str, float]:
        leecher.ask("forget")
        seconds = leecher.ask("want", **blob)["seconds"]
        return {"rate": SIZE / seconds / 1e6, "rss": leecher.rss_mb()}

    return run


def _curl(url: str, folder: Path) -> Run:
    into = folder / "curled"

    def run() -> Mapping[str, float]:
        into.unlink(missing_ok=True)
        began = time.perf_counter()
        subprocess.run(["curl", "--silent", "--fail", "--output", into, url], check=True)
        subprocess.run(["sha256sum", into], check=True, stdout=subprocess.DEVNULL)
        return {"rate": SIZE / (time.perf_counter() - began) / 1e6}

    return run


@contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Serve a folder on a free port; yields the URL of its `file`. Raises Missing."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Missing("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = root / "nginx.conf"
    config.write_text(_NGINX.format(folder=root, port=port))
    server = subprocess.Popen([program, "-c", config, "-e", root / "error.log"], stderr=subprocess.DEVNULL)
    try:
        _wait_open(port)
        yield f"http://127.0.0.1:{port}/file"
    finally:
        server.terminate()
        server.wait()


def _wait_open(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
