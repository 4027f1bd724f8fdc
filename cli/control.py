"""The client of a daemon's admin socket and of its shim: the standard library alone, for a quick start."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from p2p.errors import CATALOGUE, INTERNAL, NOT_RUNNING, USAGE, TetherError

TIMEOUT_S: Final = 10.0


class Control:
    """Asks the daemon of a data directory, or the one at a URL with a key that names an operator.

    Raises TetherError: the daemon's own, or NOT_RUNNING.
    """

    def __init__(self, data_dir: Path, url: str = "", key: str = "") -> None:
        self._data_dir = data_dir
        self._url = url.rstrip("/")
        self._key = key

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, body or {})

    def follow(self, path: str) -> Iterator[Any]:
        """What the daemon tells line by line, until it has no more to tell."""
        with self._open("GET", path, None) as response:
            if response.status >= 400:
                raise error_in(json.loads(response.read()))
            for line in response:
                yield json.loads(line)

    def shim(self) -> str:
        """The base URL of the daemon's REST shim, as it wrote it to http.addr."""
        if self._url:
            raise TetherError(
                USAGE, "This asks the shim of the daemon on this machine: leave out --url.", field="url"
            )
        try:
            return (self._data_dir / "http.addr").read_text("utf-8").strip()
        except OSError as error:
            raise self._not_running() from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        with self._open(method, path, body) as response:
            answer = json.loads(response.read())
        if response.status >= 400:
            raise error_in(answer)
        return answer

    @contextmanager
    def _open(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection, path, headers = self._connection(path)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._not_running() from error
        finally:
            connection.close()

    def _connection(self, path: str) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
        """Raises TetherError(USAGE)."""
        headers = {"content-type": "application/json"}
        if not self._url:
            return _UnixConnection(self._data_dir / "control.sock"), path, headers
        parts = urlsplit(self._url)
        here = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and here):
            detail = f"{self._url} has to be an https:// address: the key would travel in clear."
            raise TetherError(USAGE, detail, field="url")
        if not self._key:
            raise TetherError(USAGE, "Set TETHERCTL_KEY to the API key of an operator.", field="url")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        headers["authorization"] = f"Bearer {self._key}"
        return kind(parts.netloc, timeout=TIMEOUT_S), f"/admin{path}", headers

    def _not_running(self) -> TetherError:
        return TetherError(NOT_RUNNING, f"No daemon answers on {self._url or self._data_dir}.")


@contextmanager
def post_stream(base: str, path: str, body: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
    """POST to the shim and yield the data of its server-sent events, up to [DONE]. Raises TetherError."""
    host = base.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status >= 400:
            raise error_in(json.loads(response.read()))
        yield _events(response)
    except (OSError, http.client.HTTPException) as error:
        raise TetherError(NOT_RUNNING, f"The shim at {base} does not answer.") from error
    finally:
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: "):
            data = line[len(b"data: ") :].strip()
            if data == b"[DONE]":
                return
            event: dict[str, Any] = json.loads(data)
            if "error" in event:
                raise error_in(event)
            yield event


def error_in(answer: dict[str, Any]) -> TetherError:
    """The daemon's own error, as the answer holds it."""
    error = answer.get("error", {})
    code = CATALOGUE.get(str(error.get("code")), INTERNAL)
    message = str(error.get("message", "The daemon answered with an error."))
    return TetherError(
        code, message.removesuffix(code.advice).rstrip(), field=error.get("field") or error.get("param")
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))
