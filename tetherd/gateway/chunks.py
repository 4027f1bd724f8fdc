"""What a gateway takes from a worker: chunks in order, in one chain, and a receipt that agrees with them. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from p2p.chain import CHAIN_START, next_link
from p2p.content import ChunkBody
from p2p.errors import FRAME_INVALID, TetherError
from p2p.identity import NodeKey, public_key_of, verify
from p2p.messages import Grant, InferChunk, Receipt, SignedReceipt
from p2p.sealed import Seal
from p2p.wire import decode
from tetherd.gateway.dispatch import Accepted, Event, Finished, Loads, Lost, Tokens


class ChunkChain:
    """Opens the chunks of one attempt, each only in its place."""

    def __init__(self, seal: Seal) -> None:
        self.link_before = CHAIN_START
        """What the chunk before the last one ended with: what a receipt in the last one vouches for."""
        self._seal = seal
        self._link = CHAIN_START
        self._seq = 0

    def open(self, chunk: InferChunk) -> ChunkBody:
        """Raises TetherError(FRAME_INVALID | DECRYPT_FAILED) for a chunk that is not the next one."""
        if chunk.seq != self._seq:
            raise _broken(f"Chunk {chunk.seq} came where {self._seq} was due.")
        if chunk.attempt != self._seal.attempt:
            raise _broken(f"A chunk of attempt {chunk.attempt} came in attempt {self._seal.attempt}.")
        if chunk.prev_hash != self._link:
            raise _broken(f"Chunk {chunk.seq} does not follow the chunk before it.")
        body = decode(self._seal.open("chunk", chunk.seq, chunk.payload), ChunkBody)
        self.link_before = self._link
        self._link = next_link(self._link, chunk.payload)
        self._seq += 1
        return body


def events_of(body: ChunkBody, grant: Grant) -> Iterator[Event]:
    """What a chunk says, in the order in which it counts."""
    if body.loading is not None:
        if not 0 <= body.loading <= 100:
            yield Lost(_broken("The worker has loaded less than nothing or more than all."))
            return
        yield Loads(body.loading)
    if body.accepted is not None:
        if not 0 <= body.accepted <= grant.max_prompt_tokens:
            yield Lost(
                _broken(f"The worker counts {body.accepted} prompt tokens; no more than the bytes can be.")
            )
            return
        yield Accepted(body.accepted)
    if body.logprobs and len(body.logprobs) != len(body.token_ids):
        yield Lost(_broken("The worker tells probabilities of other tokens than it sends."))
        return
    if body.token_ids or body.text:
        yield Tokens(body.token_ids, body.position, body.text, body.logprobs)
    if body.error is not None:
        yield Lost(TetherError.from_wire(body.error))
    elif body.finish is not None:
        yield Finished(body.finish)


def countersign(
    signed: SignedReceipt,
    key: NodeKey,
    grant: Grant,
    *,
    prompt_tokens: int,
    first_position: int,
    position: int,
    chain: bytes,
) -> SignedReceipt:
    """Sign a worker's receipt that says what happened. Raises TetherError(FRAME_INVALID) for one that does not."""
    if not verify(public_key_of(grant.worker), "receipt", signed.receipt, signed.worker_signature):
        raise _broken("The receipt is not signed by its worker.")
    receipt = decode(signed.receipt, Receipt)
    expected = {
        "job": (receipt.job, grant.job),
        "attempt": (receipt.attempt, grant.attempt),
        "grant": (receipt.grant_id, grant.grant_id),
        "worker": (receipt.worker, grant.worker),
        "prompt tokens": (receipt.prompt_tokens, prompt_tokens),
        "first position": (receipt.first_position, first_position),
        "position": (receipt.position, position),
        "resumed mark": (receipt.resumed, first_position > 0),
        "chain": (receipt.chain, chain),
    }
    for name, (found, seen) in expected.items():
        if found != seen:
            raise _broken(f"The receipt's {name} is not what was seen.")
    return replace(signed, gateway_signature=key.sign("receipt", signed.receipt))


def _broken(detail: str) -> TetherError:
    return TetherError(FRAME_INVALID, detail)
