"""Which models a tenant may be shown: asked by a gateway for its catalogue. Hiding protects nothing, admission does."""

from __future__ import annotations

from typing import Final

from p2p.messages import Message, Method

MAX_MODELS: Final = 1_000


class VisibleRequest(Message, frozen=True):
    """models: names, at most MAX_MODELS."""

    tenant_id: str
    models: tuple[str, ...]


class VisibleAnswer(Message, frozen=True):
    """hidden: those of the names that this tenant has no use for."""

    hidden: tuple[str, ...]


VISIBLE: Final = Method("visible", VisibleRequest, VisibleAnswer)
