"""The numbers of a gateway, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Times in seconds."""

    deadline_s: float = 600.0
    """What the openai client waits by default; after that nobody reads the answer."""

    hedge_s: float = 0.3
    """A leader answers within one round trip and a reservation; after this silence a second one is asked as well."""
    place_s: float = 15.0
    """A leader may queue a request until a slot is free, but not for longer than a person waits for a status."""
    position_s: float = 1.0
    """How often a request that waits for a slot asks for its place in the queue."""
    leaders: int = 5
    """How many are asked in turn: those that the election keeps in touch with each other."""

    attempts: int = 3
    """Grants that one request may use up."""
    refusals: int = 3
    """Placements refused in a row before a status is due: together under a second."""
    refusals_in_answer: int = 6
    """The same once the client has read text: a new election takes about three seconds, and is worth the wait."""
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 2.0
    """Full jitter: uniform(0, min(cap, base * 2**n))."""

    accept_s: float = 15.0
    """From the opening of a call to the worker's word that it took it."""
    prefill_tokens_per_s: float = 20.0
    """The slowest reading of a prompt that is still one: the first token may take accept_s and this."""
    stall_s: float = 15.0
    """Between two chunks. A worker that dies is noticed by its connection; this is for an engine that hangs."""
    drain_chunks_s: float = 0.25
    """After the last chunk, for the call to end by itself, so that its end is no cancellation."""

    gather_s: float = 0.02
    """From an answer's end to its settlement: what ends together costs one flush and one commit, and the next request
    of a client does not queue behind the books of its last one."""
    release_s: float = 2.0
    """Giving back a grant that lost; unheard, it ends by itself after 15 s."""
    settle_s: float = 5.0
    """One try at one leader."""
    settle_pause_s: float = 5.0
    """The longest pause between two rounds of tries: the ledger's sweep waits for longer once the ledger is back."""
    settle_drain_s: float = 10.0
    """How long a node that leaves waits for the ledger; what is not told by then, its next start tells."""

    max_tokens: int = 1_000_000
    """Of prompt or answer: what orchestrators grant at most. A worker counts the real ones."""
    max_input_bytes: int = 7 << 20
    """Of an input before it is sealed: a call takes 8 MiB, and the ids of a resumed answer come on top of it."""
    tokens_per_message: int = 32
    """What a chat template may add around one message: no template in use adds more than a dozen."""
