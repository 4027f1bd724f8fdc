"""Values of the DHT: put to the nearest, repeated for as long as this node is up, read from several and checked.

get ── lookup ──> valid answers of QUORUM peers (one, where a key can have no other value)
                      └─> the newest of them and of this node's own copy; who held none, or an older one, is given it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from p2p.errors import CAPACITY, FIELD_INVALID, FRAME_INVALID, UNREACHABLE, TetherError
from p2p.host.kad.messages import FIND_NODE, GET_VALUE, PUT_VALUE, Note
from p2p.host.kad.store import Store
from p2p.identity import PeerId
from p2p.values import MAX_VALUE_BYTES, ValueCheck, parsed_key

QUORUM: Final = 5
"""Peers whose valid answers are compared: with a fifth of the keepers out of date, all five are in 1 of 3,000 cases."""
REPEAT_S: Final = 1_800.0
"""How often this node puts its own values again: half of those who kept them may be gone in the meantime."""
RETRY_S: Final = 60.0
"""The same for one that nobody took last time."""
MAX_OWN: Final = 1_024
MENDED: Final = 4
"""Peers that are given what they lacked after a read; the nearest first."""
BACKLOG: Final = 64
"""Reads whose mending waits; beyond that, the next read mends."""


class Asking(Protocol):
    """What the DHT does for values."""

    async def lookup(self, question: Note, look: Callable[[PeerId, Note], bool]) -> list[PeerId]: ...

    async def ask(self, peer: PeerId, question: Note) -> Note | None: ...


class Values:
    """`run` repeats and mends; everything else works without it."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._checks: dict[str, ValueCheck] = {}
        self._store = Store()
        self._own: dict[str, bytes] = {}
        self._due: dict[str, float] = {}
        self._mend, self._to_mend = trio.open_memory_channel[tuple[Note, Sequence[PeerId]]](BACKLOG)

    def accept(self, namespace: str, check: ValueCheck) -> None:
        """Keep values of a namespace for others, and let this node put and get them."""
        self._checks[namespace] = check

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repeat)
            async for note, peers in self._to_mend:
                await self._tell(peers, note)

    async def _repeat(self) -> None:
        while True:
            await trio.sleep(RETRY_S)
            self._store.sweep(trio.current_time())
            for key in [key for key, due in self._due.items() if due <= trio.current_time()]:
                if (value := self._own.get(key)) is not None:
                    await self._spread(key, value)

    async def put(self, key: str, value: bytes) -> None:
        """Raises TetherError: FIELD_INVALID for what no peer would keep, CAPACITY, UNREACHABLE if nobody heard."""
        if self._rank(key, value) is None:
            raise TetherError(FIELD_INVALID, "The value is not a valid one for its key.", field="value")
        if key not in self._own and len(self._own) >= MAX_OWN:
            raise TetherError(CAPACITY, f"A node puts at most {MAX_OWN} values.")
        self._own[key] = value
        self._store.put(key.encode(), value, None, trio.current_time())
        if not await self._spread(key, value):
            raise TetherError(UNREACHABLE, "Nobody is connected who could keep the value.")

    def forget(self, key: str) -> None:
        """Repeat it no more: those who keep it do so for a day."""
        self._own.pop(key, None)
        self._due.pop(key, None)

    async def get(self, key: str) -> bytes | None:
        """The newest valid value that is found. Raises TetherError(FIELD_INVALID) for a key of no known namespace."""
        check, name = self._rules(key)
        question = Note(GET_VALUE, key.encode())
        own = self._store.get(question.key, trio.current_time())
        if own is not None and check.final:
            await trio.lowlevel.checkpoint()
            return own
        told: dict[PeerId, bytes | None] = {}
        valid: dict[bytes, int] = {}
        if own is not None and (rank := check.rank(name, own)) is not None:
            valid[own] = rank

        def look(peer: PeerId, note: Note) -> bool:
            rank = check.rank(name, note.value) if note.value is not None else None
            told[peer] = note.value if rank is not None else None
            if rank is not None and note.value is not None:
                valid[note.value] = rank
            held = sum(value is not None for value in told.values())
            return held >= (1 if check.final else QUORUM)

        nearest = await self._asking.lookup(question, look)
        if not valid:
            return None
        best = max(valid, key=lambda value: (valid[value], value))
        lacking = [peer for peer in nearest if told.get(peer) != best][:MENDED]
        with suppress(trio.WouldBlock):
            self._mend.send_nowait((Note(PUT_VALUE, question.key, value=best), lacking))
        return best

    # ── Answering ────────────────────────────────────────────────────────────────────────────────────────────────

    def held(self, key: bytes) -> bytes | None:
        return self._store.get(key, trio.current_time())

    def keep(self, giver: PeerId, key: bytes, value: bytes | None) -> bytes:
        """Take a value in. Returns what is kept under the key from now on: a newer one stays.

        Raises TetherError: FRAME_INVALID for one that does not hold, CAPACITY for one too many of this peer's.
        """
        try:
            text = key.decode("ascii")
            rank = self._rank(text, value) if value is not None else None
        except (UnicodeDecodeError, TetherError) as error:
            raise TetherError(FRAME_INVALID, "No values are kept under such keys.") from error
        if value is None or rank is None:
            raise TetherError(FRAME_INVALID, "The value is not a valid one for its key.")
        now = trio.current_time()
        held = self._store.get(key, now)
        if held is not None and held != value and ((self._rank(text, held) or 0), held) > (rank, value):
            return held
        if not self._store.put(key, value, giver, now):
            raise TetherError(CAPACITY, "This peer has too many values here.")
        return value

    # ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _rules(self, key: str) -> tuple[ValueCheck, str]:
        namespace, name = parsed_key(key)
        check = self._checks.get(namespace)
        if check is None:
            raise TetherError(FIELD_INVALID, f"This node knows no namespace {namespace}.", field="key")
        return check, name

    def _rank(self, key: str, value: bytes) -> int | None:
        check, name = self._rules(key)
        return check.rank(name, value) if len(value) <= MAX_VALUE_BYTES else None

    async def _spread(self, key: str, value: bytes) -> int:
        """Put a value to the peers nearest to its key. Returns how many keep it."""
        nearest = await self._asking.lookup(Note(FIND_NODE, key.encode()), lambda _peer, _note: False)
        kept = await self._tell(nearest, Note(PUT_VALUE, key.encode(), value=value))
        if key in self._own:
            self._due[key] = trio.current_time() + (REPEAT_S if kept else RETRY_S)
        return kept

    async def _tell(self, peers: Sequence[PeerId], note: Note) -> int:
        kept: list[PeerId] = []

        async def tell(peer: PeerId) -> None:
            answer = await self._asking.ask(peer, note)
            if answer is not None and answer.value == note.value:
                kept.append(peer)

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(tell, peer)
        return len(kept)
