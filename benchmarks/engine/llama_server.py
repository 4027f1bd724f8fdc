"""llama.cpp's own server as the peer: built from the vendored source, asked over HTTP, streaming."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.report import say

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".llama-server"
START_S: Final = 60.0


def build() -> Path:
    """The server's program; built if it is not there yet."""
    say("llama-server: building it, if it is not there (about 7 minutes on 2 cores)")
    script = ROOT / "benchmarks" / "engine" / "build_peer.sh"
    done = subprocess.run(
        ["bash", str(script), sys.executable, str(FOLDER)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


class Server:
    def __init__(self, port: int, process_id: int) -> None:
        self._port = port
        self.process_id = process_id

    def generate(self, prompts: list[list[int]], max_tokens: int) -> float:
        """Ask them all at once, read every stream to its end. Returns tokens a second, time for prompts included."""
        counts = [0] * len(prompts)

        def one(index: int) -> None:
            counts[index] = self._stream(prompts[index], max_tokens)

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(prompts))]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - began
        return sum(counts) / elapsed

    def _stream(self, prompt: list[int], max_tokens: int) -> int:
        """Read an answer to its end. Returns how many tokens the server says that it had: an event may hold several."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        event: dict[str, Any] = {}
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
        connection.close()
        return int(event["tokens_predicted"])


@contextmanager
def serving(program: Path, model: Path, *, slots: int, context_tokens: int, threads: int) -> Iterator[Server]:
    """Run it until the context ends, with the settings of our engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(program), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-np", str(slots)]
    command += ["-c", str(slots * context_tokens), "-t", str(threads), "-tb", str(threads), "-fa", "on"]
    command += ["-b", "512", "-ub", "512", "--cache-ram", "0", "-ctxcp", "0", "--no-webui", "--log-disable"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, process)
        yield Server(port, process.pid)
    finally:
        process.kill()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.1)
    raise RuntimeError("llama-server did not start")
