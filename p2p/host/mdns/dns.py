"""DNS messages as multicast DNS uses them (RFC 1035, RFC 6762): what we say, and a bounded reader of what others do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PTR: Final = 12
TXT: Final = 16
ANY: Final = 255
CLASS_IN: Final = 1
CACHE_FLUSH: Final = 0x8000
"""In a record's class: nobody else has a record of this name and type (RFC 6762, section 10.2)."""
RESPONSE: Final = 0x8400
HEADER_BYTES: Final = 12
MAX_RECORDS: Final = 128
"""Questions and records of one message that are looked at."""
MAX_JUMPS: Final = 16
MAX_NAME: Final = 255


class DnsFault(Exception):
    """The sender's: these bytes are no DNS message."""


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    kind: int


@dataclass(frozen=True, slots=True)
class Record:
    """name: with dots, in lower case; data: uncompressed only if the kind has no name in it."""

    name: str
    kind: int
    data: bytes
    ttl_s: int = 120
    flush: bool = False


@dataclass(frozen=True, slots=True)
class DnsMessage:
    response: bool
    questions: tuple[Question, ...] = ()
    records: tuple[Record, ...] = ()


def encode(message: DnsMessage) -> bytes:
    """records: the first is the answer, the others are additional, as libp2p has it."""
    answers = min(1, len(message.records))
    counts = (len(message.questions), answers, 0, len(message.records) - answers)
    words = (0, RESPONSE if message.response else 0, *counts)
    parts = [b"".join(word.to_bytes(2, "big") for word in words)]
    for question in message.questions:
        parts.append(name_bytes(question.name) + _numbers(question.kind, CLASS_IN))
    for record in message.records:
        kind = _numbers(record.kind, CLASS_IN | (CACHE_FLUSH if record.flush else 0))
        length = len(record.data).to_bytes(2, "big")
        parts.append(name_bytes(record.name) + kind + record.ttl_s.to_bytes(4, "big") + length + record.data)
    return b"".join(parts)


def decode(data: bytes) -> DnsMessage:
    """Raises DnsFault."""
    reader = _Reader(data)
    _, flags, questions, *records = (reader.number(2) for _ in range(6))
    if questions + sum(records) > MAX_RECORDS:
        raise DnsFault("Too many records.")
    asked = tuple(reader.question() for _ in range(questions))
    told = tuple(reader.record() for _ in range(sum(records)))
    return DnsMessage(bool(flags & 0x8000), asked, told)


def name_bytes(name: str) -> bytes:
    """Labels as they travel, uncompressed."""
    labels = (label.encode("ascii") for label in name.split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def texts_bytes(texts: tuple[str, ...]) -> bytes:
    """The data of a TXT record; each text has at most 255 characters."""
    return b"".join(bytes([len(text)]) + text.encode("ascii") for text in texts)


def texts(data: bytes) -> list[str]:
    """The texts of a TXT record. Raises DnsFault."""
    reader, found = _Reader(data), []
    while reader.at < len(data):
        found.append(reader.take(reader.number(1)).decode("utf-8", "replace"))
    return found


def _numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise DnsFault("The message ends too early.")
        taken, self.at = self._data[self.at : end], end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def question(self) -> Question:
        name = self.name()
        kind = self.number(2)
        self.number(2)
        return Question(name, kind)

    def record(self) -> Record:
        name = self.name()
        kind, cls, ttl_s, length = self.number(2), self.number(2), self.number(4), self.number(2)
        return Record(name, kind, self.take(length), ttl_s, bool(cls & CACHE_FLUSH))

    def name(self) -> str:
        """A pointer leads only backwards, and at most MAX_JUMPS follow each other: no loop, no quadratic work."""
        labels: list[str] = []
        size, jumps, resume = 0, 0, None
        while length := self.number(1):
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | self.number(1)
                resume = self.at if resume is None else resume
                jumps += 1
                if target >= self.at - 2 or jumps > MAX_JUMPS:
                    raise DnsFault("A name points where it must not.")
                self.at = target
                continue
            size += length + 1
            if length > 63 or size > MAX_NAME:
                raise DnsFault("A name is too long.")
            labels.append(self.take(length).decode("utf-8", "replace").lower())
        if resume is not None:
            self.at = resume
        return ".".join(labels)
