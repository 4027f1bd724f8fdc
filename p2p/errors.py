"""Every failure that can cross a wire, in one catalogue.

Two families: a bug of ours is an ordinary exception and crashes its task loudly; a fault of a peer, a client or
the world is a `TetherError`, which is answered with its code and leaves everything else running.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from p2p.rates import Rates


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of failure: its HTTP status, whether another try may succeed, and what a person does next."""

    name: str
    status: int
    retryable: bool
    advice: str


def _catalogue(*codes: Code) -> dict[str, Code]:
    return {code.name: code for code in codes}


# The request: the client's fault, said with the field that is wrong.
FIELD_REQUIRED: Final = Code("FIELD_REQUIRED", 400, False, "Add the field and send the request again.")
FIELD_INVALID: Final = Code("FIELD_INVALID", 400, False, "Correct the field and send the request again.")
OUT_OF_RANGE: Final = Code("OUT_OF_RANGE", 400, False, "Choose a value inside the range.")
JSON_INVALID: Final = Code("JSON_INVALID", 400, False, "Send one well-formed JSON object in UTF-8.")
MODEL_NOT_FOUND: Final = Code(
    "MODEL_NOT_FOUND", 404, False, "Ask for one of the models listed, or serve it with --model."
)
NOT_FOUND: Final = Code("NOT_FOUND", 404, False, "See /openapi.json for the paths there are.")
METHOD_NOT_ALLOWED: Final = Code(
    "METHOD_NOT_ALLOWED", 405, False, "See /openapi.json for the method of this path."
)
BODY_TOO_LARGE: Final = Code(
    "BODY_TOO_LARGE", 413, False, "Send a shorter prompt, or raise http.max_body_bytes."
)
CONTENT_TYPE: Final = Code("CONTENT_TYPE", 415, False, "Send the body with content-type: application/json.")
CONTEXT_EXCEEDED: Final = Code("CONTEXT_EXCEEDED", 400, False, "Shorten the prompt or lower max_tokens.")
UNAUTHENTICATED: Final = Code(
    "UNAUTHENTICATED", 401, False, "Send `Authorization: Bearer` with a key of `tetherctl keys create`."
)
TENANT_FORBIDDEN: Final = Code(
    "TENANT_FORBIDDEN", 403, False, "Ask whoever runs this swarm what your tenant and key may do."
)
HOST_FORBIDDEN: Final = Code(
    "HOST_FORBIDDEN", 403, False, "Call the shim by its own address, or name the host in http.allowed_hosts."
)
ORIGIN_FORBIDDEN: Final = Code(
    "ORIGIN_FORBIDDEN", 403, False, "Name the page's origin in http.allowed_origins."
)
RETRY_TOKEN_CONFLICT: Final = Code(
    "RETRY_TOKEN_CONFLICT", 409, False, "Use a new Idempotency-Key for another request."
)
IN_FLIGHT: Final = Code("IN_FLIGHT", 409, True, "The same Idempotency-Key is being answered: wait for it.")
RESULT_GONE: Final = Code(
    "RESULT_GONE", 409, False, "The answer was given before and is no longer kept here."
)
CANCELLED: Final = Code("CANCELLED", 499, False, "The caller went away.")
REQUEST_TOO_SLOW: Final = Code("REQUEST_TOO_SLOW", 408, True, "Send the whole body without a pause.")

# The swarm: who may, and who can.
NO_ORCHESTRATOR: Final = Code(
    "NO_ORCHESTRATOR", 503, True, "Start a node with the orchestrator role in this region."
)
NO_WORKER: Final = Code("NO_WORKER", 503, True, "Start a worker that serves this model in this region.")
RATE_LIMITED: Final = Code(
    "RATE_LIMITED", 429, True, "Wait as long as retry-after says, and send fewer requests or shorter ones."
)
QUOTA_EXCEEDED: Final = Code(
    "QUOTA_EXCEEDED", 429, False, "Ask whoever runs this swarm for more: `tetherctl tenants limits`."
)
CAPACITY: Final = Code("CAPACITY", 503, True, "Every worker is busy: wait, or add one.")
DRAINING: Final = Code("DRAINING", 503, True, "This node is shutting down: ask another one.")
WORKER_LOST: Final = Code("WORKER_LOST", 502, True, "The worker went away and no attempt is left: try again.")
ENGINE_FAILED: Final = Code("ENGINE_FAILED", 502, True, "The engine failed and restarts: try again.")
INPUT_QUARANTINED: Final = Code(
    "INPUT_QUARANTINED", 422, False, "Change the request: engines died of this one again and again."
)
INPUT_UNAVAILABLE: Final = Code(
    "INPUT_UNAVAILABLE",
    410,
    False,
    "Send the request again: the gateway that had its input is gone, or forgot it.",
)
DEADLINE: Final = Code("DEADLINE", 504, True, "The deadline passed: try again or allow more time.")
GRANT_INVALID: Final = Code("GRANT_INVALID", 403, True, "Ask the orchestrator for a new grant.")
ATTEMPT_STALE: Final = Code("ATTEMPT_STALE", 409, False, "A later attempt of this job is under way.")
FORBIDDEN: Final = Code("FORBIDDEN", 403, False, "This node's certificate does not allow that.")
LEDGER_UNAVAILABLE: Final = Code(
    "LEDGER_UNAVAILABLE", 503, True, "The ledger cannot be written now: see its disk or its PostgreSQL."
)
ISSUER_UNAVAILABLE: Final = Code(
    "ISSUER_UNAVAILABLE", 503, True, "See whether the OIDC issuer answers at its address (oidc.issuer)."
)

# The wire.
FRAME_TOO_LARGE: Final = Code("FRAME_TOO_LARGE", 400, False, "The peer announced a frame over the limit.")
FRAME_INVALID: Final = Code(
    "FRAME_INVALID", 400, False, "The peer sent bytes that are no message of this protocol."
)
VERSION_UNSUPPORTED: Final = Code(
    "VERSION_UNSUPPORTED", 400, False, "Bring both nodes to the same major version."
)
UNKNOWN_METHOD: Final = Code("UNKNOWN_METHOD", 404, False, "The peer does not offer this call.")
UNREACHABLE: Final = Code(
    "UNREACHABLE", 503, True, "The peer cannot be reached: check the network between the nodes."
)
CALL_LOST: Final = Code("CALL_LOST", 502, True, "The connection broke and did not come back in time.")
FLOW_VIOLATION: Final = Code("FLOW_VIOLATION", 400, False, "The peer sent more than its credit.")
DECRYPT_FAILED: Final = Code(
    "DECRYPT_FAILED", 400, False, "The sealed bytes were altered or meant for another node."
)
INTERNAL: Final = Code("INTERNAL", 500, True, "A defect of Tether: the log of that node says which.")

# Membership.
TICKET_INVALID: Final = Code(
    "TICKET_INVALID", 400, False, "Copy the whole line that `tetherctl invite` printed."
)
TICKET_EXPIRED: Final = Code(
    "TICKET_EXPIRED", 403, False, "Ask for a new ticket: `tetherctl invite` on a member."
)
TICKET_USED: Final = Code("TICKET_USED", 403, False, "Ask for a new ticket, or one with more --uses.")
WRONG_SWARM: Final = Code(
    "WRONG_SWARM", 403, False, "Use a ticket of this swarm, or another --data-dir for another swarm."
)
CERTIFICATE_INVALID: Final = Code("CERTIFICATE_INVALID", 403, False, "Join again with a fresh ticket.")
CERTIFICATE_EXPIRED: Final = Code("CERTIFICATE_EXPIRED", 403, False, "Join again with a fresh ticket.")
ROLE_FORBIDDEN: Final = Code(
    "ROLE_FORBIDDEN", 403, False, "Ask for a ticket that grants this role: `tetherctl invite --role`."
)
ANNOUNCE_INVALID: Final = Code(
    "ANNOUNCE_INVALID", 400, False, "The announcement is forged, stale or out of bounds."
)
NOT_ISSUER: Final = Code(
    "NOT_ISSUER", 403, False, "Ask a node that may issue: the founder or an orchestrator."
)

# Models on their way.
NOT_HELD: Final = Code("NOT_HELD", 404, True, "That node does not have the file: ask another one.")
DIGEST_MISMATCH: Final = Code(
    "DIGEST_MISMATCH", 502, True, "What came is not what the publisher signed: it is fetched from elsewhere."
)
NO_SOURCE: Final = Code(
    "NO_SOURCE", 503, True, "Nobody who has the file can be reached: start a node that holds it."
)
SIGNER_UNTRUSTED: Final = Code(
    "SIGNER_UNTRUSTED", 403, False, "Let the founder run `tetherctl trust publisher NODE_ID`."
)
DISK_FULL: Final = Code(
    "DISK_FULL", 507, False, "Free some disk, raise --cache-size, or run `tetherctl cache gc`."
)

# This machine.
USAGE: Final = Code("USAGE", 400, False, "See --help.")
CONFIG_INVALID: Final = Code("CONFIG_INVALID", 400, False, "Correct the setting.")
ADDRESS_IN_USE: Final = Code(
    "ADDRESS_IN_USE", 409, False, "Choose another port, or stop the program that holds it."
)
DATA_DIR_BUSY: Final = Code("DATA_DIR_BUSY", 409, False, "Stop that daemon, or choose another --data-dir.")
DATA_DIR_INVALID: Final = Code(
    "DATA_DIR_INVALID", 400, False, "Choose another --data-dir, or mend its permissions."
)
LEDGER_VERSION: Final = Code(
    "LEDGER_VERSION", 409, False, "Bring this node to the version that made the ledger."
)
MODEL_INVALID: Final = Code("MODEL_INVALID", 400, False, "Name a GGUF file that llama.cpp can read.")
NOT_RUNNING: Final = Code("NOT_RUNNING", 503, True, "Start it: tetherd join --region NAME.")

CATALOGUE: Final = _catalogue(*(value for value in list(globals().values()) if isinstance(value, Code)))


class WireError(msgspec.Struct, frozen=True, rename="camel"):
    """A `TetherError` as it crosses the wire."""

    code: str
    detail: str
    field: str | None = None
    retry_after_s: float | None = None
    rates: Rates | None = None


class TetherError(Exception):
    """A failure that somebody else caused or has to answer. detail: one sentence; field: the input at fault.

    rates: what is left of the caller's minute, where that was the reason.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        rates: Rates | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.rates = rates

    @property
    def message(self) -> str:
        """What went wrong and what to do about it, for a person."""
        return f"{self.detail} {self.code.advice}"

    def to_wire(self) -> WireError:
        return WireError(self.code.name, self.detail, self.field, self.retry_after_s, self.rates)

    @classmethod
    def from_wire(cls, error: WireError) -> TetherError:
        """Rebuild a peer's error. A code that this version does not know becomes INTERNAL and keeps its detail."""
        code = CATALOGUE.get(error.code, INTERNAL)
        return cls(
            code, error.detail[:1000], field=error.field, retry_after_s=error.retry_after_s, rates=error.rates
        )

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"
