"""Usage on the admin socket of a node that keeps a ledger."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.routing import Mount, Route

from p2p.errors import FIELD_INVALID, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from tetherd.admin import Json, answered
from tetherd.store.protocol import UsageRow
from tetherd.usage.proof import Proofs, proof_of, signers
from tetherd.usage.report import Report

MAX_PROOFS: Final = 50_000
"""Jobs in one answer, some 50 MB."""


class Books(Protocol):
    """An orchestrator, as far as usage goes."""

    def usage(self, since: float, until: float) -> AsyncIterator[UsageRow]: ...

    def credentials(self, peers: Iterable[PeerId]) -> dict[PeerId, bytes]: ...


def usage_routes(books: Books, swarm_id: SwarmId) -> Mount:
    async def report(request: Request) -> Json:
        by = request.query_params.get("by", "tenant,model,day").split(",")
        found = Report([name for name in by if name])
        async for row in books.usage(*_span(request)):
            found.add(row)
        return found.shape()

    async def receipts(request: Request) -> Json:
        rows: list[UsageRow] = []
        async for row in books.usage(*_span(request)):
            rows.append(row)
            if len(rows) > MAX_PROOFS:
                detail = f"There are more than {MAX_PROOFS} jobs: choose a shorter time."
                raise TetherError(FIELD_INVALID, detail, field="since")
        known = {
            str(peer): b64encode(credential).decode()
            for peer, credential in books.credentials(signers(rows)).items()
        }
        shape: Json = msgspec.to_builtins(Proofs(swarm_id, known, tuple(map(proof_of, rows))))
        return shape

    return Mount(
        "/usage",
        routes=[Route("/", answered(report)), Route("/receipts", answered(receipts))],
    )


def _span(request: Request) -> tuple[float, float]:
    """since, until: unix seconds. Raises TetherError(FIELD_INVALID)."""
    return _seconds(request, "since", "0"), _seconds(request, "until", "1e11")


def _seconds(request: Request, name: str, default: str) -> float:
    text = request.query_params.get(name, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e11:
        raise TetherError(FIELD_INVALID, f"{name} has to be in unix seconds.", field=name)
    return value
