"""The rules of one connection, without IO: bytes in, bytes out, and what each stream may do.

| frame              | on stream                        | does                                                       |
|--------------------|----------------------------------|------------------------------------------------------------|
| SYN                | new, of the peer's parity        | opens it, answered by ACK and a window; RST over the limit |
| SYN                | of our parity, or there already  | fault                                                      |
| DATA               | open, within its window          | is kept for the reader                                     |
| DATA               | open, beyond its window or FIN   | fault                                                      |
| DATA, UPDATE       | 0, or never opened               | fault                                                      |
| DATA, UPDATE       | over                             | is dropped: it was under way when it ended                 |
| UPDATE             | open                             | lets its writer go on; fault, if the window passes 2^32    |
| FIN; RST           | open                             | ends the peer's direction; ends both                       |
| PING               | 0                                | is answered if it has SYN, else noted                      |
| GO_AWAY            | 0                                | ends the connection                                        |
| PING, GO_AWAY      | any other                        | fault                                                      |
| any other, or of a version that is not 0              | | fault                                                      |

A fault is `PeerFault`: the shell says GO_AWAY with PROTOCOL_ERROR and closes. What goes out is chosen here too: the
session's own frames first, then streams by priority and, within one, in turns of one Noise message each.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from p2p.host.errors import ConnectionLost, PeerFault
from p2p.host.yamux.budget import MAX_STREAMS, MAX_WINDOW, Budget
from p2p.host.yamux.flow import Flow
from p2p.host.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW,
    MAX_LENGTH,
    PING,
    RST,
    SESSION,
    SYN,
    VERSION,
    WINDOW_UPDATE,
    Goodbye,
    header,
)

PRIORITIES: Final = 3
MAX_CONTROL_BYTES: Final = 512 * 1024
"""The session's own frames that wait for the socket; more and the peer only asks and never reads."""
CRUMB_BYTES: Final = 1024
"""A message whose rest is smaller is sent as it is, rather than filled with a sliver of a large write."""
CREDIT_RETURNS: Final = 4
"""Credit goes back by quarters of a window: few frames, and never a stall."""


class TooManyStreams(Exception):
    """This side has as many streams open as a connection takes."""


class Session:
    """Both roles. initiator: who dialled; its streams have odd ids. Raises PeerFault for what the peer may not do."""

    def __init__(self, *, initiator: bool, budget: Budget) -> None:
        self.flows: dict[int, Flow] = {}
        self.accepted: list[Flow] = []
        """Streams that the peer opened since the shell last looked."""
        self.goodbye: int | None = None
        """The peer's last word, one of `Goodbye` or what it made up."""
        self.pong: int | None = None
        self._budget = budget
        self._parity = 1 if initiator else 0
        self._next_id = 1 if initiator else 2
        self._highest = 0
        self._ours = self._theirs = 0
        self._control = bytearray()
        self._queues: tuple[deque[Flow], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._partial = b""
        self._body_left = 0
        self._body_of: Flow | None = None
        self._body_fin = False

    # ── What this side does ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def waiting(self) -> bool:
        """Whether `outgoing` has something to give."""
        return bool(self._control) or any(self._queues)

    def open(self, priority: int) -> Flow:
        """Raises TooManyStreams, and ConnectionLost once the ids are used up."""
        if self._ours >= MAX_STREAMS or len(self._control) > MAX_CONTROL_BYTES:
            raise TooManyStreams
        if self._next_id > MAX_LENGTH:
            raise ConnectionLost("The connection has no stream ids left.")
        self._ours += 1
        flow = self._begin(self._next_id, priority, SYN)
        self._next_id += 2
        return flow

    def offer(self, flow: Flow, data: memoryview) -> None:
        """Have data sent as credit and socket allow; flow.offer is None again once all of it is."""
        flow.offer = data
        self._enqueue(flow)

    def withdraw(self, flow: Flow) -> None:
        """Send no more of what was offered. What is on its way stays on its way."""
        flow.offer = None
        if flow.fin_wanted and not flow.fin_sent:
            self._finish(flow)

    def take(self, flow: Flow, max_bytes: int) -> bytes:
        """Read 1 to max_bytes of what is buffered, and return the credit."""
        data = flow.take(max_bytes)
        if flow.fin_got or flow.reset:
            if flow.over:
                self._remove(flow)
            return data
        flow.owed += len(data)
        window = flow.window
        if flow.owed * CREDIT_RETURNS >= window:
            more = self._budget.grow(MAX_WINDOW - window)
            flow.extra += more
            delta = flow.owed + more
            flow.receive_left += delta
            flow.owed = 0
            self._say(header(WINDOW_UPDATE, 0, flow.id, delta))
        return data

    def finish(self, flow: Flow) -> None:
        """Close this side's direction, behind what is offered."""
        if flow.fin_wanted or flow.reset:
            return
        flow.fin_wanted = True
        if flow.offer is None:
            self._finish(flow)

    def abort(self, flow: Flow) -> None:
        """Reset the stream, unless it is over."""
        if flow.id in self.flows:
            if not flow.reset:
                self._say(header(WINDOW_UPDATE, RST, flow.id, 0))
            flow.drop()
            self._end(flow)

    def ping(self, value: int) -> None:
        self._say(header(PING, SYN, SESSION, value))

    def say_goodbye(self, code: Goodbye) -> None:
        self._say(header(GO_AWAY, 0, SESSION, code))

    def outgoing(self, room: memoryview) -> int:
        """Write frames to room, most urgent first; the bytes written."""
        at = 0
        size = len(room)
        control = self._control
        if control:
            at = min(len(control), size)
            room[:at] = control[:at]
            del control[:at]
        for queue in self._queues:
            while queue:
                flow = queue[0]
                offer = flow.offer
                if offer is None:
                    queue.popleft()
                    flow.queued = False
                    continue
                left = len(offer)
                space = size - at - HEADER_BYTES
                if space < left and space < CRUMB_BYTES:
                    return at
                part = min(left, flow.send_left, space)
                whole = part == left
                fin = whole and flow.fin_wanted
                HEADER.pack_into(room, at, VERSION, DATA, FIN if fin else 0, flow.id, part)
                at += HEADER_BYTES
                room[at : at + part] = offer[:part]
                at += part
                flow.send_left -= part
                if whole:
                    flow.offer = None
                    queue.popleft()
                    flow.queued = False
                    if fin:
                        self._sent_fin(flow)
                    flow.changed()
                else:
                    flow.offer = offer[part:]
                    if flow.send_left:
                        queue.rotate(-1)
                    else:
                        queue.popleft()
                        flow.queued = False
        return at

    # ── What the peer does ───────────────────────────────────────────────────────────────────────────────────────

    def receive(self, data: memoryview) -> None:
        """Take bytes as they come, cut anywhere. Raises PeerFault."""
        at, end = 0, len(data)
        if self._partial:
            at = HEADER_BYTES - len(self._partial)
            if end < at:
                self._partial += bytes(data)
                return
            whole = self._partial + bytes(data[:at])
            self._partial = b""
            self._frame(*HEADER.unpack(whole))
        if self._body_left:
            at = self._body(data, at, end)
        while end - at >= HEADER_BYTES:
            self._frame(*HEADER.unpack_from(data, at))
            at += HEADER_BYTES
            if self._body_left:
                at = self._body(data, at, end)
        if at < end:
            self._partial = bytes(data[at:])
        if len(self._control) > MAX_CONTROL_BYTES:
            raise PeerFault("The peer asks for answers and does not read them.")

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != VERSION:
            raise PeerFault("A frame is of a version that nobody speaks.")
        if kind > WINDOW_UPDATE:
            self._session_frame(kind, flags, stream_id, length)
            return
        flow = self.flows.get(stream_id)
        if flags & SYN:
            flow = self._opened(flow, stream_id, flags)
        elif flow is None:
            self._check_late(stream_id)
        elif flow.reset:
            flow = None
        if kind == WINDOW_UPDATE:
            if flow is not None:
                if length:
                    self._credit(flow, length)
                if flags & (FIN | RST):
                    self._closed(flow, flags)
            return
        if flow is not None:
            if length > flow.receive_left:
                raise PeerFault("A stream was sent more than its window.")
            if flow.fin_got and length:
                raise PeerFault("A stream was sent more after its end.")
            flow.receive_left -= length
            if flags & (FIN | RST) and (flags & RST or not length):
                self._closed(flow, flags)
                flow = None if flags & RST else flow
        self._body_left = length
        self._body_of = flow
        self._body_fin = bool(flags & FIN)

    def _body(self, data: memoryview, at: int, end: int) -> int:
        """Keep what is here of a frame's payload; where the next frame begins."""
        part = min(self._body_left, end - at)
        if not part:
            return at
        self._body_left -= part
        flow = self._body_of
        if flow is not None and not flow.reset:  # it may be we who reset it, within a frame
            flow.arrived(data[at : at + part])
            if not self._body_left and self._body_fin:
                self._closed(flow, FIN)
            else:
                flow.changed()
        return at + part

    def _session_frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if kind > GO_AWAY:
            raise PeerFault("A frame is of a type that nobody knows.")
        if stream_id != SESSION:
            raise PeerFault("A frame of the session names a stream.")
        if kind == GO_AWAY:
            self.goodbye = length
        elif flags & SYN:
            self._say(header(PING, ACK, SESSION, length))
        elif flags & ACK:
            self.pong = length

    def _opened(self, flow: Flow | None, stream_id: int, flags: int) -> Flow | None:
        if flow is not None:
            raise PeerFault("A stream was opened twice.")
        if stream_id == SESSION or stream_id & 1 == self._parity:
            raise PeerFault("A stream was opened under an id that is not the peer's.")
        self._highest = max(self._highest, stream_id)
        if flags & RST:
            return None
        if self._theirs >= MAX_STREAMS:
            self._say(header(WINDOW_UPDATE, RST, stream_id, 0))
            return None
        self._theirs += 1
        flow = self._begin(stream_id, 0, ACK)
        self.accepted.append(flow)
        return flow

    def _check_late(self, stream_id: int) -> None:
        """A frame of a stream that is not there is late, if the stream ever was."""
        ours = stream_id & 1 == self._parity
        if stream_id == SESSION or stream_id >= (self._next_id if ours else self._highest + 1):
            raise PeerFault("A frame is of a stream that was never opened.")

    def _credit(self, flow: Flow, delta: int) -> None:
        flow.send_left += delta
        if flow.send_left > MAX_LENGTH:
            raise PeerFault("A window is larger than a window can be.")
        self._enqueue(flow)

    def _closed(self, flow: Flow, flags: int) -> None:
        if flags & RST:
            self._end(flow)
        else:
            flow.fin_got = True
            if flow.over:
                self._remove(flow)
        flow.changed()

    # ── Both ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, stream_id: int, priority: int, flag: int) -> Flow:
        extra = self._budget.grow(MAX_WINDOW - INITIAL_WINDOW)
        flow = self.flows[stream_id] = Flow(stream_id, priority, extra)
        self._say(header(WINDOW_UPDATE, flag, stream_id, extra))
        return flow

    def _enqueue(self, flow: Flow) -> None:
        if flow.offer is not None and flow.send_left and not flow.queued and not flow.reset:
            flow.queued = True
            self._queues[flow.priority].append(flow)

    def _finish(self, flow: Flow) -> None:
        if flow.id in self.flows:
            self._say(header(WINDOW_UPDATE, FIN, flow.id, 0))
            self._sent_fin(flow)

    def _sent_fin(self, flow: Flow) -> None:
        flow.fin_sent = True
        if flow.over:
            self._remove(flow)

    def _end(self, flow: Flow) -> None:
        flow.reset = True
        flow.offer = None
        if flow.over:
            self._remove(flow)

    def _remove(self, flow: Flow) -> None:
        if self.flows.pop(flow.id, None) is None:
            return
        if flow.id & 1 == self._parity:
            self._ours -= 1
        else:
            self._theirs -= 1
        self._budget.give_back(flow.extra)

    def _say(self, frame: bytes) -> None:
        self._control += frame
