"""LiteLLM's proxy: installed into a venv of its own in the user's cache, started with one worker and no database.

It has what ours has of keys and rates, in its lightest form: a custom auth function that knows one key (virtual keys
would need PostgreSQL and a row read for each), and that key's limits of requests and tokens a minute, held in memory.
Spend is written nowhere.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from platformdirs import user_cache_path

from benchmarks.report import say

VERSION: Final = "1.106.2"
KEY: Final = "sk-of-the-benchmark"
INSTALL_S: Final = 900.0
START_S: Final = 120.0
POLL_S: Final = 0.25
_AUTH: Final = f"""
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

async def the_key(request, api_key):
    if api_key != "{KEY}":
        raise ProxyException(message="no such key", type="auth_error", param="key", code=401)
    return UserAPIKeyAuth(api_key=api_key, rpm_limit=10_000_000, tpm_limit=10_000_000_000)
"""


class Missing(RuntimeError):
    """LiteLLM cannot be had here; the message says why."""


def install() -> Path:
    """The Python that has LiteLLM. Only the first call needs the registry. Raises Missing."""
    home = user_cache_path("tether") / "litellm" / VERSION
    python, whole = home / "bin" / "python", home / "whole"
    if whole.exists():
        return python
    say(f"installing LiteLLM {VERSION} into {home}")
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", f"litellm[proxy]=={VERSION}"],
    )
    for command in steps:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Missing(f"{command[2]} was not done after {INSTALL_S:.0f} s") from error
        if done.returncode:
            raise Missing(f"LiteLLM was not installed: {done.stderr.strip()[-300:]}")
    whole.touch()
    return python


@contextmanager
def litellm_proxy(model: str, upstream: str) -> Iterator[str]:
    """Its base URL, once it answers; upstream: the base URL of what it stands before, with /v1. Raises Missing."""
    python = install()
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="tether-litellm-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(_config(model, upstream)))  # YAML reads JSON
        (Path(folder) / "custom_auth.py").write_text(_AUTH)
        serve = "from litellm import run_server; run_server()"
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [python, "-c", serve, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            )
            try:
                url = f"http://127.0.0.1:{port}"
                _wait(process, url, Path(folder) / "log")
                yield url
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _config(model: str, upstream: str) -> dict[str, object]:
    reached = {"model": f"openai/{model}", "api_base": upstream, "api_key": "none"}
    return {
        "model_list": [{"model_name": model, "litellm_params": reached}],
        "general_settings": {
            "custom_auth": "custom_auth.the_key",
            "master_key": f"sk-{secrets.token_hex(32)}",  # it does not start without one
        },
        "litellm_settings": {"telemetry": False},
    }


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5) as answer:
                answer.read()
                return
        except OSError:
            time.sleep(POLL_S)
    raise Missing(f"LiteLLM's proxy did not start: {log.read_text('utf-8', 'replace')[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
