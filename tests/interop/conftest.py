"""A js-libp2p node for this folder's tests, started once, and hosts of ours that admit it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from benchmarks.transport import npm
from benchmarks.transport.processes import PEERS, Process
from p2p.host import open_host
from p2p.host.host import Host
from p2p.identity import NodeKey, PeerId
from p2p.membership import Admission, Certificate, Member, SwarmId
from p2p.transport import PeerAddress

HERE: Final = Path(__file__).parent
SWARM: Final = SwarmId("1e" * 32)
KAD: Final = f"/tether/{SWARM[:16]}/kad/1.0.0"
SHARED: Final = (PEERS / "lines.mjs", PEERS / "older-node.mjs")
PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class JsPeer:
    """The foreign node. Its commands are those of `peer.mjs`."""

    process: Process

    @property
    def at(self) -> PeerAddress:
        hello = self.process.hello
        return PeerAddress(PeerId(hello["peer"]), tuple(hello["addresses"]))

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Raises ProcessFailed with what JavaScript said."""
        return await trio.to_thread.run_sync(
            lambda: self.process.ask(command, timeout_s=PATIENCE_S, **arguments)
        )

    async def dial(self, host: Host) -> Any:
        return await self.ask("dial", address=f"{host.addresses()[0]}/p2p/{host.peer_id}")


@pytest.fixture(scope="session")
def js() -> Iterator[JsPeer]:
    try:
        place = npm.install(HERE, SHARED)
    except npm.Missing as error:
        pytest.skip(f"js-libp2p cannot be had here: {error}")
    with Process([npm.NODE, place / "peer.mjs", KAD]) as process:
        yield JsPeer(process)


@asynccontextmanager
async def open_to_all(*, passport: bytes = b"") -> AsyncIterator[Host]:
    """A host that admits whoever proves a key: made here of an `Admit` of our own, for no setting can do it."""
    async with open_host(
        NodeKey(os.urandom(32)),
        listen=["/ip4/127.0.0.1/tcp/0"],
        swarm_id=SWARM,
        passport=lambda: passport,
        admit=lambda _passport, peer: everybody(peer),
    ) as host:
        yield host


def everybody(peer: PeerId) -> Admission:
    certificate = Certificate(SWARM, peer, bytes(32), ("gateway",), ("anywhere",), bytes(16), 0.0, 2e9)
    return Member(certificate, b"", peer)
