"""The DHT of one swarm: asks by lookups, answers from its table and its records. Members only, by the gate.

A node that nobody can dial asks only (client mode): it offers the protocol no more, and who hears that takes it out of
the table. A peer whose connection broke without a goodbye is asked for a sign of life a little later, so that the dead
are gone from the tables of those who knew them within a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from p2p.errors import FRAME_INVALID, UNREACHABLE, TetherError
from p2p.host.framing import Frames, framed
from p2p.host.kad.distance import MAX_ID_BYTES, K, peer_of, position, raw_id
from p2p.host.kad.lookup import ALPHA, Lookup
from p2p.host.kad.messages import (
    ADD_PROVIDER,
    FIND_NODE,
    GET_PROVIDERS,
    GET_VALUE,
    MAX_BYTES,
    PING,
    PUT_VALUE,
    Note,
    read,
    write,
)
from p2p.host.kad.records import Records
from p2p.host.kad.table import Table
from p2p.host.kad.values import Values
from p2p.host.settings import HostSettings
from p2p.host.switch import Switch
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.transport import PeerAddress, Stream

PROVIDERS_TOLD: Final = 64
"""In one answer, the freshest."""
IDLE_S: Final = 60.0
"""A peer's stream may stay open as long between two questions."""

MULTIHASH: Final = bytes((0x12, 32))
"""Before every key on the wire: other libp2ps take nothing but multihashes, and SHA-256 of 32 bytes is the plainest."""

HUNCH_S: Final = 0.01
"""For the nearest at hand alone, where one answer is enough: those of five others cost more than its own."""
HEAD_START_S: Final = 0.1
"""For those at hand, before anybody is dialled: one of them mostly knows, and a handshake costs both ends."""

CHECK_S: Final = 15.0
"""How long after a connection broke the peer is asked whether it lives: it may come back by itself."""
MAX_CHECKS: Final = 64
"""Peers that wait for it; a network that is gone as a whole breaks all of them at once."""
CHECKS_AT_ONCE: Final = 8

REST_S: Final = 2.0
"""Between two looks for one's own place: newcomers come in crowds, and one look serves them all."""

Answered = Callable[[PeerId, Note], bool]
"""Looks at an answer; True ends the lookup."""


class Dht:
    """`run` keeps the table fresh; everything else works without it."""

    def __init__(self, switch: Switch, swarm_id: SwarmId, settings: HostSettings) -> None:
        self._switch = switch
        self._protocol = f"/tether/{swarm_id[:16]}/kad/1.0.0"
        self._settings = settings
        self._table = Table(switch.own)
        self._records = Records()
        self.values = Values(self)
        self._stir = trio.Event()
        self._clients: set[PeerId] = set()
        self._broken: dict[PeerId, float] = {}
        switch.listeners.append(self)
        switch.broke.append(self._doubt)
        self.offer()

    def offer(self) -> None:
        """Answer others (server mode)."""
        self._switch.handle(self._protocol, self._serve, guests=False)

    def withdraw(self) -> None:
        """Only ask (client mode)."""
        self._switch.withdraw(self._protocol)

    def heard(self, peer: PeerId, protocols: frozenset[str]) -> None:
        """A peer says what it speaks: one that does not answer here is no use to anybody's lookup."""
        if self._protocol in protocols:
            self._clients.discard(peer)
            self._table.seen(peer, trio.current_time())
        else:
            self._clients.add(peer)
            self._table.lost(peer)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refresh)
            nursery.start_soon(self._check)
            nursery.start_soon(self.values.run)

    async def _check(self) -> None:
        """Ask those whose connections broke for a sign of life; without one they are out of the table."""
        while True:
            await trio.sleep(CHECK_S / 3)
            due = [peer for peer, at in self._broken.items() if at <= trio.current_time()]
            async with trio.open_nursery() as nursery:
                for peer in due[:CHECKS_AT_ONCE]:
                    del self._broken[peer]
                    if not self._switch.connected(peer):
                        nursery.start_soon(self.ask, peer, Note(PING))

    def _doubt(self, peer: PeerId) -> None:
        if peer in self._table and len(self._broken) < MAX_CHECKS:
            self._broken[peer] = trio.current_time() + CHECK_S

    async def _refresh(self) -> None:
        """Look this node up now and then, and soon after the first peers came: they learn of it and name others."""
        while True:
            with trio.move_on_after(self._settings.refresh_s):
                await self._stir.wait()
            self._stir = trio.Event()
            await self.lookup(Note(FIND_NODE, raw_id(self._switch.own)), lambda _peer, _note: False)
            self._records.sweep(trio.current_time())
            await trio.sleep(REST_S)

    def up(self, peer: PeerId) -> None:
        if len(self._table) < K and peer not in self._table:
            self._stir.set()
        if peer not in self._clients:
            self._table.seen(peer, trio.current_time())

    def moved(self) -> None:
        """This node is elsewhere: those near it have to learn where."""
        self._stir.set()

    def down(self, peer: PeerId) -> None:
        """It stays in the table until it fails to answer: a connection ends for many reasons."""
        self._clients.discard(peer)

    # ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def provide(self, key: bytes) -> None:
        """Tell the peers nearest to key, and those asked on the way. Raises TetherError(UNREACHABLE) if none heard."""
        key = MULTIHASH + key
        own = PeerAddress(self._switch.own, self._switch.addresses())
        self._records.put(key, own, trio.current_time())
        record = Note(ADD_PROVIDER, key, providers=(own,))
        within_s = self._settings.provide_s
        if not await self.lookup(
            Note(FIND_NODE, key), lambda _peer, _note: False, before=record, within_s=within_s
        ):
            raise TetherError(UNREACHABLE, "Nobody is connected who could keep the record.")

    async def find_providers(self, key: bytes, limit: int) -> tuple[PeerAddress, ...]:
        """Ask the network, and this node's own records; at most `lookup_s`, then what was found so far."""
        key = MULTIHASH + key
        found: dict[PeerId, PeerAddress] = {}

        def collect(note_providers: tuple[PeerAddress, ...]) -> bool:
            for provider in note_providers:
                if provider.peer != self._switch.own:
                    found.setdefault(provider.peer, provider)
            return len(found) >= limit

        await self.lookup(Note(GET_PROVIDERS, key), lambda _peer, note: collect(note.providers))
        collect(tuple(self._records.get(key, trio.current_time(), PROVIDERS_TOLD)))
        chosen = tuple(found.values())[:limit]
        for provider in chosen:
            self._switch.book.learn(provider.peer, provider.addresses)
        return chosen

    async def find_peer(self, peer: PeerId) -> PeerAddress | None:
        """Where the network says that a peer is; of a connected one, what it says itself."""
        if self._switch.connected(peer) and (known := self._switch.book.of(peer)):
            await trio.lowlevel.checkpoint()
            return PeerAddress(peer, known)
        found: list[PeerAddress] = []

        def look(_peer: PeerId, note: Note) -> bool:
            found.extend(near for near in note.nearer if near.peer == peer)
            return bool(found)

        await self.lookup(Note(FIND_NODE, raw_id(peer)), look, hunch_s=HUNCH_S)
        return found[0] if found else None

    async def lookup(
        self,
        question: Note,
        look: Answered,
        *,
        before: Note | None = None,
        within_s: float | None = None,
        hunch_s: float = 0.0,
    ) -> list[PeerId]:
        """Ask nearer and nearer peers. Returns those who answered, nearest first.

        before: a note without an answer that goes before each question; who answers that has read it. within_s: the
        whole lookup's limit, `lookup_s` unless told. hunch_s: so long only one peer is asked at a time.
        """
        target = position(question.key)
        start = [*self._table.closest(target), *self._switch.peers() - self._clients]
        lookup = Lookup(target, start, own=self._switch.own, at_hand=self._switch.connected)
        with trio.move_on_after(self._settings.lookup_s if within_s is None else within_s):
            async with trio.open_nursery() as nursery:

                async def ask(peer: PeerId) -> None:
                    answer = await self.ask(peer, question, before=before)
                    if answer is None:
                        lookup.failed(peer)
                    else:
                        for near in answer.nearer:
                            self._switch.book.learn(near.peer, near.addresses)
                        lookup.answered(peer, [near.peer for near in answer.nearer])
                        if look(peer, answer):
                            nursery.cancel_scope.cancel()
                            return
                    spread()

                def spread() -> None:
                    elapsed_s = trio.current_time() - began_s
                    width = 1 if elapsed_s < hunch_s else ALPHA
                    for peer in lookup.next(width, patient=elapsed_s < HEAD_START_S):
                        nursery.start_soon(ask, peer)
                    if lookup.over:
                        nursery.cancel_scope.cancel()

                began_s = trio.current_time()
                spread()
                for stage_s in (hunch_s, HEAD_START_S):
                    await trio.sleep_until(began_s + stage_s)
                    spread()
        return lookup.found()

    async def ask(self, peer: PeerId, question: Note, *, before: Note | None = None) -> Note | None:
        """One question, one answer; None if there was none in time, and the peer is out of the table."""
        with trio.move_on_after(self._settings.query_s):
            try:
                answer = await self._exchange(peer, question, before)
            except TetherError:
                self._table.lost(peer)
                return None
            self._table.seen(peer, trio.current_time())
            return answer
        self._table.lost(peer)
        return None

    async def _exchange(self, peer: PeerId, question: Note, before: Note | None) -> Note:
        notes = [before, question] if before is not None else [question]
        stream, _ = await self._switch.open(peer, [self._protocol])
        try:
            await stream.write(b"".join(framed(write(note)) for note in notes))
            answer = read(await Frames(stream, MAX_BYTES).one())
            await stream.close()
            return answer
        finally:
            await stream.reset()

    # ── Answering ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, stream: Stream) -> None:
        if stream.peer not in self._clients:
            self._table.seen(stream.peer, trio.current_time())
        frames = Frames(stream, MAX_BYTES)
        while True:
            frame: bytes | None = None
            with trio.move_on_after(IDLE_S):
                frame = await frames.next()
            if frame is None:
                return
            answer = self._answer(stream.peer, read(frame))
            if answer is not None:
                await stream.write(framed(write(answer)))

    def _answer(self, asker: PeerId, question: Note) -> Note | None:
        now = trio.current_time()
        match question.kind:
            case kind if kind == PING:
                return Note(PING)
            case kind if kind == FIND_NODE:
                return Note(FIND_NODE, question.key, nearer=self._nearer(asker, question.key))
            case kind if kind == GET_PROVIDERS:
                providers = tuple(self._records.get(question.key, now, PROVIDERS_TOLD))
                return Note(GET_PROVIDERS, question.key, self._nearer(asker, question.key), providers)
            case kind if kind == ADD_PROVIDER:
                self._keep(asker, question, now)
                return None
            case kind if kind == GET_VALUE:
                held = self.values.held(question.key)
                return Note(GET_VALUE, question.key, self._nearer(asker, question.key), value=held)
            case kind if kind == PUT_VALUE:
                kept = self.values.keep(asker, question.key, question.value)
                return Note(PUT_VALUE, question.key, value=kept)
            case _:
                raise TetherError(FRAME_INVALID, "The DHT has no such question.")

    def _keep(self, asker: PeerId, question: Note, now: float) -> None:
        """A peer announces itself and nobody else."""
        for provider in question.providers:
            if provider.peer != asker or not self._records.put(question.key, provider, now):
                raise TetherError(FRAME_INVALID, "A provider record is not the sender's, or one too many.")

    def _nearer(self, asker: PeerId, key: bytes) -> tuple[PeerAddress, ...]:
        """Whom this node knows near a key, and where; the asker knows itself."""
        near = self._table.closest(position(key), K + 1)
        if len(key) <= MAX_ID_BYTES and self._switch.connected(wanted := peer_of(key)) and wanted not in near:
            near.insert(0, wanted)
        known = (PeerAddress(peer, self._switch.book.of(peer)) for peer in near if peer != asker)
        return tuple(peer for peer in known if peer.addresses)[:K]
