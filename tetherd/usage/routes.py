"""Usage on the admin socket of a node that keeps a ledger."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from p2p.errors import CONFIG_INVALID, FIELD_INVALID, NOT_FOUND, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from tetherd.admin import Json, answered
from tetherd.store.outbox import Outbox
from tetherd.store.protocol import UsageRow
from tetherd.usage.proof import Proofs, proof_of, signers
from tetherd.usage.report import Report
from tetherd.usage.rows import row_shape

MAX_PROOFS: Final = 50_000
"""Jobs in one answer, some 50 MB."""


NEEDS_SHARED: Final = (
    "Exporting usage for billing needs one ledger that all orchestrators share: start them with "
    "--store postgresql://…."
)


class Books(Protocol):
    """An orchestrator, as far as usage goes."""

    def ledger(self) -> dict[str, Any]: ...

    def usage(self, since: float, until: float) -> AsyncIterator[UsageRow]: ...

    def credentials(self, peers: Iterable[PeerId]) -> dict[PeerId, bytes]: ...


def usage_routes(
    books: Books, swarm_id: SwarmId, outbox: Outbox | None = None, now: Callable[[], float] = time.time
) -> Mount:
    """outbox: of the usage webhook, if there is one; now: ledger seconds."""

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

    async def rows(request: Request) -> Response:
        """Line by line; the last one says that there are no more, or what went wrong."""
        if not books.ledger()["shared"]:
            raise TetherError(CONFIG_INVALID, NEEDS_SHARED, field="store")
        return StreamingResponse(_lines(books, *_span(request)), media_type="application/x-ndjson")

    async def webhook(_request: Request) -> Json:
        backlog = await _opened(outbox).backlog()
        since = backlog.oldest if backlog.waiting else None
        return {"waiting": backlog.waiting, "dead": backlog.dead, "oldest": since, "cause": backlog.cause}

    async def retry(_request: Request) -> Json:
        return {"retried": await _opened(outbox).revive(now())}

    return Mount(
        "/usage",
        routes=[
            Route("/", answered(report)),
            Route("/receipts", answered(receipts)),
            Route("/rows", answered(rows)),
            Route("/webhook", answered(webhook), methods=["GET"]),
            Route("/webhook", answered(retry), methods=["POST"]),
        ],
    )


def _opened(outbox: Outbox | None) -> Outbox:
    if outbox is None:
        detail = "This orchestrator has no usage webhook: start it with --usage-webhook URL."
        raise TetherError(NOT_FOUND, detail, field="webhook")
    return outbox


async def _lines(books: Books, since: float, until: float) -> AsyncIterator[bytes]:
    count = 0
    try:
        async for row in books.usage(since, until):
            yield json.dumps(row_shape(row)).encode() + b"\n"
            count += 1
    except TetherError as error:
        yield json.dumps({"error": {"code": error.code.name, "message": error.message}}).encode() + b"\n"
    else:
        yield json.dumps({"end": count}).encode() + b"\n"


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
