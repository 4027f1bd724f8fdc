"""One attempt: the way to its worker, the sealed input, and the chunks as they come, each within its time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace as replaced
from math import inf

import trio
from msgspec.structs import replace

from p2p.content import ChunkBody, SealedInput
from p2p.errors import CALL_LOST, UNREACHABLE, TetherError
from p2p.messages import INFER, InferChunk, InferRequest
from p2p.rpc import Rpc
from p2p.sealed import seal_to
from p2p.wire import encode
from tetherd.gateway.chunks import ChunkChain
from tetherd.gateway.grants import Granted
from tetherd.gateway.placing import Placer
from tetherd.gateway.ports import Swarm
from tetherd.gateway.settings import GatewaySettings


class Attempts:
    """Opens calls to workers."""

    def __init__(self, rpc: Rpc, swarm: Swarm, placer: Placer, settings: GatewaySettings) -> None:
        self._rpc = rpc
        self._swarm = swarm
        self._placer = placer
        self._settings = settings

    async def reach(self, granted: Granted) -> None:
        """Connect to the worker; if no known address of it is good, by what the DHT knows. Raises TetherError."""
        address = granted.address
        if not address.addresses:
            address = replaced(address, addresses=self._swarm.addresses_of(address.peer))
        try:
            await self._placer.reach(address)
        except TetherError as error:
            if error.code is not UNREACHABLE:
                raise
            model = granted.model
            found = await self._swarm.find_workers(model.name, model.version, granted.region)
            again = [other for other in found if other.peer == address.peer]
            if not again:
                raise
            await self._placer.reach(again[0])

    @asynccontextmanager
    async def open(
        self,
        granted: Granted,
        content: SealedInput,
        resume: tuple[int, ...],
        *,
        retry_token: str,
        trace_id: str,
    ) -> AsyncIterator[Chunks]:
        """Seal the input and call the worker; leaving the context ends the call there."""
        grant = granted.grant
        sealing_key = granted.worker.certificate.enc_key
        seal, sealed = seal_to(sealing_key, grant.job, grant.attempt, encode(replace(content, resume=resume)))
        request = InferRequest(
            tenant_id=grant.tenant,
            model_id=granted.model.name,
            version=granted.model.version,
            input=sealed,
            correlation_id=f"{grant.job.hex()}/{grant.attempt}",
            retry_token=retry_token,
            trace_id=trace_id,
            grant=granted.signed,
        )
        async with self._rpc.stream(grant.worker, INFER, request) as answers:
            with trio.CancelScope() as patience:
                yield (chunks := Chunks(answers, ChunkChain(seal), patience, self._settings))
            if patience.cancelled_caught:
                raise TetherError(CALL_LOST, f"The worker was silent for {chunks.patience_s:.0f} s.")


class Chunks:
    """An attempt's chunks: `next` opens them one by one; `patience_s` is how long the next one may take.

    patience: one scope for all of them, whose deadline moves; one a chunk would cost more than the chunk.
    """

    def __init__(
        self,
        answers: AsyncIterator[InferChunk],
        chain: ChunkChain,
        patience: trio.CancelScope,
        settings: GatewaySettings,
    ) -> None:
        self.chain = chain
        self.patience_s = settings.accept_s
        self._answers = answers
        self._patience = patience
        self._drain_s = settings.drain_chunks_s

    async def next(self) -> ChunkBody:
        """Raises TetherError if the worker ends without its last word; its silence ends the attempt."""
        self._patience.deadline = trio.current_time() + self.patience_s
        try:
            return self.chain.open(await anext(self._answers))
        except StopAsyncIteration:
            raise TetherError(CALL_LOST, "The worker ended the call in mid-answer.") from None

    def rest(self) -> None:
        """Until the next `next`, the worker's silence counts for nothing: somebody else is waited for."""
        self._patience.deadline = inf

    async def ended(self) -> None:
        """After the last chunk: let the call end by itself, so that the worker sees no cancellation."""
        with suppress(TetherError), trio.move_on_after(self._drain_s):
            async for _ in self._answers:
                pass
