"""The admin API: what tetherctl asks a daemon, as JSON over HTTP on a Unix socket that only its owner can open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from p2p.errors import FIELD_INVALID, JSON_INVALID, TetherError
from p2p.messages import ROLES, Role

_Order = TypeVar("_Order", bound=msgspec.Struct)
Json = dict[str, Any] | list[dict[str, Any]]
MAX_BODY_BYTES: Final = 65_536
DEFAULT_TTL_S: Final = 86_400.0


class InviteOrder(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """roles empty: a plain ticket; regions empty: any region; ttl_s: seconds."""

    roles: tuple[Role, ...] = ()
    regions: tuple[str, ...] = ()
    ttl_s: float = DEFAULT_TTL_S
    uses: int = 1


class Operator(Protocol):
    """What the daemon lets an operator see and do. The shapes are those of docs/operations.md."""

    def status(self) -> dict[str, Any]: ...

    def nodes(self) -> list[dict[str, Any]]: ...

    def models(self) -> list[dict[str, Any]]: ...

    async def jobs(self, limit: int) -> list[dict[str, Any]]: ...

    async def why(self, prefix: str) -> dict[str, Any]: ...

    def invite(self, order: InviteOrder) -> dict[str, Any]: ...

    def drain(self) -> dict[str, Any]: ...


def build_admin(operator: Operator, more: Sequence[BaseRoute] = ()) -> Starlette:
    """The routes, and those of other parts; every failure is answered as {"error": {code, message, field}}."""

    async def status(_request: Request) -> Json:
        return operator.status()

    async def nodes(_request: Request) -> Json:
        return operator.nodes()

    async def models(_request: Request) -> Json:
        return operator.models()

    async def jobs(request: Request) -> Json:
        limit = request.query_params.get("limit", "50")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            raise TetherError(FIELD_INVALID, "limit has to be between 1 and 1000.", field="limit")
        return await operator.jobs(int(limit))

    async def why(request: Request) -> Json:
        return await operator.why(request.path_params["job"])

    async def invite(request: Request) -> Json:
        return operator.invite(await read(request, InviteOrder))

    async def drain(_request: Request) -> Json:
        return operator.drain()

    return Starlette(
        routes=[
            Route("/status", answered(status)),
            Route("/nodes", answered(nodes)),
            Route("/models", answered(models)),
            Route("/jobs", answered(jobs)),
            Route("/jobs/{job}", answered(why)),
            Route("/invite", answered(invite), methods=["POST"]),
            Route("/drain", answered(drain), methods=["POST"]),
            *more,
        ]
    )


def answered(
    handler: Callable[[Request], Awaitable[Json | Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """What a handler returns as JSON, unless it is a response already; what it raises as an error's JSON."""

    async def answer(request: Request) -> Response:
        try:
            told = await handler(request)
            if isinstance(told, Response):
                return told
            body, status = msgspec.json.encode(told), 200
        except TetherError as error:
            failure = {"code": error.code.name, "message": error.message, "field": error.field}
            body, status = msgspec.json.encode({"error": failure}), error.code.status
        return Response(body, status, media_type="application/json")

    return answer


async def read(request: Request, kind: type[_Order]) -> _Order:
    """The order in a body. Raises TetherError(JSON_INVALID | FIELD_INVALID) naming the field."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise TetherError(JSON_INVALID, "The order is too long.")
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except msgspec.ValidationError as error:
        detail = f"{error}; roles are {', '.join(ROLES)}." if "roles" in str(error) else f"{error}."
        raise TetherError(FIELD_INVALID, detail, field=_field(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TetherError(JSON_INVALID, "The order is not JSON.") from error


def _field(error: msgspec.ValidationError) -> str | None:
    _, found, where = str(error).partition(" - at `$.")
    return where.strip("`").partition("[")[0] if found else None
