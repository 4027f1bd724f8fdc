"""The numbers of the calls, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PRIORITIES: Final = 3
"""Control, chunks, artifacts: a lane each, so that none waits in another's buffers."""


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """Limits of one node; both ends keep their own."""

    message_bytes: int = 8 << 20
    """One request or answer, encoded: a body of 4 MiB as the shim takes it, sealed, and the ids of a resume."""
    part_bytes: int = 64 * 1024
    """What one frame carries of a message; longer ones take several, between which others' frames go."""
    block_bytes: int = 256 * 1024
    """One block: a batch, the frame that made it full, and one part. An announced length costs nobody more."""
    batch_bytes: int = 64 * 1024
    """Frames go out together up to about this size, and senders of messages wait while so much is queued."""

    peer_credit_bytes: int = 16 << 20
    """Answers of all calls to one peer that may wait here, half read or unread, in all lanes together."""
    outbound_calls: int = 1024
    """Calls to one peer under way at a time; the next one is refused here with CAPACITY."""
    floor_bytes: int = 4 * 1024
    """The credit that every call has from the beginning, whatever the others do: twenty chunks of a token each.

    1024 of them are 4 MiB of a peer's 16; message_bytes are set aside for messages longer than a window; what is left
    widens windows.
    """
    widest_bytes: tuple[int, int, int] = (64 * 1024, 256 * 1024, 1 << 20)
    """A window at its widest, by priority: an answer of control; minutes of tokens; 20 MB/s at 50 ms."""

    inbound_calls: int = 1024
    """Calls of one peer under way at a time; more are answered CAPACITY."""
    inbound_request_bytes: int = 16 << 20
    """Requests of one peer, whole or arriving, held at a time; more are answered CAPACITY. Two of the largest."""
    guest_calls: int = 4
    """Calls of one guest under way at a time: it only enrols."""
    inbound_sessions: int = 2 * PRIORITIES
    """Sessions of one peer: its lanes, and as many that wait for their connection to come back."""
    capacity_retry_s: float = 1.0
    """What CAPACITY says in retry_after."""

    resume_s: float = 15.0
    """How long a call outlives its connection."""
    refused_grace_s: float = 1.0
    """How long a peer whose machine refuses every dial is dialled before its calls are given up.

    Silence is a broken network, which may heal: that waits resume_s. A refusal is a machine that is up and a
    process that is gone, and with it every call: a client must not wait 15 s for its failover. One refusal alone
    may be a listener that moves to another address, so the dialling goes on for a moment.
    """
    dial_s: float = 3.0
    """One attempt to reconnect, its handshake included."""
    backoff_base_s: float = 0.05
    backoff_cap_s: float = 1.0
    """Full jitter between attempts: uniform(0, min(cap, base * 2**attempt))."""

    hello_s: float = 10.0
    """How long a fresh stream may stay without saying what it is for."""
    goodbye_s: float = 0.2
    """How long a node that stops, or that hangs up on a peer's fault, tries to say so."""
    ack_frames: int = 128
    ack_bytes: int = 64 * 1024
    """Frames received are acknowledged with the next write, and at the latest after so many."""
    probe_s: float = 1.0
    """A lane in use asks for an acknowledgement at once so often, to measure the round trip."""
    backlog_bytes: int = 32 << 20
    """Frames queued or not yet acknowledged in one session; a peer that acknowledges nothing ends there."""
    crew: int = 64
    """Idle tasks that are kept for handlers, in the whole node."""
