"""What this gateway owes the ledger, on its own disk until the ledger has it.

A gateway alone holds the receipts of its jobs. It writes each settlement down before it tells it, so that neither the
death of the ledger nor its own loses one. Saying a settlement twice is no harm: a job ends once, by (job, attempt), and
a job is BLAKE2b(tenant, retry token). So a mark that a debt is paid need not be on the disk at once.

    file   = record*, then zeros (room that is reserved, so that a full disk stops new work and not old debts)
    record = length of the body, 4 bytes | BLAKE2b of the body, 8 bytes | body, an encoded `Entry`

A record that does not hold ends the file: it was being written when the power went.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from p2p.errors import DATA_DIR_INVALID, TetherError
from p2p.identity import PeerId
from p2p.messages import Message, Settlement
from p2p.wire import decode, encode
from tetherd.files import sync_folder

MAX_OWED: Final = 20_000
"""Settlements that wait: an outage of minutes at a gateway's most, some 20 MB. Beyond it new work is refused."""
MAX_RECORD_BYTES: Final = 1 << 20
RESERVED_BYTES: Final = 1 << 20
"""Room for a thousand settlements, taken while the disk has some; once half of it is used, what is paid goes."""
KEPT_S: Final = 7 * 86_400.0
"""As long as the ledger keeps ended jobs: after that a settlement said again would make a new row."""

_HEAD_BYTES: Final = 12
_log: Final = structlog.get_logger()


class Entry(Message, frozen=True):
    """A debt, or without a settlement the mark that it is paid. leader: who granted; spare: as in `Placer.place`."""

    number: int
    at: float = 0.0
    leader: PeerId = PeerId("")
    spare: dict[PeerId, int] = msgspec.field(default_factory=dict)
    settlement: Settlement | None = None


@dataclass(frozen=True, slots=True)
class Debt:
    """at: unix seconds."""

    number: int
    at: float
    settlement: Settlement
    leader: PeerId
    spare: Mapping[PeerId, int]


@dataclass(eq=False, slots=True)
class _Line:
    data: bytes
    durable: bool
    done: bool = False


class Journal:
    """The debts, in the order in which they were made. now: unix seconds; in_thread: runs what blocks on the disk."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float],
        in_thread: Callable[..., Awaitable[Any]] = trio.to_thread.run_sync,
    ) -> None:
        self._file = _File(path)
        self._now = now
        self._in_thread = in_thread
        self._owed: dict[int, Debt] = {}
        self._last = 0
        self._turn = trio.Lock()
        self._queue: list[_Line] = []
        self._failing = False

    @property
    def owed(self) -> list[Debt]:
        return list(self._owed.values())

    @property
    def failing(self) -> bool:
        """Whether the disk took less than what is owed."""
        return self._failing

    @property
    def has_room(self) -> bool:
        """Whether another settlement could be written down; if not, no new work may be begun."""
        return not self._failing and len(self._owed) < MAX_OWED

    async def open(self) -> None:
        """Read what an earlier life of this node still owes. Raises TetherError(DATA_DIR_INVALID)."""
        try:
            entries = await self._in_thread(self._file.open)
        except OSError as error:
            detail = f"Cannot use {self._file.path}: {error.strerror}."
            raise TetherError(DATA_DIR_INVALID, detail) from error
        oldest = self._now() - KEPT_S
        for entry in entries:
            self._last = max(self._last, entry.number)
            if entry.settlement is None:
                self._owed.pop(entry.number, None)
            elif entry.at < oldest:
                _log.error("journal.too_old", job=entry.settlement.job.hex(), end=entry.settlement.end)
            else:
                self._owed[entry.number] = Debt(
                    entry.number, entry.at, entry.settlement, entry.leader, entry.spare
                )

    async def owe(self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]) -> Debt:
        """Write a debt down; it is on the disk when this returns, unless the disk fails. No cancellation loses it."""
        debt, data = self._note(settlement, leader, spare)
        with trio.CancelScope(shield=True):
            await self._write(_Line(data, durable=True))
        return debt

    def owe_now(self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]) -> None:
        """The same for a node that is stopping: blocks until it is on the disk."""
        self._file.append(self._note(settlement, leader, spare)[1], durable=True)

    async def paid(self, debt: Debt) -> None:
        """The ledger has it."""
        if self._owed.pop(debt.number, None) is not None:
            await self._write(_Line(_record(Entry(debt.number)), durable=False))

    def close(self) -> None:
        self._file.close()

    def _note(
        self, settlement: Settlement, leader: PeerId, spare: Mapping[PeerId, int]
    ) -> tuple[Debt, bytes]:
        self._last += 1
        debt = Debt(self._last, self._now(), settlement, leader, dict(spare))
        self._owed[debt.number] = debt
        return debt, _record(_entry(debt))

    async def mend(self) -> None:
        """Try again to write what is owed, once the disk may be better."""
        if self._failing:
            async with self._turn:
                self._tell(await self._rewrite())

    async def _write(self, line: _Line) -> None:
        """Whoever gets the turn writes what is queued: one flush for all who wait."""
        self._queue.append(line)
        async with self._turn:
            if line.done:
                return
            batch, self._queue = self._queue, []
            data, durable = b"".join(one.data for one in batch), any(one.durable for one in batch)
            with trio.CancelScope(shield=True):
                whole = await self._in_thread(self._file.append, data, durable)
                if not whole or self._file.overgrown:
                    whole = await self._rewrite()
            for one in batch:
                one.done = True
            self._tell(whole)

    async def _rewrite(self) -> bool:
        records = [_record(_entry(debt)) for debt in self._owed.values()]
        whole: bool = await self._in_thread(self._file.rewrite, records)
        return whole

    def _tell(self, whole: bool) -> None:
        if self._failing is whole:
            self._failing = not whole
            (_log.info if whole else _log.error)("journal.mended" if whole else "journal.failing")


def _entry(debt: Debt) -> Entry:
    return Entry(debt.number, debt.at, debt.leader, dict(debt.spare), debt.settlement)


def _record(entry: Entry) -> bytes:
    body = encode(entry)
    return len(body).to_bytes(4, "big") + _checksum(body) + body


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()


def read_records(data: bytes) -> tuple[list[Entry], int]:
    """The entries that hold, and where they end."""
    entries: list[Entry] = []
    at = 0
    while at + _HEAD_BYTES <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
        if not 0 < length <= MAX_RECORD_BYTES or len(body) < length:
            break
        if _checksum(body) != data[at + 4 : at + _HEAD_BYTES]:
            break
        try:
            entries.append(decode(body, Entry))
        except TetherError:
            break  # a newer version's: what comes after it may hang on it
        at += _HEAD_BYTES + length
    return entries, at


class _File:
    """Blocking, one thread at a time. Appending never raises: what was not written is told by False."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._least = 0
        self._file = -1
        self._lock = threading.Lock()

    def open(self) -> list[Entry]:
        with self._lock:
            new = not self.path.exists()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if new:
                sync_folder(self.path.parent)
            data = self.path.read_bytes()
            entries, self.size = read_records(data)
            if rest := data[self.size :].rstrip(b"\0"):
                _log.warning("journal.torn", at=self.size, bytes=len(rest))
                self.path.with_suffix(".torn").write_bytes(rest)
            os.ftruncate(self._file, self.size)
            self._reserve(self._file)
            os.fsync(self._file)
            return entries

    def append(self, data: bytes, durable: bool) -> bool:
        """False: it is not on the disk, and the file ends before it."""
        with self._lock:
            try:
                _write_all(self._file, data, self.size)
                self.size += len(data)
                if durable:
                    os.fdatasync(self._file)
            except OSError as error:
                _log.error("journal.not_written", cause=error.strerror)
                return False
            return True

    @property
    def overgrown(self) -> bool:
        return self.size > max(RESERVED_BYTES // 2, 2 * self._least)

    def rewrite(self, records: Iterable[bytes]) -> bool:
        """Only these stay; the file is replaced as a whole, or kept as it is. False: as for append."""
        draft = self.path.with_suffix(".new")
        with self._lock:
            try:
                file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                try:
                    data = b"".join(records)
                    _write_all(file, data, 0)
                    self._reserve(file)
                    os.fsync(file)
                    draft.replace(self.path)
                    sync_folder(self.path.parent)
                except OSError:
                    os.close(file)
                    raise
            except OSError as error:
                _log.error("journal.not_written", cause=error.strerror)
                return False
            os.close(self._file)
            self._file, self.size, self._least = file, len(data), len(data)
            return True

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _reserve(self, file: int) -> None:
        with suppress(OSError):
            os.posix_fallocate(file, 0, RESERVED_BYTES)


def _write_all(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
