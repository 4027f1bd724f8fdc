"""A call as its handler holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.errors import CANCELLED, DEADLINE, FLOW_VIOLATION, FRAME_INVALID, FRAME_TOO_LARGE, TetherError
from p2p.rpc.crew import Member
from p2p.rpc.frames import MESSAGE_WEIGHT, Data, End, Last, Open, Part

if TYPE_CHECKING:
    from p2p.rpc.callee import Answer, CalleeSession


class IncomingCall:
    """answer: its handler; lost: why nobody hears it any more; member: the task that runs it, once it waits."""

    __slots__ = (
        "_credited",
        "_cut",
        "_missing",
        "_partial",
        "_session",
        "_turn",
        "answer",
        "credit",
        "deadline",
        "fault",
        "finished",
        "lost",
        "member",
        "method",
        "number",
        "peer",
        "request",
        "request_bytes",
        "sent_bytes",
        "started",
        "ticket",
    )

    def __init__(self, session: CalleeSession, frame: Open, answer: Answer) -> None:
        self.peer = session.peer
        self.number = frame.call
        self.method = frame.method
        self.answer = answer
        self.request = frame.request
        self.request_bytes = len(frame.request) + frame.rest
        self.credit = frame.credit
        self.sent_bytes = 0
        self.member: Member | None = None
        self.lost: TetherError | None = None
        self.fault: TetherError | None = None
        self.finished = False
        self.ticket = 0
        self.started = now = trio.current_time()
        self.deadline = None if frame.timeout_ms is None else now + frame.timeout_ms / 1000
        self._credited: trio.lowlevel.ParkingLot | None = None
        self._turn: trio.Lock | None = None
        self._cut = False
        self._session = session
        self._missing = frame.rest
        self._partial = bytearray(frame.request) if frame.rest else None

    @property
    def correlation_id(self) -> str:
        return self._session.correlation(self.number)

    # ── The request ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def whole(self) -> bool:
        return self._partial is None

    def more(self, part: bytes) -> bool:
        """A piece of the request; True: it is whole now. Raises TetherError(FLOW_VIOLATION)."""
        if self._partial is None or len(part) > self._missing:
            raise TetherError(FLOW_VIOLATION, f"Call {self.number} asks more than it announced.")
        if not part:
            raise TetherError(FRAME_INVALID, f"Call {self.number} sent a part of nothing.")
        self._partial += part
        self._missing -= len(part)
        if self._missing:
            return False
        self.request, self._partial = bytes(self._partial), None
        return True

    # ── The answer ───────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, message: bytes) -> None:
        """Answer, as soon as the caller has room. Raises TetherError(CANCELLED | CALL_LOST | FRAME_TOO_LARGE).

        A checkpoint only if it has to wait: for credit, for room on the way out, for another sender of this call.
        """
        if self._turn is None and self._may_send_whole(message):
            self._send_last_piece(message, whole=message, last=False)
        else:
            await self._send_in_parts(message, last=False)

    async def finish(self, message: bytes) -> None:
        """The last answer. What the handler does after it is not heard any more."""
        if self._turn is None and self._may_send_whole(message):
            self._send_last_piece(message, whole=message, last=True)
        else:
            await self._send_in_parts(message, last=True)
        self.finished = True

    def end(self) -> None:
        """All answers are sent. Raises TetherError(CANCELLED) if one was left in the middle."""
        self._check_cut()
        if self.lost is None and not self.finished:
            self._session.say(End(self.number), 0)

    def credited(self, amount: int) -> None:
        """Raises TetherError(FLOW_VIOLATION) for more than any caller gives."""
        self.credit += amount
        limits = self._session.limits
        if self.credit > limits.peer_credit_bytes + limits.message_bytes:
            raise TetherError(FLOW_VIOLATION, f"Call {self.number} was given more credit than a peer has.")
        if self._credited is not None:
            self._credited.unpark_all()

    def cancel(self, why: TetherError) -> None:
        """End the handler, and any waiting for credit that it has shielded."""
        self.lost = why
        self._stop(why)

    def expire(self) -> None:
        self._stop(TetherError(DEADLINE, "The caller's time was over before the answer."))

    def _stop(self, fault: TetherError) -> None:
        self.fault = fault
        if self.member is not None:
            self.member.cancel()
        if self._credited is not None:
            self._credited.unpark_all()
        self._session.channel.room.unpark_all()

    def _may_send_whole(self, message: bytes) -> bool:
        size = len(message)
        return (
            self.credit >= size + MESSAGE_WEIGHT
            and size <= self._session.limits.part_bytes
            and self.lost is None
            and not self._cut
            and not self._session.channel.outbox.full
        )

    def _check_cut(self) -> None:
        if self._cut:
            raise TetherError(CANCELLED, "An answer was left in the middle, so nothing can follow it.")

    def _send_last_piece(self, piece: bytes, *, whole: bytes, last: bool) -> None:
        self.credit -= len(piece) + MESSAGE_WEIGHT
        self.sent_bytes += len(whole)
        self._session.say((Last if last else Data)(self.number, piece), len(piece))

    async def _send_in_parts(self, message: bytes, *, last: bool) -> None:
        """Piece by piece, as credit and room allow; a second sender of this call waits until the message is out."""
        limits = self._session.limits
        size = len(message)
        if size > limits.message_bytes:
            detail = f"The answer has {size} bytes; {limits.message_bytes} are allowed."
            raise TetherError(FRAME_TOO_LARGE, detail)
        turn = self._turn = self._turn or trio.Lock()
        sent = 0
        async with turn:
            self._check_cut()
            while True:
                await self._may_go_on()
                left = size - sent
                if left <= limits.part_bytes and self.credit >= left + MESSAGE_WEIGHT:
                    self._cut = False
                    self._send_last_piece(message[sent:], whole=message, last=last)
                    break
                part = message[sent : sent + min(left, self.credit, limits.part_bytes)]
                if part:
                    sent += len(part)
                    self.credit -= len(part)
                    self._session.say(Part(self.number, size - sent, part), len(part))
                    self._cut = True  # until its last piece is out, whatever cancels this
                else:
                    await self._wait_for_credit()
        if not turn.statistics().tasks_waiting:
            self._turn = None

    async def _may_go_on(self) -> None:
        """Wait for room and some credit. Raises why nobody hears this call any more."""
        room = self._session.channel.room
        await trio.lowlevel.checkpoint()
        while self.lost is None and (self.credit <= 0 or self._session.channel.outbox.full):
            if self.credit <= 0:
                await self._wait_for_credit()
            else:
                await room.park()
        if self.lost is not None:
            raise self.lost

    async def _wait_for_credit(self) -> None:
        if self._credited is None:
            self._credited = trio.lowlevel.ParkingLot()
        await self._credited.park()
