"""New documents of the catalogue, told to everybody by gossip: a revocation must not wait for a comparison."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.membership import SwarmId
from p2p.messages import Message
from p2p.transport import Gossip, Pubsub
from p2p.wire import decode, encode
from tetherd.registry.catalogue import Catalogue
from topics.names import CATALOGUE

MAX_BODY_BYTES: Final = 48 << 10
"""A release of a file of some 20 GB; what is longer is heard of by comparing."""
SEND_S: Final = 5.0

_log: Final = structlog.get_logger()


class Told(Message, frozen=True):
    """A document as the catalogue has it. It proves itself, so it does not matter who tells it."""

    name: str
    body: bytes


class News:
    """`run` listens; `tell` speaks."""

    def __init__(self, catalogue: Catalogue, pubsub: Pubsub, swarm_id: SwarmId) -> None:
        self._catalogue = catalogue
        self._pubsub = pubsub
        self._topic = CATALOGUE.gossip_id(swarm_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. What is checked here is in the catalogue already."""
        async with self._pubsub.subscribe(self._topic, self._worth_passing_on) as news:
            task_status.started()
            async for _ in news:
                pass

    async def tell(self, name: str) -> None:
        """Tell a document that is new; one that is too long is left to comparisons."""
        body = self._catalogue.document(name)
        if body is not None and len(body) <= MAX_BODY_BYTES:
            with trio.move_on_after(SEND_S):
                await self._pubsub.publish(self._topic, encode(Told(name, body)))

    def _worth_passing_on(self, gossip: Gossip) -> bool:
        try:
            told = decode(gossip.data, Told)
            if len(told.body) > MAX_BODY_BYTES:
                return False
            if self._catalogue.document(told.name) != told.body:
                self._catalogue.add_document(told.name, told.body)
        except TetherError as error:
            _log.info("catalogue_news_refused", peer=gossip.source, cause=str(error)[:200])
            return False
        return self._catalogue.document(told.name) == told.body
