"""Dead letters on the admin socket."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.routing import Route

from p2p.errors import FIELD_INVALID, TetherError
from tetherd.admin import Json, answered
from tetherd.dead_letters.office import Office, Retry

MAX_LISTED = 1_000


def letter_routes(office: Office, retry: Retry) -> list[Route]:
    """retry: asks a gateway."""

    async def letters(request: Request) -> Json:
        limit = request.query_params.get("limit", "50")
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LISTED:
            raise TetherError(FIELD_INVALID, f"limit has to be between 1 and {MAX_LISTED}.", field="limit")
        return await office.letters(int(limit))

    async def show(request: Request) -> Json:
        return await office.show(_job(request))

    async def again(request: Request) -> Json:
        return await office.retry(_job(request), retry)

    async def drop(request: Request) -> Json:
        return await office.drop(_job(request))

    return [
        Route("/dlq", answered(letters)),
        Route("/dlq/{job}", answered(show)),
        Route("/dlq/{job}/retry", answered(again), methods=["POST"]),
        Route("/dlq/{job}/drop", answered(drop), methods=["POST"]),
    ]


def _job(request: Request) -> str:
    job = str(request.path_params["job"])
    if not re.fullmatch(r"[0-9a-f]{4,64}", job):
        raise TetherError(FIELD_INVALID, "A job id is 4 to 64 hexadecimal digits.", field="job")
    return job
