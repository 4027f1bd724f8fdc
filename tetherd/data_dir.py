"""One daemon's directory: its key, its place in a swarm, its lock. Every write is whole or absent after a crash."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from p2p.errors import DATA_DIR_BUSY, DATA_DIR_INVALID, TetherError
from p2p.identity import NodeKey, PeerId, load_or_create
from p2p.membership import SwarmId
from p2p.messages import Message
from p2p.transport import PeerAddress
from p2p.wire import decode, encode
from tetherd.files import sync_folder
from tetherd.tenants.register import Records

MAX_KNOWN_PEERS: Final = 64
"""Addresses kept for the next start; a handful answers, the rest is in case of a long absence."""


class Standing(Message, frozen=True):
    """A node's place in its swarm. issuer: an encoded `SignedIssuer` if it may admit others, else empty."""

    swarm_id: SwarmId
    credential: bytes
    issuer: bytes = b""


class KnownPeers(Message, frozen=True):
    """Where others were last seen, for a start without a ticket."""

    peers: tuple[tuple[PeerId, tuple[str, ...]], ...] = ()


class Lives(Message, frozen=True):
    """last: the incarnation of the latest start."""

    last: int = 0


class SpentInvites(Message, frozen=True):
    """Invite key (hex) to the nodes that it let in, so that `uses` holds across restarts."""

    nodes: dict[str, tuple[PeerId, ...]] = msgspec.field(default_factory=dict)


_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class DataDir:
    """Paths and small files under the data directory. Raises TetherError(DATA_DIR_*) with the path at fault."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    @property
    def http_addr(self) -> Path:
        return self.root / "http.addr"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.db"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def replays(self) -> Path:
        return self.root / "replays"

    @property
    def dead_inputs(self) -> Path:
        """The sealed inputs of dead letters that came from this gateway."""
        return self.root / "dead-inputs"

    @property
    def settlements(self) -> Path:
        """The gateway's journal of what it owes the ledger."""
        return self.root / "settlements"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold tetherd.pid for as long as the daemon runs. Raises DATA_DIR_BUSY if another one does."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.root / "tetherd.pid", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TetherError(
                DATA_DIR_INVALID, f"Cannot use {self.root}: {error.strerror}.", field="data_dir"
            ) from error
        with os.fdopen(descriptor, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = file.read(16).strip() or "unknown"
                detail = f"A daemon (process {pid}) is running on {self.root}."
                raise TetherError(DATA_DIR_BUSY, detail, field="data_dir") from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                for path in (self.control_socket, self.http_addr):
                    path.unlink(missing_ok=True)
                file.seek(0)
                file.truncate(0)

    def key(self) -> NodeKey:
        return load_or_create(self.root / "identity.key")

    def authority(self) -> NodeKey | None:
        """The swarm's authority key, if this node founded it and still holds it."""
        path = self.root / "authority.key"
        return load_or_create(path) if path.exists() else None

    def found_authority(self) -> NodeKey:
        return load_or_create(self.root / "authority.key")

    def standing(self) -> Standing | None:
        return self._load("standing", Standing)

    def save_standing(self, standing: Standing) -> None:
        self._save("standing", standing)

    def known_peers(self) -> list[PeerAddress]:
        known = self._load("peers", KnownPeers) or KnownPeers()
        return [PeerAddress(peer, addresses) for peer, addresses in known.peers]

    def save_known_peers(self, peers: list[PeerAddress]) -> None:
        kept = tuple((peer.peer, peer.addresses) for peer in peers[:MAX_KNOWN_PEERS] if peer.addresses)
        self._save("peers", KnownPeers(kept))

    def spent_invites(self) -> SpentInvites:
        return self._load("invites", SpentInvites) or SpentInvites()

    def save_spent_invites(self, spent: SpentInvites) -> None:
        self._save("invites", spent)

    def register(self) -> Records:
        """The register of tenants, as this node knows it."""
        return self._load("tenants", Records) or Records()

    async def save_register(self, records: Records) -> None:
        await trio.to_thread.run_sync(self._save, "tenants", records)

    def next_incarnation(self, now: float) -> int:
        """max(stored + 1, unix seconds), stored at once: higher than ever before, even from a restored disk."""
        stored = (self._load("incarnation", Lives) or Lives()).last
        incarnation = max(stored + 1, int(now))
        self._save("incarnation", Lives(incarnation))
        return incarnation

    def write_http_addr(self, address: str) -> None:
        self._write("http.addr", f"{address}\n".encode())

    def _load(self, name: str, kind: type[_Kind]) -> _Kind | None:
        path = self.root / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TetherError(DATA_DIR_INVALID, f"Cannot read {path}: {error.strerror}.") from error
        try:
            return decode(data, kind)
        except TetherError as error:
            raise TetherError(DATA_DIR_INVALID, f"{path} is damaged; remove it to start afresh.") from error

    def _save(self, name: str, message: msgspec.Struct) -> None:
        self._write(name, encode(message))

    def _write(self, name: str, data: bytes) -> None:
        path = self.root / name
        draft = path.with_name(f"{name}.new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(self.root)
        except OSError as error:
            raise TetherError(DATA_DIR_INVALID, f"Cannot write {path}: {error.strerror}.") from error
