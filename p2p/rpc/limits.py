"""The numbers of the calls, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """Limits of one node. Both ends keep their own; the smaller window decides, and may not be below a quarter
    of the larger, since credit comes back by quarters."""

    frame_bytes: int = 1 << 20
    """One frame: an artifact's chunk fits, and an announced length costs nobody more than this."""
    frame_overhead_bytes: int = 1024
    """What a frame may hold beside its message: method name, ids, msgpack's own bytes."""

    call_credit_bytes: int = 256 * 1024
    """Answers of one call that may wait unread: minutes of tokens; a slot that fills it up is given back."""
    peer_credit_bytes: int = 16 << 20
    """Answers of all calls to one peer that may wait unread, half of it for each of the two lanes."""

    inbound_calls: int = 1024
    """Calls of one peer under way at a time; more are answered CAPACITY."""
    inbound_request_bytes: int = 16 << 20
    """Requests of one peer held by handlers at a time; more are answered CAPACITY."""
    guest_calls: int = 4
    """Calls of one guest under way at a time: it only enrols."""
    inbound_sessions: int = 4
    """Sessions of one peer: two lanes, and as many that wait for their connection to come back."""
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
    batch_bytes: int = 64 * 1024
    """Frames go out together up to about this size: one write, one encryption."""
    ack_frames: int = 64
    ack_bytes: int = 64 * 1024
    """Frames received are acknowledged with the next write, and at the latest after so many."""
    backlog_bytes: int = 32 << 20
    """Frames queued or not yet acknowledged in one session; a peer that acknowledges nothing ends there."""

    @property
    def message_bytes(self) -> int:
        """The largest request or answer, encoded."""
        return self.frame_bytes - self.frame_overhead_bytes

    @property
    def lane_credit_bytes(self) -> int:
        return self.peer_credit_bytes // 2
