"""What the shim of a node without the gateway role answers."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from p2p.errors import ROLE_FORBIDDEN, TetherError
from tetherd.gateway.answer import Answer, ModelSummary, Submission, Told
from tetherd.identity.tokens import TokenProof
from tetherd.tenants.keys import KeyProof


class NoGateway:
    """Refuses every request in one sentence; such a node still has health and metrics to show."""

    def submit(self, submission: Submission, told: Told | None = None) -> AbstractAsyncContextManager[Answer]:
        raise _refusal()

    async def models(self, key: KeyProof | TokenProof | None = None) -> list[ModelSummary]:
        raise _refusal()

    def ready(self) -> tuple[bool, str]:
        return True, ""


def _refusal() -> TetherError:
    return TetherError(ROLE_FORBIDDEN, "This node runs without the gateway role: ask one that has it.")
