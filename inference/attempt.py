"""One attempt of one job on this worker: from the opened seal to the signed receipt.

Whatever follows from the content is said inside the seal, refusals too: an error code in clear would tell the network
something about a prompt. Only what the content has no part in (a dead engine, a cancelled caller) ends the call itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from inference.embeddings import MAX_INPUTS, batches, parcels
from inference.engine import Embedder, Engine, Finish, Generation, Input, Prompt, Tokens
from inference.recipe import as_fast
from inference.worker_metrics import WorkerMetrics
from p2p.chain import CHAIN_START, next_link
from p2p.content import ChunkBody, Sampling, SealedInput, Usage
from p2p.errors import (
    CONTEXT_EXCEEDED,
    ENGINE_FAILED,
    FIELD_INVALID,
    GRANT_INVALID,
    INPUT_QUARANTINED,
    OUT_OF_RANGE,
    TetherError,
)
from p2p.identity import NodeKey
from p2p.messages import Grant, InferChunk, Receipt, SignedReceipt
from p2p.sealed import Seal
from p2p.wire import encode

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 1_024
MAX_TEMPERATURE: Final = 100.0
MAX_TOP_K: Final = 1 << 30
MIN_REPEAT_PENALTY: Final = 0.01
MAX_PENALTY: Final = 100.0
MAX_BIASES: Final = 1_024
MAX_BIAS: Final = 100.0
MAX_LOGPROBS: Final = 20


@dataclass(slots=True)
class ChunkWriter:
    """Seals chunk bodies in order and links them. send, finish: hand one to the call, waiting for its credit; finish:
    the last."""

    seal: Seal
    correlation_id: str
    send: Callable[[InferChunk], Awaitable[None]]
    finish: Callable[[InferChunk], Awaitable[None]]
    seq: int = 0
    chain: bytes = CHAIN_START

    async def write(self, body: ChunkBody, *, done: bool = False) -> None:
        payload = self.seal.close("chunk", self.seq, encode(body))
        chunk = InferChunk(self.correlation_id, self.seq, payload, done, self.seal.attempt, self.chain)
        self.seq += 1
        self.chain = next_link(self.chain, payload)
        await (self.finish if done else self.send)(chunk)


@dataclass(slots=True)
class Attempt:
    """Runs once. started_s: monotonic, when the request arrived; sampled: told how many tokens, as they come."""

    key: NodeKey
    grant: Grant
    content: SealedInput
    engine: Engine
    writer: ChunkWriter
    metrics: WorkerMetrics
    started_s: float
    sampled: Callable[[int], None]
    prompt_tokens: int = 0
    accepted: bool = False
    position: int = field(init=False)

    def __post_init__(self) -> None:
        self.position = len(self.content.resume)

    async def run(self) -> str:
        """Answer, or refuse inside the seal. Returns the outcome: how it finished, or the code of the refusal.

        Raises TetherError(ENGINE_FAILED | CANCELLED | CALL_LOST).
        """
        try:
            if self.content.embed:
                return await self._embed()
            generation = await self._accept()
            await self._say_accepted()
            return await self._stream(generation)
        except TetherError as refusal:
            if refusal.code not in _FROM_CONTENT:
                raise
            await self.writer.write(ChunkBody(error=refusal.to_wire()), done=True)
            return refusal.code.name

    async def _say_accepted(self) -> None:
        self.accepted = True
        await self.writer.write(ChunkBody(accepted=self.prompt_tokens))
        self.metrics.requested(self.prompt_tokens)

    async def _embed(self) -> str:
        engine, info = self.engine, self.engine.info
        if not info.embeds or not isinstance(engine, Embedder):
            raise TetherError(FIELD_INVALID, "This model makes text and no vectors.", field="model")
        counted = await engine.count_inputs(self.content.embed)
        longest, self.prompt_tokens = max(map(len, counted)), sum(map(len, counted))
        if longest > info.context_tokens:
            detail = f"An input has {longest} tokens; the model takes {info.context_tokens}."
            raise TetherError(CONTEXT_EXCEEDED, detail, field="input")
        if not all(counted) or len(counted) > MAX_INPUTS or self.prompt_tokens > self.grant.max_prompt_tokens:
            raise TetherError(GRANT_INVALID, "The inputs are empty, or more than was granted.")
        await self._say_accepted()
        made = 0
        inputs = tuple(map(Input, self.content.embed, counted))
        for batch in batches(inputs, info.slots, info.context_tokens):
            for parcel in parcels(await engine.embed(batch)):
                await self.writer.write(ChunkBody(vectors=parcel, position=made))
                made += len(parcel)
        await self._finish(Tokens((), 0, ""), "stop")
        return "stop"

    async def _accept(self) -> Generation:
        content, grant = self.content, self.grant
        if self.engine.info.embeds:
            raise TetherError(FIELD_INVALID, "This model makes vectors: ask /v1/embeddings.", field="model")
        check_sampling(content.sampling)
        source = Prompt(content.messages, content.prompt, content.tools)
        prompt = await self.engine.tokenize(source)
        self.prompt_tokens = len(prompt)
        max_tokens = self._max_tokens(len(prompt), self.engine.info.context_tokens)
        if len(prompt) > grant.max_prompt_tokens or max_tokens > grant.max_tokens:
            raise TetherError(
                GRANT_INVALID,
                f"The grant allows {grant.max_prompt_tokens} prompt tokens and {grant.max_tokens} of answer; "
                f"these are {len(prompt)} and {max_tokens}.",
            )
        if len(content.resume) > max_tokens:
            detail = f"{len(content.resume)} tokens are resumed after, of {max_tokens}."
            raise TetherError(FIELD_INVALID, detail, field="resume")
        return Generation(
            prompt,
            max_tokens,
            content.sampling,
            content.resume,
            scope=prefix_scope(grant),
            exact=content.sampling.exact,
            source=source,
        )

    def _max_tokens(self, prompt_tokens: int, context_tokens: int) -> int:
        """What was asked for, or what fits. Raises TetherError(FIELD_INVALID | CONTEXT_EXCEEDED | OUT_OF_RANGE)."""
        where = "messages" if self.content.messages is not None else "prompt"
        if not prompt_tokens:
            raise TetherError(FIELD_INVALID, "The prompt is empty.", field=where)
        room = context_tokens - prompt_tokens
        if room < 1:
            detail = f"The prompt has {prompt_tokens} tokens; the model's context is {context_tokens}."
            raise TetherError(CONTEXT_EXCEEDED, detail, field=where)
        wanted = self.content.max_tokens
        if wanted is None:
            return min(self.grant.max_tokens, room)
        if wanted < 1:
            raise TetherError(OUT_OF_RANGE, "max_tokens is below 1.", field="max_tokens")
        if wanted > room:
            detail = (
                f"The prompt has {prompt_tokens} tokens and max_tokens is {wanted}, {prompt_tokens + wanted} together; "
                f"the model's context is {context_tokens}."
            )
            raise TetherError(CONTEXT_EXCEEDED, detail, field="max_tokens")
        return wanted

    async def _stream(self, generation: Generation) -> str:
        last_s: float | None = None
        async with self.engine.generate(generation) as answer:
            async for tokens in answer:
                now_s = trio.current_time()
                self._count(tokens, now_s, last_s)
                self.position = tokens.position + len(tokens.ids)
                if tokens.finish is not None:
                    await self._finish(tokens, tokens.finish)
                    return tokens.finish
                body = ChunkBody(
                    token_ids=tokens.ids,
                    text=tokens.text,
                    position=tokens.position,
                    logprobs=tokens.logprobs,
                )
                await self.writer.write(body)
                last_s = now_s
        raise TetherError(ENGINE_FAILED, "The engine ended an answer without an end.")

    def _count(self, tokens: Tokens, now_s: float, last_s: float | None) -> None:
        self.metrics.sampled(len(tokens.ids))
        self.sampled(len(tokens.ids))
        if last_s is None:
            self.metrics.first_token(now_s - self.started_s)
        elif tokens.ids:
            self.metrics.between_tokens((now_s - last_s) / len(tokens.ids))

    async def _finish(self, tokens: Tokens, finish: Finish) -> None:
        body = ChunkBody(
            token_ids=tokens.ids,
            text=tokens.text,
            position=tokens.position,
            logprobs=tokens.logprobs,
            finish=finish,
            usage=Usage(self.prompt_tokens, self.position, tokens.cached),
            receipt=self.receipt(finish),
        )
        await self.writer.write(body, done=True)

    def receipt(self, finish: str) -> SignedReceipt:
        """What was done up to here. finish: how it ended, or the code of what ended it."""
        info = self.engine.info
        receipt = encode(
            Receipt(
                job=self.grant.job,
                attempt=self.grant.attempt,
                grant_id=self.grant.grant_id,
                worker=self.key.node_id,
                prompt_tokens=self.prompt_tokens,
                first_position=len(self.content.resume),
                position=self.position,
                finish=finish,
                chain=self.writer.chain,
                build_tag=info.build_tag if self.content.sampling.exact else as_fast(info.build_tag),
                resumed=bool(self.content.resume),
            )
        )
        return SignedReceipt(receipt, self.key.sign("receipt", receipt))


_FROM_CONTENT: Final = (CONTEXT_EXCEEDED, FIELD_INVALID, GRANT_INVALID, INPUT_QUARANTINED, OUT_OF_RANGE)


LOCAL_TENANT: Final = "local"
"""Whoever asks a gateway over its loopback without a key: another person at each gateway."""


def prefix_scope(grant: Grant) -> bytes:
    """Who may share computed prefixes: the requests of one tenant."""
    gateway = grant.gateway if grant.tenant == LOCAL_TENANT else ""
    return hashlib.blake2b(f"{grant.tenant}\0{gateway}".encode(), digest_size=16).digest()


def check_sampling(sampling: Sampling) -> None:
    """The gateway has checked it for its client; the engine needs it checked for itself. Raises OUT_OF_RANGE."""
    bounds = (
        ("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE),
        ("top_p", sampling.top_p, 0.0, 1.0),
        ("min_p", sampling.min_p, 0.0, 1.0),
        ("top_k", sampling.top_k, 0, MAX_TOP_K),
        ("typical_p", sampling.typical_p, 0.0, 1.0),
        ("repeat_penalty", sampling.repeat_penalty, MIN_REPEAT_PENALTY, MAX_PENALTY),
        ("frequency_penalty", sampling.frequency_penalty, -MAX_PENALTY, MAX_PENALTY),
        ("presence_penalty", sampling.presence_penalty, -MAX_PENALTY, MAX_PENALTY),
        ("logprobs", sampling.logprobs, -1, MAX_LOGPROBS),
        ("logit_bias", len(sampling.logit_bias), 0, MAX_BIASES),
        *(("logit_bias", bias, -MAX_BIAS, MAX_BIAS) for _, bias in sampling.logit_bias[:MAX_BIASES]),
        ("stop", len(sampling.stop), 0, MAX_STOPS),
        ("stop", max(map(len, sampling.stop), default=0), 0, MAX_STOP_CHARS),
    )
    for name, value, least, most in bounds:
        if math.isnan(value) or not least <= value <= most:
            raise TetherError(OUT_OF_RANGE, f"{name} is not between {least} and {most}.", field=name)
