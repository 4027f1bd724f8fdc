"""The shim in this process, over a scripted gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.tetherd.http.scripted import LIMIT, ScriptedInference
from tetherd.http.app import HttpSettings, build_app


@pytest.fixture
def inference() -> ScriptedInference:
    return ScriptedInference()


@pytest.fixture
async def client(inference: ScriptedInference) -> AsyncIterator[httpx2.AsyncClient]:
    app = build_app(inference, HttpSettings(LIMIT), lambda: b"tether_up 1\n")
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:7575") as client:
        yield client
